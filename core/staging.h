#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "cpu/geometry.h"
#include "cpu/layout.h"
#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/mlx.h"

namespace mlx_conv3d {

namespace mx = mlx::core;

[[noreturn]] inline void no_gpu() {
  throw std::runtime_error("[mlx_conv3d] this operation is built on CPU streams only.");
}

/// Memory for an array that a CPU writes, from the start of a cache line on. What MLX's allocator gives on
/// Linux begins 8 to 56 bytes behind one: each vector of 64 bytes would lie in two.
inline void allocate(mx::array& a) {
  constexpr uintptr_t kLine = 64;
  a.set_data(mx::allocator::malloc(a.nbytes() + kLine));
  const uintptr_t past = reinterpret_cast<uintptr_t>(a.data<char>()) % kLine;
  if (past == 0 || past % a.itemsize() != 0) return;
  a.copy_shared_buffer(a, a.strides(), a.flags(), a.size(),
                       static_cast<int64_t>((kLine - past) / a.itemsize()));
}

/// Collects what has to be copied to be readable: the CPU backend wants a pixel's channels next to each
/// other.
class Staging {
 public:
  explicit Staging(mx::Stream stream) : encoder_(mx::cpu::get_command_encoder(stream)) {}

  /// `whole`: all of a batch entry contiguous.
  cpu::TensorView pixels(const mx::array& a, bool whole = false) {
    const bool fits = a.size() == 0 || is_contiguous(a.strides().data(), a.shape(), whole ? 1 : 4);
    const mx::array& from = fits ? a : copy(a);
    cpu::TensorView view;
    view.data = from.data<char>();
    for (int i = 0; i < 4; ++i) view.stride[i] = from.strides(i);
    return view;
  }

  const void* contiguous(const mx::array& a) { return (a.flags().row_contiguous ? a : copy(a)).data<char>(); }

  /// The same weights with the strides of contiguous ones.
  cpu::WeightView contiguous(const cpu::WeightView& w, const mx::Shape& shape, mx::Dtype type) {
    cpu::WeightView made = w;
    for (int64_t i = 4, stride = 1; i >= 0; stride *= shape[i--]) made.stride[i] = stride;
    if (!is_contiguous(w.stride, shape, 0))
      made.data = copy(static_cast<const char*>(w.data), type, shape, w.stride).data<char>();
    return made;
  }

  void run() const {
    for (const cpu::StridedCopy& task : tasks_) cpu::copy_contiguous(task);
  }

 private:
  /// The axes from `first` on.
  static bool is_contiguous(const int64_t* strides, const mx::Shape& shape, int first) {
    int64_t next = 1;
    for (int i = 4; i >= first; next *= shape[i--]) {
      if (strides[i] != next && shape[i] != 1) return false;
    }
    return true;
  }

  const mx::array& copy(const mx::array& a) {
    return copy(a.data<char>(), a.dtype(), a.shape(), a.strides().data());
  }

  const mx::array& copy(const char* from, mx::Dtype type, const mx::Shape& shape, const int64_t* strides) {
    mx::array to(shape, type, nullptr, {});
    allocate(to);
    cpu::StridedCopy task;
    task.from = from;
    task.to = to.data<char>();
    task.item = static_cast<int64_t>(to.itemsize());
    const int ndim = static_cast<int>(shape.size());
    for (int i = 0; i < ndim; ++i) {
      task.shape[5 - ndim + i] = shape[i];
      task.stride[5 - ndim + i] = strides[i];
    }
    tasks_.push_back(task);
    encoder_.add_temporary(to);
    return encoder_.temporaries().back();
  }

  mx::cpu::CommandEncoder& encoder_;
  std::vector<cpu::StridedCopy> tasks_;
};

}  // namespace mlx_conv3d
