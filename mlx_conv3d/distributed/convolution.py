"""Convolution of an array whose ranks hold consecutive pieces of one axis: only the halo travels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from mlx_conv3d import _arguments as arguments
from mlx_conv3d import functional
from mlx_conv3d._arguments import IntOrSequence, Padding, PaddingMode
from mlx_conv3d.distributed import exchange
from mlx_conv3d.distributed.agreement import agree, checksum
from mlx_conv3d.distributed.exchange import Group, Place
from mlx_conv3d.distributed.messages import Messages
from mlx_conv3d.distributed.operands import AXES, Operands, Settings, axis_of, check, is_local
from mlx_conv3d.distributed.ranges import Axis, Halo, Range, halos, interior
from mlx_conv3d.distributed.rows import Rows, join
from mlx_conv3d.planning import promote

# `patched` puts a function of its own in place of functional.run; pieces are convolved by the original.
_convolve = functional.run
_NONE = -1
# Winograd's output tiles of square kernels are 4 wide for float32: borders of whole tiles waste none, and where pieces
# start at whole tiles the tiles are those of one rank, with the same rounding.
TILE = 4


def conv3d(
    x_shard: mx.array,
    w: functional.Weight,
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    *,
    axis: str = "height",
    group: Group = None,
    bias: mx.array | None = None,
    activation: str | None = None,
    residual: mx.array | None = None,
    padding_mode: PaddingMode = "zeros",
    upsample: IntOrSequence = 1,
    lead: mx.array | None = None,
    sizes: Sequence[int] | None = None,
    overlap: bool = True,
    timeout: float | None = None,
    algorithm: str = "auto",
    stream: Any = None,
) -> mx.array:
    """`mlx_conv3d.conv3d` of an array that the ranks of a group hold in consecutive pieces of one axis.

    All ranks call it together, in the same order as their other distributed calls, with the same arguments but for
    the pieces. Neighbours send each other the positions that their outputs need; while these travel, each rank
    convolves the interior of its piece. It evaluates x_shard and returns when the halo is there; the border's
    convolutions are lazy as usual.

    Args:
        x_shard: this rank's piece (N, D, H, W, C). Pieces may differ in size and be empty.
        w, stride, padding, dilation, groups, bias, activation, padding_mode, upsample, algorithm, stream: those of
            `conv3d` for the whole array: padding is at its outer edges.
        axis: "time", "height" or "width", the axis that is in pieces.
        group: as mx.distributed.init() returns, which is the default. Ranks r and r + 1 must be connected.
        residual: this rank's piece of an array of the output's shape.
        lead: frames before x, of its type. Where time is in pieces, rank 0 alone gives them; else each rank its piece.
        sizes: the size of every rank's piece. Given, nothing but halos is sent: the ranks do not compare their
            arguments first, and a rank that is given others, or raises, shows on the rest as an expired limit at best.
        overlap: whether the interior is convolved while the halo travels; otherwise one convolution comes after it.
        timeout: seconds to wait for other ranks; by default MLX_CONV3D_DISTRIBUTED_TIMEOUT, or 120.

    Returns:
        This rank's piece of the output. Output o belongs to the rank that holds position o*stride + t of x, where
        t = (size - 1 - (outputs - 1)*stride) // 2 over the whole axis: a convolution that keeps the axis's size keeps
        the pieces.

    Raises:
        ValueError: as `conv3d`; shapes or arguments that differ between ranks (on all of them); a transformation
            (grad, vmap, compile), since MLX's send and receive have none.
        TypeError: as `conv3d`.
        RuntimeError: a neighbour is gone or does not answer within the limit.

    Source of the method: spatial partitioning with halo exchange (Dryden et al., "Improving strong-scaling of CNN
    training by exploiting finer-grained parallelism", IPDPS 2019).
    """
    parameters = arguments.parameters(
        3,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        activation=activation,
        upsample=upsample,
    )
    settings = Settings(group, sizes, overlap, timeout, algorithm, stream)
    return run(Operands(x_shard, w, bias, residual, lead), parameters, axis_of(axis, 3), settings)


def run(operands: Operands, parameters: arguments.Parameters, axis: int, settings: Settings) -> mx.array:
    """Any convolution with its parameters parsed, its spatial axis number `axis` in pieces."""
    group = exchange.group_of(settings.group)
    what = f"conv{parameters.dims}d over {AXES[axis + 3 - parameters.dims]}"
    place = Place(what, group.rank(), group.size())
    if place.ranks > 1:
        operands, parameters, settings = _upsampled(operands, parameters, axis, settings)
    return _Call(operands, parameters, axis, settings, group, place).run()


def _upsampled(
    operands: Operands, parameters: arguments.Parameters, axis: int, settings: Settings
) -> tuple[Operands, arguments.Parameters, Settings]:
    """The same without upsampling along the axis in pieces, whose positions are repeated beforehand."""
    times = parameters.upsample[axis]
    if times == 1 or not isinstance(operands.x, mx.array) or operands.x.ndim != parameters.dims + 2:
        return operands, parameters, settings
    lead = operands.lead
    operands = replace(
        operands,
        x=mx.repeat(operands.x, times, axis + 1),
        lead=lead if lead is None else mx.repeat(lead, times, axis + 1),
    )
    upsample = list(parameters.upsample)
    upsample[axis] = 1
    sizes = None if settings.sizes is None else [size * times for size in settings.sizes]
    return operands, replace(parameters, upsample=upsample), replace(settings, sizes=sizes)


def run_locally(operands: Operands, parameters: arguments.Parameters, settings: Settings) -> mx.array:
    """The convolution of this rank's arrays as they are."""
    o = operands
    return _convolve(
        o.x, o.w, parameters, bias=o.bias, residual=o.residual, lead=o.lead, algorithm=settings.algorithm,
        stream=settings.stream,
    )  # fmt: skip


def worth_splitting(halo: Halo, inner: Range) -> bool:
    """Whether the interior is convolved while the halo travels: it must be half of the outputs at least."""
    return inner[0] < inner[1] and 2 * (inner[1] - inner[0]) >= halo.outputs[1] - halo.outputs[0]


@dataclass
class _Call:
    """One call on one rank. `axis` counts spatial axes, `array_axis` the array's."""

    operands: Operands
    parameters: arguments.Parameters
    axis: int
    settings: Settings
    group: Group
    place: Place

    def __post_init__(self) -> None:
        self.array_axis = self.axis + 1
        self.in_time = self.parameters.dims == 3 and self.axis == 0
        self.timeout = exchange.timeout_of(self.settings.timeout)
        self.residuals: dict[int, int] = {}
        self.begun: tuple[Range, mx.array] | None = None

    def run(self) -> mx.array:
        o = self.operands
        if self.place.ranks == 1:
            return run_locally(o, self.parameters, self.settings)
        refusal = self._refusal()
        if refusal is None:
            if is_local(o, self.parameters, self.axis):
                return run_locally(o, self.parameters, self.settings)
            # Whatever x waits for, collectives of the caller among it, comes before this call's messages.
            mx.eval([a for a in (o.x, o.lead, o.residual) if a is not None])
            refusal = self._begin()
        sizes, lead = self._agree(refusal)
        whole = self._whole(sum(sizes), lead)
        whole.check(self.place.what)
        ranks = halos(whole, sizes)
        self._check_residuals([h.outputs[1] - h.outputs[0] for h in ranks])
        return self._compute(whole, ranks[self.place.rank])

    # What is asked for, and whether all ranks agree on it.

    def _refusal(self) -> Exception | None:
        """What is wrong with this rank's arguments; raised here at once where the others are not told."""
        try:
            check(self.operands, self.parameters, self.axis, self.settings, self.place)
        except (TypeError, ValueError) as error:
            if self.settings.sizes is not None:
                raise
            return error
        return None

    def _whole(self, size: int, lead: int = 0) -> Axis:
        p, i = self.parameters, self.axis
        return Axis(
            size=size,
            kernel=self.operands.w.shape[self.array_axis],
            stride=p.stride[i],
            dilation=p.dilation[i],
            pad_lo=p.pad_lo[i],
            pad_hi=p.pad_hi[i],
            mode=arguments.PADDING_MODES[p.pad_mode[i]],
            lead=lead,
        )

    def _agree(self, refusal: Exception | None) -> tuple[list[int], int]:
        """The size of every rank's piece, and the number of lead frames where time is in pieces."""
        residual = _NONE
        if refusal is None and self.operands.residual is not None:
            residual = self.operands.residual.shape[self.array_axis]
        if self.settings.sizes is not None:
            self.residuals = {self.place.rank: residual}
            return list(self.settings.sizes), 0
        dims = self.parameters.dims
        x_names = [f"dimension {i} of x" for i in range(dims + 2) if i != self.array_axis]
        names = [
            *x_names,
            *(f"dimension {i} of w" for i in range(dims + 2)),
            "the type of x",
            "the number of lead frames",
        ]
        facts = dict.fromkeys([*names, "another argument"], 0)
        differing = {"size": 0, "lead": 0, "residual": residual}
        if refusal is None:
            o = self.operands
            frames = o.lead_frames
            shape = [size for i, size in enumerate(o.x.shape) if i != self.array_axis]
            values = [
                *shape,
                *o.w.shape,
                checksum(str(o.x.dtype)),
                0 if self.in_time else frames,
                self._checksum(),
            ]
            facts = dict(zip(facts, values, strict=True))
            differing |= {"size": o.x.shape[self.array_axis], "lead": frames if self.in_time else 0}
        given = agree(self.place, facts, differing, self.group, self.timeout, refusal)
        self.residuals = dict(enumerate(given["residual"]))
        return given["size"], given["lead"][0]

    def _checksum(self) -> int:
        o = self.operands
        others = [
            (
                name,
                str(a.dtype),
                [size for i, size in enumerate(a.shape) if name == "bias" or i != self.array_axis],
            )
            for name, a in o.arrays.items()
            if name in ("w", "bias", "residual")
        ]
        return checksum(self.axis, self.parameters, others)

    def _check_residuals(self, outputs: list[int]) -> None:
        for rank, size in self.residuals.items():
            if size not in (_NONE, outputs[rank]):
                raise ValueError(
                    f"{self.place.what}: residual must have the {outputs[rank]} outputs of rank {rank} along the axis, "
                    f"got {size} there"
                )

    # The exchange and the convolutions.

    def _compute(self, whole: Axis, halo: Halo) -> mx.array:
        held = self._own(halo)
        inner = interior(whole, halo, self._multiple())
        if halo.is_empty:
            return self._outputs(whole, halo, held, halo.outputs)
        messages = Messages(halo, held)
        started = exchange.start_swap(messages.swap(self._name()), self.group, self.place)
        middle = None
        if self._is_worth_splitting(halo, inner):
            middle = self._interior(whole, halo, held, inner)
        held = messages.with_received(exchange.finish(started, self.place, self.timeout))
        if middle is None:
            return self._outputs(whole, halo, held, halo.outputs)
        front, back = (halo.outputs[0], inner[0]), (inner[1], halo.outputs[1])
        parts = [self._outputs(whole, halo, held, side) for side in (front, back) if side[0] < side[1]]
        at = 1 if front[0] < front[1] else 0
        return join([*parts[:at], middle, *parts[at:]], self.array_axis)

    def _multiple(self) -> int:
        return 1 if self.in_time else TILE

    def _is_worth_splitting(self, halo: Halo, inner: Range) -> bool:
        return self.settings.overlap and worth_splitting(halo, inner)

    def _begin(self) -> Exception | None:
        """Starts the interior before the ranks have agreed, where it is the same whatever the others hold.

        That is so where the axis keeps its size without a stride. It is computed as if the neighbours had just enough.
        Returns what is wrong with the arguments if that shows here.
        """
        try:
            self._begin_interior()
        except (TypeError, ValueError) as error:
            return error
        return None

    def _begin_interior(self) -> None:
        whole, p = self._whole(0), self.parameters
        reach = whole.dilation * (whole.kernel - 1)
        if (
            self.in_time
            or whole.stride != 1
            or whole.pad_lo + whole.pad_hi != reach
            or p.input_dilation[self.axis] != 1
        ):
            return
        if self.settings.sizes is not None or min(whole.pad_lo, whole.pad_hi) < 0:
            return
        around = [reach + 1] * (self.place.rank > 0), [reach + 1] * (self.place.rank < self.place.ranks - 1)
        sizes = [*around[0], self.operands.x.shape[self.array_axis], *around[1]]
        assumed = replace(whole, size=sum(sizes))
        halo = halos(assumed, sizes)[len(around[0])]
        inner = interior(assumed, halo, self._multiple())
        if self._is_worth_splitting(halo, inner) and self._fits_residual(halo):
            array = self._interior(assumed, halo, self._own(halo), inner)
            self.begun = (inner[0] - halo.outputs[0], inner[1] - halo.outputs[0]), array

    def _fits_residual(self, halo: Halo) -> bool:
        residual = self.operands.residual
        return residual is None or residual.shape[self.array_axis] == halo.outputs[1] - halo.outputs[0]

    def _interior(self, whole: Axis, halo: Halo, held: list[Rows], inner: Range) -> mx.array:
        """The outputs `inner`, being computed."""
        if self.begun is not None and self.begun[0] == (
            inner[0] - halo.outputs[0],
            inner[1] - halo.outputs[0],
        ):
            return self.begun[1]
        array = self._outputs(whole, halo, held, inner)
        mx.async_eval(array)  # type: ignore[no-untyped-call]
        return array

    def _own(self, halo: Halo) -> list[Rows]:
        """This rank's positions of x, and where another axis is in pieces those of the lead frames too."""
        o = self.operands
        if self.in_time:
            arrays = (o.x,) if o.lead is None else (o.lead, o.x)
            return [Rows(self.array_axis, halo.own[0], arrays)]
        return [Rows(self.array_axis, halo.own[0], (a,)) for a in (o.x, o.lead) if a is not None]

    def _name(self) -> str:
        """For example `conv3d over height 1x4x8x8x16 by 16x3x3x3x16`: this rank's piece and the weights."""
        shapes = ["x".join(map(str, shape)) for shape in (self.operands.x.shape, self.operands.w.shape)]
        return f"{self.place.what} {' by '.join(shapes)}"

    def _outputs(self, whole: Axis, halo: Halo, held: list[Rows], outputs: Range) -> mx.array:
        """Some of this rank's outputs, from what is at hand."""
        o, at = self.operands, self.array_axis
        if outputs[0] >= outputs[1]:
            return self._no_outputs()
        needed = whole.needs(outputs)
        padding = whole.local_padding(outputs)
        pad_lo, pad_hi = list(self.parameters.pad_lo), list(self.parameters.pad_hi)
        pad_lo[self.axis], pad_hi[self.axis] = padding
        parameters = replace(self.parameters, pad_lo=pad_lo, pad_hi=pad_hi)
        residual = o.residual
        if residual is not None:
            first = halo.outputs[0]
            residual = Rows(at, 0, (residual,)).take((outputs[0] - first, outputs[1] - first))
        if self.in_time:
            # The frames in front, of another rank or lead, need no copy: they are conv3d's lead frames.
            pieces = held[0].pieces(needed)
            lead, x = (pieces[0], join(pieces[1:], at)) if len(pieces) > 1 else (None, pieces[0])
        else:
            x, lead = held[0].take(needed), held[1].take(needed) if len(held) > 1 else None
        return run_locally(replace(o, x=x, lead=lead, residual=residual), parameters, self.settings)

    def _no_outputs(self) -> mx.array:
        """An empty piece of the output's other sizes and type."""
        o, p = self.operands, self.parameters
        shape = [o.x.shape[0], *(0 for _ in range(p.dims)), o.w.shape[0]]
        for i in range(p.dims):
            if i != self.axis:
                lead = p.upsample[0] * o.lead_frames if i == 0 and p.dims == 3 else 0
                size, kernel = p.upsample[i] * o.x.shape[i + 1], o.w.shape[i + 1]
                shape[i + 1] = Axis(
                    size, kernel, p.stride[i], p.dilation[i], p.pad_lo[i], p.pad_hi[i], lead=lead
                ).outputs
        return mx.zeros(shape, promote(*(a.dtype for a in o.arrays.values())))
