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

CASES = {
    "winograd": [
        Problem((1, 3, 9, 11, 5), (7, 3, 3, 3, 5), {**RAGGED, "padding_mode": ["edge", "reflect", "zeros"]}, True),
        Problem((1, 4, 26, 26, 48), (16, 3, 3, 3, 48), {"padding": [1, 0, 0]}),  # F(2, 3) along depth
        Problem((1, 2, 12, 12, 16), (16, 1, 3, 3, 16), {"padding": [0, 1, 1], "upsample": [1, 2, 2]}),
        Problem((2, 8, 8, 20), (17, 4, 4, 20), {"padding": 2, "input_dilation": 2, "flip": True}),
    ],
    "taps": [Problem((1, 4, 5, 6, 6), (17, 3, 2, 3, 6), {**RAGGED, "dilation": [1, 2, 1]}, True)],
    "temporal": [Problem((2, 5, 3, 4, 7), (35, 3, 1, 1, 7), {"padding": [(2, 1), 0, 0]})],
    "pointwise": [Problem((2, 3, 4, 5, 18), (33, 1, 1, 1, 18))],
    "patchify": [Problem((2, 5, 7, 8, 3), (19, 2, 3, 4, 3), {"stride": [2, 3, 4]})],
    "grouped": [
        Problem((1, 4, 7, 9, 37), (37, 3, 3, 3, 1), {**RAGGED, "groups": 37}),
        Problem((1, 3, 5, 6, 12), (18, 2, 3, 3, 2), {**RAGGED, "groups": 6, "stride": [1, 2, 1]}),
        Problem((1, 3, 4, 5, 80), (84, 2, 2, 3, 40), {**RAGGED, "groups": 2}),
    ],
    "transposed": [Problem((1, 3, 4, 5, 6), (19, 3, 2, 4, 6), {"padding": 1, "input_dilation": [2, 3, 2]})],
    "implicit_gemm": [
        Problem((1, 4, 5, 6, 5), (34, 2, 3, 3, 5), {**RAGGED, "stride": [2, 1, 2]}, True, True),
        Problem((1, 4, 9, 9, 3), (3, 3, 5, 5, 3), {**RAGGED, "dilation": [1, 2, 1]}),
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
