#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/integers.h"
#include "core/plan_grouped.h"
#include "core/plan_grouped_winograd.h"
#include "core/plan_unit_gradient.h"
#include "core/problem.h"
#include "core/winograd_form.h"

namespace mlx_conv3d {

enum class Algorithm : uint8_t {
  winograd,
  taps,
  temporal,
  pointwise,
  patchify,
  grouped,
  transposed,
  implicit_gemm,
  stock
};
/// In order of preference where costs tie: the particular before the general.
inline constexpr Algorithm kAlgorithms[] = {
    Algorithm::winograd, Algorithm::pointwise,     Algorithm::patchify,
    Algorithm::temporal, Algorithm::grouped,       Algorithm::transposed,
    Algorithm::taps,     Algorithm::implicit_gemm, Algorithm::stock};

const char* name_of(Algorithm algorithm);
/// nullopt for an unknown name.
std::optional<Algorithm> algorithm_named(const std::string& name);

/// Products that one step of a matrix unit sums.
inline constexpr int64_t kMatrixDepth = 32;

/// How winograd walks its problem: chunks of tiles and frames are transformed, multiplied and transformed
/// back.
struct WinogradPlan {
  int m = 4;           ///< outputs of a tile along an axis: F(m, taps); 1: along depth alone, only on Metal,
                       ///< where a single row is taken for such a problem (kRowAlongDepth)
  int64_t tiles = 0;   ///< tiles per chunk, over batch, rows and columns
  int64_t frames = 0;  ///< output frames per chunk
  int64_t out_slice = 0;  ///< output channels whose transformed weights are held at a time
  int depth_m = 1;        ///< see WinogradForm; along depth alone F(depth_m, 3)
  Pixels pixels = Pixels::single;
  int weight_rows = 0;  ///< rows of the (m+2)x(m+2) frequencies whose weights are held at a time, made anew
                        ///< for every chunk; 0: all of them, made once; only on Metal
  bool tile_rows = false;   ///< these rows are all that is held of the tiles, too
  int parts = 0;            ///< see WinogradForm
  bool fused = false;       ///< along depth alone: only the weights are in scratch, and a slice is one chunk
  bool float24 = false;     ///< tiles and products have 24 bits in scratch; only on Metal
  int64_t weight_outs = 0;  ///< with weight_rows: output channels whose weights are held at a time; 0: a
                            ///< slice's. All of a slice pass a chunk before the next frequencies, or chunk,
                            ///< come
  int64_t weight_channels = 0;  ///< input channels whose weights a thread makes at a time, of one panel of
                                ///< output channels, to multiply with them at once; 0: all are made
                                ///< beforehand; only on CPUs
  bool thread_chunks = false;   ///< each chunk is one thread's and stays in its cache; else all threads share
                                ///< one; only on CPUs
  int taps = 3;                 ///< see WinogradForm
  int row_taps = 0;             ///< see WinogradForm; 1: of the problem with_axes(winograd_axis_order); only
                                ///< on CPUs

  bool along_depth() const { return m == 1; }
  WinogradForm form() const { return {m, pixels, depth_m, parts, row_taps, taps}; }
};

/// Chunks of a CPU's form.
inline WinogradPlan winograd_plan(const WinogradForm& form, int64_t tiles, int64_t frames,
                                  int64_t out_slice) {
  WinogradPlan plan{form.m, tiles, frames, out_slice, form.depth_m, form.pixels};
  plan.parts = form.parts;
  plan.taps = form.taps;
  plan.row_taps = form.row_taps;
  return plan;
}

/// Input frames that `frames` consecutive output frames read.
inline int64_t winograd_input_frames(const ConvProblem& p, int64_t frames) {
  return (frames - 1) * p.stride[kDepth] + (p.kernel[kDepth] - 1) * p.dilation[kDepth] + 1;
}
/// Whether F(2, 3) can run over a problem's frames.
inline bool fits_depth_winograd(const ConvProblem& p) {
  return p.kernel[kDepth] == 3 && p.stride[kDepth] == 1 && p.dilation[kDepth] == 1 &&
         p.input_dilation[kDepth] == 1 && (p.per_frame || p.output(kDepth) > 1);
}
/// Transformed weights along depth: taps, or frequencies.
inline int64_t winograd_depth_terms(int64_t depth_taps, int depth_m) { return depth_m == 2 ? 4 : depth_taps; }
/// Elements from one transformed tile to the next: whole vectors, or steps of a matrix unit, off the strides
/// that meet in one cache set.
inline int64_t winograd_channel_pitch(int64_t channels, int vector_width, int parts = 0) {
  const int64_t unit = parts > 0 ? kMatrixDepth : vector_width;
  const int64_t whole = round_up(channels, unit);
  return whole % 512 == 0 && whole > 0 ? whole + unit : whole;
}

/// Items from one bf16 part of `items` to the next, which starts in another cache set.
inline int64_t winograd_part_stride(int64_t items) { return round_up(items, 2048) + 320; }

/// Rows (tiles of pairs of frames) whose depth frequencies a thread holds at a time.
inline int64_t winograd_depth_rows(int64_t channel_pitch, int parts = 0) {
  const int64_t pitch = std::max<int64_t>(1, channel_pitch);
  if (parts > 0) return std::clamp<int64_t>((int64_t{3} << 19) / (8 * parts * pitch) / 32 * 32, 64, 512);
  return std::clamp<int64_t>((int64_t{1} << 20) / (16 * pitch), 48, 192);
}
/// Items that one part of them takes: a matrix unit reads rows up to the next multiple of 16.
inline int64_t winograd_depth_part(int64_t channel_pitch, int parts) {
  return winograd_part_stride((winograd_depth_rows(channel_pitch, parts) + 16) * channel_pitch);
}

/// Floats that a thread needs for them: four terms, and of frames without a partner the products with a
/// panel.
inline int64_t winograd_depth_floats(int64_t channel_pitch, int64_t panel, int parts = 0) {
  const int64_t rows = winograd_depth_rows(channel_pitch, parts);
  const int64_t term =
      parts > 0 ? parts * winograd_depth_part(channel_pitch, parts) / 2 : rows * channel_pitch;
  return 4 * term + rows * panel;
}

/// Floats that hold the transformed tiles of `rows` (frame, tile) of all frequencies.
inline int64_t winograd_input_floats(const WinogradForm& form, int64_t rows, int64_t channel_pitch) {
  const int64_t elements = form.all_pixels() * rows * channel_pitch;
  if (form.parts == 0 || form.depth_m == 2) return elements;
  return (form.parts * winograd_part_stride(elements) + 16 * channel_pitch) / 2;
}

/// Where weights are made panel by panel, floats from one to the next: off the strides that meet in one cache
/// set.
inline int64_t winograd_weight_stride(const WinogradPlan& plan, int64_t panel) {
  return plan.weight_channels * panel + 16;
}
/// Floats of a thread's scratch where weights are made panel by panel: those of plan.weight_channels, and the
/// sums of all `rows` (frame, tile).
inline int64_t winograd_panel_floats(const WinogradPlan& plan, int64_t rows, int64_t panel) {
  return plan.form().all_weights() * winograd_weight_stride(plan, panel) +
         plan.form().all_products() * rows * panel;
}

/// How they run on a CPU's matrix unit, which multiplies bf16: tasks of a block of `rows` by `cols` outputs
/// in each of `frames` frames, by `task_panels` panels of 32 output channels.
struct TilePlan {
  int parts = 0;          ///< bf16 parts that operands are split into; 0: the unit is not used
  bool half = false;      ///< one part, of fp16
  bool pairs = false;     ///< pairs of bf16 in vectors: no rows or products beside those that there are
  bool in_place = false;  ///< the left operand is x itself, with no copy of a block of it
  int64_t rows = 0, cols = 0, frames = 0;
  int64_t task_panels = 0;
  int64_t panels = 0;         ///< whose sums are held at a time
  int64_t groups = 1;         ///< whose weights are packed at a time
  int64_t weight_panels = 0;  ///< and of these the panels: all their outputs come before the next ones'
  bool own_weights = false;   ///< not packed in advance: each task packs a block of steps and multiplies it
};

/// How the GEMM algorithms walk theirs: tasks of `rows` output positions by `cols` output channels.
struct GemmPlan {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t depth = 0;           ///< products summed in registers before they join the sums in memory
  bool packed_weights = true;  ///< packed once for all tasks, or by each task for itself
  int64_t piece_rows = 0;      ///< of a task's rows, how many are multiplied at a time; only gather_gemm's
  TilePlan tile{};             ///< used first; the rest is for data that it does not fit
  /// Output frames, rows and columns of a task that copies the input rows it meets once, for all their taps;
  /// 0 where the inputs are gathered for each position.
  int64_t tile_frames = 0, tile_rows = 0, tile_cols = 0;

  bool whole_patches = false;  ///< patchify: of fold_patches(p), x and w being contiguous
  bool joined_phases = false;  ///< transposed: all phases read the same rows in one task
  bool joined_frames = false;  ///< taps along depth only: tasks are `rows` positions of all frames

  bool buffers_rows() const { return tile_rows > 0; }
};

/// Whether each output of a transposed convolution is one input times one tap, with none left over: a kernel
/// as large as its stride.
bool is_one_tap_per_output(const ConvProblem& problem);
/// Of a 1-D transposed convolution whose kernel is some times as long as its stride, the outputs in blocks of
/// a stride each, which all meet the same inputs: output `step * j + phase - crop` is that of position j of
/// `problem`, whose kernel has every step-th tap from the phase's first on.
struct OutputBlocks {
  ConvProblem problem;  ///< of one phase; its taps are along depth
  int64_t step, crop;
};
std::optional<OutputBlocks> output_blocks(const ConvProblem& problem);
/// Of a problem that patchify can run, whose kernel meets all of a batch entry's x at once: every patch a
/// pixel of as many channels as it has numbers. p itself where its kernel does not.
ConvProblem fold_patches(const ConvProblem& p);
/// Of a padded input axis, the positions that `outputs` neighbouring outputs span.
inline int64_t input_span(const ConvProblem& p, int axis, int64_t outputs) {
  return (outputs - 1) * p.stride[axis] + (p.kernel[axis] - 1) * p.dilation[axis] + 1;
}
/// Floats of the rows that a tile of outputs of one frame and group meets.
inline int64_t row_buffer_floats(const ConvProblem& p, int64_t rows, int64_t cols) {
  return p.kernel[kDepth] * input_span(p, kHeight, rows) * input_span(p, kWidth, cols) * p.group_in();
}

struct Candidate {
  Algorithm algorithm = Algorithm::implicit_gemm;
  bool legal = false;
  std::string reason;  ///< why it is not legal, or what it does here
  double cost = 0;     ///< modelled seconds
  double flops = 0;    ///< executed
  double bytes = 0;    ///< moved between memory and the cores, modelled
  int64_t workspace = 0;
  WinogradPlan winograd;
  GemmPlan gemm;
  GroupedPlan grouped;
  GroupedWinogradPlan grouped_winograd;  ///< instead of `grouped`
};

/// "; modelled 1.50x the speed of stock", at the other's cost.
std::string compared(const Candidate& candidate, const char* other, double other_cost);

struct Plan {
  Candidate chosen;
  std::string reason;
  double direct_flops = 0;
  std::vector<Candidate> candidates;

  Algorithm algorithm() const { return chosen.algorithm; }
};

/// The plan of a problem `per_frame` has the algorithm and the tile of a problem of kPlannedFrames output
/// frames and the same frame size: whatever orders an output's sums. A stream computed in chunks, each with
/// the frames before it as lead, so gives the bits of one call. Pairs of frames are those of the stream:
/// `odd_frame` says whether a chunk begins with the second of one. Chunk and block sizes follow the real
/// size.
inline constexpr int64_t kPlannedFrames = 4;

/// Pure: the same arguments give the same plan. `limit` bounds the workspace in bytes. With `forced`, the
/// plan takes that algorithm or throws std::invalid_argument saying which constraint fails.
Plan make_plan(const ConvProblem& problem, const Device& device, int64_t limit,
               std::optional<Algorithm> forced = std::nullopt);

/// Why `algorithm` cannot run `problem` on a kind of device; empty if it can.
std::string illegal_reason(const ConvProblem& problem, Algorithm algorithm,
                           Device::Kind kind = Device::Kind::cpu);

/// Whether a grouped problem has so few channels per group that its lanes pick their inputs one by one;
/// otherwise each group is a matrix product.
bool is_direct(const ConvProblem& problem);
/// Output positions that a task of the direct kernels handles.
inline constexpr int64_t kDirectPositions = 32;

/// With few output channels (per group) the products' vectors run along the inputs instead: always with four
/// or fewer, and with up to three quarters of a vector where adding each sum's lanes is little beside its
/// products.
inline bool is_narrow(const ConvProblem& problem, int64_t vector_width) {
  const int64_t outputs = problem.group_out();
  return outputs <= 4 ||
         (4 * outputs <= 3 * vector_width && problem.taps() * problem.group_in() >= 64 * outputs);
}

/// How dL/dw is walked: in the transform domain, or by tasks of `depth` products (taps x input channels) by
/// `cols` output channels, the output positions cut into `splits` parts whose sums are added at the end.
struct WeightGradientPlan {
  int64_t rows = 0;  ///< positions packed at a time
  int64_t depth = 0;
  int64_t cols = 0;
  int64_t splits = 1;
  bool direct = false;    ///< few channels per group: lane by lane, no GEMM
  GroupedPlan grouped;    ///< with a kernel: its rows, no GEMM
  UnitGradientPlan unit;  ///< with `woven`: unit by unit
  WinogradPlan winograd;  ///< tiles > 0: the sums are taken in the transform domain
  int64_t in_slice = 0;   ///< of winograd: input channels whose sums are held at a time
  double cost = 0;        ///< modelled seconds; 0 for direct
  int64_t workspace = 0;
};
/// Of Winograd's dL/dw: whether its products' vectors run along the input channels, with rows of output
/// channels, or the other way round, whichever leaves fewer lanes empty.
bool gradient_rows_are_outputs(const ConvProblem& problem, int vector_width);
/// Pure. `winograd` forces the transform domain, or keeps it out; it is ignored where it is not legal.
WeightGradientPlan make_weight_gradient_plan(const ConvProblem& problem, const Device& device, int64_t limit,
                                             std::optional<bool> winograd = std::nullopt);

/// The workspace limit of this process, in bytes.
inline constexpr int64_t kDefaultWorkspaceLimit = int64_t{256} << 20;
inline constexpr int64_t kLeastWorkspaceLimit = int64_t{16} << 20;
int64_t workspace_limit();
/// Returns the previous limit. Throws std::invalid_argument below kLeastWorkspaceLimit.
int64_t set_workspace_limit(int64_t bytes);

}  // namespace mlx_conv3d
