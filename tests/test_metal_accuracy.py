"""16-bit Programs are as exact as rounding allows, which stock MLX's route is not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from metal_sim.support import needs_metal_sim

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import metal_accuracy


@needs_metal_sim
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", metal_accuracy.cases())
def test_programs_are_as_exact_as_rounding(name: str, dtype: str) -> None:
    row = metal_accuracy.measure(name, dtype)
    assert row.ours <= 1.02
    assert row.stock is None or row.stock > 10


def test_the_simulated_route_is_a_convolution() -> None:
    """Without rounding it is exact, so all of its error comes from rounding."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(1, 5, 9, 11, 4)), rng.normal(size=(3, 3, 3, 3, 4))
    exact = reference.forward(x, w, reference.Conv.of(3))
    y = metal_accuracy.stock_conv3d(x, w, lambda a: a)
    assert np.abs(y - exact).max() < 1e-11
