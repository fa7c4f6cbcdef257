"""Run on every rank by test_distributed.py: layer after layer without end, until another rank dies."""

from __future__ import annotations

import mlx.core as mx

from mlx_conv3d import distributed


def main() -> None:
    mx.distributed.init(strict=True, backend="ring")
    x, w = mx.ones((1, 3, 12, 12, 16)), mx.full((16, 3, 3, 3, 16), 1e-3)
    layer = 0
    try:
        while True:
            x = distributed.conv3d(x, w, padding=1, axis="height")
            layer += 1
            print(f"layer {layer}", flush=True)
    except RuntimeError:
        try:
            distributed.conv3d(x, w, padding=1, axis="height")
        except RuntimeError as error:
            print(f"it is over for good: {error}", flush=True)
        raise


if __name__ == "__main__":
    main()
