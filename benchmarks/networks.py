"""Layers of known networks against PyTorch, a summary for each network: forward, and forward with both gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from . import sides
from .harness import Row
from .report import ratio_summary
from .run import Run
from .workloads import Layer, Shape


def layer_of(
    network: str, x: Shape, w: Shape, padding: int | Shape, stride: int = 1, dilation: int = 1
) -> Layer:
    """Padding, stride and dilation of all axes, or the padding of each."""
    axes = len(x) - 2
    return Layer(
        x,
        w,
        (stride,) * axes,
        (padding,) * axes if isinstance(padding, int) else padding,
        (dilation,) * axes,
        groups=x[-1] // w[-1],
        workloads=(network,),
    )


def measure(
    run: Run, layers: Sequence[Layer], with_gradients: Callable[[Layer], bool] = lambda layer: True
) -> None:
    chosen = run.chosen(layers)
    if run.options.quick:
        chosen = [
            replace(x, x_shape=(1, *(min(n, 16) for n in x.x_shape[1:-1]), x.x_shape[-1])) for x in chosen
        ]
    for dtype in run.dtypes("float32"):
        for gradient in (False, True):
            some = [x for x in chosen if with_gradients(x)] if gradient else chosen
            rows = [_row(run, layer.with_dtype(dtype), gradient) for layer in some]
            if run.torch:
                _summarise(run, rows, f"{'forward and gradients' if gradient else 'forward'}, {dtype}")


def _row(run: Run, layer: Layer, gradient: bool) -> Row:
    data = sides.Data(layer, gradient=gradient)
    algorithm = run.algorithm(layer)
    ours = [sides.our_gradients(data)] if gradient else sides.both(data, algorithm)
    theirs = sides.torch_gradients if gradient else sides.torch
    times = 3 if gradient else 1
    return run.compare(
        layer,
        ours + (theirs(data) if run.torch else []),
        label=f"{layer.workloads[0]}: {layer.name}{', with gradients' if gradient else ''}",
        algorithm=algorithm,
        baselines=[sides.TORCH_NAMES],
        flops=times * layer.flops,
        nbytes=times * layer.bytes,
    )


def _summarise(run: Run, rows: list[Row], what: str) -> None:
    for network in dict.fromkeys(row.layer.workloads[0] for row in rows):
        chosen = [row for row in rows if row.layer.workloads[0] == network]
        text = f"{sides.OURS} over PyTorch, {network}, {what}"
        run.report.say(ratio_summary(chosen, text, sides.TORCH_NAMES, sides.OURS))
