#pragma once

#include <cstdint>
#include <string>

namespace mlx_conv3d {

/// What a plan needs to know of a machine. Plain data, so that plans for any machine can be made anywhere.
struct Device {
  enum class Kind { cpu, gpu };
  Kind kind = Kind::cpu;
  std::string name;
  int cores = 1;
  int vector_width = 4;                    ///< floats per SIMD vector
  int panel_vectors = 2;                   ///< widest GEMM panel, in vectors
  double gflops = 30;                      ///< fp32 multiply-add peak over all cores, nominal
  double gbytes = 10;                      ///< memory bandwidth, GB/s, nominal
  int64_t cache_bytes = int64_t{1} << 20;  ///< per-core cache that a working set should fit
  int family = 0;                  ///< Apple GPU family (7 is M1's), 0 for a CPU; the rest is for GPUs too
  int64_t system_cache_bytes = 0;  ///< system-level cache, shared by all cores
  double matrix_gflops = 0;        ///< 16-bit peak of separate matrix units over all cores, nominal
  bool matrix_half = false;        ///< whether a CPU's matrix unit multiplies fp16, beside bf16
  bool matrix_splits = true;       ///< whether operands in several bf16 parts pay on it
  uint8_t switched_off = 0;        ///< kernel families that this process does not use (core/kernel_family.h)
  std::string note;                ///< whose figures these are where the machine's own are not known
};

/// This machine's CPU, read once.
const Device& cpu_device();

}  // namespace mlx_conv3d
