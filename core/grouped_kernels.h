#pragma once

#include <cstdint>

// The CPU's kernels for grouped convolutions: plain data, of which every instruction set compiles one
// function each (cpu/simd/grouped.cpp), the planner chooses one, and `_ext.cpu_kernels()` shows all.

namespace mlx_conv3d {

enum class GroupedFamily : uint8_t {
  pointwise,  ///< one tap
  rows,       ///< all taps, C/groups and O/groups known at compile time
  broadcast,  ///< whole vectors of outputs in one group, any C/groups
  depthwise,  ///< C/groups = O/groups = 1; with all taps known, rows are read in place
};

/// 0 stands for any number.
struct GroupedKernel {
  GroupedFamily family;
  int rank;       ///< axes that the kernel extends over, from the last: 1 width, 2 height too, 3 depth too
  int group_in;   ///< C/groups
  int group_out;  ///< O/groups
  int taps[3];    ///< KD, KH, KW
};

/// Outputs of a group in whole vectors, whatever the instruction set.
inline constexpr int kBroadcastOutputs = 16;
/// Beyond this many inputs of a group a blocked product is faster.
inline constexpr int kMostBroadcastInputs = 64;

namespace grouped_shapes {
struct Shape {
  int in, out;
};
inline constexpr Shape kShapes[] = {{1, 1}, {1, 2},  {1, 4},   {2, 1},  {2, 2},  {2, 4},
                                    {3, 3}, {4, 2},  {4, 4},   {4, 8},  {6, 6},  {8, 4},
                                    {8, 8}, {8, 16}, {12, 12}, {16, 8}, {16, 16}};
inline constexpr int kCount = sizeof(kShapes) / sizeof(kShapes[0]);
inline constexpr GroupedKernel kDepthwise[] = {{GroupedFamily::depthwise, 2, 1, 1, {1, 3, 3}},
                                               {GroupedFamily::depthwise, 3, 1, 1, {3, 3, 3}},
                                               {GroupedFamily::depthwise, 2, 1, 1, {1, 5, 5}},
                                               {GroupedFamily::depthwise, 3, 1, 1, {0, 1, 1}}};
inline constexpr int kDepthwiseCount = sizeof(kDepthwise) / sizeof(kDepthwise[0]);
}  // namespace grouped_shapes

/// The particular before the general.
struct GroupedKernels {
  static constexpr int kCount = grouped_shapes::kDepthwiseCount + 4 * grouped_shapes::kCount + 3;
  GroupedKernel at[kCount] = {};
  constexpr GroupedKernels() {
    int n = 0;
    for (const GroupedKernel& kernel : grouped_shapes::kDepthwise) at[n++] = kernel;
    for (const auto& shape : grouped_shapes::kShapes) {
      at[n++] = {GroupedFamily::pointwise, 1, shape.in, shape.out, {1, 1, 1}};
    }
    for (int rank = 1; rank <= 3; ++rank) {
      const int d = rank == 3 ? 0 : 1, h = rank >= 2 ? 0 : 1;
      for (const auto& shape : grouped_shapes::kShapes) {
        at[n++] = {GroupedFamily::rows, rank, shape.in, shape.out, {d, h, 0}};
      }
      at[n++] = {GroupedFamily::broadcast, rank, 0, kBroadcastOutputs, {d, h, 0}};
    }
  }
};
inline constexpr GroupedKernels kGroupedKernels;

/// Whether there is such a kernel of pairs of bf16 too, each of which is one of its inputs.
constexpr bool takes_pairs(const GroupedKernel& k) {
  return k.family == GroupedFamily::broadcast ||
         (k.family == GroupedFamily::rows && k.group_in > 1 && k.group_out == 2 * k.group_in);
}

}  // namespace mlx_conv3d
