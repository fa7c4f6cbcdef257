"""The decoder of loops.py with its loops replaced by nn.CausalConv3d: same parameters, same numbers."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from loops import LoopDecoder

from mlx_conv3d.nn import CausalConv3d


def causal(inputs: int, outputs: int) -> CausalConv3d:
    """What LoopConv3d computes; its weights have the same shapes."""
    return CausalConv3d(inputs, outputs, 3, padding=1)


class LayerDecoder(LoopDecoder):
    """The same decoder; the residuals join their convolutions, and the upsampled picture is never made."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__(causal, channels)
        self.grow = CausalConv3d(channels, channels, 3, padding=1, upsample=2)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.enter(x)
        for layer in self.middle:
            x = layer(nn.silu(x), residual=x)
        return self.leave(self.grow(x, activation="silu"))
