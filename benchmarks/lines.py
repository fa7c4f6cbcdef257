"""Layers whose kernels have taps along one axis (temporal, 1-D, 1x7 and 7x1) against PyTorch: forward, and forward with
both gradients."""

from __future__ import annotations

from . import networks
from .networks import layer_of
from .run import Run
from .workloads import Layer

TITLE = "Kernels with taps along one axis"


def _temporal(network: str, frames: int, height: int, width: int, channels: int, outs: int) -> Layer:
    return layer_of(network, (1, frames, height, width, channels), (outs, 3, 1, 1, channels), (1, 0, 0))


def _line(network: str, length: int, channels: int, taps: int, dilation: int) -> Layer:
    padding = taps // 2 * dilation
    return layer_of(network, (1, length, channels), (channels, taps, channels), padding, dilation=dilation)


def _factor(size: int, channels: int, height: int, width: int) -> Layer:
    return layer_of(
        "Inception-v3",
        (8, size, size, channels),
        (channels, height, width, channels),
        (height // 2, width // 2),
    )


# The temporal halves of R(2+1)D-18's stages for clips of 16 frames.
R2PLUS1D = tuple(
    _temporal("R(2+1)D-18", *each)
    for each in ((16, 56, 56, 144, 64), (8, 28, 28, 288, 128), (4, 14, 14, 576, 256), (2, 7, 7, 1152, 512))
)
# Temporal blocks of Stable Video Diffusion's U-Net, a quarter of the frames' area.
DIFFUSION = tuple(
    _temporal("Stable Video Diffusion", 14, *each)
    for each in ((36, 64, 320, 320), (18, 32, 640, 640), (9, 16, 1280, 1280))
)
# Residual units of the Descript audio codec's decoder, half a second.
CODEC = tuple(
    _line("Descript audio codec", length, channels, 7, dilation)
    for length, channels, dilation in ((344, 768, 1), (2752, 384, 3), (11008, 192, 9), (22016, 96, 1))
)
# Residual blocks of the HiFi-GAN vocoder's generator, 32 frames of a spectrogram.
VOCODER = tuple(
    _line("HiFi-GAN", *each)
    for each in ((256, 256, 3, 1), (2048, 128, 3, 3), (4096, 64, 7, 1), (8192, 32, 3, 5))
)
INCEPTION = tuple(
    _factor(*each) for each in ((17, 192, 1, 7), (17, 192, 7, 1), (8, 384, 1, 3), (8, 384, 3, 1))
)
LAYERS = (*R2PLUS1D, *DIFFUSION, *CODEC, *VOCODER, *INCEPTION)


def measure(run: Run) -> None:
    networks.measure(run, LAYERS)
