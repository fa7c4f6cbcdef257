"""Starts a script on several ranks of this machine with mlx.launch, on ports that no other test run uses."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parent
BLOCK = 4  # ports in a row; the most ranks
BLOCKS = range(21000, 31000, BLOCK)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def ports() -> Iterator[int]:
    """The first of BLOCK free ports; a lock file keeps other test runs away from them meanwhile."""
    for base in random.Random(os.getpid()).sample(BLOCKS, len(BLOCKS)):
        with open(Path(tempfile.gettempdir()) / f"mlx_conv3d-test-port-{base}", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            if all(is_free(port) for port in range(base, base + BLOCK)):
                try:
                    yield base
                finally:
                    os.unlink(lock.name)
                return
    raise RuntimeError("no free ports")


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "MLX_CONV3D_NUM_THREADS": "1", **extra}


def launch(ranks: int, script: Path, *arguments: str, timeout: float = 150, **extra: str) -> str:
    """What the ranks print, both streams. A launch that takes longer than `timeout` seconds fails the test."""
    with ports() as base:
        command = [
            sys.executable, "-c", "from mlx._distributed_utils.launch import main; main()",
            "-n", str(ranks), "--backend", "ring", "--starting-port", str(base), "--python", sys.executable,
            "--", str(script), *arguments,
        ]  # fmt: skip
        # A pipe that stays open: at the end of its input mlx.launch reads in circles.
        done = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment(**extra), start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = done.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(done.pid, 9)
            raise AssertionError(f"no end after {timeout} s: {done.communicate()[0]}") from None
    return output


def start(
    ranks: int, script: Path, *arguments: str, base: int, directory: Path, **extra: str
) -> list[subprocess.Popen[str]]:
    """One process for each rank, without a launcher that ends them all when one ends."""
    hosts = directory / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{base + rank}"] for rank in range(ranks)]))
    return [
        subprocess.Popen(
            [sys.executable, str(script), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment(MLX_HOSTFILE=str(hosts), MLX_RANK=str(rank), **extra),
        )
        for rank in range(ranks)
    ]  # fmt: skip
