"""The first-use check of every family of Metal kernels in every type, as the library itself makes it."""

from __future__ import annotations

from functools import partial

from mlx_conv3d import _ext
from mlx_conv3d.doctor.faults import FAMILIES
from mlx_conv3d.doctor.items import Item
from mlx_conv3d.doctor.rows import FAIL, OK, Finding
from mlx_conv3d.planning import DTYPES


def check(family: str, dtype: str) -> Finding:
    usable = _ext.run_self_check(family, dtype)
    results = [r for r in _ext.self_checks() if (r["family"], r["dtype"]) == (family, dtype)]
    if usable and results:
        error, tolerance = results[-1]["error"], results[-1]["tolerance"]
        return Finding(OK, f"differs from the CPU by {error:.1e} of at most {tolerance:.1e}", results[-1])
    why = results[-1]["message"] if results else _ext.switched_off().get(family, "")
    return Finding(FAIL, f"the family is switched off: {' '.join(why.split())[:600]}", {"results": results})


def items() -> list[Item]:
    return [Item(f"{f} {t}", partial(check, f, t), (f,)) for f in FAMILIES for t in DTYPES]
