"""The planner's choice against every legal algorithm, layer by layer: how far is it from the best?"""

from __future__ import annotations

from . import sides
from .harness import Row, geometric_mean
from .others import SYNTHETIC
from .run import Run
from .workloads import Layer

TITLE = "The chosen algorithm against the best of all legal ones"
USES_TORCH = False
GFLOP = 5.0
NOTABLE = 1.1


def measure(run: Run) -> None:
    layers = run.layers(GFLOP, lambda layer: True, SYNTHETIC)
    for dtype in run.dtypes("float32"):
        rows = [_row(run, layer.with_dtype(dtype)) for layer in layers]
        _summarise(run, rows, dtype)


def _row(run: Run, layer: Layer) -> Row:
    plan = sides.plan(layer)
    legal = {c.algorithm: c.cost for c in plan.candidates if c.legal and c.algorithm != "stock"}
    data = sides.Data(layer)
    contenders = [sides.ours(data, "auto"), *(sides.ours(data, name, algorithm=name) for name in legal)]
    algorithm = str(plan.algorithm)
    return run.compare(layer, contenders, algorithm=algorithm, baselines=[list(legal)], modelled=legal)


def _loss(row: Row) -> float:
    """Time of the choice over that of the best: both forced, so that they differ in nothing else."""
    best = min(figures["seconds"] for name, figures in row.sides.items() if name != "auto")
    return row.sides.get(row.algorithm, row.sides["auto"])["seconds"] / best


def _best(row: Row) -> str:
    return min((name for name in row.sides if name != "auto"), key=lambda name: row.sides[name]["seconds"])


def _summarise(run: Run, rows: list[Row], dtype: str) -> None:
    rows = [row for row in rows if len(row.sides) > 1]
    if not rows:
        return
    losses = [_loss(row) for row in rows]
    run.report.say(
        f"{dtype}: the choice takes {geometric_mean(losses):.3f} times the best algorithm's time (geometric "
        f"mean), at worst {max(losses):.2f} times; over {NOTABLE:.1f} in {sum(x > NOTABLE for x in losses)} "
        f"of {len(rows)} layers"
    )
    for row, loss in zip(rows, losses, strict=True):
        if loss > NOTABLE:
            modelled = {name: f"{seconds * 1e3:.3g} ms" for name, seconds in row.modelled_seconds.items()}
            run.report.say(
                f"{row.label} {dtype}: {row.algorithm} takes {loss:.2f} times as long as {_best(row)}; "
                f"modelled {modelled}"
            )
