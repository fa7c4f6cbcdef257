#pragma once

#include <cstdint>
#include <functional>

namespace mlx_conv3d::cpu {

/// Threads that a parallel loop uses, the caller included: MLX_CONV3D_NUM_THREADS, else the CPUs this process
/// may run on.
int thread_count();

/// Calls body(i, thread) for every i in [0, count), handed out in order to whichever thread is free; returns
/// when all are done. `thread` is in [0, thread_count()). Calls from several threads take turns; an exception
/// in the body is rethrown here. Must not be nested.
void parallel_for(int64_t count, const std::function<void(int64_t, int)>& body);

}  // namespace mlx_conv3d::cpu
