#include "cpu/grouped.h"

#include <algorithm>
#include <utility>

#include "cpu/depthwise.h"
#include "cpu/grouped_forward.h"
#include "cpu/grouped_row_winograd.h"
#include "cpu/grouped_winograd.h"
#include "cpu/threads.h"
#include "cpu/tile_gemm.h"
#include "cpu/weight_panel.h"

namespace mlx_conv3d::cpu {
namespace {

void direct(const ConvProblem& p, const Operands& operands, Workspace& workspace) {
  const Kernels& k = kernels();
  DirectTasks tasks(p, operands);
  float* weights = workspace.floats(tasks.pitch() * p.taps() * p.group_in());
  for (const RowPhase& phase : tasks.phases()) {
    pack_vectors(operands.w, p.out_channels, tasks.weight_offsets(phase, operands.w),
                 weights + phase.first_weight * tasks.pitch());
  }
  std::vector<float*> sums;
  for (int t = 0; t < thread_count(); ++t) sums.push_back(workspace.floats(kDirectPositions * tasks.pitch()));
  parallel_for(tasks.count(), [&](int64_t i, int thread) {
    const DirectTasks::Piece piece = tasks.piece(i);
    DirectRow row = tasks.row(piece, thread);
    row.weights = weights + tasks.phases()[piece.phase].first_weight * tasks.pitch();
    row.out = sums[thread];
    k.direct(p.x_type, row);
    for (int64_t j = piece.begin; j < piece.end; ++j) {
      const int64_t at = tasks.output_offset(piece, j);
      k.store(operands.epilogue, sums[thread] + (j - piece.begin) * tasks.pitch(), 0, at,
              static_cast<char*>(operands.y) + at * item_size(p.out_type), p.out_channels);
    }
  });
}

LaneShape shape_of(const int32_t* source, int width, int64_t group_in, bool whole_vector) {
  bool same = true, follows = group_in == 1 && whole_vector;
  for (int l = 1; l < width; ++l) {
    same = same && source[l] == source[0];
    follows = follows && source[l] == source[0] + l;
  }
  if (follows) return kContiguous;
  if (same) return kBroadcast;
  return source[width - 1] - source[0] + group_in <= 2 * width ? kWindow : kGather;
}

}  // namespace

DirectTasks::DirectTasks(const ConvProblem& problem, const Operands& operands)
    : p_(problem),
      input_(problem, operands),
      d_(axis_phases(problem, kDepth, false).front()),
      h_(axis_phases(problem, kHeight, false).front()),
      phases_(row_phases(problem, d_, h_)),
      zeros_(static_cast<size_t>(problem.in_channels * 4 + 64)),
      rows_(problem.batch * d_.count * h_.count),
      pixels_(static_cast<size_t>(thread_count())) {
  const int width = kernels().width;
  vectors_ = (p_.out_channels + width - 1) / width;
  for (int64_t o = 0; o < vectors_ * width; ++o) {
    const int64_t group = std::min(o, p_.out_channels - 1) / p_.group_out();
    source_.push_back(static_cast<int32_t>(group * p_.group_in()));
  }
  for (int64_t v = 0; v < vectors_; ++v) {
    const bool whole = (v + 1) * width <= p_.out_channels;
    shape_.push_back(shape_of(source_.data() + v * width, width, p_.group_in(), whole));
  }
  for (size_t i = 0; i < phases_.size(); ++i) {
    const int64_t positions = phases_[i].axis.count;
    const int64_t parts = (positions + kDirectPositions - 1) / kDirectPositions;
    for (int64_t part = 0; part < parts; ++part) {
      pieces_.push_back(
          {0, static_cast<int64_t>(i), positions * part / parts, positions * (part + 1) / parts});
    }
    columns_ = std::max(columns_, phases_[i].columns(kDirectPositions));
    std::vector<int64_t> columns(phases_[i].axis.taps.empty() ? 0 : phases_[i].columns(positions));
    for (size_t q = 0; q < columns.size(); ++q) columns[q] = phases_[i].column(p_, static_cast<int64_t>(q));
    columns_of_.push_back(std::move(columns));
  }
  for (auto& list : pixels_) list.resize(static_cast<size_t>(d_.tap_count() * h_.tap_count() * columns_));
}

int64_t DirectTasks::pitch() const { return vectors_ * kernels().width; }

DirectTasks::Piece DirectTasks::piece(int64_t i) const {
  const int64_t per_row = static_cast<int64_t>(pieces_.size());
  Piece piece = pieces_[static_cast<size_t>(i % per_row)];
  piece.row = i / per_row;
  return piece;
}

DirectRow DirectTasks::row(const Piece& piece, int thread) {
  const int64_t oh = piece.row % h_.count, od = piece.row / h_.count % d_.count,
                n = piece.row / h_.count / d_.count;
  const RowPhase& phase = phases_[piece.phase];
  const int64_t positions = piece.end - piece.begin, first = piece.begin * phase.stride;
  const int64_t used = phase.axis.taps.empty() ? 0 : phase.columns(positions);
  const void** to = pixels_[thread].data();
  for (int64_t kd = 0; kd < d_.tap_count(); ++kd) {
    const int64_t sd = d_.source(kd, od);
    const Frame frame = sd < 0 ? Frame{} : input_.frame(n, sd);
    for (int64_t kh = 0; kh < h_.tap_count(); ++kh, to += columns_) {
      const int64_t sh = h_.source(kh, oh);
      const bool nothing = sd < 0 || sh < 0;
      for (int64_t t = 0; t < used; ++t) {
        const int64_t sw = columns_of_[piece.phase][static_cast<size_t>(first + t)];
        to[t] = nothing  ? nullptr
                : sw < 0 ? zeros_.data()
                         : frame.data + sh * frame.row_stride + sw * frame.col_stride;
      }
    }
  }
  DirectRow row{};
  row.pixels = pixels_[thread].data();
  row.columns = columns_;
  row.row_taps = d_.tap_count() * h_.tap_count();
  row.col_taps = phase.axis.tap_count();
  row.stride = phase.stride;
  row.dilation = phase.dilation;
  row.positions = positions;
  row.channels = p_.in_channels;
  row.group_in = p_.group_in();
  row.vectors = vectors_;
  row.source = source_.data();
  row.shape = shape_.data();
  return row;
}

void grouped(const ConvProblem& problem, const Candidate& plan, const Operands& operands,
             Workspace& workspace) {
  if (plan.grouped_winograd.rows) {
    return grouped_row_winograd(problem, plan.grouped_winograd, operands, workspace);
  }
  if (plan.grouped_winograd.m > 0) {
    return grouped_winograd(problem, plan.grouped_winograd, operands, workspace);
  }
  const bool kernel = plan.grouped.kernel >= 0;
  if (!kernel && !is_direct(problem)) return blocked_products(problem, plan.gemm, operands, {}, workspace);
  if (plan.gemm.tile.parts > 0 && tile_gemm(problem, plan.gemm.tile, operands, false, workspace)) return;
  if (plan.grouped.vectors > 0) {
    depthwise_in_place(problem, plan.grouped, operands, workspace);
  } else if (kernel) {
    grouped_by_kernel(problem, plan.grouped, operands, workspace);
  } else {
    direct(problem, operands, workspace);
  }
}

}  // namespace mlx_conv3d::cpu
