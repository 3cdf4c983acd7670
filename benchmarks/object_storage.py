"""What does object storage cost beside a disk? The same work both ways, against a server here.

    pip install -e ".[cloud,dev]"
    python benchmarks/object_storage.py [--photos 1000] [--source PHOTOS] [--corpus 100000]
        [--latency MS]

moto, an S3 server in Python, runs on the loopback as a process of its own and shares the
processors: what is told is what the S3 path costs here, and no bucket's speed. With --latency every
answer of it comes so much later, through a forwarder, as one of a real bucket does.

- indexing the same photos with ``mini``: from a folder or from the bucket, into a folder or into
  the bucket, a new index and a cache of its own each time; whole processes, medians in turns
- the first search of a machine that has nothing of the index yet, and later ones, beside a folder;
  of those photos, and of a made index (``corpus.py``)
- an update that finds nothing new

Seconds of the processors are the command's with all it starts, without the server's. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from photo_corpus import make_photos
from process_tree import run_tree
from processes import CLIPSEARCH

BUCKET = "benchmark"
Taken = tuple[float, float]
"""Seconds by the clock, and of the processors."""
_WORDS = ("search", "a tall tower")


@dataclass(frozen=True)
class Work:
    """Where things are. env : of every command, with the server and its credentials."""

    folder: Path
    env: dict[str, str]

    def clipsearch(self, cache: Path, *words: str | Path) -> Taken:
        """What one command takes whose caches are in ``cache``."""
        caches = dict.fromkeys(("XDG_CACHE_HOME", "LOCALAPPDATA"), str(cache))
        done = run_tree([*CLIPSEARCH, *words], env={**self.env, **caches}, allowed=(0, 1))
        return done.seconds, done.processor


def free_port() -> int:
    """One that nobody listens to now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def s3_server(log: Path) -> Iterator[int]:
    """The port of a server with an empty bucket, ended with the block."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with open(log, "wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as server:
        try:
            for _ in range(300):
                with contextlib.suppress(OSError):
                    request = urllib.request.Request(
                        f"http://127.0.0.1:{port}/{BUCKET}", method="PUT"
                    )
                    urllib.request.urlopen(request, timeout=5).close()
                    break
                time.sleep(0.1)
            else:
                raise SystemExit(f"moto does not answer: {log.read_text()[-500:]}")
            yield port
        finally:
            server.terminate()


@contextlib.contextmanager
def delayed(port: int, seconds: float) -> Iterator[int]:
    """A port that forwards to ``port`` and hands every answer on so much later."""
    if not seconds:
        yield port
        return
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def forward(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=_pump, args=(server, client, 0.0), daemon=True)
            back.start()
            _pump(client, server, seconds)
            back.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=forward, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.close()


def _pump(source: socket.socket, target: socket.socket, seconds: float) -> None:
    """Hand on what comes. A pause before it stands for a new request, which is held up."""
    last = 0.0
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            if seconds and time.monotonic() - last > seconds / 10:
                time.sleep(seconds)
            target.sendall(data)
            last = time.monotonic()
        target.shutdown(socket.SHUT_WR)


def environment(port: int) -> dict[str, str]:
    """For commands that are to ask the server."""
    return {
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }


def upload(folder: Path, url: str) -> None:
    """All files below ``folder``, by the project's own code, cache left out."""
    from clipsearch.object_store import ObjectStore

    store = ObjectStore(url)
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.is_file() and name.parts[0] != "cache":
            store.upload(file, name.as_posix())


def in_turns(ways: dict[str, Callable[[], Taken]], runs: int) -> dict[str, list[Taken]]:
    """What every way takes, one run of each after the other."""
    times: dict[str, list[Taken]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            times[name].append(way())
    return times


def index_ways(work: Work, photos: Path, url: str) -> dict[str, Callable[[], Taken]]:
    """Indexing from here or there into here or there; the last index of each stays."""

    def way(source: str | Path, target: str | None) -> Callable[[], Taken]:
        counter = iter(range(1000))

        def once() -> Taken:
            number = next(counter)
            place = f"{url}/{target}{number}.index" if target else work.folder / "made.index"
            if not target:
                shutil.rmtree(place, ignore_errors=True)
            cache = work.folder / "index-cache"
            shutil.rmtree(cache / "clipsearch" / "remote", ignore_errors=True)
            return work.clipsearch(cache, "index", source, "--index", place, "--model", "mini")

        return once

    return {
        "folder into a folder": way(photos, None),
        "folder into the bucket": way(photos, "a"),
        "bucket into a folder": way(f"{url}/photos", None),
        "bucket into the bucket": way(f"{url}/photos", "b"),
    }


def search_ways(
    work: Work, cache: Path, local: Path, remote: str, words: tuple[str, ...]
) -> dict[str, Callable[[], Taken]]:
    """Searching one index in a folder and in the bucket, whose words are remembered."""
    work.clipsearch(cache, *words, "--index", local)

    def cold() -> Taken:
        shutil.rmtree(cache / "clipsearch" / "remote", ignore_errors=True)
        return work.clipsearch(cache, *words, "--index", remote)

    return {
        "folder": lambda: work.clipsearch(cache, *words, "--index", local),
        "bucket, nothing of it here": cold,
        "bucket, again": lambda: work.clipsearch(cache, *words, "--index", remote),
    }


def table(title: str, times: dict[str, list[Taken]], images: int = 0) -> None:
    """Medians, beside the first."""
    print(f"\n{title:30}{'seconds':>10}{'':16}{'x':>7}{'processor s':>13}{'x':>7}")
    first: list[float] = []
    for name, values in times.items():
        clock, processor = ([one[at] for one in values] for at in (0, 1))
        middle = [statistics.median(clock), statistics.median(processor)]
        first = first or middle
        rate = f"{images / middle[0]:10.0f} images/s" if images else ""
        spread = f"({min(clock):.2f} to {max(clock):.2f})"
        print(
            f"  {name:28}{middle[0]:10.2f} {spread:15}{middle[0] / first[0]:7.2f}"
            f"{middle[1]:13.2f}{middle[1] / first[1]:7.2f}{rate}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=1000, help="of 500 pixels, made; 0: none")
    parser.add_argument("--source", type=Path, metavar="PHOTOS", help="a folder of real photos")
    parser.add_argument("--corpus", type=int, default=100_000, help="made vectors; 0: none")
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds of an answer")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as scratch,
        s3_server(Path(scratch) / "moto.log") as behind,
        delayed(behind, options.latency / 1000) as port,
    ):
        work = Work(Path(scratch), environment(port))
        os.environ.update(environment(behind))  # of what is put there beforehand
        os.environ["XDG_CACHE_HOME"] = str(work.folder / "own-cache")
        url = f"s3://{BUCKET}"
        print(f"moto on the loopback, {options.latency:g} ms more an answer")
        if options.photos:
            photo_runs(work, url, options.photos, options.source, options.runs)
        if options.corpus:
            corpus_runs(work, url, options.corpus, options.runs)


def photo_runs(work: Work, url: str, count: int, source: Path | None, runs: int) -> None:
    """Indexing and searching photos."""
    photos = work.folder / "photos"
    size = make_photos(photos, count, "500px", source)
    upload(photos, f"{url}/photos")
    ways = index_ways(work, photos, url)
    next(iter(ways.values()))()  # what is remembered of a machine is, for all of them
    times = in_turns(ways, runs)
    table(f"indexing {count:,} photos of {size / count / 1e3:,.0f} kB", times, count)
    made, cache = work.folder / "made.index", work.folder / "cache"
    there = f"{url}/b{runs - 1}.index"
    table("searching them", in_turns(search_ways(work, cache, made, there, _WORDS), runs))
    again = {
        "folder": lambda: work.clipsearch(cache, "index", photos, "--index", made),
        "bucket": lambda: work.clipsearch(cache, "index", f"{url}/photos", "--index", there),
    }
    work.clipsearch(cache, "index", photos, "--index", made)
    table("an update that finds nothing new", in_turns(again, runs))


def corpus_runs(work: Work, url: str, images: int, runs: int) -> None:
    """Searching a made index."""
    from corpus import make_corpus

    corpus = make_corpus(work.folder / "corpus.index", images)
    upload(corpus.index, f"{url}/corpus.index")
    cache = work.folder / "own-cache"  # where the vectors of its texts are
    ways = search_ways(work, cache, corpus.index, f"{url}/corpus.index", ("search", "query 0001"))
    table(f"searching {images:,} x {corpus.space.dim}", in_turns(ways, runs))


if __name__ == "__main__":
    main()
