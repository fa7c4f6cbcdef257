// Winograd of few groups at a time: a task transforms its groups' weights, then chunks of their tiles, and
// multiplies both while they are in its core's cache.

#include "cpu/grouped_winograd.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "core/integers.h"
#include "core/plan_grouped_winograd.h"
#include "cpu/threads.h"
#include "cpu/winograd.h"
#include "cpu/winograd_tiles.h"

namespace mlx_conv3d::cpu {
namespace {

/// Neighbouring tiles of one group.
struct Chunk {
  int64_t group = 0;
  std::vector<WinogradTiles::Place> tiles;  ///< in images that are the frames over (N, D)
  std::vector<const void*> pixels;          ///< [tile][pixel]

  int64_t count() const { return static_cast<int64_t>(tiles.size()); }
};

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
        panels_(winograd_panels(form_, p.group_out(), k_)),
        tiles_(p, form_),
        zeros_(new char[static_cast<size_t>((p.in_channels + 64) * 4)]()),
        threads_(static_cast<size_t>(thread_count())) {
    for (Thread& t : threads_) {
      t.weights = workspace.floats(sizes_.weights());
      t.inputs = workspace.floats(sizes_.tiles());
      // Sums of a single panel take the place of their inputs.
      t.sums = panels_.count() == 1 ? t.inputs : workspace.floats(sizes_.tiles());
    }
  }

  void run() {
    const int64_t blocks = divide_up(p_.groups, plan_.groups), tiles = grouped_winograd_tiles(p_, form_);
    parallel_for(blocks * plan_.pieces, [&](int64_t i, int thread) {
      const int64_t block = i / plan_.pieces, piece = i % plan_.pieces;
      const int64_t first = p_.groups * block / blocks, last = p_.groups * (block + 1) / blocks;
      Thread& t = threads_[static_cast<size_t>(thread)];
      if (t.first_group != first) transform_weights(first, last, t);
      t.first_group = first;
      task(first, last, tiles * piece / plan_.pieces, tiles * (piece + 1) / plan_.pieces, t);
    });
  }

 private:
  struct Thread {
    int64_t first_group = -1;  ///< of those whose weights it holds
    float *weights, *inputs, *sums;
    Chunk chunk;
  };

  /// Chunk after chunk of tiles, and of each one group after another, whose pixels are neighbours.
  void task(int64_t first_group, int64_t last_group, int64_t first, int64_t last, Thread& t) const {
    const int64_t chunks = divide_up(last - first, plan_.tiles);
    for (int64_t i = 0; i < chunks; ++i) {
      find(first_group, first + (last - first) * i / chunks, first + (last - first) * (i + 1) / chunks,
           t.chunk);
      for (int64_t group = first_group; group < last_group; ++group) {
        transform_inputs(t);
        multiply(group - first_group, t);
        transform_outputs(t);
        next_group(t.chunk);
      }
    }
  }

  /// Weights of the i-th group of a task: [panel][product][c][lane].
  float* panel_weights(int64_t i, int64_t panel, const Thread& t) const {
    return t.weights + i * sizes_.group_weights() + panels_.first_vector(panel) * k_.width * p_.group_in();
  }

  void transform_weights(int64_t first, int64_t last, const Thread& t) const {
    for (int64_t g = first; g < last; ++g) {
      for (int64_t panel = 0; panel < panels_.count(); ++panel) {
        const int64_t lane = panels_.first_vector(panel) * k_.width;
        const int64_t channel = g * p_.group_out() + lane;
        WinogradWeightPanel part{};
        part.w = operands_.w;
        part.w.data =
            static_cast<const char*>(part.w.data) + channel * part.w.stride[0] * item_size(part.w.type);
        part.out_channels = p_.group_out() - lane;
        part.channels = p_.group_in();
        part.side = 3;
        part.flip = p_.flip;
        part.vectors = panels_.vectors(panel);
        part.out = panel_weights(g - first, panel, t);
        part.xi_stride = sizes_.weight_stride();
        k_.winograd_weight(form_, part);
      }
    }
  }

  void find(int64_t group, int64_t first, int64_t last, Chunk& chunk) const {
    const int64_t each = form_.all_pixels(), frames = p_.output(kDepth);
    chunk.group = group;
    chunk.tiles.clear();
    chunk.pixels.resize(static_cast<size_t>((last - first) * each));
    for (int64_t i = 0; i < last - first; ++i) {
      const WinogradTiles::Place at = tiles_.at(first + i);
      chunk.tiles.push_back(at);
      const int64_t sd = p_.source_index(kDepth, at.n % frames * p_.stride[kDepth] - p_.pad_lo[kDepth]);
      const void** pixels = chunk.pixels.data() + i * each;
      if (sd < 0) {
        std::fill_n(pixels, each, zeros_.get());
        continue;
      }
      Frame source = input_.frame(at.n / frames, sd);
      source.data += group * group_bytes();
      tiles_.find_pixels(at, source, zeros_.get(), pixels);
    }
  }

  /// The same tiles of the next group. The zeros are as many as a pixel's channels.
  void next_group(Chunk& chunk) const {
    ++chunk.group;
    const int64_t bytes = group_bytes();
    for (const void*& pixel : chunk.pixels) pixel = static_cast<const char*>(pixel) + bytes;
  }

  int64_t group_bytes() const { return p_.group_in() * input_.item(); }

  void transform_inputs(const Thread& t) const {
    WinogradInputTile tile{};
    tile.channels = p_.group_in();
    tile.xi_stride = sizes_.tile_stride();
    for (int64_t i = 0; i < t.chunk.count(); ++i) {
      tile.rows = t.chunk.pixels.data() + i * form_.all_pixels();
      tile.out = t.inputs + i * sizes_.pitch;
      k_.winograd_input(form_, p_.x_type, tile);
    }
  }

  void multiply(int64_t group, const Thread& t) const {
    WinogradGroup part{};
    part.products = form_.all_products();
    part.tiles = t.chunk.count();
    part.channels = p_.group_in();
    part.pitch = sizes_.pitch;
    part.in = t.inputs;
    part.in_stride = part.out_stride = sizes_.tile_stride();
    part.weight_stride = sizes_.weight_stride();
    for (int64_t panel = 0; panel < panels_.count(); ++panel) {
      part.vectors = panels_.vectors(panel);
      part.weights = panel_weights(group, panel, t);
      part.out = t.sums + panels_.first_vector(panel) * k_.width;
      k_.winograd_group(part);
    }
  }

  void transform_outputs(const Thread& t) const {
    const int64_t channel = t.chunk.group * p_.group_out();
    Epilogue epilogue = operands_.epilogue;
    if (epilogue.bias) epilogue.bias += channel;
    WinogradOutputTile tile{};
    tile.xi_stride = sizes_.tile_stride();
    tile.next = sizes_.pitch;
    tile.channels = p_.group_out();
    tile.out = operands_.y;
    tile.epilogue = &epilogue;
    for (int64_t i = 0; i < t.chunk.count(); ++i) {
      const WinogradTiles::Place& at = t.chunk.tiles[static_cast<size_t>(i)];
      tile.in = t.sums + i * sizes_.pitch;
      tiles_.find_outputs(at.n, at, channel, tile);
      k_.winograd_output(form_, tile);
    }
  }

  const ConvProblem& p_;
  const GroupedWinogradPlan& plan_;
  const Operands& operands_;
  const Input input_;
  const Kernels& k_;
  const WinogradForm form_;
  const GroupedWinogradSizes sizes_;
  const Panels panels_;
  const WinogradTiles tiles_;
  const std::unique_ptr<char[]> zeros_;
  std::vector<Thread> threads_;
};

}  // namespace

void grouped_winograd(const ConvProblem& problem, const GroupedWinogradPlan& plan, const Operands& operands,
                      Workspace& workspace) {
  Runner(problem, plan, operands, workspace).run();
}

}  // namespace mlx_conv3d::cpu
