#pragma once

// Values of the transform domain as scratch holds them: fp32, or where float24 says so fp32 cut off after 24 bits, of
// which the upper 16 lie in one plane and the lower 8 in another behind it. A plane's length is a multiple of 4 values.
// Cutting off instead of rounding makes all values smaller by about the same share, which bf16 results do not show.

#include "params.h"

constant bool float24 [[function_constant(MLX_CONV3D_FLOAT24)]];

/// Four neighbouring values as they are loaded, so that nothing waits for them before they are used.
struct Quad {
  float4 whole;
  ushort4 high;
  uchar4 low;

  METAL_FUNC float4 values() const thread {
    return float24 ? as_type<float4>((uint4(high) << 16) | (uint4(low) << 8)) : whole;
  }
};

/// `count`: of all values, the length of a plane.
struct TransformedInput {
  const device float* data;
  int64_t count;

  METAL_FUNC const device ushort* high() const thread { return (const device ushort*)data; }
  METAL_FUNC const device uchar* low() const thread { return (const device uchar*)(high() + count); }

  METAL_FUNC float value(int64_t at) const thread {
    if (!float24) return data[at];
    return as_type<float>((uint(high()[at]) << 16) | (uint(low()[at]) << 8));
  }

  METAL_FUNC Quad quad(int64_t at) const thread {
    Quad q;
    if (float24) {
      q.high = *(const device ushort4*)(high() + at);
      q.low = *(const device uchar4*)(low() + at);
    } else {
      q.whole = *(const device float4*)(data + at);
    }
    return q;
  }
};

struct TransformedOutput {
  device float* data;
  int64_t count;

  METAL_FUNC device ushort* high() const thread { return (device ushort*)data; }
  METAL_FUNC device uchar* low() const thread { return (device uchar*)(high() + count); }

  METAL_FUNC void store(int64_t at, float value) const thread {
    if (!float24) {
      data[at] = value;
      return;
    }
    const uint bits = as_type<uint>(value);
    high()[at] = ushort(bits >> 16);
    low()[at] = uchar(bits >> 8 & 0xff);
  }

  /// Two neighbouring values, the first at an even place.
  METAL_FUNC void store(int64_t at, float2 values) const thread {
    const uint2 bits = as_type<uint2>(values);
    *(device ushort2*)(high() + at) = ushort2(bits >> uint2(16));
    *(device uchar2*)(low() + at) = uchar2((bits >> uint2(8)) & uint2(0xff));
  }
};
