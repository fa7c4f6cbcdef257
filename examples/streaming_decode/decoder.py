"""The decoder of Wan 2.1's video VAE at its real widths, for whole clips and for streams of latent frames.

    latent (N, T, H, W, 16) -> video (N, 4*T - 3, 8*H, 8*W, 3)

Every convolution is a causal layer with `step`, and a `Stream` holds the states of all of them. The class of the
layers is a parameter, so that the same decoder runs on layers that pad and concatenate (padded.py).

Source of the architecture: Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025
(arXiv:2503.20314).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import mlx_conv3d
from mlx_conv3d.nn import CausalConv3d

# What makes a causal layer: CausalConv3d, or a class with the same arguments and the same `step`.
LayerClass = Callable[..., Any]


@dataclass(frozen=True)
class Config:
    """Wan 2.1's, from the latent to full resolution."""

    latent_channels: int = 16
    channels: tuple[int, ...] = (384, 384, 384, 192, 96)  # of the middle, then of each stage
    doubles_time: tuple[bool, ...] = (
        True,
        True,
        False,
    )  # after each stage but the last; space doubles there too
    blocks: int = 3  # residual blocks of a stage


class Stream:
    """The states of a decoder's causal layers, from one chunk to the next.

    `frames` is how many frames at a time pass the layers after the last doubling of the frame rate, where the arrays
    are largest; None for all of a chunk's. `evaluate` computes every array before the next one is built, so that no
    more than a block's are in memory at a time. `watch` is called with each convolution, its input and its output.
    Without `keep`, the one chunk is a whole clip: all its frames pass at once and no states are kept.
    """

    def __init__(
        self,
        frames: int | None = 2,
        evaluate: bool = True,
        keep: bool = True,
        watch: Callable[..., None] | None = None,
    ) -> None:
        self.frames = frames if keep else None
        self.keep = keep
        self.evaluate = evaluate
        self.watch = watch
        self.states: dict[int, Any] = {}

    def step(self, layer: Any, x: mx.array, **options: Any) -> mx.array:
        x = self.settled(x)
        if self.keep:
            y, self.states[id(layer)] = layer.step(x, self.states.get(id(layer)), **options)
        else:
            y = layer(x, **options)
        y = self.settled(y)
        if self.watch is not None:
            self.watch(layer, x, y)
        return y

    def settled(self, x: mx.array) -> mx.array:
        if self.evaluate:
            mx.eval(x)
        return x

    def is_new(self, layer: Any) -> bool:
        """Whether no chunk has passed the layer yet; asked once for each chunk."""
        new = id(layer) not in self.states
        self.states.setdefault(id(layer), None)
        return new

    @property
    def nbytes(self) -> int:
        """Bytes of the frames that the states hold."""
        held = (state.frames for state in self.states.values() if state is not None)
        return sum(frames.nbytes for frames in held if frames is not None)


def normalized(x: mx.array, stream: Stream) -> mx.array:
    """RMS norm over the channels, without its scale."""
    return x * stream.settled(mx.rsqrt(mx.mean(x * x, axis=-1, keepdims=True) + 1e-12))


class NormSilu(nn.Module):
    """silu(RMS norm), its scale and SiLU in one pass: a depthwise 1x1x1 convolution with an activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = mx.ones((channels,))

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        channels = x.shape[-1]
        scale = self.weight.reshape(channels, 1, 1, 1, 1)
        return mlx_conv3d.conv3d(normalized(x, stream), scale, groups=channels, activation="silu")


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, layer: LayerClass) -> None:
        super().__init__()
        self.norm1 = NormSilu(inputs)
        self.conv1 = layer(inputs, outputs, 3, padding=1)
        self.norm2 = NormSilu(outputs)
        self.conv2 = layer(outputs, outputs, 3, padding=1)
        self.shortcut = layer(inputs, outputs, 1) if inputs != outputs else None

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        # An array with a name stays in memory until the function ends, so only what is needed has one.
        y = self.norm2(stream.step(self.conv1, self.norm1(x, stream)), stream)
        if self.shortcut is not None:
            x = stream.step(self.shortcut, x)
        return stream.step(self.conv2, y, residual=x)


class Attention(nn.Module):
    """Self-attention within each frame, one head."""

    def __init__(self, channels: int, layer: LayerClass) -> None:
        super().__init__()
        self.weight = mx.ones((channels,))
        self.qkv = layer(channels, 3 * channels, 1)
        self.projection = layer(channels, channels, 1)

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        n, d, h, w, c = x.shape
        qkv = stream.step(self.qkv, normalized(x, stream) * self.weight)
        q, k, v = (a.reshape(n * d, 1, h * w, c) for a in mx.split(qkv, 3, axis=-1))
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=c**-0.5)
        return stream.step(self.projection, y.reshape(x.shape), residual=x)


class DoubleTime(nn.Module):
    """Makes two frames of each, except of the clip's first, by a convolution to twice the channels."""

    def __init__(self, channels: int, layer: LayerClass) -> None:
        super().__init__()
        self.conv = layer(channels, 2 * channels, (3, 1, 1))

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        if not stream.is_new(self.conv):
            return interleaved(stream.step(self.conv, x))
        # The convolution's own stream starts at the second frame.
        if x.shape[1] == 1:
            return x
        return mx.concatenate([x[:, :1], interleaved(stream.step(self.conv, x[:, 1:]))], axis=1)


def interleaved(x: mx.array) -> mx.array:
    """(N, D, H, W, 2*C) to (N, 2*D, H, W, C)."""
    n, d, h, w, c = x.shape
    return x.reshape(n, d, h, w, 2, c // 2).transpose(0, 1, 4, 2, 3, 5).reshape(n, 2 * d, h, w, c // 2)


class DoubleSpace(nn.Module):
    """Repeats rows and columns, then a 3x3 convolution to half the channels."""

    def __init__(self, channels: int, layer: LayerClass) -> None:
        super().__init__()
        self.conv = layer(channels, channels // 2, (1, 3, 3), padding=1, upsample=2)

    def __call__(self, x: mx.array, stream: Stream) -> mx.array:
        return stream.step(self.conv, x)


class Decoder(nn.Module):
    def __init__(self, config: Config | None = None, layer: LayerClass = CausalConv3d) -> None:
        super().__init__()
        config = config or Config()
        first, *stages = config.channels
        self.enter = layer(config.latent_channels, first, 3, padding=1)
        layers: list[Any] = [
            ResidualBlock(first, first, layer),
            Attention(first, layer),
            ResidualBlock(first, first, layer),
        ]
        inputs, self.last_doubling = first, 0
        for index, outputs in enumerate(stages):
            for _ in range(config.blocks):
                layers.append(ResidualBlock(inputs, outputs, layer))
                inputs = outputs
            if index + 1 == len(stages):
                break
            if config.doubles_time[index]:
                layers.append(DoubleTime(outputs, layer))
                self.last_doubling = len(layers)
            layers.append(DoubleSpace(outputs, layer))
            inputs = outputs // 2
        self.layers = layers
        self.norm = NormSilu(stages[-1])
        self.leave = layer(stages[-1], 3, 3, padding=1)

    def __call__(self, latent: mx.array, stream: Stream | None = None) -> mx.array:
        """The video frames of a latent (N, T, H, W, C): of a whole clip, or of a stream's next chunk."""
        stream = stream or Stream(keep=False)
        x = stream.step(self.enter, latent)
        for layer in self.layers[: self.last_doubling]:
            x = layer(x, stream)
        count = stream.frames or x.shape[1]
        pieces = [self._finished(x[:, i : i + count], stream) for i in range(0, x.shape[1], count)]
        return stream.settled(mx.concatenate(pieces, axis=1))

    def _finished(self, x: mx.array, stream: Stream) -> mx.array:
        for layer in self.layers[self.last_doubling :]:
            x = layer(x, stream)
        return mx.clip(stream.step(self.leave, self.norm(x, stream)), -1.0, 1.0)
