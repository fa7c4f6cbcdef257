// Winograd of few groups at a time: a task transforms its groups' weights, then chunks of their tiles, and
// multiplies both while they are in its core's cache.

#include "cpu/grouped_winograd.h"

#include <algorithm>
#include <vector>

#include "core/integers.h"
#include "core/plan_grouped_winograd.h"
#include "cpu/grouped_layout.h"
#include "cpu/threads.h"
#include "cpu/winograd.h"

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
        panels_(winograd_panels(form_, sizes_.out_channels, k_)),
        rows_(p, form_, kHeight),
        cols_(p, form_, kWidth),
        parts_(divide_up(cols_.tiles, plan.columns)),
        row_sources_(row_sources()),
        threads_(static_cast<size_t>(thread_count())) {
    if (plan.woven > 1) {
      in_order_ = woven_order(p.group_in(), plan.woven, k_.width);
      out_order_ = woven_order(plan.woven, p.group_out(), k_.width);
    }
    columns_[0] = columns(input_.frame(0, p.lead).col_stride);
    if (p.lead > 0) columns_[1] = columns(input_.frame(0, 0).col_stride);
    for (Thread& t : threads_) {
      t.weights = workspace.floats(sizes_.weights());
      t.inputs = workspace.floats(sizes_.tiles());
      // Sums of a single panel take the place of their inputs.
      t.sums = panels_.count() == 1 ? t.inputs : workspace.floats(sizes_.tiles());
    }
  }

  void run() {
    const int64_t units = p_.groups / plan_.woven, blocks = divide_up(units, plan_.units);
    const int64_t strips = grouped_winograd_strips(p_, plan_);
    parallel_for_shares(blocks * plan_.pieces, [&](int64_t i, int thread) {
      const int64_t block = i / plan_.pieces, piece = i % plan_.pieces;
      const Range of_units{units * block / blocks, units * (block + 1) / blocks};
      Thread& t = threads_[static_cast<size_t>(thread)];
      if (t.first_unit != of_units.begin) transform_weights(of_units, t);
      t.first_unit = of_units.begin;
      task(of_units, {strips * piece / plan_.pieces, strips * (piece + 1) / plan_.pieces}, t);
    });
  }

 private:
  struct Range {
    int64_t begin, end;
    int64_t count() const { return end - begin; }
  };
  struct Thread {
    int64_t first_unit = -1;  ///< of those whose weights it holds
    float *weights, *inputs, *sums;
  };
  /// Where a strip is: its frame over (N, D), its row of tiles and the tiles of that.
  struct Strip {
    int64_t frame, row;
    Range tiles;
  };

  /// [row of tiles][pixel] of the rows of pixels, -1 for zeros.
  std::vector<int64_t> row_sources() const {
    std::vector<int64_t> found;
    for (int64_t tile = 0; tile < rows_.tiles; ++tile) {
      for (int64_t i = 0; i < form_.side(); ++i) {
        found.push_back(winograd_source(p_, form_, kHeight, tile * form_.m, i));
      }
    }
    return found;
  }

  /// Bytes from a row's start to each column that its tiles meet.
  std::vector<int64_t> columns(int64_t col_stride) const {
    std::vector<int64_t> found;
    for (int64_t i = 0; i < cols_.tiles * form_.m + form_.side() - form_.m; ++i) {
      const int64_t column = winograd_source(p_, form_, kWidth, 0, i);
      found.push_back(column < 0 ? kNoColumn : column * col_stride);
    }
    return found;
  }

  /// Chunk after chunk of strips, and of each one unit after another, whose pixels are neighbours.
  void task(Range units, Range strips, Thread& t) const {
    const int64_t chunks = divide_up(strips.count(), plan_.strips);
    for (int64_t i = 0; i < chunks; ++i) {
      const Range chunk{strips.begin + strips.count() * i / chunks,
                        strips.begin + strips.count() * (i + 1) / chunks};
      for (int64_t unit = units.begin; unit < units.end; ++unit) {
        int64_t tiles = 0;
        for_each_strip(chunk, [&](const Strip& strip, int64_t first) {
          transform_inputs(unit, strip, t.inputs + first * sizes_.pitch);
          tiles += strip.tiles.count();
        });
        multiply(unit - units.begin, tiles, t);
        for_each_strip(chunk, [&](const Strip& strip, int64_t first) {
          transform_outputs(unit, strip, t.sums + first * sizes_.pitch);
        });
      }
    }
  }

  /// Calls f(strip, tiles before it).
  template <class F>
  void for_each_strip(Range strips, const F& f) const {
    int64_t tiles = 0;
    for (int64_t i = strips.begin; i < strips.end; ++i) {
      const int64_t part = i % parts_, row = i / parts_ % rows_.tiles, frame = i / parts_ / rows_.tiles;
      const Strip strip{frame, row, {cols_.tiles * part / parts_, cols_.tiles * (part + 1) / parts_}};
      f(strip, tiles);
      tiles += strip.tiles.count();
    }
  }

  /// Weights of the i-th unit of a task: [panel][product][c][lane].
  float* panel_weights(int64_t i, int64_t panel, const Thread& t) const {
    return t.weights + i * sizes_.unit_weights() + panels_.first_vector(panel) * k_.width * p_.group_in();
  }

  void transform_weights(Range units, const Thread& t) const {
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      for (int64_t panel = 0; panel < panels_.count(); ++panel) {
        const int64_t lane = panels_.first_vector(panel) * k_.width;
        const int64_t channel = unit * sizes_.out_channels + lane;
        WinogradWeightPanel part{};
        part.w = operands_.w;
        part.w.data =
            static_cast<const char*>(part.w.data) + channel * part.w.stride[0] * item_size(part.w.type);
        part.out_channels = sizes_.out_channels - lane;
        part.channels = p_.group_in();
        part.side = 3;
        part.flip = p_.flip;
        part.vectors = panels_.vectors(panel);
        part.out = panel_weights(unit - units.begin, panel, t);
        part.xi_stride = sizes_.weight_stride();
        k_.winograd_weight(form_, part);
      }
      if (plan_.woven > 1) weave(panel_weights(unit - units.begin, 0, t));
    }
  }

  void weave(float* weights) const {
    for (int64_t product = 0; product < sizes_.products; ++product) {
      k_.permute_lanes(in_order_.data(), weights + product * sizes_.weight_stride(), p_.group_in());
    }
  }

  void transform_inputs(int64_t unit, const Strip& strip, float* to) const {
    const int64_t frames = p_.output(kDepth);
    const int64_t depth =
        p_.source_index(kDepth, strip.frame % frames * p_.stride[kDepth] - p_.pad_lo[kDepth]);
    const Frame frame = input_.frame(strip.frame / frames, depth < 0 ? p_.lead : depth);
    const void* rows[kMostSide];
    for (int64_t i = 0; i < form_.side(); ++i) {
      const int64_t row = row_sources_[static_cast<size_t>(strip.row * form_.side() + i)];
      const char* start = frame.data + unit * sizes_.in_channels * input_.item();
      rows[i] = depth < 0 || row < 0 ? nullptr : start + row * frame.row_stride;
    }
    WinogradStripInput s{};
    s.tiles = strip.tiles.count();
    s.channels = sizes_.in_channels;
    s.rows = rows;
    s.columns = columns_[depth >= 0 && depth < p_.lead ? 1 : 0].data() + strip.tiles.begin * form_.m;
    s.order = in_order_.empty() ? nullptr : in_order_.data();
    s.out = to;
    s.stride = sizes_.tile_stride();
    s.pitch = sizes_.pitch;
    k_.winograd_strip_input(form_, p_.x_type, s);
  }

  void multiply(int64_t unit, int64_t tiles, const Thread& t) const {
    WinogradGroup part{};
    part.products = sizes_.products;
    part.tiles = tiles;
    part.channels = p_.group_in();
    part.woven = plan_.woven;
    part.pitch = sizes_.pitch;
    part.in = t.inputs;
    part.in_stride = part.out_stride = sizes_.tile_stride();
    part.weight_stride = sizes_.weight_stride();
    for (int64_t panel = 0; panel < panels_.count(); ++panel) {
      part.vectors = panels_.vectors(panel);
      part.weights = panel_weights(unit, panel, t);
      part.out = t.sums + panels_.first_vector(panel) * k_.width;
      k_.winograd_group(part);
    }
  }

  void transform_outputs(int64_t unit, const Strip& strip, const float* sums) const {
    const int64_t channel = unit * sizes_.out_channels, row = strip.row * form_.m,
                  col = strip.tiles.begin * form_.m;
    Epilogue epilogue = operands_.epilogue;
    if (epilogue.bias) epilogue.bias += channel;
    WinogradStripOutput s{};
    s.tiles = strip.tiles.count();
    s.channels = sizes_.out_channels;
    s.in = sums;
    s.stride = sizes_.tile_stride();
    s.pitch = sizes_.pitch;
    s.order = out_order_.empty() ? nullptr : out_order_.data();
    s.out = operands_.y;
    s.pixel_stride = p_.out_channels;
    s.row_stride = p_.output(kWidth) * s.pixel_stride;
    s.first = (strip.frame * p_.output(kHeight) + row) * s.row_stride + col * s.pixel_stride + channel;
    s.rows = std::min<int64_t>(form_.m, p_.output(kHeight) - row);
    s.cols = std::min<int64_t>(s.tiles * form_.m, p_.output(kWidth) - col);
    s.epilogue = &epilogue;
    k_.winograd_strip_output(form_, s);
  }

  static constexpr int64_t kMostSide = 6;

  const ConvProblem& p_;
  const GroupedWinogradPlan& plan_;
  const Operands& operands_;
  const Input input_;
  const Kernels& k_;
  const WinogradForm form_;
  const GroupedWinogradSizes sizes_;
  const Panels panels_;
  const WinogradAxis rows_, cols_;
  const int64_t parts_;
  const std::vector<int64_t> row_sources_;
  std::vector<int64_t> columns_[2];  ///< of x, and of the frames before it
  std::vector<int32_t> in_order_, out_order_;
  std::vector<Thread> threads_;
};

}  // namespace

void grouped_winograd(const ConvProblem& problem, const GroupedWinogradPlan& plan, const Operands& operands,
                      Workspace& workspace) {
  Runner(problem, plan, operands, workspace).run();
}

}  // namespace mlx_conv3d::cpu
