"""MLX_CONV3D_BREAK: shows on a sound machine what the doctor says of a broken one.

A list of names separated by commas. An algorithm or a family of Metal kernels: to the checks its results then seem 1 %
too large; "name:crash" or "name:hang": there the process ends, or stops for good. A file of kernels/: its embedded
source then does not compile. Results outside the checks are never touched.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

import mlx.core as mx

from mlx_conv3d import _ext
from mlx_conv3d._arguments import ALGORITHMS

VARIABLE = "MLX_CONV3D_BREAK"
FAMILIES = ("winograd", "grouped", "gather_gemm")  # the sources of each begin with its name
OFF_BY = 1.01


def named() -> dict[str, str]:
    """How each named thing is broken: "wrong", "crash" or "hang"."""
    entries = [entry.partition(":") for entry in os.environ.get(VARIABLE, "").split(",") if entry]
    return {name: how or "wrong" for name, _, how in entries}


def mistakes() -> list[str]:
    """Entries that mean nothing."""
    kernels = {*ALGORITHMS, *FAMILIES} - {"auto", "stock"}
    files = _ext.kernel_names()
    return [
        f"{name}:{how}" if how != "wrong" else name
        for name, how in named().items()
        if not ((name in kernels and how in ("wrong", "crash", "hang")) or (name in files and how == "wrong"))
    ]


def perturbed(y: mx.array, *names: str) -> mx.array:
    """y, or y 1 % too large if one of the names is broken."""
    broken = named()
    return y * OFF_BY if any(broken.get(name) == "wrong" for name in names) else y


def strike(names: Iterable[str]) -> None:
    """Crashes or hangs here, in compiled code that holds the interpreter, if one of the names is to."""
    broken = named()
    ways = {broken.get(name) for name in names}
    if "crash" in ways:
        ctypes.string_at(0)
    if "hang" in ways:
        ctypes.PyDLL(None).pause()
