"""Products of bf16 tiles (AMX) and of pairs of bf16 (AVX512_BF16) against float64: every kind of operand, ragged sizes,
and numbers that they cannot hold. On a machine without either the same problems run on what it has."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import operands
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import VIEWS, Problem, of

from mlx_conv3d import _ext, conv3d, plan

ISA = _ext.isa()
# Some units multiply fp16 as it is.
PARTS = {
    ("bfloat16", "bfloat16"): (1,),
    ("float16", "float16"): (1, 2),
    ("bfloat16", "float16"): (3,),
    ("float32", "float32"): (3,),
}


def is_tiled(types: tuple[str, str]) -> bool:
    """Whether this machine has a unit for them. Pairs are bf16 as it is."""
    return ISA == "amx" or (ISA == "avx512_bf16" and types == ("bfloat16", "bfloat16"))


PROBLEMS: dict[str, Problem] = {
    "3x3x3": of((2, 3, 9, 11, 64), (48, 3, 3, 3, 64), padding=1),
    "ragged channels": of((1, 3, 10, 13, 45), (53, 3, 3, 3, 45), padding=1),
    "merged taps": of((1, 2, 17, 19, 10), (40, 3, 3, 3, 10), padding=1),
    "stem": of((1, 4, 20, 21, 3), (64, 3, 7, 7, 3), padding=3, stride=(1, 2, 2)),
    "pointwise": of((2, 3, 17, 19, 130), (70, 1, 1, 1, 130)),
    "strided pointwise": of((1, 4, 41, 62, 160), (96, 1, 1, 1, 160), stride=(1, 2, 3)),
    "temporal": of((1, 9, 6, 7, 96), (100, 3, 1, 1, 96), padding=((2, 0), (0, 0), (0, 0))),
    "patchify": of((1, 4, 16, 24, 8), (130, 2, 4, 4, 8), stride=(2, 4, 4)),
    "strided": of((1, 5, 15, 18, 40), (64, 3, 3, 3, 40), stride=2, padding=((1, 1), (0, 1), (1, 0))),
    "stride over the kernel": of((1, 5, 15, 18, 40), (64, 2, 2, 2, 40), stride=3),
    "dilated": of((1, 7, 15, 14, 32), (64, 3, 3, 3, 32), dilation=2, padding=2),
    "edge and reflect": of(
        (1, 3, 12, 13, 64), (64, 3, 3, 3, 64), padding=1, modes=("edge", "reflect", "edge")
    ),
    "wide rows": of((1, 1, 3, 230, 32), (64, 1, 3, 3, 32), padding=(0, 1, 1)),
    "one position": of((1, 3, 3, 3, 96), (96, 3, 3, 3, 96)),
    "long sums": of((1, 3, 6, 7, 520), (64, 3, 3, 3, 520), padding=1),
    "grouped": of((1, 3, 9, 8, 192), (192, 3, 3, 3, 96), groups=2, padding=1),
    "transposed": of((1, 3, 7, 8, 64), (48, 4, 4, 4, 64), input_dilation=2, padding=2),
    "phases without taps": of((1, 3, 7, 8, 64), (48, 1, 2, 2, 64), input_dilation=3),
    "upsampled": of((1, 2, 7, 8, 64), (48, 3, 3, 3, 64), upsample=(1, 2, 2), padding=1),
}
# Their weights are packed where they are multiplied.
FEW_POSITIONS = {
    "zero frames": of((1, 1, 4, 5, 160), (200, 3, 3, 3, 160), padding=1, bias=True),
    "few positions, ragged channels": of((1, 1, 8, 7, 45), (153, 1, 3, 3, 45), padding=(0, 1, 1)),
    "few positions, long sums": of((1, 3, 8, 8, 520), (100, 3, 3, 3, 520)),
    "few positions, groups": of((1, 1, 8, 9, 192), (192, 1, 3, 3, 96), groups=2, padding=(0, 1, 1)),
    "few positions, transposed": of((1, 1, 5, 6, 64), (448, 1, 4, 4, 64), input_dilation=(1, 2, 2)),
}
PROBLEMS |= FEW_POSITIONS
# Pairs of bf16 are read where they lie in x.
IN_PLACE = {
    "few channels": of((1, 3, 40, 41, 16), (16, 1, 1, 1, 16)),
    "ragged channels": of((2, 3, 17, 19, 50), (75, 1, 1, 1, 50), bias=True),
    "an epilogue": of((1, 2, 17, 19, 50), (75, 1, 1, 1, 50), bias=True, residual=True, activation="silu"),
    "a residual": of((1, 2, 9, 7, 64), (48, 1, 1, 1, 64), residual=True),
    "sums of several blocks": of((1, 2, 9, 7, 1100), (40, 1, 1, 1, 1100), bias=True),
    "strided": of((1, 4, 28, 36, 34), (96, 1, 1, 1, 34), stride=2),
    "rows no columns apart": of((1, 2, 25, 37, 34), (70, 1, 1, 1, 34), stride=(1, 2, 3), bias=True),
    "few columns": of((1, 2, 12, 6, 18), (40, 1, 1, 1, 18), stride=(1, 1, 3), bias=True),
    "few columns far apart": of((1, 2, 13, 12, 18), (40, 1, 1, 1, 18), stride=(1, 4, 4), bias=True),
    "a wide row": of((1, 1, 2, 5000, 32), (33, 1, 1, 1, 32)),
    "groups": of((1, 3, 9, 8, 128), (96, 1, 1, 1, 64), groups=2, bias=True),
    "behind lead frames": of((2, 5, 7, 9, 96), (40, 3, 1, 1, 96), lead=2, layout="stepped", bias=True),
    "padded in time": of(
        (1, 5, 7, 9, 96), (40, 3, 1, 1, 96), padding=((2, 1), 0, 0), modes=("edge", "zeros", "zeros")
    ),
    **{
        layout: of((2, 3, 11, 12, 40), (48, 1, 1, 1, 40), stride=(1, 1, 2), layout=layout) for layout in VIEWS
    },
}


def with_types(problem: Problem, types: tuple[str, str], extra_type: str = "float32") -> Problem:
    return replace(problem, x_type=types[0], w_type=types[1], extra_type=extra_type)


@pytest.mark.parametrize("types", PARTS, ids="-".join)
@pytest.mark.parametrize("name", PROBLEMS)
def test_products_of_tiles(name: str, types: tuple[str, str]) -> None:
    problem = with_types(PROBLEMS[name], types)
    made = operands.make(problem)
    exact, scale = operands.solve(problem, made.exact)
    algorithms = {
        c.algorithm: c.parts
        for c in operands.plan_of(problem).candidates
        if c.legal and c.parts > 0 and c.algorithm != "winograd"
    }
    # Of a single position, splitting the weights takes longer than all of its products.
    paying = name != "one position" or PARTS[types][0] == 1
    assert bool(algorithms) == (is_tiled(types) and paying) and set(algorithms.values()) <= set(PARTS[types])
    for algorithm in ["auto", *(() if problem.general else algorithms)]:
        y = operands.run(problem, made.arrays, algorithm)
        operands.check(y, problem, exact, scale, algorithm)


@pytest.mark.parametrize("extra_type", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_pairs_read_in_place(name: str, extra_type: str) -> None:
    problem = with_types(IN_PLACE[name], ("bfloat16", "bfloat16"), extra_type)
    made = operands.make(problem)
    exact, scale = operands.solve(problem, made.exact)
    algorithm = "grouped" if problem.groups > 1 else "temporal" if problem.w[1] > 1 else "pointwise"
    options = operands.plan_options(problem)
    reason = plan(problem.x, problem.w, **options, algorithm=algorithm).reason
    assert ("with x read in place" in reason) == (ISA == "avx512_bf16")
    operands.check(operands.run(problem, made.arrays, algorithm), problem, exact, scale, algorithm)


@pytest.mark.parametrize("row", [0, 4, 8])
def test_tiny_numbers_of_any_row_in_place_count(row: int) -> None:
    """Pairs would take them for zeros."""
    x = np.zeros((1, 1, 9, 12, 32), np.float32)
    x[0, 0, row, 2, 5] = 1e-39
    w = mx.full((32, 1, 1, 1, 32), 1e6).astype(mx.bfloat16)
    y = conv3d(mx.array(x).astype(mx.bfloat16), w, stride=(1, 2, 1))
    found = np.array((y * 1e30).astype(mx.float32))
    assert np.allclose(found[0, 0, row // 2, 2], 1e-3, rtol=0.02) and np.count_nonzero(found) == 32


def test_a_block_of_one_row_holds_its_own_sums_only() -> None:
    """However wide the rows are that it is a part of."""
    planned = plan((1, 1_000_000, 64), (64, 1, 64), dtype=mx.bfloat16)
    assert planned.workspace < 4 << 20


def test_lead_frames_may_lie_otherwise_than_x() -> None:
    """The same bits as where both are contiguous."""
    wide, lead, w = (
        mx.array(values).astype(mx.bfloat16)
        for values in (normal(1, 5, 6, 7, 80), normal(1, 2, 6, 7, 64), normal(48, 3, 1, 1, 64, seed=1))
    )
    x = wide[..., 8:72]
    assert mx.array_equal(conv3d(x, w, lead=lead), conv3d(mx.contiguous(x), w, lead=lead))


def test_pixels_of_odd_channels_are_not_read_in_place() -> None:
    """The last pair of the last pixel would reach beyond x."""
    for channels in (32, 33):
        reason = plan((1, 4, 32, 32, channels), (64, 1, 1, 1, channels), dtype=mx.bfloat16).reason
        assert ("with x read in place" in reason) == (ISA == "avx512_bf16" and channels == 32)


@pytest.mark.parametrize("types", PARTS, ids="-".join)
@pytest.mark.parametrize("name", FEW_POSITIONS)
def test_few_positions(name: str, types: tuple[str, str]) -> None:
    problem = with_types(FEW_POSITIONS[name], types)
    options = operands.plan_options(problem) | {"input_dilation": problem.input_dilation}
    algorithm = "transposed" if name.endswith("transposed") else "implicit_gemm"
    reason = plan(problem.x, problem.w, **options, algorithm=algorithm).reason
    assert ("packed where they are multiplied" in reason) == is_tiled(types)


@pytest.mark.parametrize("number", [1e-36, 1e30, np.inf, np.nan])
def test_a_weight_of_few_positions_that_tiles_cannot_hold(number: float) -> None:
    """Its output channel is right, and so are all others, though it is met when some are multiplied already."""
    x, w = normal(1, 1, 8, 9, 45), normal(153, 1, 3, 3, 45, seed=1)
    if number < 1:
        w *= np.float32(number)
    w[150, 0, 2, 2, 44] = number
    y = np.array(conv3d(mx.array(x), mx.array(w), algorithm="implicit_gemm"))
    windows = np.lib.stride_tricks.sliding_window_view(x[0, 0].astype(np.float64), (3, 3), axis=(0, 1))
    exact = np.einsum("hwcij,oijc->hwo", windows, w[:, 0].astype(np.float64))
    np.testing.assert_allclose(y[0, 0], exact, rtol=1e-5, atol=1e-4 * (number if number < 1 else 1))


def sums_of_products(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) @ w.astype(np.float64).T


def pointwise(x: np.ndarray, w: np.ndarray, dtype: mx.Dtype = mx.float32) -> np.ndarray:
    """Rows x channels by outputs x channels, as a 1x1x1 convolution."""
    y = conv3d(mx.array(x[None, None, None]).astype(dtype), mx.array(w[:, None, None, None]).astype(dtype))
    return np.array(y.astype(mx.float32))[0, 0, 0]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=30)
@given(
    rows=st.integers(1, 100),
    channels=st.integers(1, 200),
    outputs=st.integers(5, 100),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    seed=st.integers(0, 99),
)
def test_ragged_products(rows: int, channels: int, outputs: int, dtype: str, seed: int) -> None:
    kind = operands.dtype_of(dtype)
    x, w = (
        np.array(mx.array(normal(n, channels, seed=seed + n)).astype(kind).astype(mx.float32))
        for n in (rows, outputs)
    )
    exact = sums_of_products(x, w)
    y = pointwise(x, w, kind)
    rounded = np.array(mx.array(exact.astype(np.float32)).astype(kind).astype(mx.float32))
    allowed = 1e-6 * reference.norm(exact) + 1.02 * reference.norm(rounded - exact)
    assert reference.norm(y - exact) <= allowed


def test_six_products_are_as_exact_as_fp32() -> None:
    """Closer to the exact sums than those that fp32 numbers are added to one by one."""
    x, w = normal(300, 512), normal(64, 512, seed=1)
    exact = sums_of_products(x, w)
    running = np.zeros(exact.shape, dtype=np.float32)
    for k in range(x.shape[1]):
        running += np.outer(x[:, k], w[:, k])
    assert reference.norm(pointwise(x, w) - exact) <= reference.norm(running - exact)


def test_all_bits_of_an_operand_count() -> None:
    """Products with one are the operand itself, whatever its last bits are."""
    x = np.concatenate([normal(200, 64), np.nextafter(np.float32(1), normal(8, 64))])
    assert np.array_equal(pointwise(x, np.eye(64, dtype=np.float32)), x)
    w = normal(64, 64, seed=1)
    assert np.array_equal(pointwise(np.eye(64, dtype=np.float32).repeat(4, 0), w), w.T.repeat(4, 0))


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e-18, 1e18, 1e30])
@pytest.mark.parametrize("which", ["x", "w"])
def test_tiny_and_huge_numbers(which: str, scale: float) -> None:
    """Parts of numbers near the ends of fp32's range would be lost or overflow."""
    x, w = normal(200, 96), normal(64, 96, seed=1)
    if which == "x":
        x = (x * scale).astype(np.float32)
    else:
        w = (w * scale).astype(np.float32)
    exact = sums_of_products(x, w)
    assert reference.norm(pointwise(x, w) / scale - exact / scale) <= 1e-6 * reference.norm(exact / scale)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("which", ["x", "w"])
def test_infinities_stay_where_they_are(which: str, value: float, dtype: str) -> None:
    """Only what meets them is infinite or no number."""
    x, w = normal(8 * 9 * 3, 12).reshape(1, 3, 8, 9, 12), normal(40 * 27, 12).reshape(40, 3, 3, 3, 12)
    {"x": x[0, 1, 2, 6], "w": w[7, 1, 1, 1]}[which][5] = value
    kind = operands.dtype_of(dtype)
    problem = of(x.shape, w.shape, padding=1, x_type=dtype, w_type=dtype)
    y = np.array(
        conv3d(
            mx.array(x).astype(kind), mx.array(w).astype(kind), padding=1, algorithm="implicit_gemm"
        ).astype(mx.float32)
    )
    with np.errstate(invalid="ignore"):
        exact, _ = operands.solve(problem, {"x": x.astype(np.float64), "w": w.astype(np.float64)})
    assert np.array_equal(
        np.where(np.isfinite(y), 0, y), np.where(np.isfinite(exact), 0, exact), equal_nan=True
    )


@pytest.mark.parametrize("channels", [48, 160])
@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
@pytest.mark.parametrize("which", ["x", "w"])
def test_infinities_of_pixels_read_in_place(which: str, value: float, channels: int) -> None:
    x, w = (
        np.array(mx.array(a).astype(mx.bfloat16).astype(mx.float32))
        for a in (normal(600, channels), normal(40, channels, seed=1))
    )
    {"x": x[411], "w": w[7]}[which][channels - 1] = value
    y = pointwise(x, w, mx.bfloat16)
    with np.errstate(invalid="ignore", over="ignore"):
        exact = sums_of_products(x, w)
    there = np.abs(exact) < 3e38
    assert np.array_equal(np.isnan(y), np.isnan(exact))
    assert reference.norm((y[there] - exact[there]) / 1e20) <= 3e-3 * reference.norm(exact[there] / 1e20)
    assert not np.isfinite(y[np.abs(exact) > 3.5e38]).any()


def test_subnormal_fp16_numbers() -> None:
    x, w = np.full((40, 64), 2.0**-24, np.float32), normal(64, 64).astype(np.float16).astype(np.float32)
    exact = sums_of_products(x, w) * 2.0**24
    y = pointwise(x, (w * 2.0**12).astype(np.float16).astype(np.float32), mx.float16) * 2.0**12
    assert reference.norm(y - exact) <= 1e-3 * reference.norm(exact)


def test_zeros_are_multiplied() -> None:
    assert not pointwise(np.zeros((200, 64), np.float32), normal(64, 64)).any()


def test_a_plan_says_how_products_are_taken() -> None:
    for name, parts in (("bfloat16", (1,)), ("float16", (1, 2)), ("float32", (3,))):
        planned = plan((1, 4, 32, 32, 256), (256, 1, 1, 1, 256), dtype=operands.dtype_of(name))
        assert planned.parts in (parts if is_tiled((name, name)) else (0,))
        unit = "pairs of bf16" if ISA == "avx512_bf16" else "16 tiles"
        assert (unit in str(planned)) == is_tiled((name, name))
    narrow = plan((1, 4, 32, 32, 2), (3, 1, 1, 1, 2), dtype=mx.float32)
    assert narrow.parts == 0
