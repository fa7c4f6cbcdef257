// Picks the widest instruction set of this machine, and the panels that fit it.

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cpu/simd/kernels.h"

namespace mlx_conv3d::cpu {

#if defined(MLX_CONV3D_HAS_avx512)
extern const Kernels kernels_sse2, kernels_avx2, kernels_avx512;
#else
extern const Kernels kernels_neon;
#endif

namespace {

#if defined(MLX_CONV3D_HAS_avx512)
bool allowed(const char* isa, const char* ceiling) {
  if (ceiling == nullptr) return true;
  const char* order[] = {"sse2", "avx2", "avx512"};
  for (const char* name : order) {
    if (std::strcmp(name, isa) == 0) return true;
    if (std::strcmp(name, ceiling) == 0) return false;
  }
  return true;
}

const Kernels& detect() {
  const char* ceiling = std::getenv("MLX_CONV3D_ISA");
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512 && allowed("avx512", ceiling)) return kernels_avx512;
  if (avx2 && allowed("avx2", ceiling)) return kernels_avx2;
  return kernels_sse2;
}
#else
const Kernels& detect() { return kernels_neon; }
#endif

}  // namespace

const Kernels& kernels() {
  static const Kernels& table = detect();
  return table;
}

// n vectors as w, w, ..., then what is left; a remainder of 1 is spread as 2 + 2 instead of 3 + 1.
Panels::Panels(int64_t out_channels, const Kernels& k)
    : total_((out_channels + k.width - 1) / k.width), widest_(k.panel_vectors) {
  if (total_ < widest_) {
    wide_ = 0;
    count_ = total_ > 0 ? 1 : 0;
    return;
  }
  const int64_t rest = total_ % widest_;
  wide_ = total_ / widest_;
  if (widest_ == 3 && rest == 1) {
    wide_ -= 1;
    count_ = wide_ + 2;
  } else {
    count_ = wide_ + (rest > 0 ? 1 : 0);
  }
}

int64_t Panels::first_vector(int64_t panel) const {
  return std::min(total_, panel <= wide_ ? panel * widest_ : wide_ * widest_ + (panel - wide_) * 2);
}

int Panels::vectors(int64_t panel) const {
  if (panel < wide_) return widest_;
  const int64_t rest = total_ - wide_ * widest_;
  return static_cast<int>(rest == 4 ? 2 : rest);
}

}  // namespace mlx_conv3d::cpu
