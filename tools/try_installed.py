"""Runs a short demo and the fast tests on the mlx_conv3d that is installed for this Python, and not on the checkout.

python tools/try_installed.py     with the package's `test` extra installed; needs no compiler
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The tests that need the package alone, and neither its sources nor clang.
TESTS = (
    "test_accuracy.py",
    "test_api.py",
    "test_cli.py",
    "test_demo.py",
    "test_gradients.py",
    "test_mlx_behaviour.py",
    "test_nn.py",
    "test_nn_streams.py",
    "test_parity.py",
    "test_patching.py",
    "test_transforms.py",
    "test_transpose.py",
    "test_workspace.py",
)
WHERE = "import mlx_conv3d; print(mlx_conv3d.__file__)"
DEMO = ("--size", "64x36", "--frames", "5")


def environment() -> dict[str, str]:
    """This one without what would lead to the checkout, or to many drawn problems."""
    left_out = ("PYTHONPATH", "CI", "MLX_CONV3D_DISABLE", "MLX_CONV3D_REQUIRE_METAL_SIM")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "HYPOTHESIS_PROFILE": "quick", "PYTHONDONTWRITEBYTECODE": "1"}


def python(folder: Path, *arguments: str, **options: bool) -> subprocess.CompletedProcess[str]:
    """Runs this Python in a folder; an error ends everything."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments[:3])} failed: {done.returncode}\n{done.stderr or ''}".rstrip())
    return done


def check_place(folder: Path) -> None:
    """The package must come from this environment: an editable install leads to the checkout."""
    place = Path(python(folder, "-c", WHERE, capture_output=True).stdout.strip()).resolve()
    if not place.is_relative_to(Path(sys.prefix).resolve()) or place.is_relative_to(ROOT / "mlx_conv3d"):
        raise SystemExit(f"mlx_conv3d is imported from {place.parent}, not from {sys.prefix}")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check_place(folder)
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        python(folder, "-m", "mlx_conv3d", "demo", *DEMO, "--output", str(folder / "demo"))
        tests = [f"tests/{test}" for test in TESTS]
        python(folder, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-n", "auto", *tests)


if __name__ == "__main__":
    main()
