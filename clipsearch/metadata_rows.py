"""Rows of what an index knows of its images, for hits. Apart from ``metadata``, whose filters a
search without one need not wait for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from clipsearch.errors import QueryError
from clipsearch.generation import Generation
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
    rising = np.unique(wanted)
    refs = [
        ref
        for ref in state.manifest.images
        if np.searchsorted(rising, ref.first_id) < np.searchsorted(rising, ref.last_id, "right")
    ]
    table = read_tables(state.store, refs, IMAGE_SCHEMA, list(dict.fromkeys(["id", *columns])))
    here = as_numpy(table.column("id"))
    order = np.argsort(here, kind="stable")
    places = np.searchsorted(here, wanted, sorter=order)
    found = places < len(here)
    found[found] = here[order[places[found]]] == wanted[found]
    if not found.all():
        raise QueryError(f"there is no image {int(wanted[~found][0])} in the index")
    return table.select(list(columns)).take(int_array(order[places]))
