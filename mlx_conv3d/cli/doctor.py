"""`mlx-conv3d doctor`: whether this installation computes what it should, in rows and one verdict."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlx_conv3d.cli.mistakes import choose, told
from mlx_conv3d.doctor.examination import SUBJECTS, Wanted, examine, is_checkout
from mlx_conv3d.doctor.rows import FAIL, NOTE, OK, SKIP, Row, document, is_good, verdict

LOG_WIDTH = 200  # where no terminal says how wide it is
STYLES = {OK: "green", FAIL: "bold red", SKIP: "yellow", NOTE: "dim"}


def table_of(rows: Sequence[Row]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for width in (11, 30):
        table.add_column(no_wrap=True, min_width=width)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(Text(row.status, style=STYLES[row.status]), Text(row.name), Text(row.detail))
    return table


def parse(only: str, limit: float, total: float, checkout: str) -> Wanted:
    """ValueError for what cannot be meant."""
    if checkout and not is_checkout(Path(checkout)):
        raise ValueError(f"--checkout {checkout} does not hold the sources and tests of this version")
    folder = str(Path(checkout).resolve()) if checkout else ""
    return Wanted(tuple(choose("--only", only, SUBJECTS)), limit, total, folder)


def examined(wanted: Wanted, console: Console) -> list[Row]:
    """Runs everything and prints the rows of each step when it ends; what runs now is shown on a terminal only."""
    status = console.status("") if console.is_terminal else nullcontext()
    with status:

        def begin(step: str) -> None:
            if not isinstance(status, nullcontext):
                status.update(step)

        def report(rows: Sequence[Row]) -> None:
            console.print(Text(rows[0].step, style="bold"))
            console.print(table_of(rows))

        return examine(wanted, begin, report)


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, for bug reports.")
    ] = False,
    only: Annotated[str, typer.Option(help=f"Some of {', '.join(SUBJECTS)}, like parity,timing.")] = "",
    limit: Annotated[
        float, typer.Option(help="Seconds that one check may take; 0 for each step's own.", min=0)
    ] = 0.0,
    total: Annotated[
        float, typer.Option(help="Seconds for everything; 0 for 110, and 600 on a Mac.", min=0)
    ] = 0.0,
    checkout: Annotated[
        str, typer.Option(help="Folder with the sources of this version, for the Metal simulator.")
    ] = "",
) -> None:
    """Check this installation: versions, backends, every kernel, results against MLX, times.

    Each step runs in a process of its own for a limited time. Exits with 0 if all is good and with 1 if a check failed.
    """
    with told():
        wanted = parse(only, limit, total, checkout)
    started = time.perf_counter()
    console = Console(quiet=as_json)
    rows = examined(wanted, console if console.is_terminal else Console(quiet=as_json, width=LOG_WIDTH))
    seconds = time.perf_counter() - started
    if as_json:
        typer.echo(json.dumps(document(rows, seconds), indent=1, allow_nan=False))
    else:
        typer.echo(f"{verdict(rows)} ({seconds:.0f} s)")
    raise typer.Exit(0 if is_good(rows) else 1)
