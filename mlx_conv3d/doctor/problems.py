"""Small convolutions with fixed values, run by any algorithm and held to the accuracy contract of docs/algorithms.md.

The reference is the definition in float64 (`exact`). Stock MLX's float32 convolution on the CPU is held to it as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlx_conv3d import _arguments, functional, planning
from mlx_conv3d.doctor import exact, faults
from mlx_conv3d.planning import DTYPES

SAME = tuple((name, name) for name in DTYPES)
STOCK_ON_CPU = 1e-5  # in float32
# Stock MLX on a GPU promises nothing: its results are only told from garbage.
STOCK_ON_GPU = {mx.float32: 1e-2, mx.float16: 0.1, mx.bfloat16: 0.1}


@dataclass(frozen=True)
class Problem:
    """x (N, ..., C), w (O, ..., C / groups), and the arguments of `_arguments.parameters`."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    bias: bool = False
    residual: bool = False
    lead: int = 0

    def __str__(self) -> str:
        given = [f"{name} {value}" for name, value in self.options.items()]
        given += [name for name in ("bias", "residual") if getattr(self, name)]
        given += [f"lead {self.lead}"] if self.lead else []
        shapes = " ".join("x".join(map(str, shape)) for shape in (self.x, self.w))
        return ", ".join([shapes, *given])

    @property
    def parameters(self) -> _arguments.Parameters:
        return _arguments.parameters(len(self.x) - 2, **self.options)

    def plan(self, x_type: str, w_type: str, gpu: str, **chosen: Any) -> planning.Plan:
        """`chosen`: more arguments of `planning.plan_of`."""
        return planning.plan_of(
            self.x,
            self.w,
            self.parameters,
            x_type=DTYPES[x_type],
            w_type=DTYPES[w_type],
            bias=self.bias,
            residual=self.residual,
            lead=self.lead,
            gpu=gpu,
            **chosen,
        )

    def algorithms(self, x_type: str, w_type: str, gpu: str = "") -> list[str]:
        """Those besides stock MLX that may run it, on a GPU of the table or on this CPU."""
        candidates = self.plan(x_type, w_type, gpu).candidates
        return [c.algorithm for c in candidates if c.legal and c.algorithm != "stock"]


@dataclass(frozen=True)
class Comparison:
    """A result's distance from the exact one; `bound` is the largest that the contract allows, both relative."""

    problem: Problem
    algorithm: str
    types: tuple[str, str]
    error: float
    bound: float

    @property
    def good(self) -> bool:
        return self.error <= self.bound  # false for NaN

    def __str__(self) -> str:
        types = "*".join(dict.fromkeys(self.types))
        return f"{self.algorithm} {types} {self.problem}: relative error {self.error:.2e}, at most {self.bound:.2e}"


def norm(a: mx.array) -> float:
    return math.sqrt(float(mx.square(a, stream=mx.cpu).sum(stream=mx.cpu)))


def operands(problem: Problem, types: tuple[str, str]) -> dict[str, mx.array]:
    """Values of unit variance, the same on every machine; weights that keep it."""
    x_type, w_type = (DTYPES[t] for t in types)
    key = mx.random.key(7)

    def values(shape: tuple[int, ...], dtype: mx.Dtype, scale: float = 1.0) -> mx.array:
        nonlocal key
        key, own = mx.random.split(key, stream=mx.cpu)
        return (mx.random.normal(shape, key=own, stream=mx.cpu) * scale).astype(dtype)

    with mx.stream(mx.cpu):
        arrays = {
            "x": values(problem.x, x_type),
            "w": values(problem.w, w_type, 1 / math.sqrt(max(1, math.prod(problem.w[1:])))),
        }
        if problem.bias:
            arrays["bias"] = values((problem.w[0],), x_type)
        if problem.lead:
            arrays["lead"] = values((problem.x[0], problem.lead, *problem.x[2:]), x_type)
        if problem.residual:
            shape = run(problem, arrays, "stock", mx.cpu).shape
            arrays["residual"] = values(shape, planning.promote(x_type, w_type))
        mx.eval(arrays)
    return arrays


def run(problem: Problem, arrays: dict[str, mx.array], algorithm: str, stream: Any) -> mx.array:
    rest: dict[str, Any] = {name: a for name, a in arrays.items() if name not in ("x", "w")}
    return functional.run(
        arrays["x"], arrays["w"], problem.parameters, **rest, algorithm=algorithm, stream=stream
    )


def expected(problem: Problem, arrays: dict[str, mx.array]) -> mx.array:
    """The exact result of these operands."""
    wide = {name: a.astype(mx.float64, stream=mx.cpu) for name, a in arrays.items()}
    y = exact.convolve(wide["x"], wide["w"], problem.parameters, wide.get("lead"))
    return exact.finish(y, problem.parameters, wide.get("bias"), wide.get("residual"))


def float32_bound(problem: Problem, algorithm: str) -> float:
    """The contract's: products summed for an output decide."""
    if algorithm == "implicit_gemm":
        return 1e-6
    depth = problem.w[1] if len(problem.w) == 5 else 1
    return 3e-6 if depth * problem.w[-1] <= 768 else 8e-6


def bound(problem: Problem, algorithm: str, dtype: mx.Dtype, rounded: float, on_gpu: bool) -> float:
    """The largest relative error of a result of type `dtype`; `rounded` is that of the exact result in this type."""
    if algorithm == "stock":
        return STOCK_ON_GPU[dtype] if on_gpu else STOCK_ON_CPU
    own = float32_bound(problem, algorithm)
    return own if dtype == mx.float32 else own + 1.02 * rounded


def relative_error(y: mx.array, exact: mx.array) -> float:
    with mx.stream(mx.cpu):
        return norm(y.astype(mx.float64) - exact) / max(norm(exact), 1e-30)


def compare(
    problem: Problem, types: tuple[str, str], device: Any, gpu: str = "", only: str = ""
) -> Iterator[Comparison]:
    """The planner's choice, every legal algorithm and on the CPU stock MLX, or one of them, on a device."""
    arrays = operands(problem, types)
    exact = expected(problem, arrays)
    mx.eval(exact)
    algorithms = ["auto", *problem.algorithms(*types, gpu)]
    if not gpu and types == ("float32", "float32"):
        algorithms.append("stock")
    for algorithm in [only] if only else algorithms:
        chosen = problem.plan(*types, gpu).algorithm if algorithm == "auto" else algorithm
        y = faults.perturbed(run(problem, arrays, algorithm, device), chosen)
        mx.eval(y)
        if y.shape != exact.shape:
            raise ValueError(f"{algorithm} {problem}: shape {y.shape}, expected {exact.shape}")
        rounded = relative_error(exact.astype(y.dtype, stream=mx.cpu), exact)
        most = bound(problem, chosen, y.dtype, rounded, bool(gpu))
        yield Comparison(problem, chosen, types, relative_error(y, exact), most)
