"""What the simulator sees while a kernel runs: sound kernels give the right result and no report, seeded bugs one."""

import struct

import numpy as np
import pytest
from metal_sim import CompileError, Output, Schedule, bfloat16_bits, bfloat16_floats, run_kernel
from metal_sim.support import needs_metal_sim

pytestmark = needs_metal_sim

# C = A B with A (m, k), B (k, n): a threadgroup of two simdgroups makes 16 x 8 of C through simdgroup matrices.
GEMM = """
#include <metal_stdlib>
#include "params.h"
using namespace metal;

template <typename T>
[[kernel, max_total_threads_per_threadgroup(64)]] void gemm(
    const device T* a [[buffer(0)]],
    const device T* b [[buffer(1)]],
    device float* c [[buffer(2)]],
    constant GemmParams& params [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup T tile_a[16 * 8];
  threadgroup T tile_b[8 * 8];
  threadgroup float tile_c[16 * 8];
  const int row0 = group.y * 16, col0 = group.x * 8;
  simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  for (int k0 = 0; k0 < params.k; k0 += 8) {
    threadgroup_barrier(mem_flags::mem_threadgroup);  // barrier 1
    for (int i = thread_index; i < 16 * 8; i += 64) {
      const int r = row0 + i / 8, k = k0 + i % 8;
      tile_a[i] = r < params.m && k < params.k ? a[int64_t(r) * params.k + k] : T(0);
    }
    for (int i = thread_index; i < 8 * 8; i += 64) {
      const int k = k0 + i / 8, col = col0 + i % 8;
      tile_b[i] = k < params.k && col < params.n ? b[int64_t(k) * params.n + col] : T(0);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // barrier 2
    simdgroup_matrix<T, 8, 8> x, y;
    simdgroup_load(x, tile_a + 64 * simdgroup, 8);
    simdgroup_load(y, tile_b, 8);
    simdgroup_multiply_accumulate(sum, x, y, sum);
  }
  simdgroup_store(sum, tile_c + 64 * simdgroup, 8);
  threadgroup_barrier(mem_flags::mem_threadgroup);  // barrier 3
  for (int i = thread_index; i < 16 * 8; i += 64) {
    const int r = row0 + i / 8, col = col0 + i % 8;
    if (r < params.m && col < params.n) c[int64_t(r) * params.n + col] = tile_c[i];
  }
}
"""

PARAMS = """
#pragma once
#ifndef __METAL_VERSION__
#include <cstdint>
#endif
struct GemmParams {
  int32_t m, n, k;
};
"""


def write(tmp_path, source, name="kernel.metal"):
    (tmp_path / "params.h").write_text(PARAMS)
    (tmp_path / name).write_text(source)
    return tmp_path / name


def line_of(source, marker):
    return source[: source.index(marker)].count("\n") + 1


def run_gemm(tmp_path, source=GEMM, m=20, n=12, k=19, kind="float", **options):
    rng = np.random.default_rng(0)
    encode = {"float": np.float32, "half": np.float16}.get(kind, bfloat16_bits)
    decode = bfloat16_floats if kind == "bfloat" else np.float32
    a, b = (encode(rng.standard_normal(s).astype(np.float32)) for s in ((m, k), (k, n)))
    buffers = {0: a, 1: b, 2: Output((m, n)), 3: struct.pack("<3i", m, n, k)}
    grid = (-(-n // 8), -(-m // 16), 1)
    path = write(tmp_path, source)
    result = run_kernel(path, "gemm", buffers, grid, (64, 1, 1), template=f"gemm<{kind}>", **options)
    return result, decode(a).astype(np.float64) @ decode(b).astype(np.float64)


@pytest.mark.parametrize("kind", ["float", "half", "bfloat"])
def test_simdgroup_multiply_agrees_with_numpy(tmp_path, kind):
    result, expected = run_gemm(tmp_path, kind=kind)
    np.testing.assert_allclose(result.check().outputs["b2"], expected, rtol=1e-5, atol=1e-5)
    assert (
        result.steps[0].matrix_multiplies == 2 * 3 * 2 * 2
    )  # column tiles, steps of k, row tiles, simdgroups


def test_matrix_layout_origin_and_transpose(tmp_path):
    source = """
    #include <metal_stdlib>
    using namespace metal;
    kernel void k(const device float* a [[buffer(0)]], device float* o [[buffer(1)]]) {
      simdgroup_float8x8 x, y, z(1.0f);
      simdgroup_load(x, a, 20, ulong2(3, 2));
      simdgroup_load(y, a, 20, ulong2(1, 5), true);
      simdgroup_float8x8 p = x * y;
      simdgroup_store(p, o, 8);
      simdgroup_store(x * z, o + 64, 8, ulong2(0, 0), true);
    }
    """
    a = np.random.default_rng(1).standard_normal((16, 20)).astype(np.float32)
    out = run_kernel(
        write(tmp_path, source), "k", {0: a, 1: Output((2, 8, 8))}, (1, 1, 1), (32, 1, 1)
    ).check()
    x, y = a[2:10, 3:11], a[5:13, 1:9].T
    np.testing.assert_allclose(out.outputs["b1"][0], x @ y, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(out.outputs["b1"][1], x.T)


GEMM_BUGS = {
    "dropped barrier after the load": (
        "threadgroup_barrier(mem_flags::mem_threadgroup);  // barrier 2",
        "",
        "race",
    ),
    "dropped barrier before the load": (
        "threadgroup_barrier(mem_flags::mem_threadgroup);  // barrier 1",
        "",
        "race",
    ),
    "dropped barrier before the read": (
        "threadgroup_barrier(mem_flags::mem_threadgroup);  // barrier 3",
        "",
        "race",
    ),
    "barrier without memory": (
        "(mem_flags::mem_threadgroup);  // barrier 2",
        "(mem_flags::mem_none);",
        "race",
    ),
    "barrier of the wrong memory": (
        "(mem_flags::mem_threadgroup);  // barrier 2",
        "(mem_flags::mem_device);",
        "race",
    ),
    "barrier of the simdgroup only": (
        "threadgroup_barrier(mem_flags::mem_threadgroup);  // barrier 2",
        "simdgroup_barrier(mem_flags::mem_threadgroup);",
        "race",
    ),
    "off by one in a bound of the input": ("= r < params.m &&", "= r <= params.m &&", "out-of-bounds"),
    "off by one in a bound of the output": ("if (r < params.m", "if (r <= params.m", "out-of-bounds"),
    "no bound on ragged columns": (" && col < params.n) c", ") c", "race"),
    "threadgroup tile too small": ("T tile_a[16 * 8]", "T tile_a[16 * 7]", "undefined"),
    "tile half filled": ("i < 8 * 8; i += 64", "i < 8 * 4; i += 64", "uninitialised"),
    "pointer past a threadgroup tile": ("tile_b, 8);", "tile_b + 8, 8);", "out-of-bounds"),
    "barrier in a branch": (
        "threadgroup_barrier(mem_flags::mem_threadgroup);  // barrier 2",
        "if (simdgroup == 0) threadgroup_barrier(mem_flags::mem_threadgroup);",
        "barrier-divergence",
    ),
    "early return before a matrix operation": (
        "simdgroup_store(sum",
        "if (thread_index == 5) return;\n  simdgroup_store(sum",
        "simdgroup-divergence",
    ),
    "simdgroup returns before a barrier": (
        "simdgroup_store(sum",
        "if (simdgroup == 1) return;\n  simdgroup_store(sum",
        "barrier-divergence",
    ),
    "matrix product in a branch": (
        "simdgroup_multiply_acc",
        "if (thread_index % 2) simdgroup_multiply_acc",
        "simdgroup-divergence",
    ),
    "rows left out": ("if (r < params.m &&", "if (r < params.m - 1 &&", "unwritten-output"),
    "stride in the wrong unit": ("params.n + col] = tile_c", "params.n + col * 4] = tile_c", "out-of-bounds"),
    "endless loop": ("k0 += 8", "k0 += 0", "timeout"),
    "write to an input": (
        "simdgroup_store(sum",
        "((device T*)a)[0] = T(0); simdgroup_store(sum",
        "read-only",
    ),
}


@pytest.mark.parametrize("bug", GEMM_BUGS)
def test_seeded_bug_is_reported_with_its_line(tmp_path, bug):
    before, after, kind = GEMM_BUGS[bug]
    assert before in GEMM
    result, _ = run_gemm(tmp_path, GEMM.replace(before, after), timeout=1)
    assert kind in result.kinds(), result.reports
    report = next(r for r in result.reports if r.kind == kind)
    if kind != "unwritten-output":
        assert report.place.file.endswith("kernel.metal") and report.place.line > 0, str(report)
        assert f"kernel.metal:{report.place.line}" in str(report)
    if kind == "race":
        assert report.other.file.endswith("kernel.metal"), str(report)


def test_wrong_address_space_does_not_compile(tmp_path):
    source = GEMM.replace("simdgroup_load(y, tile_b, 8);", "device T* q = tile_b; simdgroup_load(y, q, 8);")
    with pytest.raises(CompileError, match=rf"kernel.metal:{line_of(source, 'device T* q')}: "):
        run_gemm(tmp_path, source)


def test_generic_pointer_does_not_compile(tmp_path):
    source = GEMM.replace("simdgroup_load(y, tile_b, 8);", "auto* q = tile_b; simdgroup_load(y, q, 8);")
    with pytest.raises(CompileError, match=rf"kernel.metal:{line_of(source, 'auto* q')}: .*address space"):
        run_gemm(tmp_path, source)


def test_threadgroup_overflow_does_not_compile(tmp_path):
    with pytest.raises(CompileError, match=r"tile_c \(kernel.metal:17\): 32768"):
        run_gemm(tmp_path, GEMM.replace("float tile_c[16 * 8]", "float tile_c[16 * 512]"))


# ---------------------------------------------------------------- small kernels

TINY = """
#include <metal_stdlib>
using namespace metal;
kernel void k(device float* o [[buffer(0)]], const device float* x [[buffer(1)]],
              uint t [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
              uint3 group [[threadgroup_position_in_grid]], uint i [[thread_position_in_grid]]) {
  BODY
}
"""


def tiny(tmp_path, body, groups=1, n=64, size=None, threads=64, **options):
    x = np.arange(size or n, dtype=np.float32)
    path = write(tmp_path, TINY.replace("BODY", body))
    return run_kernel(path, "k", {0: Output((n,)), 1: x}, (groups, 1, 1), (threads, 1, 1), **options)


BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
SWAP = "threadgroup float s[64]; s[t] = x[i]; {} o[i] = s[t ^ 1];"

TINY_BUGS = {
    "read past the end": ("o[i] = x[i + 1];", "out-of-bounds"),
    "negative index": ("o[i] = x[int(i) - 1];", "out-of-bounds"),
    "far outside": ("o[t] = x[t + (1 << 28)];", "out-of-bounds"),
    "array in private memory": ("float a[4] = {1, 2, 3, 4}; o[t] = a[(t >> 4) + 1];", "undefined"),
    "misaligned vector": ("o[t] = (*(const device float4*)(x + (t & 31) + 1)).x;", "undefined"),
    "shift by the width": ("o[t] = 1 << t;", "undefined"),
    "64-bit shift by the width": ("o[t] = (1l << (t + 60)) >> (t + 1);", "undefined"),
    "overflow of a 32-bit index": ("int q = 65536 * int(t) * int(t) * 16; o[t] = q;", "undefined"),
    "division by zero": ("o[t] = 64 / int(t);", "undefined"),
    "float too large for int": ("o[t] = int(x[t] * 1e9f);", "undefined"),
    "one element written by two threadgroups": ("o[t] = group.x;", "race"),
    "one element written by two threads": ("o[t / 2] = 1; o[t] = 1;", "race"),
    "element of another threadgroup": ("o[i] = 1; if (group.x == 1) o[i] = o[t];", "race"),
    "device memory within a threadgroup": (
        "o[i] = 1; float y = o[group.x * 64 + (t ^ 1)]; o[i] = y;",
        "race",
    ),
    "lane exchange without barrier": (SWAP.format(""), "race"),
    "uninitialised threadgroup memory": (
        "threadgroup float s[64]; if (t) s[t] = 1; " + BARRIER + " o[i] = s[t];",
        "uninitialised",
    ),
    "accumulation into an output nobody wrote": ("o[i] += x[i];", "uninitialised"),
    "shuffle from an inactive lane": (
        "float y = x[t]; if (lane < 8) y = simd_shuffle(y, 20); o[i] = y;",
        "simdgroup-divergence",
    ),
    "barrier that some threads miss": ("if (t < 40) " + BARRIER + " o[i] = 1;", "barrier-divergence"),
    "two different barriers": (
        "if (t < 32) { " + BARRIER + " o[i] = 1; } else { " + BARRIER + " o[i] = 2; }",
        "barrier-divergence",
    ),
    "atomic against plain access": (
        "threadgroup atomic_int s; if (t == 0) atomic_store_explicit(&s, 0, memory_order_relaxed); "
        "atomic_fetch_add_explicit(&s, 1, memory_order_relaxed); o[i] = *(threadgroup int*)&s;",
        "race",
    ),
    "byte of another thread's word": (
        "device uchar* b = (device uchar*)o; for (int k = 0; k < 4; k++) b[4 * i + k] = 1; b[(4 * i + 4) & 255] = 2;",
        "race",
    ),
}


@pytest.mark.parametrize("bug", TINY_BUGS)
def test_seeded_bug_in_a_small_kernel(tmp_path, bug):
    body, kind = TINY_BUGS[bug]
    result = tiny(tmp_path, body, groups=2, n=128)
    assert kind in result.kinds(), result.reports
    report = next(r for r in result.reports if r.kind == kind)
    assert str(report).startswith(f"kernel.metal:{line_of(TINY, 'BODY')}: {kind}"), str(report)


SOUND = {
    "lane exchange": SWAP.format("simdgroup_barrier(mem_flags::mem_threadgroup);"),
    "threadgroup exchange": SWAP.format(BARRIER),
    "device memory after its barrier": (
        "o[i] = x[i]; threadgroup_barrier(mem_flags::mem_device); float y = o[i ^ 1]; "
        "threadgroup_barrier(mem_flags::mem_device); o[i] = y;"
    ),
    "shuffles": (
        "float y = simd_shuffle_xor(x[i], 1); o[i] = y + simd_shuffle_and_fill_up(y, 0.0f, 3) + simd_sum(y);"
    ),
    "shuffle that leaves the simdgroup": "float y = simd_shuffle_down(x[i], 1); o[i] = lane < 31 ? y : 0;",
    "atomics": (
        "threadgroup atomic_int s; if (t == 0) atomic_store_explicit(&s, 0, memory_order_relaxed); "
        + BARRIER
        + " atomic_fetch_add_explicit(&s, int(t), memory_order_relaxed); "
        + BARRIER
        + " o[i] = atomic_load_explicit(&s, memory_order_relaxed);"
    ),
    "halves of one word": "device half* h = (device half*)o; h[2 * i] = 1; h[2 * i + 1] = 2;",
    "private array": (
        "float a[4] = {1, 2, 3, 4}; float s = 0; for (int k = 0; k < 4; k++) s += a[(k + t) & 3]; o[i] = s;"
    ),
    "pointer to private memory": (
        "float a[8]; thread float* p = a; for (int k = 0; k < 8; k++) p[k] = k; o[i] = p[t & 7];"
    ),
}


@pytest.mark.parametrize("what", SOUND)
def test_sound_kernel_gives_no_report(tmp_path, what):
    schedules = [Schedule("forward"), Schedule("reverse"), *(Schedule("shuffled", s) for s in (1, 2, 3))]
    tiny(tmp_path, SOUND[what], groups=2, n=128, schedules=schedules).check()


def test_simd_operations_agree_with_numpy(tmp_path):
    body = """
      float v = x[i];
      threadgroup float unused[1]; if (t == 0) unused[0] = 0;
      float r[] = {simd_sum(v), simd_max(v), simd_min(v), simd_prefix_inclusive_sum(v), simd_broadcast(v, 3),
                   simd_shuffle_up(v, 1), float(simd_any(v > 30)), float(simd_all(v >= 0)),
                   float(ulong(simd_ballot(v > 30)))};
      o[i] = 0;
      for (uint k = 0; k < 9; k++) o[i] += (lane || k != 5) ? r[k] * (k + 1) : 0;
    """
    v = np.arange(32, dtype=np.float64)
    up = np.concatenate([[0], v[:-1]])
    parts = [v.sum(), 31, 0, np.cumsum(v), 3, up, 1, 1, 2.0**31]
    expected = sum(p * (k + 1) for k, p in enumerate(parts))
    result = tiny(tmp_path, body, n=32, threads=32).check()
    np.testing.assert_allclose(result.outputs["b0"], expected, rtol=1e-6)


def test_partial_threadgroups_and_function_constants(tmp_path):
    source = """
    #include <metal_stdlib>
    using namespace metal;
    constant int scale [[function_constant(0)]];
    constant bool has_offset [[function_constant(1)]];
    constant float offset [[function_constant(7)]];
    constant int doubled = 2 * scale;
    kernel void k(device float* o [[buffer(0)]],
                  const device float* extra [[buffer(1), function_constant(has_offset)]],
                  uint2 i [[thread_position_in_grid]], uint2 n [[threads_per_grid]],
                  uint2 s [[threads_per_threadgroup]]) {
      float v = doubled * float(i.y * n.x + i.x) + s.x;
      if (has_offset) v += extra[i.x] + (is_function_constant_defined(offset) ? offset : 0);
      o[i.y * n.x + i.x] = v;
    }
    """
    path = write(tmp_path, source)
    shape = {"grid": (10, 3, 1), "threadgroup": (8, 2, 1), "dispatch": "threads"}
    plain = run_kernel(path, "k", {0: Output((3, 10))}, **shape, constants={0: 3, 1: False, 7: 0.0}).check()
    width = np.where(np.arange(10) < 8, 8, 2)
    expected = 6 * np.arange(30).reshape(3, 10) + width
    np.testing.assert_array_equal(plain.outputs["b0"], expected)
    buffers = {0: Output((3, 10)), 1: np.arange(10, dtype=np.float32)}
    more = run_kernel(path, "k", buffers, **shape, constants={0: 3, 1: True, 7: 0.5}).check()
    np.testing.assert_array_equal(more.outputs["b0"], expected + np.arange(10) + 0.5)


def test_threadgroup_arguments(tmp_path):
    source = TINY.replace("uint t [[", "threadgroup float* s [[threadgroup(0)]], uint t [[").replace(
        "BODY", "s[t] = x[i]; " + BARRIER + " o[i] = s[63 - t];"
    )
    buffers = {0: Output((64,)), 1: np.arange(64, dtype=np.float32)}

    def run(n):
        memory = {0: n}
        path = write(tmp_path, source)
        return run_kernel(path, "k", buffers, (1, 1, 1), (64, 1, 1), threadgroup_memory=memory)

    np.testing.assert_array_equal(run(256).check().outputs["b0"], np.arange(64)[::-1])
    assert "out-of-bounds" in run(240).kinds()
    assert run(33 * 1024).kinds() == {"program"}


def test_byte_counters_are_exact(tmp_path):
    """Each of 2 x 64 threads loads 4 floats and a half of threadgroup memory, stores one float and one half."""
    body = (
        "threadgroup half s[64]; s[t] = half(x[i]); "
        + BARRIER
        + " o[i] = x[i] + x[i + 1] + x[i + 2] + float(s[t ^ 1]);"
    )
    (step,) = tiny(tmp_path, body, groups=2, n=128, size=130).check().steps
    assert step.loaded == {"b1": 128 * 4 * 4}
    assert step.touched_loaded == {"b1": 130 * 4}
    assert step.stored == step.touched_stored == {"b0": 128 * 4}
    assert (step.threadgroup_loaded, step.threadgroup_stored, step.threadgroup_memory) == (256, 256, 128)
    assert step.threadgroup_barriers == 2
    traffic = {(t.place.line, t.name, t.write): t.nbytes for t in step.traffic()}
    line = line_of(TINY, "BODY")
    assert traffic[line, "'b0' (o)", True] == 512


def test_vector_across_the_end_of_a_buffer(tmp_path):
    body = "o[i] = (*(const device float4*)(x + (i / 4 + 1) * 4)).x;"
    (report,) = tiny(tmp_path, body, groups=2, n=128, size=130).reports
    assert report.kind == "out-of-bounds" and "of 16 bytes at offset 512" in report.message


def test_byte_counters_of_a_read_modify_write(tmp_path):
    body = "o[i] = x[i]; threadgroup_barrier(mem_flags::mem_device); o[i] += 1; o[i] *= 2;"
    (step,) = tiny(tmp_path, body).check().steps
    assert step.stored["b0"] == step.loaded["b0"] + 256


def test_every_schedule_runs_each_thread_once(tmp_path):
    schedules = [Schedule("forward"), Schedule("reverse"), *(Schedule("shuffled", s) for s in range(3))]
    result = tiny(tmp_path, "o[i] = x[i] + 1;", groups=7, n=448, schedules=schedules).check()
    np.testing.assert_array_equal(result.outputs["b0"], np.arange(448) + 1)


def test_result_that_depends_on_the_schedule(tmp_path):
    source = """
    #include <metal_stdlib>
    using namespace metal;
    kernel void k(device uint* o [[buffer(0)]], uint t [[thread_index_in_threadgroup]]) {
      threadgroup atomic_uint n;
      if (t == 0) atomic_store_explicit(&n, 0, memory_order_relaxed);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      o[t] = atomic_fetch_add_explicit(&n, 1u, memory_order_relaxed);
    }
    """
    result = run_kernel(write(tmp_path, source), "k", {0: Output((4,), "uint32")}, (1, 1, 1), (4, 1, 1))
    assert result.kinds() == {"schedule-dependent"}
