"""Our pointwise GEMM against OpenBLAS sgemm and torch.mm on the 1x1x1 layers' matrices: is a micro-kernel
of our own worth it?"""

from __future__ import annotations

import ctypes
import functools
import math
import platform
from pathlib import Path
from typing import Any

import numpy as np

from . import sides
from .harness import Row, Side
from .report import ratio_summary
from .run import Run
from .workloads import Layer

TITLE = "fp32 GEMM of 1x1x1 layers: x (pixels, C) times w (O, C) transposed"
GFLOP = 20.0
OPENBLAS = "OpenBLAS sgemm"
TORCH_MM = "torch.mm"
INSTALL = "OpenBLAS is missing: pip install scipy-openblas32"
ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE = 101, 111, 112


def is_pointwise(layer: Layer) -> bool:
    return math.prod(layer.kernel) == 1 and max(layer.stride) == 1


def measure(run: Run) -> None:
    rows = [_row(run, layer.with_dtype("float32")) for layer in run.layers(GFLOP, is_pointwise)]
    for name in (OPENBLAS, TORCH_MM):
        run.report.say(ratio_summary(rows, f"{sides.OURS} over {name}, float32", [name], sides.OURS))


def _row(run: Run, layer: Layer) -> Row:
    data = sides.Data(layer)
    contenders = [sides.ours(data), openblas(data, run.report.threads)]
    if run.torch:
        contenders.append(torch_mm(data))
    label = f"{_pixels(layer)}x{layer.x_shape[-1]}x{layer.w_shape[0]}"
    algorithm = run.algorithm(layer)
    return run.compare(
        layer, contenders, label=label, algorithm=algorithm, baselines=[[OPENBLAS], [TORCH_MM]]
    )


def _pixels(layer: Layer) -> int:
    return math.prod(layer.out_shape[:-1])


def openblas(data: sides.Data, threads: int) -> Side:
    """cblas_sgemm into an output allocated beforehand."""
    library = load_openblas()
    library.scipy_openblas_set_num_threads(ctypes.c_int(threads))
    x, w = sides.to_numpy(data.x), sides.to_numpy(data.w)
    m, k, n = _pixels(data.layer), data.layer.x_shape[-1], data.layer.w_shape[0]
    y = np.empty(data.layer.out_shape, np.float32)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (x, w, y)]

    def call() -> Any:
        sizes = [ctypes.c_int(size) for size in (m, n, k)]
        a, b, c = pointers
        one, zero = ctypes.c_float(1), ctypes.c_float(0)
        library.scipy_cblas_sgemm(
            ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE, *sizes, one, a, sizes[2], b, sizes[2], zero, c, sizes[1]
        )
        return y

    # x and w live as long as the pointers into them are used.
    call.arrays = (x, w)  # type: ignore[attr-defined]
    return Side(OPENBLAS, call)


@functools.cache
def load_openblas() -> ctypes.CDLL:
    """The library of the scipy-openblas32 package. sides.Missing says what to install."""
    try:
        import scipy_openblas32 as package
    except ImportError:
        raise sides.Missing(INSTALL) from None
    suffix = {"Darwin": ".dylib", "Windows": ".dll"}.get(platform.system(), ".so")
    return ctypes.CDLL(str(Path(package.get_lib_dir()) / f"lib{package.get_library()}{suffix}"))


def torch_mm(data: sides.Data) -> Side:
    """torch.mm into an output allocated beforehand."""
    torch = sides.need_torch()
    x, w = (
        torch.from_numpy(sides.to_numpy(array)).reshape(-1, array.shape[-1]) for array in (data.x, data.w)
    )
    y = torch.empty(x.shape[0], w.shape[0])

    def call() -> Any:
        with torch.inference_mode():
            return torch.mm(x, w.t(), out=y)

    return Side(TORCH_MM, call, lambda tensor: tensor.numpy().reshape(data.layer.out_shape))
