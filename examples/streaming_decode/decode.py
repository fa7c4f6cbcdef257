"""Decodes random latents with random weights, chunk by chunk and whole, and plots the memory of both: see README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import measure
import mlx.core as mx
import typer
from decoder import Config, Decoder
from measure import MB, Decoding

import mlx_conv3d

WORKSPACE = 32 << 20


def latents(config: Config, count: int, size: int) -> mx.array:
    return mx.random.normal((1, count, size, size, config.latent_channels), key=mx.random.key(1))


def report(found: Decoding, largest: int) -> None:
    print(f"{'chunk':>5} {'frames':>7} {'seconds':>8} {'state MB':>9} {'working MB':>11}")
    for index, step in enumerate(found.steps, start=1):
        print(
            f"{index:5} {step.frames:7} {step.seconds:8.2f} {step.state / MB:9.1f} {step.working / MB:11.1f}"
        )
    print(
        f"working memory {found.working / MB:.1f} MB, {found.working / largest:.2f} times the largest "
        f"convolution's input and output ({largest / MB:.1f} MB for one latent frame)"
    )


def plot(streamed: Decoding, whole: list[Decoding], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    counts = range(1, len(whole) + 1)
    axes.plot(counts, [each.memory / MB for each in whole], "o-", label="all at once")
    axes.plot(
        range(1, len(streamed.steps) + 1),
        [(step.state + step.working) / MB for step in streamed.steps],
        "o-",
        label="a latent frame at a time: state and working memory",
    )
    axes.plot(counts, [streamed.steps[i - 1].state / MB for i in counts], "o--", label="of it the state")
    axes.set_xlabel("latent frames decoded")
    axes.set_ylabel("peak MB beside the weights")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(path, dpi=120)


def main(
    latent_frames: Annotated[
        int, typer.Option(min=2, help="Latent frames; T of them are 4*T - 3 frames.")
    ] = 5,
    size: Annotated[
        int, typer.Option(min=2, help="Height and width of the latent; of the video, 8 times.")
    ] = 16,
    frames: Annotated[int, typer.Option(min=1, help="Frames at a time in the large layers.")] = 2,
    whole: Annotated[bool, typer.Option(help="Decode everything at once too, and compare.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="A narrow decoder: seconds.")] = False,
    output: Annotated[Path, typer.Option(help="Where the plot goes.")] = Path("memory.png"),
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON line per stage.")] = False,
) -> None:
    """Decodes a stream of latent frames and measures time and memory."""
    mx.set_default_device(mx.cpu)
    mlx_conv3d.set_workspace_limit(WORKSPACE)
    mx.random.seed(0)
    config = measure.SMALL if quick else Config()
    decoder, latent = Decoder(config), latents(config, latent_frames, size)
    weights = measure.prepare(decoder, latent)
    if as_json:
        print(json.dumps({"weights": weights}), flush=True)
        video, found = measure.decode(decoder, latent, frames)
        print(json.dumps({"steps": [vars(step) for step in found.steps]}), flush=True)
        return
    print(
        f"weights and their transforms {weights / MB:.0f} MB, convolutions' workspace {WORKSPACE / MB:.0f} MB"
    )
    video, found = measure.decode(decoder, latent, frames)
    report(found, measure.largest_layer(decoder, latent))
    if not whole:
        return
    all_at_once = []
    for count in range(1, latent_frames + 1):
        at_once, measured = measure.decode_whole(decoder, latent[:, :count])
        all_at_once.append(measured)
    same = bool(mx.array_equal(video, at_once))
    print(f"all at once: {measured.seconds:.2f} s, {measured.memory / MB:.1f} MB; the same bits: {same}")
    plot(found, all_at_once, output)
    print(f"wrote {output}")


if __name__ == "__main__":
    typer.run(main)
