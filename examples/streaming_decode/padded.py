"""The causal layer as reference implementations write it: cached frames in front, padding around, both by copies."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

import mlx_conv3d
from mlx_conv3d.nn import CausalConv3d


class Cache(NamedTuple):
    frames: mx.array | None


class PaddedConv3d(CausalConv3d):
    """CausalConv3d's parameters and results for stride 1, by concatenation and padding and `mlx_conv3d.conv3d`.

    The weight's transforms are kept between calls as CausalConv3d keeps them, if `keep_transforms` is true.
    """

    def __call__(self, x: mx.array, *, residual: mx.array | None = None) -> mx.array:
        return self.step(x, residual=residual)[0]

    def step(
        self, chunk: mx.array, state: Cache | None = None, *, residual: mx.array | None = None
    ) -> tuple[mx.array, Cache]:
        held = None if state is None else state.frames
        x = chunk if held is None else mx.concatenate([held, chunk], axis=1)
        last = x[:, max(0, x.shape[1] - self.reach) :] if self.reach else None
        front = self.reach - (0 if held is None else held.shape[1])
        x = repeated(x, self.upsample)
        if front or any(map(any, self.padding)):
            x = mx.pad(x, [(0, 0), (front, 0), *self.padding, (0, 0)])
        y = mlx_conv3d.conv3d(x, self._weight(), self.stride) + self.bias
        y = y if residual is None else y + residual
        return y, Cache(None if last is None else mx.contiguous(last))


def repeated(x: mx.array, scale: Any) -> mx.array:
    """Nearest-neighbour upsampling of height and width."""
    rows, columns = scale
    if rows == columns == 1:
        return x
    n, d, h, w, c = x.shape
    wide = mx.broadcast_to(x[:, :, :, None, :, None], (n, d, h, rows, w, columns, c))
    return wide.reshape(n, d, h * rows, w * columns, c)
