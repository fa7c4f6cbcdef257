#include "cpu/last_frames.h"

#include <algorithm>
#include <cstring>

namespace mlx_conv3d::cpu {

LastFrames::LastFrames(const ConvProblem& p, const Operands& operands, int64_t kept, void* to)
    : x_(operands.x),
      lead_(operands.lead),
      batch_(p.batch),
      lead_frames_(p.lead),
      frames_(p.lead + p.input[kDepth]),
      kept_(kept),
      rows_(p.input[kHeight]),
      cols_(p.input[kWidth]),
      pixel_(p.in_channels * item_size(p.x_type)),
      item_(item_size(p.x_type)),
      to_(static_cast<char*>(to)) {}

void LastFrames::copy() const {
  const int64_t frame = rows_ * cols_ * pixel_, begin = frames_ - kept_;
  const int64_t from_lead = std::max<int64_t>(0, lead_frames_ - begin);
  for (int64_t n = 0; n < batch_; ++n) {
    char* to = to_ + n * kept_ * frame;
    copy_frames(lead_, n, begin, from_lead, to);
    copy_frames(x_, n, begin + from_lead - lead_frames_, kept_ - from_lead, to + from_lead * frame);
  }
}

/// Pixels that lie next to each other are copied at once.
void LastFrames::copy_frames(const TensorView& from, int64_t n, int64_t first, int64_t count,
                             char* to) const {
  const int64_t sizes[] = {count, rows_, cols_};
  int64_t run = pixel_, counts[] = {1, 1, 1};
  int axis = 2;
  for (; axis >= 0 && (sizes[axis] == 1 || from.stride[axis + 1] * item_ == run); --axis) run *= sizes[axis];
  for (int i = 0; i <= axis; ++i) counts[i] = sizes[i];
  for (int64_t d = 0; d < counts[0]; ++d) {
    for (int64_t h = 0; h < counts[1]; ++h) {
      for (int64_t w = 0; w < counts[2]; ++w, to += run) {
        const int64_t at =
            n * from.stride[0] + (first + d) * from.stride[1] + h * from.stride[2] + w * from.stride[3];
        std::memcpy(to, from.data + at * item_, static_cast<size_t>(run));
      }
    }
  }
}

}  // namespace mlx_conv3d::cpu
