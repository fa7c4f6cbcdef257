"""Where a stream stands between two chunks, and what the next one is to do."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from mlx_conv3d import _arguments as arguments

MOST_STEPS = 64


class StreamState(NamedTuple):
    """What a stream's next chunk needs of the ones before it.

    The first frame that the next output reads is the first of `padding` frames that stand before the clip, or else
    the first of `frames`, or else the frame that follows `skipped` frames of the next chunk.
    """

    frames: mx.array | None  # (N, L, H, W, C), of a series (N, L, C), L at most dilation * (KD - 1)
    padding: int
    skipped: int
    second: bool  # the next output frame is the second of a pair, where frames are computed in pairs


class Work(NamedTuple):
    """What a chunk completes and what it leaves to the next one."""

    outputs: int  # frames
    skipped: int  # frames of the chunk that no output reads
    kept: int  # the last ones of the frames held and the chunk's
    padding_after: int
    skipped_after: int
    second_after: bool


def work_of(
    frames: int, held: int, padding: int, skipped: int, second: bool, *, reach: int, stride: int
) -> Work:
    """Of `frames` that follow a state with `held` ones; an output reads `reach` frames before its own."""
    there = padding + held + frames - skipped
    outputs = max(0, (there - reach - 1) // stride + 1)
    # From the first position of the next output's window to its end: below zero it lies after this chunk.
    passed = outputs * stride - padding
    kept = held + frames - skipped - max(0, passed)
    return Work(outputs, skipped, max(0, kept), max(0, -passed), max(0, -kept), second != (outputs % 2 == 1))


class Steps:
    """The work and the convolution's parameters of chunks like those that a layer has had, while its attributes
    stay the same: a small chunk takes as long to convolve. Deep copies and pickles of a layer start without."""

    def __init__(self) -> None:
        self._found: dict[tuple[Any, ...], tuple[Work, arguments.Parameters]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Steps, ()

    def get(self, key: tuple[Any, ...]) -> tuple[Work, arguments.Parameters] | None:
        try:
            return self._found.get(key)
        except TypeError:  # an activation that is no name, which parsing it will say
            return None

    def add(self, key: tuple[Any, ...], work: Work, parameters: arguments.Parameters) -> None:
        if len(self._found) >= MOST_STEPS:
            self._found.clear()
        self._found[key] = work, parameters
