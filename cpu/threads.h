#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace mlx_conv3d::cpu {

/// Threads that a parallel loop uses, the caller included: MLX_CONV3D_NUM_THREADS, else the CPUs this process
/// may run on.
int thread_count();

/// Calls body(i, thread) for every i in [0, count), handed out in order to whichever thread is free; returns
/// when all are done. `thread` is in [0, thread_count()). Calls from several threads take turns; an exception
/// in the body is rethrown here. Must not be nested.
void parallel_for(int64_t count, const std::function<void(int64_t, int)>& body);

/// The same, but each thread begins with a share of neighbouring items, the same one in every call of as many
/// items, and helps with the others' shares when its own is done: neighbours in memory stay in one core's
/// cache.
void parallel_for_shares(int64_t count, const std::function<void(int64_t, int)>& body);

/// Raises `value` to `met` where that is larger.
inline void raise_to(std::atomic<uint32_t>& value, uint32_t met) {
  uint32_t held = value.load(std::memory_order_relaxed);
  while (held < met && !value.compare_exchange_weak(held, met, std::memory_order_relaxed)) {
  }
}

/// While it lives, this thread's loops are its own, for work that is done before another thread is awake.
class OneThread {
 public:
  explicit OneThread(bool wanted);
  ~OneThread();
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  const bool before_;
};

}  // namespace mlx_conv3d::cpu
