// dL/dw[o][tap][c] = sum over output positions of dy[position][o] * x[position's tap][c], as products of
// blocks of gathered inputs (transposed) by blocks of dy. No patches are materialised beyond one block.

#include "cpu/weight_gradient.h"

#include <algorithm>
#include <cstring>

#include "cpu/depthwise_gradient.h"
#include "cpu/grouped.h"
#include "cpu/grouped_gradient.h"
#include "cpu/row_gather.h"
#include "cpu/threads.h"
#include "cpu/unit_gradient.h"
#include "cpu/winograd_gradient.h"

namespace mlx_conv3d::cpu {
namespace {

class GemmGradient {
 public:
  GemmGradient(const ConvProblem& p, const WeightGradientPlan& plan, const Operands& operands, Dtype dy_type,
               const void* dy, void* dw, Workspace& workspace)
      : p_(p),
        plan_(plan),
        input_(p, operands),
        dy_type_(dy_type),
        dy_(static_cast<const char*>(dy)),
        dw_(dw),
        k_(kernels()),
        panels_(p.group_out(), k_),
        width_(panels_.vectors_total() * k_.width),
        block_panels_(std::max<int64_t>(1, plan.cols / (k_.panel_vectors * k_.width))),
        cols_(std::min(width_, block_panels_ * k_.panel_vectors * k_.width)),
        lda_(plan.depth + k_.width) {
    for (int axis = 0; axis < 3; ++axis) phases_[axis] = axis_phases(p, axis, true);
    for (int t = 0; t < thread_count(); ++t) {
      inputs_.push_back(workspace.floats(plan.rows * lda_));
      cotangents_.push_back(workspace.floats(plan.rows * cols_));
      sums_.push_back(workspace.floats(plan.depth * cols_));
    }
    if (plan.splits > 1) partial_ = workspace.floats(plan.splits * p.taps() * p.group_in() * width_);
  }

  void run() {
    for (int64_t g = 0; g < p_.groups; ++g) run_group(g);
  }

 private:
  /// Taps as weight indices, so that a task can find itself in every phase.
  struct Task {
    int64_t kd, kh, kw_begin, kw_end, c_begin, c_end;
    int64_t length() const { return (kw_end - kw_begin) * (c_end - c_begin); }
  };

  std::vector<Task> tasks() const {
    std::vector<Task> all;
    const int64_t channels = p_.group_in(), kernel_w = p_.kernel[2];
    // A phase of a dilated input has only some of the row's taps, so there each tap is a task.
    const bool whole_row = !p_.input_dilated() && kernel_w * channels <= plan_.depth;
    const int64_t step = whole_row ? kernel_w : 1;
    const int64_t pieces = (step * channels + plan_.depth - 1) / plan_.depth;
    for (int64_t kd = 0; kd < p_.kernel[0]; ++kd) {
      for (int64_t kh = 0; kh < p_.kernel[1]; ++kh) {
        for (int64_t kw = 0; kw < kernel_w; kw += step) {
          for (int64_t i = 0; i < pieces; ++i) {
            all.push_back({kd, kh, kw, kw + step, channels * i / pieces, channels * (i + 1) / pieces});
          }
        }
      }
    }
    return all;
  }

  void run_group(int64_t g) {
    const std::vector<Task> all = tasks();
    const int64_t col_blocks = (panels_.count() + block_panels_ - 1) / block_panels_;
    const int64_t count = static_cast<int64_t>(all.size());
    parallel_for(count * col_blocks * plan_.splits, [&](int64_t i, int thread) {
      const int64_t task = i % count, col_block = i / count % col_blocks, split = i / count / col_blocks;
      accumulate(all[task], g, col_block, split, thread);
      finish(all[task], g, col_block, split, sums_[thread]);
    });
    if (plan_.splits > 1) reduce(g);
  }

  int64_t col_begin(int64_t block) const { return panels_.first_vector(block * block_panels_) * k_.width; }

  void accumulate(const Task& task, int64_t g, int64_t col_block, int64_t split, int thread) {
    std::fill(sums_[thread], sums_[thread] + plan_.depth * cols_, 0.0f);
    for (const AxisPhase& d : phases_[0]) {
      for (const AxisPhase& h : phases_[1]) {
        for (const AxisPhase& w : phases_[2]) {
          const int64_t kd = find(d, task.kd), kh = find(h, task.kh), kw = find(w, task.kw_begin);
          if (kd < 0 || kh < 0 || kw < 0) continue;
          // With the kernel flipped a phase lists a row's taps from the last to the first.
          const int64_t taps = task.kw_end - task.kw_begin;
          const int64_t first = p_.flip ? kw - (taps - 1) : kw;
          const std::vector<Segment> block{{kd, kh, first, first + taps, task.c_begin, task.c_end}};
          sweep(RowGather(p_, input_, d, h, w), block, g, col_block, split, thread);
        }
      }
    }
  }

  static int64_t find(const AxisPhase& phase, int64_t tap) {
    const auto at = std::find(phase.taps.begin(), phase.taps.end(), tap);
    return at == phase.taps.end() ? -1 : at - phase.taps.begin();
  }

  void sweep(const RowGather& rows, const std::vector<Segment>& block, int64_t g, int64_t col_block,
             int64_t split, int thread) {
    const int64_t k = block.front().length();
    const int64_t begin = rows.rows() * split / plan_.splits, end = rows.rows() * (split + 1) / plan_.splits;
    const int64_t from = col_begin(col_block), to = col_begin(col_block + 1);
    const int64_t lanes = std::min(to, p_.group_out()) - from;
    float* dy = cotangents_[thread];
    for (int64_t r = begin; r < end; r += plan_.rows) {
      const int64_t count = std::min(plan_.rows, end - r);
      rows.pack(k_, block, g * p_.group_in(), r, count, inputs_[thread], lda_);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = rows.output_offset(r + i) + g * p_.group_out() + from;
        k_.to_float(dy_type_, dy_ + at * item_size(dy_type_), dy + i * cols_, lanes);
        std::fill(dy + i * cols_ + lanes, dy + i * cols_ + (to - from), 0.0f);
      }
      for (int64_t panel = col_block * block_panels_;
           panel < std::min(panels_.count(), (col_block + 1) * block_panels_); ++panel) {
        const int64_t lane = panels_.first_vector(panel) * k_.width - from;
        k_.gemm(true, k, panels_.vectors(panel), count, inputs_[thread], lda_, dy + lane, cols_,
                sums_[thread] + lane, cols_, true, {});
      }
    }
  }

  /// Products of a task in the order in which they were gathered: weight offset of each.
  std::vector<int64_t> offsets(const Task& task) const {
    const WeightView w = contiguous_weights(p_, p_.w_type);
    std::vector<int64_t> out;
    for (int64_t i = 0; i < task.kw_end - task.kw_begin; ++i) {
      const int64_t kw = p_.flip ? task.kw_end - 1 - i : task.kw_begin + i;
      for (int64_t c = task.c_begin; c < task.c_end; ++c) {
        out.push_back(task.kd * w.stride[1] + task.kh * w.stride[2] + kw * w.stride[3] + c);
      }
    }
    return out;
  }

  void finish(const Task& task, int64_t g, int64_t col_block, int64_t split, const float* sums) {
    const std::vector<int64_t> at = offsets(task);
    const int64_t from = col_begin(col_block), to = std::min(col_begin(col_block + 1), p_.group_out());
    const int64_t per_channel = p_.taps() * p_.group_in();
    std::vector<float> row(at.size());
    const Epilogue as{p_.w_type, Activation::none, nullptr, nullptr};
    for (int64_t o = from; o < to; ++o) {
      for (size_t i = 0; i < at.size(); ++i) row[i] = sums[static_cast<int64_t>(i) * cols_ + o - from];
      // Channels of one tap are neighbours both here and in dw.
      const int64_t run = task.c_end - task.c_begin;
      for (size_t i = 0; i < at.size(); i += static_cast<size_t>(run)) {
        if (partial_ != nullptr) {
          std::memcpy(partial_ + (split * width_ + o) * per_channel + at[i], row.data() + i,
                      static_cast<size_t>(run) * sizeof(float));
        } else {
          const int64_t to_element = (g * p_.group_out() + o) * per_channel + at[i];
          k_.store(as, row.data() + i, 0, 0, static_cast<char*>(dw_) + to_element * item_size(p_.w_type),
                   run);
        }
      }
    }
  }

  void reduce(int64_t g) {
    const int64_t per_channel = p_.taps() * p_.group_in();
    const Epilogue as{p_.w_type, Activation::none, nullptr, nullptr};
    parallel_for(p_.group_out(), [&](int64_t o, int) {
      float* total = partial_ + o * per_channel;
      for (int64_t s = 1; s < plan_.splits; ++s)
        k_.add(partial_ + (s * width_ + o) * per_channel, total, per_channel);
      const int64_t at = (g * p_.group_out() + o) * per_channel;
      k_.store(as, total, 0, 0, static_cast<char*>(dw_) + at * item_size(p_.w_type), per_channel);
    });
  }

  const ConvProblem& p_;
  const WeightGradientPlan& plan_;
  const Input input_;
  const Dtype dy_type_;
  const char* dy_;
  void* dw_;
  const Kernels& k_;
  const Panels panels_;
  const int64_t width_, block_panels_, cols_, lda_;
  std::vector<AxisPhase> phases_[3];
  std::vector<float*> inputs_, cotangents_, sums_;
  float* partial_ = nullptr;
};

/// Few channels per group: every thread sums its rows of positions into weights of its own.
void direct_gradient(const ConvProblem& p, const WeightGradientPlan& plan, const Operands& operands,
                     Dtype dy_type, const void* dy, void* dw, Workspace& workspace) {
  const Kernels& k = kernels();
  DirectTasks tasks(p, operands);
  const int64_t pitch = tasks.pitch(), products = p.taps() * p.group_in(), size = pitch * products;
  std::vector<float*> sums, cotangents;
  for (int t = 0; t < thread_count(); ++t) {
    sums.push_back(workspace.floats(size));
    std::fill(sums.back(), sums.back() + size, 0.0f);
    cotangents.push_back(workspace.floats(plan.rows * pitch));
  }
  parallel_for(tasks.count(), [&](int64_t i, int thread) {
    const DirectTasks::Piece piece = tasks.piece(i);
    for (int64_t j = piece.begin; j < piece.end; ++j) {
      float* to = cotangents[thread] + (j - piece.begin) * pitch;
      const int64_t at = tasks.output_offset(piece, j);
      k.to_float(dy_type, static_cast<const char*>(dy) + at * item_size(dy_type), to, p.out_channels);
      std::fill(to + p.out_channels, to + pitch, 0.0f);
    }
    float* to = sums[thread] + tasks.phases()[piece.phase].first_weight * pitch;
    k.direct_gradient(p.x_type, tasks.row(piece, thread), cotangents[thread], to);
  });
  for (size_t t = 1; t < sums.size(); ++t) k.add(sums[t], sums[0], size);
  const WeightView w = contiguous_weights(p, p.w_type);
  const Epilogue as{p.w_type, Activation::none, nullptr, nullptr};
  // Taps that no phase has meet zeros only.
  std::vector<float> of_channel(static_cast<size_t>(products));
  for (int64_t o = 0; o < p.out_channels; ++o) {
    std::fill(of_channel.begin(), of_channel.end(), 0.0f);
    for (const RowPhase& phase : tasks.phases()) {
      const std::vector<int64_t> offsets = tasks.weight_offsets(phase, w);
      const int64_t count = static_cast<int64_t>(offsets.size());
      const float* from = sums[0] + phase.first_weight * pitch + o / k.width * count * k.width + o % k.width;
      for (int64_t i = 0; i < count; ++i) of_channel[offsets[i]] = from[i * k.width];
    }
    const int64_t at = o * products;
    k.store(as, of_channel.data(), 0, 0, static_cast<char*>(dw) + at * item_size(p.w_type), products);
  }
}

}  // namespace

void weight_gradient(const ConvProblem& p, const WeightGradientPlan& plan, const Operands& operands,
                     Dtype dy_type, const void* dy, void* dw, Workspace& workspace) {
  if (plan.unit.woven > 0) {
    unit_gradient(p, plan.unit, operands, dy_type, dy, dw, workspace);
  } else if (plan.grouped.vectors > 0) {
    depthwise_gradient(p, plan.grouped, operands, dy_type, dy, dw, workspace);
  } else if (plan.grouped.kernel >= 0) {
    grouped_gradient(p, plan.grouped, operands, dy_type, dy, dw, workspace);
  } else if (plan.direct) {
    direct_gradient(p, plan, operands, dy_type, dy, dw, workspace);
  } else if (plan.winograd.tiles > 0) {
    winograd_weight_gradient(p, plan, operands, dy_type, dy, dw, workspace);
  } else {
    GemmGradient(p, plan, operands, dy_type, dy, dw, workspace).run();
  }
}

}  // namespace mlx_conv3d::cpu
