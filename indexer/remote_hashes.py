"""Tell new objects of one size apart, reading as little of them as will do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from clipsearch.errors import ImageError
from clipsearch.paths import place_text
from clipsearch.remote_images import read_beginning, read_object
from clipsearch.remote_urls import is_remote
from clipsearch.shards import Int64
from indexer.file_table import FileTable

_AT_ONCE = 16
_BEGINNING = 32 << 10
"""With this much of two photos, which holds their metadata, hardly any begin alike by chance."""
_MOST_BYTES = 4 << 30


def remote_sha256(url: str, size: int) -> bytes | None:
    """The sha256 of an object, None when it cannot be read (the encoder will say why). Raises
    RemoteError where its whole bucket is out of reach."""
    try:
        return hashlib.sha256(read_object(url, size, _MOST_BYTES)).digest()
    except ImageError:
        return None


def certainly_singular(
    images: FileTable, rows: Int64, known_sizes: set[int], roots: Mapping[int, str]
) -> set[int]:
    """Those of ``rows`` that are certainly unlike all others, by how they begin.

    Only objects count whose size no known content and no new file on a disk has: of the others
    the sha256 is needed anyway. roots : path, or URL, by id.
    """
    by_size: dict[int, list[int]] = {}
    mixed: set[int] = set(known_sizes)
    for row in rows.tolist():
        size = int(images.sizes[row])
        if is_remote(roots[int(images.roots[row])]):
            by_size.setdefault(size, []).append(row)
        else:
            mixed.add(size)
    looked_at = [row for size, some in by_size.items() if size not in mixed for row in some]
    beginnings = _beginnings(images, looked_at, roots)
    counts: dict[tuple[int, bytes | None], int] = {}
    for row, beginning in beginnings.items():
        key = (int(images.sizes[row]), beginning)
        counts[key] = counts.get(key, 0) + 1
    unknown = {size for size, beginning in counts if beginning is None}
    return {
        row
        for row, beginning in beginnings.items()
        if (size := int(images.sizes[row])) not in unknown and counts[size, beginning] == 1
    }


def _beginnings(
    images: FileTable, rows: Sequence[int], roots: Mapping[int, str]
) -> dict[int, bytes | None]:
    """A hash of how each object begins, None where it cannot be read."""

    def look(row: int) -> bytes | None:
        found = images.file(row)
        url = place_text(roots[found.root], found.path)
        data = read_beginning(url, min(_BEGINNING, found.size))
        return None if data is None else hashlib.sha256(data).digest()

    if not rows:
        return {}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look") as pool:
        return dict(zip(rows, pool.map(look, rows), strict=True))
