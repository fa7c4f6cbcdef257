#include "core/gpu_program.h"

#include <cstring>
#include <deque>
#include <mutex>
#include <stdexcept>

#include "core/gpu_device.h"
#include "core/plan_cache.h"
#include "metal/run.h"

namespace mlx_conv3d {
namespace {

constexpr size_t kMostPrograms = 256;

using ProgramPointer = std::shared_ptr<const metal::Program>;

struct Remembered {
  std::shared_ptr<const Plan> plan;
  metal::Layout layout;
  ProgramPointer program;
};

bool same(const metal::Layout& a, const metal::Layout& b) {
  static_assert(std::has_unique_object_representations_v<metal::Layout>);
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}

/// The newest first. A plan stands for its problem and for the limit that it was made under.
ProgramPointer program_of(const ConvProblem& p, const std::shared_ptr<const Plan>& plan,
                          const metal::Layout& layout) {
  static std::mutex mutex;
  static std::deque<Remembered> programs;
  {
    std::lock_guard<std::mutex> lock(mutex);
    for (const Remembered& r : programs) {
      if (r.plan == plan && same(r.layout, layout)) return r.program;
    }
  }
  auto made = std::make_shared<const metal::Program>(metal::lower(p, plan->chosen, layout));
  std::lock_guard<std::mutex> lock(mutex);
  if (programs.size() >= kMostPrograms) programs.pop_back();
  programs.push_front({plan, layout, made});
  return made;
}

metal::ArrayStrides array_strides(const mx::array& a) {
  return {a.strides(0), a.strides(1), a.strides(2), a.strides(3), a.strides(4)};
}

/// A Program's operands: the primitive's inputs but for the packed weights, and the output.
std::vector<mx::array> operands(const ConvProblem& p, const std::vector<mx::array>& inputs,
                                const mx::array& out) {
  const size_t count = 2 + (p.lead > 0) + p.bias + p.residual;
  std::vector<mx::array> all(inputs.begin(), inputs.begin() + static_cast<std::ptrdiff_t>(count));
  all.push_back(out);
  return all;
}

}  // namespace

metal::Layout layout_of(const ConvProblem& p, const std::vector<mx::array>& inputs) {
  const mx::array& w = inputs[1];
  metal::Layout layout{};
  layout.x = array_strides(inputs[0]);
  layout.w = {w.strides(0), w.strides(1), w.strides(2), w.strides(3), w.strides(4)};
  if (p.lead > 0) layout.lead = array_strides(inputs[2]);
  return layout;
}

void run_on_gpu(const ConvProblem& p, Algorithm algorithm, const std::vector<mx::array>& inputs,
                const mx::array& out, mx::Stream stream) {
  if (p.empty()) return;
  const Device* device = live_gpu();
  if (device == nullptr) throw std::runtime_error("[mlx_conv3d] there is no Metal GPU.");
  const auto plan = gpu_plan(p, *device, algorithm);
  metal::run(*program_of(p, plan, layout_of(p, inputs)), operands(p, inputs, out), stream);
}

void run_on_gpu(const ConvProblem& p, const Candidate& candidate, const std::vector<mx::array>& inputs,
                const mx::array& out, mx::Stream stream) {
  metal::run(metal::lower(p, candidate, layout_of(p, inputs)), operands(p, inputs, out), stream);
}

}  // namespace mlx_conv3d
