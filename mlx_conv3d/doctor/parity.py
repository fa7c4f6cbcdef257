"""A sweep over the parameter space: ranks, types, strides, padding, groups, dilation, transposed and the extras."""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx

from mlx_conv3d._arguments import ACTIVATIONS
from mlx_conv3d.doctor import problems
from mlx_conv3d.doctor.items import Item
from mlx_conv3d.doctor.problems import SAME, Problem
from mlx_conv3d.doctor.report import summary
from mlx_conv3d.doctor.rows import Finding

CUBE = (3, 3, 3)
MIXED = (("float32", "float16"), ("bfloat16", "float32"), ("float16", "bfloat16"))

SWEEP: dict[str, list[Problem]] = {
    "3-D": [
        Problem((1, 4, 9, 10, 8), (8, *CUBE, 8)),
        Problem((2, 3, 7, 9, 5), (11, *CUBE, 5), {"padding": 1}),
        Problem((1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
        Problem((1, 3, 4, 4, 264), (8, *CUBE, 264), {"padding": 1}),
        Problem((1, 5, 6, 7, 4), (6, 5, 5, 5, 4), {"padding": 2}),
    ],
    "strides": [
        Problem((1, 5, 9, 8, 6), (10, *CUBE, 6), {"padding": 1, "stride": 2}),
        Problem((1, 4, 8, 9, 6), (10, *CUBE, 6), {"padding": 1, "stride": [1, 2, 3]}),
        Problem((1, 4, 6, 8, 3), (16, 2, 2, 2, 3), {"stride": 2}),
        Problem((1, 7, 8, 9, 4), (5, 2, 2, 1, 4), {"stride": [3, 4, 5]}),
    ],
    "padding": [
        Problem((1, 4, 7, 8, 6), (8, *CUBE, 6), {"padding": [(2, 0), (1, 2), (0, 3)]}),
        Problem((1, 6, 9, 9, 6), (6, *CUBE, 6), {"padding": [(-1, -2), (-2, 0), (1, -1)]}),
        Problem((1, 4, 7, 8, 6), (8, *CUBE, 6), {"padding": 1, "padding_mode": "edge"}),
        Problem((1, 4, 7, 8, 6), (8, *CUBE, 6), {"padding": 2, "padding_mode": "reflect"}),
        Problem((1, 4, 7, 8, 6), (8, *CUBE, 6), {"padding": 1, "padding_mode": ["edge", "zeros", "reflect"]}),
    ],
    "groups": [
        Problem((1, 4, 7, 8, 24), (24, *CUBE, 1), {"padding": 1, "groups": 24}),
        Problem((1, 4, 7, 8, 12), (18, *CUBE, 2), {"padding": 1, "groups": 6}),
        Problem((1, 3, 5, 6, 70), (66, 1, 3, 3, 35), {"groups": 2, "stride": [1, 2, 1]}),
    ],
    "dilation": [
        Problem((1, 6, 9, 9, 6), (8, *CUBE, 6), {"padding": 2, "dilation": 2}),
        Problem((1, 7, 9, 9, 6), (8, *CUBE, 6), {"padding": [3, 1, 1], "dilation": [3, 1, 1]}),
    ],
    "transposed": [
        Problem((1, 3, 4, 5, 6), (8, 4, 4, 4, 6), {"padding": 2, "input_dilation": 2, "flip": True}),
        Problem((1, 2, 4, 4, 6), (8, *CUBE, 6), {"padding": 1, "input_dilation": [1, 2, 2], "flip": True}),
        Problem((1, 2, 3, 4, 6), (5, 3, 2, 3, 6), {"padding": 2, "input_dilation": [2, 3, 2], "dilation": [1, 2, 1]}),
        Problem((1, 2, 3, 4, 8), (12, *CUBE, 2), {"padding": 2, "input_dilation": 2, "groups": 4}),
    ],
    "upsampling": [
        Problem((1, 3, 6, 5, 6), (8, *CUBE, 6), {"padding": 1, "upsample": [1, 2, 2]}),
        Problem((1, 3, 4, 5, 6), (8, *CUBE, 6), {"padding": 1, "upsample": [2, 3, 2], "padding_mode": "edge"}),
    ],
    "lead frames": [
        Problem((1, 4, 7, 8, 6), (8, *CUBE, 6), {"padding": [0, 1, 1]}, lead=2),
        Problem((1, 3, 5, 5, 6), (8, 3, 1, 1, 6), {"padding": [(1, 0), 0, 0], "padding_mode": "edge"}, lead=1),
    ],
    "epilogue": [
        Problem((1, 4, 7, 8, 6), (8, *CUBE, 6), {"padding": 1, "activation": name}, bias=True, residual=True)
        for name in ACTIVATIONS[1:]
    ],
    "2-D": [
        Problem((2, 9, 11, 6), (8, 3, 3, 6), {"padding": 1}),
        Problem((1, 18, 17, 3), (16, 7, 7, 3), {"padding": 3, "stride": 2}),
        Problem((1, 9, 10, 16), (16, 3, 3, 1), {"padding": 1, "groups": 16, "padding_mode": "reflect"}),
        Problem((1, 6, 7, 6), (8, 3, 3, 6), {"padding": 1, "upsample": 2}),
        Problem((1, 6, 7, 6), (8, 4, 4, 6), {"padding": 2, "input_dilation": 2}),
    ],
    "1-D": [
        Problem((2, 40, 6), (8, 3, 6), {"padding": 1}),
        Problem((1, 41, 6), (8, 5, 6), {"padding": [(4, 0)], "stride": 2, "dilation": 2}),
        Problem((1, 40, 16), (16, 4, 1), {"groups": 16}),
        Problem((1, 20, 6), (8, 4, 6), {"padding": 2, "input_dilation": 2, "flip": True}),
    ],
    "mixed types": [
        Problem((1, 4, 9, 10, 8), (8, *CUBE, 8), {"padding": 1}),
        Problem((1, 4, 7, 8, 12), (18, *CUBE, 2), {"padding": 1, "groups": 6}),
        Problem((1, 3, 4, 5, 18), (33, 1, 1, 1, 18)),
    ],
}  # fmt: skip


def check(subject: str, device: Any, gpu: str) -> Finding:
    found = [
        comparison
        for problem in SWEEP[subject]
        for types in (MIXED if subject == "mixed types" else SAME)
        for comparison in problems.compare(problem, types, device, gpu)
    ]
    return summary(found)


def items(device: str, gpu: str = "") -> list[Item]:
    """device: "cpu" or "gpu", the GPU's row in the table with it."""
    where = mx.cpu if device == "cpu" else mx.gpu
    return [Item(subject, partial(check, subject, where, gpu)) for subject in SWEEP]
