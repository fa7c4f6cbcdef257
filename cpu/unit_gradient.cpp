// dL/dw of whole groups: a task copies bands of its groups' pixels and of dL/dy, as far as the L1 cache holds
// both, and sums all of their products; nobody else adds to these groups' sums.

#include "cpu/unit_gradient.h"

#include <algorithm>
#include <vector>

#include "core/integers.h"
#include "core/plan.h"
#include "cpu/grouped_layout.h"
#include "cpu/threads.h"

namespace mlx_conv3d::cpu {
namespace {

class Gradient {
 public:
  Gradient(const ConvProblem& p, const UnitGradientPlan& plan, const Operands& operands, Dtype dy_type,
           const void* dy, void* dw, Workspace& workspace)
      : p_(p),
        plan_(plan),
        input_(p, operands),
        dy_type_(dy_type),
        dy_(static_cast<const char*>(dy)),
        dw_(dw),
        k_(kernels()),
        sizes_(p, plan, k_.width),
        d_(axis_phases(p, kDepth, false).front()),
        h_(axis_phases(p, kHeight, false).front()),
        bands_(divide_up(h_.count, plan.band)),
        units_(p.groups / plan.woven),
        threads_(static_cast<size_t>(thread_count())) {
    if (plan.woven > 1) {
      in_order_ = woven_order(p.group_in(), plan.woven, k_.width);
      out_order_ = woven_order(p.group_out(), plan.woven, k_.width);
    }
    make_pieces();
    make_runs();
    if (plan.splits > 1) partial_ = workspace.floats(plan.splits * units_ * sizes_.unit_sums());
    for (Thread& t : threads_) {
      t.x = workspace.floats(sizes_.inputs());
      t.dy = workspace.floats(sizes_.cotangents());
      if (plan.splits == 1) t.sums = workspace.floats(plan.units * sizes_.unit_sums());
    }
  }

  void run() {
    const int64_t blocks = divide_up(units_, plan_.units), bands = unit_gradient_bands(p_, plan_);
    parallel_for_shares(blocks * plan_.splits, [&](int64_t i, int thread) {
      const int64_t block = i / plan_.splits, split = i % plan_.splits;
      const Range units{units_ * block / blocks, units_ * (block + 1) / blocks};
      Thread& t = threads_[static_cast<size_t>(thread)];
      float* sums =
          partial_ == nullptr ? t.sums : partial_ + (split * units_ + units.begin) * sizes_.unit_sums();
      const Range of_bands{bands * split / plan_.splits, bands * (split + 1) / plan_.splits};
      for (int64_t band = of_bands.begin; band < of_bands.end; ++band) {
        add_band(band, of_bands, units, t, sums);
      }
      for (int64_t unit = units.begin; partial_ == nullptr && unit < units.end; ++unit) {
        finish(unit, sums + (unit - units.begin) * sizes_.unit_sums());
      }
    });
    if (partial_ == nullptr) return;
    parallel_for(units_, [&](int64_t unit, int) { finish(unit, partial_ + unit * sizes_.unit_sums()); });
  }

 private:
  struct Range {
    int64_t begin, end;
    int64_t count() const { return end - begin; }
  };
  /// Columns that follow each other in the stored row too, or that are all zeros.
  struct Columns {
    int64_t at, column, count;  ///< of the copied row; of the stored row, or -1
  };
  struct Piece {
    Range positions;
    std::vector<Columns> columns;
  };
  struct Thread {
    float *x, *dy, *sums = nullptr;
    std::vector<int64_t> inputs;     ///< input rows that the band meets
    std::vector<int64_t> slots;      ///< [row tap][output row]: index into inputs, or -1
    std::vector<const float*> rows;  ///< of one row tap
  };
  struct Band {
    int64_t n, od;
    Range rows;
    const Piece& piece;
  };

  Band band_of(int64_t index) const {
    const auto pieces = static_cast<int64_t>(pieces_.size());
    const int64_t row = index / pieces % bands_, frame = index / pieces / bands_;
    return {frame / d_.count,
            frame % d_.count,
            {h_.count * row / bands_, h_.count * (row + 1) / bands_},
            pieces_[static_cast<size_t>(index % pieces)]};
  }

  void make_pieces() {
    const int64_t width = p_.output(kWidth), parts = divide_up(width, plan_.cols);
    for (int64_t part = 0; part < parts; ++part) {
      Piece piece{{width * part / parts, width * (part + 1) / parts}, {}};
      const int64_t first = piece.positions.begin * p_.stride[kWidth] - p_.pad_lo[kWidth];
      const int64_t count = input_span(p_, kWidth, piece.positions.count());
      for (int64_t i = 0; i < count; ++i) {
        const int64_t column = p_.source_index(kWidth, first + i);
        Columns* last = piece.columns.empty() ? nullptr : &piece.columns.back();
        if (last != nullptr && column == (last->column < 0 ? -1 : last->column + last->count)) {
          ++last->count;
        } else {
          piece.columns.push_back({i, column, 1});
        }
      }
      pieces_.push_back(std::move(piece));
    }
  }

  /// Of a row of taps: products whose inputs follow each other.
  void make_runs() {
    const int64_t taps = p_.kernel[kWidth], channels = p_.group_in();
    const bool joined = p_.dilation[kWidth] == 1 && !p_.flip;
    run_length_ = joined ? taps * channels : channels;
    for (int64_t k = 0; k < (joined ? 1 : taps); ++k) {
      runs_.push_back({k * p_.dilation[kWidth] * sizes_.pixel, (p_.flip ? taps - 1 - k : k) * channels});
    }
  }

  void add_band(int64_t index, Range bands, Range units, Thread& t, float* sums) const {
    const Band band = band_of(index);
    const bool first = index == bands.begin;
    find_rows(band.rows, t);
    for (int64_t unit = units.begin; unit < units.end; ++unit, sums += sizes_.unit_sums()) {
      copy_cotangents(band, unit, t);
      for (int64_t kd = 0; kd < d_.tap_count(); ++kd) {
        const int64_t sd = d_.source(kd, band.od), tap = d_.taps[static_cast<size_t>(kd)];
        if (sd >= 0) {
          copy_inputs(input_.frame(band.n, sd), band.piece, unit, t);
          UnitGradientRow r = row_of(band, t);
          r.accumulate = !first;
          add_frame(r, tap, t, sums);
        } else if (first) {
          const int64_t size = sizes_.unit_sums() / d_.tap_count();
          std::fill(sums + tap * size, sums + (tap + 1) * size, 0.0f);
        }
      }
    }
  }

  /// The input rows that a band's output rows meet, each once.
  void find_rows(Range rows, Thread& t) const {
    t.inputs.clear();
    t.slots.clear();
    for (int64_t kh = 0; kh < h_.tap_count(); ++kh) {
      for (int64_t oh = rows.begin; oh < rows.end; ++oh) {
        const int64_t sh = h_.source(kh, oh);
        const auto found = std::find(t.inputs.begin(), t.inputs.end(), sh);
        t.slots.push_back(sh < 0 ? -1 : found - t.inputs.begin());
        if (sh >= 0 && found == t.inputs.end()) t.inputs.push_back(sh);
      }
    }
  }

  /// Element offset of a row's first position in dL/dy.
  int64_t output_of(const Band& band, int64_t oh) const {
    const int64_t row = (band.n * d_.count + band.od) * h_.count + oh;
    return (row * p_.output(kWidth) + band.piece.positions.begin) * p_.out_channels;
  }

  void copy_cotangents(const Band& band, int64_t unit, const Thread& t) const {
    const int64_t item = item_size(dy_type_), channel = unit * sizes_.lanes;
    const int64_t count = band.piece.positions.count();
    for (int64_t oh = band.rows.begin; oh < band.rows.end; ++oh) {
      const int64_t at = output_of(band, oh) + channel;
      copy(dy_type_,
           {dy_ + at * item, p_.out_channels * item, count, p_.out_channels - channel, sizes_.lanes},
           out_order_, t.dy + (oh - band.rows.begin) * count * sizes_.lanes);
    }
  }

  void copy_inputs(const Frame& frame, const Piece& piece, int64_t unit, const Thread& t) const {
    const int64_t channel = unit * sizes_.pixel, left = p_.in_channels - channel;
    float* to = t.x;
    for (const int64_t row : t.inputs) {
      const char* from = frame.data + row * frame.row_stride + channel * input_.item();
      // A run may write behind its end what the next one overwrites.
      for (const Columns& c : piece.columns) {
        float* at = to + c.at * sizes_.pixel;
        if (c.column < 0) {
          std::fill(at, at + c.count * sizes_.pixel, 0.0f);
        } else {
          copy(p_.x_type, {from + c.column * frame.col_stride, frame.col_stride, c.count, left, sizes_.pixel},
               in_order_, at);
        }
      }
      to += sizes_.row;
    }
  }

  struct Pixels {
    const char* from;
    int64_t stride, count, channels, taken;
  };
  void copy(Dtype type, const Pixels& pixels, const std::vector<int32_t>& order, float* to) const {
    const int32_t first = 0;
    k_.stage_blocks(type, {pixels.from, pixels.stride, pixels.count, pixels.channels, 1, &first, pixels.taken,
                           order.empty() ? nullptr : order.data(), to, 0});
  }

  /// Everything but rows and sums.
  UnitGradientRow row_of(const Band& band, const Thread& t) const {
    UnitGradientRow r{};
    r.out_rows = band.rows.count();
    r.dy = t.dy;
    r.positions = band.piece.positions.count();
    r.step = p_.stride[kWidth] * sizes_.pixel;
    r.lanes = sizes_.lanes;
    r.woven = plan_.woven;
    r.runs = static_cast<int64_t>(runs_.size());
    r.run = runs_.data();
    r.length = run_length_;
    return r;
  }

  /// All products of a frame's taps, row of taps by row of taps.
  void add_frame(UnitGradientRow& r, int64_t kd, Thread& t, float* sums) const {
    for (int64_t kh = 0; kh < h_.tap_count(); ++kh) {
      t.rows.clear();
      for (int64_t i = 0; i < r.out_rows; ++i) {
        const int64_t slot = t.slots[static_cast<size_t>(kh * r.out_rows + i)];
        t.rows.push_back(slot < 0 ? nullptr : t.x + slot * sizes_.row);
      }
      const int64_t row = kd * p_.kernel[kHeight] + h_.taps[static_cast<size_t>(kh)];
      r.rows = t.rows.data();
      r.sums = sums + row * p_.kernel[kWidth] * p_.group_in() * sizes_.lanes;
      k_.unit_gradient(r);
    }
  }

  void finish(int64_t unit, const float* sums) const {
    std::vector<int64_t> rows;
    for (int64_t l = 0; l < sizes_.lanes; ++l) {
      const int64_t channel = out_order_.empty() ? l : out_order_[static_cast<size_t>(l)];
      rows.push_back((unit * sizes_.lanes + channel) * sizes_.products);
    }
    k_.unit_gradient_results(p_.w_type, {plan_.splits, units_ * sizes_.unit_sums(), sizes_.products,
                                         sizes_.lanes, sums, rows.data(), dw_});
  }

  const ConvProblem& p_;
  const UnitGradientPlan& plan_;
  const Input input_;
  const Dtype dy_type_;
  const char* dy_;
  void* dw_;
  const Kernels& k_;
  const UnitGradientSizes sizes_;
  const AxisPhase d_, h_;
  const int64_t bands_, units_;
  std::vector<int32_t> in_order_, out_order_;  ///< of woven groups (PixelBlocks), or empty
  std::vector<Piece> pieces_;
  std::vector<UnitGradientRun> runs_;
  int64_t run_length_ = 0;
  float* partial_ = nullptr;  ///< [split][unit]: sums, where there are several splits
  std::vector<Thread> threads_;
};

}  // namespace

void unit_gradient(const ConvProblem& problem, const UnitGradientPlan& plan, const Operands& operands,
                   Dtype dy_type, const void* dy, void* dw, Workspace& workspace) {
  Gradient(problem, plan, operands, dy_type, dy, dw, workspace).run();
}

}  // namespace mlx_conv3d::cpu
