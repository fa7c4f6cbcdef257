"""The manifest is what the code says, and its formulas are what plans count."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_conv3d import _ext, plan

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tool() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield importlib.import_module("manifest")
    finally:
        sys.path.remove(str(ROOT / "tools"))


def test_manifest_is_not_stale(tool: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tool.stale() == [], "run python tools/manifest.py"
    for kind, path in tool.FILES.items():
        copy = tmp_path / path.name
        copy.write_text(path.read_text().replace("winograd", "winnowed", 1))
        monkeypatch.setitem(tool.FILES, kind, copy)
    assert tool.stale() == list(tool.FILES.values())


def test_every_algorithm_and_kernel_is_there(tool: Any) -> None:
    found = tool.manifest()
    for backend in ("cpu", "metal"):
        names = {entry["name"] for entry in found["algorithms"] if entry["backend"] == backend}
        assert names == set(tool._arguments.ALGORITHMS) - {"auto", "stock"}
    assert [k["name"] for k in found["cpu_kernels"]] == [k["name"] for k in _ext.cpu_kernels()]
    assert {k["family"] for k in found["metal_kernels"]} == set(tool.FAMILIES)
    entries = [entry for part in found.values() for entry in part]
    assert all((ROOT / entry["test"]).exists() for entry in entries)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("x", "w", "groups", "stride"),
    [
        ((2, 5, 8, 9, 24), (24, 3, 3, 3, 1), 24, 1),
        ((1, 4, 9, 9, 16), (32, 3, 3, 3, 4), 4, 2),
        ((2, 1, 1, 64, 12), (12, 1, 1, 3, 6), 2, 1),
    ],
)
def test_formulas(
    tool: Any, x: tuple[int, ...], w: tuple[int, ...], groups: int, stride: int, dtype: str
) -> None:
    planned = plan(x, w, groups=groups, stride=stride, dtype=tool.DTYPES[dtype], algorithm="grouped")
    n, *size, c = x
    o, *kernel, _ = w
    values = dict(zip(("D", "H", "W"), size, strict=True), N=n, C=c, O=o, groups=groups)
    values |= {f"K{axis}": k for axis, k in zip("DHW", kernel, strict=True)}
    values |= {f"o{axis}": (i - k) // stride + 1 for axis, i, k in zip("DHW", size, kernel, strict=True)}
    values["item"] = 4 if dtype == "float32" else 2
    assert "kernel " in planned.reason
    assert planned.direct_flops == planned.flops == eval(tool.FLOPS, {}, values)
    assert planned.bytes == eval(tool.BYTES, {}, values)
