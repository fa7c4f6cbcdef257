"""The implementations that benchmarks compare, on the same data in the same layout: mlx_conv3d, PyTorch,
stock MLX."""

from __future__ import annotations

import functools
import importlib
import math
import os
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_conv3d

from .harness import Side
from .workloads import Layer

OURS = "mlx_conv3d"
PREPARED = "mlx_conv3d, prepared weight"
STOCK = "stock MLX CPU (naive baseline)"
TORCH_NAMES = ("PyTorch channels_last", "PyTorch contiguous")
# oneDNN's names of what this library calls avx2 (x86-64-v3), avx512 (x86-64-v4) and avx512_bf16.
ONEDNN_ISA = {"avx2": "AVX2", "avx512": "AVX512_CORE", "avx512_bf16": "AVX512_CORE_BF16"}
TORCH_INSTALL = "PyTorch is missing: pip install torch (or leave it out with --no-torch)"

Function = Callable[..., mx.array]


class Missing(RuntimeError):
    """An optional package that a benchmark needs is not installed; the message says what to install."""


class Data:
    """Input, weight and, if asked for, output gradient of a layer: Gaussian, rounded to the layer's dtype;
    the same numbers for every library."""

    def __init__(self, layer: Layer, *, gradient: bool = False, seed: int = 0) -> None:
        self.layer = layer
        random = np.random.default_rng(seed)
        scale = 1 / math.sqrt(math.prod(layer.w_shape[1:]))
        self.x = _gaussian(random, layer.x_shape, 1.0, layer.dtype)
        self.w = _gaussian(random, layer.w_shape, scale, layer.w_dtype)
        self.gradient = _gaussian(random, layer.out_shape, 1.0, layer.dtype) if gradient else None

    def arrays(self) -> list[mx.array]:
        """x, w and, if there is one, the output gradient."""
        return [self.x, self.w] + ([] if self.gradient is None else [self.gradient])


def _gaussian(random: np.random.Generator, shape: tuple[int, ...], scale: float, dtype: str) -> mx.array:
    values = random.standard_normal(shape, dtype=np.float32) * np.float32(scale)
    array = mx.array(values).astype(getattr(mx, dtype))
    mx.eval(array)
    return array


def to_numpy(array: mx.array) -> Any:
    return np.array(array.astype(mx.float32))


def _lists_to_numpy(arrays: list[mx.array]) -> list[Any]:
    return [to_numpy(array) for array in arrays]


def set_threads(threads: int, *, torch: bool) -> None:
    """Before the first convolution: how many threads mlx_conv3d and, if wanted, PyTorch use."""
    os.environ["MLX_CONV3D_NUM_THREADS"] = str(threads)
    if torch:
        need_torch().set_num_threads(threads)


def limit_instruction_set(isa: str) -> str:
    """Before the first convolution: no wider x86 instructions than these in mlx_conv3d and in oneDNN, which
    PyTorch convolves with. Returns the sentence that a report needs. Raises Missing where this CPU or this
    build of mlx_conv3d cannot be held to them."""
    os.environ["MLX_CONV3D_ISA"] = isa
    os.environ["ONEDNN_MAX_CPU_ISA"] = ONEDNN_ISA[isa]
    used = mlx_conv3d._ext.isa()
    if used != isa:
        raise Missing(f"--isa {isa}: mlx_conv3d uses {used} on this CPU")
    return (
        f"Both sides were held to the instructions of {isa} (MLX_CONV3D_ISA={isa}, "
        f"ONEDNN_MAX_CPU_ISA={ONEDNN_ISA[isa]}), as on a CPU without wider ones; the roofline is the whole machine's"
    )


def _conv(library: Any, layer: Layer) -> Function:
    function: Function = getattr(library, f"conv{layer.ndim}d")
    return function


def convolution(layer: Layer) -> Function:
    """mlx_conv3d's conv2d or conv3d with the layer's stride, padding and so on."""
    return functools.partial(_conv(mlx_conv3d, layer), **layer.arguments())


def ours(data: Data, name: str = OURS, **options: Any) -> Side:
    """mlx_conv3d's conv2d or conv3d; options go to it (algorithm=, for one)."""
    run = functools.partial(_conv(mlx_conv3d, data.layer), **data.layer.arguments(), **options)
    return Side(name, lambda: _evaluated(run(data.x, data.w)), to_numpy)


def prepared(data: Data, **options: Any) -> Side:
    """mlx_conv3d with a weight made ready beforehand, as its nn layers hold it."""
    weight = mlx_conv3d.prepare(data.w)
    run = functools.partial(_conv(mlx_conv3d, data.layer), **data.layer.arguments(), **options)
    return Side(PREPARED, lambda: _evaluated(run(data.x, weight)), to_numpy)


def both(data: Data, algorithm: str) -> list[Side]:
    """mlx_conv3d as it is, and with a prepared weight where preparing changes anything: where Winograd runs."""
    prepares = algorithm in ("winograd", "grouped") and plan(data.layer).tile > 0
    return [ours(data), prepared(data)] if prepares else [ours(data)]


def stock(data: Data) -> Side:
    """mx.conv2d or mx.conv3d, unpatched."""
    run = functools.partial(_conv(mx, data.layer), **data.layer.arguments())
    return Side(STOCK, lambda: _evaluated(run(data.x, data.w)), to_numpy)


def _evaluated(array: mx.array) -> mx.array:
    mx.eval(array)
    return array


def our_gradients(data: Data) -> Side:
    """Forward, dL/dx and dL/dw of mlx_conv3d."""
    return Side(OURS, _gradients(_conv(mlx_conv3d, data.layer), data), _lists_to_numpy)


def stock_gradients(data: Data) -> Side:
    """Forward, dL/dx and dL/dw of stock MLX."""
    return Side(STOCK, _gradients(_conv(mx, data.layer), data), _lists_to_numpy)


def _gradients(function: Function, data: Data) -> Callable[[], list[mx.array]]:
    conv = functools.partial(function, **data.layer.arguments())

    def run() -> list[mx.array]:
        outputs, gradients = mx.vjp(conv, [data.x, data.w], data.arrays()[2:])
        mx.eval(outputs, gradients)
        return [*outputs, *gradients]

    return run


@functools.cache
def need_torch() -> Any:
    """The torch module. Missing says what to install."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise Missing(TORCH_INSTALL) from None


def torch_array(array: mx.array, channels_last: bool) -> Any:
    """The array as a tensor of logical shape (N, C, *spatial), in channels-last or contiguous memory. A 1-D
    layer's is always contiguous: PyTorch has no other format there."""
    torch = need_torch()
    tensor = torch.from_numpy(to_numpy(array)).to(getattr(torch, str(array.dtype).split(".")[-1]))
    tensor = tensor.movedim(-1, 1)
    if not channels_last or tensor.ndim == 3:
        return tensor.contiguous()
    memory_format = torch.channels_last_3d if tensor.ndim == 5 else torch.channels_last
    return tensor.contiguous(memory_format=memory_format)


def torch_to_numpy(tensor: Any) -> Any:
    return np.ascontiguousarray(tensor.detach().float().movedim(1, -1).numpy())


def torch(data: Data) -> list[Side]:
    """PyTorch's convolution in both of its memory formats, converted to beforehand, not in the timed
    region."""
    return [_torch_side(data, name, index == 0) for index, name in enumerate(TORCH_NAMES)]


def _torch_conv(layer: Layer) -> Callable[..., Any]:
    function = getattr(need_torch().nn.functional, f"conv{layer.ndim}d")
    return functools.partial(function, **layer.arguments())


def _torch_side(data: Data, name: str, channels_last: bool) -> Side:
    module, conv = need_torch(), _torch_conv(data.layer)
    x, w = (torch_array(array, channels_last) for array in (data.x, data.w))

    def run() -> Any:
        with module.inference_mode():
            return conv(x, w)

    return Side(name, run, torch_to_numpy)


def torch_gradients(data: Data) -> list[Side]:
    """Forward, dL/dx and dL/dw of PyTorch in both memory formats."""
    return [_torch_gradients_side(data, name, index == 0) for index, name in enumerate(TORCH_NAMES)]


def _torch_gradients_side(data: Data, name: str, channels_last: bool) -> Side:
    module, conv = need_torch(), _torch_conv(data.layer)
    x, w, gradient = (torch_array(array, channels_last) for array in data.arrays())
    x.requires_grad_()
    w.requires_grad_()

    def run() -> list[Any]:
        y = conv(x, w)
        return [y, *module.autograd.grad(y, (x, w), gradient)]

    return Side(name, run, lambda tensors: [torch_to_numpy(tensor) for tensor in tensors])


def plan(layer: Layer) -> Any:
    """mlx_conv3d's plan for a conv of this layer (2-D layers are planned as they are)."""
    return mlx_conv3d.plan(layer.x_shape, layer.w_shape, dtype=getattr(mx, layer.dtype), **layer.arguments())
