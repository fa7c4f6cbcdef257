"""Compiles and runs Metal kernels on Linux, and checks them while they run. README.md says how."""

from .errors import CompileError, Diagnostic, MetalSimError
from .frontend import check
from .launch import SCHEDULES, Schedule
from .memory import bfloat16_bits, bfloat16_floats
from .program import (
    Argument,
    Binding,
    Buffer,
    Constant,
    Program,
    Step,
    StockStep,
    ThreadgroupMemory,
    View,
)
from .report import KINDS, Place, Report
from .runner import LineTraffic, Result, StepCounters, run_program
from .single import Output, run_kernel
from .toolchain import unavailable_reason

__all__ = [
    "KINDS",
    "SCHEDULES",
    "Argument",
    "Binding",
    "Buffer",
    "CompileError",
    "Constant",
    "Diagnostic",
    "LineTraffic",
    "MetalSimError",
    "Output",
    "Place",
    "Program",
    "Report",
    "Result",
    "Schedule",
    "Step",
    "StepCounters",
    "StockStep",
    "ThreadgroupMemory",
    "View",
    "bfloat16_bits",
    "bfloat16_floats",
    "check",
    "run_kernel",
    "run_program",
    "unavailable_reason",
]
