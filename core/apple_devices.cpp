// Figures of the largest variant of each chip.
//
// Cores, bandwidth: Apple's technical specifications (support.apple.com/specs) and press releases; bandwidth
// is that
//   of the memory interface (LPDDR4X-4266, LPDDR5-6400, LPDDR5X-7500 to -9600, width 128 to 1024 bits).
// fp32 peak: cores x 128 multiply-adds x clock. Clocks of M1 to M3: github.com/philipturner/applegpuinfo
// (1.278 GHz
//   M1, 1.296 M1 Pro to Ultra, 1.398 M2, 1.38 M3). M4: 13.3 TFLOP/s measured on an M4 Max, scaled by cores.
//   M5: the clock of M4, a lower bound. fp16 runs at the rate of fp32
//   (github.com/philipturner/metal-benchmarks).
// System-level cache: applegpuinfo for M1 to M3; M4 and M5 are taken to have what M3 has, as Apple publishes
// none. Family: Apple's Metal feature set tables. Matrix units of M5 (16-bit types): 61 TFLOP/s on an M5 Max,
// scaled by cores.

#include "core/apple_devices.h"

#include <stdexcept>

namespace mlx_conv3d {
namespace {

struct Row {
  const char* name;
  int family, cores;
  double clock;  ///< GHz
  double gbytes;
  int system_cache_mib;
};

constexpr double kM4Clock = 13300.0 / (40 * 256);
constexpr Row kRows[] = {
    {"m1", 7, 8, 1.278, 68.3, 8},
    {"m1-pro", 7, 16, 1.296, 204.8, 24},
    {"m1-max", 7, 32, 1.296, 409.6, 48},
    {"m1-ultra", 7, 64, 1.296, 819.2, 96},
    {"m2", 8, 10, 1.398, 102.4, 8},
    {"m2-pro", 8, 19, 1.398, 204.8, 24},
    {"m2-max", 8, 38, 1.398, 409.6, 48},
    {"m2-ultra", 8, 76, 1.398, 819.2, 96},
    {"m3", 9, 10, 1.38, 102.4, 8},
    {"m3-pro", 9, 18, 1.38, 153.6, 12},
    {"m3-max", 9, 40, 1.38, 409.6, 48},
    {"m3-ultra", 9, 80, 1.38, 819.2, 96},
    {"m4", 9, 10, kM4Clock, 120.0, 8},
    {"m4-pro", 9, 20, kM4Clock, 273.1, 12},
    {"m4-max", 9, 40, kM4Clock, 546.1, 48},
    {"m5", 10, 10, kM4Clock, 153.6, 8},
    {"m5-pro", 10, 20, kM4Clock, 307.2, 12},
    {"m5-max", 10, 40, kM4Clock, 614.4, 48},
};
constexpr double kMatrixGflopsPerCore = 61000.0 / 40;

Device from(const Row& row) {
  Device d;
  d.kind = Device::Kind::gpu;
  d.name = row.name;
  d.cores = row.cores;
  d.family = row.family;
  d.gflops = row.cores * 256 * row.clock;
  d.matrix_gflops = row.family >= 10 ? row.cores * kMatrixGflopsPerCore : 0;
  d.gbytes = row.gbytes;
  d.system_cache_bytes = int64_t{row.system_cache_mib} << 20;
  return d;
}

}  // namespace

const std::vector<Device>& apple_devices() {
  static const std::vector<Device> devices = [] {
    std::vector<Device> all;
    for (const Row& row : kRows) all.push_back(from(row));
    return all;
  }();
  return devices;
}

const Device& apple_device(const std::string& name) {
  std::string names;
  for (const Device& d : apple_devices()) {
    if (d.name == name) return d;
    names += (names.empty() ? "" : ", ") + d.name;
  }
  throw std::invalid_argument("[plan] device '" + name + "' is not known; there are cpu, " + names + ".");
}

}  // namespace mlx_conv3d
