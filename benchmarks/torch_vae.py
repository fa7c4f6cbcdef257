"""The demo's video VAE (mlx_conv3d/demo/model.py) and its training loss in PyTorch: made from an MLX model, with its
weights under their names."""

from __future__ import annotations

from typing import Any

import mlx.nn as mlx_nn
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mlx_conv3d.demo import model as mlx_model


class RMSNorm(nn.Module):
    def __init__(self, of: Any) -> None:
        super().__init__()
        self.weight, self.eps = _parameter(of.weight), of.eps

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.square().mean(1, keepdim=True) + self.eps)
        return x * scale * self.weight[:, None, None, None]


class CausalConv3d(nn.Module):
    def __init__(self, of: Any) -> None:
        super().__init__()
        outputs, *kernel, inputs = of.conv.weight.shape
        self.frames = of.pad.frames
        self.conv = nn.Conv3d(inputs, outputs, kernel, of.conv.stride, of.conv.padding)
        self.conv.weight = _parameter(of.conv.weight)
        self.conv.bias = _parameter(of.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.frames > 0:
            x = torch.cat([x[:, :, :1].expand(-1, -1, self.frames, -1, -1), x], dim=2)
        return self.conv(x)


class ResidualBlock(nn.Module):
    def __init__(self, of: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(of.norm1), RMSNorm(of.norm2)
        self.conv1, self.conv2 = CausalConv3d(of.conv1), CausalConv3d(of.conv2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(functional.silu(self.norm1(x)))
        return x + self.conv2(functional.silu(self.norm2(y)))


class SpaceUp(nn.Module):
    def __init__(self, of: Any) -> None:
        super().__init__()
        self.conv = CausalConv3d(of.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))


class TimeUp(nn.Module):
    def __init__(self, of: Any) -> None:
        super().__init__()
        self.conv = CausalConv3d(of.conv)

    def forward(self, x: Tensor) -> Tensor:
        pairs = self.conv(x).unflatten(1, (2, -1))
        return pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)[:, :, 1:]


class Layers(nn.Module):
    def __init__(self, layers: list[Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_layer(each) for each in layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class VideoVAE(nn.Module):
    """Clips are (N, 3, 1 + 4k, H, W), `noise` is (N, latent channels, 1 + k, H/4, W/4)."""

    def __init__(self, of: mlx_model.VideoVAE) -> None:
        super().__init__()
        self.encoder, self.decoder = Layers(of.encoder.layers), Layers(of.decoder.layers)

    def forward(self, clip: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(_patchify(clip)).chunk(2, dim=1)
        log_variance = (log_variance + mlx_model.LOG_VARIANCE_OFFSET).clamp(-20.0, 10.0)
        z = mean + torch.exp(0.5 * log_variance) * noise
        return _unpatchify(self.decoder(z)), mean, log_variance


def loss_of(model: VideoVAE, clip: Tensor, noise: Tensor, edge_weight: float, kl_weight: float) -> Tensor:
    """examples/video_vae/loss.py's."""
    decoded, mean, log_variance = model(clip, noise)
    error = decoded - clip
    loss = error.abs().mean()
    for axis in (3, 4):
        loss = loss + edge_weight * error.diff(dim=axis).abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    return loss + kl_weight * kl


def _layer(of: Any) -> nn.Module:
    for theirs, ours in (
        (mlx_model.ResidualBlock, ResidualBlock),
        (mlx_model.SpaceUp, SpaceUp),
        (mlx_model.TimeUp, TimeUp),
        (mlx_model.CausalConv3d, CausalConv3d),
        (mlx_nn.RMSNorm, RMSNorm),
    ):
        if isinstance(of, theirs):
            return ours(of)
    raise TypeError(f"{type(of).__name__} has no counterpart here")


def _parameter(array: Any) -> nn.Parameter:
    tensor = torch.from_numpy(np.array(array))
    return nn.Parameter(tensor.movedim(-1, 1).contiguous() if tensor.ndim == 5 else tensor)


def _patchify(x: Tensor) -> Tensor:
    n, c, d, h, w = x.shape
    size = mlx_model.PATCH
    x = x.reshape(n, c, d, h // size, size, w // size, size)
    return x.permute(0, 4, 6, 1, 2, 3, 5).reshape(n, size * size * c, d, h // size, w // size)


def _unpatchify(x: Tensor) -> Tensor:
    n, c, d, h, w = x.shape
    size = mlx_model.PATCH
    x = x.reshape(n, size, size, c // size**2, d, h, w)
    return x.permute(0, 3, 4, 5, 1, 6, 2).reshape(n, c // size**2, d, h * size, w * size)
