"""A vocabulary is encoded once, a chunk at a time, and kept."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clipsearch.cli import run
from clipsearch.encoder import Encoder, load_encoder
from clipsearch.errors import LabelError, SpaceMismatchError, TextCacheError
from clipsearch.image_index import open_index
from clipsearch.text_vectors import TextCounts, TextVectorCache, TextVectors, default_cache_path
from clipsearch.vocabulary import KeptVocabulary, keep_vocabulary
from tests.conftest import Cli
from tests.test_text_vectors import SPACE, Toy, vectors_of

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cache(tmp_path: Path) -> TextVectorCache:
    return TextVectorCache(tmp_path / "text" / "toy.sqlite")


def test_words_are_kept_once(cache: TextVectorCache) -> None:
    toy = Toy()
    texts = TextVectors(SPACE, lambda: toy, cache)
    words = ["oak", " elm ", "", "oak", "two words", "braces {}"]
    assert keep_vocabulary(words, texts) == KeptVocabulary(4, 4, 0, 4)
    expected = [f"a photo of a {word}" for word in ("oak", "elm", "two words", "braces {}")]
    assert toy.asked == [expected]
    assert texts.last == texts.total == TextCounts(0, 4)
    again = TextVectors(SPACE, lambda: toy, TextVectorCache(cache.path))
    assert keep_vocabulary([*words, "ash"], again) == KeptVocabulary(5, 5, 4, 1)
    np.testing.assert_array_equal(again.encode(expected), vectors_of(expected))
    two = keep_vocabulary(["oak", "a oak"], again, ["{}", "a {}"])
    assert two == KeptVocabulary(2, 3, 0, 3)  # "a oak" comes of both
    with pytest.raises(LabelError, match="got none"):
        keep_vocabulary(["  "], texts)
    with pytest.raises(LabelError, match="template"):
        keep_vocabulary(["oak"], texts, "no braces")


def test_chunks_are_kept_as_they_come(cache: TextVectorCache) -> None:
    toy = Toy()
    texts = TextVectors(SPACE, lambda: toy, cache)
    seen: list[tuple[int, int, int]] = []
    prompts = [f"prompt {i}" for i in range(1000)]

    def watch(done: int, total: int) -> None:
        seen.append((done, total, len(TextVectorCache(cache.path).get_bytes(prompts))))

    texts.on_progress = watch
    np.testing.assert_array_equal(texts.encode([*prompts, prompts[3]])[3], vectors_of(prompts)[3])
    assert [len(part) for part in toy.asked] == [64, 256, 680]
    assert seen == [(0, 1000, 0), (64, 1000, 64), (320, 1000, 320), (1000, 1000, 1000)]
    assert texts.last == TextCounts(0, 1000)


def test_a_slow_encoder_gets_small_chunks(
    cache: TextVectorCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    class Slow(Toy):
        def encode_texts(self, texts: list[str]) -> np.ndarray:  # type: ignore[type-arg,override]
            now[0] += 0.25 * len(texts)  # four a second
            return super().encode_texts(texts)

    monkeypatch.setattr("clipsearch.text_vectors.time.perf_counter", lambda: now[0])
    toy = Slow()
    TextVectors(SPACE, lambda: toy, cache).encode([str(i) for i in range(100)])
    assert [len(part) for part in toy.asked] == [64, 8, 8, 8, 8, 4]  # two seconds each


def test_an_interruption_loses_one_chunk(cache: TextVectorCache) -> None:
    prompts = [f"prompt {i}" for i in range(2000)]
    interrupted = TextVectors(SPACE, Toy, cache)

    def stop(done: int, total: int) -> None:
        if done >= 300:
            raise KeyboardInterrupt

    interrupted.on_progress = stop
    with pytest.raises(KeyboardInterrupt):
        interrupted.keep(prompts)
    toy = Toy()
    rest = TextVectors(SPACE, lambda: toy, TextVectorCache(cache.path))
    assert rest.keep(prompts) == TextCounts(320, 1680)
    assert sorted(itertools.chain(*toy.asked)) == sorted(prompts[320:])
    assert rest.keep(prompts) == TextCounts(2000, 0)


def test_what_cannot_be_kept_is_said_at_once(tmp_path: Path) -> None:
    toy = Toy()
    (tmp_path / "file").write_text("in the way")
    for cache in (None, TextVectorCache(tmp_path / "file" / "text.sqlite")):
        with pytest.raises(TextCacheError, match="cannot keep text vectors"):
            TextVectors(SPACE, lambda: toy, cache).keep(["oak"])
    assert toy.asked == []


def test_a_disk_that_fills_is_said(cache: TextVectorCache, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = TextVectors(SPACE, Toy, cache)
    keep = TextVectorCache.put_many
    count = []

    def full(self: TextVectorCache, some: list[str], rows: np.ndarray) -> bool:  # type: ignore[type-arg]
        count.append(len(some))
        return len(count) < 3 and keep(self, some, rows)

    monkeypatch.setattr(TextVectorCache, "put_many", full)
    with pytest.raises(TextCacheError, match="room"):
        texts.keep([str(i) for i in range(1000)])
    assert len(cache.get_bytes([str(i) for i in range(1000)])) == 320


def test_many_processes_keep_one_vocabulary(cache: TextVectorCache) -> None:
    """Several writers and readers on one file: nobody fails, and every vector is right."""
    code = (
        "import sys\n"
        "from clipsearch.text_vectors import TextVectorCache, TextVectors\n"
        "from tests.test_text_vectors import SPACE, Toy, vectors_of\n"
        "prompts = [f'prompt {i}' for i in range(1500)]\n"
        "turn = int(sys.argv[2]) * 500\n"
        "texts = TextVectors(SPACE, Toy, TextVectorCache(sys.argv[1]))\n"
        "mine = prompts[turn:] + prompts[:turn]\n"
        "for start in range(0, 1500, 50):\n"
        "    texts.keep(mine[start : start + 50])\n"
        "assert (texts.encode(prompts) == vectors_of(prompts)).all()\n"
        "assert texts.last.encoded == 0, texts.last\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(cache.path), str(turn)], cwd=ROOT, env=environment
        )
        for turn in range(3)
    ]
    assert [worker.wait(timeout=100) for worker in workers] == [0, 0, 0]
    prompts = [f"prompt {i}" for i in range(1500)]
    got = cache.get_many(prompts)
    np.testing.assert_array_equal(np.stack([got[p] for p in prompts]), vectors_of(prompts))


def test_command(
    cli: Cli, mini_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A cache of its own: other tests of the session encode whole vocabularies.
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    words = tmp_path / "words.txt"
    words.write_text("# trees\nquaking aspen\n\nbald cypress grove\nquaking aspen\nmañana ☃\n")
    first = cli("vocabulary", words, "--index", mini_index)
    assert first.returncode == 0, first.stderr
    assert first.stdout.decode().startswith("3 words, 3 prompts: 0 known, 3 encoded in ")
    second = cli("vocabulary", words, "--index", mini_index, "--json")
    account = json.loads(second.stdout)
    assert account["seconds"] > 0
    assert account["space"] == open_index(mini_index).space.id
    assert [account[name] for name in ("words", "prompts", "known", "encoded")] == [3, 3, 3, 0]
    seven = cli("vocabulary", words, "--index", mini_index, "--templates", "simple", "--json")
    assert json.loads(seven.stdout)["prompts"] == 21
    # What is kept is what a question asks for, and what torch would give.
    texts = open_index(mini_index).text_vectors()
    rows = texts.encode(["a photo of a bald cypress grove", "a photo of a mañana ☃"])
    assert texts.last == TextCounts(2, 0)
    encoder: Encoder = load_encoder("mini", device="cpu")
    expected = encoder.encode_texts(["a photo of a bald cypress grove", "a photo of a mañana ☃"])
    assert np.einsum("ij,ij->i", rows, expected).min() > 0.999999


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (b"", (), b"holds no words"),
        (b"\xff\xfe\x00", (), b"no UTF-8 text"),
        (None, (), b"expected a file of words at"),
        (b"oak\n", ("--templates", "x"), b"expected templates as"),
    ],
)
def test_command_refuses(
    content: bytes | None, options: tuple[str, ...], said: bytes, cli: Cli, mini_index: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    words = tmp_path / "words.txt"
    if content is not None:
        words.write_bytes(content)
    done = cli("vocabulary", words, "--index", mini_index, *options)
    assert done.returncode == 2
    assert done.stdout == b""
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


def test_standard_input_may_be_closed(
    mini_index: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert run(["vocabulary", "-", "--index", str(mini_index)]) == 2
    assert capfd.readouterr().err == "Error: standard input holds no words: expected one a line\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
def test_command_interrupted(mini_index: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    count = 200_000
    words.write_text("\n".join(f"thing {i} of {i % 7919}" for i in range(count)))
    place = default_cache_path(open_index(mini_index).space.fingerprint)
    prompts = [f"a photo of a thing {i} of {i % 7919}" for i in range(count)]
    running = subprocess.Popen(
        [sys.executable, "-c", "from clipsearch.cli import main; main()", "vocabulary", words,
         "--index", mini_index],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until = time.monotonic() + 300
    while not TextVectorCache(place).get_bytes(prompts[:64]) and time.monotonic() < until:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, errors = running.communicate(timeout=300)
    assert running.returncode == 130, errors
    assert out == b""
    told = errors.decode().split()
    assert "Interrupted." in told
    assert "the same command goes on from there" in errors.decode()
    said = int(told[told.index("Interrupted.") + 1].replace(",", ""))
    kept = len(TextVectorCache(place).get_bytes(prompts))
    assert said <= kept
    assert 64 <= kept < count


def test_another_model_is_still_refused(cache: TextVectorCache) -> None:
    import dataclasses

    other = dataclasses.replace(SPACE, id="other-ffffffffffff", fingerprint="f" * 64)
    with pytest.raises(SpaceMismatchError):
        TextVectors(SPACE, lambda: Toy(other), cache).keep(["oak"])
    assert cache.get_bytes(["oak"]) == {}
