"""The `mlx-conv3d` command. A subcommand's module is imported when it is called for."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMMANDS = ("plan", "doctor", "ranks", "demo")


class LazyCommands(TyperGroup):
    """The function `name` of the module `mlx_conv3d.cli.name`, for each of COMMANDS."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        single = typer.Typer(add_completion=False)
        single.command(cmd_name)(getattr(import_module(f"mlx_conv3d.cli.{cmd_name}"), cmd_name))
        return typer.main.get_command(single)


app = typer.Typer(name="mlx-conv3d", cls=LazyCommands, no_args_is_help=True, add_completion=False)


def print_version(wanted: bool) -> None:
    if not wanted:
        return
    from mlx_conv3d import __version__, _ext

    typer.echo(f"mlx-conv3d {__version__}, mlx {_ext.mlx_version}, {_ext.isa()}, {_ext.threads()} threads")
    raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print versions and stop."),
    ] = False,
) -> None:
    """Fast and exact convolution for MLX."""
