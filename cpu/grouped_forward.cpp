#include "cpu/grouped_forward.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "core/device.h"
#include "core/integers.h"
#include "cpu/grouped_rows.h"
#include "cpu/joined_frames.h"
#include "cpu/simd/tile_kernels.h"
#include "cpu/threads.h"
#include "cpu/weight_panel.h"

namespace mlx_conv3d::cpu {
namespace {

/// The problem with rows joined to longer ones, where they lie so.
ConvProblem folded(const ConvProblem& p, Operands& operands) {
  const ConvProblem joined = fold_rows(p);
  if (joined == p) return p;
  const bool all = joined.input[kDepth] * joined.batch != p.input[kDepth] * p.batch;
  const int first = all ? 0 : kHeight + 1;
  const auto join = [&](TensorView& view, int64_t frames) {
    const int64_t sizes[] = {p.batch, frames, p.input[kHeight], p.input[kWidth]};
    view.stride[3] = pixel_stride(view, sizes, first, p.in_channels);
    return view.stride[3] != 0;
  };
  Operands given = operands;
  if (join(given.x, p.input[kDepth]) && (p.lead == 0 || join(given.lead, p.lead))) {
    operands = given;
    return joined;
  }
  return p;
}

std::unique_ptr<GroupedTasks> make_tasks(const ConvProblem& p, const GroupedPlan& plan,
                                         const Operands& operands, Workspace& workspace) {
  if (plan.joined)
    return std::make_unique<JoinedFrames>(p, plan.cols, grouped_slack(p, kernels().width), operands,
                                          workspace);
  return std::make_unique<StagedRows>(p, plan, operands, true, workspace);
}

class Forward {
 public:
  Forward(const ConvProblem& p, const GroupedPlan& plan, const Operands& operands, Workspace& workspace)
      : p_(p),
        operands_(operands),
        k_(kernels()),
        tasks_(make_tasks(p, plan, operands, workspace)),
        rows_(*tasks_),
        pairs_(plan.pairs),
        run_(pairs_ ? k_.tiles->grouped_pairs(plan.kernel) : k_.grouped(plan.kernel)),
        rotation_(rows_.woven() > 0 ? 0 : k_.grouped_rotation(plan.kernel)) {
    lanes_ = static_cast<int64_t>(rows_.vectors().size()) * k_.width;
    pack_weights(workspace);
    if (operands.epilogue.bias != nullptr) spread_bias(workspace);
    if (rows_.woven() > 0) weave();
    // Results that are not float32, not next to each other, or more than the kernel makes, go through a
    // buffer.
    const Epilogue& e = operands.epilogue;
    const bool finishes = !pairs_ || (e.activation == Activation::none && e.residual == nullptr);
    in_place_ = p.out_type == Dtype::float32 && finishes;
    for (const RowPhase& phase : rows_.phases()) in_place_ = in_place_ && phase.axis.step == 1;
    const int64_t sums = plan.cols * p.out_channels + grouped_slack(p, k_.width);
    for (int t = 0; t < thread_count() && !in_place_; ++t) sums_.push_back(workspace.floats(sums));
  }

  /// False where pairs cannot hold what was met; then nothing is to be read from the output.
  bool run() {
    if (!tiles_hold(largest_weight_)) return false;
    parallel_for(rows_.count(), [&](int64_t i, int thread) {
      rows_.run(i, thread, [&](const GroupedTasks::Block& block) { output(block, thread); });
    });
    return tiles_hold(rows_.largest());
  }

 private:
  /// Every vector's weights lane by lane, from a table of whole vectors of channels.
  void pack_weights(Workspace& workspace) {
    const int64_t width = k_.width, products = p_.taps() * p_.group_in();
    float* table = workspace.floats(round_up(p_.out_channels, width) * products);
    pairs_ ? pack_pairs(table, workspace) : pack(operands_.w, table);
    weights_ = table;
    if (lanes_ == p_.out_channels && rotation_ == 0) return;
    float* spread = workspace.floats(lanes_ * products);
    for (const RowPhase& phase : rows_.phases()) {
      const int64_t count = products_of(phase);
      const float* from = table + phase.first_weight * round_up(p_.out_channels, width);
      float* to = spread + phase.first_weight * lanes_;
      each(lanes_ / width, products, [&](int64_t v) {
        for (int64_t l = 0; l < width; ++l) {
          const int64_t o = rows_.channel(v, static_cast<int>(l));
          const float* column = from + o / width * count * width + o % width;
          float* lane = to + v * count * width + l;
          for (int64_t i = 0; i < count; ++i) lane[i * width] = column[rotated(i, o) * width];
        }
      });
    }
    weights_ = spread;
  }

  int64_t products_of(const RowPhase& phase) const {
    return phase.axis.tap_count() * p_.taps() / p_.kernel[kWidth] * p_.group_in();
  }

  void pack(const WeightView& w, float* table) const {
    const int64_t lanes = round_up(p_.out_channels, k_.width);
    for (const RowPhase& phase : rows_.phases()) {
      pack_vectors(w, p_.out_channels, rows_.weight_offsets(phase, w), table + phase.first_weight * lanes);
    }
  }

  /// The weights of a group's even inputs and of its odd ones, each two of which are then one.
  void pack_pairs(float* table, Workspace& workspace) {
    const int64_t count = round_up(p_.out_channels, k_.width) * p_.taps() * p_.group_in();
    float* odd_table = workspace.floats(count);
    WeightView even = operands_.w, odd = operands_.w;
    even.stride[4] *= 2;
    odd.stride[4] *= 2;
    odd.data = static_cast<const char*>(odd.data) + operands_.w.stride[4] * item_size(odd.type);
    pack(even, table);
    pack(odd, odd_table);
    for (const RowPhase& phase : rows_.phases()) {
      const int64_t lanes = round_up(p_.out_channels, k_.width), first = phase.first_weight * lanes;
      join(table + first, odd_table + first, products_of(phase) * lanes);
    }
  }

  void join(float* table, const float* odd_table, int64_t count) {
    constexpr uint32_t kMagnitude = 0x7fffffff, kUpper = 0xffff0000;
    for (int64_t i = 0; i < count; ++i) {
      uint32_t low, high;
      std::memcpy(&low, table + i, sizeof(low));
      std::memcpy(&high, odd_table + i, sizeof(high));
      largest_weight_ = std::max({largest_weight_, low & kMagnitude, high & kMagnitude});
      const uint32_t both = low >> 16 | (high & kUpper);
      std::memcpy(table + i, &both, sizeof(both));
    }
  }

  /// The product that stands at the place of product i (see Kernels::grouped_rotation).
  int64_t rotated(int64_t i, int64_t channel) const {
    return rotation_ == 0 ? i : i / rotation_ * rotation_ + (i + channel) % rotation_;
  }

  /// A parallel loop, where the work is worth one.
  template <class F>
  void each(int64_t vectors, int64_t products, const F& f) {
    if (vectors * products * k_.width > (1 << 16)) {
      parallel_for(vectors, [&](int64_t v, int) { f(v); });
    } else {
      for (int64_t v = 0; v < vectors; ++v) f(v);
    }
  }

  void spread_bias(Workspace& workspace) {
    float* to = workspace.floats(lanes_);
    for (int64_t i = 0; i < lanes_; ++i) {
      to[i] = operands_.epilogue.bias[rows_.channel(i / k_.width, static_cast<int>(i % k_.width))];
    }
    bias_ = to;
  }

  void weave() {
    const std::vector<int32_t> order = woven_order(p_.group_out(), rows_.woven(), k_.width);
    const int64_t vectors = lanes_ / k_.width, products = p_.taps() * p_.group_in();
    each(vectors, products,
         [&](int64_t v) { k_.permute_lanes(order.data(), weights_ + v * products * k_.width, products); });
    if (bias_ != nullptr) k_.permute_lanes(order.data(), bias_, vectors);
  }

  void output(const GroupedTasks::Block& block, int thread) {
    GroupedRows r = block.rows;
    const int64_t at = rows_.output_offset(block, block.begin);
    r.weights = weights_ + rows_.phases()[static_cast<size_t>(block.phase)].first_weight * lanes_;
    r.bias = bias_;
    const Epilogue& e = operands_.epilogue;
    if (in_place_) {
      r.out = static_cast<float*>(operands_.y) + at;
      r.activation = e.activation;
      r.residual = e.residual ? static_cast<const float*>(e.residual) + at : nullptr;
      run_(r);
      return;
    }
    r.out = sums_[static_cast<size_t>(thread)];
    run_(r);
    store(block, at, r.out);
  }

  /// One row of sums, bias included, from the buffer to the output.
  void store(const GroupedTasks::Block& block, int64_t at, const float* sums) const {
    const int64_t item = item_size(p_.out_type);
    const int64_t step = rows_.phases()[static_cast<size_t>(block.phase)].axis.step;
    const int64_t count = block.end - block.begin, steps = step == 1 ? 1 : count;
    const int64_t length = count / steps * p_.out_channels;
    Epilogue rest = operands_.epilogue;
    rest.bias = nullptr;
    for (int64_t i = 0; i < steps; ++i) {
      const int64_t to = at + i * step * p_.out_channels;
      k_.store(rest, sums + i * p_.out_channels, 0, to, static_cast<char*>(operands_.y) + to * item, length);
    }
  }

  const ConvProblem& p_;
  const Operands& operands_;
  const Kernels& k_;
  const std::unique_ptr<GroupedTasks> tasks_;
  GroupedTasks& rows_;
  const bool pairs_;
  const GroupedFunction run_;
  const int64_t rotation_;
  int64_t lanes_;
  bool in_place_;
  float *weights_ = nullptr, *bias_ = nullptr;
  uint32_t largest_weight_ = 0;  ///< of pairs, the bits of its magnitude
  std::vector<float*> sums_;
};

/// False where pairs do not hold x and w.
bool grouped_in_pairs(const ConvProblem& problem, const GroupedPlan& plan, const Operands& operands,
                      Workspace& workspace) {
  const ConvProblem p = paired_channels(problem);
  const int64_t mark = workspace.used();
  const bool done = Forward(p, plan, operands, workspace).run();
  workspace.release_to(mark);
  return done;
}

}  // namespace

void grouped_by_kernel(const ConvProblem& problem, const GroupedPlan& plan, const Operands& operands,
                       Workspace& workspace) {
  if (plan.pairs) {
    if (grouped_in_pairs(problem, plan, operands, workspace)) return;
    const GroupedPlan floats = make_grouped_forward_plan(problem, cpu_device());
    return grouped_by_kernel(problem, floats, operands, workspace);
  }
  if (plan.joined) {
    Forward(problem, plan, operands, workspace).run();
    return;
  }
  Operands joined = operands;
  const ConvProblem p = folded(problem, joined);
  Forward(p, p == problem ? plan : make_grouped_plan(p, cpu_device()), joined, workspace).run();
}

}  // namespace mlx_conv3d::cpu
