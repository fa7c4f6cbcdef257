"""Turns MSL tokens into "C++ for OpenCL" that clang can parse, line by line, so that diagnostics keep their lines.

Each pass changes `Token.out` of what clang cannot take: attributes, threadgroup variables, vector constructors,
function constants, bfloat literals. Address spaces stay as they are: the compile line maps them to clang's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .errors import CompileError, Diagnostic
from .kernels import Kernels, attribute_items, find_kernels
from .lint import address_spaces, banned_words, lambdas, wide_shifts
from .scopes import Scope, scopes, statement_end, statement_start
from .tokens import (
    Token,
    fail,
    fold_attributes,
    join,
    match,
    match_angle,
    significant,
    split_commas,
    tokenize,
)

_ELEMENT = r"char|uchar|short|ushort|int|uint|long|ulong|half|float|bfloat"
_VECTOR = re.compile(rf"(packed_)?({_ELEMENT})[234]")
_SCALAR = re.compile(rf"bool|size_t|u?int\d+_t|({_ELEMENT})[234]?")

# Slots of function constants in the runtime: the declared ones by index, then those computed from them.
MAX_FUNCTION_CONSTANTS = 128


@dataclass(frozen=True)
class FunctionConstant:
    """A declared function constant, or one computed from others (`needs`: indices it cannot do without)."""

    name: str
    type: str
    slot: int
    initialiser: str = ""
    needs: frozenset[int] = frozenset()


@dataclass
class Source:
    """A rewritten source file; `text` is ready for clang, without the kernel entries."""

    text: str
    kernels: Kernels
    constants: dict[str, FunctionConstant]
    threadgroup_names: dict[int, str]
    lints: list[Diagnostic] = field(default_factory=list)


class _Rewriter:
    def __init__(self, text: str, system_dir: str):
        self.tokens = fold_attributes(tokenize(text, system_dir))
        self.ts: list[Token] = significant(self.tokens)
        self.where: list[Scope] = scopes(self.ts)
        self.kernels = find_kernels(self.ts)
        self.constants: dict[str, FunctionConstant] = {}
        self.threadgroup_names: dict[int, str] = {}
        self.aliases = self._vector_aliases()

    def run(self) -> Source:
        lints = [*banned_words(self.ts), *wide_shifts(self.ts), *lambdas(self.ts, self.where)]
        lints += address_spaces(self.ts, self.where)
        for i in self.kernels.keywords:
            self.ts[i].out = ""
        for _, start, end in self.kernels.explicit:
            self._erase(start, end + 1)
        self._function_constants()
        self._computed_constants()
        for i, t in enumerate(self.ts):
            if t.user and t.out:
                self._token(i, t)
        return Source(
            "".join(t.out for t in self.tokens), self.kernels, self.constants, self.threadgroup_names, lints
        )

    def _erase(self, start: int, end: int) -> None:
        for t in self.ts[start:end]:
            t.out = ""

    def _text(self, i: int) -> str:
        return self.ts[i].text if 0 <= i < len(self.ts) else ""

    # ---- names that stand for vector types

    def _vector_aliases(self) -> set[str]:
        """`using X = vec<…>;` and `typedef float2 X;`"""
        names: set[str] = set()
        for i, t in enumerate(self.ts):
            if not t.user or t.text not in ("using", "typedef"):
                continue
            e = i + 3 if t.text == "using" and self._text(i + 2) == "=" else i + 1
            if self._text(e) == "metal":
                e += 2
            if _VECTOR.fullmatch(self._text(e)):
                e += 1
            elif self._text(e) == "vec":
                e = match_angle(self.ts, e + 1) + 1
            else:
                continue
            if t.text == "using" and self._text(e) == ";":
                names.add(self._text(i + 1))
            elif t.text == "typedef" and self._text(e + 1) == ";":
                names.add(self._text(e))
        return names

    def _is_vector(self, name: str) -> bool:
        return bool(_VECTOR.fullmatch(name)) or name in self.aliases

    # ---- function constants

    def _function_constants(self) -> None:
        """`constant T f [[function_constant(3)]];` becomes an external constant that the runtime holds."""
        for i, t in enumerate(self.ts):
            if t.kind != "attribute" or self.where[i].in_code or self.where[i].kind == "class":
                continue
            start = statement_start(self.ts, i)
            value = next((v for name, v in attribute_items(t.text) if name == "function_constant"), "")
            if not value or self._text(start) != "constant":
                continue
            index = int(value, 0)
            name, kind = self._text(i - 1), join(self.ts[start + 1 : i - 1])
            if not 0 <= index < MAX_FUNCTION_CONSTANTS:
                raise fail(t, f"function constant index {index}: the simulator has {MAX_FUNCTION_CONSTANTS}")
            if any(c.slot == index for c in self.constants.values()):
                raise fail(t, f"duplicate function constant index {index} ('{name}')")
            self.constants[name] = FunctionConstant(name, kind, index, needs=frozenset({index}))
            self.ts[start].out = "extern constant"
            t.out = f' __asm__("msl_constant_{index}")'

    def _computed_constants(self) -> None:
        """`constant int g = 2 * f;` at program scope, where f is a function constant."""
        for i, t in enumerate(self.ts):
            if not (t.user and t.text == "constant" and self.where[i].kind == "namespace"):
                continue
            if statement_start(self.ts, i) != i or self._text(i + 1) == "constexpr":
                continue
            end = statement_end(self.ts, i)
            equals = next((k for k in range(i, end) if self._text(k) == "="), end)
            value = self.ts[equals + 1 : end]
            used = {x.text for x in value if x.text in self.constants}
            if used:
                self._compute(i, equals, end, used)

    def _compute(self, start: int, equals: int, end: int, used: set[str]) -> None:
        value = self.ts[equals + 1 : end]
        guarded = {value[k + 2].text for k, x in enumerate(value) if x.text == "is_function_constant_defined"}
        for k, x in enumerate(value):
            if x.text == "is_function_constant_defined":
                slot = self.constants[value[k + 2].text].slot
                x.out, value[k + 2].out = "__msl_rt_constant_defined", str(slot)
        name, kind = self._text(equals - 1), join(self.ts[start + 1 : equals - 1])
        needs = frozenset(n for u in used - guarded for n in self.constants[u].needs)
        slot = MAX_FUNCTION_CONSTANTS + sum(c.slot >= MAX_FUNCTION_CONSTANTS for c in self.constants.values())
        initialiser = " ".join(x.out for x in value)
        self.constants[name] = FunctionConstant(name, kind, slot, initialiser, needs)
        self.ts[start].out = "extern constant"
        self._erase(equals, end)
        self.ts[equals].out = f'__asm__("msl_constant_{slot}")'

    # ---- single tokens

    def _token(self, i: int, t: Token) -> None:
        if t.kind == "number" and re.fullmatch(r"[\d.eE+-]+bf", t.text):
            t.out = f"((bfloat){t.text[:-2]}f)"
        elif t.text == "threadgroup":
            self._threadgroup_variable(i)
        elif t.text in ("thread", "const"):
            self._scalar_reference(i)
            self._constructor_qualifier(i)
        elif t.text == "vec" and self._text(i + 1) == "<":
            self._vec_template(i)
        elif t.text == "static_cast" and self._is_vector(self._text(i + 2)) and self._text(i + 3) == ">":
            t.out = "__msl_make"
        elif t.text == "is_function_constant_defined":
            self._constant_defined(i)
        elif t.kind == "word" and self._is_vector(t.text):
            self._vector_word(i, t)

    def _vector_word(self, i: int, t: Token) -> None:
        before = self._text(i - 1)
        if before in ("operator", "struct", "class"):
            return
        if self._text(i + 1) == "(" and before not in ("typedef", "using"):
            t.out = f"__msl_make<{t.text}>"
            return
        named = self.where[i].in_code and self.ts[i + 1].kind == "word" and self._text(i + 2) == "("
        if named and self._text(match(self.ts, i + 2) + 1) in (";", ","):
            self.ts[i + 1].out = f"{self._text(i + 1)} = __msl_make<{t.text}>"

    def _vec_template(self, i: int) -> None:
        close = match_angle(self.ts, i + 1)
        if close < 0 or self._text(close + 1) != "(":
            return
        first = i - 2 if self._text(i - 1) == "::" and self._text(i - 2) == "metal" else i
        if self._text(first - 1) != "operator":
            self.ts[first].out = "__msl_make<" + self.ts[first].text
            self.ts[close].out = ">>"

    def _constant_defined(self, i: int) -> None:
        name = self._text(i + 2)
        if name not in self.constants:
            raise fail(self.ts[i], f"'{name}' is no function constant")
        self.ts[i].out, self.ts[i + 2].out = "__msl_rt_constant_defined", str(self.constants[name].slot)

    def _scalar_reference(self, i: int) -> None:
        """`const thread float& x` as a parameter becomes `const float x`: clang binds no temporary to it."""
        if self._text(i - 1) not in ("(", ","):
            return
        k = i
        while self._text(k) in ("thread", "const"):
            k += 1
        words = [self._text(j) for j in range(i, k)]
        if sorted(words) != ["const", "thread"] or not _SCALAR.fullmatch(self._text(k)):
            return
        if self._text(k + 1) == "&" and self._text(k + 3) in (",", ")"):
            self.ts[i + words.index("thread")].out = self.ts[k + 1].out = ""

    def _constructor_qualifier(self, i: int) -> None:
        """`S(…) thread : …`: what a constructor makes lies in thread memory anyway, clang takes no qualifier."""
        scope = self.where[i]
        if self._text(i) != "thread" or self._text(i - 1) != ")" or scope.kind != "class":
            return
        depth, k = 0, i - 1
        while True:
            depth += (self._text(k) == ")") - (self._text(k) == "(")
            if depth == 0:
                break
            k -= 1
        if self._text(k - 1) == scope.name and self._text(k - 2) != "~":
            self.ts[i].out = ""

    # ---- threadgroup variables

    def _threadgroup_variable(self, i: int) -> None:
        """`threadgroup T x[n];` in a kernel becomes a reference to memory that the runtime hands out."""
        if not self.where[i].in_code or self._text(i - 1) not in (";", "{", "}", ")"):
            return
        end = statement_end(self.ts, i)
        span = self.ts[i + 1 : end]
        if end - i < 3 or self._is_pointer_declaration(span):
            return
        if not any(a < i < b for a, b in (k.body for k in self.kernels.functions.values())):
            raise fail(self.ts[i], "threadgroup variables are declared in kernel functions only")
        if any(t.text == "=" for t in span):
            raise fail(self.ts[i], "threadgroup variables have no initialiser")
        declarators = split_commas(span)
        first = declarators[0]
        bracket = next((k for k, t in enumerate(first) if t.text == "["), len(first))
        kind = join(first[: bracket - 1])
        declarators[0] = first[bracket - 1 :]
        text = " ".join(self._declare(kind, d, self.ts[i]) for d in declarators)
        self._erase(i, end + 1)
        self.ts[i].out = text

    @staticmethod
    def _is_pointer_declaration(span: list[Token]) -> bool:
        depth = 0
        for t in span:
            depth += (t.text in ("(", "[", "{")) - (t.text in (")", "]", "}"))
            if depth == 0 and t.text in ("*", "&", "&&"):
                return True
            if t.text == "=":
                return False
        return False

    def _declare(self, kind: str, declarator: list[Token], at: Token) -> str:
        name, dimensions = declarator[0].text, join(declarator[1:])
        site = len(self.threadgroup_names)
        self.threadgroup_names[site] = f"{name} ({at.file.rsplit('/', 1)[-1]}:{at.line})"
        alias = f"__msl_tg_{name}_{site}"
        return (
            f"typedef {kind} {alias} {dimensions}; threadgroup {alias}& {name} = *(threadgroup {alias}*)"
            f"__msl_rt_threadgroup_variable({site}, sizeof({alias}), alignof({alias}));"
        )


def rewrite(preprocessed: str, system_dir: str) -> Source:
    """Rewrites preprocessed MSL. Files below `system_dir` are left alone.

    Raises CompileError for what cannot be rewritten; rules that are broken otherwise are in `Source.lints`.
    """
    return _Rewriter(preprocessed, system_dir).run()


def entry_text(source: Source, wanted: list[str]) -> str:
    """C++ of the functions the runtime calls: one per wanted kernel, and one that computes constants."""
    # decltype of a function counts as taking its address, which only the entries may do.
    lines = ['# 1 "<kernel entries>"', "#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable"]
    visible = 'extern "C" __attribute__((visibility("default")))'
    for k, entry in enumerate(wanted):
        kernel = source.kernels.kernel_of(entry)
        if kernel is None:
            have = ", ".join(sorted(source.kernels.entries)) or "none"
            raise CompileError([Diagnostic("kernel", f"no kernel named '{entry}'; the source has: {have}")])
        callee, arguments, sizes = source.kernels.entries[entry], [], []
        for n, p in enumerate(kernel.parameters):
            kind = f"__msl_function<__msl_type_{k}>::argument<{n}>"
            if p.kind == "builtin":
                arguments.append(f"__msl_builtin<{kind}>({p.index})")
                continue
            arguments.append(f"__msl_pointee<{kind}>::at(__msl_rt_{_GETTER[p.kind]}({p.index}))")
            if p.kind == "buffer":
                sizes.append(f"{p.index}u, __msl_pointee<{kind}>::size, ")
        lines.append(f"using __msl_type_{k} = decltype({callee});")
        lines.append(f"{visible} constant uint __msl_sizes_{k}[] = {{{''.join(sizes)}~0u}};")
        lines.append(f"{visible} void __msl_entry_{k}() {{ {callee}({', '.join(arguments)}); }}")
    steps = [
        f"{{ {c.type} v = {c.initialiser}; __msl_rt_set_constant({c.slot}, &v, sizeof(v)); }}"
        for c in source.constants.values()
        if c.initialiser
    ]
    lines.append(f"{visible} void __msl_constants() {{ {' '.join(steps)} }}")
    return "\n".join(lines) + "\n"


_GETTER = {"buffer": "buffer", "threadgroup": "threadgroup_argument"}
