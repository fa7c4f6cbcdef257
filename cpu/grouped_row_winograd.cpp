// Winograd along the width alone, of one unit of groups and one strip (some neighbouring tiles of some rows)
// at a time: all that lies between pixels and results stays in the L1 cache.

#include "cpu/grouped_row_winograd.h"

#include <algorithm>
#include <vector>

#include "core/integers.h"
#include "core/plan_grouped_winograd.h"
#include "cpu/grouped_layout.h"
#include "cpu/grouped_winograd_weights.h"
#include "cpu/threads.h"

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
        sizes_(p, plan, k_.width),
        weights_(p, plan, operands.w),
        bands_(divide_up(p.output(kHeight), plan.band)),
        chunks_(p.batch * p.output(kDepth) * bands_),
        tiles_(WinogradAxis(p, plan.form(), kWidth).tiles),
        parts_(divide_up(tiles_, plan.tiles)),
        unit_bytes_(sizes_.unit.in_channels * input_.item()),
        result_bytes_(sizes_.unit.out_channels * item_size(p.out_type)),
        threads_(static_cast<size_t>(thread_count())) {
    if (plan.woven > 1) {
      in_order_ = woven_order(p.group_in(), plan.woven, k_.width);
      out_order_ = woven_order(plan.woven, p.group_out(), k_.width);
    }
    columns_[0] = winograd_columns(p, plan.form(), input_.frame(0, p.lead).col_stride);
    if (p.lead > 0) columns_[1] = winograd_columns(p, plan.form(), input_.frame(0, 0).col_stride);
    list_lines();
    for (Thread& t : threads_) {
      if (operands.packed_w == nullptr) t.weights = workspace.floats(plan.units * sizes_.unit_weights());
      t.inputs = workspace.floats(sizes_.inputs());
      t.sums = workspace.floats(sizes_.sums());
    }
  }

  void run() {
    const int64_t units = weights_.units(), blocks = divide_up(units, plan_.units);
    parallel_for_shares(blocks * plan_.pieces, [&](int64_t i, int thread) {
      const int64_t block = i / plan_.pieces, piece = i % plan_.pieces;
      const Range of_units{units * block / blocks, units * (block + 1) / blocks};
      Thread& t = threads_[static_cast<size_t>(thread)];
      if (operands_.packed_w == nullptr && t.first_unit != of_units.begin) {
        weights_.transform(of_units.begin, of_units.end, t.weights);
      }
      t.first_unit = of_units.begin;
      task(of_units, {chunks_ * piece / plan_.pieces, chunks_ * (piece + 1) / plan_.pieces}, t);
    });
  }

 private:
  struct Range {
    int64_t begin, end;
    int64_t count() const { return end - begin; }
  };
  /// Some output rows of a frame, in full width, and the rows of pixels that they meet.
  struct Band {
    std::vector<const void*> pixels;  ///< null for zeros
    const int64_t* columns;
    int64_t rows, first;  ///< of the output, and its first element there
    const char* results;  ///< of the units at hand
  };
  struct Thread {
    int64_t first_unit = -1;  ///< of those whose weights it holds
    float *weights, *inputs, *sums;
    Band here, next;
    FetchedLines reads, writes;  ///< of the next band
  };
  /// The cache lines of so many units in neighbouring rows, which follow each other in memory.
  class Lines {
   public:
    Lines() = default;
    Lines(int64_t rows, int64_t width, int64_t stride, int64_t bytes) : rows_(rows) {
      const int64_t lines = divide_up(bytes, kLine);
      for (int64_t i = 0; i < rows * width; ++i) {
        for (int64_t n = 0; n < lines; ++n) offsets_.push_back(i * stride + std::min(n * kLine, bytes - 1));
      }
    }
    FetchedLines of(const char* base, int64_t rows) const {
      const auto count = static_cast<int64_t>(offsets_.size());
      return {base, offsets_.data(), rows_ == 0 ? 0 : count / rows_ * rows};
    }

   private:
    static constexpr int64_t kLine = 64;
    int64_t rows_ = 0;
    std::vector<int64_t> offsets_;
  };

  /// Of what is larger than the caches and lies row by row.
  void list_lines() {
    const Frame frame = input_.frame(0, p_.lead);
    const int64_t width = p_.stored(kWidth), pixel = p_.out_channels * item_size(p_.out_type);
    fetches_ = p_.operand_bytes() > kKeptBytes;
    if (!fetches_) return;
    writes_ = Lines(plan_.band, p_.output(kWidth), pixel, plan_.units * result_bytes_);
    if (p_.lead > 0 || frame.row_stride != width * frame.col_stride) return;
    reads_ = Lines(plan_.band + 2, width, frame.col_stride, plan_.units * unit_bytes_);
  }

  void find(int64_t chunk, Range units, Band& band) const {
    const int64_t frames = p_.output(kDepth), height = p_.output(kHeight), width = p_.output(kWidth);
    const int64_t frame = chunk / bands_, i = chunk % bands_;
    const int64_t begin = height * i / bands_, end = height * (i + 1) / bands_;
    const int64_t depth = p_.source_index(kDepth, frame % frames * p_.stride[kDepth] - p_.pad_lo[kDepth]);
    const Frame from = input_.frame(frame / frames, depth < 0 ? p_.lead : depth);
    band.pixels.clear();
    for (int64_t row = begin; row < end + 2; ++row) {
      const int64_t source = depth < 0 ? -1 : winograd_source(p_, plan_.form(), kHeight, row, 0);
      band.pixels.push_back(source < 0 ? nullptr : from.data + source * from.row_stride);
    }
    band.columns = columns_[depth >= 0 && depth < p_.lead ? 1 : 0].data();
    band.rows = end - begin;
    band.first = (frame * height + begin) * width * p_.out_channels;
    band.results = static_cast<const char*>(operands_.y) + band.first * item_size(p_.out_type) +
                   units.begin * result_bytes_;
  }

  /// Band after band, and of each one unit after another, whose pixels are neighbours. Meanwhile the band
  /// after it is asked for: behind the task's last one that of the next task, which mostly is the same
  /// thread's.
  void task(Range units, Range chunks, Thread& t) const {
    if (chunks.count() > 0) find(chunks.begin, units, t.next);
    for (int64_t chunk = chunks.begin; chunk < chunks.end; ++chunk) {
      std::swap(t.here, t.next);
      t.reads = t.writes = {};
      if (chunk + 1 < chunks_) find_next(chunk + 1, units, t);
      const int64_t steps = units.count() * parts_;
      for (int64_t unit = units.begin, step = 0; unit < units.end; ++unit) {
        for (int64_t part = 0; part < parts_; ++part, ++step) {
          const Range tiles{tiles_ * part / parts_, tiles_ * (part + 1) / parts_};
          strip(unit, units, tiles, share(t.reads, step, steps), share(t.writes, step, steps), t);
        }
      }
    }
  }

  /// Also the lines of the pixels that it is the first to meet, and of its results.
  void find_next(int64_t chunk, Range units, Thread& t) const {
    find(chunk, units, t.next);
    if (!fetches_) return;
    const auto& met = t.here.pixels;
    const void* first = nullptr;
    int64_t rows = 0;
    for (const void* row : t.next.pixels) {
      if (row == nullptr || std::find(met.begin(), met.end(), row) != met.end()) continue;
      if (rows++ == 0) first = row;
    }
    if (rows > 0) t.reads = reads_.of(static_cast<const char*>(first) + units.begin * unit_bytes_, rows);
    t.writes = writes_.of(t.next.results, t.next.rows);
  }

  FetchedLines share(const FetchedLines& f, int64_t step, int64_t steps) const {
    const int64_t begin = f.count * step / steps;
    return {f.base, f.offset + begin, f.count * (step + 1) / steps - begin};
  }

  void strip(int64_t unit, Range units, Range tiles, const FetchedLines& reads, const FetchedLines& writes,
             Thread& t) const {
    const int64_t rows = t.here.rows;
    WinogradRowPixels pixels{};
    pixels.rows = rows + 2;
    pixels.tiles = tiles.count();
    pixels.channels = sizes_.unit.in_channels;
    pixels.row = t.here.pixels.data();
    pixels.offset = unit * unit_bytes_;
    pixels.columns = t.here.columns + tiles.begin * plan_.m;
    pixels.order = in_order_.empty() ? nullptr : in_order_.data();
    pixels.out = t.inputs;
    pixels.stride = sizes_.stride();
    pixels.pitch = sizes_.unit.pitch;
    k_.winograd_row_pixels(p_.x_type, pixels);

    WinogradRows g{};
    g.rows = rows;
    g.tiles = tiles.count();
    g.channels = p_.group_in();
    g.woven = plan_.woven;
    g.vectors = sizes_.unit.out_channels / k_.width;
    g.inputs = t.inputs;
    g.stride = sizes_.stride();
    g.weights = operands_.packed_w != nullptr ? operands_.packed_w + unit * sizes_.unit_weights()
                                              : t.weights + (unit - units.begin) * sizes_.unit_weights();
    g.sums = t.sums;
    g.sums_stride = sizes_.sums_stride();
    g.pitch = sizes_.unit.pitch;
    g.reads = reads;
    g.writes = writes;
    k_.winograd_rows(g);

    const int64_t channel = unit * sizes_.unit.out_channels, width = p_.output(kWidth);
    Epilogue epilogue = operands_.epilogue;
    if (epilogue.bias) epilogue.bias += channel;
    WinogradRowResults r{};
    r.tiles = tiles.count();
    r.channels = sizes_.unit.out_channels;
    r.in = t.sums;
    r.stride = sizes_.sums_stride();
    r.pitch = sizes_.unit.pitch;
    r.order = out_order_.empty() ? nullptr : out_order_.data();
    r.out = operands_.y;
    r.pixel_stride = p_.out_channels;
    r.row_stride = width * r.pixel_stride;
    r.first = t.here.first + tiles.begin * plan_.m * r.pixel_stride + channel;
    r.rows = rows;
    r.cols = std::min(width, tiles.end * plan_.m) - tiles.begin * plan_.m;
    r.epilogue = &epilogue;
    k_.winograd_row_results(r);
  }

  const ConvProblem& p_;
  const GroupedWinogradPlan& plan_;
  const Operands& operands_;
  const Input input_;
  const Kernels& k_;
  const GroupedRowSizes sizes_;
  const GroupedWinogradWeights weights_;
  const int64_t bands_, chunks_;             ///< of a frame, and of all frames
  const int64_t tiles_, parts_;              ///< of a row, and strips of it
  const int64_t unit_bytes_, result_bytes_;  ///< of a pixel
  std::vector<int64_t> columns_[2];          ///< of x, and of the frames before it
  std::vector<int32_t> in_order_, out_order_;
  bool fetches_ = false;  ///< asks for lines before they are used
  Lines reads_, writes_;
  std::vector<Thread> threads_;
};

}  // namespace

void grouped_row_winograd(const ConvProblem& problem, const GroupedWinogradPlan& plan,
                          const Operands& operands, Workspace& workspace) {
  Runner(problem, plan, operands, workspace).run();
}

}  // namespace mlx_conv3d::cpu
