"""The CPU backend's self-check: each algorithm forced on problems that meet its branches, on one instruction set."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from mlx_conv3d import _ext
from mlx_conv3d.doctor import problems
from mlx_conv3d.doctor.items import Item
from mlx_conv3d.doctor.problems import SAME, Problem
from mlx_conv3d.doctor.report import summary
from mlx_conv3d.doctor.rows import Finding

RAGGED = {"padding": [(2, 0), (1, 2), (0, 1)]}

RAGGED_TILES = Problem(
    (1, 3, 9, 11, 5),
    (7, 3, 3, 3, 5),
    {**RAGGED, "padding_mode": ["edge", "reflect", "zeros"], "activation": "silu"},
    bias=True,
)
# Sizes for which the planner takes each tile: F(2, 3), F(4, 3) and, of 16-bit results, F(6, 3); of upsampled and of
# dilated pixels F(4), F(6) and F(8); of stride 2 F(2) and F(4);
# of five taps F(2, 5) and, of 16-bit results, F(4, 5).
PIXELS = (
    (3, {"padding": 1}),
    (3, {"padding": 1, "upsample": 2}),
    (4, {"padding": 2, "input_dilation": 2, "flip": True}),
    (3, {"padding": [(1, -1), (1, -1)], "stride": 2}),
    (3, {"padding": 2, "dilation": [2, 3]}),
    (5, {"padding": 2}),
)
TILES = [
    Problem((n, size, size, 8), (8, taps, taps, 8), options)
    for taps, options in PIXELS
    for n, size in ((1, 6), (2, 8), (2, 18))
]
PAIRS_OF_FRAMES = Problem((1, 8, 6, 6, 48), (48, 3, 3, 3, 48), {"padding": 1})  # F(2, 3) along depth
MANY_TILES = Problem((1, 8, 18, 18, 48), (48, 3, 3, 3, 48), {"padding": 1})  # each chunk one thread's
FEW_TILES = Problem((1, 2, 18, 18, 66), (66, 3, 3, 3, 66), {"padding": 1})  # weights made panel by panel

# Taps along one axis, of each in turn: F(2), F(4) and F(6) of three, F(2) and F(4) of five, F(2) of seven.
LINES = [
    Problem(
        (2, *(n if at == axis else 3 for at in range(axes)), 8),
        (8, *(taps if at == axis else 1 for at in range(axes)), 8),
        {"padding": [taps // 2 if at == axis else 0 for at in range(axes)]},
    )
    for axes, axis, taps, n in (
        (3, 0, 3, 2),
        (2, 0, 3, 4),
        (1, 0, 3, 18),
        (3, 0, 5, 2),
        (3, 1, 5, 8),
        (3, 2, 7, 9),
    )
]

CASES = {
    "winograd": [RAGGED_TILES, *TILES, *LINES, PAIRS_OF_FRAMES, MANY_TILES, FEW_TILES],
    "taps": [Problem((1, 4, 5, 6, 6), (17, 3, 2, 3, 6), {**RAGGED, "dilation": [1, 2, 1]}, True)],
    "temporal": [Problem((2, 5, 3, 4, 7), (35, 3, 1, 1, 7), {"padding": [(2, 1), 0, 0]})],
    "pointwise": [Problem((2, 3, 4, 5, 18), (33, 1, 1, 1, 18))],
    "patchify": [Problem((2, 5, 7, 8, 3), (19, 2, 3, 4, 3), {"stride": [2, 3, 4]})],
    "grouped": [
        Problem((1, 4, 7, 9, 37), (37, 3, 3, 3, 1), {**RAGGED, "groups": 37}),
        Problem((1, 3, 5, 6, 12), (18, 2, 3, 3, 2), {**RAGGED, "groups": 6, "stride": [1, 2, 1]}),
        Problem((1, 2, 4, 9, 36), (24, 1, 3, 3, 3), {**RAGGED, "groups": 12}),  # lanes of several groups
        Problem((1, 2, 4, 9, 76), (19, 1, 2, 4, 4), {"groups": 19}),  # far apart, with four taps in a row
        Problem((1, 2, 4, 9, 8), (64, 1, 2, 3, 4), {"groups": 2}),  # all lanes in one
        Problem((1, 3, 4, 5, 80), (84, 2, 2, 3, 40), {**RAGGED, "groups": 2}),
    ],
    "transposed": [Problem((1, 3, 4, 5, 6), (19, 3, 2, 4, 6), {"padding": 1, "input_dilation": [2, 3, 2]})],
    "implicit_gemm": [
        Problem((1, 4, 5, 6, 5), (34, 2, 3, 3, 5), {**RAGGED, "stride": [2, 1, 2], "activation": "gelu"}, True, True),
        *(Problem((1, 4, 9, 9, 3), (outs, 3, 5, 5, 3), {**RAGGED, "dilation": [1, 2, 1]}) for outs in (1, 2, 3, 4)),
    ],
}  # fmt: skip


def check(algorithm: str) -> Finding:
    found = [
        comparison
        for problem in CASES[algorithm]
        for types in SAME
        for comparison in problems.compare(problem, types, mx.cpu, only=algorithm)
    ]
    return summary(found)


def items(isa: str) -> list[Item]:
    """isa: the one that this process is to use."""
    if _ext.isa() != isa:
        raise RuntimeError(f"the instruction set is {_ext.isa()}, not {isa}")
    return [Item(algorithm, partial(check, algorithm), (algorithm,)) for algorithm in CASES]
