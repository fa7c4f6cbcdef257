#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "core/flat_conv.h"

namespace mlx_conv3d {

/// A convolution of a stream's next frames on a CPU, whose second output are the last frames of the lead
/// frames followed by x, what the convolution of the frames after these needs. One operation, because a small
/// convolution would spend most of its time between operations.
class StreamStep : public FlatConv {
 public:
  /// `frames` are x's, of which it depends how many are kept.
  StreamStep(mx::Stream stream, ConvSpec spec, MissingAxes missing, int frames, int kept)
      : FlatConv(stream, std::move(spec), std::move(missing)), frames_(frames), kept_(kept) {}

  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  MappedArrays vmap(const Arrays& inputs, const std::vector<int>& axes) override;
  const char* name() const override { return "Conv3dStreamStep"; }
  bool is_equivalent(const mx::Primitive& other) const override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;

 private:
  const int frames_, kept_;
};

/// The same frames by MLX's own operations, along `axis`. Throws std::invalid_argument if
/// there are fewer.
mx::array last_frames(const std::optional<mx::array>& lead, const mx::array& x, int64_t count,
                      mx::StreamOrDevice s, int axis = 1);

/// y and these frames, evaluated together: frames left for later would keep all of x in memory, and only this
/// thread could evaluate them.
std::pair<mx::array, mx::array> with_last_frames(const mx::array& y, const std::optional<mx::array>& lead,
                                                 const mx::array& x, int64_t count, mx::StreamOrDevice s);

}  // namespace mlx_conv3d
