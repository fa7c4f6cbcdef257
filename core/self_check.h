#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/kernel_family.h"

namespace mlx_conv3d {

/// What is known of one family's kernels for one type.
struct SelfCheck {
  KernelFamily family = KernelFamily::winograd;
  Dtype dtype = Dtype::float32;
  bool passed = false;
  double error = 0;     ///< relative L2 difference to the CPU's result; 0 where there is none
  std::string message;  ///< why it did not pass
};

/// First-use checks of Metal kernels. The first time that a family is used with a type, the runner compares
/// its results with the CPU backend's. A family that differs, or whose runner throws, is switched off for
/// good with one warning. Safe to use from several threads: one runs the check, the others wait for it.
class SelfChecks {
 public:
  /// Runs the family's tiny problems with the type on the GPU and on the CPU; the relative L2 difference.
  using Runner = std::function<double(KernelFamily, Dtype)>;
  using Warn = std::function<void(const std::string&)>;

  SelfChecks(Runner runner, Warn warn) : runner_(std::move(runner)), warn_(std::move(warn)) {}

  /// Whether the family may be used with the type; runs its check the first time. Within a check it is true.
  bool usable(KernelFamily family, Dtype dtype);
  /// Switches a family off, with a warning if it was on.
  void fail(KernelFamily family, Dtype dtype, const std::string& message);

  /// The families that are off, as bits.
  uint8_t switched_off() const;
  /// Why each of them is.
  std::map<KernelFamily, std::string> reasons() const;
  /// The checks that have been run, in their order.
  std::vector<SelfCheck> results() const;
  void set_warn(Warn warn);

 private:
  using Key = std::pair<KernelFamily, Dtype>;
  void record(const SelfCheck& check);

  Runner runner_;
  Warn warn_;
  mutable std::mutex mutex_;
  std::condition_variable finished_;
  std::map<Key, std::thread::id> running_;
  std::vector<SelfCheck> results_;
  std::map<KernelFamily, std::string> off_;
};

/// The largest difference of two correct results: a few units in the last place of the type.
double self_check_tolerance(Dtype dtype);

/// The checks of this process's GPU.
SelfChecks& live_self_checks();

}  // namespace mlx_conv3d
