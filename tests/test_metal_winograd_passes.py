"""Winograd whose weights, and tiles, are made for some rows of frequencies at a time: its Programs in the simulator."""

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


def passes(m: int, depth: int, rows: int, tiles_too: bool) -> tuple[int, ...]:
    return (m, 4, 4, 6, depth, rows, int(tiles_too))


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


MUTATIONS = {
    "weights-all-rows": ("winograd_weight.metal", "if (to < 0 || to >= row_count) continue;", ""),
    "weights-first-rows": ("winograd_weight.metal", "i - first_row", "i"),
    "tiles-all-rows": ("winograd_input.metal", "if (to < 0 || to >= row_count) continue;", ""),
    "tiles-first-rows": ("winograd_input.metal", "i - first_row", "i"),
    "zeros-short": ("winograd_input.metal", "i < row_count * size", "i < row_count"),
    "products-over-each-other": ("winograd_depth_gemm.metal", "p.first_products + ", ""),
    "tiles-of-another-pass": ("winograd_depth_gemm.metal", "p.first_tiles", "p.first_products"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_kernels_are_caught(name: str, tmp_path: Path) -> None:
    kernels = mutated_kernels(tmp_path, *MUTATIONS[name])
    with pytest.raises(AssertionError):
        check(replace(SMALL, chunks=passes(4, 2, 2, True)), kernels=kernels, schedules=SCHEDULES[:1])
