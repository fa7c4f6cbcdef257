// The blocked product. A task is a block of output positions by a block of output channels: for each block of
// products it packs the inputs (or reads them in place), multiplies panel by panel and keeps the sums in a
// buffer of its own, which the epilogue turns into output.

#include "cpu/gather_gemm.h"

#include <algorithm>
#include <cstring>

#include "core/integers.h"
#include "cpu/row_gather.h"
#include "cpu/threads.h"
#include "cpu/weight_panel.h"

namespace mlx_conv3d::cpu {
namespace {

using Blocks = std::vector<std::vector<Segment>>;

int64_t length_of(const std::vector<Segment>& block) {
  int64_t n = 0;
  for (const Segment& s : block) n += s.length();
  return n;
}

class Product {
 public:
  Product(const ConvProblem& p, const GemmPlan& plan, const Operands& operands, const RowGather& rows,
          Workspace& workspace)
      : p_(p),
        plan_(plan),
        operands_(operands),
        rows_(rows),
        k_(kernels()),
        narrow_(is_narrow(p, k_.width)),
        panels_(p.group_out(), k_) {
    const int threads = thread_count();
    width_ = panels_.vectors_total() * k_.width;
    block_panels_ = std::max<int64_t>(1, plan.cols / (k_.panel_vectors * k_.width));
    cols_ = std::min(width_, block_panels_ * k_.panel_vectors * k_.width);
    by_plane_ = rows.plane_rows() >= plan.rows / 4;
    in_place_ = by_plane_ && rows.rows_in_place();
    in_output_ = p.out_type == Dtype::float32 && rows.in_order() && (narrow_ || p.group_out() == width_);
    const bool dense = p.taps() == 1 && p.group_in() <= plan.depth;
    lda_ = dense ? p.group_in() : plan.depth + k_.width;
    for (int t = 0; t < threads; ++t) {
      inputs_.push_back(workspace.floats(plan.piece_rows * lda_));
      sums_.push_back(workspace.floats(plan.piece_rows * cols_));
      if (!plan.packed_weights) own_weights_.push_back(workspace.floats(plan.depth * cols_));
    }
  }

  /// Runs the products in `blocks` for every group. `sums` of earlier blocks (fp32, laid out like the output)
  /// are added when given; without `last` the results go there instead of through the epilogue.
  void run(const Blocks& blocks, float* packed, float* sums, bool first, bool last) {
    for (int64_t g = 0; g < p_.groups; ++g) run_group({blocks, {0}, {}, g, packed, sums, first, last});
  }

 private:
  /// One group's products.
  struct Pass {
    const Blocks& blocks;
    std::vector<int64_t> starts;                ///< of each block: products before it
    std::vector<std::vector<int64_t>> offsets;  ///< of each block: its products' weights
    int64_t group;
    float *packed, *sums;
    bool first, last;
  };
  /// `count` rows from `begin` of a plane, or of all rows where `plane` is negative; `first` of all.
  struct Rows {
    int64_t plane, begin, first, count;
  };
  /// A block of columns: its panels, and of its output channels, as many of which exist, the first.
  struct Columns {
    int64_t panel, panel_end, lane, lanes, channel;
  };

  void run_group(Pass pass) {
    for (const auto& block : pass.blocks) {
      rows_.weight_offsets(block, operands_.w, pass.offsets.emplace_back());
      pass.starts.push_back(pass.starts.back() + static_cast<int64_t>(pass.offsets.back().size()));
    }
    if (plan_.packed_weights) {
      parallel_for(panels_.count() * static_cast<int64_t>(pass.blocks.size()), [&](int64_t i, int) {
        const int64_t panel = i % panels_.count(), b = i / panels_.count();
        pack_weight_panel(p_, operands_.w, pass.group, panels_, panel, pass.offsets[b],
                          pass.packed + width_ * pass.starts[b]);
      });
    }
    const int64_t in_plane = by_plane_ ? rows_.plane_rows() : rows_.rows();
    const int64_t planes = by_plane_ ? rows_.planes() : 1;
    const int64_t row_blocks = divide_up(in_plane, plan_.rows);
    const int64_t col_blocks = divide_up(panels_.count(), block_panels_);
    parallel_for_shares(planes * row_blocks * col_blocks, [&](int64_t i, int thread) {
      const int64_t col_block = i % col_blocks, row_block = i / col_blocks % row_blocks,
                    plane = i / col_blocks / row_blocks;
      // Even blocks, so that no task ends with a handful of rows.
      const int64_t begin = in_plane * row_block / row_blocks, end = in_plane * (row_block + 1) / row_blocks;
      const int64_t pieces = divide_up(end - begin, plan_.piece_rows);
      for (int64_t piece = 0; piece < pieces; ++piece) {
        const int64_t from = begin + (end - begin) * piece / pieces;
        const int64_t to = begin + (end - begin) * (piece + 1) / pieces;
        task(pass, {by_plane_ ? plane : -1, from, plane * in_plane + from, to - from},
             columns(pass, col_block), thread);
      }
    });
  }

  Columns columns(const Pass& pass, int64_t block) const {
    const int64_t panel = block * block_panels_, end = std::min(panels_.count(), panel + block_panels_);
    const int64_t lane = panels_.first_vector(panel) * k_.width;
    const int64_t lanes = std::min(panels_.first_vector(end) * k_.width, p_.group_out()) - lane;
    return {panel, end, lane, lanes, pass.group * p_.group_out() + lane};
  }

  void task(const Pass& pass, const Rows& rows, const Columns& cols, int thread) {
    const int64_t at = rows_.output_offset(rows.first) + cols.channel;
    float* c = in_output_ ? static_cast<float*>(operands_.y) + at : sums_[thread];
    const int64_t ldc = in_output_ ? p_.out_channels : cols_;
    if (!in_output_ && !pass.first) load_sums(pass, rows, cols, c);
    bool started = !pass.first;
    for (size_t b = 0; b < pass.blocks.size(); ++b) {
      const std::vector<Segment>& block = pass.blocks[b];
      const bool one_depth_tap = block.front().kd == block.back().kd;
      if (rows.plane >= 0 && one_depth_tap && rows_.plane_reads_zero(rows.plane, block.front().kd)) continue;
      multiply(pass, b, rows, cols, c, ldc, started, thread);
      started = true;
    }
    for (int64_t r = 0; !started && r < rows.count; ++r) std::fill_n(c + r * ldc, cols.lanes, 0.0f);
    store(pass, rows, cols, c, ldc);
  }

  void load_sums(const Pass& pass, const Rows& rows, const Columns& cols, float* c) const {
    for (int64_t r = 0; r < rows.count; ++r) {
      std::memcpy(c + r * cols_, pass.sums + rows_.output_offset(rows.first + r) + cols.channel,
                  static_cast<size_t>(cols.lanes) * sizeof(float));
      std::fill(c + r * cols_ + cols.lanes, c + (r + 1) * cols_, 0.0f);
    }
  }

  void store(const Pass& pass, const Rows& rows, const Columns& cols, const float* c, int64_t ldc) const {
    if (in_output_ && (!pass.last || operands_.epilogue.plain())) return;
    // Rows that follow each other in the output are taken at once.
    const int64_t together = rows_.in_order() ? rows.count : 1;
    for (int64_t r = 0; r < rows.count; r += together) {
      const int64_t at = rows_.output_offset(rows.first + r) + cols.channel;
      if (pass.last) {
        k_.store_rows(operands_.epilogue, {together, cols.lanes, c + r * ldc, ldc, cols.channel, at,
                                           p_.out_channels, operands_.y});
      } else {
        for (int64_t i = 0; i < together; ++i) {
          std::memcpy(pass.sums + at + i * p_.out_channels, c + (r + i) * ldc,
                      static_cast<size_t>(cols.lanes) * sizeof(float));
        }
      }
    }
  }

  void multiply(const Pass& pass, size_t b, const Rows& rows, const Columns& cols, float* c, int64_t ldc,
                bool accumulate, int thread) {
    const std::vector<Segment>& block = pass.blocks[b];
    const int64_t k = length_of(block), channel = pass.group * p_.group_in();
    const float* a = inputs_[thread];
    int64_t lda = lda_;
    // A single segment of one tap lies in the input as it is needed.
    if (in_place_ && block.size() == 1 && block.front().kw_end - block.front().kw_begin == 1) {
      a = rows_.row_in_place(rows.plane, rows.begin, block.front().kd, channel + block.front().c_begin, &lda);
    } else {
      rows_.pack(k_, block, channel, rows.first, rows.count, inputs_[thread], lda);
    }
    for (int64_t panel = cols.panel; panel < cols.panel_end; ++panel) {
      const int64_t lane = panels_.first_vector(panel) * k_.width;
      const int vectors = panels_.vectors(panel);
      const float* weights = pass.packed + width_ * pass.starts[b] + lane * k;
      if (!plan_.packed_weights) {
        float* own = own_weights_[thread] - cols.lane * k;
        pack_weight_panel(p_, operands_.w, pass.group, panels_, panel, pass.offsets[b], own);
        weights = own + lane * k;
      }
      if (narrow_) {
        multiply_narrow(rows.count, k, a, lda, weights, c, ldc, accumulate);
      } else {
        k_.gemm(false, rows.count, vectors, k, a, lda, weights, vectors * k_.width, c + lane - cols.lane, ldc,
                accumulate, {});
      }
    }
  }

  void multiply_narrow(int64_t rows, int64_t k, const float* a, int64_t lda, const float* weights, float* c,
                       int64_t ldc, bool accumulate) const {
    constexpr int64_t kRows = 16, kMostSums = kRows * 16, kMostWidth = 16;
    float lanes[kMostSums * kMostWidth];
    const int64_t outputs = p_.group_out();
    for (int64_t r = 0; r < rows; r += kRows, a += kRows * lda, c += kRows * ldc) {
      const int64_t count = std::min(kRows, rows - r);
      k_.gemm_narrow(count, static_cast<int>(outputs), k, {&a, 1}, lda, weights, k, lanes, false);
      k_.sum_lanes(lanes, count * outputs);
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t o = 0; o < outputs; ++o) {
          float& to = c[i * ldc + o];
          to = (accumulate ? to : 0.0f) + lanes[i * outputs + o];
        }
      }
    }
  }

  const ConvProblem& p_;
  const GemmPlan& plan_;
  const Operands& operands_;
  const RowGather& rows_;
  const Kernels& k_;
  const bool narrow_;
  const Panels panels_;
  int64_t width_, cols_, lda_, block_panels_;
  bool by_plane_, in_place_;
  bool in_output_;  ///< sums are taken where the output lies
  std::vector<float*> inputs_, sums_, own_weights_;
};

}  // namespace

void gather_gemm(const ConvProblem& p, const GemmPlan& plan, const Operands& operands,
                 const GatherGemmOptions& options, Workspace& workspace) {
  const Input input(p, operands);
  const auto depth = axis_phases(p, kDepth, options.split_phases);
  const auto height = axis_phases(p, kHeight, options.split_phases);
  const auto width = axis_phases(p, kWidth, options.split_phases);
  const int64_t lanes = Panels(p.group_out(), kernels()).vectors_total() * kernels().width;
  const int64_t packed_size = options.one_depth_tap_at_a_time ? p.taps() / p.kernel[0] : p.taps();
  float* packed = plan.packed_weights ? workspace.floats(packed_size * p.group_in() * lanes) : nullptr;
  float* sums = nullptr;
  if (options.one_depth_tap_at_a_time) {
    sums = p.out_type == Dtype::float32 ? static_cast<float*>(operands.y)
                                        : workspace.floats(p.out_positions() * p.out_channels);
  }
  for (const AxisPhase& d : depth) {
    for (const AxisPhase& h : height) {
      for (const AxisPhase& w : width) {
        const RowGather rows(p, input, d, h, w);
        if (rows.rows() == 0) continue;
        const int64_t mark = workspace.used();
        Product product(p, plan, operands, rows, workspace);
        const int64_t all = d.tap_count() * h.tap_count() * w.tap_count() * p.group_in();
        const Blocks blocks = rows.blocks(plan.depth, all > plan.depth || options.one_depth_tap_at_a_time);
        if (!options.one_depth_tap_at_a_time) {
          product.run(blocks, packed, nullptr, true, true);
        } else {
          for (int64_t kd = 0; kd < std::max<int64_t>(1, d.tap_count()); ++kd) {
            Blocks of_tap;
            for (const auto& block : blocks) {
              if (block.front().kd == kd) of_tap.push_back(block);
            }
            product.run(of_tap, packed, sums, kd == 0, kd + 1 >= d.tap_count());
          }
        }
        workspace.release_to(mark);
      }
    }
  }
}

}  // namespace mlx_conv3d::cpu
