"""The arrays of a problem, its float64 solution, and the check of a result against it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
import reference
from problems import Problem

import mlx_conv3d
from mlx_conv3d import nn

LAYOUTS = ("contiguous", "channels_first", "sliced", "stepped", "reversed", "broadcast", "offset")
FUNCTIONS = {1: mlx_conv3d.conv1d, 2: mlx_conv3d.conv2d, 3: mlx_conv3d.conv3d}


@dataclass
class Operands:
    """The arrays of a problem as MLX holds them, and their exact values in float64."""

    arrays: dict[str, mx.array] = field(default_factory=dict)
    exact: dict[str, np.ndarray] = field(default_factory=dict)

    def epilogue(self) -> dict[str, mx.array]:
        return {name: a for name, a in self.arrays.items() if name not in ("x", "w")}


def float64(a: mx.array) -> np.ndarray:
    return np.array(a.astype(mx.float32)).astype(np.float64)


def dtype_of(name: str) -> mx.Dtype:
    return getattr(mx, name)


def laid_out(values: np.ndarray, dtype: str, layout: str) -> mx.array:
    """The values as an MLX array that is, but for one layout, a view. `broadcast` keeps row 0 only."""
    return view_of(values, layout, lambda a: mx.array(a).astype(dtype_of(dtype)), mx)


def view_of(values: np.ndarray, layout: str, hold: Callable, library: Any) -> Any:
    """The same in the arrays of `library`, MLX or NumPy; `hold` makes one of a contiguous NumPy array."""
    if layout == "broadcast":
        axis = int(np.argmax(values.shape[1:-1])) + 1
        first = np.take(values, range(min(1, values.shape[axis])), axis=axis)
        return library.broadcast_to(hold(first), values.shape)
    if layout == "channels_first":
        return library.moveaxis(hold(np.ascontiguousarray(np.moveaxis(values, -1, 1))), 1, -1)
    if layout == "offset":
        flat = hold(np.concatenate([[7.0], values.ravel()]).astype(np.float32))
        return flat[1:].reshape(values.shape)
    if layout == "sliced":
        wide = np.full([n + 3 for n in values.shape], np.nan, dtype=np.float32)
        inside = tuple(slice(1, 1 + n) for n in values.shape)
        wide[inside] = values
        return hold(wide)[inside]
    if layout == "stepped":
        wide = np.full([2 * n for n in values.shape], np.nan, dtype=np.float32)
        every_second = (slice(None, None, 2),) * values.ndim
        wide[every_second] = values
        return hold(wide)[every_second]
    if layout == "reversed":
        backwards = tuple(slice(None, None, -1) for _ in values.shape)
        return hold(np.ascontiguousarray(values[backwards]))[backwards]
    assert layout == "contiguous"
    return hold(values)


def shapes_of(problem: Problem) -> dict[str, tuple[int, ...]]:
    shapes = {"x": problem.x, "w": problem.w}
    if problem.lead:
        shapes["lead"] = (problem.x[0], problem.lead, *problem.x[2:])
    if problem.bias:
        shapes["bias"] = (problem.w[0],)
    if problem.residual:
        shapes["residual"] = problem.out_shape
    return shapes


def make(problem: Problem) -> Operands:
    rng = np.random.default_rng(problem.seed)
    types = {"x": problem.x_type, "w": problem.w_type}
    layouts = {"x": problem.layout, "lead": problem.layout, "w": problem.w_layout}
    made = Operands()
    for name, shape in shapes_of(problem).items():
        values = rng.normal(size=shape).astype(np.float32)
        if name == "w":
            values /= np.float32(math.sqrt(max(1, math.prod(shape[1:]))))
        a = laid_out(values, types.get(name, problem.extra_type), layouts.get(name, "contiguous"))
        made.arrays[name] = a
        made.exact[name] = float64(a)
    return made


def run(problem: Problem, arrays: dict[str, mx.array], algorithm: str = "auto") -> mx.array:
    x, w = arrays["x"], arrays["w"]
    if problem.general:
        assert algorithm == "auto"
        z = general(problem, x, w)
        return z
    rest = {name: a for name, a in arrays.items() if name not in ("x", "w")}
    return FUNCTIONS[problem.ndim](x, w, **problem.options, **rest, algorithm=algorithm)


def general(
    problem: Problem, x: mx.array, w: mx.array, function: Callable = mlx_conv3d.conv_general
) -> mx.array:
    lo, hi = zip(*problem.padding, strict=True)
    return function(
        x,
        w,
        problem.stride,
        (list(lo), list(hi)),
        problem.dilation,
        problem.input_dilation,
        problem.groups,
        problem.flip,
    )


def solve(problem: Problem, exact: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """The float64 result, and the norm that float32 rounding errors are relative to."""
    rest = {name: a for name, a in exact.items() if name not in ("x", "w")}
    y = reference.forward(exact["x"], exact["w"], problem.conv, **rest)
    expected = reference.expected_norm(exact["x"], exact["w"], problem.conv, **rest)
    return y, max(reference.norm(y), expected)


def check(
    y: mx.array, problem: Problem, exact: np.ndarray, scale: float, algorithm: str, slack: float = 1.0
) -> None:
    """Asserts shape, dtype and the accuracy contract."""
    assert y.shape == exact.shape, f"{algorithm}: shape {y.shape}, expected {exact.shape}"
    assert y.dtype == dtype_of(problem.dtype), f"{algorithm}: {y.dtype}, expected {problem.dtype}"
    error = reference.norm(float64(y) - exact)
    bound = reference.float32_bound(algorithm, problem.terms)
    most = slack * reference.error_bound(exact, problem.dtype, bound, scale)
    assert error <= most, f"{algorithm}: error {error:.3e}, at most {most:.3e} (norm {scale:.3e})"


def check_run(problem: Problem, algorithm: str, *, prepared: bool = False) -> None:
    """Runs it, by conv_general as planned where that alone can express it, and checks the result by the algorithm's
    contract; again with prepared weights if asked."""
    made = make(problem)
    exact, scale = solve(problem, made.exact)
    w = made.arrays["w"]
    for weights in (w, mlx_conv3d.prepare(w)) if prepared else (w,):
        y = run(problem, {**made.arrays, "w": weights}, "auto" if problem.general else algorithm)
        check(y, problem, exact, scale, algorithm)


def plan_of(problem: Problem, algorithm: str = "auto", *, prepared: bool = False) -> mlx_conv3d.Plan:
    return mlx_conv3d.plan(
        problem.x, problem.w, **plan_options(problem), algorithm=algorithm, prepared=prepared
    )


def plan_options(problem: Problem) -> dict[str, object]:
    options = problem.options
    options.update(dtype=dtype_of(problem.x_type), w_dtype=dtype_of(problem.w_type))
    options.update(bias=problem.bias, residual=problem.residual, lead=problem.lead)
    return options


def printed_by(code: str, threads: int) -> str:
    """What a process of its own prints that runs the code with so many threads."""
    env = {**os.environ, "MLX_CONV3D_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stepped(layer: nn.CausalConv3d, x: mx.array, pieces: tuple[int, ...]) -> mx.array:
    """A stream's frames, so many of x at a time."""
    state, found, at = None, [], 0
    for frames in pieces:
        y, state = layer.step(x[:, at : at + frames], state)
        found.append(y)
        at += frames
    return mx.concatenate(found, axis=1)
