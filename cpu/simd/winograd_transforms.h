#pragma once

// The transforms of a tile, one vector of channels at a time, for whoever stores the results. The matrices
// are compile-time constants, so the zeros and ones in them cost nothing.

#include "core/winograd.h"
#include "cpu/simd/convert.h"
#include "cpu/simd/fetch.h"
#include "cpu/simd/winograd_apply.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

constexpr int kSharedColumns = 2;  ///< of neighbouring tiles of 3x3 kernels

/// Calls store(xi, c, v) with a vector of channels from c of each frequency. With Fetch, pixels that lie
/// `next` bytes behind are fetched, but for the columns that the next tile shares with this one.
template <class Form, class T, bool Fetch, class Store>
SIMD_INLINE void transform_pixels(const void* const* rows, int64_t channels, int64_t next, Store& store) {
  constexpr int t = Form::pixels;
  const auto* const* pixels = reinterpret_cast<const typename T::Item* const*>(rows);
  for (int64_t c = 0; c < channels; c += kWidth) {
    const int64_t left = channels - c;
    Vec columns[t * t];
    for (int j = 0; j < t; ++j) {
      Vec d[t];
      for (int i = 0; i < t; ++i) {
        const auto* p = pixels[i * t + j] + c;
        if (Fetch && j >= kSharedColumns) fetch_to_read(reinterpret_cast<const char*>(p) + next);
        d[i] = left >= kWidth ? T::load(p) : load_part<T>(p, left);
      }
      apply<t, t, Form::Bt, 1, t>(d, columns + j);
    }
    for (int i = 0; i < t; ++i) {
      Vec row[t];
      apply<t, t, Form::Bt, 1, 1>(columns + i * t, row);
      for (int j = 0; j < t; ++j) store(i * t + j, c, row[j]);
    }
  }
}

/// One vector of output channels, one input channel: calls store(weight, v) with those of its taps.
template <class Form, class Store>
SIMD_INLINE void transform_taps(const Vec* taps, Store&& store) {
  constexpr int t = Form::weights, k = Form::taps;
  Vec columns[t * k];
  for (int j = 0; j < k; ++j) apply<t, k, Form::G, k, k>(taps + j, columns + j);
  for (int i = 0; i < t; ++i) {
    Vec row[t];
    apply<t, k, Form::G, 1, 1>(columns + i * k, row);
    for (int j = 0; j < t; ++j) store(i * t + j, row[j]);
  }
}

/// Terms along depth of so many depth taps that are transformed together.
template <int Depths>
constexpr int depth_terms = Depths == 1 ? 1 : Winograd<2>::pixels;

/// Taps, ordered by depth, row, column, to the taps of each term along depth.
template <class Form, int Depths>
SIMD_INLINE void combine_depths(const Vec* taps, Vec* combined) {
  constexpr int plane = Form::taps * Form::taps;
  for (int tap = 0; tap < plane; ++tap) {
    if constexpr (Depths == 1) {
      combined[tap] = taps[tap];
    } else {
      apply<depth_terms<Depths>, 3, Winograd<2>::G, plane, plane>(taps + tap, combined + tap);
    }
  }
}

constexpr int64_t kNoTap = INT64_MIN;  ///< the offset of a tap that a kernel lacks
/// Input channels whose weights are fetched while those before them are read.
constexpr int64_t kFetched = 64;

/// So many items of one tap of each row, run by run: rows and taps side by side are too many streams for the
/// hardware to fetch ahead. Always inlined: GCC drops calls that only fetch.
template <class Item>
SIMD_INLINE void fetch_runs(const Item* first, int64_t stride, int64_t rows, int64_t count) {
  constexpr int64_t kLine = 64 / sizeof(Item);
  for (int64_t row = 0; row < rows; ++row, first += stride) {
    for (int64_t i = 0; i < count; i += kLine) fetch_to_read(reinterpret_cast<const char*>(first + i));
  }
}

/// Reads a panel's taps: calls transform(vector, c, taps) for every vector of output channels and every input
/// channel, in this order.
template <class Form, int Depths, class T, class Transform>
SIMD_INLINE void read_taps(const WinogradWeightPanel& panel, Transform&& transform) {
  constexpr int k = Form::taps, plane = k * k, all = plane * Depths;
  typedef typename T::Item Item;
  const int64_t* stride = panel.w.stride;
  const auto* w = static_cast<const Item*>(panel.w.data);
  const int last = panel.side - 1;
  int64_t tap_offset[all];
  for (int tap = 0; tap < all; ++tap) {
    const int depth = tap / plane, row = tap / k % k, col = tap % k;
    const int64_t from_depth = panel.flip ? Depths - 1 - depth : depth;
    const int64_t from_row = panel.flip ? last - row : row, from_col = panel.flip ? last - col : col;
    // A kernel may have fewer taps than the form.
    const bool exists = row <= last && col <= last;
    tap_offset[tap] = exists ? from_depth * stride[1] + from_row * stride[2] + from_col * stride[3] : kNoTap;
  }
  const auto lanes_of = [&](int v) -> int64_t {
    const int64_t left = panel.out_channels - v * kWidth;
    return left < 0 ? 0 : left < kWidth ? left : kWidth;
  };
  const auto run_at = [&](int64_t c) {
    return panel.channels - c < kFetched ? panel.channels - c : kFetched;
  };
  for (int tap = 0; stride[4] == 1 && tap < all; ++tap) {
    if (tap_offset[tap] != kNoTap) fetch_runs(w + tap_offset[tap], stride[0], lanes_of(0), run_at(0));
  }
  for (int v = 0; v < panel.vectors; ++v) {
    const int64_t first = v * kWidth, lanes = lanes_of(v);
    int64_t c = 0;
    if (stride[4] == 1) {
      for (; c + kWidth <= panel.channels; c += kWidth) {
        // A share of the rows with each block: all at once would stall what is read.
        const int64_t begin = c / kFetched * kFetched, blocks = (run_at(begin) + kWidth - 1) / kWidth;
        const bool turn = begin + kFetched >= panel.channels;
        const int next = turn ? v + 1 : v;
        const int64_t ahead = turn ? 0 : begin + kFetched, rows = next < panel.vectors ? lanes_of(next) : 0;
        const int64_t row = rows * ((c - begin) / kWidth) / blocks;
        const int64_t count = rows * ((c - begin) / kWidth + 1) / blocks - row;
        const Item* fetched = w + (next * kWidth + row) * stride[0] + ahead;
        Vec block[all][kWidth];
        for (int tap = 0; tap < all; ++tap) {
          if (tap_offset[tap] == kNoTap) {
            for (int i = 0; i < kWidth; ++i) block[tap][i] = Vec{};
            continue;
          }
          fetch_runs(fetched + tap_offset[tap], stride[0], count, run_at(ahead));
          load_transposed<T>(w + first * stride[0] + tap_offset[tap] + c, stride[0], lanes, block[tap]);
        }
        for (int i = 0; i < kWidth; ++i) {
          Vec taps[all];
          for (int tap = 0; tap < all; ++tap) taps[tap] = block[tap][i];
          transform(v, c + i, taps);
        }
      }
    }
    for (; c < panel.channels; ++c) {
      Vec taps[all] = {};
      for (int tap = 0; tap < all; ++tap) {
        if (tap_offset[tap] == kNoTap) continue;
        taps[tap] = gather<T>(w + first * stride[0] + tap_offset[tap] + c * stride[4], stride[0], lanes);
      }
      transform(v, c, taps);
    }
  }
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
