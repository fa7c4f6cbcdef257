"""What one run of a subject needs: the options it was started with, its layers, and the report it fills."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from . import sides, workloads
from .harness import Effort, Row, Side, compare
from .report import Report
from .workloads import Layer

AnyLayer = TypeVar("AnyLayer", bound=Layer)
QUICK_GFLOP = 0.3
QUICK_LAYERS = 3
TOO_HEAVY = 3.0
# Results further apart than this (relative L2) are not results of the same convolution.
TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Options:
    """None means the subject's own default."""

    quick: bool = False
    dtypes: tuple[str, ...] | None = None
    gflop: float | None = None
    only: str = ""
    limit: int | None = None
    torch: bool = True
    stock: bool = True
    effort: Effort = field(default_factory=Effort)


@dataclass
class Run:
    options: Options
    report: Report

    @property
    def effort(self) -> Effort:
        return Effort(trials=1, repeats=1) if self.options.quick else self.options.effort

    @property
    def torch(self) -> bool:
        return self.options.torch

    def dtypes(self, *default: str) -> tuple[str, ...]:
        return self.options.dtypes or default

    def gflop(self, default: float) -> float:
        """Direct GFLOP that a layer is cropped to."""
        return self.options.gflop or (min(QUICK_GFLOP, default) if self.options.quick else default)

    def layers(
        self,
        gflop: float,
        select: Callable[[Layer], bool],
        extra: Iterable[Layer] = (),
        *,
        limit: int | None = None,
        at_most: bool = False,
    ) -> list[Layer]:
        """The distinct workload layers (and `extra` ones) that `select` takes, cropped to gflop, without
        those that stay much heavier even so; then those whose name, kind or workload contains options.only;
        then `limit` of them at even distances. With `at_most` options.gflop may lower gflop, not raise it."""
        gflop = min(gflop, self.gflop(gflop)) if at_most else self.gflop(gflop)
        known = workloads.distinct([*workloads.load_all(), *extra], gflop)
        return self.chosen([x for x in known if select(x) and x.flops <= TOO_HEAVY * gflop * 1e9], limit)

    def chosen(self, layers: Iterable[AnyLayer], limit: int | None = None) -> list[AnyLayer]:
        """Of the layers those that options.only asks for, `limit` of them at even distances."""
        found = [layer for layer in layers if layer.matches(self.options.only)]
        return evenly(found, self.options.limit or (QUICK_LAYERS if self.options.quick else limit))

    def compare(
        self, layer: Layer, contenders: list[Side], *, effort: Effort | None = None, **options: Any
    ) -> Row:
        """harness.compare with this run's effort, unless another is given, and roofline; the row goes into
        the report, and a side whose result differs from ours into its summary."""
        row = compare(layer, contenders, effort or self.effort, **options)
        self.report.add(row)
        for name, distance in row.differences.items():
            if not distance <= TOLERANCE[layer.dtype]:
                ours = contenders[0].name
                self.report.disagree(f"{row.label} {layer.dtype}: {ours} and {name} differ by {distance:.2g}")
        return row

    def algorithm(self, layer: Layer) -> str:
        return str(sides.plan(layer).algorithm)


def evenly(layers: list[AnyLayer], count: int | None) -> list[AnyLayer]:
    """`count` of the layers, at even distances from the first to the last; all for None."""
    if count is None or count >= len(layers):
        return layers
    if count == 1:
        return layers[:1]
    return [layers[round(i * (len(layers) - 1) / (count - 1))] for i in range(count)]
