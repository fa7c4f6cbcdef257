#include "cpu/frame_gemm.h"

#include <algorithm>
#include <vector>

#include "core/integers.h"
#include "cpu/joined_frames.h"
#include "cpu/row_gather.h"
#include "cpu/threads.h"
#include "cpu/weight_panel.h"

namespace mlx_conv3d::cpu {
namespace {

/// Where the results of a row's positions go: phase r of position j is output j * step + r - crop of its
/// item, if there is such.
struct Outputs {
  int64_t count;  ///< of an item
  int64_t step = 1, crop = 0;
  int64_t weights = 0;  ///< elements from one phase's weights to the next one's
};

class FrameGemm {
 public:
  FrameGemm(const ConvProblem& p, const GemmPlan& plan, const Operands& operands, const Outputs& outputs,
            Workspace& workspace)
      : p_(p),
        operands_(operands),
        outputs_(outputs),
        k_(kernels()),
        tasks_(p, plan.rows, 0, operands, workspace),
        panels_(p.out_channels, k_),
        narrow_(is_narrow(p, k_.width)),
        width_(panels_.vectors_total() * k_.width) {
    const AxisPhase d = axis_phases(p, kDepth, false, false).front(),
                    h = axis_phases(p, kHeight, false, false).front(),
                    w = axis_phases(p, kWidth, false, false).front();
    const Input input(p, operands);
    const RowGather rows(p, input, d, h, w);
    int64_t before = 0;
    // As gather_gemm cuts those of more than a few outputs, so that the frames of a stream have the same bits
    // by either; few outputs always come here.
    for (const auto& segments : rows.blocks(plan.depth, p.taps() * p.in_channels > plan.depth)) {
      const Segment& first = segments.front();
      blocks_.push_back({first.kd, segments.back().kd + 1, first.c_begin, first.c_end, before, {}});
      rows.weight_offsets(segments, operands.w, blocks_.back().offsets);
      before += blocks_.back().count();
    }
    weights_ = workspace.floats(outputs.step * phase_weights());
    const int64_t sums = plan.rows * (narrow_ ? p.out_channels * k_.width : width_);
    for (int t = 0; t < thread_count(); ++t) scratch_.push_back({workspace.floats(sums), {}});
  }

  void run() {
    pack_weights();
    // Phases share their inputs and write what lies together: they are tasks of their own only where pieces
    // are few and nothing has to be converted.
    const bool few = tasks_.count() < 4 * thread_count() && p_.x_type == Dtype::float32;
    const int64_t together = few ? 1 : outputs_.step, tasks = outputs_.step / together;
    parallel_for(tasks_.count() * tasks, [&](int64_t i, int thread) {
      Scratch& own = scratch_[static_cast<size_t>(thread)];
      const int64_t first = i % tasks * together;
      tasks_.run(i / tasks, thread, [&](const GroupedTasks::Block& block) {
        for (int64_t phase = first; phase < first + together; ++phase) run_piece(block, phase, own);
      });
    });
  }

 private:
  /// Products that are summed in registers: taps [tap, tap_end) of channels [channel, channel_end).
  struct Products {
    int64_t tap, tap_end, channel, channel_end;
    int64_t before;                ///< products of the blocks before it
    std::vector<int64_t> offsets;  ///< of its products' weights
    int64_t channels() const { return channel_end - channel; }
    int64_t count() const { return (tap_end - tap) * channels(); }
  };
  struct Scratch {
    float* sums;
    std::vector<const float*> taps;
  };
  /// Neighbouring positions of one phase, from `first` of the row pieces that its taps meet on.
  struct Piece {
    const float* const* rows;
    int64_t first, positions, phase;
  };

  int64_t phase_weights() const { return p_.taps() * p_.in_channels * width_; }

  void pack_weights() {
    const int64_t panels = panels_.count(), blocks = static_cast<int64_t>(blocks_.size());
    parallel_for(outputs_.step * blocks * panels, [&](int64_t i, int) {
      const Products& block = blocks_[static_cast<size_t>(i / panels % blocks)];
      const int64_t phase = i / panels / blocks;
      WeightView w = operands_.w;
      w.data = static_cast<const char*>(w.data) + phase * outputs_.weights * item_size(w.type);
      pack_weight_panel(p_, w, 0, panels_, i % panels, block.offsets,
                        weights_ + phase * phase_weights() + block.before * width_);
    });
  }

  void run_piece(const GroupedTasks::Block& block, int64_t phase, Scratch& own) const {
    const int64_t per_item = p_.out_positions() / p_.batch, step = outputs_.step;
    const int64_t item = block.begin / per_item, first = block.begin % per_item;
    const int64_t shift = outputs_.crop - phase;
    const int64_t begin = std::max(first, divide_up(shift, step));
    const int64_t end = std::min(first + block.end - block.begin, divide_up(outputs_.count + shift, step));
    if (begin >= end) return;
    const Piece piece{block.rows.rows, begin - first, end - begin, phase};
    const int64_t at = (item * outputs_.count + begin * step - shift) * p_.out_channels;
    const bool in_output = operands_.epilogue.plain() && !narrow_ && width_ == p_.out_channels;
    float* c = in_output ? static_cast<float*>(operands_.y) + at : own.sums;
    const int64_t pitch = in_output ? step * width_ : ldc();
    for (int64_t panel = 0; panel < panels_.count(); ++panel) run_panel(piece, panel, c, pitch, own);
    if (in_output) return;
    if (narrow_) k_.sum_lanes(c, piece.positions * p_.out_channels);
    k_.store_rows(operands_.epilogue,
                  {piece.positions, p_.out_channels, c, narrow_ ? p_.out_channels : width_, 0, at,
                   step * p_.out_channels, operands_.y});
  }

  void run_panel(const Piece& piece, int64_t panel, float* c, int64_t pitch, Scratch& own) const {
    const int64_t channels = p_.in_channels, positions = piece.positions;
    const int64_t lane = panels_.first_vector(panel) * k_.width;
    const int vectors = panels_.vectors(panel);
    bool started = false;
    for (const Products& block : blocks_) {
      for (int64_t tap = block.tap; tap < block.tap_end;) {
        // Neighbouring taps that meet input are one sum; the others add nothing.
        own.taps.clear();
        const int64_t first = tap;
        for (; tap < block.tap_end && piece.rows[tap] != nullptr; ++tap) {
          own.taps.push_back(piece.rows[tap] + piece.first * channels + block.channel);
        }
        if (tap == first) {
          ++tap;
          continue;
        }
        const Taps taps{own.taps.data(), tap - first};
        const int64_t skipped = (first - block.tap) * block.channels();
        const float* weights = weights_ + piece.phase * phase_weights() + block.before * width_;
        if (narrow_) {
          k_.gemm_narrow(positions, static_cast<int>(p_.out_channels), block.channels(), taps, channels,
                         weights + skipped, block.count(), c, started);
        } else {
          k_.gemm_taps(positions, vectors, block.channels(), taps, channels,
                       weights + lane * block.count() + skipped * vectors * k_.width, c + lane, pitch,
                       started);
        }
        started = true;
      }
    }
    if (started) return;
    const int64_t sums = narrow_ ? p_.out_channels * k_.width : vectors * k_.width;
    for (int64_t i = 0; i < positions; ++i) std::fill_n(c + i * pitch + (narrow_ ? 0 : lane), sums, 0.0f);
  }

  int64_t ldc() const { return narrow_ ? p_.out_channels * k_.width : width_; }

  const ConvProblem& p_;
  const Operands& operands_;
  const Outputs outputs_;
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
  Operands row = operands;
  if (const auto blocks = output_blocks(problem)) {
    const int64_t tap = operands.w.stride[3], step = blocks->step, taps = blocks->problem.kernel[kDepth];
    row.x.stride[1] = operands.x.stride[3];
    // The first depth tap is the last of each phase in the flipped order, or the first in the given one.
    const int64_t first = problem.flip ? step * (taps - 1) : step - 1;
    row.w.data = static_cast<const char*>(operands.w.data) + first * tap * item_size(operands.w.type);
    row.w.stride[1] = problem.flip ? -step * tap : step * tap;
    const Outputs outputs{problem.output(kWidth), step, blocks->crop, problem.flip ? tap : -tap};
    return FrameGemm(blocks->problem, plan, row, outputs, workspace).run();
  }
  ConvProblem folded = fold_batch(problem);
  // Only where the items lie as one item's frames would.
  const int64_t* stride = operands.x.stride;
  const int64_t frames = problem.input[kDepth];
  if (frames > 1 && stride[0] != frames * stride[1]) folded = problem;
  if (folded != problem && frames == 1) row.x.stride[1] = stride[0];
  FrameGemm(folded, plan, row, {folded.out_positions() / folded.batch}, workspace).run();
}

}  // namespace mlx_conv3d::cpu
