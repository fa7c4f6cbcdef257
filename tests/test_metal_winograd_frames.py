"""Winograd along depth, of 3x1x1 kernels: its kernels and Programs in the simulator, against float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metal_programs import Case, check, drawn_case, mutated_kernels, run
from metal_sim import SCHEDULES, Program
from metal_sim.support import needs_metal_sim

import mlx_conv3d

DTYPES = ("float32", "float16", "bfloat16")
MODES = ("zeros", "edge", "reflect")
GROUPS = (2, 4, 6)
NONE = ((0, 0),) * 3


def chunks(m: int, tiles: int = 5, frames: int = 4, outs: int = 6) -> tuple[int, ...]:
    return (1, tiles, frames, outs, m)


SMALL = Case(x=(1, 7, 3, 5, 5), w=(6, 3, 1, 1, 5), padding=NONE, chunks=chunks(4))


FORMS = list(product(GROUPS, DTYPES))


@needs_metal_sim
@pytest.mark.parametrize(("m", "dtype", "mode"), [(*form, mode) for form in FORMS for mode in MODES])
def test_groups_types_and_padding(m: int, dtype: str, mode: str) -> None:
    """Ragged groups and channels, several chunks of positions and frames, padding on all axes in one mode."""
    padding = ((2, 1), (1, 2), (2, 1))
    check(replace(SMALL, dtype=dtype, modes=(mode,) * 3, padding=padding, chunks=chunks(m, 11), seed=m))


@needs_metal_sim
@pytest.mark.parametrize(("m", "dtype"), FORMS)
def test_schedules(m: int, dtype: str) -> None:
    check(replace(SMALL, dtype=dtype, bias=True, chunks=chunks(m, 8, m)), schedules=SCHEDULES)


@needs_metal_sim
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("in_chunk", [1, 4, 5, 99])
def test_frames(frames: int, in_chunk: int) -> None:
    """Fewer than a group, whole groups and ragged ones, in chunks that need not be whole."""
    check(replace(SMALL, x=(1, frames + 2, 2, 3, 3), w=(4, 3, 1, 1, 3), chunks=chunks(4, 6, in_chunk, 4)))


@needs_metal_sim
@pytest.mark.parametrize(
    "case",
    [
        replace(SMALL, flip=True),
        replace(SMALL, x=(3, 4, 3, 5, 5), chunks=chunks(2, 8, 2)),
        replace(SMALL, x=(1, 5, 6, 5, 16), w=(70, 3, 1, 1, 16), chunks=chunks(2, 30, 3, 32)),
        replace(
            SMALL, x=(1, 5, 9, 9, 18), w=(96, 3, 1, 1, 18), chunks=chunks(2, 81, 4, 96), dtype="bfloat16"
        ),
        replace(SMALL, x=(1, 6, 9, 9, 18), w=(64, 3, 1, 1, 18), chunks=chunks(4, 40, 4, 64)),
        replace(SMALL, dtype="bfloat16", w_dtype="float32"),
        replace(SMALL, dtype="float32", w_dtype="float16"),
        replace(SMALL, x=(1, 8, 6, 7, 5), padding=((0, -1), (-1, 0), (0, -2))),
        replace(SMALL, lead=2, modes=("edge", "zeros", "zeros"), padding=((1, 1), (0, 0), (0, 0))),
        replace(SMALL, lead=3, dtype="float16", activation="silu", bias=True, residual=True),
        replace(
            SMALL, upsample=(2, 2, 3), padding=((1, 1), (1, 0), (0, 1)), modes=("edge", "zeros", "reflect")
        ),
        replace(SMALL, strides=(("x", (1, 12, 700, 100, 5000)), ("w", (1, 100, 0, 0, 7)))),
    ],
    ids=[
        "flip",
        "chunks-across-images",
        "slices",
        "64x96",
        "64x64-fp32",
        "bf16-with-fp32-weights",
        "fp32-with-fp16-weights",
        "crop",
        "lead",
        "lead-epilogue",
        "upsampled",
        "views",
    ],
)
def test_geometry(case: Case) -> None:
    check(case)


ROWS = {
    "ragged": Case(x=(1, 1, 1, 37, 5), w=(6, 1, 1, 3, 5), padding=(*NONE[:2], (1, 1)), chunks=chunks(4, 1, 12)),
    "batch, several chunks": Case(x=(5, 1, 1, 23, 18), w=(70, 1, 1, 3, 18), padding=NONE, chunks=chunks(6, 3, 12, 70)),
    "pairs": Case(x=(2, 1, 1, 9, 33), w=(40, 1, 1, 3, 33), padding=(*NONE[:2], (2, 0)), chunks=chunks(2, 2, 4, 40)),
    "reflect": Case(
        x=(2, 1, 1, 14, 7), w=(9, 1, 1, 3, 7), padding=(*NONE[:2], (1, 1)), modes=("reflect",) * 3,
        chunks=chunks(4, 2, 8),
    ),
    "fused": Case(x=(27, 1, 1, 9, 16), w=(64, 1, 1, 3, 16), padding=NONE, chunks=(*chunks(4, 27, 7, 64), 0, 0, 1)),
    "epilogue, flipped": Case(
        x=(2, 1, 1, 21, 8), w=(12, 1, 1, 3, 8), padding=(*NONE[:2], (1, 1)), chunks=chunks(6, 2, 19, 12),
        bias=True, residual=True, activation="gelu", flip=True,
    ),
    "as planned": Case(x=(2, 1, 1, 40, 24), w=(48, 1, 1, 3, 24), padding=(*NONE[:2], (1, 1))),
}  # fmt: skip


@needs_metal_sim
@pytest.mark.parametrize(("name", "dtype"), [c for c in product(ROWS, DTYPES) if c != ("fused", "float32")])
def test_single_rows(name: str, dtype: str) -> None:
    """1-D: the row takes the place of depth, where the operands lie as they do."""
    check(replace(ROWS[name], dtype=dtype))


@st.composite
def rows(draw: st.DrawFn) -> Case:
    channels, outs = draw(st.integers(1, 19)), draw(st.integers(1, 35))
    m = draw(st.sampled_from(GROUPS))
    case = drawn_case(
        draw,
        (draw(st.integers(1, 4)), 1, 1, draw(st.integers(3, 60)), channels),
        (outs, 1, 1, 3, channels),
        draw(st.sampled_from(DTYPES)),
        chunks(m, draw(st.integers(1, 4)), draw(st.integers(1, 40)), outs),
    )
    return replace(case, lead=0)


@needs_metal_sim
@settings(max_examples=30)
@given(rows())
def test_drawn_rows(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("device", ["m1", "m3-max"])
def test_rows_of_many_channels_are_won(device: str) -> None:
    p = mlx_conv3d.plan((4, 3002, 512), (512, 3, 512), dtype=mx.bfloat16, device=device)
    assert (p.algorithm, p.tile_height, p.depth_tile) == ("winograd", 1, 1) and p.tile in (4, 6)
    assert "along the width" in str(p)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def axis(most: int, least: int = 1) -> int:
        return draw(st.integers(least, most))

    channels, outs = axis(19), axis(35)
    dtype = draw(st.sampled_from(DTYPES))
    m = draw(st.sampled_from(GROUPS))
    size = (axis(12, 3), axis(5), axis(5))
    return drawn_case(
        draw,
        (axis(2), *size, channels),
        (outs, 3, 1, 1, channels),
        dtype,
        chunks(m, axis(40, 8), axis(12), draw(st.sampled_from([32, outs]))),
    )


@needs_metal_sim
@settings(max_examples=40)
@given(cases())
def test_drawn_programs(case: Case) -> None:
    check(case)


@needs_metal_sim
@pytest.mark.parametrize("channels", [256, 1024])
@pytest.mark.parametrize("m", [4, 6])
def test_float32_contract(m: int, channels: int) -> None:
    """768 products, and four times as many: within 3e-6 in both."""
    case = Case(
        x=(1, m + 2, 4, 4, channels), w=(16, 3, 1, 1, channels), padding=NONE, chunks=chunks(m, 16, m, 16)
    )
    check(case)


@needs_metal_sim
@pytest.mark.parametrize(("m", "share"), [(2, 4 / 6), (4, 6 / 12), (6, 8 / 18)])
def test_fewer_products(m: int, share: float) -> None:
    """12 frames of 64 positions, 32 to 64 channels: without transforms 3 products per output and channel."""
    shape = Case(x=(1, 14, 8, 8, 32), w=(64, 3, 1, 1, 32), dtype="bfloat16", padding=NONE)
    steps = run(replace(shape, chunks=chunks(m, 64, 12, 64)))[0].check().steps
    assert sum(s.matrix_multiplies for s in steps) == share * 3 * 12 * 64 * 32 * 64 / 8**3


@needs_metal_sim
@pytest.mark.parametrize(("m", "x", "outs"), [(2, (1, 6, 4, 8, 16), 32), (4, (2, 9, 4, 4, 32), 64)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_declared_bytes(m: int, x: tuple[int, ...], outs: int, dtype: str) -> None:
    """What each step says it moves is what the simulator counts, within 10 %."""
    case = Case(x=x, w=(outs, 3, 1, 1, x[-1]), dtype=dtype, padding=NONE, chunks=chunks(m, 32, 8, outs))
    declared = [s.nbytes for s in case.program().steps]
    steps = run(case)[0].check().steps
    counted = [s.touched for s in steps]
    assert declared == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chunks": chunks(3)}, "2, 4 or 6"),
        ({"chunks": (4, 5, 4, 6, 4)}, "tiles of one position"),
        ({"w": (6, 3, 3, 3, 5)}, "tiles are 2, 4 or 6"),
        ({"chunks": (*chunks(4), 2)}, "weights made at once"),
    ],
)
def test_what_it_cannot_take_is_refused(changed: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=f"depth tile does not fit: .*{message}"):
        replace(SMALL, **changed).program()


@pytest.mark.parametrize("options", [{"stride": (2, 1, 1)}, {"dilation": (2, 1, 1)}])
def test_other_steps_along_depth_are_not_planned(options: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="stride, dilation and input dilation 1"):
        replace(SMALL, chunks=(), **options).program()


@pytest.mark.parametrize("device", ["m1", "m1-max", "m3-max", "m4-max"])
def test_large_temporal_layers_are_won(device: str) -> None:
    """Groups of 4 or 6 frames: half of the products, or less."""
    x, w = (1, 18, 88, 160, 512), (512, 3, 1, 1, 512)
    p = mlx_conv3d.plan(x, w, dtype=mx.bfloat16, device=device)
    assert (p.algorithm, p.tile) == ("winograd", 1) and p.depth_tile in (4, 6)
    assert "along depth" in str(p)
    program = Program.from_dict(p.program)
    assert program.problems() == []
    assert program.scratch_bytes == p.workspace <= 256 << 20
    assert sum(s.flops for s in program.steps) == pytest.approx(p.flops, rel=0.08)
    assert p.flops < 0.6 * p.direct_flops
    whole = mlx_conv3d.plan(x, w, dtype=mx.float32, device=device)
    assert whole.algorithm == "winograd" and whole.depth_tile in (4, 6)


# Every bound of the kernels, removed or moved: what stands there, what replaces it.
FILE = "winograd_frames.metal"
MUTATIONS = {
    "channels-unbounded": ("d < 0 || c >= p.channels", "d < 0"),
    "padding-read": ("d < 0 || c >= p.channels", "c >= p.channels"),
    "outputs-unbounded": ("o >= p.out_channels || c >= p.channels", "c >= p.channels"),
    "frames-unbounded": ("if (frame >= p.frames) break;", ""),
    "frames-short": ("frame >= p.frames", "frame >= p.frames - 1"),
    "group-of-another": ("p.first_depth + group * M + i", "p.first_depth + group + i"),
    "other-image": ("(image * p.frames + frame)", "frame"),
    "unflipped": ("from[(p.flip ? 2 - i : i) * p.w.d]", "from[i * p.w.d]"),
    "other-frequency": ("out[i * p.frequency_stride] = result[i]", "out[i * p.frequency_stride] = result[0]"),
}


@needs_metal_sim
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_kernels_are_caught(name: str, tmp_path: Path) -> None:
    kernels = mutated_kernels(tmp_path, FILE, *MUTATIONS[name])
    case = replace(
        SMALL, x=(2, 7, 3, 5, 5), flip=True, padding=((1, 1), (0, 0), (0, 0)), chunks=chunks(4, 11, 8)
    )
    with pytest.raises(AssertionError):
        check(case, kernels=kernels, schedules=SCHEDULES[:1])


@needs_metal_sim
def test_agrees_with_one_product_over_the_taps() -> None:
    (_, grouped, _), (_, one, _) = run(SMALL), run(replace(SMALL, chunks=(), algorithm="temporal"))
    assert 0 < np.abs(grouped - one).max() <= 4e-6 * np.abs(one).max()
