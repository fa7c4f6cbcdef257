"""What the user wrote wrongly, told in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer


@contextmanager
def told(kind: type[ValueError] = ValueError) -> Iterator[None]:
    """An error of this kind in the block ends the command with its message and code 1."""
    try:
        yield
    except kind as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None


def choose(name: str, text: str, known: Sequence[str]) -> list[str]:
    """The names in "a,b", all that are known for an empty text; ValueError for one that is not."""
    chosen = text.split(",") if text else list(known)
    for one in chosen:
        if one not in known:
            raise ValueError(f"{name} must be of {', '.join(known)}, got {one!r}")
    return chosen
