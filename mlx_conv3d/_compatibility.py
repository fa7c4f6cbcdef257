"""libmlx has no binary compatibility between releases: the extension runs with the mlx that it was built for."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

REQUIRED_MLX = "0.32.4"


def check() -> None:
    """Raises ImportError when the installed mlx is not the one that this package was built against.

    The same when the extension does not load: the message then ends with the loader's own words.
    """
    try:
        found = version("mlx")
    except PackageNotFoundError:
        found = "none"
    if found != REQUIRED_MLX:
        raise ImportError(
            f"mlx_conv3d needs mlx {REQUIRED_MLX}, found {found}: pip install 'mlx=={REQUIRED_MLX}' "
            f"(on Linux 'mlx[cpu]=={REQUIRED_MLX}')"
        )
    try:
        import_module("mlx_conv3d._ext")
    except ImportError as error:
        raise ImportError(
            "mlx_conv3d's compiled extension does not load with this Python and mlx; install it again: "
            f"pip install --force-reinstall --no-deps mlx-conv3d, or make in a checkout ({error})"
        ) from error
