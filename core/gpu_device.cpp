#include "core/gpu_device.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <variant>

#include "core/apple_devices.h"
#include "metal/run.h"
#include "mlx/backend/gpu/device_info.h"

namespace mlx_conv3d {
namespace {

constexpr int kNewestGeneration = 5;

const Device* row(const std::string& name) {
  for (const Device& d : apple_devices()) {
    if (d.name == name) return &d;
  }
  return nullptr;
}

/// "m3-max" of 3 and "max", "m3" of 3 and "".
std::string row_name(int generation, const std::string& suffix) {
  std::string name("m");
  name += std::to_string(generation);
  if (!suffix.empty()) name.append("-").append(suffix);
  return name;
}

/// Suffix by the last letter of an architecture; those with two meanings get the smaller chip.
std::string suffix_of(char letter) {
  switch (letter) {
    case 's':
      return "pro";
    case 'c':
      return "max";
    case 'd':
      return "ultra";
    default:
      return "";
  }
}

struct Chip {
  int generation = 0;
  std::string suffix;
};

/// "Apple M3 Max" is generation 3, "max".
std::optional<Chip> chip_named(const std::string& name) {
  Chip chip;
  int read = 0;
  if (std::sscanf(name.c_str(), "Apple M%3d%n", &chip.generation, &read) != 1) return std::nullopt;
  const std::string rest = name.substr(static_cast<size_t>(read));
  if (rest.empty()) return chip;
  for (const char* suffix : {"Pro", "Max", "Ultra"}) {
    if (rest == std::string(" ") + suffix) {
      chip.suffix = suffix;
      chip.suffix[0] = static_cast<char>(chip.suffix[0] - 'A' + 'a');
      return chip;
    }
  }
  return std::nullopt;
}

/// "applegpu_g15s" is generation 3 (G13 is M1's), "pro".
std::optional<Chip> chip_of(const std::string& architecture) {
  int g = 0;
  char letter = 0;
  if (std::sscanf(architecture.c_str(), "applegpu_g%3d%c", &g, &letter) != 2) return std::nullopt;
  return Chip{g - 12, suffix_of(letter)};
}

/// The row of a chip, or of the newest one like it; an ultra that there is not is a max.
const Device& nearest(const Chip& chip) {
  const int known = std::clamp(chip.generation, 1, kNewestGeneration);
  if (const Device* exact = row(row_name(known, chip.suffix))) return *exact;
  if (const Device* max = chip.suffix == "ultra" ? row(row_name(known, "max")) : nullptr) return *max;
  return *row(row_name(known, ""));
}

const std::string& text_of(const char* key) {
  static const std::string none;
  const auto& information = mlx::core::gpu::device_info(0);
  const auto found = information.find(key);
  if (found == information.end()) return none;
  const auto* text = std::get_if<std::string>(&found->second);
  return text == nullptr ? none : *text;
}

}  // namespace

Device describe_gpu(const std::string& name, const std::string& architecture) {
  if (const auto chip = chip_named(name)) {
    Device d = nearest(*chip);
    if (d.name != row_name(chip->generation, chip->suffix)) {
      d.note = name + " is not in the table: planned with the figures of " + d.name;
    }
    return d;
  }
  Device d = nearest(chip_of(architecture).value_or(Chip{1, ""}));
  d.note = "'" + name + "' (" + architecture + ") is not in the table: planned with the figures of " + d.name;
  return d;
}

const Device* live_gpu() {
  static const std::unique_ptr<const Device> device =
      metal::available()
          ? std::make_unique<const Device>(describe_gpu(text_of("device_name"), text_of("architecture")))
          : nullptr;
  return device.get();
}

}  // namespace mlx_conv3d
