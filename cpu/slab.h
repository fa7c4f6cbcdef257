#pragma once

#include <cstdint>
#include <vector>

#include "cpu/geometry.h"
#include "cpu/simd/tile_kernels.h"

namespace mlx_conv3d::cpu {

/// An axis of the padded input in the coordinates of a phase of outputs: tap t of output j is at
/// j*stride + at[t].
struct SlabAxis {
  SlabAxis(const ConvProblem& problem, int axis, const AxisPhase& phase);

  /// Coordinates that `outputs` neighbouring outputs meet.
  int64_t length(int64_t outputs) const { return (outputs - 1) * stride + span; }

  int64_t stride, span;
  std::vector<int64_t> at;
  std::vector<int64_t> sources;  ///< of each coordinate: index into what is stored, or -1 for a zero
};

/// The input of a block of outputs, padded and split into bf16 parts, so that what a tap meets of a run of
/// outputs is at one distance from output to output, and every tap an offset. Frames are kept in a ring:
/// [frame][part][row phase][row][column][channel]. Rows of the same phase modulo the stride follow each
/// other; so an output's number is row*row_step + column, through all of the block.
struct SlabLayout {
  SlabLayout(const SlabAxis& d, const SlabAxis& h, const SlabAxis& w, int64_t channels, int parts,
             int64_t rows, int64_t cols);
  /// No slab at all, of kernels of one pixel per frame: rows of outputs follow each other.
  explicit SlabLayout(int64_t cols) : row_step(cols) {}

  /// Items from an output's place to what tap (h, w) meets.
  int64_t tap(const SlabAxis& h, int64_t kh, const SlabAxis& w, int64_t kw) const {
    return (h.at[kh] % h.stride * phase_rows + h.at[kh] / h.stride) * width * pitch + w.at[kw] * pitch;
  }

  int parts = 1;
  bool merged = false;  ///< a row of taps is one run of products: its pixels lie without a gap
  int64_t pitch = 0;    ///< items from pixel to pixel
  int64_t stride = 0;   ///< items from output to output
  int64_t width = 0;    ///< pixels from row to row
  int64_t row_step;
  int64_t row_phases = 0, phase_rows = 0;
  int64_t frames = 0;
  int64_t part_items = 0, frame_items = 0;
  int64_t items() const { return frames * frame_items; }
};

class Slab {
 public:
  Slab(const ConvProblem& problem, const Input& input, const SlabAxis& h, const SlabAxis& w,
       const SlabLayout& layout, int64_t channels)
      : p_(problem), input_(input), h_(h), w_(w), layout_(layout), channels_(channels) {}

  /// A block of outputs.
  struct Block {
    int64_t row, rows, col, cols;
  };

  /// Fills frame `slot` of `slab` with channels [channel, channel + channels) of stored frame `source` as
  /// far as the block meets it. Returns the bits of the largest magnitude.
  uint32_t pack(const TileKernels& tiles, int64_t n, int64_t source, int64_t channel, const Block& block,
                int64_t slot, uint16_t* slab) const;

 private:
  uint32_t pack_row(const TileKernels& tiles, const char* row, int64_t col_stride, int64_t first,
                    int64_t count, uint16_t* out) const;

  const ConvProblem& p_;
  const Input& input_;
  const SlabAxis &h_, &w_;
  const SlabLayout& layout_;
  const int64_t channels_;
};

}  // namespace mlx_conv3d::cpu
