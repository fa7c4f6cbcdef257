"""Plans for Apple GPUs: pure data, checked without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from metal_sim import Program

import mlx_conv3d
from mlx_conv3d import _ext

ROOT = Path(__file__).resolve().parent.parent
DEVICES = [d["name"] for d in _ext.gpus()]
LIMIT = 256 << 20


def plan(frames: int, height: int, width: int, channels: int, outs: int, device: str, **rest: object):
    """A 3x3x3 layer of `frames` output frames whose input was padded in time by the caller."""
    options = {"dtype": mx.bfloat16, "padding": [0, 1, 1], **rest}
    x = (1, frames + 2, height, width, channels)
    return mlx_conv3d.plan(x, (outs, 3, 3, 3, channels), device=device, **options)


def candidate(p: mlx_conv3d.Plan, name: str):
    return next(c for c in p.candidates if c.algorithm == name)


def test_the_matrices_are_current() -> None:
    script = ROOT / "tools" / "winograd_matrices.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0


def test_table_of_devices() -> None:
    assert [f"m{n}{v}" for n in range(1, 6) for v in ("", "-pro", "-max")] == [
        n for n in DEVICES if not n.endswith("ultra")
    ]
    for d in _ext.gpus():
        assert d["family"] >= 7
        assert d["gflops"] == pytest.approx(d["cores"] * 330, rel=0.1)
        assert d["gbytes"] > 60
        assert d["system_cache_bytes"] >= 8 << 20
    assert {d["name"]: d for d in _ext.gpus()}["m3-max"]["gflops"] == pytest.approx(14.1e3, rel=0.01)


def test_unknown_device() -> None:
    with pytest.raises(ValueError, match=r"device 'm9' is not known.*m3-max"):
        plan(4, 32, 32, 64, 64, "m9")


@pytest.mark.parametrize(
    ("shape", "milliseconds"),
    [((41, 60, 104, 256, 256), 28), ((41, 120, 208, 512, 512), 335), ((17, 64, 64, 256, 256), 9)],
)
def test_model_of_stock_fits_the_published_times(shape: tuple[int, ...], milliseconds: float) -> None:
    stock = candidate(plan(*shape, "m3-max"), "stock")
    assert stock.cost * 1e3 == pytest.approx(milliseconds, rel=0.15)


@pytest.mark.parametrize("device", ["m1", "m3-max"])
@pytest.mark.parametrize(
    "layer",
    [
        (81, 480, 832, 96, 96),
        (81, 240, 416, 192, 192),
        (41, 120, 208, 384, 384),
        (61, 256, 256, 256, 256),
        (17, 68, 120, 1024, 1024),
        (31, 36, 64, 512, 2048),
        (16, 18, 32, 1024, 4096),
    ],
)
def test_large_layers(layer: tuple[int, ...], device: str) -> None:
    """The scratch of a Program stays in the limit, and no plan is slower than stock's model."""
    p = plan(*layer, device)
    assert p.cost <= candidate(p, "stock").cost
    winograd = plan(*layer, device, algorithm="winograd")
    program = Program.from_dict(winograd.program)
    assert program.problems() == []
    assert program.scratch_bytes == winograd.workspace <= LIMIT
    outputs = [s for s in program.steps if "output" in s.kernel]
    slices = -(-layer[4] // winograd.chunk[2])
    threads = sum(s.grid[0] * s.grid[1] * s.grid[2] for s in outputs)
    tiles = -(-layer[1] // winograd.tile) * -(-layer[2] // winograd.tile)
    assert threads == tiles * layer[0] * layer[4], f"{slices} slices cover every output once"


@pytest.mark.parametrize("megabytes", [32, 64, 256])
def test_workspace_limit(megabytes: int) -> None:
    p = plan(9, 60, 104, 256, 256, "m3-max", algorithm="winograd", workspace_limit=megabytes << 20)
    assert Program.from_dict(p.program).scratch_bytes <= megabytes << 20


def test_layers_that_miss_stocks_winograd_gain_most() -> None:
    """96 channels: stock takes its implicit GEMM."""
    p = plan(81, 480, 832, 96, 96, "m3-max")
    assert p.algorithm == "winograd"
    assert candidate(p, "stock").cost > 2 * p.cost


def test_matrix_units_go_to_stock() -> None:
    """On M5, 16-bit products belong to MLX's own kernels; fp32 has no such units."""
    assert plan(41, 120, 208, 384, 384, "m5-max").algorithm == "stock"
    assert plan(9, 60, 104, 96, 96, "m5-max", dtype=mx.float32).algorithm == "winograd"


def test_printed_plan() -> None:
    p = plan(9, 60, 104, 96, 96, "m3-max")
    text = str(p)
    assert "modelled" in text
    for kernel in ("winograd_weight_f", "winograd_input_f", "winograd_depth_gemm_", "winograd_output_f"):
        assert kernel in text
    assert plan(9, 60, 104, 96, 3, "m3-max", algorithm="stock").program is None
    assert mlx_conv3d.plan((1, 4, 8, 8, 16), (16, 3, 3, 3, 16)).program is None


def test_no_steps_for_an_empty_output() -> None:
    p = mlx_conv3d.plan((0, 4, 8, 8, 16), (16, 3, 3, 3, 16), device="m1", algorithm="winograd")
    assert p.program["steps"] == []


def test_pairs_of_frames() -> None:
    """F(2, 3) along depth wherever there are two output frames, three depth taps and depth stride 1."""
    p = plan(17, 120, 208, 256, 256, "m3-max")
    assert (p.algorithm, p.depth_tile) == ("winograd", 2)
    assert "F(2, 3) along depth" in str(p) and "winograd_depth_gemm_" in str(p)
    assert plan(1, 120, 208, 256, 256, "m3-max", algorithm="winograd").depth_tile == 1
    assert plan(9, 60, 104, 96, 96, "m3-max", stride=(2, 1, 1)).depth_tile == 1
    two_taps = mlx_conv3d.plan((1, 9, 62, 106, 96), (96, 2, 3, 3, 96), dtype=mx.bfloat16, device="m1")
    assert (two_taps.algorithm, two_taps.depth_tile) == ("winograd", 1)


@pytest.mark.parametrize("frames", [8, 17])
def test_chunks_hold_whole_pairs(frames: int) -> None:
    p = plan(frames, 480, 848, 128, 128, "m1", algorithm="winograd", workspace_limit=64 << 20)
    assert p.depth_tile == 2 and (p.chunk[0] % 2 == 0 or p.chunk[0] == frames)


def test_weights_in_passes_where_they_would_fill_the_scratch() -> None:
    """512 to 512 channels: 256 MiB of transformed weights; half the outputs at a time would transform x twice."""
    p = plan(16, 128, 128, 512, 512, "m3-max")
    assert p.algorithm == "winograd" and p.weight_rows > 0 and p.chunk[2] == 512
    assert "in passes of" in p.reason
    assert Program.from_dict(p.program).scratch_bytes == p.workspace <= LIMIT


WIDE = [(24, 72, 128, 256, 1024), (31, 36, 64, 512, 2048), (61, 64, 96, 128, 1024)]


@pytest.mark.parametrize("device", ["m1", "m3-max"])
@pytest.mark.parametrize("layer", WIDE)
def test_weights_in_sets_of_outputs_where_they_would_crowd_out_tiles(
    layer: tuple[int, ...], device: str
) -> None:
    """A chunk's tiles, made once, meet the weights of one set of outputs after the other."""
    p = plan(*layer, device)
    assert p.algorithm == "winograd" and 0 < p.weight_outs < p.chunk[2] == layer[4]
    assert f"weights of {p.weight_outs} outputs at a time" in p.reason
    program = Program.from_dict(p.program)
    assert program.scratch_bytes == p.workspace <= LIMIT
    names = [s.kernel.split("_")[1] for s in program.steps]
    sets = -(-layer[4] // p.weight_outs)
    assert names.count("weight") % sets == 0 and names.count("output") % sets == 0
    assert names.count("input") * sets <= names.count("weight")
    assert p.cost < candidate(p, "stock").cost


@pytest.mark.parametrize("device", ["m1", "m1-max", "m3-max", "m4-max"])
def test_fewer_bytes_do_not_make_a_plan_slower_than_stock(device: str) -> None:
    """1024 to 512 channels: the plan of least traffic is slower than stock, the fastest is not."""
    p = plan(4, 176, 320, 1024, 512, device)
    assert p.algorithm == "winograd" and p.cost <= candidate(p, "stock").cost


@pytest.mark.parametrize("device", ["m1", "m3-max"])
@pytest.mark.parametrize("channels", [96, 256, 512])
def test_modelled_flops_are_those_of_the_steps(channels: int, device: str) -> None:
    p = plan(16, 120, 208, channels, channels, device, algorithm="winograd")
    assert sum(s["flops"] for s in p.program["steps"]) == pytest.approx(p.flops, rel=0.08)


def test_printed_plan_shows_what_stock_would_do() -> None:
    text = str(plan(16, 120, 208, 256, 256, "m1"))
    assert "stock MLX instead, modelled: one 2-D Winograd F(6, 3) per depth tap" in text
    assert "against it, modelled:" in text and "GFLOP" in text and "scratch: weights" in text
    assert "stock MLX instead" not in str(plan(9, 60, 104, 96, 3, "m3-max", algorithm="stock"))
    assert "stock MLX instead" not in str(mlx_conv3d.plan((1, 4, 8, 8, 16), (16, 3, 3, 3, 16)))
