"""Reports: what a run found, with the places in the source that it is about."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import toolchain
from .errors import absolute

KINDS = {
    "out-of-bounds": "access outside what is bound",
    "uninitialised": "read of memory that nothing has written",
    "race": "two threads access the same byte, one writes, no barrier orders them",
    "read-only": "write to a buffer that is bound for reading",
    "wild-access": "access to an address that belongs to nothing",
    "barrier-divergence": "not all threads of a threadgroup reach a barrier",
    "simdgroup-divergence": "not all lanes of a simdgroup reach an operation",
    "threadgroup-memory": "more threadgroup memory than there is",
    "undefined": "undefined behaviour",
    "crash": "the kernel crashed",
    "timeout": "the kernel did not end",
    "missing-barrier": "two steps conflict and no barrier separates them",
    "unwritten-output": "bytes of an output that no step wrote",
    "schedule-dependent": "outputs differ between orders of threads",
    "program": "the Program itself is wrong",
}


@dataclass(frozen=True)
class Place:
    """A line of source; `callers` are the lines it was inlined into, innermost first."""

    file: str = ""
    line: int = 0
    callers: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.file:
            return "?"
        via = "".join(f" < {c}" for c in self.callers)
        return f"{Path(self.file).name}:{self.line}{via}"


@dataclass(frozen=True)
class Report:
    """One finding. `kind` is a key of KINDS; `place` and `other` are the two parties where there are two.

    step: index in the Program, -1 if it is about the whole. count: how often it was seen. schedule: where first.
    """

    kind: str
    message: str
    step: int = -1
    kernel: str = ""
    place: Place = Place()
    other: Place = Place()
    count: int = 1
    schedule: str = ""

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place.file else ""
        step = f" in step {self.step} ({self.kernel})" if self.step >= 0 else ""
        other = f", the other at {self.other}" if self.other.file else ""
        times = f" [{self.count} times]" if self.count > 1 else ""
        order = f" [{self.schedule}]" if self.schedule else ""
        return f"{where}{self.kind}{step}: {self.message}{other}{times}{order}"


_places: dict[tuple[Path, Path, int], Place] = {}


def _place(frames: list[dict[str, object]], root: Path) -> Place:
    """The innermost frame that is the user's, and those around it."""
    known = [(str(f.get("FileName")), f) for f in frames if f.get("FileName") and f.get("Line")]
    own, entries = str(toolchain.INCLUDE), "<kernel entries>"
    user = [f for file, f in known if not file.startswith(own) and not file.endswith(entries)]
    if not user:
        return Place()
    callers = tuple(f"{Path(str(f['FileName'])).name}:{f['Line']}" for f in user[1:])
    return Place(absolute(str(user[0]["FileName"]), root), int(str(user[0]["Line"])), callers)


def places(library: Path, root: Path, pcs: Iterable[int]) -> dict[int, Place]:
    """Source lines of return addresses in a library, whose source is in `root`."""
    wanted = sorted({pc for pc in pcs if pc and (library, root, pc) not in _places})
    for k in range(0, len(wanted), 500):
        part = wanted[k : k + 500]
        command = [toolchain.symbolizer(), f"--obj={library}", "--output-style=JSON"]
        command += [hex(pc - 1) for pc in part]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        answers = json.loads(done.stdout) if done.returncode == 0 else []
        for pc, answer in zip(part, answers, strict=False):
            _places[library, root, pc] = _place(answer.get("Symbol", []), root)
    return {pc: _places.get((library, root, pc), Place()) for pc in pcs}
