"""Photos of a folder a class: which there are, and their pixels as networks want them.

A class is a folder, its label what ``clipsearch evaluate`` makes of the folder's name. Photos
are read as ``clipsearch index`` reads them: upright, RGB, resized and cut to what each network
wants. One that cannot be read is left out, with the reason.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import ImageGeometry, UInt8
from clipsearch.errors import ImageError
from clipsearch.file_kinds import readable_extensions
from clipsearch.images import read_image
from clipsearch.labelled_images import label_of_folder
from clipsearch.records import Int32

BATCH = 16
"""Photos that go through a network at a time: with many more, memory costs more than it saves."""
_THREADS, _AHEAD = 2, 4 * BATCH

T, U = TypeVar("T"), TypeVar("U")


class PhotosError(Exception):
    """A folder that cannot be trained on or tested with, in one line."""


@dataclass(frozen=True)
class LabelledPhotos:
    """n photos whose class is known.

    classes : C folder names, in order. paths : n. truth : (n,) positions in ``classes``.
    skipped : one line each for the photos that could not be read.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    truth: Int32
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the classes are called in words, as ``clipsearch evaluate`` has it."""
        return tuple(label_of_folder(name) for name in self.classes)

    @property
    def counts(self) -> npt.NDArray[np.intp]:
        """(C,) photos of each class."""
        return np.bincount(self.truth, minlength=len(self.classes))

    def take(self, places: npt.NDArray[np.integer]) -> LabelledPhotos:
        """Some of the photos; the classes stay all of them."""
        paths = tuple(self.paths[place] for place in places.tolist())
        return replace(self, paths=paths, truth=self.truth[places])


def read_labelled_photos(
    folder: Path,
    geometry: ImageGeometry,
    classes: Sequence[str] | None = None,
    most: int | None = None,
) -> tuple[LabelledPhotos, UInt8]:
    """The photos below the class folders of ``folder``, and their (n, height, width, 3) pixels.

    classes : those of the training photos, which these have to be among; None takes all that
    have photos. most : of a class, the first in order of name.

    Raises PhotosError where there is nothing to compare by.
    """
    files = {name: found[:most] for name, found in _class_files(folder).items() if found}
    if classes is None:
        classes = tuple(files)
    strangers = [name for name in files if name not in classes]
    if strangers:
        raise PhotosError(f"{folder} has a class without training photos: {strangers[0]}")
    if len(files) < 2:
        raise PhotosError(
            f"expected a folder of photos for each of two classes or more in {folder}, "
            f"got {len(files)}"
        )
    kept, pixels, skipped = [], [], []
    numbered = [(path, classes.index(name)) for name, found in files.items() for path in found]
    for item, read in zip(numbered, _read([path for path, _ in numbered], geometry), strict=True):
        if isinstance(read, ImageError):
            skipped.append(f"{item[0].parent.name}/{item[0].name}: {read}")
        else:
            kept.append(item)
            pixels.append(read)
    truth = np.array([number for _, number in kept], np.int32)
    if len(np.unique(truth)) < 2:
        raise PhotosError(f"expected photos of two classes that can be read in {folder}")
    paths = tuple(path for path, _ in kept)
    return LabelledPhotos(tuple(classes), paths, truth, tuple(skipped)), np.stack(pixels)


def pixel_batches(paths: Sequence[Path], geometry: ImageGeometry) -> Iterator[UInt8]:
    """The pixels of photos that could be read before, ``BATCH`` of them at a time; the next are
    decoded meanwhile. Raises ImageError for one that changed since."""
    rows: list[UInt8] = []
    for read in _read(paths, geometry):
        if isinstance(read, ImageError):
            raise read
        rows.append(read)
        if len(rows) == BATCH:
            yield np.stack(rows)
            rows = []
    if rows:
        yield np.stack(rows)


def in_threads(function: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """``function`` of every item, in order; Pillow and NumPy let two go on at a time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


def few_of_each(truth: Int32, count: int | None, seed: int) -> npt.NDArray[np.intp]:
    """Places of ``count`` photos of every class, or of as many as there are; None takes all.
    Of one seed the smaller draws are within the larger."""
    chance = np.random.default_rng(seed)
    drawn = [
        chance.permutation(np.flatnonzero(truth == label))[:count] for label in np.unique(truth)
    ]
    return np.sort(np.concatenate(drawn))


def _class_files(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise PhotosError(f"there is no folder {folder}")
    endings = readable_extensions()
    places = (place for place in folder.iterdir() if place.is_dir() and place.name[0] != ".")
    return {
        place.name: sorted(path for path in place.rglob("*") if path.suffix.lower() in endings)
        for place in sorted(places)
    }


def _read(paths: Sequence[Path], geometry: ImageGeometry) -> Iterator[UInt8 | ImageError]:
    """In order. Only a few batches of photos wait to be taken."""

    def read(path: Path) -> UInt8 | ImageError:
        try:
            return read_image(path, geometry, thumbnail_side=None).pixels
        except ImageError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        waiting = deque(pool.submit(read, path) for path in paths[:_AHEAD])
        for place in range(len(paths)):
            if place + _AHEAD < len(paths):
                waiting.append(pool.submit(read, paths[place + _AHEAD]))
            yield waiting.popleft().result()
