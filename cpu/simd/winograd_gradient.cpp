// What Winograd's dL/dw needs beside the forward's transform of the input: the adjoints of the output's and
// the weight's transforms, one vector of channels at a time.

#include "cpu/simd/winograd_gradient.h"

#include "cpu/simd/convert.h"
#include "cpu/simd/winograd_apply.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

template <class Form, class T>
void cotangent(const WinogradInputTile& tile) {
  constexpr int t = Form::products, M = Form::outputs, height = rows_of<Form>(M);
  const auto* const* pixels = reinterpret_cast<const typename T::Item* const*>(tile.rows);
  for (int64_t o = 0; o < tile.channels; o += kWidth) {
    const int64_t left = tile.channels - o;
    Vec columns[rows_of<Form>(t) * M];
    for (int j = 0; j < M; ++j) {
      Vec d[height];
      for (int i = 0; i < height; ++i) {
        const auto* p = pixels[i * M + j] + o;
        d[i] = left >= kWidth ? T::load(p) : load_part<T>(p, left);
      }
      transform_column<Form, M, t, Form::At, 1, M, true>(d, columns + j);
    }
    float* out = static_cast<float*>(tile.out) + o;
    for (int i = 0; i < rows_of<Form>(t); ++i) {
      Vec row[t];
      apply<M, t, Form::At, 1, 1, true>(columns + i * M, row);
      for (int j = 0; j < t; ++j) store(out + (i * t + j) * tile.xi_stride, row[j]);
    }
  }
}

/// The sums of one depth term, one vector of channels, to the taps of a plane.
template <class Form>
SIMD_INLINE void plane(const float* sums, int64_t xi_stride, Vec* taps) {
  constexpr int t = Form::weights, k = Form::taps, height = rows_of<Form>(t);
  Vec columns[rows_of<Form>(k) * t];
  for (int j = 0; j < t; ++j) {
    Vec d[height];
    for (int i = 0; i < height; ++i) d[i] = load(sums + (i * t + j) * xi_stride);
    transform_column<Form, t, k, Form::G, 1, t, true>(d, columns + j);
  }
  for (int i = 0; i < rows_of<Form>(k); ++i) apply<t, k, Form::G, 1, 1, true>(columns + i * t, taps + i * k);
}

template <class Form>
SIMD_INLINE void store_plane(const WinogradGradientRow& row, int64_t depth, const Vec* taps,
                             int64_t channel) {
  constexpr int k = Form::taps;
  const int last = row.side - 1, last_row = rows_of<Form>(row.side) - 1;
  // A kernel may have fewer taps than the form.
  for (int i = 0; i <= last_row; ++i) {
    for (int j = 0; j <= last; ++j) {
      const int to_row = row.flip ? last_row - i : i, to_col = row.flip ? last - j : j;
      const int64_t tap = (depth * (last_row + 1) + to_row) * row.side + to_col;
      store(row.out + tap * row.tap_stride + channel, taps[i * k + j]);
    }
  }
}

template <class Form, class>
void weight_gradient(int depth_m, const WinogradGradientRow& row) {
  constexpr int all = taps_of<Form>, frequencies = Winograd<2>::products;
  const auto depth_of = [&](int64_t d) { return row.flip ? row.depth_taps - 1 - d : d; };
  for (int64_t c = 0; c < row.channels; c += kWidth) {
    if (depth_m == 1) {
      for (int64_t d = 0; d < row.depth_taps; ++d) {
        Vec taps[all];
        plane<Form>(row.in + d * row.depth_stride + c, row.xi_stride, taps);
        store_plane<Form>(row, depth_of(d), taps, c);
      }
    } else if constexpr (kPairsFrames<Form>) {
      Vec terms[frequencies * all], taps[3 * all];
      for (int f = 0; f < frequencies; ++f) {
        plane<Form>(row.in + kDepthSlot[f] * row.depth_stride + c, row.xi_stride, terms + f * all);
      }
      for (int i = 0; i < all; ++i) {
        apply<frequencies, 3, Winograd<2>::G, all, all, true>(terms + i, taps + i);
      }
      for (int d = 0; d < 3; ++d) store_plane<Form>(row, depth_of(d), taps + d * all, c);
    }
  }
}

template <class T>
void cotangent_any(WinogradForm form, const WinogradInputTile& tile) {
  SIMD_BY_ANY_FORM(form, T, cotangent, tile)
}
void weight_gradient_any(WinogradForm form, const WinogradGradientRow& row) {
  SIMD_BY_ANY_FORM(form, void, weight_gradient, form.depth_m, row)
}

}  // namespace

void winograd_cotangent(WinogradForm form, Dtype type, const WinogradInputTile& tile) {
  SIMD_BY_TYPE(type, cotangent_any, form, tile)
}

void winograd_weight_gradient(WinogradForm form, const WinogradGradientRow& row) {
  weight_gradient_any(form, row);
}

void winograd_depth_cotangent(int64_t n, const float* even, const float* odd, float* sum, float* difference) {
  for (int64_t i = 0; i < n; i += kWidth) {
    const Vec u = load(even + i), v = load(odd + i);
    store(sum + i, u + v);
    store(difference + i, u - v);
  }
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
