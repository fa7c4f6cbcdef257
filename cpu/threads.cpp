// A pool that keeps its workers spinning briefly between loops, since a convolution is many short loops.

#include "cpu/threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <stdexcept>
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
    if (static_cast<uint64_t>(count) > kMostItems) throw std::length_error("parallel_for: too many items");
    std::lock_guard<std::mutex> turn(turn_);
    start();
    keep_off_this_cpu();
    body_ = &body;
    end_ = count;
    done_.store(0, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(sleep_);
      loop_ = (loop_ + 1) % kLoops;
      ticket_.store(loop_ * (kMostItems + 1) + static_cast<uint64_t>(count), std::memory_order_release);
    }
    wake_.notify_all();
    work(loop_, 0);
    while (done_.load(std::memory_order_acquire) < count) relax();
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  void start() {
    if (!workers_.empty() || count_ == 1) return;
    for (int i = 1; i < count_; ++i) {
      workers_.emplace_back([this, i] { wait_and_work(i); });
      handles_.push_back(workers_.back().native_handle());
      workers_.back().detach();
    }
  }

  /// A worker that wakes up on the caller's CPU waits for it, although another is idle: of few, the system
  /// takes milliseconds to notice.
  void keep_off_this_cpu() {
#if defined(__linux__)
    constexpr int kFewCpus = 8;
    const int here = sched_getcpu();
    if (count_ > kFewCpus || here < 0 || here == kept_off_) return;
    kept_off_ = here;
    cpu_set_t others;
    CPU_ZERO(&others);
    if (sched_getaffinity(0, sizeof(others), &others) != 0) return;
    CPU_CLR(here, &others);
    if (CPU_COUNT(&others) == 0) return;
    for (const auto handle : handles_) pthread_setaffinity_np(handle, sizeof(others), &others);
#endif
  }

  uint64_t loop_number() const { return ticket_.load(std::memory_order_acquire) / (kMostItems + 1); }

  void wait_and_work(int thread) {
    uint64_t seen = 0;
    while (true) {
      for (int spin = 0; spin < kSpins && loop_number() == seen; ++spin) relax();
      if (loop_number() == seen) {
        std::unique_lock<std::mutex> lock(sleep_);
        wake_.wait(lock, [&] { return loop_number() != seen; });
      }
      seen = loop_number();
      work(seen, thread);
    }
  }

  /// Items of this loop, until none is left or it is over. A thread that wakes up late finds no item and so
  /// never touches a loop that has returned; nobody waits for it.
  void work(uint64_t loop, int thread) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (ticket / (kMostItems + 1) == loop && ticket % (kMostItems + 1) > 0) {
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
      const int64_t item = end_ - static_cast<int64_t>(ticket % (kMostItems + 1));
      try {
        (*body_)(item, thread);
      } catch (...) {
        std::lock_guard<std::mutex> lock(sleep_);
        if (!error_) error_ = std::current_exception();
      }
      done_.fetch_add(1, std::memory_order_release);
      ticket = ticket_.load(std::memory_order_acquire);
    }
  }

  /// The number of the loop, and below it how many of its items nobody has taken.
  static constexpr uint64_t kMostItems = (uint64_t{1} << 40) - 1, kLoops = uint64_t{1} << 24;
  static constexpr int kSpins = 4000;

  const int count_;
  std::vector<std::thread> workers_;
  std::vector<std::thread::native_handle_type> handles_;
  [[maybe_unused]] int kept_off_ = -1;  ///< the CPU that the workers leave to the caller
  std::mutex turn_, sleep_;
  std::condition_variable wake_;
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int64_t> done_{0};
  uint64_t loop_ = 0;
  int64_t end_ = 0;
  const std::function<void(int64_t, int)>* body_ = nullptr;
  std::exception_ptr error_;
};

thread_local bool alone = false;

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

OneThread::OneThread(bool wanted) : before_(alone) { alone = alone || wanted; }
OneThread::~OneThread() { alone = before_; }

void parallel_for(int64_t count, const std::function<void(int64_t, int)>& body) {
  if (count <= 0) return;
  Pool& p = pool();
  if (count == 1 || p.size() == 1 || alone) {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  p.run(count, body);
}

void parallel_for_shares(int64_t count, const std::function<void(int64_t, int)>& body) {
  const int64_t shares = thread_count();
  std::vector<std::atomic<int64_t>> taken(static_cast<size_t>(shares));
  parallel_for(count, [&](int64_t, int thread) {
    for (int64_t i = 0;; ++i) {
      const int64_t share = (thread + i) % shares;
      const int64_t begin = count * share / shares, end = count * (share + 1) / shares;
      const int64_t item = begin + taken[static_cast<size_t>(share)].fetch_add(1, std::memory_order_relaxed);
      if (item < end) return body(item, thread);
    }
  });
}

}  // namespace mlx_conv3d::cpu
