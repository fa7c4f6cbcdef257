// This instruction set's table of primitives.

#include "cpu/simd/convert.h"
#include "cpu/simd/depthwise.h"
#include "cpu/simd/direct.h"
#include "cpu/simd/gemm.h"
#include "cpu/simd/grouped.h"
#include "cpu/simd/norm.h"
#include "cpu/simd/taps.h"
#include "cpu/simd/unit_gradient.h"
#include "cpu/simd/winograd.h"
#include "cpu/simd/winograd_columns.h"
#include "cpu/simd/winograd_gradient.h"
#include "cpu/simd/winograd_group.h"
#include "cpu/simd/winograd_rows.h"

namespace mlx_conv3d::cpu {

extern const Kernels SIMD_CAT(kernels_, SIMD_ISA);
const Kernels SIMD_CAT(kernels_, SIMD_ISA) = {
    SIMD_TEXT(SIMD_ISA),
    SIMD_NAMESPACE::kWidth,
    SIMD_NAMESPACE::kPanelVectors,
    {SIMD_NAMESPACE::kRows[0], SIMD_NAMESPACE::kRows[1], SIMD_NAMESPACE::kRows[2], SIMD_NAMESPACE::kRows[3]},
    SIMD_NAMESPACE::gemm,
    SIMD_NAMESPACE::gemm_taps,
    SIMD_NAMESPACE::gemm_narrow,
    SIMD_NAMESPACE::sum_lanes,
    SIMD_NAMESPACE::to_float,
    SIMD_NAMESPACE::store_row,
    SIMD_NAMESPACE::store_rows,
    SIMD_NAMESPACE::add,
    SIMD_NAMESPACE::pack_weight,
    SIMD_NAMESPACE::direct,
    SIMD_NAMESPACE::direct_gradient,
    SIMD_NAMESPACE::stage_blocks,
    SIMD_NAMESPACE::permute_lanes,
    SIMD_NAMESPACE::winograd_columns,
    SIMD_NAMESPACE::winograd_group,
    SIMD_NAMESPACE::winograd_results,
    SIMD_NAMESPACE::winograd_row_pixels,
    SIMD_NAMESPACE::winograd_rows,
    SIMD_NAMESPACE::winograd_row_results,
    SIMD_NAMESPACE::winograd_row_weight,
    SIMD_NAMESPACE::grouped_function,
    SIMD_NAMESPACE::grouped_rotation,
    SIMD_NAMESPACE::grouped_gradient_function,
    SIMD_NAMESPACE::unit_gradient,
    SIMD_NAMESPACE::unit_gradient_results,
    SIMD_NAMESPACE::depthwise_function,
    SIMD_NAMESPACE::depthwise_gradient_function,
    SIMD_NAMESPACE::winograd_input,
    SIMD_NAMESPACE::winograd_output,
    SIMD_NAMESPACE::winograd_weight,
    SIMD_NAMESPACE::winograd_depth_input,
    SIMD_NAMESPACE::winograd_depth_butterfly,
    SIMD_NAMESPACE::winograd_cotangent,
    SIMD_NAMESPACE::winograd_weight_gradient,
    SIMD_NAMESPACE::winograd_depth_cotangent,
    SIMD_NAMESPACE::rms_norm,
    SIMD_NAMESPACE::rms_norm_gradient,
};

}  // namespace mlx_conv3d::cpu
