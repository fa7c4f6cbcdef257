#include "core/problem.h"

#include <algorithm>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace mlx_conv3d {
namespace {

std::string text(const Size3& s) {
  std::ostringstream out;
  out << "(" << s[0] << ", " << s[1] << ", " << s[2] << ")";
  return out.str();
}

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument("[conv] " + message); }

void require_positive(const char* name, const Size3& values) {
  for (int64_t v : values) {
    if (v <= 0) fail(std::string(name) + " must be positive, got " + text(values) + ".");
  }
}

}  // namespace

int64_t ConvProblem::output(int axis) const {
  const int64_t padded_size = dilated(extent(axis), input_dilation[axis]) + pad_lo[axis] + pad_hi[axis];
  const int64_t reach = padded_size - dilated(kernel[axis], dilation[axis]);
  return reach < 0 ? 0 : reach / stride[axis] + 1;
}

double ConvProblem::direct_flops() const {
  return 2.0 * static_cast<double>(out_positions()) * static_cast<double>(out_channels) *
         static_cast<double>(group_in() * taps());
}

double ConvProblem::input_bytes() const {
  return static_cast<double>(batch * stored(0) * input[1] * input[2]) * in_channels * item_size(x_type);
}

double ConvProblem::operand_bytes() const {
  const double w = static_cast<double>(out_channels * taps()) * group_in();
  const double y = static_cast<double>(out_positions()) * out_channels;
  return input_bytes() + w * item_size(w_type) + y * item_size(out_type) * (residual ? 2 : 1) +
         (bias ? 4.0 * out_channels : 0.0);
}

int64_t ConvProblem::source_index(int axis, int64_t q) const {
  const int64_t n = extent(axis), scale = upsample[axis];
  if (input_dilation[axis] > 1) {
    if (q < 0 || q % input_dilation[axis] != 0) return -1;
    q /= input_dilation[axis];
    return q < n ? q : -1;
  }
  if (q >= 0 && q < n) return q / scale;
  switch (pad_mode[axis]) {
    case PadMode::zeros:
      return -1;
    case PadMode::edge:
      return q < 0 ? 0 : (n - 1) / scale;
    case PadMode::reflect:
      q = q < 0 ? -q : 2 * (n - 1) - q;
      return q < 0 ? -1 : q / scale;
  }
  return -1;
}

void ConvProblem::validate() const {
  require_positive("stride", stride);
  require_positive("dilation", dilation);
  require_positive("input_dilation", input_dilation);
  require_positive("upsample", upsample);
  if (upsampled() && input_dilated()) fail("upsample needs input_dilation 1.");
  require_positive("the kernel's size", kernel);
  for (int axis = 0; axis < 3; ++axis) {
    if (upsampled() &&
        upsample[axis] > std::numeric_limits<int32_t>::max() / std::max<int64_t>(1, stored(axis))) {
      fail("upsample makes an axis of " + std::to_string(stored(axis)) + " too long: " + text(upsample) +
           ".");
    }
  }
  if (groups <= 0) fail("groups must be positive, got " + std::to_string(groups) + ".");
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t size = dilated(extent(axis), input_dilation[axis]) + pad_lo[axis] + pad_hi[axis];
    if (size < dilated(kernel[axis], dilation[axis])) {
      fail(
          "Spatial dimensions of input after padding cannot be smaller than weight spatial dimensions: "
          "input " +
          text({extent(0), extent(1), extent(2)}) + ", padding " + text(pad_lo) + " | " + text(pad_hi) +
          ", weight " + text(kernel) + ", dilation " + text(dilation) + ".");
    }
    if (pad_mode[axis] == PadMode::zeros || !padded(axis)) continue;
    if (input_dilation[axis] > 1) {
      fail(std::string("padding_mode ") + name_of(pad_mode[axis]) + " needs input_dilation 1.");
    }
    const int64_t most = std::max(pad_lo[axis], pad_hi[axis]);
    if (pad_mode[axis] == PadMode::reflect && most >= extent(axis) && most > 0) {
      fail("padding_mode reflect needs a padding smaller than the input's axis, got padding " +
           std::to_string(most) + " for a size of " + std::to_string(extent(axis)) + ".");
    }
    if (pad_mode[axis] == PadMode::edge && extent(axis) == 0) {
      fail("padding_mode edge needs an input axis of at least 1.");
    }
  }
}

std::string ConvProblem::describe() const {
  std::ostringstream out;
  out << "x (" << batch << ", " << stored(0) << ", " << input[1] << ", " << input[2] << ", " << in_channels
      << ") " << name_of(x_type) << ", w (" << out_channels << ", " << kernel[0] << ", " << kernel[1] << ", "
      << kernel[2] << ", " << group_in() << ") " << name_of(w_type) << ", stride " << text(stride)
      << ", padding " << text(pad_lo) << " | " << text(pad_hi);
  if (dilation != Size3{1, 1, 1}) out << ", dilation " << text(dilation);
  if (input_dilated()) out << ", input dilation " << text(input_dilation);
  if (upsampled()) out << ", upsampled " << text(upsample);
  if (groups > 1) out << ", groups " << groups;
  if (lead > 0) out << ", lead frames " << lead;
  if (flip) out << ", flipped";
  return out.str();
}

const char* name_of(Dtype type) {
  switch (type) {
    case Dtype::float32:
      return "float32";
    case Dtype::float16:
      return "float16";
    case Dtype::bfloat16:
      return "bfloat16";
  }
  return "?";
}

const char* name_of(PadMode mode) {
  switch (mode) {
    case PadMode::zeros:
      return "zeros";
    case PadMode::edge:
      return "edge";
    case PadMode::reflect:
      return "reflect";
  }
  return "?";
}

const char* name_of(Activation activation) {
  switch (activation) {
    case Activation::none:
      return "none";
    case Activation::relu:
      return "relu";
    case Activation::silu:
      return "silu";
    case Activation::gelu:
      return "gelu";
    case Activation::sigmoid:
      return "sigmoid";
    case Activation::tanh:
      return "tanh";
  }
  return "?";
}

}  // namespace mlx_conv3d
