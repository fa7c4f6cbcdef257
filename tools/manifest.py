"""Writes docs/manifest.json and docs/manifest.md: every algorithm and kernel, what it takes and where it is tested.

python tools/manifest.py [--check]      --check: writes nothing, fails if the files are not what would be written.

Everything is asked of the installed extension: which problems a planner takes, and why it refuses others, by planning
PROBES; the kernels by the tables that they are compiled from.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from embed_kernels import flatten
from metal_sources import kernel_names

from mlx_conv3d import _arguments, _ext, plan
from mlx_conv3d.doctor.faults import FAMILIES
from mlx_conv3d.planning import DTYPES

ROOT = Path(__file__).resolve().parent.parent
FILES = {"json": ROOT / "docs" / "manifest.json", "md": ROOT / "docs" / "manifest.md"}
GPU = "m3-max"

# Of the direct convolution, with the channels of one group; `item` is the bytes of an element. tests/test_manifest.py
# holds them to what plans count.
FLOPS = "2 * N * oD * oH * oW * O * (C / groups) * KD * KH * KW"
BYTES = "item * (N * D * H * W * C + O * KD * KH * KW * (C / groups) + N * oD * oH * oW * O)"

TESTS = {
    "cpu": "tests/test_parity.py",
    "cpu kernel": "tests/test_grouped.py",
    "metal": "tests/test_metal_parity.py",
}
STATUS = {"cpu": "tested, measured", "metal": "simulated, never run on a Mac"}


@dataclass(frozen=True)
class Probe:
    """A problem of `rank` spatial axes whose kernel, stride and so on are the same along each."""

    rank: int
    kernel: tuple[int, ...]
    groups: int = 1
    channels: int = 8
    stride: int = 1
    dilation: int = 1
    input_dilation: int = 1
    upsample: int = 1
    mode: str = "zeros"
    lead: int = 0

    def plan(self, dtype: mx.Dtype, device: str | None) -> Any:
        x = (1, *(9 for _ in range(self.rank)), self.channels * self.groups)
        w = (8 * self.groups, *self.kernel, self.channels)
        padding = tuple(k // 2 for k in self.kernel) if self.stride == 1 else 0
        return plan(
            x,
            w,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            input_dilation=self.input_dilation,
            groups=self.groups,
            padding_mode=self.mode,
            lead=self.lead,
            upsample=self.upsample,
            dtype=dtype,
            device=device,
        )


def probes() -> Iterable[Probe]:
    for rank in (1, 2, 3):
        for kernel in (
            (1,) * rank,
            (2,) * rank,
            (3,) * rank,
            (3, *(1,) * (rank - 1)),
            (1, *(3,) * (rank - 1)),
        ):
            for groups, channels in ((1, 8), (4, 8), (8, 1)):
                yield Probe(rank, kernel, groups, channels)
            yield Probe(rank, kernel, stride=2)
            yield Probe(rank, kernel, dilation=2)
            yield Probe(rank, kernel, input_dilation=2)
            yield Probe(rank, kernel, stride=2, dilation=2)
            yield Probe(rank, kernel, stride=2, input_dilation=2)
            yield Probe(rank, kernel, dilation=2, input_dilation=2)
            yield Probe(rank, kernel, upsample=2)
            yield Probe(rank, kernel, mode="reflect")
            if rank == 3:
                yield Probe(rank, kernel, lead=1)


def algorithms() -> list[dict[str, Any]]:
    """One entry for each algorithm and backend that takes any probe."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for backend, device in (("cpu", None), ("metal", GPU)):
        for probe in probes():
            for name, dtype in DTYPES.items():
                for candidate in probe.plan(dtype, device).candidates:
                    entry = entries.setdefault(
                        (candidate.algorithm, backend), _entry(candidate.algorithm, backend)
                    )
                    if candidate.legal:
                        entry["ranks"].add(probe.rank)
                        entry["dtypes"].add(name)
                    else:
                        entry["constraints"].add(candidate.reason)
    order = {name: i for i, name in enumerate(_arguments.ALGORITHMS)}
    found = sorted(entries.values(), key=lambda e: (e["backend"], order[e["name"]]))
    return [_sorted(entry) for entry in found if entry["ranks"] and entry["name"] != "stock"]


def _entry(name: str, backend: str) -> dict[str, Any]:
    return {
        "name": name,
        "backend": backend,
        "ranks": set(),
        "dtypes": set(),
        "constraints": set(),
        "flops": FLOPS,
        "bytes": BYTES,
        "test": TESTS[backend],
        "status": STATUS[backend],
    }


def _sorted(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: sorted(value) if isinstance(value, set) else value for key, value in entry.items()}


def cpu_kernels() -> list[dict[str, Any]]:
    """The compiled kernels of grouped convolutions, one entry each."""
    kept = ("name", "family", "algorithm", "rank", "group_in", "group_out", "taps", "dtypes", "constraints")
    return [
        {
            **{key: list(k[key]) if isinstance(k[key], tuple) else k[key] for key in kept},
            "backend": "cpu",
            "flops": FLOPS,
            "bytes": BYTES,
            "test": TESTS["cpu kernel"],
            "status": STATUS["cpu"],
        }
        for k in _ext.cpu_kernels()
    ]


def metal_kernels() -> list[dict[str, Any]]:
    """The functions that a device compiles, by family."""
    cases = [
        {
            "family": family,
            "name": name,
            "backend": "metal",
            "test": TESTS["metal"],
            "status": STATUS["metal"],
        }
        for path in (ROOT / "kernels").glob("*.metal")
        for family in FAMILIES
        if path.name.startswith(family)
        for name in kernel_names(flatten(path))
    ]
    return sorted(cases, key=lambda entry: (entry["family"], entry["name"]))


def manifest() -> dict[str, Any]:
    return {"algorithms": algorithms(), "cpu_kernels": cpu_kernels(), "metal_kernels": metal_kernels()}


def markdown(of: dict[str, Any]) -> str:
    lines = [
        "# Every algorithm and kernel",
        "",
        "Written by `python tools/manifest.py` from the code; a test fails where it is stale. The same as data, and",
        "every kernel by itself: [manifest.json](manifest.json). FLOPs are those of the direct convolution, `"
        + FLOPS
        + "`, bytes",
        "the operands' and the result's, `" + BYTES + "`; what a plan executes",
        "and moves instead is in `plan(...)`.",
        "",
        "| algorithm | backend | ranks | types | where it does not apply | tested by | status |",
        "|---|---|---|---|---|---|---|",
    ]
    for e in of["algorithms"]:
        refusals = "; ".join(e["constraints"]) or "everywhere it does"
        lines.append(
            f"| `{e['name']}` | {e['backend']} | {_list(e['ranks'])} | {_list(e['dtypes'])} | {refusals} | {e['test']} "
            f"| {e['status']} |"
        )
    lines += [
        "",
        "Kernels of `grouped` on the CPU, C/groups x O/groups compiled in ([grouped.md](grouped.md)):",
        "",
        "| kernels | rank | taps | C/groups x O/groups | constraints | tested by |",
        "|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[Any, ...], list[str]] = {}
    for k in of["cpu_kernels"]:
        taps = "x".join("any" if t == 0 else str(t) for t in k["taps"])
        key = (k["family"], k["rank"], taps, k["constraints"], k["test"])
        groups.setdefault(key, []).append(f"{k['group_in'] or 'any'}x{k['group_out']}")
    for (family, rank, taps, constraints, test), shapes in groups.items():
        lines.append(f"| {family} | {rank} | {taps} | {_list(shapes)} | {constraints or 'none'} | {test} |")
    lines += ["", "Kernels for Metal, by the family that is checked and switched off together:", ""]
    lines += ["| family | kernels | tested by |", "|---|---|---|"]
    for family in sorted({k["family"] for k in of["metal_kernels"]}):
        names = [k["name"] for k in of["metal_kernels"] if k["family"] == family]
        lines.append(f"| {family} | {len(names)}: {_list(f'`{n}`' for n in names)} | {TESTS['metal']} |")
    return "\n".join(lines) + "\n"


def _list(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values)


def texts() -> dict[str, str]:
    found = manifest()
    return {"json": json.dumps(found, indent=1) + "\n", "md": markdown(found)}


def stale() -> list[Path]:
    return [
        FILES[kind]
        for kind, text in texts().items()
        if not FILES[kind].exists() or FILES[kind].read_text() != text
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        old = stale()
        print(*(f"{path.relative_to(ROOT)} is stale: run python tools/manifest.py" for path in old), sep="\n")
        return len(old) > 0
    for kind, text in texts().items():
        FILES[kind].write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
