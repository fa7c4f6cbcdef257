"""Grouped and depthwise layers of known networks against PyTorch: forward, and forward with both gradients."""

from __future__ import annotations

from . import networks
from .networks import layer_of
from .run import Run
from .workloads import Layer, Shape

TITLE = "Grouped and depthwise layers"


def _depthwise(network: str, batch: int, size: Shape, channels: int, stride: int = 1) -> Layer:
    kernel = (3,) * len(size)
    return layer_of(network, (batch, *size, channels), (channels, *kernel, 1), 1, stride)


def _wavenet(frames: int, channels: int, groups: int, kernel: int, dilation: int) -> Layer:
    """A layer of a stack over a buffer that has the frames before it in front."""
    length = frames + (kernel - 1) * dilation
    return layer_of(
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
    layer_of("ResNeXt-50 32x4d", (batch, size, size, 32 * each), (32 * each, 3, 3, each), 1)
    for batch in (1, 8)
    for size, each in ((56, 4), (28, 8), (14, 16), (7, 32))
)
X3D = tuple(
    _depthwise("X3D-M", batch, (16, size, size), channels)
    for batch in (1, 8)
    for size, channels in ((56, 54), (28, 108), (14, 216), (7, 432))
)
RESNEXT_3D = tuple(layer_of("3D-ResNeXt", (batch, 8, 28, 28, 64), (128, 3, 3, 3, 2), 1) for batch in (1, 8))
WAVENET = tuple(
    _wavenet(frames, channels, groups, kernel, dilation)
    for frames in (64, 4096)
    for channels, groups, kernel, dilation in ((8, 4, 3, 2), (16, 4, 3, 8), (16, 8, 1, 1), (16, 2, 3, 1))
)
LAYERS = (*MOBILENET, *RESNEXT, *X3D, *RESNEXT_3D, *WAVENET)


def measure(run: Run) -> None:
    # Half of the layers say as much of the gradients.
    networks.measure(run, LAYERS, lambda layer: layer.x_shape[0] == 1)
