"""The command line: `plan`, versions, errors in one line, and what it imports."""

from __future__ import annotations

import subprocess
import sys

import mlx.core as mx
import pytest
from typer.testing import CliRunner

import mlx_conv3d
from mlx_conv3d.cli import COMMANDS, app

SHAPES = ["1x9x60x104x96", "96x3x3x3x96"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120"})
    return result.exit_code, result.output


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)


def test_plan_prints_the_plan() -> None:
    code, output = run("plan", *SHAPES, "--padding", "1", "--dtype", "bfloat16", "--algorithm", "winograd")
    expected = mlx_conv3d.plan(
        (1, 9, 60, 104, 96), (96, 3, 3, 3, 96), padding=1, dtype=mx.bfloat16, algorithm="winograd"
    )
    assert (code, output) == (0, f"{expected}\n")
    assert "winograd, tiles of" in output


@pytest.mark.parametrize(
    ("arguments", "x", "w", "options"),
    [
        (["--stride", "1,2,2", "--padding", "2:0,1,1", "--padding-mode", "edge,zeros,zeros"], None, None, {
            "stride": (1, 2, 2), "padding": [(2, 0), 1, 1], "padding_mode": ["edge", "zeros", "zeros"],
        }),
        (["--padding", "1:0", "--lead", "2", "--bias", "--residual", "--activation", "silu"], None, None, {
            "padding": [(1, 0)] * 3, "lead": 2, "bias": True, "residual": True, "activation": "silu",
        }),
        (["--padding", "-1", "--w-dtype", "float16"], None, None, {"padding": -1, "w_dtype": mx.float16}),
        (["--dilation", "2", "--flip", "--algorithm", "implicit_gemm"], None, None, {
            "dilation": 2, "flip": True, "algorithm": "implicit_gemm",
        }),
        (["--groups", "4", "--padding-mode", "reflect", "--padding", "1"], (2, 20, 20, 16), (8, 3, 3, 4), {
            "groups": 4, "padding_mode": "reflect", "padding": 1,
        }),
        (["--input-dilation", "2", "--workspace-limit", str(32 << 20)], (1, 50, 8), (4, 3, 8), {
            "input_dilation": 2, "workspace_limit": 32 << 20,
        }),
        (["--upsample", "1,2,2"], None, None, {"upsample": [1, 2, 2]}),
        (["--prepared", "--padding", "1"], None, None, {"prepared": True, "padding": 1}),
        (["--device", "m2-max", "--padding", "1"], None, None, {"device": "m2-max", "padding": 1}),
    ],
)  # fmt: skip
def test_plan_options(
    arguments: list[str], x: tuple[int, ...] | None, w: tuple[int, ...] | None, options: dict[str, object]
) -> None:
    x, w = x or (1, 9, 60, 104, 96), w or (96, 3, 3, 3, 96)
    shapes = ["x".join(map(str, shape)) for shape in (x, w)]
    code, output = run("plan", *shapes, *arguments)
    assert (code, output) == (0, f"{mlx_conv3d.plan(x, w, **options)}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1x9x60", "?"], "W must look like 1x9x60x104x96, got '?'"),
        (["1x9y60", "96x3x3x3x96"], "X must look like"),
        (["9x9", "3x3"], "x_shape must have 3 to 5 entries"),
        (["1x9x60x104x96", "96x3x3x96"], "w_shape must have 5 dimensions"),
        ([*SHAPES, "--groups", "2"], "groups 2"),
        ([*SHAPES, "--stride", "1,2"], "stride must have 3 entries"),
        ([*SHAPES, "--stride", "a"], "--stride must look like 2 or 1,2,2, got 'a'"),
        ([*SHAPES, "--padding", "1:2:3"], "--padding must look like 1 or 2:0,1,1"),
        ([*SHAPES, "--dtype", "float64"], "--dtype must be one of float32, float16, bfloat16"),
        ([*SHAPES, "--padding-mode", "wrap"], "padding_mode must be one of"),
        ([*SHAPES, "--activation", "mish"], "activation must be None, relu, silu, gelu"),
        ([*SHAPES, "--algorithm", "fft"], "algorithm must be one of"),
        ([*SHAPES, "--algorithm", "patchify"], "patchify cannot run this problem: it needs a stride equal"),
        ([*SHAPES, "--device", "tpu"], "tpu"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    code, output = run("plan", *arguments)
    assert code == 1
    assert output.startswith("error: ") and message in output
    assert output.count("\n") == 1


def test_version() -> None:
    code, output = run("--version")
    assert code == 0
    assert output.startswith(f"mlx-conv3d {mlx_conv3d.__version__}, mlx {mlx_conv3d._ext.mlx_version}, ")


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_help_lists_the_commands(arguments: list[str]) -> None:
    _, output = run(*arguments)
    assert all(name in output for name in COMMANDS)


def test_unknown_command() -> None:
    code, output = run("decode")
    assert code == 2
    assert "No such command 'decode'" in output


def test_module_is_the_command() -> None:
    done = python("-m", "mlx_conv3d", "plan", *SHAPES)
    assert done.returncode == 0
    assert "winograd" in done.stdout


def test_plan_imports_nothing_of_the_demo() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from mlx_conv3d.cli import app;"
        f"assert CliRunner().invoke(app, {['plan', *SHAPES]!r}).exit_code == 0;"
        "print([m for m in ('av', 'matplotlib', 'numpy', 'mlx_conv3d.demo') if m in sys.modules])"
    )
    assert python("-c", code).stdout.strip() == "[]"


def test_demo_without_its_packages_says_what_to_install() -> None:
    code = "import sys; sys.modules['av'] = None; from mlx_conv3d.cli import app; app(['demo'])"
    done = python("-c", code)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'mlx-conv3d[demo]'")
    assert (done.stdout + done.stderr).count("\n") == 1
