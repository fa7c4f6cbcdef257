"""Grouped kernels of pairs of bf16 (AVX512_BF16) against float64. On a machine without them the same problems run on
what it has."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import numpy as np
import operands
import problems
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Problem, of
from test_parity import check_problem

from mlx_conv3d import _ext, conv3d

BF16 = {"x_type": "bfloat16", "w_type": "bfloat16", "extra_type": "bfloat16"}
IN_PAIRS = "in pairs of bf16"


def grouped(
    x: tuple[int, ...], per_group: int, groups: int, *taps: int, out: int = 0, **rest: object
) -> Problem:
    """Of bf16, with `out` outputs of each group, or as many as inputs."""
    shape = (groups * (out or per_group), *taps, per_group)
    return of((*x, groups * per_group), shape, groups=groups, **BF16, **rest)


PROBLEMS = {
    "4 channels": grouped((2, 3, 9, 41), 4, 12, 3, 3, 3, padding=1),
    "8 channels": grouped((1, 4, 11, 39), 8, 6, 3, 3, 3, padding=1),
    "16 channels": grouped((2, 3, 12, 37), 16, 4, 3, 3, 3, padding=1),
    "32 channels": grouped((1, 3, 8, 30), 32, 2, 3, 3, 3, padding=1),
    "ragged vectors": grouped((1, 3, 9, 40), 8, 5, 3, 3, 3, padding=1),
    "ragged sets": grouped((1, 3, 9, 40), 4, 3, 3, 3, 3, padding=1),
    "inputs of no whole vector": grouped((1, 5, 9, 40), 20, 3, 3, 3, 3, out=16, padding=1),
    "outputs of two vectors": grouped((1, 5, 9, 40), 8, 3, 3, 3, 3, out=32, padding=1),
    "5x5": grouped((1, 20, 70), 16, 4, 5, 5, padding=2),
    "stride 2": grouped((2, 60, 61), 16, 8, 3, 3, stride=2, padding=((0, 1), (1, 0))),
    "stride over the kernel": grouped((1, 7, 20, 62), 16, 4, 3, 3, 3, stride=(1, 1, 4)),
    "dilated": grouped((1, 7, 25, 24), 8, 4, 3, 3, 3, dilation=2, padding=2),
    "a row": grouped((2, 3001), 16, 4, 3, padding=((4, 0),), dilation=2),
    "edges": grouped((1, 3, 12, 33), 8, 4, 3, 3, 3, padding=1, modes=("edge", "reflect", "edge")),
    "upsampled": grouped((1, 4, 9, 20), 16, 2, 3, 3, 3, upsample=(1, 2, 2), padding=1),
    "lead": grouped((2, 3, 9, 41), 8, 4, 3, 3, 3, padding=(0, 1, 1), lead=2),
    "input dilated": grouped((1, 4, 9, 20), 16, 2, 4, 4, 4, padding=2, input_dilation=2, flip=True),
    "stride and input dilation": grouped(
        (1, 4, 19, 20), 16, 2, 3, 3, 3, stride=2, input_dilation=2, padding=1
    ),
    "stepped": grouped((1, 4, 11, 39), 8, 6, 3, 3, 3, padding=1, layout="stepped"),
    "of one frame": grouped((1, 1, 31, 39), 8, 6, 3, 3, 3, padding=1),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems(name: str) -> None:
    problem = PROBLEMS[name]
    if _ext.isa() == "avx512_bf16":
        assert IN_PAIRS in operands.plan_of(problem, "grouped").reason
        assert operands.plan_of(problem, "grouped").parts == 1
    check_problem(problem)
    if not problem.general:
        for t in ("bfloat16", "float32"):
            check_problem(replace(problem, bias=True, activation="gelu", residual=True, extra_type=t))


@given(data=st.data())
@settings(max_examples=max(10, settings.default.max_examples // 3))
def test_drawn_problems(data: st.DataObject) -> None:
    channels = data.draw(st.sampled_from((4, 8, 16, 32, 48)))
    groups, layout = data.draw(st.integers(2, 5)), data.draw(st.sampled_from(("contiguous", *problems.VIEWS)))
    kernel = data.draw(st.sampled_from(((3, 3, 3), (1, 3, 3), (2, 2, 2), (3, 1, 2))))
    size = tuple(data.draw(st.integers(k, 20)) for k in kernel)
    padding = data.draw(st.integers(0, 2))
    problem = grouped((2, *size), channels, groups, *kernel, padding=padding, layout=layout)
    check_problem(replace(problem, bias=data.draw(st.booleans()), seed=data.draw(st.integers(0, 99))))


def run(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    a, b = (mx.array(values).astype(mx.bfloat16) for values in (x, w))
    y = conv3d(a, b, padding=1, groups=x.shape[-1] // w.shape[-1], algorithm="grouped")
    return np.array(y.astype(mx.float32))


def data(name: str = "8 channels") -> tuple[np.ndarray, np.ndarray, Problem]:
    """x, w and their problem; the values are exact in bf16."""
    made = operands.make(PROBLEMS[name])
    return made.exact["x"].astype(np.float32), made.exact["w"].astype(np.float32), PROBLEMS[name]


@pytest.mark.parametrize("scale", [2.0**-120, 2.0**-60, 2.0**60, 2.0**110])
@pytest.mark.parametrize("which", ["x", "w"])
def test_numbers_that_pairs_cannot_hold(which: str, scale: float) -> None:
    x, w, problem = data()
    exact, _ = operands.solve(problem, {"x": x.astype(np.float64), "w": w.astype(np.float64)})
    y = run(x * scale, w) if which == "x" else run(x, w * scale)
    assert reference.norm(y / scale - exact) <= 3e-3 * reference.norm(exact)


@pytest.mark.parametrize("channel", [4, 5])
@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("which", ["x", "w"])
@pytest.mark.parametrize("name", ["4 channels", "8 channels", "16 channels", "32 channels"])
def test_infinities_stay_where_they_are(name: str, which: str, value: float, channel: int) -> None:
    x, w, problem = data(name)
    {"x": x[0, 1, 2, 6], "w": w[7, 1, 1, 1]}[which][channel % w.shape[-1]] = value
    y = run(x, w)
    with np.errstate(invalid="ignore"):
        exact, _ = operands.solve(problem, {"x": x.astype(np.float64), "w": w.astype(np.float64)})
    assert np.array_equal(np.isnan(y), np.isnan(exact))
    assert np.array_equal(np.isfinite(y), np.isfinite(exact))
    there = np.isfinite(exact)
    assert reference.norm(y[there] - exact[there]) <= 3e-3 * reference.norm(exact[there])


@pytest.mark.parametrize("row", [0, 10])
def test_every_row_is_looked_at(row: int) -> None:
    """A number that pairs take for zero, wherever it is, goes to kernels that hold it."""
    x, w, problem = data()
    x[:], w = 0, w * 2.0**20
    x[0, 3, row, 38, 47] = 2.0**-130
    exact, _ = operands.solve(problem, {"x": x.astype(np.float64), "w": w.astype(np.float64)})
    assert np.count_nonzero(exact) > 0
    assert reference.norm((run(x, w) - exact) * 2.0**110) <= 3e-3 * reference.norm(exact * 2.0**110)


@pytest.mark.parametrize(("channels", "first"), [(49, 0), (49, 1), (50, 1)])
def test_pixels_that_lie_within_others(channels: int, first: int) -> None:
    """The same bits as of contiguous ones, wherever pairs begin."""
    wide = mx.random.normal((1, 3, 9, 40, channels), key=mx.random.key(0)).astype(mx.bfloat16)
    lead = mx.random.normal((1, 1, 9, 40, 48), key=mx.random.key(2)).astype(mx.bfloat16)
    w = mx.random.normal((48, 3, 3, 3, 8), key=mx.random.key(1)).astype(mx.bfloat16)
    x = wide[..., first : first + 48]
    expected = conv3d(mx.contiguous(x), w, padding=1, groups=6, lead=lead)
    assert mx.array_equal(conv3d(x, w, padding=1, groups=6, lead=lead), expected)


def test_kernels_of_floats_have_room() -> None:
    """Where pairs were planned and x cannot be held by them: in a process whose scratch memory is its first."""
    program = """
import mlx.core as mx, mlx_conv3d
shape, weight = (64, 25, 5, 36), (64, 3, 3, 18)
x = (mx.random.normal(shape) * 1e-30).astype(mx.bfloat16)
w = mx.random.normal(weight).astype(mx.bfloat16)
y = mlx_conv3d.conv2d(x, w, padding=1, groups=2, algorithm="grouped")
z = mlx_conv3d.conv2d(x.astype(mx.float32), w.astype(mx.float32), padding=1, groups=2)
assert mx.allclose(y.astype(mx.float32) * 1e30, z * 1e30, rtol=1e-2, atol=1e-1).item()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
