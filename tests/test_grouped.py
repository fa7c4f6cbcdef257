"""The CPU's compiled kernels for grouped convolutions: which problem gets which, and their results and
gradients against float64."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import mlx.core as mx
import operands
import problems
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DTYPES, Family, Problem, of
from test_gradients import MOST_PRODUCTS, check_drawn_gradients, check_gradients
from test_parity import check_problem

import mlx_conv3d
from mlx_conv3d import _ext

KERNELS: dict[str, dict[str, Any]] = {kernel["name"]: kernel for kernel in _ext.cpu_kernels()}
SHAPES = sorted({(k["group_in"] or 20, k["group_out"] if k["group_in"] else 32) for k in KERNELS.values()})
# Vectors that belong to one position and that belong to several, that end with it and that do not.
GROUPS = tuple((g, c, o) for c, o in SHAPES for g in (2, 3, 5) if g * o <= 64)
GROUPS += ((17, 1, 1), (54, 1, 1), (23, 1, 2), (9, 4, 4), (7, 3, 3), (5, 6, 6))
# So many groups that every set is a position, and that the last vector begins within the one before it.
WIDE = {
    (1, 1): 39,
    (1, 2): 20,
    (1, 4): 10,
    (2, 1): 39,
    (2, 2): 20,
    (2, 4): 10,
    (3, 3): 25,
    (4, 2): 20,
    (4, 4): 10,
}
FAMILIES = {
    "grouped kernels 1-D": Family(
        tuple((k,) for k in (1, 1, 2, 3, 3, 5)),
        strides=(1, 1, 2, 3),
        dilations=(1, 1, 2, 3),
        types=DTYPES,
        groups=GROUPS,
        layouts=("contiguous", "contiguous", "sliced", "channels_first"),
        reach=70,
    ),
    "grouped kernels 2-D": Family(
        ((1, 1), (3, 3), (3, 3), (3, 3), (5, 5), (5, 5), (2, 3), (3, 1), (1, 3), (4, 4)),
        strides=(1, 1, 2),
        dilations=(1, 1, 1, 2),
        modes=("zeros", "zeros", "edge", "reflect"),
        types=DTYPES,
        groups=GROUPS,
        reach=20,
    ),
    "grouped kernels 3-D": Family(
        ((3, 3, 3),) * 5 + ((3, 1, 1),) * 3 + ((2, 2, 2), (1, 3, 3), (5, 1, 1), (1, 1, 1)),
        strides=(1, 1, 2),
        dilations=(1, 1, 1, 2),
        modes=("zeros", "zeros", "edge", "reflect"),
        upsamples=(1, 1, 1, 2),
        types=DTYPES,
        groups=GROUPS,
        lead=(0, 0, 1, 2),
        layouts=("contiguous", "contiguous", "stepped", "reversed"),
        reach=9,
    ),
    "grouped kernels, joined frames": Family(
        tuple((k, 1, 1) for k in (2, 3, 3, 5)),
        dilations=(1, 1, 2, 3),
        modes=("zeros", "zeros", "edge", "reflect"),
        types=DTYPES,
        groups=GROUPS,
        lead=(0, 1, 2, 5),
        layouts=("contiguous", "contiguous", *problems.VIEWS),
        reach=9,
    ),
    "grouped kernels, input dilated": Family(
        ((3, 3, 3), (2, 2, 2), (1, 3, 3), (3, 3), (4, 4), (3,), (4,)),
        strides=(1, 1, 2),
        dilations=(1, 1, 2),
        input_dilations=(1, 2, 3),
        flips=(False, True),
        types=DTYPES,
        groups=GROUPS,
    ),
}


def problem_for(name: str, **given: object) -> Problem:
    """A problem that the kernel is for, with rows long enough for every block of sets."""
    kernel = KERNELS[name]
    c, o = kernel["group_in"] or 20, kernel["group_out"]
    groups = WIDE.get((c, o), 3)
    if name in ("rows_2d_1x1", "rows_3d_1x1"):
        groups = 3  # a vector of channels has the depthwise kernels
    if kernel["family"] == "broadcast":
        o *= 2
    rank = 3 if kernel["taps"][0] != 1 else kernel["rank"]
    taps = tuple(k or 3 for k in kernel["taps"])[-rank:]
    sizes = (4, 5, 39)[-rank:]
    padding = tuple((k // 2, k - 1) for k in taps)
    if rank == 2 and c > 1:
        given["stride"] = (2, 1)  # of stride 1, Winograd may have it
    return of((2, *sizes, groups * c), (groups * o, *taps, c), padding=padding, groups=groups, **given)


def kernel_of(problem: Problem) -> str:
    """The kernel by which the plan runs the problem as grouped, or what a matrix unit cannot hold of it;
    empty if by none."""
    reason = operands.plan_of(problem, "grouped").reason
    return reason.removeprefix("forced: kernel ").split(",")[0] if "kernel " in reason else ""


def test_table() -> None:
    assert len(KERNELS) == len(_ext.cpu_kernels()), "two kernels of one name"
    for kernel in KERNELS.values():
        assert kernel["algorithm"] == "grouped"
        assert kernel["dtypes"] == list(DTYPES)
        assert kernel["rank"] in (1, 2, 3)
        assert all(k == 1 for k in kernel["taps"][: 3 - kernel["rank"]])
    shapes = {(k["rank"], k["group_in"], k["group_out"]) for k in KERNELS.values() if k["family"] == "rows"}
    # C/groups = O/groups of 4, 6, 8, 12 and 16 channels in 1, 2, 3, 4, 6 and 8 groups.
    assert shapes >= {(rank, n, n) for rank in (1, 2, 3) for n in (1, 2, 3, 4, 6, 8, 12, 16)}


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel(name: str) -> None:
    """Each is chosen for a problem of its numbers, and right in each way its results are written."""
    problem = problem_for(name, bias=True)
    assert kernel_of(problem) == name
    check_problem(problem)
    check_problem(replace(problem, activation="silu", residual=True, seed=1))
    check_problem(replace(problem, x_type="float16", w_type="float16", extra_type="float16", residual=True))
    if problem.products <= 4 * MOST_PRODUCTS:
        check_gradients(replace(problem, bias=False))


def test_every_kernel_without_a_matrix_unit() -> None:
    """In a process of its own: the instruction set is chosen once."""
    if _ext.isa() not in ("avx512_bf16", "amx"):
        return
    select = "every_kernel and not matrix or picked or drawn_problems"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", select],
        env={**os.environ, "MLX_CONV3D_ISA": "avx512", "HYPOTHESIS_PROFILE": "quick"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("C/groups", of((1, 9, 10), (10, 3, 5), groups=2)),
        ("O/groups", of((1, 9, 8), (10, 3, 4), groups=2)),
        ("many inputs", of((1, 9, 130), (32, 3, 65), groups=2)),
    ],
)
def test_other_shapes_have_no_kernel(what: str, problem: Problem) -> None:
    assert kernel_of(problem) == ""
    check_problem(problem)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "depthwise_3x3"),
        ({"stride": 2}, "depthwise_3x3"),
        ({"stride": 3}, "rows_2d_1x1"),
        ({"stride": (1, 2)}, "rows_2d_1x1"),
        ({"dilation": 2}, "rows_2d_1x1"),
        ({"x": (1, 9, 9, 3), "w": (3, 3, 3, 1), "groups": 3}, "rows_2d_1x1"),
    ],
)
def test_depthwise_kernels_are_for_neighbouring_taps(given: dict[str, Any], expected: str) -> None:
    shape = {"x": (1, 9, 9, 48), "w": (48, 3, 3, 1), "groups": 48} | given
    assert kernel_of(of(**shape)) == expected


PICKED = {
    "one position": of((1, 1, 16), (16, 1, 4), groups=4),
    "fewer positions than a set": of((1, 2, 6), (6, 3, 3), padding=1, groups=2),
    "one column": of((1, 5, 1, 32), (32, 3, 3, 1), padding=1, groups=32),
    "odd rows, two at a time": of((1, 7, 8, 32), (32, 3, 3, 1), padding=1, groups=32),
    "only padding above": of((1, 2, 5, 32), (32, 3, 3, 1), padding=((5, 5), (1, 1)), groups=32),
    "stride over kernel": of((1, 40, 16), (16, 2, 4), stride=5, groups=4),
    "stride, dilation, few channels": of((2, 41, 12), (12, 3, 3), stride=2, dilation=3, padding=4, groups=4),
    "causal, dilated": of((1, 64, 16), (16, 3, 4), dilation=16, padding=((32, 0),), groups=4),
    "long, in pieces": of((1, 9001, 16), (16, 3, 2), padding=1, groups=8),
    "frames that come back": of(
        (1, 3, 6, 9, 32), (32, 3, 3, 3, 1), padding=((2, 2), 1, 1), modes="reflect", groups=32
    ),
    "rows and frames joined": of((2, 3, 4, 11, 24), (24, 1, 1, 1, 3), groups=8, bias=True),
    "rows joined": of((2, 5, 4, 11, 24), (24, 3, 1, 1, 1), padding=((2, 0), 0, 0), groups=24),
    "rows joined, lead": of((2, 3, 4, 11, 24), (24, 3, 1, 1, 1), groups=24, lead=2),
    "rows not joined in a view": of((2, 3, 4, 11, 24), (24, 3, 1, 1, 1), groups=24, layout="sliced"),
    "frames joined, taps apart": of(
        (2, 64, 1, 1, 16),
        (16, 3, 1, 1, 4),
        dilation=(512, 1, 1),
        groups=4,
        lead=1024,
        bias=True,
        activation="tanh",
    ),
    "frames joined, each tap through padding, lead and x": of(
        (2, 40, 1, 3, 16), (16, 3, 1, 1, 4), padding=((9, 4), 0, 0), dilation=(7, 1, 1), groups=4, lead=6
    ),
    "frames joined, cropped": of(
        (2, 40, 2, 3, 16), (16, 3, 1, 1, 2), padding=((-3, -2), 0, 0), groups=8, lead=5
    ),
    "frames joined, edge": of(
        (1, 9, 3, 5, 24),
        (24, 3, 1, 1, 1),
        padding=((5, 3), 0, 0),
        groups=24,
        modes=("edge", "zeros", "zeros"),
    ),
    "frames joined, read where they are but for the end": of(
        (2, 4001, 1, 1, 16), (16, 2, 1, 1, 4), padding=((1, 0), 0, 0), groups=4, residual=True
    ),
    "frames joined, in pieces": of((1, 700, 9, 9, 16), (16, 2, 1, 1, 1), groups=16, x_type="float16"),
    "frames joined, batch stride 0": of((3, 200, 1, 1, 8), (8, 3, 1, 1, 2), groups=4, layout="broadcast"),
    "rows joined, one column each": of((2, 5, 40, 1, 8), (8, 1, 1, 1, 2), groups=4, layout="stepped"),
    "256 channels, one cache set": of((1, 6, 16, 256), (256, 3, 3, 8), padding=1, groups=32),
    "64 outputs of a group": of((1, 6, 15, 40), (128, 3, 3, 20), padding=1, groups=2),
    "no batch": of((0, 9, 9, 32), (32, 3, 3, 1), padding=1, groups=32),
    "a phase without taps": of((1, 9, 24), (12, 1, 8), input_dilation=2, dilation=2, groups=3, flip=True),
    "edges of NaN": of((1, 6, 9, 6), (6, 3, 3, 3), padding=1, groups=2, layout="sliced", bias=True),
    "upsampled rows": of((1, 4, 5, 20), (20, 3, 3, 1), padding=1, groups=20, upsample=2),
    "transposed, stride 2": of(
        (1, 4, 6, 7, 24), (24, 4, 4, 4, 8), padding=2, input_dilation=2, groups=3, flip=True
    ),
    "transposed, stride 3, depthwise": of(
        (1, 4, 6, 17), (17, 2, 2, 1), padding=1, input_dilation=3, groups=17, flip=True
    ),
}


# Operands beyond the caches of two cores, whose memory is asked for blocks ahead: past a row's end, past the
# last rows.
FAR = {
    "far": of((2, 150, 131, 57), (57, 3, 3, 1), padding=1, groups=57),
    "far, stride 2": of((1, 251, 263, 52), (52, 5, 5, 1), stride=2, padding=((2, 1), (0, 3)), groups=52),
    "far, narrow": of((1, 1001, 5, 513), (513, 3, 3, 1), padding=1, groups=513),
    "far, frames": of((1, 5, 61, 70, 57), (57, 3, 3, 3, 1), padding=(1, 1, 0), lead=1, groups=57),
}

# Rows in blocks of three, two and one; positions in blocks of which the last begins earlier; channels that
# end within a vector.
DEPTHWISE = {
    "a column": of((2, 6, 1, 33), (33, 3, 3, 1), padding=1, groups=33),
    "two columns": of((1, 3, 2, 16), (16, 3, 3, 1), padding=1, groups=16, bias=True),
    "a row": of((1, 1, 9, 70), (70, 3, 3, 1), padding=1, groups=70),
    "kernels over the frame": of((1, 2, 3, 20), (20, 5, 5, 1), padding=2, groups=20),
    "blocks to the last position": of((3, 4, 14, 54), (54, 3, 3, 1), padding=1, groups=54),
    "no padding": of((1, 5, 10, 40), (40, 3, 3, 1), groups=40),
    "padding on one side": of((2, 5, 11, 24), (24, 3, 3, 1), padding=((0, 2), (2, 0)), groups=24),
    "wide padding": of((1, 2, 2, 16), (16, 3, 3, 1), padding=((4, 1), (9, 8)), groups=16),
    "cropped": of((1, 9, 12, 16), (16, 3, 3, 1), padding=((-2, 0), (-1, -2)), groups=16),
    "stride 2, even": of((2, 8, 16, 48), (48, 3, 3, 1), stride=2, padding=1, groups=48),
    "stride 2, odd": of((1, 7, 17, 37), (37, 3, 3, 1), stride=2, padding=1, groups=37, bias=True),
    "stride 2, padding behind": of((1, 8, 30, 32), (32, 3, 3, 1), stride=2, padding=((0, 1),) * 2, groups=32),
    "stride 2, 5x5": of((1, 12, 19, 19), (19, 5, 5, 1), stride=2, padding=2, groups=19),
    "edges": of((1, 5, 9, 16), (16, 3, 3, 1), padding=2, modes="edge", groups=16),
    "reflected": of((1, 6, 9, 16), (16, 5, 5, 1), padding=2, modes="reflect", groups=16),
    "upsampled": of((1, 3, 5, 18), (18, 3, 3, 1), padding=1, upsample=2, groups=18),
    "upsampled, stride 2": of((1, 5, 6, 18), (18, 3, 3, 1), padding=1, upsample=2, stride=2, groups=18),
    "frames apart": of(
        (2, 7, 5, 9, 17), (17, 3, 3, 3, 1), stride=(2, 1, 1), dilation=(2, 1, 1), padding=1, groups=17
    ),
    "frames, spatial stride": of((1, 4, 7, 8, 54), (54, 3, 3, 3, 1), stride=(1, 2, 2), padding=1, groups=54),
    "lead": of((2, 3, 4, 8, 33), (33, 3, 3, 3, 1), padding=(0, 1, 1), lead=2, groups=33),
    "a view": of((2, 3, 4, 8, 33), (33, 3, 3, 3, 1), padding=1, lead=1, groups=33, layout="stepped"),
    "backwards": of((1, 5, 9, 17), (17, 3, 3, 1), padding=1, groups=17, layout="reversed"),
    "bands": of((1, 61, 21, 40), (40, 3, 3, 1), padding=1, groups=40),
    "parts of the frames": of((1, 13, 9, 10, 130), (130, 3, 3, 3, 1), padding=1, groups=130),
    "slices of the channels": of((1, 5, 5, 1300), (1300, 3, 3, 1), padding=1, groups=1300),
    **FAR,
}


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_in_place(name: str) -> None:
    """Every epilogue and input type, of problems whose rows the kernels read where they lie."""
    problem = DEPTHWISE[name]
    assert kernel_of(problem).startswith("depthwise_")
    check_problem(problem)
    check_problem(replace(problem, bias=True, activation="silu", residual=True))
    for t in ("float16", "bfloat16"):
        check_problem(replace(problem, x_type=t, w_type=t, extra_type=t, residual=True))
    if problem.products <= MOST_PRODUCTS:
        check_gradients(problem)


def test_far_operands_of_a_dilated_input() -> None:
    problem = of(
        (1, 80, 150, 51), (51, 3, 3, 1), padding=((1, 2), (1, 2)), input_dilation=2, groups=51, flip=True
    )
    assert kernel_of(problem).startswith("depthwise_")
    check_problem(problem)


def test_lead_frames_and_x_of_other_pixel_strides() -> None:
    x = mx.random.normal((1, 3, 4, 8, 66), key=mx.random.key(0))[..., :33]
    lead = mx.random.normal((1, 2, 4, 8, 33), key=mx.random.key(1))
    w = mx.random.normal((33, 3, 3, 3, 1), key=mx.random.key(2))
    joined = mlx_conv3d.conv3d(mx.concatenate([lead, x], axis=1), w, padding=(0, 1, 1), groups=33)
    assert mx.array_equal(mlx_conv3d.conv3d(x, w, padding=(0, 1, 1), groups=33, lead=lead), joined)


@pytest.mark.parametrize("name", PICKED)
def test_picked_problems(name: str) -> None:
    check_problem(PICKED[name])
    if PICKED[name].products <= MOST_PRODUCTS:
        check_gradients(PICKED[name])


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_drawn_problems(family: str, data: st.DataObject) -> None:
    check_problem(data.draw(problems.problems(FAMILIES[family]), label=family))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=max(5, settings.default.max_examples // 5))
@given(data=st.data())
def test_drawn_gradients(family: str, data: st.DataObject) -> None:
    check_drawn_gradients(data.draw(problems.problems(FAMILIES[family]), label=family))
