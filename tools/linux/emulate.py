"""Runs a few convolutions on x86-64 machines without AVX-512, without AVX2 and without SSE4.2, which qemu emulates.

python tools/linux/emulate.py     run by a Python for which mlx_conv3d is installed
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What qemu calls a machine, and the instruction set that is to be chosen there. qemu knows no AVX-512.
MACHINES = {"qemu64": "sse2", "core2duo": "sse2", "Nehalem": "sse2", "SandyBridge": "sse2", "Haswell": "avx2"}
EMULATOR = "qemu-x86_64"
SECONDS = 300


def find() -> str:
    """The emulator's path."""
    found = shutil.which(EMULATOR)
    if found is None:
        raise SystemExit(f"{EMULATOR} is missing: apt-get install --no-install-recommends qemu-user")
    return found


def run(python: Path, emulator: str, machine: str, isa: str) -> None:
    """SystemExit with what was printed unless every convolution is right, and was computed with `isa`."""
    command = [emulator, "-cpu", machine, str(python), str(HERE / "few_convolutions.py"), isa]
    # The interpreter of a virtual environment finds it by the name it was called by.
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    if done.returncode:
        raise SystemExit(f"{machine}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    print(f"{machine}: {done.stdout.strip().splitlines()[-1]}", flush=True)


def run_all(python: Path, emulator: str) -> None:
    for machine, isa in MACHINES.items():
        run(python, emulator, machine, isa)


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    if platform.machine() != "x86_64":
        raise SystemExit(f"the machines are x86-64 ones, this is {platform.machine()}")
    run_all(Path(sys.executable), find())


if __name__ == "__main__":
    main()
