"""Five layers, cropped, on this library and on stock MLX. No benchmark, and being slow is no failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import mlx.core as mx

from mlx_conv3d import functional
from mlx_conv3d.doctor.items import Item
from mlx_conv3d.doctor.rows import NOTE, Finding

ENOUGH = 0.3  # seconds of repeats for one side
MOST = 9  # repeats


@dataclass(frozen=True)
class Layer:
    """A 3x3x3 convolution with as many inputs as outputs; its crop for a CPU and for a GPU, as (D, H, W)."""

    model: str
    channels: int
    on_cpu: tuple[int, int, int]
    on_gpu: tuple[int, int, int]


# From benchmarks/workloads: layers that these models call most.
LAYERS = (
    Layer("Wan 2.1 decoder", 96, (2, 14, 14), (4, 120, 208)),
    Layer("Wan 2.1 decoder", 192, (1, 10, 10), (4, 60, 104)),
    Layer("LTX-2 decoder", 128, (2, 11, 11), (8, 65, 97)),
    Layer("HunyuanVideo decoder", 128, (1, 14, 14), (9, 68, 120)),
    Layer("VISTA-3D", 48, (8, 14, 14), (32, 64, 64)),
)


def seconds(call: Callable[[], mx.array]) -> tuple[float, int]:
    """The median of a few calls after one that is not counted, and how many they were."""
    mx.eval(call())
    times: list[float] = []
    while len(times) < MOST and (not times or sum(times) < ENOUGH):
        started = time.perf_counter()
        mx.eval(call())
        times.append(time.perf_counter() - started)
    return median(times), len(times)


def measure(layer: Layer, device: Any) -> Finding:
    on_gpu = device == mx.gpu
    dtype = mx.bfloat16 if on_gpu else mx.float32
    crop = layer.on_gpu if on_gpu else layer.on_cpu
    c = layer.channels
    with mx.stream(device):
        x = mx.random.normal((1, *crop, c)).astype(dtype)
        w = (mx.random.normal((c, 3, 3, 3, c)) / (27 * c) ** 0.5).astype(dtype)
        mx.eval(x, w)
        stock, stock_calls = seconds(lambda: mx.conv3d(x, w, padding=1))
        ours, calls = seconds(lambda: functional.conv3d(x, w, padding=1))
    flops = 2 * 27 * c * c * crop[0] * crop[1] * crop[2]
    data = {
        "crop": list(crop),
        "channels": c,
        "dtype": str(dtype).rpartition(".")[2],
        "seconds": ours,
        "stock_seconds": stock,
        "calls": calls,
        "stock_calls": stock_calls,
        "gflop_direct": flops / 1e9,
    }
    size = "x".join(map(str, crop))
    times = f"{ours * 1e3:.2f} ms, stock MLX {stock * 1e3:.2f} ms ({stock / ours:.2f} times)"
    detail = f"crop of {size}, {data['dtype']}: {times}"
    return Finding(NOTE, detail, data)


def items(device: str) -> list[Item]:
    where = mx.cpu if device == "cpu" else mx.gpu
    return [Item(f"{x.model}, {x.channels} channels", partial(measure, x, where)) for x in LAYERS]
