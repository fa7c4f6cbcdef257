"""The accuracy contract at realistic channel counts, without the allowance that tiny problems need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import numpy as np
import operands
import pytest
import reference
from problems import Problem, of

from mlx_conv3d import conv3d, conv_transpose3d, plan, prepare

CUBE = (3, 3, 3)
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

DATA: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "positive": lambda rng, shape: np.maximum(rng.normal(size=shape), 0),
    "shifted": lambda rng, shape: rng.normal(size=shape) + 3,
    "heavy tails": lambda rng, shape: rng.standard_t(3, size=shape),
    "large": lambda rng, shape: 1e4 * rng.normal(size=shape),
    "small": lambda rng, shape: 1e-4 * rng.normal(size=shape),
    "channels of many scales": lambda rng, shape: (
        rng.normal(size=shape) * np.exp(2 * rng.normal(size=shape[-1]))
    ),
    "smooth": lambda rng, shape: np.sin(np.arange(np.prod(shape)).reshape(shape) / (17.3 * shape[-1])) + 1.5,
}


def arrays_of(problem: Problem, data: str = "normal") -> tuple[dict[str, mx.array], np.ndarray]:
    """The arrays of the problem with x from the named distribution, and the exact result."""
    made = operands.make(problem)
    if data != "normal":
        values = DATA[data](np.random.default_rng(problem.seed + 1), problem.x).astype(np.float32)
        made.arrays["x"] = mx.array(values).astype(operands.dtype_of(problem.x_type))
        made.exact["x"] = operands.float64(made.arrays["x"])
    exact, _ = operands.solve(problem, made.exact)
    return made.arrays, exact


def relative_error(y: mx.array, exact: np.ndarray) -> float:
    return reference.norm(operands.float64(y) - exact) / reference.norm(exact)


FLOAT32: dict[str, Problem] = {
    "64 channels": of((1, 3, 26, 25, 64), (64, *CUBE, 64), padding=1),
    "96 channels": of((1, 3, 18, 18, 96), (96, *CUBE, 96), padding=1),
    "128 channels, two taps": of((1, 3, 14, 14, 128), (128, 2, 3, 3, 128), padding=(0, 1, 1)),
    "256 channels, KD*C = 768": of((1, 3, 12, 12, 256), (64, *CUBE, 256), padding=1),
    "512 channels, KD*C = 1536": of((1, 3, 12, 12, 512), (64, *CUBE, 512), padding=1),
    "1024 channels, KD*C = 3072": of((1, 3, 8, 8, 1024), (32, *CUBE, 1024), padding=1),
    "512 channels, five taps": of((1, 5, 8, 8, 512), (32, 5, 3, 3, 512), padding=(2, 1, 1)),
    "2-D, 768 channels": of((1, 14, 14, 768), (64, 3, 3, 768), padding=1),
    "2-D, 2048 channels": of((1, 8, 8, 2048), (32, 3, 3, 2048), padding=1),
    "many rows": of((1, 1, 130, 6, 32), (32, *CUBE, 32), padding=1),
    "ragged": of((1, 3, 23, 29, 33), (65, *CUBE, 33), padding=1),
    "doubled": of((1, 3, 24, 24, 256), (16, *CUBE, 256), padding=1, upsample=(1, 2, 2)),
    "spatial stride, 512 channels": of(
        (1, 3, 25, 25, 512), (64, *CUBE, 512), padding=(1, 0, 0), stride=(1, 2, 2)
    ),
    "spatial stride, 64 channels": of((1, 65, 65, 64), (64, 3, 3, 64), stride=2),
    "spatial dilation": of((1, 3, 24, 24, 256), (16, *CUBE, 256), padding=(1, 2, 2), dilation=(1, 2, 2)),
    "5x5x5, 64 channels": of((1, 3, 20, 20, 64), (48, 5, 5, 5, 64), padding=(1, 2, 2)),
    "5x5, 512 channels": of((1, 14, 14, 512), (64, 5, 5, 512), padding=2),
    "tripled": of((1, 3, 7, 8, 256), (32, *CUBE, 256), padding=1, upsample=(1, 3, 3)),
    "strided": of((1, 3, 17, 17, 128), (64, *CUBE, 128), padding=1, stride=2),
    "temporal": of((1, 9, 8, 8, 512), (128, 3, 1, 1, 512), padding=((2, 0), 0, 0)),
    "pointwise": of((1, 4, 10, 10, 2048), (96, 1, 1, 1, 2048)),
    "patches": of((16, 2, 14, 14, 3), (320, 2, 14, 14, 3), stride=(2, 14, 14)),
    "patches, long sums": of((4, 2, 28, 28, 16), (64, 2, 28, 28, 16), stride=(2, 28, 28)),
    "stem": of((1, 9, 24, 24, 3), (32, 7, 7, 7, 3), padding=3, stride=2),
    "depthwise": of((1, 4, 14, 14, 192), (192, *CUBE, 1), padding=1, groups=192),
    "groups": of((1, 4, 10, 10, 256), (256, *CUBE, 64), padding=1, groups=4),
    "upsampling": of((1, 3, 6, 6, 128), (64, 2, 2, 2, 128), padding=1, input_dilation=2, flip=True),
}


@pytest.mark.parametrize("name", FLOAT32)
def test_float32(name: str) -> None:
    problem = FLOAT32[name]
    arrays, exact = arrays_of(problem)
    bound = reference.float32_bound("auto", problem.terms)
    assert relative_error(operands.run(problem, arrays), exact) <= bound
    if problem.general:
        return
    for candidate in operands.plan_of(problem).candidates:
        if candidate.legal and candidate.algorithm != "stock":
            error = relative_error(operands.run(problem, arrays, candidate.algorithm), exact)
            assert error <= reference.float32_bound(candidate.algorithm, problem.terms), candidate.algorithm


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("size", "tile"), [(9, 4), (8, 6), (15, 8)])
@pytest.mark.parametrize(("taps", "channels"), [(1, 64), (3, 256), (3, 512)])
def test_doubled_pixels(taps: int, channels: int, size: int, tile: int, data: str) -> None:
    """Every tile of doubled pixels. Prepared weights, or the large tiles would not pay at these sizes."""
    problem = of(
        (1, 2, size, size, channels),
        (16, taps, 3, 3, channels),
        padding=(taps // 2, 1, 1),
        upsample=(1, 2, 2),
    )
    planned = plan(problem.x, problem.w, **problem.options, prepared=True)
    assert (planned.tile, planned.pixels) == (tile, "doubled")
    arrays, exact = arrays_of(problem, data)
    error = relative_error(operands.run(problem, {**arrays, "w": prepare(arrays["w"])}), exact)
    assert error <= reference.float32_bound("winograd", problem.terms)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("algorithm", ["winograd", "taps", "implicit_gemm"])
@pytest.mark.parametrize("channels", [64, 512])
def test_any_data(data: str, algorithm: str, channels: int) -> None:
    problem = of((1, 3, 14, 14, channels), (48, *CUBE, channels), padding=1)
    arrays, exact = arrays_of(problem, data)
    error = relative_error(operands.run(problem, arrays, algorithm), exact)
    assert error <= reference.float32_bound(algorithm, problem.terms)


OTHER_TILES: dict[str, Problem] = {
    "spatial stride": of((1, 65, 65, 256), (32, 3, 3, 256), stride=2),
    "spatial dilation": of((1, 26, 26, 256), (32, 3, 3, 256), padding=2, dilation=2),
    "5x5": of((1, 22, 22, 256), (32, 5, 5, 256), padding=2),
}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", OTHER_TILES)
def test_any_data_of_other_tiles(name: str, data: str) -> None:
    problem = OTHER_TILES[name]
    arrays, exact = arrays_of(problem, data)
    error = relative_error(operands.run(problem, arrays, "winograd"), exact)
    assert error <= reference.float32_bound("winograd", problem.terms)


HALF: dict[str, Problem] = {
    "64 channels": of((1, 3, 26, 25, 64), (64, *CUBE, 64), padding=1),
    "256 channels": of((1, 3, 14, 14, 256), (96, *CUBE, 256), padding=1),
    "1024 channels": of((1, 3, 8, 8, 1024), (32, *CUBE, 1024), padding=1),
    "epilogue": of(
        (1, 3, 18, 18, 64), (64, *CUBE, 64), padding=1, bias=True, residual=True, activation="silu"
    ),
    "edge, lead": of((1, 3, 18, 18, 64), (64, *CUBE, 64), padding=((1, 0), 1, 1), modes="edge", lead=2),
    "temporal": of((1, 9, 8, 8, 512), (96, 3, 1, 1, 512)),
    "pointwise": of((1, 4, 12, 12, 512), (96, 1, 1, 1, 512), bias=True),
    "doubled": of((1, 3, 13, 14, 64), (64, *CUBE, 64), padding=1, upsample=(1, 2, 2)),
    "5x5x5": of((1, 3, 26, 25, 64), (64, 5, 5, 5, 64), padding=(1, 2, 2)),
    "5x5, 512 channels": of((1, 17, 18, 512), (64, 5, 5, 512), padding=2),
    "spatial dilation": of((1, 3, 26, 25, 128), (64, *CUBE, 128), padding=(1, 2, 2), dilation=(1, 2, 2)),
    "strided": of((1, 3, 25, 25, 128), (64, *CUBE, 128), padding=1, stride=(1, 2, 2)),
    "patches": of((16, 2, 14, 14, 3), (640, 2, 14, 14, 3), stride=(2, 14, 14)),
    "depthwise": of((1, 4, 14, 14, 192), (192, *CUBE, 1), padding=1, groups=192),
    "groups": of((1, 4, 10, 10, 256), (256, *CUBE, 64), padding=1, groups=4),
    "upsampling": of((1, 3, 6, 6, 128), (64, 2, 2, 2, 128), padding=1, input_dilation=2, flip=True),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", HALF)
def test_half(name: str, dtype: str) -> None:
    """The rms error of every algorithm against that of the correctly rounded result."""
    problem = replace(HALF[name], x_type=dtype, w_type=dtype, extra_type=dtype)
    arrays, exact = arrays_of(problem)
    best = reference.rms(reference.correctly_rounded(exact, dtype) - exact)
    algorithms = ["auto"]
    if not problem.general:
        legal = (c.algorithm for c in operands.plan_of(problem).candidates if c.legal)
        algorithms += [a for a in legal if a != "stock"]
    for algorithm in algorithms:
        error = reference.rms(operands.float64(operands.run(problem, arrays, algorithm)) - exact)
        assert error <= reference.HALF_RATIO * best, (
            f"{algorithm}: {error / best:.4f} times the best possible"
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_of_large_values(dtype: str) -> None:
    """Results near the top of float16's range: no intermediate may overflow."""
    rng = np.random.default_rng(2)
    x = mx.array(rng.uniform(200, 400, size=(1, 3, 14, 14, 64)).astype(np.float32)).astype(
        operands.dtype_of(dtype)
    )
    w = mx.array(rng.uniform(0, 0.1, size=(48, *CUBE, 64)).astype(np.float32)).astype(
        operands.dtype_of(dtype)
    )
    exact = reference.linear(operands.float64(x), operands.float64(w), reference.Conv.of(3))
    assert exact.max() > 20_000
    best = reference.rms(reference.correctly_rounded(exact, dtype) - exact)
    for algorithm in ("winograd", "taps", "implicit_gemm"):
        y = operands.float64(conv3d(x, w, algorithm=algorithm))
        assert reference.rms(y - exact) <= reference.HALF_RATIO * best


GRADIENTS: dict[str, Problem] = {
    "winograd": of((1, 3, 14, 14, 128), (96, *CUBE, 128), padding=1),
    "winograd, 512 channels": of((1, 3, 8, 8, 512), (512, *CUBE, 512), padding=1),
    "causal edge": of(
        (1, 3, 14, 14, 64), (64, *CUBE, 64), padding=((2, 0), 1, 1), modes=("edge", "zeros", "zeros")
    ),
    "temporal": of((1, 9, 8, 8, 256), (128, 3, 1, 1, 256)),
    "strided": of((1, 5, 17, 17, 64), (96, *CUBE, 64), padding=1, stride=2),
    "many positions": of((1, 8, 40, 40, 16), (16, *CUBE, 16), padding=1),
    "depthwise": of((1, 4, 14, 14, 192), (192, *CUBE, 1), padding=1, groups=192),
    "groups": of((1, 4, 10, 10, 128), (128, *CUBE, 32), padding=1, groups=4),
    "patches": of((16, 2, 14, 14, 3), (128, 2, 14, 14, 3), stride=(2, 14, 14)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name: str, dtype: str) -> None:
    problem = replace(GRADIENTS[name], x_type=dtype, w_type=dtype)
    arrays, exact = arrays_of(problem)
    x, w = arrays["x"], arrays["w"]
    cotangent = mx.array(np.random.default_rng(4).normal(size=exact.shape).astype(np.float32)).astype(x.dtype)
    _, found = mx.vjp(lambda x, w: operands.run(problem, {"x": x, "w": w}), [x, w], [cotangent])
    expected = reference.adjoint(*map(operands.float64, (cotangent, x, w)), problem.conv)
    for gradient, truth in zip(found, (expected.x, expected.w), strict=True):
        error = reference.norm(operands.float64(gradient) - truth)
        assert error <= reference.error_bound(
            truth, dtype, 8e-6 if dtype == "float32" else 0, reference.norm(truth)
        )


def test_transposed_strides() -> None:
    rng = np.random.default_rng(6)
    for stride, kernel in ((2, 4), (3, 3), (4, 5)):
        x = rng.normal(size=(1, 3, 5, 5, 96)).astype(np.float32)
        w = rng.normal(size=(48, *(kernel,) * 3, 96)).astype(np.float32)
        conv = reference.transpose_conv((kernel,) * 3, (stride,) * 3, (1,) * 3, (1,) * 3, (0,) * 3)
        exact = reference.linear(np.float64(x), np.float64(w), conv)
        y = conv_transpose3d(mx.array(x), mx.array(w), stride=stride, padding=1)
        assert relative_error(y, exact) <= 3e-6


def test_sums_of_many_positions_in_the_weight_gradient() -> None:
    """100,000 terms of one sign: a running float32 sum would lose digits."""
    x, w = mx.ones((1, 10, 100, 100, 4)) * 1.1, mx.zeros((4, 1, 3, 3, 4))
    dw = mx.grad(lambda w: (conv3d(x, w, padding=(0, 1, 1)) * 0.7).sum())(w)
    terms = np.array([99, 100, 99])
    exact = 10 * terms[:, None] * terms[None, :] * np.float64(np.float32(1.1)) * np.float64(np.float32(0.7))
    found = operands.float64(dw)
    assert reference.norm(found - exact[None, None, :, :, None]) <= 8e-6 * np.sqrt(16) * reference.norm(exact)
