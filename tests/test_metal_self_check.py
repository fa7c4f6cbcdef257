"""The first-use checks of every family of Metal kernels, executed by the simulator: what a Mac will run first.

The problems, plans, values and tolerances are the library's own (core/self_check_cases.h).
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import mlx.core as mx
import pytest
from metal_programs import KERNELS, mutated_kernels
from metal_sim import Program
from metal_sim.support import needs_metal_sim

from mlx_conv3d import _ext
from mlx_conv3d.doctor import simulated
from mlx_conv3d.doctor.rows import OK

ROOT = str(KERNELS.parent)
FAMILIES = ("winograd", "grouped", "gather_gemm")
DTYPES = ("float32", "float16", "bfloat16")
MUTANTS = {
    "winograd": ("winograd_input.metal", "rows[i], col", "rows[i], col < 0 ? 0 : col"),
    "grouped": ("grouped.metal", "sum += part;", "sum = part;"),
    "gather_gemm": ("gather_gemm.metal", "has_sums ? result[e] + sums[at] : result[e]", "result[e]"),
}


@pytest.fixture(autouse=True)
def fresh_sources() -> None:
    simulated.sources.cache_clear()


@needs_metal_sim
@pytest.mark.parametrize(("family", "dtype"), list(product(FAMILIES, DTYPES)))
def test_first_use_checks_pass(family: str, dtype: str) -> None:
    """No report, and within the tolerance by a factor of 10: what a sound Mac may be off by besides."""
    found = simulated.agrees(ROOT, family, dtype)
    assert found.status == OK, found.detail
    assert 10 * found.data["error"] <= found.data["tolerance"]


@needs_metal_sim
@pytest.mark.parametrize("family", FAMILIES)
def test_first_use_checks_see_a_wrong_kernel(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = mutated_kernels(tmp_path, *MUTANTS[family])
    monkeypatch.setattr(simulated, "sources", lambda: kernels)
    tolerance = _ext.self_check_tolerance("float32")
    cases = _ext.self_check_cases(simulated.GPU, family, "float32")
    assert any(not simulated.distance(ROOT, case, "float32") <= tolerance for case in cases)


@pytest.mark.parametrize(("family", "dtype"), list(product(FAMILIES, DTYPES)))
def test_cases_are_what_the_check_promises(family: str, dtype: str) -> None:
    """A bias, the family's own kernels alone, values in [-1, 1), and of winograd every tile in several chunks."""
    cases = _ext.self_check_cases("m3-max", family, dtype)
    tiles = set()
    for case in cases:
        program = Program.from_dict(case["program"])
        assert {step.source.startswith(family) for step in program.steps} == {True}
        inputs = {b.name for b in program.buffers if b.role == "input"}
        assert inputs == {"x", "w", "bias"} == set(case["operands"])
        x, w = (case["operands"][name] for name in ("x", "w"))
        assert x.dtype == w.dtype == case["expected"].dtype == getattr(mx, dtype)
        assert mx.abs(x.astype(mx.float32)).max().item() <= 1
        tiles |= {s.kernel.split("_")[2] for s in program.steps if s.source == "winograd_input.metal"}
    if family == "winograd":
        assert tiles == {"f2", "f4"} | ({"f6"} if dtype != "float32" else set())
        assert max(len(case["program"]["steps"]) for case in cases) > 10
    assert len({(c["problem"], c["algorithm"]) for c in cases}) > (0 if family == "winograd" else 1)


def test_what_is_no_family() -> None:
    with pytest.raises(ValueError, match="family 'fft' is not known"):
        _ext.self_check_cases("m1", "fft", "float32")
    with pytest.raises(ValueError, match="dtype 'float64' is not known"):
        _ext.self_check_cases("m1", "winograd", "float64")
    with pytest.raises(ValueError, match="m0"):
        _ext.self_check_cases("m0", "winograd", "float32")
