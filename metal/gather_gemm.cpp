// Pointwise, temporal, patchify, taps, transposed, implicit_gemm and large groups on Metal: passes of one
// blocked product whose inputs are gathered.

#include "metal/gather_gemm.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "metal/builder.h"

namespace mlx_conv3d::metal {
namespace {

constexpr int64_t kGemmThreads = 128;

/// Output positions of an axis that share their taps: every period-th.
int64_t period(const ConvProblem& p, int axis) {
  return p.input_dilation[axis] / std::gcd(p.stride[axis], p.input_dilation[axis]);
}

/// `dilation`: of the input, which the passes resolve; 1 where the kernel does.
AxisPass axis_pass(const ConvProblem& p, int axis, int64_t first, int64_t dilation) {
  AxisPass a;
  a.first = first;
  a.step = dilation / std::gcd(p.stride[axis], dilation);
  a.count = divide_up(p.output(axis) - first, a.step);
  a.tap_step = dilation / std::gcd(p.dilation[axis], dilation);
  a.stride = p.stride[axis] * a.step / dilation;
  a.dilation = p.dilation[axis] * a.tap_step / dilation;
  for (int64_t tap = 0; tap < std::min(a.tap_step, p.kernel[axis]); ++tap) {
    const int64_t start = first * p.stride[axis] + tap * p.dilation[axis] - p.pad_lo[axis];
    if (start % dilation != 0) continue;
    a.first_tap = tap;
    a.taps = divide_up(p.kernel[axis] - tap, a.tap_step);
    a.pad = -start / dilation;
    break;
  }
  return a;
}

std::vector<AxisPass> axis_phases(const ConvProblem& p, int axis, bool split) {
  std::vector<AxisPass> phases;
  const int64_t phases_of = split ? std::min(period(p, axis), p.output(axis)) : 1;
  for (int64_t first = 0; first < phases_of; ++first) {
    phases.push_back(axis_pass(p, axis, first, split ? p.input_dilation[axis] : 1));
  }
  return phases;
}

/// Only tap `tap` of a pass's axis.
AxisPass single_tap(AxisPass a, int64_t tap) {
  a.first_tap += tap * a.tap_step;
  a.pad -= tap * a.dilation;
  a.taps = 1;
  return a;
}

class Lowering {
 public:
  Lowering(const ConvProblem& p, const Candidate& candidate, const Layout& layout, Builder& builder)
      : p_(p),
        layout_(layout),
        b_(builder),
        dilated_(p.input_dilated() && candidate.algorithm != Algorithm::transposed),
        block_(block_of(p, candidate.gemm)),
        sums_(b_.y) {
    const int64_t scratch = gather_scratch(p, candidate.algorithm);
    if (scratch > 0) sums_ = b_.scratch("sums", scratch);
  }

  void add(const GatherPass& pass) {
    Step step;
    step.kernel = "gather_gemm_" + std::to_string(block_.rows) + "x" + std::to_string(block_.cols) +
                  (block_.blocked ? "_blocked" : "");
    step.source = "gather_gemm.metal";
    step.grid = {divide_up(p_.group_out(), block_.cols), divide_up(pass.rows, block_.rows), p_.groups};
    step.threadgroup = {kGemmThreads, 1, 1};
    b_.bind_input(step, {unpadded(pass, kDepth), unpadded(pass, kHeight), unpadded(pass, kWidth)});
    step.bindings.push_back({2, b_.readable(b_.w)});
    if (pass.ends) {
      b_.bind_epilogue(step, 3);
    } else {
      b_.bind_sums(step, 3, sums_);
    }
    if (pass.adds) step.bindings.push_back({6, sums_});
    step.arguments = {argument(7, arguments(pass))};
    add_constants(step, pass);
    step.nbytes = bytes(pass);
    step.flops = 2.0 * static_cast<double>(round_up(pass.rows, block_.rows)) *
                 static_cast<double>(step.grid[0] * block_.cols * p_.groups) *
                 static_cast<double>(round_up(pass.products, MLX_CONV3D_GEMM_DEPTH));
    b_.add(std::move(step));
  }

 private:
  static GatherBlock block_of(const ConvProblem& p, const GemmPlan& plan) {
    for (const GatherBlock& block : gather_blocks(p)) {
      if (block.rows == plan.rows && block.cols == plan.cols) return block;
    }
    throw std::invalid_argument("[lower] there is no kernel for blocks of " + std::to_string(plan.rows) +
                                "x" + std::to_string(plan.cols) + ".");
  }

  /// Whether everything that the pass reads along an axis lies inside the input.
  bool unpadded(const GatherPass& pass, int axis) const {
    const AxisPass& a = pass.axes[axis];
    const int64_t last = (a.count - 1) * a.stride + (a.taps - 1) * a.dilation - a.pad;
    return !dilated_ && a.taps > 0 && a.pad <= 0 && last < p_.extent(axis);
  }

  GatherGemm arguments(const GatherPass& pass) const {
    GatherGemm a{};
    a.input = b_.input_arrays();
    const int64_t w_strides[3] = {layout_.w.d, layout_.w.h, layout_.w.w};
    int64_t taps[3];
    for (int axis : {kDepth, kHeight, kWidth}) {
      const AxisPass& x = pass.axes[axis];
      a.first_weight += (p_.flip ? p_.kernel[axis] - 1 - x.first_tap : x.first_tap) * w_strides[axis];
      taps[axis] = (p_.flip ? -1 : 1) * x.tap_step * w_strides[axis];
      a.count[axis] = static_cast<int32_t>(x.count);
      a.first[axis] = static_cast<int32_t>(x.first);
      a.step[axis] = static_cast<int32_t>(x.step);
      a.out_size[axis] = static_cast<int32_t>(p_.output(axis));
      a.stride[axis] = static_cast<int32_t>(x.stride);
      a.dilation[axis] = static_cast<int32_t>(x.dilation);
      a.pad[axis] = static_cast<int32_t>(x.pad);
      a.input_dilation[axis] = static_cast<int32_t>(p_.input_dilation[axis]);
    }
    a.w = {layout_.w.o, taps[kDepth], taps[kHeight], taps[kWidth], layout_.w.c};
    a.rows = static_cast<int32_t>(pass.rows);
    a.products = static_cast<int32_t>(pass.products);
    a.out_channels = static_cast<int32_t>(p_.out_channels);
    return a;
  }

  void add_constants(Step& step, const GatherPass& pass) const {
    Size3 taps;
    for (int axis : {kDepth, kHeight, kWidth}) taps[axis] = pass.axes[axis].taps;
    b_.set_weight_size(step, taps);
    const bool dense = layout_.x.c == 1 && layout_.w.c == 1 && (p_.lead == 0 || layout_.lead.c == 1);
    step.constants.push_back({MLX_CONV3D_X_TYPE, static_cast<int>(p_.x_type)});
    step.constants.push_back({MLX_CONV3D_W_TYPE, static_cast<int>(p_.w_type)});
    step.constants.push_back({MLX_CONV3D_Y_TYPE, static_cast<int>(pass.ends ? p_.out_type : Dtype::float32)});
    step.constants.push_back({MLX_CONV3D_DENSE_CHANNELS, dense});
    step.constants.push_back({MLX_CONV3D_INPUT_DILATED, dilated_});
    step.constants.push_back({MLX_CONV3D_HAS_SUMS, pass.adds});
  }

  /// Different input positions that the pass reads along an axis.
  int64_t positions_read(const GatherPass& pass, int axis) const {
    const AxisPass& a = pass.axes[axis];
    std::vector<bool> read(static_cast<size_t>(p_.stored(axis)));
    for (int64_t j = 0; j < a.count; ++j) {
      for (int64_t tap = 0; tap < a.taps; ++tap) {
        // Phases have no dilation left: in units of the dilated axis they read whole inputs.
        const int64_t q = j * a.stride + tap * a.dilation - a.pad;
        const int64_t source = p_.source_index(axis, dilated_ ? q : q * p_.input_dilation[axis]);
        if (source >= 0) read[static_cast<size_t>(source)] = true;
      }
    }
    return std::count(read.begin(), read.end(), true);
  }

  double bytes(const GatherPass& pass) const {
    const double outputs = static_cast<double>(pass.rows) * static_cast<double>(p_.out_channels);
    double x = static_cast<double>(p_.batch * p_.in_channels);
    for (int axis : {kDepth, kHeight, kWidth}) x *= static_cast<double>(positions_read(pass, axis));
    const double w = static_cast<double>(p_.out_channels) * static_cast<double>(pass.products);
    double sum = (pass.products > 0 ? x * item_size(p_.x_type) + w * item_size(p_.w_type) : 0.0) +
                 4.0 * outputs * (pass.adds ? 1 : 0);
    if (!pass.ends) return sum + 4.0 * outputs;
    return sum + outputs * static_cast<double>(item_size(p_.out_type)) * (p_.residual ? 2 : 1) +
           (p_.bias ? 4.0 * static_cast<double>(p_.out_channels) : 0.0);
  }

  const ConvProblem& p_;
  const Layout& layout_;
  Builder& b_;
  const bool dilated_;  ///< the kernel skips the zeros between inputs, one by one
  const GatherBlock block_;
  int sums_;  ///< buffer of the sums between passes
};

}  // namespace

int64_t count_gather_passes(const ConvProblem& p, Algorithm algorithm) {
  if (algorithm == Algorithm::taps) return p.kernel[kDepth];
  if (algorithm != Algorithm::transposed) return 1;
  int64_t count = 1;
  for (int axis : {kDepth, kHeight, kWidth}) count *= std::min(period(p, axis), p.output(axis));
  return count;
}

std::vector<GatherPass> gather_passes(const ConvProblem& p, Algorithm algorithm) {
  const bool split = algorithm == Algorithm::transposed;
  std::vector<GatherPass> passes;
  for (const AxisPass& d : axis_phases(p, kDepth, split)) {
    for (const AxisPass& h : axis_phases(p, kHeight, split)) {
      for (const AxisPass& w : axis_phases(p, kWidth, split)) {
        GatherPass pass{{d, h, w}};
        pass.rows = p.batch * d.count * h.count * w.count;
        pass.products = d.taps * h.taps * w.taps * p.group_in();
        passes.push_back(pass);
      }
    }
  }
  if (algorithm != Algorithm::taps) return passes;
  const GatherPass whole = passes.front();
  passes.clear();
  for (int64_t tap = 0; tap < p.kernel[kDepth]; ++tap) {
    GatherPass pass = whole;
    pass.axes[kDepth] = single_tap(whole.axes[kDepth], tap);
    pass.products = whole.products / p.kernel[kDepth];
    pass.adds = tap > 0;
    pass.ends = tap + 1 == p.kernel[kDepth];
    passes.push_back(pass);
  }
  return passes;
}

std::vector<GatherBlock> gather_blocks(const ConvProblem& p) {
  const bool blocked = p.out_type == Dtype::float32;
  return {{64, 64, blocked}, {64, 32, blocked}, {32, 32, blocked}, {128, 16, true}, {128, 8, true}};
}

int64_t gather_scratch(const ConvProblem& p, Algorithm algorithm) {
  const bool beside = algorithm == Algorithm::taps && p.kernel[kDepth] > 1 && p.out_type != Dtype::float32;
  return beside ? 4 * p.out_positions() * p.out_channels : 0;
}

void lower_gather_gemm(const ConvProblem& p, const Candidate& candidate, const Layout& layout,
                       Builder& builder) {
  Lowering lowering(p, candidate, layout, builder);
  for (const GatherPass& pass : gather_passes(p, candidate.algorithm)) lowering.add(pass);
}

}  // namespace mlx_conv3d::metal
