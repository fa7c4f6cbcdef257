// Grouped and depthwise convolution, directly: a thread has one output. Function constants give the kernel's size and
// the channels per group, so that the loops are unrolled for small ones. Taps are summed one by one: blocked sums.

#include <metal_stdlib>
using namespace metal;

#include "epilogue.h"
#include "input.h"
#include "weight_size.h"

template <typename T, typename W, typename Y>
[[kernel]] void grouped(const device T* x [[buffer(0)]],
                        const device T* lead [[buffer(1), function_constant(has_lead)]],
                        const device W* w [[buffer(2)]], device Y* y [[buffer(3)]],
                        const device float* bias [[buffer(4), function_constant(has_bias)]],
                        const device Y* residual [[buffer(5), function_constant(has_residual)]],
                        constant GroupedConv& p [[buffer(6)]], uint3 at [[thread_position_in_grid]]) {
  const int o = at.x, col = at.y % p.out_size[2], row = at.y / p.out_size[2];
  const int frame = at.z % p.out_size[0], n = at.z / p.out_size[0];
  const int first_channel = o / outputs * channels;
  float sum = 0.0f;
  for (int kd = 0; kd < kernel_d; ++kd) {
    const int d = source_index(frame * p.stride[0] + kd * p.dilation[0] - p.pad[0], p.input.size[0], depth_mode);
    if (d < 0) continue;
    const Frame<T> from = frame_at(x, lead, p.input, n, d, first_channel);
    const int64_t channel_stride = has_lead && d < p.input.lead_frames ? p.input.lead.c : p.input.x.c;
    for (int kh = 0; kh < kernel_h; ++kh) {
      const int h = source_index(row * p.stride[1] + kh * p.dilation[1] - p.pad[1], p.input.size[1], height_mode);
      if (h < 0) continue;
      for (int kw = 0; kw < kernel_w; ++kw) {
        const int v = source_index(col * p.stride[2] + kw * p.dilation[2] - p.pad[2], p.input.size[2], width_mode);
        if (v < 0) continue;
        const device T* pixel = from.data + h * from.row_stride + v * from.col_stride;
        const device W* tap = w + o * p.w.o + (p.flip ? kernel_d - 1 - kd : kd) * p.w.d +
                              (p.flip ? kernel_h - 1 - kh : kh) * p.w.h + (p.flip ? kernel_w - 1 - kw : kw) * p.w.w;
        float part = 0.0f;
        for (int c = 0; c < channels; ++c) {
          part = fma(float(pixel[c * channel_stride]), float(tap[c * p.w.c]), part);
        }
        sum += part;
      }
    }
  }
  const int64_t frames = int64_t(n) * p.out_size[0] + frame;
  const int64_t position = (frames * p.out_size[1] + row) * p.out_size[2] + col;
  finish(sum, o, position * p.out_channels + o, y, bias, residual);
}

#define INSTANTIATE(T, W, Y, name) \
  template [[host_name("grouped_" name)]] [[kernel]] decltype(grouped<T, W, Y>) grouped<T, W, Y>;
INSTANTIATE(float, float, float, "float32_float32_float32")
INSTANTIATE(half, half, half, "float16_float16_float16")
INSTANTIATE(bfloat, bfloat, bfloat, "bfloat16_bfloat16_bfloat16")
INSTANTIATE(float, half, float, "float32_float16_float32")
INSTANTIATE(float, bfloat, float, "float32_bfloat16_float32")
INSTANTIATE(half, float, float, "float16_float32_float32")
INSTANTIATE(bfloat, float, float, "bfloat16_float32_float32")
INSTANTIATE(half, bfloat, float, "float16_bfloat16_float32")
INSTANTIATE(bfloat, half, float, "bfloat16_float16_float32")
