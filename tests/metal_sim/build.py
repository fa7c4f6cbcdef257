"""Libraries: kernels compiled for the simulator, ready to be run by the host program, kept in the cache."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

from . import toolchain
from .errors import CompileError, Diagnostic, MetalSimError
from .frontend import SANITIZERS, Unit, compile_unit
from .information import KernelInfo
from .kernels import Parameter

_INSTRUMENTATION = [
    "-mllvm", "-tsan-instrument-func-entry-exit=0",
    "-mllvm", "-tsan-instrument-read-before-write=1",
]  # fmt: skip
_OPTIMISATION = ["-O1", "-fno-vectorize", "-fno-slp-vectorize", "-Wno-override-module"]
_FORMATS = {
    "bool": "?", "char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I", "long": "q",
    "ulong": "Q", "half": "e", "float": "f", "int32_t": "i", "uint32_t": "I", "int64_t": "q", "size_t": "Q",
    "int16_t": "h", "uint16_t": "H",
}  # fmt: skip


@dataclass(frozen=True)
class Library:
    """Kernels of one source file.

    path: what the host program loads. root: the directory of the source. constants: slot -> (name, type).
    """

    path: Path
    root: Path
    kernels: dict[str, KernelInfo]
    constants: dict[int, tuple[str, str]]

    def encode(self, slot: int, value: bool | int | float) -> bytes:
        """Bytes of a function constant's value, of the type the source declares."""
        if slot not in self.constants:
            raise MetalSimError(f"the source declares no function constant {slot}")
        name, kind = self.constants[slot]
        code = _FORMATS.get(kind.replace("const", "").strip())
        if code is None:
            raise MetalSimError(f"function constant '{name}' has the type {kind}")
        wrong = f"function constant '{name}' is a {kind}, the value is {value!r}"
        if (code == "?") != isinstance(value, bool) or (code not in "ef?" and not isinstance(value, int)):
            raise MetalSimError(wrong)
        try:
            return struct.pack("<" + code, value)
        except struct.error as e:
            raise MetalSimError(f"{wrong}: {e}") from None


def _link(ir: str, directory: Path) -> None:
    source, obj, library = (directory / n for n in ("kernels.ll", "kernels.o", "kernels.so"))
    source.write_text(ir)
    compile_ = [
        "-x",
        "ir",
        *_OPTIMISATION,
        *_INSTRUMENTATION,
        SANITIZERS[0],
        *toolchain.target_flags(),
        "-fPIC",
    ]
    done = toolchain.run_clang([*compile_, "-c", str(source), "-o", str(obj)])
    if done.returncode == 0:
        done = toolchain.run_clang(["-shared", str(obj), "-o", str(library), "-lm"])
    if done.returncode:
        raise MetalSimError(f"code generation failed:\n{done.stderr}")
    source.unlink()
    obj.unlink()


def _make(unit: Unit, wanted: list[str], directory: Path) -> None:
    compiled = compile_unit(unit, wanted)
    _link(compiled.module.with_shift_checks(), directory)
    constants = {c.slot: (c.name, c.type) for c in compiled.source.constants.values() if not c.initialiser}
    content = {
        "kernels": [asdict(k) for k in compiled.kernels.values()],
        "constants": list(constants.items()),
    }
    (directory / "kernels.json").write_text(json.dumps(content))


def _load(directory: Path, root: Path) -> Library:
    if (failed := directory / "diagnostics.json").exists():
        raise CompileError([Diagnostic(**d).below(root) for d in json.loads(failed.read_text())])
    content = json.loads((directory / "kernels.json").read_text())
    kernels = {}
    for k in content["kernels"]:
        k["parameters"] = tuple(Parameter(**p) for p in k["parameters"])
        k["constants"] = tuple(k["constants"])
        k["sizes"] = {int(i): n for i, n in k["sizes"].items()}
        kernels[k["name"]] = KernelInfo(**k)
    constants = {slot: (name, kind) for slot, (name, kind) in content["constants"]}
    return Library(directory / "kernels.so", root, kernels, constants)


_loaded: dict[tuple[str, Path], Library] = {}


def build(unit: Unit, wanted: list[str]) -> Library:
    """Compiles the wanted kernels of a file, or takes them from the cache. Raises CompileError."""
    toolchain.require()
    key = toolchain.digest("library", unit.digest(), wanted)
    if (key, unit.root) in _loaded:
        return _loaded[key, unit.root]

    def make(directory: Path) -> None:
        try:
            _make(unit, wanted, directory)
        except CompileError as error:
            for left in directory.iterdir():
                left.unlink() if left.is_file() else shutil.rmtree(left)
            (directory / "diagnostics.json").write_text(json.dumps([asdict(d) for d in error.diagnostics]))

    library = _load(toolchain.cached(key, make), unit.root)
    _loaded[key, unit.root] = library
    return library
