"""Grouped and depthwise layers of known networks against PyTorch: forward, and forward with both gradients."""

from __future__ import annotations

from dataclasses import replace

from . import sides
from .harness import Row
from .report import ratio_summary
from .run import Run
from .workloads import Layer, Shape

TITLE = "Grouped and depthwise layers"


def _layer(network: str, x: Shape, w: Shape, padding: int, stride: int = 1, dilation: int = 1) -> Layer:
    axes = len(x) - 2
    return Layer(
        x,
        w,
        (stride,) * axes,
        (padding,) * axes,
        (dilation,) * axes,
        groups=x[-1] // w[-1],
        workloads=(network,),
    )


def _depthwise(network: str, batch: int, size: Shape, channels: int, stride: int = 1) -> Layer:
    kernel = (3,) * len(size)
    return _layer(network, (batch, *size, channels), (channels, *kernel, 1), 1, stride)


def _wavenet(frames: int, channels: int, groups: int, kernel: int, dilation: int) -> Layer:
    """A layer of a stack over a buffer that has the frames before it in front."""
    length = frames + (kernel - 1) * dilation
    return _layer(
        f"WaveNet, {frames} frames",
        (1, length, channels),
        (channels, kernel, channels // groups),
        0,
        dilation=dilation,
    )


MOBILENET = tuple(
    _depthwise("MobileNetV2", batch, (size, size), channels, stride)
    for batch in (1, 8)
    for size, channels, stride in (
        (112, 32, 1),
        (112, 96, 2),
        (56, 144, 1),
        (28, 192, 1),
        (14, 384, 1),
        (14, 576, 1),
        (7, 960, 1),
    )
)
RESNEXT = tuple(
    _layer("ResNeXt-50 32x4d", (batch, size, size, 32 * each), (32 * each, 3, 3, each), 1)
    for batch in (1, 8)
    for size, each in ((56, 4), (28, 8), (14, 16), (7, 32))
)
X3D = tuple(
    _depthwise("X3D-M", batch, (16, size, size), channels)
    for batch in (1, 8)
    for size, channels in ((56, 54), (28, 108), (14, 216), (7, 432))
)
RESNEXT_3D = tuple(_layer("3D-ResNeXt", (batch, 8, 28, 28, 64), (128, 3, 3, 3, 2), 1) for batch in (1, 8))
WAVENET = tuple(
    _wavenet(frames, channels, groups, kernel, dilation)
    for frames in (64, 4096)
    for channels, groups, kernel, dilation in ((8, 4, 3, 2), (16, 4, 3, 8), (16, 8, 1, 1), (16, 2, 3, 1))
)
LAYERS = (*MOBILENET, *RESNEXT, *X3D, *RESNEXT_3D, *WAVENET)


def measure(run: Run) -> None:
    chosen = run.chosen(LAYERS)
    if run.options.quick:
        chosen = [
            replace(x, x_shape=(1, *(min(n, 16) for n in x.x_shape[1:-1]), x.x_shape[-1])) for x in chosen
        ]
    for dtype in run.dtypes("float32"):
        for gradient in (False, True):
            # Half of the layers say as much of the gradients.
            layers = [x for x in chosen if x.x_shape[0] == 1] if gradient else chosen
            rows = [_row(run, layer.with_dtype(dtype), gradient) for layer in layers]
            if run.torch:
                _summarise(run, rows, f"{'forward and gradients' if gradient else 'forward'}, {dtype}")


def _row(run: Run, layer: Layer, gradient: bool) -> Row:
    data = sides.Data(layer, gradient=gradient)
    algorithm = run.algorithm(layer)
    ours = [sides.our_gradients(data)] if gradient else sides.both(data, algorithm)
    theirs = sides.torch_gradients if gradient else sides.torch
    times = 3 if gradient else 1
    return run.compare(
        layer,
        ours + (theirs(data) if run.torch else []),
        label=f"{layer.workloads[0]}: {layer.name}{', with gradients' if gradient else ''}",
        algorithm=algorithm,
        baselines=[sides.TORCH_NAMES],
        flops=times * layer.flops,
        nbytes=times * layer.bytes,
    )


def _summarise(run: Run, rows: list[Row], what: str) -> None:
    for network in dict.fromkeys(row.layer.workloads[0] for row in rows):
        chosen = [row for row in rows if row.layer.workloads[0] == network]
        text = f"{sides.OURS} over PyTorch, {network}, {what}"
        run.report.say(ratio_summary(chosen, text, sides.TORCH_NAMES, sides.OURS))
