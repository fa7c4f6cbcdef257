"""Winograd whose products a matrix unit takes as bf16 parts (AMX) against float64. On a machine without one the same
problems run on what it has."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import operands
import pytest
import reference
from problems import Problem, of

from mlx_conv3d import _ext, conv3d, plan, prepare

TILED = _ext.isa() == "amx"
CUBE = (3, 3, 3)

PROBLEMS: dict[str, Problem] = {
    "even": of((1, 4, 16, 16, 64), (64, *CUBE, 64), padding=1),
    "one row of tiles more": of((1, 3, 13, 14, 64), (96, *CUBE, 64), padding=1),
    "ragged channels": of((1, 3, 18, 19, 93), (53, *CUBE, 93), padding=1),
    "an odd channel, an odd panel": of((2, 3, 14, 15, 127), (81, *CUBE, 127), padding=1),
    "one output": of((1, 3, 16, 16, 96), (1, *CUBE, 96), padding=1),
    "pitch of one cache set": of((1, 1, 33, 32, 512), (64, 1, 3, 3, 512), padding=(0, 1, 1)),
    "one frame": of((1, 1, 37, 38, 96), (64, *CUBE, 96), padding=1),
    "odd frames, causal": of((1, 5, 16, 16, 64), (64, *CUBE, 64), padding=((2, 0), 1, 1)),
    "depth stride": of((1, 7, 16, 17, 64), (64, *CUBE, 64), padding=1, stride=(2, 1, 1)),
    "depth dilation": of((1, 7, 16, 17, 64), (64, *CUBE, 64), padding=(2, 1, 1), dilation=(2, 1, 1)),
    "taps that meet nothing": of((1, 2, 16, 17, 64), (64, 5, 3, 3, 64), padding=(4, 1, 1)),
    "2-D": of((3, 19, 18, 128), (64, 3, 3, 128), padding=1),
    "edge": of((1, 3, 24, 24, 64), (64, *CUBE, 64), padding=1, modes="edge"),
    "lead": of((1, 3, 24, 24, 64), (64, *CUBE, 64), padding=((0, 0), 1, 1), lead=2),
    "epilogue": of(
        (1, 3, 24, 24, 64), (70, *CUBE, 64), padding=1, bias=True, residual=True, activation="silu"
    ),
    "doubled": of((1, 3, 13, 14, 96), (64, *CUBE, 96), padding=1, upsample=(1, 2, 2)),
    "spatial stride": of((1, 3, 33, 35, 96), (64, *CUBE, 96), padding=1, stride=(1, 2, 2)),
    "3x5x5": of((1, 3, 21, 19, 96), (64, 3, 5, 5, 96), padding=(1, 2, 2)),
    "spatial dilation": of((1, 3, 21, 19, 96), (64, *CUBE, 96), padding=2, dilation=(1, 2, 3)),
    "dilated": of((1, 3, 16, 15, 96), (64, 1, 4, 4, 96), padding=(0, 2, 2), input_dilation=(1, 2, 2)),
}

# Where parts pay with weights made beforehand: for fp16 results F(6, 3) of fp32 numbers is mostly cheaper.
PAYING = {
    "float32": PROBLEMS.keys() - {"even", "one row of tiles more", "one output"},
    "float16": {"an odd channel, an odd panel", "odd frames, causal", "depth dilation", "doubled"},
    "bfloat16": PROBLEMS.keys(),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_products_of_parts(name: str, dtype: str) -> None:
    problem = replace(PROBLEMS[name], x_type=dtype, w_type=dtype, extra_type=dtype)
    if name in PAYING[dtype] and not problem.general:
        expected = {"float32": 3, "float16": 3, "bfloat16": 2}[dtype] if TILED else 0
        assert operands.plan_of(problem, algorithm="winograd", prepared=True).parts == expected
    operands.check_run(problem, "winograd", prepared=True)


def random(*shape: int, seed: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize(
    ("x_scale", "w_scale"),
    [(2.0**-112, 1.0), (2.0**100, 1.0), (1.0, 2.0**-112), (1.0, 2.0**100), (2.0**100, 2.0**-112)],
)
def test_numbers_out_of_the_units_range(x_scale: float, w_scale: float) -> None:
    """Powers of two change nothing but the exponents: the low parts of small numbers are not lost."""
    x, w = random(1, 7, 16, 16, 64, seed=1), random(64, 3, 3, 3, 64, seed=2)
    options = {"padding": (0, 1, 1), "algorithm": "winograd"}
    assert plan(x.shape, w.shape, prepared=True, **options).parts == (3 if TILED else 0)
    y = operands.float64(conv3d(x, prepare(w), **options))
    scaled = operands.float64(conv3d(x * x_scale, prepare(w * w_scale), **options))
    assert reference.norm(scaled / (x_scale * w_scale) - y) <= 1e-7 * reference.norm(y)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(value: float) -> None:
    x = np.random.default_rng(3).normal(size=(1, 7, 16, 16, 64)).astype(np.float32)
    x[0, 3, 6, 6, 5] = value
    w = prepare(random(64, 3, 3, 3, 64, seed=4))
    y = np.array(conv3d(mx.array(x), w, padding=(0, 1, 1), algorithm="winograd"))
    assert not np.isfinite(y[0, 1:4, 5:8, 5:8]).any()
    assert np.isfinite(y[0, :, 10:]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_error_is_within_that_of_fp32_products(dtype: str) -> None:
    """Six products hold fp32; the three of two parts stay far below what rounding to bf16 costs."""
    problem = of((1, 3, 24, 24, 256), (64, *CUBE, 256), padding=1, x_type=dtype, w_type=dtype)
    made = operands.make(problem)
    exact, _ = operands.solve(problem, made.exact)
    arrays = {**made.arrays, "w": prepare(made.arrays["w"])}
    y = operands.float64(operands.run(problem, arrays, "winograd"))
    error = reference.norm(y - exact) / reference.norm(exact)
    if dtype == "float32":
        assert error <= 2e-6
    else:
        assert error <= 1.005 * reference.norm(
            reference.correctly_rounded(exact, dtype) - exact
        ) / reference.norm(exact)


@pytest.mark.parametrize(
    "problem",
    [
        of((2, 7, 19, 24, 160), (65, *CUBE, 160), padding=1),
        of((1, 4, 40, 40, 128), (161, *CUBE, 128), padding=1),
    ],
)
def test_pairs_of_frames(problem: Problem) -> None:
    """F(2, 3) along depth splits its terms a block of rows at a time; an odd frame has no partner."""
    planned = operands.plan_of(problem, algorithm="winograd")
    assert (planned.depth_tile, planned.parts) == (2, 3 if TILED else 0)
    made = operands.make(problem)
    exact, scale = operands.solve(problem, made.exact)
    y = operands.run(problem, made.arrays, "winograd")
    operands.check(y, problem, exact, scale, "winograd")


def test_plan_says_what_multiplies() -> None:
    p = plan((1, 9, 60, 104, 96), (96, *CUBE, 96), padding=1)
    assert (p.algorithm, p.parts) == ("winograd", 3 if TILED else 0)
    assert ("six products of bf16" in p.reason) == TILED
