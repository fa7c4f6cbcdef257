"""Convolution that is causal in time, over whole clips and over streams of chunks."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlx_conv3d import _arguments as arguments
from mlx_conv3d import _ext, functional
from mlx_conv3d._arguments import IntOrSequence, Padding, PaddingMode
from mlx_conv3d.functional import Weight
from mlx_conv3d.nn.layers import ConvolutionLayer, mode_names, positive
from mlx_conv3d.nn.steps import Steps, StreamState, Work, work_of

TIME_PADDINGS = ("zeros", "edge")
PER_AXIS = ("stride", "padding", "dilation", "padding_mode", "upsample")


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
        self._steps = Steps()

    def __setattr__(self, key: str, value: Any) -> None:
        super().__setattr__(key, value)
        self._forget_steps()

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _frozen(value) if key in PER_AXIS else value)
        self._forget_steps()

    def _forget_steps(self) -> None:
        # Others, shallow copies or a call in another thread, may use those there are.
        if "_steps" in self.__dict__:
            self.__dict__["_steps"] = Steps()

    def _described(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "time_padding", "padding_mode", "upsample")
        return {name: getattr(self, name) for name in names}

    @property
    def reach(self) -> int:
        """How many frames before its own input frame an output frame reads."""
        return int(self["dilation"][0] * (self["weight"].shape[1] - 1))

    def __call__(
        self,
        x: mx.array,
        *,
        state: StreamState | None = None,
        activation: str | None = None,
        residual: mx.array | None = None,
    ) -> mx.array:
        """activation(conv(x) + bias) + residual for a whole clip (N, D, H, W, C).

        With the `state` of a stream: for its next chunk x, what `step` would return first. Where several layers have
        seen the same frames, one of them steps, and its state serves the others.

        Raises:
            ValueError: a state of another stream, as in `step`.
        """
        work, parameters = self._work("x", x, state, activation)
        held = None if state is None else state[0]
        return self._outputs(x, held, work, parameters, activation, residual)

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
        work, parameters = self._work("chunk", chunk, state, activation)
        held = None if state is None else state[0]
        frames: mx.array | None
        if work.outputs > 0 and work.kept > 0:
            options = self._options(held, residual)
            x = _unskipped(chunk, work)
            y, frames = functional.run_keeping(x, self._weight(), parameters, work.kept, **options)
        else:
            y = self._outputs(chunk, held, work, parameters, activation, residual)
            frames = None if work.kept == 0 else held
            if work.kept > 0 and chunk.shape[1] > 0:
                y, frames = _ext.with_last_frames(y, held, chunk, work.kept)
        return y, StreamState(frames, work.padding_after, work.skipped_after, work.second_after)

    def _work(
        self, name: str, x: mx.array, state: StreamState | None, activation: str | None
    ) -> tuple[Work, arguments.Parameters]:
        """What x, if it can follow the state, is to do."""
        if not isinstance(x, mx.array):
            raise TypeError(f"{name} must be an mx.array, got {type(x).__name__}")
        here = x.shape
        if len(here) != len(self._layout):
            layout = ", ".join(self._layout)
            raise ValueError(f"{name} must have {len(self._layout)} dimensions ({layout}), got shape {here}")
        if state is None:
            key: tuple[Any, ...] = here[1], activation
        else:
            try:
                frames, padding, skipped, second = state
            except (TypeError, ValueError):
                raise ValueError(f"state must be what a step has returned, got {state!r}") from None
            held = 0
            if frames is not None:
                before = frames.shape
                if before[0] != here[0] or before[2:] != here[2:] or frames.dtype != x.dtype:
                    raise ValueError(
                        f"state holds frames {before} of {frames.dtype}, which a chunk {here} of {x.dtype} cannot "
                        "follow"
                    )
                held = before[1]
            key = here[1], activation, held, padding, skipped, second
        steps = self._steps
        found = steps.get(key)
        if found is None:
            found = self._planned(*key)
            steps.add(key, *found)
        return found

    def _planned(
        self,
        frames: int,
        activation: str | None,
        held: int = 0,
        padding: int | None = None,
        skipped: int = 0,
        second: bool = True,  # the first frame stands alone, since the clips of video models have 4*k + 1 frames
    ) -> tuple[Work, arguments.Parameters]:
        padding = self.reach if padding is None else padding
        work = work_of(frames, held, padding, skipped, second, reach=self.reach, stride=self.stride[0])
        return work, self._parameters(padding, activation, second)

    def _parameters(self, padding: int, activation: str | None, second: bool = True) -> arguments.Parameters:
        return arguments.parameters(
            3,
            stride=self.stride,
            padding=((padding, 0), *self.padding),
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=(self.time_padding, *self.padding_mode),
            activation=activation,
            upsample=(1, *self.upsample),
            per_frame=True,
            odd_frame=second,
        )

    def _options(self, held: mx.array | None, residual: mx.array | None) -> dict[str, Any]:
        return {"bias": self._bias(), "residual": residual, "lead": held, "series": self._series}

    def _outputs(
        self,
        x: mx.array,
        held: mx.array | None,
        work: Work,
        parameters: arguments.Parameters,
        activation: str | None,
        residual: mx.array | None,
    ) -> mx.array:
        if work.outputs == 0:
            return self._no_outputs(x, activation, residual)
        return functional.run(
            _unskipped(x, work), self._weight(), parameters, **self._options(held, residual)
        )

    def _no_outputs(self, x: mx.array, activation: str | None, residual: mx.array | None) -> mx.array:
        # Built for its shape and type, and for what it refuses; never evaluated.
        frame = functional.run(
            mx.zeros((x.shape[0], 1, *x.shape[2:]), x.dtype),
            self._weight(),
            self._parameters(self.reach, activation),
            bias=self._bias(),
            series=self._series,
        )
        empty = (frame.shape[0], 0, *frame.shape[2:])
        if residual is None:
            return mx.zeros(empty, frame.dtype)
        functional.require_arrays(residual=residual)
        if tuple(residual.shape) != empty:
            raise ValueError(f"residual must have the output's shape {empty}, got {tuple(residual.shape)}")
        return mx.zeros(empty, mx.result_type(frame, residual))


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


def _unskipped(x: mx.array, work: Work) -> mx.array:
    return x[:, work.skipped :] if work.skipped else x


def _frozen(value: Any) -> Any:
    """Lists as tuples, which do not change after they have been looked at."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
