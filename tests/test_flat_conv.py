"""Convolutions of one or two spatial axes: on a CPU one operation, with the values and derivatives of 3-D ones."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

import mlx_conv3d
from mlx_conv3d import _arguments, conv1d, conv2d, conv3d, functional, nn

CASES: dict[str, tuple[Callable[..., mx.array], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "1-D": (conv1d, (2, 19, 8), (6, 3, 8), (1, 2)),
    "2-D": (conv2d, (2, 9, 7, 8), (6, 3, 3, 8), (1,)),
}


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32))


def operations(*arrays: mx.array) -> list[str]:
    """Names of the operations that the arrays are still to be evaluated by."""
    graph = io.StringIO()
    mx.export_to_dot(graph, *arrays)
    return re.findall(r'label\s*=\s*"([A-Z]\w+)"', graph.getvalue())


@pytest.mark.parametrize("name", CASES)
def test_one_operation(name: str) -> None:
    function, x_shape, w_shape, _ = CASES[name]
    x, w, bias = normal(*x_shape), normal(*w_shape), normal(w_shape[0])
    y = function(x, w, padding=1, bias=bias, residual=normal(*x_shape[:-1], w_shape[0]), activation="tanh")
    assert operations(y) == ["Conv3dFlatConv"]
    weight = mlx_conv3d.prepare(w)
    mx.eval(function(x, weight))
    assert operations(function(x, weight)) == ["Conv3dFlatConv"]


def test_a_step_of_a_series_is_one_operation() -> None:
    layer, x = nn.CausalConv1d(8, 8, 3, dilation=2), normal(1, 16, 8)
    mx.eval(layer.parameters())
    y, state = layer.step(x)
    mx.eval(y, state)
    y, state = layer.step(x, state, activation="tanh", residual=x)
    assert operations(y) == ["Conv3dStreamStep"]
    assert state.frames is not None
    assert state.frames.shape == (1, 4, 8)


def test_the_state_is_evaluated_with_the_output() -> None:
    """The state alone would keep the chunk, and no other thread could evaluate it."""
    layer, x = nn.CausalConv1d(8, 8, 3), normal(1, 16, 8)
    mx.eval(layer.parameters())
    whole = layer(mx.concatenate([x, x], axis=1))
    y, state = layer.step(x)
    mx.eval(y, whole)
    assert state.frames is not None
    assert operations(state.frames) == []
    found: list[mx.array] = []

    def follow() -> None:
        found.append(layer.step(x, state)[0])
        mx.eval(found)

    thread = threading.Thread(target=follow)
    thread.start()
    thread.join()
    assert mx.array_equal(found[0], whole[:, 16:])


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_three_axes(name: str) -> None:
    function, x_shape, w_shape, missing = CASES[name]
    axes = len(x_shape) - 2
    padding = ((2, 1),) * axes
    whole_padding = ((0, 0),) * (3 - axes) + padding
    arrays = [
        normal(*x_shape),
        normal(*w_shape, seed=1),
        normal(w_shape[0], seed=2),
        normal(x_shape[0], *(n + 1 for n in x_shape[1:-1]), w_shape[0], seed=3),
    ]

    def flat(x: mx.array, w: mx.array, bias: mx.array, residual: mx.array) -> mx.array:
        return function(x, w, padding=padding, bias=bias, residual=residual, activation="silu")

    def whole(x: mx.array, w: mx.array, bias: mx.array, residual: mx.array) -> mx.array:
        y = conv3d(
            mx.expand_dims(x, missing),
            mx.expand_dims(w, missing),
            padding=whole_padding,
            bias=bias,
            residual=mx.expand_dims(residual, missing),
            activation="silu",
        )
        return mx.squeeze(y, missing)

    cotangent = normal(*arrays[3].shape, seed=4)
    for ours, theirs in zip(
        [*mx.vjp(flat, arrays, [cotangent])], [*mx.vjp(whole, arrays, [cotangent])], strict=True
    ):
        for a, b in zip(ours, theirs, strict=True):
            assert a.shape == b.shape
            assert mx.array_equal(a, b)
    tangents = [normal(*a.shape, seed=5 + i) for i, a in enumerate(arrays)]
    for a, b in zip(mx.jvp(flat, arrays, tangents), mx.jvp(whole, arrays, tangents), strict=True):
        assert a[0].shape == b[0].shape
        assert mx.array_equal(a[0], b[0])


@pytest.mark.parametrize("transform", ["vjp", "jvp", "vmap", "compile"])
def test_a_step_of_a_series_is_transformed_as_one_of_frames(transform: str) -> None:
    """With samples from before the buffer, a bias and a residual."""
    series = nn.CausalConv1d(6, 6, 3, dilation=2)
    frames = nn.CausalConv3d(6, 6, (3, 1, 1), dilation=(2, 1, 1))
    given = [normal(2, 9, 6), normal(6, 3, 6, seed=1), normal(6, seed=2), normal(2, 4, 6, seed=3)]

    def flat(x: mx.array, w: mx.array, bias: mx.array, before: mx.array) -> mx.array:
        series.update({"weight": w, "bias": bias})
        state = nn.StreamState(before, 0, 0, True)
        return series.step(x, state, activation="tanh", residual=x)[0]

    def whole(x: mx.array, w: mx.array, bias: mx.array, before: mx.array) -> mx.array:
        frames.update({"weight": mx.expand_dims(w, (2, 3)), "bias": bias})
        state = nn.StreamState(mx.expand_dims(before, (2, 3)), 0, 0, True)
        y = frames.step(
            mx.expand_dims(x, (2, 3)), state, activation="tanh", residual=mx.expand_dims(x, (2, 3))
        )[0]
        return mx.squeeze(y, (2, 3))

    along = [normal(*a.shape, seed=9) for a in given]

    def transformed(function: Callable[..., mx.array]) -> list[mx.array]:
        if transform == "vjp":
            return mx.vjp(function, given, [normal(2, 9, 6, seed=8)])[1]
        if transform == "jvp":
            return mx.jvp(function, given, along)[1]
        if transform == "compile":
            return [mx.compile(function)(*given)]
        pairs = [mx.stack([a, b], axis=1) for a, b in zip(given, along, strict=True)]
        return [mx.vmap(function, in_axes=(1, None, None, 1))(pairs[0], given[1], given[2], pairs[3])]

    for a, b in zip(transformed(flat), transformed(whole), strict=True):
        assert a.shape == b.shape
        assert mx.allclose(a, b, atol=1e-6)


def test_axes_that_are_not_there_cannot_be_padded() -> None:
    parameters = _arguments.parameters(3, padding=(0, 1, 0))
    with pytest.raises(ValueError, match="axes that x does not have, not 3"):
        functional.run(normal(1, 9, 4), normal(4, 3, 4), parameters, series=True)


@pytest.mark.parametrize("w_axis", [None, 0, 1])
@pytest.mark.parametrize("x_axis", [None, 0, 2])
@pytest.mark.parametrize("name", CASES)
def test_vmap(name: str, x_axis: int | None, w_axis: int | None) -> None:
    function, x_shape, w_shape, _ = CASES[name]
    xs, ws = [normal(*x_shape, seed=i) for i in range(3)], [normal(*w_shape, seed=i) for i in range(3)]
    bias, residual = normal(w_shape[0]), normal(*x_shape[:-1], w_shape[0], seed=7)
    if x_axis is None and w_axis is None:
        return
    options = {"padding": 1, "bias": bias, "residual": residual, "activation": "silu"}
    x = xs[0] if x_axis is None else mx.stack(xs, axis=x_axis)
    w = ws[0] if w_axis is None else mx.stack(ws, axis=w_axis)
    mapped = mx.vmap(lambda x, w: function(x, w, **options), in_axes=(x_axis, w_axis))(x, w)
    for i in range(3):
        y = function(xs[0 if x_axis is None else i], ws[0 if w_axis is None else i], **options)
        assert mapped[i].shape == y.shape
        assert mx.allclose(mapped[i], y, atol=1e-5)


def test_messages_have_the_shapes_that_were_given() -> None:
    with pytest.raises(ValueError, match=r"x: \(1,9,7,8\) and w: \(6,3,3,5\)"):
        conv2d(normal(1, 9, 7, 8), normal(6, 3, 3, 5))
    with pytest.raises(ValueError, match=r"residual must have the output's shape \(1,7,6\), got \(1,9,6\)"):
        conv1d(normal(1, 9, 8), normal(6, 3, 8), residual=normal(1, 9, 6))
    layer = nn.CausalConv1d(8, 6, 3)
    with pytest.raises(ValueError, match="residual must have 3 dimensions"):
        layer(normal(1, 9, 8), residual=normal(1, 9, 1, 1, 6))


@pytest.mark.parametrize("argument", ["x", "w", "bias", "residual"])
def test_what_is_not_an_array_is_named(argument: str) -> None:
    given = {"x": normal(1, 9, 8), "w": normal(6, 3, 8), "bias": normal(6), "residual": normal(1, 7, 6)}
    given[argument] = np.array(given[argument])
    with pytest.raises(TypeError, match=f"{argument} must be an mx.array, got ndarray"):
        conv1d(**given)
