#include "core/self_check.h"

#include <algorithm>
#include <cstdio>
#include <exception>

namespace mlx_conv3d {
namespace {

const SelfCheck* find(const std::vector<SelfCheck>& results, KernelFamily family, Dtype dtype) {
  const auto found = std::find_if(results.begin(), results.end(),
                                  [&](const SelfCheck& c) { return c.family == family && c.dtype == dtype; });
  return found == results.end() ? nullptr : &*found;
}

std::string warning(const SelfCheck& check) {
  return std::string("mlx_conv3d: the Metal kernels '") + name_of(check.family) +
         "' are switched off for this process, stock MLX does their work: " + check.message;
}

}  // namespace

double self_check_tolerance(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
      return 5e-5;  // twice what each side may be off by, and some
    case Dtype::float16:
      return 1.0 / 1024;
    case Dtype::bfloat16:
      return 1.0 / 128;
  }
  return 0;
}

bool SelfChecks::usable(KernelFamily family, Dtype dtype) {
  const Key key{family, dtype};
  {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto running = running_.find(key);
    if (running != running_.end() && running->second == std::this_thread::get_id()) return true;
    finished_.wait(lock, [&] { return running_.count(key) == 0; });
    if (off_.count(family) > 0) return false;
    if (find(results_, family, dtype) != nullptr) return true;
    running_[key] = std::this_thread::get_id();
  }
  SelfCheck check{family, dtype, false, 0, ""};
  try {
    check.error = runner_(family, dtype);
    check.passed = check.error <= self_check_tolerance(dtype);  // false for NaN
    if (!check.passed) {
      char text[160];
      std::snprintf(text, sizeof(text),
                    "their %s results differ from the CPU's by %.2e of their norm, more than %.2e",
                    name_of(dtype), check.error, self_check_tolerance(dtype));
      check.message = text;
    }
  } catch (const std::exception& error) {
    check.message = error.what();
  } catch (...) {
    check.message = "an unknown error";
  }
  record(check);
  return check.passed && (switched_off() & bit(family)) == 0;
}

void SelfChecks::fail(KernelFamily family, Dtype dtype, const std::string& message) {
  record({family, dtype, false, 0, message});
}

void SelfChecks::record(const SelfCheck& check) {
  Warn warn;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    running_.erase({check.family, check.dtype});
    results_.push_back(check);
    if (!check.passed && off_.emplace(check.family, check.message).second) warn = warn_;
  }
  finished_.notify_all();
  // Without the lock: the warning may run Python code, and that may come back here.
  if (warn) warn(warning(check));
}

uint8_t SelfChecks::switched_off() const {
  std::lock_guard<std::mutex> lock(mutex_);
  uint8_t bits = 0;
  for (const auto& [family, reason] : off_) bits |= bit(family);
  return bits;
}

std::map<KernelFamily, std::string> SelfChecks::reasons() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return off_;
}

std::vector<SelfCheck> SelfChecks::results() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return results_;
}

void SelfChecks::set_warn(Warn warn) {
  std::lock_guard<std::mutex> lock(mutex_);
  warn_ = std::move(warn);
}

}  // namespace mlx_conv3d
