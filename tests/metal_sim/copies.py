"""Copies of structures out of constant memory.

Metal allows `Params p = params;` where params is a `constant Params&`. clang's OpenCL does not: the implicit
copy constructor takes its argument from any space but constant, and a constructor of our own would make the
structure no aggregate any more. So where clang complains about such a copy, the expression it names is wrapped
in __msl_copy().
"""

from __future__ import annotations

import re
from collections.abc import Callable

_ERROR = re.compile(r"^<stdin>:(\d+):(\d+):((?:\{[\d:-]+\})*):? ?(?:fatal )?(error|note): (.*)$")
_RANGE = re.compile(r"\{(\d+):(\d+)-(\d+):(\d+)\}")
_COMPLAINT = re.compile(
    r"no matching constructor|no viable conversion|no viable overloaded '='|incompatible operand types"
)
_MAX_ROUNDS = 6

Range = tuple[int, int, int]


def is_candidate(stderr: str) -> bool:
    """Whether clang's complaints may be about copies from constant memory."""
    return "__constant" in stderr and bool(_COMPLAINT.search(stderr))


def _ranges(text: str) -> list[Range]:
    found = [tuple(map(int, r)) for r in _RANGE.findall(text)]
    return [(a, b, d) for a, b, c, d in found if a == c]


def _to_wrap(stderr: str) -> set[Range]:
    errors: list[tuple[list[Range], str, str]] = []
    for line in stderr.splitlines():
        m = _ERROR.match(line)
        if m and m[4] == "error":
            errors.append((_ranges(m[3]), m[5], m[5]))
        elif errors:
            ranges, message, notes = errors[-1]
            errors[-1] = (ranges, message, notes + line)
    wrap: set[Range] = set()
    for ranges, message, notes in errors:
        if "__constant" not in notes or not ranges:
            continue
        if message.startswith(("no matching constructor", "no viable conversion")):
            wrap.add(ranges[0])
        elif message.startswith("no viable overloaded '='"):
            wrap.add(ranges[-1])
        elif message.startswith("incompatible operand types"):
            wrap.update(ranges)
    return wrap


def wrap_copies(text: str, check: Callable[[str], str]) -> str | None:
    """`text` with such copies wrapped, None if that does not help.

    `check` gives clang's complaints about a text, with source ranges.
    """
    lines = text.split("\n")
    for _ in range(_MAX_ROUNDS):
        # Without line markers, so that the complaints have positions in this text.
        plain = "\n".join("" if re.match(r"#\s+\d+\s", line) else line for line in lines)
        stderr = check(plain)
        if " error: " not in stderr:
            return "\n".join(lines)
        wrap = _to_wrap(stderr)
        if not wrap:
            return None
        for line, start, end in sorted(wrap, reverse=True):
            s = lines[line - 1]
            if s[start - 1] == "{" and s[end - 2] == "}":  # P q{p};
                start, end = start + 1, end - 1
            lines[line - 1] = f"{s[: start - 1]}__msl_copy({s[start - 1 : end - 1]}){s[end - 1 :]}"
    return None
