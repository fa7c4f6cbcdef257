"""All other layers against PyTorch: 1x1x1, 3x1x1, 1x3x3, strided, patchify, stems, thin inputs and outputs,
2-D, grouped."""

from __future__ import annotations

from . import sides
from .harness import Row
from .report import ratio_summary
from .run import Run
from .vae import is_vae
from .workloads import Layer

TITLE = "Layers other than 3x3x3 stride-1"
GFLOP = 20.0


def _synthetic(x: tuple[int, ...], w: tuple[int, ...], padding: int, dilation: int = 1) -> Layer:
    groups = x[-1] // w[-1]
    return Layer(
        x, w, (1,) * 3, (padding,) * 3, (dilation,) * 3, groups=groups, calls=0, workloads=("synthetic",)
    )


# No workload has these; their sizes follow depthwise and grouped video classifiers, and a dilated CT network.
SYNTHETIC = (
    _synthetic((1, 16, 56, 56, 64), (64, 3, 3, 3, 1), 1),
    _synthetic((1, 8, 28, 28, 256), (256, 3, 3, 3, 1), 1),
    _synthetic((8, 8, 14, 14, 432), (432, 3, 3, 3, 1), 1),
    _synthetic((1, 8, 28, 28, 256), (256, 3, 3, 3, 8), 1),
    _synthetic((1, 8, 28, 28, 256), (256, 3, 3, 3, 64), 1),
    _synthetic((1, 32, 32, 32, 64), (64, 3, 3, 3, 64), 2, dilation=2),
    _synthetic((1, 32, 32, 32, 32), (32, 5, 5, 5, 32), 2),
)


def is_other(layer: Layer) -> bool:
    return not is_vae(layer) or layer.workloads == ("synthetic",)


def measure(run: Run) -> None:
    layers = run.layers(GFLOP, is_other, SYNTHETIC)
    for dtype in run.dtypes("float32", "bfloat16"):
        rows = [_row(run, layer.with_dtype(dtype)) for layer in layers]
        if run.torch:
            _summarise(run, rows, dtype)


def _row(run: Run, layer: Layer) -> Row:
    data = sides.Data(layer)
    algorithm = run.algorithm(layer)
    contenders = sides.both(data, algorithm) + (sides.torch(data) if run.torch else [])
    return run.compare(layer, contenders, algorithm=algorithm, baselines=[sides.TORCH_NAMES])


def _summarise(run: Run, rows: list[Row], dtype: str) -> None:
    for kind in dict.fromkeys(row.layer.kind for row in rows):
        chosen = [row for row in rows if row.layer.kind == kind]
        what = f"{sides.OURS} over PyTorch, {dtype}, {kind}"
        run.report.say(ratio_summary(chosen, what, sides.TORCH_NAMES, sides.OURS))
    plain = [row for row in rows if row.layer.groups == 1]
    what = f"{sides.OURS} over PyTorch, {dtype}, all without groups"
    run.report.say(ratio_summary(plain, what, sides.TORCH_NAMES, sides.OURS))
