"""What does Ray cost beside the local runner, on the same work and the same processors?

    python benchmarks/corpus.py FOLDER && python benchmarks/ray_overhead.py FOLDER
        [--photos PHOTOS] [--model mini] [--turns 3] [--labels 10,1000]

First Ray alone: how long a cluster of its own on this machine takes to start, and to have its
actors there. Then, in turns, whole processes of both runners:

- ``clipsearch classify --out x.parquet`` over FOLDER, with few labels and with many; the files
  have to be the same, byte for byte. Once more in one process that is connected already: what
  is left of the difference when nothing has to start.
- with --photos, ``clipsearch index PHOTOS`` into a new index: how far the vectors are apart. They
  are the same where the same images meet in one call of the encoder, else to half precision.

A cluster on one machine has no more processors than the local runner: what is told is what Ray
costs, not what it is for. Prints medians, and Ray's time to the local one's.
"""

from __future__ import annotations

import argparse
import operator
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from processes import CLIPSEARCH, Run, in_megabytes, run

from clipsearch import open_index
from clipsearch.classify import classify
from clipsearch.image_index import ImageIndex
from clipsearch.prompts import read_labels_file
from clipsearch.ray_choice import RayChoice
from clipsearch.ray_labelling import spread_over_ray
from clipsearch.ray_tasks import RayTasks
from clipsearch.spread_scoring import Spread
from clipsearch.threads import worker_count


def ray_alone(choice: RayChoice, turns: int) -> None:
    starting, actors, stopping = [], [], []
    for _ in range(turns):
        begin = time.perf_counter()
        with choice.connected() as cluster:
            starting.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            size = choice.size_on(cluster)
            tasks = RayTasks(cluster, actors=choice.actors_on(cluster, size), size=size)
            assert not any(tasks.run(operator.is_, range(100)))  # the least an actor can do
            actors.append(time.perf_counter() - begin)
            begin = time.perf_counter()
        stopping.append(time.perf_counter() - begin)
    print(
        f"Ray: a cluster is there after {statistics.median(starting):.1f} s; {tasks.actors} "
        f"actors and 100 empty tasks take {statistics.median(actors):.1f} s, its end "
        f"{statistics.median(stopping):.1f} s"
    )


def in_turns(ways: dict[str, Callable[[], Run]], turns: int) -> dict[str, list[Run]]:
    """The runs of each way. One goes before, and is not counted: caches are warm for all."""
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            found = way()
            if turn:
                runs[name].append(found)
    return runs


def tell(what: str, runs: dict[str, list[Run]]) -> None:
    middle = {name: statistics.median(one.seconds for one in found) for name, found in runs.items()}
    peaks = {
        name: max((one.peak for one in found if one.peak is not None), default=None)
        for name, found in runs.items()
    }
    local, ray = middle["local"], middle["ray"]
    print(
        f"{what}: local {local:.2f} s ({in_megabytes(peaks['local'])}), Ray {ray:.2f} s (the "
        f"command itself {in_megabytes(peaks['ray'])}): {ray - local:+.2f} s, {ray / local:.2f} x"
    )


def classify_processes(index: Path, labels: Path, many: int, words: list[str], turns: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        outs = {name: Path(scratch, f"{name}.parquet") for name in ("local", "ray")}

        def way(name: str) -> Callable[[], Run]:
            more = words if name == "ray" else []
            command: list[str | Path] = [
                *CLIPSEARCH, "classify", "--none", "off", "--labels-file", labels,
                "--index", index, "--out", outs[name], *more,
            ]  # fmt: skip
            return lambda: run(command)

        tell(f"classify, {many:,} labels", in_turns({name: way(name) for name in outs}, turns))
        same = outs["local"].read_bytes() == outs["ray"].read_bytes()
        print(f"  the files are {'the same, byte for byte' if same else 'NOT the same'}")


def classify_connected(
    opened: ImageIndex, names: tuple[str, ...], choice: RayChoice, turns: int
) -> None:
    """Scoring alone: every image's labels come back, and nothing is written."""
    seconds: dict[str, list[float]] = {"local": [], "ray": [], "counted": []}

    def scored(spread: Spread | None) -> float:
        labelling = classify(opened.state(), opened.text_vectors(), names, spread=spread)
        begin = time.perf_counter()
        for _ in labelling:
            pass
        assert labelling.images == len(opened)
        return time.perf_counter() - begin

    with choice.connected():
        for turn in range(turns + 1):
            for way in seconds:
                if way == "local":
                    taken = scored(None)
                else:
                    with spread_over_ray(choice, rows=way == "ray") as spread:
                        taken = scored(spread)
                if turn:
                    seconds[way].append(taken)
    middle = {way: statistics.median(found) for way, found in seconds.items()}
    print(
        f"  connected already, with new actors, {len(names):,} labels: local "
        f"{middle['local']:.2f} s, Ray {middle['ray']:.2f} s with every image's labels, "
        f"{middle['counted']:.2f} s where they are only counted"
    )


def index_processes(photos: Path, model: str, words: list[str], turns: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        built: dict[str, list[Path]] = {"local": [], "ray": []}

        def way(name: str) -> Callable[[], Run]:
            def build() -> Run:
                place = Path(scratch, f"{name}-{len(built[name])}.index")
                built[name].append(place)
                more = words if name == "ray" else []
                command: list[str | Path] = [
                    *CLIPSEARCH,
                    "index",
                    photos,
                    "--model",
                    model,
                    "--index",
                    place,
                ]
                return run([*command, *more], allowed=(0, 3))

            return build

        runs = in_turns({name: way(name) for name in built}, turns)
        one, other = (open_index(places[-1]).state().vectors for places in built.values())
        tell(f"index, {len(one):,} images with {model}", runs)
        same_ids = np.array_equal(one.ids, other.ids)
        print(f"  ids are {'the same' if same_ids else 'NOT the same'}", end="")
        if same_ids:
            (_, mine), (_, theirs) = one.take(one.ids), other.take(other.ids)
            print(f"; vectors differ by {np.abs(mine - theirs).max():.1e} at most", end="")
        print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--labels-file", type=Path, help="default: FOLDER.labels.txt")
    parser.add_argument("--labels", default="10,1000", help="how many, with commas between")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--actors", type=int, default=worker_count())
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    index = arguments.index.absolute()
    labels_file = arguments.labels_file or index.with_name(index.name + ".labels.txt")
    names = read_labels_file(labels_file)
    choice = RayChoice(actors=arguments.actors, cpus=1.0)
    opened = open_index(index)
    print(f"{len(opened):,} images x {opened.space.dim}; {arguments.actors} actors of 1 CPU")
    ray_alone(choice, arguments.turns)
    with tempfile.TemporaryDirectory() as scratch:
        for many in map(int, filter(None, arguments.labels.split(","))):
            some = Path(scratch, f"{many}.txt")
            some.write_text("\n".join(names[:many]) + "\n", encoding="utf-8")
            classify_processes(index, some, many, choice.words(), arguments.turns)
            classify_connected(opened, tuple(names[:many]), choice, arguments.turns)
    if arguments.photos is not None:
        index_processes(
            arguments.photos.absolute(), arguments.model, choice.words(), arguments.turns
        )


if __name__ == "__main__":
    main()
