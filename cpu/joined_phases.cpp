#include "cpu/joined_phases.h"

#include <algorithm>
#include <vector>

#include "core/integers.h"
#include "cpu/blocked_gemm.h"
#include "cpu/threads.h"
#include "cpu/weight_panel.h"

namespace mlx_conv3d::cpu {
namespace {

class JoinedPhases {
 public:
  JoinedPhases(const ConvProblem& p, const GemmPlan& plan, const Operands& operands, Workspace& workspace)
      : p_(p),
        plan_(plan),
        operands_(operands),
        input_(p, operands),
        k_(kernels()),
        panels_(p.out_channels, k_),
        width_(panels_.vectors_total() * k_.width),
        pitch_(p.in_channels + k_.width),
        pieces_(divide_up(p.stored(kWidth), plan.rows)),
        rows_at_once_(std::max<int64_t>(1, plan.rows / p.stored(kWidth))) {
    packed_ = workspace.floats(p.taps() * p.in_channels * width_);
    for (int t = 0; t < thread_count(); ++t) {
      inputs_.push_back(workspace.floats(plan.rows * pitch_));
      sums_.push_back(workspace.floats(plan.rows * width_));
    }
  }

  void run() {
    pack_weights();
    const int64_t rows = p_.stored(kHeight), blocks = divide_up(rows, rows_at_once_);
    parallel_for(p_.batch * p_.stored(kDepth) * blocks * pieces_, [&](int64_t i, int thread) {
      const int64_t piece = i % pieces_, block = i / pieces_ % blocks, frame = i / pieces_ / blocks;
      const int64_t width = p_.stored(kWidth);
      const Pixels at{frame / p_.stored(kDepth),   frame % p_.stored(kDepth), rows * block / blocks,
                      rows * (block + 1) / blocks, width * piece / pieces_,   width * (piece + 1) / pieces_};
      run_task(at, thread);
    });
  }

 private:
  /// Input pixels: rows and columns [begin, end) of a frame.
  struct Pixels {
    int64_t n, frame, row, row_end, col, col_end;
    int64_t cols() const { return col_end - col; }
  };

  struct Tap {
    int64_t kd, kh, kw;
  };
  Tap tap_at(int64_t tap) const {
    const int64_t kw = p_.kernel[kWidth], kh = p_.kernel[kHeight];
    return {tap / kw / kh, tap / kw % kh, tap % kw};
  }

  /// [tap][panel][channel][lane]
  void pack_weights() {
    const int64_t* stride = operands_.w.stride;
    parallel_for(p_.taps() * panels_.count(), [&](int64_t i, int) {
      const int64_t tap = i / panels_.count();
      const auto [kd, kh, kw] = tap_at(tap);
      std::vector<int64_t> offsets;
      for (int64_t c = 0; c < p_.in_channels; ++c) {
        offsets.push_back(kd * stride[1] + kh * stride[2] + kw * stride[3] + c * stride[4]);
      }
      pack_weight_panel(p_, operands_.w, 0, panels_, i % panels_.count(), offsets,
                        packed_ + tap * p_.in_channels * width_);
    });
  }

  /// Where the output lies that input position i makes with a weight's tap.
  int64_t output_of(int axis, int64_t i, int64_t tap) const {
    return i * p_.input_dilation[axis] + p_.pad_lo[axis] - (p_.flip ? p_.kernel[axis] - 1 - tap : tap);
  }
  bool exists(int axis, int64_t output) const { return output >= 0 && output < p_.output(axis); }

  void run_task(const Pixels& at, int thread) const {
    const Frame frame = input_.frame(at.n, at.frame);
    const int64_t item = input_.item(), channels = p_.in_channels;
    const char* first = frame.data + at.row * frame.row_stride + at.col * frame.col_stride;
    const bool in_place = p_.x_type == Dtype::float32;
    if (!in_place) {
      for (int64_t r = 0; r < (at.row_end - at.row) * at.cols(); ++r) {
        const int64_t row = r / at.cols(), col = r % at.cols();
        k_.to_float(p_.x_type, first + row * frame.row_stride + col * frame.col_stride,
                    inputs_[thread] + r * pitch_, channels);
      }
    }
    const int64_t lda = in_place ? frame.col_stride / item : pitch_;
    for (int64_t tap = 0; tap < p_.taps(); ++tap) {
      const auto [kd, kh, kw] = tap_at(tap);
      const int64_t od = output_of(kDepth, at.frame, kd);
      if (!exists(kDepth, od)) continue;
      for (int64_t row = at.row; row < at.row_end; ++row) {
        const int64_t oh = output_of(kHeight, row, kh);
        if (!exists(kHeight, oh)) continue;
        int64_t begin = at.col, end = at.col_end;
        while (begin < end && !exists(kWidth, output_of(kWidth, begin, kw))) ++begin;
        while (begin < end && !exists(kWidth, output_of(kWidth, end - 1, kw))) --end;
        if (begin == end) continue;
        const float* a = in_place ? reinterpret_cast<const float*>(first + (row - at.row) * frame.row_stride)
                                  : inputs_[thread] + (row - at.row) * at.cols() * pitch_;
        const int64_t output =
            ((at.n * p_.output(kDepth) + od) * p_.output(kHeight) + oh) * p_.output(kWidth) +
            output_of(kWidth, begin, kw);
        multiply(a + (begin - at.col) * lda, lda, end - begin, packed_ + tap * channels * width_,
                 output * p_.out_channels, sums_[thread]);
      }
    }
  }

  /// `count` pixels with one tap, to every input_dilation-th pixel of the output from element `output` on.
  void multiply(const float* a, int64_t lda, int64_t count, const float* weights, int64_t output,
                float* sums) const {
    const Epilogue& e = operands_.epilogue;
    const int64_t step = p_.input_dilation[kWidth] * p_.out_channels;
    const bool plain = e.plain() && width_ == p_.out_channels;
    float* c = plain ? static_cast<float*>(operands_.y) + output : sums;
    const int64_t ldc = plain ? step : width_;
    for (int64_t panel = 0; panel < panels_.count(); ++panel) {
      const int64_t lane = panels_.first_vector(panel) * k_.width;
      blocked_gemm(k_, plan_.depth, p_.in_channels, count, panels_.vectors(panel), a, lda,
                   weights + lane * p_.in_channels, c + lane, ldc, false);
    }
    for (int64_t r = 0; !plain && r < count; ++r) {
      const int64_t at = output + r * step;
      k_.store(e, sums + r * width_, 0, at, static_cast<char*>(operands_.y) + at * item_size(p_.out_type),
               p_.out_channels);
    }
  }

  const ConvProblem& p_;
  const GemmPlan& plan_;
  const Operands& operands_;
  const Input input_;
  const Kernels& k_;
  const Panels panels_;
  const int64_t width_, pitch_;
  const int64_t pieces_;        ///< of an input row, one task each
  const int64_t rows_at_once_;  ///< input rows of a task
  float* packed_;
  std::vector<float*> inputs_, sums_;
};

}  // namespace

void joined_phases(const ConvProblem& problem, const GemmPlan& plan, const Operands& operands,
                   Workspace& workspace) {
  JoinedPhases(problem, plan, operands, workspace).run();
}

}  // namespace mlx_conv3d::cpu
