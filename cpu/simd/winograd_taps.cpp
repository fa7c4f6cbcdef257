// Weights as Winograd's transform reads them.

#include "cpu/simd/winograd_taps.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

template <class T>
void read(const TapBlock& b, Vec (*taps)[kWidth]) {
  using Item = typename T::Item;
  const int64_t stride = b.stride / static_cast<int64_t>(sizeof(Item)), lanes = b.lanes;
  for (int tap = 0; tap < b.taps; ++tap) {
    const int64_t offset = b.offsets[tap];
    if (offset == kNoTap) {
      for (int i = 0; i < kWidth; ++i) taps[tap][i] = Vec{};
      continue;
    }
    fetch_runs(b.fetched + offset, b.stride, b.runs, b.run);
    load_transposed<T>(reinterpret_cast<const Item*>(b.from + offset), stride, lanes, taps[tap]);
  }
}

template <class T>
Vec read_lanes(const char* from, int64_t stride, int64_t lanes) {
  using Item = typename T::Item;
  return gather<T>(reinterpret_cast<const Item*>(from), stride / static_cast<int64_t>(sizeof(Item)), lanes);
}

template <class T>
constexpr TapItems kItems = {sizeof(typename T::Item), read<T>, read_lanes<T>};

}  // namespace

const TapItems& tap_items(Dtype type) {
  if (type == Dtype::float16) return kItems<Float16>;
  return type == Dtype::bfloat16 ? kItems<BFloat16> : kItems<Float32>;
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
