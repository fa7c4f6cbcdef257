"""The Metal sources that the extension carries: complete, and what the files in kernels/ say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import metal_sim
import pytest
from metal_sim.frontend import host_names
from metal_sim.support import needs_metal_sim

from mlx_conv3d import _ext

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"
NAMES = sorted(path.name for path in KERNELS.glob("*.metal"))

sys.path.insert(0, str(ROOT / "tools"))
import embed_kernels  # noqa: E402


def test_every_kernel_file_is_carried():
    assert _ext.kernel_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_source_is_the_file_with_its_headers(name):
    text = _ext.kernel_source(name)
    assert text == embed_kernels.flatten(KERNELS / name), "the extension is older than kernels/"
    assert not re.search(r'#\s*include\s*"|#\s*pragma\s+once', text)
    assert text.isascii() and str(ROOT) not in text


@needs_metal_sim
@pytest.mark.parametrize("name", NAMES)
def test_source_compiles_by_itself(tmp_path, name):
    alone = tmp_path / name
    alone.write_text(_ext.kernel_source(name))
    assert [str(found) for found in metal_sim.check(alone)] == []


def test_unknown_source():
    with pytest.raises(ValueError, match=r"kernel_names\(\), got 'nonsense.metal'"):
        _ext.kernel_source("nonsense.metal")


def test_a_header_is_included_once(tmp_path):
    (tmp_path / "a.h").write_text("#pragma once\nint a;\n")
    (tmp_path / "b.h").write_text('#pragma once\n#include "a.h"\nint b;\n')
    (tmp_path / "k.metal").write_text('#include <metal_stdlib>\n#include "a.h"\n#include "b.h"\nint k;\n')
    assert embed_kernels.flatten(tmp_path / "k.metal") == "#include <metal_stdlib>\nint a;\nint b;\nint k;\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('#include "missing.h"\n', "k.metal:1: there is no missing.h"),
        ("int k;  // \N{GREEK SMALL LETTER PI}\n", "k.metal:1: only ASCII"),
    ],
)
def test_what_cannot_be_embedded_is_said(tmp_path, text, message):
    (tmp_path / "k.metal").write_text(text)
    with pytest.raises(SystemExit, match=message):
        embed_kernels.generate(tmp_path)


# ---- for Metal's own compiler --------------------------------------------------------------------------------

WRITE = [sys.executable, str(ROOT / "tools" / "metal_sources.py")]
# Stands for xcrun: refuses a source with BROKEN in it; a library is the source's text, the names ended by zeros.
XCRUN = """
shift 2
tool=$1; shift
for word; do case $word in *.metal | *.air) [ -e "$word" ] && from=$word ;; esac; last=$word; done
echo "$tool $*" >> "$LOG"
if grep -q BROKEN "$from"; then echo "$from:1: error: BROKEN" >&2; exit 1; fi
if [ "$tool" = metallib ]; then tr '"' '\\0' < "$from" > "$last"; else cp "$from" "$last"; fi
"""
SOURCE = '#include <metal_stdlib>\n[[host_name("{0}")]] kernel void f() {{}}\n'


def compile_with_a_stand_in(tmp_path, **sources):
    """What the tool says about sources by name, and what it had xcrun do."""
    kernels, programs = tmp_path / "kernels", tmp_path / "bin"
    kernels.mkdir()
    programs.mkdir()
    for name, text in sources.items():
        (kernels / f"{name}.metal").write_text(text)
    (programs / "xcrun").write_text(f"#!/bin/sh\n{XCRUN}")
    (programs / "xcrun").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "LOG": str(tmp_path / "log")}
    command = [*WRITE, str(tmp_path / "out"), "--kernels", str(kernels), "--compile"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done, (tmp_path / "log").read_text().splitlines()


def test_every_source_is_written_with_its_kernels(tmp_path):
    subprocess.run([*WRITE, str(tmp_path)], check=True, capture_output=True, timeout=60)
    assert sorted(path.name for path in tmp_path.glob("*.metal")) == NAMES
    for name in NAMES:
        assert (tmp_path / name).read_text() == _ext.kernel_source(name)
    functions = json.loads((tmp_path / "functions.json").read_text())
    assert sorted(functions) == NAMES
    assert sum(map(len, functions.values())) >= 59


@needs_metal_sim
@pytest.mark.parametrize("name", NAMES)
def test_the_kernels_are_those_of_the_simulator(tmp_path, name):
    subprocess.run([*WRITE, str(tmp_path)], check=True, capture_output=True, timeout=60)
    functions = json.loads((tmp_path / "functions.json").read_text())
    assert sorted(functions[name]) == host_names(KERNELS / name)


def test_each_source_is_compiled_and_linked(tmp_path):
    done, commands = compile_with_a_stand_in(tmp_path, one=SOURCE.format("f_one"), two=SOURCE.format("f_two"))
    assert done.returncode == 0, done.stderr
    assert [command.split()[0] for command in commands] == ["metal", "metallib"] * 2
    assert all("-std=metal3.1" in c and "-Werror" in c for c in commands if c.startswith("metal "))
    assert done.stdout.splitlines() == ["one.metal: 1 kernels", "two.metal: 1 kernels"]


def test_a_source_that_does_not_compile_is_named(tmp_path):
    broken = SOURCE.format("f_two") + "BROKEN\n"
    done, commands = compile_with_a_stand_in(
        tmp_path, one=SOURCE.format("f_one"), two=broken, three=SOURCE.format("f_three")
    )
    assert done.returncode == 1
    assert "two.metal: 1 kernels, FAILED" in done.stdout and "two.metal:1: error: BROKEN" in done.stderr
    assert len(commands) == 5


def test_a_kernel_that_is_not_in_the_library_is_named(tmp_path):
    text = '#define NAME "f_" "lost"\n' + SOURCE.replace('"{0}"', "NAME").format()
    done, _ = compile_with_a_stand_in(tmp_path, one=text)
    assert done.returncode == 1
    assert "one.metallib lacks f_lost" in done.stderr


def test_a_source_without_a_kernel_is_refused(tmp_path):
    (tmp_path / "none.metal").write_text("int f() { return 0; }\n")
    command = [*WRITE, str(tmp_path / "out"), "--kernels", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "none.metal has no kernel with a host_name" in done.stderr
