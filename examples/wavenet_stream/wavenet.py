"""A small WaveNet (van den Oord et al., 2016) for audio effects, computed whole or as a stream of buffers.

Two stacks of ten gated causal convolutions with kernel 3, 1 to 512 samples apart, of 16 and 8 channels, each with a
residual and a skip connection, all 1x1 convolutions.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_conv3d.nn import CausalConv1d, StreamState

WIDTHS = (16, 8)
DILATIONS = tuple(2**i for i in range(10))


class GatedConv(nn.Module):
    """tanh(filter(x)) * sigmoid(gate(x)), with the activations inside the convolutions."""

    def __init__(self, channels: int, dilation: int, groups: int) -> None:
        super().__init__()
        self.filter = CausalConv1d(channels, channels, 3, dilation=dilation, groups=groups)
        self.gate = CausalConv1d(channels, channels, 3, dilation=dilation, groups=groups)

    def step(self, x: mx.array, state: StreamState | None) -> tuple[mx.array, StreamState]:
        z, after = self.filter.step(x, state, activation="tanh")
        # Both have seen the same samples, so that one state serves both.
        return z * self.gate(x, state=state, activation="sigmoid"), after


class Block(nn.Module):
    def __init__(self, layers: Any, channels: int, skips: int, dilation: int, groups: int) -> None:
        super().__init__()
        self.conv = layers.gated(channels, dilation, groups)
        self.out = layers.pointwise(channels, channels, groups)
        self.skip = layers.pointwise(channels, skips, groups)


class WaveNet(nn.Module):
    """Audio (N, L, 1) to audio (N, L, 1).

    With `groups` all but the first and the last layer are grouped. `layers` makes them: `OnMlxConv3d`, or stock.py's.
    """

    def __init__(self, layers: Any = None, groups: int = 1) -> None:
        super().__init__()
        layers = OnMlxConv3d if layers is None else layers
        self.enter = [
            layers.pointwise(before, width, 1) for before, width in zip((1, *WIDTHS), WIDTHS, strict=False)
        ]
        self.stacks = [[Block(layers, width, WIDTHS[-1], d, groups) for d in DILATIONS] for width in WIDTHS]
        self.leave = layers.pointwise(WIDTHS[-1], 1, 1)

    def __call__(self, audio: mx.array, states: list[Any] | None = None) -> tuple[mx.array, list[Any]]:
        """The next buffer of a stream, and the states for the one after it; without states the first, or a whole."""
        given = iter(states if states is not None else [None] * sum(map(len, self.stacks)))
        after, x, skips = [], audio, None
        for enter, blocks in zip(self.enter, self.stacks, strict=True):
            x = enter(x)
            for block in blocks:
                z, state = block.conv.step(x, next(given))
                after.append(state)
                skips = block.skip(z, residual=skips)
                x = block.out(z, residual=x)
        return self.leave(skips), after


class OnMlxConv3d:
    """The layers on mlx_conv3d."""

    gated = GatedConv

    @staticmethod
    def pointwise(inputs: int, outputs: int, groups: int) -> CausalConv1d:
        return CausalConv1d(inputs, outputs, 1, groups=groups)
