#include "cpu/grouped_rows.h"

#include <algorithm>
#include <cstring>

#include "core/integers.h"
#include "cpu/simd/tile_kernels.h"
#include "cpu/threads.h"

namespace mlx_conv3d::cpu {
namespace {

/// Bytes of what the strides of paired channels count.
constexpr int64_t kPairedItem = sizeof(uint16_t);

}  // namespace

StagedRows::StagedRows(const ConvProblem& p, const GroupedPlan& plan, const Operands& operands, bool in_place,
                       Workspace& workspace)
    : GroupedTasks(p, plan.pairs ? Input(p, operands, kPairedItem) : Input(p, operands), true),
      plan_(plan),
      in_place_(in_place && p.x_type == Dtype::float32),
      blocked_(grouped_blocks(p, k_.width)),
      woven_(in_place ? grouped_woven(p, kGroupedKernels.at[plan.kernel], k_.width) : 0),
      pixel_(blocked_ ? grouped_window(p, k_.width) : p.in_channels),
      frames_(p.batch * divide_up(d_.count, plan.frames)),
      bands_(divide_up(h_.count, plan.band)),
      row_floats_(grouped_row_floats(p, k_.width, plan.cols)),
      band_rows_(grouped_band_rows(p, plan.band)) {
  for (const GroupedVector& vector : vectors_) {
    if (blocks_.empty() || blocks_.back() != vector.in) blocks_.push_back(vector.in);
    block_of_.push_back(static_cast<int64_t>(blocks_.size()) - 1);
  }
  if (woven_ > 0) order_ = woven_order(p.group_in(), woven_, pixel_);
  for (size_t i = 0; i < phases_.size(); ++i) make_pieces(static_cast<int64_t>(i));
  threads_.resize(static_cast<size_t>(thread_count()));
  for (Thread& t : threads_) {
    t.staged = workspace.floats(d_.tap_count() * band_rows_ * row_floats_);
    t.at.resize(static_cast<size_t>(d_.tap_count() * band_rows_));
    t.frame_slot.resize(static_cast<size_t>(d_.tap_count()));
    t.rows.resize(static_cast<size_t>(d_.tap_count() * h_.tap_count()));
  }
}

void StagedRows::make_pieces(int64_t phase) {
  const int64_t positions = phases_[static_cast<size_t>(phase)].axis.count;
  const int64_t parts = divide_up(positions, plan_.cols);
  for (int64_t part = 0; part < parts; ++part) {
    pieces_.push_back(make_piece(phase, positions * part / parts, positions * (part + 1) / parts));
  }
}

/// Taps of one residue of the stride are staged as a strip of columns that far apart, one strip after the
/// other.
StagedRows::Piece StagedRows::make_piece(int64_t index, int64_t begin, int64_t end) const {
  const RowPhase& phase = phases_[static_cast<size_t>(index)];
  Piece piece{index, begin, end, {}, std::vector<int64_t>(phase.axis.taps.size()), 0, vectors_};
  const int64_t taps = phase.axis.tap_count();
  for (int64_t residue = 0; residue < std::min(phase.stride, taps * phase.dilation); ++residue) {
    int64_t columns = 0;
    for (int64_t t = 0; t < taps; ++t) {
      if (t * phase.dilation % phase.stride != residue) continue;
      const int64_t beyond = t * phase.dilation / phase.stride;
      columns = end - begin + beyond;
      piece.offsets[static_cast<size_t>(t)] = (piece.columns + beyond) * pixel_;
    }
    for (int64_t i = 0; i < columns; ++i, ++piece.columns) {
      const int64_t column = phase.column(p_, (begin + i) * phase.stride + residue);
      Run* last = piece.runs.empty() ? nullptr : &piece.runs.back();
      if (last != nullptr && column == (last->column < 0 ? -1 : last->column + last->count)) {
        ++last->count;
      } else {
        piece.runs.push_back({piece.columns, column, 1});
      }
    }
  }
  for (size_t v = 0; blocked_ && v < vectors_.size(); ++v) {
    piece.vectors[v].in = static_cast<int32_t>(block_of_[v] * pitch(piece));
  }
  return piece;
}

/// The input rows that output rows [first, last) meet, each once.
void StagedRows::find_rows(int64_t first, int64_t last, Thread& t) const {
  t.inputs.clear();
  t.row_slot.clear();
  for (int64_t oh = first; oh < last; ++oh) {
    for (int64_t kh = 0; kh < h_.tap_count(); ++kh) {
      const int64_t sh = h_.source(kh, oh);
      const auto found = std::find(t.inputs.rbegin(), t.inputs.rend(), sh);
      t.row_slot.push_back(sh < 0                     ? -1
                           : found != t.inputs.rend() ? t.inputs.rend() - found - 1
                                                      : static_cast<int64_t>(t.inputs.size()));
      if (sh >= 0 && found == t.inputs.rend()) t.inputs.push_back(sh);
    }
  }
}

/// Stages the frames that output frame `od` meets and that are not there yet.
void StagedRows::find_frames(const Piece& piece, int64_t n, int64_t od, Thread& t) const {
  const int64_t taps = d_.tap_count();
  const auto needed = [&](int64_t frame) {
    for (int64_t kd = 0; kd < taps; ++kd) {
      if (d_.source(kd, od) == frame) return true;
    }
    return false;
  };
  for (int64_t kd = 0; kd < taps; ++kd) {
    const int64_t sd = d_.source(kd, od);
    auto slot = std::find(t.frames.begin(), t.frames.end(), sd);
    if (sd >= 0 && slot == t.frames.end()) {
      slot = std::find_if(t.frames.begin(), t.frames.end(), [&](int64_t f) { return f < 0 || !needed(f); });
      *slot = sd;
      stage_frame(piece, input_.frame(n, sd), slot - t.frames.begin(), t);
    }
    t.frame_slot[static_cast<size_t>(kd)] = sd < 0 ? -1 : slot - t.frames.begin();
  }
}

void StagedRows::stage_frame(const Piece& piece, const Frame& frame, int64_t slot, Thread& t) const {
  for (size_t i = 0; i < t.inputs.size(); ++i) {
    const int64_t index = slot * band_rows_ + static_cast<int64_t>(i);
    t.at[static_cast<size_t>(index)] = stage_row(piece, frame.data + t.inputs[i] * frame.row_stride,
                                                 frame.col_stride, t.staged + index * row_floats_);
  }
}

uint32_t StagedRows::look(const Run& run, const char* from, int64_t col_stride) const {
  TileRows rows{};
  rows.type = Dtype::bfloat16;
  rows.src = from;
  rows.rows = run.count;
  rows.n = 2 * p_.in_channels;
  rows.src_stride = col_stride / kPairedItem;
  return k_.tiles->look(rows, false);
}

bool StagedRows::lies_staged(const Piece& piece, int64_t col_stride) const {
  if (!in_place_ || blocked_ || piece.runs.size() != 1 || piece.runs[0].column < 0) return false;
  const int64_t end = (piece.runs[0].column + piece.columns) * p_.in_channels + slack_;
  return col_stride == p_.in_channels * 4 && end <= p_.input[kWidth] * p_.in_channels;
}

const float* StagedRows::stage_row(const Piece& piece, const char* row, int64_t col_stride, float* to) const {
  for (const Run& run : piece.runs) {
    if (!plan_.pairs || run.column < 0) continue;
    raise_to(largest_, look(run, row + run.column * col_stride, col_stride));
  }
  if (lies_staged(piece, col_stride)) {
    return reinterpret_cast<const float*>(row + piece.runs[0].column * col_stride);
  }
  for (const Run& run : piece.runs) stage_run(piece, run, row + run.column * col_stride, col_stride, to);
  const int64_t end = blocked_ ? static_cast<int64_t>(blocks_.size()) * pitch(piece) : piece.columns * pixel_;
  std::memset(to + end, 0, static_cast<size_t>(slack_) * sizeof(float));
  return to;
}

void StagedRows::stage_run(const Piece& piece, const Run& run, const char* from, int64_t col_stride,
                           float* to) const {
  to += run.at * pixel_;
  const int64_t parts = blocked_ ? static_cast<int64_t>(blocks_.size()) : 1, channels = p_.in_channels;
  if (run.column < 0) {
    for (int64_t b = 0; b < parts; ++b) {
      std::memset(to + b * pitch(piece), 0, static_cast<size_t>(run.count * pixel_) * sizeof(float));
    }
  } else if (blocked_) {
    k_.stage_blocks(p_.x_type, {from, col_stride, run.count, channels, parts, blocks_.data(), pixel_,
                                woven_ > 0 ? order_.data() : nullptr, to, pitch(piece)});
  } else if (col_stride == channels * item_size(p_.x_type)) {
    k_.to_float(p_.x_type, from, to, run.count * channels);
  } else {
    for (int64_t i = 0; i < run.count; ++i) {
      k_.to_float(p_.x_type, from + i * col_stride, to + i * channels, channels);
    }
  }
}

void StagedRows::run(int64_t i, int thread, const Body& f) {
  const int64_t pieces = static_cast<int64_t>(pieces_.size()), per_batch = frames_ / p_.batch;
  const Piece& piece = pieces_[static_cast<size_t>(i % pieces)];
  const int64_t band = i / pieces % bands_, part = i / pieces / bands_ % per_batch,
                n = i / pieces / bands_ / per_batch;
  const int64_t first = h_.count * band / bands_, last = h_.count * (band + 1) / bands_;
  const RowPhase& phase = phases_[static_cast<size_t>(piece.phase)];
  Thread& t = threads_[static_cast<size_t>(thread)];
  t.frames.assign(static_cast<size_t>(d_.tap_count()), -1);
  find_rows(first, last, t);

  Block block{};
  const bool nothing = phase.axis.taps.empty();  // every tap falls between the pixels
  block.phase = piece.phase;
  block.begin = piece.begin;
  block.end = piece.end;
  block.rows = rows_of(piece.end - piece.begin, pixel_, piece.vectors);
  GroupedRows& r = block.rows;
  r.rows = t.rows.data();
  r.col_taps = phase.axis.tap_count();
  r.col_offsets = piece.offsets.data();
  r.spacing = phase.stride == 1 && phase.dilation % set_ == 0 ? phase.dilation / set_ : 0;
  r.woven = woven_ > 0;
  for (int64_t od = d_.count * part / per_batch; od < d_.count * (part + 1) / per_batch; ++od) {
    find_frames(piece, n, od, t);
    for (int64_t oh = first; oh < last; ++oh) {
      for (int64_t kd = 0; kd < d_.tap_count(); ++kd) {
        const int64_t slot = t.frame_slot[static_cast<size_t>(kd)];
        for (int64_t kh = 0; kh < h_.tap_count(); ++kh) {
          const int64_t row = t.row_slot[static_cast<size_t>((oh - first) * h_.tap_count() + kh)];
          t.rows[static_cast<size_t>(kd * h_.tap_count() + kh)] =
              nothing || slot < 0 || row < 0 ? nullptr : t.at[static_cast<size_t>(slot * band_rows_ + row)];
        }
      }
      block.row = (n * d_.count + od) * h_.count + oh;
      f(block);
    }
  }
}

}  // namespace mlx_conv3d::cpu
