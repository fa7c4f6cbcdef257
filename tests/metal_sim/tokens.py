"""Tokens of preprocessed MSL, each knowing its file and line, and helpers to walk through brackets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import CompileError, Diagnostic

_TOKEN = re.compile(
    r"""(?P<space>[ \t\f\r]+)
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<number>\.?\d(?:[eEpP][+-]|[\w.'])*)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<op><<=|>>=|->|::|\+\+|--|<<|[<>=!+\-*/%&|^]=|&&|\|\||.)""",
    re.VERBOSE,
)
_MARKER = re.compile(r'#\s+(\d+)\s+"([^"]*)"')

OPEN = {"(": ")", "[": "]", "{": "}"}
CLOSE = frozenset(OPEN.values())


@dataclass(eq=False)
class Token:
    """`out` is what the rewritten source has in the token's place."""

    kind: str
    text: str
    file: str
    line: int
    user: bool
    out: str

    def __repr__(self) -> str:
        return self.text


def _is_user(file: str, system_dir: str) -> bool:
    return not (file.startswith(system_dir) or file in ("<built-in>", "<command line>"))


def tokenize(text: str, system_dir: str) -> list[Token]:
    """Splits preprocessed text; files below `system_dir` and built-ins are not the user's."""
    tokens: list[Token] = []
    file, line, user = "", 1, True
    for raw in text.split("\n"):
        if raw.startswith("#"):
            if marker := _MARKER.match(raw):
                line, file = int(marker[1]), marker[2]
                user = _is_user(file, system_dir)
            tokens.append(Token("directive", raw + "\n", file, line, user, raw + "\n"))
            continue
        for m in _TOKEN.finditer(raw):
            kind, piece = str(m.lastgroup), m.group()
            tokens.append(Token(kind, piece, file, line, user, piece))
        tokens.append(Token("newline", "\n", file, line, user, "\n"))
        line += 1
    return tokens


def significant(tokens: Sequence[Token]) -> list[Token]:
    """Without white space and preprocessor lines."""
    return [t for t in tokens if t.kind not in ("space", "newline", "directive")]


def fold_attributes(tokens: list[Token]) -> list[Token]:
    """Makes each `[[ … ]]` of the user's source one token of kind "attribute"; its text is what stands inside."""
    folded: list[Token] = []
    i = 0
    while i < len(tokens):
        t = tokens[i]
        if not (t.user and t.text == "[" and i + 1 < len(tokens) and tokens[i + 1].text == "["):
            folded.append(t)
            i += 1
            continue
        end = match(tokens, i, "[", "]")
        span = tokens[i : end + 1]
        body = "".join(x.text if x.kind != "newline" else " " for x in span if x.kind != "directive")
        folded.append(Token("attribute", body[2:-2].strip(), t.file, t.line, True, ""))
        folded += [x for x in span if x.kind == "newline"]
        i = end + 1
    return folded


def fail(token: Token, message: str, rule: str = "metal") -> CompileError:
    """The error to raise for a complaint about one token."""
    return CompileError([Diagnostic(rule, message, token.file, token.line)])


def match(tokens: Sequence[Token], i: int, opening: str = "(", closing: str = ")") -> int:
    """Position of the bracket that closes the one at or after `i`."""
    depth = 0
    for j in range(i, len(tokens)):
        if tokens[j].text == opening:
            depth += 1
        elif tokens[j].text == closing:
            depth -= 1
            if depth == 0:
                return j
    raise fail(tokens[i], f"unbalanced {opening}")


def match_angle(tokens: Sequence[Token], i: int) -> int:
    """Position of the `>` that closes the template list opened at `i`, or -1 if that `<` opens none."""
    angle = other = 0
    for j in range(i, len(tokens)):
        s = tokens[j].text
        if s in ("(", "["):
            other += 1
        elif s in (")", "]"):
            other -= 1
            if other < 0:
                return -1
        elif s in (";", "{", "}"):
            return -1
        elif other == 0 and s == "<":
            angle += 1
        elif other == 0 and s == ">":
            angle -= 1
            if angle == 0:
                return j
    return -1


def split_commas(tokens: Sequence[Token]) -> list[list[Token]]:
    """Splits at commas outside every bracket and template list."""
    parts: list[list[Token]] = []
    part: list[Token] = []
    depth = angle = 0
    for t in tokens:
        if t.text in OPEN:
            depth += 1
        elif t.text in CLOSE:
            depth -= 1
        elif t.text == "<" and depth == 0:
            angle += 1
        elif t.text == ">" and depth == 0 and angle:
            angle -= 1
        if t.text == "," and depth == 0 and angle == 0:
            parts.append(part)
            part = []
        else:
            part.append(t)
    if part:
        parts.append(part)
    return parts


def join(tokens: Sequence[Token]) -> str:
    """The tokens as text that can be compiled again."""
    return " ".join(t.text for t in tokens)
