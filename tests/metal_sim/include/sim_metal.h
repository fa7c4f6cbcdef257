// Everything a kernel gets from <metal_stdlib>.
#pragma once
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Weverything"
#include "sim_atomic.h"
#include "sim_entry.h"
#include "sim_simdgroup.h"
#pragma clang diagnostic pop
