// Direct convolution over buffered rows. A task is a tile of output frames, rows and columns by some panels
// of output channels. Its products are those of row_gather.h, block by block, but neighbouring outputs'
// pixels are a stride apart in a row, so that no tap needs a copy of its own.

#include "cpu/row_conv.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/integers.h"
#include "cpu/row_gather.h"
#include "cpu/threads.h"
#include "cpu/weight_panel.h"

namespace mlx_conv3d::cpu {
namespace {

class RowConv {
 public:
  RowConv(const ConvProblem& p, const GemmPlan& plan, const Operands& operands, Workspace& workspace)
      : p_(p),
        operands_(operands),
        input_(p, operands),
        k_(kernels()),
        panels_(p.group_out(), k_),
        d_(axis_phases(p, kDepth, false).front()),
        h_(axis_phases(p, kHeight, false).front()),
        w_(axis_phases(p, kWidth, false).front()),
        narrow_(is_narrow(p, k_.width)),
        width_(panels_.vectors_total() * k_.width),
        block_panels_(std::max<int64_t>(1, plan.cols / (k_.panel_vectors * k_.width))),
        tile_frames_(divide_up(p.output(kDepth), plan.tile_frames)),
        tile_rows_(divide_up(p.output(kHeight), plan.tile_rows)),
        tile_cols_(divide_up(p.output(kWidth), plan.tile_cols)) {
    find_columns();
    const RowGather rows(p, input_, d_, h_, w_);
    const int64_t products = p.taps() * p.group_in();
    blocks_ = rows.blocks(plan.depth, products > plan.depth);
    starts_.push_back(0);
    for (const auto& block : blocks_) {
      offsets_.emplace_back();
      rows.weight_offsets(block, operands.w, offsets_.back());
      starts_.push_back(starts_.back() + static_cast<int64_t>(offsets_.back().size()));
    }
    packed_ = workspace.floats(products * width_);
    zeros_ = workspace.floats(input_span(p, kWidth, plan.tile_cols) * p.group_in());
    std::fill_n(zeros_, input_span(p, kWidth, plan.tile_cols) * p.group_in(), 0.0f);
    const int64_t held = narrow_ ? p.group_out() : k_.panel_vectors;
    for (int t = 0; t < thread_count(); ++t) {
      Scratch own;
      own.frames.resize(static_cast<size_t>(p.kernel[kDepth]));
      own.met.resize(own.frames.size());
      for (FrameRows& held : own.frames) {
        held.buffer =
            workspace.floats(row_buffer_floats(p, plan.tile_rows, plan.tile_cols) / p.kernel[kDepth]);
      }
      own.sums = workspace.floats(plan.rows * held * k_.width);
      scratch_.push_back(std::move(own));
    }
  }

  void run() {
    for (int64_t g = 0; g < p_.groups; ++g) {
      parallel_for(panels_.count() * static_cast<int64_t>(blocks_.size()), [&](int64_t i, int) {
        const size_t b = static_cast<size_t>(i / panels_.count());
        pack_weight_panel(p_, operands_.w, g, panels_, i % panels_.count(), offsets_[b],
                          packed_ + width_ * starts_[b]);
      });
      const int64_t col_blocks = (panels_.count() + block_panels_ - 1) / block_panels_;
      const int64_t places = tile_rows_ * tile_cols_, tiles = p_.batch * tile_frames_ * places;
      parallel_for(tiles * col_blocks, [&](int64_t i, int thread) {
        const int64_t col_block = i % col_blocks, at = i / col_blocks;
        run_tile(g, tile_at(at / places / tile_frames_, at / places % tile_frames_, at % places), col_block,
                 scratch_[static_cast<size_t>(thread)]);
      });
    }
  }

 private:
  /// Output frames, rows and columns of an image, each [begin, end).
  struct Tile {
    int64_t n, frame, frame_end, row, row_end, col, col_end;
    int64_t rows() const { return row_end - row; }
    int64_t cols() const { return col_end - col; }
  };

  /// The tile's rows of one input frame.
  struct FrameRows {
    int64_t source = -1;  ///< the frame, or -1
    float* buffer = nullptr;
    std::vector<const float*> rows;  ///< null where it is padding
  };

  struct Scratch {
    std::vector<FrameRows> frames;      ///< as many as there are depth taps
    std::vector<const FrameRows*> met;  ///< [kd]: by the current output frame; null where it is padding
    std::vector<const float*> taps;
    float* sums;
  };

  Tile tile_at(int64_t n, int64_t frame, int64_t place) const {
    // Even tiles, so that none has a handful of columns.
    const auto part = [](int64_t size, int64_t i, int64_t parts) { return size * i / parts; };
    const int64_t row = place / tile_cols_, col = place % tile_cols_;
    const auto [frames, height, width] = p_.output();
    return {n,
            part(frames, frame, tile_frames_),
            part(frames, frame + 1, tile_frames_),
            part(height, row, tile_rows_),
            part(height, row + 1, tile_rows_),
            part(width, col, tile_cols_),
            part(width, col + 1, tile_cols_)};
  }

  /// Where the positions of a padded row are read from, and how many neighbours from each on are read from
  /// neighbours, or are padding.
  void find_columns() {
    const int64_t span = input_span(p_, kWidth, p_.output(kWidth));
    for (int64_t q = 0; q < span; ++q) source_.push_back(p_.source_index(kWidth, q - p_.pad_lo[kWidth]));
    run_.assign(source_.size(), 1);
    for (size_t q = source_.size() - 1; q-- > 0;) {
      const bool joined = source_[q] < 0 ? source_[q + 1] < 0 : source_[q + 1] == source_[q] + 1;
      if (joined) run_[q] = run_[q + 1] + 1;
    }
  }

  void run_tile(int64_t g, const Tile& tile, int64_t col_block, Scratch& own) const {
    for (FrameRows& held : own.frames) held.source = -1;
    for (int64_t frame = tile.frame; frame < tile.frame_end; ++frame) {
      meet_frames(g, tile, frame, own);
      for (int64_t panel = col_block * block_panels_;
           panel < std::min(panels_.count(), (col_block + 1) * block_panels_); ++panel) {
        run_panel(g, tile, frame, panel, own);
      }
    }
  }

  /// The rows that an output frame meets: most are still held from the frame before it.
  void meet_frames(int64_t g, const Tile& tile, int64_t frame, Scratch& own) const {
    const auto needed = [&](int64_t source) {
      for (int64_t kd = 0; kd < d_.tap_count(); ++kd) {
        if (d_.source(kd, frame) == source) return true;
      }
      return false;
    };
    for (int64_t kd = 0; kd < d_.tap_count(); ++kd) {
      const int64_t source = d_.source(kd, frame);
      const FrameRows*& met = own.met[static_cast<size_t>(kd)];
      met = nullptr;
      if (source < 0) continue;
      FrameRows* free = nullptr;
      for (FrameRows& held : own.frames) {
        if (held.source == source) met = &held;
        if (held.source < 0 || !needed(held.source)) free = &held;
      }
      if (met != nullptr) continue;
      load_frame(g, tile, source, *free);
      met = free;
    }
  }

  void load_frame(int64_t g, const Tile& tile, int64_t source, FrameRows& out) const {
    out.source = source;
    out.rows.assign(static_cast<size_t>(input_span(p_, kHeight, tile.rows())), nullptr);
    const Frame frame = input_.frame(tile.n, source);
    float* to = out.buffer;
    for (int64_t j = tile.row; j < tile.row_end; ++j) {
      for (int64_t kh = 0; kh < h_.tap_count(); ++kh) {
        const int64_t row = h_.source(kh, j);
        const float*& at = out.rows[static_cast<size_t>(row_of(tile, j, kh))];
        if (row >= 0 && at == nullptr) at = load_row(g, frame, row, tile, to);
      }
    }
  }

  int64_t row_of(const Tile& tile, int64_t j, int64_t kh) const {
    return (j - tile.row) * p_.stride[kHeight] + kh * p_.dilation[kHeight];
  }

  /// The tile's pixels of one row: where they lie, or a copy at `to`, which moves on.
  const float* load_row(int64_t g, const Frame& frame, int64_t row, const Tile& tile, float*& to) const {
    const int64_t channels = p_.group_in();
    int64_t q = tile.col * p_.stride[kWidth];
    const int64_t end = q + input_span(p_, kWidth, tile.cols());
    const char* from = frame.data + row * frame.row_stride + g * channels * input_.item();
    const auto source = [&](int64_t at) { return source_[static_cast<size_t>(at)]; };
    const bool dense = frame.col_stride == channels * input_.item();
    const float* start = to;
    while (q < end) {
      const int64_t run = std::min(run_[static_cast<size_t>(q)], end - q);
      const char* pixel = from + source(q) * frame.col_stride;
      if (source(q) < 0) {
        std::memset(to, 0, static_cast<size_t>(run * channels) * sizeof(float));
      } else if (dense) {
        if (to == start && run == end - q && p_.x_type == Dtype::float32) {
          return reinterpret_cast<const float*>(pixel);
        }
        k_.to_float(p_.x_type, pixel, to, run * channels);
      } else {
        for (int64_t i = 0; i < run; ++i) {
          k_.to_float(p_.x_type, pixel + i * frame.col_stride, to + i * channels, channels);
        }
      }
      to += run * channels;
      q += run;
    }
    return start;
  }

  void run_panel(int64_t g, const Tile& tile, int64_t frame, int64_t panel, Scratch& own) const {
    const int64_t lane = panels_.first_vector(panel) * k_.width, vectors = panels_.vectors(panel);
    const int64_t lanes = std::min(vectors * k_.width, p_.group_out() - lane);
    const int64_t channel = g * p_.group_out() + lane;
    const Epilogue& e = operands_.epilogue;
    const bool any = std::any_of(blocks_.begin(), blocks_.end(),
                                 [&](const auto& block) { return reads_input(own, block); });
    const bool in_output = any && !narrow_ && e.plain() && lanes == vectors * k_.width;
    const int64_t ldc = in_output ? p_.out_channels : narrow_ ? lanes * k_.width : vectors * k_.width;
    const auto sums = [&](int64_t j) {
      return in_output ? static_cast<float*>(operands_.y) + output_offset(tile, frame, j, channel)
                       : own.sums + (j - tile.row) * tile.cols() * ldc;
    };
    bool started = false;
    for (size_t b = 0; b < blocks_.size(); ++b) {
      if (!reads_input(own, blocks_[b])) continue;
      const int64_t k = static_cast<int64_t>(offsets_[b].size());
      const float* weights = packed_ + width_ * starts_[b] + (narrow_ ? 0 : lane * k);
      for (int64_t j = tile.row; j < tile.row_end; ++j) {
        multiply(tile, j, blocks_[b], weights, k, vectors, sums(j), ldc, started, own);
      }
      started = true;
    }
    if (in_output) return;
    if (!any) std::fill_n(own.sums, tile.rows() * tile.cols() * ldc, 0.0f);
    for (int64_t j = tile.row; j < tile.row_end; ++j) {
      if (narrow_) k_.sum_lanes(sums(j), tile.cols() * lanes);
      k_.store_rows(e, {tile.cols(), lanes, sums(j), narrow_ ? lanes : ldc, channel,
                        output_offset(tile, frame, j, channel), p_.out_channels, operands_.y});
    }
  }

  /// Whether a block's depth tap meets a frame. Blocks of several depth taps are all there is.
  bool reads_input(const Scratch& own, const std::vector<Segment>& block) const {
    return block.front().kd != block.back().kd || own.met[static_cast<size_t>(block.front().kd)] != nullptr;
  }

  int64_t output_offset(const Tile& tile, int64_t frame, int64_t row, int64_t channel) const {
    const int64_t rows = (tile.n * p_.output(kDepth) + frame) * p_.output(kHeight) + row;
    return (rows * p_.output(kWidth) + tile.col) * p_.out_channels + channel;
  }

  /// One output row of the tile times a block of a panel's weights.
  void multiply(const Tile& tile, int64_t j, const std::vector<Segment>& block, const float* weights,
                int64_t products, int64_t vectors, float* c, int64_t ldc, bool accumulate,
                Scratch& own) const {
    const int64_t channels = p_.group_in();
    const int64_t apart = p_.dilation[kWidth];
    own.taps.clear();
    for (const Segment& s : block) {
      const FrameRows* met = own.met[static_cast<size_t>(s.kd)];
      const float* row = met == nullptr ? nullptr : met->rows[static_cast<size_t>(row_of(tile, j, s.kh))];
      if (row == nullptr) row = zeros_;
      // Neighbouring pixels are one piece.
      const int64_t end = apart == 1 ? s.kw_begin + 1 : s.kw_end;
      for (int64_t kw = s.kw_begin; kw < end; ++kw) {
        own.taps.push_back(row + kw * apart * channels + s.c_begin);
      }
    }
    const Taps taps{own.taps.data(), static_cast<int64_t>(own.taps.size())};
    const int64_t k = products / taps.count, lda = p_.stride[kWidth] * channels;
    if (narrow_) {
      k_.gemm_narrow(tile.cols(), static_cast<int>(p_.group_out()), k, taps, lda, weights, products, c,
                     accumulate);
    } else {
      k_.gemm_taps(tile.cols(), static_cast<int>(vectors), k, taps, lda, weights, c, ldc, accumulate);
    }
  }

  const ConvProblem& p_;
  const Operands& operands_;
  const Input input_;
  const Kernels& k_;
  const Panels panels_;
  const AxisPhase d_, h_, w_;
  const bool narrow_;
  const int64_t width_, block_panels_;
  const int64_t tile_frames_, tile_rows_, tile_cols_;  ///< how many tiles there are along each axis
  std::vector<int64_t> source_, run_;
  std::vector<std::vector<Segment>> blocks_;
  std::vector<std::vector<int64_t>> offsets_;
  std::vector<int64_t> starts_;
  float *packed_, *zeros_;
  std::vector<Scratch> scratch_;
};

}  // namespace

void row_conv(const ConvProblem& problem, const GemmPlan& plan, const Operands& operands,
              Workspace& workspace) {
  RowConv(problem, plan, operands, workspace).run();
}

}  // namespace mlx_conv3d::cpu
