"""A small causal video VAE in plain mlx.nn, the kind of model that `mlx_conv3d.patch()` is for.

The blocks are those of the Wan video VAE at a fraction of the width: 3x3x3 convolutions padded in front of
time only, 3x1x1 convolutions that halve and double the frame rate, 3x3 convolutions that halve and double the
picture, RMS norm and SiLU. Frames come in and out as 2x2 patches. Nothing here knows about mlx_conv3d. Two things
differ, so that a short training is enough: the first frame is repeated in front of the clip where Wan puts zeros,
and no norm stands before the last convolutions, so that brightness has a straight way through.

Source: Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025 (arXiv:2503.20314).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

Layer = Callable[[mx.array], mx.array]

PATCH = 2
SPACE_FACTOR = 4
TIME_FACTOR = 4
# Training starts with little noise in the latent (a standard deviation of 0.05), or the decoder would ignore it.
LOG_VARIANCE_OFFSET = -6.0


@dataclass(frozen=True)
class VAEConfig:
    """Widths of the model: full-rate encoder and decoder stages, the deeper stages, and the latent."""

    encoder_channels: int = 32
    decoder_channels: int = 48
    deep_channels: int = 64
    latent_channels: int = 16


class TimePad(nn.Module):  # type: ignore[misc]
    """Repeats the first frame in front of the clip, so that no output frame sees a later input frame.

    Zeros would tell a model that saw only short clips in training how far back a clip begins; longer clips fail.
    """

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def __call__(self, x: mx.array) -> mx.array:
        if self.frames == 0:
            return x
        n, _, h, w, c = x.shape
        first = mx.broadcast_to(x[:, :1], (n, self.frames, h, w, c))
        return mx.concatenate([first, x], axis=1)


class CausalConv3d(nn.Module):  # type: ignore[misc]
    """A 3-D convolution, `(N, D, H, W, C)` to `(N, D', H', W', O)`, causal in time and centred in space."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        depth, height, width = kernel
        self.pad = TimePad(depth - 1)
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=(0, height // 2, width // 2))

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = self.conv(self.pad(x))
        return y


class ResidualBlock(nn.Module):  # type: ignore[misc]
    """Two rounds of RMS norm, SiLU and a 3x3x3 causal convolution, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(channels)
        self.conv1 = CausalConv3d(channels, channels, (3, 3, 3))
        self.norm2 = nn.RMSNorm(channels)
        self.conv2 = CausalConv3d(channels, channels, (3, 3, 3))
        self.activation = nn.SiLU()

    def __call__(self, x: mx.array) -> mx.array:
        y = self.conv1(self.activation(self.norm1(x)))
        return x + self.conv2(self.activation(self.norm2(y)))


class SpaceDown(CausalConv3d):
    """Halves height and width with a 3x3 convolution of stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, (1, 3, 3), (1, 2, 2))


class TimeDown(CausalConv3d):
    """Halves the frame rate, 1 + 2n frames to 1 + n, with a 3x1x1 causal convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, (3, 1, 1), (2, 1, 1))


class Upsample(nn.Module):  # type: ignore[misc]
    """Doubles height and width by repeating pixels."""

    def __call__(self, x: mx.array) -> mx.array:
        n, d, h, w, c = x.shape
        wide = mx.broadcast_to(x[:, :, :, None, :, None], (n, d, h, 2, w, 2, c))
        return wide.reshape(n, d, 2 * h, 2 * w, c)


class SpaceUp(nn.Module):  # type: ignore[misc]
    """Doubles height and width, then a 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.upsample = Upsample()
        self.conv = CausalConv3d(inputs, outputs, (1, 3, 3))

    def __call__(self, x: mx.array) -> mx.array:
        return self.conv(self.upsample(x))


class TimeUp(nn.Module):  # type: ignore[misc]
    """Doubles the frame rate, 1 + n frames to 1 + 2n: a 3x1x1 causal convolution makes two frames of one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, 2 * channels, (3, 1, 1))

    def __call__(self, x: mx.array) -> mx.array:
        n, d, h, w, c = x.shape
        pairs = self.conv(x).reshape(n, d, h, w, 2, c).transpose(0, 1, 4, 2, 3, 5)
        # The first frame stands alone in the encoder, so it gives one frame here: its first half is dropped.
        return pairs.reshape(n, 2 * d, h, w, c)[:, 1:]


def patchify(x: mx.array) -> mx.array:
    """`(N, D, H, W, 3)` to `(N, D, H/2, W/2, 12)`."""
    n, d, h, w, c = x.shape
    x = x.reshape(n, d, h // PATCH, PATCH, w // PATCH, PATCH, c)
    return x.transpose(0, 1, 2, 4, 3, 5, 6).reshape(n, d, h // PATCH, w // PATCH, PATCH * PATCH * c)


def unpatchify(x: mx.array) -> mx.array:
    """The inverse of `patchify`."""
    n, d, h, w, c = x.shape
    x = x.reshape(n, d, h, w, PATCH, PATCH, c // PATCH**2)
    return x.transpose(0, 1, 2, 4, 3, 5, 6).reshape(n, d, h * PATCH, w * PATCH, c // PATCH**2)


class Encoder(nn.Module):  # type: ignore[misc]
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        full, deep = config.encoder_channels, config.deep_channels
        self.layers: list[Layer] = [
            CausalConv3d(3 * PATCH**2, full, (3, 3, 3)),
            ResidualBlock(full),
            SpaceDown(full, deep),
            TimeDown(deep),
            ResidualBlock(deep),
            TimeDown(deep),
            ResidualBlock(deep),
            CausalConv3d(deep, 2 * config.latent_channels, (3, 3, 3)),
        ]

    def __call__(self, x: mx.array) -> mx.array:
        x = patchify(x)
        for layer in self.layers:
            x = layer(x)
        return x


class Decoder(nn.Module):  # type: ignore[misc]
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        full, deep = config.decoder_channels, config.deep_channels
        self.layers: list[Layer] = [
            CausalConv3d(config.latent_channels, deep, (3, 3, 3)),
            ResidualBlock(deep),
            TimeUp(deep),
            ResidualBlock(deep),
            TimeUp(deep),
            SpaceUp(deep, full),
            ResidualBlock(full),
            ResidualBlock(full),
            CausalConv3d(full, 3 * PATCH**2, (3, 3, 3)),
        ]

    def __call__(self, z: mx.array) -> mx.array:
        for layer in self.layers:
            z = layer(z)
        return unpatchify(z)


class VideoVAE(nn.Module):  # type: ignore[misc]
    """Compresses clips 4x in height, width and time, to `latent_channels` channels.

    Clips are `(N, 1 + 4k, H, W, 3)` in [-1, 1] with H and W multiples of 4; latents are
    `(N, 1 + k, H/4, W/4, latent_channels)`.
    """

    def __init__(self, config: VAEConfig | None = None) -> None:
        super().__init__()
        self.config = config or VAEConfig()
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def encode(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """The mean and the log-variance of the latent, each `(N, 1 + k, H/4, W/4, latent_channels)`.

        Raises ValueError for a clip of another shape than the class allows.
        """
        _, d, h, w, c = x.shape
        if d % TIME_FACTOR != 1 or h % SPACE_FACTOR or w % SPACE_FACTOR or c != 3:
            raise ValueError(f"clip must be (N, 1 + 4k, 4h, 4w, 3), got {x.shape}")
        mean, log_variance = mx.split(self.encoder(x), 2, axis=-1)
        return mean, mx.clip(log_variance + LOG_VARIANCE_OFFSET, -20.0, 10.0)

    def decode(self, z: mx.array) -> mx.array:
        """The clip `(N, 1 + 4k, H, W, 3)` of a latent `(N, 1 + k, H/4, W/4, latent_channels)`."""
        return self.decoder(z)

    def __call__(self, x: mx.array, key: mx.array | None = None) -> tuple[mx.array, mx.array, mx.array]:
        """The reconstruction of a clip, with the latent's mean and log-variance.

        With a random key the latent is drawn (training); without, it is the mean.
        """
        mean, log_variance = self.encode(x)
        z = mean
        if key is not None:
            z = mean + mx.exp(0.5 * log_variance) * mx.random.normal(mean.shape, key=key)
        return self.decode(z), mean, log_variance
