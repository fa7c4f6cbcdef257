"""Checks an extension for macOS without a Mac: every import resolves, and what the loader asks for is there.

python tools/macos/check.py EXTENSION.so CPYTHON.sym CORE.so [--imports]

EXTENSION is installed beside MLX, whose library is looked for as the loader does; CORE is MLX's own extension.
--imports lists each import with where it is from.
"""

from __future__ import annotations

import hashlib
import re
import struct
import sys
from collections import Counter
from pathlib import Path

import lief

RPATH = "@loader_path/../mlx/lib"
MINIMUM = [14, 0, 0]
CODE_SIGNATURE = 0x1D
CODE_DIRECTORY = 0
ORDINALS = {0: "itself", -1: "the main program", -2: "any library", -3: "any library (weak)"}
MLX = re.compile(r"3mlx4core|N3MTL|N2NS")
LIBMLX = "@rpath/libmlx.dylib"
# What nanobind calls its shared types: extensions of another name do not know MLX's arrays.
NANOBIND = re.compile(rb"nanobind_\w+_v\d+\w*(?=\0)")


_parsed: list[lief.MachO.FatBinary] = []


def parse(path: Path) -> lief.MachO.Binary:
    fat = lief.MachO.parse(str(path))
    _parsed.append(fat)  # the binary does not keep alive what it is a part of
    return fat.at(0)


def exports_of(path: Path) -> set[str]:
    return {e.symbol.name for e in parse(path).dyld_exports_trie.exports if e.symbol}


def cpython_symbols(path: Path) -> set[str]:
    """Of the list that nanobind gives the linker: what the interpreter itself provides."""
    return {line.split()[1] for line in path.read_text().splitlines() if line.startswith("-U")}


def imports_of(binary: lief.MachO.Binary) -> list[tuple[str, str]]:
    """(library, symbol), sorted."""
    found = set()
    for binding in binary.bindings:
        if binding.has_symbol:
            library = binding.library.name if binding.has_library else ORDINALS[binding.library_ordinal]
            found.add((library, binding.symbol.name))
    return sorted(found)


def wrong_imports(binary: lief.MachO.Binary, mlx: set[str], python: set[str]) -> list[str]:
    own = {s.name for s in binary.symbols if (s.raw_type & 0x0E) == 0x0E}
    wrong = []
    for library, symbol in imports_of(binary):
        if library == LIBMLX:
            fits = symbol in mlx
        elif library == ORDINALS[-2]:
            fits = symbol in python
        elif library == ORDINALS[-3]:
            fits = not MLX.search(symbol) or symbol in mlx or symbol in own
        elif library == ORDINALS[0]:
            fits = symbol in own
        else:
            fits = not MLX.search(symbol)
        if not fits:
            wrong.append(f"{symbol} is not in {library}")
    return wrong


def wrong_signature(data: bytes) -> str:
    """What is wrong with the ad-hoc signature's page hashes, which macOS on arm64 checks when it loads; or nothing."""
    offset, signature = 32, None
    for _ in range(struct.unpack_from("<I", data, 16)[0]):
        command, size = struct.unpack_from("<II", data, offset)
        if command == CODE_SIGNATURE:
            signature = struct.unpack_from("<II", data, offset + 8)
        offset += size
    if signature is None:
        return "there is no signature"
    blob = data[signature[0] : signature[0] + signature[1]]
    for i in range(struct.unpack_from(">I", blob, 8)[0]):
        kind, start = struct.unpack_from(">II", blob, 12 + 8 * i)
        if kind != CODE_DIRECTORY:
            continue
        hashes, _, _, pages, limit, hash_size, _, _, page_bits = struct.unpack_from(
            ">IIIIIBBBB", blob, start + 16
        )
        page = 1 << page_bits
        for k in range(pages):
            digest = hashlib.sha256(data[k * page : min((k + 1) * page, limit)]).digest()
            at = start + hashes + k * hash_size
            if digest != blob[at : at + hash_size]:
                return f"page {k} of the code does not have the signed hash"
        return ""
    return "the signature has no code directory"


def libmlx_of(extension: Path) -> Path:
    """Where the loader finds libmlx."""
    return extension.parent / RPATH.replace("@loader_path/", "") / "libmlx.dylib"


def check(extension: Path, symbols: Path, core: Path) -> list[str]:
    """What is wrong with it."""
    binary = parse(extension)
    libmlx = libmlx_of(extension)
    if not libmlx.is_file():
        return ["libmlx.dylib is not where the rpath leads"]
    wrong = wrong_imports(binary, exports_of(libmlx), cpython_symbols(symbols))
    if binary.header.cpu_type != lief.MachO.Header.CPU_TYPE.ARM64:
        wrong.append("it is not for arm64")
    if list(binary.build_version.minos) != MINIMUM:
        wrong.append(f"it needs macOS {'.'.join(map(str, binary.build_version.minos))}")
    if [r.path for r in binary.rpaths] != [RPATH]:
        wrong.append(f"its rpath is {[r.path for r in binary.rpaths]}")
    data = extension.read_bytes()
    if flaw := wrong_signature(data):
        wrong.append(flaw)
    if (names := NANOBIND.findall(data)) != (theirs := NANOBIND.findall(core.read_bytes())):
        wrong.append(f"its nanobind is {names}, MLX's is {theirs}")
    return wrong


def main() -> int:
    extension, symbols, core = map(Path, sys.argv[1:4])
    imports = imports_of(parse(extension))
    if "--imports" in sys.argv[4:]:
        print(*(f"{library}: {symbol}" for library, symbol in imports), sep="\n")
    for library, count in sorted(Counter(library for library, _ in imports).items()):
        print(f"{count:5} imports from {library}")
    wrong = check(extension, symbols, core)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if not wrong:
        print(
            f"{extension.name}: imports resolve; macOS 14.0, arm64, rpath, signature and nanobind as they should be"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
