"""`mlx-conv3d demo`: a video VAE on a clip of film, on stock MLX and patched, in time and in pictures."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import mlx.core as mx
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import mlx_conv3d
from mlx_conv3d.cli.mistakes import told
from mlx_conv3d.demo import CHECKPOINT, CLIP

if TYPE_CHECKING:
    import numpy as np

    from mlx_conv3d.demo.clock import LayerClock
    from mlx_conv3d.demo.model import VideoVAE
    from mlx_conv3d.demo.video import Frames

PATCHED_PASSES = 3
PLAYBACK_RATE = 12


class DemoError(ValueError):
    """Something the user can put right; printed as one line."""


@dataclass
class Pass:
    """One encoding and decoding of the clip: the pictures, and the time of either half by kind of layer."""

    decoded: mx.array
    encode: LayerClock
    decode: LayerClock

    @property
    def seconds(self) -> float:
        return self.encode.total + self.decode.total


def parse_size(size: str) -> tuple[int, int]:
    """Width and height of "WxH"; DemoError unless both are multiples of 4, 16 at least."""
    parts = size.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise DemoError(f"--size must look like 192x108, got {size!r}")
    width, height = int(parts[0]), int(parts[1])
    if min(width, height) < 16 or width % 4 or height % 4:
        raise DemoError(f"--size needs a width and a height that are multiples of 4, 16 at least, got {size}")
    return width, height


def check_frames(frames: int) -> None:
    if frames < 5 or frames % 4 != 1:
        near = max(5, frames // 4 * 4 + 1)
        raise DemoError(f"--frames must be 1 plus a multiple of 4, 5 at least, got {frames} (try {near})")


def check_extras() -> None:
    missing = [name for name in ("av", "numpy", "matplotlib") if find_spec(name) is None]
    if missing:
        raise DemoError(f"the demo needs {', '.join(missing)}: pip install 'mlx-conv3d[demo]'")


def load_model(checkpoint: Path) -> VideoVAE:
    """The trained model in float32; DemoError if the file is missing or holds something else."""
    from mlx_conv3d.demo.model import VideoVAE

    if not checkpoint.is_file():
        raise DemoError(f"no such file: {checkpoint}")
    model = VideoVAE()
    try:
        weights: Any = mx.load(str(checkpoint), format="safetensors")
        model.load_weights([(name, weight.astype(mx.float32)) for name, weight in weights.items()])
    except (RuntimeError, ValueError) as error:
        raise DemoError(f"{checkpoint} does not hold the weights of the demo's model") from error
    mx.eval(model.parameters())
    return model


def load_clip(path: Path, width: int, height: int, frames: int, start: int) -> Frames:
    from mlx_conv3d.demo import video

    try:
        return video.read(path, width, height, frames, start)
    except (OSError, ValueError) as error:
        raise DemoError(str(error)) from error


def make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"--output {path} cannot be made: {error.strerror}") from error


def run_pass(model: VideoVAE, clip: mx.array, patched: bool, progress: Progress, task: TaskID) -> Pass:
    """Encodes and decodes the clip once, on stock MLX or patched, evaluating layer by layer."""
    from mlx_conv3d.demo.clock import LayerClock

    def advance(flops: int) -> None:
        progress.advance(task, flops)

    with mlx_conv3d.patched() if patched else nullcontext():
        with LayerClock(advance) as encode:
            latent = encode.run(lambda x: model.encode(x)[0], clip)
        with LayerClock(advance) as decode:
            decoded = decode.run(model.decode, latent)
    return Pass(mx.clip(decoded, -1.0, 1.0), encode, decode)


def count_flops(model: VideoVAE, clip: mx.array) -> int:
    """Direct operations of one encoding and decoding, from shapes alone."""
    from mlx_conv3d.demo.clock import LayerClock

    with LayerClock(evaluate=False) as clock:
        model(clip)
    return clock.flops


def run_both(model: VideoVAE, clip: mx.array, console: Console) -> tuple[Pass, Pass]:
    """One stock pass and the median of several patched ones, each after a small warm-up."""
    flops = count_flops(model, clip)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        warm_up = progress.add_task("warm-up", visible=False)
        stock_task = progress.add_task("stock MLX ", total=flops)
        patched_task = progress.add_task("mlx_conv3d", total=PATCHED_PASSES * flops, start=False)
        for patched in (False, True):
            run_pass(model, clip[:, :5, :16, :16], patched, progress, warm_up)
        stock = run_pass(model, clip, False, progress, stock_task)
        progress.start_task(patched_task)
        passes = [run_pass(model, clip, True, progress, patched_task) for _ in range(PATCHED_PASSES)]
    return stock, sorted(passes, key=lambda one: one.seconds)[PATCHED_PASSES // 2]


def psnr(decoded: mx.array, clip: mx.array) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    return float(-10 * mx.log10(mx.square((decoded - clip) / 2).mean()))


def time_table(stock: Pass, patched: Pass) -> Table:
    table = Table(title="Seconds, evaluated layer by layer")
    for heading in ("", "stock MLX", "mlx_conv3d", "times faster", "share of the\npatched decode"):
        table.add_column(heading, justify="left" if not heading else "right")

    def row(name: str, slow: float, fast: float, share: float | None = None) -> None:
        part = "" if share is None else f"{share:.0%}"
        table.add_row(name, f"{slow:.3f}", f"{fast:.3f}", f"{slow / max(fast, 1e-9):.1f}", part)

    row("encode", stock.encode.total, patched.encode.total)
    row("decode", stock.decode.total, patched.decode.total, 1.0)
    for kind, seconds in sorted(patched.decode.seconds.items(), key=lambda item: -item[1]):
        row(f"  {kind}", stock.decode.seconds[kind], seconds, seconds / patched.decode.total)
    table.add_section()
    row("encode and decode", stock.seconds, patched.seconds)
    return table


def to_pictures(decoded: mx.array) -> Frames:
    import numpy as np

    return np.asarray(mx.round((decoded[0] + 1.0) * 127.5).astype(mx.uint8))


def report(console: Console, stock: Pass, patched: Pass, clip: mx.array) -> np.ndarray[Any, Any]:
    """Prints times and quality; returns how far the decodes differ at each pixel, of pictures in [0, 1]."""
    import numpy as np

    difference = mx.abs(stock.decoded - patched.decoded)[0] / 2
    rms = mx.sqrt(mx.square(difference).mean()).item()
    console.print(time_table(stock, patched))
    gflop = (stock.encode.flops + stock.decode.flops) / 1e9
    console.print(
        f"{gflop:.1f} GFLOP of convolution: {stock.seconds:.2f} s stock, {patched.seconds:.2f} s patched"
        f" (median of {PATCHED_PASSES}), [bold]{stock.seconds / patched.seconds:.1f} times as fast[/bold]"
    )
    console.print(
        f"PSNR against the source: stock {psnr(stock.decoded, clip):.2f} dB, "
        f"patched {psnr(patched.decoded, clip):.2f} dB"
    )
    console.print(f"stock and patched decode differ by {difference.max().item():.1e} at most, {rms:.1e} rms")
    return np.asarray(difference.max(axis=-1))


def run_demo(output: Path, frames: int, size: str, clip_path: Path, start: int, checkpoint: Path) -> None:
    width, height = parse_size(size)
    check_frames(frames)
    check_extras()
    from mlx_conv3d.demo import sheet

    source = load_clip(clip_path, width, height, frames, start)
    model = load_model(checkpoint)
    make_directory(output)
    console = Console()
    clip = mx.array(source[None]).astype(mx.float32) / 127.5 - 1.0
    latent = (1 + frames // 4, height // 4, width // 4, model.config.latent_channels)
    console.print(f"{clip_path.name}: {frames} frames of {width}x{height}, latent {latent}")
    stock, patched = run_both(model, clip, console)
    difference = report(console, stock, patched, clip)
    clips = {"source": source, "stock": to_pictures(stock.decoded), "patched": to_pictures(patched.decoded)}
    sheet.side_by_side(clips, output / "demo.mp4", PLAYBACK_RATE)
    sheet.contact_sheet(clips, difference, output / "demo.png")
    console.print(f"wrote {output / 'demo.mp4'} and {output / 'demo.png'}")


def demo(
    output: Annotated[Path, typer.Option(help="Folder for demo.mp4 and demo.png.")] = Path("mlx-conv3d-demo"),
    frames: Annotated[int, typer.Option(help="Frames of the clip: 1 plus a multiple of 4.")] = 17,
    size: Annotated[str, typer.Option(help="Width and height, multiples of 4.", metavar="WxH")] = "192x108",
    clip: Annotated[Path, typer.Option(help="Any video file; by default a shot of Big Buck Bunny.")] = CLIP,
    start: Annotated[int, typer.Option(help="First frame of the clip to use.", min=0)] = 0,
    checkpoint: Annotated[Path, typer.Option(help="Weights from examples/video_vae/train.py.")] = CHECKPOINT,
) -> None:
    """Encode and decode a clip of film with a small video VAE, on stock MLX and patched.

    Prints both times, where the time goes and how close the pictures are; writes a video and a contact sheet.
    """
    with told(DemoError):
        run_demo(output, frames, size, clip, start, checkpoint)
