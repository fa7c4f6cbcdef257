#include "cpu/simd/grouped.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

template <class T>
SIMD_INLINE Vec load_channels(const typename T::Item* pixel, int64_t first, int64_t channels) {
  const int64_t left = channels - first;
  return left >= kWidth ? T::load(pixel + first) : left > 0 ? load_part<T>(pixel + first, left) : Vec{};
}

template <class T>
void stage_woven(const PixelBlocks& s) {
  const auto* pixel = static_cast<const char*>(s.from);
  const IVec order = *(const IVecUnaligned*)s.order;
  for (int64_t i = 0; i < s.count; ++i, pixel += s.col_stride) {
    const auto* from = reinterpret_cast<const typename T::Item*>(pixel);
    for (int64_t b = 0; b < s.blocks; ++b) {
      float* to = s.to + b * s.pitch + i * s.window;
      if (kCanPermute && s.window == kWidth) {
        store(to, permute(load_channels<T>(from, s.first[b], s.channels), order));
        continue;
      }
      for (int64_t j = 0; j < s.window; ++j) {
        const int64_t c = s.first[b] + s.order[j];
        to[j] = c < s.channels ? T::scalar(from + c) : 0.0f;
      }
    }
  }
}

template <class T>
void stage(const PixelBlocks& s) {
  const auto* pixel = static_cast<const char*>(s.from);
  if (s.order != nullptr) return stage_woven<T>(s);
  for (int64_t i = 0; i < s.count; ++i, pixel += s.col_stride) {
    const auto* from = reinterpret_cast<const typename T::Item*>(pixel);
    for (int64_t b = 0; b < s.blocks; ++b) {
      float* to = s.to + b * s.pitch + i * s.window;
      for (int64_t j = 0; j < s.window; j += kWidth) {
        store(to + j, load_channels<T>(from, s.first[b] + j, s.channels));
      }
    }
  }
}

}  // namespace

void permute_lanes(const int32_t* order, float* data, int64_t vectors) {
  const IVec lanes = *(const IVecUnaligned*)order;
  for (int64_t v = 0; v < vectors; ++v, data += kWidth) store(data, permuted(load(data), lanes));
}

void stage_blocks(Dtype type, const PixelBlocks& pixels) { SIMD_BY_TYPE(type, stage, pixels) }

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
