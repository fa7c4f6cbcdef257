"""Metal kernels without a Mac: the sources in the extension, compiled and executed by a checkout's simulator.

The simulator is part of the tests (tests/metal_sim) and needs clang 19 and NumPy. What it runs are the Programs of the
first-use checks, at one schedule, held to the tolerance that a Mac would hold them to.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx

from mlx_conv3d import _ext
from mlx_conv3d.doctor import faults, problems
from mlx_conv3d.doctor.faults import FAMILIES
from mlx_conv3d.doctor.items import Item
from mlx_conv3d.doctor.rows import FAIL, OK, SKIP, Finding
from mlx_conv3d.planning import DTYPES

GPU = "m1"
SECONDS = 20  # for one dispatch, which takes milliseconds


def obstacle(checkout: str) -> str:
    """Why the simulator cannot run, "" if it can."""
    if not checkout:
        return "no checkout of this version: its tests hold the simulator (--checkout names one)"
    if find_spec("numpy") is None:
        return "the simulator needs NumPy"
    return str(simulator(checkout).unavailable_reason())


@cache
def simulator(checkout: str) -> Any:
    """The checkout's package metal_sim."""
    sys.path.insert(0, str(Path(checkout, "tests")))
    return import_module("metal_sim")


@cache
def sources() -> Path:
    """A folder with the sources as the extension has them, for as long as this process runs."""
    folder = TemporaryDirectory(prefix="mlx-conv3d-kernels-")
    _kept.append(folder)
    for name in _ext.kernel_names():
        Path(folder.name, name).write_text(_ext.kernel_source(name), encoding="utf-8")
    return Path(folder.name)


_kept: list[TemporaryDirectory[str]] = []


def without_folder(text: str) -> str:
    return text.replace(f"{sources()}/", "")


def compiles(checkout: str, name: str) -> Finding:
    found = [without_folder(str(diagnostic)) for diagnostic in simulator(checkout).check(sources() / name)]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return Finding(FAIL, f"{found[0]}{more}"[:600], {"diagnostics": found})
    return Finding(OK, "compiles, by clang with Metal's rules for address spaces")


def distance(checkout: str, case: dict[str, Any], dtype: str) -> float:
    """The relative L2 difference between a case's Program in the simulator and the CPU's result."""
    import numpy as np

    sim = simulator(checkout)
    schedule = sim.Schedule("shuffled", 3)
    memory = {name: _memory(a) for name, a in case["operands"].items()}
    program = sim.Program.from_dict(case["program"])
    try:
        result = sim.run_program(program, memory, sources(), schedules=(schedule,), timeout=SECONDS)
    except sim.CompileError as error:
        raise RuntimeError(without_folder(str(error))) from None
    if result.reports:
        raise RuntimeError(f"{case['algorithm']} {case['problem']}: {result.reports[0]}")
    y = result.outputs["y"]
    y = mx.array(sim.bfloat16_floats(y) if dtype == "bfloat16" else np.asarray(y, np.float32))
    with mx.stream(mx.cpu):
        expected = case["expected"].astype(mx.float64)
        y = faults.perturbed(y.reshape(expected.shape).astype(mx.float64), _family(program))
    return problems.relative_error(y, expected)


def _family(program: Any) -> str:
    return next(f for f in FAMILIES if program.steps[0].source.startswith(f))


def _memory(a: mx.array) -> Any:
    import numpy as np

    bits = a.view(mx.uint16, stream=mx.cpu) if a.dtype == mx.bfloat16 else a
    return np.array(bits).reshape(-1)


def agrees(checkout: str, family: str, dtype: str) -> Finding:
    cases = _ext.self_check_cases(GPU, family, dtype)
    error = max(
        (distance(checkout, case, dtype) for case in cases), key=lambda e: e if e == e else float("inf")
    )
    tolerance = _ext.self_check_tolerance(dtype)
    data = {"error": error, "tolerance": tolerance, "programs": len(cases)}
    if error <= tolerance:
        return Finding(
            OK, f"{len(cases)} Programs differ from the CPU by {error:.1e} of at most {tolerance:.1e}", data
        )
    return Finding(FAIL, f"differs from the CPU by {error:.1e}, more than {tolerance:.1e}", data)


def is_current(checkout: str) -> Finding:
    """Whether the extension was built from the kernels that the checkout has."""
    sys.path.insert(0, str(Path(checkout, "tools")))
    flatten = import_module("embed_kernels").flatten
    files = {path.name: path for path in Path(checkout, "kernels").glob("*.metal")}
    carried = set(_ext.kernel_names())
    other = [n for n in files if n not in carried or flatten(files[n]) != _unbroken(n)]
    if wrong := sorted({*other, *(carried - set(files))}):
        return Finding(
            FAIL, f"the extension holds another {', '.join(wrong)} than {checkout}/kernels: build it again"
        )
    return Finding(OK, f"{len(files)} sources in the extension are those of the checkout")


def _unbroken(name: str) -> str:
    text = _ext.kernel_source(name)
    return text[: text.rindex("void broken_by_")] if name in faults.named() else text


def items(checkout: str) -> list[Item]:
    if reason := obstacle(checkout):
        return [
            Item(
                "sources and families",
                lambda: Finding(SKIP, f"Metal kernels are not compiled here: {reason}"),
            )
        ]
    found = [Item("sources", partial(is_current, checkout))]
    found += [Item(name, partial(compiles, checkout, name)) for name in _ext.kernel_names()]
    for dtype in DTYPES:
        for family in reversed(FAMILIES):  # the one with most steps last
            found.append(Item(f"{family} {dtype}", partial(agrees, checkout, family, dtype), (family,)))
    return found
