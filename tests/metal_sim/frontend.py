"""MSL source to LLVM IR: preprocess, rewrite, compile, and apply the rules that clang does not know."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from . import copies, toolchain
from .errors import CompileError, Diagnostic
from .information import KernelInfo, information, overflows
from .ir import Module
from .lint import clang_diagnostics
from .rewrite import Source, entry_text, rewrite

_METAL_VERSION = 310
_OWN = str(toolchain.INCLUDE)
_LANGUAGE = ["-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc"]
# clang then checks address spaces as Metal does.
_KEYWORDS = [
    "-Dthread=__private",
    "-Ddevice=__global",
    "-Dthreadgroup=__local",
    "-Dconstant=__constant",
    *(f"-Datomic_{t}=__msl_atomic_{t}" for t in ("int", "uint", "float")),
]
_EXTENSIONS = [
    "-Xclang",
    "-cl-ext=-all,+cl_khr_fp16,+__opencl_c_generic_address_space,+__cl_clang_function_pointers",
]
_WARNINGS = [
    "-Wno-everything",
    "-Wimplicit-float-conversion",
    "-Wuninitialized",
    "-Wsometimes-uninitialized",
    "-Wreturn-type",
    "-Wshift-count-overflow",
    "-Wshift-count-negative",
    "-Warray-bounds",
    "-Wdivision-by-zero",
]
_SEMANTICS = ["-cl-single-precision-constant", "-ffp-contract=off", "-ftrivial-auto-var-init=pattern"]
SANITIZERS = [
    "-fsanitize=thread",
    "-fsanitize=array-bounds,signed-integer-overflow,integer-divide-by-zero,alignment",
    "-fsanitize=return,unreachable,float-cast-overflow",
    "-fsanitize-recover=all",
]
_IR = [
    "-O1",
    "-Xclang",
    "-disable-llvm-passes",
    "-fno-discard-value-names",
    "-gline-tables-only",
    "-fdebug-compilation-dir=.",
]
_INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.MULTILINE)


@dataclass(frozen=True)
class Unit:
    """A source file and how it is compiled. templates: (name the host uses, template-id) to instantiate."""

    path: Path
    include_dirs: tuple[Path, ...] = ()
    defines: tuple[str, ...] = ()
    templates: tuple[tuple[str, str], ...] = ()

    def files(self) -> list[Path]:
        """The source and the headers it includes, found by name, whatever their #if."""
        found: dict[Path, None] = {}
        todo = [Path(self.path).resolve()]
        while todo:
            file = todo.pop()
            if file in found:
                continue
            found[file] = None
            for name in _INCLUDE.findall(file.read_text()):
                places = (d / name for d in (file.parent, *self.include_dirs))
                todo += [p.resolve() for p in places if p.is_file()][:1]
        return list(found)

    @property
    def root(self) -> Path:
        """Where the source is. What is compiled knows files below it by relative names."""
        return self.path.resolve().parent

    def digest(self) -> str:
        """Changes with the content of every file and every setting, but not with the place of the source."""
        content = [(os.path.relpath(p, self.root), p.read_bytes()) for p in self.files()]
        settings = (self.path.name, self.include_dirs, self.defines, self.templates)
        return toolchain.digest(toolchain.own_digest(), content, settings)


@dataclass
class Compiled:
    """The wanted kernels as IR (`module`) and what was learnt on the way."""

    source: Source
    module: Module
    kernels: dict[str, KernelInfo]


def _preprocess(unit: Unit) -> str:
    include = [
        f"-I{d}"
        for d in (toolchain.header_dir(), toolchain.INCLUDE, *(p.resolve() for p in unit.include_dirs))
    ]
    defines = [f"-D{d}" for d in ("__METAL__", f"__METAL_VERSION__={_METAL_VERSION}", *unit.defines)]
    prelude = ["-U__OPENCL_CPP_VERSION__", "-include", str(toolchain.INCLUDE / "sim_metal.h")]
    command = [*_LANGUAGE, "-E", *include, *defines, *prelude, unit.path.name]
    done = toolchain.run_clang(command, directory=unit.root)
    if done.returncode:
        raise CompileError(clang_diagnostics(done.stderr, _OWN) or [Diagnostic("clang", done.stderr)])
    return done.stdout


@functools.lru_cache(maxsize=8)
def _read(unit: Unit, digest: str) -> Source:
    """The rewritten source; read once for all kernels of a file, as long as its digest stays the same."""
    source = rewrite(_preprocess(unit), _OWN)
    for name, template in unit.templates:
        source.kernels.entries[name] = " ".join(re.findall(r"\w+|\S", template))
    return source


def _compile(text: str, output: list[str]) -> tuple[int, str, str]:
    language = [*_LANGUAGE, *_KEYWORDS, *_EXTENSIONS, *_SEMANTICS, *SANITIZERS, *toolchain.target_flags()]
    done = toolchain.run_clang([*language, "-fPIC", *_WARNINGS, "-fno-caret-diagnostics", *output, "-"], text)
    return done.returncode, done.stdout, done.stderr


def _ranges_of_errors(text: str) -> str:
    show = ["-fsyntax-only", "-ferror-limit=0", "-fdiagnostics-print-source-range-info"]
    return _compile(text, show)[2]


def _to_ir(text: str) -> tuple[str, list[Diagnostic]]:
    code, ir, stderr = _compile(text, [*_IR, "-emit-llvm", "-S", "-o", "-"])
    if code and copies.is_candidate(stderr):
        wrapped = copies.wrap_copies(text, _ranges_of_errors)
        if wrapped is not None:
            code, ir, stderr = _compile(wrapped, [*_IR, "-emit-llvm", "-S", "-o", "-"])
    complaints = clang_diagnostics(stderr, _OWN)
    return ir, complaints or ([Diagnostic("clang", stderr)] if code else [])


def compile_unit(unit: Unit, wanted: list[str] | None = None) -> Compiled:
    """Compiles the wanted kernels of a file (all of them if None) and applies every rule.

    Raises CompileError with all complaints; files in them are relative to the source's directory.
    """
    source = _read(unit, unit.digest())
    names = sorted(source.kernels.entries) if wanted is None else wanted
    ir, complaints = _to_ir(source.text + "\n" + entry_text(source, names))
    complaints = [*source.lints, *complaints]
    if complaints:
        raise CompileError(complaints)
    module = Module(ir, _OWN)
    kernels = information(ir, source, module, names)
    if found := [*module.recursion(), *module.unwatched(), *overflows(source, module, kernels)]:
        raise CompileError(found)
    return Compiled(source, module, kernels)


def host_names(path: str | Path) -> list[str]:
    """Names of the kernels that a source declares or instantiates."""
    unit = Unit(Path(path))
    return sorted(_read(unit, unit.digest()).kernels.entries)


def check(
    path: str | Path, include_dirs: Sequence[str | Path] = (), defines: Sequence[str] = ()
) -> list[Diagnostic]:
    """Everything wrong with an MSL file: all its kernels and instantiations are compiled, none is run."""
    unit = Unit(Path(path), tuple(map(Path, include_dirs)), tuple(defines))

    def make(directory: Path) -> None:
        try:
            compile_unit(unit)
            found = []
        except CompileError as error:
            found = error.diagnostics
        (directory / "diagnostics.json").write_text(json.dumps([asdict(d) for d in found]))

    toolchain.require()
    directory = toolchain.cached(toolchain.digest("check", unit.digest()), make)
    found = json.loads((directory / "diagnostics.json").read_text())
    return [Diagnostic(**d).below(unit.root) for d in found]
