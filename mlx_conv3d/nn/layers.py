"""mlx.nn's 3-D convolution layers, with groups, every padding and weights that are transformed once."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
from mlx.nn import Module

from mlx_conv3d import _arguments as arguments
from mlx_conv3d import functional
from mlx_conv3d._arguments import IntOrSequence, Padding, PaddingMode
from mlx_conv3d.functional import Weight
from mlx_conv3d.nn.transforms import TransformCache


def positive(name: str, value: Any, dims: int) -> tuple[int, ...]:
    """One positive int for all axes, or one for each."""
    values = tuple(arguments.integers(name, value, dims))
    if min(values) <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return values


class ConvolutionLayer(Module):  # type: ignore[misc]
    """What the layers share: `weight` (O, KD, KH, KW, C/groups), `bias` (O,), and the weight's transforms.

    The weights start as mlx.nn's do: uniform within 1/sqrt(C/groups * KD*KH*KW), and zero biases.

    Attributes:
        keep_transforms: whether the weight's transforms are kept between calls (of 3x3x3 kernels they take
            four to six times its memory in float32); False computes them in every call.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrSequence,
        stride: IntOrSequence,
        dilation: IntOrSequence,
        groups: int,
        bias: bool,
    ) -> None:
        super().__init__()
        kernel = positive("kernel_size", kernel_size, 3)
        (inputs,) = positive("in_channels", in_channels, 1)
        (outputs,) = positive("out_channels", out_channels, 1)
        (self.groups,) = positive("groups", groups, 1)
        for name, channels in (("in_channels", inputs), ("out_channels", outputs)):
            if channels % self.groups != 0:
                raise ValueError(f"{name} must be divisible by groups {self.groups}, got {channels}")
        scale = 1 / math.sqrt(inputs // self.groups * math.prod(kernel))
        self.weight = mx.random.uniform(-scale, scale, (outputs, *kernel, inputs // self.groups))
        if arguments.flag("bias", bias):
            self.bias = mx.zeros((outputs,))
        self.stride = positive("stride", stride, 3)
        self.dilation = positive("dilation", dilation, 3)
        self.keep_transforms = True
        self._transforms = TransformCache()

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        # Not left to the next call: until then the old weight and its transforms would stay in memory.
        if key == "weight" and "_transforms" in self.__dict__:
            self._transforms.clear()

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[1:-1])

    def _weight(self) -> Weight:
        return self._transforms.of(self.weight) if self.keep_transforms else self.weight

    def _bias(self) -> mx.array | None:
        bias: mx.array | None = self.get("bias")
        return bias

    def _extra_repr(self) -> str:
        parts = [
            f"{self.weight.shape[-1] * self.groups}, {self.weight.shape[0]}",
            f"kernel_size={self.kernel_size}",
            *(f"{name}={value}" for name, value in self._described().items()),
            f"groups={self.groups}",
            f"bias={'bias' in self}",
        ]
        return ", ".join(parts)

    def _described(self) -> dict[str, Any]:
        raise NotImplementedError


class Conv3d(ConvolutionLayer):
    """`mlx.nn.Conv3d` on this library: (N, D, H, W, C) to (N, oD, oH, oW, O).

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, dilation: an int, or one for each of D, H, W.
        padding: an int, or for each axis an int or a (low, high) pair.
        groups: channel groups; C and O must be divisible by it.
        bias: whether there is one.
        padding_mode: what stands in the padding: "zeros", "edge" or "reflect", one or one for each axis.
        upsample: how often x is repeated before the convolution, as `mlx_conv3d.conv3d` takes it, without a copy.

    Raises:
        ValueError, TypeError: an argument that makes no sense, by its name.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrSequence,
        stride: IntOrSequence = 1,
        padding: Padding = 0,
        dilation: IntOrSequence = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        padding_mode: PaddingMode = "zeros",
        upsample: IntOrSequence = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups, bias)
        self.padding = tuple(zip(*arguments.paddings(padding, 3), strict=True))
        self.upsample = tuple(arguments.upsampling(upsample, 3))
        self.padding_mode = mode_names(padding_mode, 3)

    def _described(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "padding_mode", "upsample")
        return {name: getattr(self, name) for name in names}

    def __call__(
        self, x: mx.array, *, activation: str | None = None, residual: mx.array | None = None
    ) -> mx.array:
        """activation(conv(x) + bias) + residual, as `mlx_conv3d.conv3d` defines them."""
        return functional.conv3d(
            x,
            self._weight(),
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            bias=self._bias(),
            activation=activation,
            residual=residual,
            padding_mode=self.padding_mode,
            upsample=self.upsample,
        )


class ConvTranspose3d(ConvolutionLayer):
    """`mlx.nn.ConvTranspose3d` on this library, with groups: (N, D, H, W, C) to (N, oD, oH, oW, O).

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, padding, dilation, output_padding: an int, or one for each of D, H, W; as in
            `mlx_conv3d.conv_transpose3d`.
        bias: whether there is one.
        groups: channel groups; C and O must be divisible by it.

    Raises:
        ValueError, TypeError: an argument that makes no sense, by its name.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrSequence,
        stride: IntOrSequence = 1,
        padding: IntOrSequence = 0,
        dilation: IntOrSequence = 1,
        output_padding: IntOrSequence = 0,
        bias: bool = True,
        *,
        groups: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups, bias)
        self.padding = tuple(arguments.integers("padding", padding, 3))
        self.output_padding = tuple(arguments.integers("output_padding", output_padding, 3))

    def _described(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "output_padding")
        return {name: getattr(self, name) for name in names}

    def __call__(self, x: mx.array) -> mx.array:
        """The transposed convolution of x, plus the bias."""
        return functional.conv_transpose3d(
            x,
            self._weight(),
            self.stride,
            self.padding,
            self.dilation,
            self.output_padding,
            self.groups,
            bias=self._bias(),
        )


def mode_names(value: PaddingMode, dims: int) -> tuple[str, ...]:
    """One padding mode for all axes, or one for each."""
    return tuple(arguments.PADDING_MODES[i] for i in arguments.padding_modes(value, dims))
