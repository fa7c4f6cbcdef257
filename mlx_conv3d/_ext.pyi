"""The compiled core. Its arguments are parsed and checked in Python; see `functional` for what they mean."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import mlx.core as mx

_Stream: TypeAlias = Any

mlx_version: str

class SelfChecks:
    def __init__(self, runner: Callable[[str, str], float], warn: Callable[[str], None]) -> None: ...
    def usable(self, family: str, dtype: str) -> bool: ...
    def switched_off(self) -> dict[str, str]: ...
    def results(self) -> list[dict[str, Any]]: ...

class Parameters:
    def __new__(
        cls,
        *,
        dims: int,
        stride: Sequence[int],
        pad_lo: Sequence[int],
        pad_hi: Sequence[int],
        dilation: Sequence[int],
        input_dilation: Sequence[int],
        upsample: Sequence[int],
        pad_mode: Sequence[int],
        groups: int,
        flip: bool,
        activation: int,
        per_frame: bool,
        odd_frame: bool,
    ) -> Parameters: ...

def conv(
    x: mx.array,
    w: mx.array,
    parameters: Parameters,
    *,
    bias: mx.array | None = None,
    residual: mx.array | None = None,
    lead: mx.array | None = None,
    packed: tuple[mx.array, tuple[int, str, int, int, int]] | None = None,
    algorithm: str = "auto",
    series: bool = False,
    stream: _Stream = None,
) -> mx.array: ...
def conv_keeping(
    x: mx.array,
    w: mx.array,
    parameters: Parameters,
    kept: int,
    *,
    bias: mx.array | None = None,
    residual: mx.array | None = None,
    lead: mx.array | None = None,
    packed: tuple[mx.array, tuple[int, str, int, int, int]] | None = None,
    algorithm: str = "auto",
    series: bool = False,
    stream: _Stream = None,
) -> tuple[mx.array, mx.array]: ...
def with_last_frames(
    y: mx.array, lead: mx.array | None, x: mx.array, count: int, *, stream: _Stream = None
) -> tuple[mx.array, mx.array]: ...
def last_frames(lead: mx.array | None, x: mx.array, count: int, *, stream: _Stream = None) -> mx.array: ...
def plan(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    parameters: Parameters,
    *,
    x_type: mx.Dtype,
    w_type: mx.Dtype,
    out_type: mx.Dtype,
    bias: bool,
    residual: bool,
    lead: int,
    prepared: bool,
    algorithm: str,
    limit: int,
    gpu: str = "",
    winograd: Sequence[int] = [],
    strides: Mapping[str, Sequence[int]] = {},
    block: Sequence[int] = [],
    switched_off: Sequence[str] = [],
    checks: SelfChecks | None = None,
) -> dict[str, Any]: ...
def choose(
    x: mx.array, w: mx.array, parameters: Parameters, *, stream: _Stream = None
) -> tuple[str, str]: ...
def stock_weight_gradient(
    x: mx.array,
    dy: mx.array,
    parameters: Parameters,
    *,
    w_shape: Sequence[int],
    w_type: mx.Dtype,
    lead: mx.array | None = None,
    stream: _Stream = None,
) -> mx.array: ...
def pack_weights(
    w: mx.array, form: tuple[int, str, int, int, int], flip: bool, groups: int, stream: _Stream = None
) -> mx.array: ...
def rms_norm(
    x: mx.array, weight: mx.array, eps: float, activation: int, stream: _Stream = None
) -> mx.array: ...
def is_tracer(a: mx.array) -> bool: ...
def snapshot(a: mx.array) -> mx.array: ...
def is_same(a: mx.array, b: mx.array) -> bool: ...
def workspace_limit() -> int: ...
def set_workspace_limit(bytes: int) -> int: ...
def cpu_kernels() -> list[dict[str, Any]]: ...
def isa() -> str: ...
def threads() -> int: ...
def on_cpu(stream: _Stream = None) -> bool: ...
def disabled() -> bool: ...
def gpus() -> list[dict[str, Any]]: ...
def kernel_names() -> list[str]: ...
def kernel_source(name: str) -> str: ...
def self_checks() -> list[dict[str, Any]]: ...
def run_self_check(family: str, dtype: str) -> bool: ...
def self_check_cases(gpu: str, family: str, dtype: str) -> list[dict[str, Any]]: ...
def self_check_tolerance(dtype: str) -> float: ...
def compile_kernel(source: str, kernel: str, constants: Mapping[int, bool | int], threads: int) -> None: ...
def switched_off() -> dict[str, str]: ...
def gpu() -> dict[str, str] | None: ...
def describe_gpu(name: str, architecture: str) -> dict[str, str]: ...
