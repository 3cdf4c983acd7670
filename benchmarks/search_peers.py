"""Other libraries that search vectors, over the same ones: usearch, LanceDB, and plain FAISS.

Each is set up as its documentation recommends, then asked with several settings of effort, of
which the caller takes the quickest that finds enough.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipsearch.encoder import Float32
from clipsearch.vectors import Vectors

Int64 = npt.NDArray[np.int64]
_BATCH = 16_384


@dataclass(frozen=True)
class Collection:
    """What is searched: vectors with their ids, and which ids a filter lets pass."""

    vectors: Vectors
    allowed: Int64

    def batches(self) -> Iterator[tuple[Int64, npt.NDArray[np.float16]]]:
        """(ids, fp16 rows) in order."""
        start = 0
        for segment in self.vectors.segments:
            for begin in range(0, len(segment), _BATCH):
                rows = segment[begin : begin + _BATCH]
                yield self.vectors.ids[start : start + len(rows)], rows
                start += len(rows)


@dataclass(frozen=True)
class Setting:
    """One way to ask. filtered : None where the library cannot filter."""

    name: str
    search: Callable[[Float32, int], Int64]
    filtered: Callable[[Float32, int], Int64] | None = None


@dataclass(frozen=True)
class Built:
    """An index that was built: its size on the disk in bytes, and the ways to ask it."""

    bytes: int
    settings: list[Setting] = field(default_factory=list)


class Peer(Protocol):
    """A library that can be asked. package : what to install."""

    name: str
    package: str

    def build(self, collection: Collection, folder: Path) -> Built: ...


def is_there(peer: Peer) -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec(peer.package) is not None


class FaissFlat:
    """FAISS's SQfp16 in memory: a scan of every vector by one thread."""

    name, package = "FAISS SQfp16, scan", "faiss"

    def build(self, collection: Collection, folder: Path) -> Built:
        import faiss

        dim = collection.vectors.dim
        index = faiss.IndexIDMap(
            faiss.IndexScalarQuantizer(
                dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
            )
        )
        for ids, rows in collection.batches():
            index.add_with_ids(rows.astype(np.float32), ids)
        place = folder / "sqfp16.faiss"
        faiss.write_index(index, str(place))
        selector = faiss.IDSelectorBatch(collection.allowed)
        only = faiss.SearchParameters(sel=selector)
        return Built(
            place.stat().st_size,
            [
                Setting(
                    "",
                    lambda query, k: index.search(query[None], k)[1][0],
                    lambda query, k: index.search(query[None], k, params=only)[1][0],
                )
            ],
        )


class Usearch:
    """HNSW over fp16, as it comes: connectivity 16, 128 candidates an insertion."""

    name, package = "usearch HNSW f16", "usearch"
    efforts = (64, 128, 256, 512, 1024, 2048)

    def build(self, collection: Collection, folder: Path) -> Built:
        from usearch.index import Index, MetricKind

        index = Index(ndim=collection.vectors.dim, metric=MetricKind.IP, dtype="f16")
        for ids, rows in collection.batches():
            index.add(ids.astype(np.uint64), rows)
        place = folder / "usearch.index"
        index.save(str(place))

        def way(effort: int) -> Callable[[Float32, int], Int64]:
            def search(query: Float32, k: int) -> Int64:
                index.expansion_search = effort
                return index.search(query.astype(np.float16), k).keys.astype(np.int64)

            return search

        return Built(
            place.stat().st_size,
            [Setting(f"expansion {effort}", way(effort)) for effort in self.efforts],
        )


class UsearchScan:
    """usearch's own exact search."""

    name, package = "usearch, scan", "usearch"

    def build(self, collection: Collection, folder: Path) -> Built:
        from usearch.index import MetricKind, search

        matrix = np.concatenate([rows for _, rows in collection.batches()])
        ids = collection.vectors.ids

        def ask(query: Float32, k: int) -> Int64:
            found = search(matrix, query.astype(np.float16)[None], k, MetricKind.IP, exact=True)
            return ids[found.keys.reshape(-1).astype(np.int64)]

        return Built(matrix.nbytes, [Setting("", ask)])


class Lance:
    """A LanceDB table with an index of one kind, or none at all. In float32, twice as large:
    with fp16 it builds ten times and answers twice as slowly."""

    package = "lancedb"

    def __init__(self, kind: str | None) -> None:
        self.kind = kind
        self.name = f"LanceDB {kind}" if kind else "LanceDB, scan"

    def build(self, collection: Collection, folder: Path) -> Built:
        import lancedb
        import lancedb.index

        place = folder / f"lance-{self.kind}"
        dim = collection.vectors.dim
        schema = pa.schema(
            [
                ("id", pa.int64()),
                ("vector", pa.list_(pa.float32(), dim)),
                ("allowed", pa.bool_()),
            ]
        )
        allowed = collection.allowed

        def batches() -> Iterator[pa.RecordBatch]:
            for ids, rows in collection.batches():
                flat = pa.array(rows.astype(np.float32).reshape(-1))
                columns = [
                    pa.array(ids),
                    pa.FixedSizeListArray.from_arrays(flat, dim),
                    pa.array(np.isin(ids, allowed)),
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)

        table = lancedb.connect(place).create_table("images", batches(), schema=schema)
        if self.kind is not None:
            kinds = {"IVF_PQ": lancedb.index.IvfPq, "IVF_HNSW_SQ": lancedb.index.HnswSq}
            table.create_index("vector", config=kinds[self.kind](distance_type="dot"))
        size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        return Built(size, [self._setting(table, *effort) for effort in self._efforts()])

    def _efforts(self) -> list[tuple[int | None, int | None]]:
        if self.kind is None:
            return [(None, None)]
        return [(probes, refine) for probes in (10, 20, 50, 100, 200) for refine in (5, 20, 50)]

    def _setting(self, table: Any, probes: int | None, refine: int | None) -> Setting:
        def ask(query: Float32, k: int, only: bool = False) -> Int64:
            asked = table.search(query, vector_column_name="vector")
            asked = asked.distance_type("dot").select(["id", "_distance"]).limit(k)
            if probes is not None:
                asked = asked.nprobes(probes).refine_factor(refine)
            if only:
                asked = asked.where("allowed", prefilter=True)
            return asked.to_arrow()["id"].to_numpy()

        name = "" if probes is None else f"{probes} probes, refine {refine}"
        return Setting(name, ask, lambda query, k: ask(query, k, only=True))


PEERS: dict[str, list[Peer]] = {
    "faiss": [FaissFlat()],
    "usearch": [UsearchScan(), Usearch()],
    "lancedb": [Lance(None), Lance("IVF_PQ"), Lance("IVF_HNSW_SQ")],
}
