"""Winograd's Metal kernels and Programs in the simulator, against float64 and the CPU backend."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import metal_programs
import metal_sim
import mlx.core as mx
import numpy as np
import pytest
from metal_programs import KERNELS, Case, check, mutated_kernels, operands, run
from metal_sim import SCHEDULES
from metal_sim.support import needs_metal_sim

import mlx_conv3d

pytestmark = needs_metal_sim
DTYPES = ("float32", "float16", "bfloat16")
MODES = ("zeros", "edge", "reflect")
TILES = (2, 4, 6)
SMALL = Case(x=(1, 4, 7, 9, 5), w=(6, 3, 3, 3, 5), chunks=(4, 4, 2, 6))


def usable(m: int, dtype: str) -> bool:
    """F(6, 3) is for 16-bit data only."""
    return m != 6 or dtype != "float32"


@pytest.mark.parametrize("source", sorted(p.name for p in KERNELS.glob("*.metal")))
def test_every_kernel_compiles(source: str) -> None:
    assert [str(d) for d in metal_sim.check(KERNELS / source)] == []


@pytest.mark.parametrize(("m", "dtype", "mode"), [c for c in product(TILES, DTYPES, MODES) if usable(*c[:2])])
def test_tiles_types_and_padding(m: int, dtype: str, mode: str) -> None:
    """Ragged tiles and channels, padding on all axes in one mode."""
    check(
        replace(
            SMALL,
            dtype=dtype,
            modes=(mode,) * 3,
            padding=((2, 0), (1, 2), (2, 1)),
            chunks=(m, 3, 2, 6),
            seed=m,
        )
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_schedules(dtype: str) -> None:
    m = 4 if dtype == "float32" else 6
    check(replace(SMALL, dtype=dtype, chunks=(m, 4, 3, 6), bias=True), schedules=SCHEDULES)


@pytest.mark.parametrize("mode", MODES)
def test_lead_frames(mode: str) -> None:
    check(replace(SMALL, lead=2, modes=(mode, "zeros", "edge"), padding=((1, 1), (1, 1), (0, 1))))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("upsample", [(1, 2, 2), (2, 3, 1)])
def test_upsampling(upsample: tuple[int, ...], mode: str) -> None:
    padding = ((2, 0), (1, 2), (3, 1))
    check(replace(SMALL, x=(1, 2, 4, 5, 5), upsample=upsample, modes=(mode,) * 3, padding=padding, lead=1))


@pytest.mark.parametrize("activation", [None, "relu", "silu", "gelu", "sigmoid", "tanh"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_epilogue(activation: str | None, dtype: str) -> None:
    check(replace(SMALL, dtype=dtype, activation=activation, bias=True, residual=True, lead=1))


@pytest.mark.parametrize(
    "case",
    [
        replace(SMALL, x=(1, 9, 5, 5, 4), w=(4, 3, 3, 3, 4), stride=(2, 1, 1), dilation=(2, 1, 1)),
        replace(SMALL, x=(1, 9, 5, 5, 4), w=(4, 2, 3, 3, 4), stride=(3, 1, 1), chunks=(2, 5, 2, 4)),
        replace(SMALL, flip=True),
        replace(SMALL, x=(2, 3, 7, 9, 5), chunks=(4, 7, 1, 6)),
        replace(SMALL, x=(1, 2, 6, 5, 16), w=(70, 1, 3, 3, 16), chunks=(2, 9, 2, 32)),
        replace(SMALL, x=(1, 3, 4, 4, 20), w=(96, 2, 3, 3, 20), chunks=(2, 4, 2, 96)),
        replace(SMALL, x=(1, 3, 12, 13, 18), w=(96, 2, 3, 3, 18), chunks=(2, 42, 2, 96)),
        replace(SMALL, x=(1, 6, 12, 13, 18), w=(40, 3, 3, 3, 18), chunks=(4, 12, 4, 40), dtype="bfloat16"),
        replace(SMALL, dtype="bfloat16", w_dtype="float32"),
        replace(SMALL, dtype="float32", w_dtype="float16"),
        replace(SMALL, x=(1, 4, 8, 9, 3), padding=((0, 0), (-1, 0), (0, -2))),
        replace(SMALL, x=(1, 1, 1, 1, 1), w=(1, 1, 3, 3, 1), padding=((0, 0), (1, 1), (1, 1))),
    ],
    ids=[
        "depth-stride-dilation",
        "depth-stride-past-taps",
        "flip",
        "chunks-across-images",
        "slices-64x32",
        "32-rows",
        "64x96",
        "64x64",
        "bf16-with-fp32-weights",
        "fp32-with-fp16-weights",
        "crop",
        "one-pixel",
    ],
)
def test_geometry(case: Case) -> None:
    if case.padding == ((0, 0), (-1, 0), (0, -2)):
        case = replace(case, w=(6, 3, 3, 3, 3))
    check(case)


@pytest.mark.parametrize(
    "case", [SMALL, replace(SMALL, dtype="bfloat16", lead=2, modes=("edge", "reflect", "zeros"))]
)
def test_agrees_with_the_cpu_backend(case: Case) -> None:
    result, y, _ = run(case)
    result.check()
    arrays = {}
    for name, values in operands(case, case.program())[1].items():
        arrays[name] = mx.array(values.astype(np.float32)).astype(metal_programs.DTYPES[case.dtype])
    ours = mlx_conv3d.conv3d(
        arrays.pop("x"), arrays.pop("w"), padding=list(case.padding), padding_mode=list(case.modes), **arrays
    )
    ours = np.array(ours.astype(mx.float32))
    eps = 4e-6 if case.dtype == "float32" else 2**-8
    assert np.abs(y - ours).max() <= eps * np.abs(ours).max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_planned_chunks(dtype: str) -> None:
    """The plan's own chunks, at a size where the accuracy contract is meant."""
    check(Case(x=(1, 4, 9, 8, 64), w=(32, 3, 3, 3, 64), dtype=dtype, padding=((1, 1), (1, 1), (1, 1))))


def test_sums_in_blocks() -> None:
    """768 products: one running fp32 sum would miss the contract's 3e-6."""
    check(Case(x=(1, 3, 5, 5, 256), w=(16, 3, 3, 3, 256), chunks=(4, 4, 1, 16)))


# Every barrier and bound of the kernels, removed or shrunk: (file, what stands there, what replaces it).
MUTATIONS = {
    "no-barrier": ("winograd_gemm.metal", "threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
    "one-buffer": ("winograd_gemm.metal", "(s & 1) *", "0 *"),
    "rows-unclamped": (
        "winograd_gemm.metal",
        "min(first_row + at / quads, p.rows - 1)",
        "first_row + at / quads",
    ),
    "rows-short": ("winograd_gemm.metal", "p.rows - 1)", "p.rows - 2)"),
    "sums-not-collected": ("winograd_gemm.metal", "if (Blocked) block.collect();", ""),
    "one-step-less": ("winograd_gemm.metal", "s <= p.steps;", "s < p.steps;"),
    "channels-unbounded": ("winograd_input.metal", "d < 0 || c >= p.channels", "d < 0"),
    "channels-short": ("winograd_input.metal", "c >= p.channels", "c >= p.channels - 1"),
    "depth-unpadded": ("winograd_input.metal", "d < 0 || c", "c"),
    "outputs-unbounded": ("winograd_weight.metal", "o >= p.out_channels || ", ""),
    "inputs-unbounded": ("winograd_weight.metal", " || c >= p.channels", ""),
    "height-unbounded": ("winograd_output.metal", "if (first_row + i >= p.height) break;", ""),
    "width-unbounded": ("winograd_output.metal", "if (first_col + j >= p.width) break;", ""),
    "height-short": ("winograd_output.metal", ">= p.height)", ">= p.height - 1)"),
    "width-short": ("winograd_output.metal", ">= p.width)", ">= p.width - 1)"),
    "axis-too-long": ("input.h", "q < size) return q", "q <= size) return q"),
    "axis-too-short": ("input.h", "q < size) return q", "q < size - 1) return q"),
    "scale-forgotten": ("input.h", "at / scale", "at"),
    "scale-too-large": ("input.h", "PAD_MODES + 1;", "PAD_MODES + 2;"),
    "lead-too-long": ("input.h", "d < p.lead_frames", "d <= p.lead_frames"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_kernels_are_caught(name: str, tmp_path: Path) -> None:
    kernels = mutated_kernels(tmp_path, *MUTATIONS[name])
    case = replace(SMALL, lead=1, padding=((1, 1), (1, 1), (1, 1)), chunks=(4, 4, 2, 6))
    if name.startswith("scale"):
        case = replace(case, upsample=(1, 2, 2))
    with pytest.raises(AssertionError):
        check(case, kernels=kernels, schedules=SCHEDULES[:1])


def test_each_barrier_of_a_program_is_needed() -> None:
    case = replace(SMALL, chunks=(4, 4, 2, 6))
    program = case.program()
    arrays, _ = operands(case, program)
    barriers = [i for i, s in enumerate(program.steps) if s.barrier]
    assert len(barriers) < len(program.steps) - 1, "a chunk's input transform needs none"
    for i in barriers[:4]:
        steps = list(program.steps)
        steps[i] = replace(steps[i], barrier=False)
        broken = replace(program, steps=tuple(steps))
        result = metal_sim.run_program(broken, arrays, KERNELS, schedules=SCHEDULES[:1])
        assert "missing-barrier" in result.kinds()
