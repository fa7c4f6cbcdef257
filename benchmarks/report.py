"""Prints what a benchmark measured and writes it to results/<subject>-<date>.json and .md."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from . import machine
from .harness import Row, geometric_mean
from .roofline import Roofline

COLUMNS = (
    "layer",
    "kind",
    "dtype",
    "GFLOP",
    "MB",
    "algorithm",
    "side",
    "ms (low to high)",
    "GFLOP/s",
    "GB/s",
    "roofline",
    "ratio",
)
RESULTS = Path(__file__).parent / "results"
LEGEND = (
    "GFLOP/s count the direct convolution's 2*N*oD*oH*oW*O*(C/groups)*KD*KH*KW (and three times that "
    "for forward plus both gradients), whatever algorithm runs; GB/s count each "
    "array once. Roofline: the direct convolution's "
    "least time on this machine's measured peak and copy bandwidth over the time taken, each array "
    "counted once; an algorithm with fewer multiplications, such as Winograd, can exceed 100 %. Times: "
    "median over trials of each trial's median, and the lowest and highest trial. Ratios: the "
    "baseline's time over ours, median over trials, lowest and highest trial in brackets; above 1, ours "
    "is faster."
)


@dataclass
class Report:
    """Rows and summary lines of one run of a subject."""

    subject: str
    title: str
    command: str
    threads: int
    console: Console
    roofline: Roofline | None = None
    rows: list[Row] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)
    load_before: list[float] = field(default_factory=machine.load_average)

    def add(self, row: Row) -> None:
        row.hold_against(self.roofline)
        self.rows.append(row)
        self.console.print(line(row), highlight=False, markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line of the summary, printed and kept."""
        self.summary.append(text)
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def others_cpu_share(self) -> float:
        """The largest share of the machine that others had during a row; 0 where it is not known."""
        return max((row.others_cpu_share or 0.0 for row in self.rows), default=0.0)

    def disagree(self, text: str) -> None:
        """Notes that two sides gave different results: their times compare nothing."""
        self.disagreements.append(text)
        self.say(f"DIFFERENT RESULTS: {text}")

    def finish(self, roofline: Roofline | None) -> None:
        """Holds every row against the better of the roofline before and this one after, and says so if the
        machine was busy with something else."""
        if roofline is not None:
            self.roofline = roofline.best_of(self.roofline)
            self.say(f"Roofline: {self.roofline}")
            if self.roofline.matrix_bf16_gflops and any(row.layer.dtype == "bfloat16" for row in self.rows):
                self.say("bfloat16 shares are of the bf16 matrix unit's peak, which this CPU has")
        for row in self.rows:
            row.hold_against(self.roofline)
        share = self.others_cpu_share()
        if share > machine.BUSY_SHARE:
            self.say(f"Do not quote: other processes took up to {share:.0%} of the CPUs during a row.")

    def record(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "title": self.title,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ"),
            "command": self.command,
            "threads": self.threads,
            "machine": machine.describe(),
            "versions": machine.versions(),
            "roofline": None if self.roofline is None else asdict(self.roofline),
            "load_average": {"before": self.load_before, "after": machine.load_average()},
            "others_cpu_share": self.others_cpu_share(),
            "summary": self.summary,
            "disagreements": self.disagreements,
            "rows": [row.record() for row in self.rows],
        }

    def write(self, directory: Path = RESULTS) -> list[Path]:
        """Writes both files, replacing those of the same day, and returns their paths."""
        directory.mkdir(parents=True, exist_ok=True)
        record = self.record()
        stem = directory / f"{self.subject}-{record['date'][:10]}"
        paths = [stem.with_suffix(".json"), stem.with_suffix(".md")]
        paths[0].write_text(json.dumps(record, indent=1) + "\n")
        paths[1].write_text(markdown(record, self.rows, self.roofline))
        return paths


def line(row: Row) -> str:
    """A row for the terminal."""
    parts = [f"{row.label} {row.layer.dtype}", row.algorithm]
    for name, figures in row.sides.items():
        share = f" {figures['roofline_share']:.0%}" if "roofline_share" in figures else ""
        once = " (one call)" if figures["calls"] == 1 else ""
        parts.append(
            f"{name} {figures['seconds'] * 1e3:.4g} ms {figures['gflops']:.4g} GFLOP/s "
            f"{figures['gbs']:.3g} GB/s{share}{once}"
        )
    parts += [f"{each.median:.2f}x {each.against}" for each in row.ratios]
    if (row.others_cpu_share or 0.0) > machine.BUSY_SHARE:
        parts.append(f"(others had {row.others_cpu_share:.0%} of the CPUs)")
    return " | ".join(part for part in parts if part)


def speedup(row: Row, against: Sequence[str], side: str) -> float | None:
    """How many times longer the fastest of the sides `against` took than `side`; None if either is not in
    the row. For our first side, the row's own ratio, made trial by trial."""
    for each in row.ratios:
        if each.against in against and side == next(iter(row.sides)):
            return each.median
    known = [row.sides[name]["seconds"] for name in against if name in row.sides]
    return min(known) / row.sides[side]["seconds"] if known and side in row.sides else None


def ratio_summary(rows: Sequence[Row], what: str, against: Sequence[str], side: str) -> str:
    """Geometric mean, minimum and maximum of `side`'s speedups over `against`, and its best GFLOP/s."""
    pairs = [(value, row) for row in rows if (value := speedup(row, against, side)) is not None]
    if not pairs:
        return f"{what}: nothing measured"
    values = [value for value, _ in pairs]
    worst = min(pairs, key=lambda pair: pair[0])[1]
    best = max(row.sides[side]["gflops"] for _, row in pairs)
    return (
        f"{what}: geometric mean {geometric_mean(values):.2f}x, minimum {min(values):.2f}x "
        f"({worst.label}), maximum {max(values):.2f}x, our best {best:.0f} GFLOP/s, {len(pairs)} layers"
    )


def markdown(record: dict[str, Any], rows: list[Row], roofline: Roofline | None) -> str:
    """The record as a page."""
    info, load = record["machine"], record["load_average"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    caches = ", ".join(f"{level} {size}" for level, size in info["caches"].items())
    lines = [
        f"# {record['title']}",
        "",
        f"- Date: {record['date']}; command: `{record['command']}`",
        f"- Machine: {info['cpu']}, {info['cpus']} CPUs ({' '.join(info['instruction_sets'])}; {caches}), "
        f"{info['memory_gib']} GiB, {info['system']}; threads: {record['threads']}",
        f"- Versions: Python {info['python']}, {versions}",
        f"- Roofline of the same run: {roofline or 'not measured (no C++ compiler)'}",
        f"- Load average before {load['before']}, after {load['after']}; largest share of the CPUs that "
        f"others had during a row: {record['others_cpu_share']:.0%}",
        "",
        *(f"- **{text}**" for text in record["summary"]),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---|---|--:|--:|---|---|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        lines += _markdown_rows(row)
    return "\n".join([*lines, "", LEGEND, ""])


def _markdown_rows(row: Row) -> list[str]:
    ratios = "; ".join(f"{r.median:.2f} ({r.low:.2f} to {r.high:.2f}) to {r.against}" for r in row.ratios)
    head = [row.label, row.layer.kind, row.layer.dtype, f"{row.flops / 1e9:.3g}", f"{row.bytes / 1e6:.3g}"]
    lines = []
    for index, (name, figures) in enumerate(row.sides.items()):
        first = index == 0
        share = f"{figures['roofline_share']:.0%}" if "roofline_share" in figures else ""
        milliseconds = [f"{figures[key] * 1e3:.4g}" for key in ("seconds", "seconds_low", "seconds_high")]
        spread = "one call" if figures["calls"] == 1 else f"{milliseconds[1]} to {milliseconds[2]}"
        cells = [
            *(head if first else [""] * len(head)),
            row.algorithm if first else "",
            name,
            f"{milliseconds[0]} ({spread})",
            f"{figures['gflops']:.4g}",
            f"{figures['gbs']:.3g}",
            share,
            ratios if first else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
