"""Group norm of an array in pieces. Norms over channels alone need nothing from other ranks."""

from __future__ import annotations

import math

import mlx.core as mx

from mlx_conv3d.distributed import exchange
from mlx_conv3d.distributed.agreement import agree
from mlx_conv3d.distributed.exchange import Group, Place


def group_norm(
    x_shard: mx.array,
    num_groups: int,
    weight: mx.array | None = None,
    bias: mx.array | None = None,
    *,
    eps: float = 1e-5,
    pytorch_compatible: bool = True,
    group: Group = None,
    timeout: float | None = None,
) -> mx.array:
    """Group norm over all pieces of x (N, ..., C), whichever axis but the first and the last is in pieces.

    Each rank sends its groups' counts, means and sums of squared deviations, 12 bytes for each of N * num_groups, to
    every other, and combines them (Chan, Golub and LeVeque, 1983). Moments are in float32.

    Args:
        num_groups: divides C. With `pytorch_compatible` a group is C/num_groups channels in a row; otherwise, as in
            mlx.nn.GroupNorm by default, every num_groups-th channel.
        weight, bias: (C,), or None.
        eps, timeout: added to the variance; seconds to wait for other ranks.

    Raises:
        ValueError: a shape that does not fit, or that differs between ranks (on all of them).
        RuntimeError: another rank is gone or does not answer within the limit.
    """
    group = exchange.group_of(group)
    place = Place("group_norm", group.rank(), group.size())
    limit = exchange.timeout_of(timeout)
    refusal = _refusal(x_shard, num_groups)
    if refusal is not None and place.ranks == 1:
        raise refusal
    if place.ranks > 1:
        if refusal is None:
            mx.eval(x_shard)
        facts = {"the batch": 0, "channels of x": 0, "num_groups": 0}
        if refusal is None:
            facts = {
                "the batch": x_shard.shape[0],
                "channels of x": x_shard.shape[-1],
                "num_groups": num_groups,
            }
        agree(place, facts, {}, group, limit, refusal)
    n, *between, channels = x_shard.shape
    within = channels // num_groups
    last, axes = ((num_groups, within), (1, 3)) if pytorch_compatible else ((within, num_groups), (1, 2))
    grouped = x_shard.astype(mx.float32).reshape(n, math.prod(between), *last)
    mean, deviation, count = _moments(grouped, axes)
    if place.ranks > 1:
        counts, means, deviations = _of_all(mean, deviation, count, group, place, limit)
        count = counts.sum(axis=0)
        mean = (counts * means).sum(axis=0) / count
        deviation = (deviations + counts * mx.square(means - mean)).sum(axis=0)
    y = (grouped - mean) * mx.rsqrt(deviation / count + eps)
    y = y.reshape(x_shard.shape).astype(x_shard.dtype)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def _moments(grouped: mx.array, axes: tuple[int, int]) -> tuple[mx.array, mx.array, mx.array]:
    """Mean, sum of squared deviations from it and count, each with axes of 1 in place of `axes`."""
    count = grouped.shape[axes[0]] * grouped.shape[axes[1]]
    mean = grouped.sum(axis=axes, keepdims=True) / max(count, 1)
    deviation = mx.square(grouped - mean).sum(axis=axes, keepdims=True)
    return mean, deviation, mx.full(mean.shape, float(count))


def _of_all(
    mean: mx.array, deviation: mx.array, count: mx.array, group: Group, place: Place, limit: float
) -> tuple[mx.array, mx.array, mx.array]:
    """Counts, means and deviations of all ranks, stacked on a new first axis."""
    moments = exchange.all_gather(mx.stack([count, mean, deviation]), group, place, limit, "moment_bytes")
    return moments[:, 0], moments[:, 1], moments[:, 2]


def _refusal(x: mx.array, num_groups: int) -> ValueError | None:
    if x.ndim < 3:
        return ValueError(f"x_shard must be (N, ..., C) with an axis in between, got shape {tuple(x.shape)}")
    if num_groups < 1 or x.shape[-1] % num_groups:
        return ValueError(f"num_groups must divide the {x.shape[-1]} channels, got {num_groups}")
    return None
