"""Under patch(), mlx.core and mlx.nn behave as they do without it: same results, shapes, types and errors."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_conv3d
from mlx_conv3d import patching

Call = Callable[[], mx.array]


def normal(*shape: int, dtype: mx.Dtype = mx.float32, seed: int = 0) -> mx.array:
    values = np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32)
    return mx.array(values).astype(dtype)


def close(found: mx.array, expected: mx.array) -> bool:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if expected.size == 0:
        return True
    tolerance = {mx.float16: 2e-2, mx.bfloat16: 1e-1}.get(expected.dtype, 2e-5)
    a, b = (np.array(each.astype(mx.complex64)) for each in (found, expected))
    return bool(np.abs(a - b).max() <= tolerance * max(1e-30, np.abs(b).max()))


def assert_same(call: Call) -> None:
    expected = call()
    mx.eval(expected)
    with mlx_conv3d.patched():
        found = call()
        mx.eval(found)
    assert close(found, expected)


def error_of(call: Call) -> Exception:
    with pytest.raises(Exception) as caught:
        mx.eval(call())
    return caught.value


# Results


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize(("n", "c", "o"), [(1, 1, 1), (1, 6, 1), (1, 1, 6), (4, 32, 64)])
@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), [(1, 1, 1, 0), (3, 3, 1, 0), (31, 5, 5, 2)])
def test_one_dimension(
    n: int, c: int, o: int, size: int, kernel: int, stride: int, padding: int, dtype: mx.Dtype
) -> None:
    x, w = normal(n, size, c, dtype=dtype), normal(o, kernel, c, dtype=dtype)
    assert_same(lambda: mx.conv1d(x, w, stride, padding))


@pytest.mark.parametrize("groups", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("ndim", [1, 2])
def test_groups(groups: int, ndim: int) -> None:
    function = mx.conv1d if ndim == 1 else mx.conv2d
    x = normal(2, *(13,) * ndim, 32)
    w = normal(64, *(3,) * ndim, 32 // groups)
    assert_same(lambda: getattr(mx, function.__name__)(x, w, stride=2, padding=1, groups=groups))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize(("n", "c", "o"), [(1, 1, 1), (1, 6, 1), (2, 32, 16)])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [
        ((1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
        ((3, 3), (3, 1), (1, 1), (0, 0), (1, 1)),
        ((19, 17), (5, 5), (5, 5), (2, 2), 1),
        ((12, 15), (3, 2), (1, 2), (3, 0), (2, 3)),
        ((20, 11), (7, 7), 1, 3, 1),
    ],
)
def test_two_dimensions(
    n: int,
    c: int,
    o: int,
    size: tuple,
    kernel: tuple,
    stride: object,
    padding: object,
    dilation: object,
    dtype: mx.Dtype,
) -> None:
    x, w = normal(n, *size, c, dtype=dtype), normal(o, *kernel, c, dtype=dtype)
    assert_same(lambda: mx.conv2d(x, w, stride, padding, dilation))


THREE_DIMENSIONS = [
    ((1, 1, 1), (1, 1, 1), 1, 0, 1),
    ((3, 3, 3), (3, 1, 1), 1, 0, 1),
    ((7, 9, 8), (5, 5, 5), (5, 5, 5), (2, 2, 2), 1),
    ((5, 8, 8), (3, 3, 3), 1, 1, 1),
    ((6, 9, 7), (2, 3, 3), (2, 1, 1), (0, 1, 1), (1, 1, 1)),
    ((9, 9, 9), (3, 2, 4), (1, 2, 3), (1, 0, 2), (2, 3, 1)),
    ((2, 12, 10), (2, 4, 5), (2, 4, 5), 0, 1),
]


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
@pytest.mark.parametrize(("n", "c", "o"), [(1, 1, 1), (2, 6, 1), (1, 16, 32)])
@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation"), THREE_DIMENSIONS)
def test_three_dimensions(
    n: int,
    c: int,
    o: int,
    size: tuple,
    kernel: tuple,
    stride: object,
    padding: object,
    dilation: object,
    dtype: mx.Dtype,
) -> None:
    x, w = normal(n, *size, c, dtype=dtype), normal(o, *kernel, c, dtype=dtype)
    assert_same(lambda: mx.conv3d(x, w, stride, padding, dilation))


GENERAL = [
    {"stride": 2, "padding": 1},
    {"stride": (2, 1, 3), "padding": [1, 0, 2]},
    {"padding": ([1, 0, 2], [0, 3, 1])},
    {"padding": ([2], [1])},
    {"stride": [2], "padding": [1], "kernel_dilation": [2], "input_dilation": [2]},
    {"stride": [], "padding": []},
    {"padding": -1},
    {"padding": ([-1, 2, 0], [1, -2, -1]), "flip": True},
    {"padding": ([-1, 0, 0], [0, -2, 1]), "input_dilation": 2},
    {"kernel_dilation": (1, 2, 1), "padding": 2, "flip": True},
    {"input_dilation": (2, 1, 3), "padding": 1},
    {"input_dilation": 2, "stride": 2, "kernel_dilation": 2, "padding": 3, "flip": True},
    {"flip": True},
]


@pytest.mark.parametrize("options", GENERAL)
def test_general(options: dict[str, object]) -> None:
    x, w = normal(1, 5, 6, 7, 4), normal(6, 3, 3, 3, 4)
    assert_same(lambda: mx.conv_general(x, w, **options))


@pytest.mark.parametrize("ndim", [1, 2])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("input_dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_general_of_lower_dimensions(ndim: int, flip: bool, input_dilation: int, groups: int) -> None:
    x, w = normal(2, *(9, 8)[:ndim], 4), normal(8, *(3, 2)[:ndim], 4 // groups)
    assert_same(
        lambda: mx.conv_general(x, w, 2, 1, 1, input_dilation, groups, flip),
    )


@pytest.mark.parametrize(
    ("stride", "padding", "output_padding"), [(1, 0, 0), (2, 0, 0), (2, 1, 1), (3, 2, 0)]
)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_transposed(ndim: int, stride: int, padding: int, output_padding: int) -> None:
    x, w = normal(2, *(4, 5, 3)[:ndim], 4), normal(6, *(3, 3, 3)[:ndim], 4)
    name = f"conv_transpose{ndim}d"
    assert_same(lambda: getattr(mx, name)(x, w, stride, padding, output_padding=output_padding))


def test_transposed_padding_beyond_the_kernel() -> None:
    """MLX crops input elements then, which is not the cut of the full result; callers have what they have."""
    x, w = normal(1, 6, 5, 7, 2), normal(3, 2, 2, 2, 2)
    assert_same(lambda: mx.conv_transpose3d(x, w, stride=2, padding=2))


@pytest.mark.parametrize("view", ["NCTHW", "sliced", "stepped", "broadcast", "reversed"])
def test_views(view: str) -> None:
    x = {
        "NCTHW": lambda: mx.moveaxis(normal(1, 4, 5, 6, 7), 1, -1),
        "sliced": lambda: normal(2, 7, 8, 9, 6)[1:, 1:6, 2:, 3:, 1:5],
        "stepped": lambda: normal(1, 10, 6, 14, 8)[:, ::2, :, ::2, ::2],
        "broadcast": lambda: mx.broadcast_to(normal(1, 1, 6, 7, 4), (2, 5, 6, 7, 4)),
        "reversed": lambda: normal(1, 5, 6, 7, 4)[:, ::-1, :, ::-1],
    }[view]()
    w = mx.moveaxis(normal(5, 4, 3, 3, 3), 1, -1)
    assert_same(lambda: mx.conv3d(x, w, padding=1))


@pytest.mark.parametrize(
    ("x_type", "w_type"),
    [
        (mx.float32, mx.float16),
        (mx.bfloat16, mx.float32),
        (mx.float16, mx.bfloat16),
        (mx.float16, mx.float16),
        (mx.float32, mx.int32),
        (mx.float16, mx.int8),
        (mx.bfloat16, mx.bool_),
        (mx.float32, mx.complex64),
    ],
)
def test_types(x_type: mx.Dtype, w_type: mx.Dtype) -> None:
    x = normal(1, 3, 5, 5, 4).astype(x_type)
    w = (normal(4, 3, 3, 3, 4) * 3).astype(w_type)
    assert_same(lambda: mx.conv3d(x, w, padding=1))


def test_float64() -> None:
    x, w = (normal(*shape).astype(mx.float64, stream=mx.cpu) for shape in ((1, 6, 5, 4), (4, 3, 3, 4)))
    with mx.stream(mx.cpu):
        expected = mx.conv2d(x, w)
        with mlx_conv3d.patched():
            found = mx.conv2d(x, w)
        assert found.dtype == mx.float64
        np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((0, 4, 4, 4, 2), (3, 3, 3, 3, 2), {}),
        ((1, 0, 4, 4, 2), (3, 3, 3, 3, 2), {"padding": 2}),
        ((0, 4, 4, 2), (3, 3, 3, 2), {}),
        ((0, 4, 2), (3, 3, 2), {"stride": 2}),
    ],
)
def test_sizes_of_zero(shape: tuple, kernel: tuple, options: dict[str, int]) -> None:
    x, w = mx.zeros(shape), mx.ones(kernel)
    name = f"conv{len(shape) - 2}d"
    assert_same(lambda: getattr(mx, name)(x, w, **options))


def test_numpy_convolution() -> None:
    a, v = normal(25), normal(5)
    for mode in ("full", "same", "valid"):
        with mlx_conv3d.patched():
            found = mx.convolve(a, v, mode=mode)
        np.testing.assert_allclose(np.array(found), np.convolve(np.array(a), np.array(v), mode), atol=1e-5)


def test_a_line_is_a_narrow_plane() -> None:
    x, w = normal(2, 10, 16), normal(16, 3, 16)
    with mlx_conv3d.patched():
        plane = mx.conv2d(x[:, :, None], w[:, :, None], padding=(1, 0))
        assert close(mx.conv1d(x, w, padding=1), plane.squeeze(2))


def test_repetition_is_exact() -> None:
    """The same call gives the same bits, whatever ran between."""
    x, w = normal(1, 3, 3, 320), normal(320, 3, 3, 320)
    with mlx_conv3d.patched():
        first = np.array(mx.conv2d(x, w, 1, 1))
        for _ in range(8):
            mx.eval(mx.conv3d(normal(1, 4, 6, 6, 8), normal(8, 3, 3, 3, 8)))
            assert np.array_equal(np.array(mx.conv2d(x, w, 1, 1)), first)


def test_large_filter() -> None:
    x, w = normal(1, 61, 61, 1), normal(1, 62, 62, 1)
    assert_same(lambda: mx.conv2d(x, w, (1, 1), (1, 1)))


# Gradients


def assert_same_gradients(f: Callable[..., mx.array], *primals: mx.array) -> None:
    def gradients() -> list[mx.array]:
        y = f(*primals)
        return mx.vjp(f, list(primals), [normal(*y.shape, seed=9).astype(y.dtype)])[1]

    expected = gradients()
    mx.eval(expected)
    with mlx_conv3d.patched():
        found = gradients()
    for a, b in zip(found, expected, strict=True):
        assert close(a, b)


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation"), THREE_DIMENSIONS)
def test_gradients_of_three_dimensions(
    size: tuple, kernel: tuple, stride: object, padding: object, dilation: object
) -> None:
    x, w = normal(2, *size, 3), normal(4, *kernel, 3)
    assert_same_gradients(lambda x, w: mx.conv3d(x, w, stride, padding, dilation), x, w)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_gradients_with_groups(groups: int, flip: bool) -> None:
    for x, w in (
        (normal(1, 5, 4), normal(8, 3, 4 // groups)),
        (normal(2, 5, 6, 4), normal(8, 3, 2, 4 // groups)),
    ):
        assert_same_gradients(
            lambda x, w: mx.conv_general(x, w, stride=2, padding=1, groups=groups, flip=flip), x, w
        )


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_gradients_of_transposed(ndim: int) -> None:
    x, w = normal(1, *(4, 5, 3)[:ndim], 3), normal(4, *(3, 2, 3)[:ndim], 3)
    name = f"conv_transpose{ndim}d"
    assert_same_gradients(lambda x, w: getattr(mx, name)(x, w, stride=2), x, w)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "stride", "groups"),
    [
        ((3, 5, 4), (6, 2, 2), (2,), 2),
        ((3, 5, 4), (24, 2, 1), (2,), 4),
        ((3, 5, 5, 4), (6, 2, 2, 2), (2, 1), 2),
        ((3, 5, 5, 4), (24, 2, 2, 1), (2, 2), 4),
    ],
)
def test_gradient_shapes(x_shape: tuple, w_shape: tuple, stride: tuple, groups: int) -> None:
    x = mx.zeros(x_shape)
    with mlx_conv3d.patched():
        gradient = mx.grad(lambda w: mx.conv_general(x, w, stride=stride, groups=groups).sum())(
            mx.zeros(w_shape)
        )
    assert gradient.shape == w_shape


# Layers


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Conv1d": (lambda: nn.Conv1d(6, 8, 3, stride=2, padding=1, dilation=2, groups=2), (2, 15, 6)),
    "Conv2d": (lambda: nn.Conv2d(6, 8, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), (2, 9, 8, 6)),
    "Conv2d without bias": (lambda: nn.Conv2d(6, 8, 3, bias=False), (2, 9, 8, 6)),
    "Conv3d": (
        lambda: nn.Conv3d(6, 8, (3, 3, 2), stride=(1, 2, 1), padding=(1, 1, 0), dilation=(1, 1, 2)),
        (2, 4, 9, 8, 6),
    ),
    "Conv3d, ints": (lambda: nn.Conv3d(6, 8, 3, 1, 1), (1, 4, 5, 6, 6)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(6, 8, 3, stride=2, output_padding=1), (2, 7, 6)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1), (2, 7, 5, 6)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(6, 8, 2, stride=2), (1, 3, 4, 5, 6)),
    "ConvTranspose3d k4": (
        lambda: nn.ConvTranspose3d(6, 8, 4, stride=2, padding=1, bias=False),
        (2, 3, 6, 5, 6),
    ),
    "ConvTranspose3d k3": (
        lambda: nn.ConvTranspose3d(6, 8, 3, stride=(1, 2, 2), padding=1, output_padding=(0, 1, 1)),
        (1, 3, 6, 5, 6),
    ),
    "ConvTranspose3d, dilated": (
        lambda: nn.ConvTranspose3d(6, 8, (2, 3, 2), stride=3, dilation=2),
        (1, 3, 4, 5, 6),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    make, shape = LAYERS[name]
    layer, x = make(), normal(*shape)
    assert_same(lambda: layer(x))


@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose3d"])
@pytest.mark.parametrize("wrong", ["channels", "dimensions", "too small", "type"])
def test_layer_errors(name: str, wrong: str) -> None:
    make, shape = LAYERS[name]
    layer = make()
    x = {
        "channels": mx.zeros((*shape[:-1], 5)),
        "dimensions": mx.zeros(shape[1:]),
        "too small": mx.zeros((1, *(1,) * (len(shape) - 2), shape[-1])),
        "type": mx.zeros(shape, dtype=mx.int32),
    }[wrong]
    if name == "ConvTranspose3d" and wrong == "too small":
        assert_same(lambda: layer(x))
        return
    assert_same_error(lambda: layer(x))


# Errors


def assert_same_error(call: Call) -> None:
    expected = error_of(call)
    with mlx_conv3d.patched():
        found = error_of(call)
    assert type(found) is type(expected)
    assert str(found) == str(expected)


X5, W5 = (1, 4, 4, 4, 2), (2, 3, 3, 3, 2)
ERRORS: dict[str, Call] = {
    "stride 0": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), stride=0),
    "stride negative": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), stride=(1, -1, 1)),
    "dilation 0": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), dilation=0),
    "input dilation 0": lambda: mx.conv_general(mx.ones(X5), mx.ones(W5), input_dilation=0),
    "kernel too large": lambda: mx.conv3d(mx.ones((1, 2, 4, 4, 2)), mx.ones(W5)),
    "dilated kernel too large": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), dilation=(1, 2, 1)),
    "crop leaves too little": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), padding=-1),
    "crop leaves nothing": lambda: mx.conv3d(mx.ones(X5), mx.ones((2, 1, 1, 1, 2)), padding=-3),
    "no frames": lambda: mx.conv3d(mx.ones((1, 0, 4, 4, 2)), mx.ones(W5), padding=1),
    "integers": lambda: mx.conv3d(mx.ones(X5, dtype=mx.int32), mx.ones(W5)),
    "complex": lambda: mx.conv3d(mx.ones(X5, dtype=mx.complex64), mx.ones(W5)),
    "channels": lambda: mx.conv3d(mx.ones(X5), mx.ones((2, 3, 3, 3, 3))),
    "channels 2-D": lambda: mx.conv2d(mx.ones((1, 4, 4, 2)), mx.ones((2, 3, 3, 3))),
    "channels 1-D": lambda: mx.conv1d(mx.ones((1, 4, 2)), mx.ones((2, 3, 3))),
    "x of 4 dimensions": lambda: mx.conv3d(mx.ones((1, 4, 4, 2)), mx.ones(W5)),
    "both of 4 dimensions": lambda: mx.conv3d(mx.ones((1, 4, 4, 2)), mx.ones((2, 3, 3, 2))),
    "w of 4 dimensions": lambda: mx.conv3d(mx.ones(X5), mx.ones((2, 3, 3, 2))),
    "2-D of 5 dimensions": lambda: mx.conv2d(mx.ones(X5), mx.ones(W5)),
    "6 dimensions": lambda: mx.conv_general(mx.ones((1, 4, 4, 4, 4, 2)), mx.ones((2, 3, 3, 3, 3, 2))),
    "2 dimensions": lambda: mx.conv_general(mx.ones((4, 2)), mx.ones((2, 3))),
    "0 dimensions": lambda: mx.conv_general(mx.array(1.0), mx.array(1.0)),
    "groups of x": lambda: mx.conv2d(mx.ones((1, 4, 4, 2)), mx.ones((2, 3, 3, 2)), groups=3),
    "groups of w": lambda: mx.conv2d(mx.ones((1, 4, 4, 2)), mx.ones((3, 3, 3, 1)), groups=2),
    "channels per group": lambda: mx.conv2d(mx.ones((1, 4, 4, 4)), mx.ones((2, 3, 3, 1)), groups=2),
    "channels per group 1-D": lambda: mx.conv1d(mx.ones((1, 4, 4)), mx.ones((2, 3, 1)), groups=2),
    "negative groups": lambda: mx.conv2d(mx.ones((1, 4, 4, 2)), mx.ones((2, 3, 3, 2)), groups=-1),
    "two strides": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), stride=(1, 1)),
    "two strides, general": lambda: mx.conv_general(mx.ones(X5), mx.ones(W5), stride=(1, 1)),
    "four strides, general": lambda: mx.conv_general(mx.ones(X5), mx.ones(W5), stride=(1, 1, 1, 1)),
    "paddings of two lengths": lambda: mx.conv_general(mx.ones(X5), mx.ones(W5), padding=([1, 1], [1, 1, 1])),
    "pairs as padding": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), padding=((1, 0), 1, 1)),
    "two dilations, general": lambda: mx.conv_general(mx.ones(X5), mx.ones(W5), kernel_dilation=[1, 1]),
    "two input dilations": lambda: mx.conv_general(mx.ones(X5), mx.ones(W5), input_dilation=[1, 1]),
    "keywords for x and w": lambda: mx.conv3d(input=mx.ones(X5), weight=mx.ones(W5)),
    "our keywords for x and w": lambda: mx.conv3d(x=mx.ones(X5), w=mx.ones(W5)),
    "our extras": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), bias=mx.ones((2,))),
    "our algorithm": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), algorithm="auto"),
    "positional stream": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), 1, 0, 1, 1, mx.cpu),
    "string stride": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), stride="a"),
    "float stride": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), stride=1.0),
    "no stride": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), stride=None),
    "float groups": lambda: mx.conv2d(mx.ones((1, 4, 4, 2)), mx.ones((2, 3, 3, 1)), groups=2.0),
    "string flip": lambda: mx.conv_general(mx.ones(X5), mx.ones(W5), flip="yes"),
    "numpy x": lambda: mx.conv3d(np.ones(X5, np.float32), mx.ones(W5)),
    "numpy w": lambda: mx.conv3d(mx.ones(X5), np.ones(W5, np.float32)),
    "list x": lambda: mx.conv3d([[1.0]], mx.ones(W5)),
    "no x": lambda: mx.conv3d(None, mx.ones(W5)),
    "one argument": lambda: mx.conv3d(mx.ones(X5)),
    "no argument": lambda: mx.conv3d(),
    "unknown keyword": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), bogus=1),
    "stream of a wrong type": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), stream=3),
    "padding over 32 bits": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), padding=2**40),
    "conv1d with a pair": lambda: mx.conv1d(mx.ones((1, 4, 2)), mx.ones((2, 3, 2)), padding=(1, 0)),
    "transposed: nothing left": lambda: mx.conv_transpose3d(mx.ones((1, 1, 1, 1, 2)), mx.ones(W5), padding=2),
    "transposed: channels": lambda: mx.conv_transpose3d(mx.ones(X5), mx.ones((2, 3, 3, 3, 3))),
    "transposed: stride 0": lambda: mx.conv_transpose3d(mx.ones(X5), mx.ones(W5), stride=0),
    "transposed: dimensions": lambda: mx.conv_transpose3d(mx.ones((1, 4, 4, 2)), mx.ones((2, 3, 3, 2))),
    "transposed 1-D: no int": lambda: mx.conv_transpose1d(mx.ones((1, 4, 2)), mx.ones((2, 3, 2)), (2,)),
    "transposed 1-D: channels": lambda: mx.conv_transpose1d(mx.ones((1, 4, 2)), mx.ones((2, 3, 3))),
    "transposed 2-D: stride 0": lambda: mx.conv_transpose2d(
        mx.ones((1, 4, 4, 2)), mx.ones((2, 3, 3, 2)), stride=0
    ),
    "transposed: integers": lambda: mx.conv_transpose3d(mx.ones(X5, dtype=mx.int32), mx.ones(W5)),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    assert_same_error(ERRORS[name])


ACCEPTED: dict[str, Call] = {
    "1-D of 4 dimensions": lambda: mx.conv1d(mx.ones((1, 4, 4, 2)), mx.ones((2, 3, 3, 2)), 2, 1),
    "list stride": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), stride=[1, 2, 1]),
    "numpy stride": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), stride=np.int64(2)),
    "bool stride": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), stride=True),
    "positional": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), 1, (1, 0, 1), 1, 1, stream=mx.cpu),
    "device stream": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), stream=mx.default_device()),
    "stream": lambda: mx.conv3d(mx.ones(X5), mx.ones(W5), stream=mx.default_stream(mx.cpu)),
    "general, all positional": lambda: mx.conv_general(mx.ones(X5), mx.ones(W5), 1, 1, 1, 1, 1, True),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_arguments(name: str) -> None:
    assert_same(ACCEPTED[name])


@pytest.mark.parametrize("name", patching.NAMES)
def test_functions_keep_their_looks(name: str) -> None:
    stock = getattr(mx, name)
    with mlx_conv3d.patched():
        function = getattr(mx, name)
        assert function.__name__ == stock.__name__
        assert function.__doc__ == stock.__doc__
        assert callable(function)
