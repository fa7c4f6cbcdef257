// Winograd, of single, doubled or dilated pixels, with the depth sum inside the transform domain:
// every input frame is transformed once, the KD depth taps of a frequency are one product with K = KD*C,
// every output frame is transformed back once. All threads share a chunk of tiles, phase by phase, so that
// the transformed weights are read once per chunk.

#include "cpu/winograd.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "cpu/threads.h"

namespace mlx_conv3d::cpu {
namespace {

constexpr int64_t kDepthBlock =
    192;  ///< products summed in registers at a time: B's part of them stays in L1

class Runner {
 public:
  Runner(const ConvProblem& p, const WinogradPlan& plan, const Operands& operands, Workspace& workspace)
      : p_(p),
        plan_(plan),
        operands_(operands),
        input_(p, operands),
        k_(kernels()),
        form_(plan.form()),
        depth_(axis_phases(p, kDepth, false).front()),
        tile_rows_(p, form_, kHeight),
        tile_cols_(p, form_, kWidth),
        channels_(winograd_channel_pitch(p.in_channels, k_.width)),
        products_of_(static_cast<size_t>(form_.all_pixels())),
        zeros_(new char[static_cast<size_t>((p.in_channels + 64) * 4)]()) {
    for (int i = 0; i < form_.all_products(); ++i) {
      products_of_[static_cast<size_t>(form_.frequency(i))].push_back(i);
    }
    const int64_t slice = std::min(plan.out_slice, p.out_channels);
    const int64_t lanes = Panels(slice, k_).vectors_total() * k_.width;
    if (operands.packed_w == nullptr) {
      weights_ = workspace.floats(winograd_weights_size(form_, slice, p.kernel[kDepth], p.in_channels));
    }
    const int64_t frames_in = winograd_input_frames(p, plan.frames);
    inputs_ = workspace.floats(form_.all_pixels() * frames_in * plan.tiles * channels_);
    products_ = workspace.floats(form_.all_products() * plan.frames * plan.tiles * lanes);
  }

  void run() {
    const int64_t tiles = p_.batch * tile_rows_.tiles * tile_cols_.tiles, frames = p_.output(kDepth);
    for (int64_t o = 0; o < p_.out_channels; o += plan_.out_slice) {
      const int64_t out_channels = std::min(plan_.out_slice, p_.out_channels - o);
      const float* weights = operands_.packed_w;
      if (weights == nullptr) {
        WeightView w = operands_.w;
        w.data = static_cast<const char*>(w.data) + o * w.stride[0] * item_size(w.type);
        winograd_weights(form_, w, out_channels, p_.kernel[kDepth], p_.kernel[kWidth], p_.in_channels,
                         p_.flip, weights_);
        weights = weights_;
      }
      // Even chunks, so that the last is not a handful of tiles.
      const int64_t tile_chunks = (tiles + plan_.tiles - 1) / plan_.tiles;
      const int64_t frame_chunks = (frames + plan_.frames - 1) / plan_.frames;
      for (int64_t f = 0; f < frame_chunks; ++f) {
        for (int64_t t = 0; t < tile_chunks; ++t) {
          const int64_t first_frame = frames * f / frame_chunks, first_tile = tiles * t / tile_chunks;
          chunk(first_frame, frames * (f + 1) / frame_chunks - first_frame, first_tile,
                tiles * (t + 1) / tile_chunks - first_tile, o, out_channels, weights);
        }
      }
    }
  }

 private:
  /// A tile's image and the output position that it starts at.
  struct TileAt {
    int64_t n, row, col;
  };
  TileAt tile_at(int64_t tile) const {
    const int64_t rows = tile_rows_.tiles, cols = tile_cols_.tiles;
    return {tile / (rows * cols), tile_rows_.first + tile / cols % rows * plan_.m,
            tile_cols_.first + tile % cols * plan_.m};
  }

  void chunk(int64_t first_frame, int64_t frames, int64_t first_tile, int64_t tiles, int64_t o,
             int64_t out_channels, const float* weights) {
    const int64_t frames_in = winograd_input_frames(p_, frames);
    parallel_for(frames_in * ((tiles + kTileGroup - 1) / kTileGroup), [&](int64_t i, int) {
      const int64_t frame = i % frames_in, group = i / frames_in * kTileGroup;
      for (int64_t t = group; t < std::min(tiles, group + kTileGroup); ++t) {
        transform_input(first_frame, frame, frames_in, first_tile, t, tiles);
      }
    });
    const Panels panels(out_channels, k_);
    // The products of a frequency one after the other: its tiles stay in the cache.
    parallel_for(form_.all_pixels() * panels.count(), [&](int64_t i, int) {
      for (int64_t product : products_of_[static_cast<size_t>(i / panels.count())]) {
        multiply(product, i % panels.count(), panels, first_frame, frames, frames_in, tiles, weights);
      }
    });
    parallel_for(frames * ((tiles + kTileGroup - 1) / kTileGroup), [&](int64_t i, int) {
      const int64_t frame = i % frames, group = i / frames * kTileGroup;
      for (int64_t t = group; t < std::min(tiles, group + kTileGroup); ++t) {
        transform_output(first_frame, frame, frames, first_tile, t, tiles, o, out_channels, panels);
      }
    });
  }

  /// Position of chunk frame 0 on the padded depth axis.
  int64_t depth_origin(int64_t first_frame) const {
    return first_frame * p_.stride[kDepth] - p_.pad_lo[kDepth];
  }

  void transform_input(int64_t first_frame, int64_t frame, int64_t frames_in, int64_t first_tile, int64_t t,
                       int64_t tiles) const {
    const TileAt at = tile_at(first_tile + t);
    const int64_t sd = p_.source_index(kDepth, depth_origin(first_frame) + frame);
    // A frame of padding is never multiplied: see multiply().
    if (sd < 0) return;
    const Frame source = input_.frame(at.n, sd);
    const void* pixels[kMostPixels];
    const char* columns[kMostTile];
    int64_t col_offset[kMostTile];
    const int64_t side = form_.side();
    for (int64_t j = 0; j < side; ++j) {
      const int64_t sw = winograd_source(p_, form_, kWidth, at.col, j);
      columns[j] = sw < 0 ? nullptr : source.data;
      col_offset[j] = sw * source.col_stride;
    }
    for (int64_t i = 0; i < side; ++i) {
      const int64_t sh = winograd_source(p_, form_, kHeight, at.row, i);
      for (int64_t j = 0; j < side; ++j) {
        const bool zero = sh < 0 || columns[j] == nullptr;
        pixels[i * side + j] = zero ? zeros_.get() : columns[j] + sh * source.row_stride + col_offset[j];
      }
    }
    WinogradInputTile tile{};
    tile.rows = pixels;
    tile.channels = p_.in_channels;
    tile.out = inputs_ + (frame * tiles + t) * channels_;
    tile.xi_stride = frames_in * tiles * channels_;
    k_.winograd_input(form_, p_.x_type, tile);
  }

  void multiply(int64_t product, int64_t panel, const Panels& panels, int64_t first_frame, int64_t frames,
                int64_t frames_in, int64_t tiles, const float* weights) const {
    const int64_t products = p_.kernel[kDepth] * p_.in_channels;
    const int64_t lanes = panels.vectors_total() * k_.width, lane = panels.first_vector(panel) * k_.width;
    const int vectors = panels.vectors(panel);
    const int64_t ldb = vectors * k_.width;
    const float* a = inputs_ + form_.frequency(static_cast<int>(product)) * frames_in * tiles * channels_;
    const float* b = weights + (product * lanes + lane) * products;
    float* c = products_ + product * frames * tiles * lanes + lane;
    const int64_t pieces = (p_.in_channels + kDepthBlock - 1) / kDepthBlock;
    // Runs of output frames that meet the same depth taps: with padding in time the first and last frames do
    // not meet all. Stride 1 lets a run be one product, since its frames' rows follow each other.
    for (int64_t begin = 0; begin < frames;) {
      int64_t end = begin + 1;
      const bool joined = p_.stride[kDepth] == 1;
      while (joined && end < frames && same_taps(first_frame + begin, first_frame + end)) ++end;
      bool accumulate = false;
      for (int64_t kd = 0; kd < p_.kernel[kDepth]; ++kd) {
        if (depth_.source(kd, first_frame + begin) < 0) continue;
        const int64_t frame = begin * p_.stride[kDepth] + kd * p_.dilation[kDepth];
        for (int64_t piece = 0; piece < pieces; ++piece) {
          const int64_t from = p_.in_channels * piece / pieces, to = p_.in_channels * (piece + 1) / pieces;
          k_.gemm(false, (end - begin) * tiles, vectors, to - from, a + frame * tiles * channels_ + from,
                  channels_, b + (kd * p_.in_channels + from) * ldb, ldb, c + begin * tiles * lanes, lanes,
                  accumulate);
          accumulate = true;
        }
      }
      if (!accumulate) {
        for (int64_t r = begin * tiles; r < end * tiles; ++r)
          std::fill(c + r * lanes, c + r * lanes + ldb, 0.0f);
      }
      begin = end;
    }
  }

  bool same_taps(int64_t frame, int64_t other) const {
    for (int64_t kd = 0; kd < p_.kernel[kDepth]; ++kd) {
      if ((depth_.source(kd, frame) < 0) != (depth_.source(kd, other) < 0)) return false;
    }
    return true;
  }

  void transform_output(int64_t first_frame, int64_t frame, int64_t frames, int64_t first_tile, int64_t t,
                        int64_t tiles, int64_t o, int64_t out_channels, const Panels& panels) const {
    const TileAt at = tile_at(first_tile + t);
    const int64_t lanes = panels.vectors_total() * k_.width;
    const int64_t height = p_.output(kHeight), width = p_.output(kWidth);
    const int64_t m = plan_.m;
    Epilogue epilogue = operands_.epilogue;
    if (epilogue.bias) epilogue.bias += o;
    WinogradOutputTile tile{};
    tile.in = products_ + (frame * tiles + t) * lanes;
    tile.xi_stride = frames * tiles * lanes;
    tile.channels = out_channels;
    tile.out = operands_.y;
    tile.first = (((at.n * p_.output(kDepth) + first_frame + frame) * height + at.row) * width + at.col) *
                     p_.out_channels +
                 o;
    tile.row_stride = width * p_.out_channels;
    tile.pixel_stride = p_.out_channels;
    tile.row_begin = static_cast<int>(std::max<int64_t>(0, -at.row));
    tile.row_end = static_cast<int>(std::min(m, height - at.row));
    tile.col_begin = static_cast<int>(std::max<int64_t>(0, -at.col));
    tile.col_end = static_cast<int>(std::min(m, width - at.col));
    tile.epilogue = &epilogue;
    k_.winograd_output(form_, tile);
  }

  static constexpr int64_t kTileGroup = 8, kMostTile = 8, kMostPixels = kMostTile * kMostTile;

  const ConvProblem& p_;
  const WinogradPlan& plan_;
  const Operands& operands_;
  const Input input_;
  const Kernels& k_;
  const WinogradForm form_;
  const AxisPhase depth_;
  const WinogradAxis tile_rows_, tile_cols_;
  const int64_t channels_;
  std::vector<std::vector<int64_t>> products_of_;  ///< [frequency]
  const std::unique_ptr<char[]> zeros_;
  float *weights_ = nullptr, *inputs_ = nullptr, *products_ = nullptr;
};

}  // namespace

void winograd(const ConvProblem& problem, const WinogradPlan& plan, const Operands& operands,
              Workspace& workspace) {
  Runner(problem, plan, operands, workspace).run();
}

int64_t winograd_weights_size(WinogradForm form, int64_t out_channels, int64_t depth_taps, int64_t channels) {
  const Kernels& k = kernels();
  return form.all_products() * Panels(out_channels, k).vectors_total() * k.width * depth_taps * channels;
}

void winograd_weights(WinogradForm form, const WeightView& w, int64_t out_channels, int64_t depth_taps,
                      int64_t side, int64_t channels, bool flip, float* out) {
  const Kernels& k = kernels();
  const Panels panels(out_channels, k);
  const int64_t lanes = panels.vectors_total() * k.width, products = depth_taps * channels;
  constexpr int64_t kPieceChannels = 32;
  const int64_t pieces = (channels + kPieceChannels - 1) / kPieceChannels;
  parallel_for(panels.count() * depth_taps * pieces, [&](int64_t i, int) {
    const int64_t piece = i % pieces, kd = i / pieces % depth_taps, panel = i / pieces / depth_taps;
    const int64_t lane = panels.first_vector(panel) * k.width, c = channels * piece / pieces;
    WinogradWeightPanel part{};
    part.w = w;
    const int64_t from_kd = flip ? depth_taps - 1 - kd : kd;
    part.w.data = static_cast<const char*>(w.data) +
                  (lane * w.stride[0] + from_kd * w.stride[1] + c * w.stride[4]) * item_size(w.type);
    part.out_channels = out_channels - lane;
    part.channels = channels * (piece + 1) / pieces - c;
    part.side = static_cast<int>(side);
    part.flip = flip;
    part.vectors = panels.vectors(panel);
    part.out = out + lane * products + (kd * channels + c) * part.vectors * k.width;
    part.xi_stride = lanes * products;
    k.winograd_weight(form, part);
  });
}

}  // namespace mlx_conv3d::cpu
