"""The convolutions of published video decoders at any size, as the clients that were traced call them.

Sizes scale with the picture; what is called how often follows from the frames. tests/test_distributed_model.py compares
them with the call lists in benchmarks/workloads, which were traced at 480p, 704p and 1024x576.

Sources: the Wan 2.1 and 2.2 decoders (arXiv:2503.20314 and the released code) and the LTX-2 decoder as their MLX ports
call them: Wan in chunks of one latent frame with two cached frames in front, LTX-2 in slices of 24 frames where an
input exceeds 256 MiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

ITEMSIZE = 2  # bfloat16
SLAB_BYTES = 256 << 20
SLAB_FRAMES = 24


@dataclass(frozen=True)
class Step:
    """Calls of one shape: x (N, D, H, W, C) with its cached frames but unpadded in space, w (O, KD, KH, KW, C).

    Padding keeps height and width and adds no frames. `layers` of the calls are of layers with weights of their own
    that no earlier step has.
    """

    x_shape: tuple[int, int, int, int, int]
    w_shape: tuple[int, int, int, int, int]
    calls: int
    layers: int


@dataclass(frozen=True)
class Decoder:
    """A decoder at one size of video."""

    name: str
    width: int
    height: int
    frames: int
    steps: tuple[Step, ...]

    @property
    def title(self) -> str:
        return f"{self.name}, {self.width}x{self.height}, {self.frames} frames"


def _step(
    n: int, d: int, h: int, w: int, c: int, o: int, kernel: tuple[int, int, int], calls: int, layers: int
) -> Step:
    return Step((n, d, h, w, c), (o, *kernel, c), calls, layers)


CUBE, TIME, PLANE, POINT = (3, 3, 3), (3, 1, 1), (1, 3, 3), (1, 1, 1)

# Per stage: channels in, channels, whether the frames double after it, channels after its spatial upsampling.
_WanStage = tuple[int, int, bool, int]
_WAN21: tuple[_WanStage, ...] = (
    (384, 384, True, 192),
    (192, 384, True, 192),
    (192, 192, False, 96),
    (96, 96, False, 0),
)
_WAN22: tuple[_WanStage, ...] = (
    (1024, 1024, True, 1024),
    (1024, 1024, True, 1024),
    (1024, 512, False, 512),
    (512, 256, False, 0),
)


def _wan_chunk(
    stages: tuple[_WanStage, ...], h: int, w: int, outputs: int, *, first: bool, chunks: int
) -> Iterator[Step]:
    """The stages for the first latent frame, or for `chunks` later ones of a latent frame each."""
    own = 1 if first else 0
    frames = 1
    for number, (inputs, channels, doubles, after) in enumerate(stages):
        convolutions = 10 if number == 0 else 6  # the middle block's four are of the first stage's shape
        if inputs != channels:
            yield _step(1, frames, h, w, inputs, channels, POINT, chunks, own)
            yield _step(1, frames + 2, h, w, inputs, channels, CUBE, chunks, own)
            convolutions -= 1
        yield _step(1, frames + 2, h, w, channels, channels, CUBE, convolutions * chunks, convolutions * own)
        if doubles and not first:
            yield _step(1, frames + 2, h, w, channels, 2 * channels, TIME, chunks, 1)
            frames *= 2
        if after:
            h, w = 2 * h, 2 * w
            yield _step(frames, 1, h, w, channels, after, PLANE, chunks, own)
    yield _step(1, frames + 2, h, w, stages[-1][1], outputs, CUBE, chunks, own)


def _wan(
    name: str, width: int, height: int, frames: int, stages: tuple[_WanStage, ...], latent: int, factor: int
) -> Decoder:
    h, w, chunks = height // factor, width // factor, 1 + (frames - 1) // 4
    deep, outputs = stages[0][0], 3 * (factor // 8) ** 2
    steps = [
        _step(1, chunks, h, w, latent, latent, POINT, 1, 1),
        _step(1, 3, h, w, latent, deep, CUBE, chunks, 1),
        _step(1, 1, h, w, deep, 3 * deep, POINT, chunks, 1),
        _step(1, 1, h, w, deep, deep, POINT, chunks, 1),
        *_wan_chunk(stages, h, w, outputs, first=True, chunks=1),
        *_wan_chunk(stages, h, w, outputs, first=False, chunks=chunks - 1),
    ]
    return Decoder(name, width, height, frames, tuple(steps))


def wan21(width: int = 1280, height: int = 720, frames: int = 81) -> Decoder:
    """Wan 2.1's decoder: 8x8 in space, 4 in time."""
    return _wan("Wan 2.1", width, height, frames, _WAN21, 16, 8)


def wan22(width: int = 1280, height: int = 704, frames: int = 121) -> Decoder:
    """Wan 2.2's high-compression decoder: 16x16 in space, 4 in time. Its 720p is 704 rows."""
    return _wan("Wan 2.2", width, height, frames, _WAN22, 48, 16)


def _slabs(frames: int, h: int, w: int, c: int, o: int, calls: int) -> Iterator[Step]:
    """A convolution whose input is cut in time where it is large. It pads space beforehand, which counts."""
    sliced = (frames + 2) * (h + 2) * (w + 2) * c * ITEMSIZE > SLAB_BYTES
    whole, rest = divmod(frames, SLAB_FRAMES) if sliced else (0, frames)
    if whole:
        yield _step(1, SLAB_FRAMES + 2, h, w, c, o, CUBE, whole * calls, calls)
    if rest:
        yield _step(1, rest + 2, h, w, c, o, CUBE, calls, 0 if whole else calls)


def ltx2(width: int = 1920, height: int = 1088, frames: int = 121) -> Decoder:
    """LTX-2's decoder: 32x32 in space, 8 in time. Its 1080p is 1088 rows."""
    h, w, length = height // 32, width // 32, 1 + (frames - 1) // 8
    steps = [*_slabs(length, h, w, 128, 1024, 1)]
    for channels in (1024, 512, 256, 128):
        steps += _slabs(length, h, w, channels, channels, 10)
        outputs = 4 * channels if channels > 128 else 48
        steps += _slabs(length, h, w, channels, outputs, 1)
        h, w, length = 2 * h, 2 * w, 2 * length - 1
    return Decoder("LTX-2", width, height, frames, tuple(steps))


DECODERS: dict[str, Callable[[], Decoder]] = {"wan2.1": wan21, "wan2.2": wan22, "ltx2": ltx2}
