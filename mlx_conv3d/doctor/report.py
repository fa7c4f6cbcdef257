"""Many comparisons as one finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from mlx_conv3d.doctor.problems import Comparison
from mlx_conv3d.doctor.rows import FAIL, OK, Finding


def worst(found: Iterable[Comparison]) -> Comparison:
    """The one nearest to its bound, or furthest past it; NaN is the furthest."""
    return max(found, key=lambda c: c.error / c.bound if c.error == c.error else float("inf"))


def summary(found: Sequence[Comparison]) -> Finding:
    """What failed, or for each type the comparison that came nearest to its bound."""
    if not found:
        raise ValueError("nothing was compared")
    bad = [c for c in found if not c.good]
    data = {"compared": len(found), "worst": _plain(worst(found)), "failures": [_plain(c) for c in bad[:20]]}
    if bad:
        more = f" (and {len(bad) - 1} more of {len(found)})" if len(bad) > 1 else ""
        return Finding(FAIL, f"{worst(bad)}{more}", data)
    by_type: dict[str, list[Comparison]] = {}
    for c in found:
        by_type.setdefault("*".join(dict.fromkeys(c.types)), []).append(c)
    near = {name: worst(group) for name, group in by_type.items()}
    errors = ", ".join(f"{name} {c.error:.1e} of {c.bound:.1e}" for name, c in near.items())
    return Finding(OK, f"{len(found)} results; nearest to the bound: {errors}", data)


def _plain(c: Comparison) -> dict[str, object]:
    return {**asdict(c), "problem": str(c.problem)}
