"""Builds the wheel for macOS on arm64, on Linux, and checks it. docs/macos_build.md says how and why.

python tools/macos/build.py [--output dist] [--tools build/macos] [--fetch]

--fetch stops when everything is in the tools folder; MLX_CONV3D_MACOS_TOOLS names another one, too.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PLATFORM = "macosx_14_0_arm64"
DEBIAN = {
    "ld64.lld-19": "lld-19",
    "llvm-ar-19": "llvm-19",
    "llvm-ranlib-19": "llvm-19",
    "llvm-strip-19": "llvm-19",
}


def default_tools() -> Path:
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


class Tools:
    """The folder with everything that was fetched and made, for one mlx and this Python."""

    def __init__(self, folder: Path, mlx: str) -> None:
        self.mlx_version = mlx
        self.version = f"{sys.version_info.major}.{sys.version_info.minor}"
        self.folder = folder.resolve() / f"cp{self.version.replace('.', '')}-mlx{mlx}"
        self.python = self.folder / "venv" / "bin" / "python"
        self.mlx = self.folder / "mlx" / "mlx"
        self.ready = self.folder / "ready"

    def run(self, *command: str | Path, **options: str) -> None:
        subprocess.run([*map(str, command)], check=True, cwd=ROOT, env={**os.environ, **options})

    def fetch(self) -> None:
        """Installs and downloads what is missing, by name from the package index that pip knows."""
        if self.ready.exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        venv.create(self.folder / "venv", with_pip=True)
        pip = [self.python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        nanobind = f"nanobind=={requirement('nanobind')}"
        build = ["scikit-build-core>=0.11", nanobind, "cmake>=3.24", "ninja"]
        self.run(*pip, "install", "ziglang==0.17.0", "lief>=0.17", *build)
        wheels = self.folder / "wheels"
        of_mlx = [f"mlx=={self.mlx_version}", f"mlx-metal=={self.mlx_version}"]
        target = ["--only-binary=:all:", "--platform", PLATFORM, "--python-version", self.version]
        self.run(*pip, "download", "--no-deps", *target, *of_mlx, "--dest", wheels)
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(self.folder / "mlx")
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

    def symbols(self) -> Path:
        """The linker's list of what the interpreter provides."""
        return next((self.folder / "venv").rglob("nanobind/cmake/darwin-ld-cpython.sym"))

    def build(self, output: Path) -> Path:
        defines = {
            "CMAKE_TOOLCHAIN_FILE": HERE / "toolchain.cmake",
            "MLX_ROOT": self.mlx,
            "MLX_PYTHON_VERSION": self.mlx_version,
            "MLX_CONV3D_WERROR": "ON",
        }
        settings = [f"--config-settings=cmake.define.{name}={value}" for name, value in defines.items()]
        settings.append(f"--config-settings=build-dir={self.folder / 'cmake'}")
        output.mkdir(parents=True, exist_ok=True)
        pip = [self.python, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
        self.run(
            *pip,
            *("--no-build-isolation", "--no-deps", "--wheel-dir", output, *settings, "."),
            PATH=f"{self.python.parent}:{os.environ['PATH']}",
            MLX_CONV3D_MACOS_TOOLS=str(self.folder),
            _PYTHON_HOST_PLATFORM=PLATFORM.replace("_", "-", 1).replace("_", ".", 1).replace("_", "-"),
            SETUPTOOLS_EXT_SUFFIX=f".cpython-{self.version.replace('.', '')}-darwin.so",
        )
        return max(output.glob(f"*{PLATFORM}.whl"), key=lambda path: path.stat().st_mtime)

    def check(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".so"))
            extension = Path(archive.extract(name, self.folder / "checked"))
        libmlx = self.mlx / "lib" / "libmlx.dylib"
        self.run(self.python, HERE / "check.py", extension, libmlx, self.symbols())


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Builds the wheel for macOS on arm64, on Linux, and checks it."
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--tools", type=Path, default=default_tools())
    parser.add_argument("--mlx", default=requirement("mlx"), help="another mlx to compile and link against")
    parser.add_argument("--fetch", action="store_true", help="only fetch what the build needs")
    arguments = parser.parse_args()
    if packages := missing_programs():
        raise SystemExit(f"apt-get install --no-install-recommends {packages}")
    tools = Tools(arguments.tools, arguments.mlx)
    tools.fetch()
    if arguments.fetch:
        return
    wheel = tools.build(arguments.output.resolve())
    tools.check(wheel)
    print(wheel)


if __name__ == "__main__":
    main()
