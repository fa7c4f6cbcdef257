"""The wheel for Linux: what is found wrong with one, and what the emulated machines would tell."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_conv3d
from mlx_conv3d import _ext

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
sys.path[:0] = [str(TOOLS / "linux"), str(TOOLS)]
emulate, few_convolutions, manylinux = map(import_module, ("emulate", "few_convolutions", "manylinux"))
try_installed, check_package = import_module("try_installed"), import_module("check_package")

NAMES = (
    "_ext.pyi",
    "py.typed",
    "cli/plan.py",
    "demo/clip.mp4",
    "demo/video_vae.safetensors",
    "demo/CREDITS.md",
)
EXTENSION = "mlx_conv3d/_ext.cpython-311-x86_64-linux-gnu.so"
BINARY = b"\x7fELF\0$ORIGIN/../mlx/lib\0"
TAG = "mlx_conv3d-0.1.0-cp311-cp311-manylinux_2_35_x86_64.whl"


def wheel(folder: Path, binary: bytes = BINARY, **more: bytes) -> Path:
    """A wheel with everything that has to be in one, and more."""
    made = folder / TAG
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(EXTENSION, binary)
        for name in NAMES:
            archive.writestr(f"mlx_conv3d/{name}", b"")
        for name in ("licenses/LICENSE", "entry_points.txt"):
            archive.writestr(f"mlx_conv3d-0.1.0.dist-info/{name}", b"")
        for name, content in more.items():
            archive.writestr(name, content)
    return made


def test_a_good_wheel(tmp_path: Path) -> None:
    assert manylinux.wrong_with(wheel(tmp_path)) == []


@pytest.mark.parametrize(
    ("binary", "more", "message"),
    [
        (b"\x7fELF", {}, "does not find libmlx beside it"),
        (BINARY + b"/home/someone/core/plan.cpp", {}, "names /home/someone/core/plan.cpp"),
        (BINARY, {"mlx_conv3d.libs/libmlx-1a2b.so": b""}, "holds mlx_conv3d.libs/libmlx-1a2b.so"),
        (BINARY, {"mlx_conv3d/where.txt": str(ROOT).encode()}, f"names {ROOT} in mlx_conv3d/where.txt"),
        (BINARY, {"mlx_conv3d/where.txt": sys.prefix.encode()}, "in mlx_conv3d/where.txt"),
    ],
)
def test_what_is_wrong_with_a_wheel(
    tmp_path: Path, binary: bytes, more: dict[str, bytes], message: str
) -> None:
    assert any(message in wrong for wrong in manylinux.wrong_with(wheel(tmp_path, binary, **more)))


@pytest.mark.parametrize(("binary", "code"), [(BINARY, 0), (b"", 1)])
def test_wheels_of_a_folder(tmp_path: Path, binary: bytes, code: int) -> None:
    made = wheel(tmp_path, binary)
    command = [sys.executable, TOOLS / "check_package.py", "--wheels", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert made.name in done.stdout


def test_a_folder_without_wheels(tmp_path: Path) -> None:
    assert check_package.check_wheels(tmp_path) == ["no wheels"]


@pytest.mark.skipif(sys.platform != "linux", reason="there is no mlx-cpu")
def test_the_policy_is_read_from_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    assert manylinux.mlx_policy().startswith("manylinux_2_")

    class Untagged:
        def read_text(self, name: str) -> str:
            return "Wheel-Version: 1.0\nTag: py3-none-any\n"

    monkeypatch.setattr(manylinux, "distribution", lambda name: Untagged())
    with pytest.raises(SystemExit, match="mlx-cpu has no manylinux tag"):
        manylinux.mlx_policy()


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("done", "strict", "tag", "policies"),
    [
        ("made", False, "manylinux_2_35_x86_64", 1),
        ("newer", False, "manylinux_2_39_x86_64", 2),
        ("newer", True, None, 1),
        ("broken", False, None, 1),
    ],
)
def test_newer_libraries_narrow_the_tag_unless_that_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: str, strict: bool, tag: str | None, policies: int
) -> None:
    """auditwheel stands for itself: what it is asked for, and what is made of its answers."""
    asked: list[str] = []

    def auditwheel(wheel: Path, policy: str, output: Path) -> subprocess.CompletedProcess[str]:
        asked.append(policy)
        if done != "made" and policy != "auto":
            told = "too-recent versioned symbols" if done == "newer" else "no such library"
            return subprocess.CompletedProcess([], 1, "", told)
        made = policy if policy != "auto" else "manylinux_2_39_x86_64"
        (output / f"mlx_conv3d-0.1.0-cp311-cp311-{made}.whl").write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(manylinux, "auditwheel", auditwheel)
    given = tmp_path / "mlx_conv3d-0.1.0-cp311-cp311-linux_x86_64.whl"
    given.write_bytes(b"wheel")
    if tag is None:
        with pytest.raises(SystemExit):
            manylinux.repair(given, "manylinux_2_35_x86_64", strict)
        assert given.exists()
    else:
        made = manylinux.repair(given, "manylinux_2_35_x86_64", strict)
        assert made.name.endswith(f"-{tag}.whl") and made.read_bytes() == b"wheel"
        assert list(tmp_path.iterdir()) == [made]
    assert len(asked) == policies


# ---- what is tried ------------------------------------------------------------------------------------------


def test_what_is_tried_exists() -> None:
    assert [test for test in try_installed.TESTS if not (ROOT / "tests" / test).is_file()] == []


def test_the_checkout_is_not_what_is_tried(tmp_path: Path) -> None:
    """Here the package is imported from the checkout, or not at all."""
    checkout = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, TOOLS / "try_installed.py"],
        cwd=tmp_path,
        env=checkout,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "mlx_conv3d is imported from" in done.stderr or "No module named 'mlx_conv3d'" in done.stderr


@pytest.fixture
def on_the_cpu() -> Iterator[None]:
    with mx.stream(mx.cpu):
        yield


# ---- older machines -----------------------------------------------------------------------------------------


def test_few_convolutions_with_the_chosen_instructions() -> None:
    command = [sys.executable, TOOLS / "linux" / "few_convolutions.py"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for wanted in (_ext.isa(), "mmx"):
        done = subprocess.run([*command, wanted], env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode == 0) == (wanted == _ext.isa()), done.stderr
    assert f"{_ext.isa()} was chosen, not mmx" in done.stderr


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("number", range(len(few_convolutions.PROBLEMS)))
def test_a_wrong_convolution_is_found(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    right = mlx_conv3d.conv3d

    def wrong(*arguments: object, **options: object) -> mx.array:
        y = right(*arguments, **options)
        y[0, 0, 0, 0, 0] += 1
        return y

    assert few_convolutions.check(number, mx.float32) <= 1
    monkeypatch.setattr(mlx_conv3d, "conv3d", wrong)
    with pytest.raises(SystemExit, match="times the error allowed"):
        few_convolutions.check(number, mx.float32)


@pytest.mark.usefixtures("on_the_cpu")
def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    few_convolutions.check_gradients()
    right = mlx_conv3d.conv3d
    monkeypatch.setattr(mlx_conv3d, "conv3d", lambda x, w, **options: right(x * 1.0001, w, **options))
    with pytest.raises(SystemExit, match=r"dL/d. has a relative error"):
        few_convolutions.check_gradients()


def test_machines_are_emulated_with_their_instructions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator = script(tmp_path / "emulator", 'echo "$2 $5"')
    emulate.run_all(Path("python"), emulator)
    told = capsys.readouterr().out.split("\n")[:-1]
    assert told == [f"{machine}: {machine} {isa}" for machine, isa in emulate.MACHINES.items()]
    assert set(emulate.MACHINES.values()) == {"sse2", "avx2"}


def test_a_machine_that_fails_is_named(tmp_path: Path) -> None:
    emulator = script(
        tmp_path / "emulator", '[ "$2" = qemu64 ] && echo fine || { echo illegal instruction >&2; exit 132; }'
    )
    with pytest.raises(SystemExit, match=r"core2duo: exit 132\nillegal instruction"):
        emulate.run_all(Path("python"), emulator)


def test_without_an_emulator_its_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="qemu-x86_64 is missing: apt-get install"):
        emulate.find()
