"""Puts this library under MLX's own functions, and takes it away again."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import mlx.core as mx

from mlx_conv3d import _arguments as arguments
from mlx_conv3d import _ext, functional
from mlx_conv3d.planning import DTYPES

NAMES = (
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_general",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)

_lock = threading.RLock()
_stock: dict[str, Callable[..., mx.array]] = {}
_ours: dict[str, Callable[..., mx.array]] = {}
_counts_lock = threading.Lock()
_calls = 0
_algorithms: Counter[str] = Counter()
_fallbacks: Counter[str] = Counter()


class Fallback(Exception):
    """Stock MLX does this call; the message says why."""


def _count(algorithm: str, fallback: str | None = None) -> None:
    global _calls
    with _counts_lock:
        _calls += 1
        _algorithms[algorithm] += 1
        if fallback is not None:
            _fallbacks[fallback] += 1


def _strict(dims: int) -> Callable[..., arguments.Parameters]:
    """mx.conv1d/2d/3d's parameters after x and w."""

    def parse(
        x: mx.array, w: mx.array, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> arguments.Parameters:
        _require_ints(dims, stride, padding, dilation)
        return arguments.parameters(
            dims,
            stride=arguments.integers("stride", stride, dims),
            padding=arguments.integers("padding", padding, dims),
            dilation=arguments.integers("dilation", dilation, dims),
            groups=groups,
        )

    return parse


def _require_ints(dims: int, *values: Any) -> None:
    if dims == 1 and not all(isinstance(v, int) for v in values):
        raise TypeError("mx's 1-D convolutions take ints")


def _transposed(dims: int) -> Callable[..., arguments.Parameters]:
    """mx.conv_transpose1d/2d/3d's parameters after x and w."""

    def parse(
        x: mx.array,
        w: mx.array,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        output_padding: Any = 0,
        groups: int = 1,
    ) -> arguments.Parameters:
        _require_ints(dims, stride, padding, dilation, output_padding)
        p = arguments.transposed(
            dims,
            list(w.shape[1 : dims + 1]),
            stride=stride,
            padding=padding,
            dilation=dilation,
            output_padding=output_padding,
            groups=groups,
        )
        if any(d > 1 for d in p.input_dilation) and any(v < 0 for v in p.pad_lo + p.pad_hi):
            raise Fallback("negative padding with input dilation")
        return p

    return parse


_PARSERS: dict[str, Callable[..., arguments.Parameters]] = {
    "conv1d": _strict(1),
    "conv2d": _strict(2),
    "conv3d": _strict(3),
    "conv_transpose1d": _transposed(1),
    "conv_transpose2d": _transposed(2),
    "conv_transpose3d": _transposed(3),
}


def parse(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[mx.array, mx.array, arguments.Parameters, Any]:
    """x, w, the parameters and the stream of a call of mx's function of that name, one of NAMES."""
    options = dict(kwargs)
    stream = options.pop("stream", None)
    x, w = args[0], args[1]
    if not isinstance(x, mx.array) or not isinstance(w, mx.array):
        raise TypeError("x and w must be arrays")
    if name == "conv_general":
        parameters, kept = arguments.general(x.shape, *args[2:], **options)
        return functional.cropped(x, kept), w, parameters, stream
    return x, w, _PARSERS[name](*args, **options), stream


def _attempt(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> mx.array:
    """This library's result for a stock call; raises Fallback, or the error that says what is wrong with it."""
    x, w, parameters, stream = parse(name, args, kwargs)
    for a in (x, w):
        if a.dtype not in DTYPES.values():
            raise Fallback(f"type {a.dtype}")
    if _ext.disabled():
        raise Fallback("MLX_CONV3D_DISABLE")
    algorithm, reason = _ext.choose(x, w, parameters.core, stream=stream)
    if algorithm == "stock":
        raise Fallback(reason)
    y = functional.run(x, w, parameters, stream=stream)
    _count(algorithm)
    return y


def _replacement(name: str, stock: Callable[..., mx.array]) -> Callable[..., mx.array]:
    @wraps(stock)
    def patched_function(*args: Any, **kwargs: Any) -> mx.array:
        try:
            return _attempt(name, args, kwargs)
        except Fallback as reason:
            why = str(reason)
        except (ValueError, TypeError, IndexError) as error:
            # Stock says what is wrong in its own words, or does what only it can do.
            why = f"refused: {error}"
        y = stock(*args, **kwargs)
        _count("stock", why)
        return y

    patched_function.__mlx_conv3d_stock__ = stock  # type: ignore[attr-defined]
    return patched_function


def patch() -> None:
    """Replaces mx's convolutions, NAMES, and so what mlx.nn's layers call.

    The replacements take the same arguments, give the same results and raise the same errors. Calling it again
    changes nothing. With MLX_CONV3D_DISABLE=1 in the environment it does nothing.

    Raises:
        RuntimeError: another library has already replaced one of these functions.
    """
    with _lock:
        if _stock or _ext.disabled():
            return
        for name in NAMES:
            current = getattr(mx, name)
            if type(current).__module__ != "nanobind" or getattr(current, "__module__", "") != "mlx.core":
                raise RuntimeError(
                    f"mx.{name} is already replaced by {getattr(current, '__module__', current)!r}: "
                    "mlx_conv3d.patch() does not stack on another library's hook"
                )
        for name in NAMES:
            _stock[name] = getattr(mx, name)
            _ours[name] = _replacement(name, _stock[name])
        for name in NAMES:
            setattr(mx, name, _ours[name])


def unpatch() -> None:
    """Puts MLX's own functions back. Does nothing when they are not replaced.

    Raises:
        RuntimeError: another library has replaced one of the functions since; undo that first.
    """
    with _lock:
        for name in _stock:
            if getattr(mx, name) is not _ours[name]:
                raise RuntimeError(
                    f"mx.{name} was replaced after mlx_conv3d.patch(): undo that replacement first"
                )
        for name, stock in _stock.items():
            setattr(mx, name, stock)
        _stock.clear()
        _ours.clear()


def is_patched() -> bool:
    """Whether MLX's functions are replaced now."""
    with _lock:
        return bool(_stock)


@contextmanager
def patched() -> Iterator[None]:
    """`with patched():` patches inside the block and restores what was before it.

    The functions belong to the whole process: other threads see them replaced too.
    """
    with _lock:
        before = is_patched()
        patch()
    try:
        yield
    finally:
        if not before:
            unpatch()


def stats() -> dict[str, Any]:
    """Counts of the patched functions' calls since the start or `reset_stats()`.

    {"calls": total, "algorithms": {name: calls}, "fallbacks": {reason: calls}, "switched_off": {kernels: reason}}. A
    call is counted when it is made; inside mx.compile that is once per trace. `switched_off` names the Metal kernels
    that failed their first-use check in this process; `reset_stats()` does not switch them on.
    """
    with _counts_lock:
        return {
            "calls": _calls,
            "algorithms": dict(_algorithms),
            "fallbacks": dict(_fallbacks),
            "switched_off": _ext.switched_off(),
        }


def reset_stats() -> None:
    """Sets the counts to zero."""
    global _calls
    with _counts_lock:
        _calls = 0
        _algorithms.clear()
        _fallbacks.clear()
