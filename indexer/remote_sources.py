"""What a URL of object storage names as a source of images: one of them, or all below a prefix."""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from clipsearch.errors import MissingExtraError, RemoteError, SourceError
from clipsearch.file_kinds import (
    CONTAINER_EXTENSIONS,
    RAW_CURE,
    RAW_EXTENSIONS,
    readable_extensions,
)
from clipsearch.remote_images import find_object, holds_objects, list_objects
from clipsearch.remote_paths import RemotePath
from indexer.file_table import FileTable, FileTableBuilder, in_one_order
from indexer.known import Region


def is_single_image(path: RemotePath, is_known: bool) -> bool:
    """Whether ``path`` is an image rather than what is below a prefix.

    is_known : it lies in a root of the index, which is not asked after: what is gone from there
    is for the scan to find.

    Raises SourceError where there is nothing to index, MissingExtraError for a RAW photo that
    cannot be read yet, RemoteError.
    """
    ending = path.suffix.lower()
    if ending in CONTAINER_EXTENSIONS:
        raise SourceError(
            f"{path}: tars and Parquet files of images are read from a disk only: copy it to this "
            "machine, or upload the images one by one"
        )
    is_image = ending in readable_extensions()
    if is_known:
        return is_image
    if is_image:
        if find_object(path) is None:
            raise SourceError(f"no such object: {path}")
        return True
    if not holds_objects(path):
        if ending in RAW_EXTENSIONS and find_object(path) is not None:
            raise MissingExtraError(f"{path} is a RAW photo: {RAW_CURE} to index it")
        raise SourceError(f"nothing is at {path}: expected a folder of a bucket with images in it")
    return False


class RemoteScan:
    """Lists prefixes of buckets, each once.

    ignored, unreadable, passed_over, scanned : as in ``Scan``.
    """

    def __init__(self, exclude: Sequence[str]) -> None:
        self.ignored: Counter[str] = Counter()
        self.unreadable: list[tuple[str, str]] = []
        self.passed_over: set[str] = set()
        self._exclude = exclude
        self._tables: list[FileTable] = []

    def folder(self, top: RemotePath, regions: Sequence[tuple[Region, Path]]) -> bool:
        """List what is below ``top``, and say whether all of it could be.

        regions : what lies in it, with the place of each: its part of its root, and the roots
        inside it, to which goes what they hold.
        """
        (region, _), *others = regions
        # The deepest one that holds an object has it.
        inner = sorted(
            ((place.relative_to(top).as_posix() + "/", root) for (root, _), place in others),
            key=lambda pair: -len(pair[0]),
        )
        builder = FileTableBuilder()
        ignored: Counter[str] = Counter()
        passed: dict[str, bool] = {"": False}
        prefix = os.fsdecode(region[1])
        try:
            for found in list_objects(top):
                name = found.name
                if self._is_passed_over(name, prefix, passed):
                    continue
                kind = self._kind(name)
                if kind is not None:
                    if ".index/" not in name:  # an index that lies beside the images
                        ignored[kind] += 1
                    continue
                begin, root = next((pair for pair in inner if name.startswith(pair[0])), ("", -1))
                path = name[len(begin) :] if begin else prefix + name
                root = root if begin else region[0]
                builder.add(root, os.fsencode(path), found.size, found.mtime_ns, 0)
        except RemoteError as error:
            self.unreadable.append((str(top), str(error)))
            self.passed_over.add(str(top))
            return False
        self.ignored += ignored
        self.passed_over.update(f"{top}/{name}" for name, is_passed in passed.items() if is_passed)
        self._tables.append(builder.table())
        return True

    def _kind(self, name: str) -> str | None:
        """None for an image by its name, else what such files are counted as."""
        last = name.rpartition("/")[2]
        ending = os.path.splitext(last)[1].lower()
        if last.startswith("._"):
            return "._*"
        return None if ending in readable_extensions() else ending or "no extension"

    def _is_passed_over(self, name: str, prefix: str, known: dict[str, bool]) -> bool:
        """Whether a name, or a folder it lies in, is hidden or excluded. known : answers for
        folders, and for what is excluded by itself."""
        folder, _, last = name.rpartition("/")
        if folder not in known:
            known[folder] = folder.rpartition("/")[2].startswith((".", "@eaDir")) or (
                self._is_passed_over(folder, prefix, known)
            )
        if known[folder]:
            return True
        names = (last, name, prefix + name)
        if any(fnmatch.fnmatch(one, pattern) for one in names for pattern in self._exclude):
            known[name] = True
            return True
        return False

    def with_found(self, images: FileTable) -> FileTable:
        """``images`` and all that was found, in one order."""
        return in_one_order([images, *self._tables]) if self._tables else images
