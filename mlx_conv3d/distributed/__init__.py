"""Convolutions of arrays that several machines hold in pieces, over `mx.distributed`: see docs/distributed.md."""

from mlx_conv3d.distributed.convolution import conv3d
from mlx_conv3d.distributed.exchange import reset_stats, stats

__all__ = ["conv3d", "reset_stats", "stats"]
