"""Positions of one axis that a rank holds, in several arrays one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_conv3d.distributed.ranges import Range


def cut(array: mx.array, axis: int, begin: int, end: int) -> mx.array:
    """array[begin:end] along an axis, the array itself if that is all of it."""
    if begin == 0 and end == array.shape[axis]:
        return array
    return array[(slice(None),) * axis + (slice(begin, end),)]


def join(arrays: Sequence[mx.array], axis: int) -> mx.array:
    return arrays[0] if len(arrays) == 1 else mx.concatenate(list(arrays), axis=axis)


@dataclass(frozen=True)
class Rows:
    """Arrays that follow each other along `axis`, the first of which starts at position `begin`."""

    axis: int
    begin: int
    arrays: tuple[mx.array, ...]

    def pieces(self, wanted: Range) -> list[mx.array]:
        """Views of the wanted positions, one for each array that has any; an empty one if none is wanted."""
        found, at = [], self.begin
        for array in self.arrays:
            size = array.shape[self.axis]
            lo, hi = max(wanted[0], at), min(wanted[1], at + size)
            if lo < hi:
                found.append(cut(array, self.axis, lo - at, hi - at))
            at += size
        return found or [cut(self.arrays[0], self.axis, 0, 0)]

    def take(self, wanted: Range) -> mx.array:
        return join(self.pieces(wanted), self.axis)
