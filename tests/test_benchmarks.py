"""The benchmark harness: its loader, its arithmetic and one smoke run. Nothing here depends on how fast
anything is."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import grouped, harness, machine, native, report, roofline, run, workloads  # noqa: E402
from benchmarks.workloads import Layer  # noqa: E402
from mlx_conv3d import _ext  # noqa: E402
from mlx_conv3d.doctor.examination import instruction_sets  # noqa: E402

MODELS = ("ltx2_768x512x121", "mlxgen_wan21_480p81", "ref_hunyuan_544x960x17", "qwen2vl_patch", "vista3d_128")


def layer(
    x: tuple[int, ...], w: tuple[int, ...], stride: int = 1, padding: int = 0, groups: int = 1
) -> Layer:
    axes = len(x) - 2
    return Layer(x, w, (stride,) * axes, (padding,) * axes, (1,) * axes, groups)


def stock(of: Layer) -> mx.array:
    function = mx.conv3d if of.ndim == 3 else mx.conv2d
    return function(mx.zeros(of.x_shape), mx.zeros(of.w_shape), **of.arguments())


def test_every_call_list_loads_and_states_the_shapes_that_its_arguments_give() -> None:
    assert set(MODELS) <= set(workloads.names())
    for name in workloads.names():
        calls = json.loads((workloads.DIRECTORY / f"{name}.json").read_text())
        layers = workloads.load(name)
        assert [x.calls for x in layers] == [call["n"] for call in calls]
        assert [x.out_shape for x in layers] == [tuple(call["out"]) for call in calls]


def test_call_lists_cover_every_kind_that_the_subjects_ask_for() -> None:
    kinds = {x.kind for x in workloads.load_all()}
    assert {"3x3x3", "1x1x1", "3x1x1", "1x3x3", "3x3", "patchify", "stem"} <= kinds
    assert {"thin input 3x3x3", "thin output 3x3x3", "strided 3x3x3", "strided 1x3x3"} <= kinds


def test_unknown_workload_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'nonesuch' is unknown; known: .*qwen2vl_patch"):
        workloads.load("nonesuch")


@pytest.mark.parametrize(
    "of",
    [
        layer((1, 6, 9, 10, 4), (5, 3, 3, 3, 4), padding=1),
        layer((2, 6, 9, 10, 4), (6, 3, 3, 3, 4), stride=2),
        layer((2, 8, 9, 6), (4, 3, 3, 6), padding=1),
    ],
)
def test_output_shape_and_flops_against_a_count_by_hand(of: Layer) -> None:
    y = stock(of)
    assert of.out_shape == y.shape
    taps = math.prod(of.kernel) * of.x_shape[-1]
    assert of.flops == 2 * y.size * taps
    assert of.bytes == 4 * (math.prod(of.x_shape) + math.prod(of.w_shape) + y.size)


def test_grouped_flops_count_the_channels_of_a_group() -> None:
    dense, grouped = (
        layer((1, 4, 8, 8, 32), (32, 3, 3, 3, 32)),
        layer((1, 4, 8, 8, 32), (32, 3, 3, 3, 4), groups=8),
    )
    assert grouped.flops * 8 == dense.flops
    assert grouped.kind == "grouped 3x3x3"


def test_bytes_follow_the_dtypes() -> None:
    single = layer((1, 4, 8, 8, 32), (32, 1, 1, 1, 32))
    assert single.with_dtype("bfloat16").bytes * 2 == single.bytes


@pytest.mark.parametrize("gflop", [0.1, 2.0, 40.0])
def test_crop_keeps_everything_but_the_size(gflop: float) -> None:
    for full in workloads.load_all():
        small = workloads.crop(full, gflop)
        assert small.kind == full.kind
        assert (small.w_shape, small.stride, small.padding) == (full.w_shape, full.stride, full.padding)
        assert small.x_shape[-1] == full.x_shape[-1]
        assert all(0 < s <= f for s, f in zip(small.x_shape, full.x_shape, strict=True))
        assert all(0 < s <= f for s, f in zip(small.out_shape, full.out_shape, strict=True))
        if full.flops <= gflop * 1e9 and full.with_dtype("float32").bytes <= workloads.MAX_BYTES:
            assert small == full
        elif small.flops > gflop * 1e9:
            assert small.spatial[0] == 1 or small.ndim == 2
            assert max(small.spatial[-2:]) < 16


def test_crop_of_a_strided_layer_keeps_the_rows_that_the_stride_leaves_over() -> None:
    full = next(x for x in workloads.load("ref_tv_r3d_18") if x.kind == "strided 3x3x3")
    small = full.with_output((2, 5, 6))
    assert small.spatial == (2, 5, 6)
    for axis in range(3):
        assert (full.x_shape[1 + axis] - small.x_shape[1 + axis]) % 2 == 0


def test_distinct_layers_add_up_to_all_calls() -> None:
    layers = workloads.load_all()
    small = workloads.distinct(layers, 5.0)
    assert sum(x.calls for x in small) == sum(x.calls for x in layers)
    assert len(small) < len(layers)
    assert {x.kind for x in small} == {x.kind for x in layers}


def test_evenly_takes_the_first_and_the_last() -> None:
    layers = [layer((1, 1, 1, n, 1), (1, 1, 1, 1, 1)) for n in range(1, 11)]
    assert run.evenly(layers, 3) == [layers[0], layers[4], layers[9]]
    assert run.evenly(layers, 1) == layers[:1]
    assert run.evenly(layers, None) == run.evenly(layers, 20) == layers


def side(name: str, value: float, calls: list[str]) -> harness.Side:
    def run() -> np.ndarray:
        calls.append(name)
        return np.full(3, value, np.float32)

    return harness.Side(name, run)


def test_measure_interleaves_and_changes_who_is_first() -> None:
    calls: list[str] = []
    sides = [side("a", 1, calls), side("b", 1, calls)]
    timings = harness.measure(sides, harness.Effort(trials=2, repeats=1), {"a": 0.0, "b": 0.0})
    assert calls == ["a", "a", "b", "b", "b", "b", "a", "a"]
    assert all(len(timing.trials) == 2 and timing.calls == 2 for timing in timings.values())


def test_a_slow_side_keeps_its_first_call_as_its_only_sample() -> None:
    calls: list[str] = []
    sides = [side("fast", 1, calls), side("slow", 1, calls)]
    timings = harness.measure(sides, harness.Effort(trials=3, repeats=2), {"fast": 1.0, "slow": 9.0})
    assert "slow" not in calls and timings["slow"].trials == [[9.0]]
    assert timings["fast"].calls == 3


def test_ratio_is_made_trial_by_trial() -> None:
    timings = {
        "ours": harness.Timing([[1.0], [2.0], [4.0]]),
        "theirs": harness.Timing([[2.0, 2.0], [8.0, 8.0], [12.0, 12.0]]),
        "once": harness.Timing([[8.0]]),
    }
    assert harness.ratio("theirs", timings, "ours") == harness.Ratio("theirs", 3.0, 2.0, 4.0)
    assert harness.ratio("once", timings, "ours") == harness.Ratio("once", 4.0, 2.0, 8.0)


def test_row_compares_with_the_fastest_of_a_group_and_tells_differences(tmp_path: Path) -> None:
    calls: list[str] = []
    of = layer((1, 2, 4, 4, 16), (16, 1, 1, 1, 16))
    sides = [side("ours", 1.0, calls), side("same", 1.0, calls), side("other", 2.0, calls)]
    row = harness.compare(
        of, sides, harness.Effort(trials=1, repeats=1), baselines=[["same", "other"], ["absent"]]
    )
    assert [each.against in ("same", "other") for each in row.ratios] == [True]
    assert row.differences["same"] == 0 and row.differences["other"] == pytest.approx(0.5)
    row.hold_against(roofline.Roofline(100.0, 0.0, 10.0, 1))
    least = max(of.flops / 100e9, of.bytes / 10e9)
    assert row.sides["ours"]["roofline_share"] == pytest.approx(least / row.sides["ours"]["seconds"])
    assert row.record()["direct_gflop"] == of.flops / 1e9
    assert json.loads(json.dumps(row.record()))["layer"] == of.name


def test_report_writes_a_page_and_data_that_name_machine_and_versions(tmp_path: Path) -> None:
    from rich.console import Console

    made = report.Report("subject", "A title", "python -m benchmarks", 2, Console(quiet=True))
    of = layer((1, 2, 4, 4, 16), (16, 1, 1, 1, 16))
    made.add(harness.compare(of, [side("ours", 1, [])], harness.Effort(trials=1, repeats=1)))
    made.finish(roofline.Roofline(100.0, 0.0, 10.0, 2))
    data, page = made.write(tmp_path)
    record = json.loads(data.read_text())
    assert record["machine"]["cpus"] >= 1 and record["versions"]["mlx"]
    assert record["rows"][0]["sides"]["ours"]["roofline_share"] > 0
    assert of.name in page.read_text() and record["date"] in page.read_text()


def test_roofline_takes_the_slower_of_arithmetic_and_copying() -> None:
    line = roofline.Roofline(100.0, 1000.0, 10.0, 2)
    assert line.seconds(100e9, 1e9, "float32") == pytest.approx(1.0)
    assert line.seconds(100e9, 1e9, "bfloat16") == pytest.approx(0.1)
    assert line.seconds(1e9, 20e9, "float32") == pytest.approx(2.0)
    best = line.best_of(roofline.Roofline(90.0, 2000.0, 12.0, 2))
    assert (best.fma_gflops, best.matrix_bf16_gflops, best.copy_gbs) == (100.0, 2000.0, 12.0)


def test_cpu_watch_gives_a_share() -> None:
    with machine.CpuWatch() as watch:
        sum(range(100_000))
    assert watch.others_share is None or 0 <= watch.others_share <= 1


def test_a_command_is_told_as_typed_without_where_its_results_went(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["cpu", "vae", "--output", "here", "--only", "7x7 stem", "--output=there", "--no-stock"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *typed])
    assert machine.typed_command() == "python -m benchmarks cpu vae --only '7x7 stem' --no-stock"


def quick_vae(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "cpu", "vae", "--quick", "--no-torch", "--gflop", "0.02"]
    return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_quick_run_of_a_subject_without_torch_ends_well() -> None:
    done = quick_vae("--dtype", "float32")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stock MLX CPU (naive baseline)" in done.stdout
    assert "geometric mean" in done.stdout


@pytest.mark.parametrize("isa", ["avx2", "avx512", "avx512_bf16"])
def test_a_run_is_held_to_narrower_instructions_or_says_that_it_cannot_be(isa: str) -> None:
    reached = isa in instruction_sets(_ext.isa())
    done = quick_vae("--dtype", "float32", "--no-stock", "--isa", isa)
    assert done.returncode == (0 if reached else 2), done.stdout + done.stderr
    said = f"held to the instructions of {isa}" if reached else f"--isa {isa}: mlx_conv3d uses {_ext.isa()}"
    assert said in done.stdout.replace("\n", " ")


@pytest.mark.skipif(sys.platform != "linux", reason="the linker's options are those of Linux")
def test_the_native_benchmarks_kernels_need_nothing_of_the_rest_of_the_library(tmp_path: Path) -> None:
    assert native.compiled(tmp_path / "kernels.so", ["-O0", "-shared", "-fPIC", "-Wl,-z,defs"]) == ""


@pytest.mark.skipif(
    not (Path("/usr/include/benchmark").is_dir() and any(Path(p).is_dir() for p in native.EIGEN)),
    reason="needs Google Benchmark and Eigen (apt-get install libeigen3-dev libbenchmark-dev)",
)
def test_the_native_benchmark_is_for_the_kernels_that_there_are(tmp_path: Path) -> None:
    assert (
        native.compiled(tmp_path / "grouped", ["-O0", *native.own_sources(), "-lbenchmark", "-pthread"]) == ""
    )


def test_native_ratios_are_of_medians_and_held_against_their_own_targets() -> None:
    times = {
        "kernel/conv1x1/8x8/G2": [10.0, 30.0, 20.0],
        "eigen/conv1x1/8x8/G2": [94.0, 1.0, 300.0],
        "kernel/conv1d_k3/12x12/G3": [5.0],
        "eigen/conv1d_k3/12x12/G3": [4.0],
    }
    runs = [
        {"run_type": "iteration", "run_name": name, "cpu_time": each}
        for name, repetitions in times.items()
        for each in repetitions
    ]
    median = {"run_type": "aggregate", "run_name": "kernel/conv1x1/8x8/G2", "cpu_time": 1e9}
    found = native.results({"benchmarks": [*runs, median]})
    assert [(r.kind, r.channels, r.groups, r.target) for r in found] == [
        ("conv1d_k3", "12x12", 3, 1.0),
        ("conv1x1", "8x8", 2, 4.7),
    ]
    assert [r.ratio for r in found] == pytest.approx([0.8, 4.7])


def test_grouped_layers_count_the_channels_of_a_group() -> None:
    of_resnext = next(x for x in grouped.LAYERS if x.workloads == ("3D-ResNeXt",))
    assert of_resnext.groups == 32
    assert of_resnext.flops == 2 * 8 * 28 * 28 * 128 * 27 * 2
    assert {x.spatial for x in grouped.WAVENET} == {(64,), (4096,)}
