"""Plans of the gathered product on Apple GPUs: what it is modelled to win, and what stays with stock MLX."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import pytest
from metal_sim import Program

import mlx_conv3d
from mlx_conv3d import _ext

GEMMS = ("pointwise", "temporal", "patchify", "taps", "transposed", "implicit_gemm", "grouped")
DEVICES = [d["name"] for d in _ext.gpus()]
UPSAMPLED = {"input_dilation": 2, "flip": True}


def plan(x: Sequence[int], w: Sequence[int], device: str = "m3-max", **options: object) -> mlx_conv3d.Plan:
    return mlx_conv3d.plan(x, w, device=device, **{"dtype": mx.bfloat16, **options})


def gain(p: mlx_conv3d.Plan) -> float:
    """Over stock, modelled."""
    return next(c for c in p.candidates if c.algorithm == "stock").cost / p.cost


@pytest.mark.parametrize("device", ["m1", "m2-pro", "m3-max", "m4"])
@pytest.mark.parametrize(
    ("algorithm", "x", "w", "options", "least"),
    [
        # Stock unfolds the dilated input and multiplies its zeros.
        ("transposed", (1, 8, 32, 32, 128), (64, 3, 3, 3, 128), {**UPSAMPLED, "padding": [(1, 2)] * 3}, 4),
        ("transposed", (1, 8, 32, 32, 128), (64, 4, 4, 4, 128), {**UPSAMPLED, "padding": 2}, 4),
        # It has phases of its own for this one, but copies them to their places.
        ("transposed", (1, 8, 32, 32, 128), (64, 2, 2, 2, 128), {**UPSAMPLED, "padding": 1}, 1),
        # It pads three channels to 16.
        ("implicit_gemm", (1, 19, 256, 256, 3), (96, 3, 3, 3, 3), {"padding": [0, 1, 1]}, 3),
        ("patchify", (1, 16, 224, 224, 3), (768, 2, 16, 16, 3), {"stride": [2, 16, 16]}, 3),
        # It needs passes of their own for bias and activation.
        ("pointwise", (1, 17, 64, 64, 64), (64, 1, 1, 1, 64), {"bias": True, "activation": "silu"}, 1.5),
    ],
    ids=["k3s2", "k4s2", "k2s2", "stem", "patches", "epilogue"],
)
def test_what_stock_wastes_is_won(
    device: str, algorithm: str, x: tuple[int, ...], w: tuple[int, ...], options: dict, least: float
) -> None:
    p = plan(x, w, device, **options)
    assert p.algorithm == algorithm
    assert gain(p) >= least
    assert Program.from_dict(p.program).problems() == []


@pytest.mark.parametrize("device", ["m1", "m2-pro", "m3-max", "m4", "m5-max"])
@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((1, 17, 64, 64, 256), (256, 1, 1, 1, 256), {}),
        ((1, 5, 16, 16, 512), (512, 1, 1, 1, 512), {}),
        ((1, 17, 64, 64, 512), (3, 1, 1, 1, 512), {}),
        ((2, 16, 56, 56, 64), (128, 3, 3, 3, 64), {"padding": 1, "stride": 2}),
        ((1, 16, 64, 64, 64), (64, 5, 5, 5, 64), {"padding": 2}),
    ],
    ids=["pointwise", "few-rows", "few-outputs", "strided", "5x5x5"],
)
def test_what_stock_does_well_stays(
    device: str, x: tuple[int, ...], w: tuple[int, ...], options: dict
) -> None:
    assert plan(x, w, device, **options).algorithm == "stock"


def test_transposed_executes_an_eighth() -> None:
    x, w = (1, 8, 32, 32, 128), (64, 4, 4, 4, 128)
    p = plan(x, w, **UPSAMPLED, padding=2)
    # Blocks of the ragged phases round a little up.
    assert p.direct_flops / 8 <= p.flops <= p.direct_flops / 8 * 1.1
    dense = plan(x, w, **UPSAMPLED, padding=2, algorithm="implicit_gemm")
    assert dense.flops >= p.direct_flops
    assert dense.cost > 6 * p.cost


@pytest.mark.parametrize("outs", [1, 3, 8, 12, 16, 30, 64, 200])
def test_blocks_fit_the_outputs(outs: int) -> None:
    """Few outputs take narrow blocks: at most half of the columns, or a block's rest, is wasted."""
    p = plan((1, 9, 64, 64, 64), (outs, 1, 3, 3, 64), algorithm="implicit_gemm", padding=[0, 1, 1])
    rows, _, cols = p.chunk
    assert p.program["steps"][0]["kernel"].startswith(f"gather_gemm_{rows}x{cols}")
    padded = -(-outs // cols) * cols
    assert padded <= max(8, 2 * outs)


@pytest.mark.parametrize("device", DEVICES)
def test_every_algorithm_has_a_program(device: str) -> None:
    for algorithm in GEMMS:
        kernel = {"temporal": (3, 1, 1), "pointwise": (1, 1, 1), "patchify": (2, 2, 2)}.get(
            algorithm, (3, 3, 3)
        )
        options: dict[str, object] = {"stride": 2} if algorithm == "patchify" else {}
        options.update(UPSAMPLED if algorithm == "transposed" else {})
        groups = 2 if algorithm == "grouped" else 1
        w = (96, *kernel, 80 // groups)
        p = plan((1, 8, 12, 12, 80), w, device, algorithm=algorithm, groups=groups, **options)
        program = Program.from_dict(p.program)
        assert program.problems() == []
        assert program.scratch_bytes == p.workspace
        assert {s.kernel.split("_")[0] for s in program.steps} == {"gather"}


def test_the_sums_of_depth_taps_keep_the_workspace_limit() -> None:
    x, w = (1, 9, 128, 128, 64), (64, 3, 3, 3, 64)
    sums = 4 * 7 * 126 * 126 * 64
    assert plan(x, w, algorithm="taps").workspace == sums
    assert plan(x, w, algorithm="taps", dtype=mx.float32).workspace == 0, "y holds them"
    with pytest.raises(ValueError, match="workspace does not fit the limit of 16 MiB"):
        plan(x, w, algorithm="taps", workspace_limit=16 << 20)


@pytest.mark.parametrize(
    ("x", "w", "options", "reason"),
    [
        ((1, 2048, 2048, 1024, 1), (1, 1, 1, 1, 1), {"algorithm": "pointwise"}, "fewer output positions"),
        (
            (1, 20, 20, 20, 4),
            (4, 1, 1, 1, 4),
            {"algorithm": "transposed", "input_dilation": 16},
            "smaller input dilation",
        ),
        (
            (1, 1, 1, 3, 4),
            (4, 1, 1, 2, 4),
            {
                "algorithm": "implicit_gemm",
                "input_dilation": [1, 1, 1 << 30],
                "dilation": [1, 1, 1 << 31 - 1],
            },
            "shorter axes",
        ),
    ],
)
def test_what_the_kernel_cannot_take_is_said(
    x: tuple[int, ...], w: tuple[int, ...], options: dict, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        plan(x, w, **options)


def test_printed_plan() -> None:
    p = plan((1, 8, 32, 32, 128), (64, 3, 3, 3, 128), **UPSAMPLED, padding=[(1, 2)] * 3)
    assert "on m3-max: transposed" in str(p)
    assert "gather_gemm_64x64" in str(p)
    assert "scratch: none" in str(p)
    assert "unfolded" in p.candidates[-1].reason, "why stock is slower"


def test_few_channels_per_group_stay_direct() -> None:
    few = plan((1, 4, 16, 16, 64), (64, 3, 3, 3, 32), groups=2, algorithm="grouped")
    many = plan((1, 4, 16, 16, 66), (64, 3, 3, 3, 33), groups=2, algorithm="grouped")
    assert few.program["steps"][0]["kernel"].startswith("grouped_")
    assert many.program["steps"][0]["kernel"].startswith("gather_gemm_")
