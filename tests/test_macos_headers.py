"""Where CPython's headers for macOS come from, what is taken, and what the command says of versions without."""

from __future__ import annotations

import sys
from pathlib import Path

import build
import macos_tools
import pytest
import python_headers
from python_headers import Missing

CONFIG = "#define SIZEOF_LONG_DOUBLE 16\n#define SIZEOF_INT 4\n#define _POSIX_C_SOURCE 200809L\n"


def headers(folder: Path, version: str = "3.12", level: str = "FINAL", config: str = CONFIG) -> Path:
    """A folder that looks like the headers of a CPython."""
    major, minor = version.split(".")
    (folder / "internal").mkdir(parents=True)
    (folder / "Python.h").write_text("")
    (folder / "internal" / "pycore.h").write_text("")
    (folder / "pyconfig.h").write_text(config)
    (folder / "patchlevel.h").write_text(
        f"#define PY_MAJOR_VERSION {major}\n#define PY_MINOR_VERSION {minor}\n"
        f'#define PY_RELEASE_LEVEL PY_RELEASE_LEVEL_{level}\n#define PY_VERSION "{version}.1"\n'
    )
    return folder


def test_given_headers_are_configured_for_macos(tmp_path: Path) -> None:
    given, taken = headers(tmp_path / "given"), tmp_path / "taken"
    assert python_headers.get("3.12", taken, ["no", "pip"], given) == str(given)
    assert (taken / "internal" / "pycore.h").is_file()
    config = (taken / "pyconfig.h").read_text().splitlines()
    assert config == [
        "#define SIZEOF_LONG_DOUBLE 8",
        "#define SIZEOF_INT 4",
        "/* #undef _POSIX_C_SOURCE */",
    ]


def test_the_machines_pyconfig_is_found_where_debian_keeps_it(tmp_path: Path) -> None:
    given = headers(tmp_path / "include" / "python3.12", config='#include "elsewhere"\n')
    apart = tmp_path / "include" / "x86_64-linux-gnu" / "python3.12" / "pyconfig.h"
    with pytest.raises(Missing, match=r"no pyconfig\.h with the sizes"):
        python_headers.get("3.12", tmp_path / "taken", [], given)
    apart.parent.mkdir(parents=True)
    apart.write_text(CONFIG)
    python_headers.get("3.12", tmp_path / "taken", [], given)
    assert "SIZEOF_LONG_DOUBLE 8" in (tmp_path / "taken" / "pyconfig.h").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "3.13"}, r"is of CPython \"3.13.1\""),
        ({"level": "GAMMA"}, "not a final release"),
        ({"config": CONFIG + "#define Py_GIL_DISABLED 1\n"}, "free-threaded"),
    ],
)
def test_other_headers_are_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(Missing, match=message):
        python_headers.get("3.12", tmp_path / "taken", [], headers(tmp_path / "given", **options))
    assert not (tmp_path / "taken").exists()


def test_no_headers_at_all(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"has no Python\.h"):
        python_headers.get("3.12", tmp_path / "taken", [], tmp_path)
    with pytest.raises(Missing, match="neither Debian nor PyPI"):
        python_headers.get("3.9", tmp_path / "taken", [])


def test_every_source_is_tried_and_every_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python_headers, "THIS", "3.99")
    monkeypatch.setenv("PATH", str(tmp_path))
    no_pip = [sys.executable, "-c", "raise SystemExit('no index')"]
    with pytest.raises(Missing) as caught:
        python_headers.get("3.13", tmp_path / "taken", no_pip)
    assert (
        str(caught.value)
        == "Debian trixie: there is no apt-get here; PyPI's tensorflow: tensorflow: no index"
    )


def test_the_mirror_is_apts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ["Other|stable|file:/other", "Debian|a-security|file:/security", "Debian|a|file:/debian"]
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in listed))
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert python_headers.debian_mirror() == "file:/debian"
    apt.write_text(f"#!/bin/sh\necho '{listed[0]}'\n")
    with pytest.raises(Missing, match="knows no mirror of Debian here"):
        python_headers.debian_mirror()


def test_every_version_has_a_source() -> None:
    assert all(python_headers.sources([], version) for version in macos_tools.PYTHONS)


def test_versions_that_cannot_be_had_are_named_and_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = headers(tmp_path / "given")
    built = []
    monkeypatch.setattr(macos_tools.Tools, "fetch", lambda self: None)
    monkeypatch.setattr(
        macos_tools.Tools, "build", lambda self, version, output: built.append(version) or output
    )
    monkeypatch.setattr(build, "check", lambda *arguments: None)
    monkeypatch.setattr(build, "missing_programs", lambda: "")
    monkeypatch.setattr(python_headers, "sources", lambda pip, version: {})
    command = ["build.py", "--tools", str(tmp_path / "tools"), "--python-include", f"3.12={given}"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as caught:
        build.main()
    assert built == ["3.12"]
    assert f"CPython 3.12: headers from {given}" in capsys.readouterr().out
    message = str(caught.value)
    assert "no wheel for CPython 3.10, 3.11, 3.13, 3.14:" in message
    assert "\n  3.14: neither Debian nor PyPI is known to have its headers\n" in message
    assert "--python-include VERSION=FOLDER" in message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--python", "3.9"], "3.9 is none of 3.10, 3.11"),
        (["--python-include", "3.12"], "3.12 is not VERSION=FOLDER"),
    ],
)
def test_wrong_versions_are_refused(
    option: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        build.parse(option)
    assert message in capsys.readouterr().err


def test_versions_are_pyprojects() -> None:
    assert macos_tools.requirement("mlx") == "0.32.4" and macos_tools.requirement("nanobind") == "3.1.0"
    with pytest.raises(SystemExit, match="requires no exact lief"):
        macos_tools.requirement("lief")
