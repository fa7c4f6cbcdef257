"""RMS norm with the activation that follows it."""

from __future__ import annotations

import mlx.core as mx
from mlx.nn import Module

from mlx_conv3d import functional
from mlx_conv3d.nn.layers import positive


class RMSNorm(Module):  # type: ignore[misc]
    """`mlx.nn.RMSNorm`, with an activation in the same pass: `mlx_conv3d.rms_norm` of (..., dims).

    Args:
        dims: size of the last axis.
        eps: added to the mean of the squares.
        activation: None, "relu" or "silu".

    Raises:
        ValueError, TypeError: an argument that makes no sense, by its name.
    """

    def __init__(self, dims: int, eps: float = 1e-5, *, activation: str | None = None) -> None:
        super().__init__()
        (dims,) = positive("dims", dims, 1)
        functional.check_norm(eps, activation)
        self.weight = mx.ones((dims,))
        self.eps = eps
        self.activation = activation

    def _extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, activation={self.activation}"

    def __call__(self, x: mx.array) -> mx.array:
        return functional.rms_norm(x, self.weight, self.eps, activation=self.activation)
