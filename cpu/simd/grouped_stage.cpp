#include "cpu/simd/grouped.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

template <class T>
void stage(const PixelBlocks& s) {
  const auto* pixel = static_cast<const char*>(s.from);
  for (int64_t i = 0; i < s.count; ++i, pixel += s.col_stride) {
    const auto* from = reinterpret_cast<const typename T::Item*>(pixel);
    for (int64_t b = 0; b < s.blocks; ++b) {
      float* to = s.to + b * s.pitch + i * s.window;
      for (int64_t j = 0; j < s.window; j += kWidth) {
        const int64_t c = s.first[b] + j, left = s.channels - c;
        store(to + j, left >= kWidth ? T::load(from + c) : left > 0 ? load_part<T>(from + c, left) : Vec{});
      }
    }
  }
}

}  // namespace

void stage_blocks(Dtype type, const PixelBlocks& pixels) { SIMD_BY_TYPE(type, stage, pixels) }

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
