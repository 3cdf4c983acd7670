"""The folder of an index: made for a new one, taken away when nothing came of it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from clipsearch.errors import IndexFormatError, OptionError
from clipsearch.manifest import COPY_NAME, MANIFEST_NAME
from clipsearch.remote_urls import parse_url
from clipsearch.store import (
    CLUSTERS,
    EXPORTS,
    LABELS,
    SEARCHES,
    TEMPORARY_PREFIX,
    is_mirror,
)
from clipsearch.store import make_folder as make_durable_folder
from indexer.lock import HOLDER_NAME, LOCK_NAME

_OWN_FOLDERS = ("images", "embeddings", "paths", "skipped", "deleted", "cache")
DAMAGED = "damaged"
"""Where a repair keeps what it takes out of the index; nothing here ever clears it."""
_OWN_NAMES = frozenset(
    {LOCK_NAME, HOLDER_NAME, COPY_NAME, DAMAGED, CLUSTERS, EXPORTS, LABELS, SEARCHES}
    | set(_OWN_FOLDERS)
)


def make_folder(place: Path) -> bool:
    """Make the folder of a new index; True when it was not there before.

    OptionError for a place that holds something else: only an empty folder, an index, or what
    a killed first run left (its lock is there) will do.
    """
    if place.exists() and not place.is_dir():
        raise OptionError(f"expected a folder for the index, {place} is a file")
    if is_mirror(place):
        _make_mirror_ready(place)
        return False
    if not (place / MANIFEST_NAME).is_file() and _had_a_manifest(place):
        raise IndexFormatError(
            f"{place} holds an index that has lost its {MANIFEST_NAME}: mend it with "
            f"'clipsearch verify --repair --index {place}'"
        )
    inside = os.listdir(place) if place.is_dir() else []
    strangers = {
        name for name in inside if name not in _OWN_NAMES and not name.startswith(TEMPORARY_PREFIX)
    }
    if inside and not (place / LOCK_NAME).is_file():
        strangers.update({*inside} & {*_OWN_FOLDERS})  # "images" and "cache" may be anybody's
    if strangers and not (place / MANIFEST_NAME).is_file():
        raise OptionError(
            f"{place} is a folder with other things in it, not an index: name a new folder, "
            f"such as {place.name}.index"
        )
    try:
        is_new = not place.is_dir()
        make_durable_folder(place)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise  # told as wherever else the disk is full
        raise OptionError(f"cannot make the index folder {place}: {error.strerror}") from error
    if not os.access(place, os.W_OK):
        raise OptionError(f"no permission to write to the index at {place}")
    return is_new


def _make_mirror_ready(place: Path) -> None:
    """For an index that is to be made in object storage: nothing else may be there, and what the
    mirror has of an index that was there once, goes. Raises as ``make_folder``, RemoteError."""
    if (place / MANIFEST_NAME).is_file():
        return
    from clipsearch.mirror_store import MirrorStore

    store = MirrorStore(place)
    for file in store.remote.list():
        name = file.name.partition("/")[0]
        if name == COPY_NAME:
            raise IndexFormatError(
                f"{store.url} holds an index that has lost its {MANIFEST_NAME}: copy {COPY_NAME} "
                "there to that name"
            )
        if name not in _OWN_NAMES:
            folder = f"{store.url}.index" if parse_url(store.url).prefix else f"{store.url}/x.index"
            raise OptionError(
                f"{store.url} has other things in it, and is no index: name a new folder, such "
                f"as {folder}"
            )
    (place / COPY_NAME).unlink(missing_ok=True)
    for name in _OWN_FOLDERS:
        shutil.rmtree(place / name, ignore_errors=True)


def _had_a_manifest(place: Path) -> bool:
    """Whether a folder without a manifest is more than what a killed first run leaves: that has
    written no table but those of the first generation."""
    if not (place / LOCK_NAME).is_file():
        return False
    tables = [file.name for name in ("paths", "skipped") for file in (place / name).glob("*")]
    return (place / COPY_NAME).is_file() or any(
        name.endswith(".parquet") and not name.startswith(".") and name[:7] > "0000001"
        for name in tables
    )


@contextlib.contextmanager
def taken_away_if_nothing_came(place: Path, is_ours: bool) -> Iterator[None]:
    """Clear what a first run wrote when it ends without a manifest. Entered with the writer's
    lock held: the folder of another run that is still at work is not touched."""
    try:
        yield
    finally:
        if not (place / MANIFEST_NAME).exists():
            # Of a folder that was there these are all: it held nothing else. The lock goes last,
            # so that the next run knows what is left when this is cut short too.
            for name in _OWN_FOLDERS:
                shutil.rmtree(place / name, ignore_errors=True)
            if is_ours:
                shutil.rmtree(place, ignore_errors=True)
