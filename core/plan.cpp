// Which algorithm, and how it is cut into pieces. Pure functions of the problem, the device and the limit.

#include "core/plan.h"

#include <atomic>
#include <cstdio>
#include <stdexcept>

#include "core/plan_cpu.h"
#include "core/plan_gpu.h"

namespace mlx_conv3d {
namespace {

constexpr Size3 kOnes{1, 1, 1};

std::atomic<int64_t> limit_in_force{kDefaultWorkspaceLimit};

bool padded_anywhere(const ConvProblem& p) { return p.padded(0) || p.padded(1) || p.padded(2); }

Candidate consider(const ConvProblem& p, const Device& d, int64_t limit, Algorithm algorithm,
                   const Candidate* like = nullptr) {
  Candidate c;
  c.algorithm = algorithm;
  c.reason = illegal_reason(p, algorithm, d.kind);
  c.legal = c.reason.empty();
  if (!c.legal) return c;
  if (d.kind == Device::Kind::gpu) {
    consider_gpu(p, d, limit, c);
  } else {
    consider_cpu(p, d, limit, like, c);
  }
  return c;
}

/// The candidate of a problem per_frame: chosen for few frames, cut for the frames there are.
Candidate consider_per_frame(const ConvProblem& p, const Device& d, int64_t limit, Algorithm algorithm) {
  ConvProblem few = p;
  few.lead = 0;
  few.odd_frame = false;
  few.pad_lo[kDepth] = (p.kernel[kDepth] - 1) * p.dilation[kDepth];
  few.pad_hi[kDepth] = 0;
  few.input[kDepth] = (kPlannedFrames - 1) * p.stride[kDepth] + 1;
  const Candidate of_few = consider(few, d, limit, algorithm);
  if (!of_few.legal) return of_few;
  Candidate c = consider(p, d, limit, algorithm, &of_few);
  c.cost = of_few.cost;
  return c;
}

/// Why Winograd cannot take a kernel with taps along one axis.
std::string illegal_line_reason(const ConvProblem& p) {
  const int axis = winograd_line_axis(p.kernel);
  if (p.stride[axis] != 1) return "taps along one axis need stride 1 along it";
  if (p.input_dilated()) return "taps along one axis need input dilation 1";
  if (axis != kDepth) return "";
  if (p.lead > 0) return "taps along depth alone need x without lead frames";
  if (p.per_frame) return "taps along depth alone need all frames at once";
  return "";
}

std::string because(const Plan& plan, bool forced) {
  if (forced) return "forced: " + plan.chosen.reason;
  const Candidate* second = nullptr;
  for (const Candidate& c : plan.candidates) {
    if (!c.legal || c.algorithm == plan.chosen.algorithm || c.algorithm == Algorithm::stock) continue;
    if (second == nullptr || c.cost < second->cost) second = &c;
  }
  if (second == nullptr) return plan.chosen.reason;
  return plan.chosen.reason + compared(plan.chosen, name_of(second->algorithm), second->cost);
}

}  // namespace

std::string compared(const Candidate& c, const char* other, double other_cost) {
  char ratio[64];
  std::snprintf(ratio, sizeof(ratio), "; modelled %.2fx the speed of ", other_cost / c.cost);
  return ratio + std::string(other);
}

const char* name_of(Pixels pixels) {
  switch (pixels) {
    case Pixels::single:
      return "single";
    case Pixels::doubled:
      return "doubled";
    case Pixels::dilated:
      return "dilated";
    case Pixels::strided:
      return "strided";
  }
  return "?";
}

std::vector<int> winograd_tile_sizes(Pixels pixels, int taps) {
  switch (pixels) {
    case Pixels::single:
      if (taps == 7) return {2};
      if (taps == 5) return {2, 4};
      return {2, 4, 6};
    case Pixels::strided:
      return {2, 4};
    case Pixels::doubled:
    case Pixels::dilated:
      return {4, 6, 8};
  }
  return {};
}

const char* name_of(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::winograd:
      return "winograd";
    case Algorithm::taps:
      return "taps";
    case Algorithm::temporal:
      return "temporal";
    case Algorithm::pointwise:
      return "pointwise";
    case Algorithm::patchify:
      return "patchify";
    case Algorithm::grouped:
      return "grouped";
    case Algorithm::transposed:
      return "transposed";
    case Algorithm::implicit_gemm:
      return "implicit_gemm";
    case Algorithm::stock:
      return "stock";
  }
  return "?";
}

std::optional<Algorithm> algorithm_named(const std::string& name) {
  for (Algorithm a : kAlgorithms) {
    if (name == name_of(a)) return a;
  }
  return std::nullopt;
}

std::string illegal_reason(const ConvProblem& p, Algorithm algorithm, Device::Kind kind) {
  const bool one_group = p.groups == 1;
  const auto spatial = [&](const Size3& v, int64_t value) { return v[1] == value && v[2] == value; };
  switch (algorithm) {
    case Algorithm::winograd:
      if (!one_group) return "it needs groups 1";
      if (kind == Device::Kind::cpu && winograd_line_axis(p.kernel) >= 0) return illegal_line_reason(p);
      if (kind == Device::Kind::gpu) {
        if (p.kernel == Size3{1, 1, 3} && is_single_row(p)) {
          return illegal_reason(with_axes(p, kRowAlongDepth), algorithm, kind);
        }
        if (!spatial(p.stride, 1)) return "it needs spatial stride 1";
        if (!spatial(p.dilation, 1)) return "it needs spatial dilation 1";
      }
      if (!spatial(p.stride, 1)) {
        if (!spatial(p.stride, 2)) return "it needs spatial stride 1 or 2";
        if (!spatial(p.dilation, 1)) return "spatial stride 2 needs spatial dilation 1";
        if (!spatial(p.input_dilation, 1)) return "spatial stride 2 needs spatial input dilation 1";
      }
      if (!spatial(p.dilation, 1) && !spatial(p.input_dilation, 1)) {
        return "spatial dilation needs spatial input dilation 1";
      }
      if (p.input_dilated() && !spatial(p.input_dilation, 1) && !spatial(p.input_dilation, 2)) {
        return "it needs spatial input dilation 1 or 2";
      }
      if (spatial(p.kernel, 4) && spatial(p.input_dilation, 2)) return "";
      if (kind == Device::Kind::gpu && p.kernel == Size3{3, 1, 1}) {
        if (p.stride[0] == 1 && p.dilation[0] == 1 && !p.input_dilated()) return "";
        return "three taps along one axis need stride, dilation and input dilation 1";
      }
      if (spatial(p.kernel, 5) && kind == Device::Kind::cpu) {
        return spatial(p.stride, 1) && spatial(p.input_dilation, 1)
                   ? ""
                   : "a 5x5 spatial kernel needs spatial stride and input dilation 1";
      }
      if (!spatial(p.kernel, 3)) {
        return kind == Device::Kind::cpu
                   ? "it needs a 3x3 or 5x5 spatial kernel, or 3, 5 or 7 taps along one axis"
                   : "it needs a 3x3 spatial kernel, or three taps along depth or of a single row";
      }
      return "";
    case Algorithm::taps:
      if (!one_group) return "it needs groups 1";
      if (p.kernel[0] > 7) return "it needs at most 7 depth taps";
      if (p.per_frame && p.out_type != Dtype::float32) return "its buffer grows with the number of frames";
      if (p.input_dilated()) return "it needs input dilation 1";
      return "";
    case Algorithm::temporal:
      if (!one_group) return "it needs groups 1";
      if (!spatial(p.kernel, 1)) return "it needs a 1x1 spatial kernel";
      if (!spatial(p.stride, 1)) return "it needs spatial stride 1";
      if (p.padded(1) || p.padded(2)) return "it needs no spatial padding";
      if (p.input_dilated()) return "it needs input dilation 1";
      return "";
    case Algorithm::pointwise:
      if (!one_group) return "it needs groups 1";
      if (p.kernel != kOnes) return "it needs a 1x1x1 kernel";
      if (padded_anywhere(p)) return "it needs no padding";
      if (p.input_dilated()) return "it needs input dilation 1";
      return "";
    case Algorithm::patchify:
      if (!one_group) return "it needs groups 1";
      if (p.kernel != p.stride) return "it needs a stride equal to the kernel";
      if (padded_anywhere(p)) return "it needs no padding";
      if (p.dilation != kOnes) return "it needs dilation 1";
      if (p.input_dilated()) return "it needs input dilation 1";
      return "";
    case Algorithm::grouped:
      if (one_group) return "it needs groups > 1";
      if (p.input_dilated() && !is_direct(p)) return "it needs input dilation 1 or few channels per group";
      return "";
    case Algorithm::transposed:
      if (!p.input_dilated()) return "it needs an input dilation > 1 (a transposed convolution)";
      return "";
    case Algorithm::implicit_gemm:
    case Algorithm::stock:
      return "";
  }
  return "";
}

bool is_direct(const ConvProblem& p) { return p.groups > 1 && p.group_in() <= 32 && p.group_out() <= 32; }

ConvProblem fold_patches(const ConvProblem& p) {
  if (p.kernel != p.input || p.taps() == 1 || p.lead > 0 || p.flip || p.upsampled() || p.per_frame) return p;
  ConvProblem folded = p;
  folded.batch = 1;
  folded.in_channels = p.taps() * p.in_channels;
  folded.input = {1, 1, p.batch};
  folded.kernel = folded.stride = kOnes;
  return folded;
}

bool is_one_tap_per_output(const ConvProblem& p) {
  if (p.groups != 1 || p.stride != kOnes || p.dilation != kOnes || p.upsampled()) return false;
  for (int axis : {kDepth, kHeight, kWidth}) {
    const int64_t dilation = p.input_dilation[axis], last = (p.stored(axis) - 1) * dilation + p.pad_lo[axis];
    const bool covered = p.pad_lo[axis] >= 0 && p.pad_lo[axis] < dilation && last >= p.output(axis) - 1;
    if (p.kernel[axis] != dilation || p.pad_mode[axis] != PadMode::zeros || !covered) return false;
  }
  return true;
}

std::optional<OutputBlocks> output_blocks(const ConvProblem& p) {
  const int64_t step = p.input_dilation[kWidth], length = p.input[kWidth], kernel = p.kernel[kWidth];
  const Size3 along{1, 1, step}, taps{1, 1, kernel};
  const bool row = p.input[kDepth] * p.input[kHeight] == 1 && p.lead == 0 && p.pad_lo[kDepth] == 0 &&
                   p.pad_hi[kDepth] == 0 && p.pad_lo[kHeight] == 0 && p.pad_hi[kHeight] == 0;
  const bool plain = p.groups == 1 && !p.per_frame && p.stride == kOnes && p.dilation == kOnes &&
                     !p.upsampled() && p.pad_mode[kWidth] == PadMode::zeros;
  if (!row || !plain || step == 1 || p.input_dilation != along || p.kernel != taps || kernel % step != 0)
    return {};
  OutputBlocks blocks{p, step, kernel - 1 - p.pad_lo[kWidth]};
  const int64_t most = kernel / step - 1;
  if (blocks.crop < 0 || p.output(kWidth) + blocks.crop > step * (length + most)) return {};
  ConvProblem& one = blocks.problem;
  one.input = {length, 1, 1};
  one.kernel = {most + 1, 1, 1};
  one.pad_lo = one.pad_hi = {most, 0, 0};
  one.pad_mode = {PadMode::zeros, PadMode::zeros, PadMode::zeros};
  one.input_dilation = kOnes;
  one.flip = false;
  return blocks;
}

Plan make_plan(const ConvProblem& problem, const Device& device, int64_t limit,
               std::optional<Algorithm> forced) {
  Plan plan;
  plan.direct_flops = problem.direct_flops();
  const Candidate* best = nullptr;
  const bool per_frame = problem.per_frame && device.kind == Device::Kind::cpu;
  for (Algorithm a : kAlgorithms) {
    plan.candidates.push_back(per_frame ? consider_per_frame(problem, device, limit, a)
                                        : consider(problem, device, limit, a));
  }
  for (const Candidate& c : plan.candidates) {
    // On a CPU stock MLX is only for what nothing else can do.
    const bool last_resort = c.algorithm == Algorithm::stock && device.kind == Device::Kind::cpu;
    if (forced ? c.algorithm == *forced
               : c.legal && (best == nullptr || (c.cost < best->cost && !last_resort))) {
      best = &c;
    }
  }
  if (!best->legal) {
    throw std::invalid_argument(std::string("[conv] algorithm ") + name_of(best->algorithm) +
                                " cannot run this problem: " + best->reason + " (" + problem.describe() +
                                ").");
  }
  plan.chosen = *best;
  plan.reason = because(plan, forced.has_value());
  return plan;
}

int64_t workspace_limit() { return limit_in_force.load(); }

int64_t set_workspace_limit(int64_t bytes) {
  if (bytes < kLeastWorkspaceLimit) {
    throw std::invalid_argument("[set_workspace_limit] bytes must be at least " +
                                std::to_string(kLeastWorkspaceLimit) + " (16 MiB), got " +
                                std::to_string(bytes) + ".");
  }
  return limit_in_force.exchange(bytes);
}

}  // namespace mlx_conv3d
