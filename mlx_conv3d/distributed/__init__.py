"""Convolutions of arrays that several machines hold in pieces, over `mx.distributed`: see docs/distributed.md."""

from mlx_conv3d.distributed.convolution import conv3d
from mlx_conv3d.distributed.exchange import reset_stats, stats
from mlx_conv3d.distributed.norm import group_norm
from mlx_conv3d.distributed.patching import gathered, patched
from mlx_conv3d.distributed.pieces import gather, shard

__all__ = ["conv3d", "gather", "gathered", "group_norm", "patched", "reset_stats", "shard", "stats"]
