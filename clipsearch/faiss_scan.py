"""One query against a mapped fp16 matrix, in place: FAISS's scanner, which decodes in registers.

No FAISS index is built and nothing is copied; a million vectors cost about what reading them
does. The arithmetic is float32, in FAISS's order of summation.
"""

from __future__ import annotations

from typing import Any

import faiss as _typed_faiss
import numpy as np

from clipsearch.encoder import Float32
from clipsearch.shards import Float16, Int64
from clipsearch.threads import in_order

faiss: Any = _typed_faiss  # its type hints leave out what the scanner needs
_ROWS_AT_ONCE = 65_536


def _scanner(query: Float32) -> tuple[Any, tuple[Any, ...]]:
    """A scanner for one query, and what must live as long as it does."""
    dim = len(query)
    codec = faiss.ScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16)
    lists = faiss.IndexFlatIP(dim)
    scanner = codec.select_InvertedListScanner(
        faiss.METRIC_INNER_PRODUCT, lists, False, None, False
    )
    kept = np.ascontiguousarray(query, np.float32)
    scanner.set_query(faiss.swig_ptr(kept))
    scanner.set_list(0, 0.0)
    return scanner, (codec, lists, kept)


def _codes(rows: Float16) -> Any:
    return faiss.swig_ptr(rows.view(np.uint8).reshape(-1))


def _spans(rows: int) -> list[tuple[int, int]]:
    starts = range(0, rows, _ROWS_AT_ONCE)
    return [(start, min(start + _ROWS_AT_ONCE, rows)) for start in starts]


def all_products(matrix: Float16, query: Float32) -> Float32:
    """(n, dim) C-contiguous fp16 rows and a (dim,) float32 query -> (n,) float32 products.

    One that is no number, as a damaged row has, is -inf.
    """
    products = np.empty(len(matrix), np.float32)
    rows = np.arange(min(len(matrix), _ROWS_AT_ONCE), dtype=np.int64)

    def scan(span: tuple[int, int]) -> None:
        start, stop = span
        scanner, _alive = _scanner(query)
        found = faiss.RangeSearchResult(1)
        partial = faiss.RangeSearchPartialResult(found)
        scanner.scan_codes_range(
            stop - start,
            _codes(matrix[start:stop]),
            faiss.swig_ptr(rows),
            -float(np.finfo(np.float32).max),
            partial.new_result(0),
        )
        partial.finalize()
        count = int(faiss.rev_swig_ptr(found.lims, 2)[1])
        scores = faiss.rev_swig_ptr(found.distances, count)
        if count == stop - start:
            products[start:stop] = scores
        else:  # what is no number, or below all, is left out
            products[start:stop] = -np.inf
            products[start + faiss.rev_swig_ptr(found.labels, count)] = scores

    spans = _spans(len(matrix))
    for _ in in_order(scan, spans, 1 if len(spans) == 1 else None):  # no pool for one span
        pass
    return products


def best_products(matrix: Float16, query: Float32, k: int) -> tuple[Float32, Int64]:
    """The (min(k, n),) best products of the rows of ``matrix``, and the rows they are of.

    Best first; which of equal products at the end of the k are among them is left open.
    """
    k = min(k, len(matrix))
    rows = np.arange(len(matrix), dtype=np.int64)

    def scan(span: tuple[int, int]) -> tuple[Float32, Int64]:
        start, stop = span
        scanner, _alive = _scanner(query)
        scores = np.full(k, -np.inf, np.float32)
        found = np.full(k, -1, np.int64)
        scanner.scan_codes(
            stop - start,
            _codes(matrix[start:stop]),
            faiss.swig_ptr(rows[start:stop]),
            faiss.swig_ptr(scores),
            faiss.swig_ptr(found),
            k,
        )
        here = found >= 0
        return scores[here], found[here]

    parts = list(in_order(scan, _spans(len(matrix))))
    scores = np.concatenate([np.empty(0, np.float32), *(part[0] for part in parts)])
    found = np.concatenate([np.empty(0, np.int64), *(part[1] for part in parts)])
    order = np.argsort(-scores, kind="stable")[:k]
    return scores[order], found[order]
