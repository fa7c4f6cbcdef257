"""What the checks found: rows, the verdict, and the document of `--json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

OK, FAIL, SKIP, NOTE = "ok", "fail", "not checked", "note"
FORMAT = 1


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: `status` is one of the four above, `data` goes to the document only."""

    status: str
    detail: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A finding, and where it belongs."""

    step: str
    name: str
    status: str
    detail: str
    seconds: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)


def is_good(rows: Sequence[Row]) -> bool:
    """Whether something was checked and nothing failed."""
    statuses = {row.status for row in rows}
    return OK in statuses and FAIL not in statuses


def verdict(rows: Sequence[Row]) -> str:
    """One line: good or bad, and what failed."""
    count = {status: sum(row.status == status for row in rows) for status in (OK, FAIL, SKIP)}
    if is_good(rows):
        rest = f", {count[SKIP]} not checked on this machine" if count[SKIP] else ""
        return f"verdict: good, {count[OK]} checks passed{rest}"
    failed = [f"{row.step}: {row.name}" for row in rows if row.status == FAIL]
    if not failed:
        return "verdict: bad, nothing was checked"
    return f"verdict: bad, {len(failed)} of {count[OK] + len(failed)} checks failed: {'; '.join(failed)}"


def document(rows: Sequence[Row], seconds: float) -> dict[str, Any]:
    """Everything as JSON has it; a number that is not finite becomes its name."""
    good = is_good(rows)
    made: dict[str, Any] = plain(
        {
            "doctor": FORMAT,
            "verdict": "good" if good else "bad",
            "line": verdict(rows),
            "exit_code": 0 if good else 1,
            "seconds": seconds,
            "rows": [vars(row) for row in rows],
        }
    )
    return made


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
