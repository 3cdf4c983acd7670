"""What an index knows of its images: which ones pass a filter.

A test is answered a whole column at a time by Arrow's compute functions and NumPy; only the
columns that the filter names are read. A test of a place (folder, name, path, modified) holds
for an image when it holds for one of its files; files that are missing count only where an
image has no other, as in a hit.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipsearch.filters import (
    And,
    Contains,
    Equal,
    Filter,
    HasLabel,
    In,
    InFolder,
    Known,
    Near,
    Not,
    Or,
    Range,
    Within,
)
from clipsearch.generation import Generation
from clipsearch.geography import within_box, within_distance
from clipsearch.metadata_columns import (
    Mask,
    Numbers,
    Test,
    flat_rows,
    is_known,
    matches_number,
    matches_repeated_text,
    matches_text,
    microseconds,
    numbers_of,
    parsed_numbers,
)
from clipsearch.metadata_memory import Column
from clipsearch.paths import Place
from clipsearch.place_tests import PlaceTests
from clipsearch.remote_paths import whole_place
from clipsearch.shards import IMAGE_SCHEMA, Int64, as_numpy, int_array, read_tables
from clipsearch.shared_folders import shared_folder
from clipsearch.store import LABELS

_COLUMNS = {
    "taken": ("taken_at",),
    "keyword": ("keywords",),
    "megapixels": ("width", "height"),
    "source": ("taken_at_source",),
}
"""The columns of a field that is not named as its column is."""

_PLACE_FIELDS = ("folder", "path", "name", "modified")
_NOT_OF_THE_IMAGE = (*_PLACE_FIELDS, "missing", "id")


def matching_ids(index: Path, state: Generation, where: Filter) -> Int64:
    """(n,) int64, rising: the images of one generation that can be found and pass ``where``.

    index : the index folder, for its label sets.

    Raises LabelError for a label that no set holds, IndexFormatError for a damaged index, and
    for one that a writer has just compacted: open the newest generation then.
    """
    evaluation = _Evaluation(index, state, where)
    matching: Int64 = state.metadata.live[evaluation.mask(where)]
    return matching


def folders_without_images(state: Generation, where: Filter) -> list[str]:
    """The folders that ``where`` names and that hold no image of this index: most often a
    slip of the pen, worth a word to the user."""
    tests = PlaceTests(state)
    folders = [test.folder for test in _leaves(where) if isinstance(test, InFolder)]
    return [folder for folder in dict.fromkeys(folders) if not len(tests.in_folder(folder))]


def asked_places_first(places: list[Place], where: Filter) -> list[Place]:
    """The places of one image, those in a folder that ``where`` asks for before the others:
    who searches in a folder wants to see the copy that lies in it."""
    folders = [
        test.folder for test in _leaves(where, within_not=False) if isinstance(test, InFolder)
    ]
    names = [name(folder) for folder in folders for name in (whole_place, os.path.realpath)]
    return sorted(places, key=lambda place: not any(map(place.path.is_relative_to, names)))


def _label_sets_now(index: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(shared_folder(index, LABELS).glob("*.json")):
        with contextlib.suppress(FileNotFoundError):  # forgotten this moment
            data = file.read_bytes()
            digest.update(f"{file.name} {len(data)} ".encode("utf-8", "surrogateescape"))
            digest.update(data)
    return digest.hexdigest()


def _ids_with_label(index: Path, name: str) -> Int64:
    from clipsearch import label_sets  # type: ignore[attr-defined,unused-ignore]

    ids: Int64 = label_sets.ids_with_label(index, name)
    return ids


def _leaves(where: Filter, within_not: bool = True) -> list[Filter]:
    if isinstance(where, And | Or):
        return [leaf for part in where.parts for leaf in _leaves(part, within_not)]
    if isinstance(where, Not):
        return _leaves(where.part) if within_not else []
    return [where]


def _columns_of(where: Filter) -> list[str]:
    """The columns of the images that a filter asks for, but for the EXIF map."""
    names: dict[str, None] = {}
    for test in _leaves(where):
        field = getattr(test, "field", None)
        if isinstance(test, Near | Within):
            names.update(lat=None, lon=None)
        elif field and field not in _NOT_OF_THE_IMAGE and not field.startswith("exif."):
            names.update(dict.fromkeys(_COLUMNS.get(field, (field,))))
    return list(names)


class _Evaluation:
    """One filter over the (n,) rising live ids of one generation; every mask is (n,) bool."""

    def __init__(self, index: Path, state: Generation, where: Filter) -> None:
        self._index = index
        self._state = state
        self._memory = state.metadata
        self._live = state.metadata.live
        self._names = _columns_of(where)

    @functools.cached_property
    def _columns(self) -> dict[str, Column]:
        return self._memory.columns(self._names)

    @functools.cached_property
    def _places(self) -> PlaceTests:
        return PlaceTests(self._state)

    def _of_ids(self, ids: Int64) -> Mask:
        """The mask of these ids, in any order, known here or not."""
        mask = np.zeros(len(self._live), bool)
        positions = np.searchsorted(self._live, ids)
        inside = positions < len(self._live)
        positions, ids = positions[inside], ids[inside]
        mask[positions[self._live[positions] == ids]] = True
        return mask

    def _of_rows(self, rows: Mask) -> Mask:
        """The mask of these rows of the table of images."""
        return rows if self._memory.rows_are_live else self._of_ids(self._memory.ids[rows])

    def mask(self, where: Filter) -> Mask:
        """Which of the live images pass."""
        if isinstance(where, And):
            return np.asarray(np.logical_and.reduce([self.mask(part) for part in where.parts]))
        if isinstance(where, Or):
            return np.asarray(np.logical_or.reduce([self.mask(part) for part in where.parts]))
        if isinstance(where, Not):
            return ~self.mask(where.part)
        return self._memory.answer(self._key(where), lambda: self._asked(where))

    def _key(self, test: Filter) -> str:
        """What the answer to a test hangs on, beside the generation."""
        if isinstance(test, InFolder):
            roots = [os.path.realpath(root.path) for root in self._state.manifest.roots]
            names = (str(whole_place(test.folder)), os.path.realpath(test.folder), *roots)
            return repr((InFolder, names))
        if isinstance(test, HasLabel):  # label sets change by themselves
            return repr((test, _label_sets_now(self._index)))
        return repr(test)

    def _asked(self, where: Filter) -> Mask:
        if isinstance(where, InFolder):
            return self._of_ids(self._places.in_folder(where.folder))
        if isinstance(where, HasLabel):
            return self._of_ids(_ids_with_label(self._index, where.name))
        if isinstance(where, Near | Within):
            return self._of_rows(self._is_there(where))
        if isinstance(where, Equal | In | Contains | Range | Known):
            return self._of_field(where)
        raise TypeError(f"{type(where).__name__} is no filter")

    def _is_there(self, where: Near | Within) -> Mask:
        (lat, has_lat), (lon, has_lon) = (
            numbers_of(self._columns[name]) for name in ("lat", "lon")
        )
        if isinstance(where, Near):
            inside = within_distance(lat, lon, where.lat, where.lon, where.km)
        else:
            inside = within_box(lat, lon, where.south, where.west, where.north, where.east)
        return inside & has_lat & has_lon

    def _of_field(self, test: Test) -> Mask:
        name = test.field
        if name.startswith("exif."):
            return self._of_exif(test)
        if name == "missing":
            missing = self._of_ids(self._places.missing_ids())
            return _equals_flag(missing, test)
        if name == "id":
            return matches_number(self._live, np.ones(len(self._live), bool), test)
        if name in _PLACE_FIELDS:
            return self._of_ids(self._places.matching(test))
        return self._of_rows(self._of_column(test))

    def _of_column(self, test: Test) -> Mask:
        name = test.field
        columns = [self._columns[column] for column in _COLUMNS.get(name, (name,))]
        if isinstance(columns[0], tuple):
            parents, words = columns[0]
            mask = np.zeros(len(self._memory.ids), bool)
            mask[parents[matches_repeated_text(words, test)]] = True
            return mask
        if pa.types.is_dictionary(columns[0].type):
            return matches_repeated_text(columns[0], test)
        if name == "taken":
            return matches_number(*numbers_of(columns[0]), test, microseconds)
        numbers: list[Numbers] = [numbers_of(column) for column in columns]
        values, known = numbers[0]
        if name == "megapixels":
            values = values.astype(np.float64) * numbers[1][0] / 1e6
            known = known & numbers[1][1]
        elif name == "bytes":
            known = known & (values > 0)  # 0 is an imported image whose file was not there
        return matches_number(values, known, test)

    def _of_exif(self, test: Test) -> Mask:
        """A test of one tag. The map is read shard by shard: it is most of the metadata."""
        tag = Equal(test.field, test.field.removeprefix("exif."))
        passed: list[Int64] = []
        for ref in self._state.manifest.images:
            table = read_tables(self._state.store, [ref], IMAGE_SCHEMA, ["id", "exif"])
            parents, tags, texts = flat_rows(table.column("exif"), is_map=True)
            rows = np.flatnonzero(
                matches_repeated_text(pa.chunked_array([tags]), tag) & is_known(texts)
            )
            parents, texts = parents[rows], texts.take(int_array(rows))
            if isinstance(test, Range):
                mask = matches_number(*parsed_numbers(texts), test)
            else:
                mask = matches_text(texts, test)
            passed.append(as_numpy(table.column("id"))[parents[mask]])
        return self._of_ids(np.concatenate([np.empty(0, np.int64), *passed]))


def _equals_flag(flag: Mask, test: Test) -> Mask:
    if isinstance(test, Known):
        return np.ones_like(flag)
    wanted = test.values if isinstance(test, In) else (getattr(test, "value", True),)
    return np.isin(flag, list(wanted))
