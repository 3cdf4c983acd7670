"""Results of ``classify`` and ``tag`` as Arrow columns, a block of images at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipsearch.encoder import Float32
from clipsearch.metadata_columns import string_array
from clipsearch.path_table import PathTable
from clipsearch.records import Int32
from clipsearch.shards import Int64, int_array

if TYPE_CHECKING:
    from clipsearch.image_labels import ImageLabels

_LABEL = pa.dictionary(pa.int32(), pa.string())
_TYPES = {
    "id": pa.int64(),
    "path": pa.binary(),
    "rank": pa.int32(),
    "group": _LABEL,
    "label": _LABEL,
    "score": pa.float32(),
    "cosine": pa.float32(),
    "probability": pa.float32(),
    "margin": pa.float32(),
    "runner_up": _LABEL,
    "in_set": pa.float32(),
    "label_set": pa.list_(pa.string()),
}


class Scored(Protocol):
    """Some images and their best labels: a ``ScoredBlock``, or a whole ``Classification``.

    ids : (n,) int64. labels : (n, top) int32 codes; scores, probabilities : (n, top) float32.
    margins : (n,) float32, nan without a second label. runners_up : (n,) int32, -1 then.
    in_set : (n,) float32, None where every image was to have a label. An image that has none
    has the code -1.
    """

    @property
    def ids(self) -> Int64: ...
    @property
    def labels(self) -> Int32: ...
    @property
    def scores(self) -> Float32: ...
    @property
    def probabilities(self) -> Float32: ...
    @property
    def margins(self) -> Float32: ...
    @property
    def runners_up(self) -> Int32: ...
    @property
    def in_set(self) -> Float32 | None: ...


def label_column(names: Sequence[str]) -> pa.StringArray:
    """The labels that codes stand for; made once, for all blocks."""
    return string_array(names)


def classification_schema(
    top: int, voted: bool = False, abstains: bool = False, covers: bool = False
) -> pa.Schema:
    """The columns of ``classification_batch``. path : the system's bytes."""
    rank = ["rank"] if top > 1 else []
    cosine = ["cosine"] if voted else []
    names = ["id", "path", *rank, "label", "score", *cosine, "probability", "margin", "runner_up"]
    return _schema([*names, *["in_set"] * abstains, *["label_set"] * covers])


def classification_batch(
    block: Scored,
    names: pa.StringArray,
    places: PathTable,
    top: int,
    cosines: Float32 | None = None,
    covered: Int32 | None = None,
) -> pa.RecordBatch:
    """A row per image, or with ``top`` above 1 per image and rank, in the order of the block.

    names : see ``label_column``. A margin or a runner-up that is not there is null. An image
    that has none of the labels has but its runner-up, the nearest of them, and ``in_set``.
    cosines : (n, top) float32, where scores are something else: see ``VotedBlock``.
    covered : (n, m) int32, label sets: see ``ScoredBlock``. They are null without a label.
    """
    ranks = np.tile(np.arange(1, top + 1, dtype=np.int32), len(block.ids))
    # An image without a label has one row, not one for every rank.
    kept = np.flatnonzero((block.labels.ravel() >= 0) | (ranks == 1))
    images = kept // top
    labels, margins = block.labels.ravel()[kept], block.margins[images]
    has_label = labels >= 0
    columns = {
        "id": int_array(block.ids[images]),
        "path": places.path_column(block.ids),
        "rank": int_array(ranks[kept]),
        "label": _labels(labels, names),
        "score": _numbers(block.scores.ravel()[kept], has_label),
        "probability": _numbers(block.probabilities.ravel()[kept], has_label),
        "margin": _numbers(margins, has_label & ~np.isnan(margins)),
        "runner_up": _labels(block.runners_up[images], names),
    }
    if top > 1:
        columns["path"] = columns["path"].take(int_array(images))
    if cosines is not None:
        columns["cosine"] = _numbers(cosines.ravel()[kept], has_label)
    if block.in_set is not None:
        columns["in_set"] = _numbers(block.in_set[images])
    if covered is not None:
        columns["label_set"] = _label_sets(covered[images], names)
    schema = classification_schema(
        top, cosines is not None, block.in_set is not None, covered is not None
    )
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def image_label_schema(top: int) -> pa.Schema:
    """The columns of ``image_label_batch``: those of images in an index, but for the id."""
    return pa.schema([field for field in classification_schema(top) if field.name != "id"])


def image_label_batch(
    found: Sequence[tuple[str, ImageLabels]],
    schema: pa.Schema,
    column: pa.StringArray,
    names: Sequence[str],
) -> pa.RecordBatch:
    """A row per image, or with a column "rank" per image and rank, of images that are in no
    index, each with what it is called. schema : of ``image_label_schema``. column, names : the
    labels, and they again.

    An image without a label has one row, with its runner-up, the nearest of them.
    """
    codes = {name: code for code, name in enumerate(names)}
    ranked = [
        (os.fsencode(name), image, rank, best)
        for name, image in found
        for rank, best in enumerate(image.labels or (None,), start=1)
    ]
    has_label = np.array([best is not None for *_, best in ranked], bool)
    margins = np.array([image.margin for _, image, *_ in ranked], np.float32)
    runners_up = [codes.get(image.runner_up or "", -1) for _, image, *_ in ranked]
    labels = [-1 if best is None else codes[best.label] for *_, best in ranked]
    scores = [0.0 if best is None else best.score for *_, best in ranked]
    odds = [0.0 if best is None else best.probability for *_, best in ranked]
    columns = {
        "path": _bytes_array([path for path, *_ in ranked]),
        "rank": int_array(np.array([rank for _, _, rank, _ in ranked], np.int32)),
        "label": _labels(np.array(labels, np.int32), column),
        "score": _numbers(np.array(scores, np.float32), has_label),
        "probability": _numbers(np.array(odds, np.float32), has_label),
        "margin": _numbers(margins, has_label & ~np.isnan(margins)),
        "runner_up": _labels(np.array(runners_up, np.int32), column),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def group_schema(abstains: bool) -> pa.Schema:
    """The columns of ``group_batch``."""
    names = ["id", "path", "group", "label", "score", "cosine", "probability", "margin"]
    return _schema([*names, "runner_up", *(["in_set"] if abstains else [])])


def group_batch(batch: pa.RecordBatch, group: str, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of ``classification_batch`` or of ``tag_batch`` as rows of one of several groups;
    what it does not have is null. schema : of ``group_schema``."""
    count = len(batch)
    name = pa.DictionaryArray.from_arrays(
        int_array(np.zeros(count, np.int32)), string_array([group])
    )
    columns = []
    for field in schema:
        if field.name == "group":
            columns.append(name)
        elif field.name in batch.schema.names:
            columns.append(batch.column(field.name))
        elif pa.types.is_dictionary(field.type):
            columns.append(_labels(np.full(count, -1, np.int32), string_array([group])))
        else:
            columns.append(_numbers(np.zeros(count, np.float32), np.zeros(count, bool)))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


TAG_SCHEMA = pa.schema(
    [(name, _TYPES[name]) for name in ("id", "path", "label", "score", "cosine")]
)
"""The columns of ``tag_batch``."""


def tag_batch(
    ids: Int64,
    codes: Int32,
    scores: Float32,
    cosines: Float32,
    names: pa.StringArray,
    places: PathTable,
) -> pa.RecordBatch:
    """A row per tag; where its code is -1 the image has none, and the rest is null."""
    is_tag = codes >= 0
    columns = [
        int_array(ids),
        places.path_column(ids),
        _labels(codes, names),
        _numbers(scores, is_tag),
        _numbers(cosines, is_tag),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=TAG_SCHEMA)


COMPARISON_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("path", pa.binary()),
        ("a", _LABEL),
        ("a_probability", pa.float32()),
        ("b", _LABEL),
        ("b_probability", pa.float32()),
    ]
)
"""The columns of ``comparison_batch``."""


def comparison_batch(
    ids: Int64,
    codes: tuple[Int32, Int32],
    certain: tuple[Float32, Float32],
    names: pa.StringArray,
    places: PathTable,
) -> pa.RecordBatch:
    """A row per image: what a and b call it, null for none of the labels, and how sure they
    are, null where that is not known."""
    columns = [int_array(ids), places.path_column(ids)]
    for label, sure in zip(codes, certain, strict=True):
        columns += [_labels(label, names), _numbers(sure, ~np.isnan(sure))]
    return pa.RecordBatch.from_arrays(columns, schema=COMPARISON_SCHEMA)


def _schema(names: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, _TYPES[name]) for name in names])


def _validity(known: npt.NDArray[np.bool_] | None) -> pa.Buffer | None:
    if known is None or known.all():
        return None
    return pa.py_buffer(np.packbits(known, bitorder="little"))


def _bytes_array(values: Sequence[bytes]) -> pa.Array:
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers)


def _numbers(values: Float32, known: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    data = pa.py_buffer(np.ascontiguousarray(values, np.float32))
    return pa.Array.from_buffers(pa.float32(), len(values), [_validity(known), data])


def _label_sets(codes: Int32, names: pa.StringArray) -> pa.ListArray:
    """Lists of labels, null for an image that has none. codes : (n, m), -1 after the last."""
    is_member = codes >= 0
    sizes = is_member.sum(axis=1, dtype=np.int32)
    starts = np.concatenate([np.zeros(1, np.int32), np.cumsum(sizes, dtype=np.int32)])
    members = names.take(int_array(codes[is_member]))
    buffers = [_validity(sizes > 0), pa.py_buffer(starts)]
    return pa.Array.from_buffers(
        _TYPES["label_set"], len(codes), buffers, children=[members]
    )  # fmt: skip


def _labels(codes: Int32, names: pa.StringArray) -> pa.DictionaryArray:
    data = pa.py_buffer(np.ascontiguousarray(codes, np.int32))
    indices = pa.Array.from_buffers(pa.int32(), len(codes), [_validity(codes >= 0), data])
    return pa.DictionaryArray.from_arrays(indices, names)
