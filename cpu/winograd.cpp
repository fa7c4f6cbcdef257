// Winograd, of any kind of pixels (core/winograd_form.h), with the depth sum inside the transform domain:
// every input frame is transformed once, the KD depth taps of a frequency are one product with K = KD*C,
// every output frame is transformed back once. With F(2, 3) along depth too (depth_m 2) a pair of output
// frames takes four products with K = C instead of six. Where the transformed weights are small, each thread
// takes small chunks of tiles of its own through all phases, in its cache. Else all threads share a chunk,
// phase by phase, so that these weights are read once per chunk. Where tiles are few next to the channels, a
// thread makes the weights of a few channels of one panel just before it multiplies with them: they never
// leave its cache. Kernels with taps along one axis run by the same code along the width alone, of the
// problem whose axes are in the order that this takes.

#include "cpu/winograd.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "core/integers.h"
#include "cpu/threads.h"
#include "cpu/winograd_panels.h"
#include "cpu/winograd_products.h"
#include "cpu/winograd_tiles.h"

namespace mlx_conv3d::cpu {
namespace {

/// Output channels whose weights are at hand.
struct OutSlice {
  int64_t first, channels;
  const float* weights;
};

/// Transforms and multiplies chunks, one after the other, in scratch of its own.
class ChunkRunner {
 public:
  /// `zeros` stand in for padding: a pixel's channels and a vector.
  ChunkRunner(const ConvProblem& p, const WinogradPlan& plan, const Operands& operands,
              const WinogradTiles& tiles, const char* zeros, Workspace& workspace)
      : p_(p),
        plan_(plan),
        operands_(operands),
        input_(p, operands),
        k_(kernels()),
        form_(plan.form()),
        tiles_(tiles),
        channels_(winograd_channel_pitch(p.in_channels, k_.width, plan.parts)),
        zeros_(zeros) {
    const int64_t rows_in = winograd_input_frames(p, plan.frames) * plan.tiles;
    if (plan.weight_channels > 0) {
      inputs_ = workspace.floats(
          winograd_input_floats(form_, rows_in, round_up(p.in_channels, plan.weight_channels)));
      by_panel_.emplace(p, plan, operands.w, workspace);
      return;
    }
    const Panels panels = winograd_panels(form_, std::min(plan.out_slice, p.out_channels), k_);
    inputs_ = workspace.floats(winograd_input_floats(form_, rows_in, channels_));
    sums_ =
        workspace.floats(form_.all_products() * plan.frames * plan.tiles * panels.vectors_total() * k_.width);
    products_.emplace(p, plan, channels_, panels.widest(), plan.thread_chunks ? 1 : thread_count(),
                      workspace);
  }

  void run(const WinogradChunk& chunk, const OutSlice& slice) {
    if (by_panel_) return run_by_panel(chunk);
    const float scale = winograd_tile_scale(transform_inputs(chunk, 1.0f));
    if (scale != 1.0f) transform_inputs(chunk, scale);
    const Panels panels = winograd_panels(form_, slice.channels, k_);
    products_->multiply(chunk, panels, inputs_, slice.weights, sums_);
    if (plan_.parts > 0) {
      undo_scale(scale, winograd_tile_weights(slice.weights).scale, chunk.frames * chunk.tiles, panels);
    }
    const Sums sums{sums_, panels.vectors_total() * k_.width, slice.first, slice.channels};
    for_tiles(chunk, chunk.frames,
              [&](int64_t frame, int64_t tile) { transform_output(chunk, frame, tile, sums); });
  }

 private:
  void run_by_panel(const WinogradChunk& chunk) {
    transform_inputs(chunk, 1.0f);
    const Panels& panels = by_panel_->panels();
    parallel_for(panels.count(), [&](int64_t panel, int thread) {
      const int64_t lanes = panels.vectors(panel) * k_.width, o = panels.first_vector(panel) * k_.width;
      const Sums sums{by_panel_->multiply(chunk, panel, inputs_, thread), lanes, o,
                      std::min(lanes, p_.out_channels - o)};
      for (int64_t tile = 0; tile < chunk.tiles; ++tile) {
        for (int64_t frame = 0; frame < chunk.frames; ++frame) transform_output(chunk, frame, tile, sums);
      }
    });
  }

  /// Calls body(frame, tile) on all threads, frames of a group of tiles one after the other.
  template <class Body>
  static void for_tiles(const WinogradChunk& chunk, int64_t frames, const Body& body) {
    constexpr int64_t kGroup = 8;
    parallel_for(frames * divide_up(chunk.tiles, kGroup), [&](int64_t i, int) {
      const int64_t group = i / frames * kGroup;
      for (int64_t t = group; t < std::min(chunk.tiles, group + kGroup); ++t) body(i % frames, t);
    });
  }

  /// Returns what transform_input does, of all tiles.
  uint32_t transform_inputs(const WinogradChunk& chunk, float scale) const {
    std::atomic<uint32_t> largest{0};
    for_tiles(chunk, chunk.frames_in, [&](int64_t frame, int64_t tile) {
      raise_to(largest, transform_input(chunk, frame, tile, scale));
    });
    return largest.load(std::memory_order_relaxed);
  }

  /// Of a matrix unit's form, returns the bits of the largest magnitude and multiplies by `scale`.
  uint32_t transform_input(const WinogradChunk& chunk, int64_t frame, int64_t t, float scale) const {
    const WinogradTiles::Place at = tiles_.at(chunk.first_tile + t);
    const int64_t depth_origin = chunk.first_frame * p_.stride[kDepth] - p_.pad_lo[kDepth];
    const int64_t sd = p_.source_index(kDepth, depth_origin + frame);
    const int64_t at_row = (frame * chunk.tiles + t) * channels_;
    const int64_t xi_stride = chunk.frames_in * chunk.tiles * channels_;
    if (sd < 0) {
      // The products of single taps leave frames of padding out; pairs take them as they are.
      for (int64_t xi = 0; plan_.depth_m == 2 && xi < form_.all_pixels(); ++xi) {
        std::fill_n(inputs_ + at_row + xi * xi_stride, channels_, 0.0f);
      }
      return 0;
    }
    const void* pixels[WinogradTiles::kMostPixels];
    const Frame source = input_.frame(at.n, sd);
    tiles_.find_pixels(at, source, zeros_, pixels);
    WinogradInputTile tile{};
    tile.rows = pixels;
    tile.next = tiles_.step(source);
    tile.channels = p_.in_channels;
    tile.xi_stride = xi_stride;
    tile.out = inputs_ + at_row;
    if (by_panel_) {
      transform_input_blocks(tile, pixels, (frame * chunk.tiles + t), chunk.frames_in * chunk.tiles);
      return 0;
    }
    if (plan_.parts == 0) {
      k_.winograd_input(form_, p_.x_type, tile);
      return 0;
    }
    if (plan_.depth_m == 2) return k_.tiles->winograd_input(form_, p_.x_type, tile, {0, scale, 0});
    tile.out = reinterpret_cast<uint16_t*>(inputs_) + at_row;
    return k_.tiles->winograd_input(
        form_, p_.x_type, tile, {plan_.parts, scale, winograd_part_stride(form_.all_pixels() * xi_stride)});
  }

  /// Row `row` of `rows` of every block of channels, each [frequency][row][channel].
  void transform_input_blocks(WinogradInputTile tile, const void** pixels, int64_t row, int64_t rows) const {
    const int64_t held = plan_.weight_channels;
    tile.xi_stride = rows * held;
    for (int64_t c = 0; c < p_.in_channels; c += held) {
      tile.channels = std::min(held, p_.in_channels - c);
      tile.out = inputs_ + (c * form_.all_pixels() * rows) + row * held;
      k_.winograd_input(form_, p_.x_type, tile);
      for (int i = 0; i < form_.all_pixels(); ++i) {
        pixels[i] = static_cast<const char*>(pixels[i]) + held * input_.item();
      }
    }
  }

  /// Takes the factors that numbers out of the matrix unit's range were multiplied by from the products.
  void undo_scale(float input_scale, float weight_scale, int64_t rows, const Panels& panels) const {
    if (input_scale == 1.0f && weight_scale == 1.0f) return;
    const int64_t n = rows * panels.vectors_total() * k_.width;
    parallel_for(form_.all_products(), [&](int64_t product, int) {
      float* sums = sums_ + product * n;
      for (int64_t i = 0; i < n; ++i) sums[i] = sums[i] / input_scale / weight_scale;
    });
  }

  /// Products [product][frame][tile][lane] of `channels` output channels from `channel` on.
  struct Sums {
    const float* at;
    int64_t lanes, channel, channels;
  };

  void transform_output(const WinogradChunk& chunk, int64_t frame, int64_t t, const Sums& sums) const {
    const WinogradTiles::Place at = tiles_.at(chunk.first_tile + t);
    const int64_t tiles = chunk.tiles, row = frame * tiles + t;
    Epilogue epilogue = operands_.epilogue;
    if (epilogue.bias) epilogue.bias += sums.channel;
    WinogradOutputTile tile{};
    tile.in = sums.at + (plan_.depth_m == 2 ? chunk.pairs.row(frame, t, tiles) : row) * sums.lanes;
    tile.xi_stride = chunk.frames * tiles * sums.lanes;
    tile.next = sums.lanes;
    tile.channels = sums.channels;
    tile.out = operands_.y;
    tiles_.find_outputs(chunk.first_frame + frame, at, sums.channel, tile);
    tile.epilogue = &epilogue;
    k_.winograd_output(form_, tile);
  }

  const ConvProblem& p_;
  const WinogradPlan& plan_;
  const Operands& operands_;
  const Input input_;
  const Kernels& k_;
  const WinogradForm form_;
  const WinogradTiles& tiles_;
  const int64_t channels_;
  const char* const zeros_;
  float *inputs_ = nullptr, *sums_ = nullptr;
  std::optional<WinogradProducts> products_;       ///< its scratch lies behind the others'
  std::optional<WinogradPanelProducts> by_panel_;  ///< instead, where weights are made panel by panel
};

/// Even chunks, so that the last is not a handful of tiles. F(2, 3) wants whole pairs of frames.
std::vector<WinogradChunk> chunks_of(const ConvProblem& p, const WinogradPlan& plan, int64_t tiles) {
  const int64_t frames = p.output(kDepth);
  const int64_t depth_m = plan.depth_m, odd = depth_m == 2 && p.odd_frame ? 1 : 0;
  const int64_t units = divide_up(odd + frames, depth_m);
  const int64_t frame_chunks = frames <= plan.frames ? 1 : divide_up(units * depth_m, plan.frames);
  const auto first_frame_of = [&](int64_t f) {
    return std::clamp<int64_t>(units * f / frame_chunks * depth_m - odd, 0, frames);
  };
  const int64_t tile_chunks = divide_up(tiles, plan.tiles);
  std::vector<WinogradChunk> chunks;
  for (int64_t f = 0; f < frame_chunks; ++f) {
    for (int64_t t = 0; t < tile_chunks; ++t) {
      const int64_t first = first_frame_of(f), count = first_frame_of(f + 1) - first;
      const int64_t tile = tiles * t / tile_chunks;
      chunks.push_back({first, count, winograd_input_frames(p, count), tile,
                        tiles * (t + 1) / tile_chunks - tile, Pairs{count, first == 0 ? odd : 0}});
    }
  }
  return chunks;
}

/// All chunks of a slice: by all threads together, or each by a thread alone.
void run_chunks(const std::vector<WinogradChunk>& chunks, const OutSlice& slice,
                std::deque<ChunkRunner>& runners) {
  if (runners.size() == 1) {
    for (const WinogradChunk& chunk : chunks) runners.front().run(chunk, slice);
    return;
  }
  parallel_for(static_cast<int64_t>(chunks.size()), [&](int64_t i, int thread) {
    const OneThread alone(true);
    runners[static_cast<size_t>(thread)].run(chunks[static_cast<size_t>(i)], slice);
  });
}

}  // namespace

void winograd(const ConvProblem& problem, const WinogradPlan& plan, const Operands& given,
              Workspace& workspace) {
  const AxisOrder order = winograd_axis_order(problem.kernel);
  const ConvProblem p = with_axes(problem, order);
  const Operands operands = with_axes(given, order);
  float* own_weights = nullptr;
  if (operands.packed_w == nullptr && plan.weight_channels == 0) {
    own_weights = workspace.floats(winograd_weights_size(
        plan.form(), std::min(plan.out_slice, p.out_channels), p.kernel[kDepth], p.in_channels));
  }
  const WinogradTiles tiles(p, plan.form(), order);
  const std::unique_ptr<char[]> zeros(new char[static_cast<size_t>((p.in_channels + 64) * 4)]());
  std::deque<ChunkRunner> runners;
  const int count = plan.thread_chunks ? thread_count() : 1;
  for (int i = 0; i < count; ++i) runners.emplace_back(p, plan, operands, tiles, zeros.get(), workspace);
  const std::vector<WinogradChunk> chunks = chunks_of(p, plan, tiles.count());
  for (int64_t o = 0; o < p.out_channels; o += plan.out_slice) {
    const int64_t out_channels = std::min(plan.out_slice, p.out_channels - o);
    if (own_weights != nullptr) {
      WeightView w = operands.w;
      w.data = static_cast<const char*>(w.data) + o * w.stride[0] * item_size(w.type);
      winograd_weights(plan.form(), w, out_channels, p.kernel[kDepth], p.kernel[kWidth], p.in_channels,
                       p.flip, own_weights);
    }
    run_chunks(chunks, {o, out_channels, own_weights != nullptr ? own_weights : operands.packed_w}, runners);
  }
}

}  // namespace mlx_conv3d::cpu
