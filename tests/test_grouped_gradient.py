"""Gradients of grouped convolutions on the CPU: dL/dw unit by unit, dL/dx with the weights read as they are, and
depthwise dL/dx of strided layers, against float64."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import operands
import problems
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DTYPES, Family, Problem, of
from test_gradients import check_drawn_gradients, check_gradients
from test_parity import check_problem

import mlx_conv3d
from mlx_conv3d import _ext

WIDTH = {"sse2": 4, "neon": 4, "avx2": 8}.get(_ext.isa(), 16)
HALF, QUARTER = max(WIDTH // 2, 2), max(WIDTH // 4, 2)

# Outputs of a group in vectors; one vector, two and an odd one, and several groups to a vector.
UNITS = {
    "one position": of((1, 1, 1, 32), (32, 1, 1, 16), groups=2),
    "one image": of((1, 7, 7, 96), (96, 3, 3, 32), padding=1, groups=3),
    "one vector": of((2, 9, 11, 64), (64, 3, 3, 16), padding=1, groups=4),
    "three vectors": of((1, 6, 7, 40), (96, 3, 3, 20), padding=1, groups=2),
    "five vectors": of((1, 5, 4, 24), (160, 3, 3, 12), padding=1, groups=2),
    "64 channels": of((1, 5, 6, 128), (128, 3, 3, 64), padding=1, groups=2),
    "three groups for two threads": of((3, 12, 13, 48), (48, 3, 3, 16), padding=1, groups=3),
    "more groups than a task's": of((1, 4, 5, 272), (272, 3, 3, 16), padding=1, groups=17),
    "bands of rows": of((2, 47, 21, 32), (32, 3, 3, 16), padding=1, groups=2),
    "pieces of a row": of((1, 3, 1100, 32), (32, 1, 3, 16), padding=((0, 0), (2, 1)), groups=2),
    "a row of samples": of((2, 900, 32), (32, 3, 16), padding=((4, 0),), dilation=2, groups=2),
    "strided": of((2, 15, 14, 48), (48, 3, 3, 16), padding=1, stride=2, groups=3),
    "strided more than its kernel": of((1, 17, 19, 32), (32, 2, 2, 16), stride=(5, 3), groups=2),
    "dilated": of((1, 13, 12, 32), (32, 3, 3, 16), padding=3, dilation=(2, 3), groups=2),
    "no padding, 5x2": of((1, 9, 8, 34), (32, 5, 2, 17), groups=2),
    "only padding around": of((1, 1, 1, 32), (32, 3, 3, 16), padding=4, groups=2),
    "cropped": of((1, 9, 9, 32), (32, 3, 3, 16), padding=((-2, 1), (0, -3)), groups=2),
    "edges": of((1, 6, 7, 32), (32, 3, 3, 16), padding=2, modes="edge", groups=2),
    "mirrored": of((1, 6, 7, 32), (32, 3, 3, 16), padding=2, modes="reflect", groups=2),
    "upsampled": of((1, 4, 5, 32), (32, 3, 3, 16), padding=1, upsample=2, groups=2),
    "frames": of((2, 5, 6, 7, 32), (32, 3, 3, 3, 16), padding=1, stride=(2, 1, 1), groups=2),
    "lead frames": of((1, 3, 4, 5, 32), (32, 3, 3, 3, 16), padding=(0, 1, 1), lead=2, groups=2),
    "taps in time": of((1, 9, 3, 4, 32), (32, 3, 1, 1, 16), padding=((2, 0), 0, 0), groups=2),
    "flipped": of((1, 7, 6, 32), (32, 3, 3, 16), padding=1, groups=2, flip=True),
    "a view": of((1, 6, 5, 34), (32, 3, 3, 17), padding=1, groups=2, layout="stepped"),
    "weights in a view": of((1, 6, 5, 64), (32, 3, 3, 32), padding=1, groups=2, w_layout="channels_first"),
    "half": of((2, 6, 7, 48), (48, 3, 3, 16), padding=1, groups=3, x_type="float16", w_type="float16"),
    "bfloat": of((1, 6, 7, 64), (64, 3, 3, 32), padding=1, groups=2, x_type="bfloat16", w_type="bfloat16"),
    "mixed": of((1, 6, 7, 34), (32, 3, 3, 17), padding=1, groups=2, x_type="bfloat16", w_type="float32"),
    "two groups to a vector": of((2, 9, 8, 6 * HALF), (6 * HALF, 3, 3, HALF), padding=1, groups=6),
    "two, half": of(
        (1, 7, 9, 4 * HALF), (4 * HALF, 3, 3, HALF), padding=1, groups=4, x_type="float16", w_type="float16"
    ),
    "four groups to a vector": of(
        (1, 9, 7, 12 * QUARTER), (12 * QUARTER, 3, 3, QUARTER), padding=1, stride=2, groups=12
    ),
    "groups that fill no vector": of((1, 7, 6, 5 * HALF), (5 * HALF, 3, 3, HALF), padding=1, groups=5),
    "no image": of((0, 7, 7, 32), (32, 3, 3, 16), padding=1, groups=2),
    "no outputs": of((1, 7, 7, 32), (0, 3, 3, 16), padding=1, groups=2),
}

FAMILIES = {
    "units": Family(
        ((3, 3), (3, 3), (1, 1), (5, 2)),
        strides=(1, 1, 2, 3),
        dilations=(1, 1, 2),
        modes=("zeros", "zeros", "edge", "reflect"),
        types=DTYPES,
        groups=((2, 16, 16), (3, 8, 16), (2, 17, 32), (2, 9, 48), (4, 8, 8), (8, 4, 4), (2, 64, 16)),
        layouts=("contiguous", "contiguous", "sliced", "channels_first"),
        reach=14,
    ),
    "units, frames": Family(
        ((3, 3, 3), (2, 3, 1), (3, 1, 1)),
        strides=(1, 1, 2),
        upsamples=(1, 1, 2),
        modes=("zeros", "zeros", "edge", "reflect"),
        types=DTYPES,
        groups=((2, 16, 16), (3, 8, 16), (4, 8, 8)),
        lead=(0, 0, 1, 2),
        reach=6,
    ),
}

# Layers of stride 2, whose dL/dx has every other row and column of zeros.
STRIDED = {
    "even": of((2, 8, 16, 48), (48, 3, 3, 1), stride=2, padding=1, groups=48),
    "odd": of((1, 7, 17, 37), (37, 3, 3, 1), stride=2, padding=1, groups=37),
    "padding behind": of((1, 8, 30, 32), (32, 3, 3, 1), stride=2, padding=((0, 1),) * 2, groups=32),
    "no padding": of((1, 9, 15, 24), (24, 3, 3, 1), stride=2, groups=24),
    "wide padding": of((1, 4, 5, 16), (16, 3, 3, 1), stride=2, padding=4, groups=16),
    "rows that no tap meets": of((1, 10, 12, 16), (16, 3, 3, 1), stride=2, padding=(-1, -2), groups=16),
    "5x5": of((1, 12, 19, 19), (19, 5, 5, 1), stride=2, padding=2, groups=19),
    "5x5, padding behind": of((1, 14, 40, 20), (20, 5, 5, 1), stride=2, padding=((1, 2),) * 2, groups=20),
    "one column": of((2, 9, 1, 33), (33, 3, 3, 1), stride=2, padding=1, groups=33),
    "bands": of((1, 61, 22, 40), (40, 3, 3, 1), stride=2, padding=1, groups=40),
    "frames": of((2, 4, 7, 18, 54), (54, 3, 3, 3, 1), stride=(1, 2, 2), padding=1, groups=54),
    "edges": of((1, 9, 12, 16), (16, 3, 3, 1), stride=2, padding=2, modes="edge", groups=16),
}
# Positions in blocks of 7, 4, 2 and 1, of two rows and of one; shares of frames, and slices of channels.
IN_PLACE = {
    "14 positions": of((2, 6, 14, 48), (48, 3, 3, 1), padding=1, groups=48),
    "13 positions, odd rows": of((1, 5, 13, 37), (37, 3, 3, 1), padding=1, groups=37),
    "lead": of((2, 3, 4, 9, 33), (33, 3, 3, 3, 1), padding=(0, 1, 1), lead=2, groups=33),
    "frames apart": of((1, 7, 5, 9, 17), (17, 3, 3, 3, 1), stride=(2, 1, 1), padding=1, groups=17),
    "shares": of((9, 9, 8, 32), (32, 5, 5, 1), padding=2, groups=32),
    "slices": of((1, 7, 7, 1296), (1296, 3, 3, 1), padding=1, groups=1296),
    "upsampled": of((1, 3, 5, 18), (18, 3, 3, 1), padding=1, upsample=2, groups=18),
    "mirrored": of((1, 6, 9, 16), (16, 5, 5, 1), padding=2, modes="reflect", groups=16),
    "a view": of((2, 5, 6, 20), (20, 3, 3, 1), padding=1, groups=20, layout="reversed"),
    "flipped": of((1, 5, 6, 20), (20, 3, 3, 1), padding=1, groups=20, flip=True),
    "no image": of((0, 7, 7, 32), (32, 3, 3, 1), padding=1, groups=32),
}


def dilated(problem: Problem) -> Problem:
    """The same kernel over an input dilated by 2: what the layer's dL/dx is an example of."""
    ndim = problem.ndim
    return replace(
        problem, stride=(1,) * ndim, input_dilation=(1,) * (ndim - 2) + (2, 2), modes=("zeros",) * ndim
    )


def reason_for(problem: Problem) -> str:
    options = operands.plan_options(problem) | {"input_dilation": problem.input_dilation}
    return mlx_conv3d.plan(problem.x, problem.w, **options, algorithm="grouped").reason


@pytest.mark.parametrize("name", UNITS)
def test_units(name: str) -> None:
    check_gradients(UNITS[name])


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=max(5, settings.default.max_examples // 5))
@given(data=st.data())
def test_drawn_gradients(family: str, data: st.DataObject) -> None:
    check_drawn_gradients(data.draw(problems.problems(FAMILIES[family]), label=family))


@pytest.mark.parametrize("name", IN_PLACE)
def test_depthwise(name: str) -> None:
    for t in DTYPES:
        check_gradients(replace(IN_PLACE[name], x_type=t, w_type=t))
    check_gradients(replace(IN_PLACE[name], x_type="float16"))


def test_nan_stays_in_its_taps() -> None:
    """A column that only some of a block's positions meet reaches the sums of their taps alone."""
    x = mx.zeros((1, 3, 9, 16))
    x[:, :, 8] = float("nan")
    dy = mx.ones((1, 1, 7, 16)).at[:, :, 6].add(-1)
    _, (dw,) = mx.vjp(lambda w: mlx_conv3d.conv2d(x, w, groups=16), [mx.zeros((16, 3, 3, 1))], [dy])
    assert np.isnan(np.array(dw[:, :, 2])).all() and (np.array(dw[:, :, :2]) == 0).all()


@pytest.mark.parametrize("name", STRIDED)
def test_strided_depthwise(name: str) -> None:
    for t in DTYPES:
        check_gradients(replace(STRIDED[name], x_type=t, w_type=t))


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("flip", [False, True])
def test_dilated_depthwise(name: str, flip: bool) -> None:
    """Read where it lies, of every type, with its gradients."""
    problem = replace(dilated(STRIDED[name]), flip=flip)
    assert reason_for(problem).startswith("forced: kernel depthwise_")
    for t in DTYPES:
        check_problem(replace(problem, x_type=t, w_type=t))
    check_gradients(problem)


@pytest.mark.parametrize(
    "given", [{"input_dilation": 3}, {"input_dilation": (1, 2)}, {"input_dilation": 2, "stride": 2}], ids=str
)
def test_other_dilations_are_staged(given: dict[str, object]) -> None:
    problem = of((1, 7, 9, 32), (32, 3, 3, 1), padding=2, groups=32, flip=True, **given)
    assert reason_for(problem).startswith("forced: kernel rows_2d_1x1")
    check_problem(problem)


GRADIENT = """
import hashlib
import mlx.core as mx
import numpy as np
import mlx_conv3d
mx.set_default_device(mx.cpu)
x, dy = (mx.random.normal((2, 33, 30, 128), key=mx.random.key(i)) for i in range(2))
f = lambda w: mlx_conv3d.conv2d(x, w, padding=1, groups=8)
dw = mx.vjp(f, [mx.zeros((128, 3, 3, 16))], [dy])[1][0]
print(hashlib.sha256(np.array(dw).tobytes()).hexdigest())
"""


def test_sums_do_not_depend_on_threads() -> None:
    """Of more groups than threads, each is summed by one."""
    found = {operands.printed_by(GRADIENT, threads) for threads in (1, 2, 3)}
    assert len(found) == 1


@pytest.mark.parametrize("groups", [2, 3])
def test_second_derivatives(groups: int) -> None:
    """Of dL/dx, whose weights are read with their channels swapped: by x, w and dy, forwards and backwards."""
    conv = reference.Conv.of(2, padding=((1, 1), (1, 1)), groups=groups)
    shapes = {"x": (1, 5, 4, 16 * groups), "w": (16 * groups, 3, 3, 16), "dy": (1, 5, 4, 16 * groups)}
    x, w, dy, v = (
        mx.random.normal(shape, key=mx.random.key(i))
        for i, shape in enumerate([*shapes.values(), shapes["x"]])
    )

    def dx(w: mx.array, dy: mx.array) -> mx.array:
        return mx.vjp(lambda x: mlx_conv3d.conv2d(x, w, padding=1, groups=groups), [x], [dy])[1][0]

    # <v, dx(w, dy)> = <conv(v, w), dy>, so its gradients are those of conv at v.
    _, (by_w, by_dy) = mx.vjp(dx, [w, dy], [v])
    exact = {name: operands.float64(a) for name, a in (("w", w), ("dy", dy), ("v", v))}
    forward = reference.forward(exact["v"], exact["w"], conv)
    backward = reference.adjoint(exact["dy"], exact["v"], exact["w"], conv)
    assert reference.norm(operands.float64(by_dy) - forward) <= 1e-5 * reference.norm(forward)
    assert reference.norm(operands.float64(by_w) - backward.w) <= 1e-5 * reference.norm(backward.w)

    _, (tangent,) = mx.jvp(dx, [w, dy], [w, mx.zeros_like(dy)])
    assert reference.norm(operands.float64(tangent) - backward.x) <= 1e-5 * reference.norm(backward.x)

    many = mx.stack([w, 2 * w])
    mapped = mx.vmap(lambda w: dx(w, dy))(many)
    expected = np.stack([backward.x, 2 * backward.x])
    assert reference.norm(operands.float64(mapped) - expected) <= 1e-5 * reference.norm(expected)
