"""The documents: every block of code in them runs, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlx_conv3d.cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[object]:
    found = []
    for path in DOCUMENTS:
        for number, (kind, code) in enumerate(BLOCK.findall(path.read_text()), start=1):
            if kind == language:
                found.append(pytest.param(code, id=f"{path.name}-{number}"))
    return found


def test_no_block_is_left_out() -> None:
    kinds = {kind for path in DOCUMENTS for kind, _ in BLOCK.findall(path.read_text())}
    assert kinds == {"python", "sh"}
    assert len(blocks("python")) >= 5


@pytest.mark.parametrize("code", blocks("python"))
def test_python(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", blocks("sh"))
def test_shell(code: str) -> None:
    for line in code.splitlines():
        check_command(shlex.split(line))


def check_command(words: list[str]) -> None:
    """The tool's own commands run. `make` only says what it would do: it is make that runs the tests."""
    if words[0] == "mlx-conv3d":
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, result.output
        return
    assert words[0] == "make", words
    if shutil.which("make") is None:
        pytest.skip("needs make")
    done = subprocess.run(
        ["make", "--dry-run", f"PYTHON={sys.executable}", *words[1:]],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert {"demo": "mlx-conv3d demo", "test": "pytest"}[words[1]] in done.stdout


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


@pytest.mark.parametrize("name", ["MLX_CONV3D_DISABLE", "MLX_CONV3D_NUM_THREADS", "MLX_CONV3D_ISA"])
def test_environment_variables_are_real(name: str) -> None:
    assert name in (ROOT / "docs" / "developing.md").read_text()
    sources = [*ROOT.glob("core/*.cpp"), *ROOT.glob("cpu/*.cpp")]
    assert any(f'getenv("{name}")' in path.read_text() for path in sources)
