#include "core/kernel_family.h"

namespace mlx_conv3d {

const char* name_of(KernelFamily family) {
  switch (family) {
    case KernelFamily::winograd:
      return "winograd";
    case KernelFamily::grouped:
      return "grouped";
    case KernelFamily::gather_gemm:
      return "gather_gemm";
  }
  return "?";
}

std::optional<KernelFamily> family_named(const std::string& name) {
  for (KernelFamily f : kKernelFamilies) {
    if (name == name_of(f)) return f;
  }
  return std::nullopt;
}

KernelFamily family_of(const ConvProblem& p, Algorithm algorithm) {
  if (algorithm == Algorithm::winograd) return KernelFamily::winograd;
  if (algorithm == Algorithm::grouped && is_direct(p)) return KernelFamily::grouped;
  return KernelFamily::gather_gemm;
}

}  // namespace mlx_conv3d
