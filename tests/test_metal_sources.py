"""The Metal sources that the extension carries: complete, and what the files in kernels/ say."""

import re
import sys
from pathlib import Path

import metal_sim
import pytest
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
