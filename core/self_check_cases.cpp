#include "core/self_check_cases.h"

#include <cmath>
#include <optional>

#include "core/ops.h"
#include "core/plan_cache.h"
#include "metal/lower.h"

namespace mlx_conv3d {
namespace {

struct Shapes {
  mx::Shape x, w;
  ConvSpec spec;
};

/// Odd sizes, a border on every side, more than one chunk and block, and an epilogue.
std::vector<Shapes> problems(KernelFamily family) {
  ConvSpec spec;
  spec.pad_lo = spec.pad_hi = {1, 1, 1};
  spec.bias = true;
  spec.activation = Activation::silu;
  switch (family) {
    case KernelFamily::winograd:
      return {{{1, 3, 9, 7, 20}, {40, 3, 3, 3, 20}, spec}, {{1, 7, 5, 3, 20}, {40, 3, 1, 1, 20}, spec}};
    case KernelFamily::grouped: {
      spec.groups = 6;
      return {{{1, 3, 9, 7, 6}, {6, 3, 3, 3, 1}, spec}, {{1, 3, 9, 7, 12}, {18, 3, 3, 3, 2}, spec}};
    }
    case KernelFamily::gather_gemm: {
      ConvSpec strided = spec, transposed = spec, plain = spec;
      strided.stride = {1, 2, 2};
      transposed.input_dilation = {2, 2, 2};
      plain.pad_lo = plain.pad_hi = {0, 0, 0};
      return {{{1, 3, 9, 7, 20}, {40, 3, 3, 3, 20}, strided},
              {{1, 3, 5, 4, 20}, {40, 3, 3, 3, 20}, transposed},
              {{1, 3, 9, 7, 20}, {40, 1, 1, 1, 20}, plain},
              {{1, 5, 9, 7, 20}, {40, 3, 1, 1, 20}, plain}};
    }
  }
  return {};
}

/// The family's plans for a problem: each algorithm's, and of winograd each tile in several chunks.
std::vector<Candidate> candidates(KernelFamily family, const ConvProblem& p, const Device& gpu) {
  std::vector<Candidate> found;
  for (const Candidate& c : gpu_plan(p, gpu, std::nullopt)->candidates) {
    if (!c.legal || c.algorithm == Algorithm::stock || family_of(p, c.algorithm) != family) continue;
    found.push_back(c);
    if (family != KernelFamily::winograd) continue;
    for (int m : {2, 4, 6}) {
      if (c.winograd.along_depth()) {
        found.push_back(c);
        found.back().winograd = {1, 7, m, 32, m};
        if (!metal::fuses_transforms(p)) continue;
        found.push_back(found.back());
        found.back().winograd.fused = true;
        continue;
      }
      if (m == 6 && p.out_type == Dtype::float32) continue;
      for (int depth_m : {1, 2}) {
        found.push_back(c);
        found.back().winograd = {m, m == 2 ? 7 : 2, 2, 32, depth_m};
        if (!metal::takes_float24(p)) continue;
        found.push_back(found.back());
        found.back().winograd.float24 = true;
      }
    }
  }
  return found;
}

/// Values between -1 and 1 that no two runs draw differently.
mx::array values(const mx::Shape& shape, uint32_t seed, float scale, mx::Dtype type) {
  size_t count = 1;
  for (auto size : shape) count *= static_cast<size_t>(size);
  std::vector<float> v(count);
  for (float& f : v) {
    seed = seed * 1664525u + 1013904223u;
    f = (static_cast<float>(seed >> 8) / 8388608.0f - 1.0f) * scale;
  }
  return mx::astype(mx::array(v.data(), shape, mx::float32), type, mx::Device::cpu);
}

}  // namespace

std::vector<SelfCheckCase> self_check_cases(KernelFamily family, Dtype dtype, const Device& gpu) {
  std::vector<SelfCheckCase> cases;
  for (Shapes& shapes : problems(family)) {
    shapes.spec.out_type = dtype;
    const ConvProblem p = shapes.spec.bind(shapes.x, dtype, shapes.w, dtype, 0);
    for (Candidate& c : candidates(family, p, gpu)) {
      cases.push_back({shapes.x, shapes.w, shapes.spec, p, std::move(c)});
    }
  }
  return cases;
}

std::vector<mx::array> self_check_inputs(const SelfCheckCase& c) {
  const mx::Dtype type = to_mlx(c.problem.out_type);
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.problem.taps() * c.problem.group_in()));
  return {values(c.x, 1, 1.0f, type), values(c.w, 2, scale, type), values({c.w[0]}, 3, 1.0f, mx::float32)};
}

mx::array self_check_expected(const SelfCheckCase& c, const std::vector<mx::array>& inputs) {
  return conv_primitive(inputs, c.spec, std::nullopt, mx::Device::cpu);
}

}  // namespace mlx_conv3d
