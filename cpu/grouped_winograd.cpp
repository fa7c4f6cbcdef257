// Winograd of few groups at a time: a task transforms its groups' weights, then chunks of their tiles, and
// multiplies both while they are in its core's cache.

#include "cpu/grouped_winograd.h"

#include <algorithm>
#include <vector>

#include "core/integers.h"
#include "core/plan_grouped_winograd.h"
#include "cpu/grouped_layout.h"
#include "cpu/grouped_winograd_weights.h"
#include "cpu/threads.h"

namespace mlx_conv3d::cpu {
namespace {

/// Cache lines of pieces of memory.
class Lines {
 public:
  void clear() { at_.clear(); }
  /// The lines of `bytes` from `begin` on.
  void add(const char* begin, int64_t bytes) {
    if (reinterpret_cast<uintptr_t>(begin) % kLine != 0) at_.push_back(begin);
    add_ends(begin, bytes);
  }
  /// Those that what lies before it does not reach.
  void add_ends(const char* begin, int64_t bytes) {
    for (int64_t i = kLine; i < bytes + kLine; i += kLine) at_.push_back(begin + std::min(i, bytes) - 1);
  }
  LineList from(int64_t offset) const { return {at_.data(), static_cast<int64_t>(at_.size()), offset}; }

 private:
  static constexpr int64_t kLine = 64;
  std::vector<const char*> at_;
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
        weights_(p, plan, operands.w),
        packed_(operands.packed_w),
        rows_(p, form_, kHeight),
        cols_(p, form_, kWidth),
        unit_bytes_(sizes_.in_channels * input_.item()),
        result_bytes_(sizes_.out_channels * item_size(p.out_type)),
        fetches_(p.operand_bytes() > kKeptBytes),
        threads_(static_cast<size_t>(thread_count())) {
    columns_[0] = winograd_columns(p, form_, input_.frame(0, p.lead).col_stride);
    if (p.lead > 0) columns_[1] = winograd_columns(p, form_, input_.frame(0, 0).col_stride);
    find_strips();
    const Panels& panels = weights_.panels();
    for (int64_t panel = 0; panel < panels.count(); ++panel) vectors_.push_back(panels.vectors(panel));
    for (Thread& t : threads_) {
      t.weights = workspace.floats(sizes_.weights());
      t.columns = workspace.floats(sizes_.columns());
      t.inputs = workspace.floats(sizes_.tiles());
      // Sums of a single panel take the place of their inputs.
      t.sums = panels.count() == 1 ? t.inputs : workspace.floats(sizes_.tiles());
    }
  }

  void run() {
    const int64_t units = weights_.units(), blocks = divide_up(units, plan_.units);
    const auto strips = static_cast<int64_t>(strips_.size());
    parallel_for_shares(blocks * plan_.pieces, [&](int64_t i, int thread) {
      const int64_t block = i / plan_.pieces, piece = i % plan_.pieces;
      const Range of_units{units * block / blocks, units * (block + 1) / blocks};
      Thread& t = threads_[static_cast<size_t>(thread)];
      if (packed_ == nullptr && t.first_unit != of_units.begin) {
        weights_.transform(of_units.begin, of_units.end, t.weights);
      }
      t.first_unit = of_units.begin;
      task(of_units, {strips * piece / plan_.pieces, strips * (piece + 1) / plan_.pieces}, t);
    });
  }

 private:
  static constexpr int kMostSide = 6;

  struct Range {
    int64_t begin, end;
    int64_t count() const { return end - begin; }
  };
  struct Thread {
    int64_t first_unit = -1;  ///< of those whose weights it holds
    float *weights, *columns, *inputs, *sums;
    std::vector<int64_t> tiles;                         ///< of the strips at hand
    Lines pixels, next_pixels, results, first_results;  ///< of this chunk and the next one, of unit 0
  };
  /// Neighbouring tiles of a row of tiles: their rows of pixels and where their results go, of channel 0.
  struct Strip {
    int64_t tiles;
    const char* rows[kMostSide];  ///< null for zeros
    const int64_t* columns;       ///< see WinogradColumns
    int64_t first, out_rows, out_cols;
  };

  void find_strips() {
    const int64_t parts = divide_up(cols_.tiles, plan_.tiles), frames = p_.output(kDepth);
    for (int64_t frame = 0; frame < p_.batch * frames; ++frame) {
      const int64_t depth = p_.source_index(kDepth, frame % frames * p_.stride[kDepth] - p_.pad_lo[kDepth]);
      for (int64_t row = 0; row < rows_.tiles; ++row) {
        for (int64_t part = 0; part < parts; ++part) {
          const Range tiles{cols_.tiles * part / parts, cols_.tiles * (part + 1) / parts};
          strips_.push_back(strip_of(frame, depth, row, tiles));
        }
      }
    }
  }

  Strip strip_of(int64_t frame, int64_t depth, int64_t tile_row, Range tiles) const {
    const int64_t height = p_.output(kHeight), width = p_.output(kWidth);
    const int64_t row = tile_row * form_.m, col = tiles.begin * form_.m;
    Strip strip{};
    strip.tiles = tiles.count();
    const Frame from = input_.frame(frame / p_.output(kDepth), depth < 0 ? p_.lead : depth);
    for (int64_t i = 0; i < form_.side(); ++i) {
      const int64_t source = depth < 0 ? -1 : winograd_source(p_, form_, kHeight, row, i);
      strip.rows[i] = source < 0 ? nullptr : from.data + source * from.row_stride;
    }
    strip.columns = columns_[depth >= 0 && depth < p_.lead ? 1 : 0].data() + col;
    strip.first = ((frame * height + row) * width + col) * p_.out_channels;
    strip.out_rows = std::min<int64_t>(form_.m, height - row);
    strip.out_cols = std::min<int64_t>(tiles.count() * form_.m, width - col);
    return strip;
  }

  /// Chunk after chunk of strips, and of each one unit after another, whose pixels are neighbours.
  void task(Range units, Range strips, Thread& t) const {
    const int64_t chunks = divide_up(strips.count(), plan_.strips);
    const auto chunk_of = [&](int64_t i) -> Range {
      return {strips.begin + strips.count() * i / chunks, strips.begin + strips.count() * (i + 1) / chunks};
    };
    for (int64_t i = 0; i < chunks; ++i) {
      if (fetches_) list_lines(chunk_of(i), i + 1 < chunks ? chunk_of(i + 1) : Range{0, 0}, t);
      for (int64_t unit = units.begin; unit < units.end; ++unit) run_chunk(chunk_of(i), unit, units, t);
    }
  }

  void run_chunk(Range chunk, int64_t unit, Range units, Thread& t) const {
    const bool first = unit == units.begin, last = unit + 1 == units.end;
    t.tiles.clear();
    for (int64_t i = chunk.begin; i < chunk.end; ++i) {
      t.tiles.push_back(strip(i).tiles);
      transform_pixels(unit, strip(i), t.columns + (i - chunk.begin) * sizes_.strip());
    }
    const float* weights = packed_ != nullptr ? packed_ + unit * sizes_.unit_weights()
                                              : t.weights + (unit - units.begin) * sizes_.unit_weights();
    const int64_t next = last ? units.begin : unit + 1;
    multiply(weights, (last ? t.next_pixels : t.pixels).from(next * unit_bytes_),
             (first ? t.first_results : t.results).from(unit * result_bytes_), t);
    for (int64_t i = chunk.begin; i < chunk.end; ++i) {
      transform_sums(unit, strip(i), t.columns + (i - chunk.begin) * sizes_.strip());
    }
  }

  const Strip& strip(int64_t i) const { return strips_[static_cast<size_t>(i)]; }

  void list_lines(Range chunk, Range next, Thread& t) const {
    t.pixels.clear();
    t.next_pixels.clear();
    t.results.clear();
    t.first_results.clear();
    for_each_pixel(chunk, [&](const char* pixel) { t.pixels.add_ends(pixel, unit_bytes_); });
    for_each_pixel(next, [&](const char* pixel) { t.next_pixels.add(pixel, unit_bytes_); });
    for_each_result(chunk, [&](const char* result) {
      t.results.add_ends(result, result_bytes_);
      t.first_results.add(result, result_bytes_);
    });
  }

  /// f(channel 0 of every pixel).
  template <class F>
  void for_each_pixel(Range strips, const F& f) const {
    for (int64_t j = strips.begin; j < strips.end; ++j) {
      // The first rows are the last ones of the strip before.
      for (int64_t i = j == strips.begin ? 0 : form_.side() - form_.m; i < form_.side(); ++i) {
        const char* row = strip(j).rows[i];
        for (int64_t k = 0; row != nullptr && k < sizes_.columns_of(strip(j).tiles); ++k) {
          if (strip(j).columns[k] != kNoColumn) f(row + strip(j).columns[k]);
        }
      }
    }
  }

  template <class F>
  void for_each_result(Range strips, const F& f) const {
    const int64_t item = item_size(p_.out_type), pixel = p_.out_channels * item;
    for (int64_t j = strips.begin; j < strips.end; ++j) {
      const char* row = static_cast<const char*>(operands_.y) + strip(j).first * item;
      for (int64_t i = 0; i < strip(j).out_rows; ++i, row += p_.output(kWidth) * pixel) {
        for (int64_t k = 0; k < strip(j).out_cols; ++k) f(row + k * pixel);
      }
    }
  }

  void transform_pixels(int64_t unit, const Strip& strip, float* to) const {
    const void* rows[kMostSide];
    for (int i = 0; i < kMostSide; ++i) {
      rows[i] = strip.rows[i] == nullptr ? nullptr : strip.rows[i] + unit * unit_bytes_;
    }
    WinogradColumns c{};
    c.count = sizes_.columns_of(strip.tiles);
    c.channels = sizes_.in_channels;
    c.rows = rows;
    c.columns = strip.columns;
    c.out = to;
    c.stride = sizes_.column_stride();
    c.pitch = sizes_.pitch;
    k_.winograd_columns(form_, p_.x_type, c);
  }

  void multiply(const float* weights, LineList reads, LineList writes, const Thread& t) const {
    WinogradGroup g{};
    g.strips = static_cast<int64_t>(t.tiles.size());
    g.tiles = t.tiles.data();
    g.channels = p_.group_in();
    g.in_vectors = divide_up(sizes_.in_channels, k_.width);
    g.panels = static_cast<int64_t>(vectors_.size());
    g.vectors = vectors_.data();
    g.columns = t.columns;
    g.stride = sizes_.column_stride();
    g.strip = sizes_.strip();
    g.pitch = sizes_.pitch;
    g.weights = weights;
    g.weight_stride = sizes_.weight_stride();
    g.inputs = t.inputs;
    g.sums = t.sums;
    g.tile_stride = sizes_.tile_stride();
    g.reads = reads;
    g.writes = writes;
    k_.winograd_group(form_, g);
  }

  void transform_sums(int64_t unit, const Strip& strip, const float* from) const {
    const int64_t channel = unit * sizes_.out_channels;
    Epilogue epilogue = operands_.epilogue;
    if (epilogue.bias) epilogue.bias += channel;
    WinogradResults r{};
    r.channels = sizes_.out_channels;
    r.in = from;
    r.stride = sizes_.column_stride();
    r.pitch = sizes_.pitch;
    r.out = operands_.y;
    r.pixel_stride = p_.out_channels;
    r.row_stride = p_.output(kWidth) * r.pixel_stride;
    r.first = strip.first + channel;
    r.rows = strip.out_rows;
    r.cols = strip.out_cols;
    r.epilogue = &epilogue;
    k_.winograd_results(form_, r);
  }

  const ConvProblem& p_;
  const GroupedWinogradPlan& plan_;
  const Operands& operands_;
  const Input input_;
  const Kernels& k_;
  const WinogradForm form_;
  const GroupedWinogradSizes sizes_;
  const GroupedWinogradWeights weights_;
  const float* const packed_;  ///< in advance, or null
  const WinogradAxis rows_, cols_;
  const int64_t unit_bytes_, result_bytes_;  ///< of a pixel
  std::vector<int64_t> columns_[2];          ///< of x, and of the frames before it
  const bool fetches_;                       ///< asks for lines before they are used
  std::vector<Strip> strips_;
  std::vector<int> vectors_;  ///< of each panel
  std::vector<Thread> threads_;
};

}  // namespace

void grouped_winograd(const ConvProblem& problem, const GroupedWinogradPlan& plan, const Operands& operands,
                      Workspace& workspace) {
  Runner(problem, plan, operands, workspace).run();
}

}  // namespace mlx_conv3d::cpu
