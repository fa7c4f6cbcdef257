"""A model of a decoder's time and memory on several Macs whose ranks hold rows of the picture. Nothing is measured.

Convolutions alone are counted: norms, activations and attention are not. A rank's convolutions cost what `plan` models
for its GPU. For each one that reaches over rows,

    time = max(interior, agreement + halo) + borders + copy
    agreement = (ranks - 1) * latency
    halo = latency + bytes of one message / bandwidth       both neighbours at once, links in full duplex
    copy = 2 * bytes of the output / memory bandwidth       interior and borders are put together

and where the interior is less than half of the rows, agreement + halo + one convolution. The slowest of the first two
ranks counts: these have the most rows, and of more than two ranks the second has two neighbours. Memory is the weights
and the largest convolution's input, output, halo and workspace.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from mlx_conv3d import _ext
from mlx_conv3d.distributed.convolution import TILE, worth_splitting
from mlx_conv3d.distributed.decoders import ITEMSIZE, Decoder, Step
from mlx_conv3d.distributed.ranges import Axis, Halo, even_sizes, halos, interior
from mlx_conv3d.planning import plan

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Link:
    """A connection between neighbours: bytes per second in each direction, seconds from send to receive."""

    title: str
    bandwidth: float
    latency: float
    source: str


_TCP_LATENCY = 300e-6
_LATENCY_SOURCE = (
    "300 us: TCP over Thunderbolt between Macs, as reported about Apple's technical note TN3205 (2026)"
)
_ETHERNET_SHARE = 1448 / 1538

LINKS = {
    "tb4": Link(
        "Thunderbolt 4", 16.4e9 / 8, _TCP_LATENCY,
        f"16.4 Gbit/s of TCP measured from an M2 MacBook Pro (jiribrejcha.net); {_LATENCY_SOURCE}",
    ),
    "tb5": Link(
        "Thunderbolt 5", 2 * 16.4e9 / 8, _TCP_LATENCY,
        "assumed: twice Thunderbolt 4, as its lanes are twice as fast; latency as Thunderbolt 4",
    ),
    "10gbe": Link(
        "10 Gbit Ethernet", 10e9 / 8 * _ETHERNET_SHARE, _TCP_LATENCY,
        "1448 of 1538 bytes of a frame of MTU 1500 are data (IEEE 802.3, TCP with timestamps); latency assumed equal",
    ),
    "1gbe": Link(
        "1 Gbit Ethernet", 1e9 / 8 * _ETHERNET_SHARE, _TCP_LATENCY,
        "as 10 Gbit Ethernet",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """Of one decode on `ranks` machines: modelled seconds and how many of them are communication that nothing hides,
    bytes of halo that the busiest rank sends, its bytes of memory."""

    ranks: int
    seconds: float
    exposed: float
    halo_bytes: int
    memory: int


@dataclass(frozen=True)
class _Cost:
    seconds: float
    workspace: int


def estimate(decoder: Decoder, ranks: int, link: Link, *, device: str, algorithm: str = "auto") -> Estimate:
    """The model's figures for a decoder on `ranks` machines with this GPU, one of `plan`'s devices.

    Raises:
        ValueError: fewer than 1 rank, or more than the latent has rows; no such device or algorithm.
    """
    rows = min(step.x_shape[2] for step in decoder.steps)
    if not 1 <= ranks <= rows:
        raise ValueError(f"ranks must be 1 to {rows}, the latent's rows, got {ranks}")
    times = [_step_time(step, ranks, link, device, algorithm) for step in decoder.steps]
    return Estimate(
        ranks=ranks,
        seconds=sum(step.calls * time for step, (time, _) in zip(decoder.steps, times, strict=True)),
        exposed=sum(step.calls * exposed for step, (_, exposed) in zip(decoder.steps, times, strict=True)),
        halo_bytes=sum(step.calls * _halo_bytes(step, ranks) for step in decoder.steps),
        memory=weight_bytes(decoder)
        + max(_step_memory(step, ranks, device, algorithm) for step in decoder.steps),
    )


def estimates(
    decoder: Decoder, ranks: Iterable[int], link: Link, *, device: str, algorithm: str = "auto"
) -> list[Estimate]:
    return [estimate(decoder, count, link, device=device, algorithm=algorithm) for count in ranks]


def weight_bytes(decoder: Decoder) -> int:
    return sum(step.layers * math.prod(step.w_shape) for step in decoder.steps) * ITEMSIZE


def _neighbours(ranks: int) -> int:
    return min(ranks - 1, 2)


def _reach(step: Step) -> int:
    """Rows of halo to either side."""
    return step.w_shape[2] // 2


def _rows(step: Step, ranks: int) -> int:
    return -(-step.x_shape[2] // ranks)


def _message_bytes(step: Step) -> int:
    n, d, _, w, c = step.x_shape
    return n * d * _reach(step) * w * c * ITEMSIZE


def _halo_bytes(step: Step, ranks: int) -> int:
    return _neighbours(ranks) * _message_bytes(step)


def _outputs_bytes(step: Step, rows: int) -> int:
    n, d, _, w, _ = step.x_shape
    return n * (d - step.w_shape[1] + 1) * rows * w * step.w_shape[0] * ITEMSIZE


@cache
def _cost(x_shape: Shape, w_shape: Shape, device: str, algorithm: str) -> _Cost:
    """Of a convolution that keeps height and width."""
    padding = (0, w_shape[2] // 2, w_shape[3] // 2)
    chosen = plan(x_shape, w_shape, dtype=mx.bfloat16, padding=padding, device=device, algorithm=algorithm)
    return _Cost(chosen.cost, chosen.workspace)


def _rows_cost(step: Step, rows: int, device: str, algorithm: str) -> _Cost:
    n, d, _, w, c = step.x_shape
    return _cost((n, d, rows, w, c), step.w_shape, device, algorithm)


def _step_time(step: Step, ranks: int, link: Link, device: str, algorithm: str) -> tuple[float, float]:
    """Seconds of one call, and of communication in it that no computation hides."""
    if ranks == 1 or _reach(step) == 0:
        return _rows_cost(step, _rows(step, ranks), device, algorithm).seconds, 0.0
    reach, height = _reach(step), step.x_shape[2]
    axis = Axis(height, step.w_shape[2], pad_lo=reach, pad_hi=reach)
    waiting = ranks * link.latency + _message_bytes(step) / link.bandwidth
    first_two = halos(axis, even_sizes(height, ranks))[:2]
    return max(_rank_time(step, axis, halo, waiting, device, algorithm) for halo in first_two)


def _rank_time(
    step: Step, axis: Axis, halo: Halo, waiting: float, device: str, algorithm: str
) -> tuple[float, float]:
    """Of one rank, whose halo comes `waiting` seconds after it starts."""
    first, last = halo.outputs
    inner = interior(axis, halo, TILE)
    if not worth_splitting(halo, inner):
        return waiting + _rows_cost(step, last - first, device, algorithm).seconds, waiting
    middle, *borders = (
        _rows_cost(step, rows, device, algorithm).seconds if rows else 0.0
        for rows in (inner[1] - inner[0], inner[0] - first, last - inner[1])
    )
    copy = 2 * _outputs_bytes(step, last - first) / _memory_bandwidth(device)
    exposed = max(0.0, waiting - middle)
    return exposed + middle + sum(borders) + copy, exposed


@cache
def _memory_bandwidth(device: str) -> float:
    """Bytes per second, nominal."""
    return next(float(gpu["gbytes"]) * 1e9 for gpu in _ext.gpus() if gpu["name"] == device)


def _step_memory(step: Step, ranks: int, device: str, algorithm: str) -> int:
    rows = _rows(step, ranks)
    n, d, _, w, c = step.x_shape
    inputs = n * d * rows * w * c * ITEMSIZE
    workspace = _rows_cost(step, rows, device, algorithm).workspace
    return inputs + _outputs_bytes(step, rows) + _halo_bytes(step, ranks) + workspace
