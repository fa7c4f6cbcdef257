"""What goes wrong before a kernel runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path


def absolute(file: str, root: Path) -> str:
    """Path of a file that the compiler knows relative to `root`; names in angle brackets stay."""
    return os.path.normpath(root / file) if file and not file.startswith("<") else file


@dataclass(frozen=True)
class Diagnostic:
    """One complaint about MSL source. `rule` is "clang" or the name of a lint, `line` counts from 1."""

    rule: str
    message: str
    file: str = ""
    line: int = 0

    def below(self, root: Path) -> Diagnostic:
        """With a relative file taken to be below `root`."""
        return replace(self, file=absolute(self.file, root))

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file else ""
        return f"{where}{self.message} [{self.rule}]"


class MetalSimError(Exception):
    """The simulator was used wrongly, or its own machinery failed."""


class CompileError(MetalSimError):
    """MSL source is not acceptable; `diagnostics` says why, each with file and line."""

    def __init__(self, diagnostics: list[Diagnostic]):
        self.diagnostics = diagnostics
        super().__init__("\n".join(map(str, diagnostics)))
