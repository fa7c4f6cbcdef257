#pragma once

#include <algorithm>

#include "core/device.h"
#include "core/integers.h"
#include "core/problem.h"
#include "core/winograd_form.h"

namespace mlx_conv3d {

struct Candidate;

/// How cpu/grouped_winograd.h walks its tiles.
struct GroupedWinogradPlan {
  int m = 0;           ///< outputs of a tile along an axis; 0: not used
  int64_t groups = 0;  ///< of a task
  int64_t pieces = 0;  ///< tasks of the same groups
  int64_t tiles = 0;   ///< of a group, transformed and multiplied at a time

  WinogradForm form() const { return {m, Pixels::single}; }
};

/// Floats of a thread's buffers and from one frequency to the next in them: off the strides that meet in few
/// of the cache's sets.
struct GroupedWinogradSizes {
  GroupedWinogradSizes(const ConvProblem& p, const GroupedWinogradPlan& plan, int vector_width)
      : pitch(vector_width), products(plan.form().all_products()), plan_(plan) {
    while (pitch < std::max(p.group_in(), p.group_out())) pitch *= 2;
    group_products_ = p.group_in() * p.group_out();
  }

  int64_t weight_stride() const { return odd_lines(group_products_); }
  int64_t tile_stride() const { return odd_lines(plan_.tiles * pitch); }
  int64_t group_weights() const { return products * weight_stride(); }
  int64_t weights() const { return plan_.groups * group_weights(); }
  int64_t tiles() const { return products * tile_stride(); }

  int64_t pitch;  ///< from tile to tile
  const int64_t products;

 private:
  static int64_t odd_lines(int64_t floats) { return (divide_up(floats, 16) | 1) * 16; }

  const GroupedWinogradPlan plan_;
  int64_t group_products_;
};

/// Tiles of all frames.
int64_t grouped_winograd_tiles(const ConvProblem& problem, const WinogradForm& form);

/// Puts a legal candidate of grouped on Winograd's F(m, 3), where that is possible and modelled faster, or
/// `like` is there.
void consider_grouped_winograd(const ConvProblem& problem, const Device& device, int64_t limit,
                               const Candidate* like, Candidate& candidate);

}  // namespace mlx_conv3d
