"""examples/wavenet_stream: a buffer of a small WaveNet's stream, in the middle of it, against the same network
on stock MLX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx

from .examples import importable
from .harness import Side
from .run import Run
from .workloads import Layer

TITLE = "A small WaveNet, streamed: 20 gated layers of 16 and 8 channels, fp32"
USES_TORCH = False
# Recordings, samples of a buffer, groups.
CASES = (*((batch, 64, groups) for groups in (1, 4) for batch in (1, 8, 32)), (8, 4096, 1), (8, 4096, 4))


def measure(run: Run) -> None:
    with importable("wavenet_stream"):
        for batch, frames, groups in CASES[:2] if run.options.quick else CASES:
            _compare(run, batch, frames, groups)


def _compare(run: Run, batch: int, frames: int, groups: int) -> None:
    import main as example
    from wavenet import DILATIONS, WIDTHS

    audio = example.recordings(batch, 2 * frames)
    first, second = (mx.contiguous(part) for part in mx.split(audio, 2, axis=1))

    def side(name: str, model: Any) -> Side:
        states = model(first)[1]
        mx.eval(second, states)

        def buffer() -> mx.array:
            y, after = model(second, states)
            mx.eval(y, after)
            return y

        return Side(name, buffer)

    calls = [
        Layer((batch, frames, c), (o, k, c // g), (1,), (k // 2,), (1,), g)
        for width in WIDTHS
        for c, o, k, g in [(width, 2 * width, 3, groups), (width, width + WIDTHS[-1], 1, groups)]
        for _ in DILATIONS
    ]
    row = run.compare(
        calls[0],
        [side(name, model) for name, model in example.models(groups).items()],
        effort=replace(run.effort, slow=float("inf")),
        label=f"{batch} x {frames} samples, groups {groups}",
        algorithm="all layers",
        flops=sum(layer.flops for layer in calls),
        nbytes=sum(layer.bytes for layer in calls),
        baselines=[["stock MLX"]],
    )
    for each in row.ratios:
        run.report.say(
            f"{row.label}: stock MLX takes {each.median:.2f}x our time ({each.low:.2f} to {each.high:.2f})"
        )
