// Views whose channels do not lie together (NCTHW transposed to NTHWC, say) are copied block by block, so
// that both sides are touched a cache line at a time.

#include "cpu/layout.h"

#include <algorithm>
#include <cstring>

#include "cpu/threads.h"

namespace mlx_conv3d::cpu {
namespace {

constexpr int64_t kBlock = 32;

template <class T>
void copy_plane(const T* from, int64_t row_stride, int64_t col_stride, T* to, int64_t rows, int64_t cols) {
  for (int64_t r0 = 0; r0 < rows; r0 += kBlock) {
    for (int64_t c0 = 0; c0 < cols; c0 += kBlock) {
      for (int64_t r = r0; r < std::min(rows, r0 + kBlock); ++r) {
        for (int64_t c = c0; c < std::min(cols, c0 + kBlock); ++c) {
          to[r * cols + c] = from[r * row_stride + c * col_stride];
        }
      }
    }
  }
}

template <class T>
void copy_all(const StridedCopy& t) {
  const int64_t planes = t.shape[0] * t.shape[1] * t.shape[2];
  const int64_t size = t.shape[3] * t.shape[4];
  parallel_for(planes, [&](int64_t i, int) {
    const int64_t h = i % t.shape[2], d = i / t.shape[2] % t.shape[1], n = i / t.shape[2] / t.shape[1];
    const T* from = reinterpret_cast<const T*>(t.from) + n * t.stride[0] + d * t.stride[1] + h * t.stride[2];
    copy_plane(from, t.stride[3], t.stride[4], reinterpret_cast<T*>(t.to) + i * size, t.shape[3], t.shape[4]);
  });
}

}  // namespace

void copy_contiguous(const StridedCopy& task) {
  if (task.item == 4) {
    copy_all<uint32_t>(task);
  } else {
    copy_all<uint16_t>(task);
  }
}

}  // namespace mlx_conv3d::cpu
