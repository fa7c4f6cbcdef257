#pragma once

#include <utility>
#include <vector>

#include "core/flat_conv.h"

namespace mlx_conv3d {

/// A convolution of a stream's next frames on a CPU, whose second output are the last frames of the lead
/// frames followed by x, what the convolution of the frames after these needs. One operation, because a small
/// convolution would spend most of its time between operations; of arrays that no transformation traces.
class StreamStep : public FlatConv {
 public:
  StreamStep(mx::Stream stream, ConvSpec spec, MissingAxes missing, int kept)
      : FlatConv(stream, std::move(spec), std::move(missing)), kept_(kept) {}

  Arrays jvp(const Arrays&, const Arrays&, const std::vector<int>&) override { no_transformation(); }
  Arrays vjp(const Arrays&, const Arrays&, const std::vector<int>&, const Arrays&) override {
    no_transformation();
  }
  MappedArrays vmap(const Arrays&, const std::vector<int>&) override { no_transformation(); }
  const char* name() const override { return "Conv3dStreamStep"; }
  bool is_equivalent(const mx::Primitive& other) const override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;

 private:
  [[noreturn]] static void no_transformation();

  const int kept_;
};

/// The same frames by MLX's own operations. Throws std::invalid_argument if there are fewer.
mx::array last_frames(const std::optional<mx::array>& lead, const mx::array& x, int64_t count,
                      mx::StreamOrDevice s);

}  // namespace mlx_conv3d
