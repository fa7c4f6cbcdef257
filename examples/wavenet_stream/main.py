"""Streams audio through a small WaveNet, buffer by buffer, on mlx_conv3d and on stock MLX."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from stock import OnStock
from wavenet import WaveNet

RATE = 48_000  # samples a second


def models(groups: int) -> dict[str, WaveNet]:
    """The same network on both, with the same weights."""
    mx.random.seed(0)
    ours = WaveNet(groups=groups)
    stock = WaveNet(OnStock, groups)
    stock.update(ours.parameters())
    mx.eval(ours.parameters())
    return {"mlx_conv3d": ours, "stock MLX": stock}


def recordings(batch: int, samples: int) -> mx.array:
    """Decaying tones (N, L, 1), each an octave or a fraction above the last."""
    time_axis = mx.arange(samples)[None, :] / RATE
    tone = 110 * 2 ** (mx.arange(batch)[:, None] / 4)
    return (mx.sin(2 * mx.pi * tone * time_axis) * mx.exp(-3 * time_axis))[..., None]


class Player:
    """One model with its stream; remembers how long each buffer took."""

    def __init__(self, model: WaveNet) -> None:
        self.model = model
        self.states: list[Any] | None = None
        self.outputs: list[mx.array] = []
        self.seconds: list[float] = []

    def play(self, buffer: mx.array) -> None:
        start = time.perf_counter()
        y, self.states = self.model(buffer, self.states)
        mx.eval(y, self.states)
        self.seconds.append(time.perf_counter() - start)
        self.outputs.append(y)


def play(audio: mx.array, frames: int, groups: int) -> dict[str, Player]:
    """Both players, after the whole recording; they take turns, buffer by buffer."""
    players = {name: Player(model) for name, model in models(groups).items()}
    for first in range(0, audio.shape[1], frames):
        buffer = mx.contiguous(audio[:, first : first + frames])
        mx.eval(buffer)
        for player in players.values():
            player.play(buffer)
    return players


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8, help="recordings played together")
    parser.add_argument("--frames", type=int, default=64, help="samples of a buffer")
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of the recordings")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)

    audio = recordings(options.batch, int(options.seconds * RATE) // options.frames * options.frames)
    players = play(audio, options.frames, options.groups)
    ours, stock = players["mlx_conv3d"], players["stock MLX"]
    parameters = sum(value.size for _, value in tree_flatten(ours.model.parameters()))
    print(f"{parameters} parameters; {options.batch} recordings, buffers of {options.frames}")
    for name, player in players.items():
        each = statistics.median(player.seconds)
        realtime = options.frames / RATE / each
        print(f"{name:12} {each * 1e3:8.3f} ms a buffer, {realtime:6.2f} times as fast as played")
    ratios = [b / a for a, b in zip(ours.seconds, stock.seconds, strict=True)]
    print(f"stock MLX takes {statistics.median(ratios):.2f} times as long")
    whole, _ = ours.model(audio)
    streamed, expected = (mx.concatenate(p.outputs, axis=1) for p in (ours, stock))
    print(f"the stream has the bits of the whole recording: {bool(mx.array_equal(streamed, whole))}")
    difference = float(mx.abs(streamed - expected).max() / mx.abs(expected).max())
    print(f"largest difference from stock MLX: {difference:.1e} of the largest value")


if __name__ == "__main__":
    main()
