#include "core/bindings_metal.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "core/apple_devices.h"
#include "metal/kernel_sources.h"
#include "metal/lower.h"

namespace nb = nanobind;

namespace mlx_conv3d {
namespace {

const char* name_of(metal::Role role) {
  switch (role) {
    case metal::Role::input:
      return "input";
    case metal::Role::output:
      return "output";
    case metal::Role::scratch:
      return "scratch";
  }
  return "?";
}

template <class Values>
nb::list to_list(const Values& values) {
  nb::list list;
  for (const auto& v : values) list.append(v);
  return list;
}

nb::dict to_dict(const metal::Buffer& b) {
  nb::dict d;
  d["name"] = b.name;
  d["role"] = name_of(b.role);
  d["nbytes"] = b.nbytes;
  d["dtype"] = mlx_conv3d::name_of(b.dtype);
  d["shape"] = to_list(b.shape);
  return d;
}

nb::dict to_dict(const metal::Step& s, const metal::Program& program) {
  nb::list bindings, arguments, constants, discards;
  for (const metal::Binding& b : s.bindings) {
    nb::dict d;
    d["index"] = b.index;
    d["buffer"] = program.buffers[b.buffer].name;
    bindings.append(d);
  }
  for (const metal::Argument& a : s.arguments) {
    nb::dict d;
    d["index"] = a.index;
    d["data"] = nb::bytes(a.data.data(), a.data.size());
    arguments.append(d);
  }
  for (const metal::Constant& c : s.constants) {
    nb::dict d;
    d["index"] = c.index;
    std::visit([&](auto value) { d["value"] = value; }, c.value);
    constants.append(d);
  }
  for (int b : s.discards) discards.append(program.buffers[b].name);
  nb::dict d;
  d["kernel"] = s.kernel;
  d["source"] = s.source;
  d["grid"] = to_list(Size3{s.grid});
  d["threadgroup"] = to_list(Size3{s.threadgroup});
  d["dispatch"] = s.threads ? "threads" : "threadgroups";
  d["bindings"] = bindings;
  d["arguments"] = arguments;
  d["constants"] = constants;
  d["barrier"] = s.barrier;
  d["discards"] = discards;
  d["nbytes"] = static_cast<int64_t>(s.nbytes);
  d["flops"] = static_cast<int64_t>(s.flops);
  return d;
}

metal::Layout layout_of(const ConvProblem& problem, const Strides& strides) {
  metal::Layout layout = metal::row_major(problem);
  for (const auto& [name, s] : strides) {
    if (s.size() != 5 || *std::min_element(s.begin(), s.end()) < 0) {
      throw std::invalid_argument("[plan] strides of '" + name +
                                  "' must be 5 numbers that are not negative.");
    }
    if (name == "x") {
      layout.x = {s[0], s[1], s[2], s[3], s[4]};
    } else if (name == "lead") {
      layout.lead = {s[0], s[1], s[2], s[3], s[4]};
    } else if (name == "w") {
      layout.w = {s[0], s[1], s[2], s[3], s[4]};
    } else {
      throw std::invalid_argument("[plan] strides are for x, lead and w, not '" + name + "'.");
    }
  }
  return layout;
}

nb::list gpus() {
  nb::list list;
  for (const Device& device : apple_devices()) {
    nb::dict d;
    d["name"] = device.name;
    d["family"] = device.family;
    d["cores"] = device.cores;
    d["gflops"] = device.gflops;
    d["matrix_gflops"] = device.matrix_gflops;
    d["gbytes"] = device.gbytes;
    d["system_cache_bytes"] = device.system_cache_bytes;
    list.append(d);
  }
  return list;
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const auto& [name, text] : metal::kernel_sources()) names.push_back(name);
  return names;
}

}  // namespace

nb::object program_dict(const ConvProblem& problem, const Candidate& candidate, const Strides& strides) {
  if (candidate.algorithm == Algorithm::stock) return nb::none();
  const metal::Program program = metal::lower(problem, candidate, layout_of(problem, strides));
  nb::list buffers, steps;
  for (const metal::Buffer& b : program.buffers) buffers.append(to_dict(b));
  for (const metal::Step& s : program.steps) steps.append(to_dict(s, program));
  nb::dict d;
  d["buffers"] = buffers;
  d["steps"] = steps;
  return d;
}

void bind_metal(nb::module_& m) {
  m.def("gpus", &gpus);
  m.def("kernel_names", &kernel_names);
  m.def("kernel_source", &metal::kernel_source, nb::arg("name"));
}

}  // namespace mlx_conv3d
