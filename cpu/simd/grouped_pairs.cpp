// AVX512_BF16: grouped kernels of pairs of bf16, each of which lies where the others have a float32.

#include "cpu/simd/grouped_sums.h"

// After grouped_sums.h, which defines SIMD_NAMESPACE.
#include "cpu/simd/tiles.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

/// Sums, which a later step makes results of.
struct Pairs {
  SIMD_INLINE void add(Vec& sum, Vec a, Vec b) {
    sum = (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(__m512i)a, (__m512bh)(__m512i)b);
  }
  SIMD_INLINE void store(const GroupedRows& r, int64_t at, Vec sum) {
    const int64_t lanes = r.out_floats - at;
    store_part<Float32>(r.out + at, sum, lanes < kWidth ? lanes : kWidth);
  }
};

struct Function {
  template <size_t I>
  static constexpr GroupedFunction at() {
    constexpr GroupedKernel k = kGroupedKernels.at[I];
    if constexpr (!takes_pairs(k)) {
      return nullptr;
    } else if constexpr (k.family == GroupedFamily::broadcast) {
      return broadcast<Pairs>;
    } else {
      return grouped<Pairs, 1, k.group_in, k.group_out>;
    }
  }
};

}  // namespace

GroupedFunction grouped_pairs_function(int kernel) {
  return KernelTable<GroupedFunction, Function>::at[kernel];
}

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
