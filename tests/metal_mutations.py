"""Which mutants of Metal's kernels and Programs the simulator kills.

    python tests/metal_mutations.py [--jobs 2] [--only winograd_gemm] [--output benchmarks/results/metal-mutations.md]

takes every barrier and every bound of every file in kernels/ and of the Programs' steps (metal_mutants.py), one at a
time, and runs a few problems that the changed code takes part in. A mutant is killed by a report, a wrong result or a
compile error. Those that survive must be in metal_mutations_equivalent.toml with the reason why they change nothing
that counts; the run fails for others, and for entries there that match no mutant any more or one that is killed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import metal_mutants
import metal_sim
import mlx.core as mx
import numpy as np
import operands
import problems
from metal_mutants import BARRIER, Mutant
from metal_problems import GpuProblem, algorithms, arrays_of, for_metal, legal_algorithms
from metal_programs import KERNELS, ONE_SCHEDULE, floats
from metal_sim import SCHEDULES, CompileError, Program, Schedule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EQUIVALENT = Path(__file__).with_name("metal_mutations_equivalent.toml")
TIMEOUT = 10  # seconds for a kernel that may not end
CUBE = (3, 3, 3)


def winograd(x: tuple[int, ...], w: tuple[int, ...], chunks: tuple[int, ...], **given: object) -> GpuProblem:
    dtype = given.pop("dtype", "float32")
    types = {f"{name}_type": given.pop(f"{name}_type", dtype) for name in ("x", "w", "extra")}
    return GpuProblem(problems.of(x, w, **types, **given), "winograd", "m1", chunks=chunks)


def grouped(x: tuple[int, ...], w: tuple[int, ...], **given: object) -> GpuProblem:
    dtype = given.pop("dtype", "float32")
    types = {f"{name}_type": given.pop(f"{name}_type", dtype) for name in ("x", "w", "extra")}
    return GpuProblem(problems.of(x, w, groups=x[-1] // w[-1], **types, **given), "grouped", "m1")


def gathered(algorithm: str, x: tuple[int, ...], w: tuple[int, ...], **given: object) -> GpuProblem:
    return GpuProblem(problems.of(x, w, groups=max(1, x[-1] // w[-1]), **given), algorithm, "m1")


# Small ones that meet every branch: by algorithm, the likeliest to kill first.
FOCUSED: dict[str, list[GpuProblem]] = {
    "winograd": [
        winograd(
            (2, 4, 7, 9, 5),
            (21, *CUBE, 5),
            (4, 4, 2, 21),
            padding=((2, 0), (6, 2), (2, 1)),
            modes=("edge", "reflect", "zeros"),
            lead=1,
            bias=True,
            residual=True,
            activation="sigmoid",
        ),
        winograd(
            (1, 5, 13, 8, 18),
            (96, *CUBE, 18),
            (2, 42, 2, 96),
            padding=((2, 1), (2, 2), (1, 2)),
            modes=("reflect", "edge", "reflect"),
            activation="silu",
            dtype="bfloat16",
        ),
        winograd((1, 3, 5, 5, 80), (8, *CUBE, 80), (2, 3, 1, 8, 1, 3), padding=(0, 1, 1), activation="relu"),
        winograd(
            (1, 9, 9, 7, 4),
            (40, 2, 3, 3, 4),
            (6, 3, 2, 32),
            stride=(2, 1, 1),
            dilation=(2, 1, 1),
            padding=((1, 0), (1, 1), (3, 3)),
            modes=("zeros", "zeros", "edge"),
            dtype="float16",
        ),
        winograd(
            (1, 5, 7, 11, 20),
            (40, *CUBE, 20),
            (2, 24, 4, 40, 2),
            padding=((2, 0), (1, 1), (1, 2)),
            lead=1,
            bias=True,
            dtype="bfloat16",
        ),
        winograd(
            (1, 3, 5, 5, 210), (21, *CUBE, 210), (2, 9, 3, 21, 2), padding=((1, 1), (1, 0), (1, 1)), flip=True
        ),
        winograd((1, 3, 5, 5, 256), (16, *CUBE, 256), (4, 4, 1, 16), padding=(0, 1, 1)),
        winograd((1, 3, 5, 5, 4), (70, *CUBE, 4), (4, 4, 1, 70)),
        winograd((1, 4, 7, 9, 4), (70, *CUBE, 4), (2, 20, 4, 70, 2), padding=1),
        winograd(
            (2, 5, 3, 4, 5),
            (21, 3, 1, 1, 5),
            (1, 13, 4, 21, 4),
            padding=((2, 1), (1, 2), (0, 1)),
            modes=("edge", "zeros", "reflect"),
            lead=1,
            bias=True,
            residual=True,
            activation="relu",
        ),
        winograd(
            (1, 6, 3, 3, 18),
            (40, 3, 1, 1, 18),
            (1, 9, 2, 32, 2),
            padding=((1, 1), 0, 0),
            flip=True,
            dtype="float16",
        ),
        winograd((1, 9, 2, 3, 18), (8, 3, 1, 1, 18), (1, 4, 99, 8, 6), upsample=(1, 2, 1), dtype="bfloat16"),
        winograd(
            (2, 5, 3, 4, 18),
            (70, 3, 1, 1, 18),
            (1, 1, 1, 70, 4, 0, 0, 1),
            padding=((2, 1), (1, 2), (0, 1)),
            modes=("edge", "zeros", "reflect"),
            lead=1,
            bias=True,
            residual=True,
            activation="relu",
            dtype="bfloat16",
        ),
        winograd(
            (1, 9, 3, 3, 34),
            (40, 3, 1, 1, 34),
            (1, 1, 1, 32, 2, 0, 0, 1),
            padding=((1, 1), 0, (1, 1)),
            dtype="float16",
        ),
        winograd((1, 8, 5, 5, 16), (8, 3, 1, 1, 16), (1, 1, 1, 8, 6, 0, 0, 1), dtype="float16"),
        winograd(
            (1, 5, 7, 11, 20),
            (40, *CUBE, 20),
            (2, 24, 4, 40, 2, 0, 0, 0, 1),
            padding=((2, 0), (1, 1), (1, 2)),
            dtype="bfloat16",
        ),
        winograd(
            (1, 3, 8, 9, 18), (40, *CUBE, 18), (6, 4, 1, 40, 1, 3, 1, 0, 1), padding=1, dtype="bfloat16"
        ),
        winograd(
            (1, 4, 4, 5, 6),
            (8, *CUBE, 6),
            (4, 9, 4, 8, 1, 4, 1),
            upsample=(1, 2, 2),
            padding=((1, 1), (3, 1), (2, 2)),
            modes=("edge", "zeros", "reflect"),
        ),
        winograd(
            (1, 4, 6, 7, 5), (70, *CUBE, 5), (2, 12, 2, 70, 2, 2, 0, 0, 0, 32), padding=1, dtype="float16"
        ),
        winograd((1, 3, 5, 5, 4), (40, *CUBE, 4), (4, 4, 1, 40, 1, 6, 0, 0, 1, 32), dtype="bfloat16"),
    ],
    "grouped": [
        grouped(
            (2, 4, 5, 6, 5),
            (10, *CUBE, 1),
            padding=((2, 0), (1, 2), (2, 1)),
            modes=("edge", "reflect", "zeros"),
            lead=1,
            bias=True,
            residual=True,
            activation="tanh",
        ),
        grouped(
            (1, 3, 4, 4, 4),
            (4, *CUBE, 2),
            padding=1,
            lead=2,
            layout="channels_first",
            w_layout="sliced",
        ),
        grouped(
            (1, 5, 6, 9, 6),
            (4, 2, 2, 3, 3),
            stride=(1, 2, 2),
            dilation=(2, 1, 2),
            padding=((0, 1), (1, 0), (1, 2)),
            activation="silu",
            dtype="float16",
            layout="channels_first",
            flip=True,
        ),
        grouped(
            (1, 3, 7, 8, 4),
            (8, 1, 3, 3, 2),
            padding=((1, 1), (2, 1), (2, 2)),
            modes=("zeros", "edge", "reflect"),
            activation="relu",
            upsample=(1, 2, 3),
            x_type="bfloat16",
        ),
        gathered("grouped", (1, 3, 4, 5, 66), (70, 2, 2, 3, 33), padding=((2, 0), (1, 2), (0, 1))),
    ],
    "implicit_gemm": [
        gathered(
            "implicit_gemm",
            (2, 4, 5, 6, 5),
            (35, 2, 3, 3, 5),
            padding=((2, 0), (1, 2), (0, 1)),
            modes=("edge", "reflect", "zeros"),
            lead=1,
            bias=True,
            residual=True,
            activation="gelu",
        ),
        gathered(
            "implicit_gemm", (1, 3, 5, 9, 4), (3, *CUBE, 4), padding=1, input_dilation=(1, 2, 2), flip=True
        ),
        gathered("implicit_gemm", (1, 4, 6, 9, 20), (12, 2, 2, 3, 20), stride=2, layout="channels_first"),
        gathered(
            "implicit_gemm", (1, 5, 7, 9, 16), (40, *CUBE, 16), x_type="float16", w_type="float16", padding=1
        ),
    ],
    "taps": [
        gathered("taps", (1, 4, 5, 6, 6), (7, 3, 2, 3, 6), padding=((2, 0), (1, 2), (0, 1)), bias=True),
        gathered("taps", (1, 4, 3, 4, 6), (7, *CUBE, 6), x_type="bfloat16", w_type="bfloat16", padding=1),
    ],
    "temporal": [gathered("temporal", (2, 5, 3, 4, 7), (35, 3, 1, 1, 7), padding=((2, 1), 0, 0))],
    "pointwise": [gathered("pointwise", (2, 3, 4, 5, 18), (33, 1, 1, 1, 18), bias=True)],
    "patchify": [gathered("patchify", (2, 5, 7, 8, 3), (9, 2, 3, 4, 3), stride=(2, 3, 4))],
    "transposed": [
        gathered(
            "transposed", (2, 2, 3, 4, 6), (5, 3, 2, 3, 6), padding=1, input_dilation=(2, 3, 2), flip=True
        ),
        gathered(
            "transposed", (1, 3, 3, 3, 4), (4, 2, 1, 2, 4), padding=(1, 0, 1), input_dilation=3, bias=True
        ),
    ],
}


def focused() -> list[GpuProblem]:
    """The problems of every algorithm; of one that has none here, the small ones picked for all algorithms."""
    found = []
    for algorithm in algorithms():
        picked = [
            GpuProblem(for_metal(p), algorithm, "m1")
            for p in problems.PICKED.values()
            if p.layout != "reversed"
        ]
        found += FOCUSED.get(algorithm) or [
            p for p in picked if algorithm in legal_algorithms(p.problem, "m1")
        ]
    return found


@dataclass(frozen=True)
class Prepared:
    """A focused problem with all that its runs need."""

    drawn: GpuProblem
    program: Program
    memory: dict[str, np.ndarray]
    exact: np.ndarray
    scale: float
    files: set[str]


@cache
def prepared() -> list[Prepared]:
    found = []
    for drawn in focused():
        made = operands.make(drawn.problem)
        exact, scale = operands.solve(drawn.problem, made.exact)
        program, memory = arrays_of(drawn, made.exact)
        found.append(Prepared(drawn, program, memory, exact, scale, metal_mutants.files_of(program, KERNELS)))
    return found


def mutants(only: str = "") -> list[Mutant]:
    """Of every file in kernels/, and of the focused problems' Programs; `only` is part of a file's name."""
    found = {m.key: m for file in sorted(KERNELS.iterdir()) for m in metal_mutants.of_source(file)}
    for p in prepared():
        for m in metal_mutants.of_program(p.program):
            found.setdefault(m.key, m)
    return [m for m in found.values() if only in m.file]


# ---------------------------------------------------------------- one mutant


def flaw(p: Prepared, program: Program, kernels: Path, schedules: Sequence[Schedule] = ONE_SCHEDULE) -> str:
    """What is wrong with a run, in a word or two; "" if nothing is."""
    sizes = {b.name: b.nbytes for b in program.buffers}
    memory = {name: a.view(np.uint8)[: sizes[name]] for name, a in p.memory.items()}
    try:
        result = metal_sim.run_program(program, memory, kernels, schedules=schedules, timeout=TIMEOUT)
    except CompileError as error:
        return f"compiler ({error.diagnostics[0].rule})"
    if result.reports:
        return ", ".join(sorted(result.kinds()))
    problem = p.drawn.problem
    y = floats(result.outputs["y"], problem.dtype).astype(np.float32)
    y = mx.array(y.reshape(p.exact.shape)).astype(operands.dtype_of(problem.dtype))
    try:
        operands.check(y, problem, p.exact, p.scale, p.drawn.algorithm)
    except AssertionError:
        return "wrong result"
    return ""


def killed_by(mutant: Mutant) -> str:
    """The first flaw of the mutant in any focused problem that it is part of; "" if it survives."""
    relevant = [p for p in prepared() if mutant.file in p.files]
    if mutant.at == 0:
        return killed_in_steps(mutant, relevant)
    with tempfile.TemporaryDirectory(prefix="metal-mutant-") as directory:
        kernels = Path(directory) / "kernels"
        shutil.copytree(KERNELS, kernels)
        file = kernels / mutant.file
        file.write_text(metal_mutants.mutated_text(mutant, file.read_text()))
        schedules = SCHEDULES if mutant.kind == BARRIER else ONE_SCHEDULE
        return next((found for p in relevant if (found := flaw(p, p.program, kernels, schedules))), "")


def killed_in_steps(mutant: Mutant, relevant: Iterable[Prepared]) -> str:
    """A bound must be missed by some problem, a barrier by every step that waits at one."""
    everywhere = []
    for p in relevant:
        for program in metal_mutants.mutated_programs(mutant, p.program):
            found = flaw(p, program, KERNELS)
            if found and mutant.kind != BARRIER:
                return found
            everywhere.append(found)
    return everywhere[0] if everywhere and all(everywhere) and mutant.kind == BARRIER else ""


# ---------------------------------------------------------------- all of them


def equivalents() -> dict[tuple[str, str, str, int], str]:
    """Reasons by the keys of mutants that change nothing that counts."""
    entries = tomllib.loads(EQUIVALENT.read_text())["mutant"]
    return {(e["file"], e["line"], e["change"], e.get("occurrence", 1)): e["reason"] for e in entries}


@dataclass(frozen=True)
class Outcome:
    """What became of the mutants, and which entries of the list of equivalents are wrong."""

    killed: dict[Mutant, str]
    equivalent: dict[Mutant, str]
    survived: list[Mutant]
    stale: list[tuple[str, str, str, int]]

    @property
    def ok(self) -> bool:
        return not self.survived and not self.stale


def judge(verdicts: dict[Mutant, str], whole: bool) -> Outcome:
    """Sorts the verdicts; `whole` where every mutant was run, so that every entry has to match."""
    known = equivalents()
    killed = {m: by for m, by in verdicts.items() if by}
    equivalent = {m: known[m.key] for m, by in verdicts.items() if not by and m.key in known}
    survived = [m for m, by in verdicts.items() if not by and m.key not in known]
    kills, seen = {m.key for m in killed}, {m.key for m in verdicts}
    stale = [key for key in known if key in kills or (whole and key not in seen)]
    return Outcome(killed, equivalent, survived, stale)


def run(wanted: Sequence[Mutant], jobs: int, whole: bool = False) -> Outcome:
    """Runs the mutants, after the focused problems themselves have passed."""
    for p in prepared():
        if found := flaw(p, p.program, KERNELS):
            raise AssertionError(f"{p.drawn} fails without a mutation: {found}")
    verdicts = {}
    # Not forked: MLX's threads do not survive that.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for mutant, by in zip(wanted, pool.map(killed_by, wanted), strict=True):
            print(f"{by or 'SURVIVED':28} {mutant}", flush=True)
            verdicts[mutant] = by
    return judge(verdicts, whole)


def table(outcome: Outcome) -> str:
    """Totals per file and how mutants died, in Markdown."""
    everything = [*outcome.killed, *outcome.equivalent, *outcome.survived]
    lines = ["| file | barriers | bounds | killed | equivalent | survived |", "|---|---|---|---|---|---|"]
    for name in [*sorted({m.file for m in everything}), "all"]:
        mine = [m for m in everything if name in (m.file, "all")]
        kinds = Counter(m.kind for m in mine)
        ends = [
            sum(m in group for m in mine) for group in (outcome.killed, outcome.equivalent, outcome.survived)
        ]
        lines.append(f"| {name} | {kinds[BARRIER]} | {kinds['bound']} | {' | '.join(map(str, ends))} |")
    ways = Counter(by for by in outcome.killed.values())
    lines += [
        "",
        "| killed by | mutants |",
        "|---|---|",
        *(f"| {by} | {n} |" for by, n in ways.most_common()),
    ]
    return "\n".join(lines)


def document(outcome: Outcome, date: str) -> str:
    """The kept result."""
    reasons: dict[str, list[Mutant]] = {}
    for mutant, reason in outcome.equivalent.items():
        reasons.setdefault(reason, []).append(mutant)
    parts = [
        f"# Mutations of Metal's kernels and Programs, {date}",
        "`python tests/metal_mutations.py`: every barrier left out and every bound moved by one, one at a time, in the "
        "simulator. A file's row has its own lines and, for a kernel, the grids, barriers and buffers of its steps.",
        table(outcome),
        "## Equivalent",
        *(f"{reason}\n\n" + "\n".join(f"- `{m}`" for m in mine) for reason, mine in reasons.items()),
        *(["## Survived", "\n".join(f"- `{m}`" for m in outcome.survived)] if outcome.survived else []),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="files whose name has this in it")
    parser.add_argument("--date", default="", help="for the document's title")
    parser.add_argument("--output", type=Path, help="where the document goes")
    given = parser.parse_args()
    outcome = run(mutants(given.only), given.jobs, whole=not given.only)
    print(f"\n{table(outcome)}")
    for mutant in outcome.survived:
        print(f"survived: {mutant}")
    for key in outcome.stale:
        print(f"{EQUIVALENT.name} has an entry that matches no mutant, or one that is killed: {key}")
    if given.output:
        given.output.write_text(document(outcome, given.date))
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
