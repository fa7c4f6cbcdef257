"""The doctor's Metal steps: on a Mac against stand-ins for the GPU, elsewhere in the simulator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from metal_programs import KERNELS, mutated_kernels
from metal_sim.frontend import host_names
from metal_sim.support import needs_metal_sim

from mlx_conv3d import _ext
from mlx_conv3d.doctor import examination, faults, machine, metal_families, metal_kernels, simulated
from mlx_conv3d.doctor.items import checked
from mlx_conv3d.doctor.rows import FAIL, OK, SKIP, Row

ROOT = str(KERNELS.parent)


@pytest.fixture(autouse=True)
def fresh_sources() -> None:
    simulated.sources.cache_clear()


def run_all(items: list[Any]) -> dict[str, Row]:
    return {item.name: checked("a step", item) for item in items}


# ---- on a Mac ----------------------------------------------------------------------------------------------


@needs_metal_sim
def test_every_kernel_is_compiled() -> None:
    """Those that the sources declare or instantiate are those that the doctor hands to the compiler."""
    found = {source: set(steps) for source, steps in metal_kernels.every_kernel().items()}
    assert found == {path.name: set(host_names(path)) for path in KERNELS.glob("*.metal")}


def test_a_kernel_that_does_not_compile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[int, Any], int]] = []

    def compile_kernel(source: str, kernel: str, constants: dict[int, Any], threads: int) -> None:
        asked.append((kernel, constants, threads))
        if kernel == "winograd_output_f4_float16":
            raise RuntimeError("error: no such\n thing")

    monkeypatch.setattr(_ext, "compile_kernel", compile_kernel)
    found = run_all(metal_kernels.items())
    assert [name for name, row in found.items() if row.status == FAIL] == ["winograd_output.metal"]
    detail = found["winograd_output.metal"].detail
    assert detail == "winograd_output_f4_float16 does not compile: error: no such thing"
    assert found["grouped.metal"].detail == "9 kernels compiled"
    kernels = [kernel for kernel, _, _ in asked]
    assert len(kernels) == len(set(kernels)) > 50  # the others of a file with a bad one, too
    assert all(0 < threads <= 1024 for _, _, threads in asked)
    assert all(constants for kernel, constants, _ in asked if not kernel.startswith("winograd_"))


def test_kernels_compile_where_there_is_metal() -> None:
    expected = FAIL if _ext.gpu() is None else OK
    assert {row.status for row in run_all(metal_kernels.items()).values()} == {expected}


def test_a_check_needs_metal() -> None:
    if _ext.gpu() is None:
        with pytest.raises(RuntimeError, match="there is no Metal GPU"):
            _ext.run_self_check("winograd", "float32")
    else:
        assert _ext.run_self_check("winograd", "float32"), _ext.switched_off()


def stand_in(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    """First-use checks of which those of one family fail."""
    checks = _ext.SelfChecks(lambda family, dtype: 0.5 if family == bad else 1e-7, lambda message: None)
    monkeypatch.setattr(_ext, "run_self_check", checks.usable)
    monkeypatch.setattr(_ext, "self_checks", checks.results)
    monkeypatch.setattr(_ext, "switched_off", checks.switched_off)


def test_families_are_checked_in_every_type(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "")
    found = run_all(metal_families.items())
    assert len(found) == 9 and {row.status for row in found.values()} == {OK}
    assert found["winograd float32"].detail == "differs from the CPU by 1.0e-07 of at most 5.0e-05"


def test_a_family_that_fails_its_check_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "grouped")
    found = run_all(metal_families.items())
    failed = [name for name, row in found.items() if row.status == FAIL]
    assert failed == ["grouped float32", "grouped float16", "grouped bfloat16"]
    for name in failed:
        assert "the family is switched off: their float32 results differ from the CPU's" in found[name].detail


def test_a_mac_has_steps_for_its_gpu() -> None:
    steps = examination.steps(examination.Machine("neon", "m3-max"), "")
    assert [s.name for s in steps["kernels"]] == ["neon kernels", "Metal compiler", "Metal kernels"]
    assert [s.options for s in steps["parity"]] == [
        {"device": "cpu", "gpu": ""},
        {"device": "gpu", "gpu": "m3-max"},
    ]
    assert [s.name for s in steps["timing"]] == ["time on the gpu"]


def test_a_live_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ext, "gpu", lambda: {"name": "m3-max", "note": ""})
    monkeypatch.setattr(
        mx, "device_info", lambda: {"device_name": "Apple M3 Max", "architecture": "applegpu_g15s"}
    )
    found = machine.metal()
    assert found.status == OK and found.data["gpu"] == "m3-max"
    assert found.detail == "live: Apple M3 Max (applegpu_g15s), planned as m3-max, Apple family 9"


# ---- switched off, and broken on purpose -------------------------------------------------------------------


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )


def test_a_family_is_switched_off_by_name() -> None:
    code = "import mlx_conv3d; print(mlx_conv3d.stats()['switched_off'])"
    done = python(code, MLX_CONV3D_SWITCH_OFF="winograd,fft")
    assert done.stdout.strip() == "{'winograd': 'MLX_CONV3D_SWITCH_OFF names them'}"
    assert "the Metal kernels 'winograd' are switched off for this process" in done.stderr
    assert "MLX_CONV3D_SWITCH_OFF: there are no Metal kernels 'fft'" in done.stderr


def test_a_source_is_broken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = _ext.kernel_source("grouped.metal")
    monkeypatch.setenv(faults.VARIABLE, "gather_gemm,grouped.metal")
    assert (
        _ext.kernel_source("grouped.metal").removeprefix(sound).startswith("void broken_by_MLX_CONV3D_BREAK")
    )
    assert "broken_by" not in _ext.kernel_source("gather_gemm.metal")


# ---- in the simulator --------------------------------------------------------------------------------------


@needs_metal_sim
def test_sound_sources_compile() -> None:
    assert simulated.is_current(ROOT).status == OK
    assert {simulated.compiles(ROOT, name).status for name in _ext.kernel_names()} == {OK}


@needs_metal_sim
def test_a_source_that_does_not_compile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "grouped.metal")
    items = [i for i in simulated.items(ROOT) if i.name in ("sources", "grouped.metal", "grouped float32")]
    found = run_all(items)
    assert found["sources"].status == OK
    assert found["grouped.metal"].status == FAIL
    assert "pointer without an address space: 'float * p'" in found["grouped.metal"].detail
    assert found["grouped float32"].status == FAIL and "grouped.metal:" in found["grouped float32"].detail


@needs_metal_sim
def test_a_family_that_is_off_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.VARIABLE, "grouped")
    found = simulated.agrees(ROOT, "grouped", "float32")
    assert (found.status, found.detail) == (FAIL, "differs from the CPU by 1.0e-02, more than 5.0e-05")


@needs_metal_sim
def test_another_source_than_the_checkouts_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutated_kernels(tmp_path, "winograd_output.metal", "#pragma unroll", "")
    (tmp_path / "tools").symlink_to(KERNELS.parent / "tools")
    found = simulated.is_current(str(tmp_path))
    assert found.status == FAIL and "another winograd_output.metal than" in found.detail


def test_without_a_simulator_metal_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = run_all(simulated.items("")).values()
    assert found.status == SKIP and "no checkout of this version" in found.detail
    simulator = simulated.simulator(ROOT)
    monkeypatch.setattr(simulator, "unavailable_reason", lambda: "there is no clang 19")
    (found,) = run_all(simulated.items(ROOT)).values()
    assert (found.status, found.detail) == (SKIP, "Metal kernels are not compiled here: there is no clang 19")
