"""A few convolutions with every algorithm and type on whole numbers, held to sums over shifted inputs.

python tools/linux/few_convolutions.py ISA     fails if another instruction set was chosen

Needs nothing but mlx: other packages may want a newer processor than the emulated one.
"""

from __future__ import annotations

import sys
from itertools import product

import mlx.core as mx

import mlx_conv3d
from mlx_conv3d import _ext

Shape = tuple[int, ...]

# x, w, padding, stride, groups, algorithm
PROBLEMS: list[tuple[Shape, Shape, Shape, Shape, int, str]] = [
    ((2, 4, 9, 10, 20), (24, 3, 3, 3, 20), (1, 1, 1), (1, 1, 1), 1, "winograd"),
    ((1, 4, 7, 9, 20), (24, 3, 3, 3, 20), (0, 1, 1), (1, 1, 1), 1, "taps"),
    ((1, 5, 4, 6, 33), (17, 3, 1, 1, 33), (1, 0, 0), (1, 1, 1), 1, "temporal"),
    ((1, 3, 5, 7, 40), (19, 1, 1, 1, 40), (0, 0, 0), (1, 1, 1), 1, "pointwise"),
    ((1, 4, 6, 8, 12), (32, 2, 2, 2, 12), (0, 0, 0), (2, 2, 2), 1, "patchify"),
    ((1, 4, 7, 9, 24), (24, 3, 3, 3, 1), (1, 1, 1), (1, 1, 1), 24, "grouped"),
    ((1, 4, 7, 9, 24), (36, 2, 3, 1, 12), (1, 1, 0), (1, 2, 1), 2, "grouped"),
    ((1, 5, 9, 8, 11), (21, 2, 3, 4, 11), (1, 1, 2), (2, 1, 3), 1, "implicit_gemm"),
]
# Largest relative L2 error: rounding of the result, and of Winograd's transforms.
BOUNDS = {mx.float32: 8e-6, mx.float16: 1e-3, mx.bfloat16: 8e-3}


def whole_numbers(shape: Shape, seed: int) -> mx.array:
    return mx.random.randint(-3, 4, shape, key=mx.random.key(seed)).astype(mx.float32)


def sums_over_taps(x: mx.array, w: mx.array, padding: Shape, stride: Shape, groups: int) -> mx.array:
    """The convolution as one product for each tap: exact, since every sum is a whole number below 2^24."""
    x = mx.pad(x, [(0, 0), *((p, p) for p in padding), (0, 0)])
    size = [(x.shape[1 + a] - w.shape[1 + a]) // stride[a] + 1 for a in range(3)]
    outputs, channels = w.shape[0] // groups, w.shape[4]
    parts = []
    for g in range(groups):
        total = mx.zeros((x.shape[0], *size, outputs))
        for tap in product(*(range(k) for k in w.shape[1:4])):
            rows = [
                slice(t, t + (s - 1) * step + 1, step) for t, s, step in zip(tap, size, stride, strict=True)
            ]
            taken = x[:, rows[0], rows[1], rows[2], g * channels : (g + 1) * channels]
            total = total + taken @ w[g * outputs : (g + 1) * outputs, tap[0], tap[1], tap[2]].T
        parts.append(total)
    return mx.concatenate(parts, axis=-1)


def error(found: mx.array, exact: mx.array) -> float:
    difference = found.astype(mx.float32) - exact
    return (difference.square().sum().sqrt() / exact.square().sum().sqrt()).item()


def check(number: int, dtype: mx.Dtype) -> float:
    """The error of one problem as a share of its bound."""
    x_shape, w_shape, padding, stride, groups, algorithm = PROBLEMS[number]
    x, w = whole_numbers(x_shape, 2 * number), whole_numbers(w_shape, 2 * number + 1)
    found = mlx_conv3d.conv3d(
        x.astype(dtype), w.astype(dtype), stride, list(padding), groups=groups, algorithm=algorithm
    )
    share = error(found, sums_over_taps(x, w, padding, stride, groups)) / BOUNDS[dtype]
    if not share <= 1:
        raise SystemExit(f"{algorithm} in {dtype}: {share:.3g} times the error allowed")
    return share


def check_gradients() -> None:
    """The sum of <conv(x, w), y> has the gradients that the sums over taps have."""
    x, w = whole_numbers((1, 3, 6, 7, 8), 100), whole_numbers((12, 3, 3, 3, 8), 101)
    y = whole_numbers((1, 3, 6, 7, 12), 102)
    ones = (1, 1, 1)
    found = mx.grad(lambda x, w: (mlx_conv3d.conv3d(x, w, padding=1) * y).sum(), argnums=(0, 1))(x, w)
    exact = mx.grad(lambda x, w: (sums_over_taps(x, w, ones, ones, 1) * y).sum(), argnums=(0, 1))(x, w)
    for name, one, other in zip("xw", found, exact, strict=True):
        if not error(one, other) <= BOUNDS[mx.float32]:
            raise SystemExit(f"dL/d{name} has a relative error of {error(one, other):.3g}")


def main() -> None:
    mx.set_default_device(mx.cpu)
    mx.eval(mx.ones((4, 4)) @ mx.ones((4, 4)))  # mlx itself runs here
    wanted = sys.argv[1]
    if _ext.isa() != wanted:
        raise SystemExit(f"{_ext.isa()} was chosen, not {wanted}")
    shares = [check(n, dtype) for n in range(len(PROBLEMS)) for dtype in BOUNDS]
    check_gradients()
    print(
        f"{wanted}, {len(shares)} convolutions and a gradient right, errors at most {max(shares):.2f} of the bounds"
    )


if __name__ == "__main__":
    main()
