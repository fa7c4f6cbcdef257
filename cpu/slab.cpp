// The input of a block of outputs, laid out for the matrix unit.

#include "cpu/slab.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/integers.h"

namespace mlx_conv3d::cpu {

SlabAxis::SlabAxis(const ConvProblem& p, int axis, const AxisPhase& phase) : stride(1), span(1) {
  if (phase.starts.empty() || phase.count == 0) return;
  const int64_t origin = *std::min_element(phase.starts.begin(), phase.starts.end());
  // Coordinates that no tap meets are left out: every other one of a dilated kernel's or input's.
  int64_t unit = phase.count > 1 ? phase.stride : 0;
  for (int64_t start : phase.starts) unit = std::gcd(unit, start - origin);
  if (unit == 0) unit = 1;
  stride = phase.count > 1 ? phase.stride / unit : 1;
  for (int64_t start : phase.starts) at.push_back((start - origin) / unit);
  span = *std::max_element(at.begin(), at.end()) + 1;
  for (int64_t u = 0; u < length(phase.count); ++u)
    sources.push_back(p.source_index(axis, origin + u * unit));
}

namespace {

/// Whether the taps of a row are neighbours, and taken as one run of products they waste fewer.
bool worth_merging(const SlabAxis& w, int64_t channels) {
  const int64_t taps = static_cast<int64_t>(w.at.size());
  for (int64_t t = 0; t < taps; ++t) {
    if (w.at[t] != t) return false;
  }
  return divide_up(taps * channels, kTileDepth) < taps * divide_up(channels, kTileDepth);
}

}  // namespace

SlabLayout::SlabLayout(const SlabAxis& d, const SlabAxis& h, const SlabAxis& w, int64_t channels, int parts,
                       int64_t rows, int64_t cols)
    : parts(parts), merged(worth_merging(w, channels)) {
  pitch = merged ? channels : round_up(channels, kTileDepth);
  // Off the strides that meet in few of the L1 cache's sets.
  if (!merged && pitch * w.stride % 256 == 0) pitch += kTileDepth;
  stride = w.stride * pitch;
  width = round_up(w.length(cols), w.stride);
  row_step = width / w.stride;
  row_phases = std::min(h.stride, h.span);
  phase_rows = rows + (h.span - 1) / h.stride;
  frames = d.span;
  // A tile reads whole rows, and parts must not meet in the same sets either.
  const int64_t behind = kTileSide * stride + kTileDepth;
  part_items = round_up(row_phases * phase_rows * width * pitch + behind, 2048) + 704;
  frame_items = parts * part_items;
}

uint32_t Slab::pack(const TileKernels& tiles, int64_t n, int64_t source, int64_t channel, const Block& block,
                    int64_t slot, uint16_t* slab) const {
  const SlabLayout& l = layout_;
  const Frame frame = input_.frame(n, source);
  const int64_t first = block.col * w_.stride, count = w_.length(block.cols);
  uint32_t largest = 0;
  for (int64_t phase = 0; phase < l.row_phases; ++phase) {
    const int64_t rows = block.rows + (h_.span - 1 - phase) / h_.stride;
    for (int64_t q = 0; q < rows; ++q) {
      uint16_t* out = slab + slot * l.frame_items + (phase * l.phase_rows + q) * l.width * l.pitch;
      const int64_t row = h_.sources[(block.row + q) * h_.stride + phase];
      if (row < 0) {
        for (int part = 0; part < l.parts; ++part) {
          std::memset(out + part * l.part_items, 0, static_cast<size_t>(count * l.pitch) * sizeof(*out));
        }
        continue;
      }
      const char* data = frame.data + row * frame.row_stride + channel * input_.item();
      largest = std::max(largest, pack_row(tiles, data, frame.col_stride, first, count, out));
    }
  }
  return largest;
}

uint32_t Slab::pack_row(const TileKernels& tiles, const char* row, int64_t col_stride, int64_t first,
                        int64_t count, uint16_t* out) const {
  const SlabLayout& l = layout_;
  uint32_t largest = 0;
  for (int64_t i = 0; i < count;) {
    const int64_t source = w_.sources[first + i];
    int64_t run = 1;
    uint16_t* to = out + i * l.pitch;
    if (source < 0) {
      for (int part = 0; part < l.parts; ++part) {
        std::memset(to + part * l.part_items, 0, static_cast<size_t>(l.pitch) * sizeof(*to));
      }
    } else {
      while (i + run < count && w_.sources[first + i + run] == source + run) ++run;
      TileRows rows{};
      rows.type = p_.x_type;
      rows.src = row + source * col_stride;
      rows.rows = run;
      rows.n = channels_;
      rows.src_stride = col_stride / input_.item();
      rows.parts = l.parts;
      rows.out = to;
      rows.padded = rows.out_stride = l.pitch;
      rows.part_stride = l.part_items;
      // Pixels without a gap on either side are one row.
      if (rows.src_stride == channels_ && l.pitch == channels_) {
        rows.rows = 1;
        rows.n = rows.padded = run * channels_;
      }
      largest = std::max(largest, tiles.split(rows));
    }
    i += run;
  }
  return largest;
}

}  // namespace mlx_conv3d::cpu
