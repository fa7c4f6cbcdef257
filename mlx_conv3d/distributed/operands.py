"""The arrays and settings of one sharded convolution, and what a rank can check of them by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_conv3d import _ext
from mlx_conv3d._arguments import Parameters
from mlx_conv3d.distributed.exchange import Group, Place
from mlx_conv3d.functional import Weight
from mlx_conv3d.prepared import PreparedWeight

AXES = ("time", "height", "width")


def axis_of(axis: str, dims: int) -> int:
    """The spatial axis of that name among the last `dims` of frames, rows and columns."""
    if axis not in AXES:
        raise ValueError(f"axis must be one of {', '.join(AXES)}, got {axis!r}")
    at = AXES.index(axis) - (3 - dims)
    if at < 0:
        raise ValueError(f"a {dims}-D convolution has no axis {axis!r}")
    return at


@dataclass(frozen=True)
class Settings:
    """How a call runs, apart from what it computes."""

    group: Group = None
    sizes: Sequence[int] | None = None
    overlap: bool = True
    timeout: float | None = None
    algorithm: str = "auto"
    stream: Any = None


@dataclass(frozen=True)
class Operands:
    """This rank's arrays; the others' as in `convolution.conv3d`."""

    x: mx.array
    w: Weight
    bias: mx.array | None = None
    residual: mx.array | None = None
    lead: mx.array | None = None

    @property
    def lead_frames(self) -> int:
        return 0 if self.lead is None else int(self.lead.shape[1])

    @property
    def arrays(self) -> dict[str, mx.array]:
        weight = self.w.weight if isinstance(self.w, PreparedWeight) else self.w
        named = {
            "x_shard": self.x,
            "w": weight,
            "bias": self.bias,
            "residual": self.residual,
            "lead": self.lead,
        }
        return {name: array for name, array in named.items() if array is not None}


def is_local(operands: Operands, parameters: Parameters, axis: int) -> bool:
    """Whether every output depends on one position of x alone, so that pieces stay what they are.

    Its own position; or in a transposed convolution the one that the kernel spreads without overlap.
    """
    p, kernel = parameters, operands.w.shape[axis + 1]
    padding = kernel - 1 if p.input_dilation[axis] > 1 else 0
    taps_alone = kernel == p.input_dilation[axis] and p.dilation[axis] == 1
    return taps_alone and p.stride[axis] == 1 and p.pad_lo[axis] == p.pad_hi[axis] == padding


def check(operands: Operands, parameters: Parameters, axis: int, settings: Settings, place: Place) -> None:
    """Raises ValueError or TypeError for what is wrong with this rank's arguments alone."""
    dims = parameters.dims
    for name, array in operands.arrays.items():
        if not isinstance(array, mx.array):
            raise TypeError(f"{name} must be an mx.array, got {type(array).__name__}")
        if _ext.is_tracer(array):
            raise ValueError(
                f"{place.what} has no gradient and cannot be vmapped or compiled (MLX's send and receive cannot), "
                f"but {name} is being traced"
            )
        if name != "bias" and array.ndim != dims + 2:
            raise ValueError(f"{name} must have {dims + 2} dimensions, got shape {tuple(array.shape)}")
    if min(parameters.stride[axis], parameters.dilation[axis], operands.w.shape[axis + 1]) < 1:
        raise ValueError("stride, dilation and the kernel's size must be positive")
    if parameters.input_dilation[axis] != 1 and not is_local(operands, parameters, axis):
        raise ValueError(
            f"{place.what}: a transposed convolution with a stride must have a kernel of its size there"
        )
    _check_lead(operands, in_time=dims == 3 and axis == 0, settings=settings, place=place)
    _check_sizes(operands.x.shape[axis + 1], settings.sizes, place)


def _check_lead(operands: Operands, *, in_time: bool, settings: Settings, place: Place) -> None:
    x, lead = operands.x, operands.lead
    if lead is None:
        return
    if in_time and place.rank > 0:
        raise ValueError(f"lead stands before rank 0's frames: rank {place.rank} must give none")
    if in_time and settings.sizes is not None:
        raise ValueError(
            "lead over time needs sizes=None: the other ranks must be told how many frames there are"
        )
    if lead.dtype != x.dtype or any(lead.shape[i] != x.shape[i] for i in (0, 2, 3, 4)):
        raise ValueError(
            f"lead must be (N, frames, H, W, C) like x_shard {tuple(x.shape)} and of its type {x.dtype}, "
            f"got {tuple(lead.shape)} of {lead.dtype}"
        )


def _check_sizes(here: int, sizes: Sequence[int] | None, place: Place) -> None:
    if sizes is None:
        return
    if len(sizes) != place.ranks or any(not isinstance(size, int) or size < 0 for size in sizes):
        raise ValueError(f"sizes must be one int for each of {place.ranks} ranks, got {sizes!r}")
    if sizes[place.rank] != here:
        raise ValueError(f"sizes has {sizes[place.rank]} for rank {place.rank}, but its piece has {here}")
