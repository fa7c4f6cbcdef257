#pragma once

#include <cstddef>
#include <cstdint>

namespace mlx_conv3d::cpu {

/// Scratch memory for one run, aligned for vectors and huge pages. One block is kept for the next run, so
/// that its pages need not be mapped again; it is freed when `trim` asks for less. Throws std::bad_alloc.
class Workspace {
 public:
  explicit Workspace(int64_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// The next `count` floats, on a cache line of their own.
  float* floats(int64_t count);
  void* bytes(int64_t count);

  /// A mark to give back to release_to, which frees all that was taken since.
  int64_t used() const { return used_; }
  void release_to(int64_t mark) { used_ = mark; }

  /// What a request of `bytes` takes from a workspace.
  static int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

 private:
  void* block_;
  int64_t size_, used_ = 0;
};

/// Asks for huge pages under a large array about to be written for the first time: a fresh output costs more
/// in page faults than a pointwise convolution in arithmetic. A hint; it never fails.
void advise_huge_pages(void* data, int64_t bytes);

/// Frees a kept block of more than `bytes`.
void trim_workspace(int64_t bytes);

}  // namespace mlx_conv3d::cpu
