#pragma once

// Reading x with its virtual padding and upsampling, and the lead frames that stand before it in time.

#include "params.h"

constant bool has_lead [[function_constant(MLX_CONV3D_HAS_LEAD)]];
constant int depth_mode [[function_constant(MLX_CONV3D_DEPTH_MODE)]];
constant int height_mode [[function_constant(MLX_CONV3D_HEIGHT_MODE)]];
constant int width_mode [[function_constant(MLX_CONV3D_WIDTH_MODE)]];

/// Position q of a padded axis brought inside: 0 .. size - 1, or -1 for a zero.
METAL_FUNC int inside(int q, int size, int mode) {
  if (mode == MLX_CONV3D_UNPADDED) return q;
  if (q >= 0 && q < size) return q;
  if (mode == 1) return q < 0 ? 0 : size - 1;
  // Ragged tiles reach further than the padding does: what lies there is never used.
  if (mode == 2) return q < 0 ? metal::min(-q, size - 1) : metal::max(2 * (size - 1) - q, -1);
  return -1;
}

/// Where position q of a padded, upsampled axis of `size` is read from: an index into x, or -1 for a zero. `mode` is
/// one of the constants above, so the division is by a constant, or none.
METAL_FUNC int source_index(int q, int size, int mode) {
  const int at = inside(q, size, mode % MLX_CONV3D_PAD_MODES), scale = mode / MLX_CONV3D_PAD_MODES + 1;
  return at < 0 || scale == 1 ? at : at / scale;
}

/// One frame of the input. The lead's pointer is only valid where has_lead is true.
template <typename T>
struct Frame {
  const device T* data;
  int64_t row_stride, col_stride;

  METAL_FUNC float at(int row, int col) const thread {
    return row < 0 || col < 0 ? 0.0f : float(data[row * row_stride + col * col_stride]);
  }
};

/// Frame `d` (not negative) of image n, at a channel.
template <typename T>
METAL_FUNC Frame<T> frame_at(const device T* x, const device T* lead, constant InputArrays& p, int n, int d, int c) {
  Frame<T> frame;
  if (has_lead && d < p.lead_frames) {
    frame.data = lead + n * p.lead.n + d * p.lead.d + c * p.lead.c;
    frame.row_stride = p.lead.h;
    frame.col_stride = p.lead.w;
  } else {
    frame.data = x + n * p.x.n + (d - p.lead_frames) * p.x.d + c * p.x.c;
    frame.row_stride = p.x.h;
    frame.col_stride = p.x.w;
  }
  return frame;
}
