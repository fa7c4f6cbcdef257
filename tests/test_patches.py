"""Kernels that cover all of x: patches that lie in one piece each are the rows of one matrix product."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import operands
import pytest
from problems import DTYPES, VIEWS, WEIGHT_LAYOUTS, Problem, of

import mlx_conv3d
from mlx_conv3d import conv3d, conv_transpose3d, plan

REASON = "x and w as they lie"
PATCHES = {
    "3-D": of((37, 2, 5, 6, 3), (40, 2, 5, 6, 3), stride=(2, 5, 6), bias=True),
    "2-D": of((300, 7, 7, 4), (33, 7, 7, 4), stride=7, residual=True, activation="gelu"),
    "1-D": of((65, 16, 2), (70, 16, 2), stride=16),
    "one patch": of((1, 3, 3, 3, 5), (48, 3, 3, 3, 5), stride=3),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PATCHES)
def test_patches(name: str, dtype: str) -> None:
    check(replace(PATCHES[name], x_type=dtype, w_type=dtype, extra_type=dtype))


@pytest.mark.parametrize("layout", VIEWS)
def test_patches_of_a_view(layout: str) -> None:
    check(replace(PATCHES["3-D"], layout=layout))


@pytest.mark.parametrize("layout", WEIGHT_LAYOUTS)
def test_weights_in_a_view(layout: str) -> None:
    check(replace(PATCHES["3-D"], w_layout=layout))


def check(problem: Problem) -> None:
    options = operands.plan_options(problem)
    planned = plan(problem.x, problem.w, **options, algorithm="patchify")
    assert planned.algorithm == "patchify" and REASON in planned.reason
    made = operands.make(problem)
    exact, scale = operands.solve(problem, made.exact)
    for algorithm in ("auto", "patchify"):
        operands.check(operands.run(problem, made.arrays, algorithm), problem, exact, scale, algorithm)


@pytest.mark.parametrize(
    "problem",
    [
        of((2, 4, 4, 8, 3), (40, 4, 4, 4, 3), stride=4),
        of((5, 4, 4, 4, 3), (40, 4, 4, 3, 3), stride=(4, 4, 3)),
        of((5, 1, 1, 1, 30), (40, 1, 1, 1, 30)),
    ],
    ids=["two patches to an entry", "a rest", "single pixels"],
)
def test_other_kernels_are_left_alone(problem: Problem) -> None:
    for algorithm in ("auto", "patchify"):
        assert REASON not in plan(problem.x, problem.w, **problem.options, algorithm=algorithm).reason


def test_gradients_of_a_transposed_convolution_of_single_pixels() -> None:
    """dL/dx there is a convolution of patches with swapped weights, which are not contiguous."""
    generator = np.random.default_rng(0)
    x, w, dy = (
        mx.array(generator.normal(size=shape).astype(np.float32))
        for shape in ((50, 1, 1, 1, 24), (6, 2, 3, 4, 24), (50, 2, 3, 4, 6))
    )
    _, (dx, dw) = mx.vjp(lambda x, w: conv_transpose3d(x, w, stride=(2, 3, 4)), (x, w), (dy,))
    pixels, taps = np.array(x, np.float64).reshape(50, 24), np.array(w, np.float64)
    found = np.array(dy, np.float64)
    assert np.allclose(np.array(dx).reshape(50, 24), np.einsum("ndhwo,odhwc->nc", found, taps), atol=1e-4)
    assert np.allclose(np.array(dw), np.einsum("ndhwo,nc->odhwc", found, pixels), atol=1e-4)


@pytest.mark.parametrize("per_frame", [False, True])
def test_frames_of_a_stream_are_not_patches(per_frame: bool) -> None:
    """A chunk of one frame would be some, the whole clip not."""
    parameters = mlx_conv3d._arguments.parameters(3, stride=(1, 5, 5), per_frame=per_frame)
    types = {"x_type": mx.float32, "w_type": mx.float32}
    planned = mlx_conv3d.planning.plan_of((2, 1, 5, 5, 40), (48, 1, 5, 5, 40), parameters, **types)
    assert any(REASON in c.reason for c in planned.candidates) != per_frame


def test_no_patches() -> None:
    assert conv3d(mx.zeros((0, 2, 3, 3, 4)), mx.zeros((8, 2, 3, 3, 4)), stride=(2, 3, 3)).shape == (
        0,
        1,
        1,
        1,
        8,
    )
