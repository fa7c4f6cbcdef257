"""Times several implementations of the same work in one process, interleaved, and turns the times into
figures."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .machine import CpuWatch
from .roofline import Roofline
from .workloads import Layer

SETTLE_SECONDS = 0.01
SAMPLE_SECONDS = 0.1
MAX_REPEATS = 30


@dataclass(frozen=True)
class Side:
    """One implementation. run() does the whole work and returns only when it is done; `as_numpy` turns its
    result into a float32 array (or a list of them) in MLX's layout, for comparison with the other sides."""

    name: str
    run: Callable[[], Any]
    as_numpy: Callable[[Any], Any] = np.asarray


@dataclass
class Timing:
    """Seconds per call: one list per trial."""

    trials: list[list[float]] = field(default_factory=list)

    @property
    def medians(self) -> list[float]:
        return [statistics.median(trial) for trial in self.trials]

    @property
    def seconds(self) -> float:
        """The median over trials of each trial's median."""
        return statistics.median(self.medians)

    @property
    def calls(self) -> int:
        return sum(len(trial) for trial in self.trials)


@dataclass(frozen=True)
class Ratio:
    """How many times longer the baseline took: the median over trials of the trials' own ratios, and the
    extremes."""

    against: str
    median: float
    low: float
    high: float


def ratio(baseline: str, timings: dict[str, Timing], ours: str) -> Ratio:
    """Of `baseline` to `ours`. The one trial of a side that ran once stands for all of them."""
    top, bottom = timings[baseline].medians, timings[ours].medians
    count = max(len(top), len(bottom))
    each = [top[i % len(top)] / bottom[i % len(bottom)] for i in range(count)]
    return Ratio(baseline, statistics.median(each), min(each), max(each))


@dataclass(frozen=True)
class Effort:
    """How thoroughly to measure: `trials` rounds of at least `repeats` calls. A side that takes longer than
    `heavy` seconds is called once a round, one that takes longer than `slow` seconds once in all."""

    trials: int = 3
    repeats: int = 5
    heavy: float = 0.5
    slow: float = 3.0

    def calls(self, seconds: float) -> int:
        """Timed calls per round of a side that takes this long: more than `repeats` if it is short."""
        if seconds > self.heavy:
            return 1
        if self.repeats == 1:
            return 1
        return max(self.repeats, min(MAX_REPEATS, math.ceil(SAMPLE_SECONDS / seconds)))


@dataclass
class WarmUp:
    """The first call of every side: its seconds, and the relative L2 distance of its result from the first
    side's (the largest, where results are lists of arrays)."""

    seconds: dict[str, float] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)


def warm_up(sides: Sequence[Side]) -> WarmUp:
    done, reference = WarmUp(), None
    for side in sides:
        done.seconds[side.name], result = _timed(side.run)
        arrays = side.as_numpy(result)
        arrays = arrays if isinstance(arrays, list) else [arrays]
        if reference is None:
            reference = arrays
            continue
        pairs = zip(reference, arrays, strict=True)
        done.differences[side.name] = max(_distance(ours, theirs) for ours, theirs in pairs)
    return done


def _distance(ours: Any, theirs: Any) -> float:
    if ours.shape != theirs.shape:
        return math.inf
    return float(np.linalg.norm(ours - theirs) / max(float(np.linalg.norm(theirs)), 1e-30))


def measure(sides: Sequence[Side], effort: Effort, first: dict[str, float]) -> dict[str, Timing]:
    """Runs the rounds. In each, every side in turn (the first one changes) is called once untimed, unless
    it is heavy, and then timed. `first` has the seconds of the sides' first calls, which are the only
    sample of a slow side."""
    timings = {side.name: Timing() for side in sides}
    rounds = [side for side in sides if first[side.name] <= effort.slow]
    for side in sides:
        if side not in rounds:
            timings[side.name].trials.append([first[side.name]])
    for trial in range(effort.trials):
        shift = trial % len(rounds) if rounds else 0
        for side in rounds[shift:] + rounds[:shift]:
            # The side before may have left worker threads spinning; let them go to sleep first.
            time.sleep(SETTLE_SECONDS)
            seconds = first[side.name]
            if seconds <= effort.heavy:
                seconds = min(seconds, _timed(side.run)[0])
            timings[side.name].trials.append([_timed(side.run)[0] for _ in range(effort.calls(seconds))])
    return timings


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


@dataclass
class Row:
    """What a benchmark says about one layer: its figures for every side, and ratios to the baselines."""

    layer: Layer
    label: str
    flops: int
    bytes: int
    algorithm: str
    sides: dict[str, dict[str, float]]
    ratios: list[Ratio]
    differences: dict[str, float]
    others_cpu_share: float | None
    modelled_seconds: dict[str, float]

    def hold_against(self, roofline: Roofline | None) -> None:
        """Gives every side its share of the roofline."""
        if roofline is None:
            return
        least = roofline.seconds(self.flops, self.bytes, self.layer.dtype)
        for figures in self.sides.values():
            figures["roofline_share"] = least / figures["seconds"]

    def record(self) -> dict[str, Any]:
        """The row as plain data for JSON."""
        layer = self.layer
        return {
            "layer": layer.name,
            "label": self.label,
            "kind": layer.kind,
            "x_shape": layer.x_shape,
            "w_shape": layer.w_shape,
            "stride": layer.stride,
            "padding": layer.padding,
            "dilation": layer.dilation,
            "groups": layer.groups,
            "dtype": layer.dtype,
            "calls_in_workloads": layer.calls,
            "workloads": layer.workloads,
            "direct_gflop": self.flops / 1e9,
            "bytes": self.bytes,
            "algorithm": self.algorithm,
            "sides": self.sides,
            "ratios": {r.against: {"median": r.median, "low": r.low, "high": r.high} for r in self.ratios},
            "relative_differences": self.differences,
            "others_cpu_share": self.others_cpu_share,
            "modelled_seconds": self.modelled_seconds,
        }


def compare(
    layer: Layer,
    sides: Sequence[Side],
    effort: Effort,
    *,
    label: str = "",
    algorithm: str = "",
    baselines: Sequence[Sequence[str]] = (),
    flops: int | None = None,
    nbytes: int | None = None,
    modelled: dict[str, float] | None = None,
) -> Row:
    """Measures the sides, the first being ours. `baselines` are groups of side names: the row has one ratio
    for each group, to its fastest member. FLOPs and bytes are the layer's unless given."""
    flops = layer.flops if flops is None else flops
    nbytes = layer.bytes if nbytes is None else nbytes
    first = warm_up(sides)
    with CpuWatch() as watch:
        timings = measure(sides, effort, first.seconds)
    return Row(
        layer=layer,
        label=label or layer.name,
        flops=flops,
        bytes=nbytes,
        algorithm=algorithm,
        sides={name: _figures(timing, flops, nbytes) for name, timing in timings.items()},
        ratios=_ratios(timings, sides[0].name, baselines),
        differences=first.differences,
        others_cpu_share=watch.others_share,
        modelled_seconds=modelled or {},
    )


def _ratios(timings: dict[str, Timing], ours: str, baselines: Sequence[Sequence[str]]) -> list[Ratio]:
    ratios = []
    for group in baselines:
        known = [name for name in group if name in timings]
        if known:
            fastest = min(known, key=lambda name: timings[name].seconds)
            ratios.append(ratio(fastest, timings, ours))
    return ratios


def _figures(timing: Timing, flops: int, nbytes: int) -> dict[str, float]:
    return {
        "seconds": timing.seconds,
        "seconds_low": min(timing.medians),
        "seconds_high": max(timing.medians),
        "calls": timing.calls,
        "gflops": flops / timing.seconds / 1e9,
        "gbs": nbytes / timing.seconds / 1e9,
    }


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))
