"""Which steps there are, in what order, and what they may take."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx_conv3d
from mlx_conv3d.doctor.rows import Row
from mlx_conv3d.doctor.runner import UNSET, Clock, Step, run

TOTAL = 110.0  # seconds for everything; on a Mac, which compiles every kernel, ON_A_MAC
ON_A_MAC = 600.0
WIDENING = ("sse2", "avx2", "avx512", "avx512_bf16", "amx")
SUBJECTS = ("machine", "kernels", "parity", "gradients", "timing", "simulator")


@dataclass(frozen=True)
class Wanted:
    """What the user asked for. `limit`: seconds for one check, 0 for each step's own; `total`: for everything.

    `checkout`: a folder with the sources of this version, whose simulator is used; "" looks for one.
    """

    subjects: tuple[str, ...] = SUBJECTS
    limit: float = 0.0
    total: float = 0.0
    checkout: str = ""


@dataclass(frozen=True)
class Machine:
    """As the first step found it. gpu: its row in the table of Apple GPUs, "" without Metal."""

    isa: str = ""
    gpu: str = ""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Machine:
        data = {row.name: row.data for row in rows}
        return cls(data.get("cpu backend", {}).get("isa", ""), data.get("Metal backend", {}).get("gpu", ""))


def is_checkout(folder: Path) -> bool:
    """Whether the sources of this version, with their tests, lie there."""
    project = folder / "pyproject.toml"
    if not (project.is_file() and (folder / "tests" / "metal_sim").is_dir()):
        return False
    text = project.read_text(encoding="utf-8", errors="replace")
    version = re.escape(mlx_conv3d.__version__)
    return bool(
        re.search(r'^name = "mlx-conv3d"$', text, re.M) and re.search(rf'^version = "{version}"$', text, re.M)
    )


def find_checkout() -> str:
    """The one that this package lies in, or the current folder."""
    here = Path(mlx_conv3d.__file__).resolve().parent.parent
    return next((str(folder) for folder in (here, Path.cwd()) if is_checkout(folder)), "")


def instruction_sets(isa: str) -> list[str]:
    """The one in use, then those of the same machine that are narrower."""
    return [*reversed(WIDENING[: WIDENING.index(isa) + 1])] if isa in WIDENING else [isa] if isa else []


def steps(machine: Machine, checkout: str) -> dict[str, list[Step]]:
    """All steps but the first, by subject."""
    metal = machine.gpu
    devices = [("cpu", ""), *([("gpu", metal)] if metal else [])]
    isas = {isa: {"MLX_CONV3D_ISA": isa} for isa in instruction_sets(machine.isa)}
    kernels = [Step(f"{isa} kernels", "cpu_kernels", 20, {"isa": isa}, only) for isa, only in isas.items()]
    gradients = [
        Step(f"{isa} gradients", "gradients", 20, {"device": "cpu"}, only) for isa, only in isas.items()
    ]
    if metal:
        kernels += [Step("Metal compiler", "metal_kernels", 120), Step("Metal kernels", "metal_families", 60)]
        gradients += [Step("Metal gradients", "gradients", 20, {"device": "gpu"})]
    return {
        "kernels": kernels,
        "parity": [Step(f"parity on the {d}", "parity", 30, {"device": d, "gpu": g}) for d, g in devices],
        "gradients": gradients,
        "timing": [Step(f"time on the {devices[-1][0]}", "timing", 20, {"device": devices[-1][0]})],
        "simulator": [Step("Metal simulator", "simulated", 60, {"checkout": checkout}, required=False)],
    }


def examine(
    wanted: Wanted, begin: Callable[[str], None], report: Callable[[Sequence[Row]], None]
) -> list[Row]:
    """Runs the steps. `begin` is told the name of each before it starts, `report` gets its rows after it."""
    clock = Clock(wanted.total or (ON_A_MAC if sys.platform == "darwin" else TOTAL))
    rows: list[Row] = []

    def take(step: Step) -> list[Row]:
        begin(step.name)
        found = run(replace(step, limit=wanted.limit or step.limit), clock)
        if found:
            report(found)
        rows.extend(found)
        return found

    withheld = {name: os.environ[name] for name in UNSET if os.environ.get(name)}
    machine = Machine.of(take(Step("machine", "machine", 30, {"withheld": withheld})))
    for subject, group in steps(machine, wanted.checkout or find_checkout()).items():
        for step in group if subject in wanted.subjects else []:
            take(step)
    return rows
