"""16-bit convolutions of Metal's Programs, run in the simulator of tests/metal_sim, beside stock MLX's route simulated
in NumPy: root mean square errors against float64, over that of the correctly rounded exact result."""

from __future__ import annotations

import datetime
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
Array = np.ndarray
Round = Callable[[Array], Array]

TITLE = "Accuracy of 16-bit Programs on Metal, simulated"
STOCK_NOTE = (
    "Stock's route is MLX 0.32.4's for a 3x3x3 convolution on a GPU, simulated in NumPy: for each depth tap Winograd "
    "F(6,3) with both transforms rounded to the storage type after either direction, products summed in fp32 and "
    "rounded, and the taps' outputs summed in the storage type. No GPU ran."
)


@dataclass(frozen=True)
class Row:
    """Errors of one case over those of the correctly rounded result; `stock` is None where it has no such route."""

    name: str
    dtype: str
    ours: float
    stock: float | None

    def __str__(self) -> str:
        stock = "" if self.stock is None else f"{self.stock:.1f}"
        return f"| {self.name} | {self.dtype} | {self.ours:.4f} | {stock} |"


def rms(a: Array) -> float:
    return float(np.sqrt(np.mean(np.square(a))))


# ---------------------------------------------------------------- stock's route


@cache
def winograd_matrices(m: int) -> tuple[Array, Array, Array]:
    """A^T, G and B^T of F(m, 3), scaled as stock's: the last number in each row of B^T is 1."""
    spec = importlib.util.spec_from_file_location(
        "winograd_matrices", ROOT / "tools" / "winograd_matrices.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    a_t, g, b_t = (np.array(matrix, dtype=np.float64) for matrix in module.matrices(m))
    last = np.array([row[row != 0][-1] for row in b_t])[:, None]
    return a_t, g * last, b_t / last


def both_ways(matrix: Array, tiles: Array, rounded: Round) -> Array:
    """matrix @ tile @ matrix^T over the last two axes, rounded after either product."""
    return rounded(rounded(matrix @ tiles) @ matrix.T)


def stock_conv2d(x: Array, w: Array, rounded: Round, m: int = 6) -> Array:
    """(D, H, W, C) and (O, 3, 3, C), no padding; D counts as batch."""
    a_t, g, b_t = winograd_matrices(m)
    depth, height, width, _ = x.shape
    out_h, out_w = height - 2, width - 2
    rows, cols = -(-out_h // m), -(-out_w // m)
    padded = np.zeros((depth, rows * m + 2, cols * m + 2, x.shape[-1]))
    padded[:, :height, :width] = x
    windows = np.lib.stride_tricks.sliding_window_view(padded, (m + 2, m + 2), (1, 2))[:, ::m, ::m]
    u = both_ways(b_t, windows, rounded)  # depth, row, col, C, tile, tile
    v = both_ways(g, np.moveaxis(w, -1, 1), rounded)  # O, C, tile, tile
    products = rounded(np.einsum("dhwcij,ocij->dhwoij", u, v, optimize=True))
    y = both_ways(a_t, products, rounded)  # depth, row, col, O, m, m
    y = y.transpose(0, 1, 4, 2, 5, 3).reshape(depth, rows * m, cols * m, -1)
    return y[:, :out_h, :out_w]


def stock_conv3d(x: Array, w: Array, rounded: Round) -> Array:
    """(1, D, H, W, C) and (O, KD, 3, 3, C), no padding: a 2-D convolution per depth tap, added in the storage type."""
    taps = w.shape[1]
    frames = x.shape[1] - taps + 1
    y: Array | None = None
    for tap in range(taps):
        part = stock_conv2d(x[0, tap : tap + frames], w[:, tap], rounded)
        y = part if y is None else rounded(y + part)
    assert y is not None
    return y[None]


# ---------------------------------------------------------------- cases


def use_simulator() -> str:
    """Makes tests/ importable; the reason why the simulator cannot run, or nothing."""
    if str(ROOT / "tests") not in sys.path:
        sys.path.insert(0, str(ROOT / "tests"))
    import metal_sim

    return metal_sim.unavailable_reason()


def cases() -> dict[str, object]:
    """Problems without padding by name, for every algorithm that has Programs."""
    use_simulator()
    from metal_programs import Case

    none = ((0, 0),) * 3
    layer = {"x": (1, 4, 14, 14, 64), "w": (32, 3, 3, 3, 64), "padding": none}
    depthwise = {"x": (1, 4, 14, 14, 64), "w": (64, 3, 3, 3, 1), "groups": 64, "padding": none}
    return {
        "3x3x3, 64 -> 32, F(2,3)": Case(**layer, chunks=(2, 36, 2, 32)),
        "3x3x3, 64 -> 32, F(4,3)": Case(**layer, chunks=(4, 18, 2, 32)),
        "3x3x3, 64 -> 32, F(6,3)": Case(**layer, chunks=(6, 8, 2, 32)),
        "3x3x3 depthwise, 64": Case(**depthwise, algorithm="grouped"),
    }


def measure(name: str, dtype: str) -> Row:
    """Runs a case. Raises AssertionError if the simulator reports anything."""
    use_simulator()
    from dataclasses import replace

    import metal_programs

    case = replace(cases()[name], dtype=dtype)

    def rounded(a: Array) -> Array:
        return metal_programs.floats(metal_programs.stored(a.astype(np.float32), dtype), dtype)

    result, y, exact = metal_programs.run(case)
    result.check()
    least = rms(rounded(exact) - exact)
    stock = None
    if case.groups == 1:
        inputs = metal_programs.operands(case, case.program())[1]
        stock = rms(stock_conv3d(inputs["x"], inputs["w"], rounded) - exact) / least
    return Row(name, dtype, rms(y - exact) / least, stock)


def rows() -> Iterator[Row]:
    for name in cases():
        for dtype in ("float16", "bfloat16"):
            yield measure(name, dtype)


def table(measured: list[Row]) -> str:
    head = "| problem | type | our Program | stock's route |\n|---|---|--:|--:|\n"
    return head + "\n".join(map(str, measured))


def command(save: bool = True) -> None:
    """rms errors of 16-bit Programs in the Metal simulator and of stock's route, over those of rounding alone."""
    if reason := use_simulator():
        raise SystemExit(reason)
    date = datetime.date.today().isoformat()
    text = (
        f"# {TITLE}\n\n{date}, `python -m benchmarks metal-accuracy`. Errors are rms against float64, divided by that "
        f"of the correctly rounded exact result, on normally distributed data.\n\n{STOCK_NOTE}\n\n"
        f"{table(list(rows()))}\n"
    )
    print(text)
    if save:
        (ROOT / "benchmarks" / "results" / f"metal-accuracy-{date}.md").write_text(text)
