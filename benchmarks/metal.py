"""Modelled Programs for Apple GPUs against the model of stock MLX's route. Nothing is measured: plans and Programs
are pure data, and the model is in docs/metal.md."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

import mlx_conv3d

from . import machine, workloads
from .workloads import Layer

TITLE = "Metal, modelled: Programs for Apple GPUs against stock MLX's route (no time here is measured)"
LAYER_DEVICES = ("m3-max", "m1")
WORKLOAD_DEVICES = ("m1", "m1-max", "m3-max", "m4-max")
LARGEST = 6
NOT_VIDEO = ("mflux_qwen_1024", "qwen2vl_patch", "ref_tv_r3d_18", "sam3d", "vista3d_128")
LEGEND = """Everything is modelled by the formulas of docs/metal.md; no GPU was there. Ratios of FLOPs and bytes are
ours over stock's, those of times stock's over ours.

- Scratch: bytes of the Program's scratch buffers; the limit is 256 MiB.
- FLOPs: the sum over the Program's steps, transforms and padding to whole blocks included, over those of stock's
  products alone: 2 * 64 * T * C * O * KD for its Winograd (T tiles of 6x6 over all frames), else those of its
  implicit GEMM, whole blocks and padded channels included.
- Traffic: modelled bytes between memory and the GPU. What goes through scratch does not count where it fits three
  quarters of the system-level cache. This is the figure that the goal of half of stock's bytes is held against.
  Stock's, with b bytes per element: KD * (2b*input + 2*64*T*b*(C + O) + b*output) + 3b*output*(KD - 1) for its
  Winograd; else input, weight and output once and what its depth taps read and add again.
- Declared: the different bytes that each step of the Program reads and writes, summed: as if there were no cache.
- Time: modelled; the plan takes stock where that is faster.
- no Program: Metal has no kernel for the layer, and stock runs it.
- Stock's Winograd needs C and O divisible by 32, C + O >= 256 and 4096 positions. Elsewhere it is an implicit GEMM
  (docs/metal_gemm.md), modelled as if its operands stayed in caches: half of so few bytes is no goal."""


@dataclass(frozen=True)
class LayerRow:
    """One layer on one device; times in ms, sizes in bytes, all modelled. Of the Program: None without one."""

    workload: str
    layer: str
    calls: int
    device: str
    stock: str
    algorithm: str
    taken: bool
    stock_ms: float
    stock_flops: float
    stock_bytes: float
    ms: float | None = None
    flops: float | None = None
    traffic: float | None = None
    declared: float | None = None
    scratch: int | None = None


@dataclass(frozen=True)
class WorkloadRow:
    """All convolutions of a workload: modelled seconds on stock MLX and as planned, by device, and the share of
    stock's time that is left to stock."""

    workload: str
    device: str
    stock_seconds: float
    seconds: float
    left_to_stock: float

    @property
    def ratio(self) -> float:
        return self.stock_seconds / self.seconds


def plan(layer: Layer, device: str, algorithm: str = "auto") -> Any:
    return mlx_conv3d.plan(
        layer.x_shape,
        layer.w_shape,
        dtype=getattr(mx, layer.dtype),
        w_dtype=getattr(mx, layer.w_dtype),
        device=device,
        algorithm=algorithm,
        **layer.arguments(),
    )


def stock_of(found: Any) -> Any:
    return next(c for c in found.candidates if c.algorithm == "stock")


def largest(workload: str, count: int = LARGEST) -> list[Layer]:
    """The layers of a workload with most direct FLOPs in one call."""
    return sorted(workloads.load(workload), key=lambda x: -x.flops)[:count]


def layer_row(workload: str, layer: Layer, device: str) -> LayerRow:
    """The best Program for the layer, whether or not the plan takes it."""
    chosen = plan(layer, device)
    stock = stock_of(chosen)
    legal = [c for c in chosen.candidates if c.legal and c.algorithm != "stock"]
    row = LayerRow(
        workload=workload,
        layer=layer.name,
        calls=layer.calls,
        device=device,
        stock=stock.reason.removeprefix("MLX's own: "),
        algorithm="no Program",
        taken=False,
        stock_ms=stock.cost * 1e3,
        stock_flops=stock.flops,
        stock_bytes=stock.bytes,
    )
    if not legal:
        return row
    best = plan(layer, device, min(legal, key=lambda c: c.cost).algorithm)
    steps = best.program["steps"]
    known: dict[str, Any] = asdict(row) | {
        "algorithm": name_of(best),
        "taken": chosen.algorithm == best.algorithm,
        "ms": best.cost * 1e3,
        "flops": float(sum(step["flops"] for step in steps)),
        "traffic": best.bytes,
        "declared": float(sum(step["nbytes"] for step in steps)),
        "scratch": sum(b["nbytes"] for b in best.program["buffers"] if b["role"] == "scratch"),
    }
    return LayerRow(**known)


def name_of(found: Any) -> str:
    """The algorithm with its tile, as height x width x depth: "winograd 6x6x2" has F(2, 3) along depth."""
    if not found.tile:
        return str(found.algorithm)
    return f"{found.algorithm} {found.tile_height}x{found.tile}x{found.depth_tile}"


def workload_row(workload: str, device: str) -> WorkloadRow:
    stock_seconds = seconds = left = 0.0
    for layer in workloads.load(workload):
        found = plan(layer, device)
        stock = stock_of(found).cost
        stock_seconds += layer.calls * stock
        seconds += layer.calls * found.cost
        left += layer.calls * stock * (found.algorithm == "stock")
    return WorkloadRow(workload, device, stock_seconds, seconds, left / stock_seconds)


def is_video(workload: str) -> bool:
    """Whether it is a video VAE's."""
    return workload not in NOT_VIDEO


def record(names: Sequence[str], devices: Sequence[str], command: str) -> dict[str, Any]:
    """Both tables as plain data. `devices` in place of each table's own, where there are any."""
    layers = [
        asdict(layer_row(name, layer, device))
        for name in names
        if is_video(name)
        for layer in largest(name)
        for device in devices or LAYER_DEVICES
    ]
    totals = [workload_row(name, device) for name in names for device in devices or WORKLOAD_DEVICES]
    return {
        "title": TITLE,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "command": command,
        "versions": machine.versions(),
        "workloads": [asdict(row) | {"ratio": row.ratio} for row in totals],
        "layers": layers,
    }


def _table(head: Sequence[str], left: int, rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table whose first `left` columns are text."""
    rule = ["---" if i < left else "--:" for i in range(len(head))]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def _workload_lines(rows: list[dict[str, Any]]) -> list[str]:
    devices = list(dict.fromkeys(row["device"] for row in rows))
    by_name: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_name.setdefault(row["workload"], {})[row["device"]] = row

    def cells(name: str, found: dict[str, Any]) -> list[str]:
        ratios = [f"{found[device]['ratio']:.2f}" for device in devices]
        left = [f"{found[device]['left_to_stock']:.0%}" for device in devices]
        return [name, "yes" if is_video(name) else "", *ratios, *left]

    head = ["workload", "video VAE", *(f"{d}: modelled times faster" for d in devices)]
    head += [f"{d}: modelled share left to stock" for d in devices]
    return _table(head, 2, [cells(name, found) for name, found in by_name.items()])


LAYER_HEAD = (
    "workload",
    "layer",
    "device",
    "Program (tile)",
    "scratch MiB",
    "FLOPs to stock's",
    "traffic to stock's, modelled",
    "declared bytes to stock's",
    "ms, modelled",
    "stock's ms, modelled",
    "modelled times faster",
    "taken",
    "stock's route",
)


def _layer_cells(row: dict[str, Any]) -> list[str]:
    head = [row["workload"], row["layer"], row["device"], row["algorithm"]]
    if row["ms"] is None:
        return [*head, "", "", "", "", "", f"{row['stock_ms']:.4g}", "", "stock", row["stock"]]
    ratios = [row["flops"] / row["stock_flops"], row["traffic"] / row["stock_bytes"]]
    ratios.append(row["declared"] / row["stock_bytes"])
    times = [f"{row['ms']:.4g}", f"{row['stock_ms']:.4g}", f"{row['stock_ms'] / row['ms']:.2f}"]
    scratch = f"{row['scratch'] / 2**20:.0f}"
    taken = "Program" if row["taken"] else "stock"
    return [*head, scratch, *(f"{r:.2f}" for r in ratios), *times, taken, row["stock"]]


def _summary(layers: list[dict[str, Any]]) -> list[str]:
    """How many of the layers with a Program hold which goal, by device and stock's route."""
    lines = []
    for device in dict.fromkeys(row["device"] for row in layers):
        for route in dict.fromkeys(row["stock"] for row in layers):
            rows = [
                r for r in layers if r["device"] == device and r["stock"] == route and r["ms"] is not None
            ]
            if not rows:
                continue
            scratch = sum(r["scratch"] <= 256 << 20 for r in rows)
            flops = sum(r["flops"] <= r["stock_flops"] for r in rows)
            traffic = sum(r["traffic"] <= r["stock_bytes"] / 2 for r in rows)
            declared = sum(r["declared"] <= r["stock_bytes"] / 2 for r in rows)
            lines.append(
                f"- {device}, where stock takes {route}, of {len(rows)} rows: scratch within 256 MiB {scratch}, "
                f"FLOPs at most stock's {flops}, modelled traffic at most half {traffic}, declared bytes at most "
                f"half {declared}"
            )
    return lines


def markdown(found: dict[str, Any]) -> str:
    """The record as a page."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return "\n".join(
        [
            f"# {found['title']}",
            "",
            f"- Date: {found['date']}; command: `{found['command']}`",
            f"- Versions: {versions}",
            "",
            "## Workloads, modelled",
            "",
            *_workload_lines(found["workloads"]),
            "",
            f"## The {LARGEST} largest layers (direct FLOPs of a call) of each video VAE, modelled",
            "",
            *_summary(found["layers"]),
            "",
            *_table(LAYER_HEAD, 4, [_layer_cells(row) for row in found["layers"]]),
            "",
            LEGEND,
            "",
        ]
    )


def write(found: dict[str, Any], directory: Path) -> list[Path]:
    """Writes the page and its figures, replacing those of the same day, and returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / f"metal-modelled-{found['date']}"
    paths = [stem.with_suffix(".json"), stem.with_suffix(".md")]
    paths[0].write_text(json.dumps(found, indent=1) + "\n")
    paths[1].write_text(markdown(found))
    return paths
