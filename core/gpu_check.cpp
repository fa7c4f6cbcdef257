// The check of live_self_checks(): a family's tiny problems on this machine's GPU against the CPU backend.

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "core/gpu_device.h"
#include "core/gpu_program.h"
#include "core/ops.h"
#include "core/plan_cache.h"
#include "core/self_check.h"
#include "mlx/allocator.h"

namespace mlx_conv3d {
namespace {

/// A Program of a given plan, on a GPU stream.
class Check : public mx::Primitive {
 public:
  Check(mx::Stream stream, ConvProblem problem, Candidate candidate)
      : mx::Primitive(stream), problem_(problem), candidate_(std::move(candidate)) {}

  void eval_cpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("[mlx_conv3d] a check runs on the GPU.");
  }
  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    outputs[0].set_data(mx::allocator::malloc(outputs[0].nbytes()));
    run_on_gpu(problem_, candidate_, inputs, outputs[0], stream());
  }
  const char* name() const override { return "Conv3dCheck"; }

 private:
  ConvProblem problem_;
  Candidate candidate_;
};

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
      return {{{1, 3, 9, 7, 20}, {40, 3, 3, 3, 20}, spec}};
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
std::vector<Candidate> candidates(KernelFamily family, const ConvProblem& p) {
  std::vector<Candidate> found;
  for (const Candidate& c : gpu_plan(p, *live_gpu(), std::nullopt)->candidates) {
    if (!c.legal || c.algorithm == Algorithm::stock || family_of(p, c.algorithm) != family) continue;
    found.push_back(c);
    if (family != KernelFamily::winograd) continue;
    for (int m : {2, 4, 6}) {
      if (m == 6 && p.out_type == Dtype::float32) continue;
      for (int depth_m : {1, 2}) {
        found.push_back(c);
        found.back().winograd = {m, 2, 2, 32, depth_m};
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

double difference(const mx::array& a, const mx::array& b) {
  mx::array left = mx::astype(a, mx::float32, mx::Device::cpu);
  mx::array right = mx::astype(b, mx::float32, mx::Device::cpu);
  mx::eval({left, right});
  double distance = 0, norm = 0;
  for (size_t i = 0; i < right.size(); ++i) {
    const double l = left.data<float>()[i], r = right.data<float>()[i];
    distance += (l - r) * (l - r);
    norm += r * r;
  }
  return std::sqrt(distance / norm);
}

/// The larger of two differences, NaN being the largest.
double worse(double a, double b) { return std::isnan(a) || a > b ? a : b; }

double check(KernelFamily family, Dtype dtype) {
  const mx::Dtype type = to_mlx(dtype);
  double error = 0;
  int compared = 0;
  for (Shapes& shapes : problems(family)) {
    shapes.spec.out_type = dtype;
    const ConvProblem p = shapes.spec.bind(shapes.x, dtype, shapes.w, dtype, 0);
    const float scale = 1.0f / std::sqrt(static_cast<float>(p.taps() * p.group_in()));
    const std::vector<mx::array> inputs{values(shapes.x, 1, 1.0f, type), values(shapes.w, 2, scale, type),
                                        values({shapes.w[0]}, 3, 1.0f, mx::float32)};
    const mx::array expected = conv_primitive(inputs, shapes.spec, std::nullopt, mx::Device::cpu);
    for (const Candidate& c : candidates(family, p)) {
      const mx::array found(expected.shape(), type,
                            std::make_shared<Check>(mx::default_stream(mx::Device::gpu), p, c), inputs);
      error = worse(difference(found, expected), error);
      ++compared;
    }
  }
  if (compared == 0) throw std::logic_error("none of the checks' problems uses them");
  return error;
}

}  // namespace

SelfChecks& live_self_checks() {
  static SelfChecks checks(check,
                           [](const std::string& message) { std::fprintf(stderr, "%s\n", message.c_str()); });
  return checks;
}

}  // namespace mlx_conv3d
