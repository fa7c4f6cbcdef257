#pragma once

#include <cstdint>

#include "cpu/geometry.h"
#include "cpu/simd/tile_kernels.h"
#include "cpu/slab.h"

namespace mlx_conv3d::cpu {

/// The left operand of a block of outputs: items from its first output's to the next column's and row's.
struct TileLeft {
  const uint16_t* a;
  int64_t col, row;

  bool alike(const TileLeft& other) const { return col == other.col && row == other.row; }
};

/// Of kernels of one pixel per frame the operand is x itself, where it lies.
class TilePixels {
 public:
  TilePixels(const ConvProblem& problem, const Input& input, const SlabAxis& h, const SlabAxis& w)
      : p_(problem), input_(input), h_(h), w_(w) {}

  /// Channels from `channel` on of stored frame `source`.
  TileLeft left(int64_t n, int64_t source, int64_t channel, const Slab::Block& block) const;
  /// The bits of the largest magnitude among `channels` channels of the same.
  uint32_t look(const TileKernels& tiles, int64_t n, int64_t source, int64_t channel, int64_t channels,
                const Slab::Block& block) const;

  /// Columns from row to row, of blocks of `rows` by `cols`; `cols` itself where x, contiguous, has no such
  /// number.
  static int64_t row_step(const ConvProblem& problem, const AxisPhase& h, const AxisPhase& w, int64_t rows,
                          int64_t cols);

 private:
  const ConvProblem& p_;
  const Input& input_;
  const SlabAxis &h_, &w_;
};

}  // namespace mlx_conv3d::cpu
