"""One kernel run, in a process of its own: tells the host program what to run and reads what it says."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from . import toolchain
from .build import Library
from .errors import MetalSimError
from .information import KernelInfo
from .program import Step
from .report import Place, Report, places

THREADGROUP_SLOT = 32
_MAX_GROUPS = (1 << 22) - 1
_ORDERS = {"forward": 0, "reverse": 1, "shuffled": 2}


@dataclass(frozen=True)
class Schedule:
    """Order in which threadgroups, simdgroups and lanes run: "forward", "reverse", "shuffled" by a seed."""

    order: str = "forward"
    seed: int = 1

    def __str__(self) -> str:
        return f"{self.order} {self.seed}" if self.order == "shuffled" else self.order


SCHEDULES = (Schedule("forward"), Schedule("reverse"), Schedule("shuffled", 1))


@dataclass(frozen=True)
class Storage:
    """Files that hold a buffer and its shadow flags."""

    name: str
    data: Path
    flags: Path
    nbytes: int
    writable: bool


@dataclass(frozen=True)
class Site:
    """What one instruction moved: bytes in all, and the range of the buffer they lie in."""

    pc: int
    slot: int
    write: bool
    count: int
    nbytes: int
    low: int
    high: int


@dataclass
class Outcome:
    """Raw result of a launch; `names` maps buffer indices to what reports call them."""

    status: str
    reports: list[Report]
    sites: list[Site]
    counters: dict[str, int]
    library: Library
    names: dict[int, str] = field(default_factory=dict)

    def place_of(self, slots: set[int], write: bool, byte: int) -> Place:
        """The line that (probably) touched a byte of a buffer bound at `slots`."""
        for s in self.sites:
            if s.slot in slots and s.write == write and s.low <= byte < s.high:
                return places(self.library.path, self.library.root, [s.pc])[s.pc]
        return Place()


def _describe(
    step: Step,
    library: Library,
    kernel: KernelInfo,
    storages: dict[str, Storage],
    schedule: Schedule,
    timeout: int,
) -> str:
    threads = step.grid
    if step.dispatch == "threadgroups":
        threads = tuple(g * t for g, t in zip(step.grid, step.threadgroup, strict=True))  # type: ignore[assignment]
    read_only = {p.index: p.read_only for p in kernel.parameters if p.kind == "buffer"}
    used = sorted({b.buffer for b in step.bindings})
    lines = [
        f"library {library.path}",
        f"entry {kernel.entry}",
        "grid {} {} {}".format(*step.groups),
        "group {} {} {}".format(*step.threadgroup),
        "threads {} {} {}".format(*threads),
        f"schedule {_ORDERS[schedule.order]} {schedule.seed}",
        f"timeout {timeout}",
        *(f"constant {c.index} {library.encode(c.index, c.value).hex()}" for c in step.constants),
        *(f"threadgroup {m.index} {m.nbytes}" for m in step.threadgroup_memory),
        *(f"bytes {a.index} {a.data.hex()}" for a in step.arguments),
    ]
    for n, name in enumerate(used):
        s = storages[name]
        lines += [f"storage {n} {s.nbytes}", str(s.data), str(s.flags)]
    for b in step.bindings:
        s = storages[b.buffer]
        nbytes = s.nbytes - b.offset if b.nbytes < 0 else b.nbytes
        locked = int(read_only.get(b.index, True) or not s.writable)
        lines.append(f"buffer {b.index} {used.index(b.buffer)} {b.offset} {nbytes} {locked}")
    return "\n".join([*lines, "run", ""])


def _names(step: Step, kernel: KernelInfo) -> dict[int, str]:
    parameters = {p.index: p.name for p in kernel.parameters if p.kind == "buffer"}
    bound = {b.index: b.buffer for b in step.bindings}
    names = {i: f"'{bound[i]}' ({n})" if i in bound else f"argument '{n}'" for i, n in parameters.items()}
    return {**names, THREADGROUP_SLOT: "threadgroup memory"}


def _message(r: dict[str, object], names: dict[int, str]) -> str:
    slot, text = int(str(r["slot"])), str(r["message"])
    if slot >= 0:
        text = f"{text} of {r['size']} bytes at offset {r['offset']} of {names.get(slot, slot)}"
    elif r["size"]:
        text = f"{text} of {r['size']} bytes at address {int(str(r['offset'])):#x}"
    if int(str(r["thread"])) >= 0:
        text += f" by thread {r['thread']} of threadgroup {r['group']}"
    if int(str(r["other_thread"])) >= 0:
        text += f" and thread {r['other_thread']} of threadgroup {r['other_group']}"
    return text


def _reports(found: list[dict[str, object]], library: Library, names: dict[int, str]) -> list[Report]:
    where = places(library.path, library.root, [int(str(r[k])) for r in found for k in ("pc", "other_pc")])
    return [
        Report(
            kind=str(r["kind"]),
            message=_message(r, names),
            place=where[int(str(r["pc"]))],
            other=where[int(str(r["other_pc"]))],
            count=int(str(r["count"])),
        )
        for r in found
    ]


def launch(
    step: Step,
    library: Library,
    kernel: KernelInfo,
    storages: dict[str, Storage],
    schedule: Schedule = SCHEDULES[0],
    timeout: int = 60,
) -> Outcome:
    """Runs one step; the storages' files hold its results. `timeout` in seconds of processor time."""
    if math.prod(step.groups) > _MAX_GROUPS:
        raise MetalSimError(f"{step.groups} threadgroups: the simulator runs {_MAX_GROUPS} at most")
    description = _describe(step, library, kernel, storages, schedule, timeout)
    done = subprocess.run(
        [str(toolchain.host_program())], input=description, capture_output=True, text=True, check=False
    )
    if done.returncode or not done.stdout:
        raise MetalSimError(f"the simulator failed on kernel '{kernel.name}':\n{done.stderr[-2000:]}")
    answer = json.loads(done.stdout)
    names = _names(step, kernel)
    sites = [Site(pc, slot, bool(w), *rest) for pc, slot, w, *rest in answer["sites"]]
    reports = _reports(answer["reports"], library, names)
    return Outcome(answer["status"], reports, sites, answer["counters"], library, names)
