"""Builds the wheels for macOS on arm64, on Linux, and checks them. docs/macos_build.md says how and why.

python tools/macos/build.py [--output dist] [--tools build/macos] [--python 3.12]... [--python-include 3.12=FOLDER]...

Without --python, wheels for every CPython that MLX has macOS wheels for; `--python this` is the interpreter that runs
this. --fetch stops when everything is in the tools folder; MLX_CONV3D_MACOS_TOOLS names another one, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import check_wheel
import python_headers
from macos_tools import HERE, PYTHONS, ROOT, Tools, default_folder, missing_programs, requirement


def check(tools: Tools, wheel: Path, version: str, *options: str) -> None:
    """Raises SystemExit with what is wrong with the wheel; `options` are check.py's."""
    if wrong := check_wheel.flaws(wheel, version, [ROOT, tools.root, Path.home()]):
        raise SystemExit("\n".join(wrong))
    installed = tools.build_folder(version) / "installed"
    check_wheel.install(tools, wheel, version, installed)
    (extension,) = installed.glob("mlx_conv3d/_ext.*.so")
    check_extension(tools, extension, version, *options)


def check_extension(tools: Tools, extension: Path, version: str, *options: str) -> None:
    tools.run(tools.python, HERE / "check.py", extension, tools.symbols(), tools.core(version), *options)


def python_version(text: str) -> str:
    version = python_headers.THIS if text == "this" else text
    if version not in PYTHONS:
        raise argparse.ArgumentTypeError(f"{version} is none of {', '.join(PYTHONS)}")
    return version


def python_include(text: str) -> tuple[str, Path]:
    version, equals, folder = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is not VERSION=FOLDER")
    return python_version(version), Path(folder).resolve()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Builds the wheels for macOS on arm64, on Linux, and checks them."
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--tools", type=Path, default=default_folder())
    parser.add_argument("--mlx", default=requirement("mlx"), help="another mlx to compile and link against")
    parser.add_argument("--python", type=python_version, action="append", help="build for this version alone")
    parser.add_argument("--python-include", type=python_include, action="append", default=[])
    parser.add_argument("--imports", action="store_true", help="list every import and where it is from")
    parser.add_argument("--fetch", action="store_true", help="only fetch what the build needs")
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse()
    if packages := missing_programs():
        raise SystemExit(f"apt-get install --no-install-recommends {packages}")
    tools = Tools(arguments.tools, arguments.mlx)
    tools.fetch()
    given = dict(arguments.python_include)
    missing = {}
    for version in dict.fromkeys(arguments.python or PYTHONS):
        try:
            source = tools.headers(version, given.get(version))
        except python_headers.Missing as reason:
            missing[version] = reason
            continue
        print(f"CPython {version}: headers from {source}", flush=True)
        if arguments.fetch:
            continue
        wheel = tools.build(version, arguments.output.resolve())
        check(tools, wheel, version, *(["--imports"] if arguments.imports else []))
        print(wheel, flush=True)
    if missing:
        reasons = "".join(f"\n  {version}: {reason}" for version, reason in missing.items())
        raise SystemExit(
            f"No headers for, so no wheel for CPython {', '.join(missing)}:{reasons}\n"
            "--python-include VERSION=FOLDER names a folder with Python.h; --python leaves versions out."
        )


if __name__ == "__main__":
    main()
