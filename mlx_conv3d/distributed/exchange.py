"""Sends and receives between ranks, each with a time limit, and the count of what was sent.

MLX's streams belong to the thread that made them, and a receive from a rank that is gone or stuck may block for
ever. So one thread of this module does all communication, in the order in which it is asked, and whoever waits for it
waits with a limit. Sends and receives in either direction have a stream each: nothing waits for its turn.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

TIMEOUT_VARIABLE = "MLX_CONV3D_DISTRIBUTED_TIMEOUT"
DEFAULT_TIMEOUT = 120.0

Group = Any  # mx.distributed.Group


@dataclass(frozen=True)
class Place:
    """What is being exchanged and by whom, for messages."""

    what: str
    rank: int
    ranks: int

    def __str__(self) -> str:
        return f"{self.what} on rank {self.rank} of {self.ranks}"


def group_of(group: Group | None) -> Group:
    return mx.distributed.init() if group is None else group


def timeout_of(timeout: float | None) -> float:
    """In seconds: the argument, or the environment's, or the default."""
    name, value = "timeout", timeout
    if timeout is None:
        name, value = TIMEOUT_VARIABLE, os.environ.get(TIMEOUT_VARIABLE) or DEFAULT_TIMEOUT  # type: ignore[assignment]
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number of seconds, got {value!r}") from None
    if not seconds > 0:
        raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")
    return seconds


class _Streams:
    """One stream for each direction and sense, made in the thread that uses them."""

    def __init__(self) -> None:
        self.to_left, self.to_right, self.from_left, self.from_right = (
            mx.new_stream(mx.cpu) for _ in range(4)
        )


class _Communicator:
    """The thread that communicates, started at the first use. After a failure it takes no more work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Callable[[_Streams], Any], Future[Any]]] = queue.SimpleQueue()
        self._started = False
        self._failure: str | None = None
        self.waiting_for = ""

    def submit(self, job: Callable[[_Streams], Any], place: Place) -> Future[Any]:
        with self._lock:
            if self._failure is not None:
                raise RuntimeError(
                    f"{place}: an exchange has failed before, and the ranks are out of step: {self._failure}"
                )
            if not self._started:
                threading.Thread(target=self._work, name="mlx_conv3d.distributed", daemon=True).start()
                self._started = True
        future: Future[Any] = Future()
        self._jobs.put((job, future))
        return future

    def result(self, future: Future[Any], place: Place, timeout: float) -> Any:
        """The job's result; RuntimeError if it fails or takes longer than `timeout` seconds."""
        try:
            return future.result(timeout)
        except FutureTimeout:
            message = (
                f"{place}: no answer from {self.waiting_for} within {timeout:g} s (is it alive, and in the same call? "
                f"The limit is timeout= or {TIMEOUT_VARIABLE})"
            )
        except Exception as error:
            message = f"{place}: lost the connection to {self.waiting_for} ({error})"
        except BaseException:
            self._fail(f"{place}: interrupted")
            raise
        self._fail(message)
        raise RuntimeError(message)

    def _fail(self, message: str) -> None:
        with self._lock:
            self._failure = message

    def leave(self) -> None:
        """Ends the process after a failure: a thread that waits for a dead rank can neither end nor be joined."""
        if self._failure is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(1)

    def _work(self) -> None:
        streams = _Streams()
        while True:
            job, future = self._jobs.get()
            try:
                future.set_result(job(streams))
            except Exception as error:
                future.set_exception(error)


_communicator = _Communicator()
atexit.register(_communicator.leave)
_counts_lock = threading.Lock()
_counts: dict[str, int] = {}
_layers: dict[str, dict[str, int]] = {}


def reset_stats() -> None:
    """Sets the counts to zero."""
    with _counts_lock:
        _counts.update(halo_bytes=0, halo_messages=0, agreement_bytes=0, gather_bytes=0, moment_bytes=0)
        _layers.clear()


reset_stats()


def stats() -> dict[str, Any]:
    """What this rank has sent since the start or `reset_stats()`.

    {"halo_bytes", "halo_messages": of convolutions; "agreement_bytes": sizes and arguments that ranks compare before;
    "gather_bytes", "moment_bytes": of `gather` and of norms; "layers": {name: {"calls", "halo_bytes"}} of
    convolutions by shape}.
    """
    with _counts_lock:
        return {**_counts, "layers": {name: dict(counts) for name, counts in _layers.items()}}


def count(kind: str, nbytes: int) -> None:
    with _counts_lock:
        _counts[kind] += nbytes


def _count_layer(name: str, messages: int, nbytes: int) -> None:
    with _counts_lock:
        _counts["halo_messages"] += messages
        _counts["halo_bytes"] += nbytes
        layer = _layers.setdefault(name, {"calls": 0, "halo_bytes": 0})
        layer["calls"] += 1
        layer["halo_bytes"] += nbytes


@dataclass
class Swap:
    """Messages between neighbours: the shapes that come from either side, and what goes there, made of them.

    `to_left` and `to_right` are called with what the other side sent (None where nothing comes): a message may pass on
    what was received. None instead of a shape or a function: no message.
    """

    dtype: mx.Dtype
    from_left: tuple[int, ...] | None = None
    from_right: tuple[int, ...] | None = None
    to_left: Callable[[mx.array | None], mx.array] | None = None
    to_right: Callable[[mx.array | None], mx.array] | None = None
    layer: str = ""


def start_swap(swap: Swap, group: Group, place: Place) -> Future[Any]:
    """Begins to send and receive; `finish` waits for what comes. The arrays sent must be evaluated."""
    left, right = place.rank - 1, place.rank + 1

    def job(streams: _Streams) -> tuple[mx.array | None, mx.array | None]:
        distributed = mx.distributed
        received_left = received_right = None
        sent: list[mx.array] = []
        with mx.stream(mx.cpu):
            if swap.from_left is not None:
                received_left = distributed.recv(
                    swap.from_left, swap.dtype, left, group=group, stream=streams.from_left
                )
            if swap.from_right is not None:
                received_right = distributed.recv(
                    swap.from_right, swap.dtype, right, group=group, stream=streams.from_right
                )
            # What is passed on is put together on the sending stream: one that waits must not hold up the other.
            if swap.to_left is not None:
                with mx.stream(streams.to_left):
                    message = swap.to_left(received_right)
                sent.append(distributed.send(message, left, group=group, stream=streams.to_left))
            if swap.to_right is not None:
                with mx.stream(streams.to_right):
                    message = swap.to_right(received_left)
                sent.append(distributed.send(message, right, group=group, stream=streams.to_right))
            _count_layer(swap.layer, len(sent), sum(message.nbytes for message in sent))
            received = [a for a in (received_left, received_right) if a is not None]
            mx.async_eval(*received, *sent)  # type: ignore[no-untyped-call]
            for name, one in ((left, received_left), (right, received_right)):
                if one is not None:
                    _communicator.waiting_for = f"rank {name}"
                    mx.eval(one)
            _communicator.waiting_for = " or ".join(
                f"rank {r}" for r, f in ((left, swap.to_left), (right, swap.to_right)) if f
            )
            mx.eval(sent)
        return received_left, received_right

    return _communicator.submit(job, place)


def finish(future: Future[Any], place: Place, timeout: float) -> Any:
    """The result of what was started; RuntimeError naming the rank that does not answer."""
    return _communicator.result(future, place, timeout)


def all_gather(x: mx.array, group: Group, place: Place, timeout: float, kind: str) -> mx.array:
    """x of every rank, stacked on a new first axis. All ranks give the same shape and type."""
    around = sorted({(place.rank + step) % place.ranks for step in (-1, 1)} - {place.rank})

    def job(streams: _Streams) -> mx.array:
        _communicator.waiting_for = " or ".join(f"rank {r}" for r in around)
        with mx.stream(mx.cpu):
            gathered = mx.distributed.all_gather(x[None], group=group, stream=streams.to_right)
            count(kind, (place.ranks - 1) * x.nbytes)
            mx.eval(gathered)
        return gathered

    mx.eval(x)
    gathered: mx.array = finish(_communicator.submit(job, place), place, timeout)
    return gathered
