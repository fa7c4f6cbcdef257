"""A step's checks, as the child process runs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mlx_conv3d.doctor import faults
from mlx_conv3d.doctor.rows import FAIL, Finding, Row


@dataclass(frozen=True)
class Item:
    """One check. `kernels`: what it uses, by the names that MLX_CONV3D_BREAK may have."""

    name: str
    run: Callable[[], Finding]
    kernels: tuple[str, ...] = ()


def checked(step: str, item: Item) -> Row:
    """The item's row; an exception is one too."""
    started = time.perf_counter()
    try:
        faults.strike(item.kernels)
        found = item.run()
    except Exception as error:
        text = " ".join(str(error).split()) or "no message"
        found = Finding(FAIL, f"{type(error).__name__}: {text[:600]}", {"message": str(error)})
    return Row(step, item.name, found.status, found.detail, time.perf_counter() - started, found.data)
