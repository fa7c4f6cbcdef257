"""The demo: its video VAE, its command and what the command says about bad input."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from typer.testing import CliRunner

pytest.importorskip("av")
pytest.importorskip("matplotlib")

from mlx_conv3d.cli import app
from mlx_conv3d.demo import CHECKPOINT, CLIP, video
from mlx_conv3d.demo.clock import LayerClock
from mlx_conv3d.demo.model import VAEConfig, VideoVAE, patchify, unpatchify

TINY = VAEConfig(encoder_channels=4, decoder_channels=4, deep_channels=8, latent_channels=4)


@pytest.fixture
def tiny() -> VideoVAE:
    mx.random.seed(0)
    return VideoVAE(TINY)


def clip_of(frames: int) -> mx.array:
    return mx.random.uniform(-1.0, 1.0, (1, frames, 16, 20, 3), key=mx.random.key(1))


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_shapes(tiny: VideoVAE, frames: int) -> None:
    decoded, mean, log_variance = tiny(clip_of(frames), mx.random.key(2))
    assert mean.shape == log_variance.shape == (1, 1 + frames // 4, 4, 5, 4)
    assert decoded.shape == (1, frames, 16, 20, 3)


@pytest.mark.parametrize("shape", [(1, 4, 16, 16, 3), (1, 5, 18, 16, 3), (1, 5, 16, 16, 4)])
def test_wrong_shapes_are_refused(tiny: VideoVAE, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="clip must be"):
        tiny.encode(mx.zeros(shape))


def test_patches_are_undone() -> None:
    clip = clip_of(2)
    assert mx.array_equal(unpatchify(patchify(clip)), clip)


def test_encoder_and_decoder_are_causal(tiny: VideoVAE) -> None:
    clip, shorter = clip_of(9), clip_of(9)[:, :5]
    mean, shorter_mean = tiny.encode(clip)[0], tiny.encode(shorter)[0]
    assert mx.allclose(mean[:, :2], shorter_mean, atol=1e-5)
    assert mx.allclose(tiny.decode(mean)[:, :5], tiny.decode(mean[:, :2]), atol=1e-5)


def test_later_frames_see_earlier_ones(tiny: VideoVAE) -> None:
    clip = clip_of(9)
    changed = mx.concatenate([-clip[:, :1], clip[:, 1:]], axis=1)
    change = mx.abs(tiny.encode(clip)[0] - tiny.encode(changed)[0]).max(axis=(0, 2, 3, 4))
    assert (change > 0).all().item()


def test_clock_counts_without_evaluating(tiny: VideoVAE) -> None:
    with LayerClock(evaluate=False) as dry:
        tiny(clip_of(5))
    with LayerClock() as clock:
        clock.run(lambda x: tiny(x)[0], clip_of(5))
    assert dry.flops == clock.flops > 0
    assert clock.seconds["convolution"] > 0


def test_shipped_files_are_small_and_whole() -> None:
    assert CHECKPOINT.stat().st_size <= 3_000_000
    assert CLIP.stat().st_size <= 1_000_000
    stored = {name: weight.shape for name, weight in mx.load(str(CHECKPOINT)).items()}
    assert stored == {name: weight.shape for name, weight in tree_flatten(VideoVAE().parameters())}
    assert video.read(CLIP, 192, 108, 45).shape == (45, 108, 192, 3)


def test_demo_writes_both_files(tmp_path: Path) -> None:
    arguments = ["demo", "--output", str(tmp_path / "out"), "--frames", "5", "--size", "32x24"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    for word in ("stock MLX", "times as fast", "PSNR", "convolution", "differ by"):
        assert word in result.output
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert video.read(tmp_path / "out" / "demo.mp4", 32, 32, 15).shape[0] == 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "big"], "--size must look like 192x108"),
        (["--size", "30x24"], "multiples of 4"),
        (["--size", "8x8"], "16 at least"),
        (["--frames", "6"], "try 5"),
        (["--frames", "1"], "5 at least"),
        (["--frames", "101"], "101 are needed"),
        (["--start", "44"], "has 1 frames from frame 44 on"),
        (["--clip", "absent.mp4"], "no such file: absent.mp4"),
        (["--clip", __file__], "cannot be decoded"),
        (["--checkpoint", "absent.safetensors"], "no such file: absent.safetensors"),
        (["--checkpoint", __file__], "does not hold the weights"),
        (["--output", __file__], "cannot be made"),
    ],
)
def test_errors_are_one_line(options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["demo", "--size", "32x24", "--frames", "5", *options])
    assert result.exit_code == 1
    assert message in result.output
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1
