// A pool that keeps its workers spinning briefly between loops, since a convolution is many short loops.

#include "cpu/threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mlx_conv3d::cpu {
namespace {

int available_cpus() {
  if (const char* text = std::getenv("MLX_CONV3D_NUM_THREADS")) {
    const int n = std::atoi(text);
    if (n > 0) return std::min(n, 1024);
  }
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  Pool() : count_(available_cpus()) {}

  int size() const { return count_; }

  void run(int64_t count, const std::function<void(int64_t, int)>& body) {
    std::lock_guard<std::mutex> turn(turn_);
    start();
    body_ = &body;
    end_ = count;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(sleep_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    work(0);
    while (busy_.load(std::memory_order_acquire) > 0) relax();
    body_ = nullptr;
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  void start() {
    if (!workers_.empty() || count_ == 1) return;
    for (int i = 1; i < count_; ++i) workers_.emplace_back([this, i] { loop(i); }).detach();
  }

  void loop(int thread) {
    uint64_t seen = 0;
    while (true) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin)
        relax();
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(sleep_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
      }
      seen = generation_.load(std::memory_order_acquire);
      work(thread);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  void work(int thread) {
    try {
      for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < end_;) (*body_)(i, thread);
    } catch (...) {
      std::lock_guard<std::mutex> lock(sleep_);
      if (!error_) error_ = std::current_exception();
      next_.store(end_, std::memory_order_relaxed);
    }
  }

  static constexpr int kSpins = 4000;

  const int count_;
  std::vector<std::thread> workers_;
  std::mutex turn_, sleep_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  int64_t end_ = 0;
  const std::function<void(int64_t, int)>* body_ = nullptr;
  std::exception_ptr error_;
};

Pool* the_pool = nullptr;
std::once_flag once;

// Workers live as long as the process: joining them from a static destructor can deadlock at exit. A forked
// child has none of them, so it starts with a pool of its own.
Pool& pool() {
  std::call_once(once, [] {
    the_pool = new Pool;
#if defined(__linux__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { the_pool = new Pool; });
#endif
  });
  return *the_pool;
}

}  // namespace

int thread_count() { return pool().size(); }

void parallel_for(int64_t count, const std::function<void(int64_t, int)>& body) {
  if (count <= 0) return;
  Pool& p = pool();
  if (count == 1 || p.size() == 1) {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  p.run(count, body);
}

}  // namespace mlx_conv3d::cpu
