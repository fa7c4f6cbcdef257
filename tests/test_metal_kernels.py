"""Every kernel of Winograd and of grouped convolution at three schedules, with ragged shapes, in every type and padding
mode: no report, and the accuracy contract."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, product

import metal_sim
import numpy as np
import pytest
from metal_programs import KERNELS, Case, assert_accurate, run
from metal_sim.frontend import host_names
from metal_sim.support import needs_metal_sim

DTYPES = ("float32", "float16", "bfloat16")
MODES = ("zeros", "edge", "reflect")
RAGGED = ((2, 0), (1, 2), (2, 1))

WINOGRAD = Case(x=(1, 4, 7, 9, 5), w=(6, 3, 3, 3, 5), padding=RAGGED, lead=1)
TRANSFORMS = [
    replace(WINOGRAD, dtype=dtype, modes=(mode,) * 3, chunks=(m, 3, 2, 6), seed=m)
    for m, dtype, mode in product((2, 4, 6), DTYPES, MODES)
]
# Rows, columns and depth tile of a block, whose rows depend on the chunk's.
BLOCKS = [
    *((rows, cols, 1, dtype) for rows, cols, dtype in product((32, 64), (32, 64), ("float32", "bfloat16"))),
    (64, 96, 1, "bfloat16"),
    *((32, cols, 2, dtype) for cols, dtype in product((32, 64), ("float32", "bfloat16"))),
    (32, 96, 2, "bfloat16"),
    (48, 64, 2, "bfloat16"),
]


def block(rows: int, cols: int, depth: int, dtype: str, mode: str) -> Case:
    outs, tiles, frames = cols - 3, *((7, 2) if rows == 32 else (30, 4))
    return replace(
        WINOGRAD,
        x=(1, 3, 9, 11, 18),
        w=(outs, 3, 3, 3, 18),
        dtype=dtype,
        modes=(mode,) * 3,
        chunks=(2, tiles, frames, outs, depth),
    )


PRODUCTS = [block(*b, mode) for b, mode in zip(BLOCKS, cycle(MODES), strict=False)]
GROUPED = [
    Case(
        x=(2, 3, 5, 6, 6),
        w=(4, 2, 3, 3, 3),
        groups=2,
        dtype=dtype,
        w_dtype=w_dtype,
        modes=(mode,) * 3,
        padding=RAGGED,
        lead=1,
        stride=(1, 2, 1),
        bias=True,
        algorithm="grouped",
    )
    for dtype, w_dtype, mode in product(DTYPES, DTYPES, MODES)
]
CASES = [*TRANSFORMS, *PRODUCTS, *GROUPED]


def name_of(case: Case) -> str:
    types = case.dtype if case.w_dtype in ("", case.dtype) else f"{case.dtype}*{case.w_dtype}"
    return "-".join([case.algorithm, types, case.modes[0], *map(str, (case.w[0], *case.chunks))])


@needs_metal_sim
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_kernels(case: Case) -> None:
    result, y, exact = run(case, schedules=metal_sim.SCHEDULES)
    result.check()
    if case.chunks[:1] == (6,) and case.dtype == "float32":
        # Outside the contract, which no plan takes it for: F(6, 3) is for 16-bit data.
        assert np.linalg.norm(y - exact) <= 2e-5 * np.linalg.norm(exact)
    else:
        assert_accurate(y, exact, case.out_dtype)


@needs_metal_sim
def test_every_kernel_is_among_them() -> None:
    """Those of the files that the cases use; a file of another algorithm has tests of its own."""
    steps = [s for case in CASES for s in case.program().steps]
    used, sources = {s.kernel for s in steps}, {s.source for s in steps}
    there = {name for source in sources for name in host_names(KERNELS / source)}
    assert len(there) > 40
    assert there - used == set()
