// Picks the widest instruction set of this machine, and the panels that fit it.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <queue>
#include <vector>

#include "cpu/simd/tile_kernels.h"

#if defined(MLX_CONV3D_HAS_avx512_bf16)
#include <cpuid.h>
#endif
#if defined(MLX_CONV3D_HAS_amx)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mlx_conv3d::cpu {

#if defined(MLX_CONV3D_HAS_avx512)
extern const Kernels kernels_sse2, kernels_avx2, kernels_avx512;
#else
extern const Kernels kernels_neon;
#endif
#if defined(MLX_CONV3D_HAS_avx512_bf16)
extern const TileKernels tile_kernels_avx512_bf16;
#endif
#if defined(MLX_CONV3D_HAS_amx)
extern const TileKernels tile_kernels_amx;
#endif

namespace {

#if defined(MLX_CONV3D_HAS_avx512)
bool allowed(const char* isa, const char* ceiling) {
  if (ceiling == nullptr) return true;
  const char* order[] = {"sse2", "avx2", "avx512", "avx512_bf16", "amx"};
  for (const char* name : order) {
    if (std::strcmp(name, isa) == 0) return true;
    if (std::strcmp(name, ceiling) == 0) return false;
  }
  return true;
}

#if defined(MLX_CONV3D_HAS_avx512_bf16)
/// Of CPUID's leaf 7.1.
bool has_feature(unsigned bit) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & bit) != 0;
}
bool has_pairs() {
  constexpr unsigned kAvx512Bf16 = 1u << 5;
  return has_feature(kAvx512Bf16);
}

/// AVX-512 and, beside it, a unit for bf16.
Kernels avx512_with(const char* isa, const TileKernels& tiles) {
  Kernels k = kernels_avx512;
  k.isa = isa;
  k.tiles = &tiles;
  return k;
}

const Kernels& with_pairs() {
  static const Kernels table = avx512_with("avx512_bf16", tile_kernels_avx512_bf16);
  return table;
}
#endif

#if defined(MLX_CONV3D_HAS_amx)
bool has_tiles() {
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
  if (!has_pairs()) return false;
  // Linux lends the tiles' state only to a process that asks for it.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool has_half_tiles() {
  constexpr unsigned kAmxFp16 = 1u << 21;
  return has_feature(kAmxFp16);
}

const Kernels& with_tiles() {
  static const TileKernels tiles = [] {
    TileKernels t = tile_kernels_amx;
    t.half = has_half_tiles();
    return t;
  }();
  static const Kernels table = avx512_with("amx", tiles);
  return table;
}
#endif

const Kernels& detect() {
  const char* ceiling = std::getenv("MLX_CONV3D_ISA");
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
#if defined(MLX_CONV3D_HAS_amx)
  if (avx512 && allowed("amx", ceiling) && has_tiles()) return with_tiles();
#endif
#if defined(MLX_CONV3D_HAS_avx512_bf16)
  if (avx512 && allowed("avx512_bf16", ceiling) && has_pairs()) return with_pairs();
#endif
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
Panels::Panels(int64_t out_channels, int width, int widest)
    : total_((out_channels + width - 1) / width), widest_(widest) {
  const int64_t wide = total_ / widest;
  set_wide(widest == 3 && wide > 0 && total_ % widest == 1 ? wide - 1 : wide);
}

Panels Panels::shared(int64_t out_channels, int width, int widest, int threads) {
  Panels best(out_channels, width, widest), next = best;
  int64_t least = best.longest_share(threads);
  const int64_t even = (best.total_ + threads - 1) / threads, most = best.wide_;
  for (int64_t wide = most - 1; wide >= 0 && most - wide <= 2 * threads && least > even; --wide) {
    next.set_wide(wide);
    const int64_t longest = next.longest_share(threads);
    if ((next.total_ - wide * widest) % next.narrow() != 0 || longest >= least) continue;
    least = longest;
    best = next;
  }
  return best;
}

void Panels::set_wide(int64_t wide) {
  wide_ = wide;
  count_ = wide + (total_ - wide * widest_ + narrow() - 1) / narrow();
}

int64_t Panels::first_vector(int64_t panel) const {
  return std::min(total_, panel <= wide_ ? panel * widest_ : wide_ * widest_ + (panel - wide_) * narrow());
}

int Panels::vectors(int64_t panel) const {
  return static_cast<int>(first_vector(panel + 1) - first_vector(panel));
}

int64_t Panels::longest_share(int threads) const {
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> busy(
      {}, std::vector<int64_t>(static_cast<size_t>(threads), 0));
  int64_t longest = 0;
  for (int64_t panel = 0; panel < count_; ++panel) {
    const int64_t share = busy.top() + vectors(panel);
    busy.pop();
    busy.push(share);
    longest = std::max(longest, share);
  }
  return longest;
}

}  // namespace mlx_conv3d::cpu
