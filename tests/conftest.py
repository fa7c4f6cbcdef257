"""Hypothesis profiles, the count of drawn problems, and guards: MLX stays unpatched, tests of Metal and macOS run."""

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

# Files of tests that need a compiler that not every machine has, and the variable that forbids to leave them out.
NEEDY = {
    "Metal": ("test_metal_", "MLX_CONV3D_REQUIRE_METAL_SIM"),
    "macOS": ("test_macos_", "MLX_CONV3D_REQUIRE_MACOS"),
}

_drawn: set[str] = set()
_outcomes: dict[str, Counter[str]] = {name: Counter() for name in NEEDY}
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
    for name, (files, _) in NEEDY.items():
        if files in report.nodeid.split("::")[0] and (report.when == "call" or report.outcome != "passed"):
            _outcomes[name][report.outcome] += 1


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
    if too_few(session.config) or left_out(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    _drawn.update(getattr(node, "workeroutput", {}).get(DRAWN_KEY, []))


def too_few(config: pytest.Config) -> bool:
    """Whether every family of the parity test ran under `ci`, and yet too few problems were drawn."""
    whole = settings.default.max_examples >= 400 and len(_parity_families) >= all_families()
    return whole and len(_drawn) < LEAST_PROBLEMS


def left_out(config: pytest.Config) -> list[str]:
    """Which of NEEDY were asked for, and a run of all tests skipped some or had none."""
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS and not config.option.keyword
    if not whole or config.option.collectonly:
        return []
    required = [name for name, (_, variable) in NEEDY.items() if os.environ.get(variable) == "1"]
    return [name for name in required if _outcomes[name]["skipped"] or not _outcomes[name]["passed"]]


def all_families() -> int:
    import problems

    return len(problems.FAMILIES)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, outcomes in _outcomes.items():
        if outcomes:
            counts = ", ".join(f"{n} tests {outcome}" for outcome, n in outcomes.items())
            terminalreporter.write_line(f"{name}: {counts}")
    for name in left_out(config):
        terminalreporter.write_line(f"{NEEDY[name][1]}=1, but not all {name} tests ran", red=True)
    if not _drawn:
        return
    terminalreporter.write_line(f"{len(_drawn)} distinct convolution problems drawn")
    if too_few(config):
        terminalreporter.write_line(f"fewer than the {LEAST_PROBLEMS} the parity tests promise", red=True)
