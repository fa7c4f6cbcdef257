"""Transposed convolutions against PyTorch: forward, and forward with both gradients."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

import mlx_conv3d
from mlx_conv3d import _arguments
from mlx_conv3d.planning import plan_of

from . import sides
from .harness import Row, Side
from .report import ratio_summary
from .run import Run
from .workloads import Layer, Shape

TITLE = "Transposed convolutions"


@dataclass(frozen=True)
class Transposed(Layer):
    """x_shape (N, ..., C), w_shape (O, ..., C/groups), as conv_transpose1d to 3d take them."""

    output_padding: Shape = ()

    @property
    def spatial(self) -> Shape:
        axes = zip(
            self.x_shape[1:-1],
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.output_padding,
            strict=True,
        )
        return tuple((n - 1) * s - 2 * p + d * (k - 1) + extra + 1 for n, k, s, p, d, extra in axes)

    @property
    def flops(self) -> int:
        """Every input with every tap, none with the zeros between them."""
        return 2 * math.prod(self.x_shape) * math.prod(self.kernel) * self.w_shape[0] // self.groups

    @property
    def kind(self) -> str:
        return f"transposed {self.ndim}-D{', grouped' if self.groups > 1 else ''}"

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "output_padding": self.output_padding}


def _layer(
    x: Shape, outs: int, kernel: int, stride: int, padding: int, extra: int = 0, groups: int = 1
) -> Transposed:
    dims = len(x) - 2
    w = (outs, *(kernel,) * dims, x[-1] // groups)
    each = ((stride,) * dims, (padding,) * dims, (1,) * dims)
    return Transposed(x, w, *each, groups=groups, output_padding=(extra,) * dims, workloads=("synthetic",))


# Decoders of segmentation networks (k2s2, k3s2), GANs and VAEs (k4s2).
LAYERS = (
    _layer((1, 16, 32, 32, 64), 32, 4, 2, 1),
    _layer((1, 16, 32, 32, 64), 32, 2, 2, 0),
    _layer((1, 16, 32, 32, 64), 32, 3, 2, 1, 1),
    _layer((1, 8, 28, 28, 256), 128, 4, 2, 1),
    _layer((1, 8, 28, 28, 256), 128, 2, 2, 0),
    _layer((1, 8, 28, 28, 256), 128, 3, 2, 1, 1),
    _layer((8, 8, 16, 16, 64), 32, 4, 2, 1),
    _layer((8, 8, 16, 16, 128), 64, 2, 2, 0),
    _layer((8, 8, 16, 16, 128), 64, 3, 2, 1, 1),
    _layer((1, 16, 32, 32, 64), 64, 4, 2, 1, groups=8),
    _layer((1, 16, 32, 32, 64), 64, 4, 2, 1, groups=64),
    _layer((8, 8, 16, 16, 64), 64, 2, 2, 0, groups=8),
    # Of 2-D networks: U-Net's and SAM's, and generators'.
    _layer((1, 28, 28, 512), 256, 2, 2, 0),
    _layer((1, 112, 112, 128), 64, 2, 2, 0),
    _layer((1, 64, 64, 256), 64, 2, 2, 0),
    _layer((8, 16, 16, 256), 128, 4, 2, 1),
    _layer((1, 64, 64, 128), 64, 3, 2, 1, 1),
    # Vocoders, HiFi-GAN's: a second of sound in the end.
    _layer((1, 86, 512), 256, 16, 8, 4),
    _layer((1, 688, 256), 128, 16, 8, 4),
    _layer((1, 5504, 128), 64, 4, 2, 1),
    _layer((1, 11008, 64), 32, 4, 2, 1),
)


def measure(run: Run) -> None:
    chosen = run.chosen(LAYERS)
    if run.options.quick:
        chosen = [replace(x, x_shape=(x.x_shape[0], *(2, 6, 6)[-x.ndim :], x.x_shape[-1])) for x in chosen]
    for dtype in run.dtypes("float32"):
        for gradient in (False, True):
            # Of the grouped and of the largest they take seconds.
            of_run = [x for x in chosen if x.groups == 1 and x.flops < 5e9] if gradient else chosen
            rows = [_row(run, replace(x, dtype=dtype, w_dtype=dtype), gradient) for x in of_run]
            for kind in dict.fromkeys(row.layer.kind for row in rows):
                of_kind = [row for row in rows if row.layer.kind == kind]
                what = f"{'forward and gradients' if gradient else 'forward'} over PyTorch, {dtype}, {kind}"
                run.report.say(ratio_summary(of_kind, what, sides.TORCH_NAMES, sides.OURS))


def _row(run: Run, layer: Transposed, gradient: bool) -> Row:
    data = sides.Data(layer, gradient=gradient)
    contenders = [_ours(data)] + (_torch(data) if run.torch else [])
    times = 3 if gradient else 1
    return run.compare(
        layer,
        contenders,
        label=f"{layer.name}{', with gradients' if gradient else ''}",
        algorithm=_algorithm(layer),
        baselines=[sides.TORCH_NAMES],
        flops=times * layer.flops,
        nbytes=times * layer.bytes,
    )


def _algorithm(layer: Transposed) -> str:
    parameters = _arguments.transposed(layer.ndim, layer.kernel, **layer.arguments())
    dtype = getattr(mx, layer.dtype)
    return plan_of(layer.x_shape, layer.w_shape, parameters, x_type=dtype, w_type=dtype).algorithm


def _ours(data: sides.Data) -> Side:
    layer = data.layer
    conv = functools.partial(getattr(mlx_conv3d, f"conv_transpose{layer.ndim}d"), **layer.arguments())

    def run() -> list[mx.array]:
        if data.gradient is None:
            arrays = [conv(data.x, data.w)]
        else:
            arrays = [each for part in mx.vjp(conv, [data.x, data.w], [data.gradient]) for each in part]
        mx.eval(arrays)
        return arrays

    return Side(sides.OURS, run, lambda arrays: [sides.to_numpy(each) for each in arrays])


def _torch(data: sides.Data) -> list[Side]:
    return [_torch_side(data, name, index == 0) for index, name in enumerate(sides.TORCH_NAMES)]


def _torch_side(data: sides.Data, name: str, channels_last: bool) -> Side:
    module, layer = sides.need_torch(), data.layer
    x = sides.torch_array(data.x, channels_last)
    w = sides.torch_array(_torch_weight(data), channels_last)
    function = getattr(module.nn.functional, f"conv_transpose{layer.ndim}d")
    conv = functools.partial(function, **layer.arguments())
    cotangent = None if data.gradient is None else sides.torch_array(data.gradient, channels_last)

    def forward() -> list[Any]:
        with module.inference_mode():
            return [conv(x, w)]

    def with_gradients() -> list[Any]:
        y = conv(x, w)
        return [y, *module.autograd.grad(y, (x, w), cotangent)]

    def as_numpy(tensors: list[Any]) -> list[Any]:
        arrays = [sides.torch_to_numpy(each) for each in tensors]
        return [*arrays[:2], _our_weight(arrays[2], layer)] if len(arrays) == 3 else arrays

    if cotangent is None:
        return Side(name, forward, as_numpy)
    for operand in (x, w):
        operand.requires_grad_()
    run: Callable[[], list[Any]] = with_gradients
    return Side(name, run, as_numpy)


def _torch_weight(data: sides.Data) -> mx.array:
    """(O, ..., C/groups) as (C, ..., O/groups), which torch_array turns into PyTorch's (C, O/groups, ...)."""
    groups, w = data.layer.groups, data.w
    split = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    return mx.swapaxes(split, 1, -1).reshape(groups * w.shape[-1], *w.shape[1:-1], w.shape[0] // groups)


def _our_weight(w: Any, layer: Layer) -> Any:
    """The inverse, of a NumPy array."""
    split = w.reshape(layer.groups, w.shape[0] // layer.groups, *w.shape[1:])
    return split.swapaxes(1, -1).reshape(layer.w_shape)
