"""The modelled tables of `python -m benchmarks metal`: the command, and that the kept ones are those of the present
model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import metal, report, workloads  # noqa: E402

KEPT = sorted(report.RESULTS.glob("metal-modelled-*.json"))
VIDEO = [name for name in workloads.names() if metal.is_video(name)]


def kept() -> dict[str, list[dict[str, object]]]:
    return json.loads(KEPT[-1].read_text())


def test_command_writes_tables_that_say_modelled(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "metal", "--workload", "ref_mochi_480x848x19"]
    done = subprocess.run(
        [*command, "--device", "m1", "--device", "m5", "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (page,), (data,) = tmp_path.glob("metal-modelled-*.md"), tmp_path.glob("metal-modelled-*.json")
    lines = page.read_text().splitlines()
    assert "modelled" in lines[0] and lines[0] in done.stdout
    heads = [line for line in lines if line.startswith("| workload |")]
    assert len(heads) == 2
    assert all("modelled" in cell for cell in heads[0].split("|")[3:-1])
    assert all("modelled" in heads[1].split("|")[i] for i in (7, 9, 10, 11))
    found = json.loads(data.read_text())
    assert {row["device"] for row in found["layers"]} == {"m1", "m5"}
    assert len(found["layers"]) == 2 * 6 and len(found["workloads"]) == 2


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--device", "m9", "device 'm9' is not known"), ("--workload", "nonesuch", "'nonesuch' is unknown")],
)
def test_unknown_names(option: str, value: str, message: str) -> None:
    command = [sys.executable, "-m", "benchmarks", "metal", "--no-save", option, value]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and message in done.stdout.replace("\n", " ")


@pytest.mark.parametrize("device", metal.WORKLOAD_DEVICES)
def test_kept_workloads_are_those_of_the_present_model(device: str) -> None:
    """If this fails, the model has changed: run `python -m benchmarks metal` and keep what it writes."""
    rows = {row["workload"]: row for row in kept()["workloads"] if row["device"] == device}
    assert list(rows) == workloads.names()
    for name, row in rows.items():
        assert metal.workload_row(name, device).ratio == pytest.approx(row["ratio"], rel=1e-3), name


def test_kept_layers_are_those_of_the_present_model() -> None:
    rows = kept()["layers"]
    assert len(rows) == len(VIDEO) * metal.LARGEST * len(metal.LAYER_DEVICES)
    for name in VIDEO:
        largest = metal.largest(name)
        for layer in (largest[0], largest[-1]):
            (row,) = (
                r
                for r in rows
                if (r["workload"], r["layer"], r["device"]) == (name, layer.name, "m1")
                and r["calls"] == layer.calls
            )
            now = metal.layer_row(name, layer, "m1")
            for figure in ("ms", "flops", "traffic", "declared", "scratch", "stock_ms", "stock_bytes"):
                assert (getattr(now, figure) or 0) == pytest.approx(row[figure] or 0, rel=1e-3), (
                    layer.name,
                    figure,
                )


@pytest.mark.parametrize("device", metal.LAYER_DEVICES)
def test_programs_of_the_largest_layers(device: str) -> None:
    """Scratch within 256 MiB; fewer FLOPs than stock wherever depth taps are summed in pairs of frames."""
    for row in kept()["layers"]:
        if row["device"] != device or row["ms"] is None:
            continue
        assert row["scratch"] <= 256 << 20
        if row["algorithm"].endswith("x2"):
            assert row["flops"] <= row["stock_flops"], row["layer"]


def test_no_layer_is_planned_slower_than_stock() -> None:
    for device in metal.WORKLOAD_DEVICES:
        for layer in workloads.load_all():
            found = metal.plan(layer, device)
            assert found.cost <= metal.stock_of(found).cost, (device, layer.name)
