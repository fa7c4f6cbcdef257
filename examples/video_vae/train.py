"""Trains the demo's video VAE on Big Buck Bunny with mlx_conv3d's own gradients: see README.md."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import typer
from mlx.utils import tree_flatten, tree_map

import mlx_conv3d
from mlx_conv3d.demo import video
from mlx_conv3d.demo.model import VideoVAE

# Frame ranges of the film, first and one past the last. The gap is held out: four shots, one is the demo's.
TRAINING_RANGES = ((24, 2704), (3045, 11750))
VALIDATION_START = 2740
SIZES = ((192, 108), (320, 180))
SIZE_SHARES = (0.7, 0.3)
KL_WEIGHT = 1e-4
EDGE_WEIGHT = 0.25


@dataclass
class Footage:
    """The film at every training size, by frame number, and the validation clip."""

    films: list[video.Frames]
    validation: mx.array


def to_model(frames: video.Frames) -> mx.array:
    return mx.array(frames).astype(mx.float32) / 127.5 - 1.0


def load(film: Path, last: int, frames: int) -> Footage:
    """Decodes the film up to frame `last` at each of the training sizes."""
    films = [np.empty((last, height, width, 3), np.uint8) for width, height in SIZES]
    count = 0
    for index, picture in zip(range(last), video.iterate(film), strict=False):
        for scaled, (width, height) in zip(films, SIZES, strict=True):
            scaled[index] = video.resize(picture, width, height)
        count = index + 1
    if count < last:
        raise ValueError(f"{film} has {count} frames, {last} are needed: is it the one README.md names?")
    held_out = films[0][VALIDATION_START : VALIDATION_START + frames]
    return Footage(films, to_model(held_out[None]))


def draw_window(rng: np.random.Generator, films: list[video.Frames], frames: int, crop: int) -> video.Frames:
    """A random crop `(frames, crop, crop, 3)` of the training ranges, mirrored half the time."""
    film = films[rng.choice(len(films), p=SIZE_SHARES)]
    starts = [last - first - frames + 1 for first, last in TRAINING_RANGES]
    place = rng.integers(sum(starts))
    first = TRAINING_RANGES[0][0] + place if place < starts[0] else TRAINING_RANGES[1][0] + place - starts[0]
    top = rng.integers(film.shape[1] - crop + 1)
    left = rng.integers(film.shape[2] - crop + 1)
    window = film[first : first + frames, top : top + crop, left : left + crop]
    return window[:, :, ::-1] if rng.random() < 0.5 else window


def edges(x: mx.array) -> tuple[mx.array, mx.array]:
    return x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]


def loss_of(model: VideoVAE, clip: mx.array, key: mx.array) -> mx.array:
    """L1 of the picture and of its spatial differences, and a KL term that keeps the latent near N(0, 1)."""
    decoded, mean, log_variance = model(clip, key)
    error = decoded - clip
    loss = mx.abs(error).mean()
    for difference in edges(error):
        loss = loss + EDGE_WEIGHT * mx.abs(difference).mean()
    kl = 0.5 * (mx.square(mean) + mx.exp(log_variance) - 1.0 - log_variance).mean()
    return loss + KL_WEIGHT * kl


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
    fall = optim.cosine_decay(peak, steps - warm_up, peak * 0.01)
    return optim.join_schedules([rise, fall], [warm_up])


def main(
    film: Annotated[Path, typer.Option(help="Big Buck Bunny, 1280x720 at 24 frames a second.")],
    output: Annotated[Path, typer.Option(help="Where the weights go.")] = Path("video_vae.safetensors"),
    steps: int = 1800,
    minutes: Annotated[float, typer.Option(help="Stop a run that takes longer.")] = 60.0,
    batch: int = 4,
    frames: int = 9,
    crop: int = 48,
    rate: float = 1.5e-3,
    seed: int = 0,
    resume: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
) -> None:
    """Trains the model and writes its weights, every 100 steps and at the end."""
    mlx_conv3d.patch()
    mx.random.seed(seed)
    rng = np.random.default_rng(seed)
    footage = load(film, TRAINING_RANGES[-1][1], 17)
    model = VideoVAE()
    if resume is not None:
        model.load_weights([(name, w.astype(mx.float32)) for name, w in mx.load(str(resume)).items()])
    optimizer = optim.AdamW(schedule(rate, steps, min(100, steps // 2)), betas=[0.9, 0.99], weight_decay=0.01)
    value_and_grad = nn.value_and_grad(model, loss_of)
    started, running = time.perf_counter(), None
    for step in range(1, steps + 1):
        windows = [draw_window(rng, footage.films, frames, crop) for _ in range(batch)]
        loss, gradients = value_and_grad(model, to_model(np.stack(windows)), mx.random.key(seed + step))
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, loss)
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        elapsed = time.perf_counter() - started
        stop = step == steps or elapsed > 60 * minutes
        if stop or step % 100 == 0:
            save(model, output)
            psnr = psnr_of(model, footage.validation)
            print(f"step {step}  {elapsed:6.0f} s  loss {running:.4f}  validation {psnr:.2f} dB", flush=True)
        if stop:
            break


if __name__ == "__main__":
    typer.run(main)
