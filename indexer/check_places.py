"""The mapped places against the paths table."""

from __future__ import annotations

import numpy as np

from clipsearch.manifest import Manifest
from clipsearch.place_cache import CURRENT, PlaceCache
from clipsearch.place_rows import PlaceRows, read_place_rows
from clipsearch.store import LocalStore
from indexer.check_cache import cache_folders, display_name
from indexer.findings import CACHE, Tally

_BLOCK_ROWS = 65_536


def check_places(tally: Tally, store: LocalStore, manifest: Manifest) -> None:
    """Compare the mapped places with a paths table that is whole; a note where they stand for an
    earlier one, or are not there."""
    found = 0
    for folder in cache_folders(tally.index, manifest.uuid):
        cache = PlaceCache(folder, manifest)
        name = display_name(tally.index, cache.folder / CURRENT)
        try:
            (cache.folder / CURRENT).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            tally.unreadable(name, error, CACHE)
            continue
        found += 1
        state = cache.state()
        if state is None:
            tally.cache("damaged", name, "is not what was written, or of another index")
            continue
        covered = cache.covered(state)
        if covered < len(manifest.paths):
            tally.note("behind", name, "is of an earlier paths table; what came since is read")
        file = display_name(tally.index, cache.file(state))
        rows, _ = cache.open()
        if not covered:
            continue
        if rows is None or not rows.is_sound():
            tally.cache("damaged", file, "its places are not those that were written")
        elif not _same(rows, read_place_rows(store, manifest.paths[:covered])):
            tally.cache("damaged", file, "holds other places than the paths table")
    if not found and manifest.paths and not tally.findings:
        tally.note("no-places", "cache/places", "is not there; the next search makes it again")


def _same(mapped: PlaceRows, wanted: PlaceRows) -> bool:
    columns = ("ids", "missing", "roots")
    if not all(np.array_equal(getattr(mapped, name), getattr(wanted, name)) for name in columns):
        return False
    blocks = [slice(row, row + _BLOCK_ROWS) for row in range(0, len(wanted), _BLOCK_ROWS)]
    return mapped.totals == wanted.totals and all(
        mapped.paths(block).equals(wanted.paths(block)) for block in blocks
    )
