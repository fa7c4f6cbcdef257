"""Forward plus both gradients (dL/dx, dL/dw) against PyTorch, and on small crops against stock MLX."""

from __future__ import annotations

from . import sides
from .harness import Row, Side
from .report import ratio_summary
from .run import Run
from .workloads import Layer

TITLE = "Forward, dL/dx and dL/dw"
GFLOP = 5.0
STOCK_GFLOP = 0.2
LAYERS = 24
STOCK_LAYERS = 4
KINDS = ("3x3x3", "strided 3x3x3", "1x3x3", "3x1x1", "1x1x1", "stem", "thin input 3x3x3", "thin output 3x3x3")


def is_trained(layer: Layer) -> bool:
    return layer.kind in KINDS


def measure(run: Run) -> None:
    for dtype in run.dtypes("float32"):
        if run.torch:
            layers = run.layers(GFLOP, is_trained, limit=LAYERS)
            layers += _batches(run, layers)
            rows = [_row(run, layer.with_dtype(dtype), sides.TORCH_NAMES) for layer in layers]
            what = f"{sides.OURS} over PyTorch (better memory format), forward and gradients, {dtype}"
            run.report.say(ratio_summary(rows, what, sides.TORCH_NAMES, sides.OURS))
        if run.options.stock:
            layers = run.layers(STOCK_GFLOP, is_trained, limit=STOCK_LAYERS, at_most=True)
            rows = [_row(run, layer.with_dtype(dtype), [sides.STOCK]) for layer in layers]
            what = f"{sides.OURS} over {sides.STOCK}, forward and gradients, {dtype}, small crops"
            run.report.say(ratio_summary(rows, what, [sides.STOCK], sides.OURS))


def _batches(run: Run, layers: list[Layer]) -> list[Layer]:
    if run.options.quick:
        return []
    return [layer.with_batch(8) for layer in layers if layer.flops < 1e9 * run.gflop(GFLOP) / 4]


def _row(run: Run, layer: Layer, baseline: tuple[str, ...] | list[str]) -> Row:
    data = sides.Data(layer, gradient=True)
    contenders: list[Side] = [sides.our_gradients(data)]
    contenders += [sides.stock_gradients(data)] if sides.STOCK in baseline else sides.torch_gradients(data)
    return run.compare(
        layer,
        contenders,
        algorithm=run.algorithm(layer),
        baselines=[baseline],
        flops=3 * layer.flops,
        nbytes=3 * layer.bytes,
    )
