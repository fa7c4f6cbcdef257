"""The wheel for macOS as a Mac would use it: its checks pass and find every flaw, and pip takes it for a Mac only."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import build
import check_wheel
import macos_tools
import pytest
from macos_tools import ROOT
from macos_wheel import EXTENSION, THIS, TOOLS, needs, unpacked, wheel

pytestmark = needs(TOOLS)
TAG = macos_tools.cpython_tag(THIS)
MACHINE = [ROOT, TOOLS.root]
Files = dict[str, bytes]


def test_the_wheel_is_as_it_should_be() -> None:
    build.check(TOOLS, wheel(TOOLS), THIS)


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        path = next(n for n in files if n.endswith(name))
        assert old in files[path]
        files[path] = files[path].replace(old, new)

    return change


def dropped(name: str) -> Callable[[Files], None]:
    return lambda files: files.pop(next(n for n in files if n.endswith(name)))


def added(name: str, content: bytes) -> Callable[[Files], None]:
    return lambda files: files.update({name: content})


FLAWS = {
    "a kernel of another version": (
        replaced(EXTENSION, b"[[kernel]] void grouped(", b"[[kernel]] void another("),
        "the extension lacks the kernels of grouped.metal",
    ),
    "a path in a text": (
        added("mlx_conv3d/built.txt", f"by {ROOT}/Makefile".encode()),
        f"mlx_conv3d/built.txt names {ROOT}",
    ),
    "a path in the extension": (
        replaced(EXTENSION, b"[[kernel]] void grouped(", b"/home/someone/a/grouped("),
        f"{EXTENSION} names /home/someone/a/grouped(",
    ),
    "no pin of mlx": (replaced("METADATA", b"mlx==", b"mlx>="), "METADATA does not require mlx=="),
    "another licence": (
        replaced("METADATA", b"License-Expression: MIT", b"License-Expression: BSD"),
        "License-Expression: BSD, not MIT",
    ),
    "no licence file": (dropped("licenses/LICENSE"), "lacks mlx_conv3d-"),
    "no command": (replaced("entry_points.txt", b"cli:app", b"cli:main"), "needs mlx_conv3d.cli:main"),
    "the tag of this machine": (
        replaced("/WHEEL", macos_tools.PLATFORM.encode(), b"linux_x86_64"),
        f"WHEEL has the tags ['{TAG}-{TAG}-linux_x86_64']",
    ),
    "a changed file": (replaced("cli/plan.py", b"import", b"Import"), "another hash or size of mlx_conv3d/cli/plan.py"),
    "a file too many": (added("mlx_conv3d/more.py", b""), "mlx_conv3d/more.py is in the wheel alone"),
    "a file too few": (dropped("cli/plan.py"), "mlx_conv3d/cli/plan.py is in RECORD alone"),
    "no extension for this Python": (dropped(EXTENSION), f"lacks {EXTENSION}"),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAWS)
def test_flaws_are_found(name: str, tmp_path: Path) -> None:
    change, message = FLAWS[name]
    original = wheel(TOOLS)
    with zipfile.ZipFile(original) as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    change(files)
    copy = tmp_path / original.name
    with zipfile.ZipFile(copy, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    found = check_wheel.flaws(copy, THIS, MACHINE)
    assert any(message in flaw for flaw in found), found


def test_another_name_is_refused(tmp_path: Path) -> None:
    other = tmp_path / wheel(TOOLS).name.replace("macosx_14_0", "macosx_11_0")
    other.write_bytes(wheel(TOOLS).read_bytes())
    assert any("the name does not end with" in flaw for flaw in check_wheel.flaws(other, THIS, MACHINE))


@pytest.mark.parametrize(
    ("platform", "version"),
    [("macosx_13_0_arm64", THIS), ("macosx_14_0_x86_64", THIS), (macos_tools.PLATFORM, "3.9")],
)
def test_pip_refuses_it_elsewhere(platform: str, version: str, tmp_path: Path) -> None:
    options = ["--no-deps", "--no-index", "--only-binary=:all:", "--target", str(tmp_path)]
    target = ["--platform", platform, "--python-version", version, "--implementation", "cp"]
    command = [*TOOLS.pip, "install", *options, *target, wheel(TOOLS)]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode != 0 and "is not a supported wheel on this platform" in done.stderr


def test_a_changed_page_has_another_hash_than_the_signed_one(tmp_path: Path) -> None:
    extension = unpacked(TOOLS, tmp_path)
    data = bytearray(extension.read_bytes())
    data[len(data) // 3] ^= 1
    extension.write_bytes(data)
    with pytest.raises(subprocess.CalledProcessError):
        build.check_extension(TOOLS, extension, THIS)
