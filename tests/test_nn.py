"""The layers: against float64, streamed against whole, their cached transforms, and weights from PyTorch."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as stock
import mlx.optimizers as optimizers
import numpy as np
import pytest
import reference
from mlx.utils import tree_flatten
from operands import float64

import mlx_conv3d
from mlx_conv3d import nn

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng((seed, *shape)).normal(size=shape).astype(np.float32))


def layer(*arguments: Any, **options: Any) -> nn.CausalConv3d:
    """A causal layer whose bias is not zero."""
    made = nn.CausalConv3d(*arguments, **options)
    if "bias" in made:
        made.bias = normal(*made.bias.shape)
    return made


def held_to(y: mx.array, exact: np.ndarray) -> None:
    assert y.shape == exact.shape
    assert reference.norm(float64(y) - exact) <= 3e-6 * reference.norm(exact)


# ---- against float64 ---------------------------------------------------------------------------------------


def causal_by_hand(of: nn.CausalConv3d, x: mx.array) -> np.ndarray:
    """Pixels repeated and time padded by copies, then the reference convolution."""
    a = float64(x)
    for axis, count in enumerate(of.upsample, start=2):
        a = np.repeat(a, count, axis)
    front = np.zeros_like(a[:, :1]) if of.time_padding == "zeros" else a[:, :1]
    padded = np.concatenate([front] * of.reach + [a], axis=1)
    conv = reference.Conv.of(
        3,
        stride=of.stride,
        padding=((0, 0), *of.padding),
        dilation=of.dilation,
        modes=("zeros", *of.padding_mode),
        groups=of.groups,
    )
    return reference.forward(padded, float64(of.weight), conv, bias=float64(of.bias))


CAUSAL = {
    "3x3x3": ((12, 20, 3), {"padding": 1}),
    "edge": ((12, 20, 3), {"padding": 1, "time_padding": "edge", "padding_mode": "reflect"}),
    "strided": ((8, 8, (3, 3, 3)), {"padding": 1, "stride": 2, "padding_mode": "edge"}),
    "3x1x1": ((8, 16, (3, 1, 1)), {}),
    "upsampled": ((12, 8, (1, 3, 3)), {"padding": 1, "upsample": 2}),
    "upsampled, 3x3x3": ((8, 8, 3), {"padding": 1, "upsample": (2, 3), "padding_mode": "edge"}),
    "dilated": ((6, 6, (2, 3, 3)), {"padding": ((0, 1), 2), "dilation": (3, 1, 2)}),
    "grouped": ((8, 16, (3, 3, 3)), {"padding": 1, "groups": 4, "time_padding": "edge"}),
    "stride beyond the kernel": ((4, 4, (2, 3, 3)), {"stride": (5, 1, 1)}),
}


@pytest.mark.parametrize("frames", [1, 2, 9])
@pytest.mark.parametrize("name", CAUSAL)
def test_causal(name: str, frames: int) -> None:
    arguments, options = CAUSAL[name]
    made = layer(*arguments, **options)
    x = normal(2, frames, 7, 9, arguments[0])
    held_to(made(x), causal_by_hand(made, x))
    assert made(x).shape[1] == -(-frames // made.stride[0])


def test_causal_sees_no_later_frame() -> None:
    made, x = layer(4, 4, 3, padding=1), normal(1, 8, 6, 6, 4)
    changed = mx.concatenate([x[:, :5], -x[:, 5:]], axis=1)
    difference = mx.abs(made(x) - made(changed)).max(axis=(0, 2, 3, 4))
    assert (difference[:5] == 0).all().item() and (difference[5:] > 0).all().item()


@pytest.mark.parametrize("groups", [1, 2])
def test_weights_start_within_the_fan_in(groups: int) -> None:
    bound = (8 // groups * 27) ** -0.5
    largest = mx.abs(nn.Conv3d(8, 12, 3, groups=groups).weight).max().item()
    assert 0.9 * bound <= largest <= bound


@pytest.mark.parametrize("groups", [1, 2])
def test_conv3d(groups: int) -> None:
    made = nn.Conv3d(
        8, 12, (3, 3, 2), (1, 2, 1), (1, (0, 2), 1), groups=groups, padding_mode=("edge", "zeros", "reflect")
    )
    made.bias = normal(12)
    x, residual = normal(1, 5, 9, 8, 8), normal(1, 5, 5, 9, 12)
    conv = reference.Conv.of(
        3,
        stride=(1, 2, 1),
        padding=((1, 1), (0, 2), (1, 1)),
        modes=("edge", "zeros", "reflect"),
        groups=groups,
        activation="silu",
    )
    operands = [float64(a) for a in (x, made.weight)]
    exact = reference.forward(*operands, conv, bias=float64(made.bias), residual=float64(residual))
    held_to(made(x, activation="silu", residual=residual), exact)


@pytest.mark.parametrize("groups", [1, 3])
def test_conv_transpose3d(groups: int) -> None:
    given = {"stride": (2, 1, 3), "padding": (1, 0, 1), "dilation": (1, 2, 1), "output_padding": (1, 0, 2)}
    made = nn.ConvTranspose3d(6, 9, (3, 2, 4), **given, groups=groups)
    made.bias = normal(9)
    x = normal(2, 3, 4, 5, 6)
    conv = reference.transpose_conv((3, 2, 4), **given, groups=groups)
    held_to(made(x), reference.forward(float64(x), float64(made.weight), conv, bias=float64(made.bias)))


@pytest.mark.parametrize("name", ["Conv3d", "ConvTranspose3d"])
def test_stands_in_for_the_stock_layer(name: str) -> None:
    """Same arguments in the same order, same first weights, same names, same results."""
    arguments = (4, 6, 3, (1, 2, 2), 1, 1) if name == "Conv3d" else (4, 6, 3, 2, 1, 1, (0, 1, 1), False)
    layers = []
    for module in (nn, stock):
        mx.random.seed(3)
        layers.append(getattr(module, name)(*arguments))
    ours, theirs = (dict(tree_flatten(each.parameters())) for each in layers)
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[key], theirs[key]) for key in ours)
    x = normal(1, 3, 6, 5, 4)
    held_to(layers[0](x), float64(layers[1](x)))


# ---- transforms kept between calls -------------------------------------------------------------------------


def kept(of: nn.Conv3d) -> Any:
    return of._transforms._prepared


def fresh(of: nn.Conv3d, x: mx.array) -> mx.array:
    """The result of a copy, which starts without transforms."""
    return copy.deepcopy(of)(x)


def test_causal_series_by_stock_mlx() -> None:
    made, x = nn.CausalConv1d(6, 8, 3, dilation=4, groups=2), normal(2, 20, 6)
    made.bias = normal(8)
    past = mx.concatenate([mx.zeros((2, 8, 6)), x], axis=1)
    expected = mx.conv1d(past, made.weight, dilation=4, groups=2, stream=mx.cpu) + made.bias
    assert made.weight.shape == (8, 3, 3)
    assert made.kernel_size == (3,)
    assert mx.allclose(made(x, residual=expected), 2 * expected, atol=1e-5)
    assert repr(made) == (
        "CausalConv1d(6, 8, kernel_size=(3,), stride=1, dilation=4, time_padding=zeros, groups=2, bias=True)"
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel_size": 0}, ValueError, "kernel_size must be positive"),
        ({"stride": (1, 1)}, ValueError, "stride must have 1 entries"),
        ({"dilation": 1.5}, TypeError, "dilation must be an int"),
        ({"groups": 3}, ValueError, "in_channels must be divisible by groups"),
    ],
)
def test_causal_series_refuses(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        nn.CausalConv1d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **options})


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (mx.zeros((2, 4)), ValueError, r"x must have 3 dimensions \(N, L, C\)"),
        (None, TypeError, "x must be an mx.array"),
    ],
)
def test_causal_series_refuses_inputs(x: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        nn.CausalConv1d(4, 4, 3)(x)


def winograd_layer() -> tuple[nn.CausalConv3d, mx.array]:
    return layer(16, 16, 3, padding=1), normal(1, 4, 12, 12, 16)


def test_transforms_are_made_once_and_are_no_parameters() -> None:
    made, x = winograd_layer()
    first = made(x)
    prepared = kept(made)
    assert prepared._packed
    assert mx.array_equal(made(x), first) and kept(made) is prepared
    assert sorted(dict(tree_flatten(made.parameters()))) == ["bias", "weight"]
    made.freeze()
    made.unfreeze()
    assert kept(made) is prepared


CHANGES = {
    "update": lambda made: made.update({"weight": made.weight * 2}),
    "attribute": lambda made: setattr(made, "weight", made.weight + 1),
    "load_weights": lambda made: made.load_weights([("weight", made.weight * 3), ("bias", made.bias)]),
    "apply": lambda made: made.apply(lambda a: a - 1),
    "set_dtype": lambda made: made.set_dtype(mx.bfloat16),
    "in place": lambda made: made.weight.__setitem__(0, 1.0),
    "augmented": lambda made: made.weight.__imul__(0.5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_weights_are_transformed_anew(name: str) -> None:
    made, x = winograd_layer()
    before = made(x)
    CHANGES[name](made)
    assert mx.array_equal(made(x), fresh(made, x))
    assert not mx.array_equal(made(x), before)


def test_two_generations_are_not_kept() -> None:
    made, x = winograd_layer()
    mx.eval(made(x))
    made.weight = made.weight * 2
    assert kept(made) is None


def loss(model: nn.CausalConv3d, x: mx.array) -> mx.array:
    return mx.square(model(x)).mean()


def test_training_steps_see_their_own_weights() -> None:
    made, x = winograd_layer()
    optimizer = optimizers.SGD(0.1)
    mx.eval(made(x))
    for _ in range(3):
        value, gradients = stock.value_and_grad(made, loss)(made, x)
        assert kept(made) is None, "tracing prepares nothing"
        assert value.item() == pytest.approx(mx.square(fresh(made, x)).mean().item(), rel=1e-5)
        optimizer.update(made, gradients)
        assert mx.array_equal(made(x), fresh(made, x))


def test_compiled_training() -> None:
    made, x = winograd_layer()
    optimizer = optimizers.SGD(0.1)
    state = [made.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def train(x: mx.array) -> mx.array:
        value, gradients = stock.value_and_grad(made, loss)(made, x)
        optimizer.update(made, gradients)
        return value

    values = []
    for _ in range(3):
        values.append(train(x).item())
        mx.eval(state)
        assert mx.array_equal(made(x), fresh(made, x))
    assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_gradients_through_chunks() -> None:
    made, x = winograd_layer()

    def chunked(model: nn.CausalConv3d, x: mx.array) -> mx.array:
        y, state = model.step(x[:, :1])
        z, _ = model.step(x[:, 1:], state)
        return mx.square(mx.concatenate([y, z], axis=1)).mean()

    for argument in (made, x):
        got, expected = (
            (stock.value_and_grad(made, f)(made, x)[1]["weight"])
            if argument is made
            else mx.grad(lambda x, f=f: f(made, x))(x)
            for f in (chunked, loss)
        )
        assert reference.norm(float64(got) - float64(expected)) <= 1e-5 * reference.norm(float64(expected))


def test_steps_under_compile_and_other_transformations() -> None:
    made, x = winograd_layer()
    step = mx.compile(lambda x, state: made.step(x, state))
    y, state = step(x[:, :3], None)
    z, _ = step(x[:, 3:], state)
    assert mx.array_equal(mx.concatenate([y, z], axis=1), made(x))
    assert mx.allclose(mx.vmap(lambda x: made.step(x)[0])(x[None])[0], made(x), atol=1e-5)
    assert mx.jvp(lambda x: made.step(x)[0], [x], [x])[1][0].shape == x.shape


def test_saved_and_loaded(tmp_path: Any) -> None:
    made, x = winograd_layer()
    y = made(x)
    path = str(tmp_path / "layer.safetensors")
    made.save_weights(path)
    other = nn.CausalConv3d(16, 16, 3, padding=1)
    mx.eval(other(x))
    other.load_weights(path)
    assert mx.array_equal(other(x), y)
    assert mx.array_equal(pickle.loads(pickle.dumps(made))(x), y)


def test_mixed_types_use_their_transforms() -> None:
    """A float32 input makes the result float32, and with it another tile size than bfloat16 would have."""
    made, x = winograd_layer()
    made.weight = made.weight.astype(mx.bfloat16)
    y = made(x)
    assert y.dtype == mx.float32
    ((tile, *_), *_), *others = kept(made)._packed
    assert tile == 4 and not others
    assert mx.array_equal(y, fresh(made, x))


# ---- weights from PyTorch ----------------------------------------------------------------------------------


class Model(stock.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = [nn.CausalConv3d(4, 6, (3, 3, 3), groups=2), stock.Conv2d(6, 5, 3)]
        self.up = nn.ConvTranspose3d(8, 12, (2, 3, 4), groups=4)
        self.flat = nn.CausalConv3d(5, 7, (1, 3, 3), bias=False)
        self.norm = stock.RMSNorm(7)


def torch_shapes() -> dict[str, tuple[int, ...]]:
    return {
        "blocks.0.weight": (6, 2, 3, 3, 3),
        "blocks.0.bias": (6,),
        "blocks.1.weight": (5, 6, 3, 3),
        "blocks.1.bias": (5,),
        "up.weight": (8, 3, 2, 3, 4),
        "up.bias": (12,),
        "flat.weight": (7, 5, 3, 3),
        "norm.weight": (7, 1, 1, 1),
    }


def test_convert_a_model() -> None:
    weights = {name: normal(*shape) for name, shape in torch_shapes().items()}
    model = Model()
    converted = nn.convert_weights({k: np.array(v) for k, v in weights.items()}, model)
    model.load_weights(list(converted.items()))
    assert mx.array_equal(model.blocks[0].weight, weights["blocks.0.weight"].transpose(0, 2, 3, 4, 1))
    assert mx.array_equal(model.blocks[1].weight, weights["blocks.1.weight"].transpose(0, 2, 3, 1))
    assert mx.array_equal(model.flat.weight, weights["flat.weight"].transpose(0, 2, 3, 1)[:, None])
    assert mx.array_equal(model.norm.weight, weights["norm.weight"].flatten())


@pytest.mark.parametrize("groups", [1, 4])
def test_convert_a_transposed_layer(groups: int) -> None:
    """By the definition: y[o] at s*i + k sums x[c] at i times w[c, o, k] over the inputs of o's group."""
    made = nn.ConvTranspose3d(8, 12, (2, 3, 4), 2, groups=groups, bias=False)
    w, x = normal(8, 12 // groups, 2, 3, 4), normal(1, 2, 3, 2, 8)
    made.load_weights(list(nn.convert_weights({"weight": w}, made).items()))
    y = np.zeros((1, 4, 7, 6, 12))
    a, b = float64(x), float64(w)
    for d, h, v in np.ndindex(2, 3, 2):
        for c in range(8):
            first = c // (8 // groups) * (12 // groups)
            at = (0, slice(2 * d, 2 * d + 2), slice(2 * h, 2 * h + 3), slice(2 * v, 2 * v + 4))
            y[(*at, slice(first, first + 12 // groups))] += a[0, d, h, v, c] * np.moveaxis(b[c], 0, -1)
    held_to(made(x), y)


def test_convert_without_a_module() -> None:
    weights = {"a": normal(6, 2, 3, 4, 5), "b": normal(6, 2, 3, 4), "c": normal(6, 2, 3), "d": normal(6, 2)}
    shapes = {name: tuple(value.shape) for name, value in nn.convert_weights(weights).items()}
    assert shapes == {"a": (6, 3, 4, 5, 2), "b": (6, 3, 4, 2), "c": (6, 3, 2), "d": (6, 2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"up.weight": (12, 8, 2, 3, 4)}, r"up\.weight has shape \(12, 8, 2, 3, 4\).*\(12, 2, 3, 4, 2\)"),
        (
            {"flat.weight": (7, 5, 3, 5)},
            r"flat\.weight has shape \(7, 5, 3, 5\).*CausalConv3d's \(7, 1, 3, 3, 5\)",
        ),
        ({"norm.weight": (8,)}, r"norm\.weight has shape \(8,\).*\(7,\)"),
        ({"norm.weight": None}, r"lacks norm\.weight"),
        ({"other.weight": (1,)}, r"no parameter other\.weight"),
    ],
)
def test_weights_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    shapes = {**torch_shapes(), **change}
    weights = {name: mx.zeros(shape) for name, shape in shapes.items() if shape is not None}
    with pytest.raises(ValueError, match=message):
        nn.convert_weights(weights, Model())


# ---- arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 0}, "kernel_size"),
        ({"kernel_size": (3, 3)}, "kernel_size"),
        ({"in_channels": 0}, "in_channels"),
        ({"in_channels": 5, "groups": 2}, "in_channels"),
        ({"out_channels": 5, "groups": 2}, "out_channels"),
        ({"stride": (1, 0, 1)}, "stride"),
        ({"dilation": -1}, "dilation"),
        ({"padding": (1, 1, 1)}, "padding"),
        ({"time_padding": "reflect"}, "time_padding"),
        ({"padding_mode": ("zeros", "edge", "edge")}, "padding_mode"),
        ({"padding_mode": "circular"}, "padding_mode"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nn.CausalConv3d(**{"in_channels": 4, "out_channels": 4, "kernel_size": 3, **options})


@pytest.mark.parametrize("options", [{"bias": 1}, {"kernel_size": 2.0}, {"groups": "2"}])
def test_arguments_of_a_wrong_type(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        nn.CausalConv3d(**{"in_channels": 4, "out_channels": 4, "kernel_size": 3, **options})


def test_wrong_inputs() -> None:
    made = nn.CausalConv3d(4, 4, 3)
    with pytest.raises(TypeError, match="x must be"):
        made(np.zeros((1, 1, 5, 5, 4)))
    with pytest.raises(ValueError, match="x must have 5 dimensions"):
        made(mx.zeros((1, 5, 5, 4)))
    for frames in (0, 1):
        with pytest.raises(ValueError, match="channels"):
            made(mx.zeros((1, frames, 5, 5, 3)))
    with pytest.raises(ValueError, match="activation"):
        made(mx.zeros((1, 1, 5, 5, 4)), activation="mish")


def test_layers_are_described() -> None:
    text = repr(nn.CausalConv3d(4, 6, (3, 1, 1), groups=2, time_padding="edge"))
    assert text.startswith("CausalConv3d(4, 6, kernel_size=(3, 1, 1)")
    assert "time_padding=edge" in text and "groups=2" in text


def test_nn_is_imported_when_it_is_used() -> None:
    code = (
        "import sys, mlx_conv3d; assert 'mlx.nn' not in sys.modules; "
        "mlx_conv3d.nn.Conv3d(1, 1, 1); assert 'mlx.nn' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="nonesuch"):
        mlx_conv3d.nonesuch  # noqa: B018
