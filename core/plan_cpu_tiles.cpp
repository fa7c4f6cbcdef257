// Blocked products on a CPU's matrix unit: their block sizes and what they cost.

#include <algorithm>
#include <optional>

#include "core/cpu_model.h"
#include "core/plan_cpu.h"
#include "cpu/simd/tile_kernels.h"
#include "cpu/tile_gemm.h"

namespace mlx_conv3d {

using namespace cpu_model;

namespace {

constexpr int64_t kLongestAxis = int64_t{1} << 22;                ///< its positions are listed
constexpr int64_t kSlabBytes = 768 << 10, kSumBytes = 512 << 10;  ///< of a core's L2 cache
constexpr int64_t kWeightBytes = 32 << 20;                        ///< of what cores share of the last cache
constexpr int64_t kBlockOutputs = 384, kLeastWeightPanels = 2;
/// Where x is read in place.
constexpr int64_t kInPlaceItems = 128 << 10, kMostOutputs = 2048;
/// Measured: one pixel's copies, of a group's few channels at a time.
constexpr double kGroupPixelSeconds = 12e-9;

bool are(const ConvProblem& p, Dtype type) { return p.x_type == type && p.w_type == type; }

/// What the unit multiplies is taken as it is. Two parts hold fp16 and leave out 2^-18 of a product, which
/// rounding the result to 16 bits hides; three are as exact as fp32.
int parts_of(const ConvProblem& p, const Device& d) {
  if (are(p, Dtype::bfloat16) || (are(p, Dtype::float16) && d.matrix_half)) return 1;
  return p.out_type == Dtype::float32 ? 3 : 2;
}

/// Whether every output meets one pixel per frame, whose channels are whole pairs.
bool lies_ready(const ConvProblem& p) {
  if (p.group_in() % 2 != 0) return false;
  for (int axis : {kHeight, kWidth}) {
    if (p.kernel[axis] != 1 || p.padded(axis) || p.upsample[axis] != 1 || p.input_dilation[axis] != 1)
      return false;
  }
  return true;
}

/// Blocks of outputs and of panels. Nothing but the number of frames in a task may depend on how many frames
/// there are: see plan.h.
TilePlan blocks_of(const ConvProblem& p, const Device& d, bool own_weights) {
  TilePlan t;
  t.own_weights = own_weights;
  t.parts = parts_of(p, d);
  t.half = t.parts == 1 && are(p, Dtype::float16);
  t.pairs = !d.matrix_splits;
  t.in_place = t.pairs && lies_ready(p);
  const int64_t panels = divide_up(p.group_out(), cpu::kPanelColumns), width = p.output(kWidth),
                height = p.output(kHeight);
  const int64_t outputs = t.in_place
                              ? std::clamp<int64_t>(kInPlaceItems / p.group_in(), kBlockOutputs, kMostOutputs)
                              : kBlockOutputs;
  t.cols = divide_up(width, divide_up(width, t.in_place ? outputs : 96));
  t.rows = std::clamp<int64_t>(outputs / t.cols, 1, height);
  // Frames that one block of steps meets.
  const int64_t frame_steps = p.kernel[kHeight] * p.kernel[kWidth] * divide_up(p.group_in(), cpu::kTileDepth);
  const int64_t frames = std::min(p.kernel[kDepth], divide_up(cpu::tile_block_steps(t), frame_steps));
  const auto slab_bytes = [&] {
    return frames * 2 * t.parts * round_up(p.group_in(), cpu::kTileDepth) *
           ((t.rows - 1) * p.stride[kHeight] + (p.kernel[kHeight] - 1) * p.dilation[kHeight] + 1) *
           ((t.cols - 1) * p.stride[kWidth] + (p.kernel[kWidth] - 1) * p.dilation[kWidth] + 1);
  };
  while (!t.in_place && slab_bytes() > kSlabBytes && t.rows * t.cols > 64) {
    if (t.rows > t.cols / 8 && t.rows > 1) {
      t.rows = divide_up(t.rows, 2);
    } else {
      t.cols = divide_up(t.cols, 2);
    }
  }
  t.frames = p.kernel[kDepth] > 1 && !own_weights ? std::clamp<int64_t>(p.output(kDepth), 1, 8) : 1;
  t.task_panels = panels;
  t.weight_panels = panels;
  t.groups = p.groups;
  const auto tasks = [&] {
    return t.groups * p.batch * divide_up(p.output(kDepth), t.frames) * divide_up(height, t.rows) *
           divide_up(width, t.cols) * divide_up(panels, t.task_panels);
  };
  if (own_weights) {
    t.panels = 1;
    while (tasks() < 2 * d.cores && t.task_panels > 1) t.task_panels = divide_up(t.task_panels, 2);
    return t;
  }
  while (t.in_place && tasks() < 8 * d.cores && t.task_panels > 4)
    t.task_panels = divide_up(t.task_panels, 2);
  while (tasks() < 8 * d.cores && t.frames > 1) t.frames = divide_up(t.frames, 2);
  while (tasks() < 4 * d.cores && t.rows > 1 && t.rows * t.cols > 256) t.rows = divide_up(t.rows, 2);
  while (tasks() < 2 * d.cores && t.task_panels > 2) t.task_panels = divide_up(t.task_panels, 2);
  while (tasks() < 2 * d.cores && t.rows > 1 && t.rows * t.cols > 64) t.rows = divide_up(t.rows, 2);
  while (tasks() < d.cores && t.task_panels > 1) t.task_panels = divide_up(t.task_panels, 2);
  t.panels = std::clamp<int64_t>(kSumBytes / (t.rows * t.cols * cpu::kPanelColumns * 4), 1, t.task_panels);
  return t;
}

/// Of the unit's peak: a panel is read anew for each block of outputs, and few of them do not hide that where
/// there is one tap.
double tile_share(const ConvProblem& p, const TilePlan& t) {
  const double outputs = static_cast<double>(t.rows * t.cols);
  if (t.pairs) return kPairShare * outputs / (outputs + kPairRows);
  return kTileShare[t.parts] * (p.taps() == 1 ? 1.1 * outputs / (outputs + 40) : 1);
}

double weights_of(const ConvProblem& p) {
  return static_cast<double>(p.taps() * p.group_in()) * static_cast<double>(p.out_channels);
}

struct Tiled {
  TilePlan plan;
  cpu::TileNeeds needs;
  int64_t bytes;
  double seconds, flops;
};

double seconds_of(const ConvProblem& p, const Device& d, const TilePlan& t, const cpu::TileNeeds& needs,
                  double flops) {
  const double scale = core_scale(d), threads = d.cores * scale;
  double weights = weights_of(p) / kTileWeightItems[t.parts];
  if (t.own_weights) {
    const int64_t times = p.batch * p.output(kDepth) * divide_up(p.output(kHeight), t.rows) *
                          divide_up(p.output(kWidth), t.cols);
    weights = static_cast<double>(times) * weights_of(p) / kOwnTileWeightItems[t.parts];
  }
  const double results = static_cast<double>(p.out_positions()) * static_cast<double>(p.out_channels);
  const double slab_items = t.in_place ? kLookedItems : (p.taps() == 1 ? kPixelItems : kSlabItems)[t.parts];
  const double stored = t.pairs && p.out_type == Dtype::bfloat16 ? kPairResults : kTileResults;
  const double group_pixels = p.groups > 1 ? static_cast<double>(p.out_positions() * p.groups) : 0;
  return flops / (d.matrix_gflops * 1e9 * tile_share(p, t)) + needs.packed_items / (slab_items * threads) +
         weights / threads + results / (stored * threads) + group_pixels * kGroupPixelSeconds / threads +
         2 * static_cast<double>(divide_up(p.groups, t.groups)) * kStepSeconds;
}

/// Blocks that fit the limit.
std::optional<Tiled> fit_tiles(const ConvProblem& p, const Device& d, int64_t limit, bool split_phases,
                               bool own_weights) {
  TilePlan t = blocks_of(p, d, own_weights);
  cpu::TileNeeds needs = cpu::tile_needs(p, t, split_phases);
  const auto bytes = [&] {
    return round_up(2 * t.groups * needs.weight_items, 64) +
           d.cores * (round_up(2 * needs.slab_items, 64) + round_up(4 * needs.sum_floats, 64) +
                      round_up(2 * needs.block_items, 64)) +
           4096;
  };
  while (bytes() > limit && t.groups > 1) t.groups = divide_up(t.groups, 2);
  // Packing the pixels once more for each slice of the weights costs less than smaller blocks do, or than
  // reading all weights from memory for each block.
  while ((bytes() > limit || 2 * needs.weight_items > kWeightBytes) && t.weight_panels > kLeastWeightPanels &&
         !own_weights) {
    t.weight_panels = divide_up(t.weight_panels, 2);
    needs = cpu::tile_needs(p, t, split_phases);
  }
  while (bytes() > limit && t.rows * t.cols > 16) {
    int64_t& longer = t.rows > t.cols ? t.rows : t.cols;
    longer = divide_up(longer, 2);
    needs = cpu::tile_needs(p, t, split_phases);
  }
  if (bytes() > limit) return {};
  const double flops = 2.0 * cpu::kTileSide * cpu::kTileItems * needs.products * kTileProducts[t.parts];
  return Tiled{t, needs, bytes(), seconds_of(p, d, t, needs, flops), flops};
}

}  // namespace

void consider_cpu_tiles(const ConvProblem& p, const Device& d, int64_t limit, const Candidate* like,
                        Candidate& c) {
  if (d.matrix_gflops == 0 || p.empty() || p.taps() * p.group_in() == 0) return;
  // Pairs are but twice as fast as the lanes that few channels per group leave empty.
  if (!d.matrix_splits && (parts_of(p, d) > 1 || (p.groups > 1 && p.group_in() < cpu::kTileDepth))) return;
  for (int axis = 0; axis < 3; ++axis) {
    if (p.output(axis) > kLongestAxis) return;
  }
  if (like != nullptr && like->gemm.tile.parts == 0) return;
  const bool split_phases = c.algorithm == Algorithm::transposed;
  std::optional<Tiled> tiled = fit_tiles(p, d, limit, split_phases, false);
  const std::optional<Tiled> own = fit_tiles(p, d, limit, split_phases, true);
  if (own && (!tiled || own->seconds < tiled->seconds)) tiled = own;
  if (!tiled || (like == nullptr && tiled->seconds >= c.cost)) return;
  const TilePlan& t = tiled->plan;
  c.gemm.tile = t;
  c.cost = tiled->seconds;
  c.flops = tiled->flops;
  const double weights = t.own_weights ? 0 : weights_of(p),
               inputs = t.in_place ? 0 : tiled->needs.packed_items;
  c.bytes = p.operand_bytes() + 4.0 * t.parts * (inputs + weights);
  c.workspace = std::max(c.workspace, tiled->bytes);
  c.reason += t.pairs        ? std::string(", in pairs of bf16")
              : t.parts == 1 ? std::string(t.half ? ", on fp16 tiles" : ", on bf16 tiles")
              : t.parts == 2 ? ", on bf16 tiles: three products for each of 16-bit data"
                             : ", on bf16 tiles: six products for each of fp32 data";
  if (t.in_place) c.reason += ", with x read in place";
  if (t.own_weights) c.reason += "; weights are packed where they are multiplied";
}

}  // namespace mlx_conv3d
