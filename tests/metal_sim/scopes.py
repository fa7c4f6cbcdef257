"""Which braces a token stands in: namespaces, classes, functions. Enough structure for the rewriter and lints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .tokens import Token, match


@dataclass(frozen=True)
class Scope:
    """`kind` is "namespace", "class", "enum" or "code" (function bodies, blocks, initialiser lists)."""

    kind: str
    name: str
    outer: Scope | None

    @property
    def in_code(self) -> bool:
        """Whether this or an enclosing scope is code."""
        return self.kind == "code" or (self.outer is not None and self.outer.in_code)


GLOBAL = Scope("namespace", "", None)


def _classify(ts: Sequence[Token], brace: int, outer: Scope) -> Scope:
    """Looks back from `{` to the start of its statement for the keyword that says what the braces hold."""
    k = brace - 1
    while k >= 0 and ts[k].text not in (";", "}", "{", ")"):
        word, before = ts[k].text, ts[k - 1].text if k else ""
        if word == "namespace":
            return Scope("namespace", ts[k + 1].text, outer)
        if word == "enum":
            return Scope("enum", "", outer)
        if word in ("struct", "class", "union") and before not in ("<", ",", "enum"):
            name = ts[k + 1].text if ts[k + 1].kind == "word" else ""
            return Scope("class", name, outer)
        k -= 1
    if brace and ts[brace - 1].text.startswith('"C'):
        return Scope("namespace", "", outer)
    return Scope("code", "", outer)


def scopes(ts: Sequence[Token]) -> list[Scope]:
    """The scope each significant token stands in; a brace itself counts as outside."""
    result: list[Scope] = []
    here = GLOBAL
    for i, t in enumerate(ts):
        if t.text == "}" and here.outer is not None:
            here = here.outer
        result.append(here)
        if t.text == "{":
            here = _classify(ts, i, here)
    return result


def statement_end(ts: Sequence[Token], i: int) -> int:
    """Position of the `;` that ends the statement at `i`, past whole brackets."""
    while i < len(ts) and ts[i].text != ";":
        if ts[i].text in ("(", "[", "{"):
            i = match(ts, i, ts[i].text, {"(": ")", "[": "]", "{": "}"}[ts[i].text])
        i += 1
    return i


def statement_start(ts: Sequence[Token], i: int) -> int:
    """Position of the first token of the statement that `i` is in."""
    while i and ts[i - 1].text not in (";", "{", "}"):
        i -= 1
    return i
