"""The CPU backend's threads."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import mlx.core as mx

from mlx_conv3d import conv2d


def allowed_cpus() -> list[int]:
    """Of every thread of this process, on how many CPUs it may run."""
    counts = []
    for status in Path("/proc/self/task").glob("*/status"):
        lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        counts.append(sum(int(word, 16).bit_count() for word in lines["Cpus_allowed"].split(",")))
    return counts


def test_workers_leave_the_callers_cpu() -> None:
    if sys.platform != "linux":
        return
    mx.eval(conv2d(mx.ones((1, 64, 64, 64)), mx.ones((64, 3, 3, 64)), padding=1))
    cpus = len(os.sched_getaffinity(0))
    assert (cpus - 1 in allowed_cpus()) == (1 < cpus <= 8)
