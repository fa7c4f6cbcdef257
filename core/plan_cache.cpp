#include "core/plan_cache.h"

#include <mutex>
#include <unordered_map>

namespace mlx_conv3d {
namespace {

constexpr size_t kMostPlans = 4096;

struct Key {
  ConvProblem problem;
  std::optional<Algorithm> forced;
  int64_t limit;
  bool operator==(const Key&) const = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    const ConvProblem& p = key.problem;
    uint64_t h = 1469598103934665603u;
    const auto mix = [&h](int64_t value) { h = (h ^ static_cast<uint64_t>(value)) * 1099511628211u; };
    for (int64_t v : {p.batch, p.in_channels, p.out_channels, p.groups, p.lead, key.limit}) mix(v);
    for (const Size3* s : {&p.input, &p.kernel, &p.stride, &p.pad_lo, &p.pad_hi, &p.dilation,
                           &p.input_dilation, &p.upsample}) {
      for (int64_t v : *s) mix(v);
    }
    mix(static_cast<int64_t>(p.x_type) * 9 + static_cast<int64_t>(p.w_type) * 3 +
        static_cast<int64_t>(p.out_type));
    mix((p.prepared ? 1 : 0) + (p.per_frame ? 2 : 0) + (p.odd_frame ? 4 : 0));
    return static_cast<size_t>(h);
  }
};

}  // namespace

std::shared_ptr<const Plan> cpu_plan(const ConvProblem& problem, std::optional<Algorithm> forced) {
  static std::mutex mutex;
  static std::unordered_map<Key, std::shared_ptr<const Plan>, KeyHash> plans;
  const Key key{problem, forced, workspace_limit()};
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (const auto found = plans.find(key); found != plans.end()) return found->second;
  }
  auto made = std::make_shared<const Plan>(make_plan(problem, cpu_device(), key.limit, forced));
  std::lock_guard<std::mutex> lock(mutex);
  if (plans.size() >= kMostPlans) plans.clear();
  plans.emplace(key, made);
  return made;
}

}  // namespace mlx_conv3d
