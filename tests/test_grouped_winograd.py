"""Winograd of grouped convolutions on the CPU: which problems it is for, and its results and gradients
against float64. Four vectors of any CPU hold 16 channels of a group, those of AVX-512 hold 64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import operands
import problems
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DTYPES, Family, Problem, of
from test_gradients import MOST_PRODUCTS, check_drawn_gradients, check_gradients
from test_parity import check_problem

import mlx_conv3d
from mlx_conv3d import _ext

WIDTH = {"sse2": 4, "neon": 4, "avx2": 8}.get(_ext.isa(), 16)
PICKED = {
    "one tile": of((1, 4, 4, 32), (32, 3, 3, 16), padding=1, groups=2),
    "ragged tiles": of((1, 7, 13, 64), (64, 3, 3, 16), padding=1, groups=4, bias=True),
    "several chunks of tiles": of((3, 23, 29, 32), (32, 3, 3, 16), padding=1, groups=2),
    "few inputs": of((2, 9, 14, 8), (64, 3, 3, 2), padding=1, groups=4),
    "ragged inputs": of((1, 11, 9, 33), (48, 3, 3, 11), padding=1, groups=3),
    "groups that do not divide among tasks": of((1, 12, 12, 112), (112, 3, 3, 16), padding=1, groups=7),
    "uneven padding": of((1, 8, 9, 32), (32, 3, 3, 16), padding=((3, 0), (0, 2)), groups=2),
    "only padding": of((1, 1, 1, 32), (32, 3, 3, 16), padding=4, groups=2),
    "mirrored": of((1, 9, 10, 32), (32, 3, 3, 16), padding=1, modes="reflect", groups=2),
    "frames": of((2, 5, 9, 8, 32), (32, 1, 3, 3, 16), padding=(2, 1, 1), stride=(2, 1, 1), groups=2),
    "lead frames": of((1, 3, 9, 8, 32), (32, 1, 3, 3, 16), padding=(0, 1, 1), groups=2, lead=2),
    "a view": of((1, 9, 8, 32), (32, 3, 3, 16), padding=1, groups=2, layout="sliced"),
    "weights in a view": of((1, 9, 8, 32), (32, 3, 3, 16), padding=1, groups=2, w_layout="channels_first"),
    "upsampled": of((1, 5, 6, 32), (32, 3, 3, 16), padding=1, groups=2, upsample=2),
    "epilogue": of(
        (2, 9, 8, 32), (32, 3, 3, 16), padding=1, groups=2, bias=True, activation="silu", residual=True
    ),
}
# So many tiles of so many channels that square tiles are chosen.
SQUARE = {
    "square": of((1, 32, 32, 96), (96, 3, 3, 48), padding=1, groups=2),
    "square, ragged tiles": of((1, 31, 33, 96), (96, 3, 3, 48), padding=1, groups=2, bias=True),
    "square, uneven padding": of((1, 32, 31, 96), (96, 3, 3, 48), padding=((3, 0), (0, 2)), groups=2),
    "square, mirrored": of((1, 31, 34, 96), (96, 3, 3, 48), padding=1, modes="reflect", groups=2),
    "square, a view": of((1, 33, 32, 96), (96, 3, 3, 48), padding=1, groups=2, layout="sliced"),
    "square, lead frames": of((1, 1, 33, 32, 96), (96, 1, 3, 3, 48), padding=(0, 1, 1), groups=2, lead=1),
    "square, upsampled": of((1, 16, 17, 96), (96, 3, 3, 48), padding=1, groups=2, upsample=2),
    "square, ragged inputs": of((1, 31, 34, 86), (96, 3, 3, 43), padding=1, groups=2),
    "square, two panels": of((1, 31, 34, 128), (128, 3, 3, 64), padding=1, groups=2),
    "square, epilogue": of(
        (1, 33, 32, 96), (96, 3, 3, 48), padding=1, groups=2, bias=True, activation="silu", residual=True
    ),
    "square, half": of((1, 33, 32, 96), (96, 3, 3, 48), padding=1, groups=2, x_type="float16"),
}
# Beyond the caches' size, so that lines are asked for before they are used; tasks of all groups, and of some.
LARGE = {
    "all groups": of((9, 20, 23, 256), (256, 3, 3, 8), padding=1, groups=32),
    "some groups": of((2, 37, 43, 208), (208, 3, 3, 16), padding=1, groups=13, bias=True),
    "a large view": of((2, 37, 43, 192), (192, 3, 3, 16), padding=1, groups=12, layout="sliced"),
    "large, lead frames": of((1, 2, 37, 43, 128), (128, 1, 3, 3, 16), padding=(0, 1, 1), groups=8, lead=2),
    "large, half": of(
        (3, 37, 43, 208), (208, 3, 3, 16), padding=1, groups=13, x_type="bfloat16", w_type="bfloat16"
    ),
}
LONG = {
    "two vectors": of((1, 14, 14, 96), (96, 3, 3, 32), padding=1, groups=3),
    "two panels": of((1, 11, 12, 256), (256, 3, 3, 64), padding=1, groups=4, bias=True),
    "more outputs than inputs": of((1, 9, 9, 34), (96, 3, 3, 17), padding=1, groups=2),
    "more inputs than outputs": of((1, 9, 9, 80), (32, 3, 3, 40), padding=1, groups=2),
}
SHAPES = (
    (4, 8, 8),
    (8, 4, 4),
    (2, 16, 16),
    (3, 5, 16),
    (2, 2, 16),
    (5, 16, 16),
    (2, 32, 32),
    (2, 20, 48),
    (2, 64, 16),
)
# Groups of half a vector, two to a vector, and of a quarter.
HALF, QUARTER = max(WIDTH // 2, 2), max(WIDTH // 4, 2)
PAIRED = {
    "pairs": of((1, 28, 28, 8 * HALF), (8 * HALF, 3, 3, HALF), padding=1, groups=8),
    "pairs, ragged tiles": of((3, 27, 30, 6 * HALF), (6 * HALF, 3, 3, HALF), padding=1, groups=6, bias=True),
    "pairs, a long row": of((1, 9, 99, 4 * HALF), (4 * HALF, 3, 3, HALF), padding=((2, 0), (0, 1)), groups=4),
    "pairs, epilogue": of(
        (2, 19, 22, 8 * HALF),
        (8 * HALF, 3, 3, HALF),
        padding=1,
        groups=8,
        bias=True,
        activation="silu",
        residual=True,
    ),
    "fours": of((1, 28, 27, 8 * QUARTER), (8 * QUARTER, 3, 3, QUARTER), padding=1, groups=8),
    "fours, epilogue": of(
        (2, 9, 22, 12 * QUARTER),
        (12 * QUARTER, 3, 3, QUARTER),
        padding=1,
        groups=12,
        bias=True,
        activation="relu",
        residual=True,
    ),
    "fours, half": of(
        (2, 29, 13, 8 * QUARTER),
        (8 * QUARTER, 3, 3, QUARTER),
        padding=1,
        groups=8,
        x_type="float16",
        w_type="float16",
    ),
    "pairs, half": of(
        (2, 29, 22, 8 * HALF),
        (8 * HALF, 3, 3, HALF),
        padding=1,
        groups=8,
        x_type="float16",
        w_type="float16",
    ),
    "pairs, frames": of(
        (1, 5, 19, 18, 8 * HALF), (8 * HALF, 1, 3, 3, HALF), padding=(0, 1, 1), groups=8, lead=2
    ),
    "pairs, weights in a view": of(
        (1, 28, 28, 8 * HALF), (8 * HALF, 3, 3, HALF), padding=1, groups=8, w_layout="channels_first"
    ),
}
FAMILIES = {
    "grouped 3x3": Family(
        ((3, 3),),
        modes=("zeros", "zeros", "edge", "reflect"),
        upsamples=(1, 1, 1, 2),
        types=DTYPES,
        groups=SHAPES,
        layouts=("contiguous", "contiguous", "sliced", "channels_first"),
        reach=16,
    ),
    "grouped 1x3x3": Family(
        ((1, 3, 3),),
        depth_strides=(1, 2),
        modes=("zeros", "zeros", "edge", "reflect"),
        types=DTYPES,
        groups=SHAPES,
        lead=(0, 0, 1, 2),
        layouts=("contiguous", "stepped", "reversed"),
        reach=9,
    ),
    "grouped 3x3, flipped": Family(((3, 3), (1, 3, 3)), flips=(True,), groups=SHAPES, reach=12),
}


def tile_of(problem: Problem) -> str:
    """The tile of Winograd's by which the plan runs the problem as grouped; empty if by none."""
    reason = operands.plan_of(problem, "grouped").reason.removeprefix("forced: ")
    return reason.split(",")[0] if reason.startswith("F(") else ""


def check_with_gradients(problem: Problem) -> None:
    check_problem(problem)
    if problem.products <= MOST_PRODUCTS:
        check_gradients(problem)


@pytest.mark.parametrize("name", PICKED)
def test_picked_problems(name: str) -> None:
    assert tile_of(PICKED[name]) or WIDTH < 16
    check_with_gradients(PICKED[name])


@pytest.mark.parametrize("name", SQUARE)
def test_square_tiles(name: str) -> None:
    assert operands.plan_of(SQUARE[name], "grouped").tile_height == 4 or WIDTH < 16
    check_problem(SQUARE[name])


@pytest.mark.parametrize("name", LARGE)
def test_large_problems(name: str) -> None:
    assert operands.plan_of(LARGE[name], "grouped").tile_height == 1 or WIDTH < 16
    problem = LARGE[name]
    made = operands.make(problem)
    exact, scale = operands.solve(problem, made.exact)
    operands.check(operands.run(problem, made.arrays, "grouped"), problem, exact, scale, "grouped")


def test_results_do_not_depend_on_the_cut() -> None:
    """An image alone, among others and as a part of a larger one gives the same bits, whatever tasks, bands and blocks
    of rows it is cut into."""
    mx.random.seed(1)
    x, w = mx.random.normal((11, 23, 30, 64)), mx.random.normal((64, 3, 3, 16))

    def run(a: mx.array) -> mx.array:
        assert mlx_conv3d.plan(a.shape, w.shape, dtype=mx.float32, groups=4).tile_height == 1 or WIDTH < 16
        return mlx_conv3d.conv2d(a, w, groups=4)

    all_of_them = run(x)
    if WIDTH == 16:
        assert mx.array_equal(run(x[7:8])[0], all_of_them[7])
        assert mx.array_equal(run(x[:2, 3:15])[1], all_of_them[1, 3:13])


@pytest.mark.parametrize("name", LONG)
def test_wide_groups(name: str) -> None:
    problem = LONG[name]
    widest = max(problem.w[0], problem.x[-1]) // problem.groups
    assert bool(tile_of(problem)) == (widest <= 4 * WIDTH)
    check_with_gradients(problem)


@pytest.mark.parametrize("name", PAIRED)
def test_groups_of_half_a_vector(name: str) -> None:
    assert tile_of(PAIRED[name]) or WIDTH < 16
    check_with_gradients(PAIRED[name])


@pytest.mark.parametrize("batch", [1, 8, 37])
def test_tasks_of_images_and_of_groups(batch: int) -> None:
    """Many images are shared out with all their groups, few by groups."""
    problem = of((batch, 13, 18, 64), (64, 3, 3, 16), padding=1, groups=4, bias=True)
    assert tile_of(problem) or WIDTH < 16
    check_problem(problem)


PREPARED = {
    "whole vectors": PICKED["ragged tiles"],
    "two panels": LONG["two panels"],
    "square": SQUARE["square"],
    "square, two panels": SQUARE["square, two panels"],
    "pairs": PAIRED["pairs"],
    "fours": PAIRED["fours"],
    "bfloat16": replace(PICKED["ragged tiles"], x_type="bfloat16", w_type="bfloat16"),
    "weights in a view": PICKED["weights in a view"],
    "flipped": replace(PICKED["ragged tiles"], flip=True, bias=False),
}


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_weights(name: str) -> None:
    problem = PREPARED[name]
    made = operands.make(problem)
    exact, scale = operands.solve(problem, made.exact)
    prepared = mlx_conv3d.prepare(made.arrays["w"])
    for _ in range(2):
        y = operands.run(problem, {**made.arrays, "w": prepared}, "auto" if problem.general else "grouped")
        operands.check(y, problem, exact, scale, "prepared")
    if WIDTH == 16:
        assert len(prepared._packed) == 1


def test_weights_prepared_for_several_tiles_and_groups() -> None:
    """One array may be the weights of different numbers of groups, and of different tiles."""
    mx.random.seed(0)
    w = mx.random.normal((64, 3, 3, 16))
    prepared = mlx_conv3d.prepare(w)
    for shape, groups in (((8, 30, 31, 64), 4), ((1, 2, 2, 64), 4), ((2, 17, 16, 32), 2)):
        x = mx.random.normal(shape)
        exact = reference.linear(
            operands.float64(x),
            operands.float64(w),
            reference.Conv.of(2, padding=((1, 1), (1, 1)), groups=groups),
        )
        y = operands.float64(mlx_conv3d.conv2d(x, prepared, padding=1, groups=groups))
        assert reference.norm(y - exact) <= 3e-6 * reference.norm(exact)
    if WIDTH == 16:
        assert len(prepared._packed) == 3


@pytest.mark.parametrize("types", [("float16", "float16"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")])
def test_types(types: tuple[str, str]) -> None:
    problem = replace(PICKED["ragged tiles"], x_type=types[0], w_type=types[1])
    assert tile_of(problem) or WIDTH < 16
    check_problem(problem)


@pytest.mark.parametrize(
    "given",
    [
        {"stride": (1, 2)},
        {"dilation": (2, 1)},
        {"w": (32, 3, 5, 16)},
        {"x": (1, 9, 9, 2), "w": (32, 3, 3, 1)},
        {"w": (34, 3, 3, 16)},
        {"x": (1, 9, 9, 160), "w": (32, 3, 3, 80)},
    ],
    ids=str,
)
def test_what_it_is_not_for(given: dict[str, Any]) -> None:
    problem = of(**({"x": (1, 9, 9, 32), "w": (32, 3, 3, 16), "padding": 1, "groups": 2} | given))
    assert not tile_of(problem)
    check_problem(problem)


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_drawn_problems(family: str, data: st.DataObject) -> None:
    check_problem(data.draw(problems.problems(FAMILIES[family]), label=family))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=max(5, settings.default.max_examples // 5))
@given(data=st.data())
def test_drawn_gradients(family: str, data: st.DataObject) -> None:
    check_drawn_gradients(data.draw(problems.problems(FAMILIES[family]), label=family))
