// Walks a Program on MLX's Metal encoder: the only file that needs Metal's headers.

#include "metal/run.h"

#include <stdexcept>

#include "metal/kernel_sources.h"

#ifdef _METAL_

#include "mlx/allocator.h"
#include "mlx/backend/gpu/device_info.h"
#include "mlx/backend/metal/device.h"

namespace mlx_conv3d::metal {
namespace {

using Pipeline = MTL::ComputePipelineState*;

MTL::Size size_of(const Size3& s) {
  return MTL::Size(static_cast<NS::UInteger>(s[0]), static_cast<NS::UInteger>(s[1]),
                   static_cast<NS::UInteger>(s[2]));
}

/// The kernel's name with its function constants: what MLX keeps the pipeline under.
std::string specialised_name(const Step& step) {
  std::string name = step.kernel;
  for (const Constant& c : step.constants) {
    const int value = std::visit([](auto v) { return static_cast<int>(v); }, c.value);
    name += "_" + std::to_string(c.index) + "_" + std::to_string(value);
  }
  return name;
}

Pipeline pipeline(mx::metal::Device& device, const Step& step) {
  MTL::Library* library =
      device.get_library("mlx_conv3d_" + step.source, [&step] { return kernel_source(step.source); });
  mx::metal::MTLFCList constants;
  for (const Constant& c : step.constants) {
    std::visit(
        [&](const auto& value) {
          constexpr bool is_bool = std::is_same_v<std::decay_t<decltype(value)>, bool>;
          constants.emplace_back(&value, is_bool ? MTL::DataTypeBool : MTL::DataTypeInt, c.index);
        },
        c.value);
  }
  const Pipeline made = device.get_kernel(step.kernel, library, specialised_name(step), constants);
  const int64_t threads = step.threadgroup[0] * step.threadgroup[1] * step.threadgroup[2];
  if (static_cast<NS::UInteger>(threads) > made->maxTotalThreadsPerThreadgroup()) {
    throw std::runtime_error(step.kernel + " allows " +
                             std::to_string(made->maxTotalThreadsPerThreadgroup()) +
                             " threads per threadgroup, the step has " + std::to_string(threads) + ".");
  }
  return made;
}

std::vector<Pipeline> pipelines(const Program& program, mx::metal::Device& device) {
  std::vector<Pipeline> made;
  for (const Step& step : program.steps) made.push_back(pipeline(device, step));
  return made;
}

/// Counted in bytes, so that the encoder commits in time for the memory that is bound.
mx::array scratch(const Buffer& buffer) {
  mx::array a(mx::Shape{}, mx::uint8, nullptr, {});
  const size_t nbytes = static_cast<size_t>(buffer.nbytes);
  a.set_data(mx::allocator::malloc(nbytes), nbytes, {}, {true, true, true});
  return a;
}

/// One array for each of the Program's buffers. The encoder keeps the scratch until the GPU is done with it.
std::vector<mx::array> bind(const Program& program, const std::vector<mx::array>& operands,
                            mx::metal::CommandEncoder& encoder) {
  std::vector<mx::array> arrays;
  size_t next = 0;
  for (const Buffer& buffer : program.buffers) {
    if (buffer.role == Role::scratch) {
      arrays.push_back(scratch(buffer));
      encoder.add_temporary(arrays.back());
    } else {
      arrays.push_back(operands.at(next++));
    }
  }
  return arrays;
}

}  // namespace

bool available() {
  static const bool found = mx::gpu::is_available() && mx::gpu::device_count() > 0;
  return found;
}

void compile(const Program& program) { pipelines(program, mx::metal::device(mx::Device::gpu)); }

void run(const Program& program, const std::vector<mx::array>& operands, mx::Stream stream) {
  const std::vector<Pipeline> steps = pipelines(program, mx::metal::device(stream.device));
  mx::metal::CommandEncoder& encoder = mx::metal::get_command_encoder(stream);
  std::vector<mx::array> arrays = bind(program, operands, encoder);
  // MLX's encoder dispatches concurrently and puts a barrier where a step touches an array that an earlier
  // one wrote, or writes one that an earlier one read. Within a concurrent context what is written counts as
  // written only at its end. So operands that other operations have written are waited for and later
  // operations wait for the output and the scratch, while between these steps there are the Program's own
  // barriers and no other: steps that write different parts of the output run side by side. Output and
  // scratch are fresh, so nothing else uses their memory.
  const auto concurrent = encoder.start_concurrent();
  for (size_t i = 0; i < steps.size(); ++i) {
    const Step& step = program.steps[i];
    encoder.set_compute_pipeline_state(steps[i]);
    if (step.barrier) encoder.barrier();
    for (const Binding& b : step.bindings) {
      if (b.written) {
        encoder.set_output_array(arrays[b.buffer], b.index);
      } else {
        encoder.set_input_array(arrays[b.buffer], b.index);
      }
    }
    for (const Argument& a : step.arguments) {
      encoder.set_bytes(a.data.data(), static_cast<int>(a.data.size()), a.index);
    }
    if (step.threads) {
      encoder.dispatch_threads(size_of(step.grid), size_of(step.threadgroup));
    } else {
      encoder.dispatch_threadgroups(size_of(step.grid), size_of(step.threadgroup));
    }
  }
}

}  // namespace mlx_conv3d::metal

#else

namespace mlx_conv3d::metal {

bool available() { return false; }

void compile(const Program&) { throw std::runtime_error("[mlx_conv3d] built for an MLX without Metal."); }

void run(const Program& program, const std::vector<mx::array>&, mx::Stream) { compile(program); }

}  // namespace mlx_conv3d::metal

#endif
