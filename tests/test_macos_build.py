"""The build for macOS, as far as Linux can go: the Metal host code compiles with the headers of MLX and imports only
what libmlx exports. `python tools/macos/build.py --fetch` gets what is needed; without, these tests are skipped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "macos"))
import build  # noqa: E402
import driver  # noqa: E402

TOOLS = build.Tools(build.default_tools(), build.requirement("mlx"))


def obstacle():
    if packages := build.missing_programs():
        return f"the build for macOS needs apt-get install {packages}"
    if not TOOLS.ready.exists():
        return "the build for macOS needs python tools/macos/build.py --fetch"
    return ""


needs_tools = pytest.mark.skipif(bool(obstacle()), reason=obstacle() or "the tools are there")

IMPORTS = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import check, lief
made = check.parse(Path(sys.argv[2]))
undefined = [s.name for s in made.symbols if (s.raw_type & 0x0E) == 0 and check.MLX.search(s.name)]
print(json.dumps([undefined, sorted(set(undefined) - check.exports_of(Path(sys.argv[3])))]))
"""


def compile_for_macos(source, output):
    include = TOOLS.mlx / "include"
    flags = ["-std=c++20", "-D_METAL_", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    folders = ["-I", str(ROOT), "-isystem", str(include), "-isystem", str(include / "metal_cpp")]
    return subprocess.run(
        [str(TOOLS.folder / "bin" / "c++"), *flags, *folders, "-c", str(source), "-o", str(output)],
        capture_output=True,
        text=True,
    )


def mlx_imports(made):
    """What an object takes from MLX, and what of it libmlx does not export."""
    libmlx = TOOLS.mlx / "lib" / "libmlx.dylib"
    command = [TOOLS.python, "-c", IMPORTS, ROOT / "tools" / "macos", made, libmlx]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@needs_tools
def test_metal_host_code_compiles_and_imports_what_libmlx_exports(tmp_path):
    made = tmp_path / "run.o"
    done = compile_for_macos(ROOT / "metal" / "run.cpp", made)
    assert done.returncode == 0, done.stderr
    imports, missing = mlx_imports(made)
    assert any("CommandEncoder15set_input_array" in name for name in imports)
    assert missing == []


@needs_tools
def test_a_hidden_symbol_is_found(tmp_path):
    source = tmp_path / "hidden.cpp"
    source.write_text(
        '#include "mlx/backend/gpu/copy.h"\n'
        "void f(mlx::core::array& a, mlx::core::Stream s) {\n"
        "  mlx::core::copy_gpu(a, a, mlx::core::CopyType::General, s);\n}\n"
    )
    done = compile_for_macos(source, tmp_path / "hidden.o")
    assert done.returncode == 0, done.stderr
    _, missing = mlx_imports(tmp_path / "hidden.o")
    assert len(missing) == 1 and "copy_gpu" in missing[0]


def test_links_never_allow_undefined_symbols():
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


def test_options_for_an_sdk_are_dropped():
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


def test_versions_are_pyprojects():
    assert build.requirement("mlx") == "0.32.4" and build.requirement("nanobind") == "3.1.0"
    with pytest.raises(SystemExit, match="requires no exact lief"):
        build.requirement("lief")
