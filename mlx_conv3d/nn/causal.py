"""Convolution that is causal in time, over whole clips and over streams of chunks."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from mlx_conv3d import _arguments as arguments
from mlx_conv3d import _ext, functional
from mlx_conv3d._arguments import IntOrSequence, Padding, PaddingMode
from mlx_conv3d.functional import Weight
from mlx_conv3d.nn.layers import ConvolutionLayer, mode_names, positive

TIME_PADDINGS = ("zeros", "edge")


class StreamState(NamedTuple):
    """What a stream's next chunk needs of the ones before it.

    The first frame that the next output reads is the first of `padding` frames that stand before the clip, or else
    the first of `frames`, or else the frame that follows `skipped` frames of the next chunk.
    """

    frames: mx.array | None  # (N, L, H, W, C), of a series (N, L, C), L at most dilation * (KD - 1)
    padding: int
    skipped: int
    second: bool  # the next output frame is the second of a pair, where frames are computed in pairs


class CausalConv3d(ConvolutionLayer):
    """A 3-D convolution that pads time in front only, so that no output frame sees a later input frame.

    dilation*(KD - 1) frames stand before the clip, so that output frame i reads input frames up to i*stride, and
    D frames give ceil(D / stride). Neither they nor the frames of an earlier chunk are ever copied next to the input:
    the convolution reads all of them where they are.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, dilation: an int, or one for each of D, H, W.
        padding: spatial: an int, or for each of H, W an int or a (low, high) pair.
        groups: channel groups; C and O must be divisible by it.
        bias: whether there is one.
        time_padding: what stands before the clip: "zeros", or "edge" for its first frame, repeated.
        padding_mode: what stands around the frames: "zeros", "edge" or "reflect", one or one for each of H, W.
        upsample: how often each pixel is repeated before the convolution, an int, or one for each of H, W; nothing is
            copied, and the padding counts upsampled positions.

    Raises:
        ValueError, TypeError: an argument that makes no sense, by its name.
    """

    _layout: tuple[str, ...] = ("N", "D", "H", "W", "C")
    _series = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrSequence,
        stride: IntOrSequence = 1,
        padding: Padding = 0,
        dilation: IntOrSequence = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        time_padding: str = "zeros",
        padding_mode: PaddingMode = "zeros",
        upsample: IntOrSequence = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation, groups, bias)
        self.padding = tuple(zip(*arguments.paddings(padding, 2), strict=True))
        if time_padding not in TIME_PADDINGS:
            raise ValueError(f"time_padding must be one of {', '.join(TIME_PADDINGS)}, got {time_padding!r}")
        self.time_padding = time_padding
        self.padding_mode = mode_names(padding_mode, 2)
        self.upsample = tuple(arguments.upsampling(upsample, 2))

    def _described(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "time_padding", "padding_mode", "upsample")
        return {name: getattr(self, name) for name in names}

    @property
    def reach(self) -> int:
        """How many frames before its own input frame an output frame reads."""
        return int(self["dilation"][0] * (self["weight"].shape[1] - 1))

    def __call__(
        self, x: mx.array, *, activation: str | None = None, residual: mx.array | None = None
    ) -> mx.array:
        """activation(conv(x) + bias) + residual for a whole clip (N, D, H, W, C)."""
        at = self._start()
        frames = self._checked("x", x, None)
        return self._outputs(x, at, self._frames_out(at, frames), activation, residual)

    def step(
        self,
        chunk: mx.array,
        state: StreamState | None = None,
        *,
        activation: str | None = None,
        residual: mx.array | None = None,
    ) -> tuple[mx.array, StreamState]:
        """The output frames that a stream's next chunk completes, and the state for the chunk after it.

        On the CPU the frames of all chunks are, bit for bit, those of one call with the whole clip, however it is cut.

        Args:
            chunk: (N, D, H, W, C), D >= 0.
            state: None for the first chunk of a stream, then what the step before returned. It is not changed, and
                holds at most dilation*(KD - 1) frames, copied.
            activation, residual: as in a call; the residual has the shape of this chunk's output.

        Returns:
            The output (N, oD, oH, oW, O), whose oD may be 0, and the new state.

        Raises:
            ValueError: a state of another stream: its frames do not fit the chunk in shape or type.
        """
        at = self._start() if state is None else StreamState(*state)
        frames = self._checked("chunk", chunk, at.frames)
        outputs = self._frames_out(at, frames)
        y = self._outputs(chunk, at, outputs, activation, residual)
        after = self._advanced(at, chunk, frames, outputs)
        if after.frames is not None and after.frames is not at.frames and not _ext.is_tracer(y):
            # Evaluated together: frames left for later would keep all of the chunk in memory, and only this thread
            # could evaluate them.
            y = mx.depends(y, after.frames)
        return y, after

    def _start(self) -> StreamState:
        # The first frame stands alone, since the clips of video models have 4*k + 1 frames.
        return StreamState(None, self.reach, 0, True)

    def _checked(self, name: str, x: mx.array, held: mx.array | None) -> int:
        """How many frames x has, if it can follow those held."""
        if not isinstance(x, mx.array):
            raise TypeError(f"{name} must be an mx.array, got {type(x).__name__}")
        here = x.shape
        if len(here) != len(self._layout):
            layout = ", ".join(self._layout)
            raise ValueError(f"{name} must have {len(self._layout)} dimensions ({layout}), got shape {here}")
        if held is not None:
            before = held.shape
            if before[0] != here[0] or before[2:] != here[2:] or held.dtype != x.dtype:
                raise ValueError(
                    f"state holds frames {before} of {held.dtype}, which a chunk {here} of {x.dtype} cannot follow"
                )
        return int(here[1])

    def _frames_out(self, at: StreamState, frames: int) -> int:
        """Output frames that `frames` more input frames complete."""
        there = at.padding + _held(at) + frames - at.skipped
        return max(0, (there - self.reach - 1) // int(self["stride"][0]) + 1)

    def _outputs(
        self, x: mx.array, at: StreamState, outputs: int, activation: str | None, residual: mx.array | None
    ) -> mx.array:
        if outputs > 0:
            x = x[:, at.skipped :] if at.skipped else x
            return self._convolve(x, at.frames, at.padding, activation, residual, second=at.second)
        # Built for its shape and type, and for what it refuses; never evaluated.
        one = mx.zeros((x.shape[0], 1, *x.shape[2:]), x.dtype)
        frame = self._convolve(one, None, self.reach, activation, None)
        empty = (frame.shape[0], 0, *frame.shape[2:])
        if residual is None:
            return mx.zeros(empty, frame.dtype)
        functional.require_arrays(residual=residual)
        if tuple(residual.shape) != empty:
            raise ValueError(f"residual must have the output's shape {empty}, got {tuple(residual.shape)}")
        return mx.zeros(empty, mx.result_type(frame, residual))

    def _convolve(
        self,
        x: mx.array,
        lead: mx.array | None,
        padding: int,
        activation: str | None,
        residual: mx.array | None,
        second: bool = True,
    ) -> mx.array:
        # As items: a module's attributes that are tuples or arrays are found only after others have been looked for.
        parameters = arguments.parameters(
            3,
            stride=self["stride"],
            padding=((padding, 0), *self["padding"]),
            dilation=self["dilation"],
            groups=self.groups,
            padding_mode=(self.time_padding, *self["padding_mode"]),
            activation=activation,
            upsample=(1, *self["upsample"]),
            per_frame=True,
            odd_frame=second,
        )
        return functional.run(
            x,
            self._weight(),
            parameters,
            bias=self._bias(),
            residual=residual,
            lead=lead,
            series=self._series,
        )

    def _advanced(self, at: StreamState, x: mx.array, frames: int, outputs: int) -> StreamState:
        # From the first position of the next output's window to its end: below zero it lies after this chunk.
        passed = outputs * self["stride"][0] - at.padding
        kept = _held(at) + frames - at.skipped - max(0, passed)
        second = at.second != (outputs % 2 == 1)
        return StreamState(_last_frames(at.frames, x, kept), max(0, -passed), max(0, -kept), second)


class CausalConv1d(CausalConv3d):
    """A 1-D convolution that pads time in front only: audio and other series, whole or as a stream of buffers.

    `CausalConv3d` for frames of one position: x (N, L, C), weight (O, K, C/groups) as mlx.nn.Conv1d has it, and
    `step` with a state of the last dilation*(K - 1) samples.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, dilation: ints.
        groups: channel groups; C and O must be divisible by it.
        bias: whether there is one.
        time_padding: what stands before the series: "zeros", or "edge" for its first sample, repeated.

    Raises:
        ValueError, TypeError: an argument that makes no sense, by its name.
    """

    _layout = ("N", "L", "C")
    _series = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        time_padding: str = "zeros",
    ) -> None:
        (kernel,) = positive("kernel_size", kernel_size, 1)
        (step,) = positive("stride", stride, 1)
        (apart,) = positive("dilation", dilation, 1)
        super().__init__(
            in_channels,
            out_channels,
            (kernel, 1, 1),
            (step, 1, 1),
            dilation=(apart, 1, 1),
            groups=groups,
            bias=bias,
            time_padding=time_padding,
        )
        self.weight = self.weight.reshape(self.weight.shape[0], kernel, -1)

    def _described(self) -> dict[str, Any]:
        return {"stride": self.stride[0], "dilation": self.dilation[0], "time_padding": self.time_padding}

    def _weight(self) -> Weight:
        weight: mx.array = self["weight"]
        return weight


def _held(state: StreamState) -> int:
    return 0 if state.frames is None else int(state.frames.shape[1])


def _last_frames(held: mx.array | None, x: mx.array, count: int) -> mx.array | None:
    """The last `count` frames of those held and x, in an array of their own."""
    if count <= 0:
        return None
    frames = x.shape[1]
    if frames == 0:
        return held
    if held is None or count <= frames:
        return mx.contiguous(x[:, frames - count :])
    return mx.concatenate([held[:, held.shape[1] + frames - count :], x], axis=1)
