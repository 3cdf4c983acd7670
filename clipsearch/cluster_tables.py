"""The Parquet tables of a saved discovery: centroids, clusters and assignments.

Clusters are named by their keys, which stay when clusters come and go; null is no cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipsearch.cluster_files import PARTS, SavedDiscovery, damaged
from clipsearch.clusters import Assignment, Cluster, ClusterModel, Discovery, NameCandidate
from clipsearch.encoder import Float32
from clipsearch.errors import ClusterError
from clipsearch.label_set_tables import WORTH_THREADS
from clipsearch.records import Int32
from clipsearch.shards import as_numpy, int_array

_CANDIDATE = pa.struct(
    [("name", pa.string()), ("score", pa.float64()), ("votes", pa.float64())],
)
_CLUSTER_SCHEMA = pa.schema(
    [
        pa.field("key", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("candidates", pa.list_(_CANDIDATE), nullable=False),
        pa.field("confidence", pa.float64(), nullable=False),
        pa.field("broader", pa.string()),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("typical", pa.list_(pa.int64()), nullable=False),  # ids, the most typical first
        pa.field("doubtful", pa.list_(pa.int64()), nullable=False),
        pa.field("by_hand", pa.bool_(), nullable=False),
    ]
)


def table_of(part: str, discovery: Discovery) -> pa.Table:
    """One of the tables of ``discovery``; part : of ``cluster_files.PARTS``.

    Raises ClusterError for a name that no file can hold.
    """
    model, keys = discovery.model, keys_of(discovery.clusters)
    if part == "centroids":
        return pa.table({"cluster": _keys(keys, model.owners), "vector": _vectors(model.centroids)})
    if part == "assignments":
        found = discovery.assignment
        return pa.table(
            {
                "id": int_array(found.ids),
                "cluster": _keys(keys, found.clusters),
                "cosine": _numbers(found.cosines),
                "margin": _numbers(found.margins),
            }
        )
    for cluster in discovery.clusters:
        _check_words([cluster.name, *(one.name for one in cluster.candidates)])
    rows = [
        {
            **vars(cluster),
            "candidates": [vars(candidate) for candidate in cluster.candidates],
            "typical": list(cluster.typical),
            "doubtful": list(cluster.doubtful),
        }
        for cluster in discovery.clusters
    ]
    return pa.Table.from_pylist(rows, schema=_CLUSTER_SCHEMA)


def file_bytes(table: pa.Table, index_uuid: str) -> pa.Buffer:
    """``table`` as a Parquet file that says whose it is."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(
            {"clipsearch.kind": "clusters", "clipsearch.index": index_uuid}
        ),
        sink,
        compression="zstd",
        row_group_size=65_536,
        write_page_checksum=True,
    )
    return sink.getvalue()


def discovery_of(saved: SavedDiscovery, files: Mapping[str, bytes]) -> Discovery:
    """The discovery in the bytes of its tables, by what they hold.

    Raises IndexFormatError when they are not those that ``saved`` vouches for.
    """
    tables: dict[str, pa.Table] = {}
    for part in PARTS:
        ref = getattr(saved.tables, part)
        if hashlib.sha256(files[part]).hexdigest() != ref.sha256:
            raise damaged(saved.name, f"its table of {part} is not the one that was saved")
        try:
            file = pq.ParquetFile(pa.BufferReader(files[part]))
            tables[part] = file.read(use_threads=len(files[part]) > WORTH_THREADS)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise damaged(saved.name, f"its table of {part} cannot be read ({error})") from error
        if len(tables[part]) != ref.rows:
            raise damaged(saved.name, f"its table of {part} has other rows than were saved")
    try:
        return _discovery(saved, tables)
    except (pa.ArrowException, AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(saved.name, f"its tables do not fit each other ({error})") from error


def _discovery(saved: SavedDiscovery, tables: Mapping[str, pa.Table]) -> Discovery:
    clusters = tuple(
        Cluster(
            **{
                **row,
                "candidates": tuple(NameCandidate(**one) for one in row["candidates"]),
                "typical": tuple(row["typical"]),
                "doubtful": tuple(row["doubtful"]),
            }
        )
        for row in tables["clusters"].select(_CLUSTER_SCHEMA.names).to_pylist()
    )
    keys = keys_of(clusters)
    centroids, assigned = tables["centroids"], tables["assignments"]
    model = ClusterModel(
        centroids=_matrix(centroids.column("vector")),
        owners=_positions(keys, centroids.column("cluster")),
    )
    assignment = Assignment(
        ids=as_numpy(assigned.column("id")),
        clusters=_positions(keys, assigned.column("cluster")),
        cosines=_floats(assigned.column("cosine")),
        margins=_floats(assigned.column("margin")),
    )
    if not bool((np.diff(assignment.ids) > 0).all()):
        raise ValueError("the ids do not rise")
    if not bool(np.isfinite(model.centroids).all()):
        raise ValueError("a centroid is no direction")
    return Discovery(clusters, assignment, model, saved.facts)


def keys_of(clusters: Sequence[Cluster]) -> Int32:
    """(k,) int32: the keys of clusters, in their order."""
    return np.array([cluster.key for cluster in clusters], np.int32)


def _keys(keys: Int32, positions: Int32) -> pa.Array:
    """A column of keys, null where there is no cluster."""
    none = positions < 0
    validity = None
    if none.any():
        validity = pa.py_buffer(np.packbits(~none, bitorder="little").tobytes())
    padded = np.append(keys, np.int32(0))  # what -1 takes
    values = np.ascontiguousarray(padded[np.where(none, -1, positions)], "<i4")
    return pa.Array.from_buffers(pa.int32(), len(values), [validity, pa.py_buffer(values)])


def _positions(keys: Int32, column: pa.ChunkedArray) -> Int32:
    """The (n,) int32 positions of keys, -1 for null; KeyError for a key of no cluster."""
    order = np.argsort(keys, kind="stable").astype(np.int32)
    parts = [np.empty(0, np.int32)]
    for chunk in column.chunks:
        found = np.full(len(chunk), -1, np.int32)
        is_there = as_numpy(pc.is_valid(chunk))
        wanted = as_numpy(chunk)[is_there]
        rows = np.searchsorted(keys, wanted, sorter=order)
        if (rows == len(keys)).any() or (keys[order[rows]] != wanted).any():
            raise KeyError("a cluster is not there")
        found[is_there] = order[rows]
        parts.append(found)
    return np.concatenate(parts)


def _vectors(rows: Float32) -> pa.Array:
    """(n, d) float32 -> a column of lists of d numbers."""
    values = np.ascontiguousarray(rows, "<f4").reshape(-1)
    return pa.FixedSizeListArray.from_arrays(_numbers(values), max(1, rows.shape[1]))


def _matrix(column: pa.ChunkedArray) -> Float32:
    width = column.type.list_size
    parts = [_flat(chunk.flatten()).reshape(-1, width) for chunk in column.chunks]
    return np.concatenate([np.empty((0, width), np.float32), *parts])


def _numbers(values: Float32) -> pa.Array:
    data = np.ascontiguousarray(values, "<f4")
    return pa.Array.from_buffers(pa.float32(), len(data), [None, pa.py_buffer(data)])


def _floats(column: pa.ChunkedArray) -> Float32:
    return np.concatenate([np.empty(0, np.float32), *map(_flat, column.chunks)])


def _flat(values: pa.Array) -> Float32:
    return as_numpy(values.view(pa.int32())).view(np.float32)


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ClusterError(f"{word!r} is no text, so it cannot be saved") from None
