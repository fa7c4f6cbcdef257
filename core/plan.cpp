// Which algorithm, and how it is cut into pieces. Pure functions of the problem, the device and the limit.

#include "core/plan.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <limits>
#include <stdexcept>

#include "core/plan_gpu.h"

namespace mlx_conv3d {
namespace {

constexpr Size3 kOnes{1, 1, 1};

std::atomic<int64_t> limit_in_force{kDefaultWorkspaceLimit};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

std::string mebibytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f MiB", bytes / (1 << 20));
  return text;
}

/// Lanes of whole vectors that hold n channels, as the panels lay them out.
int64_t lanes(int64_t n, const Device& device) {
  return round_up(std::max<int64_t>(1, n), device.vector_width);
}

/// Of a dilated input, how many phases the outputs have: only every so many-th tap meets an input.
double phases(const ConvProblem& p) {
  return static_cast<double>(p.input_dilation[0] * p.input_dilation[1] * p.input_dilation[2]);
}

bool padded_anywhere(const ConvProblem& p) { return p.padded(0) || p.padded(1) || p.padded(2); }

// ---- winograd ---------------------------------------------------------------------------------------------

// Measured on AVX-512: the share of the multiply-add peak that the transform-domain products reach, and the
// transforms' speed per thread in floats written. Machines scale with `gflops`.
constexpr double kProductShare = 0.80, kGatherShare = 0.75;
constexpr double kTransformFloats = 1.6e9, kDepthFloats = 6.0e9, kWeightFloats = 0.7e9;
constexpr double kStepSeconds = 4e-6;  ///< starting and joining one parallel loop

int64_t winograd_weight_bytes(const ConvProblem& p, WinogradForm form, int64_t out_channels,
                              const Device& d) {
  return form.all_products() * winograd_depth_terms(p.kernel[kDepth], form.depth_m) * p.in_channels *
         lanes(out_channels, d) * 4;
}

/// Products along depth of all output frames: a pair takes four, a first or last frame without a partner
/// three.
int64_t winograd_depth_products(const ConvProblem& p, int depth_m, int64_t frames) {
  if (depth_m == 1) return frames * p.kernel[kDepth];
  const int64_t alone = p.odd_frame ? 1 : 0;
  return 3 * alone + (frames - alone) / 2 * 4 + (frames - alone) % 2 * 3;
}

/// Chunk sizes that fit the limit with tiles of this form; false if none does.
bool fit_winograd(const ConvProblem& p, const Device& d, int64_t limit, WinogradForm form, Candidate& c) {
  const int64_t pixels = form.all_pixels(), products = form.all_products();
  const int64_t panel = d.panel_vectors * d.vector_width;
  // An empty problem is planned like one of a single tile: nothing will be run.
  const int64_t tiles = std::max<int64_t>(
      1, p.batch * WinogradAxis(p, form, kHeight).tiles * WinogradAxis(p, form, kWidth).tiles);
  const int64_t all_frames = std::max<int64_t>(1, p.output(0));
  const int64_t pitch = winograd_channel_pitch(p.in_channels, d.vector_width);

  // Transformed weights of all output channels if they take at most 3/4 of the limit, else of a slice of
  // them.
  int64_t slice = std::max<int64_t>(1, p.out_channels);
  while (!p.prepared && slice > panel && winograd_weight_bytes(p, form, slice, d) > limit / 4 * 3) {
    slice = round_up(divide_up(slice, 2), panel);
  }
  const int64_t weight_bytes = p.prepared ? 0 : winograd_weight_bytes(p, form, slice, d);
  const int64_t depth_bytes = form.depth_m == 2 ? d.cores * 4 * winograd_depth_floats(pitch, panel) + 64 : 0;
  const auto chunk_bytes = [&](int64_t t, int64_t f) {
    return t * 4 * (pixels * winograd_input_frames(p, f) * pitch + products * f * lanes(slice, d));
  };
  const int64_t slack = 4096;
  const int64_t room = limit - weight_bytes - depth_bytes - slack;
  // A chunk should be large enough that reading the weights is cheap next to multiplying with them, and small
  // enough that the transformed tiles stay in a shared cache.
  const int64_t wanted = std::min<int64_t>(room, int64_t{24} << 20);
  const auto halved = [&](int64_t frames) { return round_up(divide_up(frames, 2), form.depth_m); };
  int64_t f = std::min<int64_t>(all_frames, 16);
  int64_t t = std::min<int64_t>(tiles, 64);
  while (t * f < 512 && t < tiles) t = std::min(tiles, t * 2);
  while (chunk_bytes(t, f) > wanted && t * f > 256 && (t > 8 || f > form.depth_m)) {
    if (t > 16 && (t >= 2 * f || f <= form.depth_m)) {
      t = divide_up(t, 2);
    } else if (f > form.depth_m) {
      f = halved(f);
    } else {
      t = divide_up(t, 2);
    }
  }
  while (chunk_bytes(t, f) > room && (t > 1 || f > form.depth_m)) {
    if (f > form.depth_m) {
      f = halved(f);
    } else {
      t = divide_up(t, 2);
    }
  }
  if (chunk_bytes(t, f) > room) return false;
  // Equal chunks, of whole pairs of frames where those belong together.
  const int64_t units = divide_up(all_frames, form.depth_m);
  f = std::min(all_frames, form.depth_m * divide_up(units, divide_up(all_frames, f)));
  t = divide_up(tiles, divide_up(tiles, t));

  const double chunks = static_cast<double>(divide_up(tiles, t) * divide_up(all_frames, f));
  const double slices = static_cast<double>(divide_up(p.out_channels, slice));
  const double frames = static_cast<double>(all_frames);
  // Of a dilated depth axis only the frames that are stored are transformed and multiplied.
  const double met = 1.0 / static_cast<double>(p.input_dilation[kDepth]);
  const double out_lanes = static_cast<double>(lanes(p.out_channels, d));
  const double depth_products = static_cast<double>(winograd_depth_products(p, form.depth_m, all_frames));
  const double product_flops =
      2.0 * products * tiles * met * depth_products * static_cast<double>(p.in_channels) * out_lanes;
  const double input_floats = slices * met * pixels * tiles * pitch *
                              static_cast<double>(winograd_input_frames(p, f)) *
                              static_cast<double>(divide_up(all_frames, f));
  const double output_floats = static_cast<double>(products * tiles) * frames * out_lanes;
  const double depth_floats =
      form.depth_m == 2 ? slices * products * tiles * pitch * depth_products + output_floats : 0;
  const double weight_floats = static_cast<double>(winograd_weight_bytes(p, form, p.out_channels, d)) / 4;
  const double transformed_floats = p.prepared ? 0 : weight_floats;
  c.winograd = {form.m, t, f, slice, form.depth_m, form.pixels};
  c.workspace = weight_bytes + chunk_bytes(t, f) + depth_bytes + slack;
  // Each element of a transform is a sum of about as many terms in each of the two directions.
  const double terms = form.side() - 1;
  c.flops = product_flops +
            4.0 * terms * (input_floats + output_floats + transformed_floats * 3 / form.products()) +
            depth_floats;
  c.bytes = p.operand_bytes() + 4.0 * 2 * (input_floats + output_floats) +
            4.0 * (transformed_floats + weight_floats * chunks);
  const double scale = d.gflops / d.cores / 135.0;
  c.cost = product_flops / (d.gflops * 1e9 * kProductShare) +
           (input_floats + output_floats) / (kTransformFloats * d.cores * scale) +
           depth_floats / (kDepthFloats * d.cores * scale) +
           transformed_floats / (kWeightFloats * d.cores * scale) +
           (3 * chunks * slices + slices) * kStepSeconds;
  return true;
}

/// With `only`, that form alone is considered.
void consider_winograd(const ConvProblem& p, const Device& d, int64_t limit, const WinogradForm& only,
                       Candidate& c) {
  Candidate best;
  best.cost = std::numeric_limits<double>::infinity();
  const Pixels kind = pixels_of(p);
  for (int m : {2, 4, 6, 8}) {
    if (m == (kind == Pixels::single ? 8 : 2)) continue;
    // With fp32 results F(6) misses the accuracy contract; rounding to 16 bits hides its error entirely.
    if (m == 6 && kind == Pixels::single && p.out_type == Dtype::float32) continue;
    for (int depth_m : {1, 2}) {
      const WinogradForm form{m, kind, depth_m};
      if ((depth_m == 2 && !fits_depth_winograd(p)) || (only.m != 0 && form != only)) continue;
      Candidate at = c;
      if (fit_winograd(p, d, limit, form, at) && at.cost < best.cost) best = at;
    }
  }
  if (std::isinf(best.cost)) {
    c.legal = false;
    c.reason = "its workspace does not fit the limit of " + mebibytes(static_cast<double>(limit));
    return;
  }
  c = best;
  const std::string m = std::to_string(c.winograd.m);
  const std::string taps = std::to_string(p.kernel[kWidth]);
  c.reason = "F(" + m + "x" + m + ", " + taps + "x" + taps + ")" +
             (kind == Pixels::single ? "" : std::string(" of ") + name_of(kind) + " pixels") +
             " with the depth taps summed in the transform domain" +
             (c.winograd.depth_m == 2 ? " by F(2, 3): " : ": ") +
             std::to_string(static_cast<int>(std::lround(p.direct_flops() / std::max(1.0, c.flops) * 100))) +
             " direct FLOPs per 100 executed";
}

// ---- the GEMM family --------------------------------------------------------------------------------------

constexpr int64_t kDepthBlock = 256;  ///< short enough that fp32 sums stay within 1e-6 of exact ones
constexpr int64_t kRowBlock = 192, kColBlock = 768;

/// Block sizes that fit the limit. `depth_taps_held`: of the packed weights, how many depth taps are there at
/// once.
bool fit_gemm(const ConvProblem& p, const Device& d, int64_t limit, int64_t depth_taps_held,
              int64_t extra_bytes, Candidate& c) {
  const int64_t panel = d.panel_vectors * d.vector_width;
  const int64_t out_lanes = lanes(p.group_out(), d);
  const int64_t taps_held = p.taps() / p.kernel[0] * depth_taps_held;
  const int64_t slack = 4096 + int64_t{64} * 3 * d.cores;
  const int64_t packed_bytes = taps_held * p.group_in() * out_lanes * 4;
  GemmPlan g;
  g.depth = std::min<int64_t>(kDepthBlock, std::max<int64_t>(1, p.taps() * p.group_in()));
  g.cols = std::min(round_up(out_lanes, panel), round_up(kColBlock, panel));
  g.rows = kRowBlock;
  const auto thread_bytes = [&](bool packed) {
    return d.cores * 4 * (g.rows * (g.depth + d.vector_width + g.cols) + (packed ? 0 : g.depth * g.cols));
  };
  g.packed_weights = packed_bytes + thread_bytes(true) + extra_bytes + slack <= limit;
  while (thread_bytes(g.packed_weights) + (g.packed_weights ? packed_bytes : 0) + extra_bytes + slack >
         limit) {
    if (g.rows > 16) {
      g.rows /= 2;
    } else if (g.cols > panel) {
      g.cols = round_up(g.cols / 2, panel);
    } else {
      return false;
    }
  }
  // Enough tasks to keep every thread busy to the end.
  const auto tasks = [&] { return divide_up(p.out_positions(), g.rows) * divide_up(out_lanes, g.cols); };
  while (tasks() < 4 * d.cores && g.rows > 48) g.rows = round_up(g.rows / 2, 8);
  while (tasks() < 2 * d.cores && g.cols > 2 * panel) g.cols = round_up(g.cols / 2, panel);
  while (tasks() < 2 * d.cores && g.rows > 12) g.rows /= 2;
  c.gemm = g;
  c.workspace = thread_bytes(g.packed_weights) + (g.packed_weights ? packed_bytes : 0) + extra_bytes + slack;

  const double rows = static_cast<double>(p.out_positions());
  const double k =
      static_cast<double>(p.taps() * p.group_in()) / (c.algorithm == Algorithm::transposed ? phases(p) : 1);
  // Narrow products sum their vectors' lanes at the end of each block.
  const int64_t busy_lanes = is_narrow(p) ? p.group_out() + 1 : out_lanes;
  const double padded_lanes = static_cast<double>(busy_lanes * p.groups);
  c.flops = 2.0 * rows * k * padded_lanes;
  const double gathered = rows * k * static_cast<double>(p.groups) * divide_up(out_lanes, g.cols);
  c.bytes = p.operand_bytes() + 8.0 * gathered + 8.0 * static_cast<double>(packed_bytes) / 4;
  const double scale = d.gflops / d.cores / 135.0;
  c.cost = c.flops / (d.gflops * 1e9 * kGatherShare) + gathered / (1.5e9 * d.cores * scale) +
           static_cast<double>(p.taps() * p.group_in() * out_lanes * p.groups) / (1.0e9 * d.cores * scale) +
           rows * padded_lanes / (1.5e9 * d.cores * scale) + 2 * p.groups * kStepSeconds;
  return true;
}

void consider_gemm(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c,
                   const std::string& reason) {
  int64_t taps_held = p.kernel[0], extra = 0;
  if (c.algorithm == Algorithm::taps) {
    taps_held = 1;
    if (p.out_type != Dtype::float32) extra = round_up(p.out_positions() * p.out_channels * 4, 64);
  }
  if (!fit_gemm(p, d, limit, taps_held, extra, c)) {
    c.legal = false;
    c.reason = "its workspace does not fit the limit of " + mebibytes(static_cast<double>(limit));
    return;
  }
  c.reason = reason;
  if (c.algorithm == Algorithm::taps) {
    const double sums = static_cast<double>(p.out_positions()) * static_cast<double>(p.out_channels);
    c.bytes += 8.0 * sums * static_cast<double>(p.kernel[0] - 1);
    c.cost += 8.0 * sums * static_cast<double>(p.kernel[0] - 1) / (d.gbytes * 1e9);
  }
  // The same work under its particular name is preferred to the general one.
  if (c.algorithm == Algorithm::taps) c.cost *= 1.005;
  if (c.algorithm == Algorithm::implicit_gemm) c.cost *= 1.01;
}

void consider_grouped(const ConvProblem& p, const Device& d, int64_t limit, Candidate& c) {
  if (!is_direct(p)) {
    consider_gemm(p, d, limit, c, "one blocked product per group");
    return;
  }
  const int64_t pitch = lanes(p.out_channels, d);
  c.workspace = round_up(pitch * p.taps() * p.group_in() * 4, 64) +
                d.cores * round_up(kDirectPositions * pitch * 4, 64) + 4096;
  if (c.workspace > limit) {
    c.legal = false;
    c.reason = "its workspace does not fit the limit of " + mebibytes(static_cast<double>(limit));
    return;
  }
  c.flops = 2.0 * static_cast<double>(p.out_positions() * pitch) *
            static_cast<double>(p.taps() * p.group_in()) / phases(p);
  c.bytes = p.operand_bytes();
  // Measured on AVX-512: the share of the peak that the kernels reach.
  const double share = p.group_in() == 1 && p.group_out() == 1 ? 0.25 : 0.3;
  c.cost = c.flops / (d.gflops * 1e9 * share) + c.bytes / (d.gbytes * 1e9) + 2 * kStepSeconds;
  c.reason = p.group_in() == 1 && p.group_out() == 1 ? "depthwise, vectors of channels"
                                                     : "few channels per group, vectors of output channels";
}

void consider_stock(const ConvProblem& p, const Device& d, Candidate& c) {
  c.flops = p.direct_flops();
  c.bytes = p.operand_bytes();
  // MLX's CPU convolution runs at 1.1-1.5 GFLOP/s whatever the machine.
  c.cost = d.kind == Device::Kind::cpu ? c.flops / 1.3e9 + 1e-5 : c.flops / (d.gflops * 1e9 * 0.7);
  c.reason = "composed of MLX's own operations";
}

Candidate consider(const ConvProblem& p, const Device& d, int64_t limit, Algorithm algorithm,
                   const WinogradForm& only = {}) {
  Candidate c;
  c.algorithm = algorithm;
  c.reason = illegal_reason(p, algorithm);
  c.legal = c.reason.empty();
  if (!c.legal) return c;
  if (d.kind == Device::Kind::gpu) {
    consider_gpu(p, d, limit, c);
    return c;
  }
  switch (algorithm) {
    case Algorithm::winograd:
      consider_winograd(p, d, limit, only, c);
      break;
    case Algorithm::taps:
      consider_gemm(p, d, limit, c, "one 2-D convolution per depth tap, summed in fp32 in place");
      break;
    case Algorithm::temporal:
      consider_gemm(p, d, limit, c, "one product per depth tap over whole frames, read in place");
      break;
    case Algorithm::pointwise:
      consider_gemm(p, d, limit, c, "one matrix product");
      break;
    case Algorithm::patchify:
      consider_gemm(p, d, limit, c, "one matrix product over the patches");
      break;
    case Algorithm::grouped:
      consider_grouped(p, d, limit, c);
      break;
    case Algorithm::transposed:
      consider_gemm(p, d, limit, c, "one product per phase of the dilated input, none with zeros");
      break;
    case Algorithm::implicit_gemm:
      consider_gemm(p, d, limit, c, "blocked product with inputs gathered block by block");
      break;
    case Algorithm::stock:
      consider_stock(p, d, c);
      break;
  }
  return c;
}

/// The candidate of a problem per_frame: chosen for few frames, cut for the frames there are.
Candidate consider_per_frame(const ConvProblem& p, const Device& d, int64_t limit, Algorithm algorithm) {
  ConvProblem few = p;
  few.lead = 0;
  few.odd_frame = false;
  few.pad_lo[kDepth] = (p.kernel[kDepth] - 1) * p.dilation[kDepth];
  few.pad_hi[kDepth] = 0;
  few.input[kDepth] = (kPlannedFrames - 1) * p.stride[kDepth] + 1;
  const Candidate of_few = consider(few, d, limit, algorithm);
  if (!of_few.legal) return of_few;
  Candidate c = consider(p, d, limit, algorithm, of_few.winograd.form());
  c.cost = of_few.cost;
  return c;
}

std::string because(const Plan& plan, bool forced) {
  if (forced) return "forced: " + plan.chosen.reason;
  const Candidate* second = nullptr;
  for (const Candidate& c : plan.candidates) {
    if (!c.legal || c.algorithm == plan.chosen.algorithm || c.algorithm == Algorithm::stock) continue;
    if (second == nullptr || c.cost < second->cost) second = &c;
  }
  std::string text = plan.chosen.reason;
  if (second != nullptr) {
    char ratio[64];
    std::snprintf(ratio, sizeof(ratio), "; modelled %.2fx the speed of ", second->cost / plan.chosen.cost);
    text += ratio + std::string(name_of(second->algorithm));
  }
  return text;
}

}  // namespace

const char* name_of(Pixels pixels) {
  switch (pixels) {
    case Pixels::single:
      return "single";
    case Pixels::doubled:
      return "doubled";
    case Pixels::dilated:
      return "dilated";
  }
  return "?";
}

const char* name_of(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::winograd:
      return "winograd";
    case Algorithm::taps:
      return "taps";
    case Algorithm::temporal:
      return "temporal";
    case Algorithm::pointwise:
      return "pointwise";
    case Algorithm::patchify:
      return "patchify";
    case Algorithm::grouped:
      return "grouped";
    case Algorithm::transposed:
      return "transposed";
    case Algorithm::implicit_gemm:
      return "implicit_gemm";
    case Algorithm::stock:
      return "stock";
  }
  return "?";
}

std::optional<Algorithm> algorithm_named(const std::string& name) {
  for (Algorithm a : kAlgorithms) {
    if (name == name_of(a)) return a;
  }
  return std::nullopt;
}

std::string illegal_reason(const ConvProblem& p, Algorithm algorithm) {
  const bool one_group = p.groups == 1;
  const auto spatial = [&](const Size3& v, int64_t value) { return v[1] == value && v[2] == value; };
  switch (algorithm) {
    case Algorithm::winograd:
      if (!one_group) return "it needs groups 1";
      if (!spatial(p.stride, 1)) return "it needs spatial stride 1";
      if (!spatial(p.dilation, 1)) return "it needs spatial dilation 1";
      if (p.input_dilated() && !spatial(p.input_dilation, 1) && !spatial(p.input_dilation, 2)) {
        return "it needs spatial input dilation 1 or 2";
      }
      if (spatial(p.kernel, 4) && spatial(p.input_dilation, 2)) return "";
      if (!spatial(p.kernel, 3)) return "it needs a 3x3 spatial kernel";
      return "";
    case Algorithm::taps:
      if (!one_group) return "it needs groups 1";
      if (p.kernel[0] > 7) return "it needs at most 7 depth taps";
      if (p.per_frame && p.out_type != Dtype::float32) return "its buffer grows with the number of frames";
      if (p.input_dilated()) return "it needs input dilation 1";
      return "";
    case Algorithm::temporal:
      if (!one_group) return "it needs groups 1";
      if (!spatial(p.kernel, 1)) return "it needs a 1x1 spatial kernel";
      if (!spatial(p.stride, 1)) return "it needs spatial stride 1";
      if (p.padded(1) || p.padded(2)) return "it needs no spatial padding";
      if (p.input_dilated()) return "it needs input dilation 1";
      return "";
    case Algorithm::pointwise:
      if (!one_group) return "it needs groups 1";
      if (p.kernel != kOnes) return "it needs a 1x1x1 kernel";
      if (padded_anywhere(p)) return "it needs no padding";
      if (p.input_dilated()) return "it needs input dilation 1";
      return "";
    case Algorithm::patchify:
      if (!one_group) return "it needs groups 1";
      if (p.kernel != p.stride) return "it needs a stride equal to the kernel";
      if (padded_anywhere(p)) return "it needs no padding";
      if (p.dilation != kOnes) return "it needs dilation 1";
      if (p.input_dilated()) return "it needs input dilation 1";
      return "";
    case Algorithm::grouped:
      if (one_group) return "it needs groups > 1";
      if (p.input_dilated() && !is_direct(p)) return "it needs input dilation 1 or few channels per group";
      return "";
    case Algorithm::transposed:
      if (!p.input_dilated()) return "it needs an input dilation > 1 (a transposed convolution)";
      return "";
    case Algorithm::implicit_gemm:
    case Algorithm::stock:
      return "";
  }
  return "";
}

bool is_direct(const ConvProblem& p) { return p.groups > 1 && p.group_in() <= 32 && p.group_out() <= 32; }

Plan make_plan(const ConvProblem& problem, const Device& device, int64_t limit,
               std::optional<Algorithm> forced) {
  Plan plan;
  plan.direct_flops = problem.direct_flops();
  const Candidate* best = nullptr;
  const bool per_frame = problem.per_frame && device.kind == Device::Kind::cpu;
  for (Algorithm a : kAlgorithms) {
    plan.candidates.push_back(per_frame ? consider_per_frame(problem, device, limit, a)
                                        : consider(problem, device, limit, a));
  }
  for (const Candidate& c : plan.candidates) {
    // On a CPU stock MLX is only for what nothing else can do.
    const bool last_resort = c.algorithm == Algorithm::stock && device.kind == Device::Kind::cpu;
    if (forced ? c.algorithm == *forced
               : c.legal && (best == nullptr || (c.cost < best->cost && !last_resort))) {
      best = &c;
    }
  }
  if (!best->legal) {
    throw std::invalid_argument(std::string("[conv] algorithm ") + name_of(best->algorithm) +
                                " cannot run this problem: " + best->reason + " (" + problem.describe() +
                                ").");
  }
  plan.chosen = *best;
  plan.reason = because(plan, forced.has_value());
  return plan;
}

WeightGradientPlan make_weight_gradient_plan(const ConvProblem& p, const Device& d, int64_t limit) {
  WeightGradientPlan g;
  const int64_t slack = 4096 + int64_t{64} * 3 * d.cores;
  g.direct = is_direct(p);
  if (g.direct) {
    const int64_t pitch = lanes(p.out_channels, d);
    g.rows = kDirectPositions;
    g.workspace = d.cores * 4 * (pitch * p.taps() * p.group_in() + g.rows * pitch) + slack;
    if (g.workspace <= limit) return g;
    g.direct = false;
  }
  const int64_t panel = d.panel_vectors * d.vector_width, out_lanes = lanes(p.group_out(), d);
  const int64_t products = p.taps() * p.group_in();
  g.rows = 256;
  g.depth = std::clamp<int64_t>(p.kernel[2] * p.group_in(), 1, 288);
  g.cols = std::min(round_up(out_lanes, panel), round_up(int64_t{512}, panel));
  const auto thread_bytes = [&] {
    return d.cores * 4 * (g.rows * (g.depth + d.vector_width + g.cols) + g.depth * g.cols);
  };
  while (thread_bytes() + slack > limit / 2 && g.cols > panel) g.cols = round_up(g.cols / 2, panel);
  while (thread_bytes() + slack > limit / 2 && g.rows > 16) g.rows /= 2;
  const int64_t tasks = divide_up(products, g.depth) * divide_up(out_lanes, g.cols);
  const int64_t split_bytes = products * out_lanes * 4;
  // Few products: the positions are cut as well, so that all threads have work.
  if (tasks < 4 * d.cores) g.splits = divide_up(4 * d.cores, std::max<int64_t>(1, tasks));
  g.splits = std::min(g.splits, divide_up(p.out_positions(), 4 * g.rows));
  while (g.splits > 1 && g.splits * split_bytes + thread_bytes() + slack > limit) --g.splits;
  g.splits = std::max<int64_t>(1, g.splits);
  g.workspace = thread_bytes() + (g.splits > 1 ? g.splits * split_bytes : 0) + slack;
  return g;
}

int64_t workspace_limit() { return limit_in_force.load(); }

int64_t set_workspace_limit(int64_t bytes) {
  if (bytes < kLeastWorkspaceLimit) {
    throw std::invalid_argument("[set_workspace_limit] bytes must be at least " +
                                std::to_string(kLeastWorkspaceLimit) + " (16 MiB), got " +
                                std::to_string(bytes) + ".");
  }
  return limit_in_force.exchange(bytes);
}

}  // namespace mlx_conv3d
