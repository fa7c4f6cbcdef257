// Winograd on Metal: the weights once per slice of output channels, then per chunk of tiles and frames an
// input transform, one product per frequency, and an output transform. Where the weights of all frequencies
// would leave too little scratch to the chunks, each chunk makes them anew, some frequencies at a time, of
// all outputs or of one set of them after the other. A chunk's input transform may run beside the output
// transform before it: they touch different scratch. With F(2, 3) along depth the product works on pairs of
// output frames, whose first and second frames lie in planes of their own. Along depth alone (3x1x1 kernels)
// tiles are single positions, and the frequencies are those of groups of frames; for 16-bit results one step
// may do all but the weights, without chunks.

#include <algorithm>
#include <stdexcept>

#include "metal/builder.h"

namespace mlx_conv3d::metal {
namespace {

constexpr int64_t kLanes = 32;
constexpr int64_t kGemmThreads = 128;
constexpr int64_t kFramesRows = MLX_CONV3D_FRAMES_ROWS, kFramesCols = MLX_CONV3D_FRAMES_COLS;

/// Different rows (or columns) of the input that `count` neighbouring tiles read.
int64_t covered(const ConvProblem& p, int axis, int64_t count, int64_t m) {
  return std::min(p.input[axis], divide_up(count * m + p.kernel[axis] - 1, p.upsample[axis]));
}

class Lowering {
 public:
  Lowering(const ConvProblem& p, const WinogradPlan& plan, const Layout& layout, Builder& builder)
      : p_(p),
        plan_(plan),
        layout_(layout),
        b_(builder),
        frequencies_(winograd_frequencies(plan)),
        rows_(plan.along_depth() ? 1 : plan.m + 2),
        columns_(frequencies_ / rows_),
        pass_rows_(plan.weight_rows == 0 ? rows_ : std::min<int64_t>(plan.weight_rows, rows_)),
        held_outs_(winograd_held_outs(p, plan)),
        tile_rows_(divide_up(p.output(kHeight), plan.m)),
        tile_cols_(divide_up(p.output(kWidth), plan.m)),
        channel_pitch_(winograd_tile_pitch(p.in_channels)),
        value_bytes_(static_cast<double>(winograd_value_bytes(plan))),
        flops_(winograd_transform_flops(p, plan)),
        block_(winograd_block(p, plan)) {
    const WinogradScratch sizes = winograd_scratch(p, plan);
    weights_ = b_.scratch("weights", sizes.weights);
    if (plan.fused) return;
    tiles_ = b_.scratch("tiles", sizes.tiles);
    products_ = b_.scratch("products", sizes.products);
  }

  void run() {
    const int64_t tiles = p_.batch * tile_rows_ * tile_cols_, frames = p_.output(kDepth);
    const int64_t tile_chunks = divide_up(tiles, plan_.tiles);
    const int64_t groups = divide_up(frames, plan_.depth_m);
    const int64_t frame_chunks =
        divide_up(groups, divide_up(winograd_chunk_frames(p_, plan_), plan_.depth_m));
    for (int64_t o = 0; o < p_.out_channels; o += plan_.out_slice) {
      slice_start_ = o;
      slice_end_ = std::min(o + plan_.out_slice, p_.out_channels);
      out_pitch_ = round_up(std::min(held_outs_, slice_end_ - o), block_.cols);
      select_set(0);
      if (plan_.weight_rows == 0) transform_weights(0, rows_);
      if (plan_.fused) {
        convolve_frames(tiles, groups);
        continue;
      }
      for (int64_t f = 0; f < frame_chunks; ++f) {
        for (int64_t t = 0; t < tile_chunks; ++t) {
          Chunk chunk;
          chunk.first_frame = groups * f / frame_chunks * plan_.depth_m;
          chunk.groups = groups * (f + 1) / frame_chunks - groups * f / frame_chunks;
          chunk.frames = std::min(chunk.groups * plan_.depth_m, frames - chunk.first_frame);
          chunk.first_tile = tiles * t / tile_chunks;
          chunk.tiles = tiles * (t + 1) / tile_chunks - chunk.first_tile;
          chunk.tile_frames = winograd_tile_frames(p_, plan_, chunk.frames);
          compute(chunk);
        }
      }
    }
  }

 private:
  struct Chunk {
    int64_t first_frame, frames, first_tile, tiles;
    int64_t tile_frames;  ///< see winograd_tile_frames
    int64_t groups;       ///< of depth_m output frames
    int64_t rows() const { return groups * tiles; }
  };

  int64_t weights_stride() const { return winograd_depth_values(p_, plan_) * channel_pitch_ * out_pitch_; }
  /// Of a frequency's weights, those of the set.
  int64_t weights_used() const { return winograd_depth_values(p_, plan_) * channel_pitch_ * out_columns(); }
  int64_t tiles_stride(const Chunk& c) const { return c.tile_frames * c.tiles * channel_pitch_; }
  int64_t plane_stride(const Chunk& c) const { return round_up(c.rows(), block_.rows) * out_pitch_; }
  int64_t products_stride(const Chunk& c) const { return winograd_planes(plan_) * plane_stride(c); }
  /// Values of the slice's products that are in scratch together.
  int64_t products_count(const Chunk& c) const {
    return (pass_rows_ == rows_ ? 1 : sets()) * frequencies_ * products_stride(c);
  }
  int64_t tiles_count(const Chunk& c) const {
    return (plan_.tile_rows ? pass_rows_ * columns_ : frequencies_) * tiles_stride(c);
  }

  /// Sets of outputs that a slice's weights are made in.
  int64_t sets() const { return divide_up(slice_end_ - slice_start_, held_outs_); }
  void select_set(int64_t set) {
    set_ = set;
    first_out_ = slice_start_ + set * held_outs_;
    out_channels_ = std::min(held_outs_, slice_end_ - first_out_);
  }
  template <class Steps>
  void for_each_set(Steps steps) {
    for (int64_t set = 0; set < sets(); ++set) {
      select_set(set);
      steps();
    }
  }
  /// Whole blocks of the set's outputs.
  int64_t out_columns() const { return round_up(out_channels_, block_.cols); }
  /// The set's first frequency in `products`.
  int64_t first_products() const { return pass_rows_ == rows_ ? 0 : set_ * frequencies_; }

  /// All frequencies at once, or in passes of some rows of them that make their weights and tiles first.
  /// Several sets of a slice's outputs take turns in a pass, so that its tiles meet the weights of all of
  /// them.
  void compute(const Chunk& c) {
    const bool one_pass = pass_rows_ == rows_;
    if (!plan_.tile_rows) transform_input(c, 0, rows_);
    for (int64_t first = 0; first < rows_; first += pass_rows_) {
      const int64_t count = std::min(pass_rows_, rows_ - first);
      if (plan_.tile_rows) transform_input(c, first, count);
      for_each_set([&] {
        if (plan_.weight_rows > 0) transform_weights(first, count);
        multiply(c, first, count);
        if (one_pass) transform_output(c);
      });
    }
    if (!one_pass) for_each_set([&] { transform_output(c); });
  }

  /// For `rows` rows of the frequencies.
  void transform_weights(int64_t first_row, int64_t rows) {
    WinogradWeight a{};
    a.w = layout_.w;
    a.frequency_stride = weights_stride();
    a.first_out = static_cast<int32_t>(first_out_);
    a.out_channels = static_cast<int32_t>(out_channels_);
    a.out_pitch = static_cast<int32_t>(out_pitch_);
    a.channels = static_cast<int32_t>(p_.in_channels);
    a.channel_pitch = static_cast<int32_t>(channel_pitch_);
    a.depth_taps = static_cast<int32_t>(p_.kernel[kDepth]);
    a.flip = p_.flip;
    a.depth_m = plan_.depth_m;
    Step step =
        transform("weight", p_.w_type, {out_columns(), channel_pitch_, winograd_depth_values(p_, plan_)});
    step.bindings = {{0, b_.w}, {1, weights_, true}};
    step.arguments = {argument(2, a)};
    set_rows(step, first_row, rows);
    step.discards = {weights_};
    const double pairs = static_cast<double>(p_.in_channels * out_channels_);
    step.nbytes = pairs * static_cast<double>(p_.taps() * item_size(p_.w_type)) +
                  4.0 * static_cast<double>(rows * columns_ * weights_used());
    step.flops = pairs * flops_.weight * share(rows);
    b_.add(std::move(step));
  }

  /// For `rows` rows of the frequencies.
  void transform_input(const Chunk& c, int64_t first_row, int64_t rows) {
    WinogradInput a{};
    a.input = b_.input_arrays();
    a.frequency_stride = tiles_stride(c);
    a.count = tiles_count(c);
    a.first_depth = static_cast<int32_t>(c.first_frame * p_.stride[kDepth] - p_.pad_lo[kDepth]);
    a.pad_top = static_cast<int32_t>(p_.pad_lo[kHeight]);
    a.pad_left = static_cast<int32_t>(p_.pad_lo[kWidth]);
    set_tiles(a, c);
    a.channels = static_cast<int32_t>(p_.in_channels);
    a.channel_pitch = static_cast<int32_t>(channel_pitch_);
    Step step = transform("input", p_.x_type, {channel_pitch_, c.tiles, c.tile_frames});
    b_.bind_input(step);
    step.bindings.push_back({2, tiles_, true});
    step.arguments = {argument(3, a)};
    step.discards = {tiles_};
    step.nbytes = read_pixels(c) * static_cast<double>(p_.in_channels * item_size(p_.x_type)) +
                  value_bytes_ * static_cast<double>(rows * columns_ * tiles_stride(c));
    set_rows(step, first_row, rows);
    set_float24(step);
    step.flops = static_cast<double>(c.tile_frames * c.tiles * p_.in_channels) * flops_.input * share(rows);
    b_.add(std::move(step));
  }

  void multiply(const Chunk& c, int64_t first_row, int64_t rows) {
    const int64_t frequencies = rows * columns_, first = first_row * columns_;
    const int64_t depth = winograd_depth_values(p_, plan_) * channel_pitch_;
    Step step = winograd_planes(plan_) == 1 ? product(c, first) : pair_product(c, first);
    step.kernel +=
        std::to_string(block_.rows) + "x" + std::to_string(block_.cols) + (block_.blocked ? "_blocked" : "");
    step.source += ".metal";
    step.grid = {out_columns() / block_.cols, divide_up(c.rows(), block_.rows), frequencies};
    step.threadgroup = {kGemmThreads, 1, 1};
    step.bindings = {{0, tiles_}, {1, weights_}, {2, products_, true}};
    if (first == 0 && first_products() == 0) step.discards = {products_};
    const int64_t plane = plane_stride(c) / out_pitch_ * out_columns(),
                  written = winograd_planes(plan_) * plane;
    // Frames that a depth stride or dilation leaves out are not read.
    const int64_t frames_read = std::min(c.tile_frames, c.frames * p_.kernel[kDepth]);
    step.nbytes =
        value_bytes_ * static_cast<double>(frequencies * (frames_read * c.tiles * channel_pitch_ + written)) +
        4.0 * static_cast<double>(frequencies * weights_used());
    set_float24(step);
    step.flops = 2.0 * static_cast<double>(frequencies * plane) * static_cast<double>(depth);
    step.flops +=
        winograd_staging_flops(plan_) * static_cast<double>(frequencies * plane / block_.cols * depth);
    b_.add(std::move(step));
  }

  /// The depth taps as more products.
  Step product(const Chunk& c, int64_t first) const {
    WinogradGemm a{};
    a.first_tiles = static_cast<int32_t>(plan_.tile_rows ? 0 : first);
    a.first_products = static_cast<int32_t>(first_products() + first);
    a.tiles_frequency_stride = tiles_stride(c);
    a.weights_frequency_stride = weights_stride();
    a.products_frequency_stride = products_stride(c);
    a.tiles_count = tiles_count(c);
    a.products_count = products_count(c);
    a.frame_step = p_.stride[kDepth] * c.tiles;
    a.tap_step = p_.dilation[kDepth] * c.tiles;
    a.rows = static_cast<int32_t>(c.rows());
    a.tiles = static_cast<int32_t>(c.tiles);
    a.channel_pitch = static_cast<int32_t>(channel_pitch_);
    a.out_pitch = static_cast<int32_t>(out_pitch_);
    a.steps_per_tap = static_cast<int32_t>(channel_pitch_ / MLX_CONV3D_GEMM_DEPTH);
    a.steps = static_cast<int32_t>(a.steps_per_tap * winograd_depth_values(p_, plan_));
    Step step;
    step.kernel = "winograd_gemm_";
    step.source = "winograd_gemm";
    step.arguments = {argument(3, a)};
    return step;
  }

  /// F(2, 3) along depth.
  Step pair_product(const Chunk& c, int64_t first) const {
    WinogradDepthGemm a{};
    a.first_tiles = static_cast<int32_t>(plan_.tile_rows ? 0 : first);
    a.first_products = static_cast<int32_t>(first_products() + first);
    a.tiles_frequency_stride = tiles_stride(c);
    a.weights_frequency_stride = weights_stride();
    a.products_frequency_stride = products_stride(c);
    a.tiles_count = tiles_count(c);
    a.products_count = products_count(c);
    a.plane_stride = plane_stride(c);
    a.tiles = static_cast<int32_t>(c.tiles);
    a.frames = static_cast<int32_t>(c.tile_frames);
    a.channel_pitch = static_cast<int32_t>(channel_pitch_);
    a.out_pitch = static_cast<int32_t>(out_pitch_);
    a.steps = static_cast<int32_t>(channel_pitch_ / MLX_CONV3D_GEMM_DEPTH);
    Step step;
    step.kernel = "winograd_depth_gemm_";
    step.source = "winograd_depth_gemm";
    step.arguments = {argument(3, a)};
    return step;
  }

  void transform_output(const Chunk& c) {
    WinogradOutput a{};
    a.first = first_products() * products_stride(c);
    a.frequency_stride = products_stride(c);
    a.count = products_count(c);
    a.plane_stride = plane_stride(c);
    a.planes = static_cast<int32_t>(winograd_planes(plan_));
    a.first_frame = static_cast<int32_t>(c.first_frame);
    a.frames = static_cast<int32_t>(p_.output(kDepth));
    a.height = static_cast<int32_t>(p_.output(kHeight));
    a.width = static_cast<int32_t>(p_.output(kWidth));
    set_tiles(a, c);
    a.first_out = static_cast<int32_t>(first_out_);
    a.out_channels = static_cast<int32_t>(p_.out_channels);
    a.out_pitch = static_cast<int32_t>(out_pitch_);
    Step step =
        transform("output", p_.out_type, {out_channels_, c.tiles, plan_.along_depth() ? c.groups : c.frames});
    step.bindings = {{0, products_}};
    b_.bind_epilogue(step, 1);
    step.arguments = {argument(4, a)};
    const double written = static_cast<double>(p_.output(kHeight) * p_.output(kWidth)) * p_.batch /
                           static_cast<double>(p_.batch * tile_rows_ * tile_cols_);
    const double tiles = static_cast<double>(step.grid[2] * c.tiles * out_channels_);
    const double outputs = written * static_cast<double>(c.frames * c.tiles * out_channels_);
    set_float24(step);
    step.nbytes = value_bytes_ * static_cast<double>(frequencies_) * tiles +
                  outputs * static_cast<double>(item_size(p_.out_type)) * (p_.residual ? 2 : 1) +
                  (p_.bias ? 4.0 * static_cast<double>(out_channels_) : 0.0);
    step.flops = tiles * flops_.output;
    b_.add(std::move(step));
  }

  /// A thread for each of `threads`.
  Step transform(const char* pass, Dtype type, const Size3& threads) const {
    const bool along_depth = plan_.along_depth();
    const std::string name = along_depth ? "winograd_frames_" : "winograd_";
    Step step;
    step.kernel =
        name + pass + "_f" + std::to_string(along_depth ? plan_.depth_m : plan_.m) + "_" + name_of(type);
    step.source = along_depth ? "winograd_frames.metal" : name + pass + ".metal";
    step.threads = true;
    step.grid = threads;
    step.threadgroup = {kLanes, 4, 1};
    return step;
  }

  void set_rows(Step& step, int64_t first, int64_t rows) const {
    if (plan_.along_depth()) return;
    step.constants.push_back({MLX_CONV3D_FIRST_ROW, static_cast<int>(first)});
    step.constants.push_back({MLX_CONV3D_ROWS, static_cast<int>(rows)});
  }
  void set_float24(Step& step) const {
    if (step.source != "winograd_frames.metal") step.constants.push_back({MLX_CONV3D_FLOAT24, plan_.float24});
  }
  /// Of a transform's operations that these rows of its frequencies take.
  double share(int64_t rows) const { return static_cast<double>(rows) / static_cast<double>(rows_); }

  template <class T>
  void set_tiles(T& a, const Chunk& c) const {
    a.first_tile = static_cast<int32_t>(c.first_tile);
    a.tiles = static_cast<int32_t>(c.tiles);
    a.tile_rows = static_cast<int32_t>(tile_rows_);
    a.tile_cols = static_cast<int32_t>(tile_cols_);
  }

  /// Along depth alone, all frames of a slice of outputs in one step.
  void convolve_frames(int64_t positions, int64_t groups) {
    WinogradFramesGemm a{};
    a.input = b_.input_arrays();
    a.weights_frequency_stride = weights_stride();
    a.pad_front = static_cast<int32_t>(p_.pad_lo[kDepth]);
    a.pad_top = static_cast<int32_t>(p_.pad_lo[kHeight]);
    a.pad_left = static_cast<int32_t>(p_.pad_lo[kWidth]);
    a.positions = static_cast<int32_t>(positions);
    a.frames = static_cast<int32_t>(p_.output(kDepth));
    a.height = static_cast<int32_t>(p_.output(kHeight));
    a.width = static_cast<int32_t>(p_.output(kWidth));
    a.channels = static_cast<int32_t>(p_.in_channels);
    a.steps = static_cast<int32_t>(channel_pitch_ / MLX_CONV3D_GEMM_DEPTH);
    a.first_out = static_cast<int32_t>(first_out_);
    a.out_slice = static_cast<int32_t>(out_channels_);
    a.out_pitch = static_cast<int32_t>(out_pitch_);
    a.out_channels = static_cast<int32_t>(p_.out_channels);
    Step step;
    step.kernel = "winograd_frames_gemm_f" + std::to_string(plan_.depth_m) + "_" + name_of(p_.x_type);
    step.source = "winograd_frames_gemm.metal";
    step.grid = {out_pitch_ / kFramesCols, divide_up(positions, kFramesRows), groups};
    step.threadgroup = {kLanes * frequencies_, 1, 1};
    b_.bind_input(step);
    step.bindings.push_back({2, weights_});
    b_.bind_epilogue(step, 3);
    step.arguments = {argument(6, a)};
    const double outputs = static_cast<double>(positions * p_.output(kDepth) * out_channels_);
    step.nbytes = read_pixels({0, p_.output(kDepth), 0, positions, groups, groups}) *
                      static_cast<double>(p_.in_channels * item_size(p_.x_type)) +
                  4.0 * static_cast<double>(frequencies_ * weights_stride()) +
                  outputs * static_cast<double>(item_size(p_.out_type)) * (p_.residual ? 2 : 1) +
                  (p_.bias ? 4.0 * static_cast<double>(out_channels_) : 0.0);
    // Each block of outputs transforms its inputs itself.
    const double rows = static_cast<double>(groups * step.grid[1] * kFramesRows);
    const double channels = static_cast<double>(channel_pitch_), outs = static_cast<double>(out_pitch_);
    step.flops = rows * (2.0 * static_cast<double>(frequencies_) * channels * outs +
                         channels * static_cast<double>(step.grid[0]) * flops_.input + outs * flops_.output);
    b_.add(std::move(step));
  }

  /// Different pixels that the chunk's input transform reads.
  double read_pixels(const Chunk& c) const {
    int64_t frames = 0;
    for (int64_t f = 0; f < winograd_input_frames(p_, c.frames); ++f) {
      frames += p_.source_index(kDepth, c.first_frame * p_.stride[kDepth] - p_.pad_lo[kDepth] + f) >= 0;
    }
    const int64_t per_image = tile_rows_ * tile_cols_;
    const int64_t images = divide_up(c.tiles, per_image);
    const int64_t tiles = std::min(c.tiles, per_image);
    const int64_t rows = covered(p_, kHeight, divide_up(tiles, tile_cols_), plan_.m);
    const int64_t cols = covered(p_, kWidth, std::min(tiles, tile_cols_), plan_.m);
    return static_cast<double>(frames * images) * static_cast<double>(rows * cols);
  }

  const ConvProblem& p_;
  const WinogradPlan& plan_;
  const Layout& layout_;
  Builder& b_;
  const int64_t frequencies_, rows_, columns_;  ///< rows of columns of frequencies
  const int64_t pass_rows_, held_outs_;         ///< whose weights are held at a time
  const int64_t tile_rows_, tile_cols_, channel_pitch_;
  const double value_bytes_;
  const TransformFlops flops_;
  const GemmBlock block_;
  int weights_ = -1, tiles_ = -1, products_ = -1;
  int64_t slice_start_ = 0, slice_end_ = 0, set_ = 0;
  int64_t first_out_ = 0, out_channels_ = 0;  ///< of the set
  int64_t out_pitch_ = 0;                     ///< of the slice's first set, the largest
};

}  // namespace

void lower_winograd(const ConvProblem& p, const Candidate& candidate, const Layout& layout,
                    Builder& builder) {
  const std::string obstacle = depth_tile_obstacle(p, candidate.winograd);
  if (!obstacle.empty())
    throw std::invalid_argument("[lower] the depth tile does not fit: " + obstacle + ".");
  Lowering(p, candidate.winograd, layout, builder).run();
}

}  // namespace mlx_conv3d::metal
