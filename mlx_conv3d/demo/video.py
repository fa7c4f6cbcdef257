"""Reading and writing video through PyAV, as arrays of frames `(D, H, W, 3)` of uint8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation

Frames = npt.NDArray[np.uint8]


def crop_to_aspect(picture: Frames, width: int, height: int) -> Frames:
    """The largest centred part of a picture `(H, W, 3)` that has the aspect ratio width : height."""
    full_height, full_width = picture.shape[:2]
    new_width = min(full_width, round(full_height * width / height))
    new_height = min(full_height, round(full_width * height / width))
    top, left = (full_height - new_height) // 2, (full_width - new_width) // 2
    return picture[top : top + new_height, left : left + new_width]


def resize(picture: Frames, width: int, height: int) -> Frames:
    """A picture `(H, W, 3)` cropped to the aspect ratio and averaged down to `(height, width, 3)`."""
    cropped = np.ascontiguousarray(crop_to_aspect(picture, width, height))
    frame = av.VideoFrame.from_ndarray(cropped, format="rgb24")
    scaled = frame.reformat(width=width, height=height, format="rgb24", interpolation=Interpolation.AREA)
    result: Frames = scaled.to_ndarray()
    return result


def iterate(path: Path) -> Iterator[Frames]:
    """The frames `(H, W, 3)` of a video file in order.

    Raises FileNotFoundError, or ValueError for a file that holds no video that can be decoded.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} holds no video")
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise ValueError(f"{path} cannot be decoded: {error}") from error


def read(path: Path, width: int, height: int, frames: int, start: int = 0) -> Frames:
    """`frames` frames from frame `start` on, cropped and scaled: `(frames, height, width, 3)`.

    Raises FileNotFoundError, or ValueError for a file with too few frames or without video.
    """
    pictures: list[Frames] = []
    for index, picture in enumerate(iterate(path)):
        if index >= start:
            pictures.append(resize(picture, width, height))
        if len(pictures) == frames:
            return np.stack(pictures)
    raise ValueError(f"{path} has {len(pictures)} frames from frame {start} on, {frames} are needed")


def write(path: Path, clip: Frames, rate: int, quality: int = 16) -> None:
    """Writes a clip `(D, H, W, 3)`, H and W even, as H.264 at `rate` frames a second and CRF `quality`."""
    with av.open(str(path), "w") as container:
        options = {"crf": str(quality), "preset": "slow"}
        stream: Any = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in clip:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
