#pragma once

#include <algorithm>

#include "core/device.h"
#include "core/integers.h"
#include "core/problem.h"
#include "core/winograd_form.h"

namespace mlx_conv3d {

struct Candidate;

/// How cpu/grouped_winograd.h walks its tiles, or with `rows` cpu/grouped_row_winograd.h. A unit is a group,
/// or as many as fill a vector.
struct GroupedWinogradPlan {
  int m = 0;           ///< outputs of a tile along an axis; 0: not used
  int woven = 1;       ///< groups of a unit
  int64_t units = 0;   ///< of a task
  int64_t pieces = 0;  ///< tasks of the same units
  int64_t tiles = 0;   ///< of a strip, which are neighbours in a row
  int64_t strips = 0;  ///< of a unit, transformed and multiplied at a time
  bool rows = false;   ///< tiles are of one row each: see WinogradForm
  int64_t band = 0;    ///< with `rows`: output rows of a strip

  WinogradForm form() const { return {m, Pixels::single, 1, 0, rows ? 3 : 0}; }
};

/// As many floats or a few more, in an odd number of cache lines: off the strides that meet in few of the
/// cache's sets.
inline int64_t odd_lines(int64_t floats) { return (divide_up(floats, 16) | 1) * 16; }

/// Floats of a thread's buffers, and from one frequency to the next in them.
struct GroupedWinogradSizes {
  GroupedWinogradSizes(const ConvProblem& p, const GroupedWinogradPlan& plan, int vector_width)
      : in_channels(p.group_in() * plan.woven),
        out_channels(p.group_out() * plan.woven),
        pitch(vector_width),
        products(plan.form().all_products()),
        plan_(plan),
        product_weights_(p.group_in() * out_channels) {
    while (pitch < std::max(in_channels, out_channels)) pitch *= 2;
  }

  int64_t weight_stride() const { return odd_lines(product_weights_); }
  /// Of so many neighbouring tiles.
  int64_t columns_of(int64_t tiles) const { return tiles * plan_.m + plan_.form().side() - plan_.m; }
  int64_t strip() const { return columns_of(plan_.tiles) * pitch; }
  int64_t column_stride() const { return odd_lines(plan_.strips * strip()); }
  int64_t columns() const { return plan_.form().side() * column_stride(); }
  int64_t tile_stride() const { return odd_lines(plan_.strips * plan_.tiles * pitch); }
  int64_t unit_weights() const { return products * weight_stride(); }
  int64_t weights() const { return plan_.units * unit_weights(); }
  int64_t tiles() const { return plan_.form().products() * tile_stride(); }

  const int64_t in_channels, out_channels;  ///< of a unit
  int64_t pitch;                            ///< from tile to tile
  const int64_t products;

 private:
  const GroupedWinogradPlan plan_;
  const int64_t product_weights_;
};

/// The same where tiles are of one row each.
struct GroupedRowSizes {
  GroupedRowSizes(const ConvProblem& p, const GroupedWinogradPlan& plan, int vector_width)
      : unit(p, plan, vector_width), plan_(plan), unit_weights_(18 * p.group_in() * unit.out_channels) {}

  /// From one frequency to the next.
  int64_t stride() const { return odd_lines(plan_.tiles * (plan_.band + 2) * unit.pitch); }
  int64_t sums_stride() const { return odd_lines(plan_.tiles * plan_.band * unit.pitch); }
  int64_t inputs() const { return plan_.form().products() * stride(); }
  int64_t sums() const { return plan_.form().products() * sums_stride(); }
  int64_t unit_weights() const { return unit_weights_; }

  const GroupedWinogradSizes unit;

 private:
  const GroupedWinogradPlan plan_;
  const int64_t unit_weights_;
};

/// Groups whose outputs fill a vector, for tiles of one row, or 1.
int grouped_winograd_woven(const ConvProblem& problem, int vector_width);

/// Strips of all frames.
int64_t grouped_winograd_strips(const ConvProblem& problem, const GroupedWinogradPlan& plan);

/// Puts a legal candidate of grouped on Winograd's F(m, 3), where that is possible and modelled faster, or
/// `like` is there.
void consider_grouped_winograd(const ConvProblem& problem, const Device& device, int64_t limit,
                               const Candidate* like, Candidate& candidate);

}  // namespace mlx_conv3d
