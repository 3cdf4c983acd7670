"""The files of a saved label set: ``labels/<name>.json`` and the Parquet file it names.

The JSON says what the set is and vouches for the Parquet file by its sha256; that one has a row
for every image and label, a null label for an image that got none, so that which images were
looked at is known. A new table comes under a new name, before the JSON that names it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipsearch.encoder import Float32
from clipsearch.errors import IndexFormatError, LabelError
from clipsearch.manifest import FileRef
from clipsearch.records import Int32
from clipsearch.shards import Int64, as_numpy, int_array
from clipsearch.tag_statistics import CorpusStatistics

FORMAT = "clipsearch label set"
FORMAT_VERSION = 1
CLASSIFY, TAG = "classify", "tag"
_SECOND_SCORE = {CLASSIFY: "probability", TAG: "cosine"}
_LONGEST_NAME = 64
_NAME_BYTES = 150  # with what is added to it still a file name everywhere
# Windows keeps these for devices, whatever follows a dot.
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.I)
_TOKEN = r"[0-9a-f]{12}"


@dataclass(frozen=True)
class LabelSet:
    """What a saved label set is, beside its rows.

    kind : "classify" (one label an image at most) or "tag" (any number).
    labels : the C labels. templates, context : how they became prompts.
    index, space : uuid of the index, fingerprint of the space that scored.
    generation, next_id : of the index when it was scored.
    thresholds : what a label's score had to reach, C numbers, None for "classify".
    most : how many labels an image could have at most, None for any number.
    statistics : what scores new images alike, None for "classify".
    table : the Parquet file, by its name inside ``labels/``.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    templates: tuple[str, ...]
    context: str | None
    index: str
    space: str
    generation: int
    next_id: int
    saved_at: str
    software: str
    thresholds: tuple[float, ...] | None = None
    most: int | None = None
    statistics: CorpusStatistics | None = None
    table: FileRef | None = None


@dataclass(frozen=True)
class LabelRows:
    """Images and their labels, by rising id and, of one image, best first.

    ids : (n,) int64, repeated for an image of several labels. labels : (n,) int32, positions in
    the set's labels, -1 for an image without one. scores : (n,) float32, what ranks (the cosine,
    or for "tag" the standardised score). second : (n,) float32, the probability, or for "tag"
    the cosine. Scores of an image without a label mean nothing.
    """

    ids: Int64
    labels: Int32
    scores: Float32
    second: Float32


def check_name(name: str) -> str:
    """The name of a label set, fit to be a file name on every system.

    Raises LabelError for one that is not.
    """
    normal = unicodedata.normalize("NFC", name)
    if not is_name(normal):
        raise LabelError(
            f"{name!r} is no name for a label set: expected up to {_LONGEST_NAME} letters, digits "
            "and - _ . such as pets or trip-2024, beginning with a letter or digit, and not a "
            "device of Windows such as con"
        )
    return normal


def is_name(name: str) -> bool:
    """Whether ``name``, composed (NFC), is fit to be a file name on every system."""
    return (
        1 <= len(name) <= _LONGEST_NAME
        and all(letter.isalnum() or letter in "-_." for letter in name)
        and len(name.encode()) <= _NAME_BYTES
        and name[0] not in ".-"
        and name[-1] != "."
        and _DEVICES.fullmatch(name) is None
    )


def same_name(name: str) -> str:
    """What is equal for names that one folder cannot hold side by side on every system."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def json_name(name: str) -> str:
    """ "pets" -> "pets.json"."""
    return f"{name}.json"


def table_name(name: str, token: str) -> str:
    """The Parquet file of a set; ``token`` is 12 hexadecimal digits."""
    return f"{name}.{token}.parquet"


def is_table_of(name: str, file: str) -> bool:
    """Whether ``file`` is a table of the set ``name``, now or earlier."""
    normal = unicodedata.normalize("NFC", file)
    return re.fullmatch(rf"{re.escape(name)}\.{_TOKEN}\.parquet", normal) is not None


def cure(name: str) -> str:
    """What every message about a damaged label set ends with."""
    return f"save it again with --save-as {name}, or delete labels/{json_name(name)}"


def table_bytes(label_set: LabelSet, rows: LabelRows) -> pa.Buffer:
    """``rows`` as a Parquet file: id, label, score, and probability or cosine."""
    for label in label_set.labels:
        try:
            label.encode()
        except UnicodeEncodeError:
            raise LabelError(f"label {label!r} is no text, so it cannot be saved") from None
    without = rows.labels < 0
    validity = None
    if without.any():
        validity = pa.py_buffer(np.packbits(~without, bitorder="little").tobytes())
    count = len(rows.ids)

    def numbers(values: Float32) -> pa.Array:
        data = np.ascontiguousarray(values, "<f4")
        return pa.Array.from_buffers(pa.float32(), count, [validity, pa.py_buffer(data)])

    codes = np.ascontiguousarray(np.where(without, 0, rows.labels), "<i4")
    indices = pa.Array.from_buffers(pa.int32(), count, [validity, pa.py_buffer(codes)])
    words = pa.array(list(label_set.labels), pa.string())
    columns = {
        "id": int_array(rows.ids),
        "label": pa.DictionaryArray.from_arrays(indices, words),
        "score": numbers(rows.scores),
        _SECOND_SCORE[label_set.kind]: numbers(rows.second),
    }
    table = pa.table(columns).replace_schema_metadata(
        {"clipsearch.kind": "labels", "clipsearch.index": label_set.index}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def table_rows(label_set: LabelSet, data: bytes) -> LabelRows:
    """The rows in the bytes of a set's Parquet file.

    Raises IndexFormatError when they are not those that the set vouches for.
    """
    ref = label_set.table
    if ref is None or hashlib.sha256(data).hexdigest() != ref.sha256:
        raise _damaged(label_set.name, "its table is not the one that was saved")
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        labels, codes = table.column("label"), {word: i for i, word in enumerate(label_set.labels)}
        parts = [np.empty(0, np.int32)]
        for chunk in labels.chunks:
            here = np.array([codes[word] for word in chunk.dictionary.to_pylist()], np.int32)
            is_there = as_numpy(pc.is_valid(chunk))
            found = np.full(len(chunk), -1, np.int32)
            found[is_there] = here[as_numpy(chunk.indices)[is_there]]
            parts.append(found)
        rows = LabelRows(
            ids=as_numpy(table.column("id")),
            labels=np.concatenate(parts),
            scores=_numbers(table.column("score")),
            second=_numbers(table.column(_SECOND_SCORE[label_set.kind])),
        )
    except (pa.ArrowException, AttributeError, KeyError, IndexError, OSError, ValueError) as error:
        raise _damaged(label_set.name, f"its table cannot be read ({error})") from error
    if len(rows.ids) != ref.rows or not bool((np.diff(rows.ids) >= 0).all()):
        raise _damaged(label_set.name, "its table has other rows than were saved")
    return rows


def _numbers(column: pa.ChunkedArray) -> Float32:
    parts = [as_numpy(chunk.view(pa.int32())).view(np.float32) for chunk in column.chunks]
    return np.concatenate([np.empty(0, np.float32), *parts])


def set_bytes(label_set: LabelSet) -> bytes:
    """``label_set`` as JSON, with a checksum over itself."""
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **dataclasses.asdict(label_set),
    }
    document = json.loads(json.dumps(document, allow_nan=False))
    document["checksum"] = _checksum(document)
    return (json.dumps(document, indent=1) + "\n").encode("ascii")


def parse_set(name: str, data: bytes) -> LabelSet:
    """The label set in the bytes of ``labels/<name>.json``.

    Raises IndexFormatError when they are damaged, foreign, or of a newer format.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _damaged(name, "not JSON") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise IndexFormatError(
            f"labels/{json_name(name)} in the index is no label set: {cure(name)}"
        )
    version = document.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise IndexFormatError(
            f"the label set {name} has format version {version}, this clipsearch reads up to "
            f"{FORMAT_VERSION}: upgrade clipsearch"
        )
    if document.pop("checksum", None) != _checksum(document):
        raise _damaged(name, "its checksum does not match")
    try:
        found = _parse(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(name, str(error)) from error
    if same_name(found.name) != same_name(name):  # a file that somebody has renamed
        raise IndexFormatError(
            f"labels/{json_name(name)} in the index holds the label set {found.name}: rename it "
            f"back, or {cure(name)}"
        )
    return found


def _parse(document: dict[str, Any]) -> LabelSet:
    known = {item.name for item in dataclasses.fields(LabelSet)}
    fields = {name: value for name, value in document.items() if name in known}
    for name in ("labels", "templates"):
        fields[name] = tuple(fields[name])
        if not fields[name] or not all(isinstance(text, str) for text in fields[name]):
            raise ValueError(f"the {name} are no texts")
    if fields["kind"] not in _SECOND_SCORE:
        raise ValueError(f"{fields['kind']!r} is no kind of label set")
    table = FileRef(**fields["table"])
    if not is_table_of(check_name(fields["name"]), table.name):
        raise ValueError(f"{table.name!r} is no table of it")
    fields["table"] = table
    if fields["thresholds"] is not None:
        fields["thresholds"] = tuple(float(value) for value in fields["thresholds"])
    if fields["statistics"] is not None:
        fields["statistics"] = CorpusStatistics.from_dict(fields["statistics"])
    found = LabelSet(**fields)
    if found.kind == TAG:
        numbers = found.thresholds or ()
        is_whole = found.statistics is not None and len(found.statistics.means) == len(found.labels)
        if (
            not is_whole
            or len(numbers) != len(found.labels)
            or not all(map(math.isfinite, numbers))
        ):
            raise ValueError("it lacks thresholds or statistics")
    return found


def _checksum(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(name: str, why: str) -> IndexFormatError:
    return IndexFormatError(f"the label set {name} is damaged ({why}): {cure(name)}")
