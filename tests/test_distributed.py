"""Convolutions over 2 and 4 ranks of this machine: distributed_ranks.py runs on each, once, and tests look at it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from distributed_launch import TESTS, launch, ports, start

import mlx_conv3d
from mlx_conv3d import distributed

# Winograd's tiles lie differently in a piece than in the whole, or only one of them takes it: equal up to the rounding
# that its contract allows.
FLOAT32, WINOGRAD, BFLOAT16 = 1e-6, 3e-6, 1e-3
ROWS_EACH_WAY = ("even", "uneven", "without_overlap", "sizes_given", "edge", "epilogue", "bfloat16", "batch")
AGREEMENT = 64
LOST = "lost the connection to rank"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def of(ranks: int) -> list[dict[str, Any]]:
        directory = tmp_path_factory.mktemp(f"ranks{ranks}")
        output = launch(
            ranks, TESTS / "distributed_ranks.py", str(directory), MLX_CONV3D_DISTRIBUTED_TIMEOUT="60"
        )
        files = [directory / f"{rank}.json" for rank in range(ranks)]
        assert all(file.exists() for file in files), output
        return [json.loads(file.read_text()) for file in files]

    return of


def failures(results: list[dict[str, Any]], names: list[str]) -> list[str]:
    """Every case and rank where there was an error, or a difference or a count that is not right."""
    found = []
    for name in names:
        limit = BFLOAT16 if "bfloat16" in name else WINOGRAD if "auto" in name else FLOAT32
        for rank, result in enumerate(r[name] for r in results):
            wrong = (
                "error" in result
                or not result.get("difference", 0.0) < limit
                or not all(result.get("all", []))
            )
            if wrong or result.get("sent") != result.get("stats"):
                found.append(f"{name} on rank {rank}: {result}")
    return found


@pytest.mark.parametrize("axis", ["time", "height", "width"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_pieces_equal_one_rank(results: Any, ranks: int, axis: str) -> None:
    names = [name for name in results(ranks)[0] if name.startswith(f"{axis}_")]
    assert len(names) == 24
    assert failures(results(ranks), names) == []


@pytest.mark.parametrize("axis", ["time", "height", "width"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_decoder_layer_sends_one_row_to_each_neighbour(results: Any, ranks: int, axis: str) -> None:
    for rank, result in enumerate(results(ranks)):
        neighbours = (rank > 0) + (rank < ranks - 1)
        for case in ROWS_EACH_WAY:
            one = result[f"{axis}_{case}"]
            assert one["sent"] == neighbours * one["row"] > 0, (case, rank)
            assert one["agreement"] == (0 if case == "sizes_given" else (ranks - 1) * AGREEMENT)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    "name",
    [
        "shard_and_gather", "group_norm", "patched_layers", "patched_over_time", "patched_refuses",
        "gathered_attention",
        "collectives_of_the_caller_stay_in_order", "layers_are_counted",
        "whole_tiles_round_as_one_rank",
    ],
)  # fmt: skip
def test_models_in_pieces(results: Any, ranks: int, name: str) -> None:
    assert failures(results(ranks), [name]) == []


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "channels",
            "conv3d over height on rank {rank} of {ranks}: dimension 4 of x differs between ranks 0 and 1",
        ),
        ("width", "dimension 3 of x differs between ranks 0 and {last}: 4 on rank 0, 5 on rank {last}"),
        ("type", "the type of x differs between ranks 0 and 1"),
        ("weights", "dimension 0 of w differs between ranks 0 and 1: 4 on rank 0, 5 on rank 1"),
        ("stride", "another argument differs between ranks 0 and 1"),
        ("axis", "differs between ranks 0 and 1"),
        ("bias", "another argument differs between ranks 0 and 1"),
        ("residual_channels", "another argument differs between ranks 0 and 1"),
        ("residual", "residual must have the 4 outputs of rank 1 along the axis, got 5"),
        ("another_call", "the call differs between ranks 0 and 1"),
        ("too_short", "are fewer than the kernel's 9"),
        ("reflect_too_far", "padding_mode reflect by {ranks} needs more than {ranks} positions"),
        ("gather_channels", "gather over height on rank {rank} of {ranks}: dimension 4 of x differs"),
        ("norm_channels", "channels of x differs between ranks 0 and 1: 8 on rank 0, 16 on rank 1"),
        ("gradient", "has no gradient"),
        ("compiled", "cannot be vmapped or compiled"),
        ("lead_type", "lead must be (N, frames, H, W, C) like x_shard"),
    ],
)
def test_all_ranks_refuse(results: Any, ranks: int, name: str, message: str) -> None:
    for rank, result in enumerate(results(ranks)):
        text = result[f"refused_{name}"]["refused"]
        assert text.startswith("ValueError"), text
        assert message.format(rank=rank, ranks=ranks, last=ranks - 1) in text


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    ("name", "at", "message"),
    [
        ("dimensions_here", 1, "x_shard must have 5 dimensions"),
        ("channels_here", 1, "input channels of x and w to match"),
        ("not_an_array", 0, "TypeError: x_shard must be an mx.array"),
        ("norm_groups", 1, "num_groups must divide the 8 channels, got 3"),
        ("lead_on_all", 1, "rank 1 must give none"),
    ],
)
def test_one_rank_refuses_and_the_others_say_so(
    results: Any, ranks: int, name: str, at: int, message: str
) -> None:
    texts = [result[f"refused_{name}"]["refused"] for result in results(ranks)]
    assert message in texts[at]
    assert f"rank {at} was given arguments that it refuses" in texts[1 - at]


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    while (got := process.stdout.readline()) != f"{line}\n":
        assert got, "the rank ended early"


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        (signal.SIGKILL, LOST),
        (signal.SIGSTOP, "no answer from rank"),
    ],
)
def test_a_rank_that_dies_or_hangs_fails_the_others(
    stop: signal.Signals, reason: str, tmp_path: Path
) -> None:
    with ports() as base:
        script = TESTS / "distributed_loop.py"
        ranks = start(3, script, base=base, directory=tmp_path, MLX_CONV3D_DISTRIBUTED_TIMEOUT="3")
        try:
            wait_for(ranks[1], "layer 20")
            os.kill(ranks[1].pid, stop)
            began = time.monotonic()
            outputs = {rank: ranks[rank].communicate(timeout=30)[0] for rank in (0, 2)}
            assert time.monotonic() - began < 15
        finally:
            for process in ranks:
                process.kill()
                process.wait()
    for rank, output in outputs.items():
        assert ranks[rank].returncode == 1, output
        assert f"RuntimeError: conv3d over height on rank {rank} of 3: " in output
        assert "it is over for good" in output and "an exchange has failed before" in output
    # The first to give up ends; then the other may have lost the connection to it before its own time is over.
    assert any(reason in output for output in outputs.values())
    assert all(reason in output or LOST in output for output in outputs.values())


def test_a_rank_alone_computes_as_ever() -> None:
    x, w, stock = mx.random.normal((1, 3, 6, 6, 4)), mx.random.normal((5, 3, 3, 3, 4)), mx.conv3d
    expected = mlx_conv3d.conv3d(x, w, padding=1)
    assert mx.array_equal(distributed.conv3d(x, w, padding=1, axis="width"), expected)
    assert mx.array_equal(distributed.gather(distributed.shard(x)), x)
    with distributed.patched("height"):
        assert mx.conv3d is not stock
        assert mx.array_equal(mlx_conv3d.conv3d(x, w, padding=1), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, w: distributed.conv3d(x, w, axis="depth"),
            "axis must be one of time, height, width, got 'depth'",
        ),
        (
            lambda x, w: distributed.conv3d(x, w, timeout=0),
            "timeout must be a positive number of seconds, got 0",
        ),
        (
            lambda x, w: distributed.conv3d(x, w, timeout="soon"),
            "timeout must be a number of seconds, got 'soon'",
        ),
        (lambda x, w: distributed.conv3d(x, w, stride=(1, 1)), "stride must have 3 entries"),
        (lambda x, w: distributed.shard(x, sizes=[3]), "sizes must be 1 numbers that add up to 6"),
        (lambda x, w: distributed.shard(x[0, 0]), "x must be"),
        (lambda x, w: distributed.shard(x[0], "time"), "a 2-D convolution has no axis 'time'"),
        (lambda x, w: distributed.group_norm(x, 3), "num_groups must divide the 4 channels, got 3"),
        (lambda x, w: distributed.patched("depth").__enter__(), "axis must be one of"),
        (
            lambda x, w: distributed.patched("height", pad_axis=2).__enter__(),
            "pad_axis must count from the end",
        ),
        (
            lambda x, w: distributed.patched("time", attention="full").__enter__(),
            "attention must be 'refuse' or",
        ),
    ],
)
def test_errors_of_one_rank(call: Any, message: str) -> None:
    x, w = mx.zeros((1, 3, 6, 6, 4)), mx.zeros((5, 3, 3, 3, 4))
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")):
        call(x, w)


def test_timeout_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_CONV3D_DISTRIBUTED_TIMEOUT", "never")
    with pytest.raises(
        ValueError, match="MLX_CONV3D_DISTRIBUTED_TIMEOUT must be a number of seconds, got 'never'"
    ):
        distributed.conv3d(mx.zeros((1, 1, 3, 3, 1)), mx.zeros((1, 1, 3, 3, 1)))


@pytest.mark.parametrize(("ranks", "axis"), [(2, "width"), (4, "height")])
def test_example_decodes_as_one_rank(ranks: int, axis: str) -> None:
    script = TESTS.parent / "examples" / "sharded_decode" / "main.py"
    output = launch(ranks, script, "--axis", axis, "--frames", "5", "--size", "64x52")
    assert "one rank: (1, 5, 52, 64, 3)" in output and "decodes differ" not in output
    assert f"rank {ranks - 1} of {ranks}: (1, 5, " in output
    assert "of halos in all" in output
