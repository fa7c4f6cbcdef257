"""dL/dx and dL/dw against the derivatives that MLX takes of the definition in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

from mlx_conv3d.doctor import exact, problems
from mlx_conv3d.doctor.items import Item
from mlx_conv3d.doctor.problems import Comparison, Problem
from mlx_conv3d.doctor.report import summary
from mlx_conv3d.doctor.rows import Finding

BOUND = 1e-5
TYPES = ("float32", "float32")
PROBLEMS = [
    Problem((1, 4, 7, 8, 6), (8, 3, 3, 3, 6), {"padding": 1}),
    Problem((1, 5, 9, 8, 6), (10, 3, 3, 3, 6), {"padding": 1, "stride": 2}),
    Problem((1, 4, 7, 8, 6), (8, 3, 3, 3, 6), {"padding": 1, "padding_mode": "edge"}),
    Problem((1, 3, 5, 6, 12), (18, 3, 3, 3, 2), {"padding": 1, "groups": 6}),
    Problem((1, 3, 5, 6, 36), (24, 1, 3, 3, 3), {"padding": 1, "groups": 12}),
    Problem((1, 3, 5, 6, 20), (20, 3, 3, 3, 1), {"padding": 1, "groups": 20}),
    Problem((1, 2, 3, 4, 6), (8, 4, 4, 4, 6), {"padding": 2, "input_dilation": 2, "flip": True}),
    Problem((2, 9, 11, 6), (8, 3, 3, 6), {"padding": 1}),
]


def derivatives(forward: Callable[..., mx.array], x: mx.array, w: mx.array, dy: mx.array) -> list[mx.array]:
    _, found = mx.vjp(forward, [x, w], [dy])
    return list(found)


def compare(problem: Problem, device: Any, on_gpu: bool) -> list[Comparison]:
    arrays = problems.operands(problem, TYPES)
    x, w = arrays["x"], arrays["w"]
    with mx.stream(mx.cpu):
        shape = problems.run(problem, arrays, "stock", mx.cpu).shape
        dy = mx.random.normal(shape, key=mx.random.key(3))
        wide = [a.astype(mx.float64) for a in (x, w, dy)]
        expected = derivatives(lambda x, w: exact.convolve(x, w, problem.parameters), *wide)
    with mx.stream(device):
        found = derivatives(lambda x, w: problems.run(problem, {"x": x, "w": w}, "auto", device), x, w, dy)
        mx.eval(found, expected)
    # On a GPU stock MLX may have made either.
    bound = problems.STOCK_ON_GPU[mx.float32] if on_gpu else BOUND
    return [
        Comparison(problem, name, TYPES, problems.relative_error(f, e), bound)
        for name, f, e in zip(("dL/dx", "dL/dw"), found, expected, strict=True)
    ]


def check(device: Any, on_gpu: bool) -> Finding:
    return summary([c for problem in PROBLEMS for c in compare(problem, device, on_gpu)])


def items(device: str) -> list[Item]:
    where = mx.cpu if device == "cpu" else mx.gpu
    return [Item("gradients", partial(check, where, device == "gpu"))]
