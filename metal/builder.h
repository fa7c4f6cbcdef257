#pragma once

#include <array>
#include <cstring>
#include <type_traits>

#include "core/integers.h"
#include "metal/lower.h"

namespace mlx_conv3d::metal {

template <class T>
Argument argument(int index, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  Argument a{index, std::string(sizeof(T), '\0')};
  std::memcpy(a.data.data(), &value, sizeof(T));
  return a;
}

/// Collects the buffers and steps of a Program, and sets the steps' barriers.
class Builder {
 public:
  /// Declares the operands of the problem and the output.
  Builder(const ConvProblem& problem, const Layout& layout);

  int scratch(const std::string& name, int64_t nbytes);
  /// Adds a step. It gets a barrier if it touches scratch that an earlier step since the last barrier writes,
  /// or writes what such a step reads. Steps write different parts of the output, so that asks for none;
  /// reading it does.
  void add(Step step);

  /// The buffer, or the output where it is empty: then the step reads nothing of it, but Metal binds no empty
  /// buffers.
  int readable(int buffer) const { return program.buffers[buffer].nbytes > 0 ? buffer : y; }
  /// What kernels/input.h needs: bindings 0 (x) and 1 (lead), and the function constants of padding and lead.
  /// `unpadded`: axes along which the step reads no padding.
  void bind_input(Step& step, std::array<bool, 3> unpadded = {}) const;
  /// What kernels/epilogue.h needs: the output at `first`, then bias and residual where there are any.
  void bind_epilogue(Step& step, int first) const;
  /// The same for a step that keeps its fp32 sums in a buffer.
  void bind_sums(Step& step, int first, int buffer) const;
  /// What kernels/weight_size.h needs, for a kernel of these taps.
  void set_weight_size(Step& step, const Size3& taps) const;
  InputArrays input_arrays() const;

  int x = -1, w = -1, lead = -1, bias = -1, residual = -1, y = -1;
  Program program;

 private:
  int declare(const std::string& name, Role role, Dtype dtype, std::vector<int64_t> shape, int64_t elements);

  const ConvProblem& p_;
  const Layout& layout_;
  std::vector<Binding> running_;  ///< what steps since the last barrier touch
};

void lower_gather_gemm(const ConvProblem& problem, const Candidate& candidate, const Layout& layout,
                       Builder& builder);
void lower_grouped(const ConvProblem& problem, const Layout& layout, Builder& builder);
void lower_winograd(const ConvProblem& problem, const Candidate& candidate, const Layout& layout,
                    Builder& builder);

}  // namespace mlx_conv3d::metal
