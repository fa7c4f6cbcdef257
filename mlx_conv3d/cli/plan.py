"""`mlx-conv3d plan`: which algorithm a convolution would take, and why."""

from __future__ import annotations

from typing import Annotated

import mlx.core as mx
import typer

import mlx_conv3d
from mlx_conv3d.cli.mistakes import told
from mlx_conv3d.planning import DTYPES


def parse_shape(name: str, text: str) -> tuple[int, ...]:
    """The sizes of "1x9x60x104x96"."""
    try:
        return tuple(int(size) for size in text.lower().split("x"))
    except ValueError:
        raise ValueError(f"{name} must look like 1x9x60x104x96, got {text!r}") from None


def parse_axes(name: str, text: str) -> int | list[int]:
    """One int for all axes, or one each: "2" or "1,2,2"."""
    try:
        values = [int(value) for value in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} must look like 2 or 1,2,2, got {text!r}") from None
    return values if len(values) > 1 else values[0]


def parse_padding(text: str, dims: int) -> int | list[int | tuple[int, int]]:
    """As `parse_axes`, where "2:0" stands for 2 positions before the axis and none behind it."""
    entries: list[int | tuple[int, int]] = []
    try:
        for entry in text.split(","):
            lo, colon, hi = entry.partition(":")
            entries.append((int(lo), int(hi)) if colon else int(lo))
    except ValueError:
        raise ValueError(f"--padding must look like 1 or 2:0,1,1, got {text!r}") from None
    return entries if len(entries) > 1 else entries * dims


def parse_dtype(name: str, text: str) -> mx.Dtype:
    if text not in DTYPES:
        raise ValueError(f"{name} must be one of {', '.join(DTYPES)}, got {text!r}")
    return DTYPES[text]


def plan(
    x: Annotated[str, typer.Argument(help="The input's shape, (N, ..., C), like 1x9x60x104x96.")],
    w: Annotated[str, typer.Argument(help="The weights' shape, (O, ..., C/groups), like 96x3x3x3x96.")],
    stride: Annotated[str, typer.Option(help="One for all axes, or like 1,2,2.")] = "1",
    padding: Annotated[str, typer.Option(help="One for all axes, or like 2:0,1,1 (before:behind).")] = "0",
    dilation: Annotated[str, typer.Option(help="Of the kernel.")] = "1",
    input_dilation: Annotated[
        str, typer.Option(help="Of the input: a transposed convolution's stride.")
    ] = "1",
    groups: Annotated[int, typer.Option(help="Groups of channels.")] = 1,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    w_dtype: Annotated[str, typer.Option(help="The weights' type where it differs.")] = "",
    padding_mode: Annotated[
        str, typer.Option(help="zeros, edge or reflect, or like edge,zeros,zeros.")
    ] = "zeros",
    upsample: Annotated[
        str, typer.Option(help="Nearest-neighbour, in front: 2 for rows and columns, or like 1,2,2.")
    ] = "1",
    activation: Annotated[str, typer.Option(help="relu, silu, gelu, sigmoid or tanh.")] = "",
    bias: Annotated[bool, typer.Option("--bias", help="With a bias.")] = False,
    residual: Annotated[bool, typer.Option("--residual", help="With a residual.")] = False,
    flip: Annotated[bool, typer.Option("--flip", help="With the kernel flipped.")] = False,
    lead: Annotated[int, typer.Option(help="Frames that stand before x.", min=0)] = 0,
    prepared: Annotated[bool, typer.Option("--prepared", help="With weights from prepare().")] = False,
    algorithm: Annotated[str, typer.Option(help="Force one by name.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu for this machine's, or a GPU from m1 to m5-max.")] = "cpu",
    workspace_limit: Annotated[int, typer.Option(help="In bytes; 0 for the default of 256 MiB.", min=0)] = 0,
) -> None:
    """Print which algorithm a convolution would take, why, and what the others would cost.

    Nothing is computed. Times are modelled, not measured.
    """
    with told():
        x_shape, modes = parse_shape("X", x), padding_mode.split(",")
        found = mlx_conv3d.plan(
            x_shape,
            parse_shape("W", w),
            dtype=parse_dtype("--dtype", dtype),
            w_dtype=parse_dtype("--w-dtype", w_dtype or dtype),
            stride=parse_axes("--stride", stride),
            padding=parse_padding(padding, len(x_shape) - 2),
            dilation=parse_axes("--dilation", dilation),
            input_dilation=parse_axes("--input-dilation", input_dilation),
            groups=groups,
            flip=flip,
            bias=bias,
            activation=activation or None,
            residual=residual,
            padding_mode=modes if len(modes) > 1 else padding_mode,
            upsample=parse_axes("--upsample", upsample),
            lead=lead,
            prepared=prepared,
            algorithm=algorithm,
            device=device,
            workspace_limit=workspace_limit or None,
        )
    typer.echo(str(found))
