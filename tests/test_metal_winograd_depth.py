"""Winograd with F(2, 3) along depth as well: its kernel and Programs in the simulator, against float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import metal_sim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metal_programs import (
    KERNELS,
    Case,
    check,
    drawn_case,
    floats,
    mutated_kernels,
    operands,
    run,
    solution,
    stored,
)
from metal_sim import SCHEDULES
from metal_sim.support import needs_metal_sim

pytestmark = needs_metal_sim
DTYPES = ("float32", "float16", "bfloat16")
MODES = ("zeros", "edge", "reflect")
TILES = (2, 4, 6)
SMALL = Case(x=(1, 6, 7, 9, 5), w=(6, 3, 3, 3, 5), chunks=(4, 4, 4, 6, 2))


def usable(m: int, dtype: str) -> bool:
    """F(6, 3) is for 16-bit data only."""
    return m != 6 or dtype != "float32"


@pytest.mark.parametrize(("m", "dtype", "mode"), [c for c in product(TILES, DTYPES, MODES) if usable(*c[:2])])
def test_tiles_types_and_padding(m: int, dtype: str, mode: str) -> None:
    """Ragged tiles and channels, 7 frames in chunks of 4 and 3, padding on all axes in one mode."""
    check(
        replace(
            SMALL,
            dtype=dtype,
            modes=(mode,) * 3,
            padding=((2, 1), (1, 2), (2, 1)),
            chunks=(m, 3, 4, 6, 2),
            seed=m,
        )
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_schedules(dtype: str) -> None:
    m = 4 if dtype == "float32" else 6
    check(replace(SMALL, dtype=dtype, chunks=(m, 4, 4, 6, 2), bias=True), schedules=SCHEDULES)


@pytest.mark.parametrize("mode", MODES)
def test_lead_frames(mode: str) -> None:
    check(replace(SMALL, lead=2, modes=(mode, "zeros", "edge"), padding=((1, 1), (1, 1), (0, 1))))


@pytest.mark.parametrize("dtype", DTYPES)
def test_epilogue(dtype: str) -> None:
    check(replace(SMALL, dtype=dtype, activation="silu", bias=True, residual=True, lead=1))


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("in_chunk", [1, 2, 3, 9])
def test_frames(frames: int, in_chunk: int) -> None:
    """Odd numbers of frames, and chunks of one, of an odd number, and of more than there are."""
    check(replace(SMALL, x=(1, frames + 2, 4, 5, 3), w=(4, 3, 3, 3, 3), chunks=(2, 9, in_chunk, 4, 2)))


@pytest.mark.parametrize(
    "case",
    [
        replace(SMALL, flip=True),
        replace(SMALL, x=(2, 5, 7, 9, 5), chunks=(4, 7, 2, 6, 2)),
        replace(SMALL, x=(1, 5, 6, 5, 16), w=(70, 3, 3, 3, 16), chunks=(2, 9, 2, 32, 2)),
        replace(SMALL, x=(1, 5, 6, 5, 16), w=(70, 3, 3, 3, 16), chunks=(2, 9, 2, 70, 2), dtype="float16"),
        replace(SMALL, x=(1, 4, 12, 13, 18), w=(96, 3, 3, 3, 18), chunks=(2, 42, 2, 96, 2)),
        replace(SMALL, x=(1, 5, 12, 13, 18), w=(96, 3, 3, 3, 18), chunks=(4, 12, 4, 96, 2), dtype="bfloat16"),
        replace(SMALL, x=(1, 5, 12, 13, 18), w=(64, 3, 3, 3, 18), chunks=(2, 42, 4, 64, 2), dtype="bfloat16"),
        replace(SMALL, dtype="bfloat16", w_dtype="float32"),
        replace(SMALL, dtype="float32", w_dtype="float16"),
        replace(SMALL, x=(1, 6, 8, 9, 5), padding=((0, -1), (-1, 0), (0, -2))),
    ],
    ids=[
        "flip",
        "chunks-across-images",
        "slices-32x32",
        "32x64-16-bit",
        "32x64-fp32",
        "32x96",
        "48x64",
        "bf16-with-fp32-weights",
        "fp32-with-fp16-weights",
        "crop",
    ],
)
def test_geometry(case: Case) -> None:
    check(case)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def axis(most: int, least: int = 1) -> int:
        return draw(st.integers(least, most))

    channels, outs = axis(19), axis(35)
    dtype = draw(st.sampled_from(DTYPES))
    size = (axis(7, 3), axis(10, 3), axis(10, 3))
    chunks = (
        draw(st.sampled_from([m for m in TILES if usable(m, dtype)])),
        axis(12),
        axis(7),
        draw(st.sampled_from([32, outs])),
        2,
    )
    return drawn_case(draw, (axis(2), *size, channels), (outs, 3, 3, 3, channels), dtype, chunks)


@settings(max_examples=40)
@given(cases())
def test_drawn_programs(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("data", ["normal", "positive", "shifted", "channels of many scales"])
@pytest.mark.parametrize("channels", [256, 1024])
def test_float32_contract(channels: int, data: str) -> None:
    """With F(4, 3) in space, 3 x 256 products and at four times as many: within 3e-6 in both."""
    case = Case(x=(1, 4, 6, 6, channels), w=(16, 3, 3, 3, channels), chunks=(4, 9, 2, 16, 2))
    program = case.program()
    arrays, exact = operands(case, program)
    x = exact["x"]
    if data == "positive":
        x = np.maximum(x, 0)
    elif data == "shifted":
        x = x + 3
    elif data != "normal":
        x = x * np.exp(2 * np.random.default_rng(1).normal(size=channels))
    arrays["x"] = stored(x.astype(np.float32), "float32")
    exact["x"] = floats(arrays["x"], "float32")
    result = metal_sim.run_program(program, arrays, KERNELS, schedules=SCHEDULES[:1]).check()
    truth = solution(case, exact)
    assert np.linalg.norm(result.outputs["y"] - truth) <= 3e-6 * np.linalg.norm(truth)


def test_agrees_with_summed_depth_taps() -> None:
    summed, pairs = (run(replace(SMALL, chunks=(4, 4, 4, 6, depth)))[1] for depth in (1, 2))
    assert 0 < np.abs(summed - pairs).max() <= 4e-6 * np.abs(summed).max()


def test_a_third_fewer_products() -> None:
    def multiplications(depth: int) -> int:
        shape = replace(SMALL, x=(1, 10, 9, 9, 32), w=(64, 3, 3, 3, 32), chunks=(4, 9, 8, 64, depth))
        return sum(s.matrix_multiplies for s in run(shape)[0].check().steps)

    assert multiplications(1) / multiplications(2) == 1.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"w": (6, 2, 3, 3, 5)}, "three depth taps"),
        ({"stride": (2, 1, 1)}, "depth stride and dilation 1"),
        ({"dilation": (2, 1, 1)}, "depth stride and dilation 1"),
        ({"chunks": (4, 4, 4, 6, 3)}, "1 or 2"),
    ],
)
def test_what_it_cannot_take_is_refused(changed: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=f"depth tile does not fit: .*{message}"):
        replace(SMALL, **changed).program()


@pytest.mark.parametrize(
    ("m", "x", "outs"),
    [
        (2, (1, 6, 8, 8, 16), 32),
        (4, (1, 7, 9, 9, 16), 64),
        (6, (1, 6, 12, 12, 32), 32),
        (6, (2, 5, 7, 9, 16), 96),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_declared_bytes(m: int, x: tuple[int, ...], outs: int, dtype: str) -> None:
    """What a Program says it moves is what the simulator counts, within 10 %."""
    case = Case(x=x, w=(outs, 3, 3, 3, x[-1]), dtype=dtype, chunks=(m, 16, 4, outs, 2))
    program = case.program()
    result = run(case)[0].check()
    counted = sum(s.touched for s in result.steps)
    assert sum(s.nbytes for s in program.steps) == pytest.approx(counted, rel=0.1)


# Every barrier and bound of the kernel, removed or shrunk: (file, what stands there, what replaces it).
GEMM = "winograd_depth_gemm.metal"
MUTATIONS = {
    "no-barrier": (GEMM, "threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
    "one-buffer": (GEMM, "(s & 1) *", "0 *"),
    "frames-unclamped": (GEMM, "min(frame + next.plus, p.frames - 1)", "frame + next.plus"),
    "frames-short": (GEMM, "p.frames - 1)", "p.frames - 2)"),
    "not-finished": (GEMM, "block.finish(phase);", ""),
    "sums-not-collected": (GEMM, "if (!Blocked) return;", "return;"),
    "wrong-sign": (GEMM, "phase == 0 ? 1.0f : -1.0f", "1.0f"),
    "one-step-less": (GEMM, "s <= steps;", "s < steps;"),
    "taps-not-transformed": ("winograd_weight.metal", "p.depth_m == 1", "true"),
    "taps-not-flipped": ("winograd_weight.metal", "from[(p.flip ? 2 - i : i) * p.w.d]", "from[i * p.w.d]"),
    "one-plane": ("winograd_output.metal", "frame % p.planes * p.plane_stride", "0"),
}
# Only fp32 results collect.
ROUNDED = [name for name in MUTATIONS if name != "sums-not-collected"]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*product(MUTATIONS, ["float32"]), *product(ROUNDED, ["bfloat16"])],
)
def test_mutated_kernels_are_caught(name: str, dtype: str, tmp_path: Path) -> None:
    kernels = mutated_kernels(tmp_path, *MUTATIONS[name])
    case = replace(SMALL, dtype=dtype, flip=True, x=(1, 5, 7, 9, 5), chunks=(4, 4, 4, 6, 2))
    with pytest.raises(AssertionError):
        check(case, kernels=kernels, schedules=SCHEDULES[:1])
