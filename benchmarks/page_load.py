"""The page under load: searches over HTTP beside the same searches of the engine, and memory.

    python benchmarks/page_load.py INDEX [--queries FILE] [--clients 16] [--seconds 60]
        [--searches 10000]

Starts ``clipsearch ui INDEX`` as a process of its own and asks ``api/search`` for the 60 best
hits of different texts, above the cut-off, as the page does:

  1. the engine alone, in this process: one text after another, and from as many threads as there
     are processors (what the server allows itself);
  2. one client over HTTP; then ``--clients`` at once, each asking again as soon as it is
     answered, for ``--seconds``;
  3. on until the server has answered ``--searches``, its anonymous memory read on the way.

Beside the times stands what an answer takes of the processors, in the server alone: that does not
change with what else goes on.

FILE has a text a line; without it there are everyday words. With corpus.py's index of 100,000
take its FOLDER.queries.txt, whose vectors are in the text cache: then no model is needed. Every
answer must have status 200 and hits, or something below the cut-off; anything else is an error.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

import clipsearch.faiss_scan  # noqa: F401  # as the server has it
from clipsearch import Query, open_index
from clipsearch.background_words import background_words
from clipsearch.threads import worker_count

HITS = 60
_ENGINE_SEARCHES = 200
_START_SECONDS = 120


@dataclass
class Answers:
    """What some clients were answered: milliseconds each, and what went wrong."""

    milliseconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def line(self, name: str, seconds: float, processor: float) -> str:
        """The row of the table. processor : seconds of processor time that it took."""
        p50, p95, p99 = np.percentile(self.milliseconds, [50, 95, 99])
        return (
            f"{name:<34} {len(self.milliseconds):>7,} {len(self.milliseconds) / seconds:>7.1f}/s "
            f"{p50:>8.1f} {p95:>8.1f} {p99:>8.1f} {max(self.milliseconds):>8.1f} "
            f"{1000 * processor / len(self.milliseconds):>7.1f} {len(self.errors):>7,}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--searches", type=int, default=10_000)
    arguments = parser.parse_args()
    texts = _texts(arguments.queries)
    head = ("", "answers", "rate", "p50 ms", "p95 ms", "p99 ms", "longest", "cpu ms", "errors")
    print("{:<34} {:>7} {:>9} {:>8} {:>8} {:>8} {:>8} {:>7} {:>7}".format(*head))
    _engine(arguments.index, texts)
    with _server(arguments.index) as (port, process):
        pid, count, seconds = process.pid, arguments.clients, arguments.seconds
        one = _ask_for(port, pid, texts, 1, min(20.0, seconds), "one client over HTTP")
        many = _ask_for(port, pid, texts, count, seconds, f"{count} clients")
        asked = len(one.milliseconds) + len(many.milliseconds)
        _memory(port, texts, process.pid, arguments.clients, asked, arguments.searches)
    if one.errors or many.errors:
        print("\n".join(sorted(set(one.errors + many.errors))[:10]))
        sys.exit(1)


def _texts(file: Path | None) -> list[str]:
    if file is None:
        return [f"a photo of a {word}" for word in background_words()]
    return [line for line in file.read_text("utf-8").splitlines() if line.strip()]


def _engine(place: Path, texts: list[str]) -> None:
    index = open_index(place)
    in_turn = itertools.cycle(texts)

    def search() -> None:
        index.search(Query(next(in_turn), min_score="auto"), k=HITS, strengths=True)

    for _ in range(5):
        search()
    for threads in sorted({1, worker_count()}):
        answers = Answers()
        began, before = time.perf_counter(), time.process_time()
        _from_threads(
            threads, lambda _, answers=answers: _timed(search, answers), _ENGINE_SEARCHES // threads
        )
        name = f"engine, {threads} thread{'s' if threads > 1 else ''}"
        took = time.perf_counter() - began
        print(answers.line(name, took, time.process_time() - before), flush=True)


def _timed(work: Callable[[], None], answers: Answers) -> None:
    began = time.perf_counter()
    work()
    answers.milliseconds.append(1000 * (time.perf_counter() - began))


def _from_threads(count: int, work: Callable[[int], None], times: int) -> None:
    def run(number: int) -> None:
        for _ in range(times):
            work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def _server(place: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = "from clipsearch.cli import main; main()"
    command = [sys.executable, "-c", program, "ui", str(place), "--port", str(port)]
    process = subprocess.Popen([*command, "--no-browser"], stderr=subprocess.DEVNULL)
    try:
        last = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > last:
                    raise SystemExit("clipsearch ui did not start") from None
                time.sleep(0.2)
        yield port, process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def _client(port: int, texts: Iterator[str], until: Callable[[], bool], answers: Answers) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    while not until():
        address = "/api/search?" + urlencode({"q": next(texts), "limit": HITS})
        began = time.perf_counter()
        try:
            connection.request("GET", address)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            answers.errors.append(type(error).__name__)
            connection.close()
            continue
        answers.milliseconds.append(1000 * (time.perf_counter() - began))
        if answer.status != 200:
            answers.errors.append(f"{answer.status} {body[:200]!r}")
        else:
            found = json.loads(body)
            if not found["hits"] and not found["below"]:
                answers.errors.append(f"nothing found: {address}")
    connection.close()


def _clients(
    port: int, texts: list[str], count: int, until: Callable[[], bool], answers: Answers
) -> float:
    """Ask until it is enough; the seconds that took."""
    shared = itertools.cycle(texts)
    began = time.perf_counter()
    _from_threads(count, lambda _: _client(port, shared, until, answers), 1)
    return time.perf_counter() - began


def _ask_for(
    port: int, pid: int, texts: list[str], count: int, seconds: float, name: str
) -> Answers:
    _clients(port, texts, 1, iter([False] * 5 + [True]).__next__, Answers())  # loads what it needs
    answers = Answers()
    before = _processor_seconds(pid)
    last = time.perf_counter() + seconds
    took = _clients(port, texts, count, lambda: time.perf_counter() > last, answers)
    print(answers.line(name, took, _processor_seconds(pid) - before), flush=True)
    return answers


def _memory(port: int, texts: list[str], pid: int, clients: int, asked: int, wanted: int) -> None:
    """The server's anonymous memory while it goes on answering."""
    print("\nsearches answered, anonymous memory of the server (MB)")
    step = max(1, wanted // 10)
    while True:
        size = _anonymous_bytes(pid)
        if size is None:
            print("this system does not tell it (no /proc)")
            return
        print(f"{asked:>7,} {size / 1e6:>8.1f}", flush=True)
        if asked >= wanted:
            return
        answers = Answers()
        here = min(step, wanted - asked)
        _clients(port, texts, clients, lambda answers=answers, here=here: (
            len(answers.milliseconds) + len(answers.errors) >= here
        ), answers)  # fmt: skip
        asked += len(answers.milliseconds)


def _processor_seconds(pid: int) -> float:
    """What a process has had of the processors; nan on systems that do not tell it (no /proc)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return float("nan")
    user, system = status.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / float(os.sysconf("SC_CLK_TCK"))


def _anonymous_bytes(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    line = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
