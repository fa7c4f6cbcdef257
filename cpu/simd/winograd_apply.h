#pragma once

// Products of a small constant matrix with vectors. Its zeros and ones cost nothing.

#include "core/winograd.h"
#include "cpu/simd/simd.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {

template <int Row, int Col, bool Transposed, int Rows, int Cols, const float (&Matrix)[Rows][Cols]>
constexpr float coefficient() {
  return Transposed ? Matrix[Col][Row] : Matrix[Row][Col];
}

/// sum + Coefficient * v.
template <auto Coefficient, bool First>
SIMD_INLINE Vec term(Vec sum, Vec v) {
  constexpr float c = Coefficient();
  if constexpr (First) {
    if constexpr (c == 1.0f) return v;
    if constexpr (c == -1.0f) return -v;
    return c * v;
  } else {
    if constexpr (c == 1.0f) return sum + v;
    if constexpr (c == -1.0f) return sum - v;
    return sum + c * v;
  }
}

template <int Row, bool Transposed, int Rows, int Cols, const float (&Matrix)[Rows][Cols]>
constexpr int first_nonzero() {
  constexpr int terms = Transposed ? Rows : Cols;
  for (int i = 0; i < terms; ++i) {
    if ((Transposed ? Matrix[i][Row] : Matrix[Row][i]) != 0.0f) return i;
  }
  return terms;
}

/// out[r * OutStep] = sum_c Matrix[r][c] * in[c * InStep], with Transposed of Matrix[c][r].
template <int Rows, int Cols, const float (&Matrix)[Rows][Cols], int InStep, int OutStep,
          bool Transposed = false>
SIMD_INLINE void apply(const Vec* in, Vec* out) {
  constexpr int outs = Transposed ? Cols : Rows, terms = Transposed ? Rows : Cols;
  unroll<0, outs>([&](auto row) {
    constexpr int r = decltype(row)::value;
    constexpr int first = first_nonzero<r, Transposed, Rows, Cols, Matrix>();
    Vec sum = term<coefficient<r, first, Transposed, Rows, Cols, Matrix>, true>(Vec{}, in[first * InStep]);
    unroll<first + 1, terms>([&](auto col) {
      constexpr int c = decltype(col)::value;
      if constexpr (coefficient<r, c, Transposed, Rows, Cols, Matrix>() != 0.0f) {
        sum = term<coefficient<r, c, Transposed, Rows, Cols, Matrix>, false>(sum, in[c * InStep]);
      }
    });
    out[r * OutStep] = sum;
  });
}

/// A form along the width alone, of one row.
template <class Form>
struct Line : Form {};
template <class Form>
constexpr bool kIsLine = false;
template <class Form>
constexpr bool kIsLine<Line<Form>> = true;
/// Rows of something that a square form has as many of as columns.
template <class Form>
constexpr int rows_of(int columns) {
  return kIsLine<Form> ? 1 : columns;
}

/// As WinogradForm says.
template <class Form>
constexpr bool kPairsFrames = Form::taps < 5 && !kIsLine<Form>;

/// Of one depth.
template <class Form>
constexpr int taps_of = rows_of<Form>(Form::taps) * Form::taps;

/// What `apply` does, of a column; a line's has one row.
template <class Form, int Rows, int Cols, const float (&Matrix)[Rows][Cols], int InStep, int OutStep,
          bool Transposed = false>
SIMD_INLINE void transform_column(const Vec* in, Vec* out) {
  if constexpr (kIsLine<Form>) {
    out[0] = in[0];
  } else {
    apply<Rows, Cols, Matrix, InStep, OutStep, Transposed>(in, out);
  }
}

/// Chooses `f<Form, T>(...)` by a run-time form along the width alone.
#define SIMD_BY_LINE(form, T, f, ...)                                 \
  if (form.taps == 7) return f<Line<Winograd<2, 7>>, T>(__VA_ARGS__); \
  if (form.taps == 5) {                                               \
    if (form.m == 2) return f<Line<Winograd<2, 5>>, T>(__VA_ARGS__);  \
    return f<Line<Winograd<4, 5>>, T>(__VA_ARGS__);                   \
  }                                                                   \
  if (form.m == 2) return f<Line<Winograd<2>>, T>(__VA_ARGS__);       \
  if (form.m == 4) return f<Line<Winograd<4>>, T>(__VA_ARGS__);       \
  f<Line<Winograd<6>>, T>(__VA_ARGS__);

/// The same of a square form, and of any.
#define SIMD_BY_FORM(form, T, f, ...)                              \
  if (form.pixels == Pixels::doubled) {                            \
    if (form.m == 4) return f<WinogradDoubled<4>, T>(__VA_ARGS__); \
    if (form.m == 6) return f<WinogradDoubled<6>, T>(__VA_ARGS__); \
    return f<WinogradDoubled<8>, T>(__VA_ARGS__);                  \
  }                                                                \
  if (form.pixels == Pixels::dilated) {                            \
    if (form.m == 4) return f<WinogradDilated<4>, T>(__VA_ARGS__); \
    if (form.m == 6) return f<WinogradDilated<6>, T>(__VA_ARGS__); \
    return f<WinogradDilated<8>, T>(__VA_ARGS__);                  \
  }                                                                \
  if (form.pixels == Pixels::strided) {                            \
    if (form.m == 2) return f<WinogradStrided<2>, T>(__VA_ARGS__); \
    return f<WinogradStrided<4>, T>(__VA_ARGS__);                  \
  }                                                                \
  if (form.taps == 5) {                                            \
    if (form.m == 2) return f<Winograd<2, 5>, T>(__VA_ARGS__);     \
    return f<Winograd<4, 5>, T>(__VA_ARGS__);                      \
  }                                                                \
  if (form.m == 2) return f<Winograd<2>, T>(__VA_ARGS__);          \
  if (form.m == 4) return f<Winograd<4>, T>(__VA_ARGS__);          \
  f<Winograd<6>, T>(__VA_ARGS__);

#define SIMD_BY_ANY_FORM(form, T, f, ...) \
  if (form.row_taps > 0) {                \
    SIMD_BY_LINE(form, T, f, __VA_ARGS__) \
    return;                               \
  }                                       \
  SIMD_BY_FORM(form, T, f, __VA_ARGS__)

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
