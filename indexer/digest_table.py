"""A map from digests to whole numbers that holds millions in little memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import UInt8
from clipsearch.shards import Int64

DIGEST_BYTES = 16
"""Of a sha256; no two of them are ever alike by chance."""

_PACK_AFTER = 65_536


class DigestTable:
    """Maps the first 16 bytes of a sha256 to a number: 24 bytes an entry, where a dict takes
    six times as many."""

    def __init__(self, digests: UInt8, values: Int64) -> None:
        """digests : (n, 16 or more) uint8, of which the first 16 count. values : (n,) int64."""
        words = _words(np.ascontiguousarray(digests[:, :DIGEST_BYTES]).tobytes())
        order = np.argsort(words[:, 0], kind="stable")
        self._high, self._low = words[order, 0], words[order, 1]
        self._values: Int64 = values[order]
        self._recent: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._values) + len(self._recent)

    def get(self, digest: bytes) -> int | None:
        """The number of a digest (16 bytes or more), None when it is not here."""
        key = digest[:DIGEST_BYTES]
        if key in self._recent:
            return self._recent[key]
        high, low = _words(key)[0]
        row = int(np.searchsorted(self._high, high))
        while row < len(self._high) and self._high[row] == high:
            if self._low[row] == low:
                return int(self._values[row])
            row += 1
        return None

    def add(self, digest: bytes, value: int) -> None:
        """Put in a digest that is not here yet."""
        self._recent[digest[:DIGEST_BYTES]] = value
        # In proportion to what there is, so that all the sorting together stays small.
        if len(self._recent) >= max(_PACK_AFTER, len(self._values) // 8):
            self._pack()

    def _pack(self) -> None:
        words = _words(b"".join(self._recent))
        recent = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        high = np.concatenate([self._high, words[:, 0]])
        order = np.argsort(high, kind="stable")
        self._high = high[order]
        self._low = np.concatenate([self._low, words[:, 1]])[order]
        self._values = np.concatenate([self._values, recent])[order]
        self._recent.clear()


def _words(data: bytes) -> npt.NDArray[np.uint64]:
    """(n, 2) uint64: n digests of 16 bytes each as two numbers."""
    return np.frombuffer(data, "<u8").reshape(-1, 2)
