"""Dense kernels with taps along depth only over frames of few positions, which are read as one row: series of
samples in the first place. Against float64."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import mlx.core as mx
import operands
import pytest
from hypothesis import given
from problems import MODES, Problem, of

import mlx_conv3d
from mlx_conv3d import nn

PROBLEMS: dict[str, tuple[str, Problem]] = {
    "series": ("temporal", of((2, 90, 1, 1, 16), (16, 3, 1, 1, 16), padding=((4, 0), 0, 0), dilation=(2, 1, 1))),
    "lead": ("temporal", of((2, 90, 1, 1, 16), (16, 3, 1, 1, 16), dilation=(5, 1, 1), lead=10)),
    "lead longer than x": ("temporal", of((1, 20, 1, 1, 8), (8, 3, 1, 1, 8), dilation=(32, 1, 1), lead=64)),
    "lead and padding": ("temporal", of((3, 40, 1, 1, 12), (20, 5, 1, 1, 12), padding=((9, 4), 0, 0), lead=3)),
    "frames of some positions": ("temporal", of((2, 11, 3, 5, 16), (24, 3, 1, 1, 16), padding=(1, 0, 0), lead=2)),
    "edge": ("temporal", of((2, 30, 2, 2, 16), (16, 4, 1, 1, 16), padding=((7, 5), 0, 0), modes="edge", lead=2)),
    "reflect": ("temporal", of((2, 30, 2, 2, 16), (16, 4, 1, 1, 16), padding=((7, 5), 0, 0), modes="reflect")),
    "more products than a block": ("temporal", of((1, 900, 1, 1, 100), (48, 3, 1, 1, 100), padding=(1, 0, 0), lead=4)),
    "more channels than a block": ("temporal", of((1, 800, 1, 1, 600), (20, 2, 1, 1, 600), lead=1)),
    "few outputs": ("temporal", of((2, 70, 1, 1, 33), (3, 3, 1, 1, 33), padding=(1, 0, 0))),
    "one output, taps beyond x": (
        "temporal", of((1, 3, 1, 1, 8), (1, 3, 1, 1, 8), padding=((20, 25), 0, 0), dilation=(9, 1, 1))
    ),
    "outputs that no tap meets": (
        "temporal", of((1, 2, 1, 1, 16), (16, 2, 1, 1, 16), padding=((9, 9), 0, 0), dilation=(4, 1, 1))
    ),
    "flipped": ("temporal", of((1, 60, 1, 1, 16), (16, 3, 1, 1, 16), flip=True)),
    "pointwise": ("pointwise", of((2, 70, 1, 1, 17), (33, 1, 1, 1, 17), bias=True, activation="tanh", residual=True)),
    "one channel": ("pointwise", of((1, 200, 1, 1, 1), (16, 1, 1, 1, 1))),
    "one of each": ("pointwise", of((1, 1, 1, 1, 1), (1, 1, 1, 1, 1))),
    "general": ("implicit_gemm", of((2, 50, 1, 2, 16), (18, 3, 1, 1, 16), padding=(2, 0, 0), bias=True)),
    "stepped": ("temporal", of((3, 40, 2, 1, 16), (16, 3, 1, 1, 16), lead=3, layout="stepped")),
    "sliced": (
        "temporal", of((3, 40, 2, 3, 16), (16, 3, 1, 1, 16), lead=3, layout="sliced", w_layout="channels_first")
    ),
    "offset": ("temporal", of((3, 40, 1, 1, 15), (16, 3, 1, 1, 15), layout="offset", w_layout="offset")),
}  # fmt: skip


# Many weights are joined with many positions, the more threads there are.
FEW_THREADS = mlx_conv3d._ext.threads() <= 2


def is_joined(problem: Problem, algorithm: str) -> bool:
    (found,) = (c for c in operands.plan_of(problem).candidates if c.algorithm == algorithm)
    return "positions of all frames" in found.reason


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_frames_as_one_row(name: str, dtype: str) -> None:
    algorithm, problem = PROBLEMS[name]
    problem = replace(problem, x_type=dtype, w_type=dtype, extra_type=dtype)
    assert is_joined(problem, algorithm) or not FEW_THREADS
    operands.check_run(problem, algorithm)


@given(
    batch=st.integers(1, 3),
    frames=st.integers(1, 40),
    area=st.sampled_from([(1, 1), (1, 3), (4, 2), (6, 7)]),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    taps=st.integers(1, 5),
    dilation=st.integers(1, 7),
    lead=st.integers(0, 12),
    padding=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    mode=st.sampled_from(MODES),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    bias=st.booleans(),
)
def test_drawn(
    batch: int,
    frames: int,
    area: tuple[int, int],
    channels: tuple[int, int],
    taps: int,
    dilation: int,
    lead: int,
    padding: tuple[int, int],
    mode: str,
    dtype: str,
    bias: bool,
) -> None:
    inputs, outputs = channels
    logical = lead + frames
    if logical + sum(padding) <= dilation * (taps - 1) or (mode == "reflect" and max(padding) >= logical):
        return
    problem = of(
        (batch, frames, *area, inputs),
        (outputs, taps, 1, 1, inputs),
        padding=(padding, 0, 0),
        dilation=(dilation, 1, 1),
        modes=(mode, "zeros", "zeros"),
        lead=lead,
        bias=bias,
        x_type=dtype,
        w_type=dtype,
        extra_type=dtype,
    )
    operands.check_run(problem, "implicit_gemm")


@pytest.mark.parametrize(
    ("x", "w", "joined"),
    [
        ((1, 4096, 1, 1, 64), (64, 3, 1, 1, 64), True),
        ((8, 64, 1, 1, 16), (16, 3, 1, 1, 16), True),
        ((1, 64, 1, 1, 16), (16, 3, 1, 1, 16), True),
        # Frames that are rows of their own, and outputs that more threads than positions can share.
        ((1, 16, 32, 32, 64), (64, 3, 1, 1, 64), False),
        ((8, 1, 4, 4, 512), (2048, 1, 1, 1, 512), False),
    ],
)
def test_which_frames_are_joined(x: tuple[int, ...], w: tuple[int, ...], joined: bool) -> None:
    assert is_joined(of(x, w), "implicit_gemm") == joined


@pytest.mark.parametrize("channels", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("taps", [1, 3])
def test_no_channels(taps: int, channels: tuple[int, int]) -> None:
    inputs, outputs = channels
    x, w = mx.zeros((2, 5, 1, 1, inputs)), mx.zeros((outputs, taps, 1, 1, inputs))
    y = mlx_conv3d.conv3d(x, w, bias=mx.ones((outputs,)), padding=(1, 0, 0))
    assert y.shape == (2, 8 - taps, 1, 1, outputs)
    assert mx.array_equal(y, mx.ones(y.shape))
    if taps == 1:
        assert mx.array_equal(
            mlx_conv3d.conv1d(x[:, :, 0, 0], w[:, :, 0, 0], bias=mx.ones((outputs,))), y[:, 1:6, 0, 0]
        )


@pytest.mark.parametrize("layout", ["contiguous", "sliced"])
@pytest.mark.parametrize("frames", [1, 3])
def test_many_items_of_few_positions(frames: int, layout: str) -> None:
    """Of one tap they are one row, too; of several taps they are gathered."""
    pointwise = of((90, frames, 1, 1, 16), (24, 1, 1, 1, 16), bias=True, layout=layout)
    assert is_joined(pointwise, "pointwise")
    operands.check_run(pointwise, "pointwise")
    several = of((90, frames, 1, 1, 16), (24, 2, 1, 1, 16), padding=(1, 0, 0), layout=layout)
    assert not is_joined(several, "temporal")
    operands.check_run(several, "temporal")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chunks_and_the_whole_may_take_different_ways(dtype: str) -> None:
    """So many weights are joined with many positions only; the bits are the same."""
    layer = nn.CausalConv1d(100, 64, 3, dilation=2)
    layer.set_dtype(operands.dtype_of(dtype))
    x = mx.random.normal((1, 900, 100)).astype(operands.dtype_of(dtype))
    shape = (1, 900, 1, 1, 100)
    given = {"x_type": dtype, "w_type": dtype, "padding": ((4, 0), 0, 0), "dilation": (2, 1, 1)}
    assert is_joined(of(shape, (64, 3, 1, 1, 100), **given), "temporal") == FEW_THREADS
    assert not is_joined(of((1, 90, *shape[2:]), (64, 3, 1, 1, 100), **given), "temporal")
    assert mx.array_equal(operands.stepped(layer, x, (90, 7, 800, 3)), layer(x))


def test_a_small_workspace_suffices() -> None:
    """Rows that have to be copied, of every tap, in tasks of fewer positions than otherwise."""
    problem = of((1, 930, 1, 1, 512), (64, 31, 1, 1, 512), x_type="bfloat16", lead=4)
    roomy = operands.plan_of(problem, "temporal")
    before = mlx_conv3d.set_workspace_limit(16 << 20)
    try:
        assert is_joined(problem, "temporal") == FEW_THREADS
        found = operands.plan_of(problem, "temporal")
        operands.check_run(problem, "temporal")
    finally:
        mlx_conv3d.set_workspace_limit(before)
    assert found.workspace <= 16 << 20
    assert roomy.workspace > 16 << 20 or not FEW_THREADS
