// Codes that the MSL headers and the runtime share.
#pragma once

#define SIM_OP_BARRIER 0
#define SIM_OP_SHUFFLE 1
#define SIM_OP_BROADCAST 2
#define SIM_OP_BROADCAST_FIRST 3
#define SIM_OP_REDUCE 4
#define SIM_OP_VOTE 5
#define SIM_OP_MATRIX_LOAD 6
#define SIM_OP_MATRIX_STORE 7
#define SIM_OP_MATRIX_MULTIPLY 8

#define SIM_ATOMIC_LOAD 0
#define SIM_ATOMIC_STORE 1
#define SIM_ATOMIC_EXCHANGE 2
#define SIM_ATOMIC_ADD 3
#define SIM_ATOMIC_SUB 4
#define SIM_ATOMIC_MIN 5
#define SIM_ATOMIC_MAX 6
#define SIM_ATOMIC_AND 7
#define SIM_ATOMIC_OR 8
#define SIM_ATOMIC_XOR 9
#define SIM_ATOMIC_COMPARE_EXCHANGE 10

#define SIM_TYPE_INT 0
#define SIM_TYPE_UINT 1
#define SIM_TYPE_FLOAT 2

#define SIM_MEM_DEVICE 1
#define SIM_MEM_THREADGROUP 2

// Row and column of the first of the two adjacent elements that a lane holds of an 8x8 simdgroup matrix.
#define SIM_MATRIX_ROW(lane) ((((lane) / 4) & 4) + ((lane) / 2) % 4)
#define SIM_MATRIX_COL(lane) ((((lane) / 4) & 2) * 2 + ((lane) % 2) * 2)
