"""Winograd whose chunks of tiles are one thread's each, against float64. The plan chooses it on the CPU where the
weights are small next to the tiles. On other machines than those of `CHOSEN` the same problems run as planned there."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import mlx.core as mx
import numpy as np
import operands
import pytest
from problems import Problem, of

from mlx_conv3d import _ext, nn, set_workspace_limit

CHOSEN = _ext.isa() in ("avx512", "avx512_bf16") and (os.cpu_count() or 1) == 2
CUBE = (3, 3, 3)

PROBLEMS: dict[str, Problem] = {
    "one frame": of((1, 3, 66, 70, 48), (32, *CUBE, 48), padding=(0, 1, 1)),
    "pairs of frames": of((1, 6, 45, 53, 48), (48, *CUBE, 48), padding=1),
    "odd frames, ragged tiles": of((1, 5, 47, 61, 33), (21, *CUBE, 33), padding=1),
    "more frames than a chunk's": of((1, 40, 22, 26, 24), (24, *CUBE, 24), padding=1),
    "images": of((3, 3, 34, 38, 32), (40, *CUBE, 32), padding=1),
    "one input channel": of((1, 4, 60, 64, 1), (16, *CUBE, 1), padding=1),
    "one output channel": of((1, 3, 58, 62, 96), (1, *CUBE, 96), padding=1),
    "causal": of((1, 4, 40, 44, 48), (48, *CUBE, 48), padding=((2, 0), 1, 1)),
    "depth stride": of((1, 9, 42, 38, 32), (32, *CUBE, 32), padding=1, stride=(2, 1, 1)),
    "depth dilation": of((1, 8, 42, 38, 32), (32, *CUBE, 32), padding=(2, 1, 1), dilation=(2, 1, 1)),
    "taps that meet nothing": of((1, 2, 40, 44, 32), (32, 5, 3, 3, 32), padding=(4, 1, 1)),
    "2-D": of((5, 66, 50, 48), (48, 3, 3, 48), padding=1),
    "edge": of((1, 3, 50, 46, 32), (32, *CUBE, 32), padding=1, modes="edge"),
    "lead": of((1, 3, 50, 46, 32), (32, *CUBE, 32), padding=((0, 0), 1, 1), lead=2),
    "epilogue": of(
        (1, 4, 44, 50, 32), (40, *CUBE, 32), padding=1, bias=True, residual=True, activation="silu"
    ),
    "strided inputs and weights": of(
        (1, 4, 44, 50, 32), (40, *CUBE, 32), padding=1, layout="stepped", w_layout="channels_first"
    ),
    "doubled": of((1, 3, 33, 31, 48), (32, *CUBE, 48), padding=1, upsample=(1, 2, 2)),
    "dilated": of((1, 3, 33, 31, 48), (32, 1, 4, 4, 48), padding=(0, 2, 2), input_dilation=(1, 2, 2)),
    "flipped": of((1, 4, 44, 50, 32), (40, *CUBE, 32), padding=1, flip=True),
    "spatial stride": of((1, 3, 89, 93, 48), (32, *CUBE, 48), padding=(0, 1, 1), stride=(1, 2, 2)),
    "spatial stride, images": of((3, 90, 86, 32), (40, 3, 3, 32), padding=((0, 1), (0, 1)), stride=2),
    "5x5x5": of((1, 5, 60, 66, 32), (32, 5, 5, 5, 32), padding=(0, 2, 2)),
    "spatial dilation": of((1, 3, 66, 70, 48), (32, *CUBE, 48), padding=(0, 2, 3), dilation=(1, 2, 3)),
    "spatial dilation, reflect": of(
        (1, 4, 45, 53, 48), (48, *CUBE, 48), padding=(1, 2, 2), dilation=(1, 2, 2), modes="reflect"
    ),
}


def is_chosen(problem: Problem, outputs: int) -> bool:
    """Whether chunks are one thread's each, and several for so many output positions."""
    chosen = operands.plan_of(problem, "winograd")
    frames, tiles, _ = chosen.chunk
    return chosen.thread_chunks and frames * tiles * chosen.tile**2 < outputs


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_chunk_for_each_thread(name: str, dtype: str) -> None:
    problem = replace(PROBLEMS[name], x_type=dtype, w_type=dtype, extra_type=dtype)
    if CHOSEN and not problem.general:
        assert is_chosen(problem, math.prod(problem.out_shape[:-1]))
    operands.check_run(problem, "winograd", prepared=True)


BITS = """
import hashlib
import mlx.core as mx
import numpy as np
import mlx_conv3d
mx.set_default_device(mx.cpu)
for frames in 1, 5, 16:
    shapes = (1, frames, 40, 42, 40), (40, 3, 3, 3, 40)
    x, w = (mx.random.normal(shape, key=mx.random.key(i)) for i, shape in enumerate(shapes))
    y = mlx_conv3d.conv3d(x, w, padding=1, algorithm="winograd")
    chosen = mlx_conv3d.plan(*shapes, padding=1, algorithm="winograd")
    digest = hashlib.sha256(np.array(y).tobytes()).hexdigest()
    print(frames, chosen.tile, chosen.depth_tile, chosen.thread_chunks, digest)
"""


def test_results_do_not_depend_on_whose_the_chunks_are() -> None:
    digests, kinds = {}, set()
    for threads in (1, 2, 3, 7, 64):
        for line in operands.printed_by(BITS, threads).splitlines():
            *tile, own, digest = line.split()
            kinds.add(own)
            digests.setdefault(tuple(tile), set()).add(digest)
    assert all(len(found) == 1 for found in digests.values()), digests
    assert not CHOSEN or kinds == {"True", "False"}


def test_the_workspace_limit_holds_for_all_threads_chunks() -> None:
    problem = of((1, 4, 80, 84, 96), (96, *CUBE, 96), padding=1)
    before = set_workspace_limit(16 << 20)
    try:
        chosen = operands.plan_of(problem, "winograd")
        assert not CHOSEN or chosen.thread_chunks
        assert chosen.workspace <= 16 << 20
        operands.check_run(problem, "winograd")
    finally:
        set_workspace_limit(before)


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), (3, 2), (2, 3)])
def test_a_stream_has_the_bits_of_one_call(pieces: tuple[int, ...]) -> None:
    layer = nn.CausalConv3d(32, 48, 3, padding=1)
    x = mx.array(np.random.default_rng(3).normal(size=(1, sum(pieces), 38, 42, 32)).astype(np.float32))
    assert mx.array_equal(operands.stepped(layer, x, pieces), layer(x))
