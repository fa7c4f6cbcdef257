// Weights transformed once for all tiles.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>

#include "cpu/threads.h"
#include "cpu/winograd.h"

namespace mlx_conv3d::cpu {
namespace {

/// More than a core's cache holds is not there any more when it is multiplied.
constexpr int64_t kStreamedFloats = int64_t{1} << 21;

struct Task {
  WinogradForm form;
  const WeightView& w;
  int64_t out_channels, depth_taps, side, channels;
  bool flip;

  int64_t terms() const { return winograd_depth_terms(depth_taps, form.depth_m); }
  /// F(2, 3) makes its four terms of all three taps at once.
  int64_t depths() const { return form.depth_m == 2 ? 1 : depth_taps; }
  bool streaming(const float* out) const {
    return reinterpret_cast<uintptr_t>(out) % (sizeof(float) * static_cast<size_t>(kernels().width)) == 0 &&
           winograd_weights_size(form, out_channels, depth_taps, channels) > kStreamedFloats;
  }
};

/// What the kernels need to know of `count` channels from c, of output channels from `lane`, and depth tap
/// kd. Where to is left to the caller.
WinogradWeightPanel panel_of(const Task& t, int64_t lane, int vectors, int64_t kd, int64_t c, int64_t count) {
  WinogradWeightPanel part{};
  part.w = t.w;
  const int64_t from_kd = t.flip ? t.depths() - 1 - kd : kd;
  part.w.data = static_cast<const char*>(t.w.data) +
                (lane * t.w.stride[0] + from_kd * t.w.stride[1] + c * t.w.stride[4]) * item_size(t.w.type);
  part.out_channels = t.out_channels - lane;
  part.channels = count;
  part.side = static_cast<int>(t.side);
  part.flip = t.flip;
  part.vectors = vectors;
  return part;
}

void vector_weights(const Task& t, float* out) {
  const Kernels& k = kernels();
  const Panels panels = winograd_panels(t.form, t.out_channels, k);
  const int64_t lanes = panels.vectors_total() * k.width, products = t.terms() * t.channels;
  const bool streaming = t.streaming(out);
  constexpr int64_t kPieceChannels = 32;
  const int64_t pieces = divide_up(t.channels, kPieceChannels), depths = t.depths();
  parallel_for(panels.count() * depths * pieces, [&](int64_t i, int) {
    const int64_t piece = i % pieces, kd = i / pieces % depths, panel = i / pieces / depths;
    const int64_t lane = panels.first_vector(panel) * k.width, c = t.channels * piece / pieces;
    const int vectors = panels.vectors(panel);
    WinogradWeightPanel part = panel_of(t, lane, vectors, kd, c, t.channels * (piece + 1) / pieces - c);
    part.out = out + lane * products + (kd * t.channels + c) * vectors * k.width;
    part.xi_stride = lanes * products;
    part.streaming = streaming;
    part.depth_stride = t.channels * vectors * k.width;
    k.winograd_weight(t.form, part);
  });
}

/// Before the items of a matrix unit's weights, which start on a cache line wherever the buffer lies.
struct Header {
  float scale;
  int32_t offset;  ///< floats from the header to the items
};
constexpr int64_t kHeaderFloats = 32, kLineFloats = 16;

/// Returns the bits of the largest magnitude.
uint32_t tile_weights(const Task& t, float scale, float* out) {
  const Kernels& k = kernels();
  const Panels panels = winograd_panels(t.form, t.out_channels, k);
  const int64_t steps = divide_up(t.channels, kTileDepth), depths = t.depths();
  const int64_t step_items = t.form.parts * kTileItems, column_items = t.terms() * steps * step_items;
  const bool streaming = t.streaming(out);
  auto* items = reinterpret_cast<uint16_t*>(out);
  std::atomic<uint32_t> largest{0};
  parallel_for(panels.count() * depths * steps, [&](int64_t i, int) {
    const int64_t step = i % steps, kd = i / steps % depths, panel = i / steps / depths;
    const int64_t vector = panels.first_vector(panel), c = step * kTileDepth;
    const int tiles = panels.vectors(panel);
    WinogradWeightPanel part =
        panel_of(t, vector * k.width, tiles, kd, c, std::min<int64_t>(kTileDepth, t.channels - c));
    part.out = items + vector * column_items + (kd * steps + step) * tiles * step_items;
    part.xi_stride = panels.vectors_total() * column_items;
    part.streaming = streaming;
    part.depth_stride = steps * tiles * step_items;
    raise_to(largest, k.tiles->winograd_weight(t.form, part, {t.form.parts, scale, tiles * kTileItems}));
  });
  return largest.load(std::memory_order_relaxed);
}

}  // namespace

float winograd_tile_scale(uint32_t largest) {
  constexpr uint32_t kInfinity = 0x7f800000, kOne = 0x3f800000;
  if (tiles_hold(largest) || largest >= kInfinity) return 1.0f;
  return largest < kOne ? 0x1p76f : 0x1p-76f;
}

int64_t winograd_weights_size(WinogradForm form, int64_t out_channels, int64_t depth_taps, int64_t channels) {
  const Kernels& k = kernels();
  const int64_t vectors = winograd_panels(form, out_channels, k).vectors_total();
  const int64_t columns = form.all_weights() * vectors * winograd_depth_terms(depth_taps, form.depth_m);
  if (form.parts == 0) return columns * k.width * channels;
  if (k.tiles == nullptr || !k.tiles->splits)
    throw std::invalid_argument("[mlx_conv3d] this CPU has no matrix unit");
  return kHeaderFloats + columns * divide_up(channels, kTileDepth) * form.parts * kTileItems / 2;
}

void winograd_weights(WinogradForm form, const WeightView& w, int64_t out_channels, int64_t depth_taps,
                      int64_t side, int64_t channels, bool flip, float* out) {
  const Task task{form, w, out_channels, depth_taps, side, channels, flip};
  if (form.parts == 0) return vector_weights(task, out);
  const auto line = reinterpret_cast<uintptr_t>(out) / sizeof(float) % kLineFloats;
  Header header{1.0f, static_cast<int32_t>(kHeaderFloats - static_cast<int64_t>(line))};
  const uint32_t largest = tile_weights(task, header.scale, out + header.offset);
  header.scale = winograd_tile_scale(largest);
  if (header.scale != 1.0f) tile_weights(task, header.scale, out + header.offset);
  std::memcpy(out, &header, sizeof(header));
}

void winograd_block_weights(WinogradForm form, const ConvProblem& p, const WeightView& w,
                            const WinogradWeightBlock& block, float* out, int64_t stride) {
  const Task task{form, w, p.out_channels, p.kernel[kDepth], p.kernel[kWidth], p.in_channels, p.flip};
  WinogradWeightPanel part =
      panel_of(task, block.lane, block.vectors, block.depth, block.channel, block.channels);
  part.out = out;
  part.xi_stride = stride;
  kernels().winograd_weight(form, part);
}

WinogradTileWeights winograd_tile_weights(const float* weights) {
  Header header;
  std::memcpy(&header, weights, sizeof(header));
  return {reinterpret_cast<const uint16_t*>(weights + header.offset), header.scale};
}

}  // namespace mlx_conv3d::cpu
