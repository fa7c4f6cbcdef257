#pragma once

#include <string>

#include "core/device.h"
#include "core/grouped_kernels.h"
#include "core/problem.h"

namespace mlx_conv3d {

/// How staged rows (cpu/grouped_rows.h) are walked: tasks of `frames` output frames by `band` output rows by
/// `cols` output columns of one phase, each of which holds the rows that its kernel's depth taps meet.
struct GroupedPlan {
  int kernel = -1;  ///< index in kGroupedKernels, or -1: the direct kernels or blocked products
  int64_t frames = 0, band = 0, cols = 0;
  /// The positions of all frames are one long row (cpu/joined_frames.h), and tasks are `cols` of them.
  bool joined = false;
  int64_t vectors = 0;  ///< of channels in a task, where depthwise rows are read in place; else 0
  /// Depthwise rows in place: operands come from beyond the cores' caches, and are asked for blocks ahead.
  bool far = false;
  /// Staged rows of pairs of bf16, of which there are half as many: the plan is that of
  /// paired_channels(problem).
  bool pairs = false;
};

std::string name_of(const GroupedKernel& kernel);
const char* name_of(GroupedFamily family);
/// What a problem must have beyond the kernel's numbers; empty if nothing.
std::string constraints_of(const GroupedKernel& kernel);

/// Index of the kernel for this problem, or -1.
int grouped_kernel(const ConvProblem& problem, int vector_width);
/// By staged rows, as dL/dw walks them.
GroupedPlan make_grouped_plan(const ConvProblem& problem, const Device& device);
/// The same, or by joined frames where taps along depth are the only ones, or by rows read in place.
GroupedPlan make_grouped_forward_plan(const ConvProblem& problem, const Device& device);

/// The problem with each two input channels of a group as one, which is to hold both.
ConvProblem paired_channels(const ConvProblem& problem);
/// By staged rows of pairs; kernel is -1 where there is none for them.
GroupedPlan make_grouped_pairs_plan(const ConvProblem& problem, const Device& device);

/// dL/dw with rows read in place; `vectors` is 0 where that is not possible.
GroupedPlan make_depthwise_gradient_plan(const ConvProblem& problem, const Device& device);
/// Shares of its frames and bands, whose sums are added in the end.
int64_t depthwise_gradient_shares(const ConvProblem& problem, const GroupedPlan& plan, int cores);
/// Output rows whose dL/dy is converted to float32 at a time, and how many floats that is.
inline constexpr int64_t kDepthwiseGradientRows = 2;
int64_t depthwise_gradient_floats(const ConvProblem& problem);
int64_t depthwise_gradient_workspace(const ConvProblem& problem, const Device& device,
                                     const GroupedPlan& plan);

/// Positions of a set: 1 where vectors of outputs fill a position well, else what fills whole vectors.
int64_t grouped_set_positions(int64_t out_channels, int vector_width);
/// Vectors of outputs in a set.
inline int64_t grouped_set_vectors(int64_t out_channels, int vector_width) {
  const int64_t floats = grouped_set_positions(out_channels, vector_width) * out_channels;
  return (floats + vector_width - 1) / vector_width;
}
/// Whether rows are staged in blocks: for every vector of a position its inputs of all columns, so that
/// neighbouring taps meet neighbouring vectors. Else a row is staged as it lies in memory.
bool grouped_blocks(const ConvProblem& problem, int vector_width);
/// Groups whose outputs a vector has, where blocks are woven (PixelBlocks): vectors begin with a group, and
/// each has several. Else 0.
int64_t grouped_woven(const ConvProblem& problem, const GroupedKernel& kernel, int vector_width);
/// Groups of as many inputs as outputs that fill a vector together, two or four; else 1.
int woven_groups(const ConvProblem& problem, int vector_width);
/// Floats of one pixel in a block: whole vectors with the inputs of any vector of outputs.
int64_t grouped_window(const ConvProblem& problem, int vector_width);
/// Floats from one block to the next, of so many columns.
int64_t grouped_block_pitch(const ConvProblem& problem, int vector_width, int64_t columns);

/// Floats that kernels may read behind a row's last input, and write behind its last output.
int64_t grouped_slack(const ConvProblem& problem, int vector_width);
/// Floats of one staged row of `cols` positions, slack included.
int64_t grouped_row_floats(const ConvProblem& problem, int vector_width, int64_t cols);
/// The most input rows that a band of output rows meets in a frame.
int64_t grouped_band_rows(const ConvProblem& problem, int64_t band);
/// Floats that a thread stages.
int64_t grouped_staged_floats(const ConvProblem& problem, int vector_width, const GroupedPlan& plan);
int64_t grouped_workspace(const ConvProblem& problem, const Device& device, const GroupedPlan& plan);
int64_t grouped_gradient_workspace(const ConvProblem& problem, const Device& device, const GroupedPlan& plan);

/// Whether the positions of all frames are one row to every tap, so that cpu/joined_frames.h can read it.
bool joins_frames(const ConvProblem& problem);

/// Batches as frames, where no tap, lead frame or padding tells their frames apart.
ConvProblem fold_batch(const ConvProblem& problem);

/// Rows, and frames and batches too, as one long row, where no tap or padding tells them apart.
ConvProblem fold_rows(const ConvProblem& problem);

}  // namespace mlx_conv3d
