"""CPython's headers for any version, by name from Debian or PyPI, configured for macOS on arm64.

Headers are the same on every machine but for pyconfig.h, and no interpreter of that version has to run: a cross-build
needs the headers, the wheel's tag and the extension's suffix alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
KEYRINGS = Path("/usr/share/keyrings")

# The definitions of Linux's pyconfig.h that public headers read and that differ on macOS (None: not defined).
MACOS = {
    "ALIGNOF_MAX_ALIGN_T": "8",
    "HAVE_GCC_ASM_FOR_X64": None,
    "HAVE_GCC_ASM_FOR_X87": None,
    "PTHREAD_KEY_T_IS_COMPATIBLE_WITH_INT": None,
    "SIZEOF_FPOS_T": "8",
    "SIZEOF_LONG_DOUBLE": "8",
    "SIZEOF_PTHREAD_KEY_T": "8",
    "_POSIX_C_SOURCE": None,
    "_XOPEN_SOURCE": None,
    "_XOPEN_SOURCE_EXTENDED": None,
}


class Missing(Exception):
    """Headers cannot be had; the message says why."""


def run(command: Sequence[str | Path], what: str, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise Missing(f"{what}: {said[-1]}")
    return done.stdout


def debian_mirror() -> str:
    """The mirror of Debian that this machine's apt uses."""
    if shutil.which("apt-get") is None:
        raise Missing("there is no apt-get here")
    form = "$(ORIGIN)|$(RELEASE)|$(REPO_URI)"
    listed = run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"], "apt-get indextargets"
    )
    for line in listed.splitlines():
        origin, release, uri = line.split("|")
        if origin == "Debian" and not release.endswith("-security"):
            return uri
    raise Missing("apt-get knows no mirror of Debian here, or apt-get update was never run")


def from_debian(suite: str, version: str, folder: Path) -> Path:
    """Of libpython3.X-dev in a named suite, whatever suite this machine has. Nothing is installed."""
    mirror = debian_mirror()
    keyring = next(KEYRINGS.glob("debian-archive-keyring.*"), None)
    if keyring is None:
        raise Missing("there is no keyring of Debian's archive here: apt-get install debian-archive-keyring")
    (folder / "lists" / "partial").mkdir(parents=True)
    sources = folder / "debian.sources"
    sources.write_text(
        f"Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {keyring}\n"
    )
    (folder / "status").touch()
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    name = f"libpython{version}-dev"
    run([*apt, "update"], f"apt-get update for {suite}", folder)
    run([*apt, "download", name], f"{name} of {suite}", folder)
    (package,) = folder.glob("*.deb")
    run(["dpkg-deb", "-x", package, folder / "files"], package.name)
    return folder / "files" / "usr" / "include" / f"python{version}"


def from_pypi(pip: Sequence[str | Path], version: str, folder: Path) -> Path:
    """Of TensorFlow's macOS wheels: for extensions of its own it carries the headers of the CPython it is for."""
    platform = ["--only-binary=:all:", "--platform", "macosx_12_0_arm64", "--python-version", version]
    run([*pip, "download", "--no-deps", *platform, "tensorflow==2.21.0", "--dest", folder], "tensorflow")
    (wheel,) = folder.glob("*.whl")
    inside = "tensorflow/include/external/local_config_python/python_include/"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(inside)])
    return folder / inside


def sources(pip: Sequence[str | Path], version: str) -> dict[str, Callable[[Path], Path]]:
    """By what to call them, those to be tried in this order."""
    suites = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky"}
    found: dict[str, Callable[[Path], Path]] = {}
    if version == THIS:
        found["this interpreter"] = lambda folder: Path(sysconfig.get_path("include"))
    if suite := suites.get(version):
        found[f"Debian {suite}"] = partial(from_debian, suite, version)
    if version in ("3.10", "3.11", "3.12", "3.13"):
        found["PyPI's tensorflow"] = partial(from_pypi, pip, version)
    return found


def machine_config(include: Path) -> str:
    """The text of pyconfig.h; Debian keeps it apart, by machine."""
    places = [include / "pyconfig.h", *include.parent.glob(f"*-*-*/{include.name}/pyconfig.h")]
    for text in (place.read_text() for place in places if place.is_file()):
        if re.search(r"^#define SIZEOF_LONG_DOUBLE\b", text, re.M):
            return text
    raise Missing(f"{include} has no pyconfig.h with the sizes of types")


def configured(text: str) -> str:
    """pyconfig.h for macOS."""
    for name, value in MACOS.items():
        line = f"/* #undef {name} */" if value is None else f"#define {name} {value}"
        text = re.sub(rf"(?m)^#define {name}\b.*$", line, text)
    return text


def take(include: Path, version: str, folder: Path) -> None:
    """Copies headers, configured for macOS, if they are that version's."""
    if not (include / "Python.h").is_file():
        raise Missing(f"{include} has no Python.h")
    level = (include / "patchlevel.h").read_text()
    found = {name: value for name, value in re.findall(r"#define PY_(\w+)\s+(\S+)", level)}
    if f"{found['MAJOR_VERSION']}.{found['MINOR_VERSION']}" != version:
        raise Missing(f"{include} is of CPython {found['VERSION']}")
    if found["RELEASE_LEVEL"] != "PY_RELEASE_LEVEL_FINAL":
        raise Missing(f"CPython {found['VERSION']} is not a final release")
    config = machine_config(include)
    if re.search(r"^#define Py_GIL_DISABLED 1", config, re.M):
        raise Missing(f"{include} is of a free-threaded CPython")
    for source in include.rglob("*.h"):
        target = folder / source.relative_to(include)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    (folder / "pyconfig.h").write_text(configured(config))


def get(version: str, folder: Path, pip: Sequence[str | Path], given: Path | None = None) -> str:
    """Fills `folder` with the headers of a CPython (`version` such as "3.12") and returns where they are from.

    `given` is a folder with its headers, from any system. `pip` is the command that runs pip. Raises Missing.
    """
    note = folder / "from"
    if given is None and note.is_file():
        return note.read_text()
    tried = {f"{given}": lambda _: given} if given else sources(pip, version)
    reasons = []
    for name, source in tried.items():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                take(source(Path(scratch)), version, folder)
        except Missing as reason:
            reasons.append(f"{name}: {reason}")
            continue
        note.write_text(name)
        return name
    shutil.rmtree(folder, ignore_errors=True)
    raise Missing("; ".join(reasons) or "neither Debian nor PyPI is known to have its headers")
