"""Runs whole Programs on NumPy arrays, step by step, at several schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from . import build, toolchain
from .build import Library
from .errors import MetalSimError
from .frontend import Unit
from .hazards import Conflict, Hazards, Touched
from .information import KernelInfo
from .launch import SCHEDULES, THREADGROUP_SLOT, Outcome, Schedule, launch
from .memory import Array, Memory
from .program import MAX_THREADGROUP_MEMORY, Program, Step, StockStep
from .report import Place, Report, places

StockOp = Callable[..., "Array | Sequence[Array]"]


@dataclass(frozen=True)
class LineTraffic:
    """Bytes that one line of source moved from or to one buffer."""

    place: Place
    name: str
    write: bool
    count: int
    nbytes: int


@dataclass
class StepCounters:
    """What one step moved, by buffer name.

    loaded, stored: bytes of all accesses together. touched_loaded, touched_stored: different bytes, which is the
    least that has to come from and go to memory. `argument_bytes` are loads of argument bytes, `threadgroup_*` of
    threadgroup memory; the rest counts events.
    """

    kernel: str
    loaded: dict[str, int] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    touched_loaded: dict[str, int] = field(default_factory=dict)
    touched_stored: dict[str, int] = field(default_factory=dict)
    argument_bytes: int = 0
    threadgroup_loaded: int = 0
    threadgroup_stored: int = 0
    threadgroup_memory: int = 0
    threadgroup_barriers: int = 0
    simdgroup_barriers: int = 0
    lane_exchanges: int = 0
    matrix_multiplies: int = 0
    atomics: int = 0
    outcome: Outcome | None = None

    @property
    def touched(self) -> int:
        """Different bytes of all buffers, loaded and stored."""
        return sum(self.touched_loaded.values()) + sum(self.touched_stored.values())

    def traffic(self) -> list[LineTraffic]:
        """Bytes by line of source, most first."""
        if self.outcome is None:
            return []
        where = places(
            self.outcome.library.path, self.outcome.library.root, [s.pc for s in self.outcome.sites]
        )
        lines = [
            LineTraffic(where[s.pc], self.outcome.names.get(s.slot, "?"), s.write, s.count, s.nbytes)
            for s in self.outcome.sites
        ]
        return sorted(lines, key=lambda t: -t.nbytes)


@dataclass
class Result:
    """Outputs by name, all reports, and counters of every step (of the first schedule)."""

    outputs: dict[str, Array]
    reports: list[Report]
    steps: list[StepCounters]

    def kinds(self) -> set[str]:
        """Kinds of report there are."""
        return {r.kind for r in self.reports}

    def check(self) -> Result:
        """Itself; raises AssertionError with all reports if there are any."""
        if self.reports:
            raise AssertionError("\n".join(map(str, self.reports)))
        return self


@dataclass(frozen=True)
class _Settings:
    kernel_dir: Path
    include_dirs: tuple[Path, ...]
    defines: tuple[str, ...]
    stock: Mapping[str, StockOp]
    timeout: int


# ---------------------------------------------------------------- before a step


def _library(step: Step, settings: _Settings) -> Library:
    templates = ((step.kernel, step.template),) if step.template else ()
    unit = Unit(settings.kernel_dir / step.source, settings.include_dirs, settings.defines, templates)
    return build.build(unit, [step.kernel])


def _needed(kernel: KernelInfo, library: Library, step: Step) -> set[int]:
    """Buffer indices that must be bound: those without a condition, or with one that is true."""
    values = {library.constants[c.index][0]: c.value for c in step.constants if c.index in library.constants}
    buffers = [p for p in kernel.parameters if p.kind == "buffer"]
    return {p.index for p in buffers if not p.condition or values.get(p.condition)}


def _mismatches(step: Step, library: Library, kernel: KernelInfo) -> list[str]:
    """Where step and kernel do not fit together."""
    bound = {b.index for b in step.bindings} | {a.index for a in step.arguments}
    declared = {p.index: p for p in kernel.parameters if p.kind == "buffer"}
    missing = sorted(_needed(kernel, library, step) - bound)
    found = [f"buffer {i} ('{declared[i].name}') is not bound" for i in missing]
    found += [f"buffer {i} is bound, the kernel has no such parameter" for i in sorted(bound - set(declared))]
    lengths = {m.index for m in step.threadgroup_memory}
    wanted = {p.index for p in kernel.parameters if p.kind == "threadgroup"}
    found += [f"threadgroup argument {i} has no length" for i in sorted(wanted - lengths)]
    found += [f"threadgroup argument {i} does not exist" for i in sorted(lengths - wanted)]
    given = {c.index for c in step.constants}
    unset = [i for i in kernel.constants if i not in given]
    found += [f"function constant {i} ('{library.constants[i][0]}') is not set" for i in unset]
    found += [f"the source declares no function constant {i}" for i in sorted(given - set(library.constants))]
    threads = int(np.prod(step.threadgroup))
    if threads > kernel.max_threads:
        found.append(f"{threads} threads per threadgroup, the kernel allows {kernel.max_threads}")
    memory = kernel.threadgroup_bytes + sum(m.nbytes for m in step.threadgroup_memory)
    if memory > MAX_THREADGROUP_MEMORY:
        found.append(f"{memory} bytes of threadgroup memory, the limit is {MAX_THREADGROUP_MEMORY}")
    for a in step.arguments:
        size = kernel.sizes.get(a.index, 0)
        if size and (not a.data or len(a.data) % size):
            found.append(f"argument {a.index} has {len(a.data)} bytes, '{declared[a.index].name}' has {size}")
    return found


# ---------------------------------------------------------------- after a step


def _counters(step: Step, outcome: Outcome, touched: Touched) -> StepCounters:
    c = StepCounters(step.kernel, outcome=outcome)
    for name, value in outcome.counters.items():
        setattr(c, name, value)
    bound = {b.index: b.buffer for b in step.bindings}
    for s in outcome.sites:
        if s.slot == THREADGROUP_SLOT:
            c.threadgroup_stored += s.nbytes * s.write
            c.threadgroup_loaded += s.nbytes * (not s.write)
        elif s.slot in bound:
            totals = c.stored if s.write else c.loaded
            totals[bound[s.slot]] = totals.get(bound[s.slot], 0) + s.nbytes
        else:
            c.argument_bytes += s.nbytes
    _count_touched(c, touched)
    return c


def _count_touched(c: StepCounters, touched: Touched) -> None:
    c.touched_loaded = {n: int(np.unpackbits(m).sum()) for n, m in touched.loaded.items()}
    c.touched_stored = {n: int(np.unpackbits(m).sum()) for n, m in touched.stored.items()}


class _Run:
    """One pass over the steps at one schedule."""

    def __init__(
        self, program: Program, inputs: Mapping[str, Array], schedule: Schedule, settings: _Settings
    ) -> None:
        self.program, self.schedule, self.settings = program, schedule, settings
        self.memory = Memory(program, inputs)
        self.reports: list[Report] = []
        self.counters: list[StepCounters] = []
        self.hazards = Hazards()

    def go(self) -> Result:
        with self.memory:
            complete = all(self._step(i, s) for i, s in enumerate(self.program.steps))
            outputs = {b.name: self.memory.output(b) for b in self.program.buffers if b.role == "output"}
            if complete:
                self._unwritten()
        reports = [replace(r, schedule=str(self.schedule)) for r in self.reports]
        return Result(outputs, reports, self.counters)

    def _step(self, i: int, step: Step | StockStep) -> bool:
        """Runs a step; False if it makes no sense to go on."""
        self.memory.begin_step(step.discards)
        if isinstance(step, StockStep):
            counters, complete = self._stock(i, step)
        else:
            found = self._kernel(i, step)
            if found is None:
                return False
            counters, complete = found
        touched = self.memory.touched(i)
        _count_touched(counters, touched)
        self.counters.append(counters)
        for conflict in self.hazards.add(touched, step.barrier):
            self._conflict(conflict)
        return complete

    def _kernel(self, i: int, step: Step) -> tuple[StepCounters, bool] | None:
        library = _library(step, self.settings)
        kernel = library.kernels[step.kernel]
        if wrong := _mismatches(step, library, kernel):
            self.reports += [Report("program", w, i, step.kernel) for w in wrong]
            return None
        outcome = launch(step, library, kernel, self.memory.storages, self.schedule, self.settings.timeout)
        self.reports += [replace(r, step=i, kernel=step.kernel) for r in outcome.reports]
        return _counters(step, outcome, self.memory.touched(i)), outcome.status == "complete"

    def _stock(self, i: int, step: StockStep) -> tuple[StepCounters, bool]:
        if step.op not in self.settings.stock:
            raise MetalSimError(f"step {i} needs the stock operation '{step.op}', which was not given")
        arrays = []
        for v in step.inputs:
            array, initialised = self.memory.load(v)
            arrays.append(array)
            if not initialised:
                self.reports.append(Report("uninitialised", f"input view of '{v.buffer}'", i, step.op))
        results = self.settings.stock[step.op](*arrays, **dict(step.attributes))
        values = [results] if isinstance(results, np.ndarray) else results
        for v, value in zip(step.outputs, values, strict=True):
            if not self.memory.storages[v.buffer].writable:
                self.reports.append(Report("read-only", f"output view of the input '{v.buffer}'", i, step.op))
            self.memory.store(v, value)
        return StepCounters(step.op), True

    def _conflict(self, c: Conflict) -> None:
        def side(step: int, writes: bool) -> tuple[str, Place]:
            s, outcome = self.program.steps[step], self.counters[step].outcome
            if isinstance(s, StockStep) or outcome is None:
                return (s.op if isinstance(s, StockStep) else s.kernel), Place()
            slots = {b.index for b in s.bindings if b.buffer == c.buffer}
            return s.kernel, outcome.place_of(slots, writes, c.byte)

        later, place = side(c.later, c.later_writes)
        earlier, other = side(c.earlier, c.earlier_writes)
        verbs = ["writes" if w else "reads" for w in (c.later_writes, c.earlier_writes)]
        message = (
            f"{verbs[0]} {c.count} bytes of '{c.buffer}' from offset {c.byte} that step {c.earlier} ({earlier}) "
            f"{verbs[1]}, and no barrier stands between them"
        )
        self.reports.append(Report("missing-barrier", message, c.later, later, place, other, c.count))

    def _unwritten(self) -> None:
        for b in self.program.buffers:
            missing, first = self.memory.unwritten(b.name)
            if b.role == "output" and missing:
                message = (
                    f"{missing} of {b.nbytes} bytes of '{b.name}' were never written, the first is {first}"
                )
                self.reports.append(Report("unwritten-output", message))


def _merge(results: list[Result], schedules: Sequence[Schedule]) -> Result:
    """Reports of all runs without repetition, outputs and counters of the first."""
    merged: dict[tuple[object, ...], Report] = {}
    for result in results:
        for r in result.reports:
            merged.setdefault((r.kind, r.step, r.place, r.other, r.message if not r.place.file else ""), r)
    first = results[0]
    for result, schedule in zip(results[1:], schedules[1:], strict=True):
        for name, array in result.outputs.items():
            if not merged and array.tobytes() != first.outputs[name].tobytes():
                text = f"'{name}' differs between the schedules {schedules[0]} and {schedule}"
                merged["schedule", name] = Report("schedule-dependent", text, schedule=str(schedule))
    return Result(first.outputs, list(merged.values()), first.steps)


def run_program(
    program: Program,
    inputs: Mapping[str, Array],
    kernel_dir: str | Path,
    *,
    include_dirs: Sequence[str | Path] = (),
    defines: Sequence[str] = (),
    schedules: Sequence[Schedule] = SCHEDULES,
    stock: Mapping[str, StockOp] | None = None,
    timeout: int = 60,
) -> Result:
    """Runs a Program, once per schedule, and returns its outputs, reports and counters.

    inputs: one array per input buffer, of its size in bytes. kernel_dir: where the steps' sources are.
    stock: NumPy stand-ins for the operations of stock steps. timeout: seconds of its own time that a kernel may take.
    Raises CompileError if a kernel is not acceptable, MetalSimError if the call makes no sense.
    """
    toolchain.require()
    if wrong := program.problems():
        return Result({}, [Report("program", w) for w in wrong], [])
    include = tuple(map(Path, include_dirs))
    settings = _Settings(Path(kernel_dir), include, tuple(defines), stock or {}, timeout)
    results = [_Run(program, inputs, s, settings).go() for s in schedules]
    return _merge(results, schedules)
