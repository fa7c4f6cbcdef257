"""Weights transformed once for many calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import mlx.core as mx

from mlx_conv3d import _ext

if TYPE_CHECKING:
    from mlx_conv3d._arguments import Parameters

# m along the width, the kind of pixels, m along depth, bf16 parts, m along the height: WinogradForm in
# core/winograd_form.h.
Form: TypeAlias = tuple[int, str, int, int, int]
MOST_FORMS = 256


class PreparedWeight:
    """Weights together with their Winograd transforms, made at first use and kept.

    `weight` is the original array; gradients flow to it. Shape, dtype and ndim are its own. The transforms take
    about (m+2)^2/9 times the weights' memory in fp32, m being the tile size of the plan (4 for fp32 results), a third
    more where the plan works on pairs of frames, and half as much again where a matrix unit multiplies three bf16
    parts of each; with k taps along one axis alone (m+k-1)/k times. Plans of different forms each keep their own.
    """

    def __init__(self, weight: mx.array) -> None:
        self.weight = weight
        self._packed: dict[tuple[Form, bool, int], mx.array] = {}
        self._forms: dict[tuple[Any, ...], Form | None] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    @property
    def dtype(self) -> mx.Dtype:
        return self.weight.dtype

    @property
    def ndim(self) -> int:
        return int(self.weight.ndim)

    def packed_for(
        self,
        x: mx.array,
        parameters: Parameters,
        *,
        lead: mx.array | None,
        extras: tuple[mx.array | None, ...],
        algorithm: str,
        stream: Any,
    ) -> tuple[mx.array, Form] | None:
        """The transforms that a convolution of x would use, and their form; None if it uses none.

        `extras` are the bias and the residual, on whose types the result's and so the tile size depends.
        """
        from mlx_conv3d.planning import promote

        if algorithm not in ("auto", "winograd", "grouped") or _ext.disabled():
            return None
        # A GPU transforms them itself, by the layout that its plan needs.
        if not _ext.on_cpu(stream):
            return None
        # Weights that a transformation is tracing have no values to transform and keep.
        if _ext.is_tracer(self.weight):
            return None
        types = {x.dtype, self.dtype, *(a.dtype for a in (lead, *extras) if a is not None)}
        if mx.float64 in types or x.ndim != parameters.dims + 2 or self.ndim != x.ndim:
            return None
        out_type = promote(*types)
        form = self._form(x, parameters, 0 if lead is None else int(lead.shape[1]), out_type, algorithm)
        if form is None:
            return None
        key = (form, parameters.flip, parameters.groups)
        if key not in self._packed:
            lifted = self.weight
            while lifted.ndim < 5:
                lifted = mx.expand_dims(lifted, 1)
            packed = _ext.pack_weights(lifted, form, parameters.flip, parameters.groups, stream=mx.cpu)
            mx.eval(packed)
            self._packed[key] = packed
        return self._packed[key], form

    def _form(
        self, x: mx.array, parameters: Parameters, lead: int, out_type: mx.Dtype, algorithm: str
    ) -> Form | None:
        """The form of the transforms that the plan multiplies with, remembered: planning costs as much as a small
        convolution."""
        from mlx_conv3d.planning import plan_of

        x_shape = tuple(x.shape)
        options = parameters.key, lead, out_type, algorithm, _ext.workspace_limit()
        key = (x_shape, x.dtype, *options)
        if key not in self._forms:
            if len(self._forms) >= MOST_FORMS:
                self._forms.clear()
            chosen = plan_of(
                x_shape,
                self.shape,
                parameters,
                x_type=x.dtype,
                w_type=self.dtype,
                out_type=out_type,
                lead=lead,
                prepared=True,
                algorithm=algorithm,
            )
            form = chosen.tile, chosen.pixels, chosen.depth_tile, chosen.parts, chosen.tile_height
            self._forms[key] = form if chosen.tile > 0 else None
        return self._forms[key]


def prepare(w: mx.array) -> PreparedWeight:
    """Weights (O, ..., C/groups) for repeated use: any convolution here takes the result as its w.

    What a plan needs of them beyond the array itself (Winograd's transformed weights) is computed once per form
    and kept. Prepare anew after changing the weights.

    Raises:
        TypeError: w is not an mx.array.
        ValueError: w does not have 3 to 5 dimensions.
    """
    if not isinstance(w, mx.array):
        raise TypeError(f"w must be an mx.array, got {type(w).__name__}")
    if not 3 <= w.ndim <= 5:
        raise ValueError(f"w must have 3 to 5 dimensions (O, ..., C/groups), got shape {tuple(w.shape)}")
    return PreparedWeight(w)
