"""The convolutions that whole models call at real resolutions (workloads/*.json), and how a benchmark crops
them.

A call list is a JSON array of {"n": calls, "fn": mx function, "inp", "wt", "out": shapes in MLX's
channels-last layout, "kw": stride, padding, dilation, groups, "dt", "wdt": dtypes of input and weight}."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "workloads"
THIN_CHANNELS = 16
MAX_BYTES = 256_000_000
ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One convolution: x_shape (N, *spatial, C), w_shape (O, *kernel, C/groups), one number per spatial
    axis in the rest. `calls` counts how often the models in `workloads` run it."""

    x_shape: Shape
    w_shape: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int = 1
    dtype: str = "float32"
    w_dtype: str = "float32"
    calls: int = 1
    workloads: tuple[str, ...] = ()

    @property
    def kernel(self) -> Shape:
        return self.w_shape[1:-1]

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def spatial(self) -> Shape:
        """Sizes of the output's spatial axes."""
        axes = zip(self.x_shape[1:-1], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)

    @property
    def out_shape(self) -> Shape:
        return (self.x_shape[0], *self.spatial, self.w_shape[0])

    @property
    def flops(self) -> int:
        """2 * N * oD*oH*oW * O * (C/groups) * KD*KH*KW: the direct convolution's, whatever algorithm
        runs."""
        return 2 * math.prod(self.out_shape) * math.prod(self.w_shape[1:])

    @property
    def bytes(self) -> int:
        """Bytes of input, weight and output, each touched once: what no algorithm can avoid."""
        size, w_size = ITEMSIZE[self.dtype], ITEMSIZE[self.w_dtype]
        out_size = size if self.dtype == self.w_dtype else 4
        sizes = ((self.x_shape, size), (self.w_shape, w_size), (self.out_shape, out_size))
        return sum(math.prod(shape) * each for shape, each in sizes)

    @property
    def kind(self) -> str:
        """The layer's sort: patchify, stem, thin input (output) KERNEL, strided KERNEL, grouped KERNEL, or
        its kernel."""
        kernel = "x".join(map(str, self.kernel))
        if self.groups > 1:
            return f"grouped {kernel}"
        if math.prod(self.kernel) > 1 and self.kernel == self.stride:
            return "patchify"
        if max(self.kernel) >= 7:
            return "stem"
        if self.w_shape[-1] < THIN_CHANNELS:
            return f"thin input {kernel}"
        if self.w_shape[0] < THIN_CHANNELS:
            return f"thin output {kernel}"
        return f"strided {kernel}" if max(self.stride) > 1 else kernel

    @property
    def name(self) -> str:
        """For example `9x60x104 384>192 3x3x3 s2 p1`: output sizes, channels, kernel, stride and padding if
        any."""
        batch = f"{self.x_shape[0]}x" if self.x_shape[0] > 1 else ""
        text = f"{batch}{_by(self.spatial)} {self.x_shape[-1]}>{self.w_shape[0]} {_by(self.kernel)}"
        for letter, values, usual in (("s", self.stride, 1), ("p", self.padding, 0), ("d", self.dilation, 1)):
            if any(v != usual for v in values):
                text += f" {letter}{','.join(map(str, values)) if len(set(values)) > 1 else values[0]}"
        return text + (f" g{self.groups}" if self.groups > 1 else "")

    def matches(self, text: str) -> bool:
        """Whether its name, its kind or one of its workloads contains this."""
        return any(text in each for each in (self.name, self.kind, *self.workloads))

    def arguments(self) -> dict[str, Any]:
        """stride, padding, dilation and groups as mx.conv3d (mx.conv2d) takes them."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def with_dtype(self, dtype: str) -> Layer:
        return replace(self, dtype=dtype, w_dtype=dtype)

    def with_batch(self, batch: int) -> Layer:
        return replace(self, x_shape=(batch, *self.x_shape[1:]))

    def with_output(self, spatial: Sequence[int]) -> Layer:
        """The same layer on an input whose output has these spatial sizes; rows the stride leaves over stay
        left over."""
        sizes = []
        for axis, (new, old) in enumerate(zip(spatial, self.spatial, strict=True)):
            sizes.append(self.x_shape[1 + axis] + (new - old) * self.stride[axis])
        return replace(self, x_shape=(self.x_shape[0], *sizes, self.x_shape[-1]))


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def names() -> list[str]:
    """Names of the workloads, sorted."""
    return sorted(path.stem for path in DIRECTORY.glob("*.json"))


def _per_axis(value: int | Sequence[int], axes: int) -> Shape:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def _layer(call: dict[str, Any], workload: str) -> Layer:
    axes, options = len(call["inp"]) - 2, call["kw"]
    layer = Layer(
        x_shape=tuple(call["inp"]),
        w_shape=tuple(call["wt"]),
        stride=_per_axis(options.get("stride", 1), axes),
        padding=_per_axis(options.get("padding", 0), axes),
        dilation=_per_axis(options.get("dilation", 1), axes),
        groups=options.get("groups", 1),
        dtype=call["dt"],
        w_dtype=call["wdt"],
        calls=call["n"],
        workloads=(workload,),
    )
    if layer.out_shape != tuple(call["out"]):
        raise ValueError(
            f"{workload}: {layer.name} gives {layer.out_shape}, the call list says {call['out']}"
        )
    return layer


def load(workload: str) -> list[Layer]:
    """The layers of one workload in the order of its call list. ValueError names the known ones if it is
    none of them."""
    path = DIRECTORY / f"{workload}.json"
    if not path.exists():
        raise ValueError(f"workload {workload!r} is unknown; known: {', '.join(names())}")
    return [_layer(call, workload) for call in json.loads(path.read_text())]


def load_all() -> list[Layer]:
    """The layers of every workload."""
    return [layer for workload in names() for layer in load(workload)]


def crop(layer: Layer, gflop: float, *, frames: int = 5, floor: int = 16) -> Layer:
    """A part of the layer of at most about `gflop` direct GFLOP and 256 MB (as float32) with the same
    kernel, channels, stride and padding: fewer frames (down to `frames`), then smaller frames (halving the
    longer side while it stays >= `floor` pixels), then fewer frames still, a smaller batch (down to 8) and
    frames of down to 8 pixels a side. A layer that is too heavy even so stays above `gflop`."""
    depth = layer.ndim == 3
    if depth and _heavy(layer, gflop) and layer.spatial[0] > frames:
        layer = layer.with_output((frames, *layer.spatial[1:]))
    steps: list[Callable[[Layer], Layer | None]] = [lambda x: _halve_frame(x, floor)]
    if depth:
        steps.append(_halve_depth)
    steps += [_halve_batch, lambda x: _halve_frame(x, 8)]
    for step in steps:
        while _heavy(layer, gflop) and (smaller := step(layer)) is not None:
            layer = smaller
    return layer


def _heavy(layer: Layer, gflop: float) -> bool:
    return layer.flops > gflop * 1e9 or layer.with_dtype("float32").bytes > MAX_BYTES


def _halve_frame(layer: Layer, floor: int) -> Layer | None:
    sizes = list(layer.spatial)
    axis = max(range(layer.ndim)[-2:], key=lambda a: sizes[a])
    sizes[axis] = -(-sizes[axis] // 2)
    return layer.with_output(sizes) if sizes[axis] >= floor else None


def _halve_depth(layer: Layer) -> Layer | None:
    depth = layer.spatial[0]
    return layer.with_output((depth // 2, *layer.spatial[1:])) if depth > 1 else None


def _halve_batch(layer: Layer) -> Layer | None:
    batch = layer.x_shape[0]
    return layer.with_batch(batch // 2) if batch >= 16 else None


def distinct(layers: Iterable[Layer], gflop: float, *, frames: int = 5, floor: int = 16) -> list[Layer]:
    """The layers cropped to `gflop`, one for every set of channels, kernel, stride, padding, dilation,
    groups and number of output frames: the largest of its set, with the calls of all. Dtypes are not told
    apart. Sorted by channels."""
    chosen: dict[tuple[object, ...], Layer] = {}
    for layer in layers:
        small = crop(layer, gflop, frames=frames, floor=floor)
        depth = min(small.spatial[0], frames) if small.ndim == 3 else 0
        key = (
            small.x_shape[-1],
            small.w_shape,
            small.stride,
            small.padding,
            small.dilation,
            small.groups,
            depth,
        )
        known = chosen.get(key)
        if known is None:
            chosen[key] = small
            continue
        workloads = tuple(dict.fromkeys(known.workloads + small.workloads))
        larger = max(known, small, key=lambda x: x.flops)
        chosen[key] = replace(larger, calls=known.calls + small.calls, workloads=workloads)
    return sorted(chosen.values(), key=lambda x: (x.ndim, x.x_shape[-1], x.w_shape[0], x.w_shape, x.spatial))
