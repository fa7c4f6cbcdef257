"""The compiler driver of the cross-build: zig compiles, ld64.lld links against stubs, undefined symbols are errors.

macos_tools.py writes scripts that call it as `driver.py TOOLS c++ ARGUMENTS...`; TOOLS is the folder of one MLX.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MINIMUM = "14.0"
SDK = "14.5"
LINKER = "ld64.lld-19"
SOURCES = (".c", ".cc", ".cpp", ".cxx")
WITH_VALUE = ("-arch", "-isysroot", "-iframework")
# Without, objects import std::__1::__hash_memory, which the libc++ of macOS 14 need not have.
AVAILABILITY = [
    "-U_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS",
    "-D_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS=1",
]
FOR_THE_LINKER = ("-install_name", "-compatibility_version", "-current_version", "-framework")
FOR_THE_COMPILER = ("-f", "-O", "-g", "-W", "-D", "-I", "-std", "-m", "-pthread")


def compile_command(tools: Path, language: str, arguments: list[str]) -> list[str]:
    target = ["-target", f"aarch64-macos.{MINIMUM}"]
    zig = [sys.executable, "-m", "ziglang", language]
    return [*zig, *target, *AVAILABILITY, "-isystem", str(tools / "headers"), *arguments]


def without_host_options(arguments: list[str]) -> list[str]:
    """What CMake says of an SDK that is not there is left out."""
    kept, rest = [], iter(arguments)
    for argument in rest:
        if argument in WITH_VALUE:
            next(rest)
        elif not argument.startswith(("-mmacosx-version-min", "-mmacos-version-min", "-F/Applications")):
            kept.append(argument)
    return kept


def link_command(tools: Path, arguments: list[str]) -> list[str]:
    """ld64.lld's arguments for clang's. `-undefined dynamic_lookup` is not passed on."""
    kind, output, inputs = "-execute", "a.out", []
    rest = iter(arguments)
    for argument in rest:
        if argument == "-o":
            output = next(rest)
        elif argument in ("-bundle", "-shared", "-dynamiclib"):
            kind = "-bundle" if argument == "-bundle" else "-dylib"
        elif argument == "-undefined":
            next(rest)
        elif argument == "-Xlinker":
            inputs.append(next(rest))
        elif argument.startswith("-Wl,"):
            inputs += [part for part in argument[4:].split(",") if part]
        elif argument in FOR_THE_LINKER:
            inputs += [argument, next(rest)]
        elif not argument.startswith(FOR_THE_COMPILER):
            inputs.append(argument)
    stubs = tools / "stubs"
    system = [str(stubs / name) for name in ("libobjc.tbd", "libc++.tbd", "libSystem.tbd")]
    platform = ["-arch", "arm64", "-platform_version", "macos", MINIMUM, SDK]
    head = [LINKER, *platform, "-demangle", "-adhoc_codesign", kind, "-undefined", "error", "-o", output]
    return [*head, *inputs, "-F", str(stubs / "Frameworks"), *system]


def main() -> int:
    tools, language, *arguments = sys.argv[1:]
    arguments = without_host_options(arguments)
    linking = not any(a in ("-c", "-E", "-S", "-dM", "--version", "-v", "-###") for a in arguments)
    if linking and any(a.endswith(SOURCES) for a in arguments):
        print("driver.py links objects only", file=sys.stderr)
        return 1
    command = (
        link_command(Path(tools), arguments) if linking else compile_command(Path(tools), language, arguments)
    )
    environment = {
        **os.environ,
        "ZIG_GLOBAL_CACHE_DIR": f"{tools}/../zig",
        "ZIG_LOCAL_CACHE_DIR": f"{tools}/../zig",
    }
    return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
