#pragma once

#include <vector>

#include "cpu/grouped_tasks.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// Of a kernel with taps along depth only, the positions of an item's frames as one long row, which may end
/// anywhere in a frame. It is cut where a tap passes from padding to the lead frames, to x, or to padding
/// again, so that between two cuts every tap meets pixels that follow each other. Those that lie so as
/// float32 are read where they are.
class JoinedFrames final : public GroupedTasks {
 public:
  /// Tasks are `cols` positions; what reads a piece's rows may read `slack` floats behind them.
  JoinedFrames(const ConvProblem& problem, int64_t cols, int64_t slack, const Operands& operands,
               Workspace& workspace);

  int64_t count() const override;
  void run(int64_t i, int thread, const Body& f) override;

 private:
  struct Segment {
    int64_t begin, end;         ///< output frames
    std::vector<int64_t> from;  ///< [tap]: the stored frame that the first of them meets, or -1
  };
  /// x or the lead frames.
  struct Array {
    const float* pixels;  ///< of the first item, or null where pixels are not floats that follow each other
    const float* end;
    int64_t first, frames;  ///< of the stored frames
  };
  struct Thread {
    std::vector<float*> staged;  ///< [tap]
    std::vector<const float*> rows;
  };

  void find_segments();
  Array array(const TensorView& view, int64_t first, int64_t frames) const;
  const Array& array_of(int64_t frame) const { return arrays_[frame < p_.lead ? 0 : 1]; }
  int64_t whole_positions(int64_t n, const Segment& segment, int64_t begin, int64_t end) const;
  const float* in_place(int64_t n, int64_t at, int64_t count) const;
  const float* stage(int64_t n, int64_t at, int64_t count, float* to) const;
  void run_piece(int64_t n, const Segment& segment, int64_t begin, int64_t end, Thread& t, const Body& f);

  const int64_t area_;  ///< positions of a frame
  const int64_t cols_;
  const int64_t behind_;      ///< floats
  const int64_t origin_ = 0;  ///< offset of the one column tap
  std::vector<Segment> segments_;
  Array arrays_[2];  ///< lead, x
  std::vector<Thread> threads_;
};

}  // namespace mlx_conv3d::cpu
