// The grouped kernels of float32 sums of float32 products.

#include "cpu/simd/grouped_sums.h"

namespace mlx_conv3d::cpu::SIMD_NAMESPACE {
namespace {

struct Floats {
  SIMD_INLINE void add(Vec& sum, Vec a, Vec b) { sum += a * b; }
  SIMD_INLINE void store(const GroupedRows& r, int64_t at, Vec sum) {
    store_lanes<Float32>(sum, r.activation, nullptr, r.residual ? r.residual + at : nullptr, r.out + at,
                         r.out_floats - at);
  }
};

struct Function {
  template <size_t I>
  static constexpr GroupedFunction at() {
    constexpr GroupedKernel k = kGroupedKernels.at[I];
    if constexpr (k.family == GroupedFamily::broadcast) {
      return broadcast<Floats>;
    } else if constexpr (k.family == GroupedFamily::pointwise) {
      return grouped<Floats, 0, k.group_in, k.group_out>;
    } else if constexpr (k.family == GroupedFamily::depthwise && k.taps[2] > 1) {
      return nullptr;  // reads its rows in place: depthwise_function
    } else {
      return grouped<Floats, 1, k.group_in, k.group_out>;
    }
  }
};

struct Rotation {
  template <size_t I>
  static constexpr int at() {
    constexpr GroupedKernel k = kGroupedKernels.at[I];
    if constexpr (k.family == GroupedFamily::pointwise || k.family == GroupedFamily::rows) {
      return ForwardLanes<Lanes<k.group_in, k.group_out, 0>>::kRotation;
    } else {
      return 0;
    }
  }
};

}  // namespace

GroupedFunction grouped_function(int kernel) { return KernelTable<GroupedFunction, Function>::at[kernel]; }

int grouped_rotation(int kernel) { return KernelTable<int, Rotation>::at[kernel]; }

}  // namespace mlx_conv3d::cpu::SIMD_NAMESPACE
