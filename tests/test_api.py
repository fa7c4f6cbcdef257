"""Arguments, errors, plans, the workspace limit and prepared weights."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import operands
import problems
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import FAMILIES, PICKED

import mlx_conv3d
from mlx_conv3d import conv1d, conv2d, conv3d, conv_general, conv_transpose3d, plan

CUBE = (3, 3, 3)
MIB = 1 << 20


def zeros(*shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.zeros(shape, dtype=dtype)


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32))


X, W = zeros(2, 5, 6, 7, 4), zeros(6, 3, 3, 3, 4)


# Bad input


BAD_VALUES: dict[str, tuple[str, Callable[[], object]]] = {
    "x of 4 dimensions": (r"\bx\b", lambda: conv3d(zeros(5, 6, 7, 4), W)),
    "x of 6 dimensions": (r"\bx\b", lambda: conv3d(zeros(1, 1, 5, 6, 7, 4), W)),
    "w of 4 dimensions": (r"\bw\b", lambda: conv3d(X, zeros(6, 3, 3, 4))),
    "conv2d with 5 dimensions": (r"\bx\b", lambda: conv2d(X, W)),
    "conv1d with 4 dimensions": (r"\bx\b", lambda: conv1d(zeros(1, 4, 4, 2), zeros(2, 3, 2))),
    "general with 2 dimensions": ("dimensions", lambda: conv_general(zeros(4, 2), zeros(2, 3))),
    "general with 6 dimensions": (
        "dimensions",
        lambda: conv_general(zeros(1, 4, 4, 4, 4, 2), zeros(2, 3, 3, 3, 3, 2)),
    ),
    "channels": (r"\(2,5,6,7,4\).*\(6,3,3,3,5\)", lambda: conv3d(X, zeros(6, *CUBE, 5))),
    "channels per group": ("groups", lambda: conv3d(X, W, groups=2)),
    "groups of x": ("groups", lambda: conv3d(X, zeros(6, *CUBE, 1), groups=3)),
    "groups of w": ("groups", lambda: conv3d(X, zeros(5, *CUBE, 2), groups=2)),
    "groups 0": ("groups", lambda: conv3d(X, W, groups=0)),
    "groups negative": ("groups", lambda: conv3d(X, W, groups=-1)),
    "stride 0": ("stride", lambda: conv3d(X, W, stride=0)),
    "stride negative": ("stride", lambda: conv3d(X, W, stride=(1, -2, 1))),
    "two strides": ("stride", lambda: conv3d(X, W, stride=(1, 1))),
    "four strides": ("stride", lambda: conv3d(X, W, stride=(1, 1, 1, 1))),
    "dilation 0": ("dilation", lambda: conv3d(X, W, dilation=(1, 0, 1))),
    "two dilations": ("dilation", lambda: conv3d(X, W, dilation=[1, 1])),
    "input dilation 0": ("input_dilation", lambda: conv_general(X, W, input_dilation=0)),
    "two input dilations": ("input_dilation", lambda: conv_general(X, W, input_dilation=(2, 2))),
    "two paddings": ("padding", lambda: conv3d(X, W, padding=(1, 1))),
    "triple as padding": ("padding", lambda: conv3d(X, W, padding=(1, (1, 2, 3), 1))),
    "general: paddings of two lengths": ("padding", lambda: conv_general(X, W, padding=([1, 1, 1], [1, 1]))),
    "kernel too large": ("smaller|larger", lambda: conv3d(zeros(1, 2, 6, 7, 4), W)),
    "kernel too large, strided": ("smaller|larger", lambda: conv3d(zeros(1, 2, 6, 7, 4), W, stride=2)),
    "dilated kernel too large": ("smaller|larger", lambda: conv3d(X, W, dilation=3)),
    "crop leaves too little": ("smaller|larger", lambda: conv3d(X, W, padding=-2)),
    "kernel of size 0": ("kernel|weight|w", lambda: conv3d(X, zeros(6, 0, 3, 3, 4))),
    "bias of another length": ("bias", lambda: conv3d(X, W, bias=zeros(5))),
    "bias of two dimensions": ("bias", lambda: conv3d(X, W, bias=zeros(1, 6))),
    "bias of no dimension": ("bias", lambda: conv3d(X, W, bias=mx.array(1.0))),
    "residual of another shape": ("residual", lambda: conv3d(X, W, residual=zeros(2, 3, 4, 5, 5))),
    "residual to broadcast": ("residual", lambda: conv3d(X, W, residual=zeros(1, 3, 4, 5, 6))),
    "residual of fewer dimensions": ("residual", lambda: conv3d(X, W, residual=zeros(6))),
    "lead of another batch": ("lead", lambda: conv3d(X, W, lead=zeros(1, 2, 6, 7, 4))),
    "lead of another height": ("lead", lambda: conv3d(X, W, lead=zeros(2, 2, 5, 7, 4))),
    "lead of other channels": ("lead", lambda: conv3d(X, W, lead=zeros(2, 2, 6, 7, 5))),
    "lead of 4 dimensions": ("lead", lambda: conv3d(X, W, lead=zeros(2, 6, 7, 4))),
    "activation": ("activation", lambda: conv3d(X, W, activation="mish")),
    "padding mode": ("padding_mode", lambda: conv3d(X, W, padding=1, padding_mode="wrap")),
    "two padding modes": ("padding_mode", lambda: conv3d(X, W, padding=1, padding_mode=("edge", "edge"))),
    "one unknown padding mode": (
        "padding_mode",
        lambda: conv3d(X, W, padding_mode=("edge", "edge", "constant")),
    ),
    "reflect beyond the axis": (
        "padding_mode|reflect",
        lambda: conv3d(X, W, padding=5, padding_mode="reflect"),
    ),
    "edge of nothing": (
        "padding_mode|edge",
        lambda: conv3d(zeros(1, 0, 6, 7, 4), W, padding=2, padding_mode="edge"),
    ),
    "algorithm": ("algorithm", lambda: conv3d(X, W, algorithm="fft")),
    "algorithm that cannot": (
        "algorithm.*pointwise|pointwise.*algorithm",
        lambda: conv3d(X, W, algorithm="pointwise"),
    ),
    "winograd with stride": ("algorithm.*stride", lambda: conv3d(X, W, stride=3, algorithm="winograd")),
    "temporal with a plane": (
        "algorithm.*temporal|temporal.*algorithm",
        lambda: conv3d(X, W, algorithm="temporal"),
    ),
    "grouped without groups": ("algorithm.*groups", lambda: conv3d(X, W, algorithm="grouped")),
    "transposed channels": ("channels|w", lambda: conv_transpose3d(X, zeros(6, *CUBE, 5))),
    "transposed groups": ("groups", lambda: conv_transpose3d(X, W, groups=3)),
    "transposed stride 0": ("stride", lambda: conv_transpose3d(X, W, stride=0)),
    "transposed output padding": ("output_padding", lambda: conv_transpose3d(X, W, output_padding=(1, 1))),
    "transposed 2-D": ("w", lambda: mlx_conv3d.conv_transpose2d(zeros(1, 4, 4, 4), zeros(6, 3, 4))),
    "transposed 1-D": ("w", lambda: mlx_conv3d.conv_transpose1d(zeros(1, 4, 4), zeros(6, 3, 3, 4))),
    "transposed 1-D stride": (
        "stride",
        lambda: mlx_conv3d.conv_transpose1d(zeros(1, 4, 4), zeros(6, 3, 4), (2, 2)),
    ),
    "transposed bias": ("bias", lambda: conv_transpose3d(X, W, bias=zeros(3))),
    "transposed: nothing left": (
        "smaller|padding",
        lambda: conv_transpose3d(zeros(1, 1, 1, 1, 4), W, padding=2),
    ),
    "upsample 0": ("upsample", lambda: conv3d(X, W, upsample=0)),
    "upsample negative": ("upsample", lambda: conv3d(X, W, upsample=(1, 2, -2))),
    "upsample of too much": ("upsample", lambda: conv3d(X, W, upsample=(1, 1 << 62, 1))),
    "four upsamples": ("upsample", lambda: conv3d(X, W, upsample=(1, 1, 2, 2))),
    "one upsample of three": ("upsample", lambda: conv3d(X, W, upsample=(2,))),
    "three upsamples in 2-D": (
        "upsample",
        lambda: conv2d(zeros(1, 5, 5, 2), zeros(2, 3, 3, 2), upsample=(1, 2, 2)),
    ),
    "plan: upsampled and dilated": (
        "upsample.*input_dilation",
        lambda: plan((1, 5, 6, 7, 4), (6, *CUBE, 4), upsample=2, input_dilation=2),
    ),
    "reflect beyond the upsampled axis": (
        "padding_mode|reflect",
        lambda: conv3d(X, W, upsample=2, padding=(1, 12, 1), padding_mode="reflect"),
    ),
    "plan: channels": ("x_shape|w_shape|channels", lambda: plan((1, 5, 6, 7, 4), (6, *CUBE, 5))),
    "plan: dimensions": ("x_shape|w_shape", lambda: plan((1, 5, 6, 7, 4), (6, 3, 3, 4))),
    "plan: stride": ("stride", lambda: plan((1, 5, 6, 7, 4), (6, *CUBE, 4), stride=0)),
    "plan: algorithm": ("algorithm", lambda: plan((1, 5, 6, 7, 4), (6, *CUBE, 4), algorithm="fft")),
    "plan: device": ("device", lambda: plan((1, 5, 6, 7, 4), (6, *CUBE, 4), device="m99 hyper")),
    "workspace limit": ("bytes|limit", lambda: mlx_conv3d.set_workspace_limit(-1)),
    "workspace limit 0": ("bytes|limit", lambda: mlx_conv3d.set_workspace_limit(0)),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_values(name: str) -> None:
    pattern, call = BAD_VALUES[name]
    with pytest.raises(ValueError, match=pattern):
        call()


BAD_TYPES: dict[str, tuple[str, Callable[[], object]]] = {
    "numpy x": (r"\bx\b", lambda: conv3d(np.zeros(X.shape, np.float32), W)),
    "no x": (r"\bx\b", lambda: conv3d(None, W)),
    "list w": (r"\bw\b", lambda: conv3d(X, [[1.0]])),
    "float stride": ("stride", lambda: conv3d(X, W, stride=1.5)),
    "string stride": ("stride", lambda: conv3d(X, W, stride="2")),
    "float among strides": ("stride", lambda: conv3d(X, W, stride=(1, 1.0, 1))),
    "no padding": ("padding", lambda: conv3d(X, W, padding=None)),
    "float padding pair": ("padding", lambda: conv3d(X, W, padding=(1, (0.5, 1), 1))),
    "float dilation": ("dilation", lambda: conv3d(X, W, dilation=2.0)),
    "float groups": ("groups", lambda: conv3d(X, W, groups=1.0)),
    "float upsample": ("upsample", lambda: conv3d(X, W, upsample=2.0)),
    "string upsample": ("upsample", lambda: conv3d(X, W, upsample="2")),
    "upsample of general": ("upsample", lambda: conv_general(X, W, upsample=2)),
    "numpy bias": ("bias", lambda: conv3d(X, W, bias=np.zeros(6, np.float32))),
    "number as residual": ("residual", lambda: conv3d(X, W, residual=1.0)),
    "bool as lead": ("lead", lambda: conv3d(X, W, lead=True)),
    "function as activation": ("activation", lambda: conv3d(X, W, activation=abs)),
    "number as padding mode": ("padding_mode", lambda: conv3d(X, W, padding_mode=0)),
    "number as algorithm": ("algorithm", lambda: conv3d(X, W, algorithm=1)),
    "lead of conv2d": ("lead", lambda: conv2d(zeros(1, 5, 5, 2), zeros(2, 3, 3, 2), lead=zeros(1, 5, 5, 2))),
    "unknown keyword": ("bogus", lambda: conv3d(X, W, bogus=1)),
    "positional bias": ("positional", lambda: conv3d(X, W, 1, 0, 1, 1, zeros(6))),
    "keyword x of general": ("x|positional", lambda: conv_general(x=X, w=W)),
    "plan: dtype": ("dtype", lambda: plan((1, 5, 6, 7, 4), (6, *CUBE, 4), dtype="float31")),
    "workspace limit": ("bytes|limit|incompatible", lambda: mlx_conv3d.set_workspace_limit("1 GiB")),
}


@pytest.mark.parametrize("name", BAD_TYPES)
def test_bad_types(name: str) -> None:
    pattern, call = BAD_TYPES[name]
    with pytest.raises(TypeError, match=pattern):
        call()


@pytest.mark.parametrize("dtype", [mx.int32, mx.uint8, mx.bool_, mx.complex64])
def test_x_must_be_floating(dtype: mx.Dtype) -> None:
    with pytest.raises((ValueError, TypeError), match=r"\bx\b|input"):
        conv3d(X.astype(dtype), W)


def test_errors_come_before_evaluation() -> None:
    """Nothing is left to fail later, inside mx.eval."""
    for pattern, call in BAD_VALUES.values():
        with pytest.raises(ValueError, match=pattern):
            call()
    mx.eval(conv3d(X, W))


# Forms of arguments


SAME = [
    ({"padding": 1}, {"padding": (1, 1, 1)}),
    ({"padding": 1}, {"padding": [1, (1, 1), [1, 1]]}),
    ({"padding": (2, 0, 1)}, {"padding": ((2, 2), (0, 0), (1, 1))}),
    ({"stride": 2}, {"stride": (2, 2, 2)}),
    ({"stride": 2}, {"stride": [2, 2, 2]}),
    ({"stride": 2}, {"stride": np.int64(2)}),
    ({"dilation": 1}, {"dilation": (1, 1, 1)}),
    ({"padding": 1, "padding_mode": "edge"}, {"padding": 1, "padding_mode": ("edge", "edge", "edge")}),
    ({"padding": 1, "padding_mode": "edge"}, {"padding": 1, "padding_mode": ["edge", "edge", "edge"]}),
    ({}, {"bias": None, "activation": None, "residual": None, "lead": None, "stream": None}),
    ({}, {"padding_mode": "reflect"}),
    ({}, {"lead": zeros(2, 0, 6, 7, 4)}),
    ({}, {"upsample": 1}),
    ({"upsample": 2}, {"upsample": (2, 2)}),
    ({"upsample": 2}, {"upsample": [1, 2, 2]}),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_forms_of_arguments(one: dict[str, object], other: dict[str, object]) -> None:
    x, w = normal(2, 5, 6, 7, 4), normal(6, *CUBE, 4)
    assert mx.array_equal(conv3d(x, w, **one), conv3d(x, w, **other)).item()


def test_lower_dimensions_take_ints_and_tuples() -> None:
    line, w = normal(2, 9, 4), normal(6, 3, 4)
    expected = conv1d(line, w, 2, 1)
    for options in ({"stride": (2,), "padding": (1,)}, {"stride": [2], "padding": [(1, 1)]}):
        assert mx.array_equal(conv1d(line, w, **options), expected).item()
    plane, w = normal(2, 9, 8, 4), normal(6, 3, 3, 4)
    expected = conv2d(plane, w, 2, 1)
    assert mx.array_equal(conv2d(plane, w, (2, 2), ((1, 1), 1)), expected).item()


def test_lower_dimensions_are_the_same_convolution() -> None:
    plane, w = normal(2, 9, 8, 16), normal(6, 3, 3, 16)
    b, r = normal(6), normal(2, 9, 8, 6)
    options = {"bias": b, "activation": "silu"}
    flat = conv2d(plane, w, padding=1, residual=r, padding_mode="edge", **options)
    deep = conv3d(
        plane[:, None], w[:, None], padding=(0, 1, 1), residual=r[:, None], padding_mode="edge", **options
    )
    assert mx.allclose(flat, deep[:, 0], atol=1e-5).item()
    row = conv1d(plane[:, 0], w[:, 0], padding=((2, 0),), padding_mode="reflect", **options)
    deep = conv3d(
        plane[:, None, :1],
        w[:, None, :1],
        padding=(0, 0, (2, 0)),
        padding_mode=("zeros", "zeros", "reflect"),
        **options,
    )
    assert mx.allclose(row, deep[:, 0, 0], atol=1e-5).item()


# Types and sizes


TYPES = (mx.float32, mx.float16, mx.bfloat16)


@pytest.mark.parametrize("x_type", TYPES)
@pytest.mark.parametrize("w_type", TYPES)
def test_promotion(x_type: mx.Dtype, w_type: mx.Dtype) -> None:
    x, w = normal(1, 3, 5, 5, 4).astype(x_type), normal(6, *CUBE, 4).astype(w_type)
    both = mx.result_type(x, w)
    assert conv3d(x, w).dtype == both
    for extra in TYPES:
        expected = mx.result_type(mx.zeros(1, dtype=both), mx.zeros(1, dtype=extra))
        assert conv3d(x, w, bias=zeros(6, dtype=extra)).dtype == expected
        assert conv3d(x, w, residual=zeros(1, 1, 3, 3, 6, dtype=extra)).dtype == expected
        assert conv3d(x, w, lead=zeros(1, 2, 5, 5, 4, dtype=extra)).dtype == expected
        assert conv_transpose3d(x, w, bias=zeros(6, dtype=extra)).dtype == expected


def test_promoted_sums_are_not_rounded_first() -> None:
    """Half operands with a float32 bias give float32 accuracy, not a half result cast up."""
    x, w = normal(1, 3, 9, 9, 16).astype(mx.float16), normal(16, *CUBE, 16).astype(mx.float16)
    y = conv3d(x, w, padding=1, bias=mx.zeros(16))
    exact = reference.linear(
        operands.float64(x), operands.float64(w), reference.Conv.of(3, padding=((1, 1),) * 3)
    )
    assert reference.norm(operands.float64(y) - exact) <= 3e-6 * reference.norm(exact)


def test_float64_goes_to_stock() -> None:
    with mx.stream(mx.cpu):
        x, w = (normal(*shape).astype(mx.float64) for shape in ((1, 6, 5, 4), (4, 3, 3, 4)))
        y = conv2d(x, w)
        assert y.dtype == mx.float64
        assert mx.array_equal(y, mx.conv2d(x, w)).item()


@pytest.mark.parametrize("activation", [None, "relu", "silu", "gelu", "sigmoid", "tanh"])
def test_no_input_channels_give_bias_and_residual(activation: str | None) -> None:
    b, r = normal(6), normal(1, 3, 4, 4, 6)
    y = conv3d(zeros(1, 3, 4, 4, 0), zeros(6, *CUBE, 0), padding=1, bias=b, residual=r, activation=activation)
    expected = reference.activate(operands.float64(b), activation) + operands.float64(r)
    np.testing.assert_allclose(np.array(y), expected, atol=1e-6)


# Relative, and absolute for what is next to nothing: GELU's values far below zero have less exact exponents.
ACTIVATION_ERRORS = {
    "silu": (4e-7, 1e-36),
    "sigmoid": (4e-7, 1e-36),
    "tanh": (4e-7, 1e-36),
    "gelu": (3e-6, 1e-11),
}


@pytest.mark.parametrize("activation", ACTIVATION_ERRORS)
def test_activations_of_tiny_and_huge_values(activation: str) -> None:
    exact = np.concatenate([np.geomspace(1e-30, 80, 400), np.linspace(0.5, 0.8, 50), [200.0, 3e38]])
    values = np.concatenate([exact, -exact]).astype(np.float32)
    x = mx.array(values).reshape(1, 1, 1, -1, 1)
    y = np.array(conv3d(x, mx.ones((1, 1, 1, 1, 1)), activation=activation)).ravel()
    with np.errstate(over="ignore"):
        expected = reference.activate(values.astype(np.float64), activation)
    relative, absolute = ACTIVATION_ERRORS[activation]
    np.testing.assert_allclose(y, expected, rtol=relative, atol=absolute)


def test_gelu_is_as_exact_as_float32() -> None:
    values = np.linspace(-12, 12, 400_001).astype(np.float32)
    x = mx.array(values).reshape(1, 1, 1, -1, 1)
    y = np.array(conv3d(x, mx.ones((1, 1, 1, 1, 1)), activation="gelu")).ravel()
    expected = reference.activate(values.astype(np.float64), "gelu")
    assert np.max(np.abs(y - expected) / np.maximum(np.abs(expected), 0.1)) < 4e-7
    not_a_number = conv3d(mx.full((1, 1, 1, 1, 1), float("nan")), mx.ones((1, 1, 1, 1, 1)), activation="gelu")
    assert np.isnan(np.array(not_a_number)).all()
    infinite = mx.array([float("inf"), float("-inf")]).reshape(1, 1, 1, 2, 1)
    ends = np.array(conv3d(infinite, mx.ones((1, 1, 1, 1, 1)), activation="gelu")).ravel()
    assert ends[0] == np.inf
    assert abs(ends[1]) < 1e-15


@pytest.mark.parametrize("name", [name for name in PICKED if name.startswith("no ")])
def test_empty_results_and_gradients(name: str) -> None:
    problem = PICKED[name]
    made = operands.make(problem)
    names = list(made.arrays)

    def loss(*given: mx.array) -> mx.array:
        return operands.run(problem, dict(zip(names, given, strict=True))).sum()

    y = operands.run(problem, made.arrays)
    assert y.shape == problem.out_shape
    for gradient, a in zip(
        mx.grad(loss, argnums=list(range(len(names))))(*made.arrays.values()),
        made.arrays.values(),
        strict=True,
    ):
        assert gradient.shape == a.shape
        assert not mx.isnan(gradient).any().item() if a.size else True


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (1, 2, 3, 5, 7), (2, 4, 33, 31, 16)])
def test_results_begin_with_a_cache_line(shape: tuple[int, ...]) -> None:
    """And what follows reads them from there: operations, views and another convolution."""
    x, w = mx.random.normal(shape), mx.random.normal((5, 1, 1, 1, shape[-1]))
    y = conv3d(x, w)
    assert np.array(y, copy=False).ctypes.data % 64 == 0
    exact = np.array(x, np.float64) @ np.array(w, np.float64).reshape(5, -1).T
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mx.abs(y)[..., 1:], np.abs(exact)[..., 1:], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mx.flatten(y * 2), 2 * exact.ravel(), rtol=1e-5, atol=1e-5)
    again = conv3d(y, mx.ones((1, 1, 1, 1, 5)))
    np.testing.assert_allclose(again[..., 0], exact.sum(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_grouped_3d(groups: int) -> None:
    """MLX refuses groups in 3-D; ours equals one convolution per group."""
    x, w = normal(2, 4, 6, 5, 6), normal(12, *CUBE, 6 // groups)
    with pytest.raises(ValueError, match="groups"):
        mx.conv3d(x, w, groups=groups)
    parts = [
        mx.conv3d(a, b, padding=1)
        for a, b in zip(mx.split(x, groups, axis=-1), mx.split(w, groups, axis=0), strict=True)
    ]
    assert mx.allclose(
        conv3d(x, w, padding=1, groups=groups), mx.concatenate(parts, axis=-1), atol=1e-4
    ).item()
    up = mlx_conv3d.conv_transpose3d(x, w, stride=2, groups=groups)
    parts = [
        mx.conv_transpose3d(a, b, stride=2)
        for a, b in zip(mx.split(x, groups, axis=-1), mx.split(w, groups, axis=0), strict=True)
    ]
    assert mx.allclose(up, mx.concatenate(parts, axis=-1), atol=1e-4).item()


def test_lead_is_concatenation() -> None:
    x, w, lead = normal(2, 4, 6, 5, 8), normal(8, *CUBE, 8), normal(2, 2, 6, 5, 8, seed=1)
    for padding in (0, 1, ((2, 0), 1, 1), ((-1, 0), 1, 1)):
        for mode in ("zeros", "edge", "reflect"):
            joined = conv3d(mx.concatenate([lead, x], axis=1), w, padding=padding, padding_mode=mode)
            assert mx.allclose(
                conv3d(x, w, padding=padding, padding_mode=mode, lead=lead), joined, atol=1e-4
            ).item()


def test_streaming_in_chunks_is_the_whole() -> None:
    x, w = normal(1, 11, 6, 6, 8), normal(8, *CUBE, 8)
    whole = conv3d(x, w, padding=((2, 0), 1, 1))
    seen = mx.zeros((1, 2, 6, 6, 8))
    parts = []
    for chunk in mx.split(x, [1, 2, 6, 10], axis=1):
        parts.append(conv3d(chunk, w, padding=(0, 1, 1), lead=seen))
        seen = mx.concatenate([seen, chunk], axis=1)[:, -2:]
    assert mx.allclose(mx.concatenate(parts, axis=1), whole, atol=1e-4).item()


# Plans


@settings(max_examples=settings.default.max_examples // 2)
@given(data=st.data())
def test_plans(data: st.DataObject) -> None:
    family = FAMILIES[
        data.draw(st.sampled_from([f for f in sorted(FAMILIES) if f not in ("flipped", "input_dilated")]))
    ]
    problem = data.draw(problems.problems(family))
    found = operands.plan_of(problem)
    again = operands.plan_of(problem)
    assert str(found) == str(again)
    by_name = {c.algorithm: c for c in found.candidates}
    assert len(by_name) == len(found.candidates)
    chosen = by_name[found.algorithm]
    assert chosen.legal
    assert chosen.cost == min(c.cost for c in found.candidates if c.legal)
    assert found.reason
    assert found.program is None
    assert found.direct_flops == 2 * problem.products
    assert found.flops == chosen.flops
    assert found.bytes >= 0
    assert 0 <= found.workspace <= mlx_conv3d.get_workspace_limit()
    for candidate in found.candidates:
        assert candidate.reason
        if candidate.legal:
            assert candidate.cost > 0
            assert operands.plan_of(problem, candidate.algorithm).algorithm == candidate.algorithm
        else:
            with pytest.raises(ValueError, match="algorithm"):
                operands.plan_of(problem, candidate.algorithm)


def test_plan_is_a_table() -> None:
    found = plan((1, 9, 64, 64, 96), (96, *CUBE, 96), padding=1)
    text = str(found)
    assert found.algorithm in text
    assert len(text.splitlines()) >= len(found.candidates)
    for candidate in found.candidates:
        assert candidate.algorithm in text


EXPECTED = {
    "winograd": ((1, 9, 64, 64, 96), (96, *CUBE, 96), {"padding": 1}),
    "temporal": ((1, 9, 32, 32, 96), (96, 2, 1, 1, 96), {"padding": ((1, 0), 0, 0)}),
    "pointwise": ((1, 9, 32, 32, 96), (48, 1, 1, 1, 96), {}),
    "patchify": ((64, 2, 14, 14, 3), (128, 2, 14, 14, 3), {"stride": (2, 14, 14)}),
    "grouped": ((1, 9, 32, 32, 96), (96, *CUBE, 1), {"padding": 1, "groups": 96}),
    "implicit_gemm": ((1, 9, 32, 32, 17), (31, 5, 5, 5, 17), {"stride": 2}),
}


@pytest.mark.parametrize("algorithm", EXPECTED)
def test_plan_chooses(algorithm: str) -> None:
    x, w, options = EXPECTED[algorithm]
    assert plan(x, w, **options).algorithm == algorithm


def test_winograd_multiplies_less() -> None:
    found = plan((1, 9, 64, 64, 96), (96, *CUBE, 96), padding=1)
    assert found.flops < 0.6 * found.direct_flops
    assert found.direct_flops == 2 * 9 * 64 * 64 * 96 * 96 * 27
    assert found.tile in (2, 4, 6)


def test_large_float32_tiles_are_never_planned_for_float32() -> None:
    """F(6, 3) misses the accuracy contract unless the result is rounded to 16 bits anyway."""
    for size in (12, 24, 48, 96):
        for channels in (16, 64, 256):
            shapes = (1, 5, size, size, channels), (channels, *CUBE, channels)
            assert plan(*shapes, padding=1, algorithm="winograd").tile in (2, 4)


def test_plan_takes_any_size() -> None:
    """Plans are arithmetic: beyond 2**31 elements as well, and no array is made."""
    found = plan((1, 500, 2000, 2000, 256), (256, *CUBE, 256), padding=1)
    assert found.direct_flops == 2 * 500 * 2000 * 2000 * 256 * 256 * 27
    assert 0 < found.workspace <= mlx_conv3d.get_workspace_limit()
    # Nor does planning count frames or columns one by one.
    assert plan((1, 2**31 - 9, 8, 8, 16), (16, *CUBE, 16), padding=1).algorithm == "winograd"
    assert (
        plan((1, 4, 8, 2**31 - 9, 16), (16, 1, 3, 3, 8), padding=(0, 1, 1), groups=2).algorithm == "grouped"
    )


def test_plan_of_lower_dimensions_and_types() -> None:
    assert plan((1, 9, 4), (6, 3, 4)).algorithm
    assert plan((1, 64, 64, 64), (64, 3, 3, 64), padding=1, dtype=mx.bfloat16).algorithm in (
        "winograd",
        "implicit_gemm",
    )
    assert plan((1, 9, 4), (4, 3, 1), groups=4, dtype=mx.float16).algorithm == "grouped"
