"""What a Program says it moves is what the simulator counts, within 10 %."""

from __future__ import annotations

from dataclasses import replace

import pytest
from metal_programs import Case, run
from metal_sim.support import needs_metal_sim

pytestmark = needs_metal_sim

SAME = ((1, 1), (1, 1), (1, 1))
WINOGRAD = Case(x=(1, 3, 8, 8, 16), w=(32, 3, 3, 3, 16))
DEPTHWISE = Case(x=(1, 4, 9, 8, 32), w=(32, 3, 3, 3, 1), groups=32, padding=SAME, algorithm="grouped")

# By what is in them: the device and the case.
CASES = {
    "winograd F(2,3), chunks of 9 tiles": ("m1", replace(WINOGRAD, dtype="float16", chunks=(2, 9, 2, 32))),
    "winograd F(4,3), fp32": ("m1", WINOGRAD),
    "winograd F(4,3), ragged": ("m2-pro", replace(WINOGRAD, x=(1, 5, 9, 9, 16), dtype="bfloat16")),
    "winograd F(6,3), two slices": (
        "m3-max",
        replace(WINOGRAD, x=(1, 4, 12, 12, 32), w=(64, 3, 3, 3, 32), dtype="bfloat16", chunks=(6, 4, 2, 32)),
    ),
    "winograd, 32 outputs' weights at a time": (
        "m3-max",
        replace(
            WINOGRAD,
            x=(1, 5, 12, 12, 16),
            w=(70, 3, 3, 3, 16),
            dtype="bfloat16",
            chunks=(6, 4, 2, 70, 2, 2, 1, 0, 1, 32),
        ),
    ),
    "winograd, two images": (
        "m4",
        replace(WINOGRAD, x=(2, 3, 7, 9, 16), dtype="float16", chunks=(6, 9, 2, 32)),
    ),
    "winograd, epilogue": (
        "m5-max",
        replace(WINOGRAD, dtype="bfloat16", bias=True, residual=True, activation="silu", padding=SAME),
    ),
    "winograd, lead frames": ("m1-max", replace(WINOGRAD, lead=2, padding=((0, 0), (1, 1), (1, 1)))),
    "winograd, fp32 weights": ("m2", replace(WINOGRAD, dtype="bfloat16", w_dtype="float32")),
    "winograd, depth stride": ("m3", replace(WINOGRAD, x=(1, 7, 8, 8, 16), stride=(2, 1, 1))),
    "winograd, odd channels": ("m4-max", replace(WINOGRAD, x=(1, 4, 8, 8, 19), w=(45, 3, 3, 3, 19))),
    "depthwise, fp32": ("m1", DEPTHWISE),
    "depthwise, bf16": ("m3-max", replace(DEPTHWISE, dtype="bfloat16", bias=True, activation="silu")),
    "grouped, fp16 with fp32 weights": (
        "m2",
        replace(DEPTHWISE, w=(48, 3, 3, 3, 4), groups=8, dtype="float16", w_dtype="float32"),
    ),
    "grouped, stride 2": (
        "m5",
        replace(DEPTHWISE, w=(16, 2, 3, 3, 2), groups=16, stride=(1, 2, 2), dtype="float16", residual=True),
    ),
    "depthwise, 1x3x3": (
        "m4",
        replace(DEPTHWISE, w=(32, 1, 3, 3, 1), lead=1, padding=((0, 0), (1, 1), (1, 1))),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_declared_bytes_are_the_counted_ones(name: str) -> None:
    device, case = CASES[name]
    declared = [s.nbytes for s in case.program(device).steps]
    steps = run(case, device=device)[0].check().steps
    counted = [s.touched for s in steps]
    assert declared == pytest.approx(counted, rel=0.1)
