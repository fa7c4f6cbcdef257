// The transforms of strips of tiles along the height, from pixels and to results.

#include "cpu/simd/winograd_columns.h"

#include "cpu/simd/convert.h"
#include "cpu/simd/winograd_axis.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

alignas(64) const float kZeros[kWidth] = {};

/// A vector of channels, from c on. Whole: it has no more than exist.
template <class Form, class T, bool Whole>
void transform_columns(const WinogradColumns& s, int64_t c) {
  constexpr int t = Form::pixels;
  const char* start[t];
  int64_t mask[t];  // of offsets: none in a row of zeros
  for (int i = 0; i < t; ++i) {
    const bool zeros = s.rows[i] == nullptr;
    const auto* row = static_cast<const typename T::Item*>(s.rows[i]);
    start[i] = reinterpret_cast<const char*>(zeros ? static_cast<const void*>(kZeros) : row + c);
    mask[i] = zeros ? 0 : -1;
  }
  const int64_t *columns = s.columns, stride = s.stride, left = s.channels - c;
  float* out = s.out + c;
  for (int64_t n = s.count; n > 0; --n, ++columns, out += s.pitch) {
    Vec d[t] = {}, frequencies[t];
    if (*columns != kNoColumn) {
#pragma GCC unroll 8
      for (int i = 0; i < t; ++i) {
        const char* p = start[i] + (*columns & mask[i]);
        const auto* items = reinterpret_cast<const typename T::Item*>(p);
        d[i] = Whole ? T::load(items) : load_part<T>(items, left);
      }
    }
    transform_input<Form>(d, frequencies);
#pragma GCC unroll 8
    for (int i = 0; i < t; ++i) store(out + i * stride, frequencies[i]);
  }
}

template <class T, class Form>
void columns(const WinogradColumns& s) {
  int64_t c = 0;
  for (; c + kWidth <= s.channels; c += kWidth) transform_columns<Form, T, true>(s, c);
  if (c < s.channels) transform_columns<Form, T, false>(s, c);
}

/// A vector of channels, from o on.
template <class Form, class T, bool Plain>
void transform_sums(const WinogradResults& s, int64_t o) {
  constexpr int t = Form::products, m = Form::outputs;
  const Epilogue& e = *s.epilogue;
  const float* bias = e.bias ? e.bias + o : nullptr;
  auto* y = static_cast<typename T::Item*>(s.out);
  const auto* residual = static_cast<const typename T::Item*>(e.residual);
  const int64_t stride = s.stride, row_stride = s.row_stride;
  const float* in = s.in + o;
  int64_t at = s.first + o;
  for (int64_t n = s.cols; n > 0; --n, in += s.pitch, at += s.pixel_stride) {
    Vec d[t], results[m];
#pragma GCC unroll 8
    for (int i = 0; i < t; ++i) d[i] = load(in + i * stride);
    transform_output<Form>(d, results);
#pragma GCC unroll 8
    for (int i = 0; i < m; ++i) {
      const int64_t to = at + i * row_stride;
      if constexpr (Plain) {
        T::store(y + to, results[i]);
      } else if (i < s.rows) {
        store_lanes<T>(results[i], e.activation, bias, residual ? residual + to : nullptr, y + to, kWidth);
      }
    }
  }
}

template <class T, class Form, bool Plain>
void results(const WinogradResults& s) {
  for (int64_t o = 0; o < s.channels; o += kWidth) transform_sums<Form, T, Plain>(s, o);
}

template <class T, class Form>
void results(const WinogradResults& s) {
  const Epilogue& e = *s.epilogue;
  const bool plain = e.activation == Activation::none && e.residual == nullptr && e.bias == nullptr;
  plain&& s.rows == Form::outputs ? results<T, Form, true>(s) : results<T, Form, false>(s);
}

template <class T>
void columns_any(WinogradForm form, const WinogradColumns& s) {
  form.m == 2 ? columns<T, Winograd<2>>(s) : columns<T, Winograd<4>>(s);
}
template <class T>
void results_any(WinogradForm form, const WinogradResults& s) {
  form.m == 2 ? results<T, Winograd<2>>(s) : results<T, Winograd<4>>(s);
}

}  // namespace

void winograd_columns(WinogradForm form, Dtype type, const WinogradColumns& columns) {
  SIMD_BY_TYPE(type, columns_any, form, columns)
}

void winograd_results(WinogradForm form, const WinogradResults& results) {
  SIMD_BY_TYPE(results.epilogue->type, results_any, form, results)
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
