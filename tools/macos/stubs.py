"""What stands in for Apple's SDK: link stubs with the symbols that MLX's own macOS libraries bind, and a few types.

A library built for macOS 14 that binds a symbol to libc++ proves that macOS 14's libc++ has it, so a link against
these stubs cannot pass with a symbol that is not there.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

import lief
import ziglang

FRAMEWORKS = ("Metal", "Foundation", "QuartzCore", "Accelerate")
SYSTEM = {"libc++": "/usr/lib/libc++.1.dylib", "libobjc": "/usr/lib/libobjc.A.dylib"}
# Of libc++abi, which libc++ re-exports: weak, so they are bound by name alone.
WEAK = re.compile(r"__(ZTISt|ZTVN10__cxxabiv1|Zna|Znw|Zda|Zdl)")
ALWAYS = {"__ZdlPvm", "__ZdaPvm", "__ZdlPvmSt11align_val_t", "__ZdaPvmSt11align_val_t"}
# Of every libc++ since macOS 10.15, whether or not MLX uses it.
EXCEPTIONS = (
    "logic_error",
    "runtime_error",
    "invalid_argument",
    "out_of_range",
    "length_error",
    "domain_error",
    "range_error",
    "overflow_error",
    "underflow_error",
    "bad_alloc",
    "exception",
)
OLD = {
    *(f"__ZNSt3__19to_stringE{t}" for t in "ijlmxyfde"),
    *(f"__ZNSt3__16thread{m}" for m in ("4joinEv", "6detachEv", "20hardware_concurrencyEv", "D1Ev")),
    *(f"__ZNSt3__118condition_variable{m}" for m in ("10notify_oneEv", "10notify_allEv", "D1Ev")),
    *(f"__ZNSt{len(e)}{e}D{n}Ev" for e in EXCEPTIONS for n in "012"),
    *(f"__ZT{kind}St{len(e)}{e}" for e in EXCEPTIONS for kind in "ISV"),
    *(f"__ZNSt{len(e)}{e}C{n}E{t}" for e in EXCEPTIONS[:2] for n in "12" for t in ("PKc", "RKS_")),
    *(
        f"__ZNSt{len(e)}{e}C{n}ERKNSt3__112basic_stringIcNS0_11char_traitsIcEENS0_9allocatorIcEEEE"
        for e in EXCEPTIONS[:2]
        for n in "12"
    ),
}

# The types that metal-cpp takes from headers of the SDK.
HEADERS = {
    "CoreFoundation/CoreFoundation.h": "#include <TargetConditionals.h>\n#include <stdint.h>\n"
    "typedef double CFTimeInterval;\ntypedef double CFAbsoluteTime;\n"
    "typedef const void *CFTypeRef;\ntypedef long CFIndex;\n",
    "CoreGraphics/CGColorSpace.h": "typedef struct CGColorSpace *CGColorSpaceRef;\n",
    "CoreGraphics/CGGeometry.h": "typedef double CGFloat;\n"
    "typedef struct CGPoint { CGFloat x, y; } CGPoint;\n"
    "typedef struct CGSize { CGFloat width, height; } CGSize;\n"
    "typedef struct CGRect { CGPoint origin; CGSize size; } CGRect;\n",
    "IOSurface/IOSurfaceRef.h": "typedef struct __IOSurface *IOSurfaceRef;\n",
    "simd/simd.h": "",
}


def bound_symbols(libraries: list[Path]) -> dict[str, set[str]]:
    """Symbols by the library that they are bound to; those bound by name alone under ""."""
    by_library: dict[str, set[str]] = defaultdict(set)
    for path in libraries:
        fat = lief.MachO.parse(str(path))
        for binding in fat.at(0).bindings:
            if binding.has_symbol:
                library = binding.library.name if binding.has_library else ""
                by_library[library].add(binding.symbol.name)
    return by_library


def tbd(install_name: str, symbols: set[str]) -> str:
    names = ", ".join(f"'{s}'" for s in sorted(symbols))
    exports = f"exports:\n  - targets: [ arm64-macos ]\n    symbols: [ {names} ]\n" if symbols else ""
    return (
        "--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\n"
        f"install-name: '{install_name}'\ncurrent-version: 1\n{exports}...\n"
    )


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_stubs(folder: Path, libraries: list[Path], libsystem: Path) -> None:
    """`libraries` are MLX's, `libsystem` is the stub that ziglang ships."""
    bound = bound_symbols(libraries)
    for name, install_name in SYSTEM.items():
        symbols = set(bound[install_name])
        if name == "libc++":
            symbols |= {s for s in bound[""] if WEAK.match(s)} | ALWAYS | OLD
        write(folder / f"{name}.tbd", tbd(install_name, symbols))
    for name in FRAMEWORKS:
        install_name = f"/System/Library/Frameworks/{name}.framework/Versions/A/{name}"
        write(folder / "Frameworks" / f"{name}.framework" / f"{name}.tbd", tbd(install_name, set()))
    # lld 19 does not know these targets.
    write(folder / "libSystem.tbd", re.sub(r"arm64e\.x1-\w+(, )?", "", libsystem.read_text()))


def write_headers(folder: Path) -> None:
    for name, text in HEADERS.items():
        write(folder / name, "#pragma once\n" + text)


def main() -> None:
    tools, mlx = Path(sys.argv[1]), Path(sys.argv[2])
    zig = Path(ziglang.__file__).parent
    libraries = [*mlx.glob("core.*.so"), *(mlx / "lib").glob("*.dylib")]
    write_stubs(tools / "stubs", libraries, zig / "lib" / "libc" / "darwin" / "libSystem.tbd")
    write_headers(tools / "headers")


if __name__ == "__main__":
    main()
