"""Continuous integration cannot pass without the tests of Metal and macOS, nor with a kernel that Metal refuses."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("bash", "dirname")
LLVM = ("clang++-19", "llvm-symbolizer-19", "llvm-ar-19", "ld64.lld-19")


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
    required = "$MLX_CONV3D_REQUIRE_METAL_SIM $MLX_CONV3D_REQUIRE_MACOS"
    stub(directory, "make", f'echo "{required} $*" >> {tmp_path}/made')
    return directory


def ci(path: Path) -> tuple[int, str, list[str]]:
    """Exit code, standard error and what was made, after the two variables that require tests."""
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
@pytest.mark.parametrize("absent", LLVM)
def test_ci_fails_without_llvm(path: Path, absent: str, install: str) -> None:
    stub(path, "apt-get", install)
    for name in LLVM:
        if name != absent:
            stub(path, name, "")
    code, error, made = ci(path)
    assert code != 0
    assert "LLVM 19 cannot be installed" in error
    assert made == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs x86-64")
def test_ci_fails_without_qemu(path: Path) -> None:
    for name in LLVM:
        stub(path, name, "")
    stub(path, "apt-get", "exit 0")
    code, error, made = ci(path)
    assert code != 0
    assert "qemu-user cannot be installed" in error
    assert made == []


def test_ci_requires_the_tests_of_metal_and_macos(path: Path) -> None:
    for name in (*LLVM, "qemu-x86_64"):
        stub(path, name, "")
    code, _, made = ci(path)
    assert code == 0
    targets = ["clean", "lint", "wheel-linux", "wheel-macos MACOS_ARGS=--python this", "test"]
    assert made == [f"1 1 {target}" for target in targets]


def run_tests(tmp_path: Path, metal_required: str, *arguments: str) -> tuple[int, str]:
    """pytest on a PATH without clang and lld."""
    environment = {**os.environ, "PATH": str(tmp_path), "MLX_CONV3D_REQUIRE_METAL_SIM": metal_required}
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
    code, output = run_tests(tmp_path, "1", *RUNS)
    assert code != 0
    assert f"Metal: {len(RUNS)} tests failed" in output


def test_without_clang_skipped_metal_tests_are_told(tmp_path: Path) -> None:
    code, output = run_tests(tmp_path, "0", *RUNS)
    assert code == 0
    assert f"Metal: {len(RUNS)} tests skipped" in output
    assert "needs clang 19 (apt-get install" in output


def test_a_run_without_tests_fails_where_they_are_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for required in ("0", "1"):
        monkeypatch.setenv("MLX_CONV3D_REQUIRE_MACOS", required)
        code, output = run_tests(tmp_path, required, "-o", "testpaths=tests/test_threads.py")
        assert (code != 0) == (required == "1"), output
        for name in ("Metal", "macOS"):
            assert (f"not all {name} tests ran" in output) == (required == "1")


MACOS = "tests/test_macos_build.py::test_warnings_are_errors"


@pytest.mark.parametrize(("required", "outcome"), [("0", "skipped"), ("1", "failed")])
def test_without_lld_macos_tests_skip_or_fail(
    tmp_path: Path, required: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_CONV3D_REQUIRE_MACOS", required)
    code, output = run_tests(tmp_path, "0", MACOS)
    assert (code != 0) == (required == "1"), output
    assert f"macOS: 1 tests {outcome}" in output


# What Metal refuses: a pointer without an address space, and one into another space than what it is given.
ADDRESS_SPACES = {
    "as it is": ("const device W* tap = w", "const device W* tap = w", ""),
    "missing": (
        "const device W* w [[buffer(2)]]",
        "const W* w [[buffer(2)]]",
        "needs the address space device or constant",
    ),
    "another": (
        "const device W* tap = w",
        "const constant W* tap = w",
        "cannot initialize .*__constant float .* with .*__global float",
    ),
}


@pytest.mark.parametrize("space", ADDRESS_SPACES)
def test_a_wrong_address_space_in_a_kernel_fails_the_tests(tmp_path: Path, space: str) -> None:
    """As `make test` runs them, on a copy of the kernels and the tests in which one kernel is changed."""
    old, new, message = ADDRESS_SPACES[space]
    for folder in ("kernels", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    kernel = tmp_path / "kernels" / "grouped.metal"
    before, found, after = kernel.read_text().partition(old)
    assert found
    kernel.write_text(before + new + after)
    test = "tests/test_metal_grouped.py::test_schedules"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--tb=short", "-p", "no:cacheprovider", test],
        env={**os.environ, "MLX_CONV3D_REQUIRE_METAL_SIM": "1"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode != 0) == bool(message), done.stdout
    assert f"Metal: 1 tests {'failed' if message else 'passed'}" in done.stdout
    if message:
        line = before.count("\n") + 1
        assert re.search(rf"grouped\.metal:{line}: .*{message}", done.stdout), done.stdout[-3000:]
