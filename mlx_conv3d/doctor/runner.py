"""Runs a step in a process of its own, for a limited time, and makes rows of whatever becomes of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_conv3d.doctor.rows import FAIL, SKIP, Row

MOST_RESTARTS = 8
POLL = 0.02  # seconds
LONGEST_TICK = (
    0.5  # of what passes between two polls, the rest is time that the machine or this process slept
)
UNSET = ("MLX_CONV3D_DISABLE", "MLX_CONV3D_SWITCH_OFF")  # the doctor checks what these would leave out

# The child imports what this process would, whatever folder it runs in.
BOOT = (
    "import os, sys; sys.path[:] = sys.argv[1].split(os.pathsep);"
    "from mlx_conv3d.doctor.child import main; main(sys.argv[2:])"
)


@dataclass(frozen=True)
class Step:
    """Checks that one process makes: those that `mlx_conv3d.doctor.<module>.items(**options)` lists.

    `limit`: seconds that one of them may take. Where a step is not `required`, running out of time is no failure.
    """

    name: str
    module: str
    limit: float
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    required: bool = True


class Clock:
    """Counts the seconds that are left, without those during which nothing here ran."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self._before = time.monotonic()

    def tick(self) -> float:
        """Seconds since the last tick, which are taken off what is left."""
        now = time.monotonic()
        passed = min(now - self._before, LONGEST_TICK)
        self._before = now
        self.left -= passed
        return passed


@dataclass
class Progress:
    """What the file of a child says so far."""

    names: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    begun: int = -1  # the check that it is at, -1 before the first
    ended: bool = False
    lines: int = 0

    def read(self, path: Path) -> bool:
        """Whether there is anything new."""
        complete = path.read_text(encoding="utf-8").split("\n")[:-1]
        new = complete[self.lines :]
        self.lines = len(complete)
        for text in new:
            line = json.loads(text)
            self.names = line.get("names", self.names)
            self.begun = line.get("begins", self.begun)
            self.ended = line.get("ends", self.ended)
            if "row" in line:
                self.rows.append(Row(**line["row"]))
        return bool(new)


def run(step: Step, clock: Clock) -> list[Row]:
    """The step's rows. After a check that ends its process, the next ones get another."""
    rows: list[Row] = []
    first = 0
    for _ in range(MOST_RESTARTS):
        clock.tick()
        if clock.left <= 0:
            return [
                *rows,
                Row(step.name, "the rest" if rows else "all", _late(step), "not run: no time was left"),
            ]
        progress, trouble = _run_from(step, first, clock)
        rows += progress.rows
        if not trouble.detail:
            return rows
        rows.append(trouble)
        if progress.begun < first or progress.begun + 1 >= len(progress.names):
            return rows  # it did not come to its checks, or none is left
        first = progress.begun + 1
    return [
        *rows,
        Row(step.name, "the rest", SKIP, f"not run, for {MOST_RESTARTS} checks ended their process"),
    ]


def _late(step: Step) -> str:
    return FAIL if step.required else SKIP


def _run_from(step: Step, first: int, clock: Clock) -> tuple[Progress, Row]:
    """What a child came to, and the row of what stopped it, with no detail if nothing did."""
    with tempfile.TemporaryDirectory(prefix="mlx-conv3d-doctor-", ignore_cleanup_errors=True) as folder:
        path, log = Path(folder, "rows"), Path(folder, "log")
        path.touch()
        child = _start(step, first, path, log)
        progress, silent, status = Progress(), 0.0, ""
        try:
            while child.poll() is None and not status:
                time.sleep(POLL)
                passed = clock.tick()
                silent = 0.0 if progress.read(path) else silent + passed
                if silent > step.limit:
                    status = f"no end within {step.limit:g} s: stopped"
                elif clock.left <= 0:
                    status = "no end when the doctor's time was up: stopped"
            if status:
                _ask_where(child)
        finally:
            _kill(child)
        progress.read(path)
        return progress, _trouble(step, progress, child, status, log, silent)


def _trouble(
    step: Step, progress: Progress, child: subprocess.Popen[bytes], status: str, log: Path, silent: float
) -> Row:
    if progress.ended and not status:
        return Row(step.name, "", "", "")
    at = progress.begun
    name = progress.names[at] if 0 <= at < len(progress.names) else "start"
    words = log.read_text(encoding="utf-8", errors="replace").strip()
    if status:
        return Row(step.name, name, _late(step), status, silent, {"log": words[-4000:]})
    code = child.returncode
    if code is not None and code < 0:
        how = f"crashed: {signal.Signals(-code).name}"
    else:
        last = words.splitlines()[-1] if words else "no message"
        how = f"its process ended with code {code}: {last[:600]}"
    return Row(step.name, name, FAIL, how, silent, {"log": words[-4000:]})


def _start(step: Step, first: int, path: Path, log: Path) -> subprocess.Popen[bytes]:
    arguments = [step.name, step.module, json.dumps(step.options), str(first), str(path)]
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", BOOT, os.pathsep.join(sys.path), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(os.environ, step),
            start_new_session=True,  # so that what it starts ends with it
        )


def _environment(outer: Mapping[str, str], step: Step) -> dict[str, str]:
    return {**{k: v for k, v in outer.items() if k not in UNSET}, **step.environment}


def _ask_where(child: subprocess.Popen[bytes]) -> None:
    """Makes the child's fault handler write to the log what it is at."""
    child.send_signal(signal.SIGABRT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout=1)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Ends the child and what it started. One that the system does not let go is left behind."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout=5)
