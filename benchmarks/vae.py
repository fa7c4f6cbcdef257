"""3x3x3 stride-1 layers of the workloads against PyTorch (the better of its memory formats) and stock
MLX."""

from __future__ import annotations

from dataclasses import replace

from . import sides, workloads
from .harness import Row
from .report import ratio_summary
from .run import Run
from .workloads import Layer

TITLE = "3x3x3 stride-1 layers of video VAEs and CT networks"
GFLOP = 40.0
SMALL_GFLOP = 1.0
STOCK_GFLOP = 4.0
STOCK_LAYERS = 16


def is_vae(layer: Layer) -> bool:
    return layer.kind == "3x3x3"


def measure(run: Run) -> None:
    layers = run.layers(GFLOP, is_vae)
    for dtype in run.dtypes("float32", "bfloat16"):
        rows = [against_torch(run, layer.with_dtype(dtype)) for layer in layers]
        extra = [] if run.options.quick else variants(layers)
        others = [against_torch(run, layer.with_dtype(dtype), label) for label, layer in extra]
        _summarise(run, rows, f"{dtype}, batch 1")
        _summarise(run, others, f"{dtype}, batch 8 and small sizes")
        if run.options.stock:
            against_stock(run, dtype)


def variants(layers: list[Layer]) -> list[tuple[str, Layer]]:
    """What the workloads (batch 1, large) do not have: a batch of 8 of the layers with square weights, and
    small sizes."""
    square = [layer for layer in layers if layer.x_shape[-1] == layer.w_shape[0] <= 512]
    by_channels = {layer.x_shape[-1]: replace(layer, calls=0) for layer in square}
    found = []
    for layer in by_channels.values():
        batch = workloads.crop(layer, GFLOP / 8).with_batch(8)
        small = workloads.crop(layer, SMALL_GFLOP)
        found += [(f"batch 8: {batch.name}", batch), (f"small: {small.name}", small)]
    return found


def against_torch(run: Run, layer: Layer, label: str = "") -> Row:
    data = sides.Data(layer)
    algorithm = run.algorithm(layer)
    contenders = sides.both(data, algorithm) + (sides.torch(data) if run.torch else [])
    return run.compare(layer, contenders, label=label, algorithm=algorithm, baselines=[sides.TORCH_NAMES])


def against_stock(run: Run, dtype: str) -> list[Row]:
    """Fewer layers and smaller crops, since stock MLX needs up to a second per GFLOP."""
    rows = []
    for layer in run.layers(STOCK_GFLOP, is_vae, limit=STOCK_LAYERS, at_most=True):
        layer = layer.with_dtype(dtype)
        data = sides.Data(layer)
        algorithm = run.algorithm(layer)
        contenders = [*sides.both(data, algorithm), sides.stock(data)]
        rows.append(run.compare(layer, contenders, algorithm=algorithm, baselines=[[sides.STOCK]]))
    for side in (sides.OURS, sides.PREPARED):
        what = f"{side} over {sides.STOCK}, {dtype}, small crops"
        run.report.say(ratio_summary(rows, what, [sides.STOCK], side))
    return rows


def _summarise(run: Run, rows: list[Row], what: str) -> None:
    if run.torch and rows:
        for side in (sides.OURS, sides.PREPARED):
            text = f"{side} over PyTorch (the better of its memory formats), {what}"
            run.report.say(ratio_summary(rows, text, sides.TORCH_NAMES, side))
