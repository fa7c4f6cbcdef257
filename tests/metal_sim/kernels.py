"""Finds the kernels of a source file and reads their parameter lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from .tokens import Token, fail, join, match, match_angle, split_commas

# The runtime's number of each built-in input (runtime/scheduler.cpp: __msl_rt_builtin).
BUILTINS = {
    "thread_position_in_grid": 0,
    "thread_position_in_threadgroup": 1,
    "threadgroup_position_in_grid": 2,
    "threads_per_threadgroup": 3,
    "threadgroups_per_grid": 4,
    "threads_per_grid": 5,
    "thread_index_in_threadgroup": 6,
    "thread_index_in_simdgroup": 7,
    "simdgroup_index_in_threadgroup": 8,
    "simdgroups_per_threadgroup": 9,
    "threads_per_simdgroup": 10,
    "thread_execution_width": 10,
    "dispatch_threads_per_threadgroup": 11,
    "thread_index_in_quadgroup": 12,
    "quadgroup_index_in_threadgroup": 13,
}
_BUILTIN_TYPE = re.compile(r"(metal :: )?(const )?u(int|short)[23]?( const)?")


@dataclass(frozen=True)
class Parameter:
    """`kind` is "buffer", "threadgroup" or "builtin"; `index` its slot, or the built-in's number.

    `condition` names the function constant that decides whether the parameter exists.
    """

    kind: str
    index: int
    name: str
    read_only: bool = True
    condition: str = ""


@dataclass
class Kernel:
    """A kernel function or template; `body` are the positions of its braces among the significant tokens."""

    name: str
    parameters: list[Parameter]
    is_template: bool
    max_threads: int
    body: tuple[int, int]


@dataclass
class Kernels:
    """`entries` maps what the host asks for to the C++ expression that names the function."""

    functions: dict[str, Kernel] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)
    explicit: list[tuple[str, int, int]] = field(default_factory=list)
    keywords: list[int] = field(default_factory=list)

    def kernel_of(self, entry: str) -> Kernel | None:
        """The function behind an entry, None if there is no such entry."""
        name = re.match(r"(?:\w+ :: )*(\w+)", self.entries.get(entry, ""))
        return self.functions.get(name[1]) if name else None


def attribute_items(text: str) -> list[tuple[str, str]]:
    """`buffer(3), function_constant(f)` -> [("buffer", "3"), ("function_constant", "f")]."""
    found = re.findall(r"(?:metal::|metal\s*::\s*)?(\w+)\s*(?:\(\s*([^()]*?)\s*\))?\s*(?:,|$)", text)
    return [(name, value) for name, value in found]


def _parse_parameter(part: list[Token], automatic: int) -> Parameter:
    attributes = [item for t in part if t.kind == "attribute" for item in attribute_items(t.text)]
    body = [t for t in part if t.kind != "attribute"]
    if not body:
        raise fail(part[0], "a kernel parameter without a type")
    bracket = next((k for k, t in enumerate(body) if t.text == "["), len(body))
    name, words = body[bracket - 1], {t.text for t in body[: bracket - 1]}
    kind, index, condition = "", automatic, ""
    for attribute, value in attributes:
        if attribute in ("buffer", "threadgroup"):
            kind, index = attribute, int(value, 0)
        elif attribute in BUILTINS:
            kind, index = "builtin", BUILTINS[attribute]
            if not _BUILTIN_TYPE.fullmatch(join(body[: bracket - 1])):
                raise fail(name, f"kernel parameter '{name}' has no type for [[{attribute}]]")
        elif attribute == "function_constant":
            condition = value
        else:
            raise fail(name, f"unknown kernel parameter attribute [[{attribute}]]")
    space = words & {"device", "constant"}
    if not kind:
        if not space:
            raise fail(name, f"kernel parameter '{name}' has no attribute and is no buffer")
        kind = "buffer"
    if kind == "buffer" and not space:
        raise fail(name, f"buffer parameter '{name}' needs the address space device or constant")
    if kind == "threadgroup" and "threadgroup" not in words:
        raise fail(name, f"parameter '{name}' needs the address space threadgroup")
    read_only = "constant" in words or "const" in words
    return Parameter(kind, index, name.text, read_only, condition)


def parse_parameters(tokens: Sequence[Token]) -> list[Parameter]:
    """The parameters of one kernel; buffers without an index follow the one before, as in Metal."""
    result: list[Parameter] = []
    automatic = 0
    for part in split_commas(tokens):
        p = _parse_parameter(part, automatic)
        if p.kind != "builtin" and any(q.kind == p.kind and q.index == p.index for q in result):
            raise fail(part[0], f"duplicate {p.kind} index {p.index} ('{p.name}')")
        if p.kind == "buffer":
            automatic = p.index + 1
        result.append(p)
    return result


def _is_kernel_mark(ts: Sequence[Token], i: int) -> bool:
    t = ts[i]
    if t.kind == "attribute":
        return any(name == "kernel" for name, _ in attribute_items(t.text))
    if not (t.user and t.text == "kernel" and t.kind == "word"):
        return False
    before = ts[i - 1] if i else None
    starts = (";", "}", ">", "template", "inline")
    return before is None or before.kind == "attribute" or before.text in starts


def _host_name(attributes: list[Token]) -> str:
    for t in attributes:
        if m := re.search(r'host_name\(\s*((?:"[^"]*"\s*)+)\)', t.text):
            return "".join(re.findall(r'"([^"]*)"', m[1]))
    return ""


def _max_threads(attributes: list[Token]) -> int:
    for t in attributes:
        if m := re.search(r"max_total_threads_per_threadgroup\(\s*(\d+)\s*\)", t.text):
            return int(m[1])
    return 1024


def _entry_by_decltype(ts: Sequence[Token], start: int, j: int, host: str, found: Kernels) -> None:
    """`template [[host_name("n")]] [[kernel]] decltype(f<T>) f<T>;`"""
    close = match(ts, j + 1)
    end = close + 1
    while ts[end].text != ";":
        end += 1
    callee = join(ts[close + 1 : end])
    found.entries[host or callee] = callee
    found.explicit.append((host or callee, start, end))


def _add(ts: Sequence[Token], i: int, found: Kernels) -> None:
    """Reads the kernel whose mark (`kernel` or its attribute) is at `i`."""
    j, start = i + 1, i - 1
    while ts[j].kind == "attribute":
        j += 1
    attributes = [t for t in ts[i:j] if t.kind == "attribute"]
    while start >= 0 and ts[start].kind == "attribute":
        attributes.append(ts[start])
        start -= 1
    is_explicit = start >= 0 and ts[start].text == "template"
    host = _host_name(attributes)
    if ts[j].text == "decltype":
        _entry_by_decltype(ts, start, j, host, found)
        return
    while ts[j].text in ("static", "inline"):
        j += 1
    if ts[j].text != "void":
        raise fail(ts[j], "a kernel function must return void")
    name, p, arguments = ts[j + 1].text, j + 2, ""
    if ts[p].text == "<":
        close = match_angle(ts, p)
        arguments = join(ts[p : close + 1])
        p = close + 1
    close = match(ts, p)
    if is_explicit:
        found.entries[host or name + arguments] = f"{name} {arguments}"
        found.explicit.append((host or name + arguments, start, close + 1))
        return
    if ts[close + 1].text == ";":
        return
    body = (close + 1, match(ts, close + 1, "{", "}"))
    is_template = start >= 0 and ts[start].text == ">"
    parameters = parse_parameters(ts[p + 1 : close])
    found.functions[name] = Kernel(name, parameters, is_template, _max_threads(attributes), body)
    if not is_template:
        found.entries[host or name] = name


def find_kernels(ts: Sequence[Token]) -> Kernels:
    """All kernels and explicit instantiations among the significant tokens `ts`."""
    found = Kernels()
    last = -1
    for i in range(len(ts)):
        if i <= last or not _is_kernel_mark(ts, i):
            continue
        if ts[i].kind == "word":
            found.keywords.append(i)
        _add(ts, i, found)
        last = i + 1 if ts[i + 1].kind == "attribute" else i
    return found
