"""One layer in a process of its own, to be watched from outside: `python -m benchmarks.child`, with a Task as JSON on
its first line of input."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import IO, Any

from .workloads import Layer


@dataclass(frozen=True)
class Task:
    """What the child does: calls a layer's convolution (or takes its dL/dw) once, or for some seconds."""

    layer: Layer
    workspace: int
    threads: int
    gradient: bool = False
    seconds: float = 0.0
    algorithm: str = "auto"


@dataclass(frozen=True)
class Done:
    calls: int
    seconds: float


class Child:
    """A child that has its data and waits."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.pid = process.pid
        self._to: IO[str] = process.stdin
        self._from: IO[str] = process.stdout

    def run(self) -> Done:
        """Lets it work; it lives on until the context ends."""
        _say(self._to, "go")
        return Done(**json.loads(self._from.readline()))


@contextlib.contextmanager
def child(task: Task) -> Iterator[Child]:
    command = [sys.executable, "-m", "benchmarks.child"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        _say(process.stdin, json.dumps(asdict(task)))
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the process for {task.layer.name} did not start")
        yield Child(process)
        process.stdin.close()


def _say(to: IO[str], text: str) -> None:
    to.write(text + "\n")
    to.flush()


def _task(text: str) -> Task:
    given = json.loads(text)
    layer = {
        key: tuple(value) if isinstance(value, list) else value for key, value in given.pop("layer").items()
    }
    return Task(Layer(**layer), **given)


def _call(task: Task) -> Callable[[], Any]:
    import mlx.core as mx

    import mlx_conv3d

    from . import sides

    mlx_conv3d.set_workspace_limit(task.workspace)
    data = sides.Data(task.layer, gradient=task.gradient)
    if not task.gradient:
        run: Callable[[], Any] = sides.ours(data, algorithm=task.algorithm).run
        return run
    conv = sides.convolution(task.layer)

    def gradient() -> None:
        _, (found,) = mx.vjp(lambda w: conv(data.x, w, algorithm=task.algorithm), [data.w], [data.gradient])
        mx.eval(found)

    return gradient


def main() -> None:
    from . import sides

    task = _task(sys.stdin.readline())
    sides.set_threads(task.threads, torch=False)
    call = _call(task)
    if task.seconds > 0:
        call()
    else:
        # The threads and the code are there before memory is counted; their workspace is gone again.
        _call(_task(json.dumps(asdict(task) | {"layer": asdict(_tiny(task.layer))})))()
        _call(task)
    print("ready", flush=True)
    sys.stdin.readline()
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < task.seconds:
        call()
        calls += 1
    print(json.dumps(asdict(Done(calls, time.perf_counter() - start))), flush=True)
    sys.stdin.readline()


def _tiny(layer: Layer) -> Layer:
    channels = Layer(
        (1, 1, 1, 1, 8), (8, *layer.kernel, 8), *((1,) * 3,) * 3, dtype=layer.dtype, w_dtype=layer.w_dtype
    )
    return channels.with_output(tuple(4 for _ in channels.spatial))


if __name__ == "__main__":
    main()
