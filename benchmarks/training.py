"""A training step of examples/video_vae (forward and backward of its loss) against the same network in PyTorch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

import mlx_conv3d
from mlx_conv3d.demo import CHECKPOINT
from mlx_conv3d.demo.model import VideoVAE

from . import sides
from .examples import importable
from .harness import Side
from .run import Run
from .workloads import Layer, Shape

TITLE = "A training step of the example VAE: loss and all gradients, fp32"
PATCHED = "mlx.nn, patched"
# As examples/video_vae/train.py trains, and one larger clip: batch, frames, height and width.
SIZES = ((2, 9, 48, 48), (1, 17, 96, 96))
QUICK_SIZES = ((1, 5, 16, 16),)


@dataclass(frozen=True)
class Step:
    """What a step is given: the weights, a clip, and the noise of the latent (from the key, for MLX)."""

    model: VideoVAE
    clip: mx.array
    key: mx.array

    @property
    def noise(self) -> mx.array:
        mean, _ = self.model.encode(self.clip)
        return mx.random.normal(mean.shape, key=self.key)


def measure(run: Run) -> None:
    for size in QUICK_SIZES if run.options.quick else SIZES:
        step = Step(_model(), _clip(size), mx.random.key(0))
        calls = _calls(step)
        row = run.compare(
            max(calls, key=lambda layer: layer.flops),
            [_ours(step), _patched(step), *(_torch(step) if run.torch else [])],
            label=f"batch {size[0]}, {size[1]} frames of {size[3]}x{size[2]}",
            algorithm="all layers",
            flops=3 * sum(layer.flops for layer in calls),
            nbytes=3 * sum(layer.bytes for layer in calls),
            baselines=[sides.TORCH_NAMES],
        )
        for each in row.ratios:
            run.report.say(
                f"{row.label}: {each.median:.2f}x {each.against} ({each.low:.2f} to {each.high:.2f})"
            )


def _model() -> VideoVAE:
    model = VideoVAE()
    weights: Any = mx.load(str(CHECKPOINT), format="safetensors")
    model.load_weights([(name, weight.astype(mx.float32)) for name, weight in weights.items()])
    return model


def _clip(size: Shape) -> mx.array:
    """A clip (N, D, H, W, 3) whose neighbouring pixels have opposite signs and large values, so that no error and no
    difference of errors is near the corner of its absolute value, where rounding would decide the slope."""
    batch, frames, height, width = size
    values = mx.random.uniform(4.0, 5.0, (batch, frames, height, width, 3), key=mx.random.key(1))
    rows, columns = mx.arange(height)[:, None, None], mx.arange(width)[None, :, None]
    return values * (1 - 2 * ((rows + columns) % 2))


def _calls(step: Step) -> list[Layer]:
    """The step's convolutions as layers that are padded in front as their inputs are."""
    found: list[Layer] = []
    call = nn.Conv3d.__call__

    def noted(layer: Any, x: mx.array) -> mx.array:
        found.append(Layer(x.shape, layer.weight.shape, layer.stride, layer.padding, (1,) * 3))
        y: mx.array = call(layer, x)
        return y

    nn.Conv3d.__call__ = noted
    try:
        step.model(step.clip)
    finally:
        nn.Conv3d.__call__ = call
    return found


def _example(name: str) -> Any:
    """A module of the example, imported as its script imports it."""
    with importable("video_vae"):
        return importlib.import_module(name)


def _ours(step: Step) -> Side:
    """The example on this library's layers."""
    model = _example("fused").fused(step.model)
    return _mlx_side(sides.OURS, model, step)


def _patched(step: Step) -> Side:
    """The plain model, its convolutions patched."""
    return _mlx_side(PATCHED, step.model, step)


def _mlx_side(name: str, model: VideoVAE, step: Step) -> Side:
    value_and_grad = nn.value_and_grad(model, _example("loss").loss_of)

    def run() -> list[mx.array]:
        with mlx_conv3d.patched():
            loss, gradients = value_and_grad(model, step.clip, step.key)
            mx.eval(loss, gradients)
        return [loss, *(value for _, value in sorted(tree_flatten(gradients)))]

    return Side(name, run, lambda arrays: [sides.to_numpy(array) for array in arrays])


def _torch(step: Step) -> list[Side]:
    return [_torch_side(step, name, index == 0) for index, name in enumerate(sides.TORCH_NAMES)]


def _torch_side(step: Step, name: str, channels_last: bool) -> Side:
    module = sides.need_torch()
    from . import torch_vae

    loss_module = _example("loss")
    model = torch_vae.VideoVAE(step.model)
    if channels_last:
        model = model.to(memory_format=module.channels_last_3d)
    parameters = dict(sorted(model.named_parameters()))
    clip, noise = (sides.torch_array(array, channels_last) for array in (step.clip, step.noise))
    weights = loss_module.EDGE_WEIGHT, loss_module.KL_WEIGHT

    def run() -> list[Any]:
        loss = torch_vae.loss_of(model, clip, noise, *weights)
        return [loss, *module.autograd.grad(loss, list(parameters.values()))]

    return Side(name, run, lambda tensors: [_as_numpy(tensor) for tensor in tensors])


def _as_numpy(tensor: Any) -> Any:
    return sides.torch_to_numpy(tensor) if tensor.ndim == 5 else tensor.detach().numpy()
