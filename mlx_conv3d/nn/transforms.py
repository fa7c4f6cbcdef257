"""The transformed weights that a layer keeps between calls."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlx_conv3d import _ext
from mlx_conv3d.functional import Weight
from mlx_conv3d.prepared import PreparedWeight, prepare


class TransformCache:
    """The `PreparedWeight` of one array, for as long as a layer's weight is that array.

    Copies and pickles of a layer start without it.
    """

    def __init__(self) -> None:
        self._prepared: PreparedWeight | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return TransformCache, ()

    def clear(self) -> None:
        self._prepared = None

    def of(self, weight: mx.array) -> Weight:
        """The weight, prepared; while a transformation traces it, as it is."""
        if _ext.is_tracer(weight):
            self.clear()
            return weight
        if self._prepared is None or not _ext.is_same(self._prepared.weight, weight):
            self._prepared = prepare(_ext.snapshot(weight))
        return self._prepared
