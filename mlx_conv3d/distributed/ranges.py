"""Which rank computes which outputs of a sharded axis, and what it needs for them. Integers only, no communication.

The ranks hold consecutive pieces of one axis of x. Positions are counted over the whole axis, lead frames included
(position 0 is the first lead frame), and ranges are half open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

Range = tuple[int, int]


def even_sizes(total: int, ranks: int) -> list[int]:
    """Pieces of `total` positions for each rank: they differ by one at most, the larger ones first."""
    return [total // ranks + (rank < total % ranks) for rank in range(ranks)]


def starts(sizes: Sequence[int]) -> list[int]:
    """Where each piece starts, and behind the last one the total."""
    return [0, *accumulate(sizes)]


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution over the whole array: `size` positions of x behind `lead` frames, then padded."""

    size: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    pad_lo: int = 0
    pad_hi: int = 0
    mode: str = "zeros"
    lead: int = 0

    @property
    def extent(self) -> int:
        return self.lead + self.size

    @property
    def outputs(self) -> int:
        room = self.extent + self.pad_lo + self.pad_hi - self.dilation * (self.kernel - 1) - 1
        return room // self.stride + 1

    def check(self, what: str) -> None:
        """Raises ValueError where the whole axis is too short for the kernel or for its padding."""
        if self.outputs < 1:
            raise ValueError(
                f"{what}: {self.extent} positions in all with padding ({self.pad_lo}, {self.pad_hi}) are fewer than "
                f"the kernel's {self.kernel} with dilation {self.dilation}"
            )
        most = max(self.pad_lo, self.pad_hi)
        if most > 0 and self.mode != "zeros" and self.extent < (1 if self.mode == "edge" else most + 1):
            raise ValueError(
                f"{what}: padding_mode {self.mode} by {most} needs more than {self.extent} positions in all"
            )

    def window(self, outputs: Range) -> Range:
        """The positions that these outputs read, padding included: they may be negative or beyond the extent."""
        first, last = outputs[0] * self.stride, (outputs[1] - 1) * self.stride
        return first - self.pad_lo, last - self.pad_lo + self.dilation * (self.kernel - 1) + 1

    def needs(self, outputs: Range) -> Range:
        """The range of positions that must be at hand for these outputs, padding resolved; (0, 0) for no outputs."""
        if outputs[0] >= outputs[1]:
            return 0, 0
        n = self.extent
        begin, end = self.window(outputs)
        lo, hi = min(max(begin, 0), n), min(max(end, 0), n)
        depth = 0 if self.mode == "edge" else 1
        if self.mode != "zeros" and begin < 0:
            lo, hi = 0, max(hi, 1, -begin * depth + 1)
        if self.mode != "zeros" and end > n:
            lo, hi = min(lo, n - 1 - (end - n) * depth), n
        return lo, hi

    def local_padding(self, outputs: Range) -> Range:
        """The padding, perhaps negative, with which a convolution of `needs(outputs)` gives these outputs."""
        lo, hi = self.needs(outputs)
        begin, end = self.window(outputs)
        return (lo - begin, end - hi) if lo < hi else (0, end - begin)

    def owned(self, sizes: Sequence[int]) -> list[int]:
        """Where each rank's outputs start, and behind the last one their count.

        Output o belongs to the rank that holds position o*stride + t of x, t = (size - 1 - (outputs - 1)*stride) // 2:
        the grid of outputs is centred on the input. A convolution that keeps the size keeps the pieces.
        """
        total = self.outputs
        shift = (self.size - 1 - (total - 1) * self.stride) // 2
        inner = [-((shift - at) // self.stride) for at in starts(sizes)[1:-1]]
        return [0, *(min(max(at, 0), total) for at in inner), total]


@dataclass(frozen=True)
class Halo:
    """What one rank holds, computes and exchanges for a convolution: see `halos`.

    `own` and `outputs` are its positions of the input and of the output; `needs` are the positions that must be at
    hand. The messages are ranges of positions: what is sent to and received from either neighbour. A message may
    hold more than the receiver needs, for the ranks behind it.
    """

    own: Range
    outputs: Range
    needs: Range
    to_left: Range
    to_right: Range
    from_left: Range
    from_right: Range

    @property
    def rows_sent(self) -> int:
        return (self.to_left[1] - self.to_left[0]) + (self.to_right[1] - self.to_right[0])

    @property
    def is_empty(self) -> bool:
        messages = (self.to_left, self.to_right, self.from_left, self.from_right)
        return all(begin == end for begin, end in messages)


def halos(axis: Axis, sizes: Sequence[int]) -> list[Halo]:
    """The halo of every rank, when rank r holds sizes[r] positions of x (rank 0 the lead frames too).

    What rank r sends to r + 1 is everything up to its own end that any rank behind needs, so that a halo may reach
    over several ranks; likewise to the left.
    """
    ranks = len(sizes)
    at = [0, *(axis.lead + start for start in starts(sizes)[1:])]
    outputs = axis.owned(sizes)
    needs = [axis.needs((outputs[r], outputs[r + 1])) for r in range(ranks)]

    def rightwards(rank: int) -> Range:
        """From rank to rank + 1."""
        end = at[rank + 1]
        wanted = [lo for lo, hi in needs[rank + 1 :] if lo < hi]
        return min([end, *wanted]), end

    def leftwards(rank: int) -> Range:
        """From rank to rank - 1."""
        begin = at[rank]
        wanted = [hi for lo, hi in needs[:rank] if lo < hi]
        return begin, max([begin, *wanted])

    nothing = (0, 0)
    return [
        Halo(
            own=(at[r], at[r + 1]),
            outputs=(outputs[r], outputs[r + 1]),
            needs=needs[r],
            to_left=leftwards(r) if r > 0 else nothing,
            to_right=rightwards(r) if r + 1 < ranks else nothing,
            from_left=rightwards(r - 1) if r > 0 else nothing,
            from_right=leftwards(r + 1) if r + 1 < ranks else nothing,
        )
        for r in range(ranks)
    ]


def interior(axis: Axis, halo: Halo, multiple: int = 1) -> Range:
    """The outputs of this rank that need nothing from another, (end, end) if there are none.

    With `multiple` only so many that their ends inside are multiples of it, counted from the rank's first output.
    """
    first, last = halo.outputs
    begin, end = halo.own
    lo = first if begin == 0 else max(first, -((-begin - axis.pad_lo) // axis.stride))
    hi = last
    if end < axis.extent:
        reach = axis.dilation * (axis.kernel - 1)
        hi = min(last, (end - 1 + axis.pad_lo - reach) // axis.stride + 1)
    lo += (first - lo) % multiple
    hi -= (hi - first) % multiple if hi < last else 0
    if lo >= hi:
        return last, last
    needed = axis.needs((lo, hi))
    fits = needed[0] >= begin and needed[1] <= end
    return (lo, hi) if fits else (last, last)
