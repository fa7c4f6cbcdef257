"""Programs of drawn problems in the simulator: no report, and the result of float64 and of the CPU backend."""

from __future__ import annotations

import metal_problems
import pytest
from hypothesis import given, settings
from metal_problems import GpuProblem
from metal_sim.support import needs_metal_sim

pytestmark = needs_metal_sim

EXAMPLES = min(260, settings.default.max_examples)
LEAST = 160 if EXAMPLES == 260 else 1


@pytest.mark.parametrize("algorithm", metal_problems.algorithms())
def test_drawn_problems_on_metal(algorithm: str) -> None:
    """At least 160 different ones for each algorithm that has Programs."""
    distinct: set[GpuProblem] = set()

    @settings(max_examples=EXAMPLES)
    @given(metal_problems.gpu_problems(algorithm))
    def agrees(drawn: GpuProblem) -> None:
        distinct.add(drawn)
        metal_problems.check(drawn)

    agrees()
    assert len(distinct) >= LEAST
