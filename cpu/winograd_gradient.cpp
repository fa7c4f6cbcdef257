// dL/dw in Winograd's transform domain. With y = At [(G w) * (Bt x)] the adjoint in w is Gt [(A dy) * (Bt
// x)], summed over all tiles: for every product of a tile and every depth tap one matrix product of
// transformed dL/dy with transformed x, whose inner length are the tiles. The sums of all weights stay in
// memory while chunks of tiles pass; products that share a weight share its sums. With F(2, 3) along depth
// (depth_m 2) a pair of frames takes four products instead of six.

#include "cpu/winograd_gradient.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "cpu/threads.h"
#include "cpu/winograd_tiles.h"

namespace mlx_conv3d::cpu {
namespace {

class Gradient {
 public:
  /// Of a problem and of operands with axes in this order.
  Gradient(const ConvProblem& p, const WeightGradientPlan& plan, const Operands& operands,
           const AxisOrder& order, Dtype dy_type, const void* dy, void* dw, Workspace& workspace)
      : p_(p),
        plan_(plan.winograd),
        in_slice_(std::min(plan.in_slice, p.in_channels)),
        out_slice_(std::min(plan.winograd.out_slice, p.out_channels)),
        input_(p, operands),
        dy_type_(dy_type),
        dy_(static_cast<const char*>(dy)),
        dw_(static_cast<char*>(dw)),
        k_(kernels()),
        form_(plan_.form()),
        depth_(axis_phases(p, kDepth, false).front()),
        tiles_(p, form_, order),
        rows_are_outputs_(gradient_rows_are_outputs(p, k_.width)),
        terms_(winograd_depth_terms(p.kernel[kDepth], plan_.depth_m)),
        x_pitch_(winograd_channel_pitch(in_slice_, k_.width)),
        dy_pitch_(winograd_channel_pitch(out_slice_, k_.width)),
        pitch_(rows_are_outputs_ ? x_pitch_ : dy_pitch_),
        products_of_(static_cast<size_t>(form_.all_weights())),
        zeros_(new char[static_cast<size_t>((std::max(in_slice_, out_slice_) + 64) * 4)]()) {
    for (int i = 0; i < form_.all_products(); ++i) {
      products_of_[static_cast<size_t>(form_.weight(i))].push_back(i);
    }
    const int64_t frames = pairs_of(plan_.frames) * plan_.depth_m, taps = p.taps();
    sums_ = workspace.floats(form_.all_weights() * terms_ * row_count(in_slice_, out_slice_) * pitch_);
    x_ = workspace.floats(form_.all_pixels() * input_frames(plan_.frames) * plan_.tiles * x_pitch_);
    dys_ = workspace.floats(form_.all_products() * frames * plan_.tiles * dy_pitch_);
    if (plan_.depth_m == 2) {
      x_terms_ = workspace.floats(form_.all_pixels() * 2 * frames * plan_.tiles * x_pitch_);
      dy_terms_ = workspace.floats(form_.all_products() * frames * plan_.tiles * dy_pitch_);
    }
    if (!rows_are_outputs_) finished_ = workspace.floats(taps * in_slice_ * pitch_);
    const int64_t row = rows_are_outputs_ ? taps * pitch_ : taps * in_slice_;
    for (int t = 0; t < thread_count(); ++t) rows_.push_back(workspace.floats(row));
  }

  void run() {
    for (int64_t o = 0; o < p_.out_channels; o += out_slice_) {
      for (int64_t c = 0; c < p_.in_channels; c += in_slice_) {
        slice_ = {c, std::min(in_slice_, p_.in_channels - c), o, std::min(out_slice_, p_.out_channels - o)};
        sum();
        finish();
      }
    }
  }

 private:
  /// The channels whose sums are held now.
  struct Slice {
    int64_t c, ins, o, outs;
  };
  /// Tiles and output frames that are transformed and multiplied together.
  struct Chunk {
    int64_t first_frame, frames, first_tile, tiles;
  };

  int64_t row_count(int64_t ins, int64_t outs) const { return rows_are_outputs_ ? outs : ins; }
  int64_t rows() const { return row_count(slice_.ins, slice_.outs); }
  int64_t columns() const { return rows_are_outputs_ ? slice_.ins : slice_.outs; }
  int64_t pairs_of(int64_t frames) const { return (frames + plan_.depth_m - 1) / plan_.depth_m; }
  /// With pairs, an odd last frame is joined by one of zeros.
  int64_t input_frames(int64_t frames) const {
    return plan_.depth_m == 2 ? 2 * pairs_of(frames) + 2 : winograd_input_frames(p_, frames);
  }

  void sum() {
    const int64_t weight_floats = terms_ * rows() * pitch_;
    parallel_for(form_.all_weights(),
                 [&](int64_t i, int) { std::fill_n(sums_ + i * weight_floats, weight_floats, 0.0f); });
    const int64_t tiles = tiles_.count(), frames = p_.output(kDepth);
    const int64_t units = pairs_of(frames), frame_chunks = (frames + plan_.frames - 1) / plan_.frames;
    const int64_t tile_chunks = (tiles + plan_.tiles - 1) / plan_.tiles;
    for (int64_t f = 0; f < frame_chunks; ++f) {
      const int64_t first_frame = units * f / frame_chunks * plan_.depth_m;
      const int64_t end_frame = std::min(frames, units * (f + 1) / frame_chunks * plan_.depth_m);
      for (int64_t t = 0; t < tile_chunks; ++t) {
        const int64_t first_tile = tiles * t / tile_chunks;
        chunk({first_frame, end_frame - first_frame, first_tile, tiles * (t + 1) / tile_chunks - first_tile});
      }
    }
  }

  void chunk(const Chunk& at) {
    const int64_t groups = (at.tiles + kTileGroup - 1) / kTileGroup, frames_in = input_frames(at.frames);
    const int64_t frames = pairs_of(at.frames) * plan_.depth_m, all_frames = frames_in + frames;
    parallel_for(all_frames * groups, [&](int64_t i, int) {
      const int64_t frame = i % all_frames, group = i / all_frames * kTileGroup;
      for (int64_t t = group; t < std::min(at.tiles, group + kTileGroup); ++t) {
        frame < frames_in ? transform_input(at, frame, frames_in, t)
                          : transform_cotangent(at, frame - frames_in, frames, t);
      }
    });
    if (plan_.depth_m == 2) {
      transform_depth(at, frames / 2);
    }
    const Panels panels(columns(), k_);
    const int64_t row_blocks = (rows() + kRowBlock - 1) / kRowBlock;
    parallel_for(form_.all_weights() * terms_ * panels.count() * row_blocks, [&](int64_t i, int) {
      const int64_t block = i % row_blocks, panel = i / row_blocks % panels.count();
      const int64_t term = i / row_blocks / panels.count() % terms_,
                    weight = form_.all_weights() - 1 - i / row_blocks / panels.count() / terms_;
      const Block to{rows() * block / row_blocks, rows() * (block + 1) / row_blocks,
                     panels.first_vector(panel) * k_.width, panels.vectors(panel)};
      for (int64_t product : products_of_[static_cast<size_t>(weight)]) {
        plan_.depth_m == 2 ? multiply_pairs(at, frames / 2, product, term, to)
                           : multiply_taps(at, product, term, to);
      }
    });
  }

  void transform_input(const Chunk& at, int64_t frame, int64_t frames_in, int64_t t) const {
    const WinogradTiles::Place tile = tiles_.at(at.first_tile + t);
    const int64_t origin = at.first_frame * p_.stride[kDepth] - p_.pad_lo[kDepth];
    const int64_t sd = p_.source_index(kDepth, origin + frame);
    WinogradInputTile to{};
    to.channels = slice_.ins;
    to.out = x_ + (frame * at.tiles + t) * x_pitch_;
    to.xi_stride = frames_in * at.tiles * x_pitch_;
    // Products of single taps leave frames of padding out; pairs take them as they are.
    if (sd < 0) return plan_.depth_m == 2 ? fill_zeros(to, form_.all_pixels(), x_pitch_) : void();
    Frame source = input_.frame(tile.n, sd);
    source.data += slice_.c * input_.item();
    const void* pixels[WinogradTiles::kMostPixels];
    tiles_.find_pixels(tile, source, zeros_.get(), pixels);
    to.rows = pixels;
    to.next = tiles_.step(source);
    k_.winograd_input(form_, p_.x_type, to);
  }

  void transform_cotangent(const Chunk& at, int64_t frame, int64_t frames, int64_t t) const {
    const WinogradTiles::Place tile = tiles_.at(at.first_tile + t);
    WinogradInputTile to{};
    to.channels = slice_.outs;
    to.xi_stride = frames * at.tiles * dy_pitch_;
    // The first frames of all pairs come before the second ones: either are one run of rows.
    const int64_t pairs = frames / plan_.depth_m;
    const int64_t place = frame % plan_.depth_m * pairs + frame / plan_.depth_m;
    to.out = dys_ + (place * at.tiles + t) * dy_pitch_;
    if (frame >= at.frames) return fill_zeros(to, form_.all_products(), dy_pitch_);
    WinogradOutputTile from{};
    tiles_.find_outputs(at.first_frame + frame, tile, slice_.o, from);
    const void* pixels[WinogradTiles::kMostPixels];
    for (int i = 0; i < form_.height(); ++i) {
      const bool in_rows = i >= from.row_begin && i < from.row_end;
      for (int j = 0; j < form_.m; ++j) {
        const bool exists = in_rows && j >= from.col_begin && j < from.col_end;
        const int64_t element = from.first + i * from.row_stride + j * from.pixel_stride;
        pixels[i * form_.m + j] = exists ? dy_ + element * item_size(dy_type_) : zeros_.get();
      }
    }
    to.rows = pixels;
    k_.winograd_cotangent(form_, dy_type_, to);
  }

  static void fill_zeros(const WinogradInputTile& to, int64_t products, int64_t pitch) {
    auto* out = static_cast<float*>(to.out);
    for (int64_t xi = 0; xi < products; ++xi) std::fill_n(out + xi * to.xi_stride, pitch, 0.0f);
  }

  /// Of every pair of frames the four frequencies of F(2, 3): all of x's, and of dL/dy's those that are not
  /// its frames.
  void transform_depth(const Chunk& at, int64_t pairs) const {
    const int64_t x_frame = at.tiles * x_pitch_, x_run = (2 * pairs + 2) * x_frame,
                  dy_run = pairs * at.tiles * dy_pitch_;
    parallel_for(form_.all_pixels() * pairs, [&](int64_t i, int) {
      const int64_t xi = i / pairs, pair = i % pairs;
      k_.winograd_depth_input(true, true, x_frame, x_ + xi * x_run + 2 * pair * x_frame, x_frame,
                              x_terms_ + (xi * 4 * pairs + pair) * x_frame, pairs * x_frame);
    });
    parallel_for(form_.all_products(), [&](int64_t xi, int) {
      const float* even = dys_ + xi * 2 * dy_run;
      float* to = dy_terms_ + xi * 2 * dy_run;
      k_.winograd_depth_cotangent(dy_run, even, even + dy_run, to, to + dy_run);
    });
  }

  /// Of one product's sums: rows [begin, end), and a panel of columns.
  struct Block {
    int64_t begin, end, lane;
    int vectors;
  };

  void multiply_taps(const Chunk& at, int64_t product, int64_t kd, const Block& to) const {
    const int64_t x_frame = at.tiles * x_pitch_, frequency = form_.frequency(static_cast<int>(product));
    const float* x = x_ + frequency * winograd_input_frames(p_, at.frames) * x_frame;
    const float* dy = dys_ + product * at.frames * at.tiles * dy_pitch_;
    // Stride 1 lets a run of frames be one product, since their rows follow each other.
    for (int64_t begin = 0; begin < at.frames;) {
      int64_t end = begin + 1;
      if (depth_.source(kd, at.first_frame + begin) >= 0) {
        while (p_.stride[kDepth] == 1 && end < at.frames && depth_.source(kd, at.first_frame + end) >= 0)
          ++end;
        const int64_t frame = begin * p_.stride[kDepth] + kd * p_.dilation[kDepth];
        multiply((end - begin) * at.tiles, x + frame * x_frame, dy + begin * at.tiles * dy_pitch_,
                 weight_of(product) * terms_ + kd, to);
      }
      begin = end;
    }
  }

  void multiply_pairs(const Chunk& at, int64_t pairs, int64_t product, int64_t term, const Block& to) const {
    const int64_t rows = pairs * at.tiles, frequency = form_.frequency(static_cast<int>(product));
    const float* x = x_terms_ + (frequency * 4 + term) * rows * x_pitch_;
    const float* frames = dys_ + product * 2 * rows * dy_pitch_;
    const float* mixed = dy_terms_ + product * 2 * rows * dy_pitch_;
    const float* dy[4];
    dy[kDepthSlot[0]] = frames;
    dy[kDepthSlot[1]] = mixed;
    dy[kDepthSlot[2]] = mixed + rows * dy_pitch_;
    dy[kDepthSlot[3]] = frames + rows * dy_pitch_;
    multiply(rows, x, dy[term], weight_of(product) * terms_ + term, to);
  }

  int64_t weight_of(int64_t product) const { return form_.weight(static_cast<int>(product)); }

  /// Adds `count` positions' products to the sums of one weight and depth term.
  void multiply(int64_t count, const float* x, const float* dy, int64_t place, const Block& to) const {
    const float* a = (rows_are_outputs_ ? dy : x) + to.begin;
    const float* b = (rows_are_outputs_ ? x : dy) + to.lane;
    const int64_t lda = rows_are_outputs_ ? dy_pitch_ : x_pitch_;
    float* c = sums_ + (place * rows() + to.begin) * pitch_ + to.lane;
    // As many positions at a time as leave b's part of them in a core's first cache.
    const int64_t pieces = (count + kPositions - 1) / kPositions;
    for (int64_t i = 0; i < pieces; ++i) {
      const int64_t from = count * i / pieces;
      k_.gemm(true, to.end - to.begin, to.vectors, count * (i + 1) / pieces - from, a + from * lda, lda,
              b + from * pitch_, pitch_, c, pitch_, true, {});
    }
  }

  /// The sums of a row of channels to its taps, [tap][column].
  void finish_row(int64_t row, float* out) const {
    WinogradGradientRow from{};
    from.in = sums_ + row * pitch_;
    from.depth_stride = rows() * pitch_;
    from.xi_stride = terms_ * rows() * pitch_;
    from.channels = columns();
    from.depth_taps = p_.kernel[kDepth];
    from.side = static_cast<int>(p_.kernel[kWidth]);
    from.flip = p_.flip;
    from.out = out;
    from.tap_stride = pitch_;
    k_.winograd_weight_gradient(form_, from);
  }

  void finish() {
    const Epilogue as{p_.w_type, Activation::none, nullptr, nullptr};
    const int64_t taps = p_.taps(), item = item_size(p_.w_type);
    const auto element = [&](int64_t o, int64_t tap) {
      return dw_ + ((slice_.o + o) * taps * p_.in_channels + tap * p_.in_channels + slice_.c) * item;
    };
    if (rows_are_outputs_) {
      parallel_for(slice_.outs, [&](int64_t o, int thread) {
        finish_row(o, rows_[thread]);
        for (int64_t tap = 0; tap < taps; ++tap) {
          k_.store(as, rows_[thread] + tap * pitch_, 0, 0, element(o, tap), slice_.ins);
        }
      });
      return;
    }
    parallel_for(slice_.ins, [&](int64_t c, int) { finish_row(c, finished_ + c * taps * pitch_); });
    parallel_for(slice_.outs, [&](int64_t o, int thread) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        for (int64_t c = 0; c < slice_.ins; ++c) rows_[thread][c] = finished_[(c * taps + tap) * pitch_ + o];
        k_.store(as, rows_[thread], 0, 0, element(o, tap), slice_.ins);
      }
    });
  }

  static constexpr int64_t kTileGroup = 8, kRowBlock = 96, kPositions = 192;

  const ConvProblem& p_;
  const WinogradPlan& plan_;
  const int64_t in_slice_, out_slice_;
  const Input input_;
  const Dtype dy_type_;
  const char* dy_;
  char* dw_;
  const Kernels& k_;
  const WinogradForm form_;
  const AxisPhase depth_;
  const WinogradTiles tiles_;
  const bool rows_are_outputs_;
  const int64_t terms_, x_pitch_, dy_pitch_, pitch_;
  std::vector<std::vector<int64_t>> products_of_;  ///< [weight]
  const std::unique_ptr<char[]> zeros_;
  Slice slice_{};
  float *sums_ = nullptr, *x_ = nullptr, *dys_ = nullptr, *x_terms_ = nullptr, *dy_terms_ = nullptr;
  float* finished_ = nullptr;
  std::vector<float*> rows_;
};

}  // namespace

void winograd_weight_gradient(const ConvProblem& p, const WeightGradientPlan& plan, const Operands& operands,
                              Dtype dy_type, const void* dy, void* dw, Workspace& workspace) {
  const AxisOrder order = winograd_axis_order(p.kernel);
  const ConvProblem ordered = with_axes(p, order);
  Gradient(ordered, plan, with_axes(operands, order), order, dy_type, dy, dw, workspace).run();
}

}  // namespace mlx_conv3d::cpu
