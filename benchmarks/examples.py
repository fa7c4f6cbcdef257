"""The examples' modules, imported as their scripts import each other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


@contextmanager
def importable(example: str) -> Iterator[Path]:
    """Inside the block the modules of that example can be imported; gives its folder."""
    folder = EXAMPLES / example
    sys.path.insert(0, str(folder))
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
