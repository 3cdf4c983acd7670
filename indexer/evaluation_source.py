"""What is to be evaluated: a folder with a folder for each class, a table, or an index."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsearch.class_folders import labels_of_folders
from clipsearch.errors import LabelError, OptionError, SourceError
from clipsearch.file_kinds import readable_extensions
from clipsearch.generation import Generation
from clipsearch.labelled_images import (
    LabelledFile,
    LabelledImages,
    folders_of,
    labelled_by_folder,
    labelled_by_table,
    labelled_images,
    some_of,
)
from clipsearch.labelled_table import (
    TABLE_ENDINGS,
    LabelledPaths,
    read_labelled_table,
)
from clipsearch.prompts import same_label
from clipsearch.remote_urls import is_remote
from indexer.evaluation_index import (
    EvaluationIndex,
    class_folders,
    existing_evaluation_index,
    keep_index,
)
from indexer.presence import is_index
from indexer.report import BuildReport, Event
from indexer.sources import absolute_path, spelled_as_known

_PARTS = frozenset({"train", "test", "val", "valid", "validation", "dev", "support", "eval"})


@dataclass(frozen=True)
class EvaluationSettings:
    """What to evaluate, and how.

    source : a folder with a folder for each class, or a table; None for all of ``index``.
    index : an index that somebody has, else the photos are encoded into one that is kept.
    models : by name; () for the index's own, or the recommended one. prompts, context : see
    ``prompt_choices``. descriptions, labels_file, names : files, see ``with_descriptions``,
    ``read_labels`` and ``read_class_names``. captions : a table of images and captions, see
    ``read_captions``; then there need be no classes. fuse : label by all models together, too.
    fresh : encode anew. device, allow_download : see ``load_encoder``.
    """

    source: str | None
    index: str | None = None
    models: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ("simple",)
    context: str | None = None
    descriptions: str | None = None
    labels_file: str | None = None
    names: str | None = None
    captions: str | None = None
    fuse: bool = False
    fresh: bool = False
    device: str | None = None
    allow_download: bool = False


class EvaluationSource:
    """What is evaluated: a folder of folders, a table, or all of an index."""

    def __init__(
        self, settings: EvaluationSettings, names: Mapping[str, str], any_number: bool
    ) -> None:
        self._settings = settings
        self._names = names
        self._table: LabelledPaths | None = None
        self._top: Path | None = None
        self._folders: list[str] = []
        self._has_captions = settings.captions is not None
        self._any_number = any_number or self._has_captions
        self._index = settings.index
        self.notes: list[str] = []
        if settings.source is None:
            if self._index is None:
                raise OptionError("name a folder with a folder for each class, a CSV, or --index")
            self.path = os.path.abspath(self._index)
            self.told = Path(self.path).name
            return
        top = absolute_path(settings.source)
        self.path, self.told = str(top), top.name
        if top.suffix.lower() in TABLE_ENDINGS and not top.is_dir():
            self._table = read_labelled_table(top)
            if self._index is None:
                self._refuse_gone(top)
                self._refuse_single(top)
        elif self._index is None and is_index(top):
            self._index = str(top)
        elif self._index is None or top.is_dir():
            self._folders = self._checked_folders(top)
            self._top = top
        else:
            self._top = top  # photos that are elsewhere now, and whose vectors are in the index

    @property
    def is_indexed(self) -> bool:
        """Whether it is an index that somebody has, whose vectors are taken."""
        return self._index is not None

    def _refuse_gone(self, table: Path) -> None:
        assert self._table is not None
        if not any(os.path.lexists(path) for path in self._table.paths):
            raise LabelError(
                f"none of the {len(self._table.paths):,} images of {table.name} is there, such as "
                f"{self._table.paths[0]}: paths begin at the folder of the table"
            )

    def _refuse_single(self, table: Path) -> None:
        assert self._table is not None
        called = (self._names.get(label, label) for label in self._table.labels)
        kinds = {same_label(label): label for label in called}
        if not self._any_number and len(kinds) == 1:
            raise LabelError(
                f"{table} has one class, {next(iter(kinds.values()))!r}: expected two or more, as "
                "with a single label every image gets it; --labels-file names others"
            )

    def _checked_folders(self, top: Path) -> list[str]:
        if is_remote(top):
            raise SourceError(
                f"photos in object storage are evaluated by the vectors of an index: index {top}, "
                "and name that with --index INDEX"
            )
        if not top.exists():
            raise SourceError(f"no such folder or file: {top}")
        if not top.is_dir():
            raise SourceError(
                "expected a folder with a folder for each class, a .csv or .tsv of paths and "
                f"labels, or --index INDEX; got {top}"
            )
        folders = class_folders(top)
        if not folders and not self._has_captions:
            raise OptionError(
                f"{top} has no folder for a class in it: put the images of each class into a "
                "folder of its name, or name a CSV with the columns path and label"
            )
        labels, _ = labels_of_folders(folders, self._names)
        if not self._any_number and len(folders) == 1:
            raise OptionError(
                f"{top} has one class, {labels[folders[0]]!r}: expected two or more, as with a "
                "single label every image gets it; --labels-file names others"
            )
        if folders and _PARTS.issuperset(folder.casefold() for folder in folders):
            self.notes.append(
                f"the classes are {some_of(list(labels.values()))}: where those are parts of a "
                f"collection, name one of them, such as {top / folders[0]}"
            )
        return folders

    def classes(self) -> LabelledImages | None:
        """The classes that there are images of, as far as that shows without an index; so that
        what does not go with them is told before anything is encoded."""
        if self._table is not None:
            labels = {self._names.get(label, label) for label in self._table.labels}
        elif self._folders and self._top is not None:
            there = [name for name in self._folders if _holds_image(self._top / name)]
            if not there and self._index is None and not self._has_captions:
                raise OptionError(
                    f"no folder for a class in {self._top} holds an image: expected .jpg, .png, "
                    ".webp, .heic, .tiff and the like"
                )
            labels = set(labels_of_folders(there, self._names)[0].values())
        else:
            return None
        files = (LabelledFile(Path(label), 0, label) for label in labels)
        return labelled_images(list(files))

    def index(self, on_event: Callable[[Event], None] | None) -> EvaluationIndex:
        """The index of what is evaluated, with a vector of every model."""
        settings = self._settings
        if self._index is not None:
            if settings.fresh:
                raise OptionError("--fresh encodes what is kept of a folder: leave out --index")
            return existing_evaluation_index(
                Path(self._index), settings.models, every=settings.fuse, device=settings.device
            )
        return keep_index(
            Path(self.path),
            settings.models,
            listed=None if self._table is None else list(dict.fromkeys(self._table.paths)),
            fresh=settings.fresh,
            device=settings.device,
            allow_download=settings.allow_download,
            on_event=on_event,
        )

    def samples(
        self, found: EvaluationIndex, labels: Sequence[str] | None
    ) -> tuple[LabelledImages | None, int]:
        """The files, what each is known to show, and how many images are left out. None where
        there are captions and no classes."""
        state = next(iter(found.opened.values())).state()
        present = found.report is not None
        if self._table is None:
            roots = state.manifest.roots
            top = None if self._top is None else spelled_as_known(self._top, roots)
            skipped = self._note_skipped(found.report)
            if self._has_captions and labels is None and not self._has_classes(state, top):
                return None, skipped
            samples = labelled_by_folder(state, top, self._folders, self._names, labels, present)
            return samples, skipped
        roots = state.manifest.roots
        spelled = [spelled_as_known(path, roots) for path in self._table.paths]
        samples, lost = labelled_by_table(
            state, spelled, self._table.labels, self._names, labels, present
        )
        notes = []
        if self._table.unlabelled:
            rows = "row has no label and is" if self._table.unlabelled == 1 else (
                "rows have no label and are"
            )  # fmt: skip
            notes.append(f"{self._table.unlabelled:,} {rows} left out")
        gone = [path for path in lost if present and not os.path.lexists(path)]
        unread = [path for path in lost if path not in set(gone)]
        for files, what in (
            (gone, "not there"),
            (unread, "no image that can be read" if present else "not in the index"),
        ):
            if files:
                are = "image of the table is" if len(files) == 1 else "images of the table are"
                notes.append(f"{len(files):,} {are} {what}, such as {files[0]}")
        told = dataclasses.replace(samples, notes=(*samples.notes, *notes))
        return told, len(lost)

    def _has_classes(self, state: Generation, top: Path | None) -> bool:
        return len(folders_of(state, top) | set(self._folders)) > 1

    def _note_skipped(self, report: BuildReport | None) -> int:
        """How many images, and folders, could not be read; with a note."""
        if report is None:
            return 0
        if report.skipped:
            reasons = ", ".join(f"{why} {count:,}" for why, count in report.skip_reasons.items())
            first = "".join(
                f", such as {path}: {message}" for path, message in report.skipped_examples[:1]
            )
            what = "image" if report.skipped == 1 else "images"
            are = "is" if report.skipped == 1 else "are"
            self.notes.append(
                f"{report.skipped:,} {what} could not be read and {are} left out ({reasons}){first}"
            )
        self.notes += [f"could not list {folder}: {why}" for folder, why in report.unreadable[:3]]
        return report.skipped + len(report.unreadable)


def _holds_image(folder: Path) -> bool:
    """Whether a file in a folder, or deeper in it, promises an image by its name. A link to a
    folder inside is taken for one that does."""
    endings = tuple(readable_extensions())
    for here, folders, files in os.walk(folder):
        if any(name.lower().endswith(endings) for name in files):
            return True
        if any(os.path.islink(os.path.join(here, name)) for name in folders):
            return True
    return False
