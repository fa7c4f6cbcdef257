#pragma once

#include <vector>

#include "metal/program.h"
#include "mlx/array.h"
#include "mlx/stream.h"

namespace mlx_conv3d::metal {

namespace mx = mlx::core;

/// Whether GPU streams here are Metal's and there is a GPU.
bool available();

/// Makes the pipelines of all steps, which MLX keeps. Throws std::runtime_error, with the compiler's words,
/// where a kernel does not compile or allows fewer threads than its steps ask for.
void compile(const Program& program);

/// Encodes the steps on the stream, from within a primitive's eval_gpu; returns before they run. `operands`
/// are the arrays of the Program's inputs and outputs, in the order of its buffers. Throws as compile() does,
/// before it has encoded anything.
void run(const Program& program, const std::vector<mx::array>& operands, mx::Stream stream);

}  // namespace mlx_conv3d::metal
