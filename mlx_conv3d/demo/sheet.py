"""What the demo shows: a video of the clips side by side and a contact sheet of some of their frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from mlx_conv3d.demo.video import Frames, write

CAPTION_HEIGHT = 24


def caption(names: list[str], width: int) -> Frames:
    """A strip `(CAPTION_HEIGHT, width * len(names), 3)` with a name over each column."""
    strip = Image.new("RGB", (width * len(names), CAPTION_HEIGHT), "black")
    draw = ImageDraw.Draw(strip)
    for column, name in enumerate(names):
        draw.text((column * width + 8, 4), name, fill="white", font=ImageFont.load_default(14))
    return np.asarray(strip)


def side_by_side(clips: dict[str, Frames], path: Path, rate: int) -> None:
    """Writes the clips `(D, H, W, 3)` next to each other, enlarged to 200 rows or more, three times over."""
    height = next(iter(clips.values())).shape[1]
    factor = 2 * max(1, -(-100 // height))
    row = np.concatenate(list(clips.values()), axis=2).repeat(factor, axis=1).repeat(factor, axis=2)
    top = caption(list(clips), row.shape[2] // len(clips))
    stacked = np.concatenate([np.broadcast_to(top, (len(row), *top.shape)), row], axis=1)
    write(path, np.concatenate([stacked] * 3), rate)


def contact_sheet(
    clips: dict[str, Frames], difference: npt.NDArray[np.float32], path: Path, rows: int = 4
) -> None:
    """Writes a picture with a row for each of `rows` frames: the clips, then `difference` in grey."""
    frames, height, width, _ = next(iter(clips.values())).shape
    picked = np.linspace(0, frames - 1, min(rows, frames)).round().astype(int)
    peak = float(difference.max()) or 1.0
    columns = [*clips, f"|stock - patched|, white = {peak:.1e}"]
    figure = Figure(figsize=(3.6 * len(columns), 3.6 * height / width * len(picked) + 0.5), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(picked), len(columns), squeeze=False)
    for row, frame in zip(axes, picked, strict=True):
        for axis, clip in zip(row, clips.values(), strict=False):
            axis.imshow(clip[frame])
        row[-1].imshow(difference[frame] / peak, cmap="gray", vmin=0, vmax=1)
        row[0].set_ylabel(f"frame {frame}")
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=11)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout(pad=0.4)
    figure.savefig(path)
