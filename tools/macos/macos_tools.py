"""The folder with everything that the build for macOS fetches and makes: docs/macos_build.md says what and why."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import python_headers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PLATFORM = "macosx_14_0_arm64"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")  # those that MLX has macOS wheels for
DEBIAN = {
    "ld64.lld-19": "lld-19",
    "llvm-ar-19": "llvm-19",
    "llvm-ranlib-19": "llvm-19",
    "llvm-strip-19": "llvm-19",
}


def default_folder() -> Path:
    return Path(os.environ.get("MLX_CONV3D_MACOS_TOOLS", ROOT / "build" / "macos"))


def requirement(name: str) -> str:
    """The version of a build requirement in pyproject.toml."""
    found = re.search(rf'"{name}(?:\[cpu\])?==([^";]+)', (ROOT / "pyproject.toml").read_text())
    if found is None:
        raise SystemExit(f"pyproject.toml requires no exact {name}")
    return found[1].strip()


def missing_programs() -> str:
    """What to install with apt-get, or nothing."""
    return " ".join(sorted({package for program, package in DEBIAN.items() if not shutil.which(program)}))


def cpython_tag(version: str) -> str:
    """ "cp312" of "3.12"."""
    return f"cp{version.replace('.', '')}"


class Tools:
    """What one version of MLX needs. `root` holds what all share: programs, CPython's headers, build folders."""

    def __init__(self, root: Path, mlx: str) -> None:
        self.root = root.resolve()
        self.mlx_version = mlx
        self.folder = self.root / f"mlx-{mlx}"
        self.mlx = self.folder / "unpacked" / "mlx"
        self.wheels = self.folder / "wheels"
        self.ready = self.folder / "ready"
        self.python = self.root / "venv" / "bin" / "python"
        self.pip = [self.python, "-m", "pip", "--disable-pip-version-check", "--quiet"]

    def run(self, *command: str | Path, **options: str) -> None:
        subprocess.run([*map(str, command)], check=True, cwd=ROOT, env={**os.environ, **options})

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process fetches or builds in this folder meanwhile."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def fetch(self) -> None:
        """Installs and downloads what is missing, by name from the package index that pip knows."""
        with self.alone():
            self.fetch_programs()
            if not self.ready.exists():
                self.fetch_mlx()

    def fetch_programs(self) -> None:
        wanted = ["ziglang==0.17.0", "lief>=0.17", "scikit-build-core>=0.11", "cmake>=3.24", "ninja", "wheel"]
        wanted.append(f"nanobind=={requirement('nanobind')}")
        note = self.root / "venv" / "installed"
        if note.is_file() and note.read_text() == str(wanted):
            return
        venv.create(self.root / "venv", with_pip=True, clear=True)
        self.run(*self.pip, "install", *wanted)
        note.write_text(str(wanted))

    def fetch_mlx(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        target = ["--only-binary=:all:", "--platform", PLATFORM, "--dest", self.wheels]
        for version in PYTHONS:
            names = [f"mlx=={self.mlx_version}", f"mlx-metal=={self.mlx_version}"]
            self.run(*self.pip, "download", "--no-deps", *target, "--python-version", version, *names)
        for wheel in self.wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(self.folder / "unpacked")
        self.run(self.python, HERE / "stubs.py", self.folder, self.mlx)
        self.write_compilers()
        self.ready.touch()

    def write_compilers(self) -> None:
        (self.folder / "bin").mkdir()
        for language, name in (("cc", "cc"), ("c++", "c++")):
            script = self.folder / "bin" / name
            command = shlex.join(map(str, [self.python, HERE / "driver.py", self.folder, language]))
            script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            script.chmod(0o755)

    def headers(self, version: str, given: Path | None = None) -> str:
        """Gets CPython's headers and says where they are from; python_headers.Missing where they cannot be had."""
        with self.alone():
            return python_headers.get(version, self.include(version), self.pip, given)

    def include(self, version: str) -> Path:
        return self.root / "python" / version

    def symbols(self) -> Path:
        """The linker's list of what the interpreter provides."""
        return next((self.root / "venv").rglob("nanobind/cmake/darwin-ld-cpython.sym"))

    def core(self, version: str) -> Path:
        """MLX's own extension."""
        return next(self.mlx.glob(f"core.cpython-{version.replace('.', '')}-*.so"))

    def build_folder(self, version: str) -> Path:
        return self.root / "cmake" / f"{cpython_tag(version)}-mlx{self.mlx_version}"

    def build(self, version: str, output: Path) -> Path:
        """The wheel for one CPython, whose headers are there, in `output`."""
        made = self.build_folder(version) / "wheel"
        with self.alone():
            shutil.rmtree(made, ignore_errors=True)
            self.run_build(version, made)
            (wheel,) = made.glob("*.whl")
            # The backend names the wheel after the interpreter that runs it.
            tags = [f"--{kind}-tag={cpython_tag(version)}" for kind in ("python", "abi")]
            self.run(self.python, "-m", "wheel", "tags", "--remove", *tags, wheel)
            (wheel,) = made.glob("*.whl")
            output.mkdir(parents=True, exist_ok=True)
            # Who reads an earlier one keeps it whole.
            copied = shutil.copy2(wheel, output / f"{wheel.name}.new")
            return Path(copied).replace(output / wheel.name)

    def run_build(self, version: str, output: Path) -> None:
        defines = {
            "CMAKE_TOOLCHAIN_FILE": HERE / "toolchain.cmake",
            "MLX_ROOT": self.mlx,
            "MLX_PYTHON_VERSION": self.mlx_version,
            "MLX_CONV3D_WERROR": "ON",
        }
        settings = [f"--config-settings=cmake.define.{name}={value}" for name, value in defines.items()]
        settings.append(f"--config-settings=build-dir={self.build_folder(version)}")
        self.run(
            *(*self.pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", output, *settings, "."),
            PATH=f"{self.python.parent}:{os.environ['PATH']}",
            MLX_CONV3D_MACOS_COMPILERS=str(self.folder / "bin"),
            MLX_CONV3D_MACOS_PYTHON=str(self.include(version)),
            _PYTHON_HOST_PLATFORM=PLATFORM.replace("_", "-", 1).replace("_", ".", 1).replace("_", "-"),
            SETUPTOOLS_EXT_SUFFIX=f".cpython-{version.replace('.', '')}-darwin.so",
        )
