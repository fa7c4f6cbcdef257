#include "core/route.h"

#include <mutex>
#include <unordered_set>

#include "core/gpu_device.h"
#include "core/ops.h"
#include "core/plan_cache.h"
#include "metal/lower.h"
#include "metal/run.h"

namespace mlx_conv3d {
namespace {

constexpr size_t kMostCompiled = 1024;

/// Why the plan leaves the problem to stock MLX.
std::string reason_for_stock(const Plan& plan, const ConvProblem& p, const Device& device) {
  std::string off;
  for (const Candidate& c : plan.candidates) {
    const KernelFamily family = family_of(p, c.algorithm);
    const bool is_off = c.algorithm != Algorithm::stock && (device.switched_off & bit(family)) != 0;
    if (is_off && illegal_reason(p, c.algorithm, device.kind).empty() &&
        off.find(name_of(family)) == std::string::npos) {
      off += (off.empty() ? "" : ", ") + std::string(name_of(family));
    }
  }
  if (!off.empty()) return "Metal kernels switched off: " + off;
  return plan.chosen.reason;
}

bool has_empty_operand(const ConvProblem& p) {
  return p.batch * p.extent(0) * p.input[1] * p.input[2] * p.in_channels == 0 || p.empty();
}

/// Whether all kernels of the plan pass their checks.
bool usable(const ConvProblem& p, const Plan& plan, SelfChecks& checks) {
  const KernelFamily family = family_of(p, plan.algorithm());
  for (Dtype type : {p.x_type, p.w_type, p.out_type}) {
    if (!checks.usable(family, type)) return false;
  }
  return true;
}

/// Makes the plan's pipelines now rather than while a graph is evaluated, where a failure could only be an
/// error.
bool compiles(const ConvProblem& p, const std::shared_ptr<const Plan>& plan, SelfChecks& checks) {
  static std::mutex mutex;
  static std::unordered_set<std::shared_ptr<const Plan>> compiled;
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (compiled.count(plan) > 0) return true;
  }
  try {
    metal::compile(metal::lower(p, plan->chosen));
    std::lock_guard<std::mutex> lock(mutex);
    if (compiled.size() >= kMostCompiled) compiled.clear();
    compiled.insert(plan);
    return true;
  } catch (const std::exception& error) {
    checks.fail(family_of(p, plan->algorithm()), p.out_type, error.what());
    return false;
  }
}

}  // namespace

Route gpu_route(const ConvProblem& p, std::optional<Algorithm> forced, Device device, SelfChecks& checks) {
  if (has_empty_operand(p)) return {nullptr, "an operand or the result is empty"};
  for (;;) {
    device.switched_off = checks.switched_off();
    const auto plan = gpu_plan(p, device, forced);
    if (plan->algorithm() == Algorithm::stock) return {plan, reason_for_stock(*plan, p, device)};
    // Each failure switches a family off, so this ends.
    if (usable(p, *plan, checks)) return {plan, ""};
  }
}

Route route(const ConvProblem& p, std::optional<Algorithm> forced, mx::StreamOrDevice s) {
  if (disabled()) return {nullptr, "MLX_CONV3D_DISABLE"};
  if (forced == Algorithm::stock) return {nullptr, "algorithm stock was asked for"};
  if (mx::to_stream(s).device == mx::Device::cpu) {
    const auto plan = cpu_plan(p, forced);
    const bool stock = plan->algorithm() == Algorithm::stock;
    return {plan, stock ? "no algorithm fits the workspace limit" : ""};
  }
  const Device* device = live_gpu();
  if (device == nullptr) {
    if (forced) {
      throw std::invalid_argument(std::string("[conv] algorithm ") + name_of(*forced) +
                                  " has no kernel for this GPU stream, which is not Metal's.");
    }
    return {nullptr, "GPU stream without Metal"};
  }
  for (;;) {
    Route found = gpu_route(p, forced, *device, live_self_checks());
    if (found.stock() || compiles(p, found.plan, live_self_checks())) return found;
  }
}

}  // namespace mlx_conv3d
