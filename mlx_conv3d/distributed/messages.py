"""What neighbours send each other for one convolution: strips of x, and of the lead frames where they are in pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from mlx_conv3d.distributed.exchange import Swap
from mlx_conv3d.distributed.ranges import Halo, Range
from mlx_conv3d.distributed.rows import Rows, join

FRAMES = 1  # the array's axis


@dataclass(frozen=True)
class Messages:
    """A rank's messages. `held` are its positions of x and, where these travel along, of the lead frames before x.

    A message has the lead's frames in front of x's.
    """

    halo: Halo
    held: list[Rows]

    @property
    def _axis(self) -> int:
        return self.held[0].axis

    @property
    def _lead_frames(self) -> int:
        return int(self.held[1].arrays[0].shape[FRAMES]) if len(self.held) > 1 else 0

    def swap(self, layer: str) -> Swap:
        h = self.halo
        return Swap(
            dtype=self.held[0].arrays[0].dtype,
            from_left=self._shape(h.from_left),
            from_right=self._shape(h.from_right),
            to_left=self._sender(h.to_left, from_left=False),
            to_right=self._sender(h.to_right, from_left=True),
            layer=layer,
        )

    def with_received(self, received: tuple[mx.array | None, mx.array | None]) -> list[Rows]:
        """`held` with what came from the left and from the right."""
        left, right = received
        begin = self.halo.own[0] if left is None else self.halo.from_left[0]
        return [
            Rows(rows.axis, begin, (*front, *rows.arrays, *back))
            for front, rows, back in zip(self._apart(left), self.held, self._apart(right), strict=True)
        ]

    def _shape(self, positions: Range) -> tuple[int, ...] | None:
        if positions[0] == positions[1]:
            return None
        sizes = list(self.held[0].arrays[0].shape)
        sizes[FRAMES] += self._lead_frames
        sizes[self._axis] = positions[1] - positions[0]
        return tuple(sizes)

    def _sender(self, wanted: Range, *, from_left: bool) -> Callable[[mx.array | None], mx.array] | None:
        """Makes the message from what came from the other side, of which it may pass something on."""
        if wanted[0] == wanted[1]:
            return None
        own = (max(wanted[0], self.halo.own[0]), min(wanted[1], self.halo.own[1]))

        def message(received: mx.array | None) -> mx.array:
            if own == wanted or received is None:
                return self._strip(own)
            begin = (self.halo.from_left if from_left else self.halo.from_right)[0]
            passed_on = Rows(self._axis, begin, (received,)).take(wanted)
            if own[0] >= own[1]:
                return passed_on
            return join(
                [passed_on, self._strip(own)] if from_left else [self._strip(own), passed_on], self._axis
            )

        return message

    def _strip(self, positions: Range) -> mx.array:
        return join([rows.take(positions) for rows in reversed(self.held)], FRAMES)

    def _apart(self, received: mx.array | None) -> list[list[mx.array]]:
        """A message's frames of x, and of lead."""
        if received is None:
            return [[] for _ in self.held]
        if len(self.held) == 1:
            return [[received]]
        frames = self._lead_frames
        return [[received[:, frames:]], [received[:, :frames]]]
