"""Conflicts between steps that no barrier separates: one writes bytes that the other reads or writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]


@dataclass
class Touched:
    """Bytes of each buffer that a step loaded and stored, as packed bits."""

    step: int
    loaded: dict[str, Mask] = field(default_factory=dict)
    stored: dict[str, Mask] = field(default_factory=dict)


@dataclass(frozen=True)
class Conflict:
    """Step `later` does not wait for step `earlier`; `byte` is the first of `count` bytes of `buffer`."""

    earlier: int
    later: int
    buffer: str
    byte: int
    count: int
    earlier_writes: bool
    later_writes: bool


def _overlap(a: Mapping[str, Mask], b: Mapping[str, Mask]) -> list[tuple[str, int, int]]:
    found = []
    for name in a.keys() & b.keys():
        both = a[name] & b[name]
        if both.any():
            bits = np.unpackbits(both)
            found.append((name, int(bits.argmax()), int(bits.sum())))
    return sorted(found)


class Hazards:
    """Fed with every step in order, tells its conflicts with steps that may still run."""

    def __init__(self) -> None:
        self._running: list[Touched] = []

    def add(self, step: Touched, barrier: bool) -> list[Conflict]:
        """Conflicts of a step with those since the last barrier; `barrier` is the one before the step."""
        if barrier:
            self._running.clear()
        found = []
        for before in self._running:
            cases = (
                (before.stored, step.loaded, True, False),
                (before.stored, step.stored, True, True),
                (before.loaded, step.stored, False, True),
            )
            for a, b, a_writes, b_writes in cases:
                found += [
                    Conflict(before.step, step.step, name, byte, count, a_writes, b_writes)
                    for name, byte, count in _overlap(a, b)
                ]
        self._running.append(step)
        return found
