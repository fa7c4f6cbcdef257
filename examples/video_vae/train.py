"""Trains the demo's video VAE on Big Buck Bunny with mlx_conv3d's own gradients: see README.md."""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path
from typing import Annotated

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import typer
from loss import loss_of
from mlx.utils import tree_flatten, tree_map

import mlx_conv3d
from mlx_conv3d.demo import video
from mlx_conv3d.demo.model import CausalConv3d, ResidualBlock, VideoVAE

# Frame ranges of the film, first and one past the last. The gap is held out: four shots, one is the demo's.
TRAINING_RANGES = ((24, 2704), (3045, 11750))
VALIDATION_START = 2740
WIDTH, HEIGHT = 192, 108


def to_model(frames: video.Frames) -> mx.array:
    return mx.array(np.ascontiguousarray(frames)).astype(mx.float32) / 127.5 - 1.0


def load(film: Path) -> video.Frames:
    """The film's frames up to the end of the last training range."""
    last = TRAINING_RANGES[-1][1]
    frames = np.empty((last, HEIGHT, WIDTH, 3), np.uint8)
    count = 0
    for index, picture in zip(range(last), video.iterate(film), strict=False):
        frames[index] = video.resize(picture, WIDTH, HEIGHT)
        count = index + 1
    if count < last:
        raise ValueError(f"{film} has {count} frames, {last} are needed: is it the one README.md names?")
    return frames


def draw_window(rng: np.random.Generator, film: video.Frames, frames: int, crop: int) -> video.Frames:
    """A random crop `(frames, crop, crop, 3)` of the training ranges, mirrored half the time."""
    starts = [last - first - frames + 1 for first, last in TRAINING_RANGES]
    place = rng.integers(sum(starts))
    first = TRAINING_RANGES[0][0] + place if place < starts[0] else TRAINING_RANGES[1][0] + place - starts[0]
    top = rng.integers(film.shape[1] - crop + 1)
    left = rng.integers(film.shape[2] - crop + 1)
    window = film[first : first + frames, top : top + crop, left : left + crop]
    return window[:, :, ::-1] if rng.random() < 0.5 else window


def orthogonal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    q, _ = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    return q if rows >= columns else q.T


def start_near_linear(rng: np.random.Generator, model: VideoVAE) -> None:
    """Starts every layer between the blocks as an orthogonal map of the newest, middle pixel, and the blocks quiet.

    A layer of stride 2 maps all the pixels that it steps over. Neighbouring pixels are so alike that weights drawn
    independently for all taps would add up instead of averaging out.
    """
    for _, layer in model.named_modules():
        if not isinstance(layer, CausalConv3d):
            continue
        outputs, depth, height, width, inputs = layer.conv.weight.shape
        weight = (
            rng.standard_normal(layer.conv.weight.shape) * 0.15 / np.sqrt(inputs * depth * height * width)
        )
        stepped_over = [
            list(range(size - stride, size)) if stride > 1 else [size - 1 if axis == 0 else size // 2]
            for axis, (size, stride) in enumerate(zip((depth, height, width), layer.conv.stride, strict=True))
        ]
        taps = list(product(*stepped_over))
        if outputs == 2 * inputs and depth == 3 and height == 1:
            # Both of the frames that TimeUp makes start as the one they are made of.
            linear = np.concatenate([orthogonal(rng, inputs, inputs)] * 2)
        else:
            columns = inputs * len(taps)
            linear = orthogonal(rng, outputs, columns) * np.sqrt(max(1.0, outputs / columns)) * 0.9
        for i, (kd, kh, kw) in enumerate(taps):
            weight[:, kd, kh, kw] += linear[:, i * inputs : (i + 1) * inputs]
        layer.conv.weight = mx.array(weight.astype(np.float32))
        layer.conv.bias = mx.zeros_like(layer.conv.bias)
    for _, block in model.named_modules():
        if isinstance(block, ResidualBlock):
            for layer, gain in ((block.conv1, 1.0), (block.conv2, 0.05)):
                shape = layer.conv.weight.shape
                weight = rng.standard_normal(shape) * gain / np.sqrt(np.prod(shape[1:]))
                layer.conv.weight = mx.array(weight.astype(np.float32))


def psnr_of(model: VideoVAE, clip: mx.array) -> float:
    decoded, _, _ = model(clip)
    error = mx.square((mx.clip(decoded, -1.0, 1.0) - clip) / 2).mean()
    return float(-10 * mx.log10(error))


def save(model: VideoVAE, path: Path) -> None:
    """Stores the weights as float16, which halves the file and moves no picture by a grey level."""
    half = tree_map(lambda p: p.astype(mx.float16), model.parameters())
    mx.save_safetensors(str(path), dict(tree_flatten(half)))


def schedule(peak: float, steps: int, warm_up: int) -> optim.schedulers.Callable:
    rise = optim.linear_schedule(peak / warm_up, peak, warm_up)
    fall = optim.cosine_decay(peak, steps - warm_up, peak * 0.02)
    return optim.join_schedules([rise, fall], [warm_up])


def main(
    film: Annotated[Path, typer.Option(help="Big Buck Bunny, 1280x720 at 24 frames a second.")],
    output: Annotated[Path, typer.Option(help="Where the weights go.")] = Path("video_vae.safetensors"),
    steps: int = 1500,
    batch: int = 2,
    frames: int = 9,
    crop: int = 48,
    rate: float = 4e-4,
    seed: int = 0,
) -> None:
    """Trains the model and writes its weights, every 50 steps and at the end."""
    mlx_conv3d.patch()
    mx.random.seed(seed)
    rng = np.random.default_rng(seed)
    footage = load(film)
    validation = to_model(footage[VALIDATION_START : VALIDATION_START + 17][None])
    model = VideoVAE()
    start_near_linear(rng, model)
    optimizer = optim.AdamW(schedule(rate, steps, 60), betas=[0.9, 0.99], weight_decay=0.01)
    value_and_grad = nn.value_and_grad(model, loss_of)
    started = time.perf_counter()
    for step in range(1, steps + 1):
        windows = [draw_window(rng, footage, frames, crop) for _ in range(batch)]
        loss, gradients = value_and_grad(model, to_model(np.stack(windows)), mx.random.key(step))
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, loss)
        if step == steps or step % 50 == 0:
            save(model, output)
            elapsed = time.perf_counter() - started
            psnr = psnr_of(model, validation)
            print(
                f"step {step}  {elapsed:6.0f} s  loss {loss.item():.4f}  validation {psnr:.2f} dB", flush=True
            )


if __name__ == "__main__":
    typer.run(main)
