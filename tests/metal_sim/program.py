"""A Program: all that one convolution sends to the GPU, as plain data.

A Program has buffers and steps. A buffer is an input, an output or scratch memory; sizes are in bytes. A step is one
kernel dispatch: which kernel of which file, its function constants, what is bound where, and the grid. Steps are in
order, but the GPU may run neighbours at the same time: a step that must see what an earlier one wrote (or must not
overwrite what an earlier one still reads) says `barrier=True`, which makes everything before it complete first.

The dataclasses and plain dicts stand for each other, field by field: `Program.from_dict(d).to_dict() == d` up to
fields at their default, which a dict may leave out. Tuples are lists in dicts, bytes stay bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

Size3 = tuple[int, int, int]

ROLES = ("input", "output", "scratch")
# Metal's limits that a dispatch must respect on every Apple GPU.
MAX_THREADS = 1024
MAX_ARGUMENT_BYTES = 4096
MAX_BINDINGS = 31
MAX_THREADGROUP_MEMORY = 32 << 10


@dataclass(frozen=True)
class Buffer:
    """Memory of `nbytes` bytes. `role`: "input" (never written), "output", "scratch" (starts undefined).

    `dtype` ("float32", "float16", "bfloat16", "int32", …) and `shape` say how an output is handed back; bfloat16
    arrays are uint16 bit patterns in NumPy. An empty shape means one axis.
    """

    name: str
    role: str
    nbytes: int
    dtype: str = "float32"
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Binding:
    """Buffer `buffer` from byte `offset` on, as [[buffer(index)]].

    `nbytes` is the length the step may touch from there; -1 means to the end of the buffer.
    """

    index: int
    buffer: str
    offset: int = 0
    nbytes: int = -1


@dataclass(frozen=True)
class Argument:
    """Bytes set as [[buffer(index)]], usually a structure of kernels/params.h; at most 4096."""

    index: int
    data: bytes


@dataclass(frozen=True)
class Constant:
    """Function constant `index` with a value of the type the kernel declares: bool, int, or float."""

    index: int
    value: bool | int | float


@dataclass(frozen=True)
class ThreadgroupMemory:
    """Length in bytes of the argument [[threadgroup(index)]]; Metal wants a multiple of 16."""

    index: int
    nbytes: int


@dataclass(frozen=True)
class Step:
    """One dispatch of `kernel` (its host name) of the file `source`, relative to the kernel directory.

    template: the template-id that `kernel` is instantiated from, as "conv_tile<half, 4>", if the source does not
        instantiate it itself.
    grid: threadgroups per axis, or threads per axis if `dispatch` is "threads" (then groups at the edge are smaller).
    threadgroup: threads per threadgroup and axis.
    barrier: whether everything before this step is complete before it starts.
    discards: scratch buffers whose content is dead when the step starts (a chunk's scratch, used again). The
        simulator then treats them as never written, so that a stale value cannot pass for a new one.
    nbytes, flops: bytes the step is declared to move and operations to do, 0 if it does not say; for reports only.
    """

    kernel: str
    source: str
    grid: Size3
    threadgroup: Size3
    bindings: tuple[Binding, ...] = ()
    arguments: tuple[Argument, ...] = ()
    constants: tuple[Constant, ...] = ()
    threadgroup_memory: tuple[ThreadgroupMemory, ...] = ()
    barrier: bool = True
    template: str = ""
    dispatch: str = "threadgroups"
    discards: tuple[str, ...] = ()
    nbytes: int = 0
    flops: int = 0

    @property
    def groups(self) -> Size3:
        """Threadgroups per axis."""
        if self.dispatch == "threadgroups":
            return self.grid
        x, y, z = (-(-n // t) for n, t in zip(self.grid, self.threadgroup, strict=True))
        return x, y, z


@dataclass(frozen=True)
class View:
    """An array in a buffer: `offset` in bytes, `strides` in elements (empty: row-major)."""

    buffer: str
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0
    strides: tuple[int, ...] = ()


@dataclass(frozen=True)
class StockStep:
    """A primitive of MLX (say a matrix product) on views of the Program's buffers.

    It is MLX's kernel that runs, so the simulator calls a NumPy stand-in for `op` instead, with `attributes` as
    keywords, and still checks initialisation and the barriers around it.
    """

    op: str
    inputs: tuple[View, ...]
    outputs: tuple[View, ...]
    attributes: tuple[tuple[str, Any], ...] = ()
    barrier: bool = True
    discards: tuple[str, ...] = ()
    nbytes: int = 0


@dataclass(frozen=True)
class Program:
    """Buffers and steps; names of buffers are unique."""

    buffers: tuple[Buffer, ...]
    steps: tuple[Step | StockStep, ...]

    def buffer(self, name: str) -> Buffer:
        """The buffer of that name; KeyError if there is none."""
        for b in self.buffers:
            if b.name == name:
                return b
        raise KeyError(name)

    @property
    def scratch_bytes(self) -> int:
        """Sum of all scratch buffers."""
        return sum(b.nbytes for b in self.buffers if b.role == "scratch")

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Program:
        """The Program that a dict describes. A step with the key "op" is a StockStep."""
        steps = tuple(_build(StockStep if "op" in s else Step, s) for s in d["steps"])
        return cls(tuple(_build(Buffer, b) for b in d["buffers"]), steps)

    def to_dict(self) -> dict[str, Any]:
        """As dicts, lists and bytes."""
        return {"buffers": _plain(asdict(self)["buffers"]), "steps": _plain(asdict(self)["steps"])}

    def problems(self) -> list[str]:
        """What Metal would refuse, or what cannot be meant: empty for a sound Program."""
        found = [f"buffer '{b.name}': {p}" for b in self.buffers for p in _buffer_problems(b)]
        names = [b.name for b in self.buffers]
        found += [f"two buffers are named '{n}'" for n in sorted(set(names)) if names.count(n) > 1]
        for i, s in enumerate(self.steps):
            what = s.op if isinstance(s, StockStep) else s.kernel
            step_problems = self._stock_problems(s) if isinstance(s, StockStep) else self._step_problems(s)
            for p in [*step_problems, *self._discard_problems(s)]:
                found.append(f"step {i} ({what}): {p}")
        return found

    def _step_problems(self, s: Step) -> list[str]:
        found = []
        if math.prod(s.threadgroup) > MAX_THREADS:
            found.append(f"{math.prod(s.threadgroup)} threads per threadgroup, the limit is {MAX_THREADS}")
        if min(*s.grid, *s.threadgroup) < 1:
            found.append(f"empty grid {s.grid} or threadgroup {s.threadgroup}")
        if s.dispatch not in ("threadgroups", "threads"):
            found.append(f"dispatch '{s.dispatch}'")
        if sum(m.nbytes for m in s.threadgroup_memory) > MAX_THREADGROUP_MEMORY:
            found.append(f"threadgroup memory over {MAX_THREADGROUP_MEMORY} bytes")
        found += [f"threadgroup memory of {m.nbytes} bytes" for m in s.threadgroup_memory if m.nbytes % 16]
        indices = [b.index for b in s.bindings] + [a.index for a in s.arguments]
        found += [f"index {i} is bound twice" for i in sorted(set(indices)) if indices.count(i) > 1]
        found += [f"buffer index {i}" for i in indices if not 0 <= i < MAX_BINDINGS]
        too_long = [a for a in s.arguments if len(a.data) > MAX_ARGUMENT_BYTES]
        found += [f"argument {a.index} has {len(a.data)} bytes" for a in too_long]
        for b in s.bindings:
            found += self._range_problems(b.buffer, b.offset, max(b.nbytes, 1))
        return found

    def _stock_problems(self, s: StockStep) -> list[str]:
        found = []
        for v in (*s.inputs, *s.outputs):
            found += self._range_problems(v.buffer, v.offset, 0)
            if v.strides and len(v.strides) != len(v.shape):
                found.append(f"view of '{v.buffer}' has {len(v.strides)} strides for {len(v.shape)} axes")
        return found

    def _discard_problems(self, s: Step | StockStep) -> list[str]:
        scratch = {b.name for b in self.buffers if b.role == "scratch"}
        return [f"discards '{n}', which is no scratch buffer" for n in s.discards if n not in scratch]

    def _range_problems(self, name: str, offset: int, nbytes: int) -> list[str]:
        size = next((b.nbytes for b in self.buffers if b.name == name), None)
        if size is None:
            return [f"no buffer '{name}'"]
        if offset < 0 or offset + nbytes > size:
            return [f"bytes {offset} to {offset + nbytes} of '{name}', which has {size}"]
        return []


def _buffer_problems(b: Buffer) -> list[str]:
    found = [] if b.role in ROLES else [f"role '{b.role}'"]
    return found if b.nbytes >= 0 else [*found, f"{b.nbytes} bytes"]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _build(kind: Any, value: Any) -> Any:
    """Makes a dataclass, or a tuple of them, from dicts and lists."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        known = {f.name for f in fields(kind)}
        if unknown := set(value) - known:
            raise ValueError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
        return kind(**{k: _build(hints[k], v) for k, v in value.items()})
    if getattr(kind, "__origin__", None) is tuple:
        arguments = get_args(kind)
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_build(k, v) for k, v in zip(inner, value, strict=True))
    return value
