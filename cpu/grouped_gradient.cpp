// dL/dw of grouped convolutions: every thread sums its tasks' rows into sums of its own, laid out as the
// forward kernels' weights are.

#include "cpu/grouped_gradient.h"

#include <algorithm>
#include <vector>

#include "cpu/grouped_rows.h"
#include "cpu/threads.h"

namespace mlx_conv3d::cpu {
namespace {

class Gradient {
 public:
  Gradient(const ConvProblem& p, const GroupedPlan& plan, const Operands& operands, Dtype dy_type,
           const void* dy, Workspace& workspace)
      : p_(p),
        dy_type_(dy_type),
        dy_(static_cast<const char*>(dy)),
        k_(kernels()),
        slack_(grouped_slack(p, k_.width)),
        rows_(p, plan, operands, 1, false, workspace),
        run_(k_.grouped_gradient(plan.kernel)),
        lanes_(static_cast<int64_t>(rows_.vectors().size()) * k_.width),
        size_(lanes_ * p.taps() * p.group_in()) {
    for (int t = 0; t < thread_count(); ++t) {
      sums_.push_back(workspace.floats(size_));
      std::fill(sums_.back(), sums_.back() + size_, 0.0f);
      cotangents_.push_back(workspace.floats(plan.cols * p.out_channels + slack_));
    }
  }

  void run(void* dw) {
    parallel_for(rows_.count(), [&](int64_t i, int thread) {
      rows_.run(i, thread, [&](const GroupedTasks::Block& block) { add(block, thread); });
    });
    for (size_t t = 1; t < sums_.size(); ++t) k_.add(sums_[t], sums_[0], size_);
    finish(dw);
  }

 private:
  void add(const GroupedTasks::Block& block, int thread) {
    const RowPhase& phase = rows_.phases()[static_cast<size_t>(block.phase)];
    const int64_t count = block.end - block.begin, at = rows_.output_offset(block, block.begin);
    const int64_t steps = phase.axis.step == 1 ? 1 : count, length = count / steps * p_.out_channels;
    float* dy = cotangents_[static_cast<size_t>(thread)];
    for (int64_t i = 0; i < steps; ++i) {
      const int64_t from = at + i * phase.axis.step * p_.out_channels;
      k_.to_float(dy_type_, dy_ + from * item_size(dy_type_), dy + i * length, length);
    }
    std::fill(dy + count * p_.out_channels, dy + count * p_.out_channels + slack_, 0.0f);
    run_({block.rows, dy, sums_[static_cast<size_t>(thread)] + phase.first_weight * lanes_});
  }

  /// Sums of all lanes that hold a channel. Where the last vector of a position begins within the one
  /// before it, the channels of both count once.
  void finish(void* dw) const {
    const int64_t products = p_.taps() * p_.group_in(), vectors = lanes_ / k_.width;
    std::vector<float> all(static_cast<size_t>(p_.out_channels * products));
    for (const RowPhase& phase : rows_.phases()) {
      const std::vector<int64_t> offsets = rows_.weight_offsets(phase, contiguous_weights(p_, p_.w_type));
      const int64_t count = static_cast<int64_t>(offsets.size());
      const float* sums = sums_[0] + phase.first_weight * lanes_;
      for (int64_t v = 0; v < vectors; ++v) {
        const int64_t first = v * k_.width - rows_.vectors()[static_cast<size_t>(v)].out;
        for (int64_t l = first; l < k_.width; ++l) {
          float* to = all.data() + rows_.channel(v, static_cast<int>(l)) * products;
          for (int64_t i = 0; i < count; ++i)
            to[offsets[static_cast<size_t>(i)]] += sums[(v * count + i) * k_.width + l];
        }
      }
    }
    const Epilogue as{p_.w_type, Activation::none, nullptr, nullptr};
    k_.store(as, all.data(), 0, 0, dw, p_.out_channels * products);
  }

  const ConvProblem& p_;
  const Dtype dy_type_;
  const char* dy_;
  const Kernels& k_;
  const int64_t slack_;
  StagedRows rows_;
  const GroupedGradientFunction run_;
  const int64_t lanes_, size_;
  std::vector<float*> sums_, cotangents_;
};

}  // namespace

void grouped_gradient(const ConvProblem& problem, const GroupedPlan& plan, const Operands& operands,
                      Dtype dy_type, const void* dy, void* dw, Workspace& workspace) {
  Gradient(problem, plan, operands, dy_type, dy, workspace).run(dw);
}

}  // namespace mlx_conv3d::cpu
