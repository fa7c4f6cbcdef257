#include "cpu/tile_pixels.h"

#include <algorithm>

namespace mlx_conv3d::cpu {
namespace {

/// Products of up to so many channels go through pixels in an order that hardware fetches ahead.
constexpr int64_t kInOrder = 64;

/// Elements between the coordinates that neighbouring outputs meet.
int64_t step(const SlabAxis& axis, int64_t stride) {
  return axis.sources.size() > 1 ? (axis.sources[1] - axis.sources[0]) * stride : stride;
}

}  // namespace

TileLeft TilePixels::left(int64_t n, int64_t source, int64_t channel, const Slab::Block& block) const {
  const int64_t item = input_.item();
  const Frame frame = input_.frame(n, source);
  const char* first = frame.data + h_.sources[block.row] * frame.row_stride +
                      w_.sources[block.col] * frame.col_stride + channel * item;
  return {reinterpret_cast<const uint16_t*>(first), step(w_, frame.col_stride / item),
          step(h_, frame.row_stride / item)};
}

uint32_t TilePixels::look(const TileKernels& tiles, int64_t n, int64_t source, int64_t channel,
                          int64_t channels, const Slab::Block& block) const {
  const TileLeft at = left(n, source, channel, block);
  TileRows rows{};
  rows.type = p_.x_type;
  rows.rows = block.cols;
  rows.n = channels;
  rows.src_stride = at.col;
  int64_t image_rows = block.rows;
  // Rows of pixels without a gap are one.
  if (at.row == block.cols * at.col) {
    rows.rows *= image_rows;
    image_rows = 1;
  }
  uint32_t largest = 0;
  for (int64_t r = 0; r < image_rows; ++r) {
    rows.src = at.a + r * at.row;
    largest = std::max(largest, tiles.look(rows, channels > kInOrder));
  }
  return largest;
}

int64_t TilePixels::row_step(const ConvProblem& p, const AxisPhase& h, const AxisPhase& w, int64_t rows,
                             int64_t cols) {
  const int64_t row = h.stride * p.input[kWidth];
  return rows > 1 && row % w.stride == 0 ? std::max(cols, row / w.stride) : cols;
}

}  // namespace mlx_conv3d::cpu
