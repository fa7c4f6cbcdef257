"""The direct kernel for grouped and depthwise convolutions, in the simulator."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import mlx.core as mx
import pytest
from metal_programs import Case, check, mutated_kernels
from metal_sim import SCHEDULES
from metal_sim.support import needs_metal_sim

import mlx_conv3d

pytestmark = needs_metal_sim
DTYPES = ("float32", "float16", "bfloat16")
MODES = ("zeros", "edge", "reflect")
DEPTHWISE = Case(
    x=(1, 4, 5, 6, 5), w=(5, 3, 3, 3, 1), groups=5, padding=((1, 1), (1, 1), (1, 1)), algorithm="grouped"
)


@pytest.mark.parametrize(("dtype", "mode"), list(product(DTYPES, MODES)))
def test_depthwise(dtype: str, mode: str) -> None:
    check(replace(DEPTHWISE, dtype=dtype, modes=(mode,) * 3, padding=((2, 0), (1, 2), (0, 1)), lead=1))


@pytest.mark.parametrize("mode", MODES)
def test_upsampling(mode: str) -> None:
    padding = ((2, 0), (1, 2), (0, 3))
    check(
        replace(DEPTHWISE, x=(1, 2, 3, 4, 5), upsample=(2, 2, 3), modes=(mode,) * 3, padding=padding, lead=1)
    )


@pytest.mark.parametrize(("dtype", "w_dtype"), list(product(DTYPES, DTYPES)))
def test_types(dtype: str, w_dtype: str) -> None:
    check(
        replace(
            DEPTHWISE, x=(1, 3, 4, 4, 6), w=(4, 2, 2, 3, 3), groups=2, dtype=dtype, w_dtype=w_dtype, bias=True
        )
    )


def test_schedules() -> None:
    check(replace(DEPTHWISE, activation="gelu", bias=True, residual=True), schedules=SCHEDULES)


MUTATIONS = {
    "frames-unpadded": "if (d < 0) continue;",
    "rows-unpadded": "if (h < 0) continue;",
    "columns-unpadded": "if (v < 0) continue;",
    "group-of-another": " / outputs * channels;",
    "unflipped": "p.flip ? kernel_h - 1 - kh : kh",
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_kernels_are_caught(name: str, tmp_path: Path) -> None:
    new = "kh" if name == "unflipped" else ";"
    kernels = mutated_kernels(tmp_path, "grouped.metal", MUTATIONS[name], new)
    with pytest.raises(AssertionError):
        check(replace(DEPTHWISE, w=(10, 3, 3, 3, 1), flip=True), kernels=kernels, schedules=SCHEDULES[:1])


def test_depthwise_is_planned() -> None:
    p = mlx_conv3d.plan(
        (1, 9, 30, 52, 96), (96, 3, 3, 3, 1), groups=96, padding=1, dtype=mx.bfloat16, device="m2"
    )
    assert p.algorithm == "grouped"
