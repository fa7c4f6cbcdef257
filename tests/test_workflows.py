"""What GitHub is told to run: commands for Linux run here or in .ci/run where they can; what they name exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CIBUILDWHEEL = PYPROJECT["tool"]["cibuildwheel"]
CI = (ROOT / ".ci" / "run").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()

# Why a step of a Linux machine is run neither by .ci/run nor by a test.
ONLY_THERE = {
    "sudo apt-get update": "changes the machine",
    "sudo apt-get install": "changes the machine",
    "docker build": "needs docker",
    "python -m pip install": "changes the interpreter",
    "python -m cibuildwheel": "needs docker",
}
# What the step does that a test or .ci/run does with arguments of its own.
RUN_ELSEWHERE = {
    "python tools/linux/emulate.py": "make wheel-linux, on the wheel's environment",
    "python tools/check_package.py --wheels wheelhouse": "test_linux_wheel.py",
    "python -c 'import tomllib;": "test_a_tag_is_the_version",
}


@dataclass(frozen=True)
class Step:
    job: str
    systems: frozenset[str]
    command: str

    def __str__(self) -> str:
        return f"{self.job}: {self.command}"


def workflows() -> dict[str, Any]:
    return {
        path.name: yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob(".github/workflows/*.yml"))
    }


def machines(job: dict[str, Any]) -> list[str]:
    """The labels of a job's machines."""
    label = job.get("runs-on", "")
    return job["strategy"]["matrix"]["os"] if "matrix.os" in label else [label]


def all_jobs() -> list[tuple[str, dict[str, Any]]]:
    return [(f"{file}/{name}", job) for file, w in workflows().items() for name, job in w["jobs"].items()]


def all_steps() -> list[Step]:
    found = []
    for name, job in all_jobs():
        systems = frozenset("macos" if m.startswith("macos") else "linux" for m in machines(job))
        for step in job.get("steps", []):
            only = systems & {"linux"} if "Linux" in step.get("if", "") else systems
            found += [Step(name, only, line) for line in step.get("run", "").splitlines()]
    return found


def known(table: dict[str, str], command: str) -> bool:
    return any(command.startswith(start) for start in table)


def made_by_ci() -> set[str]:
    """The targets of make that .ci/run asks for, and those they need."""
    made = set(re.findall(r"\bmake ([\w-]+)", CI))
    rules = dict(re.findall(r"^([\w-]+): ([^|\n]*)", MAKEFILE, re.MULTILINE))
    return made | {needed for target in made for needed in rules.get(target, "").split()}


def test_there_are_workflows_for_both_systems() -> None:
    assert set(workflows()) == {"ci.yml", "release.yml", "wheels.yml"}
    labels = {label for _, job in all_jobs() for label in machines(job)}
    assert {"ubuntu-24.04", "ubuntu-24.04-arm", "macos-15"} <= labels


@pytest.mark.parametrize("step", [s for s in all_steps() if "linux" in s.systems], ids=str)
def test_steps_for_linux_are_run_here_too(step: Step) -> None:
    target = re.fullmatch(r"make ([\w-]+)", step.command)
    in_ci = step.command == ".ci/run" or (target is not None and target[1] in made_by_ci())
    assert in_ci or known(RUN_ELSEWHERE, step.command) or known(ONLY_THERE, step.command)


@pytest.mark.parametrize("start", [*ONLY_THERE, *RUN_ELSEWHERE])
def test_no_reason_is_left_over(start: str) -> None:
    assert [step for step in all_steps() if step.command.startswith(start)]


def help_of(words: list[str]) -> str:
    """What the program of a command says about its options; fails if it is not there."""
    if words[0].endswith("mlx-conv3d"):
        program = [sys.executable, "-m", "mlx_conv3d", words[1]]
    else:
        assert words[0] == "python" and (ROOT / words[1]).is_file(), words
        program = [sys.executable, words[1]]
    width = {**os.environ, "COLUMNS": "200", "TERM": "dumb"}
    done = subprocess.run(
        [*program, "--help"], cwd=ROOT, capture_output=True, text=True, env=width, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("step", all_steps(), ids=str)
def test_what_a_step_names_exists(step: Step) -> None:
    words = shlex.split(step.command.partition("|")[0])
    if words[0] == "make":
        assert words[1] in re.findall(r"^\.PHONY: (.*)", MAKEFILE, re.MULTILINE)[0].split()
    elif words[0] == ".ci/run":
        assert os.access(ROOT / words[0], os.X_OK)
    elif ("tools/" in step.command and words[0] == "python") or words[0].endswith("mlx-conv3d"):
        options = [word for word in words if word.startswith("--")]
        missing = set(options) - set(re.findall(r"--[\w-]+", help_of(words)))
        assert not missing
    else:
        assert known(ONLY_THERE, step.command) or words[0] in ("xcrun", "python"), "an unknown program"


def test_ci_gets_the_packages_that_its_script_needs() -> None:
    needed = re.findall(r"--no-install-recommends(?: \\\n)?([\s\w+.-]*)", CI)
    given = [step.command for step in all_steps() if step.job == "ci.yml/linux-x86-64"]
    (installed,) = [command for command in given if "apt-get install" in command]
    assert needed
    assert set(" ".join(needed).split()) <= set(installed.split())


@pytest.mark.parametrize(
    ("tag", "passes"), [(f"v{PYPROJECT['project']['version']}", True), ("v0.0.0", False)]
)
def test_a_tag_is_the_version(tag: str, passes: bool) -> None:
    (step,) = [step for step in all_steps() if step.job == "release.yml/version"]
    command = step.command.replace("python", sys.executable, 1).replace(
        "import tomllib", f"import {tomllib.__name__} as tomllib"
    )
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env={**os.environ, "GITHUB_REF_NAME": tag},
        timeout=60,
    )
    assert (done.returncode == 0) == passes


def test_workflows_hold_no_secret_and_may_only_read() -> None:
    for path in ROOT.glob(".github/workflows/*.yml"):
        text = path.read_text()
        assert "secrets." not in text
        assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    writing = {name: job["permissions"] for name, job in all_jobs() if "permissions" in job}
    assert writing == {"release.yml/publish": {"id-token": "write"}}


@pytest.mark.parametrize(("name", "job"), all_jobs(), ids=[name for name, _ in all_jobs()])
def test_actions_have_versions_and_jobs_an_end(name: str, job: dict[str, Any]) -> None:
    for step in job.get("steps", []):
        assert re.search(r"@(v\d+|release/v1)$", step.get("uses", "none@v0"))
    assert 0 < job.get("timeout-minutes", 0) <= 120 or job["uses"] == "./.github/workflows/wheels.yml"


def test_what_is_downloaded_was_uploaded() -> None:
    steps = [(name, step) for name, job in all_jobs() for step in job.get("steps", [])]
    uploaded = {s["with"]["name"] for _, s in steps if "upload-artifact" in s.get("uses", "")}
    assert uploaded == {"macos", "sdist", "wheels-${{ matrix.os }}"}
    downloaded = [s["with"].get("name") for _, s in steps if "download-artifact" in s.get("uses", "")]
    assert downloaded == [None, "wheels-ubuntu-24.04"]


# ---- cibuildwheel ------------------------------------------------------------------------------------------

VERSIONS = ("310", "311", "312", "313", "314")


def test_wheels_are_built_for_every_python_that_mlx_supports() -> None:
    assert CIBUILDWHEEL["build"].split() == [f"cp{version}-*" for version in VERSIONS]
    image = (ROOT / "tools" / "linux" / "Dockerfile").read_text()
    (tags,) = re.findall(r"for tag in (.*?);", image)
    assert [tag.replace(".", "") for tag in tags.split()] == ["39", *VERSIONS]


@pytest.mark.skipif(sys.platform != "linux", reason="there is no mlx-cpu")
def test_wheels_have_the_policy_of_mlx() -> None:
    (policy,) = re.findall(
        r"--plat (manylinux_\d+_\d+)_\$\(uname -m\)", CIBUILDWHEEL["linux"]["repair-wheel-command"]
    )
    info = distribution("mlx-cpu").read_text("WHEEL")
    assert info is not None and f"-{policy}_" in info
    assert policy in (ROOT / "tools" / "linux" / "Dockerfile").read_text()


def test_libmlx_is_left_out_of_wheels() -> None:
    assert "--exclude libmlx.so" in CIBUILDWHEEL["linux"]["repair-wheel-command"]
    macos = CIBUILDWHEEL["macos"]["repair-wheel-command"].split()
    assert macos[macos.index("--exclude") + 1] == "libmlx"
    assert "--ignore-missing-dependencies" in macos, "delocate looks for what it is to leave out"


def test_the_image_is_the_one_that_the_workflow_makes() -> None:
    (step,) = [step for step in all_steps() if step.command.startswith("docker build")]
    name = step.command.split()[step.command.split().index("--tag") + 1]
    images = {value for key, value in CIBUILDWHEEL["linux"].items() if key.endswith("-image")}
    assert images == {name}
    assert (ROOT / step.command.split()[-1] / "Dockerfile").is_file()


def test_wheels_are_tested_with_what_exists() -> None:
    assert set(CIBUILDWHEEL["test-extras"]) <= set(PYPROJECT["project"]["optional-dependencies"])
    words = CIBUILDWHEEL["test-command"].split()
    assert words[0] == "python" and (ROOT / words[1].replace("{project}/", "")).is_file()
