"""The wheel for macOS of this interpreter, built as `make wheel-macos` does, for the tests of the build for macOS."""

from __future__ import annotations

import os
import shlex
import subprocess
import zipfile
from functools import cache
from pathlib import Path

import macos_tools
import pytest
from python_headers import THIS

TOOLS = macos_tools.Tools(macos_tools.default_folder(), macos_tools.requirement("mlx"))
OLDER = macos_tools.Tools(macos_tools.default_folder(), "0.32.3")
EXTENSION = f"mlx_conv3d/_ext.cpython-{THIS.replace('.', '')}-darwin.so"
REQUIRED = os.environ.get("MLX_CONV3D_REQUIRE_MACOS") == "1"


def obstacle(tools: macos_tools.Tools) -> str:
    if packages := macos_tools.missing_programs():
        return f"the build for macOS needs apt-get install {packages}"
    if not tools.ready.exists():
        return f"the build for macOS needs python tools/macos/build.py --fetch --mlx {tools.mlx_version}"
    return ""


def needs(tools: macos_tools.Tools) -> pytest.MarkDecorator:
    """Under MLX_CONV3D_REQUIRE_MACOS=1 nothing is skipped: what is missing is fetched, or the test fails."""
    reason = obstacle(tools)
    return pytest.mark.skipif(bool(reason) and not REQUIRED, reason=reason or "the tools are there")


@cache
def wheel(tools: macos_tools.Tools) -> Path:
    """Built once; a build that another process made is only completed."""
    assert not macos_tools.missing_programs(), obstacle(tools)
    tools.fetch()
    tools.headers(THIS)
    return tools.build(THIS, tools.folder / "tested")


def unpacked(tools: macos_tools.Tools, folder: Path) -> Path:
    """The wheel's extension in `folder`, beside MLX as on a Mac."""
    (folder / "mlx").symlink_to(tools.mlx)
    with zipfile.ZipFile(wheel(tools)) as archive:
        return Path(archive.extract(EXTENSION, folder))


def commands(tools: macos_tools.Tools, output: str) -> list[list[str]]:
    """The build's own command lines whose last one makes `output`."""
    wheel(tools)
    ninja = tools.python.parent / "ninja"
    listed = subprocess.run(
        [ninja, "-C", tools.build_folder(THIS), "-t", "commands", "-s", output],
        capture_output=True,
        text=True,
        check=True,
    )
    return [
        shlex.split(line.removeprefix(": && ").removesuffix(" && :")) for line in listed.stdout.splitlines()
    ]


def rerun(
    tools: macos_tools.Tools, output: str, replaced: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Runs the build's command for `output` again with other files for some."""
    (command,) = [[replaced.get(word, word) for word in words] for words in commands(tools, output)]
    return subprocess.run(command, cwd=tools.build_folder(THIS), capture_output=True, text=True)
