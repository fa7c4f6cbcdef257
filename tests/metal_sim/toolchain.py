"""Finds clang 19, runs it, and keeps what it made in a cache of the user's, keyed by content."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import MetalSimError

HERE = Path(__file__).resolve().parent
INCLUDE = HERE / "include"
RUNTIME = HERE / "runtime"

# Names that MSL sources may include; each stands for all of the simulator's headers.
STANDARD_HEADERS = [
    "metal_stdlib",
    "metal_math",
    "metal_integer",
    "metal_common",
    "metal_relational",
    "metal_geometric",
    "metal_types",
    "metal_limits",
    "metal_type_traits",
    "metal_compute",
    "metal_simdgroup",
    "metal_simdgroup_matrix",
    "metal_atomic",
    "metal_matrix",
    "metal_pack",
]

_MAX_ENTRIES = 4000
_INSTALL = "apt-get install -y --no-install-recommends clang-19 llvm-19"


def _find(variable: str, *names: str) -> str:
    wanted = os.environ.get(variable)
    return next((p for n in ((wanted,) if wanted else names) if (p := shutil.which(n))), "")


@functools.cache
def clang() -> str:
    """Path of a clang++ of version 19, "" if there is none. MLX_CONV3D_CLANG names another."""
    path = _find("MLX_CONV3D_CLANG", "clang++-19", "clang++")
    return path if "version 19." in clang_version(path) else ""


@functools.cache
def clang_version(path: str) -> str:
    """First line of `clang --version`."""
    if not path:
        return ""
    out = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    return out.split("\n", 1)[0]


@functools.cache
def symbolizer() -> str:
    """Path of llvm-symbolizer, "" if there is none."""
    return _find("MLX_CONV3D_SYMBOLIZER", "llvm-symbolizer-19", "llvm-symbolizer")


@functools.cache
def unavailable_reason() -> str:
    """Why the simulator cannot run on this machine, "" if it can."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        return "the Metal simulator runs on Linux on x86-64 and arm64"
    if not clang():
        return f"the Metal simulator needs clang 19 ({_INSTALL})"
    if not symbolizer():
        return f"the Metal simulator needs llvm-symbolizer ({_INSTALL})"
    return ""


def require() -> None:
    """Raises MetalSimError where the simulator cannot run."""
    if reason := unavailable_reason():
        raise MetalSimError(reason)


@functools.cache
def target_flags() -> tuple[str, ...]:
    """Machine flags: with the half conversions and fused multiply-add that every recent x86-64 has."""
    if platform.machine() != "x86_64":
        return ()
    try:
        features = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    except OSError:
        return ()
    return ("-march=x86-64-v3",) if {"avx2", "f16c", "fma", "bmi2"} <= features else ()


def run_clang(
    arguments: Iterable[str], text: str | None = None, directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs clang++ with `text` on its standard input, in `directory`."""
    require()
    command = [clang(), *arguments]
    return subprocess.run(command, input=text, cwd=directory, capture_output=True, text=True, check=False)


# ---------------------------------------------------------------- cache


def cache_dir() -> Path:
    """MLX_CONV3D_METAL_SIM_CACHE, or mlx_conv3d/metal_sim in the user's cache directory."""
    if named := os.environ.get("MLX_CONV3D_METAL_SIM_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "mlx_conv3d" / "metal_sim"


def digest(*parts: object) -> str:
    """A key for what depends on `parts`."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part if isinstance(part, bytes) else repr(part).encode())
        h.update(b"\0")
    return h.hexdigest()[:24]


@functools.cache
def own_digest() -> str:
    """Changes with the simulator's own code and the compiler, and with where the simulator lies.

    What is compiled names the headers that it was made from, and reports tell them from the user's by that path.
    """
    everything = [p for d in (HERE, INCLUDE, RUNTIME) for p in d.iterdir()]
    files = sorted(p for p in everything if p.suffix in (".py", ".h", ".cpp"))
    return digest(str(HERE), clang_version(clang()), target_flags(), *(p.read_bytes() for p in files))


def cached(key: str, make: Callable[[Path], None]) -> Path:
    """The directory of `key`, filled by `make` the first time; safe with several processes at once."""
    root = cache_dir()
    final = root / key
    if final.is_dir():
        os.utime(final)
        return final
    root.mkdir(parents=True, exist_ok=True)
    _prune(root)
    scratch = Path(tempfile.mkdtemp(prefix="new-", dir=root))
    try:
        make(scratch)
        scratch.rename(final)
    except OSError:
        if not final.is_dir():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final


def _prune(root: Path) -> None:
    entries = [p for p in root.iterdir() if p.is_dir()]
    if len(entries) > _MAX_ENTRIES:
        for p in sorted(entries, key=lambda p: p.stat().st_mtime)[: _MAX_ENTRIES // 2]:
            shutil.rmtree(p, ignore_errors=True)


@functools.cache
def header_dir() -> Path:
    """A directory with one file per standard header."""

    def make(directory: Path) -> None:
        for name in STANDARD_HEADERS:
            (directory / name).write_text(f'#include "{INCLUDE}/sim_metal.h"\n')

    return cached(digest("headers", str(INCLUDE), own_digest()), make)


@functools.cache
def host_program() -> Path:
    """The program that runs kernels, built from runtime/."""

    def make(directory: Path) -> None:
        sources = [str(p) for p in sorted(RUNTIME.glob("*.cpp"))]
        flags = ["-std=c++20", "-O2", "-rdynamic", *target_flags(), f"-I{INCLUDE}"]
        done = run_clang([*flags, *sources, "-o", str(directory / "host"), "-ldl"])
        if done.returncode:
            raise MetalSimError(f"the simulator's runtime does not build:\n{done.stderr}")

    return cached(digest("host", own_digest()), make) / "host"
