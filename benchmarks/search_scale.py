"""Text search over a large corpus: how quick, how much is found, and beside other libraries.

    python benchmarks/corpus.py FOLDER && python benchmarks/search_scale.py FOLDER

Asks with the vectors of held-out texts (never with indexed images, whose neighbours are far
easier to find). Of clipsearch the whole question is timed, ``ImageIndex.search`` from vector to
hits with their paths; of the others, their call that returns ids. What should be found is computed
with NumPy in float32 over all vectors. Recall is of the best ten, with its 95 % interval over the
queries (Wilson's, as ``clipsearch status`` shows it).

``--build`` lets clipsearch's vector index be built anew, and timed, in the index's cache. Of each
peer the quickest setting is shown that reaches --recall, else the one that finds most; --all shows
every one. A peer that is not installed is left out: pip install usearch lancedb
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from corpus_tables import ONE_IN_A_HUNDRED
from search_peers import PEERS, Collection, Int64, Peer, is_there

from clipsearch import Query, open_index
from clipsearch.encoder import Float32
from clipsearch.generation import cache_folder
from clipsearch.image_index import ImageIndex
from clipsearch.manifest import read_manifest
from clipsearch.search_tuning import interval
from clipsearch.store import LocalStore
from clipsearch.threads import in_order
from clipsearch.vectors import Vectors

K = 10
_WARM_UP = 5
_READ_ROWS = 65_536


@dataclass(frozen=True)
class Line:
    """One line of the table. seconds : of every query; found : recall of every query."""

    name: str
    setting: str
    seconds: list[float]
    found: list[float]
    build_seconds: float | None = None
    bytes: int | None = None

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)

    @property
    def recall(self) -> float:
        return statistics.fmean(self.found)

    def __str__(self) -> str:
        built = "-" if self.build_seconds is None else f"{self.build_seconds:,.0f} s"
        size = "-" if self.bytes is None else f"{self.bytes / 1e6:,.0f} MB"
        low, high = interval(self.recall, len(self.found))
        p90 = float(np.quantile(self.seconds, 0.9))
        return (
            f"{self.name:34}{self.setting:24}{1000 * self.p50:9.2f}{1000 * p90:9.2f}"
            f"{self.recall:9.4f} ({low:.3f}-{high:.3f}){built:>9}{size:>11}"
        )


HEADER = f"{'':58}{'p50 ms':>9}{'p90 ms':>9}{'recall@10':>23}{'build':>9}{'size':>11}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--queries", type=int, default=200, help="default 200")
    parser.add_argument("--recall", type=float, default=0.95, help="wanted, default 0.95")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--build", action="store_true", help="build clipsearch's index anew")
    parser.add_argument("--all", action="store_true", help="show every setting of the peers")
    parser.add_argument("--scratch", type=Path, help="where the peers may write")
    arguments = parser.parse_args()
    place = arguments.index.absolute()
    seconds = build(place) if arguments.build else None
    index = open_index(place)
    texts = place.with_name(place.name + ".queries.txt").read_text().splitlines()
    queries = index.text_vectors().encode(texts[: arguments.queries])
    vectors = index.state().vectors
    collection = Collection(vectors, passing(place))
    truth = best_of_all(vectors, queries)
    allowed_truth = best_of_all(vectors, queries, collection.allowed)
    reading = read_once(vectors)
    lines = [
        exact_line(index, queries, truth),
        *chosen_line(index, queries, truth, seconds),
        filtered_line(index, queries, allowed_truth),
    ]
    print(f"exact p50 is {lines[0].p50 / reading:.2f} times reading the vectors once", end="")
    print(f" ({1000 * reading:.1f} ms with several threads)")
    print(f"{len(vectors):,} x {vectors.dim}, {len(queries)} held-out text queries\n{HEADER}")
    for line in lines:
        print(line)
    if arguments.scratch is not None:
        arguments.scratch.mkdir(parents=True, exist_ok=True)
    for name in arguments.peers:
        for peer in PEERS[name]:
            if not is_there(peer):
                print(f"{peer.name:34}is not installed: pip install {peer.package}")
                continue
            with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
                found = peer_lines(peer, collection, queries, truth, allowed_truth, Path(scratch))
            for line in found if arguments.all else fair_choice(found, arguments.recall):
                print(line, flush=True)


def build(place: Path) -> float:
    """Seconds to build the vector index anew, as indexing does."""
    from indexer.commit import Committer

    manifest = read_manifest(LocalStore(place), str(place))
    shutil.rmtree(cache_folder(place) / "faiss", ignore_errors=True)
    begin = time.perf_counter()
    Committer(place, manifest).bring_up_cache()
    return time.perf_counter() - begin


def passing(place: Path) -> Int64:
    """The rising ids that the filter lets pass, read from Parquet without clipsearch."""
    ids = []
    for file in sorted(place.glob("images/*.parquet")):
        table = pq.read_table(file, columns=["id", "camera"])
        is_one = np.array(table["camera"].to_pylist(), object) == ONE_IN_A_HUNDRED.split('"')[1]
        ids.append(table["id"].to_numpy()[is_one])
    return np.sort(np.concatenate(ids)).astype(np.int64)


def best_of_all(vectors: Vectors, queries: Float32, allowed: Int64 | None = None) -> Int64:
    """(m, K) int64: the ids of the best, by float32 scores of every vector."""
    scores = np.full((len(queries), K), -np.inf, np.float32)
    best = np.full((len(queries), K), -1, np.int64)
    for ids, rows in vectors.blocks():
        if allowed is not None:
            keep = np.isin(ids, allowed)
            ids, rows = ids[keep], rows[keep]
        both = np.concatenate([scores, queries @ rows.T], axis=1)
        every = np.concatenate([best, np.broadcast_to(ids, (len(queries), len(ids)))], axis=1)
        kept = np.argsort(-both, axis=1, kind="stable")[:, :K]
        scores = np.take_along_axis(both, kept, axis=1)
        best = np.take_along_axis(every, kept, axis=1)
    return best


def read_once(vectors: Vectors) -> float:
    """Seconds to read every vector, as they are stored, with as many threads as there are
    processors: the least of several."""
    parts = [
        segment[start : start + _READ_ROWS].reshape(-1).view(np.uint64)
        for segment in vectors.segments
        for start in range(0, len(segment), _READ_ROWS)
    ]
    seconds = []
    for _ in range(7):
        begin = time.perf_counter()
        for _ in in_order(np.add.reduce, parts):
            pass
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def ask(
    name: str,
    setting: str,
    search: Callable[[Float32], Sequence[int] | Int64],
    queries: Float32,
    truth: Int64,
    build_seconds: float | None = None,
    size: int | None = None,
) -> Line:
    """Ask every query once, after a few to warm up."""
    for query in queries[:_WARM_UP]:
        search(query)
    seconds, recall = [], []
    for query, right in zip(queries, truth, strict=True):
        begin = time.perf_counter()
        ids = search(query)
        seconds.append(time.perf_counter() - begin)
        wanted = right[right >= 0]
        recall.append(len(np.intersect1d(ids, wanted)) / max(1, len(wanted)))
    return Line(name, setting, seconds, recall, build_seconds, size)


def exact_line(index: ImageIndex, queries: Float32, truth: Int64) -> Line:
    def search(query: Float32) -> list[int]:
        return [hit.id for hit in index.search(Query(vector=query), k=K, exact=True)]

    return ask("clipsearch --exact", "", search, queries, truth)


def chosen_line(
    index: ImageIndex, queries: Float32, truth: Int64, build_seconds: float | None
) -> list[Line]:
    """What answers by itself; nothing where that is the exact search."""
    kind = index.search(Query(vector=queries[0]), k=K).kind
    if kind == "exact":
        return []

    def search(query: Float32) -> list[int]:
        return [hit.id for hit in index.search(Query(vector=query), k=K)]

    files = (index.state().cache / "faiss").rglob("*.faiss")
    size = sum(file.stat().st_size for file in files)
    return [ask("clipsearch", kind, search, queries, truth, build_seconds, size)]


def filtered_line(index: ImageIndex, queries: Float32, truth: Int64) -> Line:
    def search(query: Float32) -> list[int]:
        asked = Query(vector=query, where=ONE_IN_A_HUNDRED)
        return [hit.id for hit in index.search(asked, k=K)]

    return ask("clipsearch, 1 % filter", "", search, queries, truth)


def peer_lines(
    peer: Peer,
    collection: Collection,
    queries: Float32,
    truth: Int64,
    allowed_truth: Int64,
    scratch: Path,
) -> list[Line]:
    """Every setting of a peer, unfiltered and filtered."""
    begin = time.perf_counter()
    built = peer.build(collection, scratch)
    seconds = time.perf_counter() - begin
    lines = []
    for setting in built.settings:
        lines.append(
            ask(
                peer.name,
                setting.name,
                lambda query, way=setting.search: way(query, K),
                queries,
                truth,
                seconds,
                built.bytes,
            )
        )
        if setting.filtered is not None:
            lines.append(
                ask(
                    f"{peer.name}, 1 % filter",
                    setting.name,
                    lambda query, way=setting.filtered: way(query, K),
                    queries,
                    allowed_truth,
                )
            )
    return lines


def fair_choice(lines: list[Line], wanted: float) -> list[Line]:
    """Of each name the quickest setting that finds enough, else the one that finds most."""
    chosen = []
    for name in dict.fromkeys(line.name for line in lines):
        settings = [line for line in lines if line.name == name]
        enough = [line for line in settings if line.recall >= wanted]
        chosen.append(
            min(enough, key=lambda line: line.p50)
            if enough
            else max(settings, key=lambda line: line.recall)
        )
    return chosen


if __name__ == "__main__":
    main()
