"""Checks a source distribution and a wheel: what they hold, and that the wheel works where nothing else is.

python tools/check_package.py dist
python tools/check_package.py --wheels wheelhouse     only what the wheels hold, however many
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

IN_WHEEL = (
    r"mlx_conv3d/_ext\..*\.so",
    r"mlx_conv3d/_ext\.pyi",
    r"mlx_conv3d/py\.typed",
    r"mlx_conv3d/cli/plan\.py",
    r"mlx_conv3d/demo/clip\.mp4",
    r"mlx_conv3d/demo/video_vae\.safetensors",
    r"mlx_conv3d/demo/CREDITS\.md",
    r"mlx_conv3d-.*\.dist-info/licenses/LICENSE",
    r"mlx_conv3d-.*\.dist-info/entry_points\.txt",
)
IN_SDIST = (
    "pyproject.toml",
    "CMakeLists.txt",
    "LICENSE",
    "README.md",
    "core/plan.cpp",
    "cpu/simd/simd.h",
    "tests/conftest.py",
)
RUNPATH = rb"\$ORIGIN/\.\./mlx/lib\0|@loader_path/\.\./mlx/lib\0"
FOREIGN = rb"/(?:tmp|home|root|Users|build)/[\x20-\x7e]+"
USE = """
import mlx.core as mx, mlx_conv3d
y = mlx_conv3d.conv3d(mx.ones((1, 4, 8, 8, 16)), mx.ones((8, 3, 3, 3, 16)), padding=1)
assert y[0, 1, 1, 1, 0].item() == 27 * 16, y[0, 1, 1, 1, 0].item()
"""


def check_wheel(path: Path) -> list[str]:
    """What is wrong with it."""
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        wrong = [
            f"lacks {pattern}" for pattern in IN_WHEEL if not any(re.fullmatch(pattern, n) for n in names)
        ]
        wrong += [f"holds {n}" for n in names if not n.startswith(("mlx_conv3d/", "mlx_conv3d-"))]
        extensions = [n for n in names if n.endswith(".so")]
        for name in extensions:
            binary = wheel.read(name)
            wrong += [f"{name} names {found.decode()}" for found in re.findall(FOREIGN, binary)]
            if not re.search(RUNPATH, binary):
                wrong.append(f"{name} does not find libmlx beside it")
        if len(extensions) != 1:
            wrong.append(f"holds {len(extensions)} extensions")
    return [f"{path.name} {what}" for what in wrong]


def check_sdist(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wrong = [f"lacks {name}" for name in IN_SDIST if name not in names]
    wrong += [f"holds {name}" for name in names if re.search(r"\.(so|pyc|o)$|^(\.venv|build|dist)/", name)]
    return [f"{path.name} {what}" for what in wrong]


def use(wheel: Path) -> None:
    """Installs the wheel into an empty environment and runs a convolution and the command there."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = [str(Path(folder, "bin", "python"))]
        quiet = ["--disable-pip-version-check", "--quiet"]
        subprocess.run(
            [*python, "-m", "pip", "install", *quiet, str(wheel.resolve())], check=True, cwd=folder
        )
        subprocess.run([*python, "-c", USE], check=True, cwd=folder)
        subprocess.run([str(Path(folder, "bin", "mlx-conv3d")), "--version"], check=True, cwd=folder)


def check_wheels(folder: Path) -> list[str]:
    """What is wrong with what the wheels of a folder hold."""
    wheels = sorted(folder.glob("*.whl"))
    return [what for wheel in wheels for what in check_wheel(wheel)] or ([] if wheels else ["no wheels"])


def check_both(folder: Path) -> list[str]:
    """What is wrong with the source distribution and the wheel of a folder; tries the wheel."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    wrong = check_wheel(wheel) + check_sdist(sdist)
    if not wrong:
        use(wheel)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks a source distribution and a wheel.")
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--wheels", action="store_true", help="check what the wheels hold, however many, and no more"
    )
    arguments = parser.parse_args()
    wrong = (check_wheels if arguments.wheels else check_both)(arguments.folder)
    print(*(wrong or [f"{path.name} is complete" for path in sorted(arguments.folder.iterdir())]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
