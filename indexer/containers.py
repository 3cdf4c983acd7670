"""Files that hold image files: tars as of webdataset, and Parquet files with a column of images.

An image in one is a file like any other, ``NAME.tar/MEMBER``; nothing is ever unpacked to disk.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch.errors import ImageError, SourceError
from clipsearch.file_kinds import container_of, readable_extensions
from clipsearch.paths import place_text, relative_bytes
from clipsearch.remote_images import read_object
from clipsearch.remote_paths import RemotePath
from clipsearch.remote_urls import is_remote
from indexer.file_table import FoundFile
from indexer.presence import holds_anything, is_gone, look_at

if TYPE_CHECKING:
    from indexer.decode_messages import FilePart, Source
    from indexer.parquet_images import ParquetImages

_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class DamagedError(SourceError):
    """A container, or something in it, cannot be read."""


@dataclass
class Listing:
    """What is in a container.

    members : label -> (size in bytes, position): for a tar the byte where the member's content
    begins, for a Parquet file the row. ignored : how many other members there are, by extension
    or kind. damage : why this is not everything, None when it is.
    """

    members: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    damage: str | None = None

    def add(self, label: bytes, size: int, position: int) -> None:
        """Note a member. It takes the place of an earlier one of the same label."""
        if label in self.members:
            self.ignored["repeated name"] += 1
        self.members[label] = (size, position)


def member_label(name: bytes) -> bytes:
    """What a member is called below its container: its name, made harmless.

    Whoever opens ``NAME.tar/LABEL`` must not come to another file, so nothing in it leads up or
    to the top; and a path table cannot hold what no path can.
    """
    if os.sep != "/":
        name = name.replace(os.fsencode(os.sep), b"/")
    parts = [part for part in name.replace(b"\0", b"_").split(b"/") if part not in (b"", b".")]
    return b"/".join(b"__" if part == b".." else part for part in parts)


def name_kind(name: bytes) -> str | None:
    """None for a file name that promises an image, else what such files are counted as."""
    if name.startswith(b"._"):  # what macOS puts into tars; named .jpg, but no image
        return "._*"
    extension = os.path.splitext(os.fsdecode(name))[1].lower()
    return None if extension in readable_extensions() else extension or "no extension"


def is_tar(name: str | bytes) -> bool:
    """Whether a container of this name is a tar, rather than a Parquet file."""
    return os.fsencode(name).lower().endswith(b".tar")


def is_in_parquet(found: FoundFile) -> bool:
    """Whether an image is in a row of a Parquet file."""
    return bool(found.container) and not is_tar(found.container)


def refuse_packed(path: Path) -> None:
    """Raise SourceError for a compressed tar."""
    if path.name.lower().endswith(_PACKED):
        raise SourceError(
            f"{path} is a compressed tar, whose images cannot be read in place: uncompress it to "
            "a .tar first (gunzip, unzstd or the like)"
        )


def check_container(path: Path) -> None:
    """Raise SourceError for a Parquet file without images. What is damaged is left for the
    listing to say."""
    if is_tar(path.name):
        return
    from indexer.parquet_images import ParquetImages

    try:
        with ParquetImages(str(path)) as images:
            images.check()
    except (DamagedError, OSError):
        pass
    except SourceError as error:
        raise SourceError(f"no images in {path}: {error}") from None


def list_container(path: Path, known: Mapping[bytes, int] | None = None) -> Listing:
    """The images in a container.

    known : sizes by label, where they are known to be as they were; spares reading a Parquet
    file. Raises OSError, SourceError for a Parquet file without images, DamagedError.
    """
    if is_tar(path.name):
        from indexer.tar_images import list_tar

        return list_tar(str(path))
    from indexer.parquet_images import ParquetImages

    with ParquetImages(str(path)) as images:
        return images.listing(known or {})


class Presence:
    """Tells whether files are there, images in containers and in object storage too. A container
    is listed once, and a bucket that does not answer is not asked again."""

    def __init__(self) -> None:
        self._labels: dict[Path, frozenset[bytes] | None] = {}
        self._silent: set[RemotePath] = set()

    def __call__(self, path: str | os.PathLike[str]) -> bool:
        """Whether ``path`` is there; what cannot be looked at is held to be."""
        if is_remote(path):
            return self._is_in_bucket(RemotePath(path))
        if not is_gone(path):
            return True
        container = container_of(path)
        if container is None:
            return False
        if container not in self._labels:
            self._labels[container] = _labels(container)
        labels = self._labels[container]
        return labels is None or label_in(container, Path(path)) in labels

    def _is_in_bucket(self, path: RemotePath) -> bool:
        if path.bucket in self._silent:
            return True
        try:
            return look_at(path) is not None
        except OSError:
            if not holds_anything(path):
                self._silent.add(path.bucket)
            return True


def label_in(container: Path, path: str | os.PathLike[str]) -> bytes:
    """The label of the member ``path`` of ``container``."""
    return os.fsencode(Path(path).relative_to(container).as_posix())


def _labels(container: Path) -> frozenset[bytes] | None:
    try:
        if is_tar(container.name):
            listing = list_container(container)
            return None if listing.damage else frozenset(listing.members)
        from indexer.parquet_images import ParquetImages

        with ParquetImages(str(container)) as images:
            return frozenset(images.labels())
    except (SourceError, OSError):
        return None


def sources_of(files: Iterable[FoundFile], roots: Mapping[int, str]) -> Iterator[Source]:
    """Where the bytes of each file are, for the decoder. roots : path, or URL, by id.

    Rows of a Parquet file are read when they are asked for, and in their order they are read
    once; one that cannot be read becomes a part of a file that is not there.
    """
    from indexer.decode_messages import FilePart, RemoteImage

    with ExitStack() as opened:
        at = ""
        images: ParquetImages | None = None
        for found in files:
            root = roots[found.root]
            if is_remote(root):
                yield RemoteImage(place_text(root, found.path), found.size)
                continue
            if not found.container:
                yield os.path.join(root, relative_bytes(found.path))
                continue
            place = os.path.join(root, relative_bytes(found.container))
            if is_tar(place):
                yield FilePart(place, found.position, found.size)
                continue
            if place != at:
                opened.close()
                at, images = place, _opened(place)
                if images is not None:
                    opened.callback(images.close)
            yield _row(images, place, found)


def part_sha256(path: str, offset: int, size: int) -> bytes | None:
    """The sha256 of a part of a file, None when it cannot be read (the encoder will say why)."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            while size and (data := file.read(min(size, 1 << 20))):
                digest.update(data)
                size -= len(data)
    except (OSError, OverflowError, ValueError):
        return None
    return None if size else digest.digest()


def _opened(place: str) -> ParquetImages | None:
    from indexer.parquet_images import ParquetImages

    try:
        return ParquetImages(place)
    except (SourceError, OSError):
        return None


def _row(images: ParquetImages | None, place: str, found: FoundFile) -> bytes | FilePart:
    from indexer.decode_messages import FilePart

    try:
        if images is not None:
            return images.read(found.position)
    except DamagedError:
        pass
    return FilePart(place, -1, found.size)


class MemberReader:
    """Reads single images in containers by their paths. A container is listed once."""

    def __init__(self) -> None:
        self._positions: dict[Path, dict[bytes, tuple[int, int]]] = {}

    def read(self, container: Path, path: Path) -> bytes:
        """The image file ``path`` in ``container``, which may be a bucket.

        Raises ImageError: vanished, unreadable; and RemoteError for a bucket out of reach.
        """
        if is_remote(path):
            return read_object(path)
        label = label_in(container, path)
        try:
            if container not in self._positions:
                self._positions[container] = _positions(container)
            if label not in self._positions[container]:
                raise ImageError("vanished", "it is not in the file any more that held it")
            size, position = self._positions[container][label]
            if is_tar(container.name):
                with open(container, "rb") as file:
                    file.seek(position)
                    return file.read(size)
            from indexer.parquet_images import ParquetImages

            with ParquetImages(str(container)) as images:
                return images.read(position)
        except (SourceError, OSError) as error:
            raise ImageError("unreadable", f"what holds it cannot be read: {error}") from error


def member_positions(container: Path) -> dict[bytes, tuple[int, int]]:
    """label -> (size, position) of what is in a container, size 0 in a Parquet file; nothing
    where it cannot be read."""
    try:
        return _positions(container)
    except (SourceError, OSError):
        return {}


def _positions(container: Path) -> dict[bytes, tuple[int, int]]:
    """label -> (size, position); sizes in a Parquet file, which take reading it, are left out."""
    if is_tar(container.name):
        return list_container(container).members
    from indexer.parquet_images import ParquetImages

    with ParquetImages(str(container)) as images:
        return {label: (0, row) for row, label in enumerate(images.labels())}
