"""The gathered product on Metal, which serves seven algorithms, in the simulator against float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import metal_programs
import metal_sim
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metal_programs import KERNELS, Case, mutated_kernels, operands, run
from metal_sim import SCHEDULES
from metal_sim.support import needs_metal_sim

from mlx_conv3d import _ext

pytestmark = needs_metal_sim
DTYPES = ("float32", "float16", "bfloat16")
MODES = ("zeros", "edge", "reflect")
BLOCKS = ((64, 64), (64, 32), (32, 32), (128, 16), (128, 8))
NONE, ONE = ((0, 0),) * 3, ((1, 1),) * 3
LOPSIDED = ((2, 0), (1, 2), (0, 1))

# Ragged rows, columns, channels and products of every algorithm.
SHAPES = {
    "implicit_gemm": Case(x=(2, 4, 5, 6, 5), w=(7, 2, 3, 3, 5), padding=LOPSIDED, stride=(2, 1, 2)),
    "taps": Case(x=(1, 4, 5, 6, 6), w=(7, 3, 2, 3, 6), padding=LOPSIDED, dilation=(1, 2, 1)),
    "temporal": Case(x=(2, 5, 3, 4, 7), w=(35, 3, 1, 1, 7), padding=((2, 1), (0, 0), (0, 0))),
    "pointwise": Case(x=(2, 3, 4, 5, 18), w=(33, 1, 1, 1, 18), padding=NONE),
    "patchify": Case(x=(2, 5, 7, 8, 3), w=(9, 2, 3, 4, 3), padding=NONE, stride=(2, 3, 4)),
    "transposed": Case(
        x=(2, 2, 3, 4, 6), w=(5, 3, 2, 3, 6), padding=ONE, input_dilation=(2, 3, 2), flip=True
    ),
    "grouped": Case(x=(1, 3, 4, 5, 66), w=(70, 2, 2, 3, 33), padding=LOPSIDED, groups=2),
}
PADDED = ("implicit_gemm", "taps", "temporal", "grouped")


def shape_of(algorithm: str) -> Case:
    return replace(SHAPES[algorithm], algorithm=algorithm)


def check(case: Case, **options: object) -> metal_sim.Result:
    return metal_programs.check(case, bound=1e-6, **options)


@pytest.mark.parametrize(("algorithm", "dtype"), list(product(SHAPES, DTYPES)))
def test_algorithms(algorithm: str, dtype: str) -> None:
    """With all of the epilogue, at three schedules; what is declared to be moved is what is counted."""
    case = replace(shape_of(algorithm), dtype=dtype, bias=True, residual=True, activation="gelu")
    result = check(case, schedules=SCHEDULES)
    steps = case.program().steps
    assert len(steps) == {"taps": 3, "transposed": 12}.get(algorithm, 1)
    for step, counted in zip(steps, result.steps, strict=True):
        assert step.nbytes == pytest.approx(counted.touched, rel=0.01)


@pytest.mark.parametrize(("algorithm", "mode", "lead"), list(product(PADDED, MODES, (0, 2))))
def test_padding(algorithm: str, mode: str, lead: int) -> None:
    check(replace(shape_of(algorithm), modes=(mode,) * 3, lead=lead), schedules=SCHEDULES)


@pytest.mark.parametrize(("dtype", "w_dtype"), list(product(DTYPES, DTYPES)))
def test_types(dtype: str, w_dtype: str) -> None:
    check(replace(shape_of("implicit_gemm"), dtype=dtype, w_dtype=w_dtype, bias=True, residual=True))


@pytest.mark.parametrize(("block", "dtype"), list(product(BLOCKS, ("float32", "bfloat16"))))
def test_blocks(block: tuple[int, int], dtype: str) -> None:
    """Every block, with whole and ragged ones of rows and of columns."""
    case = Case(x=(1, 2, 9, 15, 20), w=(70, 1, 2, 2, 20), padding=NONE, dtype=dtype)
    check(replace(case, algorithm="implicit_gemm", block=block), schedules=SCHEDULES)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8, 15, 16, 17, 48])
def test_channels(channels: int) -> None:
    """A slab of 16 products spans taps, is one, or is a part of one."""
    check(
        Case(
            x=(1, 4, 5, 6, channels),
            w=(9, 2, 3, 2, channels),
            padding=ONE,
            lead=1,
            modes=("edge", "zeros", "reflect"),
            algorithm="implicit_gemm",
        )
    )


@pytest.mark.parametrize("name", ["x", "lead", "w"])
@pytest.mark.parametrize("layout", ["channels first", "gaps", "one image"])
def test_layouts(name: str, layout: str) -> None:
    """Operands that are not row-major: a step reads no gap, which is not a number."""
    case = replace(shape_of("implicit_gemm"), x=(2, 4, 5, 6, 8), w=(7, 2, 3, 3, 8), lead=2)
    shape = {"x": case.x, "w": case.w, "lead": (2, 2, 5, 6, 8)}[name]
    _, d, h, w, c = shape
    strides = {
        "channels first": (d * h * w * c, h * w, w, 1, d * h * w),
        "gaps": (2 * d * h * w * c + 5, 2 * h * w * c + 3, 2 * w * c + 1, 2 * c, 2),
        "one image": (0, h * w * c, w * c, c, 1),
    }[layout]
    check(replace(case, strides=((name, strides),)))


@pytest.mark.parametrize(
    "case",
    [
        Case(x=(1, 1, 1, 1, 1), w=(1, 1, 1, 1, 1), padding=NONE),
        Case(x=(1, 3, 3, 3, 5), w=(7, 3, 3, 3, 5), padding=NONE),
        Case(x=(1, 1, 1, 1, 3), w=(2, 1, 1, 1, 3), padding=((2, 2),) * 3, bias=True),
        Case(x=(1, 7, 9, 8, 4), w=(5, 2, 2, 1, 4), padding=NONE, stride=(3, 4, 5)),
        Case(x=(2, 3, 4, 5, 3), w=(2, 2, 2, 2, 3), padding=NONE, stride=(100,) * 3),
        Case(x=(1, 2, 3, 2, 3), w=(4, 3, 3, 3, 3), padding=((5, 0), (0, 7), (4, 6))),
        Case(x=(1, 6, 9, 9, 6), w=(6, 3, 3, 3, 6), padding=((-1, -2), (-2, 0), (1, -1))),
        Case(x=(1, 6, 9, 9, 6), w=(6, 3, 3, 3, 6), padding=((-1, 2), (2, -2), (-1, 0)), modes=("edge",) * 3),
        Case(
            x=(1, 5, 6, 6, 6), w=(6, 3, 3, 3, 6), padding=((-1, 2), (2, -2), (-1, 0)), modes=("reflect",) * 3
        ),
        Case(x=(1, 4, 4, 4, 3), w=(3, 3, 3, 3, 3), padding=((3, 3),) * 3, modes=("reflect",) * 3),
        Case(x=(1, 0, 4, 4, 2), w=(3, 3, 3, 3, 2), padding=((2, 2),) * 3, bias=True),
        Case(x=(1, 0, 5, 5, 4), w=(6, 3, 3, 3, 4), padding=((1, 0), (1, 1), (1, 1)), lead=3),
        Case(x=(2, 3, 4, 4, 0), w=(3, 3, 3, 3, 0), padding=NONE, bias=True, residual=True, activation="gelu"),
        Case(x=(1, 4, 5, 5, 4), w=(4, 3, 3, 3, 4), padding=((-1, 0), (1, 1), (1, 1)), lead=2, flip=True),
        Case(x=(1, 5, 9, 9, 1), w=(8, 5, 7, 7, 1), padding=((3, 3),) * 3, stride=(2, 2, 2)),
        Case(x=(0, 3, 4, 4, 2), w=(3, 3, 3, 3, 2), padding=ONE),
        Case(x=(1, 3, 4, 4, 2), w=(0, 3, 3, 3, 2), padding=ONE),
    ],
    ids=[
        "one-element",
        "one-position",
        "only-padding",
        "stride-over-kernel",
        "stride-over-everything",
        "padding-over-kernel",
        "crops",
        "crops-and-edge",
        "crops-and-reflect",
        "reflect-largest",
        "no-frames-padded",
        "no-frames-but-lead",
        "no-input-channels",
        "lead-cropped-flipped",
        "stem",
        "no-batch",
        "no-outputs",
    ],
)
@pytest.mark.parametrize("algorithm", ["implicit_gemm", "taps"])
def test_geometry(case: Case, algorithm: str) -> None:
    check(replace(case, algorithm=algorithm))


@pytest.mark.parametrize("algorithm", ["transposed", "implicit_gemm"])
@pytest.mark.parametrize(
    "case",
    [
        Case(x=(1, 3, 5, 5, 4), w=(4, 2, 2, 2, 4), padding=ONE, input_dilation=(2, 2, 2), flip=True),
        Case(
            x=(1, 3, 3, 3, 4), w=(4, 2, 1, 2, 4), padding=((1, 1), (0, 0), (1, 1)), input_dilation=(3, 3, 3)
        ),
        Case(
            x=(1, 4, 5, 4, 5),
            w=(4, 3, 3, 3, 5),
            padding=((2, 2),) * 3,
            input_dilation=(2,) * 3,
            stride=(3, 2, 1),
        ),
        Case(
            x=(1, 4, 4, 4, 5),
            w=(4, 3, 3, 3, 5),
            padding=((4, 4),) * 3,
            input_dilation=(2, 3, 2),
            dilation=(2,) * 3,
        ),
        Case(
            x=(1, 3, 6, 6, 4),
            w=(4, 2, 3, 3, 4),
            padding=((-1, 2), (2, -2), (-1, -1)),
            input_dilation=(2, 2, 2),
        ),
        Case(
            x=(1, 2, 4, 4, 9),
            w=(6, 2, 3, 3, 3),
            padding=((1, 2), (2, 1), (0, 1)),
            input_dilation=(2, 1, 4),
            groups=3,
        ),
        Case(x=(1, 3, 4, 5, 4), w=(4, 2, 3, 3, 4), padding=ONE, input_dilation=(1, 2, 2), lead=2, flip=True),
    ],
    ids=["upsampling", "no-taps", "stride", "kernel-dilation", "crops", "groups", "lead"],
)
def test_input_dilation(case: Case, algorithm: str) -> None:
    """By phases and with its zeros; phases without taps still have an epilogue."""
    check(
        replace(case, algorithm=algorithm, bias=True, residual=True, activation="silu"), schedules=SCHEDULES
    )


def test_transposed_multiplies_no_zeros() -> None:
    """k = s = 2: 8 phases of one tap, an eighth of the products."""
    case = Case(
        x=(1, 4, 4, 4, 16),
        w=(32, 2, 2, 2, 16),
        padding=ONE,
        input_dilation=(2, 2, 2),
        flip=True,
        block=(64, 32),
    )
    by = {a: check(replace(case, algorithm=a)) for a in ("transposed", "implicit_gemm")}
    counted = {a: sum(s.matrix_multiplies for s in r.steps) for a, r in by.items()}
    assert counted["implicit_gemm"] == 8 * counted["transposed"] > 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sums_in_blocks(dtype: str) -> None:
    """6912 products: one running fp32 sum would miss the contract's 1e-6."""
    check(
        Case(x=(1, 3, 4, 4, 256), w=(8, 3, 3, 3, 256), padding=NONE, dtype=dtype, algorithm="implicit_gemm")
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_barrier_between_depth_taps_is_needed(dtype: str) -> None:
    case = replace(shape_of("taps"), dtype=dtype)
    program = case.program()
    assert [s.barrier for s in program.steps] == [False, True, True]
    arrays, _ = operands(case, program)
    for i in (1, 2):
        steps = list(program.steps)
        steps[i] = replace(steps[i], barrier=False)
        broken = replace(program, steps=tuple(steps))
        result = metal_sim.run_program(broken, arrays, KERNELS, schedules=SCHEDULES[:1])
        assert "missing-barrier" in result.kinds()


def test_phases_need_no_barrier() -> None:
    assert not any(s.barrier for s in shape_of("transposed").program().steps)


def test_a_block_without_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="no kernel for blocks of 48x8"):
        replace(shape_of("taps"), block=(48, 8)).program()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def small(most: int, least: int = 1) -> int:
        return draw(st.integers(least, most))

    def three(most: int) -> tuple[int, ...]:
        return tuple(small(most) for _ in range(3))

    algorithm = draw(st.sampled_from(["implicit_gemm", "taps", "transposed"]))
    kernel, dilation, stride = three(3), three(2), three(3)
    upsampled = three(3) if algorithm == "transposed" else (1, 1, 1)
    if algorithm == "transposed" and upsampled == (1, 1, 1):
        upsampled = (1, 2, 1)
    size = tuple(-(-(k - 1) * d // u) + small(4) for k, d, u in zip(kernel, dilation, upsampled, strict=True))
    # A crop leaves at least one position of the kernel.
    padding = tuple((small(min(2, n - 1), 0), small(min(2, n - 1), 0)) for n in size)
    mode = [*MODES] if upsampled == (1, 1, 1) else ["zeros"]
    groups = small(3) if algorithm != "taps" else 1
    channels, outs = small(9), small(35)
    return Case(
        x=(small(2), *size, groups * channels),
        w=(groups * outs, *kernel, channels),
        dtype=draw(st.sampled_from(DTYPES)),
        w_dtype=draw(st.sampled_from(DTYPES)),
        stride=stride,
        padding=padding,
        dilation=dilation,
        input_dilation=upsampled,
        modes=tuple(draw(st.sampled_from(mode)) for _ in range(3)),
        groups=groups,
        flip=draw(st.booleans()),
        activation=draw(st.sampled_from([None, "relu", "silu", "gelu", "sigmoid", "tanh"])),
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
        lead=small(2, 0),
        algorithm=algorithm,
        block=draw(st.sampled_from(BLOCKS)),
        seed=small(99),
    )


@settings(max_examples=60)
@given(cases())
def test_drawn_programs(case: Case) -> None:
    check(case)


# What stands in the kernel, and what replaces it.
MUTATIONS = {
    "no-barrier": ("threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
    "one-buffer": ("(s & 1) *", "0 *"),
    "rows-unclamped": ("min(first_row + line + i * lines, p.rows - 1)", "first_row + line + i * lines"),
    "rows-short": ("p.rows - 1)", "p.rows - 2)"),
    "rows-unbounded": ("if (row >= p.rows) break;", ""),
    "columns-unclamped": ("min(first_col + line + i * lines, outputs - 1)", "first_col + line + i * lines"),
    "columns-short": ("outputs - 1)", "outputs - 2)"),
    "columns-unbounded": ("if (col >= outputs) break;", ""),
    "products-unbounded": ("k < p.products;", "true;"),
    "products-short": ("k < p.products;", "k < p.products - 1;"),
    "one-step-less": ("s <= steps;", "s < steps;"),
    "sums-not-collected": ("if (Blocked) block.collect();", ""),
    "stale-tap": ("k / channels != tap", "tap < 0"),
    "padding-read": ("if (d < 0 || h < 0 || w < 0) return {nullptr, 0};", ""),
    "lead-too-long": ("d < p.input.lead_frames", "d <= p.input.lead_frames"),
    "group-of-another": ("tap, group.z * channels", "tap, 0"),
    "weights-of-another": ("o = group.z * outputs + min", "o = min"),
    "outputs-of-another": ("o = group.z * outputs + col", "o = col"),
}


def run_mutated(folder: Path, old: str, new: str) -> None:
    kernels = mutated_kernels(folder, "gather_gemm.metal", old, new)
    file = kernels / "gather_gemm.metal"
    # Only the kernel that is run: the others take long to compile.
    lines = [
        line
        for line in file.read_text().splitlines()
        if not line.startswith("INSTANTIATE(") or line.startswith("INSTANTIATE(32, 32, true")
    ]
    file.write_text("\n".join(lines) + "\n")
    case = replace(shape_of("grouped"), lead=1, padding=ONE, block=(32, 32))
    check(case, kernels=kernels, schedules=SCHEDULES[:1])


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_kernels_are_caught(name: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_mutated(tmp_path, *MUTATIONS[name])


def test_the_unmutated_kernel_is_not(tmp_path: Path) -> None:
    run_mutated(tmp_path, "p.rows - 1)", "p.rows - 1)")


def test_devices_have_blocks_for_every_algorithm() -> None:
    """Whatever the plan, its Program is sound."""
    for device in ("m1", "m5-max"):
        assert device in [d["name"] for d in _ext.gpus()]
        for algorithm in SHAPES:
            assert shape_of(algorithm).program(device).problems() == []


def test_agreement_of_algorithms() -> None:
    """The same problem as a product of depth taps and as one product."""
    case = shape_of("taps")
    (_, one, _), (_, other, _) = run(case), run(replace(case, algorithm="implicit_gemm"))
    assert abs(one - other).max() <= 1e-6 * abs(one).max()
