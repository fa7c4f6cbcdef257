"""Checkpoints from PyTorch's layout to MLX's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx.nn import (
    ConvTranspose1d,
    ConvTranspose2d,
    Module,
)
from mlx.nn import ConvTranspose3d as StockConvTranspose3d
from mlx.utils import tree_flatten

from mlx_conv3d.nn.layers import ConvTranspose3d

_TRANSPOSED = (ConvTranspose1d, ConvTranspose2d, StockConvTranspose3d, ConvTranspose3d)


def convert_weights(weights: Mapping[str, Any], module: Module | None = None) -> dict[str, mx.array]:
    """A PyTorch checkpoint's weights for MLX layers: channels last, output channels first.

    Args:
        weights: arrays (MLX's, or what `mx.array` takes) by name. Kernels are (O, C/groups, KD, KH, KW), without KD in
            2-D and without KH too in 1-D; those of transposed layers (C, O/groups, KD, KH, KW).
        module: the layer or model that the weights are for, with parameters of the same names. It tells transposed
            layers and their groups, lets a 2-D kernel become a 3-D one of KD = 1, and drops axes of size 1, as norms
            often have (C, 1, 1, 1). Without it every array of 3 to 5 dimensions is the kernel of a convolution that is
            not transposed.

    Returns:
        Kernels (O, KD, KH, KW, C/groups) and so on; other arrays as they are. In `module`'s order if it is given, ready
        for `module.load_weights(list(converted.items()))`.

    Raises:
        ValueError: with a module, a name that only one side has, or a shape that does not fit; the message has the
            name and both shapes.
    """
    if module is None:
        return {name: _channels_last(mx.array(value)) for name, value in weights.items()}
    wanted: dict[str, mx.array] = tree_flatten(module.parameters(), destination={})
    _require_same_names(weights.keys(), wanted.keys())
    layers = dict(module.named_modules())
    return {
        name: _fitted(name, mx.array(weights[name]), tuple(like.shape), layers[name.rpartition(".")[0]])
        for name, like in wanted.items()
    }


def _require_same_names(given: Any, wanted: Any) -> None:
    for names, what in ((wanted - given, "weights lacks"), (given - wanted, "the module has no parameter")):
        if names:
            shown = ", ".join(sorted(names)[:5])
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(f"{what} {shown}{more}")


def _fitted(name: str, value: mx.array, shape: tuple[int, ...], layer: Module) -> mx.array:
    """`value` in the layout of the parameter `name` of `layer`, which has this shape."""
    given = tuple(value.shape)
    is_kernel = name.rpartition(".")[2] == "weight" and len(shape) >= 3
    if is_kernel and value.ndim >= 3:
        while value.ndim < len(shape):
            value = mx.expand_dims(value, 2)
        if isinstance(layer, _TRANSPOSED):
            value = _outputs_first(value, int(getattr(layer, "groups", 1)))
        value = _channels_last(value)
    elif _without_ones(given) == _without_ones(shape):
        value = value.reshape(shape)
    if tuple(value.shape) != shape:
        raise ValueError(
            f"{name} has shape {given} in the weights, which does not give {type(layer).__name__}'s {shape}"
        )
    return value


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _channels_last(value: mx.array) -> mx.array:
    """(O, C, ...) to (O, ..., C)."""
    return mx.moveaxis(value, 1, -1) if 3 <= value.ndim <= 5 else value


def _outputs_first(value: mx.array, groups: int) -> mx.array:
    """(C, O/groups, ...) to (O, C/groups, ...)."""
    inputs, outputs, *kernel = value.shape
    if inputs % groups != 0:
        return value
    split = value.reshape(groups, inputs // groups, outputs, *kernel)
    return mx.swapaxes(split, 1, 2).reshape(groups * outputs, inputs // groups, *kernel)
