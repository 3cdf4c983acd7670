"""Rows of what an index knows of its images, for hits. Apart from ``metadata``, whose filters a
search without one need not wait for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipsearch.errors import QueryError
from clipsearch.generation import Generation
from clipsearch.recent import Recent
from clipsearch.shards import IMAGE_SCHEMA, Int64, as_numpy, int_array, read_tables


def metadata_of(state: Generation, ids: Sequence[int] | Int64, columns: Sequence[str]) -> pa.Table:
    """The rows of IMAGE_SCHEMA for ``ids``, in their order, with just these columns.

    Only the shards that hold one of the ids are read. Raises QueryError for a column or an id
    that is not there.
    """
    unknown = [name for name in columns if name not in IMAGE_SCHEMA.names]
    if unknown:
        raise QueryError(f"there is no column {unknown[0]!r}: expected {IMAGE_SCHEMA.names}")
    wanted = np.asarray(ids, np.int64)
    schema = pa.schema([IMAGE_SCHEMA.field(name) for name in columns])
    tables = [pa.Table.from_batches([], schema)]
    places = [np.empty(0, np.int64)]
    for of_wanted, table, rows in _parts(state, wanted, columns):
        places.append(of_wanted)
        tables.append(table.select(schema.names).take(int_array(rows)))
    return pa.concat_tables(tables).take(int_array(np.argsort(np.concatenate(places))))


def dates_of(state: Generation, ids: Int64) -> list[datetime | None]:
    """When the photos of (n,) ``ids`` were taken, None where that is not known; as
    ``metadata_of``, but without Arrow's compute functions, which take long to import."""
    dates: list[datetime | None] = [None] * len(ids)
    for of_wanted, table, rows in _parts(state, ids, ["taken_at"], state.dates):
        column = table.column("taken_at")
        for place, row in zip(of_wanted.tolist(), rows.tolist(), strict=True):
            dates[place] = column[row].as_py()
    return dates


def moments_of(state: Generation, ids: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """The dates of ``dates_of`` as (n,) microseconds since 1970, and (n,) bool: which are known.
    Without an object for each: to sort a hundred thousand photos by date takes no time so."""
    moments, known = np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
    for of_wanted, table, rows in _parts(state, ids, ["taken_at"], state.dates):
        parts = [_moments(chunk) for chunk in table.column("taken_at").chunks]
        moments[of_wanted] = np.concatenate([values for values, _ in parts])[rows]
        known[of_wanted] = np.concatenate([there for _, there in parts])[rows]
    return moments, known


def _moments(column: pa.Array) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """(n,) numbers of a column of times, and which of them are there."""
    validity, data = column.buffers()
    values = np.frombuffer(data, np.int64, len(column), 8 * column.offset)
    if validity is None:
        return values, np.ones(len(column), bool)
    bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")
    return values, bits[column.offset : column.offset + len(column)].astype(bool)


def _parts(
    state: Generation,
    wanted: Int64,
    columns: Sequence[str],
    memory: Recent[pa.Table] | None = None,
) -> Iterator[tuple[Int64, pa.Table, Int64]]:
    """For every shard that holds some of ``wanted``: which of them these are, its columns, and
    the rows that they have in it. memory : what holds the columns of the shards that were read
    last."""
    order = np.argsort(wanted, kind="stable")
    rising = wanted[order]
    found = np.zeros(len(wanted), bool)
    for ref in state.manifest.images:
        first, stop = np.searchsorted(rising, (ref.first_id, ref.last_id + 1))
        if first == stop:
            continue
        # Ids rise, and are whole numbers: without a gap the row of each is known.
        is_dense = ref.last_id - ref.first_id + 1 == ref.rows
        names = list(dict.fromkeys([*([] if is_dense else ["id"]), *columns]))
        table = memory.get(ref.name) if memory is not None else None
        if table is None:
            table = read_tables(state.store, [ref], IMAGE_SCHEMA, names)
            if memory is not None:
                memory.put(ref.name, table, table.nbytes)
        here, rows = order[first:stop], rising[first:stop] - ref.first_id
        if not is_dense:
            ids = as_numpy(table.column("id"))
            rows = np.minimum(np.searchsorted(ids, rising[first:stop]), len(ids) - 1)
            known = ids[rows] == rising[first:stop]
            here, rows = here[known], rows[known]
        found[here] = True
        yield here, table, rows
    if not found.all():
        raise QueryError(f"there is no image {int(wanted[~found][0])} in the index")
