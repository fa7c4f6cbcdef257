"""Checks a wheel for macOS as a Mac would use it: what it holds and says of itself, and that pip takes it."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import io
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from email.parser import Parser
from pathlib import Path

from macos_tools import PLATFORM, ROOT, Tools, cpython_tag, requirement

sys.path.insert(0, str(ROOT / "tools"))
import check_package
import embed_kernels


def record_flaws(files: dict[str, bytes], record: str) -> Iterator[str]:
    """RECORD lists every file with its hash and size."""
    rows = {name: (digest, size) for name, digest, size in csv.reader(io.StringIO(files[record].decode()))}
    for name in sorted(files.keys() ^ rows.keys()):
        yield f"{name} is in {'RECORD' if name in rows else 'the wheel'} alone"
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        expected = ("", "") if name == record else (f"sha256={digest}", str(len(content)))
        if rows.get(name, expected) != expected:
            yield f"RECORD has another hash or size of {name}"


def metadata_flaws(text: str) -> Iterator[str]:
    metadata = Parser().parsestr(text)
    required = [re.sub(r"\s|[\"'()]", "", line) for line in metadata.get_all("Requires-Dist", [])]
    if (pin := f"mlx=={requirement('mlx')};sys_platform==darwin") not in required:
        yield f"METADATA does not require {pin}, only {required}"
    for field, value in (
        ("Name", "mlx-conv3d"),
        ("Requires-Python", ">=3.10"),
        ("License-Expression", "MIT"),
    ):
        if metadata[field] != value:
            yield f"METADATA says {field}: {metadata[field]}, not {value}"
    if metadata.get_all("License-File") != ["LICENSE"]:
        yield "METADATA names no licence file"


def entry_point_flaws(files: dict[str, bytes], entries: str) -> Iterator[str]:
    """The command's module is in the wheel and binds the name."""
    found = re.fullmatch(r"\[console_scripts\]\s+mlx-conv3d\s*=\s*([\w.]+):(\w+)\s*", entries)
    if found is None:
        yield f"entry points are {entries!r}"
        return
    module = found[1].replace(".", "/")
    source = files.get(f"{module}/__init__.py") or files.get(f"{module}.py") or b""
    tree = ast.walk(ast.parse(source))
    if found[2] not in {n.id for n in tree if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}:
        yield f"the command needs {found[1]}:{found[2]}, which the wheel lacks"


def tag_flaws(wheel: Path, files: dict[str, bytes], description: str, version: str) -> Iterator[str]:
    tag = f"{cpython_tag(version)}-{cpython_tag(version)}-{PLATFORM}"
    if not wheel.name.endswith(f"-{tag}.whl"):
        yield f"the name does not end with {tag}"
    if (said := re.findall(r"(?m)^Tag: (.*)$", description)) != [tag]:
        yield f"WHEEL has the tags {said}, not {tag}"
    extension = f"mlx_conv3d/_ext.cpython-{version.replace('.', '')}-darwin.so"
    if extension not in files:
        yield f"lacks {extension}"


def content_flaws(files: dict[str, bytes], machine: Sequence[Path]) -> Iterator[str]:
    """Every kernel is in the extension as Metal's compiler gets it, and no file names a folder of this machine."""
    binary = b"".join(content for name, content in files.items() if name.endswith(".so"))
    for kernel in sorted((ROOT / "kernels").glob("*.metal")):
        if embed_kernels.flatten(kernel).encode() not in binary:
            yield f"the extension lacks the kernels of {kernel.name}"
    for name, content in files.items():
        for folder in machine:
            if f"{folder}/".encode() in content:
                yield f"{name} names {folder}"


def flaws(wheel: Path, version: str, machine: Sequence[Path]) -> list[str]:
    """What is wrong with the wheel for a CPython; `machine` are folders that it must not name."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    info = next(name.partition("/")[0] for name in files if ".dist-info/" in name)
    text = {
        name: files.get(f"{info}/{name}", b"").decode() for name in ("METADATA", "WHEEL", "entry_points.txt")
    }
    own = [
        *record_flaws(files, f"{info}/RECORD"),
        *metadata_flaws(text["METADATA"]),
        *entry_point_flaws(files, text["entry_points.txt"]),
        *tag_flaws(wheel, files, text["WHEEL"], version),
        *content_flaws(files, machine),
    ]
    return check_package.check_wheel(wheel) + [f"{wheel.name}: {what}" for what in own]


def install(tools: Tools, wheel: Path, version: str, target: Path) -> None:
    """Installs it and MLX's wheels with pip into a folder as for a Mac."""
    shutil.rmtree(target, ignore_errors=True)
    mlx = [f"mlx=={tools.mlx_version}", f"mlx-metal=={tools.mlx_version}"]
    mac = ["--platform", PLATFORM, "--python-version", version, "--implementation", "cp"]
    mac += ["--only-binary=:all:", "--no-index", "--find-links", str(tools.wheels)]
    # pip reads the markers of requirements for the machine that it runs on, so they are named here.
    tools.run(*tools.pip, "install", "--no-deps", "--target", target, *mac, wheel, *mlx)
