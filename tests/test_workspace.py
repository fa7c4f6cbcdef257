"""The workspace limit, and weights prepared for repeated use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np
import operands
import pytest
import reference
from problems import of

import mlx_conv3d
from mlx_conv3d import conv3d, plan

CUBE = (3, 3, 3)
MIB = 1 << 20


def relative_difference(a: mx.array, b: mx.array) -> float:
    return float(mx.linalg.norm((a - b).flatten()) / mx.linalg.norm(b.flatten()))


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32))


@pytest.fixture
def limit() -> Iterator[Callable[[int], int]]:
    before = mlx_conv3d.get_workspace_limit()
    yield mlx_conv3d.set_workspace_limit
    mlx_conv3d.set_workspace_limit(before)


def test_set_workspace_limit(limit: Callable[[int], int]) -> None:
    assert mlx_conv3d.get_workspace_limit() == 256 * MIB
    assert limit(64 * MIB) == 256 * MIB
    assert mlx_conv3d.get_workspace_limit() == 64 * MIB
    assert limit(256 * MIB) == 64 * MIB


LARGE = {
    "winograd": of((1, 3, 17, 19, 256), (384, *CUBE, 256), padding=1, bias=True, activation="silu"),
    "implicit_gemm": of((1, 3, 9, 9, 256), (384, *CUBE, 256), padding=1, stride=2),
    "taps": of((1, 3, 9, 9, 256), (384, *CUBE, 256), padding=1, x_type="float16", w_type="float16"),
    "temporal": of((1, 5, 8, 8, 640), (1280, 5, 1, 1, 640)),
    "pointwise": of((1, 3, 8, 8, 2048), (2304, 1, 1, 1, 2048)),
    "grouped": of((1, 3, 9, 9, 512), (512, *CUBE, 128), padding=1, groups=4),
    "patchify": of((3, 2, 14, 14, 16), (1024, 2, 14, 14, 16), stride=(2, 14, 14)),
}


def test_few_positions_read_few_prepared_weights() -> None:
    """F(4x4, 3x3) has more than twice the weights of F(2x2, 3x3), which many positions make up for."""
    w = (512, *CUBE, 512)
    assert plan((1, 1, 4, 4, 512), w, padding=1, prepared=True).tile == 2
    assert plan((1, 1, 64, 64, 512), w, padding=1, prepared=True).tile > 2


@pytest.mark.parametrize("mebibytes", [16, 24, 48, 100])
@pytest.mark.parametrize("algorithm", LARGE)
def test_small_limits(algorithm: str, mebibytes: int, limit: Callable[[int], int]) -> None:
    """What a limit changes is how the work is cut, never the result."""
    problem = LARGE[algorithm]
    made, exact, scale = large(algorithm)
    limit(mebibytes * MIB)
    for name in (algorithm, "auto"):
        found = operands.plan_of(problem, name)
        assert 0 < found.workspace <= mebibytes * MIB
        operands.check(operands.run(problem, made.arrays, name), problem, exact, scale, found.algorithm)


_large: dict[str, tuple[operands.Operands, np.ndarray, float]] = {}


def large(algorithm: str) -> tuple[operands.Operands, np.ndarray, float]:
    if algorithm not in _large:
        made = operands.make(LARGE[algorithm])
        _large[algorithm] = (made, *operands.solve(LARGE[algorithm], made.exact))
    return _large[algorithm]


def test_small_limit_and_gradients(limit: Callable[[int], int]) -> None:
    x, w = normal(1, 3, 9, 9, 256), normal(256, *CUBE, 256)
    gradient = mx.grad(lambda x, w: mx.square(conv3d(x, w, padding=1)).sum(), argnums=(0, 1))
    expected = gradient(x, w)
    mx.eval(expected)
    limit(16 * MIB)
    for a, b in zip(gradient(x, w), expected, strict=True):
        assert reference.norm(np.array(a) - np.array(b)) <= 1e-5 * reference.norm(np.array(b))


EXTREMES = {
    "many inputs": ((1, 3, 16, 16, 30_000), (64, *CUBE, 30_000), {"padding": 1}),
    "many outputs": ((1, 3, 16, 16, 64), (100_000, *CUBE, 64), {"padding": 1}),
    "many of both": ((1, 3, 16, 16, 20_000), (20_000, *CUBE, 20_000), {"padding": 1}),
    "many frames": ((1, 100_000, 8, 8, 512), (512, *CUBE, 512), {"padding": 1}),
    "long kernel": ((1, 5000, 8, 8, 256), (256, 4000, 3, 3, 256), {}),
    "large frames": ((8, 9, 4000, 4000, 128), (128, *CUBE, 128), {"padding": 1}),
    "large patches": ((9, 4, 256, 256, 64), (4096, 4, 256, 256, 64), {"stride": (4, 256, 256)}),
    "pointwise": ((1, 9, 64, 64, 60_000), (60_000, 1, 1, 1, 60_000), {}),
    "depthwise": ((1, 9, 64, 64, 100_000), (100_000, *CUBE, 1), {"padding": 1, "groups": 100_000}),
    "groups": ((1, 9, 64, 64, 50_000), (50_000, *CUBE, 10_000), {"padding": 1, "groups": 5}),
    "input dilation": ((1, 9, 64, 64, 20_000), (20_000, *CUBE, 20_000), {"input_dilation": 3, "flip": True}),
}


@pytest.mark.parametrize("mebibytes", [16, 17, 64, 256])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("name", EXTREMES)
def test_no_candidate_exceeds_the_limit(name: str, dtype: mx.Dtype, mebibytes: int) -> None:
    x, w, options = EXTREMES[name]
    found = plan(x, w, dtype=dtype, **options, workspace_limit=mebibytes * MIB)
    assert found.workspace <= mebibytes * MIB
    for candidate in found.candidates:
        assert not candidate.legal or candidate.workspace <= mebibytes * MIB, candidate.algorithm


def test_more_channels_than_a_small_limit_has_room_for(limit: Callable[[int], int]) -> None:
    problem = of((1, 3, 5, 5, 8192), (16, *CUBE, 8192), padding=1)
    made = operands.make(problem)
    exact, scale = operands.solve(problem, made.exact)
    limit(16 * MIB)
    for candidate in operands.plan_of(problem).candidates:
        if candidate.legal and candidate.algorithm != "stock":
            y = operands.run(problem, made.arrays, candidate.algorithm)
            operands.check(y, problem, exact, scale, candidate.algorithm)


def test_plans_follow_the_limit(limit: Callable[[int], int]) -> None:
    shapes = (1, 9, 64, 64, 512), (512, *CUBE, 512)
    wide = plan(*shapes, padding=1, algorithm="winograd")
    limit(32 * MIB)
    narrow = plan(*shapes, padding=1, algorithm="winograd")
    assert narrow.workspace <= 32 * MIB < wide.workspace <= 256 * MIB


PREPARED = {
    "winograd": of((1, 5, 14, 13, 32), (48, *CUBE, 32), padding=((2, 0), 1, 1), bias=True, activation="silu"),
    "winograd, half": of((1, 5, 14, 13, 32), (48, *CUBE, 32), padding=1, x_type="float16", w_type="float16"),
    "winograd, mixed": of(
        (1, 5, 14, 13, 32), (48, *CUBE, 32), padding=1, x_type="float32", w_type="bfloat16"
    ),
    "doubled": of((1, 5, 9, 8, 32), (48, *CUBE, 32), padding=1, upsample=(1, 2, 2), bias=True),
    "doubled, half": of(
        (1, 5, 9, 8, 32), (48, *CUBE, 32), padding=1, upsample=(1, 2, 2), x_type="float16", w_type="float16"
    ),
    "2-D": of((2, 14, 13, 32), (48, 3, 3, 32), padding=1),
    "spatial stride": of((1, 5, 27, 25, 32), (48, *CUBE, 32), padding=1, stride=(1, 2, 2)),
    "spatial dilation": of((1, 5, 14, 13, 32), (48, *CUBE, 32), padding=2, dilation=(2, 2, 3)),
    "5x5x5": of((1, 5, 14, 13, 32), (48, 5, 5, 5, 32), padding=2),
    "5x5x5, half": of((1, 5, 14, 13, 32), (48, 5, 5, 5, 32), padding=2, x_type="float16", w_type="float16"),
    "temporal": of((1, 5, 4, 4, 8), (8, 3, 1, 1, 8)),
    "strided": of((1, 5, 9, 9, 8), (8, *CUBE, 8), stride=2),
    "grouped": of((1, 5, 9, 9, 8), (8, *CUBE, 1), groups=8, padding=1),
}


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_weights(name: str) -> None:
    problem = PREPARED[name]
    made = operands.make(problem)
    exact, scale = operands.solve(problem, made.exact)
    prepared = mlx_conv3d.prepare(made.arrays["w"])
    for _ in range(2):
        y = operands.run(problem, {**made.arrays, "w": prepared})
        operands.check(y, problem, exact, scale, "prepared")


def test_prepared_weights_fit_many_sizes() -> None:
    w = normal(16, *CUBE, 16)
    prepared = mlx_conv3d.prepare(w)
    for sizes in ((1, 1, 1), (3, 5, 7), (4, 30, 31), (2, 9, 50)):
        for options in (
            {"padding": 1},
            {"padding": 1, "upsample": (1, 2, 2)},
            {"padding": 1, "stride": (1, 2, 2)},
            {"padding": 2, "dilation": (1, 2, 2)},
        ):
            x = normal(2, *sizes, 16)
            if min(sizes) + 2 * options["padding"] < 5 and "dilation" in options:
                continue
            exact = reference.linear(
                operands.float64(x),
                operands.float64(w),
                reference.Conv.of(
                    3,
                    padding=((options["padding"],) * 2,) * 3,
                    stride=options.get("stride", (1, 1, 1)),
                    dilation=options.get("dilation", (1, 1, 1)),
                    upsample=options.get("upsample", (1, 1, 1)),
                ),
            )
            y = conv3d(x, prepared, **options)
            assert reference.norm(operands.float64(y) - exact) <= 3e-6 * reference.norm(exact)


def test_prepared_weights_under_transformations() -> None:
    x, w = normal(1, 4, 8, 8, 16), normal(16, *CUBE, 16)
    prepared = mlx_conv3d.prepare(w)

    def loss(x: mx.array, w: object) -> mx.array:
        return mx.square(conv3d(x, w, padding=1)).sum()

    expected = mx.grad(lambda x: loss(x, w))(x)
    for f in (mx.grad(lambda x: loss(x, prepared)), mx.compile(mx.grad(lambda x: loss(x, prepared)))):
        # Prepared weights may be planned as another algorithm, whose rounding differs.
        assert relative_difference(f(x), expected) <= 1e-5
    xs = normal(3, 1, 4, 8, 8, 16)
    mapped = mx.vmap(lambda x: conv3d(x, prepared, padding=1))(xs)
    assert relative_difference(mapped, mx.stack([conv3d(x, w, padding=1) for x in xs])) <= 1e-5


Transformation = Callable[[Callable[[mx.array], mx.array]], Callable[[mx.array], mx.array]]
TRANSFORMATIONS: dict[str, Transformation] = {
    "grad": lambda f: mx.grad(lambda w: mx.square(f(w)).sum()),
    "jvp": lambda f: lambda w: mx.jvp(f, [w], [w * 2])[1][0],
    "compile": mx.compile,
    "vmap": lambda f: lambda w: mx.vmap(f)(mx.stack([w, w * 2])),
    "compiled grad": lambda f: mx.compile(mx.grad(lambda w: mx.square(f(w)).sum())),
    "checkpoint": lambda f: mx.grad(lambda w: mx.checkpoint(f)(w).sum()),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_preparing_under_transformations(name: str) -> None:
    """What prepare() gets may itself be traced; derivatives reach the array it was given."""
    x, w = normal(1, 4, 8, 8, 16), normal(16, *CUBE, 16)
    transformed = TRANSFORMATIONS[name](lambda w: conv3d(x, mlx_conv3d.prepare(w), padding=1))
    expected = TRANSFORMATIONS[name](lambda w: conv3d(x, w, padding=1))
    assert relative_difference(transformed(w), expected(w)) <= 1e-5


def test_prepared_weights_in_threads() -> None:
    x, w = normal(1, 4, 9, 9, 32), normal(32, *CUBE, 32)
    expected = conv3d(x, w, padding=1)
    mx.eval(expected)
    prepared = mlx_conv3d.prepare(w)
    differences: list[float] = []

    def work() -> None:
        with mx.stream(mx.new_stream(mx.cpu)):
            for _ in range(5):
                differences.append(relative_difference(conv3d(x, prepared, padding=1), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(differences) == 20
    assert max(differences) <= 1e-5


@pytest.mark.parametrize("w", [np.zeros((2, 3, 3, 3, 2), np.float32), None, 3])
def test_prepare_wants_an_array(w: object) -> None:
    with pytest.raises(TypeError, match=r"\bw\b"):
        mlx_conv3d.prepare(w)


def test_prepare_wants_a_kernel() -> None:
    with pytest.raises(ValueError, match=r"\bw\b"):
        mlx_conv3d.prepare(mx.zeros((3, 3)))


def taken(make: Callable[[], mx.array]) -> int:
    """Bytes of arrays that exist at once while it is computed, beyond those that exist now."""
    mx.clear_cache()  # MLX may hand out a kept buffer that is larger than what it is asked for
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(make())
    return mx.get_peak_memory() - before


@pytest.mark.parametrize("groups", [1, 64])
def test_upsampling_makes_no_large_array(groups: int) -> None:
    x, w = normal(1, 2, 32, 32, 64), normal(64, 1, 3, 3, 64 // groups)
    mx.eval(x, w)
    options = {"padding": (0, 1, 1), "upsample": 4, "stride": (1, 4, 4), "groups": groups}
    assert taken(lambda: mx.repeat(x, 16, axis=2)) >= 16 * x.nbytes
    assert taken(lambda: conv3d(x, w, **options)) <= 1.5 * x.nbytes
    options["stride"] = 1
    cotangent = normal(1, 2, 128, 128, 64)
    mx.eval(cotangent)
    gradient = mx.grad(lambda x: (conv3d(x, w, **options) * cotangent).sum())
    assert taken(lambda: gradient(x)) <= 1.5 * cotangent.nbytes
