"""What a user installs: versions, the compiled module's stub, instruction sets, and errors at import."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest

import mlx_conv3d
from mlx_conv3d import _arguments, _compatibility, _ext

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(mlx_conv3d.__file__).parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIRED = _compatibility.REQUIRED_MLX


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env}, timeout=300
    )


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of a traceback: the error."""
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


# ---- versions ----------------------------------------------------------------------------------------------


def test_versions_agree() -> None:
    assert mlx_conv3d.__version__ == PYPROJECT["project"]["version"] == distribution("mlx-conv3d").version
    assert f"\n## {mlx_conv3d.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_one_mlx_version_everywhere() -> None:
    assert _ext.mlx_version == REQUIRED
    wanted = [r for r in PYPROJECT["project"]["dependencies"] if r.startswith("mlx")]
    wanted += [r for r in PYPROJECT["build-system"]["requires"] if r.startswith("mlx")]
    assert len(wanted) == 4
    assert all(re.match(rf"mlx(\[cpu\])?=={re.escape(REQUIRED)};", requirement) for requirement in wanted)


def test_another_mlx_is_refused(tmp_path: Path) -> None:
    info = tmp_path / "mlx-9.8.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlx\nVersion: 9.8.7\n")
    error = one_error(python("import mlx_conv3d", PYTHONPATH=str(tmp_path)))
    assert error.startswith(f"ImportError: mlx_conv3d needs mlx {REQUIRED}, found 9.8.7: pip install")


def test_no_mlx_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise _compatibility.PackageNotFoundError(name)

    monkeypatch.setattr(_compatibility, "version", absent)
    with pytest.raises(ImportError, match=f"needs mlx {re.escape(REQUIRED)}, found none"):
        _compatibility.check()


def test_extension_that_does_not_load() -> None:
    error = one_error(python("import sys; sys.modules['mlx_conv3d._ext'] = None; import mlx_conv3d"))
    assert error.startswith("ImportError: mlx_conv3d's compiled extension does not load")
    assert "pip install --force-reinstall" in error


# ---- the compiled module and its stub ----------------------------------------------------------------------


def stub() -> ast.Module:
    return ast.parse((PACKAGE / "_ext.pyi").read_text())


def functions(module: ast.Module) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}


def signature(function: ast.FunctionDef) -> tuple[list[str], list[str], list[str | None]]:
    """Names of positional parameters and of keywords, and the defaults of both."""
    a = function.args
    defaults = [*a.defaults, *a.kw_defaults]
    return (
        [p.arg for p in a.args],
        [p.arg for p in a.kwonlyargs],
        [None if d is None else ast.unparse(d) for d in defaults],
    )


def test_typing_files_are_there() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "_ext.pyi").is_file()


def test_stub_has_the_extensions_names() -> None:
    constants = {
        n.target.id for n in stub().body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }
    classes = {n.name for n in stub().body if isinstance(n, ast.ClassDef)}
    public = {name for name in constants | classes | set(functions(stub())) if not name.startswith("_")}
    assert public == {name for name in dir(_ext) if not name.startswith("_")}


@pytest.mark.parametrize("name", sorted(functions(stub())))
def test_stub_has_the_extensions_parameters(name: str) -> None:
    compiled = ast.parse(f"def {getattr(_ext, name).__doc__.splitlines()[0]}: ...")
    assert signature(functions(stub())[name]) == signature(functions(compiled)[name])


def test_public_names_are_typed_and_documented() -> None:
    for name in mlx_conv3d.__all__:
        assert getattr(mlx_conv3d, name).__doc__, name


def test_algorithms_table_names_every_algorithm() -> None:
    table = re.findall(r"^\| `([a-z_]+)` \|", (ROOT / "docs" / "algorithms.md").read_text(), re.MULTILINE)
    assert sorted(table) == sorted(set(_arguments.ALGORITHMS) - {"auto"})


# ---- what was built ----------------------------------------------------------------------------------------


@pytest.mark.skipif(
    Path(_ext.__file__).parent == ROOT / "mlx_conv3d", reason="an uninstalled build knows its place"
)
def test_no_path_of_the_building_machine() -> None:
    binary = Path(_ext.__file__).read_bytes()
    texts = [text.decode() for text in re.findall(rb"[\x20-\x7e]{6,}", binary)]
    assert not [text for text in texts if str(ROOT) in text or re.search(r"/(tmp|home|root|Users)/", text)]


def instruction_set_objects() -> list[Path]:
    return sorted(ROOT.glob("build/*/cpu/CMakeFiles/mlx_conv3d_*.dir/simd/*.o"))


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.skipif(not instruction_set_objects(), reason="the build's object files are not here")
def test_no_shared_symbol_is_built_for_one_instruction_set() -> None:
    """The linker may keep any copy of a weak symbol: one with AVX-512 in it would then run everywhere."""
    for path in instruction_set_objects():
        isa = path.parent.parent.name.removeprefix("mlx_conv3d_").removesuffix(".dir")
        listing = subprocess.run(["nm", "--defined-only", path], capture_output=True, text=True, check=True)
        weak = [line.split()[-1] for line in listing.stdout.splitlines() if line.split()[-2] in "uvVwW"]
        assert not [symbol for symbol in weak if f"isa_{isa}" not in symbol], path


# Not tzcnt: older machines run its encoding as bsf, and compilers use it for both.
VECTOR = r"v[a-z]\w+|k(?:mov|and|or|x|test|not|shift|unpck|add)\w+"
BMI = r"andn|bextr|bls\w+|bzhi|mulx|pdep|pext|rorx|s[ahr][lr]x|lzcnt"
WIDE = re.compile(rf"\t({VECTOR}|{BMI})\b")


def wide_instructions(objects: list[Path]) -> list[str]:
    """Instructions of AVX and later, BMI included: "function mnemonic", each once."""
    command = ["objdump", "-d", "--no-show-raw-insn", *map(str, objects)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    function, found = "", set()
    for line in listing.splitlines():
        if line.endswith(">:"):
            function = line.split("<", 1)[1][:-2]
        elif wide := WIDE.search(line):
            found.add(f"{function} {wide[1]}")
    return sorted(found)


def objects_for_any_machine() -> list[Path]:
    """This machine's build's object files but those for one instruction set: sse2 is part of x86-64."""
    builds = {path.parents[4] for path in instruction_set_objects()}  # not those of the wheel for macOS
    objects = (path for build in builds for path in build.rglob("*.o") if "CMakeFiles" in path.parts)
    return sorted(
        path for path in objects if not re.search(r"mlx_conv3d_(?!cpu\b|sse2\b)\w+\.dir", str(path))
    )


on_x86_with_objdump = pytest.mark.skipif(
    shutil.which("objdump") is None or _ext.isa() == "neon", reason="needs x86-64 and objdump"
)


@on_x86_with_objdump
@pytest.mark.skipif(not instruction_set_objects(), reason="the build's object files are not here")
def test_code_for_any_machine_has_no_wide_instruction() -> None:
    objects = objects_for_any_machine()
    assert {path.parent.name for path in objects} >= {"core", "metal", "mlx_conv3d_cpu.dir", "simd", "src"}
    assert wide_instructions(objects) == []
    assert len(wide_instructions(instruction_set_objects())) > 100


@on_x86_with_objdump
@pytest.mark.parametrize(
    ("flags", "body", "mnemonics"),
    [
        ("-mavx2", "for (int i = 0; i < 8; ++i) x[i] += 1;", "v"),
        ("-mavx512f -mavx512vl", "for (int i = 0; i < 64; ++i) if (x[i] > 3) x[i] = 0;", "v"),
        ("-mbmi2 -mno-avx", "x[0] = float(1ull << int(x[1]));", "shlx"),
        ("", "for (int i = 0; i < 64; ++i) x[i] += 1;", None),
    ],
)
def test_a_wide_instruction_is_found(tmp_path: Path, flags: str, body: str, mnemonics: str | None) -> None:
    source, made = tmp_path / "f.cpp", tmp_path / "f.o"
    source.write_text(f"void leaked(float* x) {{ {body} }}\n")
    subprocess.run(["c++", "-O3", *flags.split(), "-c", str(source), "-o", str(made)], check=True)
    found = wide_instructions([made])
    assert bool(found) == (mnemonics is not None)
    assert all(line.startswith("_Z6leakedPf ") for line in found)
    assert mnemonics is None or any(line.split()[1].startswith(mnemonics) for line in found)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("PYTHON=no-such-python",), "no-such-python not found: install Python 3.10"),
        (("PYTHON=false",), "false is , 3.10 is needed: install Python 3.10"),
        ((f"PYTHON={sys.executable}", "CXX=no-such-compiler"), "no C++ compiler found: install one"),
        ((f"PYTHON={sys.executable}", "CXX=false"), "false does not compile C++20: install GCC"),
    ],
)
@pytest.mark.parametrize("goal", ["demo", "test"])
def test_make_says_in_one_line_what_to_install(goal: str, arguments: tuple[str, ...], message: str) -> None:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", goal, *arguments], cwd=ROOT, env=outside, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert (done.stdout + done.stderr).count("\n") == 1


# ---- instruction sets --------------------------------------------------------------------------------------

WIDENING = ("sse2", "avx2", "avx512", "avx512_bf16", "amx")


def narrower() -> list[str]:
    """The instruction sets of this machine below the one in use."""
    return list(WIDENING[: WIDENING.index(_ext.isa())]) if _ext.isa() in WIDENING else []


@pytest.mark.parametrize("isa", WIDENING[:-1])
def test_narrower_instruction_sets_keep_the_contract(isa: str) -> None:
    if isa not in narrower():
        pytest.skip(f"{isa} is not below this machine's {_ext.isa()}")
    code = f"from mlx_conv3d import _ext; assert _ext.isa() == {isa!r}, _ext.isa()"
    assert python(code, MLX_CONV3D_ISA=isa).returncode == 0
    tests = ["tests/test_accuracy.py", "tests/test_parity.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "not any_data", *tests],
        cwd=ROOT,
        env={**os.environ, "MLX_CONV3D_ISA": isa, "HYPOTHESIS_PROFILE": "quick", "CI": ""},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-4000:]


# ---- Winograd's matrices -----------------------------------------------------------------------------------


def generator() -> ModuleType:
    spec = spec_from_file_location("winograd_matrices", ROOT / "tools" / "winograd_matrices.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def literal(text: str) -> Fraction:
    """The exact value of "0.25f" or "-1.0f / 6.0f"."""
    numerator, _, denominator = text.replace("f", "").partition("/")
    return Fraction(numerator.strip()) / Fraction(denominator.strip() or 1)


def header_matrices(struct: str) -> dict[str, list[list[Fraction]]]:
    """The matrices that core/winograd.h holds."""
    text = (ROOT / "core" / "winograd.h").read_text().partition(f"struct {struct} {{")[2].partition("\n};")[0]
    tables = re.findall(r"float (\w+)\[\d+\]\[\d+\] = \{(.*?)\};", text, re.DOTALL)
    return {
        name: [[literal(v) for v in row.split(",")] for row in re.findall(r"\{([^{}]+)\}", body)]
        for name, body in tables
    }


def test_winograd_header_is_what_the_generator_writes() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "winograd_matrices.py", "--check"], timeout=60)
    assert done.returncode == 0


@pytest.mark.parametrize("m", [2, 4, 6])
def test_winograd_matrices_are_exact(m: int) -> None:
    """A^T [(G w) * (B^T x)] is the correlation of x and w: so for every pair of unit vectors."""
    a_t, g, b_t = generator().matrices(m)
    assert header_matrices(f"Winograd<{m}>") == {"At": a_t, "G": g, "Bt": b_t}
    for i, tap, source in product(range(m), range(3), range(m + 2)):
        value = sum(a_t[i][r] * g[r][tap] * b_t[r][source] for r in range(m + 2))
        assert value == (source == i + tap)


@pytest.mark.parametrize("m", [4, 6, 8])
def test_winograd_matrices_of_doubled_pixels_are_exact(m: int) -> None:
    """Position i + tap of the doubled input is stored pixel (i + tap) // 2, for a tile that starts at an even one."""
    a_t, g, b_t = generator().doubled_matrices(m)
    assert header_matrices(f"WinogradDoubled<{m}>") == {"At": a_t, "G": g, "Bt": b_t}
    for i, tap, source in product(range(m), range(3), range(m // 2 + 1)):
        value = sum(a_t[i][r] * g[r][tap] * b_t[(r + 1) // 2][source] for r in range(m + 1))
        assert value == (source == (i + tap) // 2)


@pytest.mark.parametrize(("m", "taps"), [(2, 5), (4, 5), (2, 7)])
def test_winograd_matrices_of_more_taps_are_exact(m: int, taps: int) -> None:
    made = generator()
    a_t, g, b_t = made.correlation(made.MORE_TAPS_POINTS[taps][m], m, taps)
    assert header_matrices(f"Winograd<{m}, {taps}>") == {"At": a_t, "G": g, "Bt": b_t}
    side = m + taps - 1
    for i, tap, source in product(range(m), range(taps), range(side)):
        value = sum(a_t[i][r] * g[r][tap] * b_t[r][source] for r in range(side))
        assert value == (source == i + tap)


@pytest.mark.parametrize("m", [2, 4])
def test_winograd_matrices_of_stride_2_are_exact(m: int) -> None:
    """Products from the last weight on share it."""
    a_t, g, b_t = generator().strided_matrices(m)
    assert header_matrices(f"WinogradStrided<{m}>") == {"At": a_t, "G": g, "Bt": b_t}
    assert len(g) == m + 2
    for i, tap, source in product(range(m), range(3), range(2 * m + 1)):
        value = sum(a_t[i][r] * g[min(r, m + 1)][tap] * b_t[r][source] for r in range(2 * m + 1))
        assert value == (source == 2 * i + tap)
