"""libmlx has no binary compatibility between releases: the extension runs with the mlx that it was built for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

REQUIRED_MLX = "0.32.4"


def check() -> None:
    """Raises ImportError when the installed mlx is not the one that this package was built against."""
    try:
        found = version("mlx")
    except PackageNotFoundError:
        found = "none"
    if found != REQUIRED_MLX:
        raise ImportError(
            f"mlx_conv3d needs mlx {REQUIRED_MLX}, found {found}: pip install 'mlx=={REQUIRED_MLX}' "
            f"(on Linux 'mlx[cpu]=={REQUIRED_MLX}')"
        )
