#pragma once

#include <vector>

#include "core/plan.h"
#include "cpu/geometry.h"
#include "cpu/simd/tile_kernels.h"
#include "cpu/winograd_pairs.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {

/// Tiles and output frames that are transformed and multiplied together.
struct WinogradChunk {
  int64_t first_frame, frames, frames_in, first_tile, tiles;
  Pairs pairs;
};

/// Behind the run of a chunk's output frames from `begin` on that meet the same depth taps: with padding in
/// time the first and last frames do not meet all. Stride 1 lets a run be one product, since its frames' rows
/// follow each other.
int64_t end_of_run(const ConvProblem& problem, const AxisPhase& depth, const WinogradChunk& chunk,
                   int64_t begin);

/// The products of a chunk: [frequency][input frame][tile][channel], in parts for a matrix unit, times the
/// transformed weights to [product][frame][tile][output channel].
class WinogradProducts {
 public:
  /// Takes its scratch from the workspace. `channels` is the inputs' pitch; `threads` those that multiply.
  WinogradProducts(const ConvProblem& problem, const WinogradPlan& plan, int64_t channels, int widest_panel,
                   int threads, Workspace& workspace);

  void multiply(const WinogradChunk& chunk, const Panels& panels, const float* inputs, const float* weights,
                float* products);

 private:
  /// What is multiplied now.
  struct Operation {
    const WinogradChunk& chunk;
    const Panels& panels;
    const float* inputs;
    const float* weights;
    float* products;
    int64_t lanes;
  };

  void multiply_taps(const Operation& op, int64_t product, int64_t panel) const;
  void multiply_pairs(const Operation& op, int64_t frequency, int64_t first, int64_t last,
                      float* scratch) const;
  void multiply_parts(const Operation& op, int64_t frequency, int64_t first, int64_t last,
                      std::vector<TileStep>& steps) const;
  void transform_depth(const Operation& op, int64_t frequency, int64_t first, int64_t last,
                       float* scratch) const;
  void multiply_steps(int64_t rows, int tiles, const uint16_t* a, int64_t part_stride,
                      const std::vector<TileStep>& steps, const uint16_t* b, float* c, int64_t ldc,
                      bool accumulate, const uint16_t* next) const;
  const uint16_t* tile_panel(const Operation& op, int64_t product, int64_t panel, int64_t terms) const;
  int64_t depth_term_stride() const;
  int64_t weight_of(int64_t product) const { return form_.weight(static_cast<int>(product)); }

  /// Depth taps that are summed in registers together: `count` of them, `step` apart.
  struct TapRun {
    int64_t count, step;
  };
  TapRun taps_from(int64_t kd, int64_t frame) const;

  const ConvProblem& p_;
  const WinogradPlan& plan_;
  const Kernels& k_;
  const WinogradForm form_;
  const AxisPhase depth_;
  const int64_t channels_;
  std::vector<std::vector<int64_t>> products_of_;  ///< [frequency]
  int64_t depth_rows_ = 0, depth_part_ = 0, depth_floats_ = 0;
  float* depth_scratch_ = nullptr;
  int64_t step_count_ = 0;
  std::vector<TileStep> term_steps_;              ///< over all input channels
  std::vector<std::vector<TileStep>> tap_steps_;  ///< scratch, [thread]
};

}  // namespace mlx_conv3d::cpu
