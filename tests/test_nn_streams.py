"""Streams: chunks against whole clips, bit for bit, and against the layers of published models."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_nn import DTYPES, layer, normal

import mlx_conv3d
from mlx_conv3d import nn

# ---- streams -----------------------------------------------------------------------------------------------


def streamed(of: nn.CausalConv3d, x: mx.array, cuts: list[int], **options: Any) -> mx.array:
    """x in chunks of these lengths, then the rest; each chunk a copy that is gone before the next."""
    outputs, state, at = [], None, 0
    for length in [*cuts, x.shape[1]]:
        y, state = of.step(x[:, at : at + length] * 1, state, **options)
        mx.eval(y)
        outputs.append(y)
        at += length
    assert state.frames is None or state.frames.shape[1] <= of.reach
    return mx.concatenate(outputs, axis=1)


@st.composite
def streams(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[int, ...], str, list[int], bool]:
    groups = draw(st.sampled_from((1, 1, 1, 2, 4)))
    spatial = draw(st.sampled_from((1, 2, 3, 3, 3, 5)))
    options = {
        "in_channels": groups * draw(st.integers(1, 40 // groups)),
        "out_channels": groups * draw(st.integers(1, 40 // groups)),
        "kernel_size": (draw(st.integers(1, 4)), spatial, spatial),
        "stride": (draw(st.integers(1, 6)), *[draw(st.sampled_from((1, 1, 2)))] * 2),
        "dilation": (draw(st.integers(1, 3)), 1, 1),
        "padding": draw(st.integers(0, 2)),
        "upsample": draw(st.sampled_from((1, 1, 2, (1, 3)))),
        "groups": groups,
        "bias": draw(st.booleans()),
        "time_padding": draw(st.sampled_from(nn.causal.TIME_PADDINGS)),
        "padding_mode": draw(st.sampled_from(("zeros", "edge", "reflect"))),
    }
    shape = (draw(st.integers(1, 2)), draw(st.integers(0, 24)), *(draw(st.integers(5, 14)) for _ in "hw"))
    cuts = draw(st.lists(st.integers(0, 6), max_size=12))
    return options, shape, draw(st.sampled_from(sorted(DTYPES))), cuts, draw(st.booleans())


@given(streams())
def test_streams_give_the_bits_of_one_call(
    drawn: tuple[dict[str, Any], tuple[int, ...], str, list[int], bool],
) -> None:
    options, shape, dtype, cuts, keep = drawn
    made = layer(**options)
    made.keep_transforms = keep
    made.set_dtype(DTYPES[dtype])
    x = normal(*shape, options["in_channels"]).astype(DTYPES[dtype])
    whole = made(x)
    parts = streamed(made, x, cuts)
    assert parts.dtype == whole.dtype == DTYPES[dtype]
    assert parts.shape == whole.shape
    assert mx.array_equal(parts, whole)


@given(
    groups=st.sampled_from((1, 1, 2, 4)),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.sampled_from((1, 2, 7, 64)),
    time_padding=st.sampled_from(nn.causal.TIME_PADDINGS),
    shape=st.tuples(st.integers(1, 3), st.integers(0, 80)),
    cuts=st.lists(st.integers(0, 30), max_size=5),
)
def test_series(
    groups: int,
    channels: tuple[int, int],
    kernel: int,
    stride: int,
    dilation: int,
    time_padding: str,
    shape: tuple[int, int],
    cuts: list[int],
) -> None:
    """A causal 1-D layer, whole and as a stream, is the 3-D layer with the same weight."""
    inputs, outputs = (groups * c for c in channels)
    options = {"groups": groups, "time_padding": time_padding}
    series = nn.CausalConv1d(inputs, outputs, kernel, stride, dilation, **options)
    series.bias = normal(outputs)
    frames = nn.CausalConv3d(
        inputs, outputs, (kernel, 1, 1), (stride, 1, 1), dilation=(dilation, 1, 1), **options
    )
    frames.weight, frames.bias = mx.expand_dims(series.weight, (2, 3)), series.bias
    x = normal(*shape, inputs)
    whole = series(x, activation="tanh")
    assert mx.array_equal(whole, frames(mx.expand_dims(x, (2, 3)), activation="tanh")[:, :, 0, 0])
    assert mx.array_equal(streamed(series, x, cuts, activation="tanh"), whole)


LARGE = {
    "winograd": ((96, 96, 3), {"padding": 1}, (33, 40)),
    "winograd, few outputs": ((96, 3, 3), {"padding": 1}, (33, 40)),
    "winograd, deep": ((384, 64, 3), {"padding": 1}, (9, 8)),
    "temporal": ((96, 192, (3, 1, 1)), {}, (32, 32)),
    "strided in time": ((64, 64, (3, 1, 1)), {"stride": (2, 1, 1)}, (24, 24)),
    "strided": ((64, 64, 3), {"padding": ((0, 1), (0, 1)), "stride": 2}, (25, 26)),
    "upsampled": ((64, 48, (1, 3, 3)), {"padding": 1, "upsample": 2}, (20, 20)),
    "1x3x3": ((64, 48, (1, 3, 3)), {"padding": 1}, (40, 40)),
    "patches": ((32, 64, (2, 4, 4)), {"stride": (2, 4, 4)}, (32, 32)),
    "depthwise": ((64, 64, 3), {"padding": 1, "groups": 64}, (24, 70)),
    "grouped": ((128, 128, 3), {"padding": 1, "groups": 2}, (10, 10)),
    "grouped 1x3x3": ((128, 128, (1, 3, 3)), {"padding": 1, "groups": 8}, (14, 14)),
    "grouped, few pixels": ((64, 64, 3), {"padding": 1, "groups": 4}, (6, 6)),
    "grouped, pairs for many frames": ((256, 256, 3), {"padding": 1, "groups": 32}, (5, 5)),
    "grouped 1x3x3, few pixels": ((32, 32, (1, 3, 3)), {"padding": 1, "groups": 2}, (10, 10)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LARGE)
def test_large_streams_give_the_bits_of_one_call(name: str, dtype: str) -> None:
    """Sizes at which plans by the number of frames would differ between chunks and the whole."""
    arguments, options, size = LARGE[name]
    made = layer(*arguments, **options)
    made.set_dtype(DTYPES[dtype])
    x = normal(1, 9, *size, arguments[0]).astype(DTYPES[dtype])
    whole = made(x, activation="silu")
    for cuts in ([1] * 8, [1, 4, 4], [2, 0, 5]):
        assert mx.array_equal(streamed(made, x, cuts, activation="silu"), whole)


@pytest.mark.parametrize("isa", ["sse2", "avx2", "avx512"])
def test_streams_with_other_instructions(isa: str) -> None:
    """The drawn streams once more, in a process of its own: the instruction set is chosen once."""
    if mlx_conv3d._ext.isa() == "neon":
        return
    select = "test_streams_give_the_bits_of_one_call"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", select],
        env={**os.environ, "MLX_CONV3D_ISA": isa, "HYPOTHESIS_PROFILE": "quick"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_plans_of_streams_do_not_follow_the_frames() -> None:
    """The same shapes without `per_frame` change their algorithm with the number of frames."""

    def chosen(frames: int, per_frame: bool) -> tuple[str, int]:
        parameters = mlx_conv3d._arguments.parameters(3, padding=((2, 0), 1, 1), per_frame=per_frame)
        found = mlx_conv3d.planning.plan_of(
            (1, frames, 8, 8, 64), (64, 3, 3, 3, 64), parameters, x_type=mx.float32, w_type=mx.float32
        )
        return found.algorithm, found.tile

    counts = (1, 2, 4, 8, 33, 200)
    assert len({chosen(frames, True) for frames in counts}) == 1
    assert len({chosen(frames, False) for frames in counts}) > 1


def test_residual_of_a_chunk_is_the_chunks_own() -> None:
    made, x = layer(6, 6, 3, padding=1), normal(1, 5, 6, 6, 6)
    y, state = made.step(x[:, :2], residual=x[:, :2])
    z, _ = made.step(x[:, 2:], state, residual=x[:, 2:])
    assert mx.array_equal(mx.concatenate([y, z], axis=1), made(x, residual=x))


def test_a_chunk_that_completes_no_frame() -> None:
    made = layer(6, 8, (3, 3, 3), stride=(2, 2, 2), padding=1)
    x = normal(2, 2, 7, 9, 6).astype(mx.bfloat16)
    y, state = made.step(x[:, :1])
    assert y.shape == (2, 1, 4, 5, 8)
    y, state = made.step(x[:, 1:], state)
    assert y.shape == (2, 0, 4, 5, 8) and y.dtype == mx.float32  # the weights are float32
    y, _ = made.step(x[:, :0], state, residual=mx.zeros((2, 0, 4, 5, 8)))
    assert y.shape == (2, 0, 4, 5, 8)
    with pytest.raises(ValueError, match=r"residual .*\(2, 0, 4, 5, 8\)"):
        made.step(x[:, :0], state, residual=mx.zeros((2, 1, 4, 5, 8)))


def test_a_state_can_be_used_twice() -> None:
    made, x = layer(4, 4, 3, padding=1), normal(1, 6, 6, 6, 4)
    _, state = made.step(x[:, :3])
    first, second = (made.step(x[:, 3:], state)[0] for _ in range(2))
    assert mx.array_equal(first, second) and mx.array_equal(first, made(x)[:, 3:])


@pytest.mark.parametrize("batch", [1, 2])
def test_a_state_keeps_its_own_frames_in_memory_only(batch: int) -> None:
    made = nn.CausalConv3d(16, 16, 3, padding=1)
    x = normal(batch, 30, 48, 48, 16)
    mx.eval(made(x[:, :1]))
    gc.collect()
    mx.clear_cache()  # MLX may hand out a kept buffer that is larger than what it is asked for
    before = mx.get_active_memory() - x.nbytes
    y, state = made.step(x)
    mx.eval(y)
    del x, y
    gc.collect()
    assert state.frames.shape == (batch, 2, 48, 48, 16)
    assert mx.get_active_memory() - before <= state.frames.nbytes + 4096


def test_states_of_other_streams_are_refused() -> None:
    made, x = layer(4, 4, 3, padding=1), normal(1, 3, 6, 6, 4)
    _, state = made.step(x)
    for wrong in (normal(2, 3, 6, 6, 4), normal(1, 3, 6, 5, 4), x.astype(mx.float16)):
        with pytest.raises(ValueError, match="state holds frames"):
            made.step(wrong, state)


# ---- layers of published models, as docs/nn.md maps them -----------------------------------------------------


def padded_conv(made: nn.CausalConv3d, x: mx.array) -> mx.array:
    """The layer's convolution of frames that are padded in time already."""
    return mlx_conv3d.conv3d(
        x,
        made.weight,
        made.stride,
        (0, *made.padding),
        bias=made.bias,
        padding_mode=("zeros", *made.padding_mode),
    )


def assert_close(got: mx.array, expected: mx.array) -> None:
    assert got.shape == expected.shape
    assert mx.allclose(got, expected, atol=1e-4)


def test_cached_frames_in_front_of_every_chunk() -> None:
    """Wan's cache: the last two frames, or the last of the chunk before and this one, and zeros for what lacks."""
    made, x = layer(6, 8, 3, padding=1), normal(1, 9, 6, 6, 6)
    cache, state = mx.zeros((1, 2, 6, 6, 6)), None
    for first, last in ((0, 1), (1, 5), (5, 6), (6, 9)):
        chunk = mx.concatenate([cache, x[:, first:last]], axis=1)
        y, state = made.step(x[:, first:last], state)
        assert_close(y, padded_conv(made, chunk))
        cache = chunk[:, -2:]


def test_time_is_halved_after_one_cached_frame() -> None:
    """Wan's encoder: the first frame passes, then pairs follow the last frame of the chunk before."""
    made, x = layer(6, 6, (3, 1, 1), stride=(2, 1, 1)), normal(1, 9, 4, 4, 6)
    theirs = [x[:, :1]] + [padded_conv(made, x[:, first - 1 : first + 4]) for first in (1, 5)]
    state, ours = None, []
    for first, last in ((0, 1), (1, 5), (5, 9)):
        y, state = made.step(x[:, first:last], state)
        ours.append(y)
    ours[0] = x[:, :1]
    assert_close(mx.concatenate(ours, axis=1), mx.concatenate(theirs, axis=1))


@pytest.mark.parametrize("stride", [1, (2, 1, 1), 2])
def test_first_frame_repeated(stride: Any) -> None:
    """LTX, CogVideoX: KD - 1 copies of the first frame in front, zeros around."""
    made, x = layer(6, 6, 3, stride, padding=1, time_padding="edge"), normal(1, 7, 6, 6, 6)
    repeated = mx.concatenate([x[:, :1], x[:, :1], x], axis=1)
    assert_close(made(x), padded_conv(made, repeated))


@pytest.mark.parametrize("stride", [1, 2])
def test_replicated_in_time_and_space(stride: int) -> None:
    """HunyuanVideo and Mochi: one replicating pad of all three axes."""
    options = {"time_padding": "edge", "padding_mode": "edge"}
    made, x = layer(6, 6, 3, stride, padding=1, **options), normal(1, 5, 6, 7, 6)
    widths = ((0, 0), (2, 0), (1, 1), (1, 1), (0, 0))
    padded = mx.array(np.pad(np.array(x), widths, mode="edge"))
    expected = mlx_conv3d.conv3d(padded, made.weight, stride, bias=made.bias)
    assert_close(made(x), expected)


def test_first_and_last_frame_repeated() -> None:
    """LTX without causality is a Conv3d that is not a stream."""
    made, x = nn.Conv3d(6, 6, 3, 1, 1, padding_mode=("edge", "zeros", "zeros")), normal(1, 5, 6, 6, 6)
    repeated = mx.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
    assert_close(made(x), mlx_conv3d.conv3d(repeated, made.weight, 1, (0, 1, 1), bias=made.bias))
