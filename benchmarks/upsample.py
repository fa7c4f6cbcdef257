"""Nearest-neighbour upsampling by 2 and a convolution, as in front of a VAE decoder's stages: fused
(`conv3d(..., upsample=2)`) against the upsampling as a copy and then the convolution."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import mlx.core as mx

import mlx_conv3d

from . import sides
from .harness import Row, Side
from .report import ratio_summary
from .run import Run
from .workloads import ITEMSIZE, Layer, crop

TITLE = "Upsampling by 2, then a convolution"
GFLOP = 40.0
BROADCAST = "broadcast + reshape, then mlx_conv3d"
REPEAT = "mx.repeat, then mlx_conv3d"
COPIES = (BROADCAST, REPEAT)
PREPARED_COPIES = tuple(f"{name}, prepared weight" for name in COPIES)
TORCH = ("PyTorch interpolate + conv, channels_last", "PyTorch interpolate + conv, contiguous")


def _stored(batch: int, frames: int, height: int, width: int, taps: int, channels: int, outs: int) -> Layer:
    return Layer(
        (batch, frames, height, width, channels),
        (outs, taps, 3, 3, channels),
        (1,) * 3,
        (taps // 2, 1, 1),
        (1,) * 3,
        workloads=("synthetic",),
    )


# Stages of video VAE decoders (Wan, Qwen-Image, LTX, Hunyuan), as they are before the upsampling.
LAYERS = (
    _stored(1, 4, 30, 52, 1, 96, 96),
    _stored(1, 4, 30, 52, 3, 96, 96),
    _stored(1, 4, 30, 52, 1, 192, 96),
    _stored(1, 4, 30, 52, 1, 384, 192),
    _stored(1, 4, 30, 52, 3, 192, 192),
    _stored(1, 4, 30, 52, 3, 384, 192),
    _stored(1, 4, 60, 104, 1, 192, 96),
    _stored(1, 9, 32, 32, 3, 256, 256),
    _stored(1, 1, 64, 64, 1, 512, 512),
    _stored(8, 4, 16, 16, 1, 96, 96),
)


def measure(run: Run) -> None:
    for dtype in run.dtypes("float32", "bfloat16"):
        rows = [_row(run, layer.with_dtype(dtype)) for layer in _layers(run)]
        what = f"upsample=2 over the copy and mlx_conv3d, {dtype}"
        run.report.say(ratio_summary(rows, what, COPIES, sides.OURS))
        run.report.say(
            ratio_summary(rows, f"{what}, weights prepared on both sides", PREPARED_COPIES, sides.PREPARED)
        )
        if run.torch:
            what = f"upsample=2 over PyTorch, {dtype}"
            run.report.say(ratio_summary(rows, what, TORCH, sides.OURS))
    _say_memory(run, _layers(run)[-1])


def _layers(run: Run) -> list[Layer]:
    return run.chosen(crop(layer, run.gflop(GFLOP) / 4) for layer in LAYERS)


def upsampled_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], 2 * shape[2], 2 * shape[3], shape[4])


def _row(run: Run, stored: Layer) -> Row:
    data = sides.Data(stored)
    layer = replace(stored, x_shape=upsampled_shape(stored.x_shape))
    planned = mlx_conv3d.plan(
        stored.x_shape, stored.w_shape, dtype=getattr(mx, stored.dtype), upsample=2, **stored.arguments()
    )
    weight = mlx_conv3d.prepare(data.w)
    ours = [sides.ours(data, upsample=2), sides.prepared(data, upsample=2)]
    copies = [*_copies(data, data.w, COPIES), *_copies(data, weight, PREPARED_COPIES)]
    contenders = ours + copies + (_torch(data) if run.torch else [])
    return run.compare(
        layer,
        contenders,
        label=f"{'x'.join(map(str, stored.x_shape))} up, {'x'.join(map(str, stored.w_shape))}",
        algorithm=planned.algorithm,
        baselines=[COPIES, TORCH],
        nbytes=layer.bytes - ITEMSIZE[layer.dtype] * (math.prod(layer.x_shape) - math.prod(stored.x_shape)),
    )


def broadcast(x: mx.array) -> mx.array:
    n, d, h, w, c = x.shape
    repeated = mx.broadcast_to(x[:, :, :, None, :, None, :], (n, d, h, 2, w, 2, c))
    return repeated.reshape(upsampled_shape(x.shape))


def repeat(x: mx.array) -> mx.array:
    return mx.repeat(mx.repeat(x, 2, axis=2), 2, axis=3)


def _copies(data: sides.Data, weight: Any, names: tuple[str, ...]) -> list[Side]:
    def side(name: str, upsample: Any) -> Side:
        def run() -> mx.array:
            y = mlx_conv3d.conv3d(upsample(data.x), weight, **data.layer.arguments())
            mx.eval(y)
            return y

        return Side(name, run, sides.to_numpy)

    return [side(name, function) for name, function in zip(names, (broadcast, repeat), strict=True)]


def _torch(data: sides.Data) -> list[Side]:
    module = sides.need_torch()

    def side(name: str, channels_last: bool) -> Side:
        x, w = (sides.torch_array(array, channels_last) for array in (data.x, data.w))

        def run() -> Any:
            with module.inference_mode():
                up = module.nn.functional.interpolate(x, scale_factor=(1, 2, 2), mode="nearest")
                return module.nn.functional.conv3d(up, w, **data.layer.arguments())

        return Side(name, run, sides.torch_to_numpy)

    return [side(name, index == 0) for index, name in enumerate(TORCH)]


def _say_memory(run: Run, stored: Layer) -> None:
    """MLX's own count of what a call allocates; our workspace is apart from it."""
    data = sides.Data(stored)
    size = math.prod(upsampled_shape(stored.x_shape)) * ITEMSIZE[stored.dtype] / 2**20
    for side in (sides.ours(data, upsample=2), *_copies(data, data.w, COPIES)):
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        side.run()
        taken = (mx.get_peak_memory() - before) / 2**20
        run.report.say(
            f"{side.name}: {taken:.1f} MiB of arrays at most for {'x'.join(map(str, stored.x_shape))}, "
            f"whose upsampled input has {size:.1f} MiB (workspace not counted)"
        )
