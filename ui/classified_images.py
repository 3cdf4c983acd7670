"""The images of a classification: a label's gallery in order, and all of them as a table."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipsearch.cli.result_columns import classification_batch, classification_schema, label_column
from clipsearch.cli.result_files import result_writer
from clipsearch.encoder import Float32
from clipsearch.errors import OptionError
from clipsearch.generation import Generation
from clipsearch.metadata_rows import dates_of
from clipsearch.path_table import PathTable
from clipsearch.records import Classification, Hit
from clipsearch.shards import Int64
from ui.classify_runs import ClassifyRun
from ui.hit_documents import hit_documents
from ui.page_errors import PageError

BEST, DOUBTFUL = "best", "doubtful"
NONE, ALL = -1, -2
"""In the place of a label: what has none of them, and every image."""

_ORDERS_KEPT = 4
_ROWS_AT_ONCE = 65_536
_CHUNK = 1 << 18


def ranked_rows(run: ClassifyRun, result: Classification, label: int, order: str) -> Int64:
    """The (m,) rows of the result that have a label, in an order, remembered for the next page.

    label : its position, NONE or ALL. order : BEST has the most probable first, and of what has
    no label what belongs to them least; DOUBTFUL the images that might as well have another.
    """
    with run.changed:
        known = run.orders.get((label, order))
        if known is not None:
            run.orders.move_to_end((label, order))
            return np.asarray(known)
    given = result.labels[:, 0]
    rows = np.arange(len(given)) if label == ALL else np.flatnonzero(given == label)
    rows = rows[_by_rank(result, rows, label, order)]
    with run.changed:
        run.orders[label, order] = rows
        while len(run.orders) > _ORDERS_KEPT:
            run.orders.popitem(last=False)
    return rows


def _by_rank(result: Classification, rows: Int64, label: int, order: str) -> Int64:
    odds, scores = result.probabilities[rows, 0], result.scores[rows, 0]
    if label == NONE:
        belonging: Float32 = odds if result.in_set is None else result.in_set[rows]
        return np.lexsort((scores, belonging if order == BEST else -belonging))
    if order == BEST:
        has_none = result.labels[rows, 0] < 0
        return np.lexsort((-scores, -odds, has_none))
    # An image without a label is in doubt as far as it nearly belonged to one.
    margins = np.nan_to_num(result.margins[rows], nan=np.inf)
    return np.lexsort((odds, margins))


def gallery(
    state: Generation, result: Classification, rows: Int64, limit: int
) -> list[dict[str, Any]]:
    """The first ``limit`` of some rows as hits of the API; an image that is gone since is left
    out. ``score`` is the probability; ``label``, ``runner_up`` and ``margin`` stand beside it."""
    taken = rows[:limit]
    ids = result.ids[taken]
    names = result.label_names
    hits: list[Hit] = []
    told: list[dict[str, Any]] = []
    for row, image_id, when in zip(taken.tolist(), ids.tolist(), dates_of(state, ids), strict=True):
        places = state.paths.places(image_id)
        if not places:
            continue
        label, second = int(result.labels[row, 0]), int(result.runners_up[row])
        margin = float(result.margins[row])
        odds = float(result.probabilities[row, 0]) if label >= 0 else None
        hits.append(
            Hit(
                id=image_id,
                path=places[0].path,
                score=math.nan if odds is None else odds,
                cosine=float(result.scores[row, 0]),
                missing=places[0].missing,
                taken_at=when,
            )
        )
        told.append(
            {
                "label": names[label] if label >= 0 else None,
                "runner_up": names[second] if second >= 0 else None,
                "margin": None if math.isnan(margin) or label < 0 else round(margin, 4),
            }
        )
    (documents,) = hit_documents(state, [hits])
    return [hit | more for hit, more in zip(documents, told, strict=True)]


def table_schema(result: Classification) -> pa.Schema:
    """The columns of ``table_batches``: those of 'clipsearch classify --out'."""
    return classification_schema(1, abstains=result.in_set is not None)


def table_batches(result: Classification, places: PathTable) -> Iterator[pa.RecordBatch]:
    """A row for every image in order of id, some ten thousand at a time."""
    names = label_column(result.label_names)
    for start in range(0, len(result.ids), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        block = replace(
            result,
            ids=result.ids[part],
            labels=result.labels[part],
            scores=result.scores[part],
            probabilities=result.probabilities[part],
            margins=result.margins[part],
            runners_up=result.runners_up[part],
            in_set=None if result.in_set is None else result.in_set[part],
        )
        yield classification_batch(block, names, places, 1)


def written_table(result: Classification, places: PathTable, form: str) -> Iterator[bytes]:
    """The bytes of a table that was written whole first, so that it is sent whole or not at all."""
    folder = tempfile.TemporaryDirectory(prefix="clipsearch-")
    path = Path(folder.name) / f"labels.{form}"
    try:
        with result_writer(path, table_schema(result)) as write:
            for batch in table_batches(result, places):
                write(batch)
    except OptionError:
        folder.cleanup()
        raise PageError("The table cannot be written: is the disk full?", 500) from None
    except BaseException:
        folder.cleanup()
        raise

    def chunks() -> Iterator[bytes]:
        with folder, open(path, "rb") as file:
            while part := file.read(_CHUNK):
                yield part

    return chunks()
