// Blocked products and direct kernels on a CPU.

#include "core/plan_cpu.h"

#include <algorithm>

#include "core/cpu_model.h"

namespace mlx_conv3d {

using namespace cpu_model;

namespace {

constexpr int64_t kDepthBlock = 256;  ///< short enough that fp32 sums stay within 1e-6 of exact ones
constexpr int64_t kRowBlock = 192, kColBlock = 768;
/// Where a product's weights stay in the L1 cache, tasks are long and go through pieces whose sums do as
/// well.
constexpr int64_t kSmallWeights = 16 << 10, kPieceSums = 8 << 10, kLeastPiece = 48, kLongRowBlock = 2048;
constexpr int64_t kLeastRow = 8;          ///< positions of an item that a joined row is worth
constexpr int64_t kNarrowDepth = 4096;    ///< each lane sums a vector's share of it
constexpr int64_t kNarrowWeights = 6144;  ///< floats of a block's weights, which stay in the L1 cache
constexpr int64_t kMostTileCols = 64, kLeastTileCols = 16, kNarrowTile = 512, kRowTile = 384;
/// Measured on AVX-512, a thread's floats a second: copied for each position, as whole rows, weights packed.
constexpr double kGatherFloats = 1.5e9, kRowFloats = 4e9, kPackFloats = 1.6e9;
constexpr double kDilatedRows = 2;     ///< how many times longer rows of a dilated input take, at least
constexpr double kRowShare = 0.66;     ///< of the peak, that products over such rows reach
constexpr double kGroupedShare = 0.5;  ///< and the compiled grouped kernels
/// Of pairs of bf16: the share of their peak, inputs and outputs per thread, and weights, which one thread
/// joins.
constexpr double kGroupedPairsShare = 0.8, kGroupedPairsItems = 1.85e9, kJoinedWeights = 1e9;

/// Of `pixels` inputs for each output position, what is copied for all blocks of output channels.
double gathered_floats(const ConvProblem& p, double pixels, const GemmPlan& g, const Device& d) {
  return static_cast<double>(p.out_positions() * p.in_channels * divide_up(lanes(p.group_out(), d), g.cols)) *
         pixels;
}

/// Measured on AVX-512: a product's share of the peak, and a thread's floats a second, copied and stored.
struct ProductRates {
  double share, gathered, stored;
};
constexpr ProductRates kGathered{kGatherShare, kGatherFloats, 1.5e9}, kRows{0.85, kRowFloats, 3e9},
    kJoined{kGatherShare, kRowFloats, 1.5e9}, kSingle{0.95, kRowFloats, 4e9},
    kInOutput{0.95, kRowFloats, 8e9};

/// Of a single tap whole pixels are copied, or read where they lie; fp32 sums of whole vectors are taken in
/// the output.
double price_single_tap(const ConvProblem& p, const Device& d, const GemmPlan& g, ProductRates& rates) {
  const bool whole = p.group_out() % d.vector_width == 0 || is_narrow(p, d.vector_width);
  rates = p.out_type == Dtype::float32 && whole ? kInOutput : kSingle;
  const bool in_place = p.x_type == Dtype::float32 && p.stride == Size3{1, 1, 1};
  return in_place ? 0 : gathered_floats(p, 1, g, d);
}

/// What a product costs for which `gathered` floats are copied.
void price_gemm(const ConvProblem& p, const Device& d, double gathered, const ProductRates& rates,
                int64_t packed_bytes, Candidate& c) {
  const int64_t out_lanes = lanes(p.group_out(), d);
  const double rows = static_cast<double>(p.out_positions());
  const double k =
      static_cast<double>(p.taps() * p.group_in()) / (c.algorithm == Algorithm::transposed ? phases(p) : 1);
  // Narrow products sum their vectors' lanes at the end of each block.
  const int64_t busy_lanes = is_narrow(p, d.vector_width) ? p.group_out() + 1 : out_lanes;
  const double padded_lanes = static_cast<double>(busy_lanes * p.groups);
  c.flops = 2.0 * rows * k * padded_lanes;
  c.bytes = p.operand_bytes() + 8.0 * gathered + 8.0 * static_cast<double>(packed_bytes) / 4;
  const double scale = core_scale(d);
  c.cost =
      c.flops / (d.gflops * 1e9 * rates.share) + gathered / (rates.gathered * d.cores * scale) +
      static_cast<double>(p.taps() * p.group_in() * out_lanes * p.groups) / (kPackFloats * d.cores * scale) +
      rows * padded_lanes / (rates.stored * d.cores * scale) + 2 * p.groups * kStepSeconds;
}

/// Whether copying `pixels` inputs for each output position as whole rows beats gathering one for each tap.
/// Many output channels make up for the gathering, and products of its dense blocks are faster.
bool rows_pay(const ConvProblem& p, const Device& d, double pixels) {
  if (is_narrow(p, d.vector_width)) return true;
  // Rows of a product a KiB apart meet in a few sets of the cache.
  if (p.stride[kWidth] * p.group_in() % 256 == 0) return false;
  const double taps = static_cast<double>(p.taps());
  const double flops = 2.0 * taps * static_cast<double>(lanes(p.group_out(), d));
  const double saved = taps / kGatherFloats - pixels / kRowFloats;
  return saved > flops / kCoreFlops * (1 / kRowShare - 1 / kGatherShare);
}

/// Output rows and columns, and how many pixels of all depth taps' rows are met for each of its positions.
struct RowTile {
  int64_t rows = 0, cols = 0;
  double pixels = 0;
};

/// The tile that meets the fewest, of those whose input rows fit half the cache; no rows if none does.
RowTile best_row_tile(const ConvProblem& p, const Device& d) {
  const int64_t height = p.output(kHeight), width = p.output(kWidth), most_floats = d.cache_bytes / 2 / 4;
  const int64_t most_positions = is_narrow(p, d.vector_width) ? kNarrowTile : kRowTile;
  RowTile best;
  for (int64_t pieces = divide_up(width, kMostTileCols); pieces <= width; pieces *= 2) {
    RowTile tile{1, divide_up(width, pieces), 0};
    if (tile.cols < kLeastTileCols && best.rows > 0) break;
    if (row_buffer_floats(p, 1, tile.cols) > most_floats) continue;
    while (tile.rows < height && (tile.rows + 1) * tile.cols <= most_positions &&
           row_buffer_floats(p, tile.rows + 1, tile.cols) <= most_floats) {
      ++tile.rows;
    }
    tile.pixels = static_cast<double>(row_buffer_floats(p, tile.rows, tile.cols) / p.group_in()) /
                  static_cast<double>(tile.rows * tile.cols);
    if (best.rows == 0 || tile.pixels < 0.9 * best.pixels) best = tile;
  }
  return best;
}

/// Tiles of output rows and columns whose input rows fit the cache; false where they do not pay. Which it is
/// does not depend on the number of frames (see kPlannedFrames).
bool fit_rows(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
  const int64_t height = p.output(kHeight), width = p.output(kWidth);
  // Without taps in a frame no pixel of it is met twice.
  if (height * width * p.group_in() == 0 || p.kernel[kHeight] * p.kernel[kWidth] == 1) return false;
  const RowTile tile = best_row_tile(p, d);
  int64_t rows = tile.rows, cols = tile.cols, frames = p.output(kDepth);
  if (rows == 0 || !rows_pay(p, d, tile.pixels)) return false;
  const int64_t panel = d.panel_vectors * d.vector_width, out_lanes = lanes(p.group_out(), d);
  const int64_t packed_bytes = p.taps() * p.group_in() * out_lanes * 4;
  const bool narrow = is_narrow(p, d.vector_width);
  const int64_t sums = narrow ? p.group_out() * d.vector_width : panel;
  const int64_t thread_floats = row_buffer_floats(p, rows, cols) + rows * cols * sums;
  const int64_t zeros = input_span(p, kWidth, cols) * p.group_in();
  const int64_t slack = 4096 + 64 * d.cores * (p.kernel[kDepth] + 1);
  c.workspace = packed_bytes + 4 * (d.cores * thread_floats + zeros) + slack;
  if (c.workspace > limit) return false;
  GemmPlan g;
  g.depth =
      narrow ? std::min(kNarrowDepth, kNarrowWeights / std::max<int64_t>(1, p.group_out())) : kDepthBlock;
  g.cols = round_up(out_lanes, panel);
  // Enough tasks to keep every thread busy to the end.
  const auto tasks = [&] {
    return p.batch * divide_up(p.output(kDepth), frames) * divide_up(height, rows) * divide_up(width, cols) *
           divide_up(out_lanes, g.cols);
  };
  while (tasks() < 4 * d.cores && frames > 1) frames = divide_up(frames, 2);
  while (tasks() < 4 * d.cores && rows > 1) rows = divide_up(rows, 2);
  while (tasks() < 2 * d.cores && g.cols > panel) g.cols = round_up(g.cols / 2, panel);
  while (tasks() < 2 * d.cores && cols > 16) cols = divide_up(cols, 2);
  g.rows = rows * cols;
  g.tile_frames = frames;
  g.tile_rows = rows;
  g.tile_cols = cols;
  c.gemm = g;
  price_gemm(p, d, gathered_floats(p, tile.pixels, g, d), narrow ? kJoined : kRows, packed_bytes, c);
  // Pixels with zeros between them are copied one by one, and the zeros multiplied.
  if (p.input_dilated()) c.cost *= kDilatedRows;
  return true;
}

/// Block sizes that fit the limit. `depth_taps_held`: of the packed weights, how many depth taps are there at
/// once.
bool fit_gemm(const ConvProblem& p, const Device& d, int64_t limit, int64_t depth_taps_held,
              int64_t extra_bytes, Candidate& c) {
  const int64_t panel = d.panel_vectors * d.vector_width;
  const int64_t out_lanes = lanes(p.group_out(), d);
  const int64_t taps_held = p.taps() / p.kernel[0] * depth_taps_held;
  const int64_t slack = 4096 + int64_t{64} * 3 * d.cores;
  const int64_t packed_bytes = taps_held * p.group_in() * out_lanes * 4;
  GemmPlan g;
  g.depth = std::min<int64_t>(kDepthBlock, std::max<int64_t>(1, p.taps() * p.group_in()));
  g.cols = std::min(round_up(out_lanes, panel), round_up(kColBlock, panel));
  g.rows = kRowBlock;
  const auto thread_bytes = [&](bool packed) {
    const int64_t rows = g.piece_rows > 0 ? g.piece_rows : g.rows;
    return d.cores * 4 * (rows * (g.depth + d.vector_width + g.cols) + (packed ? 0 : g.depth * g.cols));
  };
  g.packed_weights = packed_bytes + thread_bytes(true) + extra_bytes + slack <= limit;
  while (thread_bytes(g.packed_weights) + (g.packed_weights ? packed_bytes : 0) + extra_bytes + slack >
         limit) {
    if (g.rows > 16) {
      g.rows /= 2;
    } else if (g.cols > panel) {
      g.cols = round_up(g.cols / 2, panel);
    } else {
      return false;
    }
  }
  const int64_t most_rows = g.rows;
  // Enough tasks to keep every thread busy to the end.
  const auto tasks = [&] { return divide_up(p.out_positions(), g.rows) * divide_up(out_lanes, g.cols); };
  while (tasks() < 4 * d.cores && g.rows > 48) g.rows = round_up(g.rows / 2, 8);
  while (tasks() < 2 * d.cores && g.cols > 2 * panel) g.cols = round_up(g.cols / 2, panel);
  while (tasks() < 2 * d.cores && g.rows > 12) g.rows /= 2;
  g.piece_rows = g.rows;
  if (p.taps() == 1 && g.packed_weights && p.group_in() * g.cols <= kSmallWeights) {
    // A plane's rows may lie as the products need them.
    g.rows = std::clamp<int64_t>(p.output(kHeight) * p.output(kWidth), kRowBlock, kLongRowBlock);
    while (tasks() < 4 * d.cores && g.rows > 48) g.rows = round_up(g.rows / 2, 8);
    const int64_t piece = std::max(kPieceSums / std::min(g.cols, out_lanes), kLeastPiece);
    g.piece_rows = std::min({piece, g.rows, most_rows});
  }
  c.gemm = g;
  c.workspace = thread_bytes(g.packed_weights) + (g.packed_weights ? packed_bytes : 0) + extra_bytes + slack;

  const double taps = static_cast<double>(p.taps()) / (c.algorithm == Algorithm::transposed ? phases(p) : 1);
  ProductRates rates = kGathered;
  const double gathered = p.taps() == 1 ? price_single_tap(p, d, g, rates) : gathered_floats(p, taps, g, d);
  price_gemm(p, d, gathered, rates, packed_bytes, c);
  return true;
}

/// Rows of a task of all phases that fit the limit.
bool fit_joined_phases(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
  if (is_narrow(p, d.vector_width) || !is_one_tap_per_output(p)) return false;
  const int64_t out_lanes = lanes(p.out_channels, d), packed = p.taps() * p.in_channels * out_lanes;
  const int64_t row_floats = p.in_channels + d.vector_width + out_lanes;
  const int64_t slack = 4096 + int64_t{64} * 3 * d.cores;
  GemmPlan g;
  g.rows = kRowBlock;
  const auto bytes = [&] { return 4 * (packed + d.cores * g.rows * row_floats) + slack; };
  while (g.rows > 16 && (bytes() > limit || g.rows * row_floats * 4 > d.cache_bytes)) g.rows /= 2;
  if (bytes() > limit) return false;
  const int64_t positions = p.batch * p.stored(kDepth) * p.stored(kHeight) * p.stored(kWidth);
  while (g.rows > 16 && divide_up(positions, g.rows) < 4 * d.cores) g.rows /= 2;
  g.depth = kDepthBlock;
  g.cols = out_lanes;
  g.joined_phases = true;
  c.gemm = g;
  c.workspace = bytes();
  price_gemm(p, d, static_cast<double>(positions * p.in_channels), kJoined, 4 * packed, c);
  return true;
}

/// Positions of a task that reads the frames of p as one row and has `sums` of each, and the workspace with
/// `packed` weights; false where the limit does not allow it.
bool fit_row_tasks(const ConvProblem& p, const Device& d, int64_t limit, int64_t packed, int64_t sums,
                   Candidate& c) {
  const int64_t positions = p.out_positions(), tasks = 4 * d.cores;
  GemmPlan g;
  const auto bytes = [&] {
    const int64_t staged = p.taps() * g.rows * p.in_channels;
    return 4 * (packed + d.cores * (staged + g.rows * sums)) + 64 * (1 + d.cores * (p.taps() + 1)) + 4096;
  };
  g.rows = std::clamp(d.cache_bytes / 16 / (p.in_channels + sums), kLeastPiece, kLongRowBlock);
  g.rows = std::min(g.rows, std::max(kLeastPiece, divide_up(positions, tasks)));
  while (bytes() > limit && g.rows > 1) g.rows = divide_up(g.rows, 2);
  if (bytes() > limit) return false;
  g.depth = is_narrow(p, d.vector_width) ? kNarrowDepth : kDepthBlock;
  g.cols = lanes(p.out_channels, d);
  g.joined_frames = true;
  c.gemm = g;
  c.workspace = bytes();
  return true;
}

/// What a product over rows that are read in place costs, of the problem p that `row` is one of the phases
/// of.
void price_row(const ConvProblem& p, const ConvProblem& row, const Device& d, int64_t packed, Candidate& c) {
  const double converted = p.x_type == Dtype::float32 ? 0 : static_cast<double>(row.taps());
  const bool whole = p.out_type == Dtype::float32 && !is_narrow(row, d.vector_width) &&
                     p.out_channels == lanes(p.out_channels, d);
  price_gemm(p, d, static_cast<double>(row.out_positions() * p.in_channels) * converted,
             whole ? kInOutput : kSingle, 4 * packed, c);
}

/// Tasks share positions, not outputs: few of the one with many weights would be too few.
bool enough_positions(int64_t positions, int64_t packed, const Device& d) {
  return packed <= kSmallWeights || positions >= 8 * d.cores * kLeastPiece;
}

/// Frames as one row. Larger frames are read in place by themselves.
bool fit_joined_frames(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
  if (p.groups > 1 || p.in_channels * p.out_channels == 0 || !joins_frames(p)) return false;
  if (4 * p.output(kHeight) * p.output(kWidth) >= kRowBlock) return false;
  const int64_t out_lanes = lanes(p.out_channels, d), packed = p.taps() * p.in_channels * out_lanes;
  const bool narrow = is_narrow(p, d.vector_width);
  const int64_t positions = p.out_positions();
  // A row ends with its item.
  const bool long_enough = positions >= kLeastRow * fold_batch(p).batch;
  if (!narrow && (!long_enough || !enough_positions(positions, packed, d))) return false;
  if (!fit_row_tasks(p, d, limit, packed, narrow ? p.out_channels * d.vector_width : out_lanes, c))
    return false;
  price_row(p, p, d, packed, c);
  return true;
}

/// Blocks of outputs that meet the same inputs, as one row for each phase.
bool fit_output_blocks(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
  const auto blocks = output_blocks(p);
  if (!blocks || p.in_channels * p.out_channels == 0) return false;
  const ConvProblem& row = blocks->problem;
  // A row ends with its item, and is cut where a tap begins to meet it and ends.
  if (row.input[kDepth] - row.kernel[kDepth] + 1 < kLeastRow) return false;
  if (is_narrow(p, d.vector_width) || is_narrow(row, d.vector_width)) return false;
  const int64_t out_lanes = lanes(p.out_channels, d), packed = p.taps() * p.in_channels * out_lanes;
  // Every piece reads its phase's weights; the larger blocks of a gathered product do so less often.
  if (4 * packed / blocks->step > d.cache_bytes / 2) return false;
  // Phases are tasks of their own, unless they share inputs that have to be converted.
  const ConvProblem& shared = p.x_type == Dtype::float32 ? p : row;
  if (!enough_positions(shared.out_positions(), packed, d)) return false;
  if (!fit_row_tasks(row, d, limit, packed, out_lanes, c)) return false;
  price_row(p, row, d, packed, c);
  return true;
}

void consider_gemm(const ConvProblem& p, const Device& d, int64_t limit, const Candidate* like, Candidate& c,
                   const std::string& reason) {
  int64_t taps_held = p.kernel[0], extra = 0;
  if (c.algorithm == Algorithm::taps) {
    taps_held = 1;
    if (p.out_type != Dtype::float32) extra = round_up(p.out_positions() * p.out_channels * 4, 64);
  }
  const bool whole_taps = c.algorithm == Algorithm::patchify || c.algorithm == Algorithm::implicit_gemm;
  c.reason = reason;
  const bool deep = c.algorithm == Algorithm::pointwise || c.algorithm == Algorithm::temporal ||
                    c.algorithm == Algorithm::implicit_gemm;
  if (deep && fit_joined_frames(p, d, limit, c)) {
    c.reason = "one product over the positions of all frames";
  } else if (whole_taps && fit_rows(p, d, limit, c)) {
    c.reason += ", over input rows that are copied once for all taps";
  } else if (c.algorithm == Algorithm::transposed && fit_output_blocks(p, d, limit, c)) {
    c.reason = "one product per phase of the dilated input, all over the same inputs, read in place";
  } else if (c.algorithm == Algorithm::transposed && fit_joined_phases(p, d, limit, c)) {
    c.reason = "one product for all phases of the dilated input, none with zeros";
  } else if (!fit_gemm(p, d, limit, taps_held, extra, c)) {
    refuse(c, limit);
    return;
  }
  if (c.algorithm != Algorithm::taps) consider_cpu_tiles(p, d, limit, like, c);
  if (c.algorithm == Algorithm::taps) {
    const double sums = static_cast<double>(p.out_positions()) * static_cast<double>(p.out_channels);
    c.bytes += 8.0 * sums * static_cast<double>(p.kernel[0] - 1);
    c.cost += 8.0 * sums * static_cast<double>(p.kernel[0] - 1) / (d.gbytes * 1e9);
  }
  // The same work under its particular name is preferred to the general one.
  if (c.algorithm == Algorithm::taps) c.cost *= 1.005;
  if (c.algorithm == Algorithm::implicit_gemm) c.cost *= 1.01;
}

/// Patches that lie in one piece each are the rows of a matrix.
void consider_patches(const ConvProblem& p, const Device& d, int64_t limit, const Candidate* like,
                      Candidate& c) {
  const ConvProblem folded = fold_patches(p);
  const bool whole = folded != p;
  consider_gemm(folded, d, limit, like, c,
                whole ? "one matrix product of x and w as they lie" : "one matrix product over the patches");
  c.gemm.whole_patches = whole;
}

/// A position's lanes over its outputs.
double idle_lanes(const ConvProblem& p, const Device& d) {
  return static_cast<double>(round_up(p.out_channels, d.vector_width)) /
         static_cast<double>(std::max<int64_t>(1, p.out_channels));
}

/// Of a compiled kernel, whether or not x allows its rows to be joined.
int64_t kernel_workspace(const ConvProblem& p, const Device& d, const GroupedPlan& plan) {
  const ConvProblem folded = fold_rows(p);
  const int64_t bytes = grouped_workspace(p, d, plan);
  if (plan.joined || folded == p) return bytes;
  return std::max(bytes, grouped_workspace(folded, d, make_grouped_plan(folded, d)));
}

/// By one of kGroupedKernels; false where there is none, or its workspace is too large.
bool consider_grouped_kernel(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
  c.grouped = make_grouped_forward_plan(p, d);
  if (c.grouped.kernel < 0) return false;
  c.workspace = kernel_workspace(p, d, c.grouped);
  if (c.workspace > limit) {
    c.grouped = {};
    return false;
  }
  c.flops = p.direct_flops() / phases(p);
  c.bytes = p.operand_bytes();
  c.cost = c.flops * idle_lanes(p, d) / (d.gflops * 1e9 * kGroupedShare) + c.bytes / (d.gbytes * 1e9) +
           2 * kStepSeconds;
  c.reason = "kernel " + name_of(kGroupedKernels.at[c.grouped.kernel]);
  return true;
}

/// By one of kGroupedKernels of pairs of bf16, where that is faster or `like` is so too.
void consider_grouped_pairs(const ConvProblem& p, const Device& d, int64_t limit, const Candidate* like,
                            Candidate& c) {
  if (like != nullptr && !like->grouped.pairs) return;
  const GroupedPlan plan = make_grouped_pairs_plan(p, d);
  if (plan.kernel < 0) return;
  // What pairs cannot hold takes the kernel of floats.
  const int64_t workspace = std::max(grouped_workspace(paired_channels(p), d, plan),
                                     kernel_workspace(p, d, make_grouped_forward_plan(p, d)));
  const double flops = p.direct_flops() / phases(p);
  const double cost =
      flops * idle_lanes(p, d) / (d.matrix_gflops * 1e9 * kGroupedPairsShare) +
      p.operand_bytes() / 2 / (kGroupedPairsItems * d.cores * core_scale(d)) +
      static_cast<double>(p.out_channels * p.taps() * p.group_in()) / (kJoinedWeights * core_scale(d)) +
      2 * kStepSeconds;
  if (workspace > limit || (like == nullptr && cost >= c.cost)) return;
  c.grouped = plan;
  c.grouped_winograd = {};
  c.gemm.tile = {};
  c.cost = cost;
  c.flops = flops;
  c.bytes = p.operand_bytes();
  c.workspace = workspace;
  GroupedKernel kernel = kGroupedKernels.at[plan.kernel];
  kernel.group_in *= 2;
  c.reason = "kernel " + name_of(kernel) + ", in pairs of bf16";
}

void consider_direct(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
  const int64_t pitch = lanes(p.out_channels, d);
  c.workspace = round_up(pitch * p.taps() * p.group_in() * 4, 64) +
                d.cores * round_up(kDirectPositions * pitch * 4, 64) + 4096;
  if (c.workspace > limit) {
    refuse(c, limit);
    return;
  }
  c.flops = 2.0 * static_cast<double>(p.out_positions() * pitch) *
            static_cast<double>(p.taps() * p.group_in()) / phases(p);
  c.bytes = p.operand_bytes();
  // Measured on AVX-512: the share of the peak that the kernels reach.
  const double share = p.group_in() == 1 && p.group_out() == 1 ? 0.25 : 0.3;
  c.cost = c.flops / (d.gflops * 1e9 * share) + c.bytes / (d.gbytes * 1e9) + 2 * kStepSeconds;
  c.reason = p.group_in() == 1 && p.group_out() == 1 ? "depthwise, vectors of channels"
                                                     : "few channels per group, vectors of output channels";
}

void consider_grouped(const ConvProblem& p, const Device& d, int64_t limit, const Candidate* like,
                      Candidate& c) {
  const bool kernel = consider_grouped_kernel(p, d, limit, c);
  if (!kernel && !is_direct(p)) {
    consider_gemm(p, d, limit, like, c, "one blocked product per group");
  } else {
    if (!kernel) consider_direct(p, d, limit, c);
    if (c.legal) consider_cpu_tiles(p, d, limit, like, c);
  }
  if (c.legal) consider_grouped_winograd(p, d, limit, like, c);
  if (c.legal) consider_grouped_pairs(p, d, limit, like, c);
}

void consider_stock(const ConvProblem& p, const Device& d, Candidate& c) {
  c.flops = p.direct_flops();
  c.bytes = p.operand_bytes();
  // MLX's CPU convolution runs at 1.1-1.5 GFLOP/s whatever the machine.
  c.cost = d.kind == Device::Kind::cpu ? c.flops / 1.3e9 + 1e-5 : c.flops / (d.gflops * 1e9 * 0.7);
  c.reason = "composed of MLX's own operations";
}

}  // namespace

void consider_cpu(const ConvProblem& p, const Device& d, int64_t limit, const Candidate* like, Candidate& c) {
  switch (c.algorithm) {
    case Algorithm::winograd:
      consider_cpu_winograd(p, d, limit, like ? &like->winograd : nullptr, c);
      break;
    case Algorithm::taps:
      consider_gemm(p, d, limit, like, c, "one 2-D convolution per depth tap, summed in fp32 in place");
      break;
    case Algorithm::temporal:
      consider_gemm(p, d, limit, like, c, "one product per depth tap over whole frames, read in place");
      break;
    case Algorithm::pointwise:
      consider_gemm(p, d, limit, like, c, "one matrix product");
      break;
    case Algorithm::patchify:
      consider_patches(p, d, limit, like, c);
      break;
    case Algorithm::grouped:
      consider_grouped(p, d, limit, like, c);
      break;
    case Algorithm::transposed:
      consider_gemm(p, d, limit, like, c, "one product per phase of the dilated input, none with zeros");
      break;
    case Algorithm::implicit_gemm:
      consider_gemm(p, d, limit, like, c, "blocked product");
      break;
    case Algorithm::stock:
      consider_stock(p, d, c);
      break;
  }
}

}  // namespace mlx_conv3d
