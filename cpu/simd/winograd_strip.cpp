// The transforms of a strip of tiles, a vector of channels at a time.

#include "cpu/simd/winograd_strip.h"

#include "core/winograd.h"
#include "cpu/simd/convert.h"
#include "cpu/simd/grouped.h"
#include "cpu/simd/winograd_apply.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

/// A vector from channel c of one column of pixels, transformed along the height.
template <class Form, class T>
SIMD_INLINE void transform_column(const WinogradStripInput& s, int64_t column, int64_t c, Vec* out) {
  constexpr int t = Form::pixels;
  const int64_t at = s.columns[column], left = s.channels - c;
  Vec d[t] = {};
  if (at != kNoColumn) {
    unroll<0, t>([&](auto row) {
      constexpr int i = decltype(row)::value;
      if (s.rows[i] == nullptr) return;
      const auto* p = reinterpret_cast<const typename T::Item*>(static_cast<const char*>(s.rows[i]) + at) + c;
      d[i] = left >= kWidth ? T::load(p) : load_part<T>(p, left);
      if (s.order != nullptr) d[i] = ordered(d[i], s.order);
    });
  }
  apply<t, t, Form::Bt, 1, 1>(d, out);
}

template <class Form, class T>
void strip_input(const WinogradStripInput& s) {
  constexpr int t = Form::pixels, m = Form::outputs, shared = t - m;
  for (int64_t c = 0; c < s.channels; c += kWidth) {
    Vec columns[t][t];  // [column][frequency along the height]
    for (int64_t tile = 0; tile < s.tiles; ++tile) {
      if (tile > 0) {
        for (int j = 0; j < shared; ++j) {
          for (int i = 0; i < t; ++i) columns[j][i] = columns[m + j][i];
        }
      }
      for (int j = tile > 0 ? shared : 0; j < t; ++j) transform_column<Form, T>(s, tile * m + j, c, columns[j]);
      float* out = s.out + tile * s.pitch + c;
      for (int i = 0; i < t; ++i, out += t * s.stride) {
        Vec row[t];
        apply<t, t, Form::Bt, t, 1>(&columns[0][i], row);
        unroll<0, t>([&](auto j) { store(out + decltype(j)::value * s.stride, row[decltype(j)::value]); });
      }
    }
  }
}

/// Results of one tile's vector from channel o.
template <class Form>
SIMD_INLINE void transform_sums(const WinogradStripOutput& s, const float* in, Vec* results) {
  constexpr int t = Form::products, m = Form::outputs;
  Vec columns[m * t];
  for (int j = 0; j < t; ++j) {
    Vec d[t];
    unroll<0, t>([&](auto i) { d[decltype(i)::value] = load(in + (decltype(i)::value * t + j) * s.stride); });
    apply<m, t, Form::At, 1, t>(d, columns + j);
  }
  unroll<0, m>([&](auto i) {
    constexpr int r = decltype(i)::value;
    apply<m, t, Form::At, 1, 1>(columns + r * t, results + r * m);
    for (int j = 0; j < m && s.order != nullptr; ++j) results[r * m + j] = ordered(results[r * m + j], s.order);
  });
}

template <class Form, class T>
void strip_output(const WinogradStripOutput& s) {
  constexpr int m = Form::outputs;
  const Epilogue& e = *s.epilogue;
  const bool plain = e.activation == Activation::none && e.residual == nullptr;
  auto* to = static_cast<typename T::Item*>(s.out);
  const auto* residual = static_cast<const typename T::Item*>(e.residual);
  for (int64_t o = 0; o < s.channels; o += kWidth) {
    const float* bias = e.bias ? e.bias + o : nullptr;
    for (int64_t tile = 0; tile < s.tiles; ++tile) {
      Vec results[m * m];
      transform_sums<Form>(s, s.in + tile * s.pitch + o, results);
      const int64_t first = s.first + tile * m * s.pixel_stride + o, cols = s.cols - tile * m;
      if (plain && bias == nullptr && cols >= m && s.rows == m) {
        unroll<0, m>([&](auto i) {
          auto* row = to + first + decltype(i)::value * s.row_stride;
          unroll<0, m>([&](auto j) {
            T::store(row + decltype(j)::value * s.pixel_stride,
                     results[decltype(i)::value * m + decltype(j)::value]);
          });
        });
        continue;
      }
      for (int i = 0; i < s.rows; ++i) {
        for (int j = 0; j < m && j < cols; ++j) {
          const int64_t at = first + i * s.row_stride + j * s.pixel_stride;
          store_lanes<T>(results[i * m + j], e.activation, bias, residual ? residual + at : nullptr, to + at,
                         kWidth);
        }
      }
    }
  }
}

/// Chooses `f<Form, T>(...)` by the run-time size of the tile.
#define STRIP_BY_FORM(form, T, f, ...)                    \
  if (form.m == 2) return f<Winograd<2>, T>(__VA_ARGS__); \
  f<Winograd<4>, T>(__VA_ARGS__);

template <class T>
void input_any(WinogradForm form, const WinogradStripInput& strip) {
  STRIP_BY_FORM(form, T, strip_input, strip)
}
template <class T>
void output_any(WinogradForm form, const WinogradStripOutput& strip) {
  STRIP_BY_FORM(form, T, strip_output, strip)
}

}  // namespace

void winograd_strip_input(WinogradForm form, Dtype type, const WinogradStripInput& strip) {
  SIMD_BY_TYPE(type, input_any, form, strip)
}

void winograd_strip_output(WinogradForm form, const WinogradStripOutput& strip) {
  SIMD_BY_TYPE(strip.epilogue->type, output_any, form, strip)
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
