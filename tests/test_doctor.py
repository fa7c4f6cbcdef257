"""`mlx-conv3d doctor`: rows, verdict and exit code; a hang, a crash and a wrong kernel are told by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import reference
from typer.testing import CliRunner

import mlx_conv3d
from mlx_conv3d import _arguments, _ext
from mlx_conv3d.cli import app
from mlx_conv3d.doctor import (
    cpu_kernels,
    exact,
    examination,
    faults,
    gradients,
    machine,
    parity,
    problems,
    rows,
)
from mlx_conv3d.doctor import report as reports
from mlx_conv3d.doctor.items import Item, checked
from mlx_conv3d.doctor.problems import Comparison, Problem
from mlx_conv3d.doctor.rows import FAIL, NOTE, OK, SKIP, Finding, Row
from mlx_conv3d.doctor.runner import Clock, Step, run

ROOT = Path(__file__).resolve().parent.parent
NARROWEST = "sse2" if _ext.isa() in examination.WIDENING else _ext.isa()
PLENTY = 60.0  # seconds that no check here comes near


def doctor(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, on one instruction set."""
    return subprocess.run(
        [sys.executable, "-m", "mlx_conv3d", "doctor", *arguments],
        env={**os.environ, "MLX_CONV3D_ISA": NARROWEST, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Standard output as strict JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    found: dict[str, Any] = json.loads(done.stdout, parse_constant=refuse)
    assert found["exit_code"] == done.returncode
    return found


def named(found: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = [row for row in found["rows"] if row["name"] == name]
    return row


def step(module: str = "cpu_kernels", limit: float = PLENTY, **given: Any) -> Step:
    options = {"isa": _ext.isa()} if module == "cpu_kernels" else {}
    return Step("a step", module, limit, given.pop("options", options), **given)


def statuses(found: list[Row]) -> dict[str, str]:
    return {row.name: row.status for row in found}


# ---- the command -------------------------------------------------------------------------------------------


def test_a_sound_installation_is_good() -> None:
    done = doctor("--json", "--only", "kernels,parity,gradients,timing")
    found = document(done)
    assert (found["verdict"], done.returncode, done.stderr) == ("good", 0, "")
    assert FAIL not in {row["status"] for row in found["rows"]}
    skipped = [row["name"] for row in found["rows"] if row["status"] == SKIP]
    assert skipped == ([] if _ext.gpu() else ["Metal backend"])
    steps = {row["step"]: sum(r["step"] == row["step"] for r in found["rows"]) for row in found["rows"]}
    assert (
        steps.items()
        >= {
            "machine": 5,
            f"{NARROWEST} kernels": len(cpu_kernels.CASES),
            "parity on the cpu": len(parity.SWEEP),
            f"{NARROWEST} gradients": 1,
            f"time on the {'gpu' if _ext.gpu() else 'cpu'}": 5,
        }.items()
    )


def test_the_last_line_is_the_verdict() -> None:
    done = doctor("--only", "gradients", MLX_CONV3D_DISABLE="1")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[-1].startswith("verdict: good, ")
    assert any(line.startswith("note") and "MLX_CONV3D_DISABLE=1" in line for line in lines)


def test_a_wrong_kernel_a_crash_and_a_hang_are_named() -> None:
    """All in one run: each is a row, the checks after it are made, nothing else fails."""
    broken = "winograd,pointwise:crash,transposed:hang"
    done = doctor("--json", "--only", "kernels", "--limit", "10", MLX_CONV3D_BREAK=broken)
    found = document(done)
    assert (found["verdict"], done.returncode, done.stderr) == ("bad", 1, "")
    assert named(found, "winograd")["detail"].startswith("winograd float32 ")
    assert "relative error 1.00e-02" in named(found, "winograd")["detail"]
    assert named(found, "pointwise")["detail"] == "crashed: SIGSEGV"
    assert named(found, "transposed")["detail"] == "no end within 10 s: stopped"
    assert "in strike" in named(found, "transposed")["data"]["log"]  # where it hung
    failed = [f"{NARROWEST} kernels: {name}" for name in ("winograd", "pointwise", "transposed")]
    told = [f"{row['step']}: {row['name']}" for row in found["rows"] if row["status"] == FAIL]
    assert [name for name in told if not name.startswith("Metal")] == failed
    assert found["line"].endswith(" checks failed: " + "; ".join(told))
    assert named(found, "implicit_gemm")["status"] == OK


def test_a_name_that_nothing_has_is_told() -> None:
    done = doctor("--only", "gradients", MLX_CONV3D_BREAK="fft,winograd:melt")
    assert done.returncode == 1
    assert "MLX_CONV3D_BREAK names what there is not: fft, winograd:melt" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "everything"], "--only must be of machine, kernels, parity"),
        (
            ["--checkout", "/nowhere"],
            "--checkout /nowhere does not hold the sources and tests of this version",
        ),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["doctor", *arguments])
    assert result.exit_code == 1
    assert result.output.startswith(f"error: {message}") and result.output.count("\n") == 1


# ---- one step in its process -------------------------------------------------------------------------------


def test_a_step_that_does_not_start() -> None:
    (row,) = run(step("no_such_module"), Clock(PLENTY))
    assert (row.name, row.status) == ("start", FAIL)
    assert row.detail.startswith("its process ended with code 1: ModuleNotFoundError")


def test_an_exception_is_a_row() -> None:
    (row,) = run(step(options={"isa": "z80"}), Clock(PLENTY))
    assert row.status == FAIL and "not z80" in row.detail

    def fails() -> Finding:
        raise ValueError("two\nlines")

    found = checked("a step", Item("one", fails))
    assert (found.status, found.detail) == (FAIL, "ValueError: two lines")


@pytest.mark.parametrize(("required", "status"), [(True, FAIL), (False, SKIP)])
def test_no_time_is_left(required: bool, status: str) -> None:
    """Neither before a step nor in the middle of one."""
    (row,) = run(step(required=required), Clock(0.0))
    assert (row.status, row.detail) == (status, "not run: no time was left")
    found = run(step(required=required), Clock(0.1))
    assert {row.status for row in found if row.status != OK} == {status}
    assert "no end when the doctor's time was up: stopped" in [row.detail for row in found]


def test_a_process_that_ends_by_itself_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "winograd:crash,taps:crash,implicit_gemm:crash")
    found = statuses(run(step(), Clock(PLENTY)))
    assert [name for name, status in found.items() if status == FAIL] == ["winograd", "taps", "implicit_gemm"]
    assert list(found) == list(cpu_kernels.CASES)


def test_a_clock_does_not_count_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that was suspended, or a process that was stopped, has not hung."""
    now = [100.0]
    monkeypatch.setattr("mlx_conv3d.doctor.runner.time.monotonic", lambda: now[0])
    clock = Clock(10.0)
    now[0] += 0.25
    assert clock.tick() == 0.25
    now[0] += 3600
    assert clock.tick() == 0.5 and clock.left == 9.25


def test_the_child_imports_this_package_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlx_conv3d").mkdir()
    (tmp_path / "mlx_conv3d" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path)
    found = run(step("gradients", options={"device": "cpu"}), Clock(PLENTY))
    assert statuses(found) == {"gradients": OK}


# ---- rows --------------------------------------------------------------------------------------------------


def row(status: str, name: str = "one") -> Row:
    return Row("a step", name, status, "")


@pytest.mark.parametrize(
    ("statuses", "good", "line"),
    [
        ([OK, NOTE], True, "verdict: good, 1 checks passed"),
        ([OK, SKIP, OK], True, "verdict: good, 2 checks passed, 1 not checked on this machine"),
        ([OK, FAIL], False, "verdict: bad, 1 of 2 checks failed: a step: one"),
        ([SKIP, NOTE], False, "verdict: bad, nothing was checked"),
        ([], False, "verdict: bad, nothing was checked"),
    ],
)
def test_verdict(statuses: list[str], good: bool, line: str) -> None:
    found = [row(status) for status in statuses]
    assert (rows.is_good(found), rows.verdict(found)) == (good, line)
    assert rows.document(found, 1.0)["verdict"] == ("good" if good else "bad")


def test_the_document_is_json_whatever_the_numbers_are() -> None:
    data = {"error": float("nan"), "sizes": (1, 2), "dtype": mx.float32, "deep": {"x": float("inf")}}
    found = rows.document([Row("a step", "one", FAIL, "", 0.0, data)], 1.0)
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text)["rows"][0]["data"] == {
        "error": "nan",
        "sizes": [1, 2],
        "dtype": "mlx.core.float32",
        "deep": {"x": "inf"},
    }


def comparison(error: float, algorithm: str = "taps") -> Comparison:
    return Comparison(Problem((1, 4, 2), (3, 1, 2)), algorithm, ("float32", "float32"), error, 1e-6)


def test_a_summary_tells_the_worst() -> None:
    good = reports.summary([comparison(1e-7), comparison(9e-7)])
    assert good.status == OK and "float32 9.0e-07 of 1.0e-06" in good.detail
    bad = reports.summary([comparison(2e-6), comparison(1e-7), comparison(float("nan"), "winograd")])
    assert bad.status == FAIL and bad.detail.startswith("winograd float32 1x4x2 3x1x2: relative error nan")
    assert bad.detail.endswith("(and 1 more of 3)")
    with pytest.raises(ValueError, match="nothing was compared"):
        reports.summary([])


# ---- what is checked ---------------------------------------------------------------------------------------


def all_problems() -> list[Problem]:
    cases = [p for group in (*cpu_kernels.CASES.values(), *parity.SWEEP.values()) for p in group]
    return list({str(p): p for p in [*cases, *gradients.PROBLEMS]}.values())


@pytest.mark.parametrize("problem", all_problems(), ids=str)
def test_the_reference_is_exact(problem: Problem) -> None:
    """The doctor's definition, in MLX's float64, is that of the tests in NumPy."""
    arrays = problems.operands(problem, ("float32", "float32"))
    p = problem.parameters
    conv = reference.Conv(
        stride=tuple(p.stride),
        padding=tuple(zip(p.pad_lo, p.pad_hi, strict=True)),
        dilation=tuple(p.dilation),
        input_dilation=tuple(p.input_dilation),
        modes=tuple(_arguments.PADDING_MODES[mode] for mode in p.pad_mode),
        groups=p.groups,
        flip=p.flip,
        activation=problem.options.get("activation"),
        crop_dilated=True,
        upsample=tuple(p.upsample),
    )
    wide = {name: np.array(a).astype(np.float64) for name, a in arrays.items()}
    found = problems.expected(problem, arrays)
    assert found.dtype == mx.float64
    np.testing.assert_allclose(
        np.array(found), reference.forward(wide.pop("x"), wide.pop("w"), conv, **wide), rtol=0, atol=1e-12
    )


def test_a_reflected_and_a_repeated_position() -> None:
    """Of 3 positions: 2 1 | 0 1 2 | 1 0, and of 2 upsampled by 2, 2 before: 0 0 | 0 0 1 1."""
    p = _arguments.parameters(1, padding=[2], padding_mode="reflect")
    assert exact.sources(p, 0, 3) == [2, 1, 0, 1, 2, 1, 0]
    p = _arguments.parameters(1, padding=[(2, 0)], padding_mode="edge", upsample=2)
    assert exact.sources(p, 0, 2) == [0, 0, 0, 0, 1, 1]
    p = _arguments.parameters(1, padding=[(1, -1)], input_dilation=2)
    assert exact.sources(p, 0, 3) == [3, 0, 3, 1, 3]


def test_every_algorithm_and_tile_is_checked() -> None:
    assert set(cpu_kernels.CASES) == set(_arguments.ALGORITHMS) - {"auto", "stock"}
    tiles, along, by_panel, by_thread = set(), set(), False, False
    for algorithm, group in cpu_kernels.CASES.items():
        for problem in group:
            for dtype in ("float32", "bfloat16"):
                candidates = {c.algorithm: c for c in problem.plan(dtype, dtype, "").candidates}
                assert candidates[algorithm].legal, problem
                own = candidates["winograd"]
                if algorithm == "winograd":
                    lines = {own.tile, own.tile_height, own.depth_tile}
                    tiles.add((own.pixels, own.tile, own.depth_tile))
                    if own.tile_height != own.tile or own.tile == 1:
                        axis = (own.depth_tile, own.tile_height, own.tile).index(max(lines))
                        along.add((axis, max(lines), max(problem.w[1:-1])))
                    by_panel |= own.weight_channels > 0
                    by_thread |= own.thread_chunks
    assert by_panel and by_thread
    assert {axis for axis, _, _ in along} == {0, 1, 2}
    assert {form[1:] for form in along} >= {(2, 3), (4, 3), (6, 3), (2, 5), (4, 5), (2, 7)}
    plain = {("single", m, 1) for m in (2, 4, 6)}
    other = {(p, m, 1) for p in ("doubled", "dilated") for m in (4, 6, 8)} | {
        ("strided", m, 1) for m in (2, 4)
    }
    assert tiles >= plain | other | {("single", 2, 2)}


@pytest.mark.parametrize("factor", [1.01, 1 + 2e-5, float("nan")])
def test_a_comparison_sees_a_result_that_is_off(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = parity.SWEEP["strides"][0]
    types = ("float32", "float32")
    assert all(c.good for c in problems.compare(problem, types, mx.cpu))
    monkeypatch.setattr(faults, "perturbed", lambda y, *names: y * factor)
    found = list(problems.compare(problem, types, mx.cpu))
    assert {c.algorithm for c in found} > {"stock"} and not any(c.good for c in found)


@pytest.mark.parametrize(
    ("isa", "expected"),
    [
        ("avx512", ["avx512", "avx2", "sse2"]),
        ("avx2", ["avx2", "sse2"]),
        ("sse2", ["sse2"]),
        ("neon", ["neon"]),
        ("", []),
    ],
)
def test_narrower_instruction_sets_are_checked_too(isa: str, expected: list[str]) -> None:
    assert examination.instruction_sets(isa) == expected


def test_a_checkout_is_one_of_this_version(tmp_path: Path) -> None:
    assert examination.is_checkout(ROOT) and not examination.is_checkout(tmp_path)
    (tmp_path / "tests" / "metal_sim").mkdir(parents=True)
    project = tmp_path / "pyproject.toml"
    project.write_text(f'name = "mlx-conv3d"\nversion = "{mlx_conv3d.__version__}"\n')
    assert examination.is_checkout(tmp_path)
    project.write_text('name = "mlx-conv3d"\nversion = "9.9"\n')
    assert not examination.is_checkout(tmp_path)


def test_looking_at_what_extensions_share_leaves_it_theirs() -> None:
    """One reference too few, and the next extension that looks there ends the process."""
    kept = machine.kept_by_extensions()
    before = sys.getrefcount(kept)
    assert len(machine.internals()) >= 1
    assert sys.getrefcount(kept) == before


def test_two_abis_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.nanobind_abi().status == OK
    monkeypatch.setattr(machine, "internals", lambda: ["__nb_internals_a_mlx__", "__nb_internals_b_mlx__"])
    found = machine.nanobind_abi()
    assert found.status == FAIL and found.detail.endswith("found a_mlx__, b_mlx__")


@pytest.mark.parametrize(("system", "status"), [("darwin", FAIL), ("linux", SKIP)])
def test_a_mac_without_metal_is_a_failure(monkeypatch: pytest.MonkeyPatch, system: str, status: str) -> None:
    monkeypatch.setattr(_ext, "gpu", lambda: None)
    monkeypatch.setattr(machine.sys, "platform", system)
    assert machine.metal().status == status
