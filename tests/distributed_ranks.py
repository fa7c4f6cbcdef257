"""Run on every rank by test_distributed.py: its cases, against one rank. Results go to DIRECTORY/<rank>.json."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
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
    **options: Any,
) -> dict[str, Any]:
    """The difference to one rank's result, the bytes counted in two ways, and the halo's bytes by formula."""
    at = AXES[axis]
    x, w = data(*x_shape, dtype=dtype), data(*w_shape, seed=1, dtype=dtype)
    extra = {"bias": data(w_shape[0], seed=2, dtype=dtype)} if bias else {}
    frames = data(x_shape[0], lead, *x_shape[2:], seed=3, dtype=dtype) if lead else None
    sizes = sizes or uneven(x_shape[at])
    whole = mlx_conv3d.conv3d(x, w, lead=frames, **extra, **options)
    summand = data(*whole.shape, seed=4, dtype=dtype) if residual else None
    if summand is not None:
        whole = mlx_conv3d.conv3d(x, w, lead=frames, residual=summand, **extra, **options)
    geometry = axis_of(axis, x_shape, w_shape, lead, options)
    owned = [b - a for a, b in zip(geometry.owned(sizes), geometry.owned(sizes)[1:], strict=False)]
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


def axis_of(axis: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], lead: int, options: dict[str, Any]) -> Axis:
    i = AXES[axis] - 1

    def one(name: str, default: int = 0) -> Any:
        value = options.get(name, default)
        return value[i] if isinstance(value, (list, tuple)) else value

    pad = one("padding")
    lo, hi = pad if isinstance(pad, tuple) else (pad, pad)
    mode = options.get("padding_mode", "zeros")
    return Axis(
        x_shape[i + 1], w_shape[i + 1], one("stride", 1), one("dilation", 1), lo, hi,
        mode if isinstance(mode, str) else mode[i], lead if axis == "time" else 0,
    )  # fmt: skip


for _axis in AXES:
    _even = even_sizes({"time": 7, "height": 12, "width": 13}[_axis], RANKS)
    _alone = {"uneven": {}, "even": {"sizes": _even}, "without_overlap": {"overlap": False}, "sizes_given": {"give_sizes": True}}
    _shapes = {
        "bfloat16": {"dtype": mx.bfloat16},
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
