"""Winograd with 24 bits for a tile's and a product's value in scratch: its Programs in the simulator."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metal_programs import (
    KERNELS,
    ONE_SCHEDULE,
    Case,
    check,
    floats,
    mutated_kernels,
    operands,
    run,
    solution,
    stored,
)
from metal_sim import SCHEDULES, Program, run_program
from metal_sim.support import needs_metal_sim

import mlx_conv3d

SAME = ((1, 1),) * 3
FORMS = [*product((2, 4, 6), (1, 2))]


def float24(m: int, depth: int = 1, outs: int = 6, rows: int = 0, tile_rows: int = 0) -> tuple[int, ...]:
    return (m, 4, 4, outs, depth, rows, tile_rows, 0, 1)


SMALL = Case(x=(1, 6, 7, 9, 5), w=(6, 3, 3, 3, 5), padding=SAME, dtype="bfloat16", chunks=float24(4))


@needs_metal_sim
@pytest.mark.parametrize(("m", "depth", "tile_rows"), [(*form, t) for form in FORMS for t in (0, 1)])
def test_tiles_and_passes(m: int, depth: int, tile_rows: int) -> None:
    check(
        replace(
            SMALL, chunks=float24(m, depth, rows=2, tile_rows=tile_rows), lead=1, bias=True, activation="silu"
        )
    )


@needs_metal_sim
@pytest.mark.parametrize(("m", "depth"), FORMS)
def test_schedules(m: int, depth: int) -> None:
    check(
        replace(SMALL, x=(2, 5, 7, 9, 18), w=(40, 3, 3, 3, 18), chunks=float24(m, depth, 40)),
        schedules=SCHEDULES,
    )


@needs_metal_sim
@pytest.mark.parametrize(("tiles", "frames", "outs"), [(81, 4, 96), (40, 2, 64), (30, 4, 32), (7, 2, 64)])
@pytest.mark.parametrize("depth", [1, 2])
def test_blocks(tiles: int, frames: int, outs: int, depth: int) -> None:
    chunks = (2, tiles, frames, outs, depth, 0, 0, 0, 1)
    check(replace(SMALL, x=(1, 4, 18, 18, 16), w=(outs, 3, 3, 3, 16), chunks=chunks))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def axis(most: int, least: int = 1) -> int:
        return draw(st.integers(least, most))

    channels, outs, size = axis(19), axis(35), (axis(5, 3), axis(9, 3), axis(9, 3))
    rows = draw(st.sampled_from((0, 1, 3)))
    return replace(
        SMALL,
        x=(axis(2), *size, channels),
        w=(outs, 3, 3, 3, channels),
        stride=(axis(2), 1, 1),
        modes=tuple(draw(st.sampled_from(("zeros", "edge", "reflect"))) for _ in size),
        flip=draw(st.booleans()),
        residual=draw(st.booleans()),
        chunks=(draw(st.sampled_from((2, 4, 6))), axis(9, 3), axis(5), outs, 1, rows, int(rows > 0), 0, 1),
        seed=axis(99),
    )


@needs_metal_sim
@settings(max_examples=30)
@given(cases())
def test_drawn_programs(case: Case) -> None:
    check(case)


DATA = {
    "normal": lambda x: x,
    "positive": np.abs,
    "shifted": lambda x: x + 10,
    "uneven": lambda x: x * 10.0 ** (np.arange(x.shape[-1]) % 5 - 2),
}


def error_to_rounding(depth: int, data: str = "normal", kernels: Path = KERNELS) -> float:
    """Of F(6, 3) with 64 channels: the rms error over that of the correctly rounded result."""
    case = replace(SMALL, x=(1, 4, 14, 14, 64), w=(32, 3, 3, 3, 64), chunks=(6, 8, 2, 32, depth, 0, 0, 0, 1))
    program = case.program()
    _, exact = operands(case, program)
    exact["x"] = DATA[data](exact["x"])
    arrays = {name: stored(v.astype(np.float32), "bfloat16") for name, v in exact.items()}
    exact = {name: floats(v, "bfloat16") for name, v in arrays.items()}
    result = run_program(program, arrays, kernels, schedules=ONE_SCHEDULE).check()
    y, right = floats(result.outputs["y"], "bfloat16"), solution(case, exact)
    rounded = floats(stored(right.astype(np.float32), "bfloat16"), "bfloat16")
    return float(np.linalg.norm(y - right) / np.linalg.norm(rounded - right))


@needs_metal_sim
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("data", DATA)
def test_rounding_stays_the_only_error(depth: int, data: str) -> None:
    assert error_to_rounding(depth, data) <= 1.01


@needs_metal_sim
@pytest.mark.parametrize(("m", "depth"), FORMS)
def test_declared_bytes(m: int, depth: int) -> None:
    """What each step says it moves is what the simulator counts, within 10 %; scratch is three quarters."""
    case = Case(
        x=(1, 6, 12, 12, 32), w=(64, 3, 3, 3, 32), dtype="bfloat16", chunks=(m, 9, 4, 64, depth, 0, 0, 0, 1)
    )
    program = case.program()
    steps = run(case)[0].check().steps
    counted = [s.touched for s in steps]
    assert [s.nbytes for s in program.steps] == pytest.approx(counted, rel=0.1)
    whole = {b.name: b.nbytes for b in replace(case, chunks=case.chunks[:-1]).program().buffers}
    assert all(
        b.nbytes == whole[b.name] * (3 / 4 if b.name in ("tiles", "products") else 1) for b in program.buffers
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"dtype": "float16"},
        {"dtype": "float32"},
        {"w": (6, 3, 1, 1, 5), "chunks": (1, 4, 4, 6, 2, 0, 0, 0, 1)},
    ],
)
def test_what_it_cannot_take_is_refused(changed: dict) -> None:
    with pytest.raises(ValueError, match="24 bits are for bf16 results of 3x3 kernels"):
        replace(SMALL, **changed).program()


@pytest.mark.parametrize("device", ["m1", "m1-max", "m3-max", "m4-max"])
def test_large_layers_take_it(device: str) -> None:
    x, w = (1, 26, 240, 424, 256), (256, 3, 3, 3, 256)
    bf16 = mlx_conv3d.plan(x, w, dtype=mx.bfloat16, device=device)
    assert "24 bits" in str(bf16)
    program = Program.from_dict(bf16.program)
    assert program.problems() == []
    assert program.scratch_bytes == bf16.workspace <= 256 << 20
    assert sum(s.flops for s in program.steps) == pytest.approx(bf16.flops, rel=0.08)
    fp16 = mlx_conv3d.plan(x, w, dtype=mx.float16, device=device)
    assert "24 bits" not in str(fp16)
    assert bf16.cost < fp16.cost and bf16.bytes < 0.9 * fp16.bytes


FILE = "transformed.h"
MUTATIONS = {
    "low-bits-not-stored": ("uchar(bits >> 8 & 0xff)", "uchar(0)"),
    "low-bits-lost": ("uint(low()[at]) << 8", "0u"),
    "low-quads-lost": ("uint4(low) << 8", "uint4(0u)"),
    "planes-overlap": ("(device uchar*)(high() + count)", "(device uchar*)(high() + count - 4)"),
}


@needs_metal_sim
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_kernels_are_caught(name: str, tmp_path: Path) -> None:
    kernels = mutated_kernels(tmp_path, FILE, *MUTATIONS[name])
    with pytest.raises(AssertionError):
        assert error_to_rounding(2, kernels=kernels) <= 1.01
