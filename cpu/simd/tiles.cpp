// AMX: products of operands in bf16 parts.

#include "cpu/simd/simd.h"

// After simd.h, which defines SIMD_NAMESPACE.
#include "cpu/simd/tile_winograd.h"
#include "cpu/simd/tiles.h"

namespace mlx_conv3d::cpu {
namespace SIMD_NAMESPACE {
namespace {

// Tiles 0 to 3 hold sums (two rows of tiles by two columns), 4 and 5 the left operand, 6 and 7 the right one.

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfig kConfig;

template <int R>
SIMD_INLINE void load_left(const uint16_t* a, int64_t stride) {
  _tile_loadd(4, a, stride * 2);
  if constexpr (R == 2) _tile_loadd(5, a + kTileSide * stride, stride * 2);
}
template <int N>
SIMD_INLINE void load_right(const uint16_t* b) {
  _tile_loadd(6, b, kTileDepth * 2);
  if constexpr (N == 2) _tile_loadd(7, b + kTileItems, kTileDepth * 2);
}
/// _tile_dpfp16ps as its bytes, for compilers and assemblers that do not know it.
#define SIMD_TILE_DPFP16PS(c, a, b)                                                  \
  __asm__ volatile(".byte 0xc4, 0xe2, %c0, 0x5c, %c1" ::"i"(((~(b) & 15) << 3) | 3), \
                   "i"(0xc0 | ((c) << 3) | (a)))
#define SIMD_TILE_PRODUCT(half, c, a, b) \
  if constexpr (half) {                  \
    SIMD_TILE_DPFP16PS(c, a, b);         \
  } else {                               \
    _tile_dpbf16ps(c, a, b);             \
  }

template <int R, int N>
SIMD_INLINE void multiply_loaded() {
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (N == 2) _tile_dpbf16ps(1, 4, 7);
  if constexpr (R == 2) _tile_dpbf16ps(2, 5, 6);
  if constexpr (R == 2 && N == 2) _tile_dpbf16ps(3, 5, 7);
}
template <int R, int N>
SIMD_INLINE void load_sums(const float* c, int64_t stride) {
  _tile_loadd(0, c, stride * 4);
  if constexpr (N == 2) _tile_loadd(1, c + kTileSide, stride * 4);
  if constexpr (R == 2) _tile_loadd(2, c + kTileSide * stride, stride * 4);
  if constexpr (R == 2 && N == 2) _tile_loadd(3, c + kTileSide * stride + kTileSide, stride * 4);
}
template <int R, int N>
SIMD_INLINE void clear_sums() {
  _tile_zero(0);
  if constexpr (N == 2) _tile_zero(1);
  if constexpr (R == 2) _tile_zero(2);
  if constexpr (R == 2 && N == 2) _tile_zero(3);
}
template <int R, int N>
SIMD_INLINE void store_sums(float* c, int64_t stride) {
  _tile_stored(0, c, stride * 4);
  if constexpr (N == 2) _tile_stored(1, c + kTileSide, stride * 4);
  if constexpr (R == 2) _tile_stored(2, c + kTileSide * stride, stride * 4);
  if constexpr (R == 2 && N == 2) _tile_stored(3, c + kTileSide * stride + kTileSide, stride * 4);
}

/// One step, loading one operand's next part at a time.
template <int R, int N, int Parts, bool Half>
SIMD_INLINE void step(const uint16_t* a, int64_t stride, int64_t part_stride, const uint16_t* b) {
  constexpr int64_t kNext = N * kTileItems;
  const auto left = [&](int part)
                        __attribute__((always_inline)) { load_left<R>(a + part * part_stride, stride); };
  const auto right = [&](int part) __attribute__((always_inline)) { load_right<N>(b + part * kNext); };
  if constexpr (Parts == 1) {
    // Loads between the products: nothing waits for all four.
    _tile_loadd(6, b, kTileDepth * 2);
    _tile_loadd(4, a, stride * 2);
    SIMD_TILE_PRODUCT(Half, 0, 4, 6)
    if constexpr (N == 2) {
      _tile_loadd(7, b + kTileItems, kTileDepth * 2);
      SIMD_TILE_PRODUCT(Half, 1, 4, 7)
    }
    if constexpr (R == 2) {
      _tile_loadd(5, a + kTileSide * stride, stride * 2);
      SIMD_TILE_PRODUCT(Half, 2, 5, 6)
    }
    if constexpr (R == 2 && N == 2) {
      SIMD_TILE_PRODUCT(Half, 3, 5, 7)
    }
  } else if constexpr (Parts == 2) {
    left(0), right(1), multiply_loaded<R, N>();
    right(0), multiply_loaded<R, N>();
    left(1), multiply_loaded<R, N>();
  } else {
    left(0), right(2), multiply_loaded<R, N>();
    right(1), multiply_loaded<R, N>();
    left(1), multiply_loaded<R, N>();
    right(0), multiply_loaded<R, N>();
    left(0), multiply_loaded<R, N>();
    left(2), multiply_loaded<R, N>();
  }
}

/// What is behind the last row is not read or written where it lies, but in a copy.
template <int R, int N>
struct Copy {
  static constexpr int64_t kStride = N * kTileSide;
  alignas(64) float sums[R * kTileSide * kStride];

  void take(const float* c, int64_t stride, int64_t rows) {
    for (int64_t r = 0; r < R * kTileSide; ++r) {
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        store(sums + r * kStride + n * kTileSide, r < rows ? load(c + r * stride + n * kTileSide) : Vec{});
      }
    }
  }
  void give(float* c, int64_t stride, int64_t rows, bool add) const {
    for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) {
        float* to = c + r * stride + n * kTileSide;
        const Vec v = load(sums + r * kStride + n * kTileSide);
        store(to, add ? load(to) + v : v);
      }
    }
  }
};

template <int R, int N, int Parts, bool Half>
void block(const TileProduct& t, int64_t row, int64_t rows) {
  // One product in three or six would round the sums as often as all of a block's: these are summed apart.
  constexpr bool kApart = Parts > 1;
  const bool whole = rows == R * kTileSide;
  Copy<R, N> copy;
  float* c = t.c + row * t.c_stride;
  if (kApart || !t.accumulate) {
    clear_sums<R, N>();
  } else if (whole) {
    load_sums<R, N>(c, t.c_stride);
  } else {
    copy.take(c, t.c_stride, rows);
    load_sums<R, N>(copy.sums, copy.kStride);
  }
  const uint16_t* a = t.a + row * t.a_stride;
  const int64_t stride = t.a_stride, part_stride = t.a_part_stride;
  // The next rows' sums lie in the L2 cache, the next panel in L3: fetched while these products are taken.
  const bool fetch = !kApart && t.accumulate && R == 2;
  const int64_t sums_ahead = fetch ? (2 * kTileSide + t.step_count - 1) / t.step_count : 0;
  const float* sums = c + R * kTileSide * t.c_stride;
  constexpr int64_t kLine = 32, kStepItems = Parts * N * kTileItems;
  const int64_t blocks = (t.rows + 2 * kTileSide - 1) / (2 * kTileSide), block = row / (2 * kTileSide);
  const int64_t lines = t.next ? (kStepItems / kLine + blocks - 1) / blocks : 0;
  const uint16_t* next = t.next + block * lines * t.step_count * kLine;
  for (int64_t s = 0; s < t.step_count; ++s) {
    for (int64_t i = 0; i < sums_ahead; ++i, sums += t.c_stride) {
      __builtin_prefetch(sums, 1, 3);
      if constexpr (N == 2) __builtin_prefetch(sums + kTileSide, 1, 3);
    }
    for (int64_t i = 0; i < lines; ++i, next += kLine) __builtin_prefetch(next, 0, 2);
    step<R, N, Parts, Half>(a + t.steps[s].a, stride, part_stride, t.b + t.steps[s].b * kStepItems);
  }
  const bool add = kApart && t.accumulate;
  if (whole && !add) return store_sums<R, N>(c, t.c_stride);
  store_sums<R, N>(copy.sums, copy.kStride);
  copy.give(c, t.c_stride, rows, add);
}

template <int N, int Parts, bool Half = false>
void multiply_rows(const TileProduct& t) {
  int64_t row = 0;
  for (; t.rows - row > kTileSide; row += 2 * kTileSide) {
    block<2, N, Parts, Half>(t, row, t.rows - row < 2 * kTileSide ? t.rows - row : 2 * kTileSide);
  }
  if (row < t.rows) block<1, N, Parts, Half>(t, row, t.rows - row);
}

template <int N>
void multiply_parts(const TileProduct& t) {
  switch (t.parts) {
    case 1:
      return t.half ? multiply_rows<N, 1, true>(t) : multiply_rows<N, 1>(t);
    case 2:
      return multiply_rows<N, 2>(t);
    default:
      return multiply_rows<N, 3>(t);
  }
}

}  // namespace

/// The tiles are this call's alone: a thread that holds none is switched and its state saved faster.
void multiply(const TileProduct& product) {
  _tile_loadconfig(&kConfig);
  if (product.tiles == 1) {
    multiply_parts<1>(product);
  } else {
    multiply_parts<2>(product);
  }
  _tile_release();
}

}  // namespace SIMD_NAMESPACE

extern const TileKernels tile_kernels_amx;
const TileKernels tile_kernels_amx = {true,
                                      false,
                                      SIMD_NAMESPACE::split,
                                      SIMD_NAMESPACE::look,
                                      SIMD_NAMESPACE::pack,
                                      SIMD_NAMESPACE::multiply,
                                      SIMD_NAMESPACE::winograd_input_parts,
                                      SIMD_NAMESPACE::winograd_depth_parts,
                                      SIMD_NAMESPACE::winograd_weight_parts,
                                      nullptr};

}  // namespace mlx_conv3d::cpu
