"""From the forms in which users write a convolution's parameters to one list per parameter."""

from __future__ import annotations

import marshal
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeAlias

from mlx_conv3d import _ext

IntOrSequence: TypeAlias = int | Sequence[int]
Padding: TypeAlias = int | Sequence[int | tuple[int, int]]
PaddingMode: TypeAlias = str | Sequence[str]

PADDING_MODES = ("zeros", "edge", "reflect")
ACTIVATIONS = ("none", "relu", "silu", "gelu", "sigmoid", "tanh")
ALGORITHMS = (
    "auto",
    "winograd",
    "taps",
    "temporal",
    "pointwise",
    "patchify",
    "grouped",
    "transposed",
    "implicit_gemm",
    "stock",
)


@dataclass(frozen=True)
class Parameters:
    """A convolution's parameters, one entry per spatial axis, as `_ext.Parameters` takes them."""

    dims: int
    stride: list[int]
    pad_lo: list[int]
    pad_hi: list[int]
    dilation: list[int]
    input_dilation: list[int]
    pad_mode: list[int]
    groups: int
    flip: bool
    activation: int
    upsample: list[int]
    per_frame: bool = False  # an output frame's bits do not depend on the number of frames
    odd_frame: bool = False  # and an odd number of them was computed before

    @cached_property
    def core(self) -> _ext.Parameters:
        return _ext.Parameters(**self._values())

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """The same, hashable."""
        return tuple(tuple(v) if isinstance(v, list) else v for v in self._values().values())

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    return int(value.__index__())


def integers(name: str, value: Any, dims: int) -> list[int]:
    """One int for all axes, or one for each."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != dims:
            raise ValueError(
                f"{name} must have {dims} entries for a {dims}-D convolution, got {tuple(value)}"
            )
        return [_integer(name, v) for v in value]
    return [_integer(name, value)] * dims


def upsampling(value: Any, dims: int) -> list[int]:
    """One int for the rows and columns, or one per spatial axis; in 3-D the frames may be left out."""
    single = not isinstance(value, Sequence) or isinstance(value, str)
    if dims == 3 and (single or len(value) == 2):
        return [1, *integers("upsample", value, 2)]
    return integers("upsample", value, dims)


def paddings(value: Any, dims: int) -> tuple[list[int], list[int]]:
    """One int, or one entry per axis, each an int or a (low, high) pair."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        both = integers("padding", value, dims)
        return both, list(both)
    if len(value) != dims:
        raise ValueError(f"padding must have {dims} entries for a {dims}-D convolution, got {value!r}")
    lo, hi = [], []
    for entry in value:
        pair = integers("padding", entry, 2)
        lo.append(pair[0])
        hi.append(pair[1])
    return lo, hi


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {type(value).__name__}")
    return value


def padding_modes(value: Any, dims: int) -> list[int]:
    names = list(value) if isinstance(value, (list, tuple)) else [_string("padding_mode", value)] * dims
    if len(names) != dims:
        raise ValueError(f"padding_mode must have {dims} entries for a {dims}-D convolution, got {value!r}")
    for name in names:
        if name not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {name!r}")
    return [PADDING_MODES.index(name) for name in names]


def activation_index(value: str | None) -> int:
    name = "none" if value is None else _string("activation", value)
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be None, {', '.join(ACTIVATIONS[1:])}, got {value!r}")
    return ACTIVATIONS.index(name)


def algorithm_name(value: str) -> str:
    if _string("algorithm", value) not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {value!r}")
    return value


def parameters(
    dims: int,
    *,
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    dilation: IntOrSequence = 1,
    input_dilation: IntOrSequence = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    activation: str | None = None,
    flip: bool = False,
    upsample: IntOrSequence = 1,
    per_frame: bool = False,
    odd_frame: bool = False,
) -> Parameters:
    """All parameters of a convolution, checked; what was parsed before is not parsed again.

    Raises:
        ValueError, TypeError: a value that makes no sense, by its name.
    """
    given: tuple[Any, ...] = (
        dims,
        stride,
        padding,
        dilation,
        input_dilation,
        groups,
        padding_mode,
        activation,
        flip,
        upsample,
        per_frame,
        odd_frame,
    )
    try:
        # Unlike a hash, it tells 1 from True and 1.0, also in a tuple, and refuses any other type.
        key = marshal.dumps(given, 2)
    except ValueError:
        return _parse(*given)
    found = _PARSED.get(key)
    if found is None:
        if len(_PARSED) >= MOST_PARSED:
            _PARSED.clear()
        found = _PARSED[key] = _parse(*given)
    return found


MOST_PARSED = 1024
_PARSED: dict[bytes, Parameters] = {}


def _parse(
    dims: int,
    stride: Any,
    padding: Any,
    dilation: Any,
    input_dilation: Any,
    groups: Any,
    padding_mode: Any,
    activation: Any,
    flip: Any,
    upsample: Any,
    per_frame: bool,
    odd_frame: bool,
) -> Parameters:
    pad_lo, pad_hi = paddings(padding, dims)
    return Parameters(
        dims=dims,
        stride=integers("stride", stride, dims),
        pad_lo=pad_lo,
        pad_hi=pad_hi,
        dilation=integers("dilation", dilation, dims),
        input_dilation=integers("input_dilation", input_dilation, dims),
        pad_mode=padding_modes(padding_mode, dims),
        groups=_integer("groups", groups),
        flip=flag("flip", flip),
        activation=activation_index(activation),
        upsample=upsampling(upsample, dims),
        per_frame=per_frame,
        odd_frame=odd_frame,
    )


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {type(value).__name__}")
    return value


def general_padding(value: Any, dims: int) -> list[tuple[int, int]]:
    """mx.conv_general's forms: an int, one int per axis, or a pair of lists (all low, all high)."""
    if isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, Sequence) for v in value):
        lo, hi = (integers("padding", list(v), dims) for v in value)
    elif isinstance(value, Sequence) and len(value) == 1:
        lo = hi = integers("padding", value[0], dims)
    else:
        lo = hi = integers("padding", value, dims)
    return list(zip(lo, hi, strict=True))


def general(
    x_shape: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    kernel_dilation: Any = 1,
    input_dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
) -> tuple[Parameters, list[slice]]:
    """mx.conv_general's parameters, and the part of x that they are for.

    A negative padding takes that many inputs away, as in MLX; with input dilation that is not the same as cropping
    positions of the dilated input, which is what a negative padding means everywhere else here.
    """
    dims = len(x_shape) - 2
    if not 1 <= dims <= 3:
        raise ValueError(f"x must have 1 to 3 spatial dimensions, (N, ..., C), got shape {tuple(x_shape)}")

    def per_axis(name: str, value: Any) -> list[int]:
        single = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1
        return integers(name, value[0] if single else value, dims)

    pads = general_padding(padding, dims)
    kept = [
        slice(max(0, -lo), size - max(0, -hi)) for (lo, hi), size in zip(pads, x_shape[1:-1], strict=True)
    ]
    parsed = parameters(
        dims,
        stride=per_axis("stride", stride),
        padding=[(max(0, lo), max(0, hi)) for lo, hi in pads],
        dilation=per_axis("kernel_dilation", kernel_dilation),
        input_dilation=per_axis("input_dilation", input_dilation),
        groups=groups,
        flip=flip,
    )
    return parsed, kept


def transposed(
    dims: int,
    kernel: Sequence[int],
    *,
    stride: IntOrSequence,
    padding: IntOrSequence,
    dilation: IntOrSequence,
    output_padding: IntOrSequence,
    groups: int,
) -> Parameters:
    """A transposed convolution as one over the input dilated by its stride, with the kernel flipped."""
    strides = integers("stride", stride, dims)
    pads = integers("padding", padding, dims)
    dilations = integers("dilation", dilation, dims)
    extra = integers("output_padding", output_padding, dims)
    if min(strides) <= 0:
        raise ValueError(f"stride must be positive, got {tuple(strides)}")
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    return parameters(
        dims,
        stride=1,
        padding=[(r - p, r - p + e) for r, p, e in zip(reach, pads, extra, strict=True)],
        dilation=dilations,
        input_dilation=strides,
        groups=groups,
        flip=True,
    )
