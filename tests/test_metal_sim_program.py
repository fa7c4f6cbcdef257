"""Whole Programs in the simulator: data flow, barriers between steps, scratch, and what does not fit together."""

import struct
from dataclasses import replace
from pathlib import Path

import mlx
import numpy as np
import pytest
from metal_sim import (
    Argument,
    Binding,
    Buffer,
    Constant,
    MetalSimError,
    Program,
    Step,
    StockStep,
    ThreadgroupMemory,
    View,
    bfloat16_bits,
    bfloat16_floats,
    run_program,
)
from metal_sim.support import needs_metal_sim

KERNELS = """
#include <metal_stdlib>
using namespace metal;
constant int factor [[function_constant(0)]];

struct Range { int64_t count; float add; };

kernel void scale(device float* out [[buffer(0)]], const device float* in [[buffer(1)]],
                  constant Range& range [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  if (i < range.count) out[i] = factor * in[i] + range.add;
}
kernel void sum_pairs(device float* out [[buffer(0)]], const device float* in [[buffer(1)]],
                      uint i [[thread_position_in_grid]]) {
  out[i] = in[2 * i] + in[2 * i + 1];
}
"""
N = 256


def scale_step(out, source, count=N, **more):
    return Step(
        "scale",
        "two.metal",
        (count // 64, 1, 1),
        (64, 1, 1),
        (Binding(0, out), Binding(1, source)),
        (Argument(2, struct.pack("<qf4x", count, 1.0)),),
        (Constant(0, 3),),
        **more,
    )


PROGRAM = Program(
    (
        Buffer("x", "input", 4 * N),
        Buffer("t", "scratch", 4 * N),
        Buffer("y", "output", 2 * N, shape=(2, N // 4)),
    ),
    (
        scale_step("t", "x"),
        Step("sum_pairs", "two.metal", (N // 2 // 32, 1, 1), (32, 1, 1), (Binding(0, "y"), Binding(1, "t"))),
    ),
)
X = np.arange(N, dtype=np.float32)
EXPECTED = (3 * X + 1).reshape(-1, 2).sum(1).reshape(2, N // 4)


@pytest.fixture
def kernel_dir(tmp_path):
    (tmp_path / "two.metal").write_text(KERNELS)
    return tmp_path


def run(kernel_dir, program, **options):
    return run_program(program, {"x": X}, kernel_dir, **options)


def with_step(i, **changes):
    steps = list(PROGRAM.steps)
    steps[i] = replace(steps[i], **changes)
    return replace(PROGRAM, steps=tuple(steps))


# ---------------------------------------------------------------- plain data: no compiler needed


def test_program_as_dicts():
    stock = StockStep(
        "matmul", (View("x", "float32", (16, 16)),), (View("y", "float32", (8, 16)),), (("a", 1),)
    )
    memory = (ThreadgroupMemory(0, 64),)
    program = replace(with_step(0, threadgroup_memory=memory), steps=(*PROGRAM.steps, stock))
    d = program.to_dict()
    assert isinstance(d["steps"][0]["bindings"], list) and isinstance(
        d["steps"][0]["arguments"][0]["data"], bytes
    )
    assert Program.from_dict(d) == program
    del d["steps"][0]["barrier"]
    assert Program.from_dict(d) == program
    d["steps"][0]["barier"] = True
    with pytest.raises(ValueError, match="barier"):
        Program.from_dict(d)


def test_sound_program_has_no_problems():
    assert PROGRAM.problems() == []
    assert PROGRAM.scratch_bytes == 4 * N
    assert PROGRAM.steps[0].groups == (4, 1, 1)
    assert replace(PROGRAM.steps[0], dispatch="threads", grid=(65, 1, 1)).groups == (2, 1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threadgroup": (1025, 1, 1)}, "1025 threads"),
        ({"grid": (0, 1, 1)}, "empty grid"),
        ({"bindings": (Binding(0, "nobody"),)}, "no buffer 'nobody'"),
        ({"bindings": (Binding(0, "t", 4 * N),)}, "bytes 1024 to 1025 of 't'"),
        ({"bindings": (Binding(0, "t", 0, 4 * N + 4),)}, "bytes 0 to 1028"),
        ({"bindings": (Binding(0, "t"), Binding(0, "x"))}, "index 0 is bound twice"),
        ({"bindings": (Binding(2, "t"),)}, "index 2 is bound twice"),
        ({"bindings": (Binding(31, "t"),)}, "buffer index 31"),
        ({"arguments": (Argument(2, bytes(4097)),)}, "4097 bytes"),
        ({"threadgroup_memory": (ThreadgroupMemory(0, 24),)}, "24 bytes"),
        ({"threadgroup_memory": (ThreadgroupMemory(0, 32 << 10), ThreadgroupMemory(1, 16))}, "over 32768"),
        ({"discards": ("y",)}, "no scratch buffer"),
        ({"dispatch": "rows"}, "dispatch 'rows'"),
    ],
)
def test_problems_of_a_step(changes, message):
    (problem,) = with_step(0, **changes).problems()
    assert problem.startswith("step 0 (scale): ") and message in problem


def test_problems_of_buffers():
    twice = replace(PROGRAM, buffers=(*PROGRAM.buffers, Buffer("x", "weight", -1)))
    assert len(twice.problems()) == 3


def test_bfloat16_round_trip():
    x = np.array([1, -2.5, 1 + 2**-8, 1 + 3 * 2**-8, 0], np.float32)
    assert bfloat16_floats(bfloat16_bits(x)).tolist() == [1, -2.5, 1, 1 + 2**-6, 0]


# ---------------------------------------------------------------- runs


@needs_metal_sim
def test_two_steps_through_scratch(kernel_dir):
    result = run(kernel_dir, PROGRAM).check()
    np.testing.assert_array_equal(result.outputs["y"], EXPECTED)
    first, second = result.steps
    assert first.loaded == {"x": 4 * N} and first.stored == {"t": 4 * N}
    assert second.loaded == {"t": 4 * N} and second.stored == {"y": 2 * N}
    assert first.argument_bytes == N * (8 + 4)


@needs_metal_sim
def test_program_from_dicts_runs(kernel_dir):
    assert run(kernel_dir, Program.from_dict(PROGRAM.to_dict())).reports == []


@needs_metal_sim
def test_step_without_its_barrier(kernel_dir):
    (report,) = run(kernel_dir, with_step(1, barrier=False)).reports
    assert (report.kind, report.step) == ("missing-barrier", 1)
    line = KERNELS[: KERNELS.index("out[i] = in[2")].count("\n") + 1
    wrote = KERNELS[: KERNELS.index("if (i < range")].count("\n") + 1
    assert str(report).startswith(f"two.metal:{line}: ") and str(report.other) == f"two.metal:{wrote}"
    assert "1024 bytes of 't' from offset 0 that step 0 (scale) writes" in report.message


@needs_metal_sim
def test_steps_on_disjoint_ranges_need_no_barrier(kernel_dir):
    half = N // 2

    def part(offset, barrier):
        bindings = (Binding(0, "t", 4 * offset), Binding(1, "x", 4 * offset))
        return replace(scale_step("t", "x", half), bindings=bindings, barrier=barrier)

    sound = replace(PROGRAM, steps=(part(0, True), part(half, False), PROGRAM.steps[1]))
    np.testing.assert_array_equal(run(kernel_dir, sound).check().outputs["y"], EXPECTED)
    overlapping = replace(PROGRAM, steps=(part(0, True), part(half - 1, False), PROGRAM.steps[1]))
    assert run(kernel_dir, overlapping).kinds() == {"missing-barrier", "uninitialised"}


@needs_metal_sim
def test_write_after_read_without_barrier(kernel_dir):
    more = (*PROGRAM.steps, scale_step("t", "x", barrier=False))
    (report,) = run(kernel_dir, replace(PROGRAM, steps=more)).reports
    assert (
        report.kind == "missing-barrier" and report.step == 2 and "step 1 (sum_pairs) reads" in report.message
    )


@needs_metal_sim
def test_uninitialised_scratch(kernel_dir):
    partly = replace(scale_step("t", "x"), arguments=(Argument(2, struct.pack("<qf4x", N - 1, 1.0)),))
    (report,) = run(kernel_dir, replace(PROGRAM, steps=(partly, PROGRAM.steps[1]))).reports
    assert report.kind == "uninitialised" and report.step == 1 and report.place.file.endswith("two.metal")
    assert f"offset {4 * N - 4} of 't'" in report.message


@needs_metal_sim
def test_stale_scratch_is_seen_through_discards(kernel_dir):
    partly = replace(scale_step("t", "x"), arguments=(Argument(2, struct.pack("<qf4x", N - 1, 1.0)),))
    stale = replace(PROGRAM, steps=(*PROGRAM.steps, partly, PROGRAM.steps[1]))
    assert run(kernel_dir, stale).reports == []
    discarding = (*PROGRAM.steps, replace(partly, discards=("t",)), PROGRAM.steps[1])
    assert run(kernel_dir, replace(PROGRAM, steps=discarding)).kinds() == {"uninitialised"}


@needs_metal_sim
def test_bound_of_a_binding(kernel_dir):
    small = replace(PROGRAM.steps[0], bindings=(Binding(0, "t", 0, 4 * N - 4), Binding(1, "x")))
    (first, *_) = run(kernel_dir, replace(PROGRAM, steps=(small, PROGRAM.steps[1]))).reports
    assert first.kind == "out-of-bounds" and first.place.line


@needs_metal_sim
def test_input_is_not_written(kernel_dir):
    swapped = replace(PROGRAM.steps[0], bindings=(Binding(0, "x"), Binding(1, "x")))
    result = run(kernel_dir, replace(PROGRAM, steps=(swapped,)))
    assert {"read-only", "unwritten-output"} == result.kinds()


@needs_metal_sim
def test_in_place_accumulation(kernel_dir):
    """One buffer bound twice, read by one parameter and written by another: element by element it is no race."""
    twice = replace(scale_step("t", "t"))
    program = replace(PROGRAM, steps=(PROGRAM.steps[0], twice, PROGRAM.steps[1]))
    result = run(kernel_dir, program).check()
    np.testing.assert_array_equal(result.outputs["y"], (9 * X + 4).reshape(-1, 2).sum(1).reshape(2, -1))
    shifted = replace(twice, bindings=(Binding(0, "t"), Binding(1, "t", 4, 4 * N - 4)))
    shifted = replace(shifted, arguments=(Argument(2, struct.pack("<qf4x", N - 1, 1.0)),))
    program = replace(PROGRAM, steps=(PROGRAM.steps[0], shifted, PROGRAM.steps[1]))
    assert "race" in run(kernel_dir, program).kinds()


@needs_metal_sim
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bindings": (Binding(0, "t"),)}, "buffer 1 ('in') is not bound"),
        ({"bindings": (*PROGRAM.steps[0].bindings, Binding(5, "x"))}, "buffer 5 is bound"),
        ({"constants": ()}, "function constant 0 ('factor') is not set"),
        ({"constants": (Constant(0, 3), Constant(1, 1))}, "no function constant 1"),
        ({"arguments": (Argument(2, bytes(12)),)}, "argument 2 has 12 bytes, 'range' has 16"),
        ({"threadgroup_memory": (ThreadgroupMemory(0, 16),)}, "threadgroup argument 0 does not exist"),
    ],
)
def test_step_that_does_not_fit_its_kernel(kernel_dir, changes, message):
    (report,) = run(kernel_dir, with_step(0, **changes)).reports
    assert report.kind == "program" and message in report.message


@needs_metal_sim
def test_unsound_program_is_not_run(kernel_dir):
    result = run(kernel_dir, with_step(1, grid=(0, 1, 1)))
    assert result.kinds() == {"program"} and result.steps == []


@needs_metal_sim
def test_wrong_calls(kernel_dir):
    with pytest.raises(MetalSimError, match="no array for the input 'x'"):
        run_program(PROGRAM, {}, kernel_dir)
    with pytest.raises(MetalSimError, match="1020 bytes"):
        run_program(PROGRAM, {"x": X[1:]}, kernel_dir)
    with pytest.raises(MetalSimError, match=r"'factor' is a int, the value is 0\.5"):
        run(kernel_dir, with_step(0, constants=(Constant(0, 0.5),)))


@needs_metal_sim
def test_stock_step(kernel_dir):
    half = N // 2
    views = (View("t", "float32", (2, 64), 0, (64, 1)), View("t", "float32", (64, 2), 4 * half, (2, 1)))
    product = StockStep("matmul", views, (View("y", "float32", (2, 2)),), (("scale", 2.0),))
    program = Program(
        (Buffer("x", "input", 4 * N), Buffer("t", "scratch", 4 * N), Buffer("y", "output", 16, shape=(2, 2))),
        (PROGRAM.steps[0], product),
    )

    def matmul(a, b, scale):
        return scale * (a @ b)

    result = run(kernel_dir, program, stock={"matmul": matmul}).check()
    t = 3 * X + 1
    np.testing.assert_allclose(
        result.outputs["y"], 2 * t[:half].reshape(2, 64) @ t[half:].reshape(64, 2), rtol=1e-6
    )
    assert result.steps[1].touched_loaded == {"t": 4 * N} and result.steps[1].touched_stored == {"y": 16}
    unordered = replace(program, steps=(PROGRAM.steps[0], replace(product, barrier=False)))
    assert run(kernel_dir, unordered, stock={"matmul": matmul}).kinds() == {"missing-barrier"}
    early = replace(program, steps=(product,))
    assert run(kernel_dir, early, stock={"matmul": matmul}).kinds() == {"uninitialised"}
    with pytest.raises(MetalSimError, match="'matmul'"):
        run(kernel_dir, program)


# ---------------------------------------------------------------- kernels that are not ours

STEEL = """
#include <metal_stdlib>
#include <metal_simdgroup>
#include <metal_simdgroup_matrix>
typedef half float16_t;
typedef bfloat bfloat16_t;
#include "mlx/backend/metal/kernels/complex.h"
#include "mlx/backend/metal/kernels/steel/gemm/mma.h"
#include "mlx/backend/metal/kernels/steel/conv/conv.h"
#include "mlx/backend/metal/kernels/steel/conv/params.h"
#include "mlx/backend/metal/kernels/steel/conv/kernels/steel_conv.h"
using namespace metal;
using namespace mlx::steel;
"""


def row_major(shape):
    return [int(np.prod(shape[k + 1 :])) for k in range(len(shape))]


@needs_metal_sim
@pytest.mark.parametrize("kind", ["float", "bfloat"])
def test_stock_implicit_gemm_of_mlx(tmp_path, kind):
    """MLX's own implicit-GEMM convolution, from the headers it ships, runs without a report and is right."""
    (tmp_path / "steel.metal").write_text(STEEL)
    n, h, w, c, o, k = 2, 7, 8, 16, 32, 3
    rng = np.random.default_rng(0)
    encode, decode = (bfloat16_bits, bfloat16_floats) if kind == "bfloat" else (np.float32, np.float32)
    x = encode(rng.standard_normal((n, h, w, c)).astype(np.float32))
    weight = encode(rng.standard_normal((o, k, k, c)).astype(np.float32))
    out = (n, h - k + 1, w - k + 1, o)
    rows, tiles_n, tiles_m = out[0] * out[1] * out[2], -(-o // 32), -(-(out[0] * out[1] * out[2]) // 32)
    pairs = [(h, w), (k, k), out[1:3], (1, 1), (0, 0), (1, 1), (1, 1)]
    conv = struct.pack("<3i14i4x", n, c, o, *(v for p in pairs for v in p))
    conv += struct.pack("<12qi?3x", *row_major(x.shape), *row_major(weight.shape), *row_major(out), 1, False)
    jump_w, jump_h = c, c * w
    jumps = (jump_w, jump_h - (k - 1) * jump_w, 16 - (k - 1) * (jump_h + jump_w))
    gemm = struct.pack("<10i", rows, o, k * k * c, k * k * -(-c // 16), *jumps, tiles_n, tiles_m, 0)
    step = Step(
        "conv",
        "steel.metal",
        (tiles_n, tiles_m, 1),
        (32, 2, 2),
        (Binding(0, "x"), Binding(1, "w"), Binding(2, "y")),
        (Argument(3, conv), Argument(4, gemm)),
        template=f"implicit_gemm_conv_2d<{kind}, 32, 32, 16, 2, 2, 0, true>",
    )
    dtype = "bfloat16" if kind == "bfloat" else "float32"
    buffers = (
        Buffer("x", "input", x.nbytes),
        Buffer("w", "input", weight.nbytes),
        Buffer("y", "output", int(np.prod(out)) * x.itemsize, dtype, out),
    )
    headers = Path(mlx.__path__[0]) / "include"
    result = run_program(
        Program(buffers, (step,)), {"x": x, "w": weight}, tmp_path, include_dirs=[headers]
    ).check()
    a, b = decode(x).astype(np.float64), decode(weight).astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(a, (k, k), (1, 2))
    expected = np.einsum("nhwcij,oijc->nhwo", windows, b)
    tolerance = 1e-2 if kind == "bfloat" else 1e-5
    np.testing.assert_allclose(decode(result.outputs["y"]), expected, rtol=tolerance, atol=10 * tolerance)
