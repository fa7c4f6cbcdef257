"""Transposed 3-D convolutions: PyTorch's parameters, and the gradients, against float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as mx_nn
import numpy as np
import operands
import problems
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_conv3d
from mlx_conv3d import _arguments as arguments
from mlx_conv3d import conv_transpose3d, functional, plan, prepare
from mlx_conv3d.planning import plan_of

Three = tuple[int, int, int]


@dataclass(frozen=True)
class Case:
    """x (batch, *sizes, groups * c), w (groups * o, *kernel, c), channels being (groups, c, o)."""

    sizes: Three
    kernel: Three
    stride: Three = (1, 1, 1)
    padding: Three = (0, 0, 0)
    dilation: Three = (1, 1, 1)
    output_padding: Three = (0, 0, 0)
    channels: Three = (1, 4, 6)
    batch: int = 1
    bias: bool = False
    dtype: str = "float32"
    layout: str = "contiguous"

    @property
    def conv(self) -> reference.Conv:
        return reference.transpose_conv(
            self.kernel, self.stride, self.padding, self.dilation, self.output_padding, self.channels[0]
        )

    @property
    def out_sizes(self) -> tuple[int, ...]:
        """PyTorch's formula."""
        axes = zip(
            self.sizes,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.output_padding,
            strict=True,
        )
        return tuple((n - 1) * s - 2 * p + d * (k - 1) + extra + 1 for n, k, s, p, d, extra in axes)

    @property
    def options(self) -> dict[str, object]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "output_padding": self.output_padding,
            "groups": self.channels[0],
        }

    def arrays(self) -> dict[str, mx.array]:
        groups, c, o = self.channels
        rng = np.random.default_rng(7)
        x = rng.normal(size=(self.batch, *self.sizes, groups * c))
        w = rng.normal(size=(groups * o, *self.kernel, c)) / math.sqrt(max(1, c * math.prod(self.kernel)))
        made = {
            "x": operands.laid_out(x.astype(np.float32), self.dtype, self.layout),
            "w": operands.laid_out(w.astype(np.float32), self.dtype, "contiguous"),
        }
        if self.bias:
            made["bias"] = mx.array(rng.normal(size=groups * o).astype(np.float32)).astype(made["x"].dtype)
        return made

    def run(self, arrays: dict[str, mx.array], algorithm: str = "auto") -> mx.array:
        """conv_transpose3d, by an algorithm of the caller's where one is named."""
        if algorithm == "auto":
            return conv_transpose3d(arrays["x"], arrays["w"], **self.options, bias=arrays.get("bias"))
        parameters = arguments.transposed(3, self.kernel, **self.options)
        return functional.run(
            arrays["x"], arrays["w"], parameters, bias=arrays.get("bias"), algorithm=algorithm
        )


def scattered(x: np.ndarray, w: np.ndarray, case: Case) -> np.ndarray:
    """The transposed convolution by its definition: every input adds its taps to the output."""
    groups, c, o = case.channels
    full = [
        (n - 1) * s + d * (k - 1) + 1
        for n, k, s, d in zip(case.sizes, case.kernel, case.stride, case.dilation, strict=True)
    ]
    y = np.zeros((case.batch, *(f + e for f, e in zip(full, case.output_padding, strict=True)), groups * o))
    for tap in np.ndindex(*case.kernel):
        at = tuple(
            slice(k * d, k * d + (n - 1) * s + 1, s)
            for k, d, n, s in zip(tap, case.dilation, case.sizes, case.stride, strict=True)
        )
        for g in range(groups):
            part = x[..., g * c : (g + 1) * c] @ w[(slice(g * o, (g + 1) * o), *tap)].T
            y[(slice(None), *at, slice(g * o, (g + 1) * o))] += part
    kept = tuple(slice(p, n - p) for p, n in zip(case.padding, y.shape[1:-1], strict=True))
    return y[(slice(None), *kept)]


def check(case: Case) -> None:
    arrays = case.arrays()
    if min(case.out_sizes) <= 0:
        with pytest.raises(ValueError, match="smaller"):
            case.run(arrays)
        return
    exact = {name: operands.float64(a) for name, a in arrays.items()}
    y = case.run(arrays)
    truth = scattered(exact["x"], exact["w"], case) + exact.get("bias", 0)
    assert y.shape == truth.shape == (case.batch, *case.out_sizes, case.channels[0] * case.channels[2])
    scale = max(
        reference.norm(truth),
        reference.expected_norm(exact["x"], exact["w"], case.conv, bias=exact.get("bias")),
    )
    error = reference.norm(operands.float64(y) - truth)
    assert error <= reference.error_bound(truth, case.dtype, 3e-6, scale)
    check_gradients(case, arrays, exact)


def check_gradients(case: Case, arrays: dict[str, mx.array], exact: dict[str, np.ndarray]) -> None:
    names = list(arrays)
    rng = np.random.default_rng(8)
    shape = (case.batch, *case.out_sizes, case.channels[0] * case.channels[2])
    cotangent = mx.array(rng.normal(size=shape).astype(np.float32)).astype(arrays["x"].dtype)
    _, found = mx.vjp(
        lambda *given: case.run(dict(zip(names, given, strict=True))), list(arrays.values()), [cotangent]
    )
    dy = operands.float64(cotangent)
    truth = reference.adjoint(dy, exact["x"], exact["w"], case.conv, bias=exact.get("bias"))
    energy = reference.adjoint(dy**2, exact["x"] ** 2, exact["w"] ** 2, case.conv)
    for name, gradient in zip(names, found, strict=True):
        expected = getattr(truth, name)
        assert gradient.shape == expected.shape, name
        scale = max(reference.norm(expected), math.sqrt(getattr(energy, name).sum()))
        most = reference.error_bound(expected, case.dtype, 1e-5, scale)
        if case.dtype != "float32" and name == "bias":
            most += 2**-7 * scale
        assert reference.norm(operands.float64(gradient) - expected) <= most, name


CHANNELS = (
    (1, 3, 5),
    (1, 16, 8),
    (1, 32, 33),
    (1, 1, 1),
    (3, 1, 1),
    (2, 4, 3),
    (8, 1, 1),
    (17, 1, 2),
    (4, 8, 8),
    (2, 40, 33),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def three(*values: int) -> Three:
        return tuple(draw(st.sampled_from(values)) for _ in range(3))

    kernel, dilation = three(1, 2, 3, 3, 4, 5), three(1, 1, 1, 2, 3)
    if draw(st.booleans()):
        side = draw(st.sampled_from((3, 4)))
        kernel, dilation = (kernel[0], side, side), (dilation[0], 1, 1)
    stride = three(1, 2, 2, 2, 3, 4)
    # PyTorch wants an output padding below the stride or the dilation.
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    return Case(
        sizes=three(1, 2, 3, 5, 7),
        kernel=kernel,
        stride=stride,
        padding=three(0, 0, 1, 1, 2, 3),
        dilation=dilation,
        output_padding=extra,
        channels=draw(st.sampled_from(CHANNELS)),
        batch=draw(st.sampled_from((1, 1, 2))),
        bias=draw(st.booleans()),
        dtype=draw(st.sampled_from(("float32", "float32", "float16", "bfloat16"))),
        layout=draw(st.sampled_from(("contiguous", "contiguous", "channels_first", "stepped"))),
    )


@settings(max_examples=settings.default.max_examples)
@given(case=cases())
def test_drawn(case: Case) -> None:
    check(case)


PICKED = {
    "k4 s2 p1": Case((4, 9, 8), (4, 4, 4), (2, 2, 2), (1, 1, 1), channels=(1, 16, 24), bias=True),
    "k4 s2 p1, batch 3": Case((3, 6, 7), (4, 4, 4), (2, 2, 2), (1, 1, 1), channels=(1, 17, 5), batch=3),
    "k4 s2 p0": Case((2, 5, 6), (4, 4, 4), (2, 2, 2), channels=(1, 8, 8)),
    "k4 s2, cut to the middle": Case((5, 6, 7), (4, 4, 4), (2, 2, 2), (3, 3, 3), channels=(1, 8, 8)),
    "k4 s2, cut further": Case((5, 6, 7), (4, 4, 4), (2, 2, 2), (4, 4, 4), channels=(1, 8, 8)),
    "k4 s1 in time": Case((3, 6, 7), (3, 4, 4), (1, 2, 2), (1, 1, 1), channels=(1, 8, 8)),
    "k3 s2 p1 op1": Case(
        (4, 9, 8), (3, 3, 3), (2, 2, 2), (1, 1, 1), output_padding=(1, 1, 1), channels=(1, 16, 24)
    ),
    "k3 s2, time dilated": Case(
        (4, 6, 5), (3, 3, 3), (2, 2, 2), (1, 1, 1), dilation=(3, 1, 1), channels=(1, 8, 8)
    ),
    "k2 s2": Case((4, 9, 8), (2, 2, 2), (2, 2, 2), channels=(1, 16, 24), bias=True),
    "one pixel": Case((1, 1, 1), (4, 4, 4), (2, 2, 2), (1, 1, 1), channels=(1, 16, 8)),
    "stride over kernel": Case((3, 4, 5), (2, 3, 1), (4, 5, 3), output_padding=(3, 4, 2), channels=(1, 5, 7)),
    "dilation over stride": Case(
        (4, 5, 3), (3, 2, 3), (2, 2, 3), dilation=(3, 4, 2), output_padding=(2, 3, 2)
    ),
    "no batch": Case((2, 3, 3), (4, 4, 4), (2, 2, 2), (1, 1, 1), batch=0),
    "no outputs": Case((2, 3, 3), (4, 4, 4), (2, 2, 2), (1, 1, 1), channels=(1, 4, 0)),
    "no inputs": Case((2, 3, 3), (4, 4, 4), (2, 2, 2), (1, 1, 1), channels=(1, 0, 4), bias=True),
    "depthwise": Case((3, 8, 9), (4, 4, 4), (2, 2, 2), (1, 1, 1), channels=(33, 1, 1), bias=True),
    "depthwise, phases without taps": Case(
        (3, 4, 5), (2, 1, 2), (3, 3, 3), output_padding=(1, 1, 1), channels=(9, 1, 1)
    ),
    "depthwise, dilated": Case((3, 4, 40), (3, 2, 5), (2, 3, 4), dilation=(1, 2, 6), channels=(8, 1, 1)),
    "groups": Case((3, 5, 40), (4, 4, 4), (2, 2, 2), (1, 1, 1), channels=(4, 8, 8)),
    "large groups": Case((3, 5, 6), (4, 4, 4), (2, 2, 2), (1, 1, 1), channels=(2, 40, 48)),
    "bf16": Case(
        (3, 8, 7), (4, 4, 4), (2, 2, 2), (1, 1, 1), channels=(1, 32, 16), dtype="bfloat16", bias=True
    ),
}


@pytest.mark.parametrize("name", PICKED)
def test_picked(name: str) -> None:
    check(PICKED[name])


@pytest.mark.parametrize(
    ("kernel", "size", "tile"), [(3, 10, 4), (3, 6, 6), (3, 8, 8), (4, 9, 4), (4, 8, 6), (4, 7, 8)]
)
@pytest.mark.parametrize(("taps", "channels"), [(1, 64), (4, 192), (3, 256)])
def test_every_tile_of_dilated_pixels(kernel: int, size: int, tile: int, taps: int, channels: int) -> None:
    """By Winograd, within the contract. Prepared weights, or the large tiles would not pay at these sizes."""
    case = Case(
        (2, size, size), (taps, kernel, kernel), (1, 2, 2), (taps // 2, 1, 1), channels=(1, channels, 16)
    )
    arrays = case.arrays()
    ends = [(k - 1 - p, k - 1 - p) for k, p in zip(case.kernel, case.padding, strict=True)]
    planned = plan(
        arrays["x"].shape,
        arrays["w"].shape,
        padding=ends,
        input_dilation=case.stride,
        flip=True,
        prepared=True,
        algorithm="winograd",
    )
    assert (planned.algorithm, planned.tile, planned.pixels) == ("winograd", tile, "dilated")
    truth = scattered(operands.float64(arrays["x"]), operands.float64(arrays["w"]), case)
    y = case.run({**arrays, "w": prepare(arrays["w"])}, "winograd")
    error = reference.norm(operands.float64(y) - truth) / reference.norm(truth)
    assert error <= reference.float32_bound("winograd", taps * channels)


def test_the_reference_is_the_definition() -> None:
    """The convolution of the dilated input that the gradients are taken of, against the scattered taps."""
    for case in (PICKED["dilation over stride"], PICKED["groups"], PICKED["k3 s2 p1 op1"]):
        x, w = (operands.float64(case.arrays()[name]) for name in ("x", "w"))
        assert np.allclose(reference.forward(x, w, case.conv), scattered(x, w, case), atol=1e-12)


def test_grouped_is_direct_by_phases() -> None:
    shapes = (1, 4, 9, 9, 32), (32, 4, 4, 4, 1)
    planned = plan(*shapes, padding=2, input_dilation=2, groups=32, flip=True)
    assert planned.algorithm == "grouped"
    assert planned.flops < 0.2 * planned.direct_flops
    assert (
        mlx_conv3d.plan((1, 4, 9, 9, 128), (128, 4, 4, 4, 64), input_dilation=2, groups=2).algorithm
        == "transposed"
    )


def in_rows(case: Case) -> bool:
    """Whether the phases all read the same row in place."""
    groups, c, o = case.channels
    dtype = operands.dtype_of(case.dtype)
    planned = plan_of(
        (case.batch, *case.sizes, groups * c),
        (groups * o, *case.kernel, c),
        arguments.transposed(3, case.kernel, **case.options),
        x_type=dtype,
        w_type=dtype,
    )
    return any("same inputs" in candidate.reason for candidate in planned.candidates)


ROWS = {
    "k4 s2 p1": Case((1, 1, 70), (1, 1, 4), (1, 1, 2), (0, 0, 1), channels=(1, 24, 32), batch=3, bias=True),
    "k16 s8 p4": Case((1, 1, 30), (1, 1, 16), (1, 1, 8), (0, 0, 4), channels=(1, 16, 20)),
    "k16 s8 p4, more products than a block": Case((1, 1, 130), (1, 1, 16), (1, 1, 8), (0, 0, 4), channels=(1, 300, 70)),
    "k6 s2 p0": Case((1, 1, 21), (1, 1, 6), (1, 1, 2), channels=(1, 17, 16), batch=2),
    "k5 s5": Case((1, 1, 33), (1, 1, 5), (1, 1, 5), (0, 0, 2), channels=(1, 12, 16)),
    "cut to a few": Case((1, 1, 9), (1, 1, 8), (1, 1, 4), (0, 0, 7), channels=(1, 12, 16)),
    "bf16": Case((1, 1, 40), (1, 1, 16), (1, 1, 8), (0, 0, 4), channels=(1, 16, 32), batch=2, dtype="bfloat16"),
    "channels first": Case((1, 1, 40), (1, 1, 4), (1, 1, 2), (0, 0, 1), channels=(1, 16, 32), layout="channels_first"),
    "stepped": Case((1, 1, 40), (1, 1, 4), (1, 1, 2), (0, 0, 1), channels=(1, 16, 32), batch=2, layout="stepped"),
    "sliced": Case((1, 1, 40), (1, 1, 4), (1, 1, 2), (0, 0, 1), channels=(1, 16, 32), batch=2, layout="sliced"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_phases(name: str) -> None:
    """1-D layers whose kernel is some strides long."""
    # Many weights want more positions, the more threads there are.
    assert in_rows(ROWS[name]) or mlx_conv3d._ext.threads() > 2
    check(ROWS[name])


@given(
    step=st.integers(2, 8),
    strides=st.integers(1, 4),
    size=st.integers(1, 40),
    padding=st.integers(0, 9),
    extra=st.integers(0, 7),
    channels=st.sampled_from([(1, 1, 16), (1, 8, 24), (1, 33, 16), (1, 20, 3)]),
    batch=st.integers(1, 3),
    bias=st.booleans(),
    dtype=st.sampled_from(["float32", "float32", "float16", "bfloat16"]),
)
def test_drawn_rows_of_phases(
    step: int,
    strides: int,
    size: int,
    padding: int,
    extra: int,
    channels: Three,
    batch: int,
    bias: bool,
    dtype: str,
) -> None:
    """Those that go on behind the last input's taps, and short ones, take the general way."""
    check(
        Case(
            (1, 1, size),
            (1, 1, step * strides),
            (1, 1, step),
            (0, 0, padding),
            output_padding=(0, 0, min(extra, step - 1)),
            channels=channels,
            batch=batch,
            bias=bias,
            dtype=dtype,
        )
    )


@pytest.mark.parametrize("padding", [(3, 2), (5, 5), (0, 1), (4, 7)])
def test_rows_of_phases_that_are_not_flipped(padding: tuple[int, int]) -> None:
    problem = problems.of((2, 30, 16), (24, 6, 16), input_dilation=3, padding=(padding,))
    operands.check_run(problem, "transposed")


LOWER: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, object]]] = {
    "1-D": ((2, 19, 8), (6, 4, 8), {"stride": 2, "padding": 1}),
    "1-D, a vocoder's": ((1, 40, 32), (16, 16, 32), {"stride": 8, "padding": 4}),
    "1-D, groups": ((2, 13, 12), (18, 3, 4), {"stride": 3, "groups": 3, "output_padding": 2}),
    "1-D, dilated": ((1, 11, 4), (6, 3, 4), {"stride": 2, "dilation": 3, "padding": 2, "output_padding": 1}),
    "2-D": ((2, 9, 7, 8), (6, 3, 3, 8), {"stride": 2, "padding": 1, "output_padding": 1}),
    "2-D, kernel as large as the stride": ((1, 8, 9, 16), (32, 2, 2, 16), {"stride": 2}),
    "2-D, depthwise": ((1, 8, 9, 16), (16, 4, 4, 1), {"stride": 2, "padding": 1, "groups": 16}),
    "2-D, sides that differ": (
        (1, 5, 9, 4),
        (6, 4, 3, 4),
        {"stride": (1, 3), "padding": (2, 0), "dilation": (2, 1)},
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LOWER)
def test_lower_dimensions(name: str, dtype: str) -> None:
    """Values and gradients of conv_transpose3d with the axes that lack."""
    x_shape, w_shape, options = LOWER[name]
    dims = len(x_shape) - 2
    rng = np.random.default_rng(3)
    x, w, bias = (
        mx.array(rng.normal(size=shape).astype(np.float32)).astype(getattr(mx, dtype))
        for shape in (x_shape, w_shape, w_shape[:1])
    )
    function = {1: mlx_conv3d.conv_transpose1d, 2: mlx_conv3d.conv_transpose2d}[dims]
    missing = tuple(range(1, 4 - dims))

    def whole(x: mx.array, w: mx.array, bias: mx.array) -> mx.array:
        def per_axis(key: str, absent: int) -> object:
            value = options.get(key, absent)
            return (absent,) * (3 - dims) + (value if isinstance(value, tuple) else (value,) * dims)

        given = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
        y = conv_transpose3d(
            mx.expand_dims(x, missing),
            mx.expand_dims(w, missing),
            **{key: per_axis(key, absent) for key, absent in given.items()},
            groups=options.get("groups", 1),
            bias=bias,
        )
        return mx.squeeze(y, missing)

    expected = whole(x, w, bias)
    y = function(x, w, **options, bias=bias)
    assert y.shape == expected.shape
    assert mx.array_equal(y, expected)
    assert mx.array_equal(function(x, prepare(w), **options, bias=bias), y)
    cotangent = mx.array(rng.normal(size=y.shape).astype(np.float32)).astype(y.dtype)
    _, found = mx.vjp(lambda x, w, bias: function(x, w, **options, bias=bias), [x, w, bias], [cotangent])
    _, truth = mx.vjp(whole, [x, w, bias], [cotangent])
    for a, b in zip(found, truth, strict=True):
        assert a.shape == b.shape
        assert mx.array_equal(a, b)


@pytest.mark.parametrize("dims", [1, 2])
def test_mlx_layers_of_lower_dimensions(dims: int) -> None:
    """Patched, mlx.nn's transposed layers run here, with stock's results."""
    layer = {1: mx_nn.ConvTranspose1d, 2: mx_nn.ConvTranspose2d}[dims](8, 6, 4, stride=2, padding=1)
    x = mx.array(np.random.default_rng(1).normal(size=(2, *(9, 7)[:dims], 8)).astype(np.float32))
    stock = layer(x)
    mlx_conv3d.reset_stats()
    with mlx_conv3d.patched():
        y = layer(x)
    found = mlx_conv3d.stats()
    mlx_conv3d.reset_stats()
    assert found["fallbacks"] == {}
    assert sum(found["algorithms"].values()) == 1
    assert mx.allclose(y, stock, atol=1e-5)
