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
        parts_(divide_up(cols_.tiles, plan.tiles)),
        frames_(p.output(kDepth)),
        height_(p.output(kHeight)),
        width_(p.output(kWidth)),
        row_sources_(row_sources()),
        threads_(static_cast<size_t>(thread_count())) {
    if (plan.woven > 1) {
      in_order_ = woven_order(p.group_in(), plan.woven, k_.width);
      out_order_ = woven_order(plan.woven, p.group_out(), k_.width);
    }
    columns_[0] = columns(input_.frame(0, p.lead).col_stride);
    if (p.lead > 0) columns_[1] = columns(input_.frame(0, 0).col_stride);
    for (int64_t panel = 0; panel < panels_.count(); ++panel) vectors_.push_back(panels_.vectors(panel));
    for (Thread& t : threads_) {
      t.tiles.resize(static_cast<size_t>(plan.strips));
      t.weights = workspace.floats(sizes_.weights());
      t.columns = workspace.floats(sizes_.columns());
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
    float *weights, *columns, *inputs, *sums;
    std::vector<int64_t> tiles;  ///< of the strips at hand
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
        for_each_strip(chunk, [&](const Strip& strip, int64_t i) { transform_pixels(unit, strip, i, t); });
        multiply(unit - units.begin, chunk.count(), t);
        for_each_strip(chunk, [&](const Strip& strip, int64_t i) { transform_sums(unit, strip, i, t); });
      }
    }
  }

  /// Calls f(strip, how many were before it).
  template <class F>
  void for_each_strip(Range strips, const F& f) const {
    for (int64_t i = strips.begin; i < strips.end; ++i) {
      const int64_t part = i % parts_, row = i / parts_ % rows_.tiles, frame = i / parts_ / rows_.tiles;
      f({frame, row, {cols_.tiles * part / parts_, cols_.tiles * (part + 1) / parts_}}, i - strips.begin);
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

  void transform_pixels(int64_t unit, const Strip& strip, int64_t i, Thread& t) const {
    const int64_t depth =
        p_.source_index(kDepth, strip.frame % frames_ * p_.stride[kDepth] - p_.pad_lo[kDepth]);
    const Frame frame = input_.frame(strip.frame / frames_, depth < 0 ? p_.lead : depth);
    const void* rows[kMostSide];
    for (int64_t j = 0; j < form_.side(); ++j) {
      const int64_t row = row_sources_[static_cast<size_t>(strip.row * form_.side() + j)];
      const char* start = frame.data + unit * sizes_.in_channels * input_.item();
      rows[j] = depth < 0 || row < 0 ? nullptr : start + row * frame.row_stride;
    }
    WinogradColumns c{};
    c.count = sizes_.columns_of(strip.tiles.count());
    c.channels = sizes_.in_channels;
    c.rows = rows;
    c.columns = columns_[depth >= 0 && depth < p_.lead ? 1 : 0].data() + strip.tiles.begin * form_.m;
    c.order = in_order_.empty() ? nullptr : in_order_.data();
    c.next = sizes_.in_channels * input_.item();
    c.out = t.columns + i * sizes_.strip();
    c.stride = sizes_.column_stride();
    c.pitch = sizes_.pitch;
    k_.winograd_columns(form_, p_.x_type, c);
    t.tiles[static_cast<size_t>(i)] = strip.tiles.count();
  }

  void multiply(int64_t unit, int64_t strips, const Thread& t) const {
    WinogradGroup g{};
    g.strips = strips;
    g.tiles = t.tiles.data();
    g.channels = p_.group_in();
    g.woven = plan_.woven;
    g.in_vectors = divide_up(sizes_.in_channels, k_.width);
    g.panels = panels_.count();
    g.vectors = vectors_.data();
    g.columns = t.columns;
    g.stride = sizes_.column_stride();
    g.strip = sizes_.strip();
    g.pitch = sizes_.pitch;
    g.weights = panel_weights(unit, 0, t);
    g.weight_stride = sizes_.weight_stride();
    g.inputs = t.inputs;
    g.sums = t.sums;
    g.tile_stride = sizes_.tile_stride();
    k_.winograd_group(form_, g);
  }

  void transform_sums(int64_t unit, const Strip& strip, int64_t i, const Thread& t) const {
    const int64_t channel = unit * sizes_.out_channels, row = strip.row * form_.m,
                  col = strip.tiles.begin * form_.m;
    Epilogue epilogue = operands_.epilogue;
    if (epilogue.bias) epilogue.bias += channel;
    WinogradResults r{};
    r.channels = sizes_.out_channels;
    r.in = t.columns + i * sizes_.strip();
    r.stride = sizes_.column_stride();
    r.pitch = sizes_.pitch;
    r.order = out_order_.empty() ? nullptr : out_order_.data();
    r.out = operands_.y;
    r.pixel_stride = p_.out_channels;
    r.row_stride = width_ * r.pixel_stride;
    r.first = (strip.frame * height_ + row) * r.row_stride + col * r.pixel_stride + channel;
    r.rows = std::min<int64_t>(form_.m, height_ - row);
    r.cols = std::min<int64_t>(strip.tiles.count() * form_.m, width_ - col);
    r.epilogue = &epilogue;
    k_.winograd_results(form_, r);
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
  const int64_t parts_;                    ///< strips of a row of tiles
  const int64_t frames_, height_, width_;  ///< of the output
  const std::vector<int64_t> row_sources_;
  std::vector<int64_t> columns_[2];  ///< of x, and of the frames before it
  std::vector<int32_t> in_order_, out_order_;
  std::vector<int> vectors_;  ///< of each panel
  std::vector<Thread> threads_;
};

}  // namespace

void grouped_winograd(const ConvProblem& problem, const GroupedWinogradPlan& plan, const Operands& operands,
                      Workspace& workspace) {
  Runner(problem, plan, operands, workspace).run();
}

}  // namespace mlx_conv3d::cpu
