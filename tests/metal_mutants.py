"""Mutants of Metal's kernels and Programs: one barrier left out, or one bound off by one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from metal_sim import Buffer, Program, Step
from metal_sim.frontend import Unit
from metal_sim.memory import numpy_dtype

BARRIER, BOUND = "barrier", "bound"


@dataclass(frozen=True)
class Mutant:
    """A change of one line of a kernel's source, or of the Program's steps that run a source.

    file: in kernels/. kind: "barrier" or "bound". line, change: what stands there and what replaces it, both without
    indentation; of a Program a name of what is changed. at: the line's number, or 0 for a Program's mutant.
    occurrence: counts the mutants of a file that have the same line and change.
    """

    file: str
    kind: str
    line: str
    change: str
    at: int = 0
    occurrence: int = 1

    def __str__(self) -> str:
        where = f"{self.file}:{self.at}" if self.at else f"steps of {self.file}"
        return f"{where}: {self.line}  ->  {self.change or 'nothing'}"

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What tells it from others as long as the line stays as it is, wherever it moves."""
        return self.file, self.line, self.change, self.occurrence


# ---------------------------------------------------------------- sources

_COMMENT = re.compile(r"//.*")
_BARRIER = re.compile(r"\b(?:threadgroup|simdgroup)_barrier\([^()]*\)")
# Comparisons have blanks around them, the brackets of templates have not.
_COMPARISON = re.compile(r" (?:<=|>=|==|!=|<|>) ")
_CLAMP = re.compile(r"\b(?:min|max|clamp)\(")
_ARRAY = re.compile(
    r"^\s*(?:threadgroup |constexpr |constant |static |const )*[A-Za-z_]\w*(?:<[^<>]*>)? "
    r"(?P<names>[A-Za-z_]\w*(?:\[[^;]*\])(?:, [A-Za-z_]\w*\[[^;]*\])*)(?: = [^;]*)?;"
)


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += text[i] in "([{"
        depth -= text[i] in ")]}"
        if depth == 0:
            return i
    raise ValueError(f"no closing bracket in {text!r}")


def _last_argument(text: str, start: int, end: int) -> int:
    """Where the last argument between two brackets begins."""
    depth, begin = 0, start + 1
    for i in range(start + 1, end):
        depth += text[i] in "([{"
        depth -= text[i] in ")]}"
        if depth == 0 and text[i] == ",":
            begin = i + 2
    return begin


def _clamps(code: str) -> Iterator[str]:
    """min(a, b): b off by one, and a alone."""
    for m in _CLAMP.finditer(code):
        start = m.end() - 1
        end = _closing(code, start)
        last = _last_argument(code, start, end)
        for shift in ("1 + ", "-1 + "):
            yield code[:last] + shift + code[last:]
        yield code[: m.start()].removesuffix("metal::") + "(" + code[start + 1 : last - 2] + code[end:]


def _arrays(code: str) -> Iterator[str]:
    """Every dimension one shorter: a longer array is never wrong."""
    if not (m := _ARRAY.match(code)):
        return
    begin, end = m.span("names")
    i = code.find("[", begin, end)
    while i != -1:
        close = _closing(code, i)
        yield f"{code[: i + 1]}-1 + ({code[i + 1 : close]}){code[close:]}"
        i = code.find("[", close, end)


def _bounds(code: str) -> Iterator[str]:
    for m in _COMPARISON.finditer(code):
        for shift in ("1 + ", "-1 + "):
            yield code[: m.end()] + shift + code[m.end() :]
    yield from _clamps(code)
    yield from _arrays(code)


def of_source(path: Path) -> list[Mutant]:
    """All mutants of a source or header, in order."""
    found = []
    for at, line in enumerate(path.read_text().splitlines(), 1):
        code = _COMMENT.sub("", line)
        if code.lstrip().startswith("#"):
            continue
        changes = [(BARRIER, code[: m.start()] + code[m.end() :]) for m in _BARRIER.finditer(code)]
        changes += [(BOUND, changed) for changed in _bounds(code)]
        for kind, changed in changes:
            mutant = Mutant(path.name, kind, code.strip(), changed.strip(), at)
            same = sum(m.key[:3] == mutant.key[:3] for m in found)
            found.append(replace(mutant, occurrence=same + 1))
    return found


def mutated_text(mutant: Mutant, text: str) -> str:
    """The source with the mutant's line in it."""
    lines = text.splitlines()
    assert mutant.line in lines[mutant.at - 1]
    lines[mutant.at - 1] = mutant.change
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- Programs


def of_program(program: Program) -> list[Mutant]:
    """Each barrier, each axis of each grid and the size of each buffer, by the source that meets it first."""
    found: dict[tuple[str, str, str, int], Mutant] = {}
    for mutant in _program_mutants(program):
        found.setdefault(mutant.key, mutant)
    return list(found.values())


def _program_mutants(program: Program) -> Iterator[Mutant]:
    first_use: dict[str, str] = {}
    before = ""
    for s in program.steps:
        assert isinstance(s, Step)
        if s.barrier:
            yield Mutant(s.source, BARRIER, f"barrier after {before}", "none")
        for axis in range(3):
            for shift in ("+ 1", "- 1"):
                yield Mutant(s.source, BOUND, f"grid[{axis}]", f"grid[{axis}] {shift}")
        for b in s.bindings:
            first_use.setdefault(b.buffer, s.source)
        before = s.source
    for name, source in first_use.items():
        yield Mutant(source, BOUND, f"buffer {name}", "one element shorter")


def mutated_programs(mutant: Mutant, program: Program) -> list[Program]:
    """The Program with the mutant in it, once for each step that waits at such a barrier, or in the first step."""
    if mutant.line.startswith("buffer "):
        return [_with_short_buffer(program, mutant.line.removeprefix("buffer "))]
    steps = [i for i, s in enumerate(program.steps) if isinstance(s, Step) and s.source == mutant.file]
    if mutant.kind == BARRIER:
        after = mutant.line.removeprefix("barrier after ")
        waiting = [i for i in steps if program.steps[i].barrier and _source_before(program, i) == after]
        return [_with_step(program, i, barrier=False) for i in waiting]
    axis, shift = int(mutant.line[5]), 1 if mutant.change.endswith("+ 1") else -1
    grid = list(program.steps[steps[0]].grid)
    grid[axis] += shift
    return [_with_step(program, steps[0], grid=tuple(grid))] if grid[axis] > 0 else []


def _source_before(program: Program, i: int) -> str:
    return program.steps[i - 1].source if i else ""


def _with_step(program: Program, i: int, **changes: object) -> Program:
    steps = list(program.steps)
    steps[i] = replace(steps[i], **changes)
    return replace(program, steps=tuple(steps))


def _with_short_buffer(program: Program, name: str) -> Program:
    def shorter(b: Buffer) -> Buffer:
        size = numpy_dtype(b.dtype).itemsize
        return replace(b, nbytes=b.nbytes - size, shape=()) if b.name == name else b

    return replace(program, buffers=tuple(shorter(b) for b in program.buffers))


def files_of(program: Program, kernels: Path) -> set[str]:
    """Sources and headers that the Program's kernels are made of."""
    sources = {s.source for s in program.steps if isinstance(s, Step)}
    return {file.name for source in sources for file in Unit(kernels / source).files()}
