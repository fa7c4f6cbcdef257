"""patch() and its ways back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_conv3d

HOOKED = ("conv3d", "conv_general")


@pytest.fixture(autouse=True)
def unpatched() -> Iterator[None]:
    mlx_conv3d.reset_stats()
    yield
    mlx_conv3d.unpatch()
    mlx_conv3d.reset_stats()


@pytest.fixture
def stock() -> dict[str, object]:
    return {name: getattr(mx, name) for name in dir(mx) if name.startswith("conv")}


def now() -> dict[str, object]:
    return {name: getattr(mx, name) for name in dir(mx) if name.startswith("conv")}


def x_and_w() -> tuple[mx.array, mx.array]:
    rng = np.random.default_rng(0)
    x = mx.array(rng.normal(size=(1, 4, 8, 8, 16)).astype(np.float32))
    return x, mx.array(rng.normal(size=(16, 3, 3, 3, 16)).astype(np.float32))


def test_patch_and_unpatch(stock: dict[str, object]) -> None:
    mlx_conv3d.patch()
    for name in HOOKED:
        assert getattr(mx, name) is not stock[name]
    mlx_conv3d.unpatch()
    assert now() == stock


def test_idempotent(stock: dict[str, object]) -> None:
    mlx_conv3d.patch()
    once = now()
    mlx_conv3d.patch()
    assert now() == once
    mlx_conv3d.unpatch()
    assert now() == stock
    mlx_conv3d.unpatch()
    assert now() == stock


def test_again_after_unpatch(stock: dict[str, object]) -> None:
    for _ in range(3):
        mlx_conv3d.patch()
        assert now() != stock
        mlx_conv3d.unpatch()
        assert now() == stock


def test_context_manager(stock: dict[str, object]) -> None:
    with mlx_conv3d.patched():
        assert mx.conv3d is not stock["conv3d"]
    assert now() == stock


def test_context_manager_after_an_error(stock: dict[str, object]) -> None:
    with pytest.raises(RuntimeError, match="mine"), mlx_conv3d.patched():
        raise RuntimeError("mine")
    assert now() == stock


def test_context_manager_inside_another(stock: dict[str, object]) -> None:
    with mlx_conv3d.patched():
        with mlx_conv3d.patched():
            pass
        assert mx.conv3d is not stock["conv3d"], "the outer one is still in force"
    assert now() == stock


def test_context_manager_keeps_an_earlier_patch(stock: dict[str, object]) -> None:
    mlx_conv3d.patch()
    with mlx_conv3d.patched():
        pass
    assert mx.conv3d is not stock["conv3d"]


def test_own_functions_do_not_need_it(stock: dict[str, object]) -> None:
    x, w = x_and_w()
    mx.eval(mlx_conv3d.conv3d(x, w))
    assert now() == stock
    assert mlx_conv3d.stats()["calls"] == 0


def test_patched_functions_do_not_call_themselves() -> None:
    """`stock` inside the library means MLX's own function, patched or not."""
    x, w = x_and_w()
    with mlx_conv3d.patched():
        y = mlx_conv3d.conv3d(x, w, algorithm="stock")
        mx.eval(y)
        z = mx.conv3d(x.astype(mx.float32), w.astype(mx.complex64))  # not ours: handed on
        mx.eval(z)
    assert np.allclose(np.array(y), np.array(z).real, atol=1e-3)


def test_a_foreign_hook_is_left_alone(stock: dict[str, object]) -> None:
    def foreign(*args: object, **kwargs: object) -> mx.array:
        return stock["conv3d"](*args, **kwargs)

    mx.conv3d = foreign
    try:
        with pytest.raises(RuntimeError, match="conv3d"):
            mlx_conv3d.patch()
        assert mx.conv3d is foreign
        assert {name: f for name, f in now().items() if name != "conv3d"} == {
            name: f for name, f in stock.items() if name != "conv3d"
        }, "nothing is half patched"
    finally:
        mx.conv3d = stock["conv3d"]
    mlx_conv3d.patch()
    mlx_conv3d.unpatch()
    assert now() == stock


def test_a_later_foreign_hook_survives_unpatch(stock: dict[str, object]) -> None:
    mlx_conv3d.patch()
    ours = mx.conv3d

    def foreign(*args: object, **kwargs: object) -> mx.array:
        return ours(*args, **kwargs)

    mx.conv3d = foreign
    try:
        try:
            mlx_conv3d.unpatch()
        except RuntimeError as refusal:
            assert "conv3d" in str(refusal)
        assert mx.conv3d is foreign
        x, w = x_and_w()
        assert mx.allclose(mx.conv3d(x, w), stock["conv3d"](x, w), atol=1e-3).item()
    finally:
        mx.conv3d = ours
        mlx_conv3d.unpatch()
    for name, function in stock.items():
        setattr(mx, name, function)


def test_threads(stock: dict[str, object]) -> None:
    """Patching, unpatching and calling from many threads: never an error, and stock at the end."""
    x, w = x_and_w()
    expected = np.array(mx.conv3d(x, w))
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for step in range(40):
                if (i + step) % 3 == 0:
                    mlx_conv3d.patch()
                elif (i + step) % 3 == 1:
                    mlx_conv3d.unpatch()
                else:
                    with mlx_conv3d.patched():
                        mlx_conv3d.stats()
                if step % 10 == 0:
                    with mx.stream(mx.new_stream(mx.cpu)):
                        y = np.array(mx.conv3d(x, w))
                    assert np.allclose(y, expected, atol=1e-3)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    assert not failures, failures[0]
    mlx_conv3d.unpatch()
    assert now() == stock


def test_counts_from_threads() -> None:
    x, w = x_and_w()

    def work() -> None:
        with mx.stream(mx.new_stream(mx.cpu)):
            for _ in range(50):
                mx.conv3d(x, w)

    with mlx_conv3d.patched():
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert mlx_conv3d.stats()["calls"] == 200


def test_stats_count_algorithms() -> None:
    x, w = x_and_w()
    with mlx_conv3d.patched():
        for _ in range(3):
            mx.conv3d(x, w, padding=1)
        mx.conv3d(x, w[:, :1, :1, :1])
    found = mlx_conv3d.stats()
    assert set(found) == {"calls", "algorithms", "fallbacks", "switched_off"}
    assert found["calls"] == 4
    assert sum(found["algorithms"].values()) == 4
    first = mlx_conv3d.plan(x.shape, w.shape, padding=1).algorithm
    assert found["algorithms"][first] == 3
    assert found["fallbacks"] == {}


def test_stats_are_a_copy() -> None:
    x, w = x_and_w()
    with mlx_conv3d.patched():
        mx.conv3d(x, w)
    mlx_conv3d.stats()["algorithms"].clear()
    mlx_conv3d.stats()["calls"] = 99
    assert mlx_conv3d.stats()["calls"] == 1
    assert sum(mlx_conv3d.stats()["algorithms"].values()) == 1


def test_reset_stats() -> None:
    x, w = x_and_w()
    with mlx_conv3d.patched():
        mx.conv3d(x, w)
    mlx_conv3d.reset_stats()
    assert mlx_conv3d.stats() == {"calls": 0, "algorithms": {}, "fallbacks": {}, "switched_off": {}}


@pytest.mark.parametrize("w_type", [mx.complex64, mx.float64])
def test_fallbacks_say_why(w_type: mx.Dtype) -> None:
    x, w = x_and_w()
    with mx.stream(mx.cpu), mlx_conv3d.patched():
        w = w.astype(w_type)
        y = mx.conv3d(x, w)
    assert y.dtype == w_type
    found = mlx_conv3d.stats()
    assert found["calls"] == 1
    assert sum(found["fallbacks"].values()) == 1
    (reason,) = found["fallbacks"]
    assert str(w_type).rsplit(".", 1)[-1] in reason


def test_compile_counts_a_trace_once() -> None:
    """Where there is no C++ compiler MLX compiles nothing for the CPU, and calls the function every time."""
    x, w = x_and_w()
    traces = 0

    def function(x: mx.array) -> mx.array:
        nonlocal traces
        traces += 1
        return mx.conv3d(x, w, padding=1) + 1

    with mlx_conv3d.patched():
        f = mx.compile(function)
        for _ in range(4):
            mx.eval(f(x))
    assert traces in (1, 4)
    assert mlx_conv3d.stats()["calls"] == traces


def test_layers_are_counted() -> None:
    x, _ = x_and_w()
    layer = nn.Conv3d(16, 8, 3, padding=1)
    expected = layer(x)
    with mlx_conv3d.patched():
        y = layer(x)
    assert mlx_conv3d.stats()["calls"] == 1
    assert mx.allclose(y, expected, atol=1e-4).item()


def test_grouped_3d_works_under_patch() -> None:
    """MLX itself refuses it."""
    x, w = x_and_w()
    depthwise = w[:, :, :, :, :1]
    with pytest.raises(ValueError, match="groups"):
        mx.conv3d(x, depthwise, groups=16)
    with mlx_conv3d.patched():
        y = mx.conv3d(x, depthwise, groups=16)
    one = mx.conv3d(x[..., 3:4], depthwise[3:4])
    assert mx.allclose(y[..., 3:4], one, atol=1e-4).item()


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


DISABLED = """
import mlx.core as mx
stock = {n: getattr(mx, n) for n in dir(mx) if n.startswith("conv")}
import mlx_conv3d as m
m.patch()
assert {n: getattr(mx, n) for n in stock} == stock, "patch does nothing"
with m.patched():
    assert {n: getattr(mx, n) for n in stock} == stock
m.unpatch()
x = mx.random.normal((1, 4, 7, 7, 4)); w = mx.random.normal((6, 3, 3, 3, 4)); b = mx.random.normal((6,))
y = m.conv3d(x, w, padding=1, bias=b, activation="relu", residual=mx.ones((1, 4, 7, 7, 6)))
z = mx.maximum(mx.conv3d(x, w, padding=1) + b, 0) + 1
assert mx.array_equal(y, z).item(), "stock's own bits"
e = m.conv3d(x, w, padding=1, padding_mode="edge", lead=x[:, :2])
both = mx.concatenate([x[:, :2], x], 1)
f = mx.conv3d(mx.pad(both, [(0, 0), (1, 1), (1, 1), (1, 1), (0, 0)], mode="edge"), w)
assert mx.allclose(e, f, atol=1e-5).item()
print("ok")
"""


def test_disabled_by_the_environment() -> None:
    assert python(DISABLED, MLX_CONV3D_DISABLE="1").splitlines()[-1] == "ok"


@pytest.mark.parametrize("value", ["", "0"])
def test_other_values_do_not_disable(value: str) -> None:
    code = "import mlx.core as mx, mlx_conv3d as m; s = mx.conv3d; m.patch(); print(mx.conv3d is s)"
    assert python(code, MLX_CONV3D_DISABLE=value) == "False"


def test_import_patches_nothing() -> None:
    code = "import mlx.core as mx; s = mx.conv3d; import mlx_conv3d; print(mx.conv3d is s)"
    assert python(code) == "True"


def test_exit_while_patched() -> None:
    code = """
import mlx.core as mx, mlx_conv3d as m
m.patch()
y = mx.conv3d(mx.ones((1, 4, 8, 8, 16)), mx.ones((16, 3, 3, 3, 16)))
mx.async_eval(y)
print("left")
"""
    assert python(code) == "left"
