"""Problems for Metal, their Programs run in the simulator, and the check against float64."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import metal_sim
import mlx.core as mx
import numpy as np
import reference
from hypothesis import strategies as st
from metal_sim import Program, Schedule, bfloat16_bits, bfloat16_floats

from mlx_conv3d import _arguments, planning

KERNELS = Path(__file__).resolve().parent.parent / "kernels"
ONE_SCHEDULE = (Schedule("shuffled", 3),)
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


@dataclass(frozen=True)
class Case:
    """A convolution: x (N, D, H, W, C), w (O, KD, KH, KW, C / groups)."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    dtype: str = "float32"
    w_dtype: str = ""
    stride: tuple[int, ...] = (1, 1, 1)
    padding: tuple[tuple[int, int], ...] = ((0, 0), (1, 1), (1, 1))
    dilation: tuple[int, ...] = (1, 1, 1)
    input_dilation: tuple[int, ...] = (1, 1, 1)
    modes: tuple[str, ...] = ("zeros", "zeros", "zeros")
    upsample: tuple[int, ...] = (1, 1, 1)
    groups: int = 1
    flip: bool = False
    activation: str | None = None
    bias: bool = False
    residual: bool = False
    lead: int = 0
    algorithm: str = "winograd"
    # Winograd's m, tiles, frames, output channels per slice; then depth tile (1), rows of weights per pass (0: all) and
    # whether tiles, too, are made in these passes (0); along depth, whether the product has the transforms (0);
    # whether tiles and products have 24 bits in scratch (0); the outputs whose weights a pass makes at a time (0: all).
    chunks: tuple[int, ...] = ()
    block: tuple[int, ...] = ()  # rows and columns of a gathered product's blocks
    strides: tuple[tuple[str, tuple[int, ...]], ...] = ()  # of x, lead and w, where they are not row-major
    seed: int = 1

    @property
    def out_dtype(self) -> str:
        both = {self.dtype, self.w_dtype or self.dtype}
        return both.pop() if len(both) == 1 else "float32"

    def parameters(self) -> _arguments.Parameters:
        return _arguments.parameters(
            3,
            stride=list(self.stride),
            padding=[tuple(p) for p in self.padding],
            dilation=list(self.dilation),
            input_dilation=list(self.input_dilation),
            groups=self.groups,
            padding_mode=list(self.modes),
            activation=self.activation,
            flip=self.flip,
            upsample=list(self.upsample),
        )

    def reference(self) -> reference.Conv:
        return reference.Conv.of(
            3,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            input_dilation=self.input_dilation,
            modes=self.modes,
            groups=self.groups,
            flip=self.flip,
            upsample=self.upsample,
            activation=self.activation,
            crop_dilated=True,
        )

    def plan(self, device: str = "m3-max") -> planning.Plan:
        return planning.plan_of(
            self.x,
            self.w,
            self.parameters(),
            x_type=DTYPES[self.dtype],
            w_type=DTYPES[self.w_dtype or self.dtype],
            out_type=DTYPES[self.out_dtype],
            bias=self.bias,
            residual=self.residual,
            lead=self.lead,
            algorithm=self.algorithm,
            gpu=device,
            winograd=self.chunks,
            block=self.block,
            strides=dict(self.strides),
        )

    def program(self, device: str = "m3-max") -> Program:
        return Program.from_dict(self.plan(device).program)


def drawn_case(
    draw: st.DrawFn, x: tuple[int, ...], w: tuple[int, ...], dtype: str, chunks: tuple[int, ...]
) -> Case:
    """Winograd in these chunks; all that does not change its plan is drawn."""

    def up_to(most: int) -> int:
        return draw(st.integers(0, most))

    size = x[1:4]
    return Case(
        x=x,
        w=w,
        dtype=dtype,
        padding=tuple((up_to(min(2, n - 1)), up_to(min(2, n - 1))) for n in size),
        modes=tuple(draw(st.sampled_from(("zeros", "edge", "reflect"))) for _ in size),
        flip=draw(st.booleans()),
        activation=draw(st.sampled_from([None, "relu"])),
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
        lead=up_to(2),
        chunks=chunks,
        seed=draw(st.integers(1, 99)),
    )


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """As the buffer holds them."""
    return bfloat16_bits(values) if dtype == "bfloat16" else values.astype(dtype)


def floats(array: np.ndarray, dtype: str) -> np.ndarray:
    return (bfloat16_floats(array) if dtype == "bfloat16" else array).astype(np.float64)


def in_memory(array: np.ndarray, strides: tuple[int, ...]) -> np.ndarray:
    """The flat buffer that holds an array at these strides, in elements; gaps are NaN. Of stride 0 the last stay."""
    last = sum((n - 1) * s for n, s in zip(array.shape, strides, strict=True))
    flat = np.full((last + 1) * array.itemsize, 0xFF, np.uint8).view(array.dtype)
    view = np.lib.stride_tricks.as_strided(flat, array.shape, [s * array.itemsize for s in strides])
    view[...] = array
    array[...] = view
    return flat


def operands(case: Case, program: Program) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arrays for the Program's inputs, and their exact values."""
    rng = np.random.default_rng(case.seed)
    arrays, exact = {}, {}
    for b in program.buffers:
        if b.role != "input":
            continue
        values = rng.normal(size=b.shape).astype(np.float32)
        if b.name == "w":
            values /= np.float32(max(1, np.prod(b.shape[1:])) ** 0.5)
        arrays[b.name] = stored(values, b.dtype)
        held = arrays[b.name]
        if b.name in dict(case.strides):
            arrays[b.name] = in_memory(held, dict(case.strides)[b.name])
        exact[b.name] = floats(held, b.dtype)
    return arrays, exact


def solution(case: Case, exact: dict[str, np.ndarray]) -> np.ndarray:
    rest = {name: a for name, a in exact.items() if name not in ("x", "w")}
    return reference.forward(exact["x"], exact["w"], case.reference(), **rest)


def run(
    case: Case,
    *,
    device: str = "m3-max",
    schedules: Sequence[Schedule] = ONE_SCHEDULE,
    kernels: Path = KERNELS,
    **options: Any,
) -> tuple[metal_sim.Result, np.ndarray, np.ndarray]:
    """The simulator's result, the output and the float64 solution."""
    program = case.program(device)
    arrays, exact = operands(case, program)
    result = metal_sim.run_program(program, arrays, kernels, schedules=schedules, **options)
    y = floats(result.outputs["y"], case.out_dtype) if "y" in result.outputs else np.zeros(0)
    return result, y, solution(case, exact)


def check(case: Case, *, bound: float = 3e-6, **options: Any) -> metal_sim.Result:
    """Runs a case: no reports, and an error within the accuracy contract (of fp32 results: `bound`)."""
    result, y, exact = run(case, **options)
    result.check()
    assert_accurate(y, exact, case.out_dtype, bound)
    return result


def mutated_kernels(folder: Path, file: str, old: str, new: str) -> Path:
    """A copy of the kernels in `folder` in which one of them has `new` for `old`."""
    kernels = folder / "kernels"
    shutil.copytree(KERNELS, kernels)
    text = (kernels / file).read_text()
    assert old in text
    (kernels / file).write_text(text.replace(old, new))
    return kernels


def assert_accurate(y: np.ndarray, exact: np.ndarray, dtype: str, bound: float = 3e-6) -> None:
    assert y.shape == exact.shape
    error = np.linalg.norm(y - exact)
    if dtype == "float32":
        assert error <= bound * np.linalg.norm(exact) + 1e-9, (
            f"relative error {error / np.linalg.norm(exact):.2e}"
        )
        return
    # A few elements round to the other neighbour of a tie: in small outputs that outweighs 2 %.
    rounded = floats(stored(exact.astype(np.float32), dtype), dtype)
    slack = bound * np.linalg.norm(exact)
    assert error <= 1.02 * np.linalg.norm(rounded - exact) + slack, "not as exact as the rounded exact result"
