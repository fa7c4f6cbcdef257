"""The ranks tell each other what they were called with, so that all of them refuse what does not fit together."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlx_conv3d.distributed import exchange
from mlx_conv3d.distributed.exchange import Group, Place

_REFUSED = -1
_CODE = "the call"


def checksum(*values: object) -> int:
    """31 bits of the values' representation, the same in every process."""
    return zlib.crc32(repr(values).encode()) & 0x7FFFFFFF


def agree(
    place: Place,
    facts: Mapping[str, int],
    differing: Mapping[str, int],
    group: Group,
    timeout: float,
    refusal: Exception | None = None,
) -> dict[str, list[int]]:
    """What every rank gives for each name in `differing`; `facts` must be the same everywhere.

    A rank that cannot go on says so with `refusal`, which it raises when the others know. All ranks give the same
    names, at most 31 bits a value. 64 bytes of each rank go to every other.

    Raises:
        ValueError: facts differ or another rank refuses; the message names the ranks and the fact.
    """
    names = [*differing, *facts]
    words = [*differing.values(), *facts.values()]
    call = checksum(place.what.split()[0], names)
    if refusal is not None:
        call, words = _REFUSED, [0] * len(words)
    row = _fixed([call, *words])
    table: Any = exchange.all_gather(
        mx.array(row, mx.int32), group, place, timeout, "agreement_bytes"
    ).tolist()
    if refusal is not None:
        raise refusal
    refusing = [rank for rank, other in enumerate(table) if other[0] == _REFUSED]
    if refusing:
        raise ValueError(
            f"{place}: rank {refusing[0]} was given arguments that it refuses; its error says why"
        )
    _compare(place, _CODE, [other[0] for other in table])
    for at, name in enumerate(names, start=1):
        if name in facts:
            _compare(place, name, [other[at] for other in table])
    return {name: [other[at] for other in table] for at, name in enumerate(differing, start=1)}


WORDS = 16


def _fixed(row: list[int]) -> list[int]:
    """All rows have one length, so that ranks in different calls notice it."""
    assert len(row) <= WORDS
    return row + [0] * (WORDS - len(row))


def _compare(place: Place, name: str, values: list[int]) -> None:
    for rank, value in enumerate(values):
        if value != values[0]:
            shown = "" if name == _CODE else f": {values[0]} on rank 0, {value} on rank {rank}"
            raise ValueError(f"{place}: {name} differs between ranks 0 and {rank}{shown}")
