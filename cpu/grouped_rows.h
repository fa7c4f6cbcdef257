#pragma once

#include <atomic>
#include <vector>

#include "cpu/grouped_tasks.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// Output rows for the grouped kernels, forward and backward. A task stages the input rows that its band of
/// output rows meets: as float32, padding written out, in blocks or pixel by pixel (grouped_blocks). Going
/// through its output frames it keeps the frames that are met again. Columns of a strided row are staged
/// strip by strip, so that the positions' inputs are neighbours at every tap.
class StagedRows final : public GroupedTasks {
 public:
  /// With `in_place`, rows that lie in the input as they would be staged are read there; what follows them is
  /// then not zero. Without it blocks are not woven.
  StagedRows(const ConvProblem& problem, const GroupedPlan& plan, const Operands& operands, bool in_place,
             Workspace& workspace);

  int64_t count() const override { return frames_ * bands_ * static_cast<int64_t>(pieces_.size()); }
  void run(int64_t i, int thread, const Body& f) override;
  int64_t woven() const override { return woven_; }
  uint32_t largest() const override { return largest_.load(); }

 private:
  /// Staged columns that follow each other in the stored row too, or that are all zeros.
  struct Run {
    int64_t at;      ///< of the staged columns
    int64_t column;  ///< of the stored row, or -1
    int64_t count;
  };
  struct Piece {
    int64_t phase, begin, end;
    std::vector<Run> runs;
    std::vector<int64_t> offsets;  ///< [column tap]: floats from a position's first input
    int64_t columns;
    std::vector<GroupedVector> vectors;  ///< with places in the staged row
  };
  struct Thread {
    float* staged;
    std::vector<int64_t> frames;      ///< [slot]: the input frame it holds, or -1
    std::vector<const float*> at;     ///< [slot][input row of the band]
    std::vector<int64_t> inputs;      ///< input rows of the band
    std::vector<int64_t> row_slot;    ///< [output row of the band][tap]: index into inputs, or -1
    std::vector<int64_t> frame_slot;  ///< [tap], or -1
    std::vector<const float*> rows;   ///< the kernel's
  };

  int64_t pitch(const Piece& piece) const { return grouped_block_pitch(p_, k_.width, piece.columns); }
  void stage_run(const Piece& piece, const Run& run, const char* from, int64_t col_stride, float* to) const;
  void make_pieces(int64_t phase);
  Piece make_piece(int64_t phase, int64_t begin, int64_t end) const;
  void find_rows(int64_t first, int64_t last, Thread& t) const;
  void find_frames(const Piece& piece, int64_t n, int64_t od, Thread& t) const;
  void stage_frame(const Piece& piece, const Frame& frame, int64_t slot, Thread& t) const;
  const float* stage_row(const Piece& piece, const char* row, int64_t col_stride, float* to) const;
  bool lies_staged(const Piece& piece, int64_t col_stride) const;
  uint32_t look(const Run& run, const char* from, int64_t col_stride) const;

  const GroupedPlan plan_;
  const bool in_place_;
  const bool blocked_;
  const int64_t woven_;
  const int64_t pixel_;  ///< floats from one staged column to the next
  int64_t frames_, bands_, row_floats_, band_rows_;
  std::vector<int32_t> blocks_;    ///< first input channel of each
  std::vector<int64_t> block_of_;  ///< [vector]
  std::vector<int32_t> order_;     ///< of a woven block
  std::vector<Piece> pieces_;
  std::vector<Thread> threads_;
  mutable std::atomic<uint32_t> largest_{0};
};

}  // namespace mlx_conv3d::cpu
