"""Where a convolution goes on a GPU stream: the device, the kernels' first-use checks, and what stock MLX composes.

No GPU is needed: devices are those of the table, and the checks' results are made up.
"""

import subprocess
import sys
import threading
import time

import mlx.core as mx
import numpy as np
import operands
import pytest
import reference
from metal_programs import Case

from mlx_conv3d import _ext, planning

SPATIAL = Case((1, 5, 64, 64, 96), (96, 3, 3, 3, 96), dtype="bfloat16")
DEPTHWISE = Case((1, 5, 32, 32, 64), (64, 3, 3, 3, 1), groups=64, algorithm="auto")
OFF = "Metal kernels switched off: "


class Runs:
    """Stands in for a GPU: gives or raises what it is told, and remembers what was asked of it."""

    def __init__(self, result=0.0, only=None):
        self.result, self.only = result, only
        self.asked, self.warnings = [], []
        self.checks = _ext.SelfChecks(self.run, self.warnings.append)

    def run(self, family, dtype):
        self.asked.append((family, dtype))
        result = self.result if self.only in (None, (family, dtype)) else 0.0
        if isinstance(result, Exception):
            raise result
        return result


def plan(case, **options):
    return planning.plan_of(
        case.x,
        case.w,
        case.parameters(),
        x_type=getattr(mx, case.dtype),
        w_type=getattr(mx, case.w_dtype or case.dtype),
        gpu="m3-max",
        **options,
    )


# ---- the device --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Apple M1", "m1"),
        ("Apple M1 Ultra", "m1-ultra"),
        ("Apple M3 Max", "m3-max"),
        ("Apple M4 Pro", "m4-pro"),
        ("Apple M5", "m5"),
    ],
)
def test_known_gpu(name, expected):
    assert _ext.describe_gpu(name, "applegpu_g15s") == {"name": expected, "note": ""}


@pytest.mark.parametrize(
    ("name", "architecture", "expected"),
    [
        ("Apple M6 Max", "applegpu_g18s", "m5-max"),
        ("Apple M12", "applegpu_g24g", "m5"),
        ("Apple M5 Ultra", "applegpu_g17d", "m5-max"),
        ("Apple A18 Pro GPU", "applegpu_g17p", "m5"),
        ("Apple Paravirtual device", "applegpu_g14d", "m2-ultra"),
        ("AMD Radeon Pro", "", "m1"),
        ("Apple M", "applegpu", "m1"),
    ],
)
def test_unknown_gpu_takes_the_nearest_figures_and_says_so(name, architecture, expected):
    found = _ext.describe_gpu(name, architecture)
    assert found["name"] == expected
    assert name in found["note"] and found["note"].endswith(f"planned with the figures of {expected}")


def test_every_row_of_the_table_is_found_by_its_name():
    for gpu in _ext.gpus():
        chip, _, suffix = gpu["name"].partition("-")
        assert _ext.describe_gpu(f"Apple {chip.upper()} {suffix.title()}".strip(), "")["name"] == gpu["name"]


# ---- kernels that are switched off -------------------------------------------------------------------------


def test_kernels_are_used_where_they_are_on():
    assert plan(SPATIAL).algorithm == "winograd"
    assert plan(DEPTHWISE).algorithm == "grouped"


@pytest.mark.parametrize(("case", "family"), [(SPATIAL, "winograd"), (DEPTHWISE, "grouped")])
def test_kernels_that_are_off_are_not_planned(case, family):
    found = plan(case, switched_off=[family])
    assert found.algorithm != family
    (candidate,) = [c for c in found.candidates if c.algorithm == family]
    assert not candidate.legal and candidate.reason == "its kernels are switched off on this GPU"
    others = [f for f in ("winograd", "grouped") if f != family]
    assert plan(case, switched_off=others).algorithm == family


def test_everything_off_is_stock():
    off = ["winograd", "grouped", "gather_gemm"]
    assert {plan(case, switched_off=off).algorithm for case in (SPATIAL, DEPTHWISE)} == {"stock"}


def test_forcing_kernels_that_are_off_is_an_error():
    with pytest.raises(ValueError, match="winograd cannot run this problem: its kernels are switched off"):
        plan(SPATIAL, switched_off=["winograd"], algorithm="winograd")


def test_unknown_kernels():
    with pytest.raises(ValueError, match="there are no kernels 'fft'"):
        plan(SPATIAL, switched_off=["fft"])


WIDE_GROUPS = Case((1, 3, 9, 8, 128), (128, 3, 3, 3, 64), groups=2)
TRANSPOSED = Case((1, 3, 5, 4, 20), (40, 3, 3, 3, 20), input_dilation=(2, 2, 2))
POINTWISE = Case((1, 3, 9, 8, 20), (40, 1, 1, 1, 20), padding=((0, 0),) * 3)


@pytest.mark.parametrize(
    ("case", "algorithm", "family"),
    [
        (SPATIAL, "winograd", "winograd"),
        (DEPTHWISE, "grouped", "grouped"),
        (WIDE_GROUPS, "grouped", "gather_gemm"),
        (TRANSPOSED, "transposed", "gather_gemm"),
        (POINTWISE, "pointwise", "gather_gemm"),
        (SPATIAL, "implicit_gemm", "gather_gemm"),
    ],
)
def test_families_are_named_after_their_files(case, algorithm, family):
    """What is switched off together is what a plan's steps are compiled from."""
    found = plan(case, algorithm=algorithm)
    assert {step["source"].startswith(family) for step in found.program["steps"]} == {True}
    with pytest.raises(ValueError, match="its kernels are switched off on this GPU"):
        plan(case, algorithm=algorithm, switched_off=[family])


# ---- first-use checks --------------------------------------------------------------------------------------


def test_a_check_that_passes_runs_once_per_family_and_type():
    runs = Runs()
    for _ in range(3):
        assert plan(SPATIAL, checks=runs.checks).algorithm == "winograd"
        assert plan(DEPTHWISE, checks=runs.checks).algorithm == "grouped"
    assert runs.asked == [("winograd", "bfloat16"), ("grouped", "float32")]
    assert [c["passed"] for c in runs.checks.results()] == [True, True]
    assert runs.warnings == [] and runs.checks.switched_off() == {}


def test_mixed_types_are_checked_one_by_one():
    runs = Runs()
    mixed = Case(SPATIAL.x, SPATIAL.w, dtype="bfloat16", w_dtype="float16")
    assert plan(mixed, checks=runs.checks, out_type=mx.float32).algorithm == "winograd"
    assert runs.asked == [("winograd", t) for t in ("bfloat16", "float16", "float32")]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (0.5, "bfloat16 results differ from the CPU's by 5.00e-01"),
        (float("nan"), "bfloat16 results differ from the CPU's by nan"),
        (RuntimeError("unable to build metal library: no such thing"), "unable to build metal library"),
    ],
    ids=["mismatch", "nan", "throw"],
)
def test_a_check_that_fails_switches_the_family_off_with_one_warning(result, words):
    runs = Runs(result)
    for _ in range(3):
        found = plan(SPATIAL, checks=runs.checks)
        assert found.algorithm == "stock" and found.reason.startswith(OFF + "winograd")
    assert runs.asked[0] == ("winograd", "bfloat16") and runs.asked.count(runs.asked[0]) == 1
    ((family, why),) = [(f, w) for f, w in runs.checks.switched_off().items() if f == "winograd"]
    assert family == "winograd" and words in why
    (warning,) = [w for w in runs.warnings if "'winograd'" in w]
    assert "stock MLX does their work" in warning and words in warning


def test_other_families_stay_on():
    runs = Runs(0.5, only=("winograd", "bfloat16"))
    assert plan(SPATIAL, checks=runs.checks).algorithm != "winograd"
    assert plan(DEPTHWISE, checks=runs.checks).algorithm == "grouped"
    assert list(runs.checks.switched_off()) == ["winograd"]


def test_a_type_that_fails_switches_off_the_types_that_passed():
    runs = Runs(0.5, only=("winograd", "float16"))
    assert runs.checks.usable("winograd", "bfloat16")
    assert not runs.checks.usable("winograd", "float16")
    assert not runs.checks.usable("winograd", "bfloat16")
    assert len(runs.warnings) == 1 and len(runs.asked) == 2


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tolerance_is_a_few_units_in_the_last_place(dtype):
    runs = Runs()
    runs.checks.usable("winograd", dtype)
    (result,) = runs.checks.results()
    unit = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    most = 500 if dtype == "float32" else 1
    assert unit <= result["tolerance"] <= most * unit
    for error, passes in ((0.99 * result["tolerance"], True), (1.01 * result["tolerance"], False)):
        assert Runs(error).checks.usable("winograd", dtype) is passes


def test_nothing_is_checked_for_stock():
    runs = Runs()
    assert plan(SPATIAL, checks=runs.checks, algorithm="stock").algorithm == "stock"
    assert runs.asked == []


def test_an_empty_problem_is_stocks():
    runs = Runs()
    found = plan(Case((0, 5, 64, 64, 96), SPATIAL.w), checks=runs.checks)
    assert found.reason == "an operand or the result is empty" and runs.asked == []


def test_one_thread_checks_while_another_waits():
    started, finish = threading.Event(), threading.Event()
    asked, found = [], []

    def run(family, dtype):
        asked.append(threading.get_ident())
        started.set()
        assert finish.wait(30)
        return 0.0

    checks = _ext.SelfChecks(run, lambda message: None)
    threads = [
        threading.Thread(target=lambda: found.append(checks.usable("winograd", "float32"))) for _ in range(4)
    ]
    threads[0].start()
    assert started.wait(30)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.05)
    assert found == [] and all(thread.is_alive() for thread in threads)
    finish.set()
    for thread in threads:
        thread.join(30)
    assert found == [True] * 4 and len(asked) == 1


def test_a_check_may_use_what_it_checks():
    def run(family, dtype):
        assert checks.usable(family, dtype)
        return 0.0

    checks = _ext.SelfChecks(run, lambda message: None)
    assert checks.usable("winograd", "float32")
    assert len(checks.results()) == 1


def test_a_warning_may_use_what_it_warns_of():
    seen = []

    def warn(message):
        seen.append(checks.usable("winograd", "float16"))

    checks = _ext.SelfChecks(lambda family, dtype: 1.0, warn)
    assert not checks.usable("winograd", "float32")
    assert seen == [False]


UNCHECKED = """
import mlx.core as mx
import mlx_conv3d
from mlx_conv3d import _ext

x, w = mx.ones((1, 3, 8, 8, 32)), mx.ones((32, 3, 3, 3, 32))
mx.eval(mlx_conv3d.conv3d(x, w, stream=mx.cpu))
mlx_conv3d.plan(x.shape, w.shape, device="m3-max")
if _ext.gpu() is None:
    mx.eval(mlx_conv3d.conv3d(x, w))
print(_ext.self_checks(), _ext.switched_off(), mlx_conv3d.stats()["switched_off"])
"""


def test_nothing_is_checked_before_a_gpu_needs_it():
    done = subprocess.run([sys.executable, "-c", UNCHECKED], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("[] {} {}", "")


# ---- dL/dw as GPU streams compose it -----------------------------------------------------------------------

WEIGHT_CASES = {
    "plain": Case((2, 4, 5, 6, 3), (4, 3, 3, 3, 3)),
    "strided, a remainder": Case((1, 5, 8, 7, 2), (3, 2, 3, 2, 2), stride=(2, 3, 2)),
    "dilated": Case((1, 6, 7, 8, 2), (3, 2, 2, 2, 2), dilation=(2, 3, 2)),
    "transposed": Case((1, 3, 4, 3, 2), (3, 3, 3, 3, 2), input_dilation=(2, 2, 2), flip=True),
    "grouped": Case((1, 4, 5, 6, 4), (6, 2, 3, 3, 2), groups=2),
    "edge and reflect": Case((1, 4, 5, 6, 2), (3, 3, 3, 3, 2), modes=("edge", "reflect", "zeros")),
    "lead": Case((1, 4, 5, 6, 2), (3, 3, 3, 3, 2), lead=2),
    "upsampled": Case((1, 3, 4, 5, 2), (3, 3, 3, 3, 2), upsample=(1, 2, 2)),
    "mixed": Case((1, 4, 5, 6, 2), (3, 3, 3, 3, 2), dtype="bfloat16", w_dtype="float32"),
    "half": Case((1, 4, 5, 6, 2), (3, 3, 3, 3, 2), dtype="float16"),
}


def composed_gradient(case, x, dy, lead=None):
    return _ext.stock_weight_gradient(
        x,
        dy,
        case.parameters().core,
        w_shape=list(case.w),
        w_type=getattr(mx, case.w_dtype or case.dtype),
        lead=lead,
    )


def gradient_operands(case):
    rng = np.random.default_rng(3)
    dtype = getattr(mx, case.dtype)
    values = {"x": rng.normal(size=case.x), "w": np.zeros(case.w)}
    if case.lead:
        values["lead"] = rng.normal(size=(case.x[0], case.lead, *case.x[2:]))
    arrays = {name: mx.array(v.astype(np.float32)).astype(dtype) for name, v in values.items()}
    exact = {name: operands.float64(a) for name, a in arrays.items()}
    conv = case.reference()
    y = reference.forward(exact["x"], exact["w"], conv, **{n: exact[n] for n in ("lead",) if n in exact})
    dy = mx.array(rng.normal(size=y.shape).astype(np.float32)).astype(getattr(mx, case.out_dtype))
    return arrays, exact, dy, conv


@pytest.mark.parametrize("name", WEIGHT_CASES)
def test_composed_weight_gradient(name):
    case = WEIGHT_CASES[name]
    arrays, exact, dy, conv = gradient_operands(case)
    found = composed_gradient(case, arrays["x"], dy, arrays.get("lead"))
    rest = {n: exact[n] for n in ("lead",) if n in exact}
    expected = reference.adjoint(operands.float64(dy), exact["x"], exact["w"], conv, **rest).w
    assert found.shape == case.w and found.dtype == getattr(mx, case.w_dtype or case.dtype)
    bound = {mx.float32: 1e-5, mx.float16: 2**-10}[found.dtype]
    assert reference.norm(operands.float64(found) - expected) <= bound * reference.norm(expected)


def test_composed_weight_gradient_under_transformations():
    """It is built within another derivative, and within mx.compile."""
    case = WEIGHT_CASES["strided, a remainder"]
    arrays, exact, dy, conv = gradient_operands(case)
    v = mx.random.normal(case.w)

    def value(x, dy):
        return (composed_gradient(case, x, dy) * v).sum()

    dx, ddy = mx.compile(mx.grad(value, argnums=(0, 1)))(arrays["x"], dy)
    weights = operands.float64(v)
    expected = reference.adjoint(operands.float64(dy), exact["x"], weights, conv)
    assert reference.norm(operands.float64(dx) - expected.x) <= 1e-5 * reference.norm(expected.x)
    y = reference.forward(exact["x"], weights, conv)
    assert reference.norm(operands.float64(ddy) - y) <= 1e-5 * reference.norm(y)
