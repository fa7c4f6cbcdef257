"""Runs one kernel on NumPy arrays, without writing a Program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .memory import Array, numpy_dtype
from .program import Argument, Binding, Buffer, Constant, Program, Size3, Step, ThreadgroupMemory
from .runner import Result, run_program


@dataclass(frozen=True)
class Output:
    """An output buffer of the kernel. `scratch`: not an output of the run, so it may stay partly unwritten."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    scratch: bool = False

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * numpy_dtype(self.dtype).itemsize


def run_kernel(
    source: str | Path,
    kernel: str,
    buffers: Mapping[int, Array | Output | bytes],
    grid: Size3,
    threadgroup: Size3,
    *,
    constants: Mapping[int, bool | int | float] | None = None,
    threadgroup_memory: Mapping[int, int] | None = None,
    template: str = "",
    dispatch: str = "threadgroups",
    **options: Any,
) -> Result:
    """Runs `kernel` of the file `source`; `buffers` by index: an array is input, bytes are an argument.

    The result has the outputs by name: "b0" is what was at index 0. `options` go to run_program.
    """
    path = Path(source)
    outputs = {f"b{i}": v for i, v in buffers.items() if isinstance(v, Output)}
    inputs = {f"b{i}": v for i, v in buffers.items() if isinstance(v, np.ndarray)}
    roles = {n: "scratch" if o.scratch else "output" for n, o in outputs.items()}
    step = Step(
        kernel=kernel,
        source=path.name,
        grid=grid,
        threadgroup=threadgroup,
        bindings=tuple(Binding(i, f"b{i}") for i in buffers if f"b{i}" in outputs or f"b{i}" in inputs),
        arguments=tuple(Argument(i, v) for i, v in buffers.items() if isinstance(v, bytes)),
        constants=tuple(Constant(i, v) for i, v in (constants or {}).items()),
        threadgroup_memory=tuple(ThreadgroupMemory(i, n) for i, n in (threadgroup_memory or {}).items()),
        template=template,
        dispatch=dispatch,
    )
    declared = [Buffer(n, "input", a.nbytes) for n, a in inputs.items()]
    declared += [Buffer(n, roles[n], o.nbytes, o.dtype, o.shape) for n, o in outputs.items()]
    return run_program(Program(tuple(declared), (step,)), inputs, path.parent, **options)
