"""The thumbnails that stand for clusters: which of them, and how large."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from clipsearch.clusters import Cluster
from clipsearch.generation import Generation, cache_folder
from clipsearch.thumbnails import thumbnails_of

_QUALITY = 72


def examples_in_turn(
    clusters: Sequence[Cluster], typical: int | None = None, doubtful: int | None = None
) -> Iterator[int]:
    """Image ids: the most typical one of every cluster, then the second ones, and so on; the
    doubtful ones behind them. typical, doubtful : how many of each cluster, None for all."""
    seen: set[int] = set()
    for of_kind in (
        [cluster.typical[:typical] for cluster in clusters],
        [cluster.doubtful[:doubtful] for cluster in clusters],
    ):
        for rank in itertools.zip_longest(*of_kind):
            for image in rank:
                if image is not None and image not in seen:
                    seen.add(image)
                    yield image


def thumbnails(state: Generation, ids: Iterable[int]) -> dict[int, bytes]:
    """The JPEG thumbnails of images by id, as far as the cache of the index has them."""
    wanted = np.unique(np.fromiter(ids, np.int64))
    found: dict[int, bytes] = {}
    for cache in dict.fromkeys((cache_folder(state.store.root), state.cache)):
        if len(found) < len(wanted):
            here = np.fromiter(found, np.int64, len(found))
            missing = np.setdiff1d(wanted, here, assume_unique=True)
            found.update(thumbnails_of(cache, state.manifest, missing))
    return found


def small_thumbnails(
    state: Generation, ids: Sequence[int], *, side: int, most: int, most_bytes: int
) -> dict[int, bytes]:
    """The first ``most`` of ``ids`` as JPEGs of at most ``side`` pixels a side, as long as they
    have no more than ``most_bytes`` together; by id, in order."""
    chosen = list(itertools.islice(ids, most))
    found = thumbnails(state, chosen)
    small: dict[int, bytes] = {}
    total = 0
    for image in chosen:
        data = shrunk(found[image], side) if image in found else None
        if data is None:
            continue
        total += len(data)
        if total > most_bytes:
            break
        small[image] = data
    return small


def shrunk(jpeg: bytes, side: int) -> bytes | None:
    """A JPEG of at most ``side`` pixels a side; None where ``jpeg`` is damaged."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's, about what is damaged
            with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
                picture.draft("RGB", (side, side))
                small = picture.convert("RGB")
                small.thumbnail((side, side), Image.Resampling.BICUBIC)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # a damaged cache costs a picture, no more
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return stream.getvalue()
