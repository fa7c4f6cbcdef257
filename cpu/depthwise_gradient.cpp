// dL/dw of depthwise convolutions without a copy of their input: every share of the
// frames has sums of its own, which are added in order.

#include "cpu/depthwise_gradient.h"

#include <algorithm>
#include <vector>

#include "core/integers.h"
#include "cpu/depthwise_input.h"
#include "cpu/threads.h"

namespace mlx_conv3d::cpu {
namespace {

class Gradient {
 public:
  Gradient(const ConvProblem& p, const GroupedPlan& plan, const Operands& operands, Dtype dy_type,
           const void* dy, void* dw, Workspace& workspace)
      : p_(p),
        dy_type_(dy_type),
        dy_(static_cast<const char*>(dy)),
        dw_(dw),
        k_(kernels()),
        input_(p, operands),
        run_(k_.depthwise_gradient(p.kernel[kWidth], p.stride[kWidth], p.x_type)),
        parts_(divide_up(p.output(kDepth), plan.frames)),
        bands_(divide_up(p.output(kHeight), plan.band)),
        slices_(divide_up(divide_up(p.out_channels, k_.width), plan.vectors)),
        shares_(depthwise_gradient_shares(p, plan, thread_count())),
        vectors_(static_cast<int64_t>(input_.channels().size())),
        vector_sums_(p.taps() * k_.width) {
    sums_ = workspace.floats(shares_ * vectors_ * vector_sums_);
    for (int t = 0; t < thread_count() && dy_type != Dtype::float32; ++t) {
      cotangents_.push_back(workspace.floats(depthwise_gradient_floats(p)));
    }
  }

  void run() {
    const int64_t items = p_.batch * parts_ * bands_;
    parallel_for(slices_ * shares_, [&](int64_t i, int thread) {
      const int64_t slice = i / shares_, share = i % shares_;
      const Slice s{vectors_ * slice / slices_, vectors_ * (slice + 1) / slices_};
      float* sums = sums_ + (share * vectors_ + s.begin) * vector_sums_;
      std::fill(sums, sums + (s.end - s.begin) * vector_sums_, 0.0f);
      for (int64_t j = items * share / shares_; j < items * (share + 1) / shares_; ++j) {
        add(j, s, thread, sums);
      }
    });
    finish();
  }

 private:
  /// Vectors of channels.
  struct Slice {
    int64_t begin, end;
  };

  void add(int64_t item, Slice slice, int thread, float* sums) const {
    const int64_t band = item % bands_, part = item / bands_ % parts_, n = item / bands_ / parts_;
    const int64_t frames = p_.output(kDepth), height = p_.output(kHeight);
    const int64_t end = height * (band + 1) / bands_;
    // dL/dy that is not float32 is converted a few rows at a time.
    const int64_t step = cotangents_.empty() ? height : kDepthwiseGradientRows;
    std::vector<const void*> rows;
    std::vector<DepthwiseColumns> columns(static_cast<size_t>(input_.depth().tap_count()));
    for (int64_t od = frames * part / parts_; od < frames * (part + 1) / parts_; ++od) {
      for (int64_t first = height * band / bands_; first < end; first += step) {
        const int64_t last = std::min(first + step, end);
        rows.clear();
        input_.find_rows(n, od, first, last, rows, columns.data());
        DepthwiseRows r = input_.rows_of(first, last, slice.begin, slice.end);
        r.rows = rows.data();
        r.columns = columns.data();
        const int64_t at = ((n * frames + od) * height + first) * r.row_step;
        run_({r, cotangents(at, r.out_rows * r.row_step, thread), sums});
      }
    }
  }

  const float* cotangents(int64_t at, int64_t count, int thread) const {
    const char* from = dy_ + at * item_size(dy_type_);
    if (cotangents_.empty()) return reinterpret_cast<const float*>(from);
    float* to = cotangents_[static_cast<size_t>(thread)];
    k_.to_float(dy_type_, from, to, count);
    return to;
  }

  void finish() const {
    std::vector<int64_t> rows(static_cast<size_t>(k_.width));
    for (int64_t v = 0; v < vectors_; ++v) {
      for (int l = 0; l < k_.width; ++l) {
        rows[static_cast<size_t>(l)] = (input_.channels()[static_cast<size_t>(v)] + l) * p_.taps();
      }
      k_.unit_gradient_results(p_.w_type, {shares_, vectors_ * vector_sums_, p_.taps(), k_.width,
                                           sums_ + v * vector_sums_, rows.data(), dw_});
    }
  }

  const ConvProblem& p_;
  const Dtype dy_type_;
  const char* dy_;
  void* dw_;
  const Kernels& k_;
  const DepthwiseInput input_;
  const DepthwiseGradientFunction run_;
  const int64_t parts_, bands_, slices_;
  const int64_t shares_;  ///< of frames and bands
  const int64_t vectors_, vector_sums_;
  float* sums_;                     ///< [share][vector][tap][lane]
  std::vector<float*> cotangents_;  ///< a thread's, where dL/dy is not float32
};

}  // namespace

void depthwise_gradient(const ConvProblem& problem, const GroupedPlan& plan, const Operands& operands,
                        Dtype dy_type, const void* dy, void* dw, Workspace& workspace) {
  Gradient(problem, plan, operands, dy_type, dy, dw, workspace).run();
}

}  // namespace mlx_conv3d::cpu
