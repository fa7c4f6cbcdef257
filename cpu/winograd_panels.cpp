#include "cpu/winograd_panels.h"

#include <algorithm>

#include "core/integers.h"
#include "cpu/threads.h"
#include "cpu/winograd.h"

namespace mlx_conv3d::cpu {

WinogradPanelProducts::WinogradPanelProducts(const ConvProblem& p, const WinogradPlan& plan,
                                             const WeightView& w, Workspace& workspace)
    : p_(p),
      plan_(plan),
      w_(w),
      k_(kernels()),
      form_(plan.form()),
      depth_(axis_phases(p, kDepth, false).front()),
      panels_(Panels::shared(p.out_channels, k_.width, k_.panel_vectors, thread_count())) {
  const int64_t panel = int64_t{panels_.widest()} * k_.width;
  for (int t = 0; t < thread_count(); ++t) {
    scratch_.push_back(workspace.floats(winograd_panel_floats(plan, plan.frames * plan.tiles, panel)));
  }
}

const float* WinogradPanelProducts::multiply(const WinogradChunk& chunk, int64_t panel, const float* inputs,
                                             int thread) const {
  const int vectors = panels_.vectors(panel);
  const int64_t held = plan_.weight_channels, lanes = vectors * k_.width;
  const int64_t tiles = chunk.tiles, rows = chunk.frames * tiles, rows_in = chunk.frames_in * tiles;
  const int64_t products = form_.all_products(), stride = winograd_weight_stride(plan_, lanes);
  float *weights = scratch_[static_cast<size_t>(thread)], *sums = weights + form_.all_weights() * stride;
  const std::vector<Run> runs = runs_of(chunk);
  std::vector<char> started(runs.size(), 0);
  for (int64_t c = 0; c < p_.in_channels; c += held) {
    const int64_t channels = std::min(held, p_.in_channels - c);
    const float* block = inputs + c * form_.all_pixels() * rows_in;
    for (int64_t kd = 0; kd < p_.kernel[kDepth]; ++kd) {
      const auto meets_tap = [&](const Run& run) { return meets(chunk, run, kd); };
      if (std::none_of(runs.begin(), runs.end(), meets_tap)) continue;
      winograd_block_weights(
          form_, p_, w_, {panels_.first_vector(panel) * k_.width, kd, c, channels, vectors}, weights, stride);
      for (int64_t product = 0; product < products; ++product) {
        const int index = static_cast<int>(product);
        const float *a = block + form_.frequency(index) * rows_in * held,
                    *b = weights + form_.weight(index) * stride;
        for (size_t r = 0; r < runs.size(); ++r) {
          const Run& run = runs[r];
          if (!meets_tap(run)) continue;
          // The tiles lie in a shared cache, the weights in the thread's own.
          const int64_t frame = run.begin * p_.stride[kDepth] + kd * p_.dilation[kDepth];
          const float* next = a + (frame * tiles + rows_in) * held;
          k_.gemm(false, (run.end - run.begin) * tiles, vectors, channels, a + frame * tiles * held, held, b,
                  lanes, sums + (product * rows + run.begin * tiles) * lanes, lanes, started[r] != 0,
                  {1, 0, 0, next});
        }
      }
      for (size_t r = 0; r < runs.size(); ++r) {
        if (meets_tap(runs[r])) started[r] = 1;
      }
    }
  }
  for (size_t r = 0; r < runs.size(); ++r) {
    if (started[r] != 0) continue;
    for (int64_t product = 0; product < products; ++product) {
      float* at = sums + product * rows * lanes;
      std::fill(at + runs[r].begin * tiles * lanes, at + runs[r].end * tiles * lanes, 0.0f);
    }
  }
  return sums;
}

std::vector<WinogradPanelProducts::Run> WinogradPanelProducts::runs_of(const WinogradChunk& chunk) const {
  std::vector<Run> runs;
  for (int64_t begin = 0; begin < chunk.frames; begin = runs.back().end) {
    runs.push_back({begin, end_of_run(p_, depth_, chunk, begin)});
  }
  return runs;
}

bool WinogradPanelProducts::meets(const WinogradChunk& chunk, const Run& run, int64_t kd) const {
  return depth_.source(kd, chunk.first_frame + run.begin) >= 0;
}

}  // namespace mlx_conv3d::cpu
