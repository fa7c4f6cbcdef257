"""Plans: what a convolution would do, without doing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import mlx.core as mx

from mlx_conv3d import _arguments as arguments
from mlx_conv3d import _ext
from mlx_conv3d._arguments import IntOrSequence, Padding, PaddingMode

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
OWN = "MLX's own: "  # before the name of stock's route


@dataclass(frozen=True)
class Candidate:
    """One algorithm's offer for a problem.

    `algorithm` by name; `legal` and `reason`, which says which constraint fails, or what the algorithm does here;
    `cost` modelled, in seconds; `flops` executed, `bytes` moved (modelled), `workspace` in bytes; `parts` the bf16
    parts that a CPU's matrix unit takes operands in (1, 2 or 3) or 0 where products are of fp32 numbers; `tile` the m
    of Winograd's F(m, k) along the width or 0, `tile_height` and `depth_tile` the same along the height and depth, 1
    where taps along that axis are summed or there is one, `pixels` whether that reads the input as it is ("single"),
    what is stored of one upsampled ("doubled") or dilated by 2 ("dilated"), or two pixels to an output ("strided"),
    `weight_rows` the rows of Winograd's frequencies whose weights every chunk makes at a time or
    0 where all are made once, `weight_outs` the output channels whose weights it then makes at a time or 0 for all,
    `weight_channels` the input channels whose weights a CPU's thread makes at a time for one panel of output channels
    or 0 where all are made beforehand, `thread_chunks` whether each chunk belongs to one of a CPU's threads, in whose
    cache it stays, `chunk` the sizes of what is computed at a time.
    """

    algorithm: str
    legal: bool
    reason: str
    cost: float
    flops: float
    bytes: float
    workspace: int
    parts: int
    tile: int
    tile_height: int
    pixels: str
    depth_tile: int
    weight_rows: int
    weight_outs: int
    weight_channels: int
    thread_chunks: bool
    chunk: tuple[int, int, int]


@dataclass(frozen=True)
class Plan(Candidate):
    """How a convolution is computed: the candidate that was chosen, its `reason` with why it was.

    `direct_flops` are those of the textbook sum, `candidates` all algorithms considered, `program` the GPU's steps
    (None on the CPU). Printing it gives a table.
    """

    direct_flops: float
    problem: str
    device: str
    candidates: tuple[Candidate, ...]
    program: Any = None

    def __str__(self) -> str:
        head = [
            self.problem,
            f"on {self.device}: {self.algorithm}" + self._tiles(),
            f"  {self.reason}",
            f"  {self.flops / 1e9:.3f} GFLOP executed, {self.direct_flops / 1e9:.3f} direct; "
            f"{self.bytes / 1e6:.1f} MB moved (modelled); workspace {self.workspace / 2**20:.1f} MiB",
            f"  {'algorithm':14} {'modelled ms':>12} {'GFLOP':>10} {'MB moved':>10} {'workspace MiB':>14}",
        ]
        rows = [
            f"  {c.algorithm:14} {c.cost * 1e3:12.3f} {c.flops / 1e9:10.3f} {c.bytes / 1e6:10.1f} "
            f"{c.workspace / 2**20:14.1f}"
            if c.legal
            else f"  {c.algorithm:14} {c.reason}"
            for c in self.candidates
        ]
        return "\n".join(head + rows + _program_rows(self.program) + self._beside_stock())

    def _tiles(self) -> str:
        """Winograd's in words."""
        if not self.tile:
            return ""
        tile = f", tiles of {self.depth_tile}x{self.tile_height}x{self.tile} outputs"
        return tile + ("" if self.pixels == "single" else f" of {self.pixels} pixels")

    def _beside_stock(self) -> list[str]:
        """What stock MLX would do in place of the GPU program."""
        if self.program is None:
            return []
        stock = next(c for c in self.candidates if c.algorithm == "stock")
        rows = [
            f"  stock MLX instead, modelled: {stock.reason.removeprefix(OWN)}; {stock.cost * 1e3:.3f} ms, "
            f"{stock.flops / 1e9:.3f} GFLOP, {stock.bytes / 1e6:.1f} MB moved, "
            f"{stock.workspace / 2**20:.1f} MiB alive at once"
        ]
        if self.cost and stock.flops and stock.bytes:
            rows.append(
                f"  against it, modelled: {stock.cost / self.cost:.2f} times as fast, "
                f"{self.flops / stock.flops:.2f} of the FLOPs, {self.bytes / stock.bytes:.2f} of the bytes moved"
            )
        return rows


def _program_rows(program: dict[str, Any] | None) -> list[str]:
    """The steps of a Program, those of one kernel in one line."""
    if program is None:
        return []
    by_kernel: dict[str, list[dict[str, Any]]] = {}
    for step in program["steps"]:
        by_kernel.setdefault(step["kernel"], []).append(step)
    barriers = sum(step["barrier"] for step in program["steps"])
    rows = [
        f"  GPU program, nothing measured: {len(program['steps'])} steps, {barriers} of them behind a barrier",
        f"  {'kernel':32} {'steps':>6} {'largest grid':>18} {'MB touched':>12} {'GFLOP':>10}",
    ]
    for kernel, steps in by_kernel.items():
        grid = max((s["grid"] for s in steps), key=lambda g: int(g[0]) * int(g[1]) * int(g[2]))
        rows.append(f"  {kernel:32} {len(steps):6} {'x'.join(map(str, grid)):>18} {_totals(steps)}")
    rows.append(f"  {'all':32} {len(program['steps']):6} {'':18} {_totals(program['steps'])}")
    scratch = {b["name"]: b["nbytes"] for b in program["buffers"] if b["role"] == "scratch"}
    sizes = ", ".join(f"{name} {nbytes / 2**20:.1f} MiB" for name, nbytes in scratch.items())
    return [*rows, f"  scratch: {sizes or 'none'}"]


def _totals(steps: Sequence[dict[str, Any]]) -> str:
    """Bytes that the steps read and write, as if there were no cache, and their operations."""
    return f"{sum(s['nbytes'] for s in steps) / 1e6:12.1f} {sum(s['flops'] for s in steps) / 1e9:10.3f}"


def plan_of(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    parameters: arguments.Parameters,
    *,
    x_type: mx.Dtype,
    w_type: mx.Dtype,
    out_type: mx.Dtype | None = None,
    bias: bool = False,
    residual: bool = False,
    lead: int = 0,
    prepared: bool = False,
    algorithm: str = "auto",
    limit: int = 0,
    gpu: str = "",
    winograd: Sequence[int] = (),
    strides: Mapping[str, Sequence[int]] | None = None,
    block: Sequence[int] = (),
    switched_off: Sequence[str] = (),
    checks: _ext.SelfChecks | None = None,
) -> Plan:
    """The plan of a convolution whose parameters are already parsed.

    Only for a GPU's program: `winograd` sets the tile and chunks, `block` the rows and columns of a gathered product's
    blocks, `strides` says how x, lead and w lie in memory. Kernels that are `switched_off` are not used, nor those that
    `checks` does not pass.
    """
    d = _ext.plan(
        list(x_shape),
        list(w_shape),
        parameters.core,
        x_type=x_type,
        w_type=w_type,
        out_type=promote(x_type, w_type) if out_type is None else out_type,
        bias=bias,
        residual=residual,
        lead=lead,
        prepared=prepared,
        algorithm=arguments.algorithm_name(algorithm),
        limit=limit,
        gpu=gpu,
        winograd=list(winograd),
        strides=dict(strides or {}),
        block=list(block),
        switched_off=list(switched_off),
        checks=checks,
    )
    candidates = tuple(Candidate(**c) for c in d.pop("candidates"))
    return Plan(**d, candidates=candidates)


def promote(*types: mx.Dtype) -> mx.Dtype:
    """The type that MLX's own arithmetic would promote to."""
    return reduce(lambda a, b: mx.result_type(mx.zeros(0, a), mx.zeros(0, b)), types)


def plan(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    *,
    dtype: mx.Dtype = mx.float32,
    w_dtype: mx.Dtype | None = None,
    device: str | None = None,
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    dilation: IntOrSequence = 1,
    input_dilation: IntOrSequence = 1,
    groups: int = 1,
    flip: bool = False,
    bias: bool = False,
    activation: str | None = None,
    residual: bool = False,
    padding_mode: PaddingMode = "zeros",
    upsample: IntOrSequence = 1,
    lead: int = 0,
    prepared: bool = False,
    algorithm: str = "auto",
    workspace_limit: int | None = None,
) -> Plan:
    """What the convolution of arrays of these shapes would do. A pure function: nothing is computed.

    Args:
        x_shape, w_shape: shapes as `conv3d`, `conv2d` or `conv1d` take them.
        dtype: type of x, and of w unless `w_dtype` says otherwise.
        device: None or "cpu" for this machine's CPU, or an Apple GPU from "m1" to "m5-max", whose plan has a
            `program`; everything about a GPU is modelled.
        bias, residual: whether there is one.
        lead: number of lead frames.
        prepared: whether w comes from `prepare`, so that its transform is not paid.
        workspace_limit: in bytes, instead of the limit in force.
        The rest as in `conv3d` and `conv_general`.

    Raises:
        ValueError: shapes or values that do not fit, or a forced algorithm that is not legal; the message says why.
    """
    dims = len(x_shape) - 2
    if not 1 <= dims <= 3:
        raise ValueError(f"x_shape must have 3 to 5 entries, (N, ..., C), got {tuple(x_shape)}")
    for name, shape in (("x_shape", x_shape), ("w_shape", w_shape)):
        if any(int(v) < 0 for v in shape):
            raise ValueError(f"{name} must not be negative, got {tuple(shape)}")
    weight_dtype = dtype if w_dtype is None else w_dtype
    for name, t in (("dtype", dtype), ("w_dtype", weight_dtype)):
        if not isinstance(t, mx.Dtype):
            raise TypeError(f"{name} must be an mx.Dtype, got {type(t).__name__}")
        if t not in DTYPES.values():
            raise ValueError(f"{name} must be float32, float16 or bfloat16, got {t}")
    parameters = arguments.parameters(
        dims,
        stride=stride,
        padding=padding,
        dilation=dilation,
        input_dilation=input_dilation,
        groups=groups,
        padding_mode=padding_mode,
        activation=activation,
        flip=flip,
        upsample=upsample,
    )
    return plan_of(
        tuple(int(v) for v in x_shape),
        tuple(int(v) for v in w_shape),
        parameters,
        x_type=dtype,
        w_type=weight_dtype,
        bias=bias,
        residual=residual,
        lead=lead,
        prepared=prepared,
        algorithm=algorithm,
        limit=0 if workspace_limit is None else workspace_limit,
        gpu="" if device is None or device == "cpu" else device,
    )
