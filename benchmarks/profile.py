"""Where a convolution's time goes: samples of perf by stage (input transform, product, output transform, weight
transform), layer by layer, with the products' rate against the roofline. Needs Linux's perf and a build with function
names (-DMLX_CONV3D_SYMBOLS=ON)."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx_conv3d
from mlx_conv3d import _ext

from . import machine, roofline, sides, workloads
from .child import Task, child
from .roofline import Roofline
from .run import evenly
from .workloads import Layer

GFLOP = 20.0
LAYERS = 24
SECONDS = 1.5
SAMPLES_PER_SECOND = 1999
PERF_STARTS = 0.3

# The first pattern that a function's name has decides. Order: the particular before the general.
STAGES: dict[str, str] = {
    "weight transform": r"weight_panel|weight_vector|weight_depths|::weight<|winograd_weights|pack_weight|::pack\b"
    r"|store_pairs|store_step|WeightPairs|Packer",
    "output transform": r"::output<|transform_output|store_row|::finish<|activate_curved|butterfly",
    "input transform": r"::input<|transform_input|depth_input|depth_parts|::cotangent<|split|pack_run|RowGather"
    r"|::widen<|to_float",
    "product": r"::(short_)?block<|::gemm|narrow|multiply|::direct|tile_product|tiles::",
    "waiting": r"Pool::|wait_and_work|parallel_for|futex|schedule|sched_|clock_nanosleep",
    "page faults": r"fault|clear_page|alloc_pages|rmqueue|charge|folio|pte|zap_|unmap",
}
OTHER = "other"
COLUMNS = (*STAGES, OTHER)
NO_SYMBOLS = (
    "the compiled part has no function names: build it with "
    "SKBUILD_CMAKE_DEFINE=MLX_CONV3D_SYMBOLS=ON (see docs/developing.md)"
)


@dataclass(frozen=True)
class Profile:
    """One layer: seconds of a call, and the share of the samples of each stage."""

    layer: Layer
    algorithm: str
    seconds: float
    executed: float  # FLOPs, modelled
    shares: dict[str, float]

    def product_gflops(self) -> float:
        """What the products execute per second of their own."""
        share = self.shares["product"]
        return self.executed / (self.seconds * share) / 1e9 if share > 0 else 0.0


def stage_of(symbol: str) -> str:
    return next((stage for stage, pattern in STAGES.items() if re.search(pattern, symbol)), OTHER)


def shares_of(samples: Counter[str]) -> dict[str, float]:
    """Of samples by symbol, each stage's share."""
    stages = Counter({stage: 0 for stage in COLUMNS})
    for symbol, count in samples.items():
        stages[stage_of(symbol)] += count
    total = max(1, sum(stages.values()))
    return {stage: stages[stage] / total for stage in COLUMNS}


def need_perf() -> str:
    perf = shutil.which("perf")
    if perf is None:
        raise sides.Missing("perf is missing: install linux-perf (or linux-tools)")
    if not _has_symbols(Path(_ext.__file__)):
        raise sides.Missing(NO_SYMBOLS)
    return perf


def _has_symbols(library: Path) -> bool:
    done = subprocess.run(["nm", str(library)], capture_output=True, text=True)
    return "mlx_conv3d" in done.stdout


def measure(layer: Layer, threads: int, perf: str) -> Profile:
    plan = sides.plan(layer)
    task = Task(layer, mlx_conv3d.get_workspace_limit(), threads, seconds=SECONDS)
    with tempfile.TemporaryDirectory(prefix="profile-") as folder, child(task) as process:
        data = Path(folder) / "perf.data"
        command = [
            perf,
            "record",
            "-q",
            "-F",
            str(SAMPLES_PER_SECOND),
            "-p",
            str(process.pid),
            "-o",
            str(data),
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as recorder:
            time.sleep(PERF_STARTS)
            done = process.run()
            recorder.send_signal(signal.SIGINT)
        samples = _samples(perf, data)
    return Profile(layer, plan.algorithm, done.seconds / done.calls, plan.flops, shares_of(samples))


def _samples(perf: str, data: Path) -> Counter[str]:
    done = subprocess.run([perf, "script", "-i", str(data), "-F", "ip,sym"], capture_output=True, text=True)
    symbols = (line.strip().partition(" ")[2] for line in done.stdout.splitlines())
    return Counter(symbol for symbol in symbols if symbol)


def page(profiles: list[Profile], line: Roofline | None, command: str, threads: int) -> str:
    """A table for reading."""
    info = machine.describe()
    heads = [
        "layer",
        "dtype",
        "algorithm",
        "ms",
        "direct GFLOP/s",
        "roofline",
        *COLUMNS,
        "product GFLOP/s",
        "of peak",
    ]
    lines = [
        "# Where a convolution's time goes",
        "",
        f"- Date: {time.strftime('%Y-%m-%d', time.gmtime())}; command: `{command}`",
        f"- Machine: {info['cpu']}, {info['cpus']} CPUs ({' '.join(info['instruction_sets'])}); threads: {threads}",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in machine.versions().items())}",
        f"- Roofline of the same run: {line or 'not measured'}",
        "",
        "Shares are perf samples of all threads. Direct GFLOP/s and roofline as in the other tables. Product GFLOP/s: "
        "the FLOPs that the plan executes (modelled) over the time of the products; `of peak` holds them against the "
        "fp32 FMA peak. Waiting: threads without work, spinning.",
        "",
        "| " + " | ".join(heads) + " |",
        "|---|---|---|" + "--:|" * (len(heads) - 3),
        *(_line(each, line) for each in profiles),
        "",
    ]
    return "\n".join(lines)


def write(text: str, directory: Path) -> Path:
    """Writes profile-<date>.md, replacing that of the same day."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"profile-{time.strftime('%Y-%m-%d', time.gmtime())}.md"
    path.write_text(text)
    return path


def _line(of: Profile, line: Roofline | None) -> str:
    layer = of.layer
    least = line.seconds(layer.flops, layer.bytes, layer.dtype) if line else 0.0
    cells = [
        layer.name,
        layer.dtype,
        of.algorithm,
        f"{of.seconds * 1e3:.3g}",
        f"{layer.flops / of.seconds / 1e9:.4g}",
        f"{least / of.seconds:.0%}",
        *(f"{of.shares[stage]:.0%}" for stage in COLUMNS),
        f"{of.product_gflops():.4g}",
        f"{of.product_gflops() / line.fma_gflops:.0%}" if line else "",
    ]
    return "| " + " | ".join(cells) + " |"


def chosen(only: str, gflop: float, limit: int | None) -> list[Layer]:
    known = workloads.distinct(workloads.load_all(), gflop)
    return evenly([layer for layer in known if layer.matches(only)], limit)


def run(
    layers: list[Layer], dtypes: tuple[str, ...], threads: int, say: Any
) -> tuple[list[Profile], Roofline | None]:
    perf = need_perf()
    line = roofline.measure(threads)
    found = []
    for dtype in dtypes:
        for layer in layers:
            found.append(measure(layer.with_dtype(dtype), threads, perf))
            say(_line(found[-1], line))
    return found, line
