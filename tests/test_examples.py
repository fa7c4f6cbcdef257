"""The examples in their quick form: they run, and what their pages say of them holds."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(script: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *options], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def streaming() -> Iterator[Any]:
    """The streaming example's modules, imported as its script imports them."""
    sys.path.insert(0, str(EXAMPLES / "streaming_decode"))
    try:
        import decoder
        import measure
        import padded

        yield type("Modules", (), {"decoder": decoder, "measure": measure, "padded": padded})
    finally:
        sys.path.pop(0)


def latent(frames: int) -> mx.array:
    return mx.random.normal((1, frames, 8, 8, 4), key=mx.random.key(0))


def test_streaming_script(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "memory.png"
    said = run(
        "streaming_decode/decode.py", "--quick", "--latent-frames", "3", "--size", "8", "--output", str(plot)
    )
    assert "the same bits: True" in said
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_streaming_is_exact_and_flat_in_memory(streaming: Any) -> None:
    decoder = streaming.decoder.Decoder(streaming.measure.SMALL)
    z = latent(5)
    whole = decoder(z)
    assert whole.shape == (1, 17, 64, 64, 3)
    streaming.measure.prepare(decoder, z)
    for frames in (1, 2, None):
        video, found = streaming.measure.decode(decoder, z, frames)
        assert mx.array_equal(video, whole)
        assert [step.frames for step in found.steps] == [1, 4, 4, 4, 4]
        assert len({step.state for step in found.steps[2:]}) == 1
        working = [step.working for step in found.steps[2:]]
        assert max(working) <= 1.05 * min(working)
        if frames == 2:
            assert max(working) <= 1.2 * streaming.measure.largest_layer(decoder, z)


def test_streaming_on_padded_layers(streaming: Any) -> None:
    ours = streaming.decoder.Decoder(streaming.measure.SMALL)
    padded = streaming.decoder.Decoder(streaming.measure.SMALL, streaming.padded.PaddedConv3d)
    padded.update(ours.parameters())
    z = latent(3)
    video, expected = (streaming.measure.decode(each, z)[0] for each in (padded, ours))
    assert mx.allclose(video, expected, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
def test_wavenet_stream(groups: int) -> None:
    said = run("wavenet_stream/main.py", "--batch", "2", "--seconds", "0.02", "--groups", str(groups))
    assert "the bits of the whole recording: True" in said
    difference = re.search(r"largest difference from stock MLX: (\S+) of", said)
    assert difference is not None
    assert float(difference[1]) < 1e-5


def test_real_widths(streaming: Any) -> None:
    layers = streaming.decoder.Decoder()
    shapes = {tuple(a.shape) for _, a in layers_of(layers)}
    assert (384, 3, 3, 3, 384) in shapes and (96, 3, 3, 3, 96) in shapes and (768, 3, 1, 1, 384) in shapes
    assert sum(a.size for _, a in layers_of(layers)) == 73_295_331


def layers_of(module: Any) -> list[tuple[str, mx.array]]:
    from mlx.utils import tree_flatten

    return tree_flatten(module.parameters())


def test_loops_agree_with_layers() -> None:
    said = run("conv2d_loops/compare.py")
    differences = [float(text) for text in re.findall(r"largest difference (\S+)", said)]
    assert len(differences) == 2 and max(differences) <= 1e-5
    assert "patch() took 90 calls of mx.conv2d" in said
