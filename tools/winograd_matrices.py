"""Generates the Winograd/Toom-Cook matrices of F(m, 3) from exact rational points: core/winograd.h as tables, with
those for doubled and dilated pixels and for stride 2; kernels/winograd_matrices.h as straight-line Metal code, in
which no zero or one is multiplied with and what two points p and -p share is computed once; and
metal/winograd_flops.h, what it costs.

    python tools/winograd_matrices.py           # rewrites all
    python tools/winograd_matrices.py --check   # exit 1 if one is stale

Method: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), with the points of
Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd Convolution" (2018): mixing 1/2 with -2
costs less accuracy than the symmetric points.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from math import gcd, lcm
from pathlib import Path

TAPS = 3
POINTS = {
    2: ["0", "1", "-1"],
    4: ["0", "1", "-1", "1/2", "-2"],
    6: ["0", "1", "-1", "1/2", "-1/2", "2", "-2"],
}
# Of more taps, along an axis of as many pixels as F(4, 3) and F(6, 3) have.
MORE_TAPS_POINTS = {5: {2: POINTS[4], 4: POINTS[6]}, 7: {2: POINTS[6]}}
# Of doubled pixels: the two phases of the output share the product at 1, which comes first.
DOUBLED_POINTS = {
    4: ["1", "0"],
    6: ["1", "0", "-1"],
    8: ["1", "0", "-1", "-1/2"],
}
# Of dilated pixels, which have zeros between them.
DILATED_POINTS = {
    4: ["0", "1"],
    6: ["0", "1", "-1"],
    8: ["0", "1", "-1", "-1/2"],
}
# Of stride 2: of the even pixels, the odd ones meet one tap.
STRIDED_POINTS = {
    2: ["0", "1"],
    4: ["0", "1", "-1", "-1/2"],
}
Matrix = list[list[Fraction]]


def vandermonde(points: list[Fraction], width: int) -> Matrix:
    """Rows are (1, p, p^2, ...); the last row is the point at infinity, which picks the leading coefficient."""
    rows = [[p**j for j in range(width)] for p in points]
    return [*rows, [Fraction(int(j == width - 1)) for j in range(width)]]


def inverse(a: Matrix) -> Matrix:
    n = len(a)
    work = [[*row, *(Fraction(int(i == j)) for j in range(n))] for i, row in enumerate(a)]
    for col in range(n):
        pivot = next(r for r in range(col, n) if work[r][col] != 0)
        work[col], work[pivot] = work[pivot], work[col]
        work[col] = [v / work[col][col] for v in work[col]]
        for r in range(n):
            if r != col and work[r][col] != 0:
                work[r] = [x - work[r][col] * y for x, y in zip(work[r], work[col], strict=True)]
    return [row[n:] for row in work]


def transpose(a: Matrix) -> Matrix:
    return [list(col) for col in zip(*a, strict=True)]


def matrices(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """(A^T, G, B^T) with y = A^T [(G w) * (B^T x)] for x of m + 2 and y of m values, exactly."""
    return correlation(POINTS[m], m, TAPS)


def correlation(at: list[str], m: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """The matrices of F(m, taps) at the given points and infinity."""
    points = [Fraction(p) for p in at]
    tile = m + taps - 1
    a_t = transpose(vandermonde(points, m))
    g = vandermonde(points, taps)
    # Transposing the Toom-Cook product of an m- and a `taps`-term polynomial turns interpolation into B^T.
    b_t = transpose(inverse(vandermonde(points, tile)))
    # Scaling a row of B^T by s and that of G by 1/s leaves the product as it is. B^T, which is applied most
    # often, gets the smallest whole numbers, exact in fp32.
    for i in range(tile):
        scale = Fraction(lcm(*(v.denominator for v in b_t[i])), gcd(*(v.numerator for v in b_t[i])))
        b_t[i] = [v * scale for v in b_t[i]]
        g[i] = [v / scale for v in g[i]]
    return a_t, g, b_t


def doubled_matrices(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """(A^T, G, B^T) of F(m, 3) over pixels that are read twice: x has m/2 + 1 values, y has m.

    Taps that meet the same pixel add up: an even output is F(m/2, 2) with the taps (w0 + w1, w2), an odd one with
    (w0, w1 + w2), both of the same pixels. At the point 1 both have the weight w0 + w1 + w2, so the first product
    serves both; frequency i > 0 has two, 2i - 1 for the even and 2i for the odd outputs.
    """
    half = m // 2
    a_t, g, b_t = correlation(DOUBLED_POINTS[m], half, 2)
    assert DOUBLED_POINTS[m][0] == "1"
    weights = [[g[0][0]] * 3]
    outputs = [[Fraction(0)] * (m + 1) for _ in range(m)]
    for j in range(half):
        outputs[2 * j][0] = outputs[2 * j + 1][0] = a_t[j][0]
    for i in range(1, half + 1):
        first, second = g[i]
        weights += [[first, first, second], [first, second, second]]
        for j in range(half):
            outputs[2 * j][2 * i - 1] = outputs[2 * j + 1][2 * i] = a_t[j][i]
    return outputs, weights, b_t


def dilated_matrices(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """(A^T, G, B^T) of F(m, 4) over pixels with a zero between them: x has m/2 + 1 values, y has m.

    From an odd position on, even outputs are F(m/2, 2) with the taps (w1, w3) and odd ones with (w0, w2), both of the
    same pixels. Frequency i has two products, 2i for the even and 2i + 1 for the odd outputs.
    """
    half, zero = m // 2, Fraction(0)
    a_t, g, b_t = correlation(DILATED_POINTS[m], half, 2)
    weights: Matrix = []
    outputs = [[zero] * (m + 2) for _ in range(m)]
    for i, (first, second) in enumerate(g):
        weights += [[zero, first, zero, second], [first, zero, second, zero]]
        for j in range(half):
            outputs[2 * j][2 * i] = outputs[2 * j + 1][2 * i + 1] = a_t[j][i]
    return outputs, weights, b_t


def strided_matrices(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """(A^T, G, B^T) of F(m, 3) with stride 2: x has 2 m + 1 values, y has m.

    Even pixels meet the taps (w0, w2) and are F(m, 2), odd ones meet w1 alone and are m products as they stand, whose
    weight, the last, they share.
    """
    zero, one = Fraction(0), Fraction(1)
    a_t, g, b_t = correlation(STRIDED_POINTS[m], m, 2)
    weights = [[first, zero, second] for first, second in g] + [[zero, one, zero]]
    outputs = [[*row, *(Fraction(int(i == j)) for i in range(m))] for j, row in enumerate(a_t)]
    inputs = [[row[i // 2] if i % 2 == 0 else zero for i in range(2 * m + 1)] for row in b_t]
    inputs += [[Fraction(int(i == 2 * j + 1)) for i in range(2 * m + 1)] for j in range(m)]
    return outputs, weights, inputs


def _number(v: Fraction) -> str:
    if v.denominator & (v.denominator - 1) == 0:
        return f"{float(v)!r}f"
    return f"{v.numerator}.0f / {v.denominator}.0f"


def _table(name: str, a: Matrix) -> str:
    rows = ",\n".join("    {" + ", ".join(_number(v) for v in row) + "}" for row in a)
    return f"  static constexpr float {name}[{len(a)}][{len(a[0])}] = {{\n{rows}}};\n"


def _struct(name: str, title: str, points: list[str], tables: tuple[Matrix, Matrix, Matrix]) -> str:
    a_t, g, b_t = tables
    return (
        f"\n/// {title} at the points {', '.join(points)} and infinity.\n"
        f"template <>\nstruct {name} {{\n"
        f"  static constexpr int pixels = {len(b_t)}, taps = {len(g[0])}, products = {len(a_t[0])},\n"
        f"                       weights = {len(g)}, outputs = {len(a_t)};\n"
        + _table("At", a_t)
        + _table("G", g)
        + _table("Bt", b_t)
        + "};\n"
    )


def header() -> str:
    parts = [
        "#pragma once\n\n"
        "// Generated by tools/winograd_matrices.py from exact rational points; do not edit.\n"
        "// y = At [(G w) * (Bt x)], in two dimensions applied to rows and columns.\n\n"
        "namespace mlx_conv3d {\n\n"
        "template <int M, int Taps = 3>\n"
        "struct Winograd;\n"
        "/// Of pixels that are doubled: the taps that meet a pixel twice are added up.\n"
        "template <int M>\n"
        "struct WinogradDoubled;\n"
        "/// Of pixels with a zero between them, for three or four taps.\n"
        "template <int M>\n"
        "struct WinogradDilated;\n"
        "/// Of stride 2.\n"
        "template <int M>\n"
        "struct WinogradStrided;\n"
    ]
    for m, points in POINTS.items():
        parts.append(_struct(f"Winograd<{m}>", f"F({m}, 3)", points, matrices(m)))
    for taps, tiles in MORE_TAPS_POINTS.items():
        for m, points in tiles.items():
            tables = correlation(points, m, taps)
            parts.append(_struct(f"Winograd<{m}, {taps}>", f"F({m}, {taps})", points, tables))
    for m, points in DOUBLED_POINTS.items():
        title = f"F({m}, 3) of doubled pixels"
        parts.append(_struct(f"WinogradDoubled<{m}>", title, points, doubled_matrices(m)))
    for m, points in DILATED_POINTS.items():
        title = f"F({m}, 4) of dilated pixels"
        parts.append(_struct(f"WinogradDilated<{m}>", title, points, dilated_matrices(m)))
    for m, points in STRIDED_POINTS.items():
        title = f"F({m}, 3) of stride 2"
        parts.append(_struct(f"WinogradStrided<{m}>", title, points, strided_matrices(m)))
    return "".join(parts) + "\n}  // namespace mlx_conv3d\n"


Terms = list[tuple[Fraction, str]]


def _sum(terms: Terms) -> str:
    """The sum of factors times names, as an expression."""
    text = ""
    for v, name in terms:
        size = abs(v)
        number = _number(size)
        factor = "" if size == 1 else f"({number}) * " if "/" in number else f"{number} * "
        sign = "-" if v < 0 else "+"
        text += (f" {sign} " if text else "-" if v < 0 else "") + f"{factor}{name}"
    return text


def _instructions(terms: Terms) -> int:
    """Multiplications, additions and fused ones of a sum, which starts with a term that needs none if there is one."""
    return len(terms) - any(abs(v) == 1 for v, _ in terms)


def _mirrored(a: list[Fraction], b: list[Fraction]) -> bool:
    """Whether they differ in signs only, and agree in some place and differ in another."""
    signs = {x == y for x, y in zip(a, b, strict=True) if x}
    return [abs(x) for x in a] == [abs(y) for y in b] and signs == {True, False}


def _terms(row: list[Fraction], names: list[str]) -> Terms:
    return [(v, name) for v, name in zip(row, names, strict=True) if v]


def _program(a: Matrix) -> list[tuple[str, Terms]]:
    """Assignments that compute a times x: of two mirrored columns the sum and the difference, of two mirrored rows what
    they have in common and what they have with opposite signs, once each. y[i] are its values."""
    names = [f"x[{j}]" for j in range(len(a[0]))]
    columns = transpose(a)
    found: list[tuple[str, Terms]] = []
    one = Fraction(1)
    for j in range(len(columns) - 1):
        if len(a) > 2 and _mirrored(columns[j], columns[j + 1]):
            plus, minus = f"plus{j}", f"minus{j}"
            found.append((plus, [(one, names[j]), (one, names[j + 1])]))
            found.append((minus, [(one, names[j]), (-one, names[j + 1])]))
            same = [x if x == y else Fraction(0) for x, y in zip(columns[j], columns[j + 1], strict=True)]
            columns[j + 1] = [x - s for x, s in zip(columns[j], same, strict=True)]
            columns[j] = same
            names[j], names[j + 1] = plus, minus
    rows = transpose(columns)
    i = 0
    while i < len(rows):
        if i + 1 < len(rows) and _mirrored(rows[i], rows[i + 1]) and sum(map(bool, rows[i])) > 2:
            same = [x if x == y else Fraction(0) for x, y in zip(rows[i], rows[i + 1], strict=True)]
            other = [x - s for x, s in zip(rows[i], same, strict=True)]
            found += [(f"even{i}", _terms(same, names)), (f"odd{i}", _terms(other, names))]
            found.append((f"y[{i}]", [(one, f"even{i}"), (one, f"odd{i}")]))
            found.append((f"y[{i + 1}]", [(one, f"even{i}"), (-one, f"odd{i}")]))
            i += 2
        else:
            found.append((f"y[{i}]", _terms(rows[i], names)))
            i += 1
    return found


def _function(name: str, what: str, a: Matrix) -> str:
    lines = ""
    for target, terms in _program(a):
        to = f"y[{target[2:-1]} * Step]" if target.startswith("y") and target != "y[0]" else target
        lines += f"    {'' if target.startswith('y') else 'const float '}{to} = {_sum(terms)};\n"
    return (
        f"  /// {what}\n"
        "  template <int Step>\n"
        f"  static METAL_FUNC void {name}(const thread float* x, thread float* y) {{\n{lines}  }}\n"
    )


def metal_header() -> str:
    parts = [
        "#pragma once\n\n"
        "// Generated by tools/winograd_matrices.py from exact rational points; do not edit.\n"
        "// One-dimensional transforms of F(M, 3) on x, written to y, y + Step, ...\n\n"
        "template <int M>\n"
        "struct Winograd;\n"
    ]
    for m in POINTS:
        a_t, g, b_t = matrices(m)
        parts.append(
            f"\n/// F({m}, 3) at the points {', '.join(POINTS[m])} and infinity.\n"
            f"template <>\nstruct Winograd<{m}> {{\n"
            + _function("input", f"B^T x: {m + TAPS - 1} values from {m + TAPS - 1}.", b_t)
            + _function("weight", f"G x: {m + TAPS - 1} values from {TAPS}.", g)
            + _function("output", f"A^T x: {m} values from {m + TAPS - 1}.", a_t)
            + "};\n"
        )
    return "".join(parts)


def flops_header() -> str:
    cases = ""
    for m in POINTS:
        a_t, g, b_t = matrices(m)
        counts = [2 * sum(_instructions(terms) for _, terms in _program(a)) for a in (b_t, g, a_t)]
        cases += f"  if (m == {m}) return {{{', '.join(map(str, counts))}}};\n"
    return (
        "#pragma once\n\n"
        "// Generated by tools/winograd_matrices.py; do not edit.\n\n"
        "namespace mlx_conv3d::metal {\n\n"
        "/// FLOPs of the one-dimensional transforms of kernels/winograd_matrices.h, each instruction counted as a\n"
        "/// multiply-add.\n"
        "struct WinogradFlops {\n"
        "  int input, weight, output;\n"
        "};\n"
        "constexpr WinogradFlops winograd_flops(int m) {\n"
        f"{cases}"
        "  return {};\n"
        "}\n\n"
        "}  // namespace mlx_conv3d::metal\n"
    )


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    files = {
        root / "core" / "winograd.h": header(),
        root / "kernels" / "winograd_matrices.h": metal_header(),
        root / "metal" / "winograd_flops.h": flops_header(),
    }
    if "--check" in sys.argv[1:]:
        return int(any(not path.exists() or path.read_text() != text for path, text in files.items()))
    for path, text in files.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
