"""A small video decoder as it is often written for MLX: 3-D convolutions as loops of mx.conv2d.

Such code predates a usable 3-D convolution. Nothing here knows about mlx_conv3d.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn


class LoopConv3d(nn.Module):
    """A causal 3x3x3 convolution, frame by frame and depth tap by depth tap."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        scale = (27 * inputs) ** -0.5
        self.weight = mx.random.uniform(-scale, scale, (outputs, 3, 3, 3, inputs))
        self.bias = mx.zeros((outputs,))

    def __call__(self, x: mx.array) -> mx.array:
        n, frames, h, w, c = x.shape
        depth = self.weight.shape[1]
        padded = mx.concatenate([mx.zeros((n, depth - 1, h, w, c), x.dtype), x], axis=1)
        outputs = []
        for t in range(frames):
            y = self.bias
            for k in range(depth):
                y = y + mx.conv2d(padded[:, t + k], self.weight[:, k], padding=1)
            outputs.append(y)
        return mx.stack(outputs, axis=1)


def repeated(x: mx.array) -> mx.array:
    return mx.repeat(mx.repeat(x, 2, axis=2), 2, axis=3)


class LoopDecoder(nn.Module):
    """Latents (N, D, H, W, 8) to frames (N, D, 2*H, 2*W, 3). `layer` makes a causal 3x3x3 convolution."""

    def __init__(self, layer: Any = LoopConv3d, channels: int = 32) -> None:
        super().__init__()
        self.enter = layer(8, channels)
        self.middle = [layer(channels, channels) for _ in range(2)]
        self.grow = layer(channels, channels)
        self.leave = layer(channels, 3)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.enter(x)
        for layer in self.middle:
            x = x + layer(nn.silu(x))
        return self.leave(nn.silu(self.grow(repeated(x))))
