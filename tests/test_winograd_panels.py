"""Winograd whose weights are made panel by panel, just before they are multiplied with, against float64. The plan
chooses it on the CPU where tiles are few next to the channels, and the panels fill all threads. On other machines than
those of `CHOSEN` the same problems run as planned there."""

from __future__ import annotations

import os
from dataclasses import replace

import mlx.core as mx
import numpy as np
import operands
import pytest
from problems import Problem, of

from mlx_conv3d import _ext, nn, plan, set_workspace_limit

CHOSEN = _ext.isa() in ("avx512", "avx512_bf16", "amx") and (os.cpu_count() or 1) <= 2
CUBE = (3, 3, 3)

PROBLEMS: dict[str, Problem] = {
    "one tile": of((1, 3, 4, 4, 64), (64, *CUBE, 64), padding=(0, 1, 1)),
    "ragged channels": of((1, 3, 7, 9, 203), (53, *CUBE, 203), padding=(0, 1, 1)),
    "more blocks than channels in one": of((1, 3, 5, 6, 777), (65, *CUBE, 777), padding=(0, 1, 1)),
    "one input": of((1, 1, 5, 5, 1), (300, *CUBE, 1), padding=1),
    "one output": of((1, 1, 5, 5, 300), (1, *CUBE, 300), padding=1),
    "two images, padded frames": of((2, 3, 6, 5, 134), (197, *CUBE, 134), padding=1),
    "one frame": of((1, 1, 6, 6, 96), (64, *CUBE, 96), padding=1),
    "causal": of((1, 4, 6, 6, 80), (64, *CUBE, 80), padding=((2, 0), 1, 1)),
    "depth stride": of((1, 7, 6, 7, 96), (128, *CUBE, 96), padding=1, stride=(2, 1, 1)),
    "depth dilation": of((1, 6, 6, 7, 64), (64, *CUBE, 64), padding=(2, 1, 1), dilation=(2, 1, 1)),
    "taps that meet nothing": of((1, 2, 6, 7, 64), (64, 5, 3, 3, 64), padding=(4, 1, 1)),
    "frames of padding alone": of((1, 1, 5, 5, 64), (80, *CUBE, 64), padding=(3, 1, 1)),
    "eight vectors of outputs": of((1, 3, 7, 7, 96), (128, *CUBE, 96), padding=1),
    "thirty-two vectors of outputs": of((1, 2, 4, 4, 64), (512, *CUBE, 64), padding=1),
    "2-D": of((1, 9, 8, 256), (100, 3, 3, 256), padding=1),
    "reflect": of((1, 3, 8, 8, 64), (64, *CUBE, 64), padding=1, modes="reflect"),
    "lead": of((1, 2, 8, 8, 64), (64, *CUBE, 64), padding=((0, 0), 1, 1), lead=2),
    "epilogue": of((1, 2, 6, 6, 64), (70, *CUBE, 64), padding=1, bias=True, residual=True, activation="silu"),
    "strided weights": of((1, 3, 6, 6, 64), (64, *CUBE, 64), padding=1, w_layout="channels_first"),
    "doubled": of((1, 3, 5, 4, 96), (64, *CUBE, 96), padding=1, upsample=(1, 2, 2)),
    "dilated": of((1, 3, 5, 4, 96), (64, 1, 4, 4, 96), padding=(0, 2, 2), input_dilation=(1, 2, 2)),
    "flipped": of((1, 3, 6, 6, 64), (64, *CUBE, 64), padding=1, flip=True),
    "spatial stride": of((1, 3, 13, 11, 96), (64, *CUBE, 96), padding=1, stride=(1, 2, 2)),
    "stride everywhere": of((2, 5, 9, 8, 203), (53, *CUBE, 203), padding=1, stride=2),
    "5x5x5": of((1, 3, 6, 7, 150), (64, 5, 5, 5, 150), padding=2),
    "spatial dilation": of((1, 3, 7, 9, 96), (64, *CUBE, 96), padding=(0, 2, 3), dilation=(1, 2, 3)),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_weights_made_panel_by_panel(name: str, dtype: str) -> None:
    problem = replace(PROBLEMS[name], x_type=dtype, w_type=dtype, extra_type=dtype)
    if CHOSEN and not problem.general:
        assert operands.plan_of(problem, "winograd").weight_channels > 0
    operands.check_run(problem, "winograd")


SHARED = """
import hashlib
import mlx.core as mx
import numpy as np
import mlx_conv3d
mx.set_default_device(mx.cpu)
for outputs in 8, 24, 40, 72, 128, 130, 512:
    shapes = (1, 3, 6, 6, 96), (outputs, 3, 3, 3, 96)
    x, w = (mx.random.normal(shape, key=mx.random.key(i)) for i, shape in enumerate(shapes))
    y = mlx_conv3d.conv3d(x, w, padding=1, algorithm="winograd")
    by_panel = mlx_conv3d.plan(*shapes, padding=1, algorithm="winograd").weight_channels > 0
    print(by_panel, hashlib.sha256(np.array(y).tobytes()).hexdigest())
"""


def test_results_do_not_depend_on_how_threads_share_the_panels() -> None:
    found = {}
    for threads in (1, 2, 3, 5):
        for outputs, line in enumerate(operands.printed_by(SHARED, threads).splitlines()):
            by_panel, digest = line.split()
            if by_panel == "True":
                found.setdefault(outputs, set()).add(digest)
    assert all(len(digests) == 1 for digests in found.values()), found
    assert not CHOSEN or found


def test_several_chunks() -> None:
    problem = of((1, 24, 23, 3000), (96, 3, 3, 3000), padding=1)
    before = set_workspace_limit(16 << 20)
    try:
        chosen = operands.plan_of(problem, "winograd")
        assert not CHOSEN or (chosen.weight_channels > 0 and chosen.chunk[1] < 36)
        assert chosen.workspace <= 16 << 20
        operands.check_run(problem, "winograd")
    finally:
        set_workspace_limit(before)


def test_prepared_weights_are_not_made_again() -> None:
    x, w = (1, 3, 8, 8, 256), (256, *CUBE, 256)
    assert plan(x, w, padding=1, prepared=True, algorithm="winograd").weight_channels == 0
    assert not CHOSEN or plan(x, w, padding=1, algorithm="winograd").weight_channels > 0


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), (3, 2), (2, 3)])
def test_a_stream_has_the_bits_of_one_call(pieces: tuple[int, ...]) -> None:
    layer = nn.CausalConv3d(96, 64, 3, padding=1)
    x = mx.array(np.random.default_rng(3).normal(size=(1, sum(pieces), 7, 6, 96)).astype(np.float32))
    assert mx.array_equal(operands.stepped(layer, x, pieces), layer(x))
