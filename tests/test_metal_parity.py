"""Programs of drawn problems in the simulator: no report, and the result of float64 and of the CPU backend."""

from __future__ import annotations

import metal_problems
import pytest
from hypothesis import given, settings
from metal_problems import GpuProblem
from metal_sim.support import needs_metal_sim

pytestmark = needs_metal_sim

ALGORITHMS = metal_problems.algorithms()
ALL = 540  # examples to draw for all algorithms together; some will be equal
EXAMPLES = min(max(90, ALL // len(ALGORITHMS)), settings.default.max_examples)
LEAST = 300  # different problems
GROUPED = 30  # of each rank
WHOLE = settings.default.max_examples >= ALL // 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_drawn_problems_on_metal(algorithm: str) -> None:
    """Each algorithm that has Programs takes its part of the 300 different ones, and 50 at least."""
    distinct: set[GpuProblem] = set()

    @settings(max_examples=EXAMPLES)
    @given(metal_problems.gpu_problems(algorithm))
    def agrees(drawn: GpuProblem) -> None:
        distinct.add(drawn)
        metal_problems.check(drawn)

    agrees()
    assert len(distinct) >= max(50, LEAST / len(ALGORITHMS)) or not WHOLE


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_drawn_grouped_problems_of_every_rank(rank: int) -> None:
    distinct: set[GpuProblem] = set()

    @settings(max_examples=GROUPED + 10)
    @given(metal_problems.gpu_problems("grouped", rank))
    def agrees(drawn: GpuProblem) -> None:
        assert drawn.problem.groups > 1 and drawn.problem.ndim == rank
        distinct.add(drawn)
        metal_problems.check(drawn)

    agrees()
    assert len(distinct) >= GROUPED
