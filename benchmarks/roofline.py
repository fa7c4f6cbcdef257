"""The most this machine can do, measured: fp32 FMA peak, bf16 matrix-unit peak and copy bandwidth
(roofline.cpp)."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("roofline.cpp")
NATIVE_FLAGS: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])


@dataclass(frozen=True)
class Roofline:
    """GFLOP/s of fp32 FMAs and of the bf16 matrix unit (0 without one), and GB/s (read plus written) of a
    copy."""

    fma_gflops: float
    matrix_bf16_gflops: float
    copy_gbs: float
    threads: int

    def peak(self, dtype: str) -> float:
        """GFLOP/s that data of this dtype could be multiplied at: the matrix unit's for bfloat16 if there
        is one."""
        return max(self.fma_gflops, self.matrix_bf16_gflops if dtype == "bfloat16" else 0.0)

    def seconds(self, flops: float, nbytes: float, dtype: str) -> float:
        """The least time for so many direct FLOPs and so many bytes, whichever takes longer."""
        return max(flops / (self.peak(dtype) * 1e9), nbytes / (self.copy_gbs * 1e9))

    def best_of(self, other: Roofline | None) -> Roofline:
        """A peak is the best that was seen, so that another process's work does not pass for the machine's
        limit."""
        if other is None:
            return self
        return Roofline(
            max(self.fma_gflops, other.fma_gflops),
            max(self.matrix_bf16_gflops, other.matrix_bf16_gflops),
            max(self.copy_gbs, other.copy_gbs),
            self.threads,
        )

    def __str__(self) -> str:
        matrix = (
            f", bf16 matrix unit {self.matrix_bf16_gflops:.0f} GFLOP/s" if self.matrix_bf16_gflops else ""
        )
        return (
            f"fp32 FMA peak {self.fma_gflops:.0f} GFLOP/s{matrix}, copy {self.copy_gbs:.1f} GB/s "
            f"({self.threads} thread{'s' if self.threads > 1 else ''})"
        )


def measure(threads: int, *, quick: bool = False) -> Roofline | None:
    """Measures it with this many threads (about 3 s, quick 0.5 s). None without a working C++ compiler."""
    program = _program()
    if program is None:
        return None
    arguments = [str(threads), "0.1" if quick else "0.7", "64" if quick else "512"]
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        return None
    return Roofline(**json.loads(done.stdout), threads=threads)


@functools.cache
def _program() -> Path | None:
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None:
        return None
    directory = _directory()
    program = Path(directory.name) / "roofline"
    for native in NATIVE_FLAGS:
        command = [compiler, "-std=c++17", "-O3", *native, "-pthread", str(SOURCE), "-o", str(program)]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return program
    return None


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="roofline-")
