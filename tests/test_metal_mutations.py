"""A sample of the mutation run: every barrier and a few bounds of every kernel are killed. And the run's own parts."""

from __future__ import annotations

from pathlib import Path

import metal_mutants
import metal_mutations
import pytest
from metal_mutants import BARRIER, Mutant
from metal_programs import KERNELS
from metal_sim.support import needs_metal_sim

PER_FILE = 3


def sample() -> list[Mutant]:
    """Every barrier of the sources, and bounds of each file spread evenly."""
    known = metal_mutations.equivalents()
    chosen = []
    for file in sorted(KERNELS.iterdir()):
        there = [m for m in metal_mutants.of_source(file) if m.key not in known]
        bounds = [m for m in there if m.kind != BARRIER]
        chosen += [m for m in there if m.kind == BARRIER]
        chosen += bounds[:: max(1, -(-len(bounds) // PER_FILE))]
    return chosen


@needs_metal_sim
@pytest.mark.parametrize("mutant", sample(), ids=str)
def test_mutants_are_killed(mutant: Mutant) -> None:
    assert metal_mutations.killed_by(mutant)


@needs_metal_sim
@pytest.mark.parametrize("problem", metal_mutations.prepared(), ids=lambda p: str(p.drawn.problem.x))
def test_every_barrier_of_a_program_is_needed(problem: metal_mutations.Prepared) -> None:
    """Each one of a problem, left out by itself."""
    barriers = [m for m in metal_mutants.of_program(problem.program) if m.kind == BARRIER]
    assert problem.drawn.algorithm == "grouped" or barriers
    for mutant in barriers:
        broken = metal_mutants.mutated_programs(mutant, problem.program)
        flaws = {metal_mutations.flaw(problem, program, KERNELS) for program in broken[:3]}
        assert all("missing-barrier" in found for found in flaws), (mutant, flaws)


def test_every_file_and_barrier_has_mutants() -> None:
    found = metal_mutations.mutants()
    assert {m.file for m in found} >= {p.name for p in KERNELS.glob("*.metal")}
    barriers = sum(p.read_text().count("_barrier(") for p in KERNELS.iterdir())
    assert sum(m.kind == BARRIER and m.at > 0 for m in found) == barriers
    assert len({m.key for m in found}) == len(found)


def test_equivalent_mutants_are_there() -> None:
    keys = {m.key for m in metal_mutations.mutants()}
    assert [key for key in metal_mutations.equivalents() if key not in keys] == []


def test_what_is_mutated(tmp_path: Path) -> None:
    source = tmp_path / "k.metal"
    source.write_text(
        "// a < b\n"
        "#include <metal_stdlib>\n"
        "float a[N], b[2];\n"
        "for (int i = 0; i < n; ++i) a[i] = min(f(i, 1), n - 1);  // i > 0\n"
        "threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    )
    changes = [m.change for m in metal_mutants.of_source(source)]
    assert changes == [
        "float a[-1 + (N)], b[2];",
        "float a[N], b[-1 + (2)];",
        "for (int i = 0; i < 1 + n; ++i) a[i] = min(f(i, 1), n - 1);",
        "for (int i = 0; i < -1 + n; ++i) a[i] = min(f(i, 1), n - 1);",
        "for (int i = 0; i < n; ++i) a[i] = min(f(i, 1), 1 + n - 1);",
        "for (int i = 0; i < n; ++i) a[i] = min(f(i, 1), -1 + n - 1);",
        "for (int i = 0; i < n; ++i) a[i] = (f(i, 1));",
        ";",
    ]


def test_survivors_and_stale_entries_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    known, new = (
        Mutant("k.metal", "bound", "a < b", "a < 1 + b", 1),
        Mutant("k.metal", "bound", "c < d", "c", 2),
    )
    monkeypatch.setattr(metal_mutations, "equivalents", lambda: {known.key: "why"})
    judge = metal_mutations.judge
    assert judge({known: "", new: "race"}, whole=True).ok
    assert judge({known: "", new: ""}, whole=True).survived == [new]
    assert judge({known: "race", new: "race"}, whole=True).stale == [known.key]
    assert judge({new: "race"}, whole=True).stale == [known.key]
    assert judge({new: "race"}, whole=False).ok
    assert "| k.metal | 0 | 2 | 1 | 1 | 0 |" in metal_mutations.table(
        judge({known: "", new: "race"}, whole=True)
    )
