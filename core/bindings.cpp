#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <numeric>

#include "core/apple_devices.h"
#include "core/bindings_gpu.h"
#include "core/bindings_metal.h"
#include "core/norm.h"
#include "core/ops.h"
#include "core/plan_cache.h"
#include "core/route.h"
#include "core/stream_step.h"
#include "cpu/run.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace mlx_conv3d {
namespace {

using Ints = std::vector<int64_t>;

/// A WinogradForm of (O, KD, KH, KW, C) weights as Python has it: outputs of a tile along the width, of which
/// pixels, outputs along depth, bf16 parts, outputs along the height.
using PackedForm = std::tuple<int, std::string, int, int, int>;
using Packed = std::optional<std::pair<mx::array, PackedForm>>;
WinogradForm to_form(const PackedForm& form, const mx::Shape& w, int64_t groups) {
  const auto& [m, name, depth_m, parts, height] = form;
  const Size3 kernel = kernel_of(w);
  const int line = groups == 1 ? winograd_line_axis(kernel) : -1;
  for (Pixels pixels : kPixels) {
    if (name != name_of(pixels)) continue;
    if (line < 0) return {m, pixels, depth_m, parts, height < m ? 3 : 0, winograd_taps(kernel[kWidth])};
    const int along[] = {depth_m, height, m};
    return {along[line], pixels, 1, parts, 1, winograd_taps(kernel[static_cast<size_t>(line)])};
  }
  throw std::invalid_argument("[conv] pixels '" + name + "' are not known.");
}

/// A convolution's parameters as Python gives them.
struct Parameters {
  int dims;  ///< spatial axes that x and w have
  ConvSpec spec;
};

/// One entry per spatial axis (1 to 3 of them).
Parameters make_parameters(int dims, const Ints& stride, const Ints& pad_lo, const Ints& pad_hi,
                           const Ints& dilation, const Ints& input_dilation, const Ints& upsample,
                           const std::vector<int>& pad_mode, int64_t groups, bool flip, int activation,
                           bool per_frame, bool odd_frame) {
  if (dims < 1 || dims > 3) {
    throw std::invalid_argument("[conv] x must have 1 to 3 spatial dimensions, got " + std::to_string(dims) +
                                ".");
  }
  ConvSpec spec;
  for (int i = 0; i < dims; ++i) {
    const int axis = 3 - dims + i;
    spec.stride[axis] = stride.at(i);
    spec.pad_lo[axis] = pad_lo.at(i);
    spec.pad_hi[axis] = pad_hi.at(i);
    spec.dilation[axis] = dilation.at(i);
    spec.input_dilation[axis] = input_dilation.at(i);
    spec.upsample[axis] = upsample.at(i);
    spec.pad_mode[axis] = static_cast<PadMode>(pad_mode.at(i));
  }
  spec.groups = groups;
  spec.flip = flip;
  spec.activation = static_cast<Activation>(activation);
  spec.per_frame = per_frame;
  spec.odd_frame = odd_frame;
  return {dims, spec};
}

/// Those of `dims` spatial axes. A series (N, L, C) is one in time: its axis is the depth.
MissingAxes missing_axes(int dims, bool series = false) {
  if (series) return {kHeight + 1, kWidth + 1};
  MissingAxes axes(static_cast<size_t>(3 - dims));
  std::iota(axes.begin(), axes.end(), 1);
  return axes;
}

std::optional<Algorithm> parse_algorithm(const std::string& name) {
  if (name == "auto") return std::nullopt;
  const auto algorithm = algorithm_named(name);
  if (!algorithm) throw std::invalid_argument("[conv] algorithm '" + name + "' is not known.");
  return algorithm;
}

void require_ndim(const char* name, size_t ndim, int dims) {
  if (static_cast<int>(ndim) == dims + 2) return;
  throw std::invalid_argument("[conv] " + std::string(name) + " must have " + std::to_string(dims + 2) +
                              " dimensions for a " + std::to_string(dims) + "-D convolution, got " +
                              std::to_string(ndim) + ".");
}

void require_matching_channels(const ConvProblem& p, int64_t weight_channels) {
  if (p.groups > 0 && p.in_channels == p.groups * weight_channels && p.out_channels % p.groups == 0) return;
  throw std::invalid_argument("[conv] the channels of x (" + std::to_string(p.in_channels) + ") and w (" +
                              std::to_string(p.out_channels) + ", ..., " + std::to_string(weight_channels) +
                              ") do not match with groups " + std::to_string(p.groups) + ".");
}

/// A convolution's arguments as Python gives them, beside x, w and the parameters.
struct Call {
  ConvExtras extras;
  std::optional<Algorithm> forced;
  MissingAxes missing;
};

Call bind_call(const mx::array& x, const mx::array& w, const Parameters& parameters,
               std::optional<mx::array> bias, std::optional<mx::array> residual,
               std::optional<mx::array> lead, const Packed& packed, const std::string& algorithm,
               bool series) {
  const int dims = series ? 1 : parameters.dims;
  Call call;
  call.missing = missing_axes(parameters.dims, series);
  require_ndim("x", x.ndim(), dims);
  require_ndim("w", w.ndim(), dims);
  if (lead) require_ndim("lead", lead->ndim(), dims);
  if (residual) require_ndim("residual", residual->ndim(), dims);
  call.extras = {std::move(lead), std::move(bias), std::move(residual), {}, {}};
  if (packed) {
    call.extras.packed = packed->first;
    call.extras.packed_form =
        to_form(packed->second, lifted(w.shape(), call.missing), parameters.spec.groups);
  }
  call.forced = parse_algorithm(algorithm);
  return call;
}

mx::array bound_conv(const mx::array& x, const mx::array& w, const Parameters& parameters,
                     std::optional<mx::array> bias, std::optional<mx::array> residual,
                     std::optional<mx::array> lead, const Packed& packed, const std::string& algorithm,
                     bool series, mx::StreamOrDevice s) {
  const Call call = bind_call(x, w, parameters, std::move(bias), std::move(residual), std::move(lead), packed,
                              algorithm, series);
  return conv(x, w, parameters.spec, call.extras, call.forced, call.missing, s);
}

std::pair<mx::array, mx::array> bound_conv_keeping(
    const mx::array& x, const mx::array& w, const Parameters& parameters, int64_t kept,
    std::optional<mx::array> bias, std::optional<mx::array> residual, std::optional<mx::array> lead,
    const Packed& packed, const std::string& algorithm, bool series, mx::StreamOrDevice s) {
  const Call call = bind_call(x, w, parameters, std::move(bias), std::move(residual), std::move(lead), packed,
                              algorithm, series);
  return conv_keeping(x, w, parameters.spec, call.extras, call.forced, call.missing, kept, s);
}

/// dL/dw of a 3-D convolution as GPU streams compose it.
mx::array bound_stock_weight_gradient(const mx::array& x, const mx::array& dy, const Parameters& parameters,
                                      const Ints& w_shape, mx::Dtype w_type, std::optional<mx::array> lead,
                                      mx::StreamOrDevice s) {
  ConvSpec spec = parameters.spec.bare();
  spec.lead = lead.has_value();
  mx::Shape shape;
  for (int64_t size : w_shape) shape.push_back(static_cast<int>(size));
  return stock_weight_gradient(spec, x, lead, dy, shape, to_dtype(w_type), s);
}

/// Name of the algorithm that bound_conv would choose, and why if it is stock, without building anything.
std::pair<std::string, std::string> choose(const mx::array& x, const mx::array& w,
                                           const Parameters& parameters, mx::StreamOrDevice s) {
  const int dims = parameters.dims;
  require_ndim("x", x.ndim(), dims);
  require_ndim("w", w.ndim(), dims);
  ConvSpec spec = parameters.spec;
  spec.out_type = to_dtype(mx::promote_types(x.dtype(), w.dtype()));
  const MissingAxes missing = missing_axes(dims);
  const ConvProblem p = spec.bind(lifted(x.shape(), missing), to_dtype(x.dtype()), lifted(w.shape(), missing),
                                  to_dtype(w.dtype()), 0);
  require_matching_channels(p, w.shape(dims + 1));
  p.validate();
  const Route chosen = route(p, std::nullopt, s);
  return {name_of(chosen.stock() ? Algorithm::stock : chosen.plan->algorithm()), chosen.reason};
}

/// kGroupedKernels as Python has it; 0 stands for any number.
nb::list cpu_kernels() {
  nb::list kernels;
  for (const GroupedKernel& k : kGroupedKernels.at) {
    nb::dict d;
    d["name"] = name_of(k);
    d["family"] = name_of(k.family);
    d["algorithm"] = name_of(Algorithm::grouped);
    d["rank"] = k.rank;
    d["group_in"] = k.group_in;
    d["group_out"] = k.group_out;
    d["taps"] = nb::make_tuple(k.taps[0], k.taps[1], k.taps[2]);
    nb::list types;
    for (Dtype type : {Dtype::float32, Dtype::float16, Dtype::bfloat16}) types.append(name_of(type));
    d["dtypes"] = types;
    d["constraints"] = constraints_of(k);
    kernels.append(d);
  }
  return kernels;
}

nb::dict to_dict(const ConvProblem& p, const Candidate& c) {
  nb::dict d;
  d["algorithm"] = name_of(c.algorithm);
  d["legal"] = c.legal;
  d["reason"] = c.reason;
  d["cost"] = c.cost;
  d["flops"] = c.flops;
  d["bytes"] = c.bytes;
  d["workspace"] = c.workspace;
  d["parts"] = c.algorithm == Algorithm::winograd ? c.winograd.parts
               : c.grouped.pairs                  ? 1
                                                  : c.gemm.tile.parts;
  if (c.algorithm == Algorithm::winograd) {
    const WinogradPlan& w = c.winograd;
    const bool line = w.row_taps > 0 || w.along_depth();
    const int axis = winograd_line_axis(p.kernel), m = w.along_depth() ? w.depth_m : w.m;
    d["tile"] = !line || axis == kWidth ? m : 1;
    d["tile_height"] = !line || axis == kHeight ? m : 1;
    d["pixels"] = name_of(w.pixels);
    d["depth_tile"] = !line ? w.depth_m : axis == kDepth ? m : 1;
    d["chunk"] = nb::make_tuple(c.winograd.frames, c.winograd.tiles, c.winograd.out_slice);
    d["weight_rows"] = c.winograd.weight_rows;
    d["weight_outs"] = c.winograd.weight_outs;
    d["weight_channels"] = c.winograd.weight_channels;
    d["thread_chunks"] = c.winograd.thread_chunks;
  } else {
    const bool in_groups = c.algorithm == Algorithm::grouped && c.grouped_winograd.m > 0;
    d["tile"] = in_groups ? c.grouped_winograd.m : 0;
    d["tile_height"] = in_groups ? c.grouped_winograd.rows ? 1 : c.grouped_winograd.m : 0;
    d["pixels"] = in_groups ? name_of(Pixels::single) : "";
    d["depth_tile"] = in_groups ? 1 : 0;
    d["chunk"] = nb::make_tuple(c.gemm.rows, c.gemm.depth, c.gemm.cols);
    d["weight_rows"] = 0;
    d["weight_outs"] = 0;
    d["weight_channels"] = 0;
    d["thread_chunks"] = false;
  }
  return d;
}

uint8_t family_bits(const std::vector<std::string>& names) {
  uint8_t bits = 0;
  for (const std::string& name : names) {
    const auto family = family_named(name);
    if (!family) throw std::invalid_argument("[plan] switched_off: there are no kernels '" + name + "'.");
    bits |= bit(*family);
  }
  return bits;
}

nb::dict bound_plan(const Ints& x_shape, const Ints& w_shape, const Parameters& parameters, mx::Dtype x_type,
                    mx::Dtype w_type, mx::Dtype out_type, bool bias, bool residual, int64_t lead,
                    bool prepared, const std::string& algorithm, int64_t limit, const std::string& gpu,
                    const Ints& winograd, const Strides& strides, const Ints& block,
                    const std::vector<std::string>& switched_off, SelfChecks* checks) {
  const int dims = parameters.dims;
  require_ndim("x_shape", x_shape.size(), dims);
  require_ndim("w_shape", w_shape.size(), dims);
  ConvSpec spec = parameters.spec;
  spec.bias = bias;
  spec.residual = residual;
  spec.packed.m = prepared ? 1 : 0;
  spec.out_type = to_dtype(out_type);
  const auto shape = [&](const Ints& from) {
    mx::Shape to;
    for (int64_t v : from) to.push_back(static_cast<int>(v));
    return lifted(to, missing_axes(dims));
  };
  const ConvProblem p = spec.bind(shape(x_shape), to_dtype(x_type), shape(w_shape), to_dtype(w_type), lead);
  require_matching_channels(p, w_shape.back());
  p.validate();
  Device device = gpu.empty() ? cpu_device() : apple_device(gpu);
  device.switched_off = family_bits(switched_off);
  const auto forced = parse_algorithm(algorithm);
  std::string reason;
  std::shared_ptr<const Plan> checked;
  if (checks != nullptr && !gpu.empty()) {
    const Route chosen = gpu_route(p, forced, device, *checks);
    checked = chosen.plan;
    reason = chosen.reason;
  }
  Plan plan = checked ? *checked : make_plan(p, device, limit > 0 ? limit : workspace_limit(), forced);
  if (!winograd.empty()) {
    plan.chosen.winograd = {static_cast<int>(winograd.at(0)),
                            winograd.at(1),
                            winograd.at(2),
                            winograd.at(3),
                            winograd.size() > 4 ? static_cast<int>(winograd.at(4)) : 1,
                            Pixels::single,
                            winograd.size() > 5 ? static_cast<int>(winograd.at(5)) : 0,
                            winograd.size() > 6 && winograd.at(6) != 0,
                            0,
                            winograd.size() > 7 && winograd.at(7) != 0,
                            winograd.size() > 8 && winograd.at(8) != 0,
                            winograd.size() > 9 ? winograd.at(9) : 0};
  }
  if (!block.empty()) {
    plan.chosen.gemm.rows = block.at(0);
    plan.chosen.gemm.cols = block.at(1);
  }
  nb::dict d = to_dict(p, plan.chosen);
  d["reason"] = reason.empty() ? plan.reason : reason;
  d["direct_flops"] = plan.direct_flops;
  d["device"] = device.name;
  if (!gpu.empty()) d["program"] = program_dict(p, plan.chosen, strides);
  d["problem"] = p.describe();
  nb::list candidates;
  for (const Candidate& c : plan.candidates) candidates.append(to_dict(p, c));
  d["candidates"] = candidates;
  return d;
}

}  // namespace
}  // namespace mlx_conv3d

NB_MODULE(_ext, m) {
  namespace conv3d = mlx_conv3d;
  m.doc() = "The compiled core of mlx_conv3d.";
  // Registers MLX's types with nanobind before they appear in signatures.
  nb::module_::import_("mlx.core");
  conv3d::bind_gpu(m);
  nb::class_<conv3d::Parameters>(m, "Parameters")
      .def(nb::new_(&conv3d::make_parameters), nb::kw_only(), "dims"_a, "stride"_a, "pad_lo"_a, "pad_hi"_a,
           "dilation"_a, "input_dilation"_a, "upsample"_a, "pad_mode"_a, "groups"_a, "flip"_a, "activation"_a,
           "per_frame"_a, "odd_frame"_a);
  m.def("conv", &conv3d::bound_conv, "x"_a, "w"_a, "parameters"_a, nb::kw_only(), "bias"_a = nb::none(),
        "residual"_a = nb::none(), "lead"_a = nb::none(), "packed"_a = nb::none(), "algorithm"_a = "auto",
        "series"_a = false, "stream"_a = nb::none());
  m.def("conv_keeping", &conv3d::bound_conv_keeping, "x"_a, "w"_a, "parameters"_a, "kept"_a, nb::kw_only(),
        "bias"_a = nb::none(), "residual"_a = nb::none(), "lead"_a = nb::none(), "packed"_a = nb::none(),
        "algorithm"_a = "auto", "series"_a = false, "stream"_a = nb::none());
  m.def(
      "last_frames",
      [](const std::optional<conv3d::mx::array>& lead, const conv3d::mx::array& x, int64_t count,
         conv3d::mx::StreamOrDevice s) { return conv3d::last_frames(lead, x, count, s); },
      "lead"_a.none(), "x"_a, "count"_a, nb::kw_only(), "stream"_a = nb::none());
  m.def("with_last_frames", &conv3d::with_last_frames, "y"_a, "lead"_a.none(), "x"_a, "count"_a,
        nb::kw_only(), "stream"_a = nb::none());
  m.def("plan", &conv3d::bound_plan, "x_shape"_a, "w_shape"_a, "parameters"_a, nb::kw_only(), "x_type"_a,
        "w_type"_a, "out_type"_a, "bias"_a, "residual"_a, "lead"_a, "prepared"_a, "algorithm"_a, "limit"_a,
        "gpu"_a = "", "winograd"_a = conv3d::Ints{}, "strides"_a = conv3d::Strides{},
        "block"_a = conv3d::Ints{}, "switched_off"_a = std::vector<std::string>{},
        "checks"_a.none() = nb::none());
  m.def("choose", &conv3d::choose, "x"_a, "w"_a, "parameters"_a, nb::kw_only(), "stream"_a = nb::none());
  m.def("stock_weight_gradient", &conv3d::bound_stock_weight_gradient, "x"_a, "dy"_a, "parameters"_a,
        nb::kw_only(), "w_shape"_a, "w_type"_a, "lead"_a = nb::none(), "stream"_a = nb::none());
  m.def(
      "pack_weights",
      [](const conv3d::mx::array& w, const conv3d::PackedForm& form, bool flip, int groups,
         conv3d::mx::StreamOrDevice s) {
        return conv3d::pack_weights(w, conv3d::to_form(form, w.shape(), groups), flip, groups, s);
      },
      "w"_a, "form"_a, "flip"_a, "groups"_a, "stream"_a = nb::none());
  m.def(
      "rms_norm",
      [](const conv3d::mx::array& x, const conv3d::mx::array& weight, float eps, int activation,
         conv3d::mx::StreamOrDevice s) {
        return conv3d::rms_norm(x, weight, {eps, static_cast<conv3d::Activation>(activation)}, s);
      },
      "x"_a, "weight"_a, "eps"_a, "activation"_a, "stream"_a = nb::none());
  m.def("is_tracer", [](const conv3d::mx::array& a) { return a.is_tracer(); }, "a"_a);
  // Assigning to an element of a Python array, or adding to it in place, gives the object another value.
  m.def("snapshot", [](const conv3d::mx::array& a) { return conv3d::mx::array(a); }, "a"_a);
  m.def(
      "is_same", [](const conv3d::mx::array& a, const conv3d::mx::array& b) { return a.id() == b.id(); },
      "a"_a, "b"_a);
  m.def("workspace_limit", &conv3d::workspace_limit);
  m.def(
      "set_workspace_limit",
      [](int64_t bytes) {
        const int64_t previous = conv3d::set_workspace_limit(bytes);
        conv3d::cpu::trim(bytes);
        return previous;
      },
      "bytes"_a);
  m.def("cpu_kernels", &conv3d::cpu_kernels);
  m.def("isa", &conv3d::cpu::isa);
  m.def("threads", &conv3d::cpu::threads);
  m.def(
      "on_cpu",
      [](conv3d::mx::StreamOrDevice s) { return conv3d::mx::to_stream(s).device == conv3d::mx::Device::cpu; },
      "stream"_a = nb::none());
  m.def("disabled", &conv3d::disabled);
  conv3d::bind_metal(m);
  m.attr("mlx_version") = MLX_CONV3D_MLX_VERSION;
}
