// The three transforms of a tile, one vector of channels at a time. The matrices are compile-time constants,
// so the zeros and ones in them cost nothing.

#include "cpu/simd/winograd.h"

#include "cpu/simd/convert.h"
#include "cpu/simd/winograd_apply.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

template <class Form, class T>
void input(const WinogradInputTile& tile) {
  constexpr int t = Form::pixels;
  const auto* const* pixels = reinterpret_cast<const typename T::Item* const*>(tile.rows);
  for (int64_t c = 0; c < tile.channels; c += kWidth) {
    const int64_t left = tile.channels - c;
    Vec columns[t * t];
    for (int j = 0; j < t; ++j) {
      Vec d[t];
      for (int i = 0; i < t; ++i) {
        const auto* p = pixels[i * t + j] + c;
        d[i] = left >= kWidth ? T::load(p) : load_part<T>(p, left);
      }
      apply<t, t, Form::Bt, 1, t>(d, columns + j);
    }
    float* out = tile.out + c;
    for (int i = 0; i < t; ++i) {
      Vec row[t];
      apply<t, t, Form::Bt, 1, 1>(columns + i * t, row);
      for (int j = 0; j < t; ++j) store(out + (i * t + j) * tile.xi_stride, row[j]);
    }
  }
}

template <class Form, class T>
void output(const WinogradOutputTile& tile) {
  constexpr int t = Form::products, M = Form::outputs;
  const Epilogue& e = *tile.epilogue;
  auto* to = static_cast<typename T::Item*>(tile.out);
  const auto* residual = static_cast<const typename T::Item*>(e.residual);
  for (int64_t o = 0; o < tile.channels; o += kWidth) {
    const int64_t left = tile.channels - o;
    Vec columns[M * t];
    for (int j = 0; j < t; ++j) {
      Vec d[t];
      for (int i = 0; i < t; ++i) {
        const float* from = tile.in + (i * t + j) * tile.xi_stride + o;
        __builtin_prefetch(from + tile.next, 0, 2);
        d[i] = load(from);
      }
      apply<M, t, Form::At, 1, t>(d, columns + j);
    }
    const float* bias = e.bias ? e.bias + o : nullptr;
    for (int i = tile.row_begin; i < tile.row_end; ++i) {
      Vec row[M];
      apply<M, t, Form::At, 1, 1>(columns + i * t, row);
      for (int j = tile.col_begin; j < tile.col_end; ++j) {
        const int64_t at = tile.first + i * tile.row_stride + j * tile.pixel_stride + o;
        store_lanes<T>(row[j], e.activation, bias, residual ? residual + at : nullptr, to + at, left);
      }
    }
  }
}

/// One vector of output channels, one input channel: its taps to the weights of all products.
template <class Form, bool Streaming>
SIMD_INLINE void weight_vector(const Vec* taps, float* out, int64_t xi_stride) {
  constexpr int t = Form::products, k = Form::taps;
  Vec columns[t * k];
  for (int j = 0; j < k; ++j) apply<t, k, Form::G, k, k>(taps + j, columns + j);
  for (int i = 0; i < t; ++i) {
    Vec row[t];
    apply<t, k, Form::G, 1, 1>(columns + i * k, row);
    for (int j = 0; j < t; ++j) {
      float* to = out + (i * t + j) * xi_stride;
      Streaming ? store_streaming(to, row[j]) : store(to, row[j]);
    }
  }
}

/// One vector of output channels, one input channel: all depth terms. Taps are ordered by depth, row, column.
template <class Form, int Depths, bool Streaming>
SIMD_INLINE void weight_depths(const Vec* taps, float* out, const WinogradWeightPanel& panel) {
  if constexpr (Depths == 1) {
    weight_vector<Form, Streaming>(taps, out, panel.xi_stride);
  } else {
    constexpr int frequencies = Winograd<2>::pixels, plane = Form::taps * Form::taps;
    Vec combined[frequencies * plane];
    for (int tap = 0; tap < plane; ++tap) {
      apply<frequencies, 3, Winograd<2>::G, plane, plane>(taps + tap, combined + tap);
    }
    for (int f = 0; f < frequencies; ++f) {
      weight_vector<Form, Streaming>(combined + f * plane, out + kDepthSlot[f] * panel.depth_stride,
                                     panel.xi_stride);
    }
  }
}

constexpr int64_t kNoTap = INT64_MIN;

template <class Form, int Depths, bool Streaming, class T>
void weight_panel(const WinogradWeightPanel& panel) {
  constexpr int k = Form::taps, plane = k * k, all = plane * Depths;
  const int64_t* stride = panel.w.stride;
  const auto* w = static_cast<const typename T::Item*>(panel.w.data);
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
  for (int v = 0; v < panel.vectors; ++v) {
    const int64_t first = v * kWidth;
    const int64_t lanes = panel.out_channels - first < kWidth ? panel.out_channels - first : kWidth;
    float* out = panel.out + first;
    int64_t c = 0;
    if (stride[4] == 1) {
      for (; c + kWidth <= panel.channels; c += kWidth) {
        Vec block[all][kWidth] = {};
        for (int tap = 0; tap < all; ++tap) {
          if (tap_offset[tap] == kNoTap) continue;
          load_transposed<T>(w + first * stride[0] + tap_offset[tap] + c, stride[0], lanes, block[tap]);
        }
        for (int i = 0; i < kWidth; ++i) {
          Vec taps[all];
          for (int tap = 0; tap < all; ++tap) taps[tap] = block[tap][i];
          weight_depths<Form, Depths, Streaming>(taps, out + (c + i) * panel.vectors * kWidth, panel);
        }
      }
    }
    for (; c < panel.channels; ++c) {
      Vec taps[all] = {};
      for (int tap = 0; tap < all; ++tap) {
        if (tap_offset[tap] == kNoTap) continue;
        taps[tap] = gather<T>(w + first * stride[0] + tap_offset[tap] + c * stride[4], stride[0], lanes);
      }
      weight_depths<Form, Depths, Streaming>(taps, out + c * panel.vectors * kWidth, panel);
    }
  }
}

template <class Form, class T>
void weight(int depth_m, const WinogradWeightPanel& panel) {
  if (panel.streaming) {
    depth_m == 2 ? weight_panel<Form, 3, true, T>(panel) : weight_panel<Form, 1, true, T>(panel);
    fence();
  } else {
    depth_m == 2 ? weight_panel<Form, 3, false, T>(panel) : weight_panel<Form, 1, false, T>(panel);
  }
}

template <class T>
void input_any(WinogradForm form, const WinogradInputTile& tile) {
  SIMD_BY_FORM(form, T, input, tile)
}
template <class T>
void output_any(WinogradForm form, const WinogradOutputTile& tile) {
  SIMD_BY_FORM(form, T, output, tile)
}
template <class T>
void weight_any(WinogradForm form, const WinogradWeightPanel& panel) {
  SIMD_BY_FORM(form, T, weight, form.depth_m, panel)
}

}  // namespace

void winograd_input(WinogradForm form, Dtype type, const WinogradInputTile& tile) {
  SIMD_BY_TYPE(type, input_any, form, tile)
}

void winograd_output(WinogradForm form, const WinogradOutputTile& tile) {
  SIMD_BY_TYPE(tile.epilogue->type, output_any, form, tile)
}

void winograd_weight(WinogradForm form, const WinogradWeightPanel& panel) {
  SIMD_BY_TYPE(panel.w.type, weight_any, form, panel)
}

void winograd_depth_input(bool has_first, bool has_last, int64_t n, const float* in, int64_t frame_stride,
                          float* out, int64_t out_stride) {
  constexpr int terms = Winograd<2>::pixels;
  const int begin = has_first ? 0 : 1, end = has_last ? terms : terms - 1;
  for (int64_t i = 0; i < n; i += kWidth) {
    Vec d[terms] = {}, a[terms];
    for (int f = begin; f < end; ++f) d[f] = load(in + f * frame_stride + i);
    apply<terms, terms, Winograd<2>::Bt, 1, 1>(d, a);
    for (int f = begin; f < end; ++f) store(out + kDepthSlot[f] * out_stride + i, a[f]);
  }
}

void winograd_depth_butterfly(int64_t rows, int64_t n, float* even, int64_t even_stride, float* odd,
                              int64_t odd_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; i += kWidth) {
      float *first = even + r * even_stride + i, *second = odd + r * odd_stride + i;
      const Vec u = load(first), v = load(second);
      store(first, u + v);
      store(second, u - v);
    }
  }
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
