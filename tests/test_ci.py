"""Continuous integration cannot pass without Metal's tests: no clang 19, no success."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("bash", "dirname")


def stub(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A PATH with a shell, a make that notes what it is called for, and nothing else."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for tool in TOOLS:
        (directory / tool).symlink_to(str(shutil.which(tool)))
    stub(directory, "make", f'echo "$1 $MLX_CONV3D_REQUIRE_METAL_SIM" >> {tmp_path}/made')
    return directory


def ci(path: Path) -> tuple[int, str, list[str]]:
    """Exit code, standard error and what was made with MLX_CONV3D_REQUIRE_METAL_SIM as it was."""
    done = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run")],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    made = path.parent / "made"
    return done.returncode, done.stderr, made.read_text().splitlines() if made.exists() else []


@pytest.mark.parametrize("install", ["exit 100", "exit 0"], ids=["apt-get fails", "apt-get installs nothing"])
def test_ci_fails_without_clang(path: Path, install: str) -> None:
    stub(path, "apt-get", install)
    code, error, made = ci(path)
    assert code != 0
    assert "clang 19 cannot be installed" in error
    assert made == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs x86-64")
def test_ci_fails_without_qemu(path: Path) -> None:
    for name in ("clang++-19", "llvm-symbolizer-19"):
        stub(path, name, "")
    stub(path, "apt-get", "exit 0")
    code, error, made = ci(path)
    assert code != 0
    assert "qemu-user cannot be installed" in error
    assert made == []


def test_ci_requires_the_metal_tests(path: Path) -> None:
    for name in ("clang++-19", "llvm-symbolizer-19", "qemu-x86_64"):
        stub(path, name, "")
    code, _, made = ci(path)
    assert code == 0
    assert made == ["clean 1", "lint 1", "wheel-linux 1", "test 1"]


def run_metal_tests(tmp_path: Path, required: str, *arguments: str) -> tuple[int, str]:
    """pytest on a PATH without clang."""
    environment = {**os.environ, "PATH": str(tmp_path), "MLX_CONV3D_REQUIRE_METAL_SIM": required}
    environment.pop("MLX_CONV3D_CLANG", None)
    command = [sys.executable, "-m", "pytest", "-rs", "--tb=no", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.returncode, done.stdout


RUNS = [
    "tests/test_metal_bytes.py::test_declared_bytes_are_the_counted_ones[depthwise, fp32]",
    "tests/test_metal_grouped.py::test_schedules",
    "tests/test_metal_parity.py::test_drawn_problems_on_metal[grouped]",
    "tests/test_metal_sim_program.py::test_two_steps_through_scratch",
    "tests/test_metal_sim_run.py::test_byte_counters_of_a_read_modify_write",
    "tests/test_metal_sim_source.py::test_all_mistakes_are_told_at_once",
    "tests/test_metal_winograd.py::test_schedules[float32]",
]


def test_without_clang_metal_tests_fail_where_they_are_required(tmp_path: Path) -> None:
    code, output = run_metal_tests(tmp_path, "1", *RUNS)
    assert code != 0
    assert f"Metal: {len(RUNS)} tests failed" in output


def test_without_clang_skipped_metal_tests_are_told(tmp_path: Path) -> None:
    code, output = run_metal_tests(tmp_path, "0", *RUNS)
    assert code == 0
    assert f"Metal: {len(RUNS)} tests skipped" in output
    assert "needs clang 19 (apt-get install" in output


def test_a_run_without_metal_tests_fails_where_they_are_required(tmp_path: Path) -> None:
    for required in ("0", "1"):
        code, output = run_metal_tests(tmp_path, required, "-o", "testpaths=tests/test_benchmarks.py")
        assert (code != 0) == (required == "1"), output
        assert ("not all Metal tests ran" in output) == (required == "1")


@pytest.mark.parametrize(
    "file", sorted(p.name for p in (ROOT / "tests").glob("test_*.py") if p != Path(__file__))
)
def test_no_file_skips_metal_tests_by_itself(file: str) -> None:
    """Only metal_sim.support does, which knows when that is not allowed."""
    assert "unavailable_reason" not in (ROOT / "tests" / file).read_text()
