"""What runs here: versions, the ABI that mlx and this extension share, devices, and which backends are live."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from importlib.metadata import version
from typing import Any

import mlx.core as mx

from mlx_conv3d import __version__, _ext
from mlx_conv3d.doctor import faults
from mlx_conv3d.doctor.items import Item
from mlx_conv3d.doctor.rows import FAIL, NOTE, OK, SKIP, Finding
from mlx_conv3d.doctor.runner import UNSET

INTERNALS = "__nb_internals_"


def versions() -> Finding:
    data = {
        "mlx_conv3d": __version__,
        "mlx": version("mlx"),
        "built_for_mlx": _ext.mlx_version,
        "python": platform.python_version(),
        "system": platform.platform(),
        "macos": platform.mac_ver()[0],
        "machine": platform.machine(),
    }
    detail = f"mlx-conv3d {__version__}, mlx {data['mlx']}, Python {data['python']}, {data['system']}"
    return Finding(OK, detail, data)


def kept_by_extensions() -> dict[Any, Any]:
    """What compiled extensions share in this interpreter."""
    api = ctypes.pythonapi
    api.PyInterpreterState_Get.restype = ctypes.c_void_p
    # A borrowed reference, which ctypes would give back at the end as if it were its own.
    api.PyInterpreterState_GetDict.restype = ctypes.c_void_p
    api.PyInterpreterState_GetDict.argtypes = [ctypes.c_void_p]
    borrowed = api.PyInterpreterState_GetDict(api.PyInterpreterState_Get())
    kept: dict[Any, Any] = ctypes.cast(borrowed, ctypes.py_object).value
    return kept


def internals() -> list[str]:
    """The keys under which nanobind keeps the types of this process, by version, ABI and domain."""
    return sorted(key for key in kept_by_extensions() if isinstance(key, str) and key.startswith(INTERNALS))


def nanobind_abi() -> Finding:
    """mlx and this extension must use one set of types: the key ends with MLX's domain."""
    tags = [key.removeprefix(INTERNALS) for key in internals() if key.endswith("_mlx__")]
    data = {"tags": tags}
    if len(tags) == 1:
        return Finding(OK, tags[0], data)
    found = ", ".join(tags) or "none"
    return Finding(FAIL, f"mlx and mlx_conv3d must share one nanobind ABI, found {found}", data)


def cpu() -> Finding:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    data = {"isa": _ext.isa(), "threads": _ext.threads(), "cpus": allowed}
    return Finding(OK, f"live: {_ext.isa()}, {_ext.threads()} threads, {allowed} CPUs to run on", data)


def metal() -> Finding:
    gpu = _ext.gpu()
    if gpu is None:
        if sys.platform == "darwin":
            return Finding(
                FAIL, "MLX finds no Metal GPU on this Mac: the CPU backend does all work", {"gpu": ""}
            )
        rest = " (MLX's GPU is not Metal's: stock MLX works there)" if mx.default_device() == mx.gpu else ""
        return Finding(SKIP, f"Metal is not available on this machine{rest}", {"gpu": ""})
    row = next(d for d in _ext.gpus() if d["name"] == gpu["name"])
    device: dict[str, Any] = dict(mx.device_info())
    data = {"gpu": gpu["name"], "note": gpu["note"], "row": row, "device": device}
    name, architecture = (device.get(key, "?") for key in ("device_name", "architecture"))
    note = f"; {gpu['note']}" if gpu["note"] else ""
    return Finding(
        OK,
        f"live: {name} ({architecture}), planned as {gpu['name']}, Apple family {row['family']}{note}",
        data,
    )


def environment() -> Finding:
    given = {name: value for name, value in sorted(os.environ.items()) if name.startswith(("MLX_", "METAL_"))}
    if wrong := faults.mistakes():
        return Finding(FAIL, f"{faults.VARIABLE} names what there is not: {', '.join(wrong)}", given)
    words = ", ".join(f"{name}={value}" for name, value in given.items())
    return Finding(NOTE, words or "no variable of MLX or mlx_conv3d is set", given)


def outside(variables: dict[str, str]) -> Finding:
    """Variables that the doctor's processes do not get."""
    words = ", ".join(f"{name}={value}" for name, value in variables.items())
    return Finding(NOTE, f"set, but not for these checks: {words}", dict(variables))


def items(withheld: dict[str, str]) -> list[Item]:
    """withheld: the variables of UNSET that are set where the doctor was started."""
    assert set(withheld) <= set(UNSET)
    found = [
        Item("versions", versions),
        Item("nanobind ABI", nanobind_abi),
        Item("cpu backend", cpu),
        Item("Metal backend", metal),
        Item("environment", environment),
    ]
    return [*found, Item("switched off", lambda: outside(withheld))] if withheld else found
