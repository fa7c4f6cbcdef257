"""Run on every rank by test_distributed.py: its cases, against one rank. Results go to DIRECTORY/<rank>.json."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

import mlx_conv3d
from mlx_conv3d import distributed
from mlx_conv3d.distributed.ranges import Axis, even_sizes, starts

AXES = {"time": 1, "height": 2, "width": 3}
CASES: dict[str, Callable[[], Any]] = {}

sent: list[int] = []
_send = mx.distributed.send


def counting_send(x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
    sent.append(x.nbytes)
    return _send(x, *args, **kwargs)


mx.distributed.send = counting_send
group = mx.distributed.init(strict=True, backend="ring")
RANK, RANKS = group.rank(), group.size()


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    CASES[function.__name__] = function
    return function


def data(*shape: int, seed: int = 0, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32)).astype(dtype)


def piece(x: mx.array, sizes: list[int], axis: str) -> mx.array:
    at = starts(sizes)
    return x[(slice(None),) * AXES[axis] + (slice(at[RANK], at[RANK + 1]),)]


def difference(found: mx.array, expected: mx.array) -> float:
    """Relative L2, or infinity for another shape or type."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    if found.size == 0:
        return 0.0
    f, e = (np.asarray(a.astype(mx.float32), dtype=np.float64) for a in (found, expected))
    return float(np.linalg.norm(f - e) / max(np.linalg.norm(e), 1e-30))


def uneven(total: int) -> list[int]:
    """Pieces of rather different sizes."""
    return {2: [total - total // 3, total // 3], 4: [total - 6, 3, 1, 2]}[RANKS]


def against_one_rank(
    axis: str,
    *,
    x_shape: tuple[int, ...] = (1, 7, 12, 13, 8),
    w_shape: tuple[int, ...] = (6, 3, 3, 3, 8),
    sizes: list[int] | None = None,
    lead: int = 0,
    residual: bool = False,
    bias: bool = False,
    dtype: mx.Dtype = mx.float32,
    give_sizes: bool = False,
    overlap: bool = True,
    algorithm: str = "implicit_gemm",
    **options: Any,
) -> dict[str, Any]:
    """The difference to one rank's result, the bytes counted in two ways, and the halo's bytes by formula.

    By default computed by an algorithm whose rounding does not hide a small mistake.
    """
    at = AXES[axis]
    options = {**options, "algorithm": algorithm}
    x, w = data(*x_shape, dtype=dtype), data(*w_shape, seed=1, dtype=dtype)
    extra = {"bias": data(w_shape[0], seed=2, dtype=dtype)} if bias else {}
    frames = data(x_shape[0], lead, *x_shape[2:], seed=3, dtype=dtype) if lead else None
    sizes = sizes or uneven(x_shape[at])
    whole = mlx_conv3d.conv3d(x, w, lead=frames, **extra, **options)
    summand = data(*whole.shape, seed=4, dtype=dtype) if residual else None
    if summand is not None:
        whole = mlx_conv3d.conv3d(x, w, lead=frames, residual=summand, **extra, **options)
    geometry = axis_of(axis, x_shape, w_shape, lead, options)
    repeated = [size * options.get("upsample", (1, 1, 1))[at - 1] for size in sizes]
    owned = [b - a for a, b in zip(geometry.owned(repeated), geometry.owned(repeated)[1:], strict=False)]
    if axis == "time":
        own_lead = frames if RANK == 0 else None
    else:
        own_lead = piece(frames, sizes, axis) if frames is not None else None
    distributed.reset_stats()
    sent.clear()
    found = distributed.conv3d(
        piece(x, sizes, axis), w, axis=axis, lead=own_lead, overlap=overlap,
        residual=None if summand is None else piece(summand, owned, axis),
        sizes=sizes if give_sizes else None, **extra, **options,
    )  # fmt: skip
    mx.eval(found)
    stats = distributed.stats()
    return {
        "difference": difference(found, piece(whole, owned, axis)),
        "sent": sum(sent),
        "stats": stats["halo_bytes"],
        "agreement": stats["agreement_bytes"],
        "row": x.nbytes // x_shape[at] + (0 if axis == "time" or not lead else frames.nbytes // x_shape[at]),
    }


def axis_of(
    axis: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], lead: int, options: dict[str, Any]
) -> Axis:
    i = AXES[axis] - 1

    def one(name: str, default: int = 0) -> Any:
        value = options.get(name, default)
        return value[i] if isinstance(value, (list, tuple)) else value

    pad = one("padding")
    lo, hi = pad if isinstance(pad, tuple) else (pad, pad)
    mode = options.get("padding_mode", "zeros")
    times = one("upsample", 1)
    return Axis(
        times * x_shape[i + 1], w_shape[i + 1], one("stride", 1), one("dilation", 1), lo, hi,
        mode if isinstance(mode, str) else mode[i], times * lead if axis == "time" else 0,
    )  # fmt: skip


for _axis in AXES:
    _even = even_sizes({"time": 7, "height": 12, "width": 13}[_axis], RANKS)
    _alone = {
        "uneven": {},
        "auto": {"algorithm": "auto"},
        "auto_wide": {"algorithm": "auto", "x_shape": (1, 7, 12, 13, 64), "w_shape": (32, 3, 3, 3, 64)},
        "even": {"sizes": _even},
        "without_overlap": {"overlap": False},
        "sizes_given": {"give_sizes": True},
    }
    _shapes = {
        "bfloat16": {"dtype": mx.bfloat16, "algorithm": "auto"},
        "edge": {"padding_mode": "edge"},
        "reflect": {"padding_mode": "reflect", "sizes": [*_even[1:], _even[0]]},
        "stride": {"stride": 2},
        "stride_3": {"stride": 3, "padding": 0},
        "dilation": {"dilation": 2, "padding": 2},
        "asymmetric": {"padding": ((2, 0), (0, 1), (1, 0))},
        "cropped": {"padding": ((-1, 1), (1, -1), (-1, -1))},
        "epilogue": {"bias": True, "residual": True, "activation": "silu"},
        "lead": {"lead": 2, "padding": (0, 1, 1)},
        "lead_with_padding": {"lead": 1, "padding": ((2, 1), 1, 1), "residual": True, "padding_mode": "edge"},
        "groups": {"groups": 2, "w_shape": (6, 3, 3, 3, 4)},
        "wide_kernel": {"w_shape": (4, 5, 5, 5, 8), "padding": 2},
        "batch": {"x_shape": (2, 7, 12, 13, 8)},
        "upsample": {"upsample": (2, 2, 2), "padding": 1, "lead": 1},
        "patches": {"w_shape": (4, 2, 2, 2, 8), "stride": 2, "padding": 0},
    }  # fmt: skip
    for _name, _options in {**_alone, **_shapes}.items():
        CASES[f"{_axis}_{_name}"] = lambda axis=_axis, given=_options: against_one_rank(
            axis, **{"padding": 1, **given}
        )
    _most = {"time": 7, "height": 12, "width": 13}[_axis]
    CASES[f"{_axis}_halo_over_ranks"] = lambda axis=_axis, n=_most: against_one_rank(
        axis, w_shape=(4, 7, 7, 7, 8), padding=3, sizes=[1] * (RANKS - 1) + [n - RANKS + 1]
    )
    CASES[f"{_axis}_empty_pieces"] = lambda axis=_axis, n=_most: against_one_rank(
        axis, padding=1, sizes={2: [0, n], 4: [0, n - 1, 0, 1]}[RANKS]
    )


def refused(function: Callable[[], Any]) -> dict[str, str]:
    """The error that a call must raise on this rank."""
    try:
        mx.eval(function())
    except (ValueError, TypeError) as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    return {"refused": "nothing"}


def conv(
    x: tuple[int, ...] = (1, 2, 4, 4, 8), w: tuple[int, ...] = (4, 3, 3, 3, 8), **options: Any
) -> mx.array:
    return distributed.conv3d(data(*x), data(*w), **{"padding": 1, "axis": "height", **options})


REFUSED: dict[str, Callable[[], mx.array]] = {
    "channels": lambda: conv((1, 2, 4, 4, 8 + 4 * RANK), (4, 3, 3, 3, 8 + 4 * RANK)),
    "width": lambda: conv((1, 2, 4, 4 + RANK // (RANKS - 1), 8)),
    "type": lambda: distributed.conv3d(
        data(1, 2, 4, 4, 8, dtype=mx.float16 if RANK == 1 else mx.float32), data(4, 3, 3, 3, 8), padding=1
    ),
    "weights": lambda: conv(w=(4 + RANK, 3, 3, 3, 8)),
    "stride": lambda: conv(stride=1 + RANK % 2),
    "axis": lambda: conv(axis="height" if RANK else "width"),
    "dimensions_here": lambda: conv((1, 4, 4, 8) if RANK == 1 else (1, 2, 4, 4, 8)),
    "not_an_array": lambda: distributed.conv3d("x" if RANK == 0 else data(1, 2, 4, 4, 8), data(4, 3, 3, 3, 8)),
    "residual": lambda: conv(residual=data(1, 2, 4 + (RANK == 1), 4, 4)),
    "bias": lambda: conv(stride=2, bias=data(4 + RANK)),
    "channels_here": lambda: conv((1, 2, 16, 4, 4) if RANK == 1 else (1, 2, 16, 4, 8)),
    "residual_channels": lambda: conv(stride=2, residual=data(1, 1, 2 - (RANK > 1), 2, 4 + RANK)),
    "lead_on_all": lambda: conv(axis="time", lead=data(1, 2, 4, 4, 8)),
    "lead_type": lambda: conv(lead=data(1, 2, 4, 4, 8, dtype=mx.float16)),
    "another_call": lambda: (
        conv() if RANK else distributed.gather(data(1, 2, 4, 4, 8))
    ),
    "too_short": lambda: conv((1, 2, 1, 4, 8), (4, 3, 9, 3, 8), padding=0),
    "reflect_too_far": lambda: conv((1, 2, 1, 4, 8), padding=(1, RANKS, 1), padding_mode="reflect"),
    "gather_channels": lambda: distributed.gather(data(1, 2, 4, 4, 8 + RANK)),
    "norm_channels": lambda: distributed.group_norm(data(1, 2, 4, 4, 8 + 8 * RANK), 4),
    "norm_groups": lambda: distributed.group_norm(data(1, 2, 4, 4, 8), 3 if RANK else 4),
    "gradient": lambda: mx.grad(lambda x: distributed.conv3d(x, data(4, 3, 3, 3, 8), padding=1).sum())(
        data(1, 2, 4, 4, 8)
    ),
    "compiled": lambda: mx.compile(lambda x: distributed.conv3d(x, data(4, 3, 3, 3, 8), padding=1))(
        data(1, 2, 4, 4, 8)
    ),
}  # fmt: skip
for _name, _function in REFUSED.items():
    CASES[f"refused_{_name}"] = lambda function=_function: refused(function)


@case
def shard_and_gather() -> dict[str, Any]:
    worst, moved = 0.0, []
    for axis in AXES:
        for sizes in (None, uneven(13), [0] * (RANKS - 1) + [13]):
            x = data(2, 13, 13, 13, 3, dtype=mx.bfloat16)
            own = distributed.shard(x, axis, sizes=sizes)
            distributed.reset_stats()
            worst = max(worst, difference(distributed.gather(own, axis), x))
            most = max(sizes or even_sizes(13, RANKS))
            moved.append(distributed.stats()["gather_bytes"] == (RANKS - 1) * most * x.nbytes // 13)
    y = data(2, 9, 7, 3)
    worst = max(worst, difference(distributed.gather(distributed.shard(y, "width"), "width"), y))
    return {"difference": worst, "all": moved}


@case
def group_norm() -> dict[str, Any]:
    """Against float64. Data far from zero lose digits in proportion, and only so: moments are not of squares."""
    worst = 0.0
    for compatible, offset in ((True, 0), (False, 0), (True, 50)):
        x = data(2, 3, 9, 4, 12) + offset
        layer = nn.GroupNorm(4, 12, pytorch_compatible=compatible)
        layer.weight, layer.bias = data(12, seed=1), data(12, seed=2)
        expected = mx.array(normalised(layer, x))
        for sizes in (uneven(9), [0] * (RANKS - 1) + [9]):
            with distributed.patched("height"):
                found = layer(distributed.shard(x, sizes=sizes))
            error = difference(found, distributed.shard(expected, sizes=sizes))
            worst = max(worst, error / (1 + offset))
    return {"difference": worst}


def normalised(layer: nn.GroupNorm, x: mx.array) -> np.ndarray:
    a, c = np.asarray(x, dtype=np.float64), x.shape[-1]
    between = tuple(range(1, a.ndim - 1))
    groups = a.reshape(*a.shape[:-1], *((4, c // 4) if layer.pytorch_compatible else (c // 4, 4)))
    over = (*between, a.ndim if layer.pytorch_compatible else a.ndim - 1)
    y = (groups - groups.mean(axis=over, keepdims=True)) / np.sqrt(
        groups.var(axis=over, keepdims=True) + layer.eps
    )
    return (y.reshape(a.shape) * np.asarray(layer.weight) + np.asarray(layer.bias)).astype(np.float32)


def model_layers() -> dict[str, Callable[[mx.array], mx.array]]:
    """Layers as video models have them, for (1, 4, 16, 16, 8)."""
    mx.random.seed(3)
    same, strided = nn.Conv3d(8, 8, 3, padding=1), nn.Conv3d(8, 8, 3, stride=(1, 2, 2), padding=1)
    flat, spread = nn.Conv2d(8, 8, 3, padding=1), nn.ConvTranspose3d(8, 8, 2, stride=2)
    flat_spread = nn.ConvTranspose2d(8, 8, 2, stride=2)
    unpadded, norm = nn.Conv3d(8, 8, 3), nn.RMSNorm(8)
    frames = data(1, 2, 16, 16, 8, seed=5)

    def folded(x: mx.array) -> mx.array:
        n, d, h, w, c = x.shape
        y = flat_spread(flat(x.reshape(n * d, h, w, c)))
        return y.reshape(n, d, *y.shape[1:])

    def padded(x: mx.array) -> mx.array:
        return unpadded(mx.pad(x, [(0, 0), (2, 0), (1, 1), (1, 1), (0, 0)]))

    def ours(x: mx.array) -> mx.array:
        at = lead_axis
        lead = distributed.shard(frames, at) if x.shape[AXES[at]] < 16 else frames
        return mlx_conv3d.conv3d(x, same.weight, padding=(0, 1, 1), lead=lead, activation="silu")

    return {
        "block": lambda x: x + same(nn.silu(norm(x))),
        "up": lambda x: same(nn.Upsample((1, 2, 2))(strided(x))),
        "folded": folded,
        "spread": spread,
        "padded": padded,
        "ours": ours,
    }


lead_axis = "height"


@case
def patched_layers() -> dict[str, Any]:
    global lead_axis
    worst: dict[str, float] = {}
    x = data(1, 4, 16, 16, 8)
    for axis in ("height", "width"):
        lead_axis = axis
        for name, layer in model_layers().items():
            whole = layer(x)
            mx.eval(whole)
            with distributed.patched(
                axis, pad_axis={"height": -3, "width": -2}[axis] if name == "padded" else None
            ):
                own = layer(distributed.shard(x, axis))
            found = distributed.gather(own, axis)
            worst[f"{axis} {name}"] = difference(found, whole)
    return {"difference": max(worst.values()), "all": [v < 1e-6 for v in worst.values()], "each": worst}


@case
def patched_over_time() -> dict[str, Any]:
    """Frames in pieces: causal padding, frames folded into the batch, norm and attention within frames."""
    mx.random.seed(6)
    causal, flat, norm = nn.Conv3d(8, 8, (3, 3, 3)), nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8)

    def model(x: mx.array) -> mx.array:
        x = x + mlx_conv3d.conv3d(x, causal.weight, padding=((2, 0), 1, 1), bias=causal.bias)
        x = norm(x)
        n, d, h, w, c = x.shape
        y = norm(flat(x.reshape(n * d, h, w, c)))
        tokens = y.reshape(n * d, 1, h * w, c)
        return mx.fast.scaled_dot_product_attention(tokens, tokens, tokens, scale=1.0).reshape(x.shape)

    x, sizes = data(1, 8, 4, 5, 8), [8 - 2 * (RANKS - 1), *[2] * (RANKS - 1)]
    whole = model(x)
    mx.eval(whole)
    with distributed.patched("time", attention="local"):
        own = model(distributed.shard(x, "time", sizes=sizes))
        mx.eval(own)
    return {"difference": difference(own, distributed.shard(whole, "time", sizes=sizes))}


@case
def patched_refuses() -> dict[str, Any]:
    own = distributed.shard(data(1, 4, 16, 16, 8))
    attention = lambda x: mx.fast.scaled_dot_product_attention(x, x, x, scale=1.0)  # noqa: E731
    calls = {
        "without padding": lambda: nn.Conv3d(8, 8, 3)(own),
        "attention": lambda: attention(own[:, 0]),
        "InstanceNorm": lambda: nn.InstanceNorm(8)(own),
        "nn.Upsample of mode 'linear'": lambda: nn.Upsample((1, 2, 2), mode="linear")(own),
        "a transposed convolution with a stride": lambda: nn.ConvTranspose3d(8, 8, 3, stride=2)(own),
        "1-D convolution": lambda: nn.Conv1d(8, 8, 3, padding=1)(own[0, 0]),
        "conv2d over height: a transposed": lambda: nn.ConvTranspose2d(8, 8, 3, stride=2)(own[:, 0]),
        "its axis is not known": lambda: nn.ConvTranspose1d(8, 8, 3)(own[0, 0]),
    }
    refusals = {}
    with distributed.patched("height"):
        for text, call in calls.items():
            refusals[text] = text in refused(call)["refused"]
        try:
            with distributed.patched("width"):
                refusals["nested"] = False
        except RuntimeError as error:
            refusals["nested"] = "already inside" in str(error)
    return {"all": list(refusals.values()), "each": refusals}


@case
def gathered_attention() -> dict[str, Any]:
    def attend(x: mx.array) -> mx.array:
        n, d, h, w, c = x.shape
        tokens = nn.Conv3d.__call__(project, x).reshape(n * d, 1, h * w, c)
        return mx.fast.scaled_dot_product_attention(tokens, tokens, tokens, scale=1.0).reshape(x.shape)

    mx.random.seed(4)
    project = nn.Conv3d(8, 8, 3, padding=1)
    x, sizes = data(1, 2, 9, 4, 8), uneven(9)
    whole = attend(x)
    with distributed.patched("height"):
        own = distributed.gathered(attend, "height")(distributed.shard(x, sizes=sizes))
    return {"difference": difference(own, distributed.shard(whole, sizes=sizes))}


@case
def collectives_of_the_caller_stay_in_order() -> dict[str, Any]:
    """all_sum that is still lazy when a convolution is called, and one after it."""
    x, w = data(1, 2, 8, 5, 8), data(8, 3, 3, 3, 8, seed=1)
    scale = mx.distributed.all_sum(mx.ones((100_000,)))[:1]
    own = distributed.shard(x) * scale
    y = distributed.conv3d(own, w, padding=1)
    total = mx.distributed.all_sum(y.sum())
    z = distributed.gather(y * total)
    whole = mlx_conv3d.conv3d(x * RANKS, w, padding=1)
    return {"difference": difference(z, whole * whole.sum())}


@case
def layers_are_counted() -> dict[str, Any]:
    distributed.reset_stats()
    for _ in range(3):
        mx.eval(conv())
    layers = distributed.stats()["layers"]
    neighbours = (RANK > 0) + (RANK < RANKS - 1)
    expected = {
        "conv3d over height 1x2x4x4x8 by 4x3x3x3x8": {
            "calls": 3,
            "halo_bytes": 3 * neighbours * 2 * 4 * 8 * 4,
        }
    }
    return {"all": [layers == expected], "each": layers}


@case
def whole_tiles_round_as_one_rank() -> dict[str, Any]:
    """Pieces of whole Winograd tiles: not a bit differs, if the planner takes one tile size for all parts."""
    rows, w_shape, sizes = 64, (32, 3, 3, 3, 32), even_sizes(64, RANKS)
    parts = (rows, sizes[0], sizes[0] - 4, sizes[0] - 8, 4)
    plans = [mlx_conv3d.plan((1, 3, n, 48, 32), w_shape, padding=1) for n in parts]
    found = against_one_rank("height", x_shape=(1, 3, rows, 48, 32), w_shape=w_shape, sizes=sizes, padding=1)
    exact = len({(plan.algorithm, plan.tile) for plan in plans}) == 1
    return {"all": [found["difference"] <= (0 if exact else 8e-6)], "each": found}


def main(directory: Path) -> None:
    results: dict[str, Any] = {}
    for name, function in CASES.items():
        try:
            results[name] = function()
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    (directory / f"{RANK}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
