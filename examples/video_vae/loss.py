"""What the demo's video VAE is trained to make small."""

from __future__ import annotations

import mlx.core as mx

from mlx_conv3d.demo.model import VideoVAE

KL_WEIGHT = 1e-4
EDGE_WEIGHT = 0.25


def edges(x: mx.array) -> tuple[mx.array, mx.array]:
    return x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]


def loss_of(model: VideoVAE, clip: mx.array, key: mx.array) -> mx.array:
    """L1 of the picture and of its spatial differences, and a KL term that keeps the latent near N(0, 1)."""
    decoded, mean, log_variance = model(clip, key)
    error = decoded - clip
    loss = mx.abs(error).mean()
    for difference in edges(error):
        loss = loss + EDGE_WEIGHT * mx.abs(difference).mean()
    kl = 0.5 * (mx.square(mean) + mx.exp(log_variance) - 1.0 - log_variance).mean()
    return loss + KL_WEIGHT * kl
