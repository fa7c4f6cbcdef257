"""The demo's video VAE on mlx_conv3d's own layers: the same parameters under the same names, fewer passes over memory.

The convolution reads the repeated first frame and the doubled pixels where they are, and adds the residual; norm and
activation are one pass.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

import mlx_conv3d.nn as ours
from mlx_conv3d.demo import model


def fused(plain: model.VideoVAE) -> model.VideoVAE:
    """A model with the parameters of `plain`."""
    made = model.VideoVAE(plain.config)
    for half in (made.encoder, made.decoder):
        half.layers = [_fused(layer) for layer in half.layers]
    made.load_weights(tree_flatten(plain.parameters()))
    return made


class Causal(nn.Module):  # type: ignore[misc]
    def __init__(self, of: model.CausalConv3d, upsample: int = 1) -> None:
        super().__init__()
        outputs, *kernel, inputs = of.conv.weight.shape
        self.conv = ours.CausalConv3d(
            inputs,
            outputs,
            kernel,
            of.conv.stride,
            of.conv.padding[1:],
            time_padding="edge",
            upsample=upsample,
        )

    def __call__(self, x: mx.array, **options: Any) -> mx.array:
        y: mx.array = self.conv(x, **options)
        return y


class ResidualBlock(nn.Module):  # type: ignore[misc]
    def __init__(self, of: model.ResidualBlock) -> None:
        super().__init__()
        channels = of.norm1.weight.shape[0]
        self.norm1, self.norm2 = (ours.RMSNorm(channels, of.norm1.eps, activation="silu") for _ in range(2))
        self.conv1, self.conv2 = Causal(of.conv1), Causal(of.conv2)

    def __call__(self, x: mx.array) -> mx.array:
        return self.conv2(self.norm2(self.conv1(self.norm1(x))), residual=x)


class SpaceUp(nn.Module):  # type: ignore[misc]
    def __init__(self, of: model.SpaceUp) -> None:
        super().__init__()
        self.conv = Causal(of.conv, upsample=2)

    def __call__(self, x: mx.array) -> mx.array:
        return self.conv(x)


def _fused(layer: Any) -> Any:
    if isinstance(layer, model.ResidualBlock):
        return ResidualBlock(layer)
    if isinstance(layer, model.SpaceUp):
        return SpaceUp(layer)
    if isinstance(layer, model.TimeUp):
        layer.conv = Causal(layer.conv)
        return layer
    return Causal(layer)
