"""What does the one process that plans and commits cost, and how does that grow with an index?

    python benchmarks/driver_cost.py [--shards 500 2000 8000] [--files 50000 200000] [--json FILE]

However many machines encode, one process lists the files, compares them with what the index knows
and commits every shard. Measured here, with the project's own code:

- a commit into an index that has so many shards already: paths, manifest and its copy, the list
  of the mapped vectors. The shards are small: what a commit costs beyond them is what grows.
- the merge of the paths tables that comes with every 64th commit, by the rows there are.
- planning: ``clipsearch index --dry-run`` over so many files that are new (empty but for their
  length, which is all that planning looks at), as a whole process, with its memory; and over an
  index of so many files, none of which is there now (``corpus.py``).

Seconds are of the processor, which other work on the machine blurs least; the process is one, and
next to nothing of it runs in two threads. Linux only.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from corpus import corpus_space, make_corpus
from process_tree import run_tree
from processes import CLIPSEARCH

from clipsearch import __version__
from clipsearch.generation import cache_folder
from clipsearch.manifest import MANIFEST_NAME, Manifest, Root, ShardRef, new_manifest
from clipsearch.shards import (
    IMAGE_SCHEMA,
    PATH_SCHEMA,
    Float32,
    embedding_table,
    write_shard,
    write_table,
)
from clipsearch.store import LocalStore
from clipsearch.vectors import VectorCache
from indexer.commit import Committer
from indexer.file_table import FileTable
from indexer.path_changes import PathChanges

_DIM = 512
_ROWS = 1  # of a shard here
_RECIPE = {
    "device": "cuda",
    "backend": "torch",
    "precision": "float32",
    "decode": "fast",
    "batch_size": 256,
    "versions": {"clipsearch": __version__, "torch": "2.15.0", "pillow": "12.0.0"},
}


@dataclass(frozen=True)
class DriverCost:
    """What was measured. commits : seconds of one, by the shards that were there. manifest : bytes
    of the file, by the same. merges : seconds and bytes that the process grew by at its peak, by
    the rows of the paths table. plans, knowns : seconds and peak bytes of a whole process, by the
    files that are new, and that are known."""

    commits: dict[int, float]
    manifest: dict[int, int]
    merges: dict[int, tuple[float, int]]
    plans: dict[int, tuple[float, int]]
    knowns: dict[int, tuple[float, int]]


def slope(values: dict[int, float]) -> tuple[float, float]:
    """The straight line through measured values: (at none, for each)."""
    if len(values) == 1:
        ((at, value),) = values.items()
        return 0.0, value / at
    each, none = np.polyfit(list(values), list(values.values()), 1)
    return max(0.0, float(none)), float(each)


def commit_cost(folder: Path, shards: int, repeats: int = 5) -> tuple[float, int]:
    """Median seconds of a commit into an index of ``shards`` shards, and bytes of its manifest."""
    store, space = LocalStore(folder), corpus_space(_DIM, 10, 0)
    uuid = new_manifest("").uuid
    pixels = np.full((_ROWS, _DIM), _DIM**-0.5, np.float32)
    image, vector = _shard(store, uuid, space.id, 0, pixels)
    images, vectors = (
        tuple(
            dataclasses.replace(
                ref,
                name=f"{ref.name.rpartition('/')[0]}/{number:05d}.parquet",
                sha256=f"{number:064x}",
                first_id=number * _ROWS,
                last_id=number * _ROWS + _ROWS - 1,
            )
            for number in range(shards)
        )
        for ref in (image, vector)
    )
    manifest = dataclasses.replace(
        new_manifest(f"clipsearch {__version__}"),
        uuid=uuid,
        generation=shards,
        roots=(Root(0, "s3://bucket/photos"),),
        spaces={space.id: space},
        default_space=space.id,
        images=images,
        embeddings={space.id: vectors},
        next_id=shards * _ROWS,
        next_shard=shards,
    )
    _cover(folder, manifest, space.id, pixels)
    committer = Committer(folder, manifest)
    times = []
    for number in range(shards, shards + repeats):
        image, vector = _shard(store, uuid, space.id, number, pixels)
        begin = time.process_time()
        now = committer.manifest
        committer.commit(
            _changes(number),
            images=(*now.images, image),
            embeddings={space.id: (*now.embeddings[space.id], vector)},
        )
        VectorCache(cache_folder(folder), committer.manifest, space.id).update(store)
        times.append(time.process_time() - begin)
    return statistics.median(times), (folder / MANIFEST_NAME).stat().st_size


def _shard(
    store: LocalStore, uuid: str, space_id: str, number: int, vectors: Float32
) -> tuple[ShardRef, ShardRef]:
    ids = np.arange(number * _ROWS, (number + 1) * _ROWS)
    rows = [{"id": int(one), "sha256": bytes(32), "bytes": 0} for one in ids]
    table = pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA)
    name = f"{number:05d}.parquet"
    return (
        write_shard(store, f"images/{name}", table, kind="images", index_uuid=uuid),
        write_shard(
            store,
            f"embeddings/{space_id}/{name}",
            embedding_table(ids, vectors),
            kind="embeddings",
            index_uuid=uuid,
            recipe=_RECIPE,
        ),
    )


def _cover(folder: Path, manifest: Manifest, space_id: str, vectors: Float32) -> None:
    """Map the vectors of all shards, as a run has done when it comes to the next one."""
    cache = VectorCache(cache_folder(folder), manifest, space_id)
    empty = dataclasses.replace(manifest, embeddings={space_id: ()})
    VectorCache(cache_folder(folder), empty, space_id).update(LocalStore(folder))
    current = cache.folder / "current.json"
    document = json.loads(current.read_bytes())
    shards = manifest.embeddings[space_id]
    document["shards"] = [[shard.sha256, shard.rows] for shard in shards]
    document["rows"] = len(shards) * _ROWS
    half = np.tile(vectors.astype("<f2"), (len(shards), 1))
    (cache.folder / f"{document['token']}.f16").write_bytes(half.tobytes())
    ids = np.arange(len(half), dtype="<i8")
    (cache.folder / f"{document['token']}.ids").write_bytes(ids.tobytes())
    current.write_text(json.dumps(document, indent=1))
    assert cache.covers_all()


def _changes(number: int) -> PathChanges:
    changes = PathChanges(datetime.now(UTC))
    paths = pa.chunked_array([pa.array([b"%04d/IMG_%08d.jpg" % (number // 1000, number)])])
    one = np.full(1, number, np.int64)
    files = FileTable(
        roots=np.zeros(1, np.int32),
        paths=paths,
        sizes=one,
        mtimes=one,
        inodes=one.astype(np.uint64),
    )
    changes.note(files, one, "present", np.full(1, -1), np.full(1, -1))
    return changes


def scattered_paths(folder: Path, rows: int, tables: int = 64) -> Manifest:
    """An index of ``tables`` paths tables, one of them of nearly all rows."""
    store, now = LocalStore(folder), datetime.now(UTC)
    manifest = new_manifest(f"clipsearch {__version__}")
    refs, start = [], 0
    for number in range(tables):
        count = rows - (tables - 1) * 64 if number == 0 else 64
        ids = np.arange(start, start + count)
        start += count
        paths = [b"%04d/IMG_%08d.jpg" % (one // 1000, one) for one in ids.tolist()]
        table = pa.table(
            {
                "root": pa.array(np.zeros(count, np.int32)),
                "path": pa.array(paths, pa.binary()),
                "name": pa.array([path.decode() for path in paths]),
                "size": pa.array(ids),
                "mtime_ns": pa.array(ids),
                "inode": pa.array(ids.astype(np.uint64)),
                "id": pa.array(ids),
                "state": pa.array(["present"] * count),
                "first_seen": pa.array([now] * count, PATH_SCHEMA.field("first_seen").type),
                "last_seen": pa.array([now] * count, PATH_SCHEMA.field("last_seen").type),
            },
            schema=PATH_SCHEMA,
        )
        name = f"paths/{number:07d}.parquet"
        refs.append(write_table(store, name, table, kind="paths", index_uuid=manifest.uuid))
    return dataclasses.replace(manifest, paths=tuple(refs), generation=tables)


def merge_cost(folder: Path, manifest: Manifest) -> tuple[float, int]:
    """Seconds of the merge of these paths tables, and bytes that this process grows by: to be
    called in a process of its own."""
    committer = Committer(folder, manifest)
    before, begin = _peak(), time.process_time()
    committer.commit(merge=True)
    return time.process_time() - begin, _peak() - before


def _peak() -> int:
    """Of this process so far; getrusage would tell the peak of who started it, too."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return 1024 * int(found[1]) if found else 0


def plan_cost(work: Path, files: int) -> tuple[float, int]:
    """Processor seconds and peak memory of planning so many new files, none as long as another."""
    photos = work / f"new-{files}"
    for number in range(files):
        path = photos / f"{number // 1000:05d}" / f"IMG_{number:08d}.jpg"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        with open(path, "wb") as file:
            file.truncate(number + 1)
    command = [*CLIPSEARCH, "index", photos, "--index", work / "new.index", "--dry-run", "--json"]
    done = run_tree(command, every=0.02)
    return done.processor, done.peak("resident")


def known_cost(work: Path, files: int) -> tuple[float, int]:
    """Seconds and peak memory of planning with an index of so many files, none of them there."""
    corpus = make_corpus(
        work / f"known-{files}.index", files, dim=8, text_cache=work / f"texts-{files}.sqlite"
    )
    command = [*CLIPSEARCH, "index", "--index", corpus.index, "--dry-run", "--json"]
    done = run_tree(command, every=0.02, allowed=(0, 1))
    return done.processor, done.peak("resident")


def in_its_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` gives, called in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def _merged(folder: Path, rows: int) -> tuple[float, int]:
    manifest = scattered_paths(folder, rows)
    seconds, grown = in_its_own_process(merge_cost, folder, manifest)
    return seconds, grown


def measure(work: Path, shards: list[int], rows: list[int], files: list[int]) -> DriverCost:
    """All of it, in the folder ``work``."""
    commits, manifest = {}, {}
    for count in shards:
        commits[count], manifest[count] = commit_cost(work / f"commit-{count}", count)
    return DriverCost(
        commits,
        manifest,
        {count: _merged(work / f"merge-{count}", count) for count in rows},
        {count: plan_cost(work, count) for count in files},
        {count: known_cost(work, count) for count in files},
    )


def table(cost: DriverCost) -> str:
    """What was measured, and the straight lines through it."""
    lines = ["shards there: seconds of a commit, manifest"]
    for count, seconds in cost.commits.items():
        lines.append(f"  {count:>9,}  {seconds:8.3f} s  {cost.manifest[count] / 1e6:8.2f} MB")
    none, each = slope(cost.commits)
    lines.append(f"  {none:.3f} s and {1e6 * each:.1f} us a shard")
    lines.append(f"  {slope(dict(cost.manifest))[1]:.0f} bytes of manifest a shard")
    for name, each, found in (
        ("rows of the paths table: a merge, and what the process grows by", "row", cost.merges),
        ("files that are new: planning, and the peak of the process", "file", cost.plans),
        ("files that are known: planning, and the peak of the process", "file", cost.knowns),
    ):
        lines.append(name)
        for count, (seconds, peak) in found.items():
            lines.append(f"  {count:>9,}  {seconds:8.3f} s  {peak / 1e6:8.0f} MB")
        more, memory = (
            slope({count: float(value[at]) for count, value in found.items()})[1] for at in (0, 1)
        )
        lines.append(f"  {1e6 * more:.2f} us and {memory:.0f} bytes a {each}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for name, default in (
        ("shards", [500, 2_000, 8_000]),
        ("rows", [200_000, 800_000]),
        ("files", [50_000, 200_000]),
    ):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=default)
    parser.add_argument("--json", type=Path, help="write the numbers there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cost = measure(Path(scratch), arguments.shards, arguments.rows, arguments.files)
    print(table(cost))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(asdict(cost), indent=1) + "\n")


if __name__ == "__main__":
    main()
