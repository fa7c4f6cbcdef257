"""RMS norm with an activation, and its derivatives, against float64 NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import operands
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_conv3d import nn, rms_norm

EPS = 1e-3
SHAPES = [
    (1,),
    (16,),
    (5, 3),
    (2, 3, 48),
    (1, 1, 1, 1, 1),
    (2, 3, 4, 5, 17),
    (1, 2, 1, 130, 6),
    (2, 1, 3, 2, 2, 33),
]
ACTIVATIONS = (None, "relu", "silu")
TYPES = ("float32", "float16", "bfloat16")
RELATIVE = {"float32": 1e-6, "float16": 2**-11, "bfloat16": 2**-8}


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> mx.array:
    values = np.random.default_rng((seed, *shape)).normal(size=shape) + 0.1
    return mx.array(values.astype(np.float32)).astype(operands.dtype_of(dtype))


def exact_forward(x: np.ndarray, weight: np.ndarray, activation: str | None) -> np.ndarray:
    z = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight
    return reference.activate(z, activation)


def exact_gradients(
    x: np.ndarray, weight: np.ndarray, activation: str | None, dy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """By the chain rule through the mean of the squares; the last is the norm of dx's first term."""
    scale = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + EPS)
    g = dy * reference.activation_slope(x * scale * weight, activation)
    along = (g * weight * x).mean(-1, keepdims=True)
    dw = (g * x * scale).reshape(-1, x.shape[-1]).sum(0)
    return g * weight * scale - x * scale**3 * along, dw, reference.norm(g * weight * scale)


def near(found: mx.array, exact: np.ndarray, dtype: str, what: str, terms: float = 0.0) -> None:
    """`terms`: the norm of what cancels in it."""
    assert found.shape == exact.shape and found.dtype == operands.dtype_of(dtype), what
    error = reference.norm(operands.float64(found) - exact)
    assert error <= 3 * RELATIVE[dtype] * max(reference.norm(exact), terms), (
        f"{what}: {error / reference.norm(exact):.2e}"
    )


def check(x: mx.array, weight: mx.array, activation: str | None) -> None:
    name = str((mx.zeros((), x.dtype) * mx.zeros((), weight.dtype)).dtype).rsplit(".", 1)[-1]
    dy = normal(*x.shape, seed=2, dtype=name)
    exact = [operands.float64(a) for a in (x, weight, dy)]
    (y,), (dx, dw) = mx.vjp(lambda x, w: rms_norm(x, w, EPS, activation=activation), [x, weight], [dy])
    near(y, exact_forward(*exact[:2], activation), name, "y")
    expected = exact_gradients(*exact[:2], activation, exact[2])
    near(dx, expected[0], str(x.dtype).rsplit(".", 1)[-1], "dx", expected[2])
    near(dw, expected[1], str(weight.dtype).rsplit(".", 1)[-1], "dw")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape: tuple[int, ...], activation: str | None) -> None:
    check(normal(*shape), normal(shape[-1], seed=1), activation)


@pytest.mark.parametrize("w_type", TYPES)
@pytest.mark.parametrize("x_type", TYPES)
def test_types(x_type: str, w_type: str) -> None:
    check(normal(2, 3, 3, 70, 20, dtype=x_type), normal(20, seed=1, dtype=w_type), "silu")


@settings(max_examples=max(5, settings.default.max_examples // 8))
@given(
    st.lists(st.integers(1, 5), min_size=0, max_size=4),
    st.integers(1, 70),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from(TYPES),
)
def test_drawn(leading: list[int], channels: int, activation: str | None, dtype: str) -> None:
    check(normal(*leading, channels, dtype=dtype), normal(channels, seed=1, dtype=dtype), activation)


VIEWS: dict[str, Callable[[mx.array], mx.array]] = {
    "channels first": lambda x: mx.moveaxis(mx.contiguous(mx.moveaxis(x, -1, 1)), 1, -1),
    "cut": lambda x: x[:, 1:, :, 1:-1],
    "every second": lambda x: x[:, ::2, :, ::2],
    "backwards": lambda x: x[:, ::-1],
    "broadcast": lambda x: mx.broadcast_to(x[:, :1], x.shape),
    "some channels": lambda x: x[..., 3:14],
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(name: str) -> None:
    x = VIEWS[name](normal(2, 4, 3, 6, 20))
    weight = normal(40, seed=1)[::2][: x.shape[-1]]
    check(x, weight, "silu")


def test_a_cotangent_that_is_a_view() -> None:
    x, weight = normal(2, 4, 3, 5, 20), normal(20, seed=1)
    dy = mx.broadcast_to(normal(20, seed=2), x.shape)
    _, (dx, _) = mx.vjp(lambda x, w: rms_norm(x, w, EPS), [x, weight], [dy])
    exact = exact_gradients(*(operands.float64(a) for a in (x, weight)), None, operands.float64(dy))
    near(dx, exact[0], "float32", "dx", exact[2])


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4), (0,), (3, 0)], ids=str)
def test_nothing(shape: tuple[int, ...]) -> None:
    y = rms_norm(mx.zeros(shape), mx.ones((shape[-1],)))
    assert y.shape == shape
    mx.eval(y)


def test_as_mlx_has_it() -> None:
    x, weight = normal(2, 3, 40), normal(40, seed=1)
    for eps in (1e-5, 0.5):
        assert mx.allclose(rms_norm(x, weight, eps), mx.fast.rms_norm(x, weight, eps), atol=1e-5)


def composed(x: mx.array, weight: mx.array) -> mx.array:
    z = x * mx.rsqrt(mx.square(x).mean(-1, keepdims=True) + EPS) * weight
    return z * mx.sigmoid(z)


def fused(x: mx.array, weight: mx.array) -> mx.array:
    return rms_norm(x, weight, EPS, activation="silu")


Function = Callable[[mx.array, mx.array], mx.array]
Arrays = list[mx.array]


def hessian_times_ones(f: Function) -> Arrays:
    def along(x: mx.array, weight: mx.array) -> mx.array:
        return sum(g.sum() for g in mx.grad(lambda *a: mx.square(f(*a)).sum(), argnums=(0, 1))(x, weight))

    return list(mx.grad(along, argnums=(0, 1))(*OPERANDS))


OPERANDS = normal(2, 3, 4, 5, 20), normal(20, seed=1)
TANGENTS = normal(2, 3, 4, 5, 20, seed=3), normal(20, seed=4)
TRANSFORMATIONS: dict[str, Callable[[Function], Arrays]] = {
    "jvp": lambda f: mx.jvp(f, OPERANDS, TANGENTS)[1],
    "jvp in x": lambda f: mx.jvp(lambda x: f(x, OPERANDS[1]), OPERANDS[:1], TANGENTS[:1])[1],
    "jvp in weight": lambda f: mx.jvp(lambda w: f(OPERANDS[0], w), OPERANDS[1:], TANGENTS[1:])[1],
    "second order": hessian_times_ones,
    "jvp of the gradient": lambda f: mx.jvp(
        mx.grad(lambda x: f(x, OPERANDS[1]).sum()), OPERANDS[:1], TANGENTS[:1]
    )[1],
    "compile": lambda f: [mx.compile(f)(*OPERANDS)],
    "vmap of x": lambda f: [mx.vmap(f, in_axes=(2, None), out_axes=1)(*OPERANDS)],
    "vmap of both": lambda f: [mx.vmap(f)(OPERANDS[0], normal(2, 20, seed=5))],
    "vmap of the gradient": lambda f: [
        mx.vmap(mx.grad(lambda x: f(x, OPERANDS[1]).sum()), in_axes=1)(OPERANDS[0])
    ],
    "vmap of nothing": lambda f: [mx.vmap(f, in_axes=(0, None))(mx.zeros((0, 3, 20)), OPERANDS[1])],
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations(name: str) -> None:
    for found, expected in zip(*(TRANSFORMATIONS[name](f) for f in (fused, composed)), strict=True):
        assert found.shape == expected.shape
        assert mx.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros((2, 3)), mx.ones(3)), TypeError, "x"),
        ((mx.zeros((2, 3)), [1, 2, 3]), TypeError, "weight"),
        ((mx.zeros((2, 3)), mx.ones(4)), ValueError, "weight"),
        ((mx.zeros((2, 3)), mx.ones((1, 3))), ValueError, "weight"),
        ((mx.array(1.0), mx.ones(1)), ValueError, "weight"),
        ((mx.zeros((2, 3), mx.int32), mx.ones(3)), ValueError, "x"),
        ((mx.zeros((2, 3)), mx.ones(3), -1.0), ValueError, "eps"),
        ((mx.zeros((2, 3)), mx.ones(3), float("nan")), ValueError, "eps"),
        ((mx.zeros((2, 3)), mx.ones(3), "a"), ValueError, "eps"),
    ],
)
def test_errors(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"\b{message}\b"):
        rms_norm(*arguments)


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="activation"):
        rms_norm(mx.zeros((2, 3)), mx.ones(3), activation="gelu")


def test_layer() -> None:
    layer = nn.RMSNorm(20, 0.01, activation="silu")
    x = normal(2, 3, 20)
    assert mx.allclose(layer(x), rms_norm(x, mx.ones(20), 0.01, activation="silu"))
    assert list(layer.parameters()) == ["weight"] and "20, eps=0.01, activation=silu" in str(layer)
    with pytest.raises(ValueError, match="dims"):
        nn.RMSNorm(0)
    with pytest.raises(ValueError, match="activation"):
        nn.RMSNorm(4, activation="tanh")
