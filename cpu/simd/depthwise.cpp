// Depthwise convolution of rows read where they lie, with a kernel and a stride known at compile time. A
// vector of channels is held for several positions, and at stride 1 of two output rows, so that an input that
// several of them meet is loaded once.

#include "cpu/simd/depthwise.h"

#include "core/grouped_kernels.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

/// KH x KW taps, output rows and positions of a block.
template <int KH, int KW, int S>
struct Shape {
  static constexpr int kRowTaps = KH, kColTaps = KW, kStride = S;
  static constexpr int kSums = SIMD_REGISTERS == 32 ? 14 : 8;
  static constexpr int kMostRows = S == 1 ? 2 : 1;
  static constexpr int kPositions = kSums / kMostRows;
  static constexpr int kColumns = (kPositions - 1) * S + KW;
  static constexpr int rows(int out_rows) { return (out_rows - 1) * S + KH; }
};

template <class O>
void finish(const DepthwiseRows& r, const float* sums, int pitch, int64_t first, int64_t count, int64_t c) {
  const Epilogue& e = *r.epilogue;
  for (int row = 0; row < r.out_rows; ++row, sums += pitch) {
    int64_t at = r.out + row * r.row_step + first * r.channels + c;
    for (int64_t i = 0; i < count; ++i, at += r.channels) {
      const auto* residual = static_cast<const typename O::Item*>(e.residual);
      store_lanes<O>(load(sums + i * kWidth), e.activation, nullptr, residual ? residual + at : nullptr,
                     static_cast<typename O::Item*>(r.y) + at, kWidth);
    }
  }
}

/// Sums that are not simply float32 results.
__attribute__((noinline)) void finish_block(const DepthwiseRows& r, const float* sums, int pitch,
                                            int64_t first, int64_t count, int64_t c) {
  SIMD_BY_TYPE(r.epilogue->type, finish, r, sums, pitch, first, count, c)
}

template <int R, int P>
SIMD_INLINE void finish_sums(const DepthwiseRows& r, const Vec (*sums)[P], int64_t first, int64_t count,
                             int64_t c) {
  const Epilogue& e = *r.epilogue;
  if (count == P && e.type == Dtype::float32 && e.activation == Activation::none && e.residual == nullptr) {
#pragma GCC unroll 2
    for (int row = 0; row < R; ++row) {
      float* out = static_cast<float*>(r.y) + r.out + row * r.row_step + first * r.channels + c;
#pragma GCC unroll 14
      for (int p = 0; p < P; ++p, out += r.channels) store(out, sums[row][p]);
    }
    return;
  }
  float copy[R * P * kWidth];
#pragma GCC unroll 2
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 14
    for (int p = 0; p < P; ++p) store(copy + (row * P + p) * kWidth, sums[row][p]);
  }
  finish_block(r, copy, P * kWidth, first, count, c);
}

/// One vector of channels, R output rows and up to P positions of them. Inner: the columns follow each other.
template <class T, class Of, int R, bool Inner>
SIMD_INLINE void block(const DepthwiseRows& r, int64_t v, int64_t first, int64_t count) {
  typedef typename T::Item Item;
  constexpr int KH = Of::kRowTaps, KW = Of::kColTaps, S = Of::kStride, P = Of::kPositions;
  constexpr int kRows = Of::rows(R), kColumns = Of::kColumns;
  const int64_t c = r.channel[v];
  Vec sums[R][P];
  const Vec start = r.epilogue->bias ? load(r.epilogue->bias + c) : Vec{};
#pragma GCC unroll 2
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 14
    for (int p = 0; p < P; ++p) sums[row][p] = start;
  }
  const float* weights = r.weights + v * r.depth_taps * (KH * KW * kWidth);
  const void* const* rows = r.rows;
  for (int64_t kd = 0; kd < r.depth_taps; ++kd, rows += kRows, weights += KH * KW * kWidth) {
    const int64_t* columns = r.columns[kd].at + first * S;
    const int64_t pixel = r.columns[kd].pixel;
    Vec w[KH][KW];
#pragma GCC unroll 5
    for (int kh = 0; kh < KH; ++kh) {
#pragma GCC unroll 5
      for (int kw = 0; kw < KW; ++kw) w[kh][kw] = load(weights + (kh * KW + kw) * kWidth);
    }
#pragma GCC unroll 6
    for (int ih = 0; ih < kRows; ++ih) {
      if (rows[ih] == nullptr) continue;
      const Item* x = static_cast<const Item*>(rows[ih]) + c + (Inner ? columns[0] : 0);
#pragma GCC unroll 32
      for (int t = 0; t < kColumns; ++t) {
        if (!Inner && columns[t] == kNoColumn) continue;
        Vec in = T::load(Inner ? x : x + columns[t]);
        hold(in);
        if (Inner) {
          x += pixel;
          asm("" : "+r"(x));
        }
#pragma GCC unroll 2
        for (int row = 0; row < R; ++row) {
          const int kh = ih - row * S;
          if (kh < 0 || kh >= KH) continue;
#pragma GCC unroll 5
          for (int kw = 0; kw < KW; ++kw) {
            if (t >= kw && (t - kw) % S == 0 && (t - kw) / S < P) sums[row][(t - kw) / S] += in * w[kh][kw];
          }
        }
      }
    }
  }
  finish_sums<R, P>(r, sums, first, count, c);
}

/// In the order in which pixels lie in memory. The last block may begin earlier and compute some positions
/// again.
template <class T, class Of, int R>
SIMD_INLINE void blocks(const DepthwiseRows& r) {
  constexpr int64_t P = Of::kPositions;
  for (int64_t next = 0; next < r.positions; next += P) {
    const int64_t first = next + P <= r.positions || r.positions < P ? next : r.positions - P;
    const int64_t count = r.positions < P ? r.positions : P;
    if (first >= r.inner_begin && first + P <= r.inner_end) {
      for (int64_t v = 0; v < r.vectors; ++v) block<T, Of, R, true>(r, v, first, count);
    } else {
      for (int64_t v = 0; v < r.vectors; ++v) block<T, Of, R, false>(r, v, first, count);
    }
  }
}

template <class T, class Of>
void depthwise(const DepthwiseRows& r) {
  if constexpr (Of::kMostRows == 2) {
    if (r.out_rows == 2) return blocks<T, Of, 2>(r);
  }
  blocks<T, Of, 1>(r);
}

template <class Of>
DepthwiseFunction of_type(Dtype type) {
  switch (type) {
    case Dtype::float16:
      return depthwise<Float16, Of>;
    case Dtype::bfloat16:
      return depthwise<BFloat16, Of>;
    case Dtype::float32:
      break;
  }
  return depthwise<Float32, Of>;
}

template <int K>
DepthwiseFunction of_stride(int64_t stride, Dtype type) {
  return stride == 1 ? of_type<Shape<K, K, 1>>(type) : of_type<Shape<K, K, 2>>(type);
}

}  // namespace

DepthwiseFunction depthwise_function(int kernel, int64_t stride, Dtype type) {
  return kGroupedKernels.at[kernel].taps[2] == 3 ? of_stride<3>(stride, type) : of_stride<5>(stride, type);
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
