"""Files of an index of which it is known what they show: by the folders they lie in, or by a
table that says it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.class_folders import label_of_folder as label_of_folder
from clipsearch.class_folders import labels_of_folders
from clipsearch.errors import LabelError, OptionError
from clipsearch.generation import Generation
from clipsearch.manifest import Root
from clipsearch.prompts import check_labels, same_label
from clipsearch.records import Int32
from clipsearch.remote_paths import place_of
from clipsearch.shards import Int64

_SHOWN = 6


@dataclass(frozen=True)
class LabelledImages:
    """n files of an index whose class is known.

    classes : C label texts, in order. paths : n. ids : (n,) int64, the image of each file; two
    files of the same content share one. truth : (n,) int32 positions in ``classes``.
    notes : one line each: classes without an image, files that were left out.
    words : by class, what prompts call it, where that is not its label: two classes of ImageNet
    are both called "missile".
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    ids: Int64
    truth: Int32
    notes: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many files there are."""
        return len(self.truth)

    @cached_property
    def counts(self) -> Int64:
        """(C,) int64, how many files each class has."""
        return np.bincount(self.truth, minlength=len(self.classes))

    def rows(self, kept: npt.NDArray[np.intp], *notes: str) -> LabelledImages:
        """Those at some rows, with the same classes, and more notes."""
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[row] for row in kept.tolist()),
            ids=self.ids[kept],
            truth=self.truth[kept],
            notes=(*self.notes, *notes),
        )


@dataclass(frozen=True)
class LabelledFile:
    """One file of the index, and the class that it is in."""

    path: Path
    id: int
    label: str


def labelled_by_folder(
    state: Generation,
    top: Path | None = None,
    folders: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    labels: Sequence[str] | None = None,
    only_present: bool = False,
) -> LabelledImages:
    """The files of an index that lie in a folder a class; deeper ones belong to the class of the
    folder at the top.

    top : the absolute folder that holds those of the classes; None for the folders that were
    indexed. folders : further classes, which need not have an image. names : see
    ``labels_of_folders``. labels : all classes, in place of those that there are folders for; see
    ``in_classes``. only_present : leave out what the last scan did not find; else it counts where
    its image is nowhere else.

    Raises LabelError as that, OptionError where no file is in a folder.
    """
    found: list[LabelledFile] = []
    outside: list[Path] = []
    for path, image_id, below in _files(state, top, only_present):
        folder, slash, _ = below.partition("/")
        if slash:
            found.append(LabelledFile(path, image_id, folder))
        else:
            outside.append(path)
    if not found:
        where = f"under {top}" if top is not None else "of the index"
        there = f"{len(outside):,} images lie in it directly" if outside else "no image is there"
        raise OptionError(
            f"expected a folder for each class {where}, with its images in it: {there}"
        )
    notes = []
    if outside:
        notes.append(
            f"{_files_are(len(outside))} in no class folder and left out, such as {outside[0].name}"
        )
    called, words = labels_of_folders({file.label for file in found} | set(folders), names)
    samples = labelled_images([dataclasses.replace(f, label=called[f.label]) for f in found])
    samples = in_classes(samples, labels or list(called.values()), notes)
    return dataclasses.replace(samples, words=words)


def folders_of(state: Generation, top: Path | None = None) -> set[str]:
    """The folders that hold the files of an index as ``labelled_by_folder`` has them."""
    belows = (below.partition("/") for _, _, below in _files(state, top, False))
    return {folder for folder, slash, _ in belows if slash}


def labelled_by_table(
    state: Generation,
    paths: Sequence[Path],
    labels: Sequence[str],
    names: Mapping[str, str] | None = None,
    all_labels: Sequence[str] | None = None,
    only_present: bool = False,
) -> tuple[LabelledImages, tuple[Path, ...]]:
    """The files of an index that a table names, and those of the table that the index does not
    have; the classes are those of all of the table, in order of their labels.

    paths : absolute, spelled as the index has them. names, all_labels, only_present : as names,
    labels and only_present of ``labelled_by_folder``.

    Raises LabelError where the index has none of them, and as ``in_classes``.
    """
    wanted = set(paths)
    ids = {path: image for path, image, _ in _files(state, None, only_present) if path in wanted}
    called = {label: " ".join((names or {}).get(label, label).split()) for label in set(labels)}
    pairs = list(zip(paths, labels, strict=True))
    found = [LabelledFile(path, ids[path], called[label]) for path, label in pairs if path in ids]
    lost = tuple(dict.fromkeys(path for path, _ in pairs if path not in ids))
    if not found:
        raise LabelError(
            f"none of the {len(pairs):,} images of the table is in the index, such as {lost[0]}"
        )
    kinds = {same_label(called[label]): called[label] for label in sorted(called, reverse=True)}
    return in_classes(labelled_images(found), all_labels or sorted(kinds.values())), lost


def _files(
    state: Generation, top: Path | None, only_present: bool
) -> Iterator[tuple[Path, int, str]]:
    """The path, the image and the path below ``top`` of every file that counts, images without
    a vector left out."""
    table = state.paths
    live = np.setdiff1d(state.vectors.ids, state.vectors.deleted, assume_unique=True)
    counts = ~table.missing_rows if only_present else table.counts
    kept = np.flatnonzero(counts & np.isin(table.ids, live))
    roots = {root.id: (root.path, *_below(root, top)) for root in state.manifest.roots}
    root_ids, ids, paths = table.root_ids, table.ids, table.relative_paths
    for row in kept.tolist():
        root, lead, skipped = roots[int(root_ids[row])]
        relative = os.fsdecode(paths[row].as_py())
        if skipped is not None and relative.startswith(skipped):
            yield place_of(root, relative), int(ids[row]), lead + relative.removeprefix(skipped)


def _below(root: Root, top: Path | None) -> tuple[str, str | None]:
    """What stands before a path relative to ``root`` to make it one below ``top``, and what it
    begins with that is above that: None where nothing of the root is below."""
    here = place_of(root.path)
    if top is None or here == top:
        return "", ""
    if here.is_relative_to(top):
        return here.relative_to(top).as_posix() + "/", ""
    if top.is_relative_to(here):
        return "", top.relative_to(here).as_posix() + "/"
    return "", None


def labelled_images(files: Sequence[LabelledFile]) -> LabelledImages:
    """Files and what they show, in order of their paths; the classes in order of the first file
    of each. A file that is there twice with one label counts once."""
    order = sorted(files, key=lambda file: os.fsencode(file.path))
    once: dict[tuple[Path, str], LabelledFile] = {}
    places: dict[str, int] = {}
    spelled: list[str] = []
    for file in order:
        key = same_label(file.label)
        if key not in places:
            places[key] = len(spelled)
            spelled.append(file.label)
        once.setdefault((file.path, key), file)
    kept = list(once.values())
    samples = LabelledImages(
        tuple(spelled),
        tuple(file.path for file in kept),
        np.array([file.id for file in kept], np.int64),
        np.array([places[same_label(file.label)] for file in kept], np.int32),
    )
    notes = []
    if len(kept) < len(files):
        again = len(files) - len(kept)
        notes.append(
            "1 row names a file again, and counts once"
            if again == 1
            else f"{again:,} rows name a file again, and count once"
        )
    return dataclasses.replace(samples, notes=(*notes, *_ambiguous(samples)))


def _ambiguous(samples: LabelledImages) -> list[str]:
    """A line where the same image is in several classes."""
    order = np.lexsort((samples.truth, samples.ids))
    ids, truth = samples.ids[order], samples.truth[order]
    rows = np.flatnonzero((ids[1:] == ids[:-1]) & (truth[1:] != truth[:-1]))
    if not len(rows):
        return []
    first, second = (samples.paths[int(order[row])] for row in (rows[0], rows[0] + 1))
    images = len(np.unique(ids[rows]))
    what = "1 photo is" if images == 1 else f"{images:,} photos are"
    kinds = [samples.classes[int(truth[row])] for row in (rows[0], rows[0] + 1)]
    return [
        f"{what} in more than one class, which no label gets right: such as {first.name} in "
        f"{kinds[0]} and {second.name} in {kinds[1]}"
    ]


def in_classes(
    samples: LabelledImages, labels: Sequence[str], notes: Sequence[str] = ()
) -> LabelledImages:
    """The same files among the classes ``labels``, in their order; more of them than have files,
    if need be, of which a note tells.

    Raises LabelError where a class is not among them, two are the same, or there is but one.
    """
    names = check_labels(labels)
    places = {same_label(name): place for place, name in enumerate(names)}
    lost = [label for label in samples.classes if same_label(label) not in places]
    if lost:
        raise LabelError(
            f"the labels lack {some_of(lost)}, which images are known to show: add it to the "
            "labels, or say with --names what it is called there"
        )
    if len(names) < 2:
        raise LabelError(
            f"expected two classes or more, got one, {names[0]!r}: with a single label every "
            "image gets it, so there is nothing to measure"
        )
    moved = np.array([places[same_label(label)] for label in samples.classes], np.int32)
    truth = moved[samples.truth] if len(moved) else samples.truth
    there = np.bincount(truth, minlength=len(names)) > 0
    empty = [name for name, is_there in zip(names, there.tolist(), strict=True) if not is_there]
    told = [*samples.notes, *notes]
    if empty:
        has = "1 class has no image: it is" if len(empty) == 1 else (
            f"{len(empty):,} classes have no image: they are"
        )  # fmt: skip
        told.append(f"{has} among the labels and not in the mean per class: {some_of(empty)}")
    return dataclasses.replace(samples, classes=names, truth=truth, notes=tuple(told))


def some_of(names: Sequence[str]) -> str:
    """ "a, b, c and 12 more"."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _files_are(count: int) -> str:
    return "1 file is" if count == 1 else f"{count:,} files are"
