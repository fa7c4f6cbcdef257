"""Winograd along depth with its transforms in the product: kernel and Programs in the simulator, against float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metal_programs import Case, check, drawn_case, mutated_kernels, run
from metal_sim import SCHEDULES, Program
from metal_sim.support import needs_metal_sim

import mlx_conv3d

DTYPES = ("float16", "bfloat16")
MODES = ("zeros", "edge", "reflect")
GROUPS = (2, 4, 6)
NONE = ((0, 0),) * 3


def fused(m: int, outs: int = 6) -> tuple[int, ...]:
    return (1, 1, 1, outs, m, 0, 0, 1)


SMALL = Case(x=(1, 7, 3, 5, 5), w=(6, 3, 1, 1, 5), padding=NONE, dtype="bfloat16", chunks=fused(4))
WIDE = replace(
    SMALL, x=(2, 5, 4, 7, 34), w=(90, 3, 1, 1, 34), padding=((1, 1), (0, 1), (1, 0)), chunks=fused(2, 90)
)


@needs_metal_sim
@pytest.mark.parametrize(("m", "dtype", "mode"), [*product(GROUPS, DTYPES, MODES)])
def test_groups_types_and_padding(m: int, dtype: str, mode: str) -> None:
    """Ragged groups, positions and channels, padding on all axes in one mode."""
    padding = ((2, 1), (1, 2), (2, 1))
    check(replace(SMALL, dtype=dtype, modes=(mode,) * 3, padding=padding, chunks=fused(m), seed=m))


@needs_metal_sim
@pytest.mark.parametrize(("m", "dtype"), [*product(GROUPS, DTYPES)])
def test_schedules(m: int, dtype: str) -> None:
    """Two images, several steps, blocks of positions and of outputs."""
    check(replace(WIDE, dtype=dtype, bias=True, chunks=fused(m, 90)), schedules=SCHEDULES)


@needs_metal_sim
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("m", GROUPS)
def test_frames(frames: int, m: int) -> None:
    """Fewer than a group, whole groups and ragged ones."""
    check(replace(SMALL, x=(1, frames + 2, 2, 3, 3), w=(4, 3, 1, 1, 3), chunks=fused(m, 4)))


@needs_metal_sim
@pytest.mark.parametrize(
    "case",
    [
        replace(SMALL, flip=True),
        replace(WIDE, chunks=fused(4, 32)),
        replace(SMALL, x=(1, 5, 4, 6, 16), w=(64, 3, 1, 1, 16), chunks=fused(2, 64)),
        replace(SMALL, x=(1, 8, 6, 7, 5), padding=((0, -1), (-1, 0), (0, -2))),
        replace(SMALL, lead=2, modes=("edge", "zeros", "zeros"), padding=((1, 1), (0, 0), (0, 0))),
        replace(SMALL, lead=3, dtype="float16", activation="silu", bias=True, residual=True),
        replace(
            SMALL, upsample=(2, 2, 3), padding=((1, 1), (1, 0), (0, 1)), modes=("edge", "zeros", "reflect")
        ),
        replace(SMALL, strides=(("x", (1, 12, 700, 100, 5000)), ("w", (1, 100, 0, 0, 7)))),
    ],
    ids=["flip", "slices", "whole-blocks", "crop", "lead", "lead-epilogue", "upsampled", "views"],
)
def test_geometry(case: Case) -> None:
    check(case)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def axis(most: int, least: int = 1) -> int:
        return draw(st.integers(least, most))

    channels, outs = axis(35), axis(80)
    size = (axis(12, 3), axis(6), axis(6))
    return drawn_case(
        draw,
        (axis(2), *size, channels),
        (outs, 3, 1, 1, channels),
        draw(st.sampled_from(DTYPES)),
        fused(draw(st.sampled_from(GROUPS)), draw(st.sampled_from([min(32, outs), outs]))),
    )


@needs_metal_sim
@settings(max_examples=40)
@given(cases())
def test_drawn_programs(case: Case) -> None:
    check(case)


@needs_metal_sim
@pytest.mark.parametrize(("m", "share"), [(2, 4 / 6), (4, 6 / 12), (6, 8 / 18)])
def test_fewer_products(m: int, share: float) -> None:
    """12 frames of 48 positions, 32 to 64 channels: without transforms 3 products per output and channel."""
    case = Case(x=(1, 14, 6, 8, 32), w=(64, 3, 1, 1, 32), dtype="bfloat16", padding=NONE, chunks=fused(m, 64))
    steps = run(case)[0].check().steps
    assert sum(s.matrix_multiplies for s in steps) == share * 3 * 12 * 48 * 32 * 64 / 8**3


@needs_metal_sim
@pytest.mark.parametrize("m", GROUPS)
@pytest.mark.parametrize(
    "given_case", [replace(SMALL, x=(1, 8, 4, 6, 32), w=(64, 3, 1, 1, 32)), WIDE], ids=str
)
def test_declared_bytes(m: int, given_case: Case) -> None:
    """What each step says it moves is what the simulator counts, within 10 %; nothing but weights is scratch."""
    case = replace(given_case, bias=True, residual=True, chunks=fused(m, given_case.w[0]))
    program = case.program()
    steps = run(case)[0].check().steps
    counted = [s.touched for s in steps]
    assert [s.nbytes for s in program.steps] == pytest.approx(counted, rel=0.1)
    assert [b.name for b in program.buffers if b.role == "scratch"] == ["weights"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dtype": "float32"}, "16-bit operands and results"),
        ({"w_dtype": "float32"}, "16-bit operands and results"),
        ({"w": (6, 3, 3, 3, 5), "chunks": (2, 1, 1, 6, 2, 0, 0, 1)}, "only a 3x1x1 kernel"),
    ],
)
def test_what_it_cannot_take_is_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changed).program()


@pytest.mark.parametrize("device", ["m1", "m1-max", "m3-max", "m4-max"])
def test_large_temporal_layers_take_it(device: str) -> None:
    """Their slices' weights fit the system-level cache, and the input is read once and a half for each slice."""
    x, w = (1, 18, 88, 160, 512), (512, 3, 1, 1, 512)
    p = mlx_conv3d.plan(x, w, dtype=mx.bfloat16, device=device)
    assert "in the product" in str(p)
    program = Program.from_dict(p.program)
    assert program.problems() == []
    assert len(program.steps) == 2 * -(-512 // p.chunk[2])
    assert program.scratch_bytes == p.workspace <= 0.75 * {"m1": 8 << 20}.get(device, 48 << 20)
    assert sum(s.flops for s in program.steps) == pytest.approx(p.flops, rel=0.01)
    assert p.bytes < 3 * sum(b.nbytes for b in program.buffers if b.name in ("x", "y"))
    assert "in the product" not in str(mlx_conv3d.plan(x, w, dtype=mx.float32, device=device))


# Bounds that the drawn mutations of tests/metal_mutations.py do not make: what stands there, what replaces it.
FILE = "winograd_frames_gemm.metal"
MUTATIONS = {
    "padding-in-time-read": ("frames[f] < 0 || ", ""),
    "padding-in-space-read": ("!pixels[i].inside || ", ""),
    "channels-unbounded": (" || c >= p.channels", ""),
    "rows-unbounded": ("index >= p.positions || ", ""),
    "outputs-unbounded": (" || o >= p.out_slice", ""),
    "frames-unbounded": ("if (first_frame + f >= p.frames) break;", ""),
    "group-of-another": ("first_frame = group.z * M", "first_frame = group.z"),
    "other-image": ("(image * p.frames + first_frame + f)", "(first_frame + f)"),
    "one-tile": ("(s & 1) * size * tile", "0"),
    "one-frequency": ("from = to + simdgroup * tile", "from = to"),
}


@needs_metal_sim
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_kernels_are_caught(name: str, tmp_path: Path) -> None:
    kernels = mutated_kernels(tmp_path, FILE, *MUTATIONS[name])
    with pytest.raises(AssertionError):
        check(replace(WIDE, chunks=fused(4, 90)), kernels=kernels)
