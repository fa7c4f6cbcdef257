"""The grouped kernels alone against Eigen's dense matrix product, for buffers of 64 frames: built here, with
Google Benchmark, for this machine's instruction set; the package has no part in it."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .. import machine
from ..harness import geometric_mean
from ..report import RESULTS

ROOT = Path(__file__).parents[2]
MAIN = "benchmarks/native/grouped.cpp"
KERNELS = (
    "cpu/grouped_layout.cpp",
    "cpu/simd/convert.cpp",
    "cpu/simd/grouped.cpp",
    "core/plan_grouped.cpp",
    "core/problem.cpp",
)
# As cpu/CMakeLists.txt compiles them; Eigen's products are compiled with the same.
FLAGS = ("-O3", "-DNDEBUG", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
ISA_FLAGS = {
    "sse42": ("-march=x86-64-v2",),
    "avx2": ("-march=x86-64-v3",),
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "neon": (),
}
EIGEN = ("/usr/include/eigen3", "/usr/local/include/eigen3", "/opt/homebrew/include/eigen3")
INSTALL = "apt-get install libeigen3-dev libbenchmark-dev"
# What a C++ library of audio models gained with kernels of this kind over Eigen, at 64 frames.
REFERENCE = {
    ("8x8", 1): 2.4,
    ("8x8", 2): 4.7,
    ("8x8", 4): 3.5,
    ("16x16", 2): 2.9,
    ("16x16", 4): 6.5,
    ("16x16", 8): 4.4,
}


@dataclass(frozen=True)
class Result:
    """Nanoseconds per buffer of every repetition, in the order in which they ran."""

    kind: str
    channels: str
    groups: int
    eigen: list[float]
    kernel: list[float]

    @property
    def ratio(self) -> float:
        """Eigen's median over the kernel's."""
        return statistics.median(self.eigen) / statistics.median(self.kernel)

    @property
    def target(self) -> float:
        return REFERENCE.get((self.channels, self.groups), 1.0)


def command(
    repetitions: Annotated[int, typer.Option(min=1, help="Of every side, in random order.")] = 9,
    seconds: Annotated[float, typer.Option(help="Least time of a repetition.")] = 0.02,
    save: Annotated[bool, typer.Option(help="Write results.")] = True,
    output: Annotated[Path, typer.Option(help="Where results go.")] = RESULTS,
) -> None:
    """The grouped kernels against Eigen's dense product, at 4 to 16 channels in 1 to 8 groups, 64 frames."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="native-") as directory:
        program = Path(directory) / "grouped"
        problem = build(program)
        if problem:
            console.print(f"{problem}\nIt needs a C++ compiler and: {INSTALL}", highlight=False, markup=False)
            raise typer.Exit(2)
        load_before = machine.load_average()
        with machine.CpuWatch() as watch:
            record = run(program, repetitions, seconds)
    found = results(record)
    text = markdown(record, found, repetitions, load_before, watch.others_share)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    if save:
        for path in write(text, record, output):
            console.print(f"wrote {path}", highlight=False)


def build(program: Path) -> str:
    """Compiles the benchmark for the instruction set that mlx_conv3d uses here. What went wrong, or ''."""
    return compiled(program, [*FLAGS, *own_sources(), "-lbenchmark", "-pthread"])


def own_sources() -> list[str]:
    """What the compiler takes for the benchmark beside the kernels."""
    return [*(f"-isystem{path}" for path in EIGEN if Path(path).is_dir()), str(ROOT / MAIN)]


def compiled(to: Path, options: list[str]) -> str:
    """Compiles the kernels with these options and sources besides. What went wrong, or ''."""
    from mlx_conv3d import _ext

    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None:
        return "No C++ compiler was found: set CXX to one."
    # Units for bf16 have no part in these kernels.
    isa = "avx512" if _ext.isa() in ("avx512_bf16", "amx") else _ext.isa()
    sources = [str(ROOT / source) for source in KERNELS]
    built = [compiler, "-std=c++20", *ISA_FLAGS[isa], f"-DSIMD_ISA={isa}", "-w", f"-I{ROOT}"]
    done = subprocess.run([*built, *sources, *options, "-o", str(to)], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr[-2000:]


def run(program: Path, repetitions: int, seconds: float) -> dict[str, Any]:
    """Google Benchmark's own record: both sides of every shape, their repetitions in random order."""
    done = subprocess.run(
        [
            str(program),
            "--benchmark_format=json",
            f"--benchmark_repetitions={repetitions}",
            "--benchmark_enable_random_interleaving=true",
            f"--benchmark_min_time={seconds}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def results(record: dict[str, Any]) -> list[Result]:
    times: dict[str, list[float]] = {}
    for each in record["benchmarks"]:
        if each["run_type"] == "iteration":
            times.setdefault(each["run_name"], []).append(each["cpu_time"])
    found = []
    for name, nanoseconds in times.items():
        side, kind, channels, groups = name.split("/")[:4]
        if side == "kernel":
            eigen = times[name.replace("kernel/", "eigen/", 1)]
            found.append(Result(kind, channels, int(groups.removeprefix("G")), eigen, nanoseconds))
    return sorted(found, key=lambda r: (r.kind, int(r.channels.split("x")[0]), r.groups))


def markdown(
    record: dict[str, Any],
    found: list[Result],
    repetitions: int,
    load_before: list[float],
    others: float | None,
) -> str:
    info, context = machine.describe(), record["context"]
    missed = [r for r in found if r.ratio < r.target]
    lines = [
        "# Grouped kernels against Eigen's dense product, 64 frames",
        "",
        f"- Date: {_today()}; command: `{machine.typed_command()}`",
        f"- Machine: {info['cpu']}, {info['cpus']} CPUs, {info['system']}; one thread",
        f"- Both sides compiled with the same flags for {context['isa']}; Eigen's vectors: {context['eigen']}. "
        f"Google Benchmark, {repetitions} repetitions of each side in random order, medians.",
        "- Eigen: one dense product for every tap, of a matrix that is zero outside its groups' blocks, of "
        "dynamic size, and the bias. Kernel: weights packed beforehand, the same buffers, the bias. Results "
        "agree to 1e-5.",
        f"- Load average before {load_before}; largest share of the CPUs that others had: {others or 0:.0%}",
        f"- **Geometric mean {geometric_mean([r.ratio for r in found]):.2f}x, minimum "
        f"{min(r.ratio for r in found):.2f}x; below the target: {len(missed)} of {len(found)}**",
        "",
        "| layer | channels | groups | Eigen ns | kernel ns | ratio | target |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for r in found:
        eigen, kernel = statistics.median(r.eigen), statistics.median(r.kernel)
        cells = (
            r.kind,
            r.channels,
            r.groups,
            f"{eigen:.0f}",
            f"{kernel:.0f}",
            f"{r.ratio:.2f}",
            f"{r.target}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, ""])


def write(text: str, record: dict[str, Any], directory: Path) -> list[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / f"native-{_today()}"
    paths = [stem.with_suffix(".json"), stem.with_suffix(".md")]
    record["context"].pop("host_name", None)
    record["context"].pop("executable", None)
    paths[0].write_text(json.dumps(record, indent=1) + "\n")
    paths[1].write_text(text)
    return paths


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
