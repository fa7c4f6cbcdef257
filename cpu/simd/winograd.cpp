// The three transforms of a tile to fp32.

#include "cpu/simd/winograd.h"

#include "cpu/simd/winograd_transforms.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

template <class Form, class T>
void input(const WinogradInputTile& tile) {
  auto* out = static_cast<float*>(tile.out);
  const auto write = [&](int xi, int64_t c, Vec v) { store(out + xi * tile.xi_stride + c, v); };
  transform_pixels<Form, T, true>(tile.rows, tile.channels, tile.next, write);
}

template <class Form, class T>
void output(const WinogradOutputTile& tile) {
  constexpr int t = Form::products, M = Form::outputs, height = rows_of<Form>(t);
  const Epilogue& e = *tile.epilogue;
  auto* to = static_cast<typename T::Item*>(tile.out);
  const auto* residual = static_cast<const typename T::Item*>(e.residual);
  for (int64_t o = 0; o < tile.channels; o += kWidth) {
    const int64_t left = tile.channels - o;
    Vec columns[rows_of<Form>(M) * t];
    for (int j = 0; j < t; ++j) {
      Vec d[height];
      for (int i = 0; i < height; ++i) {
        const float* from = tile.in + (i * t + j) * tile.xi_stride + o;
        __builtin_prefetch(from + tile.next, 0, 2);
        d[i] = load(from);
      }
      transform_column<Form, M, t, Form::At, 1, t>(d, columns + j);
    }
    const float* bias = e.bias ? e.bias + o : nullptr;
    for (int i = tile.row_begin; i < tile.row_end; ++i) {
      Vec row[M];
      apply<M, t, Form::At, 1, 1>(columns + i * t, row);
      for (int j = tile.col_begin; j < tile.col_end; ++j) {
        const int64_t at = tile.first + i * tile.row_stride + j * tile.pixel_stride + o;
        // The next tile's place.
        fetch_to_write(reinterpret_cast<const char*>(to + at + tile.following));
        store_lanes<T>(row[j], e.activation, bias, residual ? residual + at : nullptr, to + at, left);
      }
    }
  }
}

template <class Form, int Depths, bool Streaming>
void weight_panel(const WinogradWeightPanel& panel) {
  auto* out = static_cast<float*>(panel.out);
  // Copies: what is stored could otherwise be the panel itself.
  const int64_t vectors = panel.vectors, depth_stride = panel.depth_stride, xi_stride = panel.xi_stride;
  read_taps<Form, Depths>(panel, [=](int vector, int64_t c, const Vec* taps) {
    float* first = out + (c * vectors + vector) * kWidth;
    constexpr int plane = taps_of<Form>;
    Vec combined[depth_terms<Depths> * plane];
    combine_depths<Form, Depths>(taps, combined);
    for (int term = 0; term < depth_terms<Depths>; ++term) {
      float* term_out = first + (Depths == 1 ? 0 : kDepthSlot[term]) * depth_stride;
      transform_taps<Form>(combined + term * plane, [&](int weight, Vec v) {
        float* to = term_out + weight * xi_stride;
        Streaming ? store_streaming(to, v) : store(to, v);
      });
    }
  });
}

template <class Form, int Depths>
void weight_of(const WinogradWeightPanel& panel) {
  panel.streaming ? weight_panel<Form, Depths, true>(panel) : weight_panel<Form, Depths, false>(panel);
  if (panel.streaming) fence();
}

template <class Form, class>
void weight(int depth_m, const WinogradWeightPanel& panel) {
  if constexpr (kPairsFrames<Form>) {
    if (depth_m == 2) return weight_of<Form, 3>(panel);
  }
  weight_of<Form, 1>(panel);
}

template <class T>
void input_any(WinogradForm form, const WinogradInputTile& tile) {
  SIMD_BY_ANY_FORM(form, T, input, tile)
}
template <class T>
void output_any(WinogradForm form, const WinogradOutputTile& tile) {
  SIMD_BY_ANY_FORM(form, T, output, tile)
}

}  // namespace

void winograd_input(WinogradForm form, Dtype type, const WinogradInputTile& tile) {
  SIMD_BY_TYPE(type, input_any, form, tile)
}

void winograd_output(WinogradForm form, const WinogradOutputTile& tile) {
  SIMD_BY_TYPE(tile.epilogue->type, output_any, form, tile)
}

void winograd_weight(WinogradForm form, const WinogradWeightPanel& panel) {
  SIMD_BY_ANY_FORM(form, void, weight, form.depth_m, panel)
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
