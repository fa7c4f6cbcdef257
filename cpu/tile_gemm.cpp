// Convolution as products of bf16 tiles: each task packs a block of padded input and reads every tap's
// operand from it in place.

#include "cpu/tile_gemm.h"

#include <algorithm>
#include <atomic>

#include "core/integers.h"
#include "cpu/frame_gemm.h"
#include "cpu/joined_phases.h"
#include "cpu/row_conv.h"
#include "cpu/slab.h"
#include "cpu/threads.h"
#include "cpu/tile_pixels.h"

namespace mlx_conv3d::cpu {
namespace {

/// Of a row of taps, the channels that are taken with all of them before the next ones are.
constexpr int64_t kRowSteps = 12;

/// One phase of the outputs: its axes, the slab of a block, and the steps of an output's sum.
struct TilePhase {
  TilePhase(const ConvProblem& p, const TilePlan& plan, const AxisPhase& d, const AxisPhase& h,
            const AxisPhase& w)
      : d(d),
        h(h),
        w(w),
        slab_d(p, kDepth, d),
        slab_h(p, kHeight, h),
        slab_w(p, kWidth, w),
        layout(plan.in_place ? SlabLayout(TilePixels::row_step(p, h, w, std::min(plan.rows, h.count),
                                                               std::min(plan.cols, w.count)))
                             : SlabLayout(slab_d, slab_h, slab_w, p.group_in(), plan.parts,
                                          std::min(plan.rows, h.count), std::min(plan.cols, w.count))) {
    // Some phases of a dilated input meet no tap along an axis.
    if (w.tap_count() == 0) return;
    for (int64_t kd = 0; kd < d.tap_count(); ++kd) {
      for (int64_t kh = 0; kh < h.tap_count(); ++kh) {
        if (layout.merged) {
          begin_group(divide_up(w.tap_count() * p.group_in(), kTileDepth), plan);
          add_run(kd, kh, 0, 0, w.tap_count() * p.group_in());
        } else {
          add_row(kd, kh, p.group_in(), plan);
        }
      }
    }
    if (!steps.empty()) block_ends.push_back(static_cast<int64_t>(steps.size()));
  }

  struct Step {
    int64_t kd, at;           ///< the depth tap, and items from an output's place in that frame
    int64_t kh, kw, channel;  ///< of the first product
    int64_t products;
    int pairs() const { return static_cast<int>(divide_up(products, 2)); }
  };

  /// Element offset of each of all steps' 32 products in the weights, -1 behind a run's end.
  std::vector<int64_t> weight_offsets(const ConvProblem& p, const WeightView& view) const {
    std::vector<int64_t> offsets;
    offsets.reserve(steps.size() * kTileDepth);
    for (const Step& s : steps) {
      for (int64_t i = 0; i < kTileDepth; ++i) {
        const int64_t kw = s.kw + (s.channel + i) / p.group_in(), c = (s.channel + i) % p.group_in();
        offsets.push_back(i >= s.products ? -1
                                          : d.taps[s.kd] * view.stride[1] + h.taps[s.kh] * view.stride[2] +
                                                w.taps[kw] * view.stride[3] + c * view.stride[4]);
      }
    }
    return offsets;
  }

  const AxisPhase &d, &h, &w;
  const SlabAxis slab_d, slab_h, slab_w;
  const SlabLayout layout;
  std::vector<Step> steps;
  std::vector<int64_t> block_ends;  ///< steps from one to the next are one block

 private:
  /// The next `count` steps are in one block.
  void begin_group(int64_t count, const TilePlan& plan) {
    const int64_t held = static_cast<int64_t>(steps.size());
    const int64_t begin = block_ends.empty() ? 0 : block_ends.back();
    if (held > begin && held + count - begin > tile_block_steps(plan)) block_ends.push_back(held);
  }

  /// A row of taps: all of them meet some channels while these are in the L1 cache.
  void add_row(int64_t kd, int64_t kh, int64_t channels, const TilePlan& plan) {
    const int64_t taps = w.tap_count(), all = divide_up(channels, kTileDepth);
    const int64_t pieces = divide_up(all, std::max<int64_t>(1, kRowSteps / taps));
    for (int64_t i = 0; i < pieces; ++i) {
      const int64_t from = all * i / pieces * kTileDepth;
      const int64_t to = std::min(channels, all * (i + 1) / pieces * kTileDepth);
      begin_group(taps * divide_up(to - from, kTileDepth), plan);
      for (int64_t kw = 0; kw < taps; ++kw) add_run(kd, kh, kw, from, to);
    }
  }

  void add_run(int64_t kd, int64_t kh, int64_t kw, int64_t from, int64_t to) {
    const int64_t at = layout.tap(slab_h, kh, slab_w, kw);
    for (int64_t i = from; i < to; i += kTileDepth) {
      steps.push_back({kd, at + i, kh, kw, i, std::min<int64_t>(kTileDepth, to - i)});
    }
  }
};

/// Weights of the longest block of steps, where a task packs its own.
int64_t block_items(const TilePlan& plan, const TilePhase& phase) {
  int64_t longest = 0, begin = 0;
  for (int64_t end : phase.block_ends) {
    longest = std::max(longest, end - begin);
    begin = end;
  }
  return plan.own_weights ? tile_panel_items(longest, plan.parts, kPanelTiles) : 0;
}

/// Floats from row to row of the sums, off the strides that meet in few of the L1 cache's sets.
int64_t sums_stride(const TilePlan& plan, int64_t panels) {
  const int64_t columns = std::min(plan.panels, panels) * kPanelColumns;
  return columns % 128 == 0 ? columns + kTileSide : columns;
}

class TileGemm {
 public:
  TileGemm(const ConvProblem& p, const TilePlan& plan, const Operands& operands, const TilePhase& phase,
           uint16_t* weights, Workspace& workspace)
      : p_(p),
        plan_(plan),
        operands_(operands),
        input_(p, operands),
        phase_(phase),
        layout_(phase.layout),
        k_(kernels()),
        slab_(p, input_, phase.slab_h, phase.slab_w, phase.layout, p.group_in()),
        pixels_(p, input_, phase.slab_h, phase.slab_w),
        panels_(divide_up(p.group_out(), kPanelColumns)),
        rows_(std::min(plan.rows, phase.h.count)),
        cols_(std::min(plan.cols, phase.w.count)),
        weights_(weights),
        offsets_(phase.weight_offsets(p, operands.w)) {
    c_stride_ = sums_stride(plan, panels_);
    for (int t = 0; t < thread_count(); ++t) {
      auto* slab = static_cast<uint16_t*>(workspace.bytes(layout_.items() * 2));
      // Products behind a merged run meet the next pixels, and zero weights: these must be numbers.
      if (layout_.merged) std::fill_n(slab, layout_.items(), uint16_t{0});
      slabs_.push_back(slab);
      sums_.push_back(workspace.floats(rows_ * layout_.row_step * c_stride_));
      if (plan.own_weights) {
        own_weights_.push_back(static_cast<uint16_t*>(workspace.bytes(block_items(plan, phase) * 2)));
      }
    }
  }

  bool run() {
    for (int64_t first = 0; first < p_.groups; first += plan_.groups) {
      const int64_t groups = std::min(plan_.groups, p_.groups - first);
      for (first_panel_ = 0; first_panel_ < panels_; first_panel_ = end_panel_) {
        end_panel_ = std::min(panels_, first_panel_ + plan_.weight_panels);
        if (!run_slice(first, groups)) return false;
      }
    }
    return true;
  }

 private:
  /// Of some groups, the outputs of the panels from first_panel_ to end_panel_.
  bool run_slice(int64_t first_group, int64_t groups) {
    if (!plan_.own_weights && !pack_weights(first_group, groups)) return false;
    const int64_t row_chunks = divide_up(phase_.h.count, rows_),
                  col_chunks = divide_up(phase_.w.count, cols_);
    const int64_t frame_chunks = divide_up(phase_.d.count, plan_.frames);
    const int64_t out_chunks = divide_up(end_panel_ - first_panel_, plan_.task_panels);
    const int64_t tasks = groups * p_.batch * frame_chunks * row_chunks * col_chunks * out_chunks;
    parallel_for(tasks, [&](int64_t i, int thread) {
      if (unfit_.load(std::memory_order_relaxed)) return;
      const auto part = [&](int64_t count) {
        const int64_t at = i % count;
        i /= count;
        return at;
      };
      const auto range = [](int64_t all, int64_t at, int64_t count) {
        return std::pair{all * at / count, all * (at + 1) / count};
      };
      const auto [panel, panel_end] = range(end_panel_ - first_panel_, part(out_chunks), out_chunks);
      const auto [col, col_end] = range(phase_.w.count, part(col_chunks), col_chunks);
      const auto [row, row_end] = range(phase_.h.count, part(row_chunks), row_chunks);
      const auto [frame, frame_end] = range(phase_.d.count, part(frame_chunks), frame_chunks);
      const int64_t n = part(p_.batch);
      task(first_group + i, n, frame, frame_end, {row, row_end - row, col, col_end - col},
           first_panel_ + panel, first_panel_ + panel_end, thread);
    });
    return !unfit_.load() && tiles_hold(largest_.load()) && tiles_hold(largest_weight_.load());
  }

  int64_t step_count() const { return static_cast<int64_t>(phase_.steps.size()); }
  int panel_tiles(int64_t panel) const {
    return static_cast<int>(
        std::min<int64_t>(kPanelTiles, divide_up(p_.group_out(), kTileSide) - panel * kPanelTiles));
  }
  /// A panel's packed weights from a step on.
  uint16_t* panel_weights(int64_t g, int64_t panel, int64_t step) const {
    const int64_t at = g % plan_.groups * (end_panel_ - first_panel_) + panel - first_panel_;
    return weights_ + at * tile_panel_items(step_count(), plan_.parts, kPanelTiles) +
           tile_panel_items(step, plan_.parts, panel_tiles(panel));
  }

  bool pack_weights(int64_t first_group, int64_t groups) {
    constexpr int64_t kPiece = 64;
    const int64_t pieces = divide_up(step_count(), kPiece);
    const int64_t panels = end_panel_ - first_panel_;
    parallel_for(groups * panels * pieces, [&](int64_t i, int) {
      const int64_t g = first_group + i / pieces / panels, panel = first_panel_ + i / pieces % panels;
      const int64_t piece = i % pieces;
      const int64_t first = step_count() * piece / pieces, last = step_count() * (piece + 1) / pieces;
      raise_to(largest_weight_, pack_steps(g, panel, first, last, panel_weights(g, panel, first)));
    });
    return tiles_hold(largest_weight_.load());
  }

  /// A panel's weights of some steps; returns the largest magnitude's bits.
  uint32_t pack_steps(int64_t g, int64_t panel, int64_t first, int64_t last, uint16_t* out) const {
    const int64_t channel = panel * kPanelColumns;
    TileWeightPanel w{};
    w.w = weights_from(operands_.w, g * p_.group_out() + channel);
    w.offsets = offsets_.data() + first * kTileDepth;
    w.steps = last - first;
    w.following = step_count() - last;
    w.out_channels = p_.group_out() - channel;
    w.tiles = panel_tiles(panel);
    w.parts = plan_.parts;
    w.out = out;
    return k_.tiles->pack(w);
  }

  void task(int64_t g, int64_t n, int64_t frame, int64_t frame_end, const Slab::Block& block, int64_t panel,
            int64_t panel_end, int thread) {
    const int64_t channel = g * p_.group_in();
    std::vector<int64_t> held(static_cast<size_t>(phase_.slab_d.span), -1);
    std::vector<TileStep> steps;
    std::vector<StepBlock> blocks;
    for (; frame < frame_end; ++frame) {
      for (int64_t kd = 0; !phase_.steps.empty() && kd < phase_.d.tap_count(); ++kd) {
        const int64_t u = depth_at(frame, kd), source = phase_.slab_d.sources[u],
                      slot = u % phase_.slab_d.span;
        if (source < 0 || held[slot] == u) continue;
        const uint32_t largest = plan_.in_place
                                     ? pixels_.look(*k_.tiles, n, source, channel, p_.group_in(), block)
                                     : slab_.pack(*k_.tiles, n, source, channel, block, slot, slabs_[thread]);
        raise_to(largest_, largest);
        if (!tiles_hold(std::max(largest, kOne))) {
          unfit_.store(true, std::memory_order_relaxed);
          return;
        }
        held[slot] = u;
      }
      const auto left = [&](int64_t u) {
        if (plan_.in_place) return pixels_.left(n, phase_.slab_d.sources[u], channel, block);
        const int64_t slot = u % phase_.slab_d.span;
        return TileLeft{slabs_[thread] + slot * layout_.frame_items, layout_.stride,
                        layout_.row_step * layout_.stride};
      };
      make_steps(frame, left, steps, blocks);
      for (int64_t from = panel; from < panel_end; from += plan_.panels) {
        const int64_t to = std::min(panel_end, from + plan_.panels);
        const Outputs outputs{g, n, frame, block};
        multiply(outputs, from, to, steps, blocks, thread);
        if (!finishes(blocks)) store(outputs, from, to, thread);
      }
    }
  }

  int64_t depth_at(int64_t frame, int64_t kd) const {
    return frame * phase_.slab_d.stride + phase_.slab_d.at[kd];
  }

  /// Steps whose products are taken in one go: where they end in the list of a frame's steps, and the phase's
  /// steps that they are some of. Their weights are counted from the first of these, their inputs from
  /// `left`.
  struct StepBlock {
    size_t end;
    int64_t first, last;
    TileLeft left;
  };

  /// The steps that meet stored frames, block by block. Blocks are the same whatever frames there are, but
  /// that one ends where pixels lie otherwise (a view behind lead frames): the sums are the same.
  template <class Left>
  void make_steps(int64_t frame, const Left& left, std::vector<TileStep>& steps,
                  std::vector<StepBlock>& blocks) const {
    steps.clear();
    blocks.clear();
    int64_t first = 0;
    for (int64_t end : phase_.block_ends) {
      size_t begin = steps.size();
      TileLeft from{}, here{};
      int64_t here_at = -1;
      for (int64_t s = first; s < end; ++s) {
        const TilePhase::Step& step = phase_.steps[s];
        const int64_t u = depth_at(frame, step.kd);
        if (phase_.slab_d.sources[u] < 0) continue;
        if (u != here_at) here = left(here_at = u);
        if (steps.size() > begin && !here.alike(from)) {
          blocks.push_back({steps.size(), first, end, from});
          begin = steps.size();
        }
        if (steps.size() == begin) from = here;
        const int64_t away = reinterpret_cast<intptr_t>(here.a) - reinterpret_cast<intptr_t>(from.a);
        steps.push_back({away / static_cast<int64_t>(sizeof(*here.a)) + step.at, s - first, step.pairs()});
      }
      if (steps.size() > begin) blocks.push_back({steps.size(), first, end, from});
      first = end;
    }
  }

  /// A group's outputs of a block of one frame.
  struct Outputs {
    int64_t g, n, frame;
    const Slab::Block& block;
  };

  /// Whether the products themselves write the output.
  bool finishes(const std::vector<StepBlock>& blocks) const { return plan_.pairs && !blocks.empty(); }

  void multiply(const Outputs& outputs, int64_t from, int64_t to, const std::vector<TileStep>& steps,
                const std::vector<StepBlock>& blocks, int thread) {
    const Slab::Block& block = outputs.block;
    if (blocks.empty()) {
      std::fill_n(sums_[thread], ((block.rows - 1) * layout_.row_step + block.cols) * c_stride_, 0.0f);
    }
    // Rows at a time: one where they are not as far apart as the sums.
    int64_t strip = block.rows;
    for (const StepBlock& of : blocks) {
      if (of.left.row != layout_.row_step * of.left.col) strip = 1;
    }
    TileResults results{};
    TileProduct product{};
    product.parts = plan_.parts;
    product.half = plan_.half;
    product.rows = (strip - 1) * layout_.row_step + block.cols;
    product.run = block.cols;
    product.run_step = layout_.row_step;
    product.a_part_stride = layout_.part_items;
    product.c_stride = c_stride_;
    size_t begin = 0;
    for (size_t i = 0; i < blocks.size(); ++i) {
      const StepBlock& of = blocks[i];
      const bool last = i + 1 == blocks.size();
      product.a_stride = of.left.col;
      product.steps = steps.data() + begin;
      product.step_count = static_cast<int64_t>(of.end - begin);
      product.accumulate = begin > 0;
      for (int64_t panel = from; panel < to; ++panel) {
        product.tiles = panel_tiles(panel);
        if (plan_.own_weights) {
          product.b = own_weights_[thread];
          raise_to(largest_weight_, pack_steps(outputs.g, panel, of.first, of.last, own_weights_[thread]));
        } else {
          product.b = panel_weights(outputs.g, panel, of.first);
          product.next = panel + 1 < to ? panel_weights(outputs.g, panel + 1, of.first)
                         : !last        ? panel_weights(outputs.g, from, blocks[i + 1].first)
                                        : nullptr;
        }
        for (int64_t row = 0; row < block.rows; row += strip) {
          if (last && plan_.pairs) {
            results = results_of(outputs, row, panel);
            product.results = &results;
          }
          if (row > 0) product.next = nullptr;
          product.a = of.left.a + row * of.left.row;
          product.c = sums_[thread] + row * layout_.row_step * c_stride_ + (panel - from) * kPanelColumns;
          k_.tiles->multiply(product);
        }
      }
      begin = of.end;
    }
  }

  /// Elements of y before channel `channel` of the output at (row, first column) of the block.
  int64_t offset_of(const Outputs& outputs, int64_t row, int64_t channel) const {
    const auto& [g, n, frame, block] = outputs;
    const AxisPhase &d = phase_.d, &h = phase_.h, &w = phase_.w;
    const int64_t od = d.first + frame * d.step, oh = h.first + (block.row + row) * h.step;
    const int64_t ow = w.first + block.col * w.step;
    return (((n * p_.output(0) + od) * p_.output(1) + oh) * p_.output(2) + ow) * p_.out_channels + channel;
  }

  TileResults results_of(const Outputs& outputs, int64_t row, int64_t panel) const {
    const int64_t first = panel * kPanelColumns, channel = outputs.g * p_.group_out() + first;
    return {k_.store_rows,
            &operands_.epilogue,
            std::min(p_.group_out() - first, kPanelColumns),
            channel,
            offset_of(outputs, row, channel),
            phase_.w.step * p_.out_channels,
            phase_.h.step * p_.output(kWidth) * p_.out_channels,
            operands_.y};
  }

  void store(const Outputs& outputs, int64_t from, int64_t to, int thread) const {
    const int64_t lanes = std::min(p_.group_out(), to * kPanelColumns) - from * kPanelColumns;
    const int64_t channel = outputs.g * p_.group_out() + from * kPanelColumns;
    const Slab::Block& block = outputs.block;
    for (int64_t row = 0; row < block.rows; ++row) {
      k_.store_rows(
          operands_.epilogue,
          {block.cols, lanes, sums_[thread] + row * layout_.row_step * c_stride_, c_stride_, channel,
           offset_of(outputs, row, channel), phase_.w.step * p_.out_channels, operands_.y});
    }
  }

  static constexpr uint32_t kOne = 127u << 23;

  const ConvProblem& p_;
  const TilePlan& plan_;
  const Operands& operands_;
  const Input input_;
  const TilePhase& phase_;
  const SlabLayout& layout_;
  const Kernels& k_;
  const Slab slab_;
  const TilePixels pixels_;
  const int64_t panels_, rows_, cols_;
  uint16_t* const weights_;
  const std::vector<int64_t> offsets_;       ///< of a group's weights, see TilePhase::weight_offsets
  int64_t first_panel_ = 0, end_panel_ = 0;  ///< whose weights are there
  int64_t c_stride_;
  std::vector<uint16_t*> slabs_, own_weights_;
  std::vector<float*> sums_;
  std::atomic<bool> unfit_{false};                        ///< an infinity, a NaN or a huge number was met
  std::atomic<uint32_t> largest_{0}, largest_weight_{0};  ///< bits of the largest magnitudes met
};

/// Calls f(phase) for every phase that has outputs.
template <class F>
bool for_each_phase(const ConvProblem& p, const TilePlan& plan, bool split_phases, F&& f) {
  const auto depth = axis_phases(p, kDepth, split_phases), height = axis_phases(p, kHeight, split_phases),
             width = axis_phases(p, kWidth, split_phases);
  for (const AxisPhase& d : depth) {
    for (const AxisPhase& h : height) {
      for (const AxisPhase& w : width) {
        if (d.count * h.count * w.count > 0 && !f(TilePhase(p, plan, d, h, w))) return false;
      }
    }
  }
  return true;
}

int64_t weight_items(const ConvProblem& p, const TilePlan& plan, const TilePhase& phase) {
  if (plan.own_weights) return 0;
  const int64_t panels = std::min(plan.weight_panels, divide_up(p.group_out(), kPanelColumns));
  return panels * tile_panel_items(static_cast<int64_t>(phase.steps.size()), plan.parts, kPanelTiles);
}

}  // namespace

bool tile_gemm(const ConvProblem& p, const TilePlan& plan, const Operands& operands, bool split_phases,
               Workspace& workspace) {
  return for_each_phase(p, plan, split_phases, [&](const TilePhase& phase) {
    const int64_t mark = workspace.used();
    auto* weights = static_cast<uint16_t*>(workspace.bytes(plan.groups * weight_items(p, plan, phase) * 2));
    const bool done = TileGemm(p, plan, operands, phase, weights, workspace).run();
    workspace.release_to(mark);
    return done;
  });
}

void blocked_products(const ConvProblem& p, const GemmPlan& plan, const Operands& operands,
                      const GatherGemmOptions& options, Workspace& workspace) {
  if (plan.tile.parts > 0 && tile_gemm(p, plan.tile, operands, options.split_phases, workspace)) return;
  if (plan.joined_frames) return frame_gemm(p, plan, operands, workspace);
  if (plan.joined_phases) return joined_phases(p, plan, operands, workspace);
  if (plan.buffers_rows()) return row_conv(p, plan, operands, workspace);
  gather_gemm(p, plan, operands, options, workspace);
}

TileNeeds tile_needs(const ConvProblem& p, const TilePlan& plan, bool split_phases) {
  TileNeeds needs;
  for_each_phase(p, plan, split_phases, [&](const TilePhase& phase) {
    const SlabLayout& l = phase.layout;
    const int64_t rows = std::min(plan.rows, phase.h.count), cols = std::min(plan.cols, phase.w.count);
    const int64_t panels = divide_up(p.group_out(), kPanelColumns);
    needs.weight_items = std::max(needs.weight_items, weight_items(p, plan, phase));
    needs.block_items = std::max(needs.block_items, block_items(plan, phase));
    needs.slab_items = std::max(needs.slab_items, l.items());
    needs.sum_floats = std::max(needs.sum_floats, rows * l.row_step * sums_stride(plan, panels));
    const double blocks =
        static_cast<double>(divide_up(phase.h.count, rows) * divide_up(phase.w.count, cols));
    const double frames = static_cast<double>(p.batch * phase.d.count * p.groups);
    const int64_t tiles = divide_up(p.group_out(), kTileSide);
    if (plan.pairs) {
      int64_t pairs = 0;
      for (const TilePhase::Step& step : phase.steps) pairs += step.pairs();
      needs.products += frames * static_cast<double>(phase.h.count * phase.w.count * tiles) *
                        static_cast<double>(pairs) * 2 / (kTileSide * kTileDepth);
    } else {
      const int64_t tile_rows = divide_up((rows - 1) * l.row_step + cols, kTileSide);
      needs.products +=
          frames * blocks * static_cast<double>(tile_rows * tiles) * static_cast<double>(phase.steps.size());
    }
    const int64_t slices = divide_up(panels, plan.weight_panels);
    // A frame that is met again within a task is packed once.
    const double packed_frames = static_cast<double>(phase.d.tap_count() - 1) /
                                     static_cast<double>(plan.frames * phase.slab_d.stride) +
                                 1;
    const int64_t items =
        plan.in_place ? rows * cols * p.group_in() : l.row_phases * l.phase_rows * l.width * l.pitch;
    needs.packed_items +=
        frames * packed_frames * blocks * static_cast<double>(items) *
        static_cast<double>(slices * divide_up(std::min(panels, plan.weight_panels), plan.task_panels));
    return true;
  });
  return needs;
}

}  // namespace mlx_conv3d::cpu
