"""Results of ``classify`` and ``tag`` as Arrow columns, a block of images at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipsearch.encoder import Float32
from clipsearch.metadata_columns import string_array
from clipsearch.path_table import PathTable
from clipsearch.records import Int32
from clipsearch.shards import Int64, int_array

_LABEL = pa.dictionary(pa.int32(), pa.string())
_TYPES = {
    "id": pa.int64(),
    "path": pa.binary(),
    "rank": pa.int32(),
    "label": _LABEL,
    "score": pa.float32(),
    "cosine": pa.float32(),
    "probability": pa.float32(),
    "margin": pa.float32(),
    "runner_up": _LABEL,
}


class Scored(Protocol):
    """Some images and their best labels: a ``ScoredBlock``, or a whole ``Classification``.

    ids : (n,) int64. labels : (n, top) int32 codes; scores, probabilities : (n, top) float32.
    margins : (n,) float32, nan without a second label. runners_up : (n,) int32, -1 then.
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


def label_column(names: Sequence[str]) -> pa.StringArray:
    """The labels that codes stand for; made once, for all blocks."""
    return string_array(names)


def classification_schema(top: int, voted: bool = False) -> pa.Schema:
    """The columns of ``classification_batch``. path : the system's bytes."""
    rank = ["rank"] if top > 1 else []
    cosine = ["cosine"] if voted else []
    names = ["id", "path", *rank, "label", "score", *cosine, "probability", "margin", "runner_up"]
    return _schema(names)


def classification_batch(
    block: Scored,
    names: pa.StringArray,
    places: PathTable,
    top: int,
    cosines: Float32 | None = None,
) -> pa.RecordBatch:
    """A row per image, or with ``top`` above 1 per image and rank, in the order of the block.

    names : see ``label_column``. A margin or a runner-up that is not there is null.
    cosines : (n, top) float32, where scores are something else: see ``VotedBlock``.
    """
    images = np.repeat(np.arange(len(block.ids)), top)
    paths = places.path_column(block.ids)
    columns = {
        "id": int_array(block.ids[images]),
        "path": paths if top == 1 else paths.take(int_array(images)),
        "rank": int_array(np.tile(np.arange(1, top + 1, dtype=np.int32), len(block.ids))),
        "label": _labels(block.labels.ravel(), names),
        "score": _numbers(block.scores.ravel()),
        "probability": _numbers(block.probabilities.ravel()),
        "margin": _numbers(block.margins[images], ~np.isnan(block.margins[images])),
        "runner_up": _labels(block.runners_up[images], names),
    }
    if cosines is not None:
        columns["cosine"] = _numbers(cosines.ravel())
    schema = classification_schema(top, cosines is not None)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


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


def _schema(names: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, _TYPES[name]) for name in names])


def _validity(known: npt.NDArray[np.bool_] | None) -> pa.Buffer | None:
    if known is None or known.all():
        return None
    return pa.py_buffer(np.packbits(known, bitorder="little"))


def _numbers(values: Float32, known: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    data = pa.py_buffer(np.ascontiguousarray(values, np.float32))
    return pa.Array.from_buffers(pa.float32(), len(values), [_validity(known), data])


def _labels(codes: Int32, names: pa.StringArray) -> pa.DictionaryArray:
    data = pa.py_buffer(np.ascontiguousarray(codes, np.int32))
    indices = pa.Array.from_buffers(pa.int32(), len(codes), [_validity(codes >= 0), data])
    return pa.DictionaryArray.from_arrays(indices, names)
