"""The corpus that the benchmarks run on is a real index, and lies as CLIP's vectors do."""

from __future__ import annotations

import csv
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from clipsearch import open_index
from clipsearch.prompts import class_vectors
from clipsearch.shards import IMAGE_SCHEMA, read_tables
from clipsearch.text_vectors import TextVectorCache
from tests.conftest import Cli

_BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
_SMALL = {"images": 3000, "dim": 256, "labels": 200, "queries": 300, "concepts": 300}


@pytest.fixture(scope="module")
def corpus_py() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_BENCHMARKS)
        yield importlib.import_module("corpus")


@pytest.fixture(scope="module")
def corpus(corpus_py: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return corpus_py.make_corpus(tmp_path_factory.mktemp("corpus") / "small.index", **_SMALL)


@pytest.fixture(scope="module")
def stored(corpus: Any) -> dict[str, Any]:
    """What the index holds, read back: ids, float64 vectors, the concepts of every image."""
    index = open_index(corpus.index)
    state = index.state()
    ids, vectors = index.vectors_of(state.vectors.ids)
    table = read_tables(state.store, state.manifest.images, IMAGE_SCHEMA)
    assert table.column("id").to_pylist() == ids.tolist()
    return {
        "ids": ids,
        "vectors": vectors.astype(np.float64),
        "concepts": table.column("keywords").to_pylist(),
        "camera": np.array(table.column("camera").to_pylist(), object),
    }


def _queries(corpus: Any) -> tuple[list[str], np.ndarray, list[str]]:
    """The held-out texts, their vectors as the cache has them, and what each asks for."""
    texts = corpus.queries_file.read_text().splitlines()
    found = TextVectorCache(corpus.text_cache).get_many(texts)
    asked = [f"concept {number:04d}" for number in corpus.model.query_concepts(len(texts))]
    return texts, np.stack([found[text] for text in texts]).astype(np.float64), asked


def test_texts_and_images_are_apart_as_clips_are(
    corpus: Any, corpus_py: ModuleType, stored: dict[str, Any]
) -> None:
    _, texts, asked = _queries(corpus)
    cosines = texts @ stored["vectors"].T
    alone = np.array([names[0] if len(names) == 1 else "" for names in stored["concepts"]], object)
    matches = np.array(asked, object)[:, None] == alone
    shows = np.array([[name in names for names in stored["concepts"]] for name in asked])
    assert matches.sum() > 500
    assert cosines[matches].mean() == pytest.approx(0.25, abs=0.02)
    assert cosines[~shows].mean() == pytest.approx(0.10, abs=0.015)
    # What a query asks for comes first: ten times as often as by chance.
    best = np.argsort(-cosines, axis=1)[:, :10]
    assert np.take_along_axis(shows, best, axis=1).mean() > 10 * shows.mean()
    # The gap: any text is nearer to any other text than to the image it describes.
    between = texts @ texts.T
    assert between[~np.eye(len(texts), dtype=bool)].mean() > cosines[matches].mean() + 0.15
    offset = texts.mean(axis=0) - stored["vectors"].mean(axis=0)
    assert np.linalg.norm(offset) > 0.7
    rows = stored["vectors"][alone == "concept 0000"]
    same = rows @ rows.T
    assert 0.6 < same[~np.eye(len(rows), dtype=bool)].mean() < 0.7
    measured = corpus_py.measure(corpus)
    assert measured.matching == pytest.approx(cosines[matches].mean(), abs=0.01)
    assert measured.unrelated == pytest.approx(cosines[~shows].mean(), abs=0.01)


def test_rows_are_unit_vectors_in_clusters_of_very_different_size(stored: dict[str, Any]) -> None:
    lengths = np.linalg.norm(stored["vectors"], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-3)
    assert len(stored["ids"]) == 3000
    assert (np.diff(stored["ids"]) > 1).any()  # ids have gaps, as in a real index
    names, counts = np.unique(np.concatenate(stored["concepts"]), return_counts=True)
    assert len(names) == 300
    assert counts.max() > 2 * counts.min()
    assert {len(concepts) for concepts in stored["concepts"]} == {1, 2, 3}


def test_search_answers_from_the_cache_as_numpy_does(
    cli: Cli, corpus: Any, stored: dict[str, Any]
) -> None:
    texts, vectors, _ = _queries(corpus)
    for number in (0, 7):
        done = cli("search", texts[number], "--index", corpus.index, "-k", "20", "--json")
        assert done.returncode == 0, done.stderr
        hits = [json.loads(line) for line in done.stdout.splitlines()]
        scores = stored["vectors"] @ vectors[number]
        order = np.lexsort((stored["ids"], -scores.astype(np.float32)))[:20]
        assert [hit["id"] for hit in hits] == stored["ids"][order].tolist()
        np.testing.assert_allclose([hit["score"] for hit in hits], scores[order], atol=2e-6)


def test_classify_labels_from_the_cache_as_numpy_does(
    cli: Cli, corpus: Any, stored: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "labels.csv"
    done = cli(
        "classify", "--labels-file", corpus.labels_file, "--index", corpus.index, "--out", out
    )
    assert done.returncode == 0, done.stderr
    labels = corpus.labels_file.read_text().splitlines()
    assert labels == [f"concept {number:04d}" for number in range(200)]
    classes = class_vectors(labels, open_index(corpus.index).text_vectors()).astype(np.float64)
    best = (stored["vectors"] @ classes.T).argmax(axis=1)
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == stored["ids"].tolist()
    assert [row["label"] for row in rows] == [labels[position] for position in best]
    known = [names[0] in labels for names in stored["concepts"] if len(names) == 1]
    right = [
        row["label"] == names[0]
        for row, names in zip(rows, stored["concepts"], strict=True)
        if len(names) == 1 and names[0] in labels
    ]
    assert sum(known) == len(right) > 500
    assert np.mean(right) > 0.6


def test_one_image_in_a_hundred_passes_the_filter(
    cli: Cli, corpus: Any, stored: dict[str, Any]
) -> None:
    tables = sys.modules["corpus_tables"]
    done = cli(
        "search", "query 0003", "--where", tables.ONE_IN_A_HUNDRED, "-k", "all",
        "--min-score", "none", "--json", "--index", corpus.index,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {json.loads(line)["id"] for line in done.stdout.splitlines()}
    assert found == set(stored["ids"][stored["camera"] == "Ricoh GR III"].tolist())
    assert 0.005 * 3000 < len(found) < 0.018 * 3000


def test_the_index_is_whole(cli: Cli, corpus: Any) -> None:
    done = cli("verify", "--index", corpus.index, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    done = cli("status", "--index", corpus.index, "--json")
    assert json.loads(done.stdout)["images"] == 3000


def test_the_same_arguments_make_the_same_vectors(
    corpus: Any, corpus_py: ModuleType, tmp_path: Path
) -> None:
    def shards(index: Path) -> list[str]:
        manifest = json.loads((index / "manifest.json").read_text())
        return [shard["rows"] for shard in manifest["embeddings"][manifest["default_space"]]]

    again = corpus_py.make_corpus(tmp_path / "again.index", **_SMALL)
    other = corpus_py.make_corpus(tmp_path / "other.index", **_SMALL, seed=1)
    first, second, third = (open_index(made.index) for made in (corpus, again, other))
    ids = first.state().vectors.ids
    np.testing.assert_array_equal(first.vectors_of(ids)[1], second.vectors_of(ids)[1])
    assert np.abs(first.vectors_of(ids)[1] - third.vectors_of(ids)[1]).max() > 0.1
    assert first.space.fingerprint == second.space.fingerprint != third.space.fingerprint
    assert shards(corpus.index) == [3000]


def _script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(_BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(_BENCHMARKS / name), *map(str, arguments)],
        cwd=_BENCHMARKS.parent,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_as_a_command(tmp_path: Path) -> None:
    arguments = ["--images", 17_000, "--dim", 64, "--queries", 50, "--concepts", 300]
    arguments += ["--labels", 50, "--vector-index"]
    done = _script("corpus.py", tmp_path / "c.index", *arguments)
    assert done.returncode == 0, done.stderr
    figures = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines()[1:])
    assert float(figures["text and matching image"]) == pytest.approx(0.25, abs=0.03)
    assert float(figures["text and other image"]) == pytest.approx(0.10, abs=0.02)
    index = open_index(tmp_path / "c.index")
    assert len(index) == 17_000  # two shards
    assert len(index.search("query 0001", k=5)) == 5
    again = _script("corpus.py", tmp_path / "c.index", *arguments)
    assert again.returncode == 2
    assert "is not empty" in again.stderr


@pytest.mark.slow
def test_the_naive_script_gives_the_same_labels(corpus: Any) -> None:
    done = _script("naive_classify.py", corpus.index)
    assert done.returncode == 0, done.stderr
    assert "same label for 3,000 of 3,000" in done.stdout


@pytest.mark.slow
def test_a_scan_finds_all_that_numpy_finds(corpus: Any) -> None:
    done = _script("search_scale.py", corpus.index, "--queries", 40, "--peers", "faiss")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "1.000)" in line]
    assert [line.split("  ")[0] for line in lines] == [
        "clipsearch --exact",
        "clipsearch, 1 % filter",
        "FAISS SQfp16, scan",
        "FAISS SQfp16, scan, 1 % filter",
    ]
    assert all("1.0000 (0.9" in line for line in lines)


@pytest.mark.slow
def test_a_cold_search_is_measured_without_torch(corpus: Any) -> None:
    done = _script("cold_search.py", "--index", corpus.index, "--runs", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imports torch: no"
