"""What a filter costs over a large index, and what DuckDB would cost for the same.

    python benchmarks/filters.py [--images 1000000] [--folder FOLDER]

Writes the metadata and the paths of a made-up index below FOLDER (once), then answers filters
from it, each in a process of its own, cold, and again in the same process, warm. Where DuckDB is
installed it answers the same questions from the same Parquet files, and the counts must agree.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipsearch.encoder import ImageGeometry, Space
from clipsearch.filters import parse_filter
from clipsearch.generation import Generation
from clipsearch.manifest import Root, new_manifest, read_manifest, write_manifest
from clipsearch.metadata import matching_ids
from clipsearch.shards import IMAGE_SCHEMA, PATH_SCHEMA, write_shard, write_table
from clipsearch.store import LocalStore
from clipsearch.vectors import Vectors

ROWS_OF_A_SHARD = 65_536
DISTANCE = (
    "2 * 6371.0088 * asin(sqrt(pow(sin(radians(lat - 48.85) / 2), 2) + cos(radians(lat))"
    " * cos(radians(48.85)) * pow(sin(radians(lon - 2.35) / 2), 2)))"
)
QUESTIONS = {
    "taken = 2019-07": "taken_at >= '2019-07-01' and taken_at < '2019-08-01'",
    'camera ~ "canon"': "contains(lower(camera), 'canon')",
    "near(48.85, 2.35, 25)": f"{DISTANCE} <= 25",
    "keyword = beach": "list_contains(list_transform(keywords, lambda x: lower(x)), 'beach')",
    "taken >= 2019 and rating >= 4 and not (width < 4000 or camera ~ nikon)": (
        "taken_at >= '2019-01-01' and rating >= 4 and not (coalesce(width < 4000, false)"
        " or coalesce(contains(lower(camera), 'nikon'), false))"
    ),
    "exif.ISOSpeedRatings >= 1600": (
        "try_cast(element_at(exif, 'ISOSpeedRatings')[1] as double) >= 1600"
    ),
    "in /photos/2012/trip7": None,
    'name ~ "img_0042"': None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--ask", choices=("clipsearch", "duckdb"), help=argparse.SUPPRESS)
    parser.add_argument("--question", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        return ask(arguments.folder, arguments.ask, arguments.question)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "manifest.json").is_file():
            make_index(folder, arguments.images)
        print(f"{'filter':72} {'engine':10} {'hits':>8} {'import':>7} {'cold':>7} {'warm':>7}  ms")
        for question, sql in QUESTIONS.items():
            counts = set()
            for engine in ("clipsearch", "duckdb") if sql else ("clipsearch",):
                answer = run(folder, engine, question)
                if answer is None:
                    continue
                counts.add(answer["hits"])
                print(
                    f"{question:72} {engine:10} {answer['hits']:8,} {answer['import']:7.0f} "
                    f"{answer['cold']:7.0f} {answer['warm']:7.0f}"
                )
            assert len(counts) == 1, f"{question}: {counts}"


def run(folder: Path, engine: str, question: str) -> dict[str, float] | None:
    """The answer of a fresh process; None without DuckDB."""
    done = subprocess.run(
        [sys.executable, __file__, "--folder", folder, "--ask", engine, "--question", question],
        stdout=subprocess.PIPE,
        check=True,
    )
    answer: dict[str, float] | None = json.loads(done.stdout)
    return answer


def ask(folder: Path, engine: str, question: str) -> None:
    if engine == "duckdb":
        begin = time.perf_counter()
        try:
            import duckdb
        except ImportError:
            print("null")
            return
        imported = time.perf_counter() - begin
        query = f"select id from '{folder}/images/*.parquet' where {QUESTIONS[question]}"

        def answer() -> int:
            return len(duckdb.sql(query).fetchnumpy()["id"])

    else:
        begin = time.perf_counter()
        import pyarrow.compute  # noqa: F401

        imported = time.perf_counter() - begin
        state = open_state(folder)

        def answer() -> int:
            return len(matching_ids(folder, state, parse_filter(question)))

        if "in /" in question:
            _ = state.paths  # a search opens it in any case, to say where its hits are

    seconds = []
    for _ in range(4):
        begin = time.perf_counter()
        hits = answer()
        seconds.append(time.perf_counter() - begin)
    print(
        json.dumps(
            {
                "hits": hits,
                "import": 1000 * imported,
                "cold": 1000 * seconds[0],
                "warm": 1000 * min(seconds[1:]),
            }
        )
    )


def open_state(folder: Path) -> Generation:
    """The generation, with ids for vectors: a filter asks for nothing else of them."""
    store = LocalStore(folder)
    manifest = read_manifest(store, str(folder))
    ids = np.arange(manifest.next_id)
    rows = np.zeros((len(ids), 1), np.float16)
    vectors = Vectors(ids, (rows,), 1, np.empty(0, np.int64))
    space = next(iter(manifest.spaces.values()))
    return Generation(manifest, space, folder / "cache", vectors, None, store)  # type: ignore[arg-type]


def make_index(folder: Path, images: int) -> None:
    """Metadata as of a lifetime of photos: 26 columns, twelve EXIF tags, 40 cameras."""
    folder.mkdir(parents=True, exist_ok=True)
    store = LocalStore(folder)
    space = Space("none-1", "0" * 64, "none", 1, 100.0, None, ImageGeometry(8, 8))
    manifest = dataclasses.replace(
        new_manifest("benchmark"),
        next_id=images,
        roots=(Root(0, "/photos"),),
        next_root=1,
        spaces={"none-1": space},
        default_space="none-1",
    )
    shards = []
    for first in range(0, images, ROWS_OF_A_SHARD):
        table = image_rows(np.arange(first, min(first + ROWS_OF_A_SHARD, images)))
        name = f"images/{first // ROWS_OF_A_SHARD:05}.parquet"
        shards.append(write_shard(store, name, table, kind="images", index_uuid=manifest.uuid))
    paths = write_table(
        store, "paths/0000001-merged.parquet", path_rows(images), kind="paths",
        index_uuid=manifest.uuid,
    )  # fmt: skip
    manifest = dataclasses.replace(manifest, images=tuple(shards), paths=(paths,))
    write_manifest(store, manifest)


def image_rows(ids: np.ndarray) -> pa.Table:
    rng = np.random.default_rng(int(ids[0]))
    count = len(ids)
    makes = ("Canon EOS", "NIKON D", "Apple iPhone", "SONY DSC-RX")
    cameras = np.array([f"{make} {number}" for make in makes for number in range(10)])
    words = np.array(["beach", "Dog", "family", "sunset", "snow", "birthday"])
    known = rng.random(count)
    iso = rng.choice([100, 200, 400, 800, 1600, 3200], count)
    columns = {
        "id": ids,
        "sha256": [int(number).to_bytes(32, "big") for number in ids],
        "bytes": rng.integers(100_000, 9_000_000, count),
        "format": ["JPEG"] * count,
        "width": rng.choice([1600, 3000, 4000, 6000], count),
        "height": rng.choice([1200, 2000, 3000, 4000], count),
        "orientation": rng.integers(1, 9, count),
        "frames": np.ones(count, int),
        "taken_at": pa.array(
            1_000_000_000_000_000 + rng.integers(0, 7 * 10**14, count), mask=known < 0.1
        ).cast(pa.timestamp("us")),
        "utc_offset_minutes": pa.nulls(count),
        "taken_at_source": ["exif:DateTimeOriginal"] * count,
        "lat": pa.array(rng.uniform(40, 55, count), mask=known < 0.5),
        "lon": pa.array(rng.uniform(-5, 20, count), mask=known < 0.5),
        "altitude": pa.nulls(count),
        "camera": pa.array(cameras[rng.integers(0, 40, count)], mask=known > 0.9),
        "lens": pa.nulls(count),
        "keywords": [words[rng.random(6) < 0.1].tolist() for _ in range(count)],
        "description": pa.nulls(count),
        "rating": pa.array(rng.integers(0, 6, count), mask=known < 0.7),
        "phash": rng.integers(0, 2**63, count),
        "exif": [
            [("ISOSpeedRatings", str(number))] + [(f"Tag{tag}", "0.5") for tag in range(11)]
            for number in iso
        ],
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if not isinstance(columns[field.name], pa.Array)
        else columns[field.name].cast(field.type)
        for field in IMAGE_SCHEMA
    ]
    return pa.table(arrays, schema=IMAGE_SCHEMA)


def path_rows(images: int) -> pa.Table:
    names = [
        f"{2000 + number % 24}/trip{number // 24 % 40}/IMG_{number:07}.JPG"
        for number in range(images)
    ]
    now = pa.array([0] * images, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    columns = {
        "root": np.zeros(images, int), "path": [name.encode() for name in names], "name": names,
        "size": np.ones(images, int), "mtime_ns": np.full(images, 1_500_000_000 * 10**9),
        "inode": np.arange(images), "id": np.arange(images), "state": ["present"] * images,
        "first_seen": now, "last_seen": now,
    }  # fmt: skip
    arrays = [pa.array(columns[field.name], field.type) for field in PATH_SCHEMA]
    return pa.table(arrays, schema=PATH_SCHEMA)


if __name__ == "__main__":
    main()
