// Depthwise convolution without a copy of its input.

#include "cpu/depthwise.h"

#include <vector>

#include "core/integers.h"
#include "cpu/depthwise_input.h"
#include "cpu/threads.h"
#include "cpu/weight_panel.h"

namespace mlx_conv3d::cpu {
namespace {

class Depthwise {
 public:
  Depthwise(const ConvProblem& p, const GroupedPlan& plan, const Operands& operands, Workspace& workspace)
      : p_(p),
        plan_(plan),
        operands_(operands),
        k_(kernels()),
        input_(p, operands),
        run_(k_.depthwise(p.kernel[kWidth], p.stride[kWidth], p.input_dilation[kWidth], p.x_type)),
        parts_(divide_up(p.output(kDepth), plan.frames)),
        bands_(divide_up(p.output(kHeight), plan.band)) {
    slices_ = divide_up(divide_up(p.out_channels, k_.width), plan.vectors);
    pack_weights(workspace);
  }

  void run() {
    parallel_for_shares(slices_ * p_.batch * parts_ * bands_, [&](int64_t i, int) { run_task(i); });
  }

 private:
  void pack_weights(Workspace& workspace) {
    const std::vector<int32_t>& channels = input_.channels();
    const std::vector<int64_t> offsets =
        weight_offsets(p_, input_.depth(), input_.height(), input_.width(), operands_.w);
    const int64_t per_vector = static_cast<int64_t>(offsets.size()) * k_.width;
    const size_t count = channels.size();
    weights_ = workspace.floats(static_cast<int64_t>(count) * per_vector);
    for (size_t begin = 0, end; begin < count; begin = end) {
      end = begin + 1;
      while (end < count && channels[end] - channels[end - 1] == k_.width) ++end;
      WeightView w = operands_.w;
      w.data = static_cast<const char*>(w.data) + channels[begin] * w.stride[0] * item_size(w.type);
      pack_vectors(w, static_cast<int64_t>(end - begin) * k_.width, offsets,
                   weights_ + static_cast<int64_t>(begin) * per_vector);
    }
  }

  void run_task(int64_t i) const {
    const int64_t band = i % bands_, part = i / bands_ % parts_, n = i / bands_ / parts_ % p_.batch,
                  slice = i / bands_ / parts_ / p_.batch;
    const auto vectors = static_cast<int64_t>(input_.channels().size());
    const int64_t from = vectors * slice / slices_;
    const int64_t frames = p_.output(kDepth), height = p_.output(kHeight);
    const int64_t first = height * band / bands_, last = height * (band + 1) / bands_;
    std::vector<const void*> rows, next;
    std::vector<DepthwiseColumns> columns(static_cast<size_t>(input_.depth().tap_count()));
    DepthwiseRows r = input_.rows_of(first, last, from, vectors * (slice + 1) / slices_);
    r.columns = columns.data();
    r.weights = weights_ + from * p_.taps() * k_.width;
    r.far = plan_.far;
    r.epilogue = &operands_.epilogue;
    r.y = operands_.y;
    for (int64_t od = frames * part / parts_; od < frames * (part + 1) / parts_; ++od) {
      rows.clear();
      next.clear();
      input_.find_rows(n, od, first, last, rows, columns.data());
      input_.find_next(n, od, first, last, next);
      r.rows = rows.data();
      r.next = next.empty() ? nullptr : next.data();
      r.out = ((n * frames + od) * height + first) * r.row_step;
      run_(r);
    }
  }

  const ConvProblem& p_;
  const GroupedPlan& plan_;
  const Operands& operands_;
  const Kernels& k_;
  const DepthwiseInput input_;
  const DepthwiseFunction run_;
  const int64_t parts_, bands_;
  int64_t slices_;
  float* weights_;
};

}  // namespace

void depthwise_in_place(const ConvProblem& problem, const GroupedPlan& plan, const Operands& operands,
                        Workspace& workspace) {
  Depthwise(problem, plan, operands, workspace).run();
}

}  // namespace mlx_conv3d::cpu
