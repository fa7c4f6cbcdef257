"""`python -m mlx_conv3d`: the same as the `mlx-conv3d` command."""

from mlx_conv3d.cli import app

app(prog_name="mlx-conv3d")
