"""From measured rates to a billion images: time, money, bytes, and what gives way first.

    python benchmarks/scale_simulation.py [--images 10e6 1e9 5e9] [--actors 4 64 320] ...

Every assumption is an option, and all of them are printed above the result. Where they come from:

- measured on two CPU cores, by commands in benchmarks/README.md: bytes an image
  (``index_bytes.py``), what the one process that plans and commits takes (``driver_cost.py``).
  ``--driver FILE`` takes its --json of another machine.
- assumed, for there was no GPU: ``--rate``, images/s of an actor with one GPU. 1,400 is what
  clip-retrieval's README reports of ViT-B/32 on one RTX 3080, images and texts together. Measure
  yours with ``clipsearch bench`` or ``gpu_encode.py`` on one machine of the cluster.
- assumed: failures, stragglers, prices. Prices are examples to be replaced by yours.

What is computed: a run of each index as events (``scale_model.py``), with the shard length that
``index`` would take, failures drawn at random and the same every time for one --seed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from driver_cost import slope
from scale_model import Cluster, Driver, IndexRun, simulate

# Measured: benchmarks/README.md, "A billion images". Bytes are those of camera files, the most.
COMMIT_SECONDS, COMMIT_SHARD_US, MERGE_ROW_US, PLAN_FILE_US = 0.005, 60.0, 1.66, 19.0
METADATA_BYTES, PATH_BYTES, THUMBNAIL_BYTES, MANIFEST_SHARD_BYTES = 248.0, 71.0, 16_700.0, 495.0
CACHE_BYTES = 197.0
DECODE_RATE = 255.0

_PUTS_A_SHARD = 5  # images, vectors, paths, the manifest and its copy
_LISTED = 1000  # objects a request
_A_LANE = 62.5e6  # images, unless --lanes says otherwise
_MOST_ROWS = 8_192  # of a shard, as indexer/estimate.py has it


@dataclass(frozen=True)
class Bytes:
    """What an index takes, by the image unless it says otherwise. dim : numbers of a vector.
    manifest_shard : by the shard. more_cache : beside the vectors, of a machine that searches.
    photo : of the file that is read."""

    dim: int
    metadata: float
    path: float
    thumbnail: float
    manifest_shard: float
    more_cache: float
    photo: float

    @property
    def vector(self) -> float:
        """Half precision, and the id."""
        return 2 * self.dim + 8

    @property
    def cache(self) -> float:
        """On the disk of a machine that searches, thumbnails apart."""
        return self.vector + self.more_cache

    @property
    def truth(self) -> float:
        """What lies in the object storage."""
        return self.metadata + self.vector + self.path


@dataclass(frozen=True)
class Prices:
    """In one currency. actor_hour : with its GPU, its processors and its memory. month : of a
    gigabyte in the object storage. puts, gets : a thousand requests."""

    actor_hour: float
    month: float
    puts: float
    gets: float


@dataclass(frozen=True)
class Scale:
    """What became of a collection.

    indexes : how many, of which ``lanes`` are made at a time. hours : until the last is done;
    ideal_hours : if nothing took any but encoding. waste : share of the actors' time that went
    into nothing that was committed. manifest : bytes of the largest; manifest_written : of all
    that were written, copies included. stored, cached, thumbnails : bytes. read : bytes of photos
    a second, by all actors.
    """

    images: int
    indexes: int
    lanes: int
    actors: int
    hours: float
    ideal_hours: float
    waste: float
    runs: list[IndexRun]
    manifest: float
    manifest_written: float
    stored: float
    cached: float
    thumbnails: float
    read: float
    cost_actors: float
    cost_month: float
    cost_requests: float


def shard_rows(cluster: Cluster, seconds: float) -> int:
    """Images of a shard that takes an actor about so long, as ``index`` would cut it."""
    return max(32, min(_MOST_ROWS, int(cluster.rate * seconds)))


def scale(
    images: int,
    an_index: int,
    lanes: int,
    rows: int,
    cluster: Cluster,
    driver: Driver,
    size: Bytes,
    prices: Prices,
    seed: int = 0,
) -> Scale:
    """Indexes of ``an_index`` images each, ``lanes`` at a time on a like share of the actors."""
    count = math.ceil(images / an_index)
    lanes = min(lanes, count)
    share = Cluster(**{**asdict(cluster), "actors": max(1, cluster.actors // lanes)})
    runs = []
    free: list[float] = [0.0] * lanes  # when each lane is done with what it has
    for number in range(count):
        some = min(an_index, images - number * an_index)
        run = simulate(some, rows, share, driver, seed + number)
        runs.append(run)
        heapq.heapreplace(free, free[0] + run.seconds)
    hours = max(free) / 3600
    shards = [run.shards for run in runs]
    useful = sum(run.busy for run in runs)
    actors = share.actors * lanes
    written = sum(2 * size.manifest_shard * n * (n + 1) / 2 for n in shards)
    return Scale(
        images=images,
        indexes=count,
        lanes=lanes,
        actors=actors,
        hours=hours,
        ideal_hours=images / cluster.rate / actors / 3600,
        waste=1 - useful / (actors * hours * 3600),
        runs=runs,
        manifest=size.manifest_shard * max(shards),
        manifest_written=written,
        stored=images * size.truth,
        cached=images * size.cache,
        thumbnails=images * size.thumbnail,
        read=images * size.photo / hours / 3600,
        cost_actors=actors * hours * prices.actor_hour,
        cost_month=images * size.truth / 1e9 * prices.month,
        cost_requests=(
            (sum(shards) * _PUTS_A_SHARD + images / _LISTED) * prices.puts + images * prices.gets
        )
        / 1000,
    )


def report(found: list[Scale]) -> str:
    """A column a collection."""

    def of_largest(one: Scale) -> IndexRun:
        return max(one.runs, key=lambda run: run.images)

    lines = [
        ("images", [f"{one.images:,}" for one in found]),
        ("indexes, made at a time", [f"{one.indexes:,}, {one.lanes}" for one in found]),
        ("actors", [f"{one.actors:,}" for one in found]),
        ("shards", [f"{sum(run.shards for run in one.runs):,}" for one in found]),
        ("hours", [_number(one.hours) for one in found]),
        ("hours, if nothing but encoding took any", [_number(one.ideal_hours) for one in found]),
        ("actors' time that brought nothing", [f"{one.waste:.1%}" for one in found]),
        ("  planning, hours an index", [_number(of_largest(o).planning / 3600) for o in found]),
        ("  committing, hours an index", [_number(of_largest(o).committing / 3600) for o in found]),
        ("  actors that died", [f"{sum(r.actor_deaths for r in o.runs):,}" for o in found]),
        ("  their work lost, actor-hours", [_number(_lost(one)) for one in found]),
        ("  drivers that died", [f"{sum(r.driver_deaths for r in o.runs):,}" for o in found]),
        ("  shards given up", [f"{sum(len(r.failed) for r in o.runs):,}" for o in found]),
        ("largest manifest, MB", [_number(one.manifest / 1e6) for one in found]),
        ("manifests written in all, GB", [_number(one.manifest_written / 1e9) for one in found]),
        ("stored, TB", [_number(one.stored / 1e12) for one in found]),
        ("caches of who searches it all, TB", [_number(one.cached / 1e12) for one in found]),
        ("thumbnails, where images are indexed, TB", [_number(o.thumbnails / 1e12) for o in found]),
        ("photos read, GB/s", [_number(one.read / 1e9) for one in found]),
        ("actors, price", [_number(one.cost_actors) for one in found]),
        ("requests, price", [_number(one.cost_requests) for one in found]),
        ("storage, price a month", [_number(one.cost_month) for one in found]),
    ]
    return "\n".join(f"{name:42}" + "".join(f"{v:>18}" for v in values) for name, values in lines)


def _lost(one: Scale) -> float:
    return sum(run.lost for run in one.runs) / 3600


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cluster_of(options: argparse.Namespace, actors: int) -> Cluster:
    """So many actors, and else as the options say."""
    return Cluster(
        actors,
        options.rate,
        spread=options.spread,
        slow_share=options.slow_share,
        slow_factor=options.slow_factor,
        mtbf_hours=options.mtbf_hours,
        restart_seconds=options.restart_seconds,
    )


def driver_of(options: argparse.Namespace, shard_bytes: float) -> Driver:
    """Of the options, and of --driver where it is given. shard_bytes : vectors of a shard, which
    the driver reads again, for they come to its own mapped ones."""
    commit, each, merge, plan = (
        options.commit_seconds,
        options.commit_shard_us * 1e-6,
        options.merge_row_us * 1e-6,
        options.plan_file_us * 1e-6,
    )
    if options.driver is not None:
        measured = json.loads(options.driver.read_text())
        commit, each = slope(_numbered(measured["commits"]))
        merge, plan = (
            slope({int(count): value[0] for count, value in measured[name].items()})[1]
            for name in ("merges", "plans")
        )
    network = options.network_mb_s * 1e6
    return Driver(
        plan_seconds=plan + options.list_ms / 1000 / _LISTED,
        commit_seconds=commit + options.upload_seconds + shard_bytes / network,
        commit_shard_seconds=each + 2 * options.manifest_shard_bytes / network,
        merge_every=64,
        merge_seconds=merge + options.path_bytes / network,
        mtbf_hours=options.driver_mtbf_hours,
        restart_seconds=options.driver_restart_seconds,
    )


def sweep(options: argparse.Namespace, size: Bytes) -> str:
    """Images/s that one driver brings in, by the size of its index and by its actors."""
    actors = (1, 4, 8, 16, 32, 64)
    lines = [f"{'images/s of one driver':32}" + "".join(f"{n:>7} actors" for n in actors)]
    for images in (1_000_000, 5_000_000, 12_500_000, 25_000_000, 100_000_000, 1_000_000_000):
        values = []
        for count in actors:
            cluster = cluster_of(options, count)
            rows = shard_rows(cluster, options.shard_seconds)
            driver = driver_of(options, rows * size.vector)
            run = simulate(images, rows, cluster, driver, options.seed)
            values.append(f"{images / run.seconds:>14,.0f}")
        lines.append(f"{f'an index of {images / 1e6:,g} million':32}" + "".join(values))
    return "\n".join(lines)


def _numbered(values: dict[str, float]) -> dict[int, float]:
    return {int(number): value for number, value in values.items()}


def parser() -> argparse.ArgumentParser:
    """The options, which are the assumptions."""
    made = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )

    def add(name: str, default: object, what: str, **more: object) -> None:
        made.add_argument(name, default=default, help=what, **more)

    add("--images", [10e6, 1e9, 5e9], "of the collections", type=float, nargs="+")
    add("--actors", None, "of each collection (4 a lane)", type=int, nargs="+")
    add("--an-index", 12.5e6, "images of an index", type=float)
    add("--lanes", None, "indexes made at a time (one for 62.5 million)", type=int, nargs="+")
    add("--rate", 1400.0, "images/s of an actor (assumed)", type=float)
    add("--shard-seconds", 45.0, "of work in a shard, as index --shard-seconds", type=float)
    for name, what in (
        ("spread", "of a shard's time"),
        ("slow-share", "share of actors that are slow"),
        ("slow-factor", "how slow"),
        ("mtbf-hours", "of an actor; 0: never fails"),
        ("restart-seconds", "of an actor"),
    ):
        add(f"--{name}", getattr(Cluster, name.replace("-", "_")), what, type=float)
    add("--driver-mtbf-hours", 500.0, "of the driver; 0: never fails", type=float)
    add("--driver-restart-seconds", 300.0, "of the driver", type=float)
    add("--driver", None, "what driver_cost.py --json wrote", type=Path, metavar="FILE")
    add("--commit-seconds", COMMIT_SECONDS, "of a commit (measured)", type=float)
    add("--commit-shard-us", COMMIT_SHARD_US, "more a shard there is (measured)", type=float)
    add("--merge-row-us", MERGE_ROW_US, "of a merge, a path (measured)", type=float)
    add("--plan-file-us", PLAN_FILE_US, "of planning, a file (measured)", type=float)
    add("--list-ms", 100.0, "of a listing of 1,000 objects (assumed)", type=float)
    add("--upload-seconds", 0.25, "of the requests of a commit (assumed)", type=float)
    add("--network-mb-s", 100.0, "MB/s to and from the driver (assumed)", type=float)
    add("--dim", 512, "numbers of a vector", type=int)
    add("--metadata-bytes", METADATA_BYTES, "an image (measured)", type=float)
    add("--path-bytes", PATH_BYTES, "an image (measured)", type=float)
    add("--thumbnail-bytes", THUMBNAIL_BYTES, "an image (measured)", type=float)
    add("--manifest-shard-bytes", MANIFEST_SHARD_BYTES, "a shard (measured)", type=float)
    add("--cache-bytes", CACHE_BYTES, "an image, beside its vector (measured)", type=float)
    add("--photo-bytes", 115e3, "of a photo that is read", type=float)
    add("--decode-rate", DECODE_RATE, "images/s of a core (measured, 500 px)", type=float)
    add("--price-actor-hour", 1.0, "an hour of an actor (an example)", type=float)
    add("--price-gb-month", 0.023, "a gigabyte for a month (an example)", type=float)
    add("--price-puts", 0.005, "a thousand (an example)", type=float)
    add("--price-gets", 0.0004, "a thousand (an example)", type=float)
    add("--seed", 0, "of what is drawn at random", type=int)
    made.add_argument("--sweep", action="store_true", help="what one driver brings in, too")
    made.add_argument("--json", type=Path, help="write the numbers there")
    return made


def main() -> None:
    made = parser()
    options = made.parse_args()
    if options.lanes is None:
        options.lanes = [math.ceil(images / _A_LANE) for images in options.images]
    if options.actors is None:
        options.actors = [4 * lanes for lanes in options.lanes]
    for name in ("actors", "lanes"):
        values = getattr(options, name)
        if len(values) not in (1, len(options.images)):
            made.error(f"--{name} takes one number, or one for each of --images")
        setattr(options, name, values * (len(options.images) // len(values)))
    assumed = vars(options)
    print("assumptions")
    for name, value in assumed.items():
        print(f"  --{name.replace('_', '-'):24} {value}")
    size = Bytes(
        options.dim,
        options.metadata_bytes,
        options.path_bytes,
        options.thumbnail_bytes,
        options.manifest_shard_bytes,
        options.cache_bytes,
        options.photo_bytes,
    )
    prices = Prices(
        options.price_actor_hour, options.price_gb_month, options.price_puts, options.price_gets
    )
    found = []
    for images, actors, lanes in zip(options.images, options.actors, options.lanes, strict=True):
        cluster = cluster_of(options, actors)
        rows = shard_rows(cluster, options.shard_seconds)
        driver = driver_of(options, rows * size.vector)
        whole, part = int(images), int(options.an_index)
        found.append(scale(whole, part, lanes, rows, cluster, driver, size, prices, options.seed))
    print()
    print(report(found))
    cores = options.rate / options.decode_rate
    print(f"an actor needs {cores:.1f} cores that decode, or its GPU waits")
    if options.sweep:
        print()
        print(sweep(options, size))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
