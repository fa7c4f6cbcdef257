// Winograd on a CPU: what a form and its chunks cost, and the cheapest.

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/cpu_model.h"
#include "core/plan_cpu.h"
#include "cpu/simd/kernels.h"
#include "cpu/simd/tile_kernels.h"

namespace mlx_conv3d {

using namespace cpu_model;

namespace {

constexpr int64_t kFewTiles = 4;
/// Of a thread's cache where weights are made panel by panel: bytes of them, and of the sums of all products.
constexpr int64_t kHeldWeights = 512 << 10, kHeldSums = 2 << 20;
constexpr int64_t kMostHeld = 192;  ///< input channels: short enough that fp32 sums stay within 1e-6

/// Input channels as the products take them.
int64_t product_channels(const ConvProblem& p, WinogradForm form) {
  return form.parts > 0 ? round_up(p.in_channels, kMatrixDepth) : p.in_channels;
}

int64_t winograd_weight_bytes(const ConvProblem& p, WinogradForm form, int64_t out_channels,
                              const Device& d) {
  return form.all_weights() * winograd_depth_terms(p.kernel[kDepth], form.depth_m) *
         product_channels(p, form) * lanes(out_channels, d) * (form.parts > 0 ? 2 * form.parts : 4);
}

/// How many times as long as of many rows the products of chunks of t tiles take where each takes those of
/// one frame: neighbouring output frames meet different taps.
double few_rows(const ConvProblem& p, int64_t t) {
  if (p.stride[kDepth] == 1 && p.input_dilation[kDepth] == 1) return 1;
  return std::max(1.0, (1 + kBlockRows / static_cast<double>(t)) / (1 + kBlockRows / kManyRows));
}

/// Products along depth of all output frames: a pair takes four, a first or last frame without a partner
/// three.
int64_t winograd_depth_products(const ConvProblem& p, int depth_m, int64_t frames) {
  if (depth_m == 1) return frames * p.kernel[kDepth];
  const int64_t alone = p.odd_frame ? 1 : 0;
  return 3 * alone + (frames - alone) / 2 * 4 + (frames - alone) % 2 * 3;
}

/// Of reading transformed tiles and sums of a chunk of so many bytes, as far as the caches of so many cores
/// do not hold it.
double met_seconds(double input_floats, double output_floats, int64_t bytes, int cores, const Device& d) {
  const double held = static_cast<double>(bytes) / static_cast<double>(cores * d.cache_bytes);
  return (1 - 1 / std::max(1.0, held)) * (input_floats / kSharedInputs + output_floats / kSharedSums) /
         (d.cores * core_scale(d));
}

/// Chunks of one form, whose weights are transformed beforehand.
class Chunked {
 public:
  Chunked(const ConvProblem& p, const Device& d, int64_t limit, WinogradForm form)
      : p_(p),
        d_(d),
        limit_(limit),
        form_(form),
        tiles_(winograd_tiles(p, form)),
        all_frames_(std::max<int64_t>(1, p.output(kDepth))),
        pitch_(winograd_channel_pitch(p.in_channels, d.vector_width, form.parts)),
        slice_(std::max<int64_t>(1, p.out_channels)) {
    // Transformed weights of all output channels if they take at most 3/4 of the limit, else of a slice of
    // them.
    const int64_t panel = d.panel_vectors * d.vector_width;
    for (int64_t n = 2;
         !p.prepared && slice_ > panel && winograd_weight_bytes(p, form, slice_, d) > limit / 4 * 3; ++n) {
      slice_ = round_up(divide_up(p.out_channels, n), panel);
    }
    weight_bytes_ = p.prepared ? 0 : winograd_weight_bytes(p, form, slice_, d);
    depth_bytes_ = form.depth_m == 2 ? 4 * winograd_depth_floats(pitch_, panel, form.parts) + 64 : 0;
  }

  /// The cheapest that fit the limit; false if none does.
  bool fit(Candidate& c) const {
    const int64_t room = limit_ - weight_bytes_ - d_.cores * depth_bytes_ - kSlack;
    const auto bytes = [&](int64_t t, int64_t f) { return chunk_bytes(t, f); };
    const WinogradChunk chunk = fit_winograd_chunk(tiles_, all_frames_, form_.depth_m, room, bytes);
    if (chunk.tiles == 0) return false;
    Candidate best = candidate(c, chunk.tiles, chunk.frames, false);
    // A matrix unit goes through a thread's few rows too fast for weights that come from a cache for all.
    if (form_.parts == 0) consider_thread_chunks(c, room / d_.cores - kSlack, best);
    c = best;
    return true;
  }

 private:
  static constexpr int64_t kSlack = 4096;
  static constexpr int64_t kMostThreadFrames = 16;

  /// `room` is a thread's.
  void consider_thread_chunks(const Candidate& c, int64_t room, Candidate& best) const {
    const int64_t depth_m = form_.depth_m, units = divide_up(all_frames_, depth_m);
    for (int64_t parts = divide_up(all_frames_, kMostThreadFrames); parts <= units; parts *= 2) {
      const int64_t f = std::min(all_frames_, depth_m * divide_up(units, parts));
      for (int64_t caches : {1, 2, 4}) {
        const int64_t most = std::min(tiles_, std::min(caches * d_.cache_bytes, room) / chunk_bytes(1, f));
        if (most <= 0) continue;
        const int64_t t = divide_up(tiles_, divide_up(tiles_, most));
        const Candidate own = candidate(c, t, f, true);
        if (own.cost < best.cost) best = own;
      }
    }
  }

  int64_t chunk_bytes(int64_t t, int64_t f) const {
    return 4 * (winograd_input_floats(form_, winograd_input_frames(p_, f) * t, pitch_) +
                t * form_.all_products() * f * lanes(slice_, d_));
  }

  /// Of t tiles and f frames per chunk, which is all threads' or, `own`, one's.
  Candidate candidate(Candidate c, int64_t t, int64_t f, bool own) const {
    const Work w = work(t, f);
    c.winograd = winograd_plan(form_, t, f, slice_);
    c.winograd.thread_chunks = own;
    c.workspace = weight_bytes_ + d_.cores * depth_bytes_ + kSlack +
                  (own ? d_.cores * (chunk_bytes(t, f) + kSlack) : chunk_bytes(t, f));
    // Each element of a transform is a sum of about as many terms in each direction.
    const double terms = form_.directions() * (form_.side() - 1);
    c.flops = w.product_flops +
              2.0 * terms * (w.input_floats + w.output_floats + w.made_floats * 3 / form_.weights()) +
              w.depth_floats;
    c.bytes = p_.operand_bytes() + (own ? 0.0 : 4.0 * 2 * (w.input_floats + w.output_floats)) +
              4.0 * (w.made_floats + w.weight_floats * w.chunks);
    const double scale = core_scale(d_);
    const bool tiled = form_.parts > 0;
    const double transforms =
        (w.input_floats + w.output_floats) / (transform_floats(form_) * d_.cores * scale) +
        w.depth_floats / ((tiled ? kTileDepthFloats : kDepthFloats) * d_.cores * scale);
    const double weights = w.made_floats / ((tiled ? kTileWeightFloats : kWeightFloats) * d_.cores * scale) +
                           w.slices * kStepSeconds;
    c.cost = weights + (own ? own_seconds(w, t, f, transforms) : shared_seconds(w, t, f, transforms));
    return c;
  }

  /// What all chunks take.
  struct Work {
    double chunks, slices, product_flops;
    double input_floats, output_floats, depth_floats;
    double weight_floats, made_floats;  ///< read for each chunk; written once
  };
  Work work(int64_t t, int64_t f) const {
    Work w{};
    w.chunks = static_cast<double>(divide_up(tiles_, t) * divide_up(all_frames_, f));
    w.slices = static_cast<double>(divide_up(p_.out_channels, slice_));
    const double products = form_.all_products(), tiles = static_cast<double>(tiles_);
    const double pitch = static_cast<double>(pitch_);
    // Of a dilated depth axis only the frames that are stored are transformed and multiplied.
    const double met = 1.0 / static_cast<double>(p_.input_dilation[kDepth]);
    const double out_lanes = static_cast<double>(lanes(p_.out_channels, d_));
    const double depth_products =
        static_cast<double>(winograd_depth_products(p_, form_.depth_m, all_frames_));
    w.product_flops =
        2.0 * products * tiles * met * depth_products * static_cast<double>(p_.in_channels) * out_lanes;
    w.input_floats = w.slices * met * form_.all_pixels() * tiles * pitch *
                     static_cast<double>(winograd_input_frames(p_, f) * divide_up(all_frames_, f));
    w.output_floats = products * tiles * static_cast<double>(all_frames_) * out_lanes;
    if (form_.depth_m == 2) {
      w.depth_floats = w.slices * products * tiles * pitch * depth_products + w.output_floats;
    }
    w.weight_floats = static_cast<double>(winograd_weight_bytes(p_, form_, p_.out_channels, d_)) / 4;
    w.made_floats = p_.prepared ? 0 : w.weight_floats;
    return w;
  }

  /// Weights that were transformed long ago come from memory while they are multiplied, but for those that
  /// the last cache holds.
  double read_seconds(const Work& w) const {
    const double from_memory = p_.prepared ? std::max(0.0, 4.0 * w.weight_floats - kKeptWeights) : 0;
    return from_memory * w.chunks / (d_.gbytes * 1e9 * kPreparedStream);
  }

  double shared_seconds(const Work& w, int64_t t, int64_t f, double transforms) const {
    const bool tiled = form_.parts > 0;
    // Every block of rows that a core holds meets all weights.
    const int64_t rows = t * divide_up(f, form_.depth_m);
    const double streams =
        tiled ? w.chunks * static_cast<double>(divide_up(rows, winograd_depth_rows(pitch_, form_.parts))) : 0;
    const double idle = tiled ? static_cast<double>(round_up(p_.out_channels, cpu::kPanelColumns)) /
                                    static_cast<double>(lanes(p_.out_channels, d_))
                              : 1;
    const double product_rate =
        tiled ? d_.matrix_gflops * kWinogradTileShare[form_.parts] / kTileProducts[form_.parts]
              : d_.gflops * kProductShare;
    const double multiplied = w.product_flops * idle * static_cast<double>(product_channels(p_, form_)) /
                              static_cast<double>(std::max<int64_t>(1, p_.in_channels)) /
                              (product_rate * 1e9);
    return std::max(multiplied * (tiled ? 1 : few_rows(p_, t)), read_seconds(w)) + transforms +
           (tiled ? 0 : met_seconds(w.input_floats, w.output_floats, chunk_bytes(t, f), d_.cores, d_)) +
           4.0 * w.weight_floats * streams / (d_.gbytes * 1e9 * kTileStream) +
           3 * w.chunks * w.slices * kStepSeconds;
  }

  double own_seconds(const Work& w, int64_t t, int64_t f, double transforms) const {
    const double bytes = 4.0 * w.weight_floats, kept = bytes / w.slices <= kKeptWeights ? kKeptStream : 1;
    const double streamed = bytes * w.chunks / (kWeightStream * kept * d_.cores * core_scale(d_));
    const double turns = static_cast<double>(divide_up(static_cast<int64_t>(w.chunks), d_.cores)) * d_.cores;
    const double multiplied = w.product_flops / (d_.gflops * kProductShare * 1e9) * few_rows(p_, t);
    return turns / w.chunks *
               (std::max(multiplied, read_seconds(w)) + transforms +
                met_seconds(w.input_floats, w.output_floats, chunk_bytes(t, f), 1, d_) + streamed) +
           w.slices * kStepSeconds;
  }

  const ConvProblem& p_;
  const Device& d_;
  const int64_t limit_;
  const WinogradForm form_;
  const int64_t tiles_, all_frames_, pitch_;
  int64_t slice_, weight_bytes_ = 0;
  int64_t depth_bytes_ = 0;  ///< of a thread
};

/// How many depth taps all output frames meet. Of many, zeros at the ends are not worth counting.
double met_taps(const ConvProblem& p, int64_t frames) {
  constexpr int64_t kCounted = 4096;
  const int64_t taps = p.kernel[kDepth];
  if (frames > kCounted || taps > kCounted || frames * taps > kCounted) {
    return static_cast<double>(frames) * static_cast<double>(taps) /
           static_cast<double>(p.input_dilation[kDepth]);
  }
  int64_t met = 0;
  for (int64_t f = 0; f < frames; ++f) {
    for (int64_t kd = 0; kd < taps; ++kd) {
      const int64_t at = f * p.stride[kDepth] + kd * p.dilation[kDepth] - p.pad_lo[kDepth];
      met += p.source_index(kDepth, at) >= 0 ? 1 : 0;
    }
  }
  return static_cast<double>(met);
}

/// How much longer the last thread takes than if all had the same share of the panels.
double panel_imbalance(const ConvProblem& p, const Device& d) {
  const auto panels = cpu::Panels::shared(p.out_channels, d.vector_width, d.panel_vectors, d.cores);
  return static_cast<double>(panels.longest_share(d.cores) * d.cores) /
         static_cast<double>(std::max<int64_t>(1, panels.vectors_total()));
}

/// Chunks where the weights are made panel by panel: a thread's sums of one panel stay in its cache. False if
/// none fits the limit.
bool fit_panels(const ConvProblem& p, const Device& d, int64_t limit, WinogradForm form, Candidate& c) {
  const int64_t products = form.all_products(), panel = d.panel_vectors * d.vector_width;
  const int64_t tiles = winograd_tiles(p, form), all_frames = std::max<int64_t>(1, p.output(kDepth));
  const int64_t channels = std::max<int64_t>(1, p.in_channels);
  const int64_t most_held =
      std::clamp<int64_t>(kHeldWeights / (4 * form.all_weights() * panel), d.vector_width, kMostHeld);
  WinogradPlan w = winograd_plan(form, 0, 0, std::max<int64_t>(1, p.out_channels));
  w.weight_channels = round_up(divide_up(channels, divide_up(channels, most_held)), d.vector_width);
  const auto bytes = [&](int64_t t, int64_t f) {
    const int64_t rows_in = winograd_input_frames(p, f) * t;
    return 4 * (winograd_input_floats(form, rows_in, round_up(channels, w.weight_channels)) +
                d.cores * winograd_panel_floats(w, t * f, panel)) +
           4096;
  };
  const int64_t most_rows = std::max<int64_t>(1, kHeldSums / (4 * products * panel));
  int64_t f = std::min(all_frames, most_rows), t = std::min(tiles, std::max<int64_t>(1, most_rows / f));
  while (t < std::min<int64_t>(tiles, kFewTiles) && f > 1) {
    f = divide_up(f, 2);
    t = std::min(tiles, std::max<int64_t>(1, most_rows / f));
  }
  while (bytes(t, f) > limit && t * f > 1) (t > f ? t : f) = divide_up(t > f ? t : f, 2);
  if (bytes(t, f) > limit) return false;
  w.tiles = t = divide_up(tiles, divide_up(tiles, t));
  w.frames = f = divide_up(all_frames, divide_up(all_frames, f));

  const double chunks = static_cast<double>(divide_up(tiles, t) * divide_up(all_frames, f));
  const double out_lanes = static_cast<double>(lanes(p.out_channels, d)), rows = static_cast<double>(t * f);
  const double frames_in = static_cast<double>(winograd_input_frames(p, f) * divide_up(all_frames, f));
  const double met = met_taps(p, all_frames), all_tiles = static_cast<double>(products * tiles);
  const double weights = static_cast<double>(channels) * out_lanes;
  const double product_flops = 2.0 * all_tiles * met * weights;
  const double input_floats =
      static_cast<double>(form.all_pixels() * tiles * round_up(channels, d.vector_width)) * frames_in /
      static_cast<double>(p.input_dilation[kDepth]);
  const double output_floats = all_tiles * static_cast<double>(all_frames) * out_lanes;
  // A chunk makes the weights of the taps that it meets.
  const double taps = std::min<double>(static_cast<double>(p.kernel[kDepth]), met);
  const double made = chunks * taps * weights * form.all_weights();
  c.winograd = w;
  c.workspace = bytes(t, f);
  const double terms = form.directions() * (form.side() - 1);
  c.flops = product_flops + 2.0 * terms * (input_floats + output_floats + made * 3 / form.weights());
  c.bytes = p.operand_bytes() + 8.0 * input_floats +
            4.0 * static_cast<double>(p.kernel[kHeight] * p.kernel[kWidth]) * taps * weights * (chunks - 1);
  const double scale = core_scale(d);
  const double by_panel =
      product_flops / (d.gflops * kPanelShare * 1e9) * (rows + kPanelRows) / rows * few_rows(p, t) +
      output_floats / (transform_floats(form) * d.cores * scale) + made / (kMadeFloats * d.cores * scale) +
      met_seconds(input_floats, 0, bytes(t, f), d.cores, d) + output_floats / (kSharedSums * d.cores * scale);
  c.cost = by_panel * panel_imbalance(p, d) + input_floats / (transform_floats(form) * d.cores * scale) +
           2 * chunks * kStepSeconds;
  return true;
}

/// bf16 parts for a matrix unit; 0 where there is none. A transformed bf16 number needs two, whose error
/// rounding the result hides; rounding to fp16 does not.
int tile_parts(const ConvProblem& p, const Device& d) {
  if (d.matrix_gflops == 0 || !d.matrix_splits || p.in_channels == 0) return 0;
  return p.out_type == Dtype::bfloat16 ? 2 : 3;
}

}  // namespace

int64_t winograd_tiles(const ConvProblem& p, const WinogradForm& form) {
  const int64_t tiles = p.batch * WinogradAxis(p, form, kHeight).tiles * WinogradAxis(p, form, kWidth).tiles;
  return std::max<int64_t>(1, tiles);
}

WinogradChunk fit_winograd_chunk(int64_t tiles, int64_t all_frames, int depth_m, int64_t room,
                                 const std::function<int64_t(int64_t, int64_t)>& chunk_bytes) {
  // A chunk should be large enough that reading the weights is cheap next to multiplying with them, and small
  // enough that the transformed tiles stay in a shared cache.
  const int64_t wanted = std::min<int64_t>(room, int64_t{24} << 20);
  const auto halved = [&](int64_t frames) { return round_up(divide_up(frames, 2), depth_m); };
  int64_t f = std::min<int64_t>(all_frames, 16);
  int64_t t = std::min<int64_t>(tiles, 64);
  while (t * f < 512 && t < tiles) t = std::min(tiles, t * 2);
  while (chunk_bytes(t, f) > wanted && t * f > 256 && (t > 8 || f > depth_m)) {
    if (t > 16 && (t >= 2 * f || f <= depth_m)) {
      t = divide_up(t, 2);
    } else if (f > depth_m) {
      f = halved(f);
    } else {
      t = divide_up(t, 2);
    }
  }
  // Tiles first: neighbouring chunks of frames both transform the frames that they share. In small steps:
  // each chunk meets all weights.
  while (chunk_bytes(t, f) > room && (t > 1 || f > depth_m)) {
    if (t > kFewTiles || f <= depth_m) {
      t -= divide_up(t, 8);
    } else {
      f = halved(f);
    }
  }
  if (chunk_bytes(t, f) > room) return {};
  // Equal chunks, of whole pairs of frames where those belong together.
  const int64_t units = divide_up(all_frames, depth_m);
  f = std::min(all_frames, depth_m * divide_up(units, divide_up(all_frames, f)));
  return {divide_up(tiles, divide_up(tiles, t)), f};
}

void consider_cpu_winograd(const ConvProblem& problem, const Device& d, int64_t limit,
                           const WinogradPlan* like, Candidate& c) {
  Candidate best;
  best.cost = std::numeric_limits<double>::infinity();
  const auto [p, row_taps] = winograd_problem(problem);
  const int axis = winograd_line_axis(problem.kernel);
  const Pixels kind = pixels_of(p);
  std::vector<int> kinds{0};
  if (row_taps == 0 && tile_parts(p, d) > 0) kinds.push_back(tile_parts(p, d));
  const int taps = winograd_taps(p.kernel[kWidth]);
  for (int m : winograd_tile_sizes(kind, taps)) {
    for (int depth_m : {1, 2}) {
      if (depth_m == 2 && !fits_depth_winograd(p)) continue;
      for (int parts : kinds) {
        const WinogradForm form{m, kind, depth_m, parts, row_taps, taps};
        if (p.out_type == Dtype::float32 && !form.exact()) continue;
        if (depth_m == 2 && !form.pairs_frames()) continue;
        if (like != nullptr && form != like->form()) continue;
        for (bool by_panel : {false, true}) {
          if (by_panel && (p.prepared || depth_m == 2 || parts > 0)) continue;
          if (like != nullptr && by_panel != (like->weight_channels > 0)) continue;
          Candidate at = c;
          const bool fits = by_panel ? fit_panels(p, d, limit, form, at) : Chunked(p, d, limit, form).fit(at);
          if (fits && at.cost < best.cost) best = at;
        }
      }
    }
  }
  if (std::isinf(best.cost)) {
    refuse(c, limit);
    return;
  }
  c = best;
  const std::string m = std::to_string(c.winograd.m);
  const std::string side = std::to_string(p.kernel[kWidth]);
  if (row_taps > 0) {
    constexpr const char* kNames[] = {"depth", "the height", "the width"};
    c.reason = "F(" + m + ", " + side + ") along " + kNames[axis];
  } else {
    c.reason = "F(" + m + "x" + m + ", " + side + "x" + side + ")" +
               (kind == Pixels::single ? "" : std::string(" of ") + name_of(kind) + " pixels");
  }
  c.reason += std::string(axis == kDepth ? "" : " with the depth taps summed in the transform domain") +
              (c.winograd.depth_m == 2 ? " by F(2, 3)" : "") +
              (c.winograd.weight_channels > 0 ? ", weights made panel by panel: " : ": ") +
              std::to_string(static_cast<int>(std::lround(p.direct_flops() / std::max(1.0, c.flops) * 100))) +
              " direct FLOPs per 100 executed" +
              (c.winograd.parts == 0   ? ""
               : c.winograd.parts == 2 ? ", each as three products of bf16 tiles"
                                       : ", each as six products of bf16 tiles");
}

}  // namespace mlx_conv3d
