#include "core/stream_step.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/ops.h"

namespace mlx_conv3d {

void StreamStep::no_transformation() {
  throw std::logic_error("[conv] a stream's step is composed of other operations while it is traced.");
}

bool StreamStep::is_equivalent(const mx::Primitive& other) const {
  return FlatConv::is_equivalent(other) && kept_ == static_cast<const StreamStep&>(other).kept_;
}

std::vector<mx::Shape> StreamStep::output_shapes(const Arrays& inputs) {
  std::vector<mx::Shape> shapes = FlatConv::output_shapes(inputs);
  shapes.push_back(inputs[0].shape());
  shapes[1][1] = kept_;
  return shapes;
}

mx::array last_frames(const std::optional<mx::array>& lead, const mx::array& x, int64_t count,
                      mx::StreamOrDevice s) {
  const int64_t here = x.shape(1), before = lead ? lead->shape(1) : 0;
  if (count < 0 || count > before + here) {
    throw std::invalid_argument("[conv] kept must be in [0, " + std::to_string(before + here) + "], got " +
                                std::to_string(count) + ".");
  }
  const mx::array own = slice_axis(x, 1, here - std::min(count, here), here, s);
  if (count <= here) return mx::contiguous(own, false, s);
  return mx::concatenate({slice_axis(*lead, 1, before + here - count, before, s), own}, 1, s);
}

}  // namespace mlx_conv3d
