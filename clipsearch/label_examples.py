"""Confirmed examples of a saved label set: which label some images have, as a person said.

They lie in ``labels/<name>.<token>.examples``, a Parquet file that the set's JSON vouches for in
its ``teaching``. An example belongs to a content: where the image came back under another id it
follows it, and where it is gone, or its label was taken out of the set, it rests until that is
there again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsearch.errors import IndexFormatError, LabelError
from clipsearch.generation import Generation
from clipsearch.image_lookup import images_named, shown_image
from clipsearch.label_set_files import LabelSet, cure
from clipsearch.manifest import FileRef, utc_now
from clipsearch.prompts import same_label
from clipsearch.query import Image
from clipsearch.records import Int32
from clipsearch.shards import IMAGE_SCHEMA, Int64, as_numpy, read_tables
from clipsearch.shared_folders import fetched

GIVEN, ASKED, RANDOM = "given", "asked", "random"
"""How an example was chosen: by a person, by ``ask`` as the most useful, by ``ask`` at random.
Only the random ones are a sample from which shares can be estimated."""

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("label", pa.string()),
        pa.field("chosen", pa.string(), nullable=False),
        pa.field("at", pa.string(), nullable=False),
    ]
)
_SHOWN = 12


@dataclass(frozen=True)
class Example:
    """What a person said of an image.

    id : of the image, when it was said. sha256 : of its content. label : None for none of the
    set's labels. chosen : GIVEN, ASKED or RANDOM. at : when, UTC.
    """

    id: int
    sha256: bytes
    label: str | None
    chosen: str = GIVEN
    at: str = ""


@dataclass(frozen=True)
class Correction:
    """What a person says of an image: ``Example`` before it is looked up.

    image : its file, by path or content, or its id. label : None for none of the set's labels.
    """

    image: Image
    label: str | None
    chosen: str = GIVEN


@dataclass(frozen=True)
class UsableExamples:
    """The examples that say something of an index and some labels as they are now.

    examples : n of them, by rising id. ids : (n,) int64, what their images have now.
    labels : (n,) int32 positions in the labels, -1 for none of them.
    gone : how many images are not in the index. resting : how many labels are not in the set.
    """

    examples: tuple[Example, ...]
    ids: Int64
    labels: Int32
    gone: int
    resting: int

    def __len__(self) -> int:
        return len(self.examples)


def examples_bytes(examples: Iterable[Example], index: str) -> pa.Buffer:
    """Examples as a Parquet file. index : the uuid of theirs.

    Raises LabelError for a label that no file can hold.
    """
    rows = sorted(examples, key=lambda example: example.id)
    try:
        columns = [
            pa.array([getattr(row, field.name) for row in rows], field.type) for field in _SCHEMA
        ]
    except UnicodeEncodeError:
        raise LabelError("a label of an example is no text, so it cannot be saved") from None
    table = pa.Table.from_arrays(columns, schema=_SCHEMA).replace_schema_metadata(
        {"clipsearch.kind": "examples", "clipsearch.index": index}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def examples_ref(data: pa.Buffer, rows: int) -> FileRef:
    """What a set says of the file, which gets its name when it is saved."""
    return FileRef("", rows, data.size, hashlib.sha256(data).hexdigest())


def read_examples(folder: Path, label_set: LabelSet) -> tuple[Example, ...]:
    """The examples of a saved set by rising id, none for one that was not taught.

    folder : where the sets are. Raises IndexFormatError where their file is not the one that the
    set vouches for, OSError where the system does not hand it out.
    """
    ref = label_set.teaching
    if ref is None:
        return ()
    try:
        data = fetched(folder / ref.name).read_bytes()
    except FileNotFoundError:
        raise _damaged(label_set, "their file is lost") from None
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise _damaged(label_set, "their file is not the one that was saved")
    try:
        rows = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).to_pylist()
        return tuple(Example(**{field.name: row[field.name] for field in _SCHEMA}) for row in rows)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise _damaged(label_set, f"their file cannot be read: {error}") from error


def _damaged(label_set: LabelSet, why: str) -> IndexFormatError:
    return IndexFormatError(
        f"the examples of the label set {label_set.name} are damaged ({why}): go back with "
        f"'clipsearch labels {label_set.name} --undo', or {cure(label_set.name)}"
    )


def label_of_set(label: str, labels: Sequence[str]) -> str:
    """The label of a set that is meant: upper and lower case, and spaces, are the same.

    Raises LabelError when there is none.
    """
    wanted = same_label(label)
    for here in labels:
        if same_label(here) == wanted:
            return here
    more = len(labels) - _SHOWN
    listed = ", ".join(labels[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    raise LabelError(
        f"there is no label {label!r} in the set: expected one of {listed}; "
        "'clipsearch classify --labels @NAME --add LABEL --save-as NAME' adds one"
    )


def new_examples(
    state: Generation, labels: Sequence[str], corrections: Sequence[Correction]
) -> list[Example]:
    """Examples of what is said of some images, by rising id.

    Raises LabelError for a label that is not in the set, for an image that is not in the index
    and for one that is given two labels; QueryError for an id that is not in the index.
    """
    known = {one.label: _label_meant(one.label, labels) for one in corrections}
    ids = images_named(state, [one.image for one in corrections])
    found: dict[int, Correction] = {}
    for image_id, one in zip(ids, corrections, strict=True):
        label = known[one.label]
        before = found.setdefault(image_id, replace(one, label=label))
        if before.label != label:
            both = " and ".join(_quoted(name) for name in (before.label, label))
            raise LabelError(f"{shown_image(one.image)} is given two labels, {both}: expected one")
    contents = contents_of(state, np.array(sorted(found), np.int64))
    now = utc_now()
    return [
        Example(image_id, contents[image_id], one.label, one.chosen, now)
        for image_id, one in sorted(found.items())
    ]


def _label_meant(label: str | None, labels: Sequence[str]) -> str | None:
    return None if label is None else label_of_set(label, labels)


def _quoted(label: str | None) -> str:
    return "none of these" if label is None else repr(label)


def with_examples(examples: Iterable[Example], more: Iterable[Example]) -> tuple[Example, ...]:
    """``examples`` with ``more``, whose labels count where both have an image; by rising id.

    What is said again stays as it was; and an image that was drawn at random is one of a sample,
    whoever corrects it later.
    """
    contents = {example.sha256: example for example in examples}
    for example in more:
        before = contents.get(example.sha256)
        if before is not None and example.chosen == GIVEN:
            example = replace(example, chosen=before.chosen)
        if before is None or (before.label, before.chosen) != (example.label, example.chosen):
            contents[example.sha256] = example
    return tuple(sorted(contents.values(), key=lambda example: example.id))


def reworded_examples(
    examples: Iterable[Example], reword: Iterable[tuple[str, str]]
) -> tuple[Example, ...]:
    """``examples`` whose labels have new words. reword : pairs of the old and the new ones."""
    instead = {same_label(old): " ".join(new.split()) for old, new in reword}
    return tuple(
        example
        if example.label is None
        else replace(example, label=instead.get(same_label(example.label), example.label))
        for example in examples
    )


def usable_examples(
    state: Generation, examples: Sequence[Example], labels: Sequence[str]
) -> UsableExamples:
    """Those of ``examples`` whose images are in the index, and whose labels are in ``labels``."""
    here = ids_now(state, examples)
    codes = {same_label(label): code for code, label in enumerate(labels)}
    usable: dict[int, tuple[Example, int]] = {}
    gone = resting = 0
    for example in examples:
        code = -1 if example.label is None else codes.get(same_label(example.label))
        now = here.get(example.sha256)
        if now is None:
            gone += 1
        elif code is None:
            resting += 1
        else:
            usable[now] = (replace(example, id=now), code)
    ids = sorted(usable)
    return UsableExamples(
        examples=tuple(usable[now][0] for now in ids),
        ids=np.array(ids, np.int64),
        labels=np.array([usable[now][1] for now in ids], np.int32),
        gone=gone,
        resting=resting,
    )


def ids_now(state: Generation, examples: Sequence[Example]) -> dict[bytes, int]:
    """The id that every content has now; those that are gone are left out."""
    ids = np.unique(np.array([example.id for example in examples], np.int64))
    ids, _ = state.vectors.take_half(ids)
    contents = contents_of(state, ids)
    found = {content: image_id for image_id, content in contents.items()}
    here = {one.sha256: found[one.sha256] for one in examples if one.sha256 in found}
    lost = [one.sha256 for one in examples if one.sha256 not in here]
    if lost:
        others = {sha256: state.hashes[sha256] for sha256 in lost if sha256 in state.hashes}
        live, _ = state.vectors.take_half(np.unique(np.array([*others.values()], np.int64)))
        alive = set(live.tolist())
        here |= {sha256: now for sha256, now in others.items() if now in alive}
    return here


def contents_of(state: Generation, ids: Int64) -> dict[int, bytes]:
    """The sha256 of the content of each of the rising ``ids``; those unknown are left out."""
    if not len(ids):
        return {}
    found: dict[int, bytes] = {}
    for ref in state.manifest.images:
        first, stop = np.searchsorted(ids, [ref.first_id, ref.last_id + 1])
        if first == stop:
            continue
        table = read_tables(state.store, [ref], IMAGE_SCHEMA, ["id", "sha256"])
        here = as_numpy(table.column("id"))
        rows = np.searchsorted(here, ids[first:stop])
        rows = rows[rows < len(here)]
        rows = rows[np.isin(here[rows], ids[first:stop])]
        column = table.column("sha256")
        found |= {int(here[row]): column[row].as_py() for row in rows.tolist()}
    return found
