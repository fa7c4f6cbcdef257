#include "core/bindings_gpu.h"

#include <nanobind/stl/function.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "core/apple_devices.h"
#include "core/bindings_metal.h"
#include "core/environment.h"
#include "core/gpu_device.h"
#include "core/self_check.h"
#include "core/self_check_cases.h"
#include "metal/run.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace mlx_conv3d {
namespace {

using PythonRunner = std::function<double(const std::string&, const std::string&)>;
using PythonWarn = std::function<void(const std::string&)>;

void warn(const std::string& message) {
  nb::gil_scoped_acquire held;
  if (PyErr_WarnEx(PyExc_RuntimeWarning, message.c_str(), 1) != 0) throw nb::python_error();
}

/// Before first use, as if their checks had failed.
void switch_off_by_name(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (const auto family = family_named(name)) {
      live_self_checks().fail(*family, Dtype::float32, "MLX_CONV3D_SWITCH_OFF names them");
    } else {
      warn("mlx_conv3d: MLX_CONV3D_SWITCH_OFF: there are no Metal kernels '" + name + "'");
    }
  }
}

KernelFamily require_family(const std::string& name) {
  const auto family = family_named(name);
  if (!family) throw std::invalid_argument("family '" + name + "' is not known.");
  return *family;
}

Dtype require_dtype(const std::string& name) {
  for (Dtype t : {Dtype::float32, Dtype::float16, Dtype::bfloat16}) {
    if (name == name_of(t)) return t;
  }
  throw std::invalid_argument("dtype '" + name + "' is not known.");
}

/// Runner and warning are called with the GIL, which usable() does not hold while it waits.
void make_checks(SelfChecks* at, PythonRunner runner, PythonWarn on_failure) {
  new (at) SelfChecks(
      [runner = std::move(runner)](KernelFamily family, Dtype dtype) {
        nb::gil_scoped_acquire held;
        return runner(name_of(family), name_of(dtype));
      },
      [on_failure = std::move(on_failure)](const std::string& message) {
        nb::gil_scoped_acquire held;
        on_failure(message);
      });
}

bool usable(SelfChecks& checks, const std::string& family, const std::string& dtype) {
  const KernelFamily f = require_family(family);
  const Dtype t = require_dtype(dtype);
  nb::gil_scoped_release released;
  return checks.usable(f, t);
}

std::map<std::string, std::string> switched_off(const SelfChecks& checks) {
  std::map<std::string, std::string> off;
  for (const auto& [family, reason] : checks.reasons()) off[name_of(family)] = reason;
  return off;
}

nb::list results(const SelfChecks& checks) {
  nb::list list;
  for (const SelfCheck& c : checks.results()) {
    nb::dict d;
    d["family"] = name_of(c.family);
    d["dtype"] = name_of(c.dtype);
    d["passed"] = c.passed;
    d["error"] = c.error;
    d["tolerance"] = self_check_tolerance(c.dtype);
    d["message"] = c.message;
    list.append(d);
  }
  return list;
}

nb::dict to_dict(const Device& device) {
  nb::dict d;
  d["name"] = device.name;
  d["note"] = device.note;
  return d;
}

/// The cases of a check as a GPU's Programs, with the values that it compares.
nb::list cases(const std::string& gpu, const std::string& family, const std::string& dtype) {
  nb::list list;
  for (const SelfCheckCase& c :
       self_check_cases(require_family(family), require_dtype(dtype), apple_device(gpu))) {
    const std::vector<mx::array> inputs = self_check_inputs(c);
    nb::dict operands, d;
    const char* names[] = {"x", "w", "bias"};
    for (size_t i = 0; i < inputs.size(); ++i) operands[names[i]] = inputs[i];
    d["problem"] = c.problem.describe();
    d["algorithm"] = name_of(c.candidate.algorithm);
    d["program"] = program_dict(c.problem, c.candidate, {});
    d["operands"] = operands;
    d["expected"] = self_check_expected(c, inputs);
    list.append(d);
  }
  return list;
}

double tolerance(const std::string& dtype) { return self_check_tolerance(require_dtype(dtype)); }

bool run_self_check(const std::string& family, const std::string& dtype) {
  if (live_gpu() == nullptr) throw std::runtime_error("[mlx_conv3d] there is no Metal GPU.");
  return usable(live_self_checks(), family, dtype);
}

void compile_kernel(const std::string& source, const std::string& kernel,
                    const std::map<int, std::variant<bool, int>>& constants, int64_t threads) {
  metal::Step step;
  step.source = source;
  step.kernel = kernel;
  step.threadgroup = {threads, 1, 1};
  for (const auto& [index, value] : constants) step.constants.push_back({index, value});
  metal::Program program;
  program.steps.push_back(std::move(step));
  nb::gil_scoped_release released;
  metal::compile(program);
}

}  // namespace

void bind_gpu(nb::module_& m) {
  nb::class_<SelfChecks>(m, "SelfChecks")
      .def("__init__", &make_checks, "runner"_a, "warn"_a)
      .def("usable", &usable, "family"_a, "dtype"_a)
      .def("switched_off", &switched_off)
      .def("results", &results);
  live_self_checks().set_warn(warn);
  switch_off_by_name(names_in("MLX_CONV3D_SWITCH_OFF"));
  m.def("self_checks", [] { return results(live_self_checks()); });
  m.def("run_self_check", &run_self_check, "family"_a, "dtype"_a);
  m.def("self_check_cases", &cases, "gpu"_a, "family"_a, "dtype"_a);
  m.def("self_check_tolerance", &tolerance, "dtype"_a);
  m.def("compile_kernel", &compile_kernel, "source"_a, "kernel"_a, "constants"_a, "threads"_a);
  m.def("switched_off", [] { return switched_off(live_self_checks()); });
  m.def("gpu", []() -> nb::object {
    const Device* device = live_gpu();
    return device == nullptr ? nb::none() : nb::object(to_dict(*device));
  });
  m.def(
      "describe_gpu",
      [](const std::string& name, const std::string& architecture) {
        return to_dict(describe_gpu(name, architecture));
      },
      "name"_a, "architecture"_a);
}

}  // namespace mlx_conv3d
