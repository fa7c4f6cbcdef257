"""Winograd whose weights, and tiles, are made for some rows of frequencies or sets of outputs at a time: its Programs
in the simulator."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from metal_programs import Case, check, mutated_kernels, run
from metal_sim import SCHEDULES
from metal_sim.support import needs_metal_sim

pytestmark = needs_metal_sim
SMALL = Case(x=(1, 6, 7, 9, 5), w=(6, 3, 3, 3, 5), padding=((1, 1), (1, 1), (1, 2)), lead=1)


SETS = replace(SMALL, w=(70, 3, 3, 3, 5))  # of 32, 32 and 6 outputs


def passes(m: int, depth: int, rows: int, tiles_too: bool) -> tuple[int, ...]:
    return (m, 4, 4, 6, depth, rows, int(tiles_too))


def sets(
    m: int,
    depth: int,
    rows: int,
    tiles_too: bool = False,
    *,
    outs: int = 32,
    slice_: int = 70,
    float24: int = 0,
) -> tuple[int, ...]:
    return (m, 4, 4, slice_, depth, rows, int(tiles_too), 0, float24, outs)


@pytest.mark.parametrize(
    ("m", "rows", "depth", "tiles_too"),
    [c for c in product((2, 4, 6), (1, 2, 3), (1, 2), (False, True)) if c[1] < 3 or c[0] == 6],
)
def test_tiles_and_rows(m: int, rows: int, depth: int, tiles_too: bool) -> None:
    """Also where the last pass has fewer rows."""
    check(replace(SMALL, dtype="bfloat16", chunks=passes(m, depth, rows, tiles_too)))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("tiles_too", [False, True])
def test_schedules(dtype: str, tiles_too: bool) -> None:
    check(replace(SMALL, dtype=dtype, bias=True, chunks=passes(4, 2, 2, tiles_too)), schedules=SCHEDULES)


@pytest.mark.parametrize("depth", [1, 2])
def test_slices(depth: int) -> None:
    check(replace(SMALL, w=(70, 3, 3, 3, 5), flip=True, chunks=(4, 4, 4, 32, depth, 2, 1)))


@pytest.mark.parametrize("depth", [1, 2])
def test_same_bits_as_all_at_once(depth: int) -> None:
    chunks = [(4, 4, 4, 6, depth), passes(4, depth, 2, False), passes(4, depth, 2, True)]
    whole, *others = [run(replace(SMALL, chunks=c))[1] for c in chunks]
    assert all(np.array_equal(whole, other) for other in others)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("tiles_too", [False, True])
def test_scratch_and_declared_bytes(depth: int, tiles_too: bool) -> None:
    """A pass holds its rows only; bytes are what the simulator counts, within 10 %; FLOPs are those of one pass."""
    case = Case(x=(1, 6, 16, 16, 16), w=(32, 3, 3, 3, 16), dtype="bfloat16", chunks=(6, 9, 4, 32, depth))
    whole = case.program()
    case = replace(case, chunks=(*case.chunks, 2, int(tiles_too)))
    program = case.program()
    for name, shrinks in (("weights", True), ("tiles", tiles_too), ("products", False)):
        assert whole.buffer(name).nbytes == program.buffer(name).nbytes * (4 if shrinks else 1)
    result = check(case)
    counted = sum(s.touched for s in result.steps)
    assert sum(s.nbytes for s in program.steps) == pytest.approx(counted, rel=0.1)
    assert sum(s.flops for s in program.steps if "gemm" in s.kernel) == sum(
        s.flops for s in whole.steps if "gemm" in s.kernel
    )


@pytest.mark.parametrize(
    ("m", "rows", "depth", "tiles_too"),
    [c for c in product((2, 4, 6), (1, 2, 8), (1, 2), (False, True)) if not (c[1] == 8 and c[3])],
)
def test_sets_of_outputs(m: int, rows: int, depth: int, tiles_too: bool) -> None:
    """Each set's weights meet a pass's tiles; 8 rows are one pass, which leaves finished products."""
    check(replace(SETS, dtype="bfloat16", bias=True, chunks=sets(m, depth, rows, tiles_too, float24=1)))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [2, 8])
def test_schedules_of_sets(dtype: str, rows: int) -> None:
    check(replace(SETS, dtype=dtype, residual=True, chunks=sets(4, 2, rows)), schedules=SCHEDULES)


@pytest.mark.parametrize(("outs", "slice_"), [(32, 64), (40, 70), (64, 64), (70, 70), (96, 70), (32, 32)])
def test_sets_and_slices(outs: int, slice_: int) -> None:
    """Ragged sets, sets that are no whole blocks, sets of a whole slice, and a last slice of fewer sets."""
    check(replace(SETS, flip=True, activation="relu", chunks=sets(4, 2, 2, True, outs=outs, slice_=slice_)))


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("rows", [2, 6])
def test_sets_have_the_same_bits_as_all_at_once(depth: int, rows: int) -> None:
    # 64 outputs: the same blocks, and with them the same order of sums.
    case = replace(SETS, w=(64, 3, 3, 3, 5), chunks=(4, 4, 4, 64, depth))
    whole = run(case)[1]
    assert np.array_equal(whole, run(replace(case, chunks=sets(4, depth, rows, outs=32, slice_=64)))[1])


@pytest.mark.parametrize("rows", [2, 6])
@pytest.mark.parametrize("depth", [1, 2])
def test_scratch_and_declared_bytes_of_sets(depth: int, rows: int) -> None:
    """A set's weights at a time; of its products all passes' but one's; bytes are what the simulator counts."""
    case = Case(
        x=(1, 6, 16, 16, 16), w=(80, 3, 3, 3, 16), dtype="bfloat16", chunks=(4, 16, 4, 80, depth, rows)
    )
    whole = case.program()
    case = replace(case, chunks=(*case.chunks, 0, 0, 0, 32))
    program = case.program()
    assert program.buffer("tiles").nbytes == whole.buffer("tiles").nbytes
    assert program.buffer("weights").nbytes * 3 == whole.buffer("weights").nbytes  # 96 columns
    assert program.buffer("products").nbytes == whole.buffer("products").nbytes // (3 if rows == 6 else 1)
    steps = check(case).steps
    assert [s.nbytes for s in program.steps] == pytest.approx([s.touched for s in steps], rel=0.1)
    assert sum(s.flops for s in program.steps) == pytest.approx(sum(s.flops for s in whole.steps), rel=0.03)


def test_sets_need_passes() -> None:
    with pytest.raises(ValueError, match="need passes"):
        replace(SETS, chunks=sets(4, 2, 0)).program()


MUTATIONS = {
    "weights-all-rows": ("winograd_weight.metal", "if (to < 0 || to >= row_count) continue;", ""),
    "weights-first-rows": ("winograd_weight.metal", "i - first_row", "i"),
    "tiles-all-rows": ("winograd_input.metal", "if (to < 0 || to >= row_count) continue;", ""),
    "tiles-first-rows": ("winograd_input.metal", "i - first_row", "i"),
    "zeros-short": ("winograd_input.metal", "i < row_count * size", "i < row_count"),
    "products-over-each-other": ("winograd_depth_gemm.metal", "p.first_products + ", ""),
    "tiles-of-another-pass": ("winograd_depth_gemm.metal", "p.first_tiles", "p.first_products"),
}
SET_MUTATIONS = {
    "outputs-of-the-first-set": ("winograd_output.metal", "p.first + ", ""),
    "products-over-each-other": ("winograd_depth_gemm.metal", "p.first_products + ", ""),
    "weights-of-the-first-set": ("winograd_weight.metal", "p.first_out + ", ""),
    "outputs-over-each-other": ("winograd_output.metal", "p.first_out + at.x", "at.x"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_kernels_are_caught(name: str, tmp_path: Path) -> None:
    kernels = mutated_kernels(tmp_path, *MUTATIONS[name])
    with pytest.raises(AssertionError):
        check(replace(SMALL, chunks=passes(4, 2, 2, True)), kernels=kernels, schedules=SCHEDULES[:1])


@pytest.mark.parametrize("name", SET_MUTATIONS)
def test_mutated_kernels_of_sets_are_caught(name: str, tmp_path: Path) -> None:
    kernels = mutated_kernels(tmp_path, *SET_MUTATIONS[name])
    with pytest.raises(AssertionError):
        check(replace(SETS, chunks=sets(4, 2, 2)), kernels=kernels, schedules=SCHEDULES[:1])
