"""Runs a whole model over pieces: MLX's and this library's convolutions exchange halos inside `with patched(axis)`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_conv3d import _arguments as arguments
from mlx_conv3d import _ext, functional
from mlx_conv3d import patching as stock_patching
from mlx_conv3d.distributed import convolution, exchange, norm, pieces
from mlx_conv3d.distributed.exchange import Group
from mlx_conv3d.distributed.operands import Operands, Settings, axis_of

_lock = threading.Lock()
_active: list[str] = []
_local = threading.local()


@dataclass(frozen=True)
class _Region:
    """What `patched` was called with."""

    axis: str
    group: Group
    pad_axis: int | None
    attention: str
    overlap: bool
    timeout: float | None


@contextmanager
def patched(
    axis: str,
    *,
    group: Group = None,
    pad_axis: int | None = None,
    attention: str = "refuse",
    overlap: bool = True,
    timeout: float | None = None,
) -> Iterator[None]:
    """Inside the block every convolution takes and gives this rank's pieces of `axis`: "time", "height" or "width".

    That holds for mx's convolutions of two and three dimensions, for mlx.nn's layers, which call them, and for
    mlx_conv3d's functions; nn.GroupNorm combines its moments over the ranks. What works on each position alone (RMS
    and layer norm over channels, activations, repeating for an upsampling) stays as it is. Frames folded into the batch
    of a 2-D convolution need no exchange in time.

    What would be wrong without the other ranks' pieces is refused with a ValueError: attention
    (mx.fast.scaled_dot_product_attention), nn.InstanceNorm, nn.Upsample but for "nearest", transposed convolutions
    that overlap along the axis, and convolutions without padding along it, since then the caller has padded each piece.
    See `gathered` for the first, `pad_axis` for the last. With one rank it is `mlx_conv3d.patched()`.

    Args:
        group, overlap, timeout: as `conv3d`'s.
        pad_axis: the axis of arrays, counted from the end, along which the model pads them with mx.pad before its
            convolutions (-3 for the height in (N, D, H, W, C)). mx.pad then pads the outer edges alone, and
            convolutions without padding are taken to follow it. Not for padding made by other means than mx.pad.
        attention: "refuse", or "local" where no attention reaches over positions of other ranks (attention within
            frames where time is in pieces).

    Raises:
        ValueError: no such axis, or a wrong `pad_axis` or `attention`.
        RuntimeError: inside another `patched` block.
    """
    axis_of(axis, 3)
    if pad_axis is not None and pad_axis >= 0:
        raise ValueError(f"pad_axis must count from the end, as -3, got {pad_axis}")
    if attention not in ("refuse", "local"):
        raise ValueError(f"attention must be 'refuse' or 'local', got {attention!r}")
    region = _Region(axis, exchange.group_of(group), pad_axis, attention, overlap, timeout)
    with _lock:
        if _active:
            raise RuntimeError(f"already inside distributed.patched({_active[0]!r})")
        _active.append(axis)
    changed: list[tuple[Any, str, Any]] = []
    try:
        if region.group.size() == 1:
            with stock_patching.patched():
                yield
        else:
            for owner, name, made in _replacements(region):
                before = getattr(owner, name)
                changed.append((owner, name, before))
                setattr(owner, name, _unless_suspended(made, before))
            yield
    finally:
        for owner, name, before in reversed(changed):
            setattr(owner, name, before)
        with _lock:
            _active.clear()


def gathered(
    function: Callable[[mx.array], mx.array], axis: str, *, group: Group = None, timeout: float | None = None
) -> Callable[[mx.array], mx.array]:
    """A function of a piece that gathers the whole, calls `function` on it and gives back this rank's piece.

    For what mixes all positions of the axis, as attention does: `block.attend = gathered(block.attend, "height")`.
    Every rank computes all of it; nothing inside is taken for a piece. The result must have the axis's size.
    """

    def on_piece(x_shard: mx.array) -> mx.array:
        return pieces.on_whole(_suspending(function), x_shard, axis, group, timeout)

    return on_piece


def _suspending(function: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
    def call(x: mx.array) -> mx.array:
        before = getattr(_local, "suspended", False)
        _local.suspended = True
        try:
            return function(x)
        finally:
            _local.suspended = before

    return call


def _unless_suspended(made: Callable[..., Any], before: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(before)
    def either(*args: Any, **kwargs: Any) -> Any:
        return (before if getattr(_local, "suspended", False) else made)(*args, **kwargs)

    return either


def _replacements(region: _Region) -> list[tuple[Any, str, Callable[..., Any]]]:
    """What is replaced where, by what."""
    made: list[tuple[Any, str, Callable[..., Any]]] = [
        (functional, "run", _run(region)),
        (functional, "run_keeping", _run_keeping(region)),
    ]
    made += [(mx, name, _convolution(name, region)) for name in stock_patching.NAMES]
    made += [
        (nn.GroupNorm, "__call__", _group_norm(nn.GroupNorm.__call__, region)),
        (nn.InstanceNorm, "__call__", _refuse("nn.InstanceNorm", region)),
        (nn.Upsample, "__call__", _upsample(nn.Upsample.__call__, region)),
    ]
    if region.attention == "refuse":
        made.append((mx.fast, "scaled_dot_product_attention", _refuse("attention", region)))
    if region.pad_axis is not None:
        made.append((mx, "pad", _pad(mx.pad, region)))
    return made


def _refuse(what: str, region: _Region) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ValueError(
            f"{what} needs the whole {region.axis}, of which this rank has a piece: wrap it in distributed.gathered"
        )

    return refuse


def _upsample(before: Callable[..., Any], region: _Region) -> Callable[..., Any]:
    def upsample(layer: Any, x: mx.array) -> Any:
        if layer.mode != "nearest":
            _refuse(f"nn.Upsample of mode {layer.mode!r}", region)()
        return before(layer, x)

    return upsample


def _group_norm(before: Callable[..., Any], region: _Region) -> Callable[..., Any]:
    def group_norm(layer: Any, x: mx.array) -> Any:
        if region.axis == "time" and x.ndim != 5:
            if x.ndim == 4:  # (frames, H, W, C): each frame has moments of its own
                return before(layer, x)
            raise ValueError(
                f"nn.GroupNorm of shape {tuple(x.shape)} in distributed.patched('time'): where is time?"
            )
        return norm.group_norm(
            x,
            layer.num_groups,
            layer.get("weight"),
            layer.get("bias"),
            eps=layer.eps,
            pytorch_compatible=layer.pytorch_compatible,
            group=region.group,
            timeout=region.timeout,
        )

    return group_norm


def _convolution(name: str, region: _Region) -> Callable[..., Any]:
    run = _run(region)

    def convolve(*args: Any, **kwargs: Any) -> mx.array:
        if name.endswith("1d"):
            _refuse_1d(region)()
        try:
            x, w, parameters, stream = stock_patching.parse(name, args, kwargs)
        except stock_patching.Fallback as reason:
            raise ValueError(f"mx.{name} over pieces: {reason}") from None
        return run(x, w, parameters, stream=stream)

    return convolve


def _refuse_1d(region: _Region) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ValueError(
            f"a 1-D convolution inside distributed.patched({region.axis!r}): its axis is not known"
        )

    return refuse


def _run(region: _Region) -> Callable[..., mx.array]:
    """functional.run over pieces."""

    def run(
        x: mx.array,
        w: functional.Weight,
        parameters: arguments.Parameters,
        *,
        bias: mx.array | None = None,
        residual: mx.array | None = None,
        lead: mx.array | None = None,
        algorithm: str = "auto",
        series: bool = False,
        stream: Any = None,
    ) -> mx.array:
        if series:
            assert isinstance(w, mx.array)
            y = run(
                _as_frames(x),
                _as_frames(w),
                parameters,
                bias=bias,
                residual=None if residual is None else _as_frames(residual),
                lead=None if lead is None else _as_frames(lead),
                algorithm=algorithm,
                stream=stream,
            )
            return mx.squeeze(y, (2, 3))
        settings = Settings(region.group, None, region.overlap, region.timeout, algorithm, stream)
        operands = Operands(x, w, bias, residual, lead)
        if parameters.dims == 2 and region.axis == "time":
            return convolution.run_locally(operands, parameters, settings)
        axis = _axis(parameters, region)
        if lead is None:
            _check_padding(w, parameters, axis, region)
        return convolution.run(operands, parameters, axis, settings)

    return run


def _run_keeping(region: _Region) -> Callable[..., tuple[mx.array, mx.array]]:
    """functional.run_keeping over pieces."""
    run = _run(region)

    def run_keeping(
        x: mx.array,
        w: functional.Weight,
        parameters: arguments.Parameters,
        kept: int,
        *,
        lead: mx.array | None = None,
        **options: Any,
    ) -> tuple[mx.array, mx.array]:
        y = run(x, w, parameters, lead=lead, **options)
        return _ext.with_last_frames(y, lead, x, kept)

    return run_keeping


def _as_frames(series: mx.array) -> mx.array:
    """(N, L, C) as (N, L, 1, 1, C)."""
    return mx.expand_dims(series, (2, 3))


def _axis(parameters: arguments.Parameters, region: _Region) -> int:
    if parameters.dims == 1:
        _refuse_1d(region)()
    return axis_of(region.axis, parameters.dims)


def _check_padding(
    w: functional.Weight, parameters: arguments.Parameters, axis: int, region: _Region
) -> None:
    """Refuses a convolution whose piece the caller must have padded, rather than give wrong results."""
    kernel = w.shape[axis + 1]
    alone = kernel == 1 or parameters.stride[axis] >= kernel
    if alone or region.pad_axis is not None or parameters.pad_lo[axis] or parameters.pad_hi[axis]:
        return
    raise ValueError(
        f"a convolution of kernel {kernel} without padding along {region.axis}: if the model pads before it, each "
        "piece has been padded. Let the convolution pad (padding=, lead=), or see pad_axis of distributed.patched"
    )


def _pad(before: Callable[..., mx.array], region: _Region) -> Callable[..., mx.array]:
    """mx.pad that pads the axis in pieces at its outer edges alone."""
    at, rank, last = region.pad_axis, region.group.rank(), region.group.size() - 1

    def pad(a: mx.array, pad_width: Any, *args: Any, **kwargs: Any) -> mx.array:
        assert at is not None
        if a.ndim not in (4, 5):
            return before(a, pad_width, *args, **kwargs)
        widths = _pad_widths(pad_width, a.ndim)
        lo, hi = widths[at]
        widths[at] = (lo if rank == 0 else 0, hi if rank == last else 0)
        return before(a, widths, *args, **kwargs)

    return pad


def _pad_widths(pad_width: int | Sequence[Any], ndim: int) -> list[tuple[int, int]]:
    """mx.pad's forms as one pair for each axis."""
    if isinstance(pad_width, int):
        return [(pad_width, pad_width)] * ndim
    if all(isinstance(width, int) for width in pad_width):
        return [(pad_width[0], pad_width[-1])] * ndim
    widths = [(width, width) if isinstance(width, int) else (width[0], width[-1]) for width in pad_width]
    return widths * ndim if len(widths) == 1 else widths
