"""The decoders' call lists against the traced ones, and the model of several machines."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import mlx.core as mx
import pytest
from typer.testing import CliRunner

import mlx_conv3d
from mlx_conv3d.cli import app
from mlx_conv3d.distributed import decoders, scaling
from mlx_conv3d.distributed.decoders import Decoder, Step

WORKLOADS = Path(__file__).parents[1] / "benchmarks" / "workloads"
LINK = scaling.LINKS["tb4"]


def traced(name: str) -> Counter[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Calls by unpadded 3-D shapes."""
    calls: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    for call in json.loads((WORKLOADS / f"{name}.json").read_text()):
        x, w, padded = call["inp"], call["wt"], call["kw"]["padding"]
        if len(x) == 4:
            x, w, padded = [x[0], 1, *x[1:]], [w[0], 1, *w[1:]], [0, *padded]
        for axis in (1, 2):  # the client pads before 3-D convolutions
            x[axis + 1] -= w[axis + 1] - 1 - 2 * padded[axis]
        calls[tuple(x), tuple(w)] += call["n"]
    return calls


@pytest.mark.parametrize(
    ("decoder", "workload"),
    [
        (decoders.wan21(832, 480, 81), "mlxgen_wan21_480p81"),
        (decoders.wan22(1280, 704, 121), "mlxgen_wan22_704p121"),
        (decoders.ltx2(1024, 576, 121), "ltx2_1024x576x121"),
        (decoders.ltx2(768, 512, 121), "ltx2_768x512x121"),
    ],
)
def test_call_lists_are_the_traced_ones(decoder: Decoder, workload: str) -> None:
    calls: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    for step in decoder.steps:
        calls[step.x_shape, step.w_shape] += step.calls
    assert calls == traced(workload)


def test_weights_are_counted_once() -> None:
    # About 73 million parameters, nearly all of them in convolutions.
    assert scaling.weight_bytes(decoders.wan21()) == scaling.weight_bytes(decoders.wan21(832, 480, 5))
    assert 72e6 < scaling.weight_bytes(decoders.wan21()) / 2 < 75e6


def one_layer(height: int, kernel: int = 3, calls: int = 7) -> Decoder:
    return Decoder(
        "one", 64, height, 3, (Step((1, 5, height, 64, 32), (16, 3, kernel, kernel, 32), calls, 1),)
    )


def cost(height: int, kernel: int = 3) -> mlx_conv3d.Plan:
    padding = (0, kernel // 2, kernel // 2)
    return mlx_conv3d.plan(
        (1, 5, height, 64, 32),
        (16, 3, kernel, kernel, 32),
        dtype=mx.bfloat16,
        padding=padding,
        device="m2-max",
    )


def test_one_rank_is_the_plan() -> None:
    found = scaling.estimate(one_layer(60), 1, LINK, device="m2-max")
    assert found.seconds == pytest.approx(7 * cost(60).cost)
    assert (found.exposed, found.halo_bytes) == (0, 0)
    operands = (5 * 60 * 64 * 32 + 3 * 60 * 64 * 16) * 2
    assert found.memory == 16 * 27 * 32 * 2 + operands + cost(60).workspace


@pytest.mark.parametrize(
    ("ranks", "neighbours", "parts"),
    [
        (2, 1, [(31, 28, [3]), (30, 26, [4])]),  # rows, interior, borders of ranks 0 and 1
        (3, 2, [(21, 20, [1]), (20, 12, [4, 4])]),
    ],
)
def test_halo_and_overlap(ranks: int, neighbours: int, parts: list[tuple[int, int, list[int]]]) -> None:
    slow = scaling.Link("slow", 1e9, 1e-4, "")
    found = scaling.estimate(one_layer(61), ranks, slow, device="m2-max")
    message = 5 * 64 * 32 * 2
    waiting = ranks * 1e-4 + message / 1e9
    times = []
    for rows, inner, borders in parts:
        copy = 2 * 3 * rows * 64 * 16 * 2 / 409.6e9
        convolving = sum(cost(part).cost for part in (inner, *borders))
        exposed = max(0, waiting - cost(inner).cost)
        times.append((exposed + convolving + copy, exposed))
    assert found.seconds == pytest.approx(7 * max(times)[0], rel=1e-6)
    assert found.exposed == pytest.approx(7 * max(times)[1])
    assert found.halo_bytes == 7 * neighbours * message
    rows = parts[0][0]
    operands = (5 * rows * 64 * 32 + 3 * rows * 64 * 16) * 2
    assert found.memory == 16 * 27 * 32 * 2 + operands + neighbours * message + cost(rows).workspace


def test_without_rows_to_hide_behind_all_is_exposed() -> None:
    found = scaling.estimate(one_layer(12), 4, LINK, device="m2-max")
    halo = LINK.latency + 5 * 64 * 32 * 2 / LINK.bandwidth
    assert found.exposed == pytest.approx(7 * (3 * LINK.latency + halo))
    assert found.seconds == pytest.approx(7 * (3 * LINK.latency + halo + cost(3).cost))


def test_a_kernel_of_one_row_sends_nothing() -> None:
    found = scaling.estimate(one_layer(12, kernel=1), 4, LINK, device="m2-max")
    assert (found.halo_bytes, found.exposed) == (0, 0)
    assert found.seconds == pytest.approx(7 * cost(3, kernel=1).cost)


@pytest.mark.parametrize("ranks", [0, 91])
def test_rank_counts_that_make_no_sense(ranks: int) -> None:
    with pytest.raises(ValueError, match="ranks must be 1 to 90, the latent's rows"):
        scaling.estimate(decoders.wan21(), ranks, LINK, device="m2-max")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["ranks", *arguments], env={"COLUMNS": "160"})
    return result.exit_code, result.output


def test_command_prints_the_model() -> None:
    code, output = run("ltx2", "--device", "m2-max", "--ranks", "1,4", "--link", "tb4,1gbe")
    assert code == 0
    found = scaling.estimate(decoders.ltx2(), 4, LINK, device="m2-max")
    assert "LTX-2, 1920x1088, 121 frames: modelled" in output and "nothing here was measured" in output
    assert f"{found.seconds:.2f}" in output and f"{found.memory / 1e9:.2f}" in output
    assert "2.05 GB/s each way, 300 us" in output and "jiribrejcha.net" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wan3"], "MODEL must be of wan2.1, wan2.2, ltx2, got 'wan3'"),
        (["--link", "wifi"], "--link must be of tb4, tb5, 10gbe, 1gbe, got 'wifi'"),
        (["--ranks", "many"], "--ranks must look like 1,2,4, got 'many'"),
        (["--ranks", "0"], "ranks must be 1 to 90"),
        (["--device", "tpu"], "tpu"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    code, output = run(*arguments)
    assert code == 1
    assert output.startswith("error: ") and message in output and output.count("\n") == 1
