#pragma once

// Matrix products on a matrix unit that multiplies bf16 and sums in fp32 (AMX), or in vector registers that
// hold pairs of bf16 (AVX512_BF16). Operands of more than 8 significant bits are split into a sum of bf16
// parts: see docs/algorithms.md.

#include <cstdint>

#include "cpu/simd/kernels.h"

namespace mlx_conv3d::cpu {

constexpr int kTileSide = 16;        ///< rows, and fp32 columns, of a tile
constexpr int kTileDepth = 32;       ///< products that a tile sums: a step
constexpr int kTileItems = 16 * 32;  ///< bf16 items of an operand's tile
constexpr int kPanelTiles = 2;       ///< column tiles of the widest panel
constexpr int64_t kPanelColumns = kPanelTiles * kTileSide;
constexpr int kMostParts = 3;

/// Rows of a left operand, split: element i of row r is at src + r*src_stride + i, its part p goes to
/// out + p*part_stride + r*out_stride + i; items [n, padded) become zero.
struct TileRows {
  Dtype type;
  const void* src;
  int64_t rows, n, src_stride;  ///< elements
  int parts;
  uint16_t* out;
  int64_t padded, out_stride, part_stride;  ///< items
};

/// A panel of a right operand, split and laid out as [step][part][column tile][pair of products][column].
struct TileWeightPanel {
  WeightView w;            ///< data points at the panel's first output channel
  const int64_t* offsets;  ///< element offset from there of each of the 32*steps products, -1 for a zero
  int64_t steps;
  int64_t following;     ///< steps behind them in `offsets` that are packed next
  int64_t out_channels;  ///< existing output channels from the panel's first; further columns are zero
  int tiles;             ///< 1 or kPanelTiles
  int parts;
  uint16_t* out;
};

inline int64_t tile_panel_items(int64_t steps, int parts, int tiles) {
  return steps * parts * tiles * kTileItems;
}

struct TileStep {
  int64_t a;                   ///< items from the left operand's first row to this step's 32 items of it
  int64_t b;                   ///< which step of the packed panel
  int pairs = kTileDepth / 2;  ///< of its products, those that are asked for; all may be taken
};

/// Where sums become output: row r of run q (of `run` rows in every `run_step`) and its columns are `lanes`
/// output channels `channel`..., elements offset + q*run_stride + r*row_stride... of the output y.
struct TileResults {
  void (*store)(const Epilogue& epilogue, const ResultRows& rows);
  const Epilogue* epilogue;
  int64_t lanes, channel;
  int64_t offset, row_stride, run_stride;
  void* y;
};

/// c[r][j] (+)= sum over steps of a's row r times panel column j, for 16*tiles columns. One part each: the
/// product of bf16 values; two: all but the low times the low parts (three products); three: all but those
/// below 2^-24 of the largest (six).
struct TileProduct {
  int parts;
  bool half;  ///< one part, of fp16 values
  int tiles;
  int64_t rows;
  int64_t run, run_step;  ///< what is asked for: so many rows of each so many; others may be computed as well
  const uint16_t* a;      ///< rows may be read up to the next multiple of 16: anything finite
  int64_t a_stride, a_part_stride;
  const TileStep* steps;
  int64_t step_count;
  const uint16_t* b;
  const uint16_t* next;  ///< what will be read next, as much as step_count steps, to be fetched; or null
  float* c;              ///< only `rows` rows are touched, of 16*tiles columns each
  int64_t c_stride;
  bool accumulate;  ///< of one part on from c; else the sum over the steps is taken first, then added
  const TileResults*
      results;  ///< to which the sums go, through c or past it, or null; only where not `splits`
};

/// How a Winograd transform stores what a matrix unit multiplies.
struct TileParts {
  int parts;            ///< 0: fp32
  float scale;          ///< a power of two, by which every number is multiplied
  int64_t part_stride;  ///< items
};

/// Bits of 2^-50: see tiles_hold.
constexpr uint32_t kLeastHeld = (127u - 50) << 23;

struct TileKernels {
  bool splits;  ///< whether it is so much faster than fp32's units that operands in several parts pay; else
                ///< products are of one part, and there are no transforms
  bool half;    ///< whether fp16 can be multiplied as it is: its single part is then fp16
  /// All return the bits of the largest magnitude that they met (as an fp32 number; larger than any for a
  /// NaN), or look as much of it as tiles_hold asks for.
  uint32_t (*split)(const TileRows& rows);
  /// Of bf16, stores nothing, and returns kLeastHeld for all that is at least that: products of pairs hold
  /// what is larger, and where each is a pair of x (no zeros fill up a step) infinities and NaNs stay in the
  /// outputs that they are of. `whole`: all of it is read, to be in the core's cache, not only until that is
  /// known.
  uint32_t (*look)(const TileRows& rows, bool whole);
  uint32_t (*pack)(const TileWeightPanel& panel);
  void (*multiply)(const TileProduct& product);

  // Winograd's transforms as in Kernels, to bf16 parts (part p of an element lies p*part_stride behind its
  // part 0). They return the bits of the largest magnitude stored, as `split` does.

  /// Channels are rounded up to whole steps.
  uint32_t (*winograd_input)(WinogradForm form, Dtype type, const WinogradInputTile& tile,
                             const TileParts& parts);
  /// n is a number of whole steps.
  void (*winograd_depth_input)(bool has_first, bool has_last, int64_t n, const float* in,
                               int64_t frame_stride, uint16_t* out, int64_t out_stride,
                               const TileParts& parts);
  /// One step's input channels, as TileWeightPanel lays them out: the panel's strides are items and its
  /// vectors tiles.
  uint32_t (*winograd_weight)(WinogradForm form, const WinogradWeightPanel& panel, const TileParts& parts);

  /// Kernels::grouped with pairs of bf16 for float32 inputs and weights, no activation and no residual; null
  /// where there is none.
  GroupedFunction (*grouped_pairs)(int kernel);
};

/// Whether an operand whose largest magnitude has these bits can be split without loss and multiplied
/// without overflow or underflow. The unit takes numbers below 2^-126 for zeros: an operand below 2^-50 or
/// above 2^50 throughout, or one with an infinity or a NaN, is left to the fp32 kernels.
inline bool tiles_hold(uint32_t largest) {
  constexpr uint32_t kMost = (127u + 50) << 23;
  return largest == 0 || (largest >= kLeastHeld && largest <= kMost);
}

}  // namespace mlx_conv3d::cpu
