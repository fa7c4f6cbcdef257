"""Layers: `mlx.nn.Conv3d` and `mlx.nn.ConvTranspose3d` on this library, a causal convolution that streams, and RMS norm
with an activation.

They are `mlx.nn.Module`s like any other; see docs/nn.md.
"""

from mlx_conv3d.nn.causal import CausalConv1d, CausalConv3d
from mlx_conv3d.nn.conversion import convert_weights
from mlx_conv3d.nn.layers import Conv3d, ConvTranspose3d
from mlx_conv3d.nn.norm import RMSNorm
from mlx_conv3d.nn.steps import StreamState

__all__ = [
    "CausalConv1d",
    "CausalConv3d",
    "Conv3d",
    "ConvTranspose3d",
    "RMSNorm",
    "StreamState",
    "convert_weights",
]
