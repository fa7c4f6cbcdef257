"""Fast and exact 1-D, 2-D and 3-D convolution for MLX.

`conv3d(x, w)` and its relatives compute a convolution by the best algorithm for its shape; `patch()` puts them under
`mx.conv1d`, `mx.conv2d`, `mx.conv3d`, `mx.conv_general`, `mx.conv_transpose1d`, `mx.conv_transpose2d`,
`mx.conv_transpose3d` and with them `mlx.nn`'s layers.
`mlx_conv3d.nn` has layers of its own, `mlx_conv3d.distributed` convolves arrays that lie on several machines.
"""

from typing import Any

from mlx_conv3d import _compatibility

_compatibility.check()

from mlx_conv3d.functional import (  # noqa: E402
    conv1d,
    conv2d,
    conv3d,
    conv_general,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    get_workspace_limit,
    rms_norm,
    set_workspace_limit,
)
from mlx_conv3d.patching import patch, patched, reset_stats, stats, unpatch  # noqa: E402
from mlx_conv3d.planning import Candidate, Plan, plan  # noqa: E402
from mlx_conv3d.prepared import PreparedWeight, prepare  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "Candidate",
    "Plan",
    "PreparedWeight",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_general",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "get_workspace_limit",
    "patch",
    "patched",
    "plan",
    "prepare",
    "reset_stats",
    "rms_norm",
    "set_workspace_limit",
    "stats",
    "unpatch",
]


def __getattr__(name: str) -> Any:
    if name in ("nn", "distributed"):  # loaded when used: mlx.nn is a large part of what an import takes
        import importlib

        return importlib.import_module(f"mlx_conv3d.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
