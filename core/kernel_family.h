#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/plan.h"

namespace mlx_conv3d {

/// Metal kernels that are checked, and switched off, together: the files of kernels/ whose names begin with
/// it.
enum class KernelFamily : uint8_t { winograd, grouped, gather_gemm };
inline constexpr KernelFamily kKernelFamilies[] = {KernelFamily::winograd, KernelFamily::grouped,
                                                   KernelFamily::gather_gemm};

const char* name_of(KernelFamily family);
/// nullopt for an unknown name.
std::optional<KernelFamily> family_named(const std::string& name);

/// The kernels that an algorithm other than stock runs a problem with on Metal.
KernelFamily family_of(const ConvProblem& problem, Algorithm algorithm);

/// A set of families, as Device::switched_off keeps it.
inline constexpr uint8_t bit(KernelFamily family) {
  return static_cast<uint8_t>(1u << static_cast<int>(family));
}

}  // namespace mlx_conv3d
