"""The cache of text vectors: right, shared, and never in the way."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.encoder import Float32, ImageGeometry, Space, UInt8
from clipsearch.errors import SpaceMismatchError
from clipsearch.text_vectors import TextCounts, TextVectorCache, TextVectors, default_cache_path

ROOT = Path(__file__).resolve().parents[1]
SPACE = Space(
    id="toy-0123456789ab",
    fingerprint="0123456789ab" + "0" * 52,
    model="toy",
    dim=3,
    logit_scale=10.0,
    logit_bias=None,
    geometry=ImageGeometry(8, 8),
)


class Toy:
    """An encoder whose vectors depend on the text alone; counts its calls."""

    def __init__(self, space: Space = SPACE) -> None:
        self.space = space
        self.asked: list[list[str]] = []

    @property
    def recipe(self) -> dict[str, Any]:
        return {}

    def encode_images(self, pixels: UInt8) -> Float32:
        raise AssertionError("no image was asked for")

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        self.asked.append(list(texts))
        return vectors_of(texts)


def vectors_of(texts: Sequence[str]) -> Float32:
    rows = np.array([[len(t) + 1, sum(map(ord, t)) % 97, 1] for t in texts], dtype=np.float32)
    unit: Float32 = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


@pytest.fixture
def cache(tmp_path: Path) -> TextVectorCache:
    return TextVectorCache(tmp_path / "text" / "toy.sqlite")


def test_what_goes_in_comes_out(cache: TextVectorCache) -> None:
    texts = ["cat", "Cat", " cat", "", "犬", "a" * 5000, "quote ' \" \\", "nul \0 inside"]
    vectors = vectors_of(texts)
    assert cache.get_many(texts) == {}
    cache.put_many(texts, vectors)
    again = TextVectorCache(cache.path)
    got = again.get_many([*texts, "dog", "cat"])
    assert set(got) == set(texts)
    for text, vector in zip(texts, vectors, strict=True):
        assert got[text].dtype == np.float32
        assert got[text].flags.writeable
        np.testing.assert_array_equal(got[text], vector)


def test_thousands_at_once(cache: TextVectorCache) -> None:
    texts = [f"prompt {i}" for i in range(5003)]
    cache.put_many(texts, vectors_of(texts))
    got = cache.get_many(texts)
    np.testing.assert_array_equal(np.stack([got[t] for t in texts]), vectors_of(texts))
    assert cache.get_many([]) == {}


def test_numbers_must_agree(cache: TextVectorCache) -> None:
    with pytest.raises(ValueError, match="expected 2 vectors, got 1"):
        cache.put_many(["a", "b"], vectors_of(["a"]))


def test_text_that_is_no_unicode_is_left_out(cache: TextVectorCache) -> None:
    texts = ["bad \udcff", "good"]
    cache.put_many(texts, vectors_of(texts))
    assert set(cache.get_many(texts)) == {"good"}


@pytest.mark.parametrize("damage", ["text", "half", "newer"])
def test_damaged_file_is_replaced(cache: TextVectorCache, damage: str) -> None:
    texts = [f"prompt {i}" for i in range(3000)]
    cache.put_many(texts, vectors_of(texts))
    cache.close()
    if damage == "text":
        cache.path.write_bytes(b"this is no database " * 1000)
    elif damage == "half":
        data = cache.path.read_bytes()
        cache.path.write_bytes(data[:4096] + b"\xab" * (len(data) - 4096))
    else:
        with sqlite3.connect(cache.path) as connection:
            connection.execute("PRAGMA user_version=99")
        connection.close()
    fresh = TextVectorCache(cache.path)
    assert fresh.get_many(texts) == {}
    fresh.put_many(texts, vectors_of(texts))
    assert len(TextVectorCache(cache.path).get_many(texts)) == len(texts)


def test_place_that_cannot_hold_a_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = TextVectorCache(tmp_path / "file" / "text.sqlite")
    cache.put_many(["a"], vectors_of(["a"]))
    assert cache.get_many(["a"]) == {}
    folder = tmp_path / "folder.sqlite"
    folder.mkdir()
    assert TextVectorCache(folder).get_many(["a"]) == {}
    assert folder.is_dir()


def test_locked_file_is_done_without(
    cache: TextVectorCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsearch.text_vectors._BUSY_SECONDS", 0.05)
    cache.put_many(["a"], vectors_of(["a"]))
    other = sqlite3.connect(cache.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    cache.put_many(["b"], vectors_of(["b"]))
    other.execute("ROLLBACK")
    other.close()
    assert set(cache.get_many(["a", "b"])) == {"a"}
    cache.put_many(["b"], vectors_of(["b"]))
    assert set(cache.get_many(["a", "b"])) == {"a", "b"}


def test_threads(cache: TextVectorCache) -> None:
    def work(number: int) -> None:
        for i in range(20):
            texts = [f"{number} {i} {j}" for j in range(5)] + ["shared"]
            cache.put_many(texts, vectors_of(texts))
            assert len(cache.get_many(texts)) == 6

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = [f"{n} {i} {j}" for n in range(4) for i in range(20) for j in range(5)]
    assert len(cache.get_many(wanted)) == 400


def test_two_processes_write_at_once(cache: TextVectorCache) -> None:
    code = (
        "import sys, numpy as np\n"
        "from clipsearch.text_vectors import TextVectorCache\n"
        "cache = TextVectorCache(sys.argv[1])\n"
        "for i in range(100):\n"
        "    cache.put_many([f'{sys.argv[2]} {i}', 'shared'], np.eye(2, 3, dtype=np.float32))\n"
    )
    command = [sys.executable, "-c", code, str(cache.path)]
    writers = [subprocess.Popen([*command, name], cwd=ROOT) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    got = cache.get_many([f"{name} {i}" for name in "ab" for i in range(100)])
    assert len(got) == 200
    assert all(row.tolist() == [1, 0, 0] for row in got.values())
    np.testing.assert_array_equal(cache.get_many(["shared"])["shared"], [0, 1, 0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_opens_its_own_file(cache: TextVectorCache) -> None:
    cache.put_many(["a"], vectors_of(["a"]))
    child = os.fork()
    if child == 0:
        cache.put_many(["b"], vectors_of(["b"]))
        os._exit(0 if set(cache.get_many(["a", "b"])) == {"a", "b"} else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert set(cache.get_many(["a", "b"])) == {"a", "b"}


def test_encode_loads_only_what_is_missing(cache: TextVectorCache) -> None:
    toy = Toy()
    loads = []

    def load() -> Toy:
        loads.append(1)
        return toy

    vectors = TextVectors(SPACE, load, cache)
    texts = ["cat", "dog", "cat"]
    np.testing.assert_array_equal(vectors.encode(texts), vectors_of(texts))
    assert vectors.last == TextCounts(cached=0, encoded=2)
    np.testing.assert_array_equal(vectors.encode(["bird", "dog"]), vectors_of(["bird", "dog"]))
    assert vectors.last == TextCounts(cached=1, encoded=1)
    assert vectors.total == TextCounts(cached=1, encoded=3)
    assert toy.asked == [["cat", "dog"], ["bird"]]
    assert len(loads) == 1

    def refuse() -> Toy:
        raise AssertionError("everything was cached")

    warm = TextVectors(SPACE, refuse, TextVectorCache(cache.path))
    np.testing.assert_array_equal(warm.encode([*texts, "bird"]), vectors_of([*texts, "bird"]))
    assert warm.last == TextCounts(cached=3, encoded=0)
    assert warm.encode([]).shape == (0, 3)


def test_encode_without_a_cache() -> None:
    toy = Toy()
    vectors = TextVectors(SPACE, lambda: toy, None)
    assert vectors.encode(["a", "a"]).shape == (2, 3)
    assert vectors.last == TextCounts(cached=0, encoded=1)


def test_unsound_rows_are_encoded_again(cache: TextVectorCache) -> None:
    cache.put_many(["long"], np.eye(1, 4, dtype=np.float32))
    cache.put_many(["zero"], np.zeros((1, 3), dtype=np.float32))
    cache.put_many(["nan"], np.full((1, 3), np.nan, dtype=np.float32))
    vectors = TextVectors(SPACE, Toy, cache)
    texts = ["long", "zero", "nan"]
    np.testing.assert_array_equal(vectors.encode(texts), vectors_of(texts))
    assert vectors.last.encoded == 3
    vectors.encode(texts)
    assert vectors.last.cached == 3


def test_encoder_of_another_space_is_refused(cache: TextVectorCache) -> None:
    other = dataclasses.replace(SPACE, id="other-ffffffffffff", fingerprint="f" * 64)
    vectors = TextVectors(SPACE, lambda: Toy(other), cache)
    with pytest.raises(SpaceMismatchError, match=r"toy-0123456789ab.*other-ffffffffffff"):
        vectors.encode(["cat"])
    assert cache.get_many(["cat"]) == {}


def test_default_path(tmp_path: Path) -> None:
    expected = tmp_path / "text" / "0123456789ab0000.sqlite"
    assert default_cache_path(SPACE.fingerprint, tmp_path) == expected
    assert default_cache_path(SPACE.fingerprint).parent.name == "text"


def test_no_torch_when_everything_is_cached(cache: TextVectorCache) -> None:
    texts = ["a photo of a cat.", "a photo of a dog."]
    cache.put_many(texts, vectors_of(texts))
    code = (
        "import sys\n"
        "from clipsearch.encoder import ImageGeometry, Space, load_encoder\n"
        "from clipsearch.prompts import class_vectors\n"
        "from clipsearch.text_vectors import TextVectorCache, TextVectors\n"
        "space = Space('toy', '0' * 64, 'mini', 3, 10.0, None, ImageGeometry(8, 8))\n"
        "cache = TextVectorCache(sys.argv[1])\n"
        "vectors = TextVectors(space, lambda: load_encoder('mini'), cache)\n"
        "rows = class_vectors(['cat', 'dog'], vectors, 'a photo of a {}.')\n"
        "assert rows.shape == (2, 3) and vectors.last.cached == 2\n"
        "assert 'torch' not in sys.modules and 'open_clip' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(cache.path)], cwd=ROOT, check=True)
