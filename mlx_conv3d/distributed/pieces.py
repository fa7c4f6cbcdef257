"""From a whole array to the ranks' pieces of one axis, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from mlx_conv3d.distributed import exchange
from mlx_conv3d.distributed.agreement import agree, checksum
from mlx_conv3d.distributed.exchange import Group, Place
from mlx_conv3d.distributed.operands import axis_of
from mlx_conv3d.distributed.ranges import even_sizes, starts
from mlx_conv3d.distributed.rows import cut, join


def array_axis(axis: str, x: mx.array) -> int:
    """The array's axis of that name in (N, D, H, W, C) or (N, H, W, C)."""
    if not isinstance(x, mx.array):
        raise TypeError(f"x must be an mx.array, got {type(x).__name__}")
    if x.ndim not in (4, 5):
        raise ValueError(f"x must be (N, D, H, W, C) or (N, H, W, C), got shape {tuple(x.shape)}")
    return axis_of(axis, x.ndim - 2) + 1


def shard(
    x: mx.array, axis: str = "height", group: Group = None, *, sizes: Sequence[int] | None = None
) -> mx.array:
    """This rank's piece of x (N, D, H, W, C) or (N, H, W, C) along "time", "height" or "width". Sends nothing.

    Without `sizes`, one for each rank, the pieces are as even as possible, the larger ones first. The piece is a copy,
    so that the whole can be freed.

    Raises:
        ValueError: no such axis, or sizes that do not add up to x's.
        TypeError: x is not an mx.array.
    """
    at = array_axis(axis, x)
    group = exchange.group_of(group)
    chosen = even_sizes(x.shape[at], group.size()) if sizes is None else list(sizes)
    if len(chosen) != group.size() or sum(chosen) != x.shape[at] or min(chosen) < 0:
        raise ValueError(f"sizes must be {group.size()} numbers that add up to {x.shape[at]}, got {chosen}")
    begin = starts(chosen)
    return mx.contiguous(cut(x, at, begin[group.rank()], begin[group.rank() + 1]))


def sizes_of(x_shard: mx.array, axis: str, place: Place, group: Group, timeout: float) -> list[int]:
    """The size of every rank's piece, all else being the same on all."""
    at = array_axis(axis, x_shard)
    facts = {f"dimension {i} of x": size for i, size in enumerate(x_shard.shape) if i != at}
    facts |= {"the type of x": checksum(str(x_shard.dtype)), "the axis": checksum(axis)}
    return agree(place, facts, {"size": x_shard.shape[at]}, group, timeout)["size"]


def gather(
    x_shard: mx.array, axis: str = "height", group: Group = None, *, timeout: float | None = None
) -> mx.array:
    """The whole array on every rank, from the pieces that `shard` or convolutions left on each.

    Pieces may differ in size. Every rank sends (ranks - 1) times the bytes of the largest piece.

    Raises:
        ValueError: other sizes than the axis's, or types, that differ between ranks (on all of them).
        TypeError: x_shard is not an mx.array.
        RuntimeError: another rank is gone or does not answer within `timeout` seconds.
    """
    at = array_axis(axis, x_shard)
    group = exchange.group_of(group)
    if group.size() == 1:
        return x_shard
    place = Place(f"gather over {axis}", group.rank(), group.size())
    limit = exchange.timeout_of(timeout)
    mx.eval(x_shard)
    sizes = sizes_of(x_shard, axis, place, group, limit)
    filler = list(x_shard.shape)
    filler[at] = max(sizes) - x_shard.shape[at]
    even = join([x_shard, mx.zeros(filler, x_shard.dtype)], at) if filler[at] else x_shard
    pieces = exchange.all_gather(even, group, place, limit, "gather_bytes")
    return mx.concatenate([cut(pieces[rank], at, 0, size) for rank, size in enumerate(sizes)], axis=at)


def on_whole(
    function: Callable[[mx.array], mx.array],
    x_shard: mx.array,
    axis: str,
    group: Group = None,
    timeout: float | None = None,
) -> mx.array:
    """This rank's piece of function(the whole array), computed on every rank. It must keep the axis's size."""
    group = exchange.group_of(group)
    if group.size() == 1:
        return function(x_shard)
    place = Place(f"gathered over {axis}", group.rank(), group.size())
    mx.eval(x_shard)
    sizes = sizes_of(x_shard, axis, place, group, exchange.timeout_of(timeout))
    return shard(function(gather(x_shard, axis, group, timeout=timeout)), axis, group, sizes=sizes)
