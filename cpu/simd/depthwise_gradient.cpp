// dL/dw of depthwise convolutions whose input is read where it lies: a vector of dL/dy of some positions of
// one or two output rows is held while the rows that they meet go by.

#include "cpu/simd/convert.h"
#include "cpu/simd/depthwise.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

template <int K, int S>
struct Shape {
  static constexpr int kTaps = K, kStride = S;
  static constexpr int kMostRows = SIMD_REGISTERS == 32 && K == 3 ? 2 : 1;
  static constexpr int kPositions = SIMD_REGISTERS == 32 ? 7 : 4;
};

/// R output rows from `row` on, P positions from `first` on, one vector of channels. Inner: the columns
/// follow each other.
template <class T, class Of, int R, int P, bool Inner>
SIMD_INLINE void block(const DepthwiseGradientRows& g, int64_t v, int64_t row, int64_t first) {
  typedef typename T::Item Item;
  constexpr int K = Of::kTaps, S = Of::kStride, kColumns = (P - 1) * S + K;
  const DepthwiseRows& r = g.rows;
  const int64_t channel = r.channel[v];
  Vec dy[R][P];
  const float* from = g.dy + row * r.row_step + first * r.channels + channel;
#pragma GCC unroll 2
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 7
    for (int p = 0; p < P; ++p) dy[i][p] = load(from + i * r.row_step + p * r.channels);
  }
  const int64_t in_rows = (r.out_rows - 1) * S + K;
  const void* const* rows = r.rows + row * S;
  float* to = g.sums + v * r.depth_taps * (K * K * kWidth);
  for (int64_t kd = 0; kd < r.depth_taps; ++kd, rows += in_rows, to += K * K * kWidth) {
    const int64_t* columns = r.columns[kd].at + first * S;
    const int64_t pixel = r.columns[kd].pixel;
    Vec sums[K][K];
#pragma GCC unroll 7
    for (int ih = 0; ih < (R - 1) * S + K; ++ih) {
      if (ih < K) {
#pragma GCC unroll 5
        for (int kw = 0; kw < K; ++kw) sums[ih][kw] = Vec{};
      }
      if (rows[ih] != nullptr) {
        const Item* x = static_cast<const Item*>(rows[ih]) + channel + (Inner ? columns[0] : 0);
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
          for (int i = 0; i < R; ++i) {
            const int kh = ih - i * S;
            if (kh < 0 || kh >= K) continue;
#pragma GCC unroll 5
            for (int kw = 0; kw < K; ++kw) {
              if (t >= kw && (t - kw) % S == 0 && (t - kw) / S < P) sums[kh][kw] += in * dy[i][(t - kw) / S];
            }
          }
        }
      }
      // No later row meets this row of taps.
      const int done = ih - (R - 1) * S;
      if (done < 0) continue;
#pragma GCC unroll 5
      for (int kw = 0; kw < K; ++kw) {
        float* sum = to + (done * K + kw) * kWidth;
        store(sum, load(sum) + sums[done][kw]);
      }
    }
  }
}

template <class T, class Of, int R, int P>
SIMD_INLINE int64_t blocks(const DepthwiseGradientRows& g, int64_t row, int64_t first) {
  const DepthwiseRows& r = g.rows;
  for (; first + P <= r.positions; first += P) {
    if (first >= r.inner_begin && first + P <= r.inner_end) {
      for (int64_t v = 0; v < r.vectors; ++v) block<T, Of, R, P, true>(g, v, row, first);
    } else {
      for (int64_t v = 0; v < r.vectors; ++v) block<T, Of, R, P, false>(g, v, row, first);
    }
  }
  return first;
}

template <class T, class Of, int R>
__attribute__((noinline)) void rows(const DepthwiseGradientRows& g, int64_t row) {
  int64_t first = blocks<T, Of, R, Of::kPositions>(g, row, 0);
  if constexpr (Of::kPositions > 4) first = blocks<T, Of, R, 4>(g, row, first);
  first = blocks<T, Of, R, 2>(g, row, first);
  blocks<T, Of, R, 1>(g, row, first);
}

template <class T, class Of>
void gradient(const DepthwiseGradientRows& g) {
  int64_t row = 0;
  if constexpr (Of::kMostRows == 2) {
    for (; row + 2 <= g.rows.out_rows; row += 2) rows<T, Of, 2>(g, row);
  }
  for (; row < g.rows.out_rows; ++row) rows<T, Of, 1>(g, row);
}

template <class Of>
DepthwiseGradientFunction of_type(Dtype type) {
  switch (type) {
    case Dtype::float16:
      return gradient<Float16, Of>;
    case Dtype::bfloat16:
      return gradient<BFloat16, Of>;
    case Dtype::float32:
      break;
  }
  return gradient<Float32, Of>;
}

}  // namespace

DepthwiseGradientFunction depthwise_gradient_function(int64_t side, int64_t stride, Dtype type) {
  if (side == 3) return stride == 1 ? of_type<Shape<3, 1>>(type) : of_type<Shape<3, 2>>(type);
  return stride == 1 ? of_type<Shape<5, 1>>(type) : of_type<Shape<5, 2>>(type);
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
