"""Winograd along one axis, of kernels that have taps along one alone (beside depth taps that are summed): temporal
ones, rows and columns, and all of 1-D, against float64."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import operands
import pytest
import reference
from problems import Problem, of
from test_accuracy import DATA, arrays_of, relative_error

import mlx_conv3d
from mlx_conv3d import nn, prepare

PROBLEMS: dict[str, Problem] = {
    "frames": of((1, 9, 7, 6, 33), (37, 3, 1, 1, 33), padding=(1, 0, 0)),
    "frames, images": of((2, 8, 3, 5, 16), (16, 3, 1, 1, 16)),
    "frames, five taps": of((1, 11, 5, 6, 20), (48, 5, 1, 1, 20), padding=((4, 0), 0, 0)),
    "frames, seven taps": of((2, 9, 4, 5, 24), (20, 7, 1, 1, 24), padding=(3, 0, 0)),
    "frames, one position": of((1, 40, 1, 1, 32), (32, 3, 1, 1, 32), padding=(1, 0, 0)),
    "frames, one output frame": of((1, 3, 6, 7, 64), (48, 3, 1, 1, 64)),
    "frames, dilated": of((1, 17, 4, 5, 32), (40, 3, 1, 1, 32), padding=(2, 0, 0), dilation=(3, 1, 1)),
    "frames, reflect": of((1, 9, 4, 5, 32), (40, 3, 1, 1, 32), padding=(1, 0, 0), modes="reflect"),
    "frames, spatial stride": of((1, 9, 7, 8, 32), (40, 3, 1, 1, 32), padding=1, stride=(1, 2, 3)),
    "frames, upsampled": of((1, 4, 5, 4, 32), (24, 3, 1, 1, 32), padding=(1, 0, 0), upsample=2),
    "frames, cropped": of((1, 12, 6, 5, 32), (24, 3, 1, 1, 32), padding=(-1, 0, -1)),
    "columns": of((1, 3, 21, 6, 32), (40, 1, 3, 1, 32), padding=(0, 1, 0)),
    "columns, depth taps": of((1, 5, 13, 6, 32), (40, 3, 3, 1, 32), padding=(1, 1, 0)),
    "columns, five taps": of((2, 17, 9, 48), (33, 5, 1, 48), padding=(2, 0)),
    "rows": of((1, 3, 6, 21, 32), (40, 1, 1, 3, 32), padding=(0, 0, 1)),
    "rows, depth taps and strides": of((1, 9, 8, 26, 32), (40, 3, 1, 5, 32), padding=(1, 0, 2), stride=(2, 2, 1)),
    "rows, depth dilation": of((1, 7, 5, 16, 32), (40, 2, 1, 3, 32), dilation=(3, 1, 2)),
    "1-D": of((1, 70, 32), (40, 3, 32), padding=1),
    "1-D, five taps, batch": of((5, 33, 24), (40, 5, 24), padding=2),
    "1-D, seven taps, dilated": of((2, 90, 32), (40, 7, 32), padding=9, dilation=3),
    "1-D, upsampled": of((2, 41, 32), (40, 3, 32), padding=1, upsample=2),
    "1-D, causal": of((1, 70, 32), (40, 3, 32), padding=((2, 0),)),
    "1-D, many channels": of((1, 40, 300), (130, 3, 300), padding=1),
    "one channel": of((1, 50, 1), (1, 3, 1), padding=1),
    "epilogue": of((1, 9, 5, 6, 32), (40, 3, 1, 1, 32), padding=(1, 0, 0), bias=True, residual=True, activation="silu"),
    "flipped": of((1, 9, 5, 6, 32), (40, 3, 1, 1, 32), padding=(1, 0, 0), flip=True),
    "flipped columns": of((1, 3, 13, 6, 32), (40, 2, 5, 1, 32), padding=(0, 2, 0), flip=True),
    "strided inputs and weights": of(
        (1, 9, 5, 6, 32), (40, 3, 1, 1, 32), padding=(1, 0, 0), layout="stepped", w_layout="channels_first"
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_taps_along_one_axis(name: str, dtype: str) -> None:
    problem = replace(PROBLEMS[name], x_type=dtype, w_type=dtype, extra_type=dtype)
    operands.check_run(problem, "winograd", prepared=True)


@pytest.mark.parametrize(
    ("x", "w", "tiles"),
    [
        ((1, 18, 24, 24, 128), (128, 3, 1, 1, 128), {(1, 1, 4), (1, 1, 6)}),
        ((1, 24, 24, 24, 128), (128, 7, 1, 1, 128), {(1, 1, 2)}),
        ((1, 64, 48, 128), (128, 5, 1, 128), {(1, 4, 1)}),
        ((1, 4098, 128), (128, 3, 128), {(4, 1, 1), (6, 1, 1)}),
        ((1, 4098, 128), (128, 7, 128), {(2, 1, 1)}),
    ],
    ids=["frames", "seven taps", "columns", "1-D", "1-D, seven taps"],
)
def test_large_layers_take_it(x: tuple[int, ...], w: tuple[int, ...], tiles: set[tuple[int, ...]]) -> None:
    """Wherever fp32 products are vectors', in tiles along the kernel's axis: its multiplications are half or less."""
    planned = mlx_conv3d.plan(x, w, algorithm="auto" if mlx_conv3d._ext.isa() != "amx" else "winograd")
    assert (planned.algorithm, planned.parts) == ("winograd", 0)
    assert (planned.tile, planned.tile_height, planned.depth_tile) in tiles
    assert planned.flops < 0.75 * planned.direct_flops
    assert "along" in planned.reason


def test_prepared_weights_are_those_of_the_axis() -> None:
    """(O, 3, 1, 1, C) and (O, 1, 1, 3, C) of the same numbers: each is transformed for the axis of its taps."""
    rng = np.random.default_rng(0)
    taps = mx.array(rng.normal(size=(128, 3, 128)).astype(np.float32))
    line = mx.array(rng.normal(size=(1, 512, 128)).astype(np.float32))
    frames = mlx_conv3d.conv3d(
        line.reshape(1, 512, 1, 1, 128), prepare(taps.reshape(128, 3, 1, 1, 128)), algorithm="winograd"
    )
    columns = mlx_conv3d.conv3d(
        line.reshape(1, 1, 512, 1, 128), prepare(taps.reshape(128, 1, 3, 1, 128)), algorithm="winograd"
    )
    weights = prepare(taps)
    rows = mlx_conv3d.conv1d(line, weights, algorithm="winograd")
    assert len(weights._packed) == 1
    exact = reference.linear(operands.float64(line), operands.float64(taps), reference.Conv.of(1))
    for y in (frames, columns, rows):
        error = reference.norm(operands.float64(y).reshape(exact.shape) - exact)
        assert error <= 3e-6 * reference.norm(exact)


ACCURATE: dict[str, Problem] = {
    "F(6, 3)": of((1, 62, 1, 5, 256), (32, 3, 1, 1, 256)),
    "F(4, 5)": of((1, 68, 256), (32, 5, 256)),
    "F(2, 7)": of((1, 70, 256), (32, 7, 256)),
    "1024 channels": of((1, 62, 1024), (32, 3, 1024)),
}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", ACCURATE)
def test_float32_of_any_data(name: str, data: str) -> None:
    problem = ACCURATE[name]
    form = operands.plan_of(problem, "winograd")
    m = max(form.tile, form.tile_height, form.depth_tile)
    assert name == "1024 channels" or name == f"F({m}, {max(problem.w[1:-1])})"
    arrays, exact = arrays_of(problem, data)
    bound = reference.float32_bound("winograd", problem.terms)
    assert relative_error(operands.run(problem, arrays, "winograd"), exact) <= bound


@pytest.mark.parametrize(
    ("message", "x", "w", "options"),
    [
        ("stride 1 along it", (1, 9, 8, 8, 16), (16, 3, 1, 1, 16), {"stride": (2, 1, 1)}),
        ("stride 1 along it", (1, 90, 16), (16, 3, 16), {"stride": 2}),
        ("input dilation 1", (1, 9, 8, 8, 16), (16, 1, 3, 1, 16), {"input_dilation": (2, 1, 1)}),
        ("without lead frames", (1, 9, 8, 8, 16), (16, 3, 1, 1, 16), {"lead": 2}),
        ("3, 5 or 7 taps along one axis", (1, 90, 16), (16, 4, 16), {}),
        ("3, 5 or 7 taps along one axis", (1, 9, 30, 30, 16), (16, 1, 7, 7, 16), {}),
        ("groups 1", (1, 90, 16), (16, 3, 8), {"groups": 2}),
    ],
)
def test_what_it_cannot_take_is_refused(
    message: str, x: tuple[int, ...], w: tuple[int, ...], options: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=message):
        mlx_conv3d.plan(x, w, algorithm="winograd", **options)


def test_prepared_weights_are_used() -> None:
    """What is kept is what is multiplied with: zeros in its place give zeros."""
    rng = np.random.default_rng(1)
    for shape in ((32, 3, 1, 1, 24), (32, 1, 5, 1, 24), (32, 2, 1, 7, 24)):
        weights = prepare(mx.array(rng.normal(size=shape).astype(np.float32)))
        x = mx.array(rng.normal(size=(1, 9, 9, 9, 24)).astype(np.float32))
        assert mx.any(mlx_conv3d.conv3d(x, weights, algorithm="winograd") != 0)
        (key,) = weights._packed
        weights._packed[key] = mx.zeros_like(weights._packed[key])
        assert not mx.any(mlx_conv3d.conv3d(x, weights, algorithm="winograd") != 0)


@pytest.mark.parametrize("channels", [24, 300])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_weights_cut_out_of_larger_kernels(axis: int, channels: int) -> None:
    """Views whose taps are as far apart along each axis as those of all of the kernel."""
    rng = np.random.default_rng(2)
    whole = mx.array(rng.normal(size=(32, 5, 5, 5, channels)).astype(np.float32))
    w = whole[(slice(None), *(slice(None) if at == axis else slice(2, 3) for at in (1, 2, 3)))]
    x = mx.array(rng.normal(size=(1, 12, 11, 10, channels)).astype(np.float32))
    mx.eval(w, x)
    exact = reference.linear(operands.float64(x), operands.float64(w), reference.Conv.of(3))
    for weight in (w, prepare(w)):
        y = operands.float64(mlx_conv3d.conv3d(x, weight, algorithm="winograd"))
        assert reference.norm(y - exact) <= 3e-6 * reference.norm(exact)
    dy = mx.array(rng.normal(size=exact.shape).astype(np.float32))
    _, (dx,) = mx.vjp(lambda x: mlx_conv3d.conv3d(x, w), [x], [dy])
    wanted = reference.adjoint(
        operands.float64(dy), operands.float64(x), operands.float64(w), reference.Conv.of(3)
    ).x
    assert reference.norm(operands.float64(dx) - wanted) <= 3e-6 * reference.norm(wanted)


def test_weights_made_panel_by_panel() -> None:
    """Few positions and many channels."""
    problem = of((1, 12, 3, 3, 300), (400, 3, 1, 1, 300), padding=(1, 0, 0))
    assert operands.plan_of(problem, "winograd").weight_channels > 0
    operands.check_run(problem, "winograd")


def test_a_small_workspace_limit() -> None:
    problem = of((1, 20, 40, 42, 96), (96, 5, 1, 1, 96))
    before = mlx_conv3d.set_workspace_limit(16 << 20)
    try:
        assert operands.plan_of(problem, "winograd").workspace <= 16 << 20
        operands.check_run(problem, "winograd")
    finally:
        mlx_conv3d.set_workspace_limit(before)


@pytest.mark.parametrize(
    ("x", "w", "tiles"),
    [
        ((1, 18, 24, 24, 64), (64, 3, 1, 1, 64), "x1x1 outputs"),
        ((1, 48, 40, 64), (64, 5, 1, 64), "tiles of 1x4x1 outputs"),
        ((1, 4098, 64), (64, 7, 64), "tiles of 1x1x2 outputs"),
    ],
)
def test_a_plan_says_its_tiles(x: tuple[int, ...], w: tuple[int, ...], tiles: str) -> None:
    text = str(mlx_conv3d.plan(x, w, algorithm="winograd"))
    assert "winograd, tiles of" in text and tiles in text


LARGE: dict[str, Problem] = {
    "frames": of((1, 12, 20, 22, 64), (96, 3, 1, 1, 64), padding=((2, 0), 0, 0)),
    "columns": of((1, 64, 30, 96), (64, 5, 1, 96), padding=(2, 0)),
    "1-D": of((2, 700, 96), (64, 7, 96), padding=((6, 0),)),
}


@pytest.mark.parametrize("name", LARGE)
def test_gradients(name: str) -> None:
    """dL/dx is such a layer too, with its taps reversed."""
    problem = LARGE[name]
    made = operands.make(problem)
    x, w = made.arrays["x"], made.arrays["w"]
    cotangent = mx.array(np.random.default_rng(5).normal(size=problem.out_shape).astype(np.float32))
    _, found = mx.vjp(lambda x, w: operands.run(problem, {"x": x, "w": w}), [x, w], [cotangent])
    exact = reference.adjoint(operands.float64(cotangent), made.exact["x"], made.exact["w"], problem.conv)
    for gradient, wanted in zip(found, (exact.x, exact.w), strict=True):
        assert reference.norm(operands.float64(gradient) - wanted) <= 3e-6 * reference.norm(wanted)


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), (3, 2), (2, 3)])
def test_a_temporal_stream_has_the_bits_of_one_call(pieces: tuple[int, ...]) -> None:
    """Groups of frames would begin where a chunk does, so streams sum tap by tap."""
    layer = nn.CausalConv3d(64, 48, (3, 1, 1))
    x = mx.array(np.random.default_rng(3).normal(size=(1, sum(pieces), 8, 9, 64)).astype(np.float32))
    assert mx.array_equal(operands.stepped(layer, x, pieces), layer(x))


BITS = """
import hashlib
import mlx.core as mx
import numpy as np
import mlx_conv3d
mx.set_default_device(mx.cpu)
for shapes in ((1, 16, 40, 42, 40), (40, 3, 1, 1, 40)), ((1, 9000, 64), (64, 5, 64)), ((1, 12, 9, 8, 256), (96, 3, 1, 1, 256)):
    x, w = (mx.random.normal(shape, key=mx.random.key(i)) for i, shape in enumerate(shapes))
    conv = mlx_conv3d.conv3d if x.ndim == 5 else mlx_conv3d.conv1d
    chosen = mlx_conv3d.plan(*shapes, algorithm="winograd")
    digest = hashlib.sha256(np.array(conv(x, w, algorithm="winograd")).tobytes()).hexdigest()
    print(x.ndim, chosen.tile, chosen.depth_tile, digest)
"""  # noqa: E501


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    found: dict[tuple[str, ...], set[str]] = {}
    for threads in (1, 2, 3, 7):
        for line in operands.printed_by(BITS, threads).splitlines():
            *form, digest = line.split()
            found.setdefault(tuple(form), set()).add(digest)
    assert all(len(digests) == 1 for digests in found.values()), found
