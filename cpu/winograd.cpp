// Winograd, of single, doubled or dilated pixels, with the depth sum inside the transform domain:
// every input frame is transformed once, the KD depth taps of a frequency are one product with K = KD*C,
// every output frame is transformed back once. With F(2, 3) along depth too (depth_m 2) a pair of output
// frames takes four products with K = C instead of six. All threads share a chunk of tiles, phase by phase,
// so that the transformed weights are read once per chunk.

#include "cpu/winograd.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include "cpu/threads.h"
#include "cpu/winograd_pairs.h"
#include "cpu/winograd_pixels.h"

namespace mlx_conv3d::cpu {
namespace {

constexpr int64_t kDepthBlock =
    192;  ///< products summed in registers at a time: B's part of them stays in L1

constexpr int64_t kBlockSteps = 32;  ///< the same on a matrix unit, in steps

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
        channels_(winograd_channel_pitch(p.in_channels, k_.width, plan.parts)),
        products_of_(static_cast<size_t>(form_.all_pixels())),
        zeros_(new char[static_cast<size_t>((p.in_channels + 64) * 4)]()) {
    for (int i = 0; i < form_.all_products(); ++i) {
      products_of_[static_cast<size_t>(form_.frequency(i))].push_back(i);
    }
    const int64_t slice = std::min(plan.out_slice, p.out_channels);
    const Panels panels = winograd_panels(form_, slice, k_);
    if (operands.packed_w == nullptr) {
      weights_ = workspace.floats(winograd_weights_size(form_, slice, p.kernel[kDepth], p.in_channels));
    }
    const int64_t rows_in = winograd_input_frames(p, plan.frames) * plan.tiles;
    inputs_ = workspace.floats(winograd_input_floats(form_, rows_in, channels_));
    products_ =
        workspace.floats(form_.all_products() * plan.frames * plan.tiles * panels.vectors_total() * k_.width);
    if (plan.depth_m == 2) {
      depth_rows_ = winograd_depth_rows(channels_, plan.parts);
      depth_part_ = winograd_depth_part(channels_, plan.parts);
      depth_floats_ = winograd_depth_floats(channels_, panels.widest() * k_.width, plan.parts);
      depth_scratch_ = workspace.floats(thread_count() * depth_floats_);
    }
    if (plan.parts > 0) {
      step_count_ = divide_up(p.in_channels, kTileDepth);
      for (int64_t s = 0; s < step_count_; ++s) term_steps_.push_back({s * kTileDepth, s});
      for (std::vector<TileStep>& steps :
           tap_steps_ = std::vector<std::vector<TileStep>>(static_cast<size_t>(thread_count()))) {
        steps.reserve(static_cast<size_t>(p.kernel[kDepth] * step_count_));
      }
    }
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
      // Even chunks, so that the last is not a handful of tiles. F(2, 3) wants whole pairs of frames.
      const int64_t depth_m = plan_.depth_m, odd = depth_m == 2 && p_.odd_frame ? 1 : 0;
      const int64_t units = (odd + frames + depth_m - 1) / depth_m;
      const int64_t frame_chunks =
          frames <= plan_.frames ? 1 : (units * depth_m + plan_.frames - 1) / plan_.frames;
      const auto first_frame_of = [&](int64_t f) {
        return std::clamp<int64_t>(units * f / frame_chunks * depth_m - odd, 0, frames);
      };
      const int64_t tile_chunks = (tiles + plan_.tiles - 1) / plan_.tiles;
      for (int64_t f = 0; f < frame_chunks; ++f) {
        for (int64_t t = 0; t < tile_chunks; ++t) {
          const int64_t first_frame = first_frame_of(f), first_tile = tiles * t / tile_chunks;
          chunk(first_frame, first_frame_of(f + 1) - first_frame, first_tile,
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
    const auto transform_inputs = [&](float scale) {
      std::atomic<uint32_t> largest{0};
      parallel_for(frames_in * divide_up(tiles, kTileGroup), [&](int64_t i, int) {
        const int64_t frame = i % frames_in, group = i / frames_in * kTileGroup;
        uint32_t met = 0;
        for (int64_t t = group; t < std::min(tiles, group + kTileGroup); ++t) {
          met = std::max(met, transform_input(first_frame, frame, frames_in, first_tile, t, tiles, scale));
        }
        uint32_t most = largest.load(std::memory_order_relaxed);
        while (most < met && !largest.compare_exchange_weak(most, met, std::memory_order_relaxed)) {
        }
      });
      return largest.load(std::memory_order_relaxed);
    };
    const float scale = winograd_tile_scale(transform_inputs(1.0f));
    if (scale != 1.0f) transform_inputs(scale);
    const Panels panels = winograd_panels(form_, out_channels, k_);
    const Pairs pairs{frames, plan_.depth_m == 2 && p_.odd_frame && first_frame == 0 ? 1 : 0};
    // The products of a frequency one after the other: its tiles stay in the cache.
    if (plan_.depth_m == 2) {
      const int64_t rows = pairs.count() * tiles, pieces = divide_up(rows, depth_rows_);
      parallel_for(form_.all_pixels() * pieces, [&](int64_t i, int thread) {
        const int64_t piece = i % pieces;
        multiply_pairs(i / pieces, panels, pairs, tiles, rows * piece / pieces, rows * (piece + 1) / pieces,
                       weights, depth_scratch_ + thread * depth_floats_);
      });
    } else if (plan_.parts > 0) {
      const int64_t rows = frames * tiles,
                    pieces = divide_up(rows, winograd_depth_rows(channels_, plan_.parts));
      parallel_for(form_.all_pixels() * pieces, [&](int64_t i, int thread) {
        const int64_t piece = i % pieces;
        multiply_parts(i / pieces, panels, first_frame, frames, frames_in, tiles, rows * piece / pieces,
                       rows * (piece + 1) / pieces, weights, tap_steps_[static_cast<size_t>(thread)]);
      });
    } else {
      parallel_for(form_.all_pixels() * panels.count(), [&](int64_t i, int) {
        for (int64_t product : products_of_[static_cast<size_t>(i / panels.count())]) {
          multiply(product, i % panels.count(), panels, first_frame, frames, frames_in, tiles, weights);
        }
      });
    }
    if (plan_.parts > 0) undo_scale(scale, winograd_tile_weights(weights).scale, frames * tiles, panels);
    parallel_for(frames * divide_up(tiles, kTileGroup), [&](int64_t i, int) {
      const int64_t frame = i % frames, group = i / frames * kTileGroup;
      for (int64_t t = group; t < std::min(tiles, group + kTileGroup); ++t) {
        transform_output(first_frame, frame, pairs, first_tile, t, tiles, o, out_channels, panels);
      }
    });
  }

  /// Position of chunk frame 0 on the padded depth axis.
  int64_t depth_origin(int64_t first_frame) const {
    return first_frame * p_.stride[kDepth] - p_.pad_lo[kDepth];
  }

  /// Of a matrix unit's form, returns the bits of the largest magnitude and multiplies by `scale`.
  uint32_t transform_input(int64_t first_frame, int64_t frame, int64_t frames_in, int64_t first_tile,
                           int64_t t, int64_t tiles, float scale) const {
    const TileAt at = tile_at(first_tile + t);
    const int64_t sd = p_.source_index(kDepth, depth_origin(first_frame) + frame);
    const int64_t at_row = (frame * tiles + t) * channels_;
    const int64_t xi_stride = frames_in * tiles * channels_;
    if (sd < 0) {
      // multiply() leaves frames of padding out; pairs take them as they are.
      for (int64_t xi = 0; plan_.depth_m == 2 && xi < form_.all_pixels(); ++xi) {
        std::fill_n(inputs_ + at_row + xi * xi_stride, channels_, 0.0f);
      }
      return 0;
    }
    const Frame source = input_.frame(at.n, sd);
    const void* pixels[kMostTilePixels];
    winograd_pixels(p_, form_, source, at.row, at.col, 0, zeros_.get(), pixels);
    WinogradInputTile tile{};
    tile.rows = pixels;
    tile.channels = p_.in_channels;
    tile.xi_stride = xi_stride;
    tile.out = inputs_ + at_row;
    if (plan_.parts == 0) {
      k_.winograd_input(form_, p_.x_type, tile);
      return 0;
    }
    if (plan_.depth_m == 2) return k_.tiles->winograd_input(form_, p_.x_type, tile, {0, scale, 0});
    tile.out = input_parts() + at_row;
    return k_.tiles->winograd_input(form_, p_.x_type, tile,
                                    {plan_.parts, scale, input_part_stride(frames_in * tiles)});
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
    for (int64_t begin = 0; begin < frames;) {
      const int64_t end = end_of_run(first_frame, begin, frames);
      bool accumulate = false;
      for (int64_t kd = 0; kd < p_.kernel[kDepth];) {
        if (depth_.source(kd, first_frame + begin) < 0) {
          ++kd;
          continue;
        }
        const TapRun taps = taps_from(kd, first_frame + begin);
        const int64_t frame = begin * p_.stride[kDepth] + kd * p_.dilation[kDepth];
        const Segments segments{taps.count, taps.step * p_.dilation[kDepth] * tiles * channels_,
                                taps.step * p_.in_channels * ldb};
        multiply_channels((end - begin) * tiles, vectors, a + frame * tiles * channels_,
                          b + kd * p_.in_channels * ldb, c + begin * tiles * lanes, lanes, accumulate,
                          segments);
        accumulate = true;
        kd += (taps.count - 1) * taps.step + 1;
      }
      if (!accumulate) {
        for (int64_t r = begin * tiles; r < end * tiles; ++r)
          std::fill(c + r * lanes, c + r * lanes + ldb, 0.0f);
      }
      begin = end;
    }
  }

  /// Rows [first, last) of (pair of frames, tile): F(2, 3) along depth.
  void multiply_pairs(int64_t frequency, const Panels& panels, const Pairs& pairs, int64_t tiles,
                      int64_t first, int64_t last, const float* weights, float* scratch) const {
    const int64_t frame_stride = tiles * channels_;
    const int64_t term_stride = plan_.parts > 0 ? plan_.parts * depth_part_ : depth_rows_ * channels_;
    auto* parts = reinterpret_cast<uint16_t*>(scratch);
    float* alone = scratch + (plan_.parts > 0 ? 2 : 4) * term_stride;
    const float* inputs = inputs_ + frequency * (pairs.frames + 2) * frame_stride;
    for (int64_t row = first; row < last;) {
      const int64_t pair = row / tiles, end = std::min(last, (pair + 1) * tiles);
      const int64_t from = (2 * pair - pairs.odd) * frame_stride + (row - pair * tiles) * channels_;
      const int64_t to = (row - first) * channels_, count = (end - row) * channels_;
      if (plan_.parts > 0) {
        k_.tiles->winograd_depth_input(pairs.has_even(pair), pairs.has_odd(pair), count, inputs + from,
                                       frame_stride, parts + to, term_stride,
                                       {plan_.parts, 1.0f, depth_part_});
      } else {
        k_.winograd_depth_input(pairs.has_even(pair), pairs.has_odd(pair), count, inputs + from, frame_stride,
                                scratch + to, term_stride);
      }
      row = end;
    }
    const int64_t lanes = panels.vectors_total() * k_.width;
    // Rows whose pair has both frames; before them those without the first, behind them those without the
    // second.
    const int64_t whole = std::clamp(pairs.odd * tiles, first, last);
    const int64_t whole_end = std::clamp(pairs.odds() * tiles, whole, last);
    const std::vector<int64_t>& products = products_of_[static_cast<size_t>(frequency)];
    const int64_t count = static_cast<int64_t>(products.size());
    const int64_t starts[] = {first, whole, whole_end, last};
    // Two terms at a time with all panels: they stay in the cache.
    const int64_t tasks = count * panels.count();
    for (int64_t i = 0; i < 2 * tasks; ++i) {
      const int64_t pass = i / tasks, task = i % tasks;
      const int64_t product = products[static_cast<size_t>(task / panels.count())],
                    panel = task % panels.count();
      const int64_t lane = panels.first_vector(panel) * k_.width;
      const int vectors = panels.vectors(panel);
      const int64_t ldb = vectors * k_.width;
      float* c = products_ + product * pairs.frames * tiles * lanes + lane;
      for (int part = 0; part < 3; ++part) {
        const int64_t row = starts[part], rows = starts[part + 1] - row;
        if (rows == 0) continue;
        const bool has_even = part > 0, has_odd = part < 2;
        float* even = has_even ? c + pairs.even_row(row, tiles) * lanes : alone;
        float* odd = has_odd ? c + pairs.odd_row(row, tiles) * lanes : alone;
        const int64_t even_stride = has_even ? lanes : ldb, odd_stride = has_odd ? lanes : ldb;
        const auto multiply_term = [&](int depth_frequency, float* sums, int64_t stride, bool accumulate) {
          const int64_t term = kDepthSlot[depth_frequency];
          const int64_t from = term * term_stride + (row - first) * channels_;
          if (plan_.parts > 0) {
            const int64_t items = tile_panel_items(step_count_, plan_.parts, vectors);
            const uint16_t* b = tile_panel(weights, product, panels, panel, 4) + term * items;
            multiply_steps(rows, vectors, parts + from, depth_part_, term_steps_, b, sums, stride, accumulate,
                           b + (term % 2 == 0 ? 1 : 3) * items);
          } else {
            const float* b = weights + (product * lanes + lane) * 4 * p_.in_channels;
            multiply_channels(rows, vectors, scratch + from, b + term * p_.in_channels * ldb, sums, stride,
                              accumulate);
          }
        };
        // even = P1 + P2 + P0, odd = P1 - P2 + P3: the sum and the difference share two products.
        if (pass == 0) {
          multiply_term(1, even, even_stride, false);
          multiply_term(2, odd, odd_stride, false);
          k_.winograd_depth_butterfly(rows, ldb, even, even_stride, odd, odd_stride);
        } else {
          if (has_even) multiply_term(0, even, even_stride, true);
          if (has_odd) multiply_term(3, odd, odd_stride, true);
        }
      }
    }
  }

  uint16_t* input_parts() const { return reinterpret_cast<uint16_t*>(inputs_); }
  int64_t input_part_stride(int64_t rows_in) const {
    return winograd_part_stride(form_.all_pixels() * rows_in * channels_);
  }

  const uint16_t* tile_panel(const float* weights, int64_t product, const Panels& panels, int64_t panel,
                             int64_t terms) const {
    const int64_t column = product * panels.vectors_total() + panels.first_vector(panel);
    return winograd_tile_weights(weights).items + column * terms * step_count_ * plan_.parts * kTileItems;
  }

  /// Rows [first, last) of (frame, tile) of a frequency, on a matrix unit. `steps` is scratch.
  void multiply_parts(int64_t frequency, const Panels& panels, int64_t first_frame, int64_t frames,
                      int64_t frames_in, int64_t tiles, int64_t first, int64_t last, const float* weights,
                      std::vector<TileStep>& steps) const {
    const int64_t lanes = panels.vectors_total() * k_.width;
    const uint16_t* inputs = input_parts() + frequency * frames_in * tiles * channels_;
    for (int64_t row = first; row < last;) {
      const int64_t frame = row / tiles;
      const int64_t end = std::min(last, end_of_run(first_frame, frame, frames) * tiles);
      const uint16_t* a = inputs + (row + (p_.stride[kDepth] - 1) * frame * tiles) * channels_;
      steps.clear();
      for (int64_t kd = 0; kd < p_.kernel[kDepth]; ++kd) {
        if (depth_.source(kd, first_frame + frame) < 0) continue;
        for (const TileStep& step : term_steps_) {
          steps.push_back({kd * p_.dilation[kDepth] * tiles * channels_ + step.a, kd * step_count_ + step.b});
        }
      }
      for (int64_t product : products_of_[static_cast<size_t>(frequency)]) {
        for (int64_t panel = 0; panel < panels.count(); ++panel) {
          float* c =
              products_ + (product * frames * tiles + row) * lanes + panels.first_vector(panel) * k_.width;
          const uint16_t* b = tile_panel(weights, product, panels, panel, p_.kernel[kDepth]);
          multiply_steps(
              end - row, panels.vectors(panel), a, input_part_stride(frames_in * tiles), steps, b, c, lanes,
              false,
              b + tile_panel_items(p_.kernel[kDepth] * step_count_, plan_.parts, panels.vectors(panel)));
        }
      }
      row = end;
    }
  }

  /// c (+)= a times b over the steps, in blocks. `next` is what will be read after them.
  void multiply_steps(int64_t rows, int tiles, const uint16_t* a, int64_t part_stride,
                      const std::vector<TileStep>& steps, const uint16_t* b, float* c, int64_t ldc,
                      bool accumulate, const uint16_t* next) const {
    const auto count = static_cast<int64_t>(steps.size());
    // One at least: without products the sums are zero.
    const int64_t pieces = std::max<int64_t>(1, divide_up(count, kBlockSteps));
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t from = count * piece / pieces, to = count * (piece + 1) / pieces;
      const uint16_t* then =
          to < count ? b + tile_panel_items(steps[static_cast<size_t>(to)].b, plan_.parts, tiles) : next;
      k_.tiles->multiply({plan_.parts, false, tiles, rows, a, channels_, part_stride, steps.data() + from,
                          to - from, b, then, c, ldc, accumulate || piece > 0});
    }
  }

  /// Takes the factors that numbers out of the matrix unit's range were multiplied by from the products.
  void undo_scale(float input_scale, float weight_scale, int64_t rows, const Panels& panels) const {
    if (input_scale == 1.0f && weight_scale == 1.0f) return;
    const int64_t n = rows * panels.vectors_total() * k_.width;
    parallel_for(form_.all_products(), [&](int64_t product, int) {
      float* sums = products_ + product * n;
      for (int64_t i = 0; i < n; ++i) sums[i] = sums[i] / input_scale / weight_scale;
    });
  }

  /// Depth taps that are summed in registers together: `count` of them, `step` apart.
  struct TapRun {
    int64_t count, step;
  };

  /// The taps from kd on that meet an input of the frame, as many as a block's sums may hold.
  TapRun taps_from(int64_t kd, int64_t frame) const {
    TapRun run{1, 1};
    const int64_t most = kDepthBlock / std::max<int64_t>(1, p_.in_channels);
    for (int64_t next = kd + 1; next < p_.kernel[kDepth] && run.count < most; ++next) {
      if (depth_.source(next, frame) < 0) continue;
      if (run.count == 1) run.step = next - kd;
      if (next != kd + run.count * run.step) break;
      ++run.count;
    }
    return run;
  }

  /// c (+)= a times b over all input channels, in blocks, for all segments. Several segments are one block.
  void multiply_channels(int64_t rows, int vectors, const float* a, const float* b, float* c, int64_t ldc,
                         bool accumulate, const Segments& segments = {}) const {
    const int64_t ldb = vectors * k_.width;
    // One at least: without input channels the sums are zero.
    const int64_t pieces = std::max<int64_t>(1, (p_.in_channels + kDepthBlock - 1) / kDepthBlock);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t from = p_.in_channels * piece / pieces, to = p_.in_channels * (piece + 1) / pieces;
      k_.gemm(false, rows, vectors, to - from, a + from, channels_, b + from * ldb, ldb, c, ldc,
              accumulate || piece > 0, segments);
    }
  }

  /// Behind the run of output frames that meet the same depth taps: with padding in time the first and last
  /// frames do not meet all. Stride 1 lets a run be one product, since its frames' rows follow each other.
  int64_t end_of_run(int64_t first_frame, int64_t begin, int64_t frames) const {
    int64_t end = begin + 1;
    const bool joined = p_.stride[kDepth] == 1;
    while (joined && end < frames && same_taps(first_frame + begin, first_frame + end)) ++end;
    return end;
  }

  bool same_taps(int64_t frame, int64_t other) const {
    for (int64_t kd = 0; kd < p_.kernel[kDepth]; ++kd) {
      if ((depth_.source(kd, frame) < 0) != (depth_.source(kd, other) < 0)) return false;
    }
    return true;
  }

  void transform_output(int64_t first_frame, int64_t frame, const Pairs& pairs, int64_t first_tile, int64_t t,
                        int64_t tiles, int64_t o, int64_t out_channels, const Panels& panels) const {
    const TileAt at = tile_at(first_tile + t);
    const int64_t lanes = panels.vectors_total() * k_.width;
    const int64_t height = p_.output(kHeight), width = p_.output(kWidth);
    const int64_t m = plan_.m;
    Epilogue epilogue = operands_.epilogue;
    if (epilogue.bias) epilogue.bias += o;
    WinogradOutputTile tile{};
    tile.in = products_ + (plan_.depth_m == 2 ? pairs.row(frame, t, tiles) : frame * tiles + t) * lanes;
    tile.xi_stride = pairs.frames * tiles * lanes;
    tile.next = lanes;
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

  static constexpr int64_t kTileGroup = 8;

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
  float *weights_ = nullptr, *inputs_ = nullptr, *products_ = nullptr, *depth_scratch_ = nullptr;
  int64_t depth_rows_ = 0, depth_part_ = 0, depth_floats_ = 0;
  int64_t step_count_ = 0;
  std::vector<TileStep> term_steps_;              ///< over all input channels
  std::vector<std::vector<TileStep>> tap_steps_;  ///< scratch, [thread]
};

}  // namespace

void winograd(const ConvProblem& problem, const WinogradPlan& plan, const Operands& operands,
              Workspace& workspace) {
  Runner(problem, plan, operands, workspace).run();
}

}  // namespace mlx_conv3d::cpu
