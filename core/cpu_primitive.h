#pragma once

#include <utility>
#include <vector>

#include "core/staging.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

namespace mlx_conv3d {

namespace mx = mlx::core;

using Arrays = std::vector<mx::array>;
using MappedArrays = std::pair<Arrays, std::vector<int>>;

/// A primitive of CPU streams only. Two of a kind with equal parameters are equivalent.
template <class Parameters>
class CpuPrimitive : public mx::Primitive {
 public:
  CpuPrimitive(mx::Stream stream, Parameters parameters)
      : mx::Primitive(stream), parameters_(std::move(parameters)) {}

  void eval_gpu(const Arrays&, Arrays&) final { no_gpu(); }
  bool is_equivalent(const mx::Primitive& other) const final {
    return parameters_ == static_cast<const CpuPrimitive&>(other).parameters_;
  }

 protected:
  const Parameters parameters_;
};

}  // namespace mlx_conv3d
