"""How long a decoder takes for each chunk, and how much memory beside its weights."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field

import mlx.core as mx
from decoder import Config, Decoder, Stream

MB = 1e6
# For tests and a first look: the same layers, narrow.
SMALL = Config(latent_channels=4, channels=(16, 16, 16, 8, 8))


@dataclass(frozen=True)
class Step:
    """One chunk. Bytes as MLX's allocator counts them, without the weights and their transforms: `state` is what the
    stream keeps for the next chunk, `working` the peak beyond that."""

    frames: int
    seconds: float
    state: int
    working: int


@dataclass
class Decoding:
    steps: list[Step] = field(default_factory=list)
    largest: int = 0  # bytes of the input and the output of the largest convolution, for a whole chunk

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    @property
    def state(self) -> int:
        return max(step.state for step in self.steps)

    @property
    def working(self) -> int:
        return max(step.working for step in self.steps)

    @property
    def memory(self) -> int:
        return max(step.state + step.working for step in self.steps)


def prepare(decoder: Decoder, latent: mx.array) -> int:
    """Evaluates the weights and their transforms; the bytes that are in use afterwards."""
    stream = Stream()
    for index in range(min(2, latent.shape[1])):
        mx.eval(decoder(latent[:, index : index + 1], stream))
    del stream
    gc.collect()
    return int(mx.get_active_memory())


def largest_layer(decoder: Decoder, latent: mx.array) -> int:
    """Bytes of the largest convolution's input and output, when a later latent frame passes in one piece."""
    sizes: list[int] = []
    stream = Stream(frames=None, watch=lambda layer, x, y: sizes.append(x.nbytes + y.nbytes))
    for index in range(2):
        mx.eval(decoder(latent[:, index : index + 1], stream))
    return max(sizes)


def decode(decoder: Decoder, latent: mx.array, frames: int | None = 2) -> tuple[mx.array, Decoding]:
    """The video, decoded one latent frame at a time, and the measurements. Call `prepare` before."""
    stream, found, video = Stream(frames), Decoding(), []
    for index in range(latent.shape[1]):
        before = mx.get_active_memory() - stream.nbytes
        mx.reset_peak_memory()
        start = time.perf_counter()
        video.append(decoder(latent[:, index : index + 1], stream))
        seconds = time.perf_counter() - start
        working = int(mx.get_peak_memory() - before - stream.nbytes)
        found.steps.append(Step(video[-1].shape[1], seconds, stream.nbytes, working))
    return mx.concatenate(video, axis=1), found


def decode_whole(decoder: Decoder, latent: mx.array) -> tuple[mx.array, Decoding]:
    """The video, decoded all at once, and the measurements. Call `prepare` before."""
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    start = time.perf_counter()
    video = decoder(latent)
    mx.eval(video)
    seconds = time.perf_counter() - start
    return video, Decoding([Step(video.shape[1], seconds, 0, int(mx.get_peak_memory() - before))])
