#pragma once

#include <cstdint>

#include "core/problem.h"
#include "core/winograd_form.h"

// The vectorised primitives, one table per instruction set. Plain functions over plain pointers: what they
// are applied to, and on which thread, is decided by the algorithm files in cpu/.

namespace mlx_conv3d::cpu {

/// How a row of fp32 results becomes output: activation(sum + bias) + residual, converted to `type`.
struct Epilogue {
  Dtype type = Dtype::float32;
  Activation activation = Activation::none;
  const float* bias = nullptr;     ///< indexed by output channel, or null
  const void* residual = nullptr;  ///< laid out like the output and of its type, or null

  /// Whether the sums are the output as they are.
  bool plain() const {
    return type == Dtype::float32 && activation == Activation::none && !bias && !residual;
  }
};

/// Rows of sums that become output: row r of `n` sums at sums + r*sums_stride is output channels
/// `channel`..., and elements offset + r*offset_stride... of the output y.
struct ResultRows {
  int64_t rows, n;
  const float* sums;
  int64_t sums_stride;
  int64_t channel;
  int64_t offset, offset_stride;
  void* y;
};

/// The pixels of one Winograd tile.
struct WinogradInputTile {
  const void* const* rows;  ///< all pixels of the tile, row by row, each a pointer to its first channel
                            ///< (zeros stand in for padding)
  int64_t channels;
  void* out;  ///< fp32: element (xi, c) at out + xi*xi_stride + c, channels rounded up to whole vectors
  int64_t xi_stride;  ///< elements of out
  int64_t next;       ///< bytes from each pixel to the next tile's, to be fetched meanwhile
};

struct WinogradOutputTile {
  int64_t next;     ///< floats from `in` to what will be read next, to be fetched meanwhile
  const float* in;  ///< element (xi, o) at in + xi*xi_stride + o
  int64_t xi_stride;
  int64_t channels;
  void* out;      ///< the whole output: result (i, j) is element first + i*row_stride + j*pixel_stride
  int64_t first;  ///< of the residual too; negative where result (0, 0) does not exist
  int64_t row_stride, pixel_stride;
  int64_t following;  ///< elements from a result to where the next tile's mostly is, to be fetched meanwhile
  int row_begin, row_end, col_begin, col_end;  ///< of the tile's results, those that exist
  const Epilogue* epilogue;
};

/// Among the offsets of columns: one of zeros.
constexpr int64_t kNoColumn = INT64_MIN;

/// Columns of a strip (neighbouring tiles of one row of tiles), of one group, to their frequencies along the
/// height. Tiles share columns, which are transformed once.
struct WinogradColumns {
  int64_t count, channels;
  const void* const* rows;  ///< of pixels, the first channel at column 0; null for zeros
  const int64_t* columns;   ///< bytes from there to each column, or kNoColumn
  float* out;               ///< [frequency][column][channel], channels rounded up to whole vectors
  int64_t stride, pitch;    ///< floats from frequency to frequency and from column to column
};

/// Cache lines that will be used next, asked for a few at a time: what lies lines apart no hardware
/// prefetches.
struct LineList {
  const char* const* lines;
  int64_t count;
  int64_t offset;  ///< bytes from each
};

/// All products of some strips of one group, in place: columns of frequencies along the height to columns of
/// sums, of as many results along the width as the strips' tiles have.
struct WinogradGroup {
  int64_t strips;
  const int64_t* tiles;   ///< of each strip
  int64_t channels;       ///< of a group's inputs
  int64_t in_vectors;     ///< of a column
  int64_t panels;         ///< of weights
  const int* vectors;     ///< of each panel
  float* columns;         ///< [frequency along the height][strip][column][channel, then lane]
  int64_t stride, strip;  ///< floats from frequency to frequency and from strip to strip
  int64_t pitch;          ///< floats from column to column and from tile to tile: 1, 2 or 4 vectors
  const float* weights;   ///< [panel][product][channel][lane]
  int64_t weight_stride;  ///< floats from product to product
  float *inputs, *sums;   ///< [frequency along the width][tile][channel or lane]; the same, of one panel
  int64_t tile_stride;    ///< floats from frequency to frequency there
  LineList reads, writes;
};

/// Columns of sums to results.
struct WinogradResults {
  int64_t channels;       ///< whole vectors
  const float* in;        ///< [frequency along the height][column][lane]
  int64_t stride, pitch;  ///< floats from frequency to frequency and from column to column
  void* out;              ///< the whole output: result (i, j) is element first + i*row_stride +
                          ///< j*pixel_stride, and so in the residual
  int64_t first, row_stride, pixel_stride;
  int64_t rows, cols;  ///< those that exist
  const Epilogue* epilogue;
};

/// The pixels of some rows of one unit (a group, or a vector of woven ones), for tiles of m outputs of a row.
struct WinogradRowPixels {
  int64_t rows, tiles, channels;
  const void* const* row;  ///< of each, the first channel of all at column 0; null for zeros
  int64_t offset;          ///< bytes from there to the unit's
  const int64_t* columns;  ///< bytes from there to each of tiles*m + 2 columns, or kNoColumn
  const int32_t* order;    ///< of a woven vector's channels, or null
  float* out;              ///< [frequency][tile][row][channel], channels rounded up to whole vectors
  int64_t stride, pitch;   ///< floats from frequency to frequency and from row to row: 1, 2 or 4 vectors
};

/// Cache lines that will be used later, asked for a few at a time between the products: in the order in which
/// they lie, so that hardware fetches ahead, of which it can do more at a time than a core asks for.
struct FetchedLines {
  const char* base;
  const int64_t* offset;  ///< of each line from there, in bytes
  int64_t count;
};

/// All products of some output rows of one unit: frequencies along the width times the taps along the height.
struct WinogradRows {
  int64_t rows, tiles;   ///< of outputs
  int64_t channels;      ///< of a group's inputs
  int woven;             ///< groups of a vector, or 1
  int64_t vectors;       ///< of outputs
  const float* inputs;   ///< [frequency][tile][row + tap][channel]
  int64_t stride;        ///< floats from frequency to frequency
  const float* weights;  ///< [vector][frequency][channel][tap][lane]
  float* sums;           ///< [frequency][tile][row][lane]
  int64_t sums_stride, pitch;
  FetchedLines reads, writes;
};

/// Sums of them to results.
struct WinogradRowResults {
  int64_t tiles, channels;  ///< whole vectors
  const float* in;          ///< [frequency][tile][row][lane]
  int64_t stride, pitch;
  const int32_t* order;  ///< of a woven vector's sums, or null
  void* out;             ///< as in WinogradResults
  int64_t first, row_stride, pixel_stride;
  int64_t rows, cols;  ///< those that exist
  const Epilogue* epilogue;
};

/// Weights (O, KD, KH, KW, C), read through strides.
struct WeightView {
  const void* data;
  Dtype type;
  int64_t stride[5];  ///< elements: o, kd, kh, kw, c
  /// With group > 0, so many output channels follow each other by stride[0], a group by group_stride.
  int64_t group = 0, group_stride = 0;
};

/// The same with its axes in another order.
inline WeightView with_axes(WeightView w, const AxisOrder& order) {
  reorder_axes(w.stride + 1, order);
  return w;
}

/// Where F(2, 3)'s frequencies along depth lie: in the order in which their products are taken.
constexpr int kDepthSlot[4] = {2, 0, 1, 3};

/// One panel of output channels: U[xi][c][lane] = (G w G^T)[xi], or of a line (G w)[xi], of one depth tap, or
/// of four combinations of the three taps.
struct WinogradWeightPanel {
  WeightView w;          ///< data points at the panel's first output channel and the (first) depth tap
  int64_t depth_stride;  ///< floats from one depth frequency's `out` to the next, in the order of kDepthSlot
  bool streaming;        ///< write past the caches: `out` and the strides are whole vectors
  int64_t out_channels;  ///< existing output channels in the panel; further lanes are zero
  int64_t channels;      ///< C
  int side;              ///< rows and columns of the kernel, or columns of its one row
  bool flip;             ///< reverse them, and its depth where depth_m is 2
  int vectors;           ///< the panel's width
  void* out;             ///< fp32: channel c of product xi at out + xi*xi_stride + c*vectors*width
  int64_t xi_stride;
};

/// Sums of products in the transform domain, of one channel of one side with all of the other, to dL/dw.
struct WinogradGradientRow {
  const float* in;  ///< channel c of product xi and depth term t at in + xi*xi_stride + t*depth_stride + c;
                    ///< with F(2, 3) along depth the terms are in the order of kDepthSlot
  int64_t xi_stride, depth_stride;
  int64_t channels;    ///< whole vectors
  int64_t depth_taps;  ///< KD
  int side;            ///< rows and columns of the kernel, or columns of its one row
  bool flip;
  float* out;  ///< channel c of tap (kd, kh, kw) at out + ((kd*side + kh)*side + kw)*tap_stride + c, or of
               ///< one row (kd*side + kw)
  int64_t tap_stride;
};

/// k rows of one panel for the GEMM: out[k][lane] = w[lane](k), further lanes zero.
struct GemmWeightPanel {
  WeightView w;            ///< data points at the panel's first output channel
  const int64_t* offsets;  ///< element offset of each of the k rows from there
  int64_t k;
  int64_t out_channels;
  int vectors;
  float* out;
};

/// Grouped convolution with few channels per group, for positions next to each other in one output row: the
/// lanes are output channels, and each picks its group's inputs from the pixel.
struct DirectRow {
  /// [row tap][column]: pixel's first channel, or null where the whole row is padding. Output position j
  /// meets its tap kw at column j*stride + kw*dilation.
  const void* const* pixels;
  int64_t columns;   ///< pointers per row tap
  int64_t row_taps;  ///< KD*KH
  int64_t col_taps;  ///< KW
  int64_t stride, dilation;
  int64_t positions;
  int64_t channels;       ///< C, what may be read of a pixel
  int64_t group_in;       ///< C/groups
  int64_t vectors;        ///< vectors of output channels
  const int32_t* source;  ///< per output lane: first input channel of its group (vectors*width entries)
  const uint8_t* shape;   ///< per output vector: see LaneShape
  const float* weights;   ///< [vector][row tap][column tap][c in group][lane]
  float* out;             ///< [position][vectors*width]
};

/// How the lanes of one output vector read their input channel c.
enum LaneShape : uint8_t {
  kGather,     ///< each lane its own channel, wherever it is
  kWindow,     ///< all lanes' channels are within two vectors from the first lane's
  kBroadcast,  ///< all lanes in one group
  kContiguous  ///< lane l reads channel source + l (depthwise)
};

/// One vector of outputs in every set of GroupedRows, floats from the set's first input and output.
struct GroupedVector {
  int32_t in, out;
};

/// Grouped convolution of staged rows: float32, a pixel's C floats next to the next one's, padding written
/// out. A row is walked in sets of positions whose outputs are whole vectors: one position where a vector of
/// outputs belongs to one position, as many as it takes where it belongs to several.
struct GroupedRows {
  /// [KD][KH]: the first pixel of the first position of every tap's row, or null where that is all
  /// padding.
  const float* const* rows;
  int64_t depth_taps, row_taps, col_taps;  ///< KD, KH, KW
  const int64_t* col_offsets;              ///< floats from a position's first input to that of column tap k
  int64_t spacing;  ///< sets from one column tap to the next, or 0 where that is not a whole number
  int64_t sets, in_step, out_step;  ///< floats from one set to the next
  int64_t group_in;                 ///< C/groups
  bool woven;                       ///< rows, weights and bias are: see PixelBlocks
  int64_t vectors;                  ///< in a set
  const GroupedVector* vector;
  const float* weights;  ///< [vector][tap][c in group][lane]
  const float* bias;     ///< [vector][lane], or null
  Activation activation;
  const float* residual;  ///< laid out like `out`, or null
  float* out;             ///< of the first set
  int64_t out_floats;     ///< of an output row: lanes beyond are not written
};

/// What GroupedRows has of one output row, and its gradient in place of outputs: `sums` [vector][tap][c in
/// group][lane] += sum over sets of dy * input, where dy is zero beyond the row's end.
struct GroupedGradientRows {
  GroupedRows rows;
  const float* dy;
  float* sums;
};

/// Products of a row of taps whose inputs follow each other.
struct UnitGradientRun {
  int64_t x;        ///< floats from a position's first input
  int64_t product;  ///< of the row of taps: the first of them
};

/// dL/dw of a unit (a group, or groups that are woven: see PixelBlocks) over some output rows, of one row of
/// taps: sums[product][lane] (+)= sum over positions of the product's input * dy[position][lane].
struct UnitGradientRow {
  int64_t out_rows;
  const float* const* rows;  ///< [output row]: the input of its first position, or null for zeros
  const float* dy;           ///< [output row][position][lane]
  int64_t positions, step;   ///< of an output row; floats from a position's inputs to the next one's
  int64_t lanes;             ///< whole vectors
  int woven;                 ///< groups of a vector, or 1
  int64_t runs;
  const UnitGradientRun* run;
  int64_t length;  ///< products of a run
  float* sums;
  bool accumulate;
};

/// Sums of a unit, in parts that are added, to dL/dw.
struct UnitGradientResults {
  int64_t parts, part_stride;
  int64_t products, lanes;
  const float* sums;    ///< [product][lane]
  const int64_t* rows;  ///< [lane]: elements from dw to its products, which follow each other there
  void* dw;
};

/// Columns that a block of positions may have beyond a row's last.
constexpr int64_t kDepthwiseSlack = 32;

/// Where a row's columns lie, in elements from its start.
struct DepthwiseColumns {
  const int64_t* at;  ///< [(positions - 1)*stride + KW + kDepthwiseSlack]
  int64_t pixel;      ///< from one to the next
};

/// Depthwise convolution of some output rows of a frame, whose input is read where it lies.
struct DepthwiseRows {
  /// [KD][(out_rows - 1)*stride + KH]: the stored row that each tap meets, or null where it is all zeros.
  const void* const* rows;
  int64_t depth_taps, out_rows;
  /// Of the frame that the next call will meet for the first time, or null: the same rows, pixels apart.
  const void* const* next;
  int64_t next_pixel;
  bool far;                         ///< memory is asked for long before a block needs it
  const DepthwiseColumns* columns;  ///< [KD]
  int64_t positions;
  int64_t inner_begin, inner_end;  ///< positions whose columns, of a dilated input every other one, are all
                                   ///< there and follow each other
  int64_t vectors;                 ///< of channels
  const int32_t* channel;          ///< first channel of each
  const float* weights;            ///< [vector][tap][lane]
  const Epilogue* epilogue;
  void* y;           ///< of the epilogue's type
  int64_t out;       ///< elements from its start to the first row's
  int64_t row_step;  ///< elements from one output row to the next
  int64_t channels;
};
using DepthwiseFunction = void (*)(const DepthwiseRows& rows);

/// What DepthwiseRows has of some output rows, and their gradient in place of outputs: `sums`
/// [vector][tap][lane]
/// += sum over positions of dy * input.
struct DepthwiseGradientRows {
  DepthwiseRows rows;
  const float* dy;  ///< [output row][position][channel]
  float* sums;
};
using DepthwiseGradientFunction = void (*)(const DepthwiseGradientRows& rows);

/// Pixels as blocks: block b has, for every pixel, the `window` channels from first[b] on, as floats.
struct PixelBlocks {
  const void* from;
  int64_t col_stride;  ///< bytes from one pixel to the next
  int64_t count, channels;
  int64_t blocks;
  const int32_t* first;
  int64_t window;  ///< whole vectors; channels that do not exist are zeros
  /// Null, or which channel of the block goes to each place of the window: woven, the first inputs of all its
  /// groups, then the second ones. So all lanes' inputs are few floats, repeated, and lane l has output
  /// l / K of group l % K, where a vector has the outputs of K groups.
  const int32_t* order;
  float* to;
  int64_t pitch;  ///< floats from one block to the next
};

using GroupedFunction = void (*)(const GroupedRows& rows);
using GroupedGradientFunction = void (*)(const GroupedGradientRows& rows);

constexpr int kMaxPanelVectors = 3;

/// Products of k terms each whose operands lie some steps apart, summed as one.
struct Segments {
  int64_t count = 1;
  int64_t a_step = 0, b_step = 0;  ///< floats
  const float* next = nullptr;     ///< what a will be next, to be fetched; null: what lies behind b is
};

struct TileKernels;

/// Rows of channels to be normalized: activation(x / rms(x) * weight) each.
struct NormRows {
  int64_t rows, channels;
  const float* x;
  int64_t x_stride;  ///< floats from row to row
  const float* weight;
  float eps;              ///< added to the mean square
  Activation activation;  ///< none, relu or silu
};

/// A left operand in pieces that lie anywhere: row r of piece s is the k floats at starts[s] + r*lda.
struct Taps {
  const float* const* starts;
  int64_t count;
};

struct Kernels {
  const char* isa;
  int width;                       ///< floats per vector
  int panel_vectors;               ///< widest panel
  int rows[kMaxPanelVectors + 1];  ///< rows held in registers, by panel width

  /// c[r][j] (+)= sum_k a[r][k] * b[k][j] for one panel of `vectors` vectors; b rows are vectors*width apart.
  /// With `transposed`, a(r, k) is at a + k*lda + r, else at a + r*lda + k. The sum runs over all segments.
  void (*gemm)(bool transposed, int64_t rows, int vectors, int64_t k, const float* a, int64_t lda,
               const float* b, int64_t ldb, float* c, int64_t ldc, bool accumulate, Segments segments);

  /// c[r][j] (+)= sum over pieces s and their k of a(s, r, k) * b[s*k + k][j] for one panel of `vectors`
  /// vectors, b's rows following each other.
  void (*gemm_taps)(int64_t rows, int vectors, int64_t k, Taps a, int64_t lda, const float* b, float* c,
                    int64_t ldc, bool accumulate);

  /// lanes[r][o] (+)= sum over pieces s and their k of a(s, r, k) * b[o*ldb + s*k + k] for few outputs:
  /// vectors along k, since lanes of outputs would be mostly empty. A sum is a vector here, each lane has a
  /// share.
  void (*gemm_narrow)(int64_t rows, int outputs, int64_t k, Taps a, int64_t lda, const float* b, int64_t ldb,
                      float* lanes, bool accumulate);
  /// What the lanes of each of so many vectors add up to, in place: lanes[i] is the sum of vector i.
  void (*sum_lanes)(float* lanes, int64_t sums);

  void (*to_float)(Dtype from, const void* src, float* dst, int64_t n);
  /// dst[0..n) = epilogue(sums[0..n)) where element i is output channel `channel + i`; `offset` is dst's
  /// element offset in the output, for the residual.
  void (*store)(const Epilogue& epilogue, const float* sums, int64_t channel, int64_t offset, void* dst,
                int64_t n);
  /// The same of many rows.
  void (*store_rows)(const Epilogue& epilogue, const ResultRows& rows);
  void (*add)(const float* src, float* dst, int64_t n);

  void (*pack_weight)(const GemmWeightPanel& panel);

  void (*direct)(Dtype type, const DirectRow& row);
  /// sums[vector][tap][c in group][lane] += sum over positions of dy[position][vector*width + lane] * input
  void (*direct_gradient)(Dtype type, const DirectRow& row, const float* dy, float* sums);

  void (*stage_blocks)(Dtype type, const PixelBlocks& pixels);
  /// Lane l of each vector becomes what was lane order[l].
  void (*permute_lanes)(const int32_t* order, float* data, int64_t vectors);
  void (*winograd_columns)(WinogradForm form, Dtype type, const WinogradColumns& columns);
  void (*winograd_group)(WinogradForm form, const WinogradGroup& group);
  void (*winograd_results)(WinogradForm form, const WinogradResults& results);
  /// The same of F(4, 3) along the width alone.
  void (*winograd_row_pixels)(Dtype type, const WinogradRowPixels& pixels);
  void (*winograd_rows)(const WinogradRows& rows);
  void (*winograd_row_results)(const WinogradRowResults& results);
  /// Vector after vector of the panel, [frequency][channel][tap][lane] each; xi_stride is not used.
  void (*winograd_row_weight)(const WinogradWeightPanel& panel);
  /// Of the kernel with this index in kGroupedKernels.
  GroupedFunction (*grouped)(int kernel);
  /// C where that kernel's weight [tap][c][lane] is that of input (c + lane) % C of the group, 0 where it is
  /// that of input c.
  int (*grouped_rotation)(int kernel);
  GroupedGradientFunction (*grouped_gradient)(int kernel);
  void (*unit_gradient)(const UnitGradientRow& row);
  void (*unit_gradient_results)(Dtype type, const UnitGradientResults& results);
  /// Of 3x3 or 5x5 spatial taps; the spatial stride or input dilation is 1 or 2.
  DepthwiseFunction (*depthwise)(int64_t side, int64_t stride, int64_t input_dilation, Dtype x_type);

  /// Without input dilation.
  DepthwiseGradientFunction (*depthwise_gradient)(int64_t side, int64_t stride, Dtype x_type);

  void (*winograd_input)(WinogradForm form, Dtype type, const WinogradInputTile& tile);
  void (*winograd_output)(WinogradForm form, const WinogradOutputTile& tile);
  void (*winograd_weight)(WinogradForm form, const WinogradWeightPanel& panel);
  /// F(2, 3) along depth: n floats of each of four neighbouring frames, `frame_stride` apart, to four
  /// frequencies, `out_stride` apart in the order of kDepthSlot. Without the first or the last frame, the
  /// frequency of that number is not made.
  void (*winograd_depth_input)(bool has_first, bool has_last, int64_t n, const float* in,
                               int64_t frame_stride, float* out, int64_t out_stride);
  /// In place: (even, odd) = (even + odd, even - odd) for `rows` rows of n floats.
  void (*winograd_depth_butterfly)(int64_t rows, int64_t n, float* even, int64_t even_stride, float* odd,
                                   int64_t odd_stride);

  /// Adjoints, for dL/dw: of the output's transform (`tile` has the m*m pixels of dL/dy), of the weight's,
  /// and of the butterfly, n floats (whole vectors) of two frames.
  void (*winograd_cotangent)(WinogradForm form, Dtype type, const WinogradInputTile& tile);
  void (*winograd_weight_gradient)(WinogradForm form, const WinogradGradientRow& row);
  void (*winograd_depth_cotangent)(int64_t n, const float* even, const float* odd, float* sum,
                                   float* difference);

  void (*rms_norm)(const NormRows& rows, float* out);
  /// dx from dL/dy; dL/dweight of the rows is added to dw. Rows of dx follow each other.
  void (*rms_norm_gradient)(const NormRows& rows, const float* dy, int64_t dy_stride, float* dx, float* dw);

  const TileKernels* tiles = nullptr;  ///< of a matrix unit, or null: see tile_kernels.h
};

/// The best table that this machine can run (MLX_CONV3D_ISA=sse2|avx2|avx512|amx|neon lowers it).
const Kernels& kernels();

/// Widths of the panels that cover `out_channels`, widest first but never a lone single vector where two
/// narrower panels do as well.
struct Panels {
  Panels(int64_t out_channels, const Kernels& k) : Panels(out_channels, k.width, k.panel_vectors) {}
  Panels(int64_t out_channels, int width, int widest);
  /// The same with some of the widest made narrower, so that `threads` that take panels in turn have as much
  /// to do as each other.
  static Panels shared(int64_t out_channels, int width, int widest, int threads);
  int64_t count() const { return count_; }
  int64_t vectors_total() const { return total_; }
  /// For panel >= count(): vectors_total().
  int64_t first_vector(int64_t panel) const;
  int vectors(int64_t panel) const;
  int widest() const { return widest_; }
  /// Vectors of whom has most, of `threads` that take the next panel when they are done with one.
  int64_t longest_share(int threads) const;

 private:
  /// All that follow the first `wide` are one vector narrower; what is left of them is the last.
  void set_wide(int64_t wide);
  int narrow() const { return widest_ > 1 ? widest_ - 1 : 1; }

  int64_t total_, count_, wide_;
  int widest_;
};

}  // namespace mlx_conv3d::cpu
