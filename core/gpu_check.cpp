// The check of live_self_checks(): a family's tiny problems on this machine's GPU against the CPU backend.

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "core/environment.h"
#include "core/gpu_device.h"
#include "core/gpu_program.h"
#include "core/self_check.h"
#include "core/self_check_cases.h"
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

/// What MLX_CONV3D_BREAK makes of a family's results: 1 % off.
mx::array perturbed(const mx::array& a) {
  return mx::multiply(a, mx::array(1.01f, a.dtype()), mx::Device::cpu);
}

double check(KernelFamily family, Dtype dtype) {
  double error = 0;
  const std::vector<SelfCheckCase> cases = self_check_cases(family, dtype, *live_gpu());
  for (const SelfCheckCase& c : cases) {
    const std::vector<mx::array> inputs = self_check_inputs(c);
    const mx::array expected = self_check_expected(c, inputs);
    const mx::array found(
        expected.shape(), expected.dtype(),
        std::make_shared<Check>(mx::default_stream(mx::Device::gpu), c.problem, c.candidate), inputs);
    error = worse(difference(is_broken(name_of(family)) ? perturbed(found) : found, expected), error);
  }
  if (cases.empty()) throw std::logic_error("none of the checks' problems uses them");
  return error;
}

}  // namespace

SelfChecks& live_self_checks() {
  static SelfChecks checks(check,
                           [](const std::string& message) { std::fprintf(stderr, "%s\n", message.c_str()); });
  return checks;
}

}  // namespace mlx_conv3d
