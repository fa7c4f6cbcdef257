// dL/dw on a CPU: in Winograd's transform domain, as gathered products, or lane by lane.

#include <algorithm>
#include <limits>

#include "core/cpu_model.h"
#include "core/plan_cpu.h"

namespace mlx_conv3d {

using namespace cpu_model;

namespace {

// Measured on AVX-512: the share of the multiply-add peak that either kind of products reaches; floats per
// second and thread of sums in the transform domain, of gathered inputs and dL/dy, and of gathered sums that
// become dL/dw; seconds for one run of neighbouring inputs.
constexpr double kGradientShare = 1.0, kGatheredGradientShare = 1.2;
constexpr double kSumFloats = 2.0e9, kCopiedFloats = 5.0e9, kFinishedFloats = 0.35e9, kRunSeconds = 25e-9;

/// What rounding to cache lines may add.
int64_t gradient_slack(const Device& d) { return 4096 + int64_t{64} * 3 * d.cores; }

WeightGradientPlan plan_direct(const ConvProblem& p, const Device& d) {
  WeightGradientPlan g;
  const int64_t pitch = lanes(p.out_channels, d);
  g.direct = true;
  g.rows = kDirectPositions;
  g.workspace = d.cores * 4 * (pitch * p.taps() * p.group_in() + g.rows * pitch) + gradient_slack(d);
  return g;
}

WeightGradientPlan plan_gathered(const ConvProblem& p, const Device& d, int64_t limit) {
  WeightGradientPlan g;
  const int64_t slack = gradient_slack(d);
  const int64_t panel = d.panel_vectors * d.vector_width, out_lanes = lanes(p.group_out(), d);
  const int64_t products = p.taps() * p.group_in();
  g.rows = 256;
  g.depth = std::clamp<int64_t>(p.kernel[2] * p.group_in(), 1, 288);
  g.cols = std::min(round_up(out_lanes, panel), round_up(int64_t{512}, panel));
  const auto thread_bytes = [&] {
    return d.cores * 4 * (g.rows * (g.depth + d.vector_width + g.cols) + g.depth * g.cols);
  };
  while (thread_bytes() + slack > limit / 2 && g.cols > panel) g.cols = round_up(g.cols / 2, panel);
  while (thread_bytes() + slack > limit / 2 && g.rows > 16) g.rows /= 2;
  const int64_t tasks = divide_up(products, g.depth) * divide_up(out_lanes, g.cols);
  const int64_t split_bytes = products * out_lanes * 4;
  // Few products: the positions are cut as well, so that all threads have work.
  if (tasks < 4 * d.cores) g.splits = divide_up(4 * d.cores, std::max<int64_t>(1, tasks));
  g.splits = std::min(g.splits, divide_up(p.out_positions(), 4 * g.rows));
  while (g.splits > 1 && g.splits * split_bytes + thread_bytes() + slack > limit) --g.splits;
  g.splits = std::max<int64_t>(1, g.splits);
  g.workspace = thread_bytes() + (g.splits > 1 ? g.splits * split_bytes : 0) + slack;
  const double scale = core_scale(d);
  const double rows = static_cast<double>(p.out_positions()) / (p.input_dilated() ? phases(p) : 1);
  const double gathered = rows * static_cast<double>(products * p.groups) * divide_up(out_lanes, g.cols);
  const double all_lanes = static_cast<double>(out_lanes * p.groups);
  const double walks = rows * static_cast<double>(divide_up(products, g.depth));
  // A short row of products leaves registers of the block empty.
  const double filled = std::min(1.0, static_cast<double>(g.depth) / 8);
  g.cost = 2.0 * rows * static_cast<double>(products) * all_lanes /
               (d.gflops * 1e9 * kGatheredGradientShare * filled) +
           (gathered + walks * all_lanes) / (kCopiedFloats * d.cores * scale) +
           walks * static_cast<double>(p.groups) * kRunSeconds / d.cores +
           static_cast<double>(g.splits * products) * all_lanes / (kFinishedFloats * d.cores * scale) +
           2 * static_cast<double>(p.groups) * kStepSeconds;
  return g;
}

/// Sizes of Winograd's dL/dw for one form.
struct GradientSizes {
  const ConvProblem& p;
  const Device& d;
  WinogradForm form;

  int64_t terms() const { return winograd_depth_terms(p.kernel[kDepth], form.depth_m); }
  int64_t pitch(int64_t channels) const { return winograd_channel_pitch(channels, d.vector_width); }
  int64_t sum_floats(int64_t ins, int64_t outs) const {
    const bool outputs = gradient_rows_are_outputs(p, d.vector_width);
    return form.all_weights() * terms() * (outputs ? outs * pitch(ins) : ins * pitch(outs));
  }
  /// dL/dw of a row, or of all rows where they are input channels.
  int64_t finished_floats(int64_t ins, int64_t outs) const {
    const bool outputs = gradient_rows_are_outputs(p, d.vector_width);
    return p.taps() * (outputs ? d.cores * pitch(ins) : ins * pitch(outs) + d.cores * ins);
  }
  int64_t input_frames(int64_t frames) const {
    return form.depth_m == 2 ? round_up(frames, 2) + 2 : winograd_input_frames(p, frames);
  }
  int64_t chunk_floats(int64_t tiles, int64_t frames, int64_t ins, int64_t outs) const {
    const int64_t even = round_up(frames, form.depth_m), twice = form.depth_m == 2 ? 2 : 0;
    const int64_t x_frames = input_frames(frames) + twice * even, dy_frames = even + twice / 2 * even;
    return tiles *
           (form.all_pixels() * x_frames * pitch(ins) + form.all_products() * dy_frames * pitch(outs));
  }
};

bool fit_winograd_gradient(const ConvProblem& p, const Device& d, int64_t limit, WinogradForm form,
                           WeightGradientPlan& g) {
  const GradientSizes sizes{p, d, form};
  const bool outputs = gradient_rows_are_outputs(p, d.vector_width);
  int64_t ins = p.in_channels, outs = p.out_channels;
  const auto held = [&] {
    return 4 * (sizes.sum_floats(ins, outs) + sizes.finished_floats(ins, outs)) + gradient_slack(d);
  };
  // Rows first: what lies along the vectors is then written in longer runs.
  while (held() > limit / 2 && std::max(ins, outs) > d.vector_width) {
    int64_t& rows = outputs ? outs : ins;
    int64_t& columns = outputs ? ins : outs;
    int64_t& cut = rows > 64 || columns <= 4 * d.vector_width ? rows : columns;
    if (cut <= 1) return false;
    cut = round_up(divide_up(cut, 2), &cut == &columns ? d.vector_width : 1);
  }
  const int64_t tiles = winograd_tiles(p, form), all_frames = std::max<int64_t>(1, p.output(kDepth));
  const WinogradChunk chunk =
      fit_winograd_chunk(tiles, all_frames, form.depth_m, limit - held(),
                         [&](int64_t t, int64_t f) { return 4 * sizes.chunk_floats(t, f, ins, outs); });
  if (chunk.tiles == 0) return false;
  g.winograd = winograd_plan(form, chunk.tiles, chunk.frames, outs);
  g.in_slice = ins;
  g.workspace = held() + 4 * sizes.chunk_floats(chunk.tiles, chunk.frames, ins, outs);

  const double in_slices = static_cast<double>(divide_up(p.in_channels, ins));
  const double out_slices = static_cast<double>(divide_up(p.out_channels, outs));
  const double frame_chunks = static_cast<double>(divide_up(all_frames, chunk.frames));
  const double chunks = frame_chunks * static_cast<double>(divide_up(tiles, chunk.tiles));
  const double all_sums = static_cast<double>(sizes.sum_floats(p.in_channels, p.out_channels));
  const double met = 1.0 / static_cast<double>(p.input_dilation[kDepth]);
  const double depth_rows =
      form.depth_m == 2 ? static_cast<double>(divide_up(all_frames, 2)) : met * all_frames;
  const double tile_sums = all_sums / form.all_weights() * form.all_products();
  const double flops = 2.0 * tile_sums * static_cast<double>(tiles) * depth_rows;
  const double x_floats = out_slices * frame_chunks *
                          static_cast<double>(sizes.input_frames(chunk.frames) * tiles) *
                          static_cast<double>(form.all_pixels() * sizes.pitch(p.in_channels));
  const double dy_floats = in_slices * static_cast<double>(all_frames * tiles) *
                           static_cast<double>(form.all_products() * sizes.pitch(p.out_channels));
  const double depth_floats = form.depth_m == 2 ? 2 * x_floats + dy_floats : 0;
  const double scale = core_scale(d);
  g.cost = flops / (d.gflops * 1e9 * kGradientShare) +
           (x_floats + dy_floats) / (transform_floats(form) * d.cores * scale) +
           depth_floats / (kDepthFloats * d.cores * scale) +
           tile_sums * (1 + 0.25 * chunks) / (kSumFloats * d.cores * scale) +
           (4 * chunks * in_slices * out_slices + 2) * kStepSeconds;
  return true;
}

/// The cheapest form; tiles is 0 where none is legal or fits.
WeightGradientPlan plan_winograd(const ConvProblem& problem, const Device& d, int64_t limit) {
  WeightGradientPlan best;
  best.cost = std::numeric_limits<double>::infinity();
  if (!illegal_reason(problem, Algorithm::winograd).empty()) return best;
  if (problem.in_channels * problem.out_channels == 0) return best;
  const auto [p, row_taps] = winograd_problem(problem);
  const Pixels kind = pixels_of(p);
  const int taps = winograd_taps(p.kernel[kWidth]);
  for (int m : winograd_tile_sizes(kind, taps)) {
    for (int depth_m : {1, 2}) {
      const WinogradForm form{m, kind, depth_m, 0, row_taps, taps};
      if (!form.exact() || (depth_m == 2 && !(fits_depth_winograd(p) && form.pairs_frames()))) continue;
      WeightGradientPlan g;
      if (fit_winograd_gradient(p, d, limit, form, g) && g.cost < best.cost) best = g;
    }
  }
  return best;
}

}  // namespace

bool gradient_rows_are_outputs(const ConvProblem& p, int vector_width) {
  const auto padded = [&](int64_t n) { return round_up(std::max<int64_t>(1, n), vector_width); };
  return p.out_channels * padded(p.in_channels) <= p.in_channels * padded(p.out_channels);
}

WeightGradientPlan make_weight_gradient_plan(const ConvProblem& p, const Device& d, int64_t limit,
                                             std::optional<bool> winograd) {
  WeightGradientPlan by_units;
  by_units.unit = make_unit_gradient_plan(p, d);
  if (by_units.unit.woven > 0) {
    by_units.workspace = unit_gradient_workspace(p, d, by_units.unit);
    if (by_units.workspace <= limit) return by_units;
  }
  WeightGradientPlan in_place;
  in_place.grouped = make_depthwise_gradient_plan(p, d);
  if (in_place.grouped.vectors > 0) {
    in_place.workspace = depthwise_gradient_workspace(p, d, in_place.grouped);
    if (in_place.workspace <= limit) return in_place;
  }
  WeightGradientPlan compiled;
  compiled.grouped = make_grouped_plan(p, d);
  if (compiled.grouped.kernel >= 0) {
    compiled.workspace = grouped_gradient_workspace(p, d, compiled.grouped);
    if (compiled.workspace <= limit) return compiled;
  }
  if (is_direct(p)) {
    const WeightGradientPlan direct = plan_direct(p, d);
    if (direct.workspace <= limit) return direct;
  }
  const WeightGradientPlan gathered = plan_gathered(p, d, limit), transformed = plan_winograd(p, d, limit);
  const bool wanted = winograd.value_or(transformed.cost < gathered.cost);
  return wanted && transformed.winograd.tiles > 0 ? transformed : gathered;
}

}  // namespace mlx_conv3d
