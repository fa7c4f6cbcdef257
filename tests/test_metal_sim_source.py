"""The simulator's front end: what MSL it takes, what it rejects, and that every complaint has its line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from metal_sim import check
from metal_sim.support import needs_metal_sim

pytestmark = needs_metal_sim

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
CASES = Path(__file__).parent / "metal_sim" / "cases"


def cases(name):
    """Sources by title; a title is a line that starts with four slashes."""
    parts = re.split(r"^//// (.*)\n", (CASES / name).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


REJECTED, ACCEPTED = cases("rejected.metal"), cases("accepted.metal")


def diagnose(tmp_path, source):
    path = tmp_path / "kernel.metal"
    path.write_text(HEAD + source)
    return check(path)


@pytest.mark.parametrize("what", REJECTED)
def test_rejected(tmp_path, what):
    source = REJECTED[what]
    found = diagnose(tmp_path, source)
    assert found, f"{what} is accepted"
    line = (HEAD + source).partition("// <-")[0].count("\n") + 1
    assert found[0].file.endswith("kernel.metal") and found[0].line == line, found
    assert str(found[0]).startswith(f"{found[0].file}:{line}: ")


@pytest.mark.parametrize("what", ACCEPTED)
def test_accepted(tmp_path, what):
    assert [str(d) for d in diagnose(tmp_path, ACCEPTED[what])] == []


def test_all_mistakes_are_told_at_once(tmp_path):
    found = diagnose(
        tmp_path, "void f(float* p);\nvoid g(float& p);\nkernel void k(device int* d) { d[0] = x; }\n"
    )
    assert [d.line for d in found] == [3, 4, 5]
    assert [d.rule for d in found] == ["address-space", "address-space", "clang"]


def test_mistake_in_a_header_has_its_file(tmp_path):
    (tmp_path / "tile.h").write_text("#pragma once\ninline int twice(int x) {\n  return y;\n}\n")
    (found,) = diagnose(tmp_path, '#include "tile.h"\nkernel void k(device int* d) { d[0] = twice(1); }\n')
    assert (Path(found.file).name, found.line) == ("tile.h", 3)


def test_changed_header_is_compiled_again(tmp_path):
    header = tmp_path / "tile.h"
    source = '#include "tile.h"\nkernel void k(device int* d) { d[0] = WIDTH; }\n'
    header.write_text("#define WIDTH 8\n")
    assert diagnose(tmp_path, source) == []
    header.write_text("#define WIDTH wide\n")
    assert "undeclared identifier 'wide'" in diagnose(tmp_path, source)[0].message


@pytest.mark.parametrize(("required", "outcome"), [("0", "skipped"), ("1", "failed")])
def test_without_clang_tests_skip_or_fail_with_the_reason(required, outcome):
    environment = {**os.environ, "MLX_CONV3D_CLANG": "/no/clang", "MLX_CONV3D_REQUIRE_METAL_SIM": required}
    one = f"{__file__}::test_accepted[float to half]"
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-rsf", "-p", "no:cacheprovider", one]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert f"1 {outcome}" in done.stdout
    assert "needs clang 19" in done.stdout
