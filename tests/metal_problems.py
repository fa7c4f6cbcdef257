"""Drawn convolution problems as Metal Programs: planned for a device, run in the simulator, and compared."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import metal_sim
import mlx.core as mx
import numpy as np
import operands
import problems
import reference
from hypothesis import strategies as st
from metal_programs import KERNELS, ONE_SCHEDULE, floats, stored
from metal_sim import Program
from problems import DTYPES, FAMILIES, PICKED, VIEWS, Family, Problem

from mlx_conv3d import _arguments, _ext, planning

DEVICES = tuple(d["name"] for d in _ext.gpus())
LIMITS = (0, 0, 1 << 20, 256 << 10)  # of the workspace, in bytes; 0 is the default
MOST_PRODUCTS = 40_000
IN_PLACE = ("contiguous", *(v for v in VIEWS if v != "reversed"))  # strides that are not negative
EPSILON = {"float32": 0.0, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True)
class GpuProblem:
    """A problem and how it is planned. `chunks` are those of metal_programs.Case, () the plan's own."""

    problem: Problem
    algorithm: str
    device: str
    limit: int = 0
    chunks: tuple[int, ...] = ()

    def __repr__(self) -> str:
        """What differs from a plain problem, as code that makes it."""
        p = self.problem
        plain = problems.of(p.x, p.w)
        given = [f"{f.name}={getattr(p, f.name)!r}" for f in fields(p) if changed(p, plain, f.name)]
        own = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self)[1:] if getattr(self, f.name)]
        return f"GpuProblem(problems.of({', '.join([str(p.x), str(p.w), *given])}), {', '.join(own)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For Hypothesis, which would print every field."""
        printer.text(repr(self))


def changed(problem: Problem, plain: Problem, name: str) -> bool:
    return getattr(problem, name) != getattr(plain, name)


def lifted(values: tuple, fill: object) -> list:
    """One entry per axis of three."""
    return [fill] * (3 - len(values)) + list(values)


def shape_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *lifted(shape[1:-1], 1), shape[-1])


def plan_of(
    problem: Problem,
    device: str,
    algorithm: str = "auto",
    limit: int = 0,
    chunks: tuple[int, ...] = (),
    strides: dict[str, list[int]] | None = None,
) -> planning.Plan:
    parameters = _arguments.parameters(
        3,
        stride=lifted(problem.stride, 1),
        padding=lifted(problem.padding, (0, 0)),
        dilation=lifted(problem.dilation, 1),
        input_dilation=lifted(problem.input_dilation, 1),
        upsample=lifted(problem.upsample, 1),
        groups=problem.groups,
        padding_mode=lifted(problem.modes, "zeros"),
        activation=problem.activation,
        flip=problem.flip,
    )
    return planning.plan_of(
        shape_of(problem.x),
        shape_of(problem.w),
        parameters,
        x_type=operands.dtype_of(problem.x_type),
        w_type=operands.dtype_of(problem.w_type),
        out_type=operands.dtype_of(problem.dtype),
        bias=problem.bias,
        residual=problem.residual,
        lead=problem.lead,
        algorithm=algorithm,
        limit=limit,
        gpu=device,
        winograd=chunks,
        strides=strides,
    )


def legal_algorithms(problem: Problem, device: str, limit: int = 0) -> tuple[str, ...]:
    """What the plan offers on a GPU besides stock MLX."""
    candidates = plan_of(problem, device, limit=limit).candidates
    return tuple(c.algorithm for c in candidates if c.legal and c.algorithm != "stock")


@cache
def algorithms() -> tuple[str, ...]:
    """Every algorithm that has Programs: those legal for some problem picked by hand."""
    return tuple(sorted({a for p in PICKED.values() for a in legal_algorithms(p, "m1")}))


# ---------------------------------------------------------------- drawing


@st.composite
def gpu_problems(draw: st.DrawFn, algorithm: str, rank: int = 0) -> GpuProblem:
    """Problems of any family that `algorithm` may take, with a device and a chunking; of any rank, or of one."""
    device = draw(st.sampled_from(DEVICES))
    limit = draw(st.sampled_from(LIMITS))

    def fits(problem: Problem) -> bool:
        return algorithm in legal_algorithms(problem, device, limit)

    families = families_of(algorithm, rank)
    family = families[draw(st.sampled_from(sorted(families)))]
    problem = draw(problems.problems(family).map(for_metal).filter(fits))
    split = algorithm == "winograd" and draw(st.booleans())
    return GpuProblem(problem, algorithm, device, limit, draw(winograd_chunks(problem)) if split else ())


@st.composite
def winograd_chunks(draw: st.DrawFn, problem: Problem) -> tuple[int, ...]:
    """A tile, and chunks of tiles, frames and outputs: a dozen at most, which need not divide what there is."""
    m = draw(st.sampled_from((2, 4) if problem.dtype == "float32" else (2, 4, 6)))
    n, depth, height, width, outs = shape_of(problem.out_shape)
    if shape_of(problem.w)[1:4] == (3, 1, 1):
        positions = n * height * width
        tiles = draw(st.integers(-(-positions // 4), positions))
        frames, slices = (
            draw(st.integers(1, max(4, depth))),
            draw(st.sampled_from(sorted({min(32, outs), outs}))),
        )
        fused = problem.x_type == problem.dtype != "float32" and draw(st.booleans())
        return (1, tiles, frames, slices, m, 0, 0, int(fused))
    tiles = n * -(-height // m) * -(-width // m)
    rows = draw(st.sampled_from((0, 2, 3, 8)))
    return (
        m,
        draw(st.integers(-(-tiles // 4), 12)) if tiles <= 48 else -(-tiles // 3),
        draw(st.integers(-(-depth // 3), max(4, depth))),
        draw(st.sampled_from(sorted({min(32, outs), outs}))),
        draw(st.integers(1, 2)) if pairs_frames(problem) else 1,
        rows,
        draw(st.integers(0, 1)),
        0,
        draw(st.integers(0, 1)) if problem.dtype == "bfloat16" else 0,
        draw(st.sampled_from((0, 8, 32))) if rows else 0,
    )


def pairs_frames(problem: Problem) -> bool:
    """Whether Winograd may take F(2, 3) along depth as well."""
    return problem.ndim == 3 and problem.w[1] == 3 and problem.stride[0] == problem.dilation[0] == 1


def for_metal(problem: Problem) -> Problem:
    """Few products, lead frames of x's type, and a dilated input cropped before, as the primitive hands them on."""
    if max(problem.input_dilation) > 1:
        padding = tuple((max(0, lo), max(0, hi)) for lo, hi in problem.padding)
        problem = replace(problem, padding=padding)
    if problem.lead:
        problem = replace(problem, extra_type=problem.x_type)
    return problems.smaller(problem, MOST_PRODUCTS)


@cache
def families_of(algorithm: str, rank: int = 0) -> dict[str, Family]:
    """Families for the simulator: kernels that the algorithm takes, all types and layouts, a few positions per axis."""
    found = {}
    for name, family in FAMILIES.items():
        kernels = tuple(k for k in family.kernels if rank in (0, len(k)) and algorithm in offered(family, k))
        if kernels:
            found[name] = replace(
                family, kernels=kernels, types=DTYPES, layouts=IN_PLACE, reach=min(family.reach, 7)
            )
    return found


@cache
def offered(family: Family, kernel: tuple[int, ...]) -> set[str]:
    """Algorithms for the plainest problems of a family with this kernel."""
    found: set[str] = set()
    stride = kernel if family.stride_is_kernel else 1
    for groups, c, o in family.groups or ((1, 3, 5),):
        for dilated in family.input_dilations:
            sizes = tuple(k + 2 for k in kernel)
            p = problems.of(
                (1, *sizes, groups * c),
                (groups * o, *kernel, c),
                stride=stride,
                groups=groups,
                input_dilation=dilated,
            )
            found |= {*legal_algorithms(p, "m1")}
    return found


# ---------------------------------------------------------------- running


def arrays_of(drawn: GpuProblem, exact: dict[str, np.ndarray]) -> tuple[Program, dict[str, np.ndarray]]:
    """The Program, and the memory of its inputs: each as its layout has it, from the first element to the last."""
    problem = drawn.problem
    layouts = {"x": problem.layout, "lead": problem.layout, "w": problem.w_layout}
    types = {"x": problem.x_type, "lead": problem.x_type, "w": problem.w_type, "bias": "float32"}
    memory, strides = {}, {}
    for name, values in exact.items():
        dtype = types.get(name, problem.dtype)
        shape = shape_of(values.shape) if values.ndim > 1 else values.shape
        whole = values.reshape(shape).astype(np.float32)
        a = operands.view_of(whole, layouts.get(name, "contiguous"), lambda v, d=dtype: stored(v, d), np)
        steps = [s // a.itemsize for s in a.strides]
        reach = 1 + sum((n - 1) * s for n, s in zip(a.shape, steps, strict=True)) if a.size else 0
        memory[name] = np.lib.stride_tricks.as_strided(a, (reach,), (a.itemsize,)).copy()
        if name in layouts:
            strides[name] = steps
    plan = plan_of(problem, drawn.device, drawn.algorithm, drawn.limit, drawn.chunks, strides)
    return Program.from_dict(plan.program), memory


def check(drawn: GpuProblem) -> metal_sim.Result:
    """No report, and the result of float64 and of the CPU backend, as near as the accuracy contract says."""
    problem = drawn.problem
    made = operands.make(problem)
    exact, scale = operands.solve(problem, made.exact)
    program, memory = arrays_of(drawn, made.exact)
    result = metal_sim.run_program(program, memory, KERNELS, schedules=ONE_SCHEDULE).check()
    y = floats(result.outputs["y"], problem.dtype).reshape(exact.shape)
    operands.check(
        mx.array(y.astype(np.float32)).astype(operands.dtype_of(problem.dtype)),
        problem,
        exact,
        scale,
        drawn.algorithm,
    )
    assert_as_on_the_cpu(y, operands.float64(operands.run(problem, made.arrays)), problem, scale)
    return result


def assert_as_on_the_cpu(y: np.ndarray, cpu: np.ndarray, problem: Problem, scale: float) -> None:
    """Both may be as far from exact as the contract allows; 16-bit values may round to neighbours besides."""
    off = 2 * reference.float32_bound("winograd", problem.terms) * scale
    if problem.dtype != "float32":
        # What the contract leaves to F(6, 3) beside rounding: all of it may show where the exact result is zero.
        rounding = reference.norm(EPSILON[problem.dtype] / 4 * cpu)
        off = max(off, np.sqrt(reference.HALF_RATIO**2 - 1) * rounding)
    apart = np.maximum(np.abs(y - cpu) - EPSILON[problem.dtype] * np.abs(cpu), 0)
    assert reference.norm(apart) <= off, (
        f"apart from the CPU backend by {reference.norm(apart):.3e}, at most {off:.3e}"
    )
