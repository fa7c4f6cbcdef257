"""Every Metal kernel, compiled by this Mac: the library of each source, and of each kernel one pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial, reduce
from itertools import product
from operator import mul
from typing import Any

from mlx_conv3d import _ext, planning
from mlx_conv3d.doctor.faults import FAMILIES
from mlx_conv3d.doctor.items import Item
from mlx_conv3d.doctor.problems import Problem
from mlx_conv3d.doctor.rows import FAIL, OK, Finding
from mlx_conv3d.planning import DTYPES

Step = dict[str, Any]

GPU = "m1"  # any: what is compiled does not depend on it
# Tiles and frames of a chunk, output channels and depth tile, so that each block of the products is somebody's.
CHUNKS = [
    *((tiles, frames, cols, 1) for tiles, frames in ((7, 2), (30, 4)) for cols in (32, 64, 96)),
    *((tiles, frames, cols, 2) for tiles, frames in ((7, 2), (30, 4)) for cols in (32, 64, 96)),
]
BLOCKS = ((64, 64), (64, 32), (32, 32), (128, 16), (128, 8))


def _winograd() -> Iterator[planning.Plan]:
    for dtype, (m, (tiles, frames, cols, depth)) in product(DTYPES, product((2, 4, 6), CHUNKS)):
        if depth == 2 and m != 2:
            continue
        problem = Problem((1, 4, 9, 11, 18), (cols, 3, 3, 3, 18), {"padding": 1})
        yield problem.plan(dtype, dtype, GPU, algorithm="winograd", winograd=(m, tiles, frames, cols, depth))


def _others() -> Iterator[planning.Plan]:
    grouped = Problem((1, 3, 5, 6, 6), (4, 2, 3, 3, 3), {"padding": 1, "groups": 2})
    gathered = Problem((1, 3, 5, 6, 20), (70, 2, 3, 3, 20), {"stride": 2})
    for x_type, w_type in product(DTYPES, DTYPES):
        yield grouped.plan(x_type, w_type, GPU, algorithm="grouped")
    for dtype, block in product(DTYPES, BLOCKS):
        yield gathered.plan(dtype, dtype, GPU, algorithm="implicit_gemm", block=block)


def every_kernel() -> dict[str, dict[str, Step]]:
    """One step that runs it, by source and kernel."""
    found: dict[str, dict[str, Step]] = {name: {} for name in _ext.kernel_names()}
    for plan in (*_winograd(), *_others()):
        for step in plan.program["steps"]:
            found[step["source"]].setdefault(step["kernel"], step)
    return found


def compile_all(source: str, steps: dict[str, Step]) -> Finding:
    """One that fails does not keep the others from being tried."""
    failed: dict[str, str] = {}
    for kernel, step in steps.items():
        constants = {c["index"]: c["value"] for c in step["constants"]}
        try:
            _ext.compile_kernel(source, kernel, constants, reduce(mul, step["threadgroup"]))
        except RuntimeError as error:
            failed[kernel] = str(error)
    data = {"kernels": sorted(steps), "failed": failed}
    if failed:
        kernel, message = next(iter(failed.items()))
        more = f" (and {len(failed) - 1} more kernels)" if len(failed) > 1 else ""
        return Finding(FAIL, f"{kernel} does not compile{more}: {' '.join(message.split())[:600]}", data)
    return Finding(OK, f"{len(steps)} kernels compiled", data)


def items() -> list[Item]:
    found = []
    for source, steps in every_kernel().items():
        family = next((f for f in FAMILIES if source.startswith(f)), source)
        found.append(Item(source, partial(compile_all, source, steps), (source, family)))
    return found
