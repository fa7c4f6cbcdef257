"""Derivatives of every operand, first and second order, against float64 adjoints and differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import numpy as np
import operands
import problems
import pytest
import reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import ACTIVATIONS, FAMILIES, MODES, PICKED, Problem, of
from upsampled_problems import UPSAMPLED

import mlx_conv3d

CUBE = (3, 3, 3)
FLOAT32_BOUND = 1e-5
MOST_PRODUCTS = 400_000

Values = dict[str, np.ndarray]


def function_of(problem: Problem, names: list[str], algorithm: str = "auto") -> Callable[..., mx.array]:
    return lambda *given: operands.run(problem, dict(zip(names, given, strict=True)), algorithm)


def split(exact: Values) -> tuple[np.ndarray, np.ndarray, Values]:
    return exact["x"], exact["w"], {n: a for n, a in exact.items() if n not in ("x", "w")}


def exact_gradients(problem: Problem, exact: Values, cotangent: np.ndarray) -> Values:
    x, w, rest = split(exact)
    found = reference.adjoint(cotangent, x, w, problem.conv, **rest)
    return {name: getattr(found, name) for name in exact}


def gradient_scales(problem: Problem, exact: Values, cotangent: np.ndarray) -> dict[str, float]:
    """Of each gradient, the norm it would have if the signs of its products were random."""
    x, w, rest = split(exact)
    z = reference.linear(x, w, problem.conv, rest.get("lead")) + rest.get("bias", 0)
    dz = cotangent * reference.activation_slope(z, problem.activation)
    squares = {name: a**2 for name, a in rest.items()}
    conv = replace(problem.conv, activation=None)
    energy = reference.adjoint(dz**2, x**2, w**2, conv, **squares)
    return {name: float(np.sqrt(getattr(energy, name).sum())) for name in exact}


def away_from_relu_corner(problem: Problem, exact: Values) -> bool:
    """Whether no pre-activation is so near zero that rounding decides its slope."""
    if problem.activation != "relu":
        return True
    x, w, rest = split(exact)
    z = reference.linear(x, w, problem.conv, rest.get("lead")) + rest.get("bias", 0)
    margin = {"float32": 1e-4}.get(problem.dtype, 1e-2)
    return z.size == 0 or float(np.abs(z).min()) > margin * reference.rms(z)


def check_gradients(problem: Problem, algorithm: str = "auto") -> None:
    made = operands.make(problem)
    names = list(made.arrays)
    rng = np.random.default_rng(problem.seed + 100)
    cotangent = mx.array(rng.normal(size=problem.out_shape).astype(np.float32)).astype(
        operands.dtype_of(problem.dtype)
    )
    _, found = mx.vjp(function_of(problem, names, algorithm), list(made.arrays.values()), [cotangent])
    exact_cotangent = operands.float64(cotangent)
    expected = exact_gradients(problem, made.exact, exact_cotangent)
    scales = gradient_scales(problem, made.exact, exact_cotangent)
    for name, gradient in zip(names, found, strict=True):
        check_gradient(gradient, made.arrays[name], expected[name], scales[name], name, problem)


def check_gradient(
    gradient: mx.array, operand: mx.array, exact: np.ndarray, scale: float, name: str, problem: Problem
) -> None:
    assert gradient.shape == operand.shape, f"d{name}: shape {gradient.shape}, expected {operand.shape}"
    assert gradient.dtype == operand.dtype, f"d{name}: {gradient.dtype}, expected {operand.dtype}"
    error = reference.norm(operands.float64(gradient) - exact)
    dtype = str(operand.dtype).rsplit(".", 1)[-1]
    scale = max(scale, reference.norm(exact))
    most = reference.error_bound(exact, dtype, FLOAT32_BOUND, scale)
    if problem.dtype != "float32" and (problem.activation or name == "bias"):
        # The cotangent of the sum is itself rounded to 16 bits, or a sum over all positions is.
        most += {"float16": 2**-10, "bfloat16": 2**-7}[problem.dtype] * scale
    assert error <= most, f"d{name}: error {error:.3e}, at most {most:.3e} (norm {scale:.3e})"


def check_drawn_gradients(problem: Problem) -> None:
    problem = problems.smaller(problem, MOST_PRODUCTS)
    assume(away_from_relu_corner(problem, exact_of(problem)))
    check_gradients(problem)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@settings(max_examples=max(5, settings.default.max_examples // 8))
@given(data=st.data())
def test_drawn_gradients(family: str, data: st.DataObject) -> None:
    check_drawn_gradients(data.draw(problems.problems(FAMILIES[family]), label=family))


PICKED_SMALL = {name: p for name, p in (PICKED | UPSAMPLED).items() if p.products <= 4_000_000}


@pytest.mark.parametrize("name", PICKED_SMALL)
def test_picked_gradients(name: str) -> None:
    check_gradients(PICKED_SMALL[name])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("groups", [1, 4])
def test_every_operand(mode: str, activation: str | None, groups: int) -> None:
    problem = of(
        (2, 3, 7, 8, 8),
        (8, *CUBE, 8 // groups),
        padding=((2, 0), 1, (1, 2)),
        stride=(1, 1, 2) if groups > 1 else 1,
        modes=mode,
        groups=groups,
        lead=2,
        bias=True,
        residual=True,
        activation=activation,
    )
    seeds = (
        seed for seed in range(20) if away_from_relu_corner(p := replace(problem, seed=seed), exact_of(p))
    )
    check_gradients(replace(problem, seed=next(seeds)))


def exact_of(problem: Problem) -> Values:
    return operands.make(problem).exact


@pytest.mark.parametrize("algorithm", ["winograd", "taps", "implicit_gemm", "stock"])
def test_forced_algorithms(algorithm: str) -> None:
    problem = of((1, 4, 8, 7, 16), (16, *CUBE, 16), padding=((2, 0), 1, 1), bias=True, activation="silu")
    check_gradients(problem, algorithm)


@pytest.mark.parametrize(
    ("algorithm", "problem"),
    [
        ("temporal", of((2, 6, 4, 5, 9), (7, 3, 1, 1, 9), padding=((2, 0), 0, 0), stride=(2, 1, 1))),
        ("pointwise", of((2, 3, 4, 5, 9), (7, 1, 1, 1, 9), bias=True, activation="gelu")),
        ("patchify", of((2, 4, 6, 8, 3), (7, 2, 3, 4, 3), stride=(2, 3, 4), bias=True)),
        ("grouped", of((2, 4, 6, 6, 12), (24, *CUBE, 3), padding=1, groups=4, activation="silu")),
    ],
)
def test_forced_special_algorithms(algorithm: str, problem: Problem) -> None:
    check_gradients(problem, algorithm)


def loss(problem: Problem, names: list[str]) -> Callable[..., mx.array]:
    f = function_of(problem, names)
    return lambda *given: 0.5 * mx.square(f(*given)).sum()


def exact_loss_gradient(problem: Problem, exact: Values) -> Values:
    x, w, rest = split(exact)
    return exact_gradients(problem, exact, reference.forward(x, w, problem.conv, **rest))


SMOOTH = {
    "plain": of((1, 3, 7, 6, 5), (4, *CUBE, 5), padding=1),
    "everything": of(
        (2, 3, 6, 6, 4),
        (6, *CUBE, 4),
        padding=((1, 0), 1, 1),
        lead=1,
        bias=True,
        residual=True,
        activation="silu",
        modes=("edge", "reflect", "zeros"),
        stride=(1, 2, 1),
    ),
    "sigmoid": of((1, 2, 6, 6, 8), (8, *CUBE, 8), padding=1, bias=True, activation="sigmoid"),
    "tanh": of((1, 2, 6, 6, 8), (8, *CUBE, 8), padding=1, bias=True, activation="tanh"),
    "gelu": of((1, 2, 6, 6, 8), (8, *CUBE, 8), padding=1, bias=True, activation="gelu"),
    "grouped": of((2, 3, 6, 6, 6), (6, *CUBE, 1), padding=1, groups=6, bias=True, activation="silu"),
    "grouped 1-D": of((2, 19, 6), (9, 4, 2), padding=((3, 0),), groups=3, stride=2),
    "2-D": of((2, 9, 8, 3), (5, 3, 2, 3), padding=((1, 2), 0), stride=(2, 1), dilation=(1, 2), modes="edge"),
    "input dilated": of((1, 3, 4, 4, 4), (5, *CUBE, 4), padding=1, input_dilation=2, flip=True),
    "strided": of((1, 5, 8, 7, 3), (4, *CUBE, 3), padding=1, stride=(2, 2, 3), dilation=(1, 2, 1)),
    "temporal": of(
        (1, 6, 3, 4, 8), (8, 3, 1, 1, 8), padding=((2, 0), 0, 0), modes=("edge", "zeros", "zeros")
    ),
    "upsampled": of(
        (1, 3, 4, 5, 4),
        (6, *CUBE, 4),
        padding=((2, 0), 1, (1, 2)),
        upsample=(2, 2, 3),
        lead=1,
        bias=True,
        activation="silu",
        modes=("edge", "reflect", "zeros"),
        stride=(1, 1, 2),
        dilation=(1, 1, 2),
    ),
    "mirrored within pixels": of(
        (1, 2, 4, 4, 3), (4, *CUBE, 3), padding=((2, 0), 3, (1, 2)), upsample=2, modes="reflect"
    ),
    "cropped": of((1, 5, 7, 7, 3), (4, *CUBE, 3), padding=((-1, 1), (0, -2), 1)),
}


def directions(exact: Values, seed: int = 5) -> Values:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=a.shape).astype(np.float32).astype(np.float64) for name, a in exact.items()}


def moved(exact: Values, along: Values, step: float) -> Values:
    return {name: a + step * along[name] for name, a in exact.items()}


def as_mx(values: Values) -> list[mx.array]:
    return [mx.array(a.astype(np.float32)) for a in values.values()]


def assert_near(found: mx.array, exact: np.ndarray, bound: float, what: str) -> None:
    error = reference.norm(operands.float64(found) - exact)
    assert found.shape == exact.shape, what
    assert error <= bound * reference.norm(exact), (
        f"{what}: relative error {error / reference.norm(exact):.3e}"
    )


@pytest.mark.parametrize("name", SMOOTH)
def test_jvp(name: str) -> None:
    problem = SMOOTH[name]
    made = operands.make(problem)
    along, h = directions(made.exact), 1e-5
    ahead, behind = (split(moved(made.exact, along, step)) for step in (h, -h))
    slope = (
        reference.forward(ahead[0], ahead[1], problem.conv, **ahead[2])
        - reference.forward(behind[0], behind[1], problem.conv, **behind[2])
    ) / (2 * h)
    function = function_of(problem, list(made.arrays))
    values, tangents = mx.jvp(function, list(made.arrays.values()), as_mx(along))
    assert_near(tangents[0], slope, 1e-5, "jvp")
    x, w, rest = split(made.exact)
    assert_near(values[0], reference.forward(x, w, problem.conv, **rest), 1e-5, "value")


@pytest.mark.parametrize("name", SMOOTH)
def test_second_order(name: str) -> None:
    """The Hessian times a vector, reverse over reverse, against differences of the float64 gradient."""
    problem = SMOOTH[name]
    made = operands.make(problem)
    names = list(made.arrays)
    along, h = directions(made.exact), 1e-5
    ahead, behind = (exact_loss_gradient(problem, moved(made.exact, along, step)) for step in (h, -h))
    tangents = as_mx(along)
    gradient = mx.grad(loss(problem, names), argnums=list(range(len(names))))

    def along_gradient(*given: mx.array) -> mx.array:
        return sum((g * t).sum() for g, t in zip(gradient(*given), tangents, strict=True))

    found = mx.grad(along_gradient, argnums=list(range(len(names))))(*made.arrays.values())
    for each, operand in zip(found, names, strict=True):
        assert_near(each, (ahead[operand] - behind[operand]) / (2 * h), 3e-5, f"second order in {operand}")


@pytest.mark.parametrize("name", ["plain", "everything", "grouped", "input dilated", "upsampled"])
def test_forward_over_reverse(name: str) -> None:
    problem = SMOOTH[name]
    made = operands.make(problem)
    names = list(made.arrays)
    along, h = directions(made.exact), 1e-5
    ahead, behind = (exact_loss_gradient(problem, moved(made.exact, along, step)) for step in (h, -h))
    gradient = mx.grad(loss(problem, names), argnums=list(range(len(names))))
    _, found = mx.jvp(gradient, list(made.arrays.values()), as_mx(along))
    for each, operand in zip(found, names, strict=True):
        assert_near(
            each, (ahead[operand] - behind[operand]) / (2 * h), 3e-5, f"jvp of the gradient of {operand}"
        )


@pytest.mark.parametrize(
    "name", ["plain", "grouped 1-D", "2-D", "input dilated", "strided", "temporal", "cropped"]
)
@pytest.mark.parametrize("operand", ["x", "w"])
def test_differences(name: str, operand: str) -> None:
    """Linear in each operand, so a central difference of any step is the exact derivative."""
    problem = SMOOTH[name]
    arrays = operands.make(problem).arrays
    rng = np.random.default_rng(11)
    cotangent = mx.array(rng.normal(size=problem.out_shape).astype(np.float32))
    along = mx.array(rng.normal(size=arrays[operand].shape).astype(np.float32))

    def f(a: mx.array) -> mx.array:
        return (operands.run(problem, {**arrays, operand: a}) * cotangent).sum()

    at = arrays[operand]
    difference = (f(at + along) - f(at - along)) / 2
    slope = (mx.grad(f)(at) * along).sum()
    size = float(mx.abs(mx.grad(f)(at) * along).sum())
    assert abs(difference.item() - slope.item()) <= 1e-5 * size


@pytest.mark.parametrize(
    "wanted", [("x",), ("w",), ("bias",), ("residual",), ("lead",), ("w", "lead"), ("x", "bias")]
)
def test_some_operands_only(wanted: tuple[str, ...]) -> None:
    problem = SMOOTH["everything"]
    made = operands.make(problem)
    names = list(made.arrays)
    places = [names.index(name) for name in wanted]
    found = mx.grad(loss(problem, names), argnums=places)(*made.arrays.values())
    found = [found] if len(wanted) == 1 else found
    expected = exact_loss_gradient(problem, made.exact)
    for gradient, name in zip(found, wanted, strict=True):
        assert_near(gradient, expected[name], 2e-5, name)


@pytest.mark.parametrize("stride", [1, 2, (3, 1, 2)])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_gradients(stride: int | tuple[int, ...], groups: int) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 3, 4, 3, 4)).astype(np.float32)
    w = rng.normal(size=(6, 3, 2, 3, 4 // groups)).astype(np.float32)
    b = rng.normal(size=6).astype(np.float32)
    strides = stride if isinstance(stride, tuple) else (stride,) * 3
    conv = reference.transpose_conv(w.shape[1:-1], strides, (1, 0, 1), (1, 2, 1), (0, 1, 0), groups)

    def f(x: mx.array, w: mx.array, b: mx.array) -> mx.array:
        return mlx_conv3d.conv_transpose3d(x, w, stride, (1, 0, 1), (1, 2, 1), (0, 1, 0), groups, bias=b)

    y = reference.forward(*map(np.float64, (x, w)), conv, bias=np.float64(b))
    cotangent = rng.normal(size=y.shape).astype(np.float32)
    values, found = mx.vjp(f, [mx.array(a) for a in (x, w, b)], [mx.array(cotangent)])
    expected = reference.adjoint(*map(np.float64, (cotangent, x, w)), conv, bias=np.float64(b))
    assert_near(values[0], y, 3e-6, "value")
    for gradient, name in zip(found, ("x", "w", "bias"), strict=True):
        assert_near(gradient, getattr(expected, name), 1e-5, name)


def test_reference_adjoint_is_the_derivative() -> None:
    """The float64 adjoint itself, by float64 differences, for every mode and activation."""
    for mode in MODES:
        for activation in (None, *ACTIVATIONS):
            problem = replace(SMOOTH["everything"], modes=(mode,) * 3, activation=activation)
            exact = exact_of(problem)
            along, h = directions(exact), 1e-6
            cotangent = directions({"y": np.empty(problem.out_shape)})["y"]
            gradients = exact_gradients(problem, exact, cotangent)
            ahead, behind = (split(moved(exact, along, step)) for step in (h, -h))
            difference = (
                reference.forward(ahead[0], ahead[1], problem.conv, **ahead[2])
                - reference.forward(behind[0], behind[1], problem.conv, **behind[2])
            ) / (2 * h)
            left = float((cotangent * difference).sum())
            right = sum(float((gradients[name] * along[name]).sum()) for name in exact)
            assert left == pytest.approx(right, rel=1e-5)
