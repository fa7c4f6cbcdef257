#pragma once

// A simdgroup's 8x8 matrix to the transform domain's scratch.

#include "gemm.h"
#include "transformed.h"

METAL_FUNC void store_matrix(simdgroup_matrix<float, 8, 8> m, TransformedOutput to, int64_t at, int64_t pitch,
                             uint lane) {
  if (float24) {
    to.store(at + matrix_row(lane) * pitch + matrix_col(lane), m.thread_elements());
  } else {
    simdgroup_store(m, to.data + at, pitch);
  }
}
