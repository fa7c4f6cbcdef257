"""The workspace limit: the memory that a call takes beside its operands, seen from outside the process, and the speed
under a small limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import mlx_conv3d

from . import machine, sides
from .child import Task, child
from .harness import Side
from .report import speedup
from .run import Run, evenly
from .workloads import ITEMSIZE, Layer

TITLE = "Memory beside the operands, and the speed under a small workspace limit"
USES_TORCH = False
GFLOP = 40.0
MEBIBYTE = 1 << 20
SMALL = 32 * MEBIBYTE
USUAL = 6  # 3x3x3 layers from few channels to many
KINDS = ("3x3x3", "1x1x1", "3x1x1", "strided 3x3x3")
SLACK = 1.05
LEAST_SPEED = 0.7


def measure(run: Run) -> None:
    if not Path("/proc/self/status").exists():
        raise sides.Missing("resident memory is read from /proc, which this system does not have")
    default = mlx_conv3d.get_workspace_limit()
    known = run.layers(GFLOP, lambda layer: layer.kind in KINDS)
    usual = evenly([layer for layer in known if layer.kind == KINDS[0]], USUAL)
    layers = list(dict.fromkeys([*_extremes(known), *usual]))
    over, slow = [], []
    for dtype in run.dtypes("float32", "bfloat16"):
        for layer in (each.with_dtype(dtype) for each in layers):
            for limit in (default, SMALL):
                over += _memory(run, layer, limit)
            slow += _speed(run, layer, default)
    run.report.say(f"Over the limit + 5 %: {', '.join(over) or 'none'}")
    run.report.say(
        f"Under {LEAST_SPEED} of the speed at {SMALL // MEBIBYTE} MiB: {', '.join(slow) or 'none'}"
    )


def _extremes(layers: list[Layer]) -> list[Layer]:
    """Of every kind the layer with the largest weight and the one with the largest input and output."""
    sizes: tuple[Callable[[Layer], int], ...] = (
        lambda layer: math.prod(layer.w_shape),
        lambda layer: math.prod(layer.x_shape) + math.prod(layer.out_shape),
    )
    kinds = dict.fromkeys(layer.kind for layer in layers)
    found = [max((x for x in layers if x.kind == kind), key=size) for kind in kinds for size in sizes]
    return list(dict.fromkeys(found))


def _memory(run: Run, layer: Layer, limit: int) -> list[str]:
    """Measures a call and a dL/dw; returns what went over the limit."""
    over = []
    for gradient in (False, True):
        task = Task(layer, limit, run.report.threads, gradient)
        extra = _extra(task)
        name = f"{'dL/dw of ' if gradient else ''}{layer.name} {layer.dtype} at {limit // MEBIBYTE} MiB"
        run.report.say(f"{name}: {extra / MEBIBYTE:.1f} MiB")
        if extra > SLACK * limit:
            over.append(name)
    return over


def _extra(task: Task) -> int:
    """Bytes that the call had resident at most, beside its operands and its result."""
    layer = task.layer
    result = math.prod(layer.w_shape if task.gradient else layer.out_shape)
    with child(task) as process:
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # sets the peak to the present
        before = machine.resident_bytes(process.pid)
        process.run()
        peak = machine.resident_bytes(process.pid, "VmHWM")
    return peak - before - result * ITEMSIZE[layer.w_dtype if task.gradient else layer.dtype]


def _speed(run: Run, layer: Layer, default: int) -> list[str]:
    data = sides.Data(layer)
    names = [f"{limit // MEBIBYTE} MiB" for limit in (SMALL, default)]
    row = run.compare(
        layer,
        [_limited(data, name, limit) for name, limit in zip(names, (SMALL, default), strict=True)],
        algorithm=run.algorithm(layer),
        baselines=[names[1:]],
    )
    mlx_conv3d.set_workspace_limit(default)
    speed = speedup(row, names[1:], names[0])
    return [f"{layer.name} {layer.dtype} ({speed:.2f})"] if speed is not None and speed < LEAST_SPEED else []


def _limited(data: sides.Data, name: str, limit: int) -> Side:
    side = sides.ours(data, name)

    def run() -> object:
        mlx_conv3d.set_workspace_limit(limit)
        return side.run()

    return Side(name, run, side.as_numpy)
