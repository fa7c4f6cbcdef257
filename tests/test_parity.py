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
from problems import FAMILIES, PICKED, Problem, of
from upsampled_problems import UPSAMPLED

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


@pytest.mark.parametrize("name", UPSAMPLED)
def test_picked_upsampled_problems(name: str) -> None:
    check_problem(UPSAMPLED[name])


@pytest.mark.parametrize("channels", range(1, 18))
def test_few_products(channels: int) -> None:
    """One tap of few channels: all weights of a vector stay in registers. 39 rows are four blocks and seven."""
    check_problem(of((1, 1, 3, 13, channels), (16, 1, 1, 1, channels), bias=True))


@pytest.mark.parametrize("name", [name for name in PICKED if name.startswith("pairs")])
def test_pairs_of_frames_are_planned(name: str) -> None:
    """The problems picked for F(2, 3) along depth run it, with prepared weights at the latest."""
    assert operands.plan_of(PICKED[name], algorithm="winograd", prepared=True).depth_tile == 2


@pytest.mark.parametrize("name", [name for name in PICKED if name.startswith("rows")])
def test_buffered_rows_are_planned(name: str) -> None:
    """The problems picked for rows that are copied once do run over them, if not on a matrix unit."""
    assert "copied once" in operands.plan_of(PICKED[name], algorithm="implicit_gemm").reason


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
