"""Reads the LLVM IR that clang makes of kernels, before any optimisation: who calls whom, what is used."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .errors import Diagnostic

_NAME = r'@("[^"]+"|[\w.$]+)'
_DEFINE = re.compile(rf"^define .*?{_NAME}\(")
_CALL = re.compile(rf"\b(?:call|invoke)\b.*?{_NAME}\(")
_CONSTANT = re.compile(r"@msl_constant_(\d+)\b")
_VARIABLE = re.compile(r"@__msl_rt_threadgroup_variable\(i32 \w* ?(\d+), i32 \w* ?(\d+), i32 \w* ?(\d+)\)")
_VECTOR_ACCESS = re.compile(
    r"\b(?:load|store)(?: volatile)? (?:<(\d+) x )?(i\d+|half|bfloat|float|double)\b.*?\bptr (%[\w.]+)"
)
_ALLOCA = re.compile(r"^\s*(%[\w.]+) = alloca ")
_DERIVED = re.compile(r"^\s*(%[\w.]+) = (?:getelementptr|addrspacecast|bitcast)\b.*?\bptr (%[\w.]+)")
_MASK = re.compile(r"^(\s*)(%sh[lr]\.mask\d*) = and (i\d+) (%[\w.]+), (\d+)(.*)$")
_DEBUG = re.compile(r"!dbg !(\d+)")
_METADATA = re.compile(
    r"^!(\d+) = (?:distinct )?!(?:DILocation|DISubprogram|DILexicalBlock|DILexicalBlockFile|DIFile)\((.*)\)$"
)
_BITS = {"half": 16, "bfloat": 16, "float": 32, "double": 64}


@dataclass
class Function:
    """subprogram: number of its debug entry. variables: of threadgroup memory, site -> (size, align)."""

    name: str
    subprogram: int = -1
    calls: set[str] = field(default_factory=set)
    constants: set[int] = field(default_factory=set)
    variables: dict[int, tuple[int, int]] = field(default_factory=dict)


class Module:
    """One IR module. `user_file` of the constructor says which files complaints may be about."""

    def __init__(self, text: str, system_dir: str):
        self._text = text
        self._system_dir = system_dir
        self._metadata: dict[int, str] = {}
        self.functions: dict[str, Function] = {}
        self._wide: list[tuple[str, int]] = []
        self._private: set[str] = set()
        self._scan()

    def _scan(self) -> None:
        here: Function | None = None
        for line in self._text.split("\n"):
            if line.startswith("define "):
                here = self._begin(line)
            elif line == "}":
                here = None
            elif here is not None:
                self._scan_instruction(here, line)
            elif line.startswith("!") and (m := _METADATA.match(line)):
                self._metadata[int(m[1])] = m[2]

    def _begin(self, line: str) -> Function:
        m, debug = _DEFINE.match(line), _DEBUG.search(line)
        assert m is not None
        function = Function(m[1], int(debug[1]) if debug else -1)
        self.functions[m[1]] = function
        self._private.clear()
        return function

    def _scan_instruction(self, here: Function, line: str) -> None:
        if ("call" in line or "invoke" in line) and (m := _CALL.search(line)):
            here.calls.add(m[1])
            if v := _VARIABLE.search(line):
                here.variables[int(v[1])] = (int(v[2]), int(v[3]))
        elif m := _ALLOCA.match(line):
            self._private.add(m[1])
        elif m := _DERIVED.match(line):
            self._private.update({m[1]} if m[2] in self._private else ())
        elif (m := _VECTOR_ACCESS.search(line)) and m[3] not in self._private:
            bits = int(m[1] or 1) * (_BITS[m[2]] if m[2] in _BITS else int(m[2][1:]))
            if bits not in (1, 8, 16, 32, 64, 128) and (debug := _DEBUG.search(line)):
                self._wide.append((f"{bits // 8}-byte access", int(debug[1])))
        here.constants.update(int(n) for n in _CONSTANT.findall(line))

    # ---- places

    def _field(self, number: int, key: str) -> str:
        body = self._metadata.get(number, "")
        m = re.search(rf'\b{key}: (?:!(\d+)|"([^"]*)"|(\d+))', body)
        return next((g for g in m.groups() if g is not None), "") if m else ""

    def place(self, number: int) -> tuple[str, int]:
        """File and line of a debug location or function."""
        line = int(self._field(number, "line") or 0)
        scope = number
        while scope >= 0 and not self._field(scope, "file"):
            scope = int(self._field(scope, "scope") or -1)
        entry = int(self._field(scope, "file") or -1) if scope >= 0 else -1
        file, directory = self._field(entry, "filename"), self._field(entry, "directory")
        relative = file and directory and not file.startswith(("/", "<"))
        return (f"{directory}/{file}" if relative else file), line

    def _is_user(self, file: str) -> bool:
        return bool(file) and not file.startswith((self._system_dir, "<"))

    # ---- questions

    def reachable(self, name: str) -> list[Function]:
        """The function and all it calls, directly or not."""
        seen: dict[str, Function] = {}
        todo = [name]
        while todo:
            n = todo.pop()
            if n in self.functions and n not in seen:
                seen[n] = self.functions[n]
                todo += self.functions[n].calls
        return list(seen.values())

    def recursion(self) -> list[Diagnostic]:
        """Functions that call themselves, directly or not: Metal has no recursion."""
        found = []
        for f in self.functions.values():
            file, line = self.place(f.subprogram)
            if self._is_user(file) and any(f.name in g.calls for g in self.reachable(f.name)):
                name = self._field(f.subprogram, "name")
                found.append(Diagnostic("recursion", f"'{name}' calls itself", file, line))
        return found

    def unwatched(self) -> list[Diagnostic]:
        """Accesses of a size that the instrumentation passes over."""
        places = {(*self.place(number), what) for what, number in self._wide}
        return [
            Diagnostic("unwatched", f"{what}: the simulator cannot watch this size", file, line)
            for file, line, what in sorted(places)
            if self._is_user(file)
        ]

    def with_shift_checks(self) -> str:
        """The module with a call before each shift by a variable amount, which clang has masked silently."""
        lines, n = [], 0
        for line in self._text.split("\n"):
            m = _MASK.match(line) if ".mask" in line else None
            if m:
                indent, amount, kind, debug = m[1], m[4], m[3], m[6]
                if kind != "i64":
                    n += 1
                    lines.append(f"{indent}%sim.shift{n} = zext {kind} {amount} to i64{debug}")
                    amount = f"%sim.shift{n}"
                lines.append(f"{indent}call void @__msl_rt_shift(i64 {amount}, i32 {kind[1:]}){debug}")
            lines.append(line)
        # Without effect on the kernel's own memory, so that optimisations around it stay possible.
        effects = "nounwind willreturn memory(inaccessiblemem: readwrite)"
        return "\n".join([*lines, f"declare void @__msl_rt_shift(i64, i32) {effects}", ""])
