// The grouped kernels against Eigen's dense matrix product, on buffers of 64 frames: what an audio model's
// layer does for every buffer. Weights and buffers are ready on both sides; Eigen's weight is the dense
// matrix, zero outside its groups' blocks, dynamic in size.

#include "cpu/simd/grouped.h"

#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/plan_grouped.h"
#include "cpu/grouped_layout.h"

namespace {

using namespace mlx_conv3d;
namespace simd = mlx_conv3d::cpu::SIMD_NAMESPACE;
constexpr int kFrames = 64, kVector = simd::kWidth;

struct Shape {
  int channels, groups, taps, dilation;
  int per_group() const { return channels / groups; }
  int reach() const { return (taps - 1) * dilation; }
  std::string name() const {
    const std::string kind = taps == 1 ? "conv1x1" : "conv1d_k" + std::to_string(taps);
    return kind + "/" + std::to_string(channels) + "x" + std::to_string(channels) + "/G" +
           std::to_string(groups);
  }
};

using Matrix = Eigen::Map<Eigen::MatrixXf, Eigen::Aligned64>;

/// One layer: frames before the buffer stay in front of it, as in a causal stream. Both sides read the same
/// input; their outputs are half a page from it, so that no store looks like one to what is loaded next.
class Layer {
 public:
  explicit Layer(const Shape& shape)
      : s_(shape),
        memory_(kRegion * 3),
        input_(memory_.data(), shape.channels, kFrames + shape.reach()),
        output_(memory_.data() + kRegion + kHalfPage, shape.channels, kFrames),
        ours_(memory_.data() + 2 * kRegion + kHalfPage, shape.channels, kFrames),
        bias_(Eigen::VectorXf::Random(shape.channels)) {
    for (int k = 0; k < s_.taps; ++k) {
      Eigen::MatrixXf w = Eigen::MatrixXf::Zero(s_.channels, s_.channels);
      for (int g = 0, n = s_.per_group(); g < s_.groups; ++g) w.block(g * n, g * n, n, n).setRandom();
      weights_.push_back(w);
    }
    input_.setRandom();
    prepare();
  }

  void eigen() {
    output_.noalias() = weights_[0] * input_.leftCols(kFrames);
    for (int k = 1; k < s_.taps; ++k) {
      output_.noalias() += weights_[k] * input_.middleCols(k * s_.dilation, kFrames);
    }
    output_.colwise() += bias_;
    benchmark::DoNotOptimize(output_.data());
    benchmark::ClobberMemory();
  }

  void kernel() {
    run_(rows_);
    benchmark::DoNotOptimize(ours_.data());
    benchmark::ClobberMemory();
  }

  void check() {
    eigen();
    kernel();
    if ((ours_ - output_).norm() <= 1e-5f * output_.norm()) return;
    std::fprintf(stderr, "%s: the results differ\n", s_.name().c_str());
    std::exit(1);
  }

 private:
  void prepare() {
    const int64_t set = grouped_set_positions(s_.channels, kVector);
    vectors_ = cpu::grouped_vectors(s_.channels, s_.per_group(), s_.per_group(), kVector);
    const int kernel = find_kernel(), rotation = simd::grouped_rotation(kernel);
    run_ = simd::grouped_function(kernel);
    for (const auto& vector : vectors_) {
      for (int k = 0; k < s_.taps; ++k) {
        for (int c = 0; c < s_.per_group(); ++c) {
          for (int l = 0; l < kVector; ++l) {
            const int n = s_.per_group(), o = (vector.out + l) % s_.channels;
            packed_.push_back(weights_[k](o, o / n * n + (rotation == 0 ? c : (c + o) % rotation)));
          }
        }
      }
      for (int l = 0; l < kVector; ++l) spread_bias_.push_back(bias_((vector.out + l) % s_.channels));
    }
    for (int k = 0; k < s_.taps; ++k) offsets_.push_back(k * s_.dilation * s_.channels);
    row_ = input_.data();
    rows_ = {};
    rows_.rows = &row_;
    rows_.depth_taps = rows_.row_taps = 1;
    rows_.col_taps = s_.taps;
    rows_.col_offsets = offsets_.data();
    rows_.spacing = s_.dilation % set == 0 ? s_.dilation / set : 0;
    rows_.sets = (kFrames + set - 1) / set;
    rows_.in_step = rows_.out_step = set * s_.channels;
    rows_.group_in = s_.per_group();
    rows_.vectors = static_cast<int64_t>(vectors_.size());
    rows_.vector = vectors_.data();
    rows_.weights = packed_.data();
    rows_.bias = spread_bias_.data();
    rows_.activation = Activation::none;
    rows_.out = ours_.data();
    rows_.out_floats = kFrames * s_.channels;
  }

  int find_kernel() const {
    const GroupedFamily family = s_.taps == 1 ? GroupedFamily::pointwise : GroupedFamily::rows;
    for (int i = 0; i < GroupedKernels::kCount; ++i) {
      const GroupedKernel& k = kGroupedKernels.at[i];
      if (k.family == family && k.rank == 1 && k.group_in == s_.per_group() &&
          k.group_out == s_.per_group()) {
        return i;
      }
    }
    std::fprintf(stderr, "%s: no kernel\n", s_.name().c_str());
    std::exit(1);
  }

  static constexpr int kHalfPage = 512, kRegion = 4096;  // floats
  const Shape s_;
  std::vector<float, Eigen::aligned_allocator<float>> memory_;
  Matrix input_, output_, ours_;
  Eigen::VectorXf bias_;
  std::vector<Eigen::MatrixXf> weights_;
  std::vector<cpu::GroupedVector> vectors_;
  std::vector<float, Eigen::aligned_allocator<float>> packed_, spread_bias_;
  std::vector<int64_t> offsets_;
  const float* row_ = nullptr;
  cpu::GroupedRows rows_;
  cpu::GroupedFunction run_ = nullptr;
};

void add(const Shape& shape) {
  auto layer = std::make_shared<Layer>(shape);
  layer->check();
  benchmark::RegisterBenchmark(("eigen/" + shape.name()).c_str(), [layer](benchmark::State& state) {
    for (auto _ : state) layer->eigen();
  });
  benchmark::RegisterBenchmark(("kernel/" + shape.name()).c_str(), [layer](benchmark::State& state) {
    for (auto _ : state) layer->kernel();
  });
}

}  // namespace

int main(int argc, char** argv) {
  for (const auto& [taps, dilation] : {std::pair{1, 1}, std::pair{3, 2}}) {
    for (int channels : {4, 6, 8, 12, 16}) {
      for (int groups : {1, 2, 3, 4, 6, 8}) {
        if (channels % groups == 0) add({channels, groups, taps, dilation});
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("isa", SIMD_TEXT(SIMD_ISA));
  benchmark::AddCustomContext("eigen", Eigen::SimdInstructionSetsInUse());
  benchmark::RunSpecifiedBenchmarks();
}
