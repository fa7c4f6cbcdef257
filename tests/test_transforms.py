"""The convolution under MLX's transformations, on several streams and in several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import operands
import pytest
import reference
from problems import PICKED, Problem, of

import mlx_conv3d
from mlx_conv3d import conv1d, conv2d, conv3d, conv_general, conv_transpose3d

CUBE = (3, 3, 3)
PROBLEMS: dict[str, Problem] = {
    "winograd": of((1, 3, 9, 8, 16), (16, *CUBE, 16), padding=1, bias=True, activation="silu"),
    "everything": PICKED["all of it"],
    "strided": of((2, 5, 7, 6, 5), (6, *CUBE, 5), stride=(2, 2, 1), padding=1),
    "temporal": of((1, 6, 4, 4, 8), (9, 3, 1, 1, 8), padding=((2, 0), 0, 0)),
    "pointwise": of((2, 3, 4, 4, 8), (5, 1, 1, 1, 8), bias=True),
    "patches": of((3, 2, 8, 8, 3), (8, 2, 4, 4, 3), stride=(2, 4, 4)),
    "grouped": of((2, 3, 6, 6, 12), (12, *CUBE, 3), padding=1, groups=4),
    "depthwise 1-D": of((2, 20, 9), (9, 4, 1), padding=((3, 0),), groups=9),
    "2-D": of((2, 9, 8, 6), (8, 3, 3, 6), padding=1, bias=True, activation="gelu"),
    "input dilated": of((1, 3, 4, 4, 4), (5, *CUBE, 4), padding=1, input_dilation=2, flip=True),
    "upsampled": of(
        (1, 3, 5, 4, 8), (6, *CUBE, 8), padding=((2, 0), 1, 1), upsample=(2, 2, 2), modes="edge", bias=True
    ),
    "lead": of((1, 3, 6, 6, 8), (8, *CUBE, 8), padding=((0, 0), 1, 1), lead=2, residual=True),
}


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32))


def function_of(problem: Problem, names: list[str]) -> Callable[..., mx.array]:
    return lambda *given: operands.run(problem, dict(zip(names, given, strict=True)))


def assert_close(found: mx.array, expected: mx.array, bound: float = 5e-6) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if found.dtype != mx.float32:
        bound = 1e-2
    difference = reference.norm(operands.float64(found) - operands.float64(expected))
    assert difference <= bound * reference.norm(operands.float64(expected))


# compile


@pytest.mark.parametrize("name", PROBLEMS)
def test_compile(name: str) -> None:
    problem = PROBLEMS[name]
    made = operands.make(problem)
    exact, scale = operands.solve(problem, made.exact)
    compiled = mx.compile(function_of(problem, list(made.arrays)))
    for _ in range(2):
        operands.check(compiled(*made.arrays.values()), problem, exact, scale, "compiled")


@pytest.mark.parametrize("name", PROBLEMS)
def test_compiled_gradient(name: str) -> None:
    problem = PROBLEMS[name]
    made = operands.make(problem)
    names = list(made.arrays)
    f = function_of(problem, names)
    gradient = mx.grad(lambda *given: mx.square(f(*given)).sum(), argnums=list(range(len(names))))
    for eager, compiled in zip(
        gradient(*made.arrays.values()), mx.compile(gradient)(*made.arrays.values()), strict=True
    ):
        assert_close(compiled, eager)


def test_compile_with_its_neighbours() -> None:
    """Elementwise work before and after, two convolutions, one of them used twice."""
    w, v = normal(8, *CUBE, 8), normal(8, 1, 1, 1, 8)

    def block(x: mx.array) -> mx.array:
        y = conv3d(mx.tanh(x) * 2, w, padding=1)
        return mx.sigmoid(conv3d(y + x, v)) * y - x

    x = normal(1, 4, 6, 6, 8)
    assert_close(mx.compile(block)(x), block(x))


def test_equal_convolutions_are_merged_right() -> None:
    """Compile's search for common subexpressions must tell different parameters apart."""
    w = normal(4, *CUBE, 4)

    def several(x: mx.array) -> list[mx.array]:
        return [
            conv3d(x, w, padding=1),
            conv3d(x, w, padding=1),
            conv3d(x, w, padding=((2, 0), 1, 1)),
            conv3d(x, w, padding=((0, 2), 1, 1)),
            conv3d(x, w, padding=1, padding_mode="edge"),
            conv3d(x, w, padding=1, upsample=2, stride=(1, 2, 2)),
            conv3d(x, w, padding=1, activation="relu"),
            conv3d(x, w, padding=1, activation="silu"),
            conv_general(x, w, padding=1, flip=True),
            conv3d(x, w, padding=1, algorithm="implicit_gemm"),
            conv3d(x, w, padding=1, bias=w[:, 0, 0, 0, 0]),
            conv3d(x, w, padding=1, residual=x),
        ]

    x = normal(1, 4, 5, 5, 4)
    for compiled, eager in zip(mx.compile(several)(x), several(x), strict=True):
        assert_close(compiled, eager)


@pytest.mark.parametrize("sizes", [(1, 4, 6, 7), (2, 4, 6, 7), (1, 9, 6, 7), (3, 5, 12, 4)])
def test_shapeless_compile(sizes: tuple[int, ...]) -> None:
    w, b = normal(6, *CUBE, 5), normal(6)

    def f(x: mx.array) -> mx.array:
        return conv3d(x, w, padding=1, bias=b, activation="silu") + 1

    compiled = mx.compile(f, shapeless=True)
    first = normal(1, 3, 5, 5, 5)
    assert_close(compiled(first), f(first))
    x = normal(*sizes, 5)
    assert_close(compiled(x), f(x))


def test_shapeless_compile_of_the_others() -> None:
    w1, w2, wt = normal(6, 3, 1), normal(4, 3, 3, 5), normal(4, 2, 2, 2, 5)
    functions = (
        (lambda x: conv1d(x, w1, padding=1, groups=6), ((1, 9, 6), (3, 14, 6))),
        (lambda x: conv2d(x, w2, stride=2), ((1, 9, 8, 5), (2, 5, 11, 5))),
        (lambda x: conv_transpose3d(x, wt, stride=2), ((1, 2, 3, 4, 5), (2, 4, 2, 3, 5))),
    )
    for f, shapes in functions:
        compiled = mx.compile(f, shapeless=True)
        for shape in shapes:
            x = normal(*shape)
            assert_close(compiled(x), f(x))


def test_shapeless_compile_with_lead_and_residual() -> None:
    w = normal(5, 2, 1, 1, 5)

    def f(x: mx.array, lead: mx.array) -> mx.array:
        return conv3d(x, w, stride=(2, 1, 1), lead=lead, residual=x)

    compiled = mx.compile(f, shapeless=True)
    for frames in (3, 5, 8):
        x, lead = normal(2, frames, 4, 3, 5), normal(2, frames + 1 - frames % 2, 4, 3, 5)
        assert_close(compiled(x, lead), f(x, lead))


def test_compiled_weights_may_change() -> None:
    compiled = mx.compile(lambda x, w: conv3d(x, w, padding=1))
    x = normal(1, 3, 7, 7, 16)
    for seed in range(3):
        w = normal(16, *CUBE, 16, seed=seed)
        assert_close(compiled(x, w), conv3d(x, w, padding=1))


# grad, value_and_grad, checkpoint


@pytest.mark.parametrize("name", PROBLEMS)
def test_checkpoint(name: str) -> None:
    problem = PROBLEMS[name]
    made = operands.make(problem)
    names = list(made.arrays)
    f = function_of(problem, names)
    places = list(range(len(names)))
    plain = mx.grad(lambda *given: mx.square(f(*given)).sum(), argnums=places)(*made.arrays.values())
    again = mx.checkpoint(f)
    checkpointed = mx.grad(lambda *given: mx.square(again(*given)).sum(), argnums=places)(
        *made.arrays.values()
    )
    for a, b in zip(plain, checkpointed, strict=True):
        assert_close(b, a)


def test_value_and_grad() -> None:
    x, w, b = normal(1, 3, 6, 6, 4), normal(5, *CUBE, 4), normal(5)
    conv = reference.Conv.of(3, padding=((1, 1),) * 3)
    value, (dw, db) = mx.value_and_grad(
        lambda w, b: mx.square(conv3d(x, w, padding=1, bias=b)).sum(), (0, 1)
    )(w, b)
    exact = [operands.float64(a) for a in (x, w, b)]
    y = reference.forward(exact[0], exact[1], conv, bias=exact[2])
    found = reference.adjoint(2 * y, exact[0], exact[1], conv, bias=exact[2])
    assert value.item() == pytest.approx((y**2).sum(), rel=1e-5)
    np.testing.assert_allclose(np.array(dw), found.w, rtol=1e-4, atol=1e-4 * np.abs(found.w).max())
    np.testing.assert_allclose(np.array(db), found.bias, rtol=1e-4, atol=1e-4 * np.abs(found.bias).max())


def test_training_learns_a_kernel() -> None:
    """A whole step of mlx.nn and an optimiser, compiled: the loss must fall by orders of magnitude."""
    mx.random.seed(1)
    target = normal(4, 3, 1, 3, 4) * 0.3
    x = normal(2, 4, 6, 6, 4)
    wanted = conv3d(x, target, padding=(1, 0, 1))
    model = nn.Conv3d(4, 4, (3, 1, 3), padding=(1, 0, 1), bias=False)
    optimizer = optim.Adam(learning_rate=0.05)
    state = [model.state, optimizer.state]

    def loss(model: nn.Module) -> mx.array:
        return mx.square(model(x) - wanted).mean()

    def step() -> mx.array:
        value, gradients = nn.value_and_grad(model, loss)(model)
        optimizer.update(model, gradients)
        return value

    with mlx_conv3d.patched():
        compiled = mx.compile(step, inputs=state, outputs=state)
        losses = []
        for _ in range(80):
            losses.append(compiled().item())
            mx.eval(state)
    assert losses[-1] < 1e-2 * losses[0]


def test_stop_gradient() -> None:
    x, w = normal(1, 3, 5, 5, 2), normal(3, *CUBE, 2)
    dx = mx.grad(lambda x: conv3d(mx.stop_gradient(x), w).sum())(x)
    assert not dx.any().item()


# vmap


def stacked(f: Callable[..., mx.array], count: int, *picks: Callable[[int], object]) -> mx.array:
    return mx.stack([f(*(pick(i) for pick in picks)) for i in range(count)])


@pytest.mark.parametrize("axis", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2}, {"padding": 1, "groups": 2}])
def test_vmap_over_x(axis: int, options: dict[str, int]) -> None:
    w = normal(4, *CUBE, 4 // options.get("groups", 1))
    shape = [1, 4, 6, 5, 4]
    shape.insert(axis, 3)
    xs = normal(*shape)

    def f(x: mx.array) -> mx.array:
        return conv3d(x, w, **options)

    assert_close(mx.vmap(f, in_axes=axis)(xs), stacked(f, 3, lambda i: mx.take(xs, mx.array(i), axis=axis)))


@pytest.mark.parametrize("axis", [0, 1, 4, 5])
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2}, {"padding": 1, "groups": 2}])
def test_vmap_over_w(axis: int, options: dict[str, int]) -> None:
    x = normal(2, 4, 6, 5, 4)
    shape = [6, *CUBE, 4 // options.get("groups", 1)]
    shape.insert(axis, 3)
    ws = normal(*shape)

    def f(w: mx.array) -> mx.array:
        return conv3d(x, w, **options)

    assert_close(mx.vmap(f, in_axes=axis)(ws), stacked(f, 3, lambda i: mx.take(ws, mx.array(i), axis=axis)))


@pytest.mark.parametrize("axes", [(0, 0), (1, 4), (5, 1), (2, 5)])
@pytest.mark.parametrize("groups", [1, 2])
def test_vmap_over_both(axes: tuple[int, int], groups: int) -> None:
    x_shape, w_shape = [2, 3, 6, 5, 4], [6, *CUBE, 4 // groups]
    x_shape.insert(axes[0], 3)
    w_shape.insert(axes[1], 3)
    xs, ws = normal(*x_shape), normal(*w_shape)

    def f(x: mx.array, w: mx.array) -> mx.array:
        return conv3d(x, w, padding=1, groups=groups)

    expected = stacked(
        f,
        3,
        lambda i: mx.take(xs, mx.array(i), axis=axes[0]),
        lambda i: mx.take(ws, mx.array(i), axis=axes[1]),
    )
    assert_close(mx.vmap(f, in_axes=axes)(xs, ws), expected)


VMAP_SETS = [
    ("bias",),
    ("residual",),
    ("lead",),
    ("x", "bias"),
    ("w", "bias"),
    ("x", "lead"),
    ("x", "residual"),
    ("w", "residual"),
    ("w", "lead"),
    ("bias", "residual"),
    ("x", "w", "bias", "residual", "lead"),
]


@pytest.mark.parametrize("mapped", VMAP_SETS)
@pytest.mark.parametrize("groups", [1, 2])
def test_vmap_over_the_epilogue(mapped: tuple[str, ...], groups: int) -> None:
    single = {
        "x": (2, 2, 6, 5, 4),
        "w": (6, *CUBE, 4 // groups),
        "bias": (6,),
        "residual": (2, 3, 6, 5, 6),
        "lead": (2, 3, 6, 5, 4),
    }
    given = {name: normal(*((3, *shape) if name in mapped else shape)) for name, shape in single.items()}

    def f(x: mx.array, w: mx.array, bias: mx.array, residual: mx.array, lead: mx.array) -> mx.array:
        return conv3d(
            x,
            w,
            padding=((0, 0), 1, 1),
            groups=groups,
            bias=bias,
            activation="gelu",
            residual=residual,
            lead=lead,
        )

    in_axes = tuple(0 if name in mapped else None for name in single)
    expected = stacked(
        f, 3, *[(lambda i, n=name: given[n][i] if n in mapped else given[n]) for name in single]
    )
    assert_close(mx.vmap(f, in_axes=in_axes)(*given.values()), expected)


def test_vmap_out_axes() -> None:
    w, xs = normal(4, *CUBE, 4), normal(3, 1, 4, 5, 5, 4)
    f = mx.vmap(lambda x: conv3d(x, w), out_axes=2)
    assert_close(mx.moveaxis(f(xs), 2, 0), stacked(lambda x: conv3d(x, w), 3, lambda i: xs[i]))


def test_nested_vmap() -> None:
    xs, ws, bs = normal(2, 1, 3, 5, 5, 4), normal(3, 4, *CUBE, 4), normal(3, 4)

    def f(x: mx.array, w: mx.array, b: mx.array) -> mx.array:
        return conv3d(x, w, padding=1, bias=b)

    found = mx.vmap(mx.vmap(f, in_axes=(None, 0, 0)), in_axes=(0, None, None))(xs, ws, bs)
    expected = mx.stack([mx.stack([f(xs[i], ws[j], bs[j]) for j in range(3)]) for i in range(2)])
    assert_close(found, expected)


def test_vmap_of_input_dilation_and_lower_dimensions() -> None:
    xs, ws = normal(3, 2, 3, 4, 4, 4), normal(3, 4, 2, 2, 2, 4)

    def up(x: mx.array, w: mx.array) -> mx.array:
        return conv_transpose3d(x, w, stride=2)

    assert_close(mx.vmap(up)(xs, ws), stacked(up, 3, lambda i: xs[i], lambda i: ws[i]))
    assert_close(
        mx.vmap(up, in_axes=(0, None))(xs, ws[0]), stacked(lambda x: up(x, ws[0]), 3, lambda i: xs[i])
    )
    lines, taps = normal(3, 2, 9, 6), normal(3, 6, 3, 1)

    def line(x: mx.array, w: mx.array) -> mx.array:
        return conv1d(x, w, padding=((2, 0),), groups=6)

    assert_close(mx.vmap(line)(lines, taps), stacked(line, 3, lambda i: lines[i], lambda i: taps[i]))


def test_gradient_of_vmap_and_vmap_of_gradient() -> None:
    xs, w = normal(3, 1, 3, 5, 5, 4), normal(4, *CUBE, 4)

    def loss(x: mx.array, w: mx.array) -> mx.array:
        return mx.square(conv3d(x, w, padding=1, activation="silu")).sum()

    each = mx.vmap(mx.grad(loss, argnums=1), in_axes=(0, None))(xs, w)
    assert_close(each, stacked(lambda x: mx.grad(loss, argnums=1)(x, w), 3, lambda i: xs[i]))
    whole = mx.grad(lambda w: mx.vmap(loss, in_axes=(0, None))(xs, w).sum())(w)
    assert_close(whole, each.sum(axis=0))


# views and buffers


@pytest.mark.parametrize("layout", operands.LAYOUTS)
@pytest.mark.parametrize(
    "name", ["winograd", "strided", "temporal", "pointwise", "patches", "grouped", "2-D"]
)
def test_non_contiguous(layout: str, name: str) -> None:
    problem = PROBLEMS[name]
    made = operands.make(problem)
    x = operands.laid_out(np.array(made.arrays["x"]), problem.x_type, layout)
    contiguous = mx.contiguous(x) + 0
    assert_close(
        operands.run(problem, {**made.arrays, "x": x}),
        operands.run(problem, {**made.arrays, "x": contiguous}),
    )


def test_non_contiguous_cotangent() -> None:
    x, w = normal(1, 3, 6, 6, 4), normal(5, *CUBE, 4)
    # The gradient of a transposed output is itself a transposed view.
    by_view = mx.grad(lambda w: (mx.moveaxis(conv3d(x, w), -1, 1) * weights).sum())
    weights = normal(1, 5, 1, 4, 4)
    plain = mx.grad(lambda w: (conv3d(x, w) * mx.contiguous(mx.moveaxis(weights, 1, -1))).sum())
    assert_close(by_view(w), plain(w))
    ones = mx.grad(lambda w: conv3d(x, w).sum())(w)  # a broadcast cotangent
    assert_close(ones, mx.grad(lambda w: (conv3d(x, w) * mx.ones((1, 1, 4, 4, 5))).sum())(w))


@pytest.mark.parametrize("operand", ["x", "residual", "lead", "bias", "w"])
def test_operands_survive(operand: str) -> None:
    """An operand that is still needed keeps its values; one that is not may be reused for the result."""
    problem = of((1, 3, 6, 6, 6), (6, *CUBE, 6), padding=((0, 0), 1, 1), lead=2, bias=True, residual=True)
    made = operands.make(problem)
    before = operands.float64(made.arrays[operand])
    mx.eval(operands.run(problem, made.arrays))
    assert np.array_equal(before, operands.float64(made.arrays[operand]))
    exact, scale = operands.solve(problem, made.exact)
    temporary = {name: a + 0 for name, a in made.arrays.items()}
    y = operands.run(problem, temporary)
    del temporary
    operands.check(y, problem, exact, scale, "auto")


def test_one_array_in_every_role() -> None:
    x = normal(4, 3, 3, 3, 4)
    y = conv3d(x, x, padding=1, residual=x, lead=None, bias=x[:, 0, 0, 0, 0])
    exact = operands.float64(x)
    conv = reference.Conv.of(3, padding=((1, 1),) * 3)
    expected = reference.forward(exact, exact, conv, bias=exact[:, 0, 0, 0, 0], residual=exact)
    assert reference.norm(operands.float64(y) - expected) <= 3e-6 * reference.norm(expected)


# streams and threads


def test_streams() -> None:
    problem = PROBLEMS["winograd"]
    made = operands.make(problem)
    exact, scale = operands.solve(problem, made.exact)
    x, w, bias = made.arrays["x"], made.arrays["w"], made.arrays["bias"]
    streams = [mx.new_stream(mx.cpu) for _ in range(3)]
    results = []
    for _ in range(5):
        results += [conv3d(x, w, bias=bias, **problem.options, stream=s) for s in (*streams, mx.cpu, None)]
    mx.eval(results)
    for y in results:
        operands.check(y, problem, exact, scale, "auto")


def test_results_cross_streams() -> None:
    w, v, x = normal(8, *CUBE, 8) * 0.1, normal(8, 1, 1, 1, 8), normal(1, 4, 7, 7, 8)
    first, second = mx.new_stream(mx.cpu), mx.new_stream(mx.cpu)
    y = x
    for _ in range(3):
        y = conv3d(y, w, padding=1, stream=first)
        y = conv3d(y, v, stream=second)
    expected = x
    for _ in range(3):
        expected = conv3d(conv3d(expected, w, padding=1), v)
    assert_close(y, expected)


def test_stream_context() -> None:
    x, w = normal(1, 3, 5, 5, 4), normal(4, *CUBE, 4)
    with mx.stream(mx.new_stream(mx.cpu)):
        y = conv3d(x, w)
    assert_close(y, conv3d(x, w))


def in_threads(count: int, work: Callable[[int], None]) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(count)

    def guarded(i: int) -> None:
        try:
            start.wait()
            work(i)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    if failures:
        raise failures[0]


def test_threads() -> None:
    """Threads with streams of their own run different algorithms at once."""
    names = list(PROBLEMS)

    def work(i: int) -> None:
        with mx.stream(mx.new_stream(mx.cpu)):
            for step in range(12):
                problem = PROBLEMS[names[(i + step) % len(names)]]
                made = operands.make(problem)
                exact, scale = operands.solve(problem, made.exact)
                operands.check(operands.run(problem, made.arrays), problem, exact, scale, "auto")

    in_threads(4, work)


def test_threads_share_operands_and_gradients() -> None:
    x, w = normal(1, 4, 9, 9, 16), normal(16, *CUBE, 16)
    mx.eval(x, w)

    def loss(x: mx.array, w: mx.array) -> mx.array:
        return mx.square(conv3d(x, w, padding=1, activation="silu")).sum()

    expected = mx.grad(loss, argnums=(0, 1))(x, w)
    mx.eval(expected)

    def work(_: int) -> None:
        with mx.stream(mx.new_stream(mx.cpu)):
            for _ in range(5):
                for found, wanted in zip(mx.grad(loss, argnums=(0, 1))(x, w), expected, strict=True):
                    assert_close(found, wanted)

    in_threads(4, work)


def test_many_pending_results() -> None:
    """Hundreds of convolutions in one graph, evaluated at once and asynchronously."""
    w = normal(4, 3, 3, 3, 4) * 0.2
    x = normal(1, 3, 5, 5, 4)
    pending = [conv3d(x * (i % 7), w, padding=1) for i in range(300)]
    mx.async_eval(pending)
    base = conv3d(x, w, padding=1)
    for i, y in enumerate(pending):
        assert_close(y, base * (i % 7), 1e-5) if i % 7 else None
