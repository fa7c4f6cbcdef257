"""A video decoder of Wan 2.1's architecture and widths, decoding a stream one latent frame at a time: time against
the same decoder on layers that pad and concatenate, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

import mlx_conv3d

from . import machine
from .examples import EXAMPLES, importable
from .harness import Side
from .run import Run
from .workloads import Layer

TITLE = "A Wan 2.1 decoder, streamed: 16x16 latent, random weights, fp32"
USES_TORCH = False
EXAMPLE = "streaming_decode"
LATENT_FRAMES, SIZE = 5, 16
WORKSPACE = 32 << 20
POLL_SECONDS = 0.01

OURS = "mlx_conv3d.nn"
KEPT = "pad and concatenate, transforms kept"
PLAIN = "pad and concatenate"


def measure(run: Run) -> None:
    before = mlx_conv3d.set_workspace_limit(WORKSPACE)
    try:
        with importable(EXAMPLE):
            largest = _time(run)
    finally:
        mlx_conv3d.set_workspace_limit(before)
    _memory(run, largest)


def _time(run: Run) -> int:
    """Times the decoders; returns the bytes of the largest convolution's input and output."""
    import decode
    import decoder as model
    import measure as example
    from padded import PaddedConv3d

    config = example.SMALL if run.options.quick else model.Config()
    latent = decode.latents(config, LATENT_FRAMES, SIZE)
    mx.random.seed(0)
    ours = model.Decoder(config)
    decoders = {OURS: ours}
    for name in (KEPT, PLAIN):
        decoders[name] = model.Decoder(config, PaddedConv3d)
        decoders[name].update(ours.parameters())
    for module in decoders[PLAIN].modules():
        if isinstance(module, PaddedConv3d):
            module.keep_transforms = False

    def side(name: str) -> Side:
        return Side(name, lambda: example.decode(decoders[name], latent)[0])

    calls = _calls(ours, latent)
    row = run.compare(
        max(calls, key=lambda layer: layer.bytes),
        [side(name) for name in decoders],
        effort=replace(run.effort, slow=float("inf")),
        label=f"{LATENT_FRAMES} latent frames {SIZE}x{SIZE}",
        algorithm="all layers",
        flops=sum(layer.flops for layer in calls),
        nbytes=sum(layer.bytes for layer in calls),
        baselines=[[KEPT], [PLAIN]],
    )
    for each in row.ratios:
        run.report.say(f"{each.against}: {each.median:.2f}x our time ({each.low:.2f} to {each.high:.2f})")
    return int(example.largest_layer(ours, latent))


def _calls(decoder: Any, latent: mx.array) -> list[Layer]:
    """The stream's convolutions as layers that are centred in time and have the same sizes."""
    from decoder import Stream

    layers = []

    def watch(layer: Any, x: mx.array, y: mx.array) -> None:
        padding = tuple(size // 2 for size in layer.kernel_size)
        upsampled = (*y.shape[:-1], x.shape[-1])
        layers.append(Layer(upsampled, layer.weight.shape, layer.stride, padding, layer.dilation))

    stream = Stream(watch=watch)
    for index in range(latent.shape[1]):
        mx.eval(decoder(latent[:, index : index + 1], stream))
    return layers


@dataclass
class Child:
    """What a decoding in a process of its own said, and its resident memory as seen from here."""

    weights: int
    steps: list[dict[str, float]]
    resident: int  # once the weights were prepared
    resident_peak: int  # from then on


def _memory(run: Run, largest: int) -> None:
    quick = ["--quick"] if run.options.quick else []
    run.report.say(
        f"Largest convolution of one latent frame: input and output {largest / 1e6:.1f} MB; workspace outside MLX's "
        f"allocator at most {WORKSPACE / 1e6:.1f} MB"
    )
    for count in (LATENT_FRAMES, 2 * LATENT_FRAMES):
        child = _child(["--latent-frames", str(count), "--size", str(SIZE), *quick])
        state, working = (max(step[key] for step in child.steps) for key in ("state", "working"))
        run.report.say(
            f"{count} latent frames: working memory {working / 1e6:.1f} MB ({working / largest:.2f} of the largest "
            f"convolution's input and output) beside a state of {state / 1e6:.1f} MB and {child.weights / 1e6:.0f} MB "
            f"of weights and their transforms; resident memory of the process {child.resident / 1e6:.0f} MB before "
            f"the stream, at most {child.resident_peak / 1e6:.0f} MB in it, the workspace included"
        )


def _child(options: list[str]) -> Child:
    command = [sys.executable, str(EXAMPLES / EXAMPLE / "decode.py"), "--json", "--no-whole", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        weights = json.loads(process.stdout.readline())["weights"]
        resident = peak = machine.resident_bytes(process.pid)
        while process.poll() is None:
            peak = max(peak, machine.resident_bytes(process.pid))
            time.sleep(POLL_SECONDS)
        steps = json.loads(process.stdout.readline())["steps"]
    return Child(weights, steps, resident, peak)
