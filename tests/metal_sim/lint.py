"""Rules of Metal that clang's OpenCL front end does not have: checked on tokens, or on clang's warnings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from .errors import Diagnostic
from .scopes import Scope, statement_end, statement_start
from .tokens import CLOSE, OPEN, Token, match, match_angle, split_commas

SPACES = frozenset({"device", "constant", "thread", "threadgroup", "ray_data", "object_data"})
_BEFORE_LAMBDA = frozenset({"=", "(", ",", "{", "}", ";", "return", "?", ":"})
_DECLARATORS = ("*", "&", "&&")
_ACCESS = ("public", "private", "protected")
_NOT_FUNCTIONS = frozenset(
    [
        "decltype",
        "sizeof",
        "alignof",
        "static_assert",
        "__attribute__",
        "noexcept",
        "alignas",
        "if",
        "for",
        "while",
    ]
)
_NOT_TYPES = frozenset({"return", "else", "case", "delete", "using", "typedef", "goto", "new", "throw"})
_BANNED = {
    "goto": "goto does not exist in Metal",
    "double": "double does not exist in Metal",
    "virtual": "virtual functions do not exist in Metal",
    "dynamic_cast": "dynamic_cast does not exist in Metal",
    "thread_local": "thread_local does not exist in Metal",
    "typeid": "run-time type information does not exist in Metal",
}


def wide_shifts(ts: Sequence[Token]) -> Iterator[Diagnostic]:
    """Shifts by 32 or more in a statement without a 64-bit type: clang's OpenCL masks the amount silently."""
    for i, t in enumerate(ts[:-1]):
        amount = ts[i + 1]
        if not (t.user and t.text in ("<<", ">>", "<<=", ">>=") and re.fullmatch(r"\d+[uU]?", amount.text)):
            continue
        statement = ts[statement_start(ts, i) : statement_end(ts, i)]
        is_wide = any(re.fullmatch(r"u?long|u?int64_t|size_t|\w*\d[uU]?[lL]", x.text) for x in statement)
        if int(amount.text.rstrip("uU")) >= (64 if is_wide else 32):
            yield Diagnostic("shift", f"shift by {amount.text}", t.file, t.line)


def banned_words(ts: Sequence[Token]) -> Iterator[Diagnostic]:
    """Keywords of C++ that Metal does not have."""
    for t in ts:
        if t.user and t.kind == "word" and t.text in _BANNED:
            yield Diagnostic("metal", _BANNED[t.text], t.file, t.line)


def lambdas(ts: Sequence[Token], where: Sequence[Scope]) -> Iterator[Diagnostic]:
    """Lambda expressions, which Metal has since version 4 only."""
    for i, t in enumerate(ts):
        if not (t.user and t.text == "[" and where[i].in_code and i) or ts[i - 1].text not in _BEFORE_LAMBDA:
            continue
        close = match(ts, i, "[", "]")
        if close + 1 < len(ts) and ts[close + 1].text in ("(", "{"):
            yield Diagnostic("metal", "lambda expressions do not exist in Metal 3", t.file, t.line)


def _bare_declarator(part: Sequence[Token]) -> Token | None:
    """The first `*` or `&` of a declaration that no address space stands before."""
    depth, spaced = 0, False
    for k, t in enumerate(part):
        if t.text == "=" and depth == 0:
            return None
        if t.text in OPEN or t.text == "<":
            depth += 1
        elif t.text in CLOSE or t.text == ">":
            depth -= 1
        elif depth == 0 and t.text in SPACES:
            spaced = True
        elif depth == 0 and k and t.text in _DECLARATORS:
            if not spaced:
                return t
            spaced = False
    return None


def _is_member_initialiser(ts: Sequence[Token], i: int) -> bool:
    """Whether the `(` at i is that of `: member(value), member(value) {`."""
    before = ts[i - 2].text
    return before in (",", ":") and not (before == ":" and ts[i - 3].text in _ACCESS)


def _parameter_lists(ts: Sequence[Token], where: Sequence[Scope]) -> Iterator[list[Token]]:
    """Parameters of function declarations and lambdas, each as its tokens."""
    for i, t in enumerate(ts):
        if not t.user or t.text != "(" or not i:
            continue
        before = ts[i - 1]
        is_lambda = before.text == "]" and where[i].in_code
        if not is_lambda and (where[i].in_code or before.kind != "word" or before.text in _NOT_FUNCTIONS):
            continue
        if not is_lambda and _is_member_initialiser(ts, i):
            continue
        close = match(ts, i)
        follows = ts[close + 1].text if close + 1 < len(ts) else ";"
        is_signature = follows in ("{", ";", ":", "const", "noexcept", "->", "=") or follows in SPACES
        if is_signature or (is_lambda and follows == "mutable"):
            yield from split_commas(ts[i + 1 : close])


def _starts_statement(ts: Sequence[Token], i: int) -> bool:
    if i == 0 or ts[i - 1].text in (";", "{", "}") or ts[i - 1].kind == "attribute":
        return True
    before, earlier = ts[i - 1].text, ts[i - 2].text
    return (before == "(" and earlier in ("for", "if", "while")) or (before == ":" and earlier in _ACCESS)


def _declarations(ts: Sequence[Token], where: Sequence[Scope]) -> Iterator[list[Token]]:
    """Variable, member and function declarations up to their initialiser or parameter list."""
    for i, t in enumerate(ts):
        if not t.user or t.kind != "word" or t.text in _NOT_TYPES:
            continue
        if where[i].kind == "enum" or not _starts_statement(ts, i):
            continue
        end = i
        stops = (";", "=", "(", ")", "{", "}", "[", ".", "->", "+=", "-=", "*=", ":", ",")
        while end < len(ts) and ts[end].text not in stops:
            end = max(end, match_angle(ts, end) if ts[end].text == "<" else end) + 1
        part = [x for x in ts[i:end] if x.kind != "attribute"]
        closes = ts[end].text if end < len(ts) else ";"
        is_function = closes == "(" and not where[i].in_code
        if not (closes in ("=", ";", ":", "{", ",", "[") or is_function) or len(part) < 3:
            continue
        if part[-1].kind == "word" and part[-2].text in _DECLARATORS:
            yield part


def _abstract_types(ts: Sequence[Token]) -> Iterator[list[Token]]:
    """Types of casts, template arguments and aliases: `(float*)`, `<float*>`, `= float*;`."""
    for i, t in enumerate(ts):
        if not t.user or t.text not in ("*", "&") or i + 1 >= len(ts):
            continue
        if ts[i + 1].text not in (")", ">", ",", ";") or (ts[i - 1].kind != "word" and ts[i - 1].text != ">"):
            continue
        start, depth = i, 0
        while start:
            s = ts[start - 1].text
            depth += (s == ">") - (s == "<" and depth > 0)
            if depth == 0 and s in ("(", "<", ",", "=", ";", "{", "}"):
                break
            start -= 1
        yield list(ts[start : i + 1])


def address_spaces(ts: Sequence[Token], where: Sequence[Scope]) -> list[Diagnostic]:
    """Every pointer and reference needs an address space of its own.

    Metal before 4.1 rejects one without, Metal 4.1 takes it as generic, and clang would do the same.
    """
    seen: dict[int, Diagnostic] = {}
    for source in (_parameter_lists(ts, where), _declarations(ts, where), _abstract_types(ts)):
        for part in source:
            part = [t for t in part if t.kind != "attribute"]
            if (t := _bare_declarator(part)) is not None:
                kind = "pointer" if t.text == "*" else "reference"
                text = " ".join(x.text for x in part)[:80]
                message = f"{kind} without an address space: '{text}'"
                seen.setdefault(id(t), Diagnostic("address-space", message, t.file, t.line))
    return list(seen.values())


_INTO_BFLOAT = re.compile(r" to '[^']*(__bf16|bfloat)[^']*'|'[^']*(__bf16|bfloat)[^']*' to '[^']*half")
_CLANG_LINE = re.compile(r"^(.*?):(\d+):(?:\d+:)?(?:\{[^}]*\})*:? ?(fatal error|error|warning|note): (.*)$")


def clang_diagnostics(stderr: str, system_dir: str) -> list[Diagnostic]:
    """Errors of clang, and those warnings that stand for errors in Metal.

    One in the headers below `system_dir` is told of the user's line that instantiates them.
    """
    result: list[Diagnostic] = []
    homeless = False
    for raw in stderr.splitlines():
        m = _CLANG_LINE.match(raw)
        if not m:
            continue
        file, line, level, message = m[1], int(m[2]), m[3], m[4]
        own = file.startswith(system_dir)
        if level == "note":
            if homeless and not own and "requested here" in message:
                result[-1] = replace(result[-1], file=file, line=line)
                homeless = False
        elif rule := _rule(level, message):
            result.append(Diagnostic(rule, message, file, line))
            homeless = own
    return result


def _rule(level: str, message: str) -> str:
    """The rule that a message of clang breaks, "" if it is harmless."""
    if level != "warning":
        return "clang"
    if "implicit conversion" in message:
        return "implicit-bfloat" if _INTO_BFLOAT.search(message) else ""
    return "warning"
