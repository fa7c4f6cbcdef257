#pragma once

// A Program: all that one convolution sends to the GPU, as plain data. metal/lower.cpp makes it from a Plan,
// anywhere; metal/run.cpp walks it on a Mac; the tests' simulator executes it on Linux.

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "core/problem.h"

namespace mlx_conv3d::metal {

enum class Role : uint8_t { input, output, scratch };

/// Memory of `nbytes` bytes. Inputs are never written; scratch starts undefined.
struct Buffer {
  std::string name;
  Role role = Role::scratch;
  int64_t nbytes = 0;
  Dtype dtype = Dtype::float32;
  std::vector<int64_t> shape;
};

/// Program::buffers[buffer] as [[buffer(index)]].
struct Binding {
  int index = 0;
  int buffer = 0;
  bool written = false;
};

/// Bytes of a structure of kernels/params.h as [[buffer(index)]].
struct Argument {
  int index = 0;
  std::string data;
};

struct Constant {
  int index = 0;
  std::variant<bool, int> value;
};

/// One dispatch of `kernel` of the file `source` in kernels/.
struct Step {
  std::string kernel, source;
  Size3 grid{1, 1, 1};         ///< threadgroups, or threads where `threads` says so
  Size3 threadgroup{1, 1, 1};  ///< threads per threadgroup
  bool threads = false;
  std::vector<Binding> bindings;
  std::vector<Argument> arguments;
  std::vector<Constant> constants;
  bool barrier = false;       ///< everything before this step completes before it starts
  std::vector<int> discards;  ///< scratch whose content is dead when the step starts
  double nbytes = 0;          ///< different bytes that it reads and writes
  double flops = 0;
};

struct Program {
  std::vector<Buffer> buffers;
  std::vector<Step> steps;

  int64_t scratch_bytes() const {
    int64_t sum = 0;
    for (const Buffer& b : buffers) sum += b.role == Role::scratch ? b.nbytes : 0;
    return sum;
  }
};

}  // namespace mlx_conv3d::metal
