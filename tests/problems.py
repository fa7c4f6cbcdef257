"""Convolution problems: their description, random ones, and ones picked by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import reference
from hypothesis import strategies as st

DTYPES = ("float32", "float16", "bfloat16")
VIEWS = ("channels_first", "sliced", "stepped", "reversed", "broadcast", "offset")
WEIGHT_LAYOUTS = ("contiguous", "channels_first", "sliced", "offset")
MODES = ("zeros", "edge", "reflect")
ACTIVATIONS = ("relu", "silu", "gelu", "sigmoid", "tanh")
MOST_PRODUCTS = 3_000_000

DRAWN: set[Problem] = set()


@dataclass(frozen=True)
class Problem:
    """A convolution of x (N, ..., C) with w (O, ..., C/groups); tuples have one entry per spatial axis."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    input_dilation: tuple[int, ...]
    modes: tuple[str, ...]
    upsample: tuple[int, ...]
    groups: int = 1
    flip: bool = False
    lead: int = 0
    bias: bool = False
    residual: bool = False
    activation: str | None = None
    x_type: str = "float32"
    w_type: str = "float32"
    extra_type: str = "float32"  # of lead, bias and residual
    layout: str = "contiguous"
    w_layout: str = "contiguous"
    seed: int = 0

    @property
    def ndim(self) -> int:
        return len(self.stride)

    @property
    def conv(self) -> reference.Conv:
        return reference.Conv(
            self.stride,
            self.padding,
            self.dilation,
            self.input_dilation,
            self.modes,
            self.groups,
            self.flip,
            self.activation,
            upsample=self.upsample,
        )

    @property
    def general(self) -> bool:
        """Only conv_general can express it."""
        return self.flip or any(d > 1 for d in self.input_dilation)

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """x with its lead frames."""
        return (self.x[0], self.x[1] + self.lead, *self.x[2:])

    @property
    def out_shape(self) -> tuple[int, ...]:
        padded = tuple(s.size for s in reference.all_sources(self.whole_shape, self.conv))
        return (self.x[0], *reference.out_sizes(padded, self.w[1:-1], self.conv), self.w[0])

    @property
    def products(self) -> int:
        return math.prod(self.out_shape) * math.prod(self.w[1:])

    @property
    def terms(self) -> int:
        """KD * C, on which the accuracy contract depends."""
        return (self.w[1] if self.ndim == 3 else 1) * self.w[-1]

    @property
    def dtype(self) -> str:
        """Of the result: every given array takes part in the promotion."""
        types = {self.x_type, self.w_type}
        if self.lead or self.bias or self.residual:
            types.add(self.extra_type)
        return types.pop() if len(types) == 1 else "float32"

    @property
    def options(self) -> dict[str, object]:
        """The keyword arguments conv1d, conv2d and conv3d share with plan."""
        mode = self.modes[0] if len(set(self.modes)) == 1 else self.modes
        options: dict[str, object] = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "activation": self.activation,
            "padding_mode": mode,
        }
        return options if self.upsample == (1,) * self.ndim else {**options, "upsample": self.upsample}


def of(x: tuple[int, ...], w: tuple[int, ...], **given: object) -> Problem:
    """A problem with the given fields and plain other ones; an int stands for every axis."""
    ndim = len(x) - 2
    for name in ("stride", "dilation", "input_dilation", "upsample", "modes", "padding"):
        value = given.get(name, {"modes": "zeros", "padding": 0}.get(name, 1))
        values = value if isinstance(value, tuple) else (value,) * ndim
        if name == "padding":
            values = tuple(each if isinstance(each, tuple) else (each, each) for each in values)
        given[name] = values
    return Problem(x, w, **given)  # type: ignore[arg-type]


def draw_axis(
    draw: st.DrawFn,
    kernel: int,
    stride: int,
    dilation: int,
    input_dilation: int,
    upsample: int,
    mode: str,
    style: str,
    reach: int,
) -> tuple[int, tuple[int, int]]:
    """A size and a padding for one axis, such that at least one output exists."""
    span = dilation * (kernel - 1)
    most = span + 3
    pads = {
        "none": st.just((0, 0)),
        "same": st.just((span // 2, span - span // 2)),
        "causal": st.just((span, 0)),
        "uneven": st.tuples(st.integers(0, span + 1), st.integers(0, span + 1)),
        "wide": st.tuples(st.integers(0, most), st.integers(0, most)),
        "crop": st.tuples(st.integers(-2, 2), st.integers(-2, 2)),
    }
    lo, hi = draw(pads[style])
    beyond = draw(st.integers(0, reach))
    cropped = max(0, -lo) + max(0, -hi)
    dilated = span + 1 + beyond - max(0, lo) - max(0, hi)
    kept = max(1, -(-(dilated - 1) // input_dilation) + 1)
    if mode == "reflect":
        kept = max(kept, lo + 1, hi + 1)
    return -(-(kept + cropped) // upsample), (lo, hi)


PAD_STYLES = ("none", "same", "same", "causal", "uneven", "wide", "crop")
FEW_CHANNELS = (1, 2, 3, 4, 5, 8, 16, 17, 24, 32, 33)
WIDE_CHANNELS = (1, 3, 5, 8, 16, 17, 31, 32, 33, 48, 64, 96)
GROUPS = (
    (2, 1, 1),
    (3, 1, 1),
    (5, 1, 2),
    (8, 1, 1),
    (17, 1, 1),
    (32, 1, 1),
    (2, 2, 2),
    (4, 2, 3),
    (2, 3, 5),
    (3, 4, 4),
    (2, 8, 8),
    (4, 8, 4),
    (2, 16, 16),
    (3, 17, 5),
    (2, 32, 16),
    (1, 3, 2),
)


@dataclass(frozen=True)
class Family:
    """What the problems of one kind have in common. The tuples are what each axis or count is drawn from."""

    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...] = (1,)
    dilations: tuple[int, ...] = (1,)
    input_dilations: tuple[int, ...] = (1,)
    upsamples: tuple[int, ...] = (1,)
    pad_styles: tuple[str, ...] = PAD_STYLES
    modes: tuple[str, ...] = ("zeros",)
    channels: tuple[int, ...] = FEW_CHANNELS
    groups: tuple[tuple[int, int, int], ...] = ()  # (groups, C/groups, O/groups)
    lead: tuple[int, ...] = (0,)
    flips: tuple[bool, ...] = (False,)
    types: tuple[str, ...] = ("float32",)
    layouts: tuple[str, ...] = ("contiguous",)
    depth_strides: tuple[int, ...] | None = None  # where depth differs from rows and columns
    depth_dilations: tuple[int, ...] | None = None
    depth_upsamples: tuple[int, ...] | None = None
    stride_is_kernel: bool = False
    epilogue: bool = True
    reach: int = 9


THREE = (1, 2, 3)
ANY_3D = tuple((a, b, c) for a in (1, 2, 3, 4) for b in (1, 2, 3, 5) for c in (1, 2, 3, 4, 7))
# What Winograd on the CPU meets, whatever else a family varies.
ANY_SPATIAL = Family(
    tuple((d, 3, 3) for d in (1, 1, 2, 3, 3)),
    depth_strides=THREE,
    depth_dilations=(1, 1, 2),
    upsamples=(1, 1, 1, 2),
    modes=MODES,
    types=DTYPES,
    channels=WIDE_CHANNELS,
    layouts=("contiguous", *VIEWS),
    reach=19,
)
FAMILIES: dict[str, Family] = {
    "spatial_3x3": Family(
        tuple((d, 3, 3) for d in (1, 2, 3, 3, 3, 5)),
        depth_strides=THREE,
        depth_dilations=(1, 1, 2),
        channels=WIDE_CHANNELS,
        reach=13,
    ),
    "strided_3x3": replace(ANY_SPATIAL, strides=(2,)),
    "dilated_3x3": replace(ANY_SPATIAL, dilations=(1, 2, 2, 3, 5)),
    "spatial_5x5": replace(
        ANY_SPATIAL, kernels=tuple((d, 5, 5) for d in (1, 1, 2, 3, 5)), dilations=(1, 1, 1, 2), reach=15
    ),
    "taps_along_one_axis": replace(
        ANY_SPATIAL,
        kernels=(
            *((3, 1, 1), (5, 1, 1), (7, 1, 1), (1, 3, 1), (2, 5, 1), (3, 1, 3), (1, 1, 7)),
            *((1, 3), (7, 1), (3,), (5,), (7,)),
        ),
        strides=(1, 1, 1, 2),
        depth_strides=(1, 1, 1, 2),
        dilations=(1, 1, 2, 3),
        reach=21,
    ),
    "temporal": Family(
        tuple((d, 1, 1) for d in (2, 3, 3, 4, 5)),
        depth_strides=THREE,
        depth_dilations=(1, 1, 2, 3),
        channels=WIDE_CHANNELS,
    ),
    "pointwise": Family(
        ((1, 1, 1),),
        strides=(1, 1, 1, 2),
        pad_styles=("none", "none", "uneven", "crop"),
        channels=WIDE_CHANNELS,
    ),
    "patches": Family(
        (*ANY_3D, (2, 14, 14), (4, 8, 8)), pad_styles=("none",), stride_is_kernel=True, reach=20
    ),
    "any_3d": Family(ANY_3D, strides=(1, 2, 3, 5), dilations=(1, 1, 2, 3)),
    "any_2d": Family(
        tuple((a, b) for a in (1, 2, 3, 3, 5, 7) for b in (1, 2, 3, 3, 5, 7)),
        strides=(1, 1, 2, 3, 4),
        dilations=(1, 1, 2, 3),
        channels=WIDE_CHANNELS,
        reach=12,
    ),
    "any_1d": Family(
        tuple((k,) for k in (1, 2, 3, 4, 5, 9, 16)),
        strides=(1, 1, 2, 3, 5),
        dilations=(1, 1, 2, 4),
        channels=WIDE_CHANNELS,
        reach=40,
    ),
    "grouped_3d": Family(ANY_3D, strides=(1, 1, 2, 3), dilations=(1, 1, 2), groups=GROUPS),
    "grouped_2d": Family(
        tuple((a, b) for a in (1, 3, 3, 5, 7) for b in (1, 2, 3, 5)),
        strides=(1, 1, 2, 3),
        dilations=(1, 1, 2),
        groups=GROUPS,
    ),
    "grouped_1d": Family(
        tuple((k,) for k in (1, 2, 3, 4, 7)),
        strides=(1, 1, 2, 3),
        dilations=(1, 1, 2),
        groups=GROUPS,
        reach=30,
    ),
    "streamed": Family(
        ((2, 1, 1), (3, 1, 1), (3, 3, 3), (3, 3, 3), (2, 2, 2), (3, 1, 5), (1, 3, 3)),
        strides=(1, 1, 2),
        lead=(1, 2, 3, 5),
        modes=("zeros", "zeros", "edge", "reflect"),
    ),
    "padding_modes": Family(
        ANY_3D + ((3, 3, 3),) * 20, strides=(1, 1, 2), dilations=(1, 1, 2), modes=MODES, lead=(0, 0, 1)
    ),
    "flipped": Family(
        ANY_3D + ((3, 3, 3),) * 20 + ((1, 3), (3, 3), (5,), (3, 1, 1), (7,)),
        strides=(1, 1, 2),
        dilations=(1, 1, 2),
        flips=(True,),
        groups=(*GROUPS[:8], *((1, c, o) for c in (1, 5, 16) for o in (1, 6, 16))),
    ),
    "input_dilated": Family(
        ANY_3D + ((3, 3, 3), (2, 2, 2)) * 10 + ((3, 4), (2, 2), (4,)),
        strides=(1, 1, 1, 2),
        dilations=(1, 1, 1, 2),
        input_dilations=THREE,
        flips=(False, True),
        groups=(*GROUPS[:8], *((1, c, o) for c in (1, 5, 16) for o in (1, 6, 16))),
    ),
    "upsampled": Family(
        ANY_3D + ((3, 3, 3), (1, 3, 3), (3, 1, 1), (1, 1, 1)) * 10 + ((3, 3), (2, 5), (3,), (4,)) * 5,
        strides=(1, 1, 2, 3),
        dilations=(1, 1, 2),
        upsamples=(1, 2, 2, 3, 5),
        modes=MODES,
        lead=(0, 0, 1, 2),
        types=DTYPES,
        groups=(*GROUPS[:8], *((1, c, o) for c in (1, 5, 16, 33) for o in (1, 6, 16))),
    ),
    "doubled_3x3": Family(
        tuple((d, 3, 3) for d in (1, 1, 2, 3, 3)),
        upsamples=(2,),
        depth_strides=(1, 1, 2),
        depth_dilations=(1, 1, 2),
        depth_upsamples=(1, 1, 1, 2),
        modes=MODES,
        lead=(0, 0, 1, 2),
        channels=WIDE_CHANNELS,
        layouts=("contiguous", *VIEWS),
        reach=15,
    ),
    "half_precision": Family(
        ANY_3D + ((3, 3, 3),) * 40 + ((3, 1, 1), (1, 1, 1)) * 10,
        strides=(1, 1, 2),
        types=DTYPES,
        channels=WIDE_CHANNELS,
    ),
    "half_grouped": Family(ANY_3D + ((3, 3), (1, 5), (4,)) * 10, strides=(1, 2), types=DTYPES, groups=GROUPS),
    "views": Family(
        ANY_3D + ((3, 3, 3),) * 30 + ((1, 1, 1), (3, 1, 1), (3, 3), (5,)) * 5,
        strides=(1, 1, 2),
        layouts=VIEWS,
        channels=WIDE_CHANNELS,
        lead=(0, 0, 2),
    ),
    "grouped_views": Family(ANY_3D + ((3, 3), (5,)) * 5, strides=(1, 2), layouts=VIEWS, groups=GROUPS),
}


@st.composite
def problems(draw: st.DrawFn, family: Family) -> Problem:
    kernel = draw(st.sampled_from(family.kernels))
    ndim = len(kernel)

    def per_axis(values: tuple[int, ...], depth: tuple[int, ...] | None = None) -> tuple[int, ...]:
        return tuple(draw(st.sampled_from(depth if depth and i == 0 else values)) for i in range(ndim))

    stride = kernel if family.stride_is_kernel else per_axis(family.strides, family.depth_strides)
    dilation = per_axis(family.dilations, family.depth_dilations)
    input_dilation = per_axis(family.input_dilations)
    upsample = per_axis(family.upsamples, family.depth_upsamples)
    modes = tuple(draw(st.sampled_from(family.modes)) for _ in range(ndim))
    style = draw(st.sampled_from(family.pad_styles))
    axes = [
        draw_axis(draw, *each, style, family.reach)
        for each in zip(kernel, stride, dilation, input_dilation, upsample, modes, strict=True)
    ]
    sizes, padding = zip(*axes, strict=True)
    if family.groups:
        groups, c, o = draw(st.sampled_from(family.groups))
    else:
        groups, c, o = 1, draw(st.sampled_from(family.channels)), draw(st.sampled_from(family.channels))
    drawn = of(
        (draw(st.sampled_from((1, 1, 1, 2, 3))), *sizes, groups * c),
        (groups * o, *kernel, c),
        stride=stride,
        padding=padding,
        dilation=dilation,
        input_dilation=input_dilation,
        upsample=upsample,
        modes=modes,
        groups=groups,
        flip=draw(st.sampled_from(family.flips)),
        layout=draw(st.sampled_from(family.layouts)),
        w_layout=draw(st.sampled_from(WEIGHT_LAYOUTS)) if len(family.layouts) > 1 else "contiguous",
        seed=draw(st.integers(0, 9)),
    )
    drawn = with_types(draw, drawn, family)
    if ndim == 3:
        drawn = with_lead_frames(draw, drawn, family)
    if family.epilogue and not drawn.general:
        drawn = with_epilogue(draw, drawn)
    return smaller(drawn)


def with_types(draw: st.DrawFn, problem: Problem, family: Family) -> Problem:
    if draw(st.booleans()):
        same = draw(st.sampled_from(family.types))
        return replace(problem, x_type=same, w_type=same, extra_type=same)
    x, w, extra = (draw(st.sampled_from(family.types)) for _ in range(3))
    return replace(problem, x_type=x, w_type=w, extra_type=extra)


def with_lead_frames(draw: st.DrawFn, problem: Problem, family: Family) -> Problem:
    """Some of the drawn frames become lead frames, so the whole stays valid."""
    lead = min(draw(st.sampled_from(family.lead)), problem.x[1] - 1)
    if not lead:
        return problem
    return replace(problem, lead=lead, x=(problem.x[0], problem.x[1] - lead, *problem.x[2:]))


def with_epilogue(draw: st.DrawFn, problem: Problem) -> Problem:
    if draw(st.booleans()):
        return problem
    return replace(
        problem,
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
        activation=draw(st.sampled_from((None, *ACTIVATIONS))),
    )


def smaller(problem: Problem, most: int = MOST_PRODUCTS) -> Problem:
    """Fewer channels where the problem would take long; the sizes and so the edge cases stay."""
    while problem.products > most:
        c, o = problem.w[-1], problem.w[0] // problem.groups
        if o >= c and o > 1:
            o = (o + 1) // 2
        elif c > 1:
            c = (c + 1) // 2
        else:
            break
        problem = replace(
            problem,
            x=(*problem.x[:-1], c * problem.groups),
            w=(o * problem.groups, *problem.w[1:-1], c),
        )
    return problem


# What a random draw seldom meets.
CUBE = (3, 3, 3)
PICKED: dict[str, Problem] = {
    "one element": of((1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
    "one output": of((1, 3, 3, 3, 5), (7, *CUBE, 5)),
    "only padding": of((1, 1, 1, 1, 3), (2, 1, 1, 1, 3), padding=2, bias=True),
    "no batch": of((0, 3, 4, 4, 2), (3, *CUBE, 2), padding=1),
    "no frames, padded": of((1, 0, 4, 4, 2), (3, *CUBE, 2), padding=2, bias=True),
    "no frames but lead": of((1, 0, 5, 5, 4), (6, *CUBE, 4), padding=((1, 0), 1, 1), lead=3),
    "no outputs": of((1, 3, 4, 4, 2), (0, *CUBE, 2), padding=1),
    "no input channels": of((1, 3, 4, 4, 0), (3, *CUBE, 0), padding=1),
    "no input channels, bias": of(
        (2, 3, 4, 4, 0), (3, *CUBE, 0), bias=True, activation="gelu", residual=True
    ),
    "no width 2-D": of((1, 4, 0, 2), (3, 3, 1, 2), padding=(1, 1)),
    "sums in the output": of(
        (2, 2, 31, 37, 24), (32, 1, 1, 1, 24), bias=True, activation="silu", residual=True
    ),
    "sums in the output, groups": of((1, 3, 5, 6, 96), (128, 2, 1, 1, 48), groups=2, bias=True),
    "whole pixels": of((1, 2, 31, 37, 24), (40, 1, 1, 1, 24), stride=(1, 2, 3), x_type="bfloat16"),
    "no batch 1-D": of((0, 9, 4), (4, 3, 4)),
    "no batch grouped": of((0, 3, 4, 4, 4), (4, *CUBE, 1), groups=4),
    "no batch input dilation": of((0, 3, 4, 4, 4), (4, *CUBE, 4), input_dilation=2),
    "stride over kernel": of((1, 7, 9, 8, 4), (5, 2, 2, 1, 4), stride=(3, 4, 5)),
    "stride over everything": of((2, 3, 4, 5, 3), (2, 2, 2, 2, 3), stride=100),
    "padding over kernel": of((1, 2, 3, 2, 3), (4, *CUBE, 3), padding=((5, 0), (0, 7), (4, 6))),
    "padding over kernel, winograd": of((1, 4, 9, 9, 32), (32, *CUBE, 32), padding=((3, 4), (5, 3), (4, 6))),
    "lopsided": of((1, 4, 8, 8, 16), (16, *CUBE, 16), padding=((2, 0), (0, 1), (1, 0))),
    "crops": of((1, 6, 9, 9, 16), (16, *CUBE, 16), padding=((-1, -2), (-2, 0), (1, -1))),
    "crops grouped": of((1, 6, 9, 9, 8), (8, *CUBE, 1), padding=((-1, -2), (-2, 0), (1, -1)), groups=8),
    "crops input dilation": of(
        (1, 5, 6, 6, 4), (4, *CUBE, 4), padding=((-1, 2), (2, -2), (-1, -1)), input_dilation=2
    ),
    "crops to one": of((1, 5, 5, 5, 3), (2, 1, 1, 1, 3), padding=-2),
    "causal edge": of(
        (1, 5, 7, 7, 17), (33, *CUBE, 17), padding=((2, 0), 1, 1), modes=("edge", "zeros", "zeros")
    ),
    "reflect all": of((1, 4, 6, 5, 16), (16, *CUBE, 16), padding=2, modes="reflect"),
    "reflect largest": of((1, 4, 4, 4, 3), (3, *CUBE, 3), padding=3, modes="reflect"),
    "edge on one row": of((1, 1, 1, 1, 3), (4, *CUBE, 3), padding=1, modes="edge"),
    "edge wide 1-D": of((1, 2, 3), (4, 3, 3), padding=((9, 8),), modes="edge"),
    "lead, reflect": of((1, 2, 6, 6, 8), (8, *CUBE, 8), padding=((2, 1), 1, 1), modes="reflect", lead=2),
    "lead, stride": of((2, 6, 6, 6, 8), (8, *CUBE, 8), padding=((1, 0), 1, 1), stride=(2, 1, 1), lead=3),
    "lead longer than x": of((1, 1, 9, 9, 32), (32, *CUBE, 32), padding=((0, 0), 1, 1), lead=2),
    "lead cropped": of((1, 4, 5, 5, 4), (4, *CUBE, 4), padding=((-1, 0), 1, 1), lead=2),
    "lead, batch 3": of(
        (3, 2, 9, 7, 16), (16, *CUBE, 16), padding=((0, 0), 1, 1), lead=2, bias=True, residual=True
    ),
    "batch 5": of((5, 3, 7, 7, 16), (32, *CUBE, 16), padding=1, activation="silu"),
    "huge kernel": of((1, 9, 11, 10, 2), (3, 9, 11, 10, 2)),
    "stem 7x7x7": of((1, 9, 12, 12, 1), (8, 7, 7, 7, 1), stride=2, padding=3),
    "one row": of((1, 3, 1, 40, 16), (16, *CUBE, 16), padding=1),
    "one column": of((1, 3, 40, 1, 16), (16, *CUBE, 16), padding=1),
    "long": of((1, 65, 3, 3, 8), (8, *CUBE, 8), padding=1),
    "large frames": of((1, 2, 67, 71, 3), (16, *CUBE, 3), padding=1),
    "tiles to the edge": of((1, 2, 24, 24, 16), (16, *CUBE, 16), padding=1),
    "one over a tile": of((1, 2, 25, 25, 16), (16, *CUBE, 16), padding=1),
    "one under a tile": of((1, 2, 23, 23, 16), (16, *CUBE, 16), padding=1),
    "96 channels": of((1, 3, 10, 10, 96), (96, *CUBE, 96), padding=1),
    "many inputs": of((1, 3, 6, 6, 192), (5, *CUBE, 192), padding=1),
    "many outputs": of((1, 3, 6, 6, 3), (320, *CUBE, 3), padding=1),
    "odd channels": of((1, 3, 9, 9, 33), (17, *CUBE, 33), padding=1),
    "depth dilation": of((1, 7, 8, 8, 16), (16, *CUBE, 16), padding=(2, 1, 1), dilation=(2, 1, 1)),
    "depth stride": of((1, 7, 8, 8, 16), (16, *CUBE, 16), padding=1, stride=(2, 1, 1)),
    "encoder stride": of((1, 5, 9, 9, 32), (48, *CUBE, 32), padding=(1, (0, 1), (0, 1)), stride=(1, 2, 2)),
    "patch embedding": of((9, 2, 14, 14, 3), (64, 2, 14, 14, 3), stride=(2, 14, 14), bias=True),
    "patches with a rest": of((2, 5, 9, 10, 5), (7, 2, 4, 3, 5), stride=(2, 4, 3)),
    "one output channel": of((1, 3, 8, 8, 64), (1, 1, 1, 1, 64), bias=True),
    "rows, one channel": of((1, 6, 13, 70, 1), (48, *CUBE, 1), padding=1),
    "rows, stem": of((2, 3, 18, 21, 3), (33, 3, 7, 7, 3), padding=(1, 3, 3), stride=(1, 2, 2), bias=True),
    "rows, dilated": of(
        (1, 7, 12, 15, 20),
        (24, *CUBE, 20),
        padding=((4, 0), (1, 2), (3, 0)),
        dilation=2,
        lead=2,
        modes=("edge", "reflect", "edge"),
        x_type="bfloat16",
        w_type="bfloat16",
        extra_type="bfloat16",
    ),
    "rows, of one image": of((1, 5, 20, 40, 2), (16, 5, 5, 5, 2), layout="sliced"),
    "rows, three outputs": of((1, 4, 9, 33, 40), (3, *CUBE, 40), residual=True, activation="silu"),
    "five outputs": of((2, 3, 11, 13, 48), (5, *CUBE, 48), padding=1, stride=(1, 2, 2), bias=True),
    "eleven outputs": of((1, 4, 9, 33, 40), (11, *CUBE, 40), residual=True, activation="silu"),
    "groups of twelve outputs": of((2, 3, 8, 10, 80), (24, *CUBE, 40), padding=1, groups=2, bias=True),
    "six outputs, dilated input": of((1, 3, 7, 9, 44), (6, *CUBE, 44), padding=2, input_dilation=2),
    "rows, long sums": of((1, 3, 6, 9, 300), (2, 3, 5, 5, 300), padding=2),
    "rows, strided beyond the kernel": of((1, 4, 11, 17, 6), (8, 2, 2, 2, 6), stride=(3, 4, 1), padding=1),
    "depthwise": of((1, 4, 9, 9, 48), (48, *CUBE, 1), padding=1, groups=48),
    "depthwise multiplier": of((1, 4, 9, 9, 12), (36, *CUBE, 1), padding=1, groups=12),
    "large groups": of((1, 3, 8, 8, 128), (128, *CUBE, 64), padding=1, groups=2),
    "odd groups": of((2, 3, 5, 6, 15), (21, *CUBE, 5), padding=1, groups=3, stride=(1, 2, 1)),
    "causal depthwise 1-D": of(
        (2, 37, 33), (33, 4, 1), padding=((3, 0),), groups=33, activation="silu", bias=True
    ),
    "upsampling": of((1, 3, 5, 5, 16), (16, 2, 2, 2, 16), padding=1, input_dilation=2, flip=True),
    "joined phases": of((2, 3, 4, 5, 40), (32, 2, 2, 2, 40), padding=1, input_dilation=2, flip=True),
    "joined phases, cropped": of(
        (1, 3, 5, 6, 300),
        (20, 1, 3, 2, 300),
        padding=(0, (1, 2), (0, 1)),
        input_dilation=(1, 3, 2),
        x_type="float16",
        w_type="float16",
    ),
    "phases without taps": of(
        (1, 3, 3, 3, 4), (4, 2, 1, 2, 4), padding=(1, 0, 1), input_dilation=3, flip=True
    ),
    "input dilation and stride": of(
        (1, 4, 5, 4, 5), (4, *CUBE, 5), padding=2, input_dilation=2, stride=(3, 2, 1)
    ),
    "input and kernel dilation": of(
        (1, 4, 4, 4, 5), (4, *CUBE, 5), padding=4, input_dilation=(2, 3, 2), dilation=2
    ),
    "all of it": of(
        (2, 4, 9, 9, 32),
        (24, *CUBE, 32),
        padding=((1, 0), 1, (2, 1)),
        lead=1,
        bias=True,
        residual=True,
        activation="gelu",
        modes=("edge", "reflect", "zeros"),
        x_type="bfloat16",
        w_type="float32",
        extra_type="bfloat16",
        layout="channels_first",
        w_layout="channels_first",
    ),
    "all of it, half": of(
        (2, 4, 9, 9, 32),
        (24, *CUBE, 32),
        padding=((1, 0), 1, (2, 1)),
        lead=1,
        bias=True,
        residual=True,
        activation="silu",
        modes=("edge", "reflect", "zeros"),
        x_type="float16",
        w_type="float16",
        extra_type="float16",
        layout="stepped",
        w_layout="sliced",
    ),
    "pairs of frames": of((1, 8, 22, 23, 72), (64, *CUBE, 72), padding=1),
    "pairs, an odd frame": of((2, 7, 19, 24, 66), (65, *CUBE, 66), padding=((2, 0), 1, 1), bias=True),
    "pairs in two chunks": of((1, 35, 13, 9, 48), (48, *CUBE, 48), padding=(1, (1, 2), (0, 1))),
    "pairs, all of it": of(
        (1, 8, 24, 21, 67),
        (81, *CUBE, 67),
        padding=((1, 2), 1, (2, 1)),
        lead=1,
        bias=True,
        residual=True,
        activation="silu",
        modes=("edge", "reflect", "zeros"),
        x_type="float32",
        w_type="float16",
        layout="sliced",
        w_layout="channels_first",
    ),
    "pairs, half": of(
        (1, 6, 36, 36, 66),
        (64, *CUBE, 66),
        padding=1,
        x_type="float16",
        w_type="float16",
        extra_type="float16",
    ),
    "4 taps of 4 channels, channels first": of((1, 9, 4), (24, 4, 4), w_layout="channels_first"),
    "4 taps of 4 grouped channels, channels first": of(
        (1, 9, 12), (36, 4, 4), groups=3, w_layout="channels_first"
    ),
    "2x4 taps of 2 grouped channels, channels first": of(
        (1, 9, 9, 6), (36, 2, 4, 2), groups=3, w_layout="channels_first"
    ),
    "batch stride 0": of((4, 3, 7, 7, 16), (16, *CUBE, 16), padding=1, layout="broadcast"),
}
