#include "cpu/winograd_products.h"

#include <algorithm>

#include "core/integers.h"
#include "cpu/blocked_gemm.h"
#include "cpu/threads.h"
#include "cpu/winograd.h"

namespace mlx_conv3d::cpu {
namespace {

/// Products summed in registers at a time: B's part of them stays in L1.
constexpr int64_t kDepthBlock = 192;
constexpr int64_t kBlockSteps = 32;  ///< the same on a matrix unit, in steps

bool same_taps(const AxisPhase& depth, int64_t taps, int64_t frame, int64_t other) {
  for (int64_t kd = 0; kd < taps; ++kd) {
    if ((depth.source(kd, frame) < 0) != (depth.source(kd, other) < 0)) return false;
  }
  return true;
}

}  // namespace

int64_t end_of_run(const ConvProblem& p, const AxisPhase& depth, const WinogradChunk& chunk, int64_t begin) {
  int64_t end = begin + 1;
  const int64_t first = chunk.first_frame;
  const bool joined = p.stride[kDepth] == 1;
  while (joined && end < chunk.frames && same_taps(depth, p.kernel[kDepth], first + begin, first + end))
    ++end;
  return end;
}

WinogradProducts::WinogradProducts(const ConvProblem& p, const WinogradPlan& plan, int64_t channels,
                                   int widest_panel, int threads, Workspace& workspace)
    : p_(p),
      plan_(plan),
      k_(kernels()),
      form_(plan.form()),
      depth_(axis_phases(p, kDepth, false).front()),
      channels_(channels),
      products_of_(static_cast<size_t>(form_.all_pixels())) {
  for (int i = 0; i < form_.all_products(); ++i) {
    products_of_[static_cast<size_t>(form_.frequency(i))].push_back(i);
  }
  if (plan.depth_m == 2) {
    depth_rows_ = winograd_depth_rows(channels, plan.parts);
    depth_part_ = winograd_depth_part(channels, plan.parts);
    depth_floats_ = winograd_depth_floats(channels, widest_panel * k_.width, plan.parts);
    depth_scratch_ = workspace.floats(threads * depth_floats_);
  }
  if (plan.parts > 0) {
    step_count_ = divide_up(p.in_channels, kTileDepth);
    for (int64_t s = 0; s < step_count_; ++s) term_steps_.push_back({s * kTileDepth, s});
    tap_steps_.resize(static_cast<size_t>(threads));
    for (std::vector<TileStep>& steps : tap_steps_) {
      steps.reserve(static_cast<size_t>(p.kernel[kDepth] * step_count_));
    }
  }
}

void WinogradProducts::multiply(const WinogradChunk& chunk, const Panels& panels, const float* inputs,
                                const float* weights, float* products) {
  const Operation op{chunk, panels, inputs, weights, products, panels.vectors_total() * k_.width};
  // The products of a frequency one after the other: its tiles stay in the cache.
  if (plan_.depth_m == 1 && plan_.parts == 0) {
    parallel_for(form_.all_pixels() * panels.count(), [&](int64_t i, int) {
      for (int64_t product : products_of_[static_cast<size_t>(i / panels.count())]) {
        multiply_taps(op, product, i % panels.count());
      }
    });
    return;
  }
  const int64_t rows = (plan_.depth_m == 2 ? chunk.pairs.count() : chunk.frames) * chunk.tiles;
  const int64_t pieces = divide_up(rows, winograd_depth_rows(channels_, plan_.parts));
  parallel_for(form_.all_pixels() * pieces, [&](int64_t i, int thread) {
    const int64_t frequency = i / pieces, piece = i % pieces;
    const int64_t first = rows * piece / pieces, last = rows * (piece + 1) / pieces;
    if (plan_.depth_m == 2) {
      multiply_pairs(op, frequency, first, last, depth_scratch_ + thread * depth_floats_);
    } else {
      multiply_parts(op, frequency, first, last, tap_steps_[static_cast<size_t>(thread)]);
    }
  });
}

void WinogradProducts::multiply_taps(const Operation& op, int64_t product, int64_t panel) const {
  const WinogradChunk& chunk = op.chunk;
  const int64_t tiles = chunk.tiles, lanes = op.lanes;
  const int64_t products = p_.kernel[kDepth] * p_.in_channels,
                lane = op.panels.first_vector(panel) * k_.width;
  const int vectors = op.panels.vectors(panel);
  const int64_t ldb = vectors * k_.width;
  const float* a =
      op.inputs + form_.frequency(static_cast<int>(product)) * chunk.frames_in * tiles * channels_;
  const float* b = op.weights + (weight_of(product) * lanes + lane) * products;
  float* c = op.products + product * chunk.frames * tiles * lanes + lane;
  for (int64_t begin = 0; begin < chunk.frames;) {
    const int64_t end = end_of_run(p_, depth_, chunk, begin);
    bool accumulate = false;
    for (int64_t kd = 0; kd < p_.kernel[kDepth];) {
      if (depth_.source(kd, chunk.first_frame + begin) < 0) {
        ++kd;
        continue;
      }
      const TapRun taps = taps_from(kd, chunk.first_frame + begin);
      const int64_t frame = begin * p_.stride[kDepth] + kd * p_.dilation[kDepth];
      const Segments segments{taps.count, taps.step * p_.dilation[kDepth] * tiles * channels_,
                              taps.step * p_.in_channels * ldb};
      blocked_gemm(k_, kDepthBlock, p_.in_channels, (end - begin) * tiles, vectors,
                   a + frame * tiles * channels_, channels_, b + kd * p_.in_channels * ldb,
                   c + begin * tiles * lanes, lanes, accumulate, segments);
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

/// Of rows [first, last) of (pair of frames, tile) all terms of F(2, 3), in parts for a matrix unit.
void WinogradProducts::transform_depth(const Operation& op, int64_t frequency, int64_t first, int64_t last,
                                       float* scratch) const {
  const Pairs& pairs = op.chunk.pairs;
  const int64_t tiles = op.chunk.tiles, frame_stride = tiles * channels_, stride = depth_term_stride();
  const float* inputs = op.inputs + frequency * (pairs.frames + 2) * frame_stride;
  for (int64_t row = first; row < last;) {
    const int64_t pair = row / tiles, end = std::min(last, (pair + 1) * tiles);
    const float* from = inputs + (2 * pair - pairs.odd) * frame_stride + (row - pair * tiles) * channels_;
    const int64_t to = (row - first) * channels_, count = (end - row) * channels_;
    if (plan_.parts > 0) {
      k_.tiles->winograd_depth_input(pairs.has_even(pair), pairs.has_odd(pair), count, from, frame_stride,
                                     reinterpret_cast<uint16_t*>(scratch) + to, stride,
                                     {plan_.parts, 1.0f, depth_part_});
    } else {
      k_.winograd_depth_input(pairs.has_even(pair), pairs.has_odd(pair), count, from, frame_stride,
                              scratch + to, stride);
    }
    row = end;
  }
}

/// Of the scratch from one term to the next: floats, or items of parts.
int64_t WinogradProducts::depth_term_stride() const {
  return plan_.parts > 0 ? plan_.parts * depth_part_ : depth_rows_ * channels_;
}

/// Rows [first, last) of (pair of frames, tile): F(2, 3) along depth.
void WinogradProducts::multiply_pairs(const Operation& op, int64_t frequency, int64_t first, int64_t last,
                                      float* scratch) const {
  const Panels& panels = op.panels;
  const Pairs& pairs = op.chunk.pairs;
  const int64_t tiles = op.chunk.tiles, lanes = op.lanes, term_stride = depth_term_stride();
  transform_depth(op, frequency, first, last, scratch);
  const auto* parts = reinterpret_cast<const uint16_t*>(scratch);
  float* alone = scratch + (plan_.parts > 0 ? 2 : 4) * term_stride;
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
    float* c = op.products + product * pairs.frames * tiles * lanes + lane;
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
          const uint16_t* b = tile_panel(op, product, panel, 4) + term * items;
          multiply_steps(rows, vectors, parts + from, depth_part_, term_steps_, b, sums, stride, accumulate,
                         b + (term % 2 == 0 ? 1 : 3) * items);
        } else {
          const float* b = op.weights + (weight_of(product) * lanes + lane) * 4 * p_.in_channels;
          blocked_gemm(k_, kDepthBlock, p_.in_channels, rows, vectors, scratch + from, channels_,
                       b + term * p_.in_channels * ldb, sums, stride, accumulate);
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

const uint16_t* WinogradProducts::tile_panel(const Operation& op, int64_t product, int64_t panel,
                                             int64_t terms) const {
  const int64_t column = weight_of(product) * op.panels.vectors_total() + op.panels.first_vector(panel);
  return winograd_tile_weights(op.weights).items + column * terms * step_count_ * plan_.parts * kTileItems;
}

/// Rows [first, last) of (frame, tile) of a frequency, on a matrix unit. `steps` is scratch.
void WinogradProducts::multiply_parts(const Operation& op, int64_t frequency, int64_t first, int64_t last,
                                      std::vector<TileStep>& steps) const {
  const WinogradChunk& chunk = op.chunk;
  const int64_t tiles = chunk.tiles, rows_in = chunk.frames_in * tiles;
  const int64_t part_stride = winograd_part_stride(form_.all_pixels() * rows_in * channels_);
  const auto* inputs = reinterpret_cast<const uint16_t*>(op.inputs) + frequency * rows_in * channels_;
  for (int64_t row = first; row < last;) {
    const int64_t frame = row / tiles;
    const int64_t end = std::min(last, end_of_run(p_, depth_, chunk, frame) * tiles);
    const uint16_t* a = inputs + (row + (p_.stride[kDepth] - 1) * frame * tiles) * channels_;
    steps.clear();
    for (int64_t kd = 0; kd < p_.kernel[kDepth]; ++kd) {
      if (depth_.source(kd, chunk.first_frame + frame) < 0) continue;
      for (const TileStep& step : term_steps_) {
        steps.push_back({kd * p_.dilation[kDepth] * tiles * channels_ + step.a, kd * step_count_ + step.b});
      }
    }
    for (int64_t product : products_of_[static_cast<size_t>(frequency)]) {
      for (int64_t panel = 0; panel < op.panels.count(); ++panel) {
        const int vectors = op.panels.vectors(panel);
        float* c = op.products + (product * chunk.frames * tiles + row) * op.lanes +
                   op.panels.first_vector(panel) * k_.width;
        const uint16_t* b = tile_panel(op, product, panel, p_.kernel[kDepth]);
        multiply_steps(end - row, vectors, a, part_stride, steps, b, c, op.lanes, false,
                       b + tile_panel_items(p_.kernel[kDepth] * step_count_, plan_.parts, vectors));
      }
    }
    row = end;
  }
}

/// c (+)= a times b over the steps, in blocks. `next` is what will be read after them.
void WinogradProducts::multiply_steps(int64_t rows, int tiles, const uint16_t* a, int64_t part_stride,
                                      const std::vector<TileStep>& steps, const uint16_t* b, float* c,
                                      int64_t ldc, bool accumulate, const uint16_t* next) const {
  const auto count = static_cast<int64_t>(steps.size());
  // One at least: without products the sums are zero.
  const int64_t pieces = std::max<int64_t>(1, divide_up(count, kBlockSteps));
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t from = count * piece / pieces, to = count * (piece + 1) / pieces;
    const uint16_t* then =
        to < count ? b + tile_panel_items(steps[static_cast<size_t>(to)].b, plan_.parts, tiles) : next;
    k_.tiles->multiply({plan_.parts, false, tiles, rows, rows, rows, a, channels_, part_stride,
                        steps.data() + from, to - from, b, then, c, ldc, accumulate || piece > 0, nullptr});
  }
}

/// The taps from kd on that meet an input of the frame, as many as a block's sums may hold.
WinogradProducts::TapRun WinogradProducts::taps_from(int64_t kd, int64_t frame) const {
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

}  // namespace mlx_conv3d::cpu
