#include "cpu/frame_gemm.h"

#include <algorithm>
#include <vector>

#include "core/integers.h"
#include "cpu/joined_frames.h"
#include "cpu/threads.h"
#include "cpu/weight_panel.h"

namespace mlx_conv3d::cpu {
namespace {

class FrameGemm {
 public:
  FrameGemm(const ConvProblem& p, const GemmPlan& plan, const Operands& operands, Workspace& workspace)
      : p_(p),
        operands_(operands),
        k_(kernels()),
        tasks_(p, plan.rows, 0, operands, workspace),
        panels_(p.out_channels, k_),
        narrow_(is_narrow(p, k_.width)),
        width_(panels_.vectors_total() * k_.width) {
    find_blocks(plan.depth);
    weights_ = workspace.floats(p.taps() * p.in_channels * width_);
    const int64_t sums = plan.rows * (narrow_ ? p.out_channels * k_.width : width_);
    for (int t = 0; t < thread_count(); ++t) scratch_.push_back({workspace.floats(sums), {}});
  }

  void run() {
    pack_weights();
    parallel_for(tasks_.count(), [&](int64_t i, int thread) {
      Scratch& own = scratch_[static_cast<size_t>(thread)];
      tasks_.run(i, thread, [&](const GroupedTasks::Block& block) { run_piece(block, own); });
    });
  }

 private:
  /// Products that are summed in registers: taps [tap, tap_end) of channels [channel, channel_end).
  struct Products {
    int64_t tap, tap_end, channel, channel_end;
    int64_t before;  ///< products of the blocks before it
    int64_t channels() const { return channel_end - channel; }
    int64_t count() const { return (tap_end - tap) * channels(); }
  };
  struct Scratch {
    float* sums;
    std::vector<const float*> taps;
  };

  /// As gather_gemm cuts those of more than a few outputs, so that the frames of a stream have the same bits
  /// by either; few outputs always come here.
  void find_blocks(int64_t depth) {
    const int64_t taps = p_.kernel[kDepth], channels = p_.in_channels;
    const int64_t together = taps * channels > depth ? 1 : taps;
    const int64_t parts = divide_up(channels, depth);
    int64_t before = 0;
    for (int64_t tap = 0; tap < taps; tap += together) {
      for (int64_t part = 0; part < parts; ++part) {
        blocks_.push_back({tap, std::min(taps, tap + together), channels * part / parts,
                           channels * (part + 1) / parts, before});
        before += blocks_.back().count();
      }
    }
  }

  void pack_weights() {
    const int64_t* stride = operands_.w.stride;
    parallel_for(static_cast<int64_t>(blocks_.size()) * panels_.count(), [&](int64_t i, int) {
      const Products& block = blocks_[static_cast<size_t>(i / panels_.count())];
      std::vector<int64_t> offsets;
      for (int64_t tap = block.tap; tap < block.tap_end; ++tap) {
        const int64_t kd = p_.flip ? p_.kernel[kDepth] - 1 - tap : tap;
        for (int64_t c = block.channel; c < block.channel_end; ++c) {
          offsets.push_back(kd * stride[1] + c * stride[4]);
        }
      }
      pack_weight_panel(p_, operands_.w, 0, panels_, i % panels_.count(), offsets,
                        weights_ + block.before * width_);
    });
  }

  void run_piece(const GroupedTasks::Block& piece, Scratch& own) const {
    const int64_t positions = piece.end - piece.begin, at = piece.begin * p_.out_channels;
    const bool in_output = operands_.epilogue.plain() && !narrow_ && width_ == p_.out_channels;
    float* c = in_output ? static_cast<float*>(operands_.y) + at : own.sums;
    for (int64_t panel = 0; panel < panels_.count(); ++panel) run_panel(piece, panel, c, own);
    if (in_output) return;
    if (narrow_) k_.sum_lanes(c, positions * p_.out_channels);
    k_.store_rows(operands_.epilogue, {positions, p_.out_channels, c, narrow_ ? p_.out_channels : width_, 0,
                                       at, p_.out_channels, operands_.y});
  }

  void run_panel(const GroupedTasks::Block& piece, int64_t panel, float* c, Scratch& own) const {
    const float* const* rows = piece.rows.rows;
    const int64_t positions = piece.end - piece.begin, channels = p_.in_channels;
    const int64_t lane = panels_.first_vector(panel) * k_.width;
    const int vectors = panels_.vectors(panel);
    bool started = false;
    for (const Products& block : blocks_) {
      for (int64_t tap = block.tap; tap < block.tap_end;) {
        // Neighbouring taps that meet input are one sum; the others add nothing.
        own.taps.clear();
        const int64_t first = tap;
        for (; tap < block.tap_end && rows[tap] != nullptr; ++tap) {
          own.taps.push_back(rows[tap] + block.channel);
        }
        if (tap == first) {
          ++tap;
          continue;
        }
        const Taps taps{own.taps.data(), tap - first};
        const int64_t skipped = (first - block.tap) * block.channels();
        const float* weights = weights_ + block.before * width_;
        if (narrow_) {
          k_.gemm_narrow(positions, static_cast<int>(p_.out_channels), block.channels(), taps, channels,
                         weights + skipped, block.count(), c, started);
        } else {
          k_.gemm_taps(positions, vectors, block.channels(), taps, channels,
                       weights + lane * block.count() + skipped * vectors * k_.width, c + lane, ldc(),
                       started);
        }
        started = true;
      }
    }
    if (started) return;
    const int64_t sums = narrow_ ? p_.out_channels * k_.width : vectors * k_.width;
    for (int64_t i = 0; i < positions; ++i) std::fill_n(c + i * ldc() + (narrow_ ? 0 : lane), sums, 0.0f);
  }

  int64_t ldc() const { return narrow_ ? p_.out_channels * k_.width : width_; }

  const ConvProblem& p_;
  const Operands& operands_;
  const Kernels& k_;
  JoinedFrames tasks_;
  const Panels panels_;
  const bool narrow_;
  const int64_t width_;
  std::vector<Products> blocks_;
  float* weights_;
  std::vector<Scratch> scratch_;
};

}  // namespace

void frame_gemm(const ConvProblem& problem, const GemmPlan& plan, const Operands& operands,
                Workspace& workspace) {
  const ConvProblem folded = fold_batch(problem);
  Operands joined = operands;
  // Where the items lie as one item's frames would.
  const int64_t* stride = operands.x.stride;
  const bool follows = problem.input[kDepth] == 1 || stride[0] == problem.input[kDepth] * stride[1];
  if (folded == problem || !follows) return FrameGemm(problem, plan, operands, workspace).run();
  if (problem.input[kDepth] == 1) joined.x.stride[1] = stride[0];
  FrameGemm(folded, plan, joined, workspace).run();
}

}  // namespace mlx_conv3d::cpu
