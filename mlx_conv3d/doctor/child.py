"""The process of one step: writes a line of JSON when it begins a check, and one with the row when that has ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from mlx_conv3d.doctor.items import Item, checked
from mlx_conv3d.doctor.rows import plain


def main(arguments: Sequence[str]) -> None:
    """arguments: the step's name, its module in this package, its options as JSON, the first check, the file."""
    step, module, options, first, path = arguments
    with open(path, "a", encoding="utf-8") as file:

        def write(line: dict[str, Any]) -> None:
            file.write(json.dumps(plain(line), allow_nan=False) + "\n")
            file.flush()

        items: list[Item] = import_module(f"mlx_conv3d.doctor.{module}").items(**json.loads(options))
        write({"names": [item.name for item in items]})
        for index, item in enumerate(items):
            if index >= int(first):
                write({"begins": index})
                write({"row": vars(checked(step, item))})
        write({"ends": True})
