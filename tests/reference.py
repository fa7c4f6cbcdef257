"""The convolution in float64 NumPy, its adjoints, and the accuracy every result is held to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Conv:
    """A convolution's parameters, one entry per spatial axis."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    input_dilation: tuple[int, ...]
    modes: tuple[str, ...]
    groups: int = 1
    flip: bool = False
    activation: str | None = None
    crop_dilated: bool = False  # a negative padding crops after the input dilation, not before it
    upsample: tuple[int, ...] = ()  # nearest neighbour, in front of everything else; () is 1 everywhere

    @classmethod
    def of(cls, ndim: int, **given: object) -> Conv:
        """Defaults for `ndim` spatial axes, with the given fields replaced."""
        ones = (1,) * ndim
        default = cls(ones, ((0, 0),) * ndim, ones, ones, ("zeros",) * ndim)
        return replace(default, **given)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Gradients:
    x: Array
    w: Array
    bias: Array
    residual: Array
    lead: Array


def cropped(a: Array, padding: tuple[int, int]) -> Array:
    lo, hi = padding
    return a[max(0, -lo) : max(0, a.size + min(0, hi))]


def axis_sources(
    size: int,
    padding: tuple[int, int],
    input_dilation: int,
    mode: str,
    crop_dilated: bool = False,
    upsample: int = 1,
) -> Array:
    """For each position of the upsampled, cropped, dilated and padded axis: the index it is read from, or -1 for a
    zero.

    A negative padding crops input elements, as in mx.conv_general, or with `crop_dilated` dilated positions.
    """
    whole = np.repeat(np.arange(size), upsample)
    kept = whole if crop_dilated else cropped(whole, padding)
    dilated = np.full(max(0, (kept.size - 1) * input_dilation + 1), -1)
    dilated[::input_dilation] = kept
    dilated = cropped(dilated, padding) if crop_dilated else dilated
    lo, hi = (max(0, p) for p in padding)
    if mode == "zeros" or lo == hi == 0:
        return np.concatenate([np.full(lo, -1), dilated, np.full(hi, -1)])
    assert input_dilation == 1, "edge and reflect padding are defined without input dilation only"
    return np.pad(dilated, (lo, hi), mode=mode)  # type: ignore[call-overload]


def gather(x: Array, sources: list[Array]) -> Array:
    for axis, source in enumerate(sources, start=1):
        shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        with_zero = np.concatenate([x, np.zeros(shape)], axis=axis)  # index -1 reads the zero
        x = np.take(with_zero, source, axis=axis)
    return x


def scatter(padded: Array, sources: list[Array], shape: tuple[int, ...]) -> Array:
    """The adjoint of `gather`."""
    for axis, source in enumerate(sources, start=1):
        moved = np.moveaxis(padded, axis, 0)
        out = np.zeros((shape[axis], *moved.shape[1:]))
        np.add.at(out, source[source >= 0], moved[source >= 0])
        padded = np.moveaxis(out, 0, axis)
    return padded


def all_sources(x_shape: tuple[int, ...], conv: Conv) -> list[Array]:
    sizes = x_shape[1:-1]
    return [
        axis_sources(*each, conv.crop_dilated, scale)
        for *each, scale in zip(
            sizes,
            conv.padding,
            conv.input_dilation,
            conv.modes,
            conv.upsample or (1,) * len(sizes),
            strict=True,
        )
    ]


def out_sizes(padded: tuple[int, ...], kernel: tuple[int, ...], conv: Conv) -> tuple[int, ...]:
    reaches = [p - (k - 1) * d - 1 for p, k, d in zip(padded, kernel, conv.dilation, strict=True)]
    assert all(reach >= 0 for reach in reaches), "the padded input is smaller than the kernel"
    return tuple(reach // s + 1 for reach, s in zip(reaches, conv.stride, strict=True))


def taps(kernel: tuple[int, ...], out: tuple[int, ...], conv: Conv) -> Iterator[tuple[tuple, tuple]]:
    """Each tap's index into the kernel, and the window of the padded input it multiplies."""
    for tap in product(*map(range, kernel)):
        window = tuple(
            slice(k * d, k * d + (o - 1) * s + 1, s)
            for k, d, o, s in zip(tap, conv.dilation, out, conv.stride, strict=True)
        )
        where = tuple(n - 1 - k for n, k in zip(kernel, tap, strict=True)) if conv.flip else tap
        yield where, (slice(None), *window)


def split_groups(a: Array, groups: int) -> Array:
    """(..., groups * c) as (groups, positions, c)."""
    size = a.shape[-1] // groups
    positions = math.prod(a.shape[:-1])
    return a.reshape(positions, groups, size).transpose(1, 0, 2)


def join_groups(a: Array, leading: tuple[int, ...]) -> Array:
    return a.transpose(1, 0, 2).reshape(*leading, a.shape[0] * a.shape[2])


def weight_groups(w_tap: Array, groups: int) -> Array:
    """(O, C/groups) as (groups, O/groups, C/groups)."""
    return w_tap.reshape(groups, w_tap.shape[0] // groups, w_tap.shape[1])


def with_lead(x: Array, lead: Array | None) -> Array:
    return x if lead is None else np.concatenate([lead, x], axis=1)


def linear(x: Array, w: Array, conv: Conv, lead: Array | None = None) -> Array:
    """conv(x, w) alone: no bias, activation or residual."""
    x = with_lead(x, lead)
    padded = gather(x, all_sources(x.shape, conv))
    kernel = w.shape[1:-1]
    out = out_sizes(padded.shape[1:-1], kernel, conv)
    leading = (x.shape[0], *out)
    total = np.zeros((conv.groups, math.prod(leading), w.shape[0] // conv.groups))
    for tap, window in taps(kernel, out, conv):
        w_tap = weight_groups(w[(slice(None), *tap)], conv.groups)
        total += split_groups(padded[window], conv.groups) @ w_tap.transpose(0, 2, 1)
    return join_groups(total, leading)


def forward(
    x: Array,
    w: Array,
    conv: Conv,
    *,
    bias: Array | None = None,
    residual: Array | None = None,
    lead: Array | None = None,
) -> Array:
    z = linear(x, w, conv, lead)
    if bias is not None:
        z = z + bias
    y = activate(z, conv.activation)
    return y if residual is None else y + residual


def adjoint(
    cotangent: Array,
    x: Array,
    w: Array,
    conv: Conv,
    *,
    bias: Array | None = None,
    residual: Array | None = None,
    lead: Array | None = None,
) -> Gradients:
    """Gradients of sum(cotangent * forward(...)) for every operand, given or not."""
    del residual  # enters linearly
    z = linear(x, w, conv, lead)
    if bias is not None:
        z = z + bias
    dz = cotangent * activation_slope(z, conv.activation)

    whole = with_lead(x, lead)
    sources = all_sources(whole.shape, conv)
    padded = gather(whole, sources)
    out = dz.shape[1:-1]
    d_padded = np.zeros_like(padded)
    d_w = np.zeros_like(w)
    dz_groups = split_groups(dz, conv.groups)
    for tap, window in taps(w.shape[1:-1], out, conv):
        w_tap = weight_groups(w[(slice(None), *tap)], conv.groups)
        d_padded[window] += join_groups(dz_groups @ w_tap, padded[window].shape[:-1])
        d_tap = dz_groups.transpose(0, 2, 1) @ split_groups(padded[window], conv.groups)
        d_w[(slice(None), *tap)] += d_tap.reshape(w.shape[0], w.shape[-1])
    d_whole = scatter(d_padded, sources, whole.shape)
    frames = 0 if lead is None else lead.shape[1]
    return Gradients(
        x=d_whole[:, frames:],
        w=d_w,
        bias=dz.sum(axis=tuple(range(dz.ndim - 1))),
        residual=cotangent,
        lead=d_whole[:, :frames],
    )


def transpose_conv(
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    output_padding: tuple[int, ...],
    groups: int = 1,
) -> Conv:
    """A transposed convolution as the convolution of the dilated input that it is."""
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    ends = [(r - p, r - p + o) for r, p, o in zip(reach, padding, output_padding, strict=True)]
    return Conv.of(
        len(kernel),
        padding=tuple(ends),
        dilation=dilation,
        input_dilation=stride,
        groups=groups,
        flip=True,
        crop_dilated=True,
    )


def erf(z: Array) -> Array:
    return np.frompyfunc(math.erf, 1, 1)(z).astype(np.float64)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def activate(z: Array, name: str | None) -> Array:
    if name is None:
        return z
    if name == "relu":
        return np.maximum(z, 0)
    if name == "silu":
        return z * sigmoid(z)
    if name == "sigmoid":
        return sigmoid(z)
    if name == "tanh":
        return np.tanh(z)
    assert name == "gelu"
    return z * 0.5 * (1 + erf(z / math.sqrt(2)))


def activation_slope(z: Array, name: str | None) -> Array:
    if name is None:
        return np.ones_like(z)
    if name == "relu":
        return (z > 0).astype(np.float64)
    if name == "silu":
        s = sigmoid(z)
        return s * (1 + z * (1 - s))
    if name == "sigmoid":
        return sigmoid(z) * (1 - sigmoid(z))
    if name == "tanh":
        return 1 - np.tanh(z) ** 2
    assert name == "gelu"
    return 0.5 * (1 + erf(z / math.sqrt(2))) + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def norm(a: Array) -> float:
    return float(np.linalg.norm(a.ravel()))


def rms(a: Array) -> float:
    return norm(a) / math.sqrt(max(1, a.size))


def expected_norm(
    x: Array,
    w: Array,
    conv: Conv,
    *,
    bias: Array | None = None,
    residual: Array | None = None,
    lead: Array | None = None,
) -> float:
    """The norm the result would have if the signs of the products were random.

    A result of a few elements may cancel to nearly nothing; rounding errors are relative to this instead.
    """
    energy = linear(x**2, w**2, conv, None if lead is None else lead**2).sum()
    for extra in (bias, residual):
        if extra is not None:
            energy += (np.broadcast_to(extra, (*_out_shape(x, w, conv, lead),)) ** 2).sum()
    return math.sqrt(energy)


def _out_shape(x: Array, w: Array, conv: Conv, lead: Array | None) -> tuple[int, ...]:
    shape = (x.shape[0], x.shape[1] + (0 if lead is None else lead.shape[1]), *x.shape[2:])
    padded = tuple(s.size for s in all_sources(shape, conv))
    return (shape[0], *out_sizes(padded, w.shape[1:-1], conv), w.shape[0])


def correctly_rounded(exact: Array, dtype: str) -> Array:
    """The nearest float16 or bfloat16 values (ties to even), as float64."""
    if dtype == "float16":
        return exact.astype(np.float16).astype(np.float64)
    assert dtype == "bfloat16"
    mantissa, exponent = np.frexp(exact)
    return np.ldexp(np.rint(mantissa * 2**8), exponent - 8)


def float32_bound(algorithm: str, terms: int) -> float:
    """The contract on the relative L2 error of a float32 result; `terms` is KD * C."""
    if algorithm == "implicit_gemm":
        return 1e-6
    return 3e-6 if terms <= 768 else 8e-6


HALF_RATIO = 1.02


def error_bound(exact: Array, dtype: str, bound: float, scale: float) -> float:
    """The largest L2 error a result may have, whose float32 error may be `bound` times `scale`."""
    if dtype == "float32":
        return bound * scale
    rounding = norm(correctly_rounded(exact, dtype) - exact)
    return HALF_RATIO * rounding + bound * scale
