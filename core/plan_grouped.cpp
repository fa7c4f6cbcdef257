// Which of the grouped kernels, and how its problem is cut into tasks.

#include "core/plan_grouped.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/integers.h"
#include "core/plan.h"

namespace mlx_conv3d {
namespace {

constexpr double kTaskFlops = 1e6;  ///< about what starting a thread takes
constexpr double kTaskBytes = 1e5;  ///< the same, where memory is what takes the time
constexpr int64_t kLeastBand = 4, kLeastCols = 128;
constexpr int64_t kLeastSlice = 16;  ///< vectors of channels that are worth cutting before rows are

int rank_of(const ConvProblem& p) { return p.kernel[kDepth] > 1 ? 3 : p.kernel[kHeight] > 1 ? 2 : 1; }

/// Whether a kernel reads rows where they lie.
bool in_place(const GroupedKernel& k) { return k.family == GroupedFamily::depthwise && k.taps[2] > 1; }

bool fits(const GroupedKernel& k, const ConvProblem& p, int vector_width) {
  for (int axis = 0; axis < 3; ++axis) {
    if (k.taps[axis] != 0 && k.taps[axis] != p.kernel[axis]) return false;
  }
  if (k.rank != rank_of(p)) return false;
  if (k.family == GroupedFamily::broadcast) {
    return p.group_out() % kBroadcastOutputs == 0 && p.group_in() <= kMostBroadcastInputs;
  }
  if (p.group_in() != k.group_in || p.group_out() != k.group_out) return false;
  // Some of a dilated input's phases meet no tap, and the pointwise kernels take one as given.
  if (k.family == GroupedFamily::pointwise) return !p.input_dilated();
  if (k.family != GroupedFamily::depthwise) return true;
  if (in_place(k)) {
    const int64_t stride = p.stride[kHeight], dilated = p.input_dilation[kHeight];
    return stride == p.stride[kWidth] && dilated == p.input_dilation[kWidth] && stride * dilated <= 2 &&
           p.input_dilation[kDepth] == 1 && p.dilation[kHeight] == 1 && p.dilation[kWidth] == 1 &&
           p.out_channels >= vector_width;
  }
  return !p.input_dilated() && grouped_set_positions(p.out_channels, vector_width) == 1;
}

/// Of a row's phases (cpu/row_phase.h): how far apart two positions' inputs are, and two taps'.
struct RowSteps {
  int64_t phases, stride, dilation, taps;
  explicit RowSteps(const ConvProblem& p) {
    const int64_t dilated = p.input_dilation[kWidth];
    phases = dilated / std::gcd(p.stride[kWidth], dilated);
    const int64_t tap_step = dilated / std::gcd(p.dilation[kWidth], dilated);
    stride = phases * p.stride[kWidth] / dilated;
    dilation = tap_step * p.dilation[kWidth] / dilated;
    taps = divide_up(p.kernel[kWidth], tap_step);
  }
};

int64_t tasks_of(const ConvProblem& p, const GroupedPlan& plan) {
  const RowSteps row(p);
  const int64_t positions = divide_up(p.output(kWidth), row.phases);
  return p.batch * divide_up(p.output(kDepth), plan.frames) * divide_up(p.output(kHeight), plan.band) *
         divide_up(positions, plan.cols) * row.phases;
}

/// One task into two; false if none should be.
bool cut(const ConvProblem& p, GroupedPlan& plan) {
  const bool deep = p.kernel[kDepth] > 1, high = p.kernel[kHeight] > 1;
  // Rows and frames that no tap joins are cut at no cost; elsewhere both parts stage what they share.
  if (plan.frames > 1 && !deep) {
    plan.frames = divide_up(plan.frames, 2);
  } else if (plan.band > 1 && !high) {
    plan.band = divide_up(plan.band, 2);
  } else if (plan.band > kLeastBand && plan.band >= plan.frames) {
    plan.band = divide_up(plan.band, 2);
  } else if (plan.frames > kLeastBand) {
    plan.frames = divide_up(plan.frames, 2);
  } else if (plan.cols > kLeastCols) {
    plan.cols = divide_up(plan.cols, 2);
  } else {
    return false;
  }
  return true;
}

/// Floats that a thread may stage.
int64_t most_staged(const Device& d) { return d.cache_bytes / 2 / 4; }

/// `work` is how many tasks' worth there is.
int64_t wanted_tasks(double work, const Device& d) {
  return std::clamp<int64_t>(static_cast<int64_t>(std::ceil(work)), 1, 2 * d.cores);
}

/// Fewer columns, until a thread's rows fit.
void fit_columns(const ConvProblem& p, const Device& d, GroupedPlan& plan) {
  while (grouped_staged_floats(p, d.vector_width, plan) > most_staged(d) && plan.cols > 16) {
    plan.cols = divide_up(plan.cols, 2);
  }
}

/// No tap and no padding tells a frame's pixels apart.
bool pixelwise(const ConvProblem& p, int axis) {
  return p.kernel[axis] == 1 && p.stride[axis] == 1 && !p.padded(axis) && p.input_dilation[axis] == 1 &&
         p.upsample[axis] == 1;
}

/// Whether taps join the frames that are read as one row.
bool taps_join_frames(const ConvProblem& p) { return p.kernel[kDepth] > 1 && joins_frames(p); }

/// Bytes that the rows of a task's band take, of all frames that its kernel meets at a time.
int64_t window_bytes(const ConvProblem& p, int64_t band) {
  return p.kernel[kDepth] * grouped_band_rows(p, band) * p.stored(kWidth) * p.in_channels *
         item_size(p.x_type);
}

/// A band that frames share is not cut: both parts would read the rows between them, of every frame.
bool cut_in_place(const ConvProblem& p, GroupedPlan& plan) {
  const bool deep = p.kernel[kDepth] > 1;
  if (plan.frames > 1 && (!deep || plan.frames > kLeastBand)) {
    plan.frames = divide_up(plan.frames, 2);
  } else if (plan.band > kLeastBand) {
    plan.band = divide_up(plan.band, 2);
  } else if (plan.vectors >= 4) {
    plan.vectors = divide_up(plan.vectors, 2);
  } else {
    return false;
  }
  return true;
}

int64_t in_place_tasks(const ConvProblem& p, const Device& d, const GroupedPlan& plan) {
  return p.batch * divide_up(p.output(kDepth), plan.frames) * divide_up(p.output(kHeight), plan.band) *
         divide_up(divide_up(p.out_channels, d.vector_width), plan.vectors);
}

/// Bands whose frames stay in the second-level cache.
GroupedPlan whole_in_place_plan(const ConvProblem& p, const Device& d, int kernel) {
  const int64_t vectors = divide_up(p.out_channels, d.vector_width);
  GroupedPlan plan{kernel,
                   std::max<int64_t>(1, p.output(kDepth)),
                   std::max<int64_t>(1, p.output(kHeight)),
                   std::max<int64_t>(1, p.output(kWidth)),
                   false,
                   vectors};
  while (p.kernel[kDepth] > 1 && window_bytes(p, plan.band) > d.cache_bytes / 2 && plan.band > kLeastBand) {
    plan.band = divide_up(plan.band, 2);
  }
  return plan;
}

GroupedPlan make_in_place_plan(const ConvProblem& p, const Device& d, int kernel) {
  GroupedPlan plan = whole_in_place_plan(p, d, kernel);
  const int64_t wanted = wanted_tasks(p.operand_bytes() / kTaskBytes, d);
  while (in_place_tasks(p, d, plan) < wanted && cut_in_place(p, plan)) {
  }
  // Less than that may come from the core's caches, and asking costs a twentieth.
  plan.far = p.operand_bytes() > static_cast<double>(4 * d.cores * d.cache_bytes);
  return plan;
}

}  // namespace

const char* name_of(GroupedFamily family) {
  switch (family) {
    case GroupedFamily::pointwise:
      return "pointwise";
    case GroupedFamily::rows:
      return "rows";
    case GroupedFamily::broadcast:
      return "broadcast";
    case GroupedFamily::depthwise:
      return "depthwise";
  }
  return "?";
}

std::string name_of(const GroupedKernel& k) {
  const std::string of_rank = std::to_string(k.rank) + "d";
  const auto taps = [](int n) { return n == 0 ? std::string("k") : std::to_string(n); };
  std::string name = name_of(k.family);
  if (k.family == GroupedFamily::depthwise) {
    return name + "_" + (k.rank == 3 ? taps(k.taps[0]) + "x" : "") + taps(k.taps[1]) + "x" + taps(k.taps[2]);
  }
  if (k.family != GroupedFamily::pointwise) name += "_" + of_rank;
  if (k.family == GroupedFamily::broadcast) return name;
  return name + "_" + std::to_string(k.group_in) + "x" + std::to_string(k.group_out);
}

std::string constraints_of(const GroupedKernel& k) {
  switch (k.family) {
    case GroupedFamily::pointwise:
      return "input dilation 1";
    case GroupedFamily::rows:
      return "";
    case GroupedFamily::broadcast:
      return "O/groups a multiple of " + std::to_string(kBroadcastOutputs) + ", C/groups at most " +
             std::to_string(kMostBroadcastInputs);
    case GroupedFamily::depthwise:
      return in_place(k)
                 ? "spatial stride or input dilation 1 or 2, spatial dilation 1, at least a vector of "
                   "channels"
                 : "input dilation 1, at least a vector of channels";
  }
  return "";
}

int grouped_kernel(const ConvProblem& p, int vector_width) {
  if (p.groups <= 1 || p.group_in() < 1) return -1;
  for (int i = 0; i < GroupedKernels::kCount; ++i) {
    if (fits(kGroupedKernels.at[i], p, vector_width)) return i;
  }
  return -1;
}

int64_t grouped_set_positions(int64_t out_channels, int vector_width) {
  const int64_t lanes = round_up(out_channels, vector_width);
  if (out_channels >= vector_width && 5 * out_channels >= 4 * lanes) return 1;
  return std::lcm(out_channels, int64_t{vector_width}) / out_channels;
}

bool grouped_blocks(const ConvProblem& p, int vector_width) {
  return p.kernel[kHeight] * p.kernel[kWidth] > 1 && grouped_set_positions(p.out_channels, vector_width) == 1;
}

int64_t grouped_woven(const ConvProblem& p, const GroupedKernel& k, int vector_width) {
  const bool several = p.group_out() < vector_width && vector_width % p.group_out() == 0;
  const bool woven = k.family == GroupedFamily::rows && several && p.group_in() > 1;
  return woven && grouped_blocks(p, vector_width) ? vector_width / p.group_out() : 0;
}

int woven_groups(const ConvProblem& p, int vector_width) {
  constexpr int64_t kMostWoven = 4;  // with more, products are few
  const bool fill = vector_width % p.group_out() == 0 && p.group_in() == p.group_out();
  const int64_t groups = vector_width / p.group_out();
  return fill && groups > 1 && groups <= kMostWoven && p.groups % groups == 0 ? static_cast<int>(groups) : 1;
}

int64_t grouped_window(const ConvProblem& p, int vector_width) {
  // A vector that begins within a group meets one more.
  const int64_t whole = vector_width % p.group_out() == 0 || p.group_out() % vector_width == 0;
  const int64_t groups = divide_up(vector_width, p.group_out()) + (whole ? 0 : 1);
  return round_up(std::min(groups * p.group_in(), p.in_channels), vector_width);
}

int64_t grouped_block_pitch(const ConvProblem& p, int vector_width, int64_t columns) {
  // Off the strides at which blocks would meet in one cache set.
  const int64_t floats = columns * grouped_window(p, vector_width);
  return floats % 256 == 0 ? floats + vector_width : floats;
}

int64_t grouped_slack(const ConvProblem& p, int vector_width) {
  const int64_t set = grouped_set_positions(p.out_channels, vector_width);
  return round_up(set * std::max(p.in_channels, p.out_channels) + 2 * vector_width + p.group_in(),
                  vector_width);
}

int64_t grouped_row_floats(const ConvProblem& p, int vector_width, int64_t cols) {
  const RowSteps row(p);
  const int64_t strips = std::min(row.stride, row.taps);
  const int64_t beyond = std::max<int64_t>(0, row.taps - 1) * row.dilation / row.stride;
  const int64_t columns = strips * (cols + beyond), slack = grouped_slack(p, vector_width);
  if (!grouped_blocks(p, vector_width)) return round_up(columns * p.in_channels + slack, 16);
  const int64_t blocks = grouped_set_vectors(p.out_channels, vector_width);
  return round_up(blocks * grouped_block_pitch(p, vector_width, columns) + slack, 16);
}

int64_t grouped_band_rows(const ConvProblem& p, int64_t band) {
  return std::max<int64_t>(
      1, std::min({band * p.kernel[kHeight], input_span(p, kHeight, band), p.stored(kHeight)}));
}

int64_t grouped_staged_floats(const ConvProblem& p, int vector_width, const GroupedPlan& plan) {
  return p.kernel[kDepth] * grouped_band_rows(p, plan.band) * grouped_row_floats(p, vector_width, plan.cols);
}

GroupedPlan make_grouped_plan(const ConvProblem& p, const Device& d) {
  GroupedPlan plan;
  plan.kernel = grouped_kernel(p, d.vector_width);
  if (plan.kernel < 0) return plan;
  plan.frames = std::max<int64_t>(1, p.output(kDepth));
  plan.band = std::max<int64_t>(1, p.output(kHeight));
  plan.cols = std::max<int64_t>(1, divide_up(p.output(kWidth), RowSteps(p).phases));
  while (grouped_staged_floats(p, d.vector_width, plan) > most_staged(d) && plan.band > 2) {
    plan.band = divide_up(plan.band, 2);
  }
  fit_columns(p, d, plan);
  const int64_t wanted = wanted_tasks(p.direct_flops() / kTaskFlops, d);
  while (tasks_of(p, plan) < wanted && cut(p, plan)) {
  }
  return plan;
}

ConvProblem paired_channels(const ConvProblem& p) {
  ConvProblem paired = p;
  paired.in_channels /= 2;
  paired.x_type = Dtype::float32;
  return paired;
}

GroupedPlan make_grouped_pairs_plan(const ConvProblem& p, const Device& d) {
  const bool bf16 = p.x_type == Dtype::bfloat16 && p.w_type == Dtype::bfloat16;
  if (d.matrix_gflops == 0 || d.matrix_splits || !bf16 || p.group_in() % 2 != 0) return {};
  if (taps_join_frames(p) || grouped_kernel(p, d.vector_width) < 0) return {};
  GroupedPlan plan = make_grouped_plan(paired_channels(p), d);
  if (plan.kernel < 0 || !takes_pairs(kGroupedKernels.at[plan.kernel])) return {};
  plan.pairs = true;
  return plan;
}

GroupedPlan make_depthwise_gradient_plan(const ConvProblem& p, const Device& d) {
  const int kernel = grouped_kernel(p, d.vector_width);
  const bool reads = kernel >= 0 && in_place(kGroupedKernels.at[kernel]);
  if (!reads || p.input_dilated() || p.flip || p.empty()) return {};
  GroupedPlan plan = whole_in_place_plan(p, d, kernel);
  const int64_t wanted = wanted_tasks(p.operand_bytes() / kTaskBytes, d);
  // Channels first, whose parts share no sums.
  while (in_place_tasks(p, d, plan) < wanted) {
    if (plan.vectors >= kLeastSlice) {
      plan.vectors = divide_up(plan.vectors, 2);
    } else if (!cut_in_place(p, plan)) {
      break;
    }
  }
  return plan;
}

int64_t depthwise_gradient_shares(const ConvProblem& p, const GroupedPlan& plan, int cores) {
  const int64_t bands =
      p.batch * divide_up(p.output(kDepth), plan.frames) * divide_up(p.output(kHeight), plan.band);
  return std::min<int64_t>(bands, 4 * cores);
}

int64_t depthwise_gradient_floats(const ConvProblem& p) {
  return kDepthwiseGradientRows * p.output(kWidth) * p.out_channels;
}

int64_t depthwise_gradient_workspace(const ConvProblem& p, const Device& d, const GroupedPlan& plan) {
  // One more where a vector begins early to align the others.
  const int64_t vectors = divide_up(p.out_channels, d.vector_width) + 1;
  const int64_t sums = depthwise_gradient_shares(p, plan, d.cores) * vectors * p.taps() * d.vector_width;
  return 4 * (sums + d.cores * depthwise_gradient_floats(p)) + 64 * (1 + d.cores) + 4096;
}

GroupedPlan make_grouped_forward_plan(const ConvProblem& p, const Device& d) {
  const int kernel = grouped_kernel(p, d.vector_width);
  if (kernel >= 0 && in_place(kGroupedKernels.at[kernel])) return make_in_place_plan(p, d, kernel);
  if (kernel < 0 || !taps_join_frames(p)) return make_grouped_plan(p, d);
  GroupedPlan plan{kernel, 1, 1, 1, true};
  const int64_t positions = std::max<int64_t>(1, p.out_positions());
  const int64_t wanted = wanted_tasks(p.direct_flops() / kTaskFlops, d);
  plan.cols = std::max(std::min(positions, kLeastCols), divide_up(positions, wanted));
  fit_columns(p, d, plan);
  return plan;
}

int64_t grouped_workspace(const ConvProblem& p, const Device& d, const GroupedPlan& plan) {
  if (plan.vectors > 0) {
    const int64_t lanes = round_up(p.out_channels, d.vector_width) + d.vector_width;
    return 4 * lanes * p.taps() + 4096;
  }
  const int64_t lanes = grouped_set_vectors(p.out_channels, d.vector_width) * d.vector_width;
  const int64_t table = round_up(p.out_channels, d.vector_width);
  const int64_t sums = plan.cols * p.out_channels + grouped_slack(p, d.vector_width);
  const int64_t staged = grouped_staged_floats(p, d.vector_width, plan);
  const int64_t tables = plan.pairs ? 2 : 1;
  const int64_t weights = (lanes + tables * table) * p.taps() * p.group_in() + lanes;
  return 4 * (weights + d.cores * (staged + sums)) + 64 * (4 + 2 * d.cores) + 4096;
}

int64_t grouped_gradient_workspace(const ConvProblem& p, const Device& d, const GroupedPlan& plan) {
  const int64_t sums =
      grouped_set_vectors(p.out_channels, d.vector_width) * d.vector_width * p.taps() * p.group_in();
  const int64_t dy = plan.cols * p.out_channels + grouped_slack(p, d.vector_width);
  const int64_t staged = grouped_staged_floats(p, d.vector_width, plan);
  return d.cores * (4 * (sums + dy + staged) + 3 * 64) + 4096;
}

bool joins_frames(const ConvProblem& p) {
  return p.stride[kDepth] == 1 && p.input_dilation[kDepth] == 1 && p.upsample[kDepth] == 1 &&
         pixelwise(p, kHeight) && pixelwise(p, kWidth);
}

ConvProblem fold_batch(const ConvProblem& p) {
  ConvProblem folded = p;
  if (p.lead > 0 || !pixelwise(p, kDepth)) return folded;
  folded.input[kDepth] *= folded.batch;
  folded.batch = 1;
  return folded;
}

ConvProblem fold_rows(const ConvProblem& p) {
  ConvProblem folded = p;
  if (!pixelwise(p, kHeight) || !pixelwise(p, kWidth)) return folded;
  folded.input[kWidth] *= folded.input[kHeight];
  folded.input[kHeight] = 1;
  if (p.lead > 0 || !pixelwise(p, kDepth)) return folded;
  folded.input[kWidth] *= folded.input[kDepth] * folded.batch;
  folded.input[kDepth] = folded.batch = 1;
  return folded;
}

}  // namespace mlx_conv3d
