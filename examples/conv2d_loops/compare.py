"""One decoder three ways: its mx.conv2d loops on stock MLX, the same code under patch(), and nn.CausalConv3d."""

from __future__ import annotations

import time
from collections.abc import Callable

import mlx.core as mx
from layers import LayerDecoder
from loops import LoopDecoder

import mlx_conv3d

FRAMES, SIZE = 5, 16


def timed(decode: Callable[[mx.array], mx.array], latent: mx.array) -> tuple[mx.array, float]:
    mx.eval(decode(latent[:, :1]))
    start = time.perf_counter()
    video = decode(latent)
    mx.eval(video)
    return video, time.perf_counter() - start


def main() -> None:
    mx.set_default_device(mx.cpu)
    mx.random.seed(0)
    loops, layers = LoopDecoder(), LayerDecoder()
    layers.update(loops.parameters())  # the names and shapes are the same
    latent = mx.random.normal((1, FRAMES, SIZE, SIZE, 8))

    expected, seconds = timed(loops, latent)
    print(f"{'mx.conv2d loops, stock MLX':34} {seconds * 1e3:8.1f} ms")
    mlx_conv3d.reset_stats()
    with mlx_conv3d.patched():
        patched, seconds = timed(loops, latent)
    counts = mlx_conv3d.stats()
    replaced, seconds_of_layers = timed(layers, latent)
    for name, video, taken in (
        ("the same code under patch()", patched, seconds),
        ("nn.CausalConv3d", replaced, seconds_of_layers),
    ):
        difference = float(mx.abs(video - expected).max() / mx.abs(expected).max())
        print(f"{name:34} {taken * 1e3:8.1f} ms   largest difference {difference:.1e} of the largest value")
    print(f"patch() took {counts['calls']} calls of mx.conv2d: {counts['algorithms']}")


if __name__ == "__main__":
    main()
