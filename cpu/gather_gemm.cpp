// The blocked product. A task is a block of output positions by a block of output channels: for each block of
// products it packs the inputs (or reads them in place), multiplies panel by panel and keeps the sums in a
// buffer of its own, which the epilogue turns into output.

#include "cpu/gather_gemm.h"

#include <algorithm>
#include <cstring>

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
      : p_(p), plan_(plan), operands_(operands), rows_(rows), k_(kernels()), panels_(p.group_out(), k_) {
    const int threads = thread_count();
    width_ = panels_.vectors_total() * k_.width;
    block_panels_ = std::max<int64_t>(1, plan.cols / (k_.panel_vectors * k_.width));
    cols_ = std::min(width_, block_panels_ * k_.panel_vectors * k_.width);
    by_plane_ = rows.plane_rows() >= plan.rows / 4;
    in_place_ = by_plane_ && rows.rows_in_place();
    lda_ = plan.depth + k_.width;
    for (int t = 0; t < threads; ++t) {
      inputs_.push_back(workspace.floats(plan.rows * lda_));
      sums_.push_back(workspace.floats(plan.rows * cols_));
      if (!plan.packed_weights) own_weights_.push_back(workspace.floats(plan.depth * cols_));
    }
  }

  /// Runs the products in `blocks` for every group. `sums` of earlier blocks (fp32, laid out like the output)
  /// are added when given; without `last` the results go there instead of through the epilogue.
  void run(const Blocks& blocks, float* packed, float* sums, bool first, bool last) {
    for (int64_t g = 0; g < p_.groups; ++g) run_group(blocks, g, packed, sums, first, last);
  }

 private:
  void run_group(const Blocks& blocks, int64_t g, float* packed, float* sums, bool first, bool last) {
    std::vector<int64_t> starts{0};
    std::vector<std::vector<int64_t>> offsets(blocks.size());
    for (size_t b = 0; b < blocks.size(); ++b) {
      rows_.weight_offsets(blocks[b], operands_.w, offsets[b]);
      starts.push_back(starts.back() + static_cast<int64_t>(offsets[b].size()));
    }
    if (plan_.packed_weights) {
      parallel_for(panels_.count() * static_cast<int64_t>(blocks.size()), [&](int64_t i, int) {
        const int64_t panel = i % panels_.count(), b = i / panels_.count();
        pack_weight_panel(p_, operands_.w, g, panels_, panel, offsets[b], packed + width_ * starts[b]);
      });
    }
    const int64_t row_blocks = by_plane_ ? (rows_.plane_rows() + plan_.rows - 1) / plan_.rows
                                         : (rows_.rows() + plan_.rows - 1) / plan_.rows;
    const int64_t col_blocks = (panels_.count() + block_panels_ - 1) / block_panels_;
    const int64_t planes = by_plane_ ? rows_.planes() : 1;
    parallel_for(planes * row_blocks * col_blocks, [&](int64_t i, int thread) {
      const int64_t col_block = i % col_blocks, row_block = i / col_blocks % row_blocks,
                    plane = i / col_blocks / row_blocks;
      const int64_t in_plane = by_plane_ ? rows_.plane_rows() : rows_.rows();
      // Even blocks, so that no task ends with a handful of rows.
      const int64_t begin = in_plane * row_block / row_blocks, end = in_plane * (row_block + 1) / row_blocks;
      task(blocks, starts, offsets, g, by_plane_ ? plane : -1, begin, end - begin, col_block, packed, sums,
           first, last, thread);
    });
  }

  void task(const Blocks& blocks, const std::vector<int64_t>& starts,
            const std::vector<std::vector<int64_t>>& offsets, int64_t g, int64_t plane, int64_t begin,
            int64_t count, int64_t col_block, const float* packed, float* memory_sums, bool first, bool last,
            int thread) {
    float* c = sums_[thread];
    const int64_t first_row = plane < 0 ? begin : plane * rows_.plane_rows() + begin;
    const int64_t col_begin = panels_.first_vector(col_block * block_panels_) * k_.width;
    const int64_t col_end = panels_.first_vector((col_block + 1) * block_panels_) * k_.width;
    const int64_t lanes = std::min(col_end, p_.group_out()) - col_begin;
    const int64_t channel = g * p_.group_out() + col_begin;
    bool started = false;
    if (!first) {
      for (int64_t r = 0; r < count; ++r) {
        std::memcpy(c + r * cols_, memory_sums + rows_.output_offset(first_row + r) + channel,
                    static_cast<size_t>(lanes) * sizeof(float));
        std::fill(c + r * cols_ + lanes, c + r * cols_ + (col_end - col_begin), 0.0f);
      }
      started = true;
    }
    for (size_t b = 0; b < blocks.size(); ++b) {
      const std::vector<Segment>& block = blocks[b];
      const bool one_depth_tap = block.front().kd == block.back().kd;
      if (plane >= 0 && one_depth_tap && rows_.plane_reads_zero(plane, block.front().kd)) continue;
      multiply(block, starts[b], offsets[b], g, plane, begin, first_row, count, col_block, packed, c, started,
               thread);
      started = true;
    }
    if (!started) std::fill(c, c + count * cols_, 0.0f);
    // Whole rows that follow each other in the output, without a bias to start anew for each, are one row.
    const bool joined = last && rows_.in_order() && lanes == p_.out_channels && lanes == cols_ && !p_.bias;
    const int64_t steps = joined ? 1 : count, length = joined ? count * lanes : lanes;
    for (int64_t r = 0; r < steps; ++r) {
      const int64_t at = rows_.output_offset(first_row + r) + channel;
      if (last) {
        k_.store(operands_.epilogue, c + r * cols_, channel, at,
                 static_cast<char*>(operands_.y) + at * item_size(p_.out_type), length);
      } else {
        std::memcpy(memory_sums + at, c + r * cols_, static_cast<size_t>(lanes) * sizeof(float));
      }
    }
  }

  void multiply(const std::vector<Segment>& block, int64_t start, const std::vector<int64_t>& offsets,
                int64_t g, int64_t plane, int64_t begin, int64_t first_row, int64_t count, int64_t col_block,
                const float* packed, float* c, bool accumulate, int thread) {
    const int64_t k = length_of(block);
    const float* a = inputs_[thread];
    int64_t lda = lda_;
    // A single segment of one tap lies in the input as it is needed.
    if (in_place_ && block.size() == 1 && block.front().kw_end - block.front().kw_begin == 1) {
      a = rows_.row_in_place(plane, begin, block.front().kd, g * p_.group_in() + block.front().c_begin, &lda);
    } else {
      rows_.pack(k_, block, g * p_.group_in(), first_row, count, inputs_[thread], lda);
    }
    const int64_t first_panel = col_block * block_panels_;
    const int64_t col_begin = panels_.first_vector(first_panel) * k_.width;
    for (int64_t panel = first_panel; panel < std::min(panels_.count(), first_panel + block_panels_);
         ++panel) {
      const int64_t lane = panels_.first_vector(panel) * k_.width;
      const int vectors = panels_.vectors(panel);
      const float* b = packed + width_ * start + lane * k;
      if (!plan_.packed_weights) {
        float* own = own_weights_[thread] - col_begin * k;
        pack_weight_panel(p_, operands_.w, g, panels_, panel, offsets, own);
        b = own + lane * k;
      }
      if (is_narrow(p_)) {
        k_.gemm_narrow(count, static_cast<int>(p_.group_out()), k, {&a, 1}, lda, b, k, c, cols_, accumulate);
      } else {
        k_.gemm(false, count, vectors, k, a, lda, b, vectors * k_.width, c + lane - col_begin, cols_,
                accumulate, {});
      }
    }
  }

  const ConvProblem& p_;
  const GemmPlan& plan_;
  const Operands& operands_;
  const RowGather& rows_;
  const Kernels& k_;
  const Panels panels_;
  int64_t width_, cols_, lda_, block_panels_;
  bool by_plane_, in_place_;
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
