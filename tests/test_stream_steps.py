"""Steps of a stream: the convolution and the frames that the next one needs are one operation on the CPU."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_flat_conv import operations
from test_nn import DTYPES, layer, normal

from mlx_conv3d import _arguments, _ext, nn


def as_view(x: mx.array, order: str) -> mx.array:
    """The same values, lying in memory as `order` says."""
    if order == "channels first":
        return mx.moveaxis(mx.contiguous(mx.moveaxis(x, -1, 1)), 1, -1)
    if order == "frames first":
        return mx.moveaxis(mx.contiguous(mx.moveaxis(x, 1, 0)), 0, 1)
    if order == "every second column":
        return mx.contiguous(mx.repeat(x, 2, axis=-2))[..., ::2, :]
    return x


def as_numpy(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32))


ORDERS = ("as made", "channels first", "frames first", "every second column")


@given(
    size=st.tuples(
        st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)
    ),
    held=st.integers(0, 8),
    kept=st.integers(1, 17),
    dtype=st.sampled_from(sorted(DTYPES)),
    orders=st.tuples(st.sampled_from(ORDERS), st.sampled_from(ORDERS)),
)
def test_kept_frames(
    size: tuple[int, ...], held: int, kept: int, dtype: str, orders: tuple[str, str]
) -> None:
    x, before = (normal(*size, seed=1), normal(size[0], held, *size[2:], seed=2))
    x, before = (
        as_view(a.astype(DTYPES[dtype]), order) for a, order in zip((x, before), orders, strict=True)
    )
    w = normal(4, 1, 1, 1, size[-1])
    parameters = _arguments.parameters(3, per_frame=True).core
    kept = min(kept, held + size[1])
    y, frames = _ext.conv_keeping(x, w, parameters, kept, lead=before)
    assert operations(y).count("Conv3dStreamStep") == 1
    expected = np.concatenate([as_numpy(before), as_numpy(x)], axis=1)[:, -kept:]
    assert frames.dtype == x.dtype
    assert np.array_equal(as_numpy(frames), expected)
    assert mx.array_equal(y, _ext.conv(x, w, parameters, lead=before))
    assert mx.array_equal(frames, _ext.last_frames(before, x, kept))


@pytest.mark.parametrize(
    "size", [(2, 3, 40, 50, 16), (1, 5000, 1, 1, 8), (3, 700, 1, 1, 24), (1, 2, 200, 200, 3)]
)
def test_many_kept_frames(size: tuple[int, ...]) -> None:
    """Too many to be an output of the convolution: they are copied after it."""
    x, before = normal(*size, seed=1), normal(*size, seed=2)
    parameters = _arguments.parameters(3, per_frame=True).core
    kept = size[1] + size[1] // 2
    _, frames = _ext.conv_keeping(x, normal(4, 1, 1, 1, size[-1]), parameters, kept, lead=before)
    assert mx.array_equal(frames, mx.concatenate([before, x], axis=1)[:, -kept:])


def test_frames_of_no_depth() -> None:
    with pytest.raises(ValueError, match="no axis of frames"):
        _ext.conv_keeping(normal(1, 9, 9, 4), normal(2, 3, 3, 4), _arguments.parameters(2).core, 1)


def test_frames_of_another_type() -> None:
    """They are of the type that both have in common, in one operation or not."""
    x, before = normal(1, 4, 1, 1, 2).astype(mx.float16), normal(1, 3, 1, 1, 2)
    parameters, w = _arguments.parameters(3).core, normal(2, 1, 1, 1, 2)
    for kept in (2, 6):
        _, frames = _ext.conv_keeping(x, w, parameters, kept, lead=before)
        assert frames.dtype == _ext.last_frames(before, x, kept).dtype == mx.float32
        assert mx.array_equal(frames, _ext.last_frames(before, x, kept))


def test_no_recordings() -> None:
    made = nn.CausalConv1d(4, 6, 3)
    y, state = made.step(mx.zeros((0, 5, 4)))
    y, state = made.step(mx.zeros((0, 5, 4)), state)
    mx.eval(y, state)
    assert y.shape == (0, 5, 6)
    assert state.frames.shape == (0, 2, 4)


def test_a_shapeless_step_of_other_lengths_is_refused() -> None:
    """What is kept depends on the length; the outputs alone do not need it."""
    made = nn.CausalConv1d(4, 4, 5)
    mx.eval(made.parameters())
    captured = {"inputs": made.state, "shapeless": True}
    steps, outputs = (
        mx.compile(lambda x: made.step(x)[0], **captured),
        mx.compile(lambda x: made(x), **captured),
    )
    for length in (8, 2):
        x = normal(1, length, 4)
        assert mx.allclose(outputs(x), made(x), atol=1e-6)
    assert mx.allclose(steps(normal(1, 8, 4)), made(normal(1, 8, 4)), atol=1e-6)
    with pytest.raises(ValueError, match="step of 8 frames cannot take x of 2"):
        mx.eval(steps(normal(1, 2, 4)))


@pytest.mark.parametrize("kept", [-1, 8])
def test_more_frames_than_there_are(kept: int) -> None:
    x = normal(1, 4, 1, 1, 2)
    with pytest.raises(ValueError, match=r"kept must be in \[0, 7\]"):
        _ext.conv_keeping(
            x, normal(2, 1, 1, 1, 2), _arguments.parameters(3).core, kept, lead=normal(1, 3, 1, 1, 2)
        )


@pytest.mark.parametrize("series", [True, False])
@pytest.mark.parametrize("kept", [1, 3, 5, 7])
@pytest.mark.parametrize(
    "transform",
    ["vjp", "vjp of frames", "jvp", "vmap", "vmap of one", "vmap of weights", "compile", "second vjp"],
)
def test_transformations(transform: str, kept: int, series: bool) -> None:
    """Both outputs, against frames that are put together first."""
    parameters = _arguments.parameters(3, activation="tanh", per_frame=True).core
    axes = () if series else (2, 3)
    arrays = [normal(*size, 4, seed=i) for i, size in enumerate(((2, 5), (6, 3), (2, 4)))]
    x, w, before = (mx.expand_dims(a, axes) if axes else a for a in arrays)

    def step(x: mx.array, w: mx.array, before: mx.array) -> tuple[mx.array, ...]:
        return _ext.conv_keeping(x, w, parameters, kept, lead=before, series=series)

    def composed(x: mx.array, w: mx.array, before: mx.array) -> tuple[mx.array, ...]:
        frames = mx.concatenate([before, x], axis=1)
        return _ext.conv(frames, w, parameters, series=series), frames[:, -kept:]

    given, along = [x, w, before], [a[::-1] for a in (x, w, before)]

    def transformed(function: Any) -> Any:
        if transform == "jvp":
            return mx.jvp(function, given, along)[1]
        if transform == "vmap":
            return mx.vmap(function, in_axes=(1, None, 1), out_axes=(2, 0))(
                *(
                    a if i == 1 else mx.stack([a, b], axis=1)
                    for i, (a, b) in enumerate(zip(given, along, strict=True))
                )
            )
        if transform == "vmap of one":
            return mx.vmap(function, in_axes=(None, None, 0))(x, w, mx.stack([before, along[2]]))
        if transform == "vmap of weights":
            return mx.vmap(function, in_axes=(None, 0, 0))(
                x, mx.stack([w, along[1]]), mx.stack([before, along[2]])
            )
        if transform == "compile":
            return mx.compile(function)(*given)
        if transform == "vjp of frames":
            return mx.grad(lambda *a: (function(*a)[1] ** 2).sum(), argnums=(0, 1, 2))(*given)
        cotangents = [normal(*a.shape, seed=7) for a in function(*given)]
        if transform == "vjp":
            return mx.vjp(function, given, cotangents)[1]
        return mx.grad(
            lambda *a: sum((g**2).sum() for g in mx.vjp(function, list(a), cotangents)[1]), argnums=(0, 1, 2)
        )(*given)

    for a, b in zip(transformed(step), transformed(composed), strict=True):
        assert a.shape == b.shape
        assert mx.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["one operation", "stock", "no output"])
def test_frames_are_evaluated_with_the_output(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = layer(4, 4, 3, stride=(8, 1, 1), padding=1), normal(1, 7, 5, 5, 4)
    if way == "stock":
        monkeypatch.setenv("MLX_CONV3D_DISABLE", "1")
    state = made.step(x[:, :1])[1] if way == "no output" else None
    y, state = made.step(x, state)
    assert y.shape[1] == (0 if way == "no output" else 1)
    assert state.frames is not None
    assert ("Conv3dStreamStep" in operations(y)) == (way == "one operation")
    mx.eval(y)
    assert operations(state.frames) == []


@pytest.mark.parametrize("lengths", [(5, 7), (1, 1, 1, 1, 1, 7), (2, 4, 6), (12,), (0, 3, 9)])
@pytest.mark.parametrize("stride", [1, 3, 7])
def test_a_state_serves_layers_that_saw_the_same(stride: int, lengths: tuple[int, ...]) -> None:
    steps, follows = (layer(6, 8, (3, 3, 3), stride=(stride, 1, 1), padding=1) for _ in range(2))
    follows.weight = normal(*follows.weight.shape, seed=9)
    x, state, of_its_own, at = normal(2, 12, 5, 6, 6), None, None, 0
    for length in lengths:
        chunk, at = x[:, at : at + length], at + length
        got = follows(chunk, state=state, activation="silu")
        expected, of_its_own = follows.step(chunk, of_its_own, activation="silu")
        assert got.shape == expected.shape
        assert mx.array_equal(got, expected)
        _, state = steps.step(chunk, state)


def test_a_state_of_another_stream_is_refused_in_a_call() -> None:
    made, x = nn.CausalConv1d(4, 4, 3), normal(1, 6, 4)
    _, state = made.step(x)
    for wrong in (normal(2, 6, 4), normal(1, 6, 3), x.astype(mx.float16)):
        with pytest.raises(ValueError, match="state holds frames"):
            made(wrong, state=state)
    for wrong in ((state.frames,), (*state, 0), 3):
        with pytest.raises(ValueError, match="state must be what a step has returned"):
            made.step(x, wrong)
    assert mx.array_equal(made.step(x, tuple(state))[0], made.step(x, state)[0])
    with pytest.raises(TypeError, match="activation must be a str"):
        made(x, activation=["tanh"])


CHANGES: dict[str, Any] = {
    "stride": (2, 1, 1),
    "dilation": (2, 1, 1),
    "padding": ((0, 0), (1, 1)),
    "padding_mode": ("edge", "zeros"),
    "time_padding": "edge",
    "groups": 2,
    "weight": (8, 2, 3, 3, 8),
    "upsample": (1, 2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_attributes_are_seen(name: str) -> None:
    """What a layer remembers of its steps is not what it remembers of itself."""
    x = normal(1, 7, 6, 7, 8)

    def changed(made: nn.CausalConv3d) -> nn.CausalConv3d:
        if name == "groups":
            made.weight = made.weight[..., :4]
        setattr(made, name, normal(*CHANGES[name]) if name == "weight" else CHANGES[name])
        return made

    used, fresh = (layer(8, 8, (3, 3, 3), padding=1) for _ in range(2))
    fresh.update(used.parameters())
    before = used(x)
    used.step(x)
    got, expected = changed(used)(x), changed(fresh)(x)
    assert mx.array_equal(got, expected)
    assert got.shape != before.shape or not mx.array_equal(got, before)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_of_a_layer_that_has_stepped(copied: Any) -> None:
    made, x = nn.CausalConv1d(4, 4, 3), normal(1, 6, 4)
    y, _ = made.step(x)
    other = copied(made)
    assert mx.array_equal(other.step(x)[0], y)
    other.dilation = (2, 1, 1)
    assert not mx.array_equal(other.step(x)[0], y)
    assert mx.array_equal(made.step(x)[0], y)


def test_lists_that_change_in_place() -> None:
    """An attribute is what it was when it was set."""
    made, x = nn.CausalConv3d(4, 4, 3, padding=1), normal(1, 6, 5, 5, 4)
    stride = [1, 1, 1]
    made.stride = stride
    y = made(x)
    stride[0] = 2
    assert mx.array_equal(made(x), y)
    assert made.stride == (1, 1, 1)


def test_steps_do_not_go_through_the_call() -> None:
    class Doubled(nn.CausalConv1d):
        def __call__(self, x: mx.array, **options: Any) -> mx.array:
            return 2 * super().__call__(x, **options)

    for kernel in (1, 3):
        made, x = Doubled(4, 4, kernel), normal(1, 6, 4)
        assert mx.allclose(2 * made.step(x)[0], made(x), atol=1e-6)
