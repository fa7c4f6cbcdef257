"""The build for macOS, as far as Linux can go: the extension compiles with warnings as errors and links, for both
versions of MLX, and a symbol that libmlx hides is an error that names it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import build
import driver
import macos_tools
import pytest
from macos_tools import ROOT
from macos_wheel import EXTENSION, OLDER, THIS, TOOLS, commands, needs, rerun, unpacked

LINKED = Path(EXTENSION).name
RUN = "CMakeFiles/_ext.dir/metal/run.cpp.o"
HIDDEN = """
#include "mlx/backend/gpu/copy.h"
__attribute__((used)) void hidden(mx::array& a, mx::Stream s) { mx::copy_gpu(a, a, mx::CopyType::General, s); }
"""


VERSIONS = [
    pytest.param(tools, marks=needs(tools), id=f"mlx {tools.mlx_version}") for tools in (TOOLS, OLDER)
]


@pytest.mark.parametrize("tools", VERSIONS)
def test_every_source_compiles_without_warnings_and_links(
    tools: macos_tools.Tools, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build.check_extension(tools, unpacked(tools, tmp_path), THIS, "--imports")
    listed = capfd.readouterr().out
    assert "\n@rpath/libmlx.dylib: __ZN3mlx4core5metal19get_command_encoderENS0_6StreamE\n" in listed
    assert "\nany library: _PyModuleDef_Init\n" in listed
    for source in ("metal/run", "core/bindings_metal", "core/primitive", "core/route"):
        (words,) = commands(tools, f"CMakeFiles/_ext.dir/{source}.cpp.o")
        assert {"-Wall", "-Wextra", "-Werror", "-D_METAL_"} <= set(words)
        assert f'-DMLX_CONV3D_MLX_VERSION="{tools.mlx_version}"' in words


@needs(TOOLS)
@pytest.mark.parametrize("hidden", [False, True], ids=["as it is", "with a hidden symbol"])
def test_a_hidden_symbol_in_the_host_code_fails_the_link_and_is_named(tmp_path: Path, hidden: bool) -> None:
    source, made, linked = tmp_path / "run.cpp", tmp_path / "run.o", tmp_path / LINKED
    source.write_text(
        (ROOT / "metal" / "run.cpp").read_text() + (HIDDEN if hidden else "").replace("mx::", "mlx::core::")
    )
    compiled = rerun(TOOLS, RUN, {str(ROOT / "metal" / "run.cpp"): str(source), RUN: str(made)})
    assert compiled.returncode == 0, compiled.stderr
    done = rerun(TOOLS, LINKED, {RUN: str(made), LINKED: str(linked)})
    assert (done.returncode != 0) == hidden, done.stderr
    assert ("undefined symbol: mlx::core::copy_gpu(" in done.stderr) == hidden
    assert linked.exists() != hidden


@needs(TOOLS)
def test_warnings_are_errors(tmp_path: Path) -> None:
    source = tmp_path / "run.cpp"
    source.write_text((ROOT / "metal" / "run.cpp").read_text() + "static int unused() { return 1; }\n")
    done = rerun(TOOLS, RUN, {str(ROOT / "metal" / "run.cpp"): str(source), RUN: str(tmp_path / "run.o")})
    assert done.returncode != 0
    assert "unused function 'unused' [-Werror,-Wunused-function]" in done.stderr


CHECK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import check
extension, libmlx, symbols = map(Path, sys.argv[2:5])
exported = check.exports_of(libmlx) - {sys.argv[5]}
print(*check.wrong_imports(check.parse(extension), exported, check.cpython_symbols(symbols)), sep="\\n")
"""


@needs(TOOLS)
def test_an_import_that_libmlx_lacks_is_named(tmp_path: Path) -> None:
    """Should a link ever let one pass: the check of the finished extension finds it on its own."""
    extension = unpacked(TOOLS, tmp_path)
    libmlx, symbol = (
        TOOLS.mlx / "lib" / "libmlx.dylib",
        "__ZN3mlx4core5metal19get_command_encoderENS0_6StreamE",
    )
    arguments = [ROOT / "tools" / "macos", extension, libmlx, TOOLS.symbols(), symbol]
    done = subprocess.run([TOOLS.python, "-c", CHECK, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == f"{symbol} is not in @rpath/libmlx.dylib\n"


def test_links_never_allow_undefined_symbols() -> None:
    given = [
        "-bundle",
        "-undefined",
        "dynamic_lookup",
        "-Wl,-dead_strip",
        "-O3",
        "-o",
        "x.so",
        "a.o",
        "@list.sym",
    ]
    command = driver.link_command(Path("/tools"), given)
    at = command.index("-undefined")
    assert command.count("-undefined") == 1 and command[at + 1] == "error"
    assert "-bundle" in command and command[command.index("-o") + 1] == "x.so"
    assert [a for a in command if a in ("-dead_strip", "-O3", "a.o", "@list.sym")] == [
        "-dead_strip",
        "a.o",
        "@list.sym",
    ]


def test_options_for_an_sdk_are_dropped() -> None:
    given = [
        "-arch",
        "arm64",
        "-isysroot",
        "/sdk",
        "-mmacosx-version-min=11",
        "-F/Applications/X",
        "-c",
        "a.cpp",
    ]
    assert driver.without_host_options(given) == ["-c", "a.cpp"]
