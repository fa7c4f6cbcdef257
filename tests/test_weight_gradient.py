"""dL/dw in Winograd's transform domain, forced, against the float64 adjoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import mlx.core as mx
import numpy as np
import operands
import problems
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import FAMILIES, WIDE_CHANNELS, Problem, of
from upsampled_problems import UPSAMPLED

import mlx_conv3d
from mlx_conv3d import _arguments as arguments
from mlx_conv3d import functional

CUBE = (3, 3, 3)
FLOAT32_BOUND = 4e-6
MOST_PRODUCTS = 2_000_000
NARROWED = {
    "kernels": tuple((depth, 3, 3) for depth in (1, 2, 3, 3, 3, 5)),
    "strides": (1,),
    "dilations": (1,),
    "channels": WIDE_CHANNELS,
    "groups": (),
}
DRAWN = {
    name: replace(FAMILIES[name], **NARROWED)
    for name in (
        "spatial_3x3",
        "doubled_3x3",
        "padding_modes",
        "flipped",
        "streamed",
        "half_precision",
        "views",
    )
} | {name: FAMILIES[name] for name in ("strided_3x3", "dilated_3x3", "spatial_5x5", "taps_along_one_axis")}

PICKED: dict[str, Problem] = {
    "whole tiles": of((1, 4, 8, 8, 16), (16, *CUBE, 16), padding=1),
    "ragged": of((2, 5, 7, 9, 17), (19, *CUBE, 17), padding=1),
    "odd frames": of((1, 3, 9, 6, 16), (32, *CUBE, 16), padding=((2, 0), 1, 1)),
    "one frame": of((3, 1, 6, 6, 16), (16, 1, 3, 3, 16), padding=(0, 1, 1)),
    "two taps": of((1, 4, 6, 6, 16), (16, 2, 3, 3, 16), padding=((1, 0), 1, 1)),
    "seven taps": of((1, 9, 5, 5, 8), (8, 7, 3, 3, 8), padding=(3, 1, 1)),
    "few inputs": of((1, 3, 12, 11, 3), (40, *CUBE, 3), padding=1),
    "few outputs": of((1, 3, 12, 11, 40), (3, *CUBE, 40), padding=1),
    "one channel": of((1, 3, 6, 6, 1), (1, *CUBE, 1), padding=1),
    "strided in time": of((1, 9, 6, 6, 16), (16, *CUBE, 16), padding=1, stride=(3, 1, 1)),
    "dilated in time": of((1, 9, 6, 6, 16), (16, *CUBE, 16), padding=(2, 1, 1), dilation=(2, 1, 1)),
    "all padding in time": of((1, 1, 6, 6, 8), (8, 5, 3, 3, 8), padding=(4, 1, 1)),
    "no padding": of((1, 5, 9, 9, 16), (16, *CUBE, 16)),
    "cropped": of((1, 5, 9, 9, 16), (16, *CUBE, 16), padding=((-1, 1), (0, -2), (-1, 0))),
    "edge, lead": of(
        (2, 3, 7, 6, 16),
        (24, *CUBE, 16),
        padding=((2, 0), 1, (1, 2)),
        modes=("edge", "reflect", "edge"),
        lead=2,
    ),
    "half": of((1, 3, 8, 8, 24), (16, *CUBE, 24), padding=1, x_type="float16", w_type="float16"),
    "bfloat": of((1, 3, 8, 8, 24), (16, *CUBE, 24), padding=1, x_type="bfloat16", w_type="bfloat16"),
    "mixed": of((1, 3, 8, 8, 24), (16, *CUBE, 24), padding=1, x_type="float32", w_type="bfloat16"),
    "channels first": of((1, 3, 8, 8, 24), (16, *CUBE, 24), padding=1, layout="channels_first"),
    "flipped": of((1, 4, 6, 7, 17), (16, *CUBE, 17), padding=1, flip=True),
    "dilated 4x4": of((1, 3, 7, 6, 16), (20, 3, 4, 4, 16), padding=2, input_dilation=(1, 2, 2), flip=True),
    "dilated 3x3": of((1, 3, 9, 8, 16), (8, *CUBE, 16), padding=1, input_dilation=2, flip=True),
    "dilated, one tile": of((1, 2, 2, 2, 4), (20, 4, 4, 4, 4), padding=2, input_dilation=2),
    "dilated 3x3, forwards": of((2, 3, 5, 6, 8), (16, *CUBE, 8), padding=(1, 2, 1), input_dilation=(1, 2, 2)),
    "spatial stride": of((2, 5, 17, 19, 17), (19, *CUBE, 17), padding=1, stride=(1, 2, 2)),
    "stride everywhere": of((1, 6, 16, 13, 24), (16, *CUBE, 24), padding=1, stride=2),
    "spatial stride, pairs of frames": of(
        (1, 5, 49, 49, 96), (96, *CUBE, 96), padding=(1, 0, 0), stride=(1, 2, 2)
    ),
    "spatial stride, one row": of((1, 2, 1, 9, 16), (16, 1, 3, 3, 16), padding=(0, 1, 1), stride=(1, 2, 2)),
    "spatial dilation": of((1, 4, 13, 15, 16), (24, *CUBE, 16), padding=2, dilation=(1, 2, 3)),
    "5x5x5": of((1, 5, 13, 11, 17), (19, 5, 5, 5, 17), padding=2),
    "3x5x5, flipped": of((2, 4, 9, 10, 16), (24, 3, 5, 5, 16), padding=(1, 2, 2), flip=True),
    "taps further apart than outputs": of(
        (1, 1, 5, 6, 8), (8, 1, 3, 3, 8), padding=(0, 7, 9), dilation=(1, 7, 9)
    ),
    "frames": of((2, 9, 5, 6, 17), (19, 3, 1, 1, 17), padding=(1, 0, 0)),
    "frames, seven taps": of((1, 12, 5, 6, 16), (24, 7, 1, 1, 16), padding=((6, 0), 0, 0)),
    "frames, spatial stride": of((1, 9, 7, 8, 16), (24, 3, 1, 1, 16), padding=1, stride=(1, 2, 3)),
    "columns, depth taps": of((1, 5, 13, 6, 17), (19, 3, 3, 1, 17), padding=(1, 1, 0)),
    "rows, depth taps, flipped": of((1, 5, 6, 13, 17), (19, 2, 1, 5, 17), padding=(1, 0, 2), flip=True),
    "frames, flipped": of((1, 9, 5, 6, 16), (24, 5, 1, 1, 16), padding=(2, 0, 0), flip=True),
    "1-D": of((3, 41, 17), (19, 3, 17), padding=1),
    "1-D, dilated": of((2, 41, 40), (24, 7, 40), padding=6, dilation=2),
    "1-D, half": of((2, 41, 24), (40, 5, 24), padding=2, x_type="float16", w_type="float16"),
    **UPSAMPLED,
}


def dilated_large(size: int) -> Problem:
    return of((1, 1, size, size, 16), (16, 1, 4, 4, 16), padding=(0, 2, 2), input_dilation=(1, 2, 2))


# Wide enough that pairs of frames pay.
PICKED |= {
    f"pairs of {frames} frames": of((1, frames, 24, 24, 96), (96, *CUBE, 96), padding=1) for frames in (4, 5)
}
PICKED |= {f"dilated {size}": dilated_large(size) for size in (8, 12, 20)}
PICKED |= {
    f"doubled {size}": of((1, 1, size, size, 16), (16, 1, 3, 3, 16), padding=(0, 1, 1), upsample=(1, 2, 2))
    for size in (8, 9, 12, 20)
}


def parameters_of(problem: Problem) -> arguments.Parameters:
    return arguments.parameters(
        problem.ndim,
        stride=problem.stride,
        padding=problem.padding,
        dilation=problem.dilation,
        input_dilation=problem.input_dilation,
        groups=problem.groups,
        padding_mode=problem.modes,
        flip=problem.flip,
        upsample=problem.upsample,
    )


def has_taps_along_one_axis(problem: Problem) -> bool:
    """That Winograd can take, depth taps beside them."""
    depth, height, width = (1,) * (3 - problem.ndim) + tuple(problem.w[1:-1])
    stride = (1,) * (3 - problem.ndim) + tuple(problem.stride)
    some = (3, 5, 7)
    if height == 1 and width in some:
        return stride[2] == 1
    if width == 1 and height in some:
        return stride[1] == 1
    return (height, width) == (1, 1) and depth in some and stride[0] == 1 and problem.lead == 0


def runs_in_the_transform_domain(problem: Problem) -> bool:
    if problem.groups == 1 and 0 not in problem.x and has_taps_along_one_axis(problem):
        return all(dilation == 1 for dilation in problem.input_dilation)
    square = tuple(problem.w[-3:-1])
    dilated = problem.input_dilation[-2:] == (2, 2)
    stride, dilation = problem.stride[-2:], problem.dilation[-2:]
    steps = (
        stride == dilation == (1, 1)
        or (stride == (1, 1) and problem.input_dilation[-2:] == (1, 1))
        or (stride == (2, 2) and dilation == problem.input_dilation[-2:] == (1, 1))
    )
    return (
        problem.ndim == 3
        and problem.groups == 1
        and 0 not in problem.x
        and (
            square == (3, 3)
            or (square == (4, 4) and dilated)
            or (square == (5, 5) and stride == problem.input_dilation[-2:] == (1, 1))
        )
        and steps
        and (dilated or problem.input_dilation[-2:] == (1, 1))
    )


def check(problem: Problem) -> None:
    """Without the epilogue: it has no part in dL/dw that the gradients' tests do not have."""
    made = operands.make(problem)
    x, lead, w = made.arrays["x"], made.arrays.get("lead"), made.arrays["w"]
    parameters = parameters_of(problem)
    rng = np.random.default_rng(problem.seed + 100)
    cotangent = mx.array(rng.normal(size=problem.out_shape).astype(np.float32))

    def f(w: mx.array) -> mx.array:
        return functional.run(x, w, parameters, lead=lead, algorithm="winograd")

    cotangent = cotangent.astype(f(w).dtype)
    _, (found,) = mx.vjp(f, [w], [cotangent])
    conv = replace(problem.conv, activation=None)
    exact_lead = made.exact.get("lead")
    rest = {} if exact_lead is None else {"lead": exact_lead}
    dy = operands.float64(cotangent)
    exact = reference.adjoint(dy, made.exact["x"], made.exact["w"], conv, **rest).w
    squares = {name: a**2 for name, a in rest.items()}
    energy = reference.adjoint(dy**2, made.exact["x"] ** 2, made.exact["w"] ** 2, conv, **squares).w
    scale = max(float(np.sqrt(energy.sum())), reference.norm(exact))
    assert found.shape == w.shape and found.dtype == w.dtype
    error = reference.norm(operands.float64(found) - exact)
    most = reference.error_bound(exact, problem.w_type, FLOAT32_BOUND, scale)
    assert error <= most, f"error {error:.3e}, at most {most:.3e} (norm {scale:.3e})"


@pytest.mark.parametrize("name", [name for name, p in PICKED.items() if runs_in_the_transform_domain(p)])
def test_picked(name: str) -> None:
    check(PICKED[name])


@pytest.mark.parametrize("family", DRAWN)
@settings(max_examples=max(5, settings.default.max_examples // 10))
@given(data=st.data())
def test_drawn(family: str, data: st.DataObject) -> None:
    problem = problems.smaller(data.draw(problems.problems(DRAWN[family]), label=family), MOST_PRODUCTS)
    assume(runs_in_the_transform_domain(problem))
    check(problem)


@pytest.fixture
def small_limit() -> Iterator[None]:
    before = mlx_conv3d.set_workspace_limit(16 << 20)
    yield
    mlx_conv3d.set_workspace_limit(before)


@pytest.mark.parametrize(
    "problem",
    [
        of((1, 2, 8, 8, 288), (272, *CUBE, 288), padding=1),
        of((1, 2, 12, 12, 8), (1536, *CUBE, 8), padding=1),
        of((1, 2, 8, 8, 1024), (64, *CUBE, 1024), padding=1),
        of((1, 35, 41, 44, 8), (8, *CUBE, 8), padding=1),
        of((1, 1, 12, 12, 272), (240, 1, 3, 3, 272), padding=(0, 1, 1), upsample=(1, 2, 2)),
    ],
    ids=["both sliced", "outputs", "inputs", "chunks", "doubled"],
)
def test_slices_and_chunks(problem: Problem, small_limit: None) -> None:
    check(problem)


def test_large_sums_stay_exact() -> None:
    """Many positions for each sum, with a mean: nothing cancels."""
    x = mx.random.uniform(shape=(1, 9, 80, 80, 16), key=mx.random.key(0))
    dy = mx.random.uniform(shape=(1, 9, 80, 80, 16), key=mx.random.key(1))

    def gradient(algorithm: str) -> np.ndarray:
        def f(w: mx.array) -> mx.array:
            return mlx_conv3d.conv3d(x, w, padding=1, algorithm=algorithm)

        return operands.float64(mx.vjp(f, [mx.zeros((16, *CUBE, 16))], [dy])[1][0])

    padded = np.pad(operands.float64(x)[0], ((1, 1), (1, 1), (1, 1), (0, 0)))
    taps = [padded[d : d + 9, h : h + 80, w : w + 80] for d in range(3) for h in range(3) for w in range(3)]
    flat = operands.float64(dy).reshape(-1, 16).T
    exact = np.stack([flat @ tap.reshape(-1, 16) for tap in taps], axis=1).reshape(16, *CUBE, 16)
    for algorithm in ("winograd", "implicit_gemm"):
        error = reference.norm(gradient(algorithm) - exact) / reference.norm(exact)
        assert error <= 3e-6, f"{algorithm}: {error:.2e}"
