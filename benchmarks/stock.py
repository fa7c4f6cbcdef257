"""fp32 3x3x3 layers against stock MLX's CPU convolution, a naive baseline: is ours at least 50 times
faster?"""

from __future__ import annotations

from . import sides
from .report import speedup
from .run import Run
from .vae import against_stock

TITLE = "3x3x3 layers against stock MLX on the CPU, a naive baseline"
USES_TORCH = False
CLAIM = 50.0


def measure(run: Run) -> None:
    for dtype in run.dtypes("float32"):
        rows = against_stock(run, dtype)
        below = [row for row in rows if (speedup(row, [sides.STOCK], sides.OURS) or 0.0) < CLAIM]
        verdict = "none" if not below else ", ".join(row.label for row in below)
        run.report.say(f"Layers of {dtype} less than {CLAIM:.0f} times faster than stock MLX: {verdict}")
