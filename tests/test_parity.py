"""Results against float64, over drawn and hand-picked problems, by every algorithm legal for each."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import operands
import problems
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import FAMILIES, PICKED, Problem

import mlx_conv3d

ALGORITHMS = (
    "winograd",
    "taps",
    "temporal",
    "pointwise",
    "patchify",
    "grouped",
    "transposed",
    "implicit_gemm",
    "stock",
)


def check_problem(problem: Problem) -> None:
    problems.DRAWN.add(problem)
    made = operands.make(problem)
    exact, scale = operands.solve(problem, made.exact)
    chosen = operands.run(problem, made.arrays)
    if problem.general:
        operands.check(chosen, problem, exact, scale, "auto")
        return
    operands.check(chosen, problem, exact, scale, "auto")
    for candidate in operands.plan_of(problem).candidates:
        if candidate.legal:
            y = operands.run(problem, made.arrays, candidate.algorithm)
            check_forced(y, problem, exact, scale, candidate.algorithm)
        else:
            with pytest.raises(ValueError, match="algorithm"):
                operands.run(problem, made.arrays, candidate.algorithm)


def check_forced(y: mx.array, problem: Problem, exact: np.ndarray, scale: float, algorithm: str) -> None:
    if algorithm != "stock":
        operands.check(y, problem, exact, scale, algorithm)
        return
    # MLX's own convolution is outside the accuracy contract: right, but sums in the storage type.
    assert y.shape == exact.shape
    assert y.dtype == operands.dtype_of(problem.dtype)
    within = max(
        {"float32": 2e-5, "float16": 1e-2, "bfloat16": 8e-2}[t] for t in (problem.x_type, problem.w_type)
    )
    assert reference.norm(operands.float64(y) - exact) <= within * scale


@pytest.mark.parametrize("family", sorted(FAMILIES))
@given(data=st.data())
def test_drawn_problems(family: str, data: st.DataObject) -> None:
    check_problem(data.draw(problems.problems(FAMILIES[family]), label=family))


@pytest.mark.parametrize("name", PICKED)
def test_picked_problems(name: str) -> None:
    check_problem(PICKED[name])


@pytest.mark.parametrize("name", [name for name in PICKED if name.startswith("pairs")])
def test_pairs_of_frames_are_planned(name: str) -> None:
    """The problems picked for F(2, 3) along depth do run it."""
    assert operands.plan_of(PICKED[name], algorithm="winograd").depth_tile == 2


def transposed_problems() -> st.SearchStrategy[dict[str, object]]:
    def three(values: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
        return st.tuples(*[st.sampled_from(values)] * 3)

    return st.fixed_dictionaries(
        {
            "sizes": three((1, 2, 3, 5)),
            "kernel": three((1, 2, 3, 4)),
            "stride": three((1, 2, 2, 3)),
            "dilation": three((1, 1, 2)),
            "padding": three((0, 0, 1, 2)),
            "output_padding": three((0, 0, 1)),
            "channels": st.sampled_from(
                ((1, 3, 5), (1, 16, 8), (1, 32, 33), (3, 1, 1), (2, 4, 3), (8, 1, 1))
            ),
            "bias": st.booleans(),
            "batch": st.sampled_from((1, 1, 2)),
        }
    )


@settings(max_examples=settings.default.max_examples)
@given(given=transposed_problems())
def test_transposed(given: dict[str, tuple[int, ...]]) -> None:
    groups, c, o = given["channels"]
    names = ("stride", "padding", "dilation", "output_padding")
    options = {name: given[name] for name in names}
    conv = reference.transpose_conv(given["kernel"], **options, groups=groups)
    reach = [d * (k - 1) for d, k in zip(given["dilation"], given["kernel"], strict=True)]
    sizes = [
        max(n, 1 + -(-max(0, 2 * p - r - q) // s))
        for n, p, r, q, s in zip(
            given["sizes"], given["padding"], reach, given["output_padding"], given["stride"], strict=True
        )
    ]
    rng = np.random.default_rng(len(sizes))
    x = rng.normal(size=(given["batch"], *sizes, groups * c)).astype(np.float32)
    w = rng.normal(size=(groups * o, *given["kernel"], c)).astype(np.float32)
    b = rng.normal(size=groups * o).astype(np.float32) if given["bias"] else None
    try:
        exact = reference.forward(*map(np.float64, (x, w)), conv, bias=b)
    except AssertionError:  # padding crops so much that nothing is left
        with pytest.raises(ValueError):
            mlx_conv3d.conv_transpose3d(mx.array(x), mx.array(w), **options, groups=groups)
        return
    y = mlx_conv3d.conv_transpose3d(
        mx.array(x), mx.array(w), **options, groups=groups, bias=None if b is None else mx.array(b)
    )
    scale = max(reference.norm(exact), reference.expected_norm(np.float64(x), np.float64(w), conv, bias=b))
    assert y.shape == exact.shape
    assert reference.norm(operands.float64(y) - exact) <= 3e-6 * scale


def test_every_algorithm_is_met() -> None:
    """Plans know the named algorithms only, and each one is legal for some problem here."""
    legal: set[str] = set()
    for problem in PICKED.values():
        if problem.general:
            continue
        candidates = operands.plan_of(problem).candidates
        assert {c.algorithm for c in candidates} <= set(ALGORITHMS)
        legal |= {c.algorithm for c in candidates if c.legal}
    assert legal >= set(ALGORITHMS) - {"transposed", "stock"}


@settings(max_examples=settings.default.max_examples // 5)
@given(data=st.data())
def test_reference_against_mlx(data: st.DataObject) -> None:
    """The float64 reference itself, against MLX's convolution wherever that takes the problem."""
    family = FAMILIES[
        data.draw(st.sampled_from(("any_3d", "any_2d", "any_1d", "grouped_2d", "input_dilated", "flipped")))
    ]
    problem = data.draw(problems.problems(family))
    if problem.ndim == 3 and problem.groups > 1:
        return
    made = operands.make(problem)
    y = operands.general(problem, made.arrays["x"], made.arrays["w"], mx.conv_general)
    exact = reference.linear(made.exact["x"], made.exact["w"], problem.conv)
    scale = reference.expected_norm(made.exact["x"], made.exact["w"], problem.conv)
    assert y.shape == exact.shape
    assert reference.norm(operands.float64(y) - exact) <= 1e-5 * max(scale, reference.norm(exact))
