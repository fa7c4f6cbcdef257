"""Ownership and halos of a sharded axis, against a float64 convolution of the whole on simulated ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlx_conv3d.distributed.ranges import Axis, Halo, even_sizes, halos, interior, starts

MODES = ("zeros", "edge", "reflect")


@st.composite
def axes(draw: st.DrawFn) -> tuple[Axis, list[int]]:
    sizes = draw(st.lists(st.integers(0, 7), min_size=1, max_size=5))
    mode, lead = draw(st.sampled_from(MODES)), draw(st.sampled_from([0, 0, 1, 2, 4]))
    kernel, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    extent = sum(sizes) + lead
    most = {"zeros": 6, "edge": 6 if extent else 0, "reflect": min(6, max(extent - 1, 0))}[mode]
    pads = st.integers(min(0, most) - min(2, extent // 3), most)
    lo, hi = draw(pads), draw(pads)
    short = dilation * (kernel - 1) + 1 - (extent + lo + hi)
    if short > 0:  # too few positions: more of them on a rank
        sizes[draw(st.integers(0, len(sizes) - 1))] += short
    return Axis(sum(sizes), kernel, draw(st.integers(1, 4)), dilation, lo, hi, mode, lead), sizes


def source(axis: Axis, at: int, size: int) -> int:
    """Where position `at` of the padded axis is read from, -1 for a zero."""
    if 0 <= at < size:
        return at
    if axis.mode == "reflect":
        return -at if at < 0 else 2 * (size - 1) - at
    return {"zeros": -1, "edge": 0 if at < 0 else size - 1}[axis.mode]


def convolve(axis: Axis, x: np.ndarray, w: np.ndarray, padding: tuple[int, int]) -> np.ndarray:
    """The axis's convolution of x, lead frames and all, with another padding."""
    read = [source(axis, at, len(x)) for at in range(-padding[0], len(x) + padding[1])]
    padded = np.array([0.0 if at < 0 else x[at] for at in read])
    reach = axis.dilation * (axis.kernel - 1)
    firsts = range(0, len(padded) - reach, axis.stride)
    return np.array([w @ padded[at : at + reach + 1 : axis.dilation] for at in firsts])


def simulate(axis: Axis, ranks: list[Halo], x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """What the ranks compute, with their messages passed on one after the other."""
    held = [dict(zip(range(*h.own), x[slice(*h.own)], strict=True)) for h in ranks]
    for r in range(len(ranks) - 1):
        assert ranks[r].to_right == ranks[r + 1].from_left
        held[r + 1].update({at: held[r][at] for at in range(*ranks[r].to_right)})
    for r in range(len(ranks) - 1, 0, -1):
        assert ranks[r].to_left == ranks[r - 1].from_right
        held[r - 1].update({at: held[r][at] for at in range(*ranks[r].to_left)})
    pieces = []
    for h, rows in zip(ranks, held, strict=True):
        if h.outputs[0] < h.outputs[1]:
            here = np.array([rows[at] for at in range(*h.needs)])
            pieces.append(convolve(axis, here, w, axis.local_padding(h.outputs)))
            assert len(pieces[-1]) == h.outputs[1] - h.outputs[0]
    return np.concatenate(pieces)


@given(axes())
def test_ranks_compute_the_whole(drawn: tuple[Axis, list[int]]) -> None:
    axis, sizes = drawn
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=axis.extent), rng.normal(size=axis.kernel)
    whole = convolve(axis, x, w, (axis.pad_lo, axis.pad_hi))
    ranks = halos(axis, sizes)
    assert len(whole) == axis.outputs
    np.testing.assert_allclose(simulate(axis, ranks, x, w), whole, rtol=1e-12, atol=1e-12)
    ends = [h.outputs for h in ranks]
    assert [a for a, _ in ends[1:]] == [b for _, b in ends[:-1]] and ends[0][0] == 0


@given(axes())
def test_interior_needs_no_other_rank(drawn: tuple[Axis, list[int]]) -> None:
    axis, sizes = drawn
    for h in halos(axis, sizes):
        lo, hi = interior(axis, h)
        assert h.outputs[0] <= lo <= hi <= h.outputs[1]
        if lo < hi:
            needed = axis.needs((lo, hi))
            assert h.own[0] <= needed[0] and needed[1] <= h.own[1]


@given(axes(), st.integers(2, 4))
def test_interior_in_multiples(drawn: tuple[Axis, list[int]], multiple: int) -> None:
    axis, sizes = drawn
    for h in halos(axis, sizes):
        whole, (lo, hi) = interior(axis, h), interior(axis, h, multiple)
        assert lo == hi or whole[0] <= lo < hi <= whole[1]
        assert (lo - h.outputs[0]) % multiple == 0 or lo == hi
        assert hi == h.outputs[1] or (hi - h.outputs[0]) % multiple == 0
        assert lo < hi or whole[1] - whole[0] < 2 * multiple or whole[0] == whole[1]


@given(axes())
def test_nothing_is_sent_that_no_rank_needs(drawn: tuple[Axis, list[int]]) -> None:
    axis, sizes = drawn
    ranks = halos(axis, sizes)
    for r, h in enumerate(ranks):
        for at in range(*h.to_right):
            assert any(other.needs[0] <= at for other in ranks[r + 1 :] if other.needs[0] < other.needs[1])
        for at in range(*h.to_left):
            assert any(at < other.needs[1] for other in ranks[:r])


@pytest.mark.parametrize("sizes", [[8, 8], [5, 4, 4, 4], [1, 9], [0, 3, 0, 2]])
@pytest.mark.parametrize(
    ("kernel", "pads", "lead"), [(3, (1, 1), 0), (3, (2, 0), 0), (3, (0, 0), 2), (5, (2, 2), 0)]
)
def test_a_convolution_that_keeps_the_size_keeps_the_pieces(
    sizes: list[int], kernel: int, pads: tuple[int, int], lead: int
) -> None:
    axis = Axis(sum(sizes), kernel, pad_lo=pads[0], pad_hi=pads[1], lead=lead)
    assert axis.owned(sizes) == starts(sizes)


@pytest.mark.parametrize(("kernel", "pads"), [(3, (1, 1)), (3, (0, 1)), (2, (0, 0)), (4, (1, 1))])
def test_a_stride_of_two_halves_even_pieces(kernel: int, pads: tuple[int, int]) -> None:
    axis = Axis(20, kernel, 2, pad_lo=pads[0], pad_hi=pads[1])
    assert axis.owned([8, 6, 2, 4]) == [0, 4, 7, 8, 10]


@given(axes())
def test_an_output_belongs_to_the_rank_under_it(drawn: tuple[Axis, list[int]]) -> None:
    axis, sizes = drawn
    assume(sizes[0] and sizes[-1])
    holder = np.repeat(np.arange(len(sizes)), sizes)
    shift = (axis.size - 1 - (axis.outputs - 1) * axis.stride) // 2
    at = np.clip(np.arange(axis.outputs) * axis.stride + shift, 0, axis.size - 1)
    owner = np.repeat(np.arange(len(sizes)), np.diff(axis.owned(sizes)))
    np.testing.assert_array_equal(owner, holder[at])


def test_a_stride_over_odd_pieces() -> None:
    assert Axis(8, 3, 2, pad_lo=1, pad_hi=1).owned([3, 5]) == [0, 2, 4]
    assert Axis(9, 3, 2, pad_lo=1, pad_hi=1).owned([4, 5]) == [0, 2, 5]


def test_outer_padding_beforehand_gives_the_same_pieces() -> None:
    # As after mx.pad by one on the outer edges alone, then a convolution without padding.
    assert Axis(18, 3).owned([5, 4, 4, 5]) == [0, 4, 8, 12, 16]


def test_halo_of_a_decoder_layer_is_one_row_each_way() -> None:
    middle = halos(Axis(12, 3, pad_lo=1, pad_hi=1), [4, 4, 4])[1]
    assert (middle.to_left, middle.to_right, middle.rows_sent) == ((4, 5), (7, 8), 2)
    assert (middle.from_left, middle.from_right) == ((3, 4), (8, 9))
    causal = halos(Axis(12, 3, pad_lo=2), [4, 4, 4])[1]
    assert (causal.to_left, causal.to_right) == ((4, 4), (6, 8))


def test_halo_over_several_ranks_is_passed_on() -> None:
    ranks = halos(Axis(6, 7, pad_lo=6), [2, 1, 1, 2])
    assert [h.to_right for h in ranks] == [(0, 2), (0, 3), (0, 4), (0, 0)]


def test_even_sizes() -> None:
    assert even_sizes(10, 4) == [3, 3, 2, 2]
    assert even_sizes(2, 4) == [1, 1, 0, 0]
