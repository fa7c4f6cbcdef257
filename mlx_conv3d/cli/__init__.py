"""The `mlx-conv3d` command."""

from __future__ import annotations

import typer

from mlx_conv3d.cli.demo import demo

app = typer.Typer(name="mlx-conv3d", no_args_is_help=True, add_completion=False)
app.command()(demo)


@app.callback()
def main() -> None:
    """Fast and exact convolution for MLX."""
