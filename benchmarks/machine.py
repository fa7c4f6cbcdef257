"""What a figure was measured on: the machine, the versions, and how busy others kept it meanwhile."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ISA_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_fp16",
    "asimd",
    "sve",
    "i8mm",
    "bf16",
)
PACKAGES = ("mlx", "mlx-conv3d", "torch", "scipy-openblas32", "numpy")
BUSY_SHARE = 0.05


def cpu_count() -> int:
    """CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def typed_command() -> str:
    """This run's command as typed, without --output: a folder of one machine says nothing about what was measured."""
    words, kept = iter(sys.argv[1:]), []
    for word in words:
        if word == "--output":
            next(words, None)
        elif not word.startswith("--output="):
            kept.append(word)
    return shlex.join(["python", "-m", "benchmarks", *kept])


def describe() -> dict[str, Any]:
    """CPU, instruction sets, memory and system. No host or user name."""
    return {
        "cpu": _cpu_name(),
        "cpus": cpu_count(),
        "instruction_sets": _instruction_sets(),
        "caches": _caches(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Installed versions of what takes part, and the checkout's commit where git knows one."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "mlx-conv3d" not in found:
        found["mlx-conv3d"] = importlib.import_module("mlx_conv3d").__version__
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


def _commit() -> str:
    root = Path(__file__).parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), "")


def _sysctl(key: str) -> str:
    try:
        return subprocess.run(
            ["sysctl", "-n", key], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _cpu_name() -> str:
    return _cpuinfo("model name") or _sysctl("machdep.cpu.brand_string") or platform.processor() or "unknown"


def _instruction_sets() -> list[str]:
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return [flag for flag in ISA_FLAGS if flag in flags]


def _caches() -> dict[str, str]:
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind = (index / "level").read_text().strip(), (index / "type").read_text().strip()
        if kind != "Instruction":
            caches[f"L{level}"] = (index / "size").read_text().strip()
    return caches


def _memory_gib() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return 0.0


def resident_bytes(process: int, which: str = "VmRSS") -> int:
    """Of a process, now ("VmHWM": at most); 0 where the system does not tell, or the process has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith(f"{which}:")]
    return int(sizes[0]) * 1024 if sizes else 0


class CpuWatch:
    """Context manager. `others_share` is afterwards the share of the machine's CPU time that other
    processes (and, on a virtual machine, other guests) took meanwhile; None where the system does not
    tell."""

    others_share: float | None = None

    def __enter__(self) -> CpuWatch:
        self._start = (time.perf_counter(), _busy_seconds(), _own_seconds())
        return self

    def __exit__(self, *_: object) -> None:
        start, busy, own = self._start
        busy_now = _busy_seconds()
        if busy is None or busy_now is None:
            return
        capacity = (time.perf_counter() - start) * (os.cpu_count() or 1)
        others = (busy_now - busy) - (_own_seconds() - own)
        self.others_share = max(0.0, min(1.0, others / capacity)) if capacity > 0 else None


def _own_seconds() -> float:
    return time.process_time()


def _busy_seconds() -> float | None:
    """User, nice, system, interrupt and stolen time of all CPUs since boot."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    ticks = [int(value) for value in fields]
    return (sum(ticks[:3]) + sum(ticks[5:8])) / os.sysconf("SC_CLK_TCK")


def load_average() -> list[float]:
    """Over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]
