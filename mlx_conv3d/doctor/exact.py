"""A convolution as its definition has it, in float64: MLX's products and sums on the CPU, tap by tap.

MLX's own convolution takes float64 too, but sums in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import mlx.core as mx

from mlx_conv3d._arguments import ACTIVATIONS, PADDING_MODES, Parameters


def convolve(x: mx.array, w: mx.array, p: Parameters, lead: mx.array | None = None) -> mx.array:
    """The sums alone, of float64 arrays: x (N, ..., C), w (O, ..., C / groups). MLX's derivatives work on it."""
    with mx.stream(mx.cpu):
        x = x if lead is None else mx.concatenate([lead, x], axis=1)
        for axis in range(p.dims):
            x = mx.take(
                _with_a_zero(x, axis + 1), mx.array(sources(p, axis, x.shape[axis + 1])), axis=axis + 1
            )
        kernel = w.shape[1:-1]
        reach = [d * (k - 1) + 1 for d, k in zip(p.dilation, kernel, strict=True)]
        sizes = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:-1], reach, p.stride, strict=True)]
        y = mx.zeros((p.groups, x.shape[0] * math.prod(sizes), w.shape[0] // p.groups), mx.float64)
        for tap in product(*(range(k) for k in kernel)):
            y = y + _rows(x, tap, sizes, p) @ _columns(w, tap, p)
        return y.transpose(1, 0, 2).reshape(x.shape[0], *sizes, w.shape[0])


def sources(p: Parameters, axis: int, size: int) -> list[int]:
    """For each padded position of an axis the stored one that it is read from; `size` stands for a zero."""
    up, apart, mode = p.upsample[axis], p.input_dilation[axis], PADDING_MODES[p.pad_mode[axis]]
    last = (size * up - 1) * apart
    found = []
    for q in range(-p.pad_lo[axis], last + 1 + p.pad_hi[axis]):
        if mode == "edge":
            q = min(max(q, 0), last)
        elif mode == "reflect":
            q = last - abs(last - abs(q))
        found.append(q // apart // up if 0 <= q <= last and q % apart == 0 else size)
    return found


def finish(
    y: mx.array, p: Parameters, bias: mx.array | None = None, residual: mx.array | None = None
) -> mx.array:
    """activation(y + bias) + residual."""
    with mx.stream(mx.cpu):
        y = y if bias is None else y + bias
        y = _activated(y, ACTIVATIONS[p.activation])
        return y if residual is None else y + residual


def _with_a_zero(x: mx.array, axis: int) -> mx.array:
    zero = mx.zeros([1 if i == axis else n for i, n in enumerate(x.shape)], x.dtype)
    return mx.concatenate([x, zero], axis=axis)


def _rows(x: mx.array, tap: tuple[int, ...], sizes: list[int], p: Parameters) -> mx.array:
    """The inputs that meet a tap, (groups, positions, C / groups)."""
    at = [t * d for t, d in zip(tap, p.dilation, strict=True)]
    steps = [slice(a, a + s * (n - 1) + 1, s) for a, s, n in zip(at, p.stride, sizes, strict=True)]
    index = (slice(None), *steps)
    met = x[index]
    return met.reshape(-1, p.groups, x.shape[-1] // p.groups).transpose(1, 0, 2)


def _columns(w: mx.array, tap: tuple[int, ...], p: Parameters) -> mx.array:
    """The weights of a tap, (groups, C / groups, O / groups)."""
    at = tuple(k - 1 - t for k, t in zip(w.shape[1:-1], tap, strict=True)) if p.flip else tap
    index = (slice(None), *at)
    return w[index].reshape(p.groups, -1, w.shape[-1]).transpose(0, 2, 1)


def _activated(y: mx.array, name: str) -> mx.array:
    """MLX's exponential and error function are exact to float32 only, even of float64."""
    functions: dict[str, Callable[[float], float]] = {
        "relu": lambda v: max(v, 0.0),
        "silu": lambda v: v / (1 + math.exp(-v)),
        "gelu": lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2,
        "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
        "tanh": math.tanh,
    }
    if name == "none":
        return y
    stored: Any = y.flatten().tolist()
    values = [functions[name](v) for v in stored]
    return mx.array(values, dtype=mx.float64).reshape(y.shape)
