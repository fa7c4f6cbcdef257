#pragma once

// The transforms of a tile, one vector of channels at a time, for whoever stores the results. The matrices
// are compile-time constants, so the zeros and ones in them cost nothing.

#include "core/winograd.h"
#include "cpu/simd/convert.h"
#include "cpu/simd/fetch.h"
#include "cpu/simd/winograd_apply.h"
#include "cpu/simd/winograd_taps.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

constexpr int kSharedColumns = 2;  ///< of neighbouring tiles of 3x3 kernels

/// Calls store(xi, c, v) with a vector of channels from c of each frequency. With Fetch, pixels that lie
/// `next` bytes behind are fetched, but for the columns that the next tile shares with this one: a line's
/// next tile may be of another row.
template <class Form, class T, bool Fetch, class Store>
SIMD_INLINE void transform_pixels(const void* const* rows, int64_t channels, int64_t next, Store& store) {
  constexpr int t = Form::pixels, height = rows_of<Form>(t), shared = kIsLine<Form> ? 0 : kSharedColumns;
  const auto* const* pixels = reinterpret_cast<const typename T::Item* const*>(rows);
  for (int64_t c = 0; c < channels; c += kWidth) {
    const int64_t left = channels - c;
    Vec columns[height * t];
    for (int j = 0; j < t; ++j) {
      Vec d[height];
      for (int i = 0; i < height; ++i) {
        const auto* p = pixels[i * t + j] + c;
        if (Fetch && j >= shared) fetch_to_read(reinterpret_cast<const char*>(p) + next);
        d[i] = left >= kWidth ? T::load(p) : load_part<T>(p, left);
      }
      transform_column<Form, t, t, Form::Bt, 1, t>(d, columns + j);
    }
    for (int i = 0; i < height; ++i) {
      Vec row[t];
      apply<t, t, Form::Bt, 1, 1>(columns + i * t, row);
      for (int j = 0; j < t; ++j) store(i * t + j, c, row[j]);
    }
  }
}

/// One vector of output channels, one input channel: calls store(weight, v) with those of its taps.
template <class Form, class Store>
SIMD_INLINE void transform_taps(const Vec* taps, Store&& store) {
  constexpr int t = Form::weights, k = Form::taps, height = rows_of<Form>(t);
  Vec columns[height * k];
  for (int j = 0; j < k; ++j) transform_column<Form, t, k, Form::G, k, k>(taps + j, columns + j);
  for (int i = 0; i < height; ++i) {
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
  constexpr int plane = taps_of<Form>;
  for (int tap = 0; tap < plane; ++tap) {
    if constexpr (Depths == 1) {
      combined[tap] = taps[tap];
    } else {
      apply<depth_terms<Depths>, 3, Winograd<2>::G, plane, plane>(taps + tap, combined + tap);
    }
  }
}

/// Input channels whose weights are fetched while those before them are read.
constexpr int64_t kFetched = 64;

/// Reads a panel's taps: calls transform(vector, c, taps) for every vector of output channels and every input
/// channel, in this order. One function for all types, which are read by calls: a copy of the transform for
/// each would be most of this library.
template <class Form, int Depths, class Transform>
SIMD_INLINE void read_taps(const WinogradWeightPanel& panel, Transform&& transform) {
  constexpr int k = Form::taps, plane = taps_of<Form>, all = plane * Depths;
  const TapItems& items = tap_items(panel.w.type);
  int64_t stride[5];  // in bytes
  for (int axis = 0; axis < 5; ++axis) stride[axis] = panel.w.stride[axis] * items.size;
  const auto* w = static_cast<const char*>(panel.w.data);
  const int last = panel.side - 1;
  int64_t tap_offset[all];
  for (int tap = 0; tap < all; ++tap) {
    const int depth = tap / plane, row = tap / k % k, col = tap % k;
    const int64_t from_depth = panel.flip ? Depths - 1 - depth : depth;
    const int64_t from_row = panel.flip && !kIsLine<Form> ? last - row : row;
    const int64_t from_col = panel.flip ? last - col : col;
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
  const bool runs = panel.w.stride[4] == 1;
  for (int tap = 0; runs && tap < all; ++tap) {
    if (tap_offset[tap] == kNoTap) continue;
    fetch_runs(w + tap_offset[tap], stride[0], lanes_of(0), run_at(0) * items.size);
  }
  for (int v = 0; v < panel.vectors; ++v) {
    const int64_t lanes = lanes_of(v);
    const char* first = w + v * kWidth * stride[0];
    int64_t c = 0;
    for (; runs && c + kWidth <= panel.channels; c += kWidth) {
      // A share of the rows with each block: all at once would stall what is read.
      const int64_t begin = c / kFetched * kFetched, blocks = (run_at(begin) + kWidth - 1) / kWidth;
      const bool turn = begin + kFetched >= panel.channels;
      const int next = turn ? v + 1 : v;
      const int64_t ahead = turn ? 0 : begin + kFetched, rows = next < panel.vectors ? lanes_of(next) : 0;
      const int64_t row = rows * ((c - begin) / kWidth) / blocks;
      const int64_t count = rows * ((c - begin) / kWidth + 1) / blocks - row;
      const char* fetched = w + (next * kWidth + row) * stride[0] + ahead * items.size;
      Vec block[all][kWidth];
      items.read({tap_offset, all, stride[0], first + c * items.size, lanes, fetched, count,
                  run_at(ahead) * items.size},
                 block);
      for (int i = 0; i < kWidth; ++i) {
        Vec taps[all];
        for (int tap = 0; tap < all; ++tap) taps[tap] = block[tap][i];
        transform(v, c + i, taps);
      }
    }
    for (; c < panel.channels; ++c) {
      Vec taps[all] = {};
      for (int tap = 0; tap < all; ++tap) {
        if (tap_offset[tap] == kNoTap) continue;
        taps[tap] = items.gather(first + tap_offset[tap] + c * stride[4], stride[0], lanes);
      }
      transform(v, c, taps);
    }
  }
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
