// Lines of pixels are shared among the threads; 16-bit ones pass through floats, a few pixels at a time.

#include "cpu/norm.h"

#include <algorithm>
#include <vector>

#include "cpu/threads.h"
#include "cpu/workspace.h"

namespace mlx_conv3d::cpu {
namespace {

constexpr int64_t kPixels = 64;

/// Pixels of a tensor as rows of floats: where they lie, or copied to `scratch`.
class Rows {
 public:
  Rows(const NormProblem& p, const TensorView& view, Dtype type) : p_(p), view_(view), type_(type) {}

  struct Run {
    const float* data;
    int64_t stride;
  };
  Run read(int64_t line, int64_t first, int64_t count, float* scratch) const {
    const int64_t h = line % p_.shape[2], d = line / p_.shape[2] % p_.shape[1],
                  n = line / p_.shape[2] / p_.shape[1];
    const int64_t at =
        n * view_.stride[0] + d * view_.stride[1] + h * view_.stride[2] + first * view_.stride[3];
    const char* from = view_.data + at * item_size(type_);
    if (type_ == Dtype::float32) return {reinterpret_cast<const float*>(from), view_.stride[3]};
    for (int64_t i = 0; i < count; ++i) {
      kernels().to_float(type_, from + i * view_.stride[3] * item_size(type_), scratch + i * p_.shape[4],
                         p_.shape[4]);
    }
    return {scratch, p_.shape[4]};
  }

 private:
  const NormProblem& p_;
  const TensorView& view_;
  const Dtype type_;
};

/// Calls body(run of x, its line, first pixel, pixels, thread, scratch) for all pixels; `scratch` holds
/// kPixels rows.
template <class Body>
void for_runs(const NormProblem& p, const TensorView& x, const Body& body) {
  const int64_t row = Workspace::rounded(kPixels * p.shape[4] * 4) / 4;
  Workspace workspace(thread_count() * 3 * row * 4);
  float* all = workspace.floats(thread_count() * 3 * row);
  const Rows rows(p, x, p.x_type);
  parallel_for(p.lines(), [&](int64_t line, int thread) {
    float* scratch = all + thread * 3 * row;
    for (int64_t first = 0; first < p.shape[3]; first += kPixels) {
      const int64_t count = std::min(kPixels, p.shape[3] - first);
      const Rows::Run run = rows.read(line, first, count, scratch);
      body(run, line, first, count, thread, scratch + row, scratch + 2 * row);
    }
  });
}

NormRows rows_of(const NormProblem& p, const Rows::Run& x, int64_t count, const float* weight) {
  return {count, p.shape[4], x.data, x.stride, weight, p.eps, p.activation};
}

/// Writes rows of floats that follow each other as `type`.
void write(Dtype type, const float* from, void* to, int64_t first, int64_t n) {
  const Epilogue as{type, Activation::none, nullptr, nullptr};
  kernels().store(as, from, 0, 0, static_cast<char*>(to) + first * item_size(type), n);
}

}  // namespace

void rms_norm(const NormProblem& p, const TensorView& x, const float* weight, void* y) {
  for_runs(p, x,
           [&](const Rows::Run& run, int64_t line, int64_t first, int64_t count, int, float* out, float*) {
             const int64_t at = (line * p.shape[3] + first) * p.shape[4];
             const bool in_place = p.y_type == Dtype::float32;
             kernels().rms_norm(rows_of(p, run, count, weight), in_place ? static_cast<float*>(y) + at : out);
             if (!in_place) write(p.y_type, out, y, at, count * p.shape[4]);
           });
}

void rms_norm_gradient(const NormProblem& p, const TensorView& x, const float* weight, const TensorView& dy,
                       void* dx, float* dw) {
  const int64_t channels = p.shape[4];
  std::vector<std::vector<float>> sums(static_cast<size_t>(thread_count()),
                                       std::vector<float>(static_cast<size_t>(channels)));
  const Rows cotangents(p, dy, p.y_type);
  for_runs(p, x,
           [&](const Rows::Run& run, int64_t line, int64_t first, int64_t count, int thread, float* out,
               float* scratch) {
             const int64_t at = (line * p.shape[3] + first) * channels;
             const bool in_place = p.x_type == Dtype::float32;
             const Rows::Run g = cotangents.read(line, first, count, scratch);
             kernels().rms_norm_gradient(rows_of(p, run, count, weight), g.data, g.stride,
                                         in_place ? static_cast<float*>(dx) + at : out, sums[thread].data());
             if (!in_place) write(p.x_type, out, dx, at, count * channels);
           });
  std::fill_n(dw, channels, 0.0f);
  for (const std::vector<float>& sum : sums) kernels().add(sum.data(), dw, channels);
}

}  // namespace mlx_conv3d::cpu
