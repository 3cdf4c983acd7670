"""Which 64-bit hashes differ in a few bits only, without comparing all with all.

Multi-index hashing (Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with Multi-Index
Hashing", 2012): of four bands of 16 bits, hashes that differ in at most ``bits`` bits agree in
one band up to ``bits // 4`` bits. Each band is sorted once and joined with itself under every
such change.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from clipsearch.shards import Int64

UInt64 = npt.NDArray[np.uint64]

MAX_BITS = 15
"""The most bits that ``close_hashes`` can be asked for; at 16 half of all pairs of strangers
would have to be looked at."""

_BANDS = 4
_BAND_BITS = 16
_PAIRS = 4_000_000
"""Pairs looked at together: some 100 MB."""

CROWD = 2048
"""Of a band's value that more hashes share than this, only so many are looked at for each hash,
the nearest in sorted order, so that a crowd of like pictures costs no square."""

# Bit i of a hash goes to bit _MIXED[i]: bits of one spatial frequency depend on one another and
# would crowd one band.
_MIXED = np.array([(i % _BANDS) * _BAND_BITS + i // _BANDS for i in range(64)], np.uint64)


def distances(hashes: UInt64, other: UInt64 | np.uint64) -> npt.NDArray[np.uint8]:
    """In how many bits hashes differ: uint8, by the rules of broadcasting."""
    return np.bitwise_count(np.bitwise_xor(hashes, other))


def _mixed(hashes: UInt64) -> UInt64:
    mixed = np.zeros_like(hashes)
    for source, target in enumerate(_MIXED):
        mixed |= ((hashes >> np.uint64(source)) & np.uint64(1)) << target
    return mixed


def _changes(radius: int) -> Iterator[int]:
    """Every number of 16 bits with at most ``radius`` of them set, 0 first."""
    for count in range(radius + 1):
        for places in itertools.combinations(range(_BAND_BITS), count):
            yield sum(1 << place for place in places)


def close_hashes(hashes: UInt64, bits: int) -> tuple[Int64, Int64]:
    """The pairs of (n,) different ``hashes`` that differ in at most ``bits`` bits.

    Returns two (p,) int64 arrays of positions, each pair once, in no special order. Where more
    than ``CROWD`` hashes share 16 bits, pairs may be left out.

    Raises ValueError when ``bits`` is not 0 .. ``MAX_BITS``.
    """
    if not 0 <= bits <= MAX_BITS:
        raise ValueError(f"expected 0 to {MAX_BITS} bits, got {bits}")
    count = len(hashes)
    if count < 2 or bits == 0:  # they are different
        return np.empty(0, np.int64), np.empty(0, np.int64)
    mixed = _mixed(np.ascontiguousarray(hashes, np.uint64))
    found = [np.empty(0, np.int64)]
    for band in range(_BANDS):
        turned = np.bitwise_or(
            mixed << np.uint64(band * _BAND_BITS),
            mixed >> np.uint64((64 - band * _BAND_BITS) % 64) if band else np.uint64(0),
        )
        order = np.argsort(turned)
        for left, right in _joined(turned[order], bits):
            low, high = np.minimum(order[left], order[right]), np.maximum(order[left], order[right])
            found.append(low * count + high)
    pairs = np.unique(np.concatenate(found))
    return pairs // count, pairs % count


def _joined(turned: UInt64, bits: int) -> Iterator[tuple[Int64, Int64]]:
    """Positions of the pairs of rising ``turned`` hashes whose first band is close enough, and
    that are close enough as a whole."""
    keys = (turned >> np.uint64(64 - _BAND_BITS)).astype(np.int64)
    starts = np.searchsorted(keys, np.arange((1 << _BAND_BITS) + 1))
    positions = np.arange(len(turned))
    for change in _changes(bits // _BANDS):
        partner = keys ^ change
        begin, end = starts[partner], starts[partner + 1]
        if change == 0:
            begin = positions + 1
        else:  # each pair of bands once
            end = np.where(keys < partner, end, begin)
        rows = np.flatnonzero(end > begin)
        begin, end = begin[rows], end[rows]
        crowded = np.flatnonzero(end - begin > CROWD)
        if len(crowded):
            wanted = turned[rows[crowded]] ^ np.uint64(change << (64 - _BAND_BITS))
            middle = np.searchsorted(turned, wanted)
            begin[crowded] = np.maximum(begin[crowded], middle - CROWD // 2)
            end[crowded] = np.minimum(end[crowded], begin[crowded] + CROWD)
        yield from _close(turned, rows, begin, end - begin, bits)


def _close(
    turned: UInt64, rows: Int64, begin: Int64, counts: Int64, bits: int
) -> Iterator[tuple[Int64, Int64]]:
    """The pairs of ``rows[i]`` with ``begin[i]`` .. ``begin[i] + counts[i]`` that are close."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(rows):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS, side="right")))
        size = counts[start:stop]
        # Within one run of partners the position rises by one; between runs it jumps.
        jumps = begin[start:stop] - (ends[start:stop] - size - before)
        right = np.repeat(jumps, size) + np.arange(int(ends[stop - 1]) - before)
        left_hashes = np.repeat(turned[rows[start:stop]], size)
        hits = np.flatnonzero(distances(left_hashes, turned[right]) <= bits)
        if len(hits):
            run = np.searchsorted(ends[start:stop] - before, hits, side="right")
            yield rows[start:stop][run], right[hits]
        start = stop
