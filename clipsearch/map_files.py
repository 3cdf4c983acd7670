"""The map of an index, kept in it: ``clusters/map.parquet``, a row for every image with a place.

It is one file, replaced whole, that vouches for itself: what it is of, and a checksum over its
columns, stand in its schema. Without it nothing is lost but the time to lay out another.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsearch.cluster_files import clusters_folder
from clipsearch.encoder import Float32
from clipsearch.errors import IndexFormatError, IndexLockedError, RemoteError
from clipsearch.generation import Generation
from clipsearch.label_set_saving import labels_lock
from clipsearch.map_coordinates import Coordinates, Progress, map_coordinates
from clipsearch.shards import Int64, as_numpy, int_array
from clipsearch.shared_folders import fetched
from clipsearch.store import replace_file

MAP_FILE = "map.parquet"
"""In the folder of the discoveries, none of whose files can have this name."""
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("x", pa.float32(), nullable=False),
        pa.field("y", pa.float32(), nullable=False),
        pa.field("anchor", pa.int8(), nullable=False),  # 1: laid out together with others
    ]
)


def map_file(index: Path) -> Path:
    """Where the map of an index is kept."""
    return clusters_folder(index) / MAP_FILE


def update_map(
    index: Path,
    state: Generation,
    *,
    seed: int = 0,
    only: Int64 | None = None,
    anew: bool = False,
    on_progress: Progress | None = None,
) -> Coordinates:
    """The map of an index with a place for every image: the one that is kept, with new images
    placed on it. It is kept again where the index can be written to.

    only : rising ids. Where the kept map has not all of them, they get a map of their own, which
        is not kept, sooner than a large collection is laid out for a few.
    anew : lay out another. See ``map_coordinates`` for the rest, and for what is raised.
    """
    known = None if anew else _known_map(index, state, seed)
    if only is not None:
        live = np.setdiff1d(only, state.vectors.deleted, assume_unique=True)
        if known is not None and np.isin(live, known.ids, assume_unique=True).all():
            return known
        return map_coordinates(state, seed=seed, only=only, on_progress=on_progress)
    found = map_coordinates(state, seed=seed, previous=known, on_progress=on_progress)
    if known is None or not np.array_equal(known.ids, found.ids):
        # Without room or the right to write, the map is for now alone.
        with contextlib.suppress(OSError, IndexLockedError, RemoteError):
            save_map(index, state.manifest.uuid, found)
    return found


def _known_map(index: Path, state: Generation, seed: int) -> Coordinates | None:
    """The map that is kept, None where there is none that is sound and of this space and seed."""
    try:
        found = read_map(index, state.manifest.uuid)
    except (IndexFormatError, OSError):
        return None
    is_ours = found is not None and (found.space, found.seed) == (state.space.fingerprint, seed)
    return found if is_ours else None


def save_map(index: Path, index_uuid: str, found: Coordinates) -> None:
    """Keep ``found`` in the index, in place of an earlier map.

    Raises OSError, and IndexLockedError when somebody else keeps the lock of the label sets.
    """
    facts = {
        "clipsearch.kind": "map",
        "clipsearch.index": index_uuid,
        "clipsearch.space": found.space,
        "clipsearch.seed": str(found.seed),
        "clipsearch.laid_out": str(found.laid_out),
        "clipsearch.sha256": _checksum(found),
    }
    columns = [int_array(found.ids), _floats(found.xy[:, 0]), _floats(found.xy[:, 1])]
    anchors = pa.py_buffer(np.ascontiguousarray(found.anchors, np.int8))
    columns.append(pa.Array.from_buffers(pa.int8(), len(found.ids), [None, anchors]))
    table = pa.table(columns, schema=_SCHEMA.with_metadata(facts))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    with labels_lock(index):
        replace_file(map_file(index), sink.getvalue())


def read_map(index: Path, index_uuid: str) -> Coordinates | None:
    """The map kept in an index, None when there is none.

    Raises IndexFormatError for one that is damaged or of another index, OSError.
    """
    try:
        data = fetched(map_file(index)).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        table = file.read()
        facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        if not table.schema.equals(_SCHEMA):
            raise ValueError("it has other columns")
        found = Coordinates(
            ids=as_numpy(table.column("id")),
            xy=np.stack([_numbers(table.column(name)) for name in "xy"], axis=1),
            anchors=as_numpy(table.column("anchor")).astype(bool),
            laid_out=int(facts["clipsearch.laid_out"]),
            seed=int(facts["clipsearch.seed"]),
            space=facts["clipsearch.space"],
        )
        wanted, owner = facts["clipsearch.sha256"], facts["clipsearch.index"]
    except (pa.ArrowException, AttributeError, KeyError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _damaged(f"is damaged ({reason})") from error
    if owner != index_uuid:
        raise _damaged("belongs to another index")
    if wanted != _checksum(found) or not bool((np.diff(found.ids) > 0).all()):
        raise _damaged("is damaged (its checksum does not match)")
    return found


def map_problem(index: Path, index_uuid: str) -> str | None:
    """What is wrong with the map kept in an index, None where there is none or it is sound."""
    try:
        read_map(index, index_uuid)
    except IndexFormatError as error:
        return str(error)
    except OSError as error:
        return f"cannot read clusters/{MAP_FILE} in the index: {error.strerror or error}"
    return None


def _damaged(what: str) -> IndexFormatError:
    return IndexFormatError(
        f"clusters/{MAP_FILE} in the index {what}: delete it, and the next map is laid out anew"
    )


def _checksum(found: Coordinates) -> str:
    digest = hashlib.sha256(f"{found.space} {found.seed} {found.laid_out} ".encode())
    digest.update(np.ascontiguousarray(found.ids, "<i8").data)
    digest.update(np.ascontiguousarray(found.xy, "<f4").data)
    digest.update(np.ascontiguousarray(found.anchors, np.int8).data)
    return digest.hexdigest()


def _floats(values: Float32) -> pa.Array:
    data = np.ascontiguousarray(values, "<f4")
    return pa.Array.from_buffers(pa.float32(), len(data), [None, pa.py_buffer(data)])


def _numbers(column: pa.ChunkedArray) -> Float32:
    parts = [as_numpy(chunk.view(pa.int32())).view(np.float32) for chunk in column.chunks]
    return np.concatenate([np.empty(0, np.float32), *parts])
