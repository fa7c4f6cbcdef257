// Winograd of few groups at a time: a task transforms its groups' weights, then chunks of their tiles, and
// multiplies both while they are in its core's cache.

#include "cpu/grouped_winograd.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "core/integers.h"
#include "core/plan_grouped_winograd.h"
#include "cpu/threads.h"
#include "cpu/winograd_tiles.h"

namespace mlx_conv3d::cpu {
namespace {

class Runner {
 public:
  Runner(const ConvProblem& p, const GroupedWinogradPlan& plan, const Operands& operands,
         Workspace& workspace)
      : p_(p),
        plan_(plan),
        operands_(operands),
        input_(p, operands),
        k_(kernels()),
        form_(plan.form()),
        sizes_(p, plan, k_.width),
        panels_(p.group_out(), k_),
        tiles_(p, form_),
        zeros_(new char[static_cast<size_t>((p.in_channels + 64) * 4)]()),
        threads_(static_cast<size_t>(thread_count())) {
    for (Thread& t : threads_) {
      t.weights = workspace.floats(sizes_.weights());
      t.inputs = workspace.floats(sizes_.inputs());
      t.sums = workspace.floats(sizes_.sums());
    }
  }

  void run() {
    const int64_t blocks = divide_up(p_.groups, plan_.groups), tiles = grouped_winograd_tiles(p_, form_);
    parallel_for(blocks * plan_.pieces, [&](int64_t i, int thread) {
      const int64_t block = i / plan_.pieces, piece = i % plan_.pieces;
      const Groups groups{p_.groups * block / blocks,
                          p_.groups * (block + 1) / blocks - p_.groups * block / blocks};
      Thread& t = threads_[static_cast<size_t>(thread)];
      if (t.groups != groups.first) transform_weights(groups, t);
      t.groups = groups.first;
      const int64_t first = tiles * piece / plan_.pieces, last = tiles * (piece + 1) / plan_.pieces;
      const int64_t chunks = divide_up(last - first, plan_.tiles);
      for (int64_t c = 0; c < chunks; ++c) {
        const int64_t from = first + (last - first) * c / chunks,
                      to = first + (last - first) * (c + 1) / chunks;
        for (int64_t tile = from; tile < to; ++tile) transform_input(groups, tile, tile - from, t);
        multiply(groups, to - from, t);
        for (int64_t tile = from; tile < to; ++tile) transform_output(groups, tile, tile - from, t);
      }
    });
  }

 private:
  struct Groups {
    int64_t first, count;
  };
  struct Thread {
    int64_t groups = -1;  ///< the first of those whose weights it holds
    float *weights, *inputs, *sums;
  };
  /// Weights of one group: [product][panel][c][lane].
  float* panel_weights(int64_t group, int64_t panel, const Thread& t) const {
    return t.weights + group * sizes_.group_weights() +
           panels_.first_vector(panel) * k_.width * p_.group_in();
  }

  void transform_weights(const Groups& groups, const Thread& t) const {
    for (int64_t g = 0; g < groups.count; ++g) {
      for (int64_t panel = 0; panel < panels_.count(); ++panel) {
        const int64_t lane = panels_.first_vector(panel) * k_.width;
        const int64_t channel = (groups.first + g) * p_.group_out() + lane;
        WinogradWeightPanel part{};
        part.w = operands_.w;
        part.w.data =
            static_cast<const char*>(part.w.data) + channel * part.w.stride[0] * item_size(part.w.type);
        part.out_channels = p_.group_out() - lane;
        part.channels = p_.group_in();
        part.side = 3;
        part.flip = p_.flip;
        part.vectors = panels_.vectors(panel);
        part.out = panel_weights(g, panel, t);
        part.xi_stride = sizes_.weight_stride();
        k_.winograd_weight(form_, part);
      }
    }
  }

  /// Tile `i` of a chunk.
  void transform_input(const Groups& groups, int64_t index, int64_t i, const Thread& t) const {
    const WinogradTiles::Place at = tiles_.at(index);
    const int64_t frames = p_.output(kDepth), od = at.n % frames;
    const int64_t sd = p_.source_index(kDepth, od * p_.stride[kDepth] - p_.pad_lo[kDepth]);
    const void* pixels[WinogradTiles::kMostPixels];
    if (sd < 0) {
      std::fill_n(pixels, form_.all_pixels(), zeros_.get());
    } else {
      Frame source = input_.frame(at.n / frames, sd);
      source.data += groups.first * p_.group_in() * input_.item();
      tiles_.find_pixels(at, source, zeros_.get(), pixels);
    }
    WinogradInputTile tile{};
    tile.rows = pixels;
    tile.channels = groups.count * p_.group_in();
    tile.out = t.inputs + i * sizes_.in_pitch;
    tile.xi_stride = sizes_.input_stride();
    k_.winograd_input(form_, p_.x_type, tile);
  }

  void multiply(const Groups& groups, int64_t tiles, const Thread& t) const {
    for (int64_t g = 0; g < groups.count; ++g) {
      for (int64_t product = 0; product < form_.all_products(); ++product) {
        const float* a = t.inputs + product * sizes_.input_stride() + g * p_.group_in();
        float* c = t.sums + product * sizes_.sum_stride() + g * p_.group_out();
        for (int64_t panel = 0; panel < panels_.count(); ++panel) {
          const int vectors = panels_.vectors(panel);
          k_.gemm(false, tiles, vectors, p_.group_in(), a, sizes_.in_pitch,
                  panel_weights(g, panel, t) + product * sizes_.weight_stride(), vectors * k_.width,
                  c + panels_.first_vector(panel) * k_.width, sizes_.out_pitch, false, {});
        }
      }
    }
  }

  void transform_output(const Groups& groups, int64_t index, int64_t i, const Thread& t) const {
    const WinogradTiles::Place at = tiles_.at(index);
    const int64_t height = p_.output(kHeight), width = p_.output(kWidth);
    const int64_t channel = groups.first * p_.group_out();
    Epilogue epilogue = operands_.epilogue;
    if (epilogue.bias) epilogue.bias += channel;
    WinogradOutputTile tile{};
    tile.in = t.sums + i * sizes_.out_pitch;
    tile.xi_stride = sizes_.sum_stride();
    tile.next = sizes_.out_pitch;
    tile.channels = groups.count * p_.group_out();
    tile.out = operands_.y;
    tile.first = ((at.n * height + at.row) * width + at.col) * p_.out_channels + channel;
    tile.row_stride = width * p_.out_channels;
    tile.pixel_stride = p_.out_channels;
    tile.row_end = static_cast<int>(std::min<int64_t>(plan_.m, height - at.row));
    tile.col_end = static_cast<int>(std::min<int64_t>(plan_.m, width - at.col));
    tile.epilogue = &epilogue;
    k_.winograd_output(form_, tile);
  }

  const ConvProblem& p_;
  const GroupedWinogradPlan& plan_;
  const Operands& operands_;
  const Input input_;
  const Kernels& k_;
  const WinogradForm form_;
  const GroupedWinogradSizes sizes_;
  const Panels panels_;
  const WinogradTiles tiles_;  ///< of images that are the frames over (N, D)
  const std::unique_ptr<char[]> zeros_;
  std::vector<Thread> threads_;
};

}  // namespace

void grouped_winograd(const ConvProblem& problem, const GroupedWinogradPlan& plan, const Operands& operands,
                      Workspace& workspace) {
  Runner(problem, plan, operands, workspace).run();
}

}  // namespace mlx_conv3d::cpu
