"""Writes the Metal sources as the extension carries them, with the names of their kernels, and compiles them on a Mac.

python tools/metal_sources.py build/metal [--compile]

--compile: Metal's compiler makes a library of each, warnings being errors, and every kernel must be in it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

from embed_kernels import flatten

ROOT = Path(__file__).resolve().parent.parent
SYSTEM_INCLUDE = re.compile(r"^\s*#\s*include\s*<.*$", re.MULTILINE)
HOST_NAME = re.compile(r'host_name\(((?:\s*"[^"]*")+)\s*\)')
XCRUN = ("xcrun", "-sdk", "macosx")
# The oldest system and language that mlx supports; MLX compiles without fast math, too.
OPTIONS = ("-std=metal3.1", "-mmacosx-version-min=14.0", "-fno-fast-math", "-Werror")


def kernel_names(text: str) -> list[str]:
    """What the host calls the kernels of a source, macros expanded by the C++ compiler's preprocessor."""
    preprocess = [*shlex.split(os.environ.get("CXX", "c++")), "-E", "-P", "-x", "c++", "-"]
    done = subprocess.run(
        preprocess, input=SYSTEM_INCLUDE.sub("", text), capture_output=True, text=True, check=True
    )
    return ["".join(re.findall(r'"([^"]*)"', found)) for found in HOST_NAME.findall(done.stdout)]


def write(kernels: Path, output: Path) -> dict[str, list[str]]:
    """Every source with its headers in it, and functions.json: the kernels by file name."""
    output.mkdir(parents=True, exist_ok=True)
    functions = {}
    for path in sorted(kernels.glob("*.metal")):
        text = flatten(path)
        (output / path.name).write_text(text, encoding="utf-8")
        functions[path.name] = kernel_names(text)
        if not functions[path.name]:
            raise SystemExit(f"{path.name} has no kernel with a host_name")
    (output / "functions.json").write_text(json.dumps(functions, indent=2) + "\n", encoding="utf-8")
    return functions


def compile_source(source: Path, functions: list[str]) -> str:
    """Makes a library beside the source; what is wrong, or nothing."""
    air, library = source.with_suffix(".air"), source.with_suffix(".metallib")
    for command in (
        [*XCRUN, "metal", *OPTIONS, "-c", str(source), "-o", str(air)],
        [*XCRUN, "metallib", str(air), "-o", str(library)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    names = library.read_bytes()
    lost = [name for name in functions if name.encode() + b"\0" not in names]
    return f"{library.name} lacks {', '.join(lost)}" if lost else ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the Metal sources, and compiles them on a Mac.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--kernels", type=Path, default=ROOT / "kernels")
    parser.add_argument("--compile", action="store_true", help="with xcrun metal, warnings being errors")
    arguments = parser.parse_args()
    functions = write(arguments.kernels, arguments.output)
    wrong = {}
    for name, kernels in functions.items():
        wrong[name] = compile_source(arguments.output / name, kernels) if arguments.compile else ""
        print(f"{name}: {len(kernels)} kernels{', FAILED' if wrong[name] else ''}")
    if any(wrong.values()):
        raise SystemExit("\n".join(text for text in wrong.values() if text))


if __name__ == "__main__":
    main()
