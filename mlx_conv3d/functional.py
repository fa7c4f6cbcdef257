"""The convolutions.

Shapes are MLX's: x (N, D, H, W, C), w (O, KD, KH, KW, C/groups) in 3-D, (N, H, W, C) and (O, KH, KW, C/groups) in 2-D,
(N, L, C) and (O, K, C/groups) in 1-D. Types float32, float16 and bfloat16 in any mixture; sums are in fp32 and the
result has the type that all given arrays promote to. Each function accepts a `PreparedWeight` as w.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

import mlx.core as mx

from mlx_conv3d import _arguments as arguments
from mlx_conv3d import _ext
from mlx_conv3d._arguments import IntOrSequence, Padding, PaddingMode
from mlx_conv3d.prepared import PreparedWeight

Weight: TypeAlias = "mx.array | PreparedWeight"
Result = TypeVar("Result")
NORM_ACTIVATIONS = (None, "relu", "silu")


def require_arrays(**arrays: Any) -> None:
    """Raises TypeError unless each is an array or None."""
    for name, value in arrays.items():
        if value is not None and not isinstance(value, mx.array):
            raise TypeError(f"{name} must be an mx.array, got {type(value).__name__}")


def run(
    x: mx.array,
    w: Weight,
    parameters: arguments.Parameters,
    *,
    bias: mx.array | None = None,
    residual: mx.array | None = None,
    lead: mx.array | None = None,
    algorithm: str = "auto",
    series: bool = False,
    stream: Any = None,
) -> mx.array:
    """Any convolution, its parameters already parsed. `series`: of arrays (N, L, C), whose L is the depth."""
    return _call(_ext.conv, x, w, parameters, bias, residual, lead, algorithm, series, stream)


def run_keeping(
    x: mx.array,
    w: Weight,
    parameters: arguments.Parameters,
    kept: int,
    *,
    bias: mx.array | None = None,
    residual: mx.array | None = None,
    lead: mx.array | None = None,
    series: bool = False,
) -> tuple[mx.array, mx.array]:
    """The same of a stream's next frames, and the last `kept` of the lead frames followed by x's."""
    call = partial(_ext.conv_keeping, kept=kept)
    return _call(call, x, w, parameters, bias, residual, lead, "auto", series, None)


def _call(
    function: Callable[..., Result],
    x: mx.array,
    w: Weight,
    parameters: arguments.Parameters,
    bias: mx.array | None,
    residual: mx.array | None,
    lead: mx.array | None,
    algorithm: str,
    series: bool,
    stream: Any,
) -> Result:
    packed = None
    if isinstance(w, PreparedWeight):
        require_arrays(x=x, bias=bias, residual=residual, lead=lead)
        packed = w.packed_for(
            x, parameters, lead=lead, extras=(bias, residual), algorithm=algorithm, stream=stream
        )
        w = w.weight
    try:
        return function(
            x,
            w,
            parameters.core,
            bias=bias,
            residual=residual,
            lead=lead,
            packed=packed,
            algorithm=algorithm if algorithm == "auto" else arguments.algorithm_name(algorithm),
            series=series,
            stream=stream,
        )
    except TypeError:
        # Asked only now: a small convolution takes as long as such questions.
        require_arrays(x=x, w=w, bias=bias, residual=residual, lead=lead)
        raise


def conv3d(
    x: mx.array,
    w: Weight,
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    *,
    bias: mx.array | None = None,
    activation: str | None = None,
    residual: mx.array | None = None,
    padding_mode: PaddingMode = "zeros",
    upsample: IntOrSequence = 1,
    lead: mx.array | None = None,
    algorithm: str = "auto",
    stream: Any = None,
) -> mx.array:
    """3-D convolution: activation(conv(x, w) + bias) + residual.

    Args:
        x: input (N, D, H, W, C).
        w: weights (O, KD, KH, KW, C/groups), or what `prepare` made of them.
        stride: positions between outputs, one int or one per axis.
        padding: positions added around x: an int, or per axis an int or a (low, high) pair. Negative values crop.
        dilation: positions between the kernel's taps.
        groups: channel groups; C and O must be divisible by it.
        bias: (O,), added to every position.
        activation: None, "relu", "silu", "gelu" (the exact one, by erf), "sigmoid" or "tanh".
        residual: an array of the output's shape, added after the activation.
        padding_mode: what stands in the padding: "zeros", "edge" or "reflect" (as numpy.pad), one or one per axis.
        upsample: x is read as if every pixel (an int, or two for rows and columns) or every frame and pixel (three)
            were repeated that many times, the nearest-neighbour upsampling in front of a convolution, without the
            copy. Padding and stride count upsampled positions; lead frames are upsampled with x.
        lead: frames (N, L, H, W, C) that stand before x in time, as if concatenated, but without the copy. The
            padding comes before them.
        algorithm: "auto", or the name of one to force (see the table in docs/algorithms.md).
        stream: stream or device, as everywhere in MLX. On a GPU that is not Metal's the work is
            stock MLX's, on Metal what the plan leaves to it.

    Returns:
        (N, oD, oH, oW, O), oD = (upsample*(L + D) + padding - dilation*(KD - 1) - 1) // stride + 1 and so on.

    Raises:
        ValueError: sizes or values that do not fit; the message names the argument.
        TypeError: an argument of the wrong type.

    The 3x3 spatial kernels, and those with taps along one axis, use Winograd's minimal filtering (Lavin and Gray,
    2015), the former with the depth taps summed in the transform domain. Against float64, fp32 results have a relative
    L2 error of at most 8e-6 (3e-6 where KD*C <= 768; 1e-6 with algorithm="implicit_gemm"); fp16 and bf16 ones are as
    exact as a correctly rounded result.
    """
    parameters = arguments.parameters(
        3,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        activation=activation,
        upsample=upsample,
    )
    return run(x, w, parameters, bias=bias, residual=residual, lead=lead, algorithm=algorithm, stream=stream)


def conv2d(
    x: mx.array,
    w: Weight,
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    *,
    bias: mx.array | None = None,
    activation: str | None = None,
    residual: mx.array | None = None,
    padding_mode: PaddingMode = "zeros",
    upsample: IntOrSequence = 1,
    algorithm: str = "auto",
    stream: Any = None,
) -> mx.array:
    """2-D convolution of x (N, H, W, C) with w (O, KH, KW, C/groups); the rest as in `conv3d`.

    `upsample` is an int for both axes or one for each.
    """
    parameters = arguments.parameters(
        2,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        activation=activation,
        upsample=upsample,
    )
    return run(x, w, parameters, bias=bias, residual=residual, algorithm=algorithm, stream=stream)


def conv1d(
    x: mx.array,
    w: Weight,
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    *,
    bias: mx.array | None = None,
    activation: str | None = None,
    residual: mx.array | None = None,
    padding_mode: PaddingMode = "zeros",
    upsample: IntOrSequence = 1,
    algorithm: str = "auto",
    stream: Any = None,
) -> mx.array:
    """1-D convolution of x (N, L, C) with w (O, K, C/groups); the rest as in `conv3d`.

    For one axis the padding may be an int, a 1-tuple, or one (low, high) pair in a 1-tuple.
    """
    parameters = arguments.parameters(
        1,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        activation=activation,
        upsample=upsample,
    )
    return run(x, w, parameters, bias=bias, residual=residual, algorithm=algorithm, stream=stream)


def cropped(x: mx.array, kept: list[slice]) -> mx.array:
    """The part of x (N, ..., C) that a negative padding leaves."""
    if all(k.start == 0 and k.stop == size for k, size in zip(kept, x.shape[1:-1], strict=True)):
        return x
    index = (slice(None), *kept)
    return x[index]


def conv_general(
    x: mx.array,
    w: Weight,
    /,
    stride: IntOrSequence = 1,
    padding: Any = 0,
    kernel_dilation: IntOrSequence = 1,
    input_dilation: IntOrSequence = 1,
    groups: int = 1,
    flip: bool = False,
    *,
    stream: Any = None,
) -> mx.array:
    """`mx.conv_general` with its signature, in 1 to 3 dimensions and for any group count.

    Args:
        x: (N, ..., C).
        w: (O, ..., C/groups).
        stride, kernel_dilation, input_dilation: an int or one per axis. Input dilation puts that many positions less
            one of zeros between the inputs.
        padding: an int, one per axis, or a pair of lists (low, high). A negative value takes inputs away.
        groups: channel groups.
        flip: whether the kernel is flipped along its spatial axes (a true convolution).

    Raises:
        ValueError, TypeError: as `conv3d`.
    """
    require_arrays(x=x)
    parameters, kept = arguments.general(
        x.shape, stride, padding, kernel_dilation, input_dilation, groups, flip
    )
    return run(cropped(x, kept), w, parameters, stream=stream)


def conv_transpose3d(
    x: mx.array,
    w: Weight,
    stride: IntOrSequence = 1,
    padding: IntOrSequence = 0,
    dilation: IntOrSequence = 1,
    output_padding: IntOrSequence = 0,
    groups: int = 1,
    *,
    bias: mx.array | None = None,
    stream: Any = None,
) -> mx.array:
    """Transposed 3-D convolution, for every stride, by stride^3 small convolutions without multiplying by zeros.

    Args:
        x: (N, D, H, W, C).
        w: (O, KD, KH, KW, C/groups), as in MLX.
        stride: spacing of the inputs in the output.
        padding: positions cut from each side of the full result.
        dilation: positions between the kernel's taps.
        output_padding: positions added at the end of each axis.
        groups: channel groups.
        bias: (O,).

    Returns:
        (N, oD, oH, oW, O), oD = (D - 1)*stride - 2*padding + dilation*(KD - 1) + output_padding + 1 and so on.

    Raises:
        ValueError, TypeError: as `conv3d`.
    """
    given = (stride, padding, dilation, output_padding, groups)
    return _conv_transpose("(O, KD, KH, KW, C/groups)", x, w, given, bias, stream)


def conv_transpose2d(
    x: mx.array,
    w: Weight,
    stride: IntOrSequence = 1,
    padding: IntOrSequence = 0,
    dilation: IntOrSequence = 1,
    output_padding: IntOrSequence = 0,
    groups: int = 1,
    *,
    bias: mx.array | None = None,
    stream: Any = None,
) -> mx.array:
    """Transposed 2-D convolution of x (N, H, W, C) with w (O, KH, KW, C/groups); the rest as in `conv_transpose3d`."""
    given = (stride, padding, dilation, output_padding, groups)
    return _conv_transpose("(O, KH, KW, C/groups)", x, w, given, bias, stream)


def conv_transpose1d(
    x: mx.array,
    w: Weight,
    stride: IntOrSequence = 1,
    padding: IntOrSequence = 0,
    dilation: IntOrSequence = 1,
    output_padding: IntOrSequence = 0,
    groups: int = 1,
    *,
    bias: mx.array | None = None,
    stream: Any = None,
) -> mx.array:
    """Transposed 1-D convolution of x (N, L, C) with w (O, K, C/groups); the rest as in `conv_transpose3d`."""
    given = (stride, padding, dilation, output_padding, groups)
    return _conv_transpose("(O, K, C/groups)", x, w, given, bias, stream)


def _conv_transpose(
    layout: str, x: mx.array, w: Weight, given: tuple[Any, ...], bias: mx.array | None, stream: Any
) -> mx.array:
    """`layout` is that of w; `given` are the stride, padding, dilation, output padding and groups."""
    raw = w.weight if isinstance(w, PreparedWeight) else w
    require_arrays(x=x, w=raw)
    ndim = layout.count(",") + 1
    if raw.ndim != ndim:
        raise ValueError(f"w must have {ndim} dimensions {layout}, got shape {tuple(raw.shape)}")
    stride, padding, dilation, output_padding, groups = given
    parameters = arguments.transposed(
        ndim - 2,
        list(raw.shape[1:-1]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_padding=output_padding,
        groups=groups,
    )
    return run(x, w, parameters, bias=bias, stream=stream)


def set_workspace_limit(limit: int) -> int:
    """Bounds the scratch memory of a convolution, in bytes (default 256 MiB); returns the previous limit.

    Raises:
        ValueError: less than 16 MiB.
        TypeError: not an int.
    """
    if isinstance(limit, bool) or not hasattr(limit, "__index__"):
        raise TypeError(f"limit must be an int of bytes, got {type(limit).__name__}")
    return _ext.set_workspace_limit(int(limit))


def get_workspace_limit() -> int:
    """The scratch memory that a convolution may use, in bytes."""
    return _ext.workspace_limit()


def check_norm(eps: Any, activation: Any) -> None:
    """Raises ValueError unless rms_norm takes them."""
    if activation not in NORM_ACTIVATIONS:
        raise ValueError(f"activation must be None, 'relu' or 'silu', got {activation!r}")
    if not isinstance(eps, (int, float)) or not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a number of at least 0, got {eps!r}")


def rms_norm(
    x: mx.array,
    weight: mx.array,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    stream: Any = None,
) -> mx.array:
    """`mx.fast.rms_norm` and the activation after it, as in front of a VAE's convolutions, in one pass; so are its
    gradients.

    Args:
        x: (..., C).
        weight: (C,).
        eps: added to the mean of the squares.
        activation: None, "relu" or "silu".
        stream: a stream or device, as MLX's operations take it.

    Returns:
        activation(x / sqrt(mean(x**2) + eps) * weight), the mean over the last axis; of the type that x and weight
        promote to, computed in float32.

    Raises:
        ValueError, TypeError: an argument that makes no sense, by its name.
    """
    require_arrays(x=x, weight=weight)
    check_norm(eps, activation)
    return _ext.rms_norm(x, weight, float(eps), arguments.activation_index(activation), stream=stream)
