#include "cpu/workspace.h"

#include <cstdlib>
#include <mutex>
#include <new>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mlx_conv3d::cpu {
namespace {

constexpr int64_t kHugePage = int64_t{1} << 21;

std::mutex mutex;
void* kept = nullptr;
int64_t kept_size = 0;

void* allocate(int64_t bytes) {
  void* block = nullptr;
  if (posix_memalign(&block, bytes >= kHugePage ? kHugePage : 64, static_cast<size_t>(bytes)) != 0) {
    throw std::bad_alloc();
  }
  advise_huge_pages(block, bytes);
  return block;
}

}  // namespace

void advise_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__)
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end =
      (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  static_cast<void>(data);
  static_cast<void>(bytes);
#endif
}

Workspace::Workspace(int64_t bytes) : block_(nullptr), size_(rounded(bytes > 0 ? bytes : 1)) {
  {
    std::lock_guard<std::mutex> lock(mutex);
    // A block much larger than what is asked for is left for the run that needs it.
    if (kept != nullptr && kept_size >= size_) {
      block_ = kept;
      size_ = kept_size;
      kept = nullptr;
      kept_size = 0;
      return;
    }
    std::free(kept);
    kept = nullptr;
    kept_size = 0;
  }
  block_ = allocate(size_);
}

Workspace::~Workspace() {
  std::lock_guard<std::mutex> lock(mutex);
  if (kept == nullptr || kept_size < size_) {
    std::swap(kept, block_);
    kept_size = size_;
  }
  std::free(block_);
}

void* Workspace::bytes(int64_t count) {
  char* start = static_cast<char*>(block_) + used_;
  used_ += rounded(count);
  if (used_ > size_)
    throw std::logic_error("[mlx_conv3d] a plan's workspace is smaller than its execution needs");
  return start;
}

float* Workspace::floats(int64_t count) { return static_cast<float*>(bytes(count * 4)); }

void trim_workspace(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  if (kept_size > bytes) {
    std::free(kept);
    kept = nullptr;
    kept_size = 0;
  }
}

}  // namespace mlx_conv3d::cpu
