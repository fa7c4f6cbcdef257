"""Hypothesis profiles, the count of drawn problems, and guards: no test leaves MLX patched, Metal's tests have run."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, Phase, settings

LEAST_PROBLEMS = 2_000
SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large]

# `ci` draws the same problems on every run; `explore` draws others each time.
# max_examples is per family of problems.
settings.register_profile(
    "ci", max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=SLOW_IS_FINE
)
settings.register_profile("explore", max_examples=1000, deadline=None, suppress_health_check=SLOW_IS_FINE)
settings.register_profile(
    "quick",
    max_examples=15,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=SLOW_IS_FINE,
)
settings.load_profile("ci" if os.environ.get("CI") == "true" else os.environ.get("HYPOTHESIS_PROFILE", "ci"))

DRAWN_KEY = "mlx_conv3d_drawn"
PARITY_KEY = "mlx_conv3d_parity"
MLX_FUNCTIONS = (
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_general",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)
STOCK = {name: getattr(mx, name) for name in MLX_FUNCTIONS}

METAL_REQUIRED = os.environ.get("MLX_CONV3D_REQUIRE_METAL_SIM") == "1"
METAL_TESTS = "test_metal_"

_drawn: set[str] = set()
_metal: Counter[str] = Counter()  # tests of Metal by outcome
_parity_families: set[str] = set()


@pytest.fixture(autouse=True)
def stock_mlx() -> Iterator[None]:
    """Every test starts and ends with MLX's own functions in place."""
    assert {name: getattr(mx, name) for name in MLX_FUNCTIONS} == STOCK
    yield
    left = [name for name in MLX_FUNCTIONS if getattr(mx, name) is not STOCK[name]]
    for name in left:
        setattr(mx, name, STOCK[name])
    assert not left, f"left patched: {left}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed and "test_drawn_problems[" in report.nodeid:
        _parity_families.add(report.nodeid)
    if METAL_TESTS in report.nodeid.split("::")[0] and (report.when == "call" or report.skipped):
        _metal[report.outcome] += 1


def drawn_here() -> set[str]:
    """A name of each problem drawn in this process, the same in every process."""
    problems = sys.modules.get("problems")
    drawn = problems.DRAWN if problems else ()
    return {blake2b(repr(problem).encode(), digest_size=8).hexdigest() for problem in drawn}


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[DRAWN_KEY] = sorted(drawn_here())
        return
    _drawn.update(drawn_here())
    if too_few(session.config) or metal_left_out(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    _drawn.update(getattr(node, "workeroutput", {}).get(DRAWN_KEY, []))


def too_few(config: pytest.Config) -> bool:
    """Whether every family of the parity test ran under `ci`, and yet too few problems were drawn."""
    whole = settings.default.max_examples >= 400 and len(_parity_families) >= all_families()
    return whole and len(_drawn) < LEAST_PROBLEMS


def metal_left_out(config: pytest.Config) -> bool:
    """Whether Metal's tests were asked for, and a run of all tests skipped some or had none."""
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS and not config.option.keyword
    left_out = _metal["skipped"] > 0 or _metal["passed"] == 0
    return METAL_REQUIRED and whole and not config.option.collectonly and left_out


def all_families() -> int:
    import problems

    return len(problems.FAMILIES)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _metal:
        terminalreporter.write_line(
            f"Metal: {', '.join(f'{n} tests {outcome}' for outcome, n in _metal.items())}"
        )
    if metal_left_out(config):
        terminalreporter.write_line("MLX_CONV3D_REQUIRE_METAL_SIM=1, but not all Metal tests ran", red=True)
    if not _drawn:
        return
    terminalreporter.write_line(f"{len(_drawn)} distinct convolution problems drawn")
    if too_few(config):
        terminalreporter.write_line(f"fewer than the {LEAST_PROBLEMS} the parity tests promise", red=True)
