"""Photos of which it is known what they show, decoded once to the size that a model takes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.calibration import Bools
from clipsearch.class_folders import label_of_folder
from clipsearch.encoder import ImageGeometry, UInt8
from clipsearch.errors import ImageError, LabelError, OptionError, SourceError
from clipsearch.labelled_images import LabelledFile, labelled_images, some_of
from clipsearch.manifest import Root
from clipsearch.prompts import check_labels, same_label
from clipsearch.records import Int32
from clipsearch.shards import Int64
from indexer.config import IndexConfig
from indexer.decode import decode_in_order
from indexer.scan import scan
from indexer.sources import Sources, absolute_path

_HELD_OUT = 5
"""One photo in so many of every class takes no part in the training."""
_LOOK_AHEAD = 32
_EXAMPLES = 3
_HASHED_AT_ONCE = 256


@dataclass(frozen=True)
class FoundPhotos:
    """Files that promise an image by their names, in the folders of ``top``.

    shown : the label of each. classes : all labels, in order; more than the folders where others
    were known. unreadable : folders that could not be listed, and why. notes : what is to be told.
    """

    top: Path
    paths: tuple[Path, ...]
    shown: tuple[str, ...]
    classes: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LabelledPhotos:
    """n different photos.

    classes : C labels. truth : (n,) int32 positions in them, -1 for a photo that lies in several
    classes, and so counts for nothing. pixels : (n, height, width, 3) uint8,
    mapped from a file. skipped : how many images and folders could not be read; skipped_examples :
    paths of a few, and why. notes : what else is to be told.
    """

    classes: tuple[str, ...]
    truth: Int32
    pixels: UInt8
    skipped: int
    skipped_examples: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def digest(self, rows: Int64) -> str:
        """sha256 (hex) over the photos at ``rows`` and what they show."""
        found = hashlib.sha256(self.truth[rows].tobytes())
        for start in range(0, len(rows), _HASHED_AT_ONCE):
            found.update(self.pixels[rows[start : start + _HASHED_AT_ONCE]].tobytes())
        return found.hexdigest()


def find_photos(
    folder: str | os.PathLike[str], work: Path, known: Sequence[str] = ()
) -> FoundPhotos:
    """The photos of ``folder``, which holds a folder for each class; deeper ones belong to the
    class of the folder at the top. work : a folder that is passed over. known : further classes.

    Raises SourceError for a folder that cannot be read, OptionError where no photo lies in a
    folder of its own, LabelError for a single class, or two of one name.
    """
    top = absolute_path(folder)
    paths, outside, unreadable = _find(top, work)
    folders = [path.relative_to(top).parts[0] for path in paths]
    label_of = {name: label_of_folder(name) for name in sorted(set(folders))}
    spelled: dict[str, str] = {}
    for name, label in label_of.items():
        other = spelled.setdefault(same_label(label), name)
        if other != name:
            raise LabelError(
                f"the folders {other!r} and {name!r} of {top} are the same class {label!r}: merge "
                "them, or rename one"
            )
    more = [label for label in known if same_label(label) not in spelled]
    classes = check_labels([*label_of.values(), *more])
    if len(classes) < 2:
        raise LabelError(
            f"expected two classes or more, got one, {classes[0]!r}: with a single label every "
            "image gets it, so there is nothing to learn"
        )
    images = "1 image" if outside == 1 else f"{outside:,} images"
    notes = (f"{images} in no class folder left out",) if outside else ()
    shown = tuple(label_of[name] for name in folders)
    return FoundPhotos(top, tuple(paths), shown, classes, unreadable, notes)


def read_photos(
    found: FoundPhotos,
    geometry: ImageGeometry,
    place: Path,
    on_photo: Callable[[int, int], None],
) -> LabelledPhotos:
    """Decode the photos.

    A photo that is there several times counts once; one that lies in several classes is left out.
    place : the file that the pixels are kept in. on_photo : told how many photos are read, and of
    how many.

    Raises SourceError where none is left, and OSError where the file cannot be written.
    """
    config = IndexConfig(decode="exact")
    row_of: dict[bytes, int] = {}
    files: list[LabelledFile] = []
    failed = list(found.unreadable)
    decoded = decode_in_order(
        map(str, found.paths),
        geometry,
        decode=config.decode,
        max_megapixels=config.max_megapixels,
        thumbnail_side=None,
        threads=config.threads,
        look_ahead=_LOOK_AHEAD,
    )
    # Written and not mapped: a disk that is full is an error then, and not the end of the process.
    with open(place, "wb") as file:
        named = zip(found.paths, found.shown, decoded, strict=True)
        for number, (path, label, image) in enumerate(named, start=1):
            if isinstance(image, ImageError):
                failed.append((str(path), str(image)))
            else:
                if image.sha256 not in row_of:
                    file.write(image.pixels.tobytes())
                row = row_of.setdefault(image.sha256, len(row_of))
                files.append(LabelledFile(path, row, label))
            on_photo(number, len(found.paths))
    samples = labelled_images(files)
    places = {same_label(label): at for at, label in enumerate(found.classes)}
    moved = np.array([places[same_label(label)] for label in samples.classes], np.int32)
    rows, truth = _one_class_each(samples.ids, moved[samples.truth])
    if not len(rows):
        raise SourceError(f"no image of {found.top} could be read, or each lies in several classes")
    shape = (len(row_of), geometry.height, geometry.width, 3)
    pixels: UInt8 = np.memmap(place, np.uint8, "r", shape=shape)
    told = [*found.notes, *samples.notes]
    empty = np.flatnonzero(np.bincount(truth, minlength=len(found.classes)) == 0)
    if len(empty):
        told.append(f"no photo counts for {some_of([found.classes[at] for at in empty.tolist()])}")
    if len(row_of) < len(files):
        told.append(f"{len(files):,} files are {len(row_of):,} different photos")
    whole = np.full(len(row_of), -1, np.int32)
    whole[rows] = truth
    return LabelledPhotos(
        found.classes, whole, pixels, len(failed), tuple(failed[:_EXAMPLES]), tuple(told)
    )


def _find(top: Path, work: Path) -> tuple[list[Path], int, tuple[tuple[str, str], ...]]:
    """The images in the folders of ``top``, how many lie in none, and folders that could not be
    listed. ``work`` is passed over."""
    if not top.is_dir():
        what = "is a file" if top.exists() else "is not there"
        raise SourceError(f"expected a folder with a folder for each class, {top} {what}")
    found = scan(Sources(folders=(top,)), [Root(0, str(top))], (), work)
    everything = [top / os.fsdecode(file.path) for file in found.images]
    paths = [path for path in everything if path.parent != top]
    if not paths:
        there = f"{len(everything):,} images lie in it directly" if everything else "it has none"
        raise OptionError(f"expected a folder for each class in {top}, with images in it: {there}")
    unreadable = tuple((str(path), str(why)) for path, why in found.unreadable)
    return paths, len(everything) - len(paths), unreadable


def _one_class_each(ids: Int64, truth: Int32) -> tuple[Int64, Int32]:
    """Rising ids of the photos that lie in one class alone, and that class."""
    pairs = np.unique(np.stack([ids, truth.astype(np.int64)]), axis=1)
    one, counts = np.unique(pairs[0], return_counts=True)
    alone = np.isin(pairs[0], one[counts == 1])
    return pairs[0][alone], pairs[1][alone].astype(np.int32)


def held_out(truth: Int32, seed: int) -> Bools:
    """(n,) bool: a fifth of the photos of every class, one at least of a class that has two."""
    chance = np.random.default_rng((seed, 2))
    chosen = np.zeros(len(truth), bool)
    for label in np.unique(truth[truth >= 0]):
        rows = chance.permutation(np.flatnonzero(truth == label))
        count = max(1, round(len(rows) / _HELD_OUT)) if len(rows) > 1 else 0
        chosen[rows[:count]] = True
    return chosen


def rows_of(truth: Int32, labels: Sequence[int]) -> Int64:
    """The rows whose class is one of ``labels``."""
    return np.flatnonzero(np.isin(truth, np.asarray(labels, np.int64))).astype(np.int64)
