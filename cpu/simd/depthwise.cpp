// Depthwise convolution of rows read where they lie, with a kernel and a stride known at compile time. A
// vector of channels is held for several positions of several output rows, so that an input that several of
// them meet is loaded once.

#include "cpu/simd/depthwise.h"

#include "core/grouped_kernels.h"
#include "cpu/simd/fetch.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

/// KH x KW taps; output rows and positions of a block. Of an input dilated by D every D-th column exists.
template <int KH, int KW, int S, int D>
struct Shape {
  static constexpr int kRowTaps = KH, kColTaps = KW, kStride = S, kDilation = D;
  static constexpr int kMostRows = SIMD_REGISTERS == 32 && KH == 3 ? 3 : 2;
  static constexpr int kPositions = SIMD_REGISTERS == 32 ? 7 : 4;
  static constexpr int kColumns = (kPositions - 1) * S + KW;
  static constexpr int rows(int out_rows) { return (out_rows - 1) * S + KH; }
};

/// A block of sums: output rows from `row` on, positions from `first` on, channels from `channel` on.
struct Place {
  int64_t row, first, count, channel;
};

/// Row and first position of the block whose memory is asked for while another one is computed: that one, or
/// kBlocksAhead later, or at the same place of the next rows if that comes first.
struct Later {
  int64_t row, first;
};
constexpr int64_t kBlocksAhead = 24;

template <class Of, int R>
SIMD_INLINE Later later_than(const DepthwiseRows& r, int64_t row, int64_t first) {
  constexpr int64_t P = Of::kPositions;
  if (!r.far) return {row, first};
  const int64_t ahead = (kBlocksAhead + r.vectors - 1) / r.vectors * P;
  first += ahead < r.positions ? ahead : r.positions;
  if (first >= r.positions) {
    first -= r.positions;
    row += R;
  }
  if (first > r.positions - P) first = r.positions < P ? 0 : r.positions - P;
  return {row + R <= r.out_rows ? row : r.out_rows - R, first};
}

template <class O>
void finish(const DepthwiseRows& r, const float* sums, int rows, int positions, const Place& place) {
  const Epilogue& e = *r.epilogue;
  for (int row = 0; row < rows; ++row, sums += positions * kWidth) {
    int64_t at = r.out + (place.row + row) * r.row_step + place.first * r.channels + place.channel;
    for (int64_t i = 0; i < place.count; ++i, at += r.channels) {
      const auto* residual = static_cast<const typename O::Item*>(e.residual);
      store_lanes<O>(load(sums + i * kWidth), e.activation, nullptr, residual ? residual + at : nullptr,
                     static_cast<typename O::Item*>(r.y) + at, kWidth);
    }
  }
}

/// Sums that are not simply results of the input's type.
__attribute__((noinline)) void finish_block(const DepthwiseRows& r, const float* sums, int rows,
                                            int positions, const Place& place) {
  SIMD_BY_TYPE(r.epilogue->type, finish, r, sums, rows, positions, place)
}

template <class T, int R, int P>
SIMD_INLINE void finish_sums(const DepthwiseRows& r, const Vec (*sums)[P], const Place& place) {
  typedef typename T::Item Item;
  const Epilogue& e = *r.epilogue;
  if (place.count == P && e.type == T::kType && e.activation == Activation::none && e.residual == nullptr) {
    Item* out =
        static_cast<Item*>(r.y) + r.out + place.row * r.row_step + place.first * r.channels + place.channel;
#pragma GCC unroll 3
    for (int row = 0; row < R; ++row) {
#pragma GCC unroll 7
      for (int p = 0; p < P; ++p) T::store(out + row * r.row_step + p * r.channels, sums[row][p]);
    }
    return;
  }
  float copy[R * P * kWidth];
#pragma GCC unroll 3
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 7
    for (int p = 0; p < P; ++p) store(copy + (row * P + p) * kWidth, sums[row][p]);
  }
  finish_block(r, copy, R, P, place);
}

/// Vectors of float32 in a cache line.
constexpr int kPerLine = 16 / kWidth;

/// Asks for memory that a later block writes, and for rows of the input that it is the first to meet: the
/// order in which pixels are met is none that the hardware foresees, and a line that is asked for by its
/// store alone holds up those after it.
template <class T, class Of, int R>
SIMD_INLINE void fetch(const DepthwiseRows& r, const Place& place, const Later& later) {
  constexpr int P = Of::kPositions, S = Of::kStride;
  const int64_t item = r.epilogue->type == Dtype::float32 ? 4 : 2;
  const char* out = static_cast<const char*>(r.y) +
                    (r.out + later.row * r.row_step + later.first * r.channels + place.channel) * item;
#pragma GCC unroll 3
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 7
    for (int p = 0; p < P; ++p) fetch_to_read(out + (row * r.row_step + p * r.channels) * item);
  }
  const void* const* rows = r.far && r.depth_taps == 1 ? r.rows + later.row * S + Of::kRowTaps - S : nullptr;
  int64_t first = later.first;
  if (r.next != nullptr) {
    rows = r.next + place.row * S;
    first = place.first;
  }
  if (rows == nullptr || Of::kDilation > 1) return;
  const int64_t column = first * S * r.next_pixel + place.channel;
  for (int ih = 0; ih < R * S; ++ih) {
    if (rows[ih] == nullptr) continue;
    const auto* x = static_cast<const typename T::Item*>(rows[ih]) + column;
#pragma GCC unroll 14
    for (int t = 0; t < P * S; ++t) fetch_to_read(reinterpret_cast<const char*>(x + t * r.next_pixel));
  }
}

/// Of a block's columns that follow each other, the first one that exists; else that is to be looked up.
constexpr int kAnyColumn = -1;

/// One vector of channels, R output rows and up to P positions of them.
template <class T, class Of, int R, int First>
SIMD_INLINE void block(const DepthwiseRows& r, int64_t v, const Place& place, const Later& later) {
  typedef typename T::Item Item;
  constexpr int KH = Of::kRowTaps, KW = Of::kColTaps, S = Of::kStride, P = Of::kPositions;
  constexpr int kRows = Of::rows(R), kColumns = Of::kColumns;
  constexpr bool kInner = First != kAnyColumn;
  constexpr int kBegin = kInner ? First : 0, kStep = kInner ? Of::kDilation : 1;
  Vec sums[R][P];
  const Vec start = r.epilogue->bias ? load(r.epilogue->bias + place.channel) : Vec{};
#pragma GCC unroll 3
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 7
    for (int p = 0; p < P; ++p) sums[row][p] = start;
  }
  if (v % kPerLine == 0) fetch<T, Of, R>(r, place, later);
  const int64_t in_rows = Of::rows(static_cast<int>(r.out_rows));
  const float* weights = r.weights + v * r.depth_taps * (KH * KW * kWidth);
  const void* const* rows = r.rows + place.row * S;
  for (int64_t kd = 0; kd < r.depth_taps; ++kd, rows += in_rows, weights += KH * KW * kWidth) {
    const int64_t* columns = r.columns[kd].at + place.first * S;
    const int64_t pixel = r.columns[kd].pixel;
    Vec w[KH][KW];
#pragma GCC unroll 5
    for (int kh = 0; kh < KH; ++kh) {
#pragma GCC unroll 5
      for (int kw = 0; kw < KW; ++kw) w[kh][kw] = load(weights + (kh * KW + kw) * kWidth);
    }
#pragma GCC unroll 7
    for (int ih = 0; ih < kRows; ++ih) {
      if (rows[ih] == nullptr) continue;
      const Item* x = static_cast<const Item*>(rows[ih]) + place.channel + (kInner ? columns[kBegin] : 0);
#pragma GCC unroll 32
      for (int t = kBegin; t < kColumns; t += kStep) {
        if (!kInner && columns[t] == kNoColumn) continue;
        Vec in = T::load(kInner ? x : x + columns[t]);
        hold(in);
        if (kInner) {
          x += pixel;
          asm("" : "+r"(x));
        }
#pragma GCC unroll 3
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
  finish_sums<T, R, P>(r, sums, place);
}

/// R output rows, in the order in which pixels lie in memory. The last block of positions may begin earlier
/// and compute some of them again.
template <class T, class Of, int R>
SIMD_INLINE void blocks(const DepthwiseRows& r, int64_t row) {
  constexpr int64_t P = Of::kPositions;
  for (int64_t next = 0; next < r.positions; next += P) {
    const int64_t count = r.positions < P ? r.positions : P;
    const int64_t first = next + P <= r.positions || r.positions < P ? next : r.positions - P;
    const bool inner = first >= r.inner_begin && first + P <= r.inner_end;
    const int64_t* columns = r.columns[0].at + first * Of::kStride;
    const Later later = later_than<Of, R>(r, row, first);
    if (inner && columns[0] != kNoColumn) {
      for (int64_t v = 0; v < r.vectors; ++v)
        block<T, Of, R, 0>(r, v, {row, first, count, r.channel[v]}, later);
    } else if (inner && Of::kDilation > 1) {
      for (int64_t v = 0; v < r.vectors; ++v)
        block<T, Of, R, 1>(r, v, {row, first, count, r.channel[v]}, later);
    } else {
      for (int64_t v = 0; v < r.vectors; ++v) {
        block<T, Of, R, kAnyColumn>(r, v, {row, first, count, r.channel[v]}, later);
      }
    }
  }
}

/// Output rows of the next block, of so many that are left: none is left to a block of its own.
template <int Most>
SIMD_INLINE int64_t block_rows(int64_t left) {
  if (Most > 2 && left == Most + 1) return 2;
  return left < Most ? left : Most;
}

template <class T, class Of>
void depthwise(const DepthwiseRows& r) {
  for (int64_t row = 0, rows; row < r.out_rows; row += rows) {
    rows = block_rows<Of::kMostRows>(r.out_rows - row);
    if constexpr (Of::kMostRows > 2) {
      if (rows == 3) {
        blocks<T, Of, 3>(r, row);
        continue;
      }
    }
    if (rows == 2) {
      blocks<T, Of, 2>(r, row);
    } else {
      blocks<T, Of, 1>(r, row);
    }
  }
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
DepthwiseFunction of_steps(int64_t stride, int64_t dilation, Dtype type) {
  if (dilation == 2) return of_type<Shape<K, K, 1, 2>>(type);
  return stride == 1 ? of_type<Shape<K, K, 1, 1>>(type) : of_type<Shape<K, K, 2, 1>>(type);
}

}  // namespace

DepthwiseFunction depthwise_function(int64_t side, int64_t stride, int64_t input_dilation, Dtype type) {
  return side == 3 ? of_steps<3>(stride, input_dilation, type) : of_steps<5>(stride, input_dilation, type);
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
