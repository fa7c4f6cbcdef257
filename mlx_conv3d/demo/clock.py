"""Times a model layer by layer: what share of a pass its convolutions take, and what share the rest."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import mlx.core as mx
import mlx.nn as nn

from mlx_conv3d.demo.model import TimePad, Upsample

KINDS: dict[type, str] = {
    nn.Conv3d: "convolution",
    nn.RMSNorm: "RMS norm",
    nn.SiLU: "SiLU",
    TimePad: "padding in time",
    Upsample: "pixel repetition",
}
REST = "additions, reshapes"

Layer = Callable[[Any, mx.array], mx.array]


def direct_flops(layer: nn.Conv3d, output: mx.array) -> int:
    """The floating-point operations of a convolution done directly: two for every product."""
    outputs: int = layer.weight.shape[0]
    return 2 * int(output.size) * (int(layer.weight.size) // outputs)


class LayerClock:
    """While entered, every layer of the kinds above is evaluated by itself and its time is added up.

    `seconds` holds the time by kind and `flops` the convolutions' direct operations. `on_conv(flops)` is
    called after each convolution. With `evaluate=False` nothing is computed: `flops` alone is filled in, from
    the shapes. Not for several threads: it wraps the layers' classes for as long as it is entered.
    """

    def __init__(self, on_conv: Callable[[int], object] | None = None, evaluate: bool = True) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.flops = 0
        self._on_conv = on_conv
        self._evaluate: Callable[[mx.array], object] = mx.eval if evaluate else lambda _: None
        self._stack = ExitStack()

    def __enter__(self) -> LayerClock:
        for kind, name in KINDS.items():
            timed = self._timed(kind.__call__, name)
            self._stack.enter_context(mock.patch.object(kind, "__call__", timed))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def run(self, function: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
        """`function(x)`, evaluated; what its layers did not account for goes to `REST`."""
        before, started = self.total, time.perf_counter()
        y = function(x)
        self._evaluate(y)
        elapsed = time.perf_counter() - started
        self.seconds[REST] += max(0.0, elapsed - (self.total - before))
        return y

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def _timed(self, call: Layer, name: str) -> Layer:
        def timed(layer: Any, x: mx.array) -> mx.array:
            self._evaluate(x)
            started = time.perf_counter()
            y = call(layer, x)
            self._evaluate(y)
            self.seconds[name] += time.perf_counter() - started
            if isinstance(layer, nn.Conv3d):
                self._count(direct_flops(layer, y))
            return y

        return timed

    def _count(self, flops: int) -> None:
        self.flops += flops
        if self._on_conv is not None:
            self._on_conv(flops)
