// Measures what a machine can do at most. ./roofline THREADS SECONDS COPY_MIB prints one line of JSON: the
// fp32 FMA peak, the peak of the bf16 matrix unit (0 without one) and the copy bandwidth (bytes read plus
// bytes written).
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#if defined(__AMX_BF16__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_AMX 1
#endif

namespace {

using Clock = std::chrono::steady_clock;
using Work = std::function<void(int thread)>;

#if defined(__AVX512F__)
constexpr int kBytes = 64, kAccumulators = 24;
#elif defined(__AVX__)
constexpr int kBytes = 32, kAccumulators = 12;
#else
constexpr int kBytes = 16, kAccumulators = 24;
#endif
typedef float Vector __attribute__((vector_size(kBytes)));
constexpr int kLanes = kBytes / 4, kSteps = 20000;

double run(int threads, const Work& work) {
  auto start = Clock::now();
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(work, t);
  work(0);
  for (auto& other : others) other.join();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The peak is the best of many short runs: whoever else uses the machine can only lower a run.
double best_rate(int threads, double seconds, double amount, const Work& work) {
  double best = 0;
  auto start = Clock::now();
  do {
    best = std::max(best, amount / run(threads, work));
  } while (std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  return best;
}

volatile float sink;
volatile float factor = 0.999f, term = 0.001f;

// Every chain starts elsewhere, or the compiler would see that they are one and the same.
template <int... I>
void fma_chains(std::integer_sequence<int, I...>) {
  Vector a, b;
  for (int lane = 0; lane < kLanes; ++lane) a[lane] = factor, b[lane] = term;
  Vector acc[kAccumulators] = {(b * float(I + 1))...};
  for (int step = 0; step < kSteps; ++step) ((acc[I] = acc[I] * a + b), ...);
  Vector total = {};
  ((total += acc[I]), ...);
  for (int lane = 1; lane < kLanes; ++lane) total[0] += total[lane];
  sink = total[0];
}

double fma_gflops(int threads, double seconds) {
  constexpr int kCalls = 50;
  auto work = [](int) {
    for (int call = 0; call < kCalls; ++call) fma_chains(std::make_integer_sequence<int, kAccumulators>());
  };
  return best_rate(threads, seconds, 2.0 * kLanes * kAccumulators * kSteps * kCalls * threads, work) / 1e9;
}

#ifdef HAS_AMX
void tiles(int) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t columns[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  // GCC's intrinsic names only the first bytes as read; without this the rest of the struct is never written.
  asm volatile("" ::"r"(&config) : "memory");
  _tile_loadconfig(&config);
  alignas(64) static const uint8_t zeros[1024] = {};
  _tile_loadd(4, zeros, 64);
  _tile_loadd(5, zeros, 64);
  _tile_loadd(6, zeros, 64);
  _tile_loadd(7, zeros, 64);
  for (int step = 0; step < 200000; ++step) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

double matrix_bf16_gflops(int threads, double seconds) {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return 0;
  return best_rate(threads, seconds, 200000.0 * 4 * 2 * 16 * 16 * 32 * threads, tiles) / 1e9;
}
#else
double matrix_bf16_gflops(int, double) { return 0; }
#endif

double copy_gbs(int threads, double seconds, std::size_t bytes) {
  std::unique_ptr<char[]> from(new char[bytes]), to(new char[bytes]);
  std::size_t part = bytes / threads;
  auto copy = [&](int t) { std::memcpy(to.get() + t * part, from.get() + t * part, part); };
  run(threads, [&](int t) { std::memset(from.get() + t * part, 1, part); });
  run(threads, copy);
  return best_rate(threads, seconds, 2.0 * part * threads, copy) / 1e9;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  int threads = std::atoi(argv[1]);
  double seconds = std::atof(argv[2]);
  double fma = fma_gflops(threads, seconds), matrix = matrix_bf16_gflops(threads, seconds);
  double copy = copy_gbs(threads, seconds, std::size_t(std::atoi(argv[3])) << 20);
  std::printf("{\"fma_gflops\": %.1f, \"matrix_bf16_gflops\": %.1f, \"copy_gbs\": %.2f}\n", fma, matrix,
              copy);
}
