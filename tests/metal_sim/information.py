"""What a launch has to know of a compiled kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import Diagnostic
from .ir import Module
from .kernels import Parameter
from .program import MAX_THREADGROUP_MEMORY
from .rewrite import Source


@dataclass(frozen=True)
class KernelInfo:
    """A compiled kernel.

    constants: slots it needs. threadgroup_bytes: all its threadgroup variables together.
    sizes: bytes of what each buffer parameter points to.
    """

    name: str
    entry: int
    parameters: tuple[Parameter, ...]
    max_threads: int
    constants: tuple[int, ...]
    threadgroup_bytes: int
    sizes: dict[int, int]


def _sizes(ir: str, entry: int) -> dict[int, int]:
    """Reads the table that entry_text made: index, size, index, size, …, -1."""
    m = re.search(rf"^@__msl_sizes_{entry} = .*?\[((?:i32 -?\d+(?:, )?)+)\]", ir, re.MULTILINE)
    numbers = [int(n) for n in re.findall(r"i32 (-?\d+)", m[1])] if m else []
    return dict(zip(numbers[::2], numbers[1::2], strict=False))


def information(ir: str, source: Source, module: Module, wanted: list[str]) -> dict[str, KernelInfo]:
    """What there is to know of the wanted kernels; the n-th is the entry n of the module."""
    kernels = {}
    by_slot = {c.slot: c for c in source.constants.values()}
    for k, name in enumerate(wanted):
        kernel = source.kernels.kernel_of(name)
        assert kernel is not None
        used = module.reachable(f"__msl_entry_{k}")
        slots = {n for f in used for s in f.constants for n in by_slot[s].needs}
        optional = {source.constants[p.condition].slot for p in kernel.parameters if p.condition}
        variables = {site: v for f in used for site, v in f.variables.items()}
        total = sum(-(-size // 16) * 16 for size, _ in variables.values())
        info = KernelInfo(
            name,
            k,
            tuple(kernel.parameters),
            kernel.max_threads,
            tuple(sorted(slots | optional)),
            total,
            _sizes(ir, k),
        )
        kernels[name] = info
    return kernels


def overflows(source: Source, module: Module, kernels: dict[str, KernelInfo]) -> list[Diagnostic]:
    """Kernels whose threadgroup variables do not fit."""
    found = []
    for k, name in enumerate(kernels):
        if kernels[name].threadgroup_bytes <= MAX_THREADGROUP_MEMORY:
            continue
        used = module.reachable(f"__msl_entry_{k}")
        names = source.threadgroup_names
        sizes = ", ".join(f"{names[s]}: {n}" for f in used for s, (n, _) in sorted(f.variables.items()))
        file, line = next(module.place(f.subprogram) for f in used if f.variables)
        message = (
            f"kernel '{name}' has {kernels[name].threadgroup_bytes} bytes of threadgroup variables, "
            f"the limit is {MAX_THREADGROUP_MEMORY} ({sizes})"
        )
        found.append(Diagnostic("threadgroup-memory", message, file, line))
    return found
