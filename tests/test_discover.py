"""From stored vectors to named clusters: the library on vectors whose groups are known, and the
real command line on real pictures."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch.cluster_recipe import METHODS, RECIPE, group_sample
from clipsearch.discover import DiscoverSettings, discover, suggest_names
from clipsearch.errors import LabelError, OptionError
from clipsearch.generation import Generation
from clipsearch.group_means import unit_rows
from clipsearch.image_index import open_index
from clipsearch.nouns import Vocabulary
from clipsearch.spherical_kmeans import train_centroids
from clipsearch.vectors import Vectors

_WORDS = ("dog", "tower", "flower", "car", "beach", "cup", "horse", "piano", "bridge", "snow",
          "lion", "logo", "butterfly", "forest", "drawing")  # fmt: skip


def _state(index: Path, rows: np.ndarray, deleted: tuple[int, ...] = ()) -> Generation:
    """The generation of an index with other vectors in it, of ids 100, 101, ..."""
    state = open_index(index).state()
    ids = np.arange(100, 100 + len(rows), dtype=np.int64)
    if len(rows):
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = Vectors(ids, (rows.astype("<f2"),), state.space.dim, np.array(deleted, np.int64))
    return dataclasses.replace(state, vectors=vectors)


def _groups(dim: int, sizes: tuple[int, ...], *, spread: float = 0.3, seed: int = 0):
    """(n, dim) rows around random directions, mixed, and which direction each is around."""
    draws = np.random.default_rng(seed)
    centres = draws.standard_normal((len(sizes), dim)) / dim**0.5
    truth = draws.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return centres[truth] + spread * draws.standard_normal((len(truth), dim)) / dim**0.5, truth


@pytest.fixture
def dim(mini_index: Path) -> int:
    return open_index(mini_index).space.dim


@pytest.fixture
def texts(mini_index: Path):
    return open_index(mini_index).text_vectors()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("asked", [4, None])
def test_groups_that_are_there_are_found(mini_index, texts, dim, method, asked):
    rows, truth = _groups(dim, (60, 40, 30, 20))
    state = _state(mini_index, rows, deleted=(103, 149))
    if method == "hdbscan" and asked:
        with pytest.raises(OptionError, match="leave out k"):
            discover(state, texts, DiscoverSettings(method, asked))
        return
    stages: list[tuple[str, int, int]] = []
    found = discover(
        state, texts, DiscoverSettings(method, asked), on_stage=lambda *stage: stages.append(stage)
    )
    assert len(found) == 4
    kept = np.setdiff1d(np.arange(len(rows)), (3, 49))
    assert found.assignment.ids.tolist() == (kept + 100).tolist()
    assert [cluster.size for cluster in found.clusters] == sorted(
        np.bincount(truth[kept]).tolist(), reverse=True
    )
    for position, cluster in enumerate(found.clusters):
        members = found.assignment.members(position)
        assert len(set(truth[members - 100])) == 1
        assert set(cluster.typical) <= set(members.tolist())
        assert not set(cluster.typical) & set(cluster.doubtful)
        assert cluster.name == f"cluster {position + 1}"
    assert ("placing images", 148, 148) in stages
    assert (found.facts.criterion is None) == (asked is not None or method == "hdbscan")


def test_the_same_again_and_on_any_number_of_threads(mini_index, texts, dim, monkeypatch):
    rows, _ = _groups(dim, (70, 50, 40, 30, 20, 10), spread=1.2)
    state = _state(mini_index, rows)
    settings = DiscoverSettings(vocabulary=Vocabulary("words", _WORDS), n_clusters=5, seed=3)
    first = discover(state, texts, settings)
    for workers in (1, 3):
        for module in ("threads", "spherical_kmeans", "cluster_count", "group_means"):
            monkeypatch.setattr(f"clipsearch.{module}.worker_count", lambda n=workers: n)
        again = discover(state, texts, settings)
        assert again.clusters == first.clusters
        assert again.model.centroids.tobytes() == first.model.centroids.tobytes()


def test_names_are_of_the_vocabulary_and_no_two_alike(mini_index, texts, dim):
    words = texts.encode([f"a photo of a {word}" for word in _WORDS])
    draws = np.random.default_rng(1)
    rows = np.repeat(words[:6], 12, axis=0)
    rows = rows + 0.3 * draws.standard_normal(rows.shape) / dim**0.5
    state = _state(mini_index, rows)
    vocabulary = Vocabulary("words", _WORDS)
    found = discover(state, texts, DiscoverSettings(n_clusters=6, vocabulary=vocabulary))
    # Every group was made around the vector of one word: that has to be its name.
    expected = {100 + 12 * group: _WORDS[group] for group in range(6)}
    for position, cluster in enumerate(found.clusters):
        first = int(found.assignment.members(position)[0])
        assert cluster.name == expected[first]
        assert cluster.candidates[0].name == cluster.name
        assert len(cluster.candidates) == 3
        assert cluster.confidence == pytest.approx(1, abs=0.1)
    assert len({cluster.name for cluster in found.clusters}) == 6
    again = suggest_names(state, texts, found, vocabulary)
    assert [name.name for name in again] == [cluster.name for cluster in found.clusters]


def test_more_clusters_than_words_get_numbers_unless_names_may_be_shared(mini_index, texts, dim):
    rows, _ = _groups(dim, (10, 10, 10))
    state = _state(mini_index, rows)
    settings = DiscoverSettings(n_clusters=3, vocabulary=Vocabulary("one", ("dog",)))
    names = [cluster.name for cluster in discover(state, texts, settings).clusters]
    assert sorted(names) == ["dog", "dog 2", "dog 3"]
    shared = dataclasses.replace(settings, shared_names=True)
    assert [cluster.name for cluster in discover(state, texts, shared).clusters] == ["dog"] * 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("asked", [None, 7])
@pytest.mark.parametrize("images", [0, 1, 2, 5])
def test_few_images(mini_index, texts, dim, method, asked, images):
    asked = None if method == "hdbscan" else asked
    rows = np.random.default_rng(images).standard_normal((images, dim))
    settings = DiscoverSettings(method, asked, vocabulary=Vocabulary("words", _WORDS))
    found = discover(_state(mini_index, rows), texts, settings)
    assert len(found.assignment) == images
    assert sum(cluster.size for cluster in found.clusters) <= images
    assert len(found) == (images if asked else min(len(found), 1))
    if images == 1 and method != "hdbscan":
        assert len(found) == 1
    for cluster in found.clusters:
        assert cluster.name in _WORDS
        assert np.isfinite([one.score for one in cluster.candidates]).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("asked", [None, 5])
def test_images_that_are_all_the_same_are_one_cluster(mini_index, texts, dim, method, asked):
    asked = None if method == "hdbscan" else asked
    rows = np.tile(np.random.default_rng(0).standard_normal(dim), (40, 1))
    settings = DiscoverSettings(method, asked, vocabulary=Vocabulary("words", _WORDS))
    found = discover(_state(mini_index, rows), texts, settings)
    assert [cluster.size for cluster in found.clusters] == [40]
    assert (found.model.owners == 0).all()  # no centroid of nobody catches a later image
    assert found.clusters[0].name in _WORDS


@pytest.mark.parametrize("method", ["recipe", "agglomerative"])
@pytest.mark.parametrize("asked", [10, 25, 200])
def test_more_clusters_than_can_be_linked(monkeypatch, method, asked):
    """Linkage holds the square of its points: they are never more than a bound."""
    monkeypatch.setattr("clipsearch.cluster_recipe._MOST_POINTS", 10)
    linked = []
    for name in ("ward_linkage", "average_linkage"):
        monkeypatch.setattr(f"clipsearch.cluster_recipe.{name}", lambda *points: linked.append(1))
    rows = unit_rows(np.random.default_rng(0).standard_normal((60, 16)))
    grouping = group_sample(
        rows, method, asked, None, rows[:0], 100.0,
        seed=0, images=60_000, on_stage=lambda *stage: None,
    )  # fmt: skip
    assert not linked
    assert grouping.model.owners.tolist() == list(range(min(asked, 60)))
    np.testing.assert_array_equal(grouping.model.centroids, train_centroids(rows, asked, seed=0))


def test_what_makes_no_sense(mini_index, texts, dim, monkeypatch):
    state = _state(mini_index, np.eye(dim))
    with pytest.raises(OptionError, match="got 'magic'"):
        discover(state, texts, DiscoverSettings("magic"))
    with pytest.raises(OptionError, match="1 or more clusters, got 0"):
        discover(state, texts, DiscoverSettings(RECIPE, 0))
    with pytest.raises(OptionError, match="1 or more images, got 0"):
        discover(state, texts, DiscoverSettings(least_size=0))
    monkeypatch.setattr("clipsearch.discover._SAMPLE_BYTES", 40 * dim)  # not all are grouped
    with pytest.raises(OptionError, match="seed of 0 or more, got -1"):
        discover(state, texts, DiscoverSettings(seed=-1))
    words = Vocabulary("words", _WORDS)
    with pytest.raises(OptionError, match="leave out k"):  # before a text is encoded
        discover(state, None, DiscoverSettings("hdbscan", 3, vocabulary=words))
    with pytest.raises(LabelError, match="vocabulary is empty"):
        discover(state, texts, DiscoverSettings(n_clusters=2, vocabulary=Vocabulary("none", ())))


def test_images_of_too_small_clusters_are_in_none(mini_index, texts, dim):
    rows, truth = _groups(dim, (30, 20, 3), spread=0.1)
    state = _state(mini_index, rows)
    found = discover(state, texts, DiscoverSettings(n_clusters=3, least_size=5))
    assert [cluster.size for cluster in found.clusters] == [30, 20]
    assert set(truth[found.assignment.clusters < 0]) == {2}
    assert (found.model.owners < 0).sum() == 1, "a later image like them is in none either"


def test_what_is_left_over_is_no_cluster_of_its_own(mini_index, texts, dim):
    rows, truth = _groups(dim, (60, 50, 40), spread=0.6)
    draws = np.random.default_rng(5)
    strangers = draws.standard_normal((14, dim)) / dim**0.5
    state = _state(mini_index, np.concatenate([rows, strangers]))
    found = discover(state, texts, DiscoverSettings())
    none = found.assignment.clusters < 0
    assert none[len(rows) :].mean() > 0.5
    assert not none[: len(rows)].any()
    for group in range(3):
        assert len(set(found.assignment.clusters[: len(rows)][truth == group])) == 1
    everyone = discover(state, texts, DiscoverSettings(n_clusters=len(found)))
    assert (everyone.assignment.clusters >= 0).all(), "where k is given every image is in one"


# -- the command line -------------------------------------------------------------------


@pytest.fixture
def words(tmp_path: Path) -> Path:
    place = tmp_path / "words.txt"
    place.write_text("\n".join(_WORDS) + "\n", encoding="utf-8")
    return place


def _json(output: bytes) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def test_discover_then_classify(cli, cli_here, mini_index):
    result = cli("discover", "--k", "4", "--save-as", "things", "--index", mini_index, "--json")
    assert result.returncode == 0, result.stderr
    clusters = _json(result.stdout)
    images = len(open_index(mini_index))
    assert len(clusters) == 4
    assert sum(cluster["images"] for cluster in clusters) == images
    names = [cluster["name"] for cluster in clusters]
    assert len(set(names)) == 4
    for cluster in clusters:
        assert len(cluster["candidates"]) == 3
        assert 0 <= cluster["confidence"] <= 1
        assert all(Path(image["path"]).is_file() for image in cluster["typical"])
    assert b"clipsearch classify --labels @things" in result.stderr

    labelled = cli("classify", "--labels", "@things", "--index", mini_index)
    assert labelled.returncode == 0, labelled.stderr
    assert {line.split(b"\t")[1].decode() for line in labelled.stdout.splitlines()} <= set(names)
    assert len(labelled.stdout.splitlines()) == images
    counts = cli_here("labels", "things", "--index", mini_index, "--json")
    assert {row["label"]: row["images"] for row in _json(counts.stdout)} == {
        cluster["name"]: cluster["images"] for cluster in clusters
    }
    hits = cli_here("search", "--label", f"things:{names[0]}", "-k", "all", "--index", mini_index)
    assert len(hits.stdout.splitlines()) == clusters[0]["images"]
    assert cli_here("tag", "--labels", "@things", "--index", mini_index).returncode == 0
    shown = cli_here("clusters", "things", "--index", mini_index, "--json")
    assert _json(shown.stdout) == clusters

    tables = list((mini_index / "clusters").glob("*.parquet"))
    columns = {name for table in tables for name in pq.read_schema(table).names}
    assert {"id", "cluster", "name", "candidates"} <= columns
    assert cli_here("verify", "--index", mini_index).returncode == 0


def test_formats_and_filters(cli_here, mini_index, words):
    cut = ("discover", "--vocab", words, "--index", mini_index)
    plain = cli_here(*cut, "--k", "3")
    rows = [line.split(b"\t") for line in plain.stdout.splitlines()]
    assert len(rows) == 3
    assert {row[0].decode() for row in rows} <= set(_WORDS)
    table = cli_here(*cut, "--k", "3", "--csv")
    parsed = list(csv.DictReader(io.StringIO(table.stdout.decode())))
    assert [row["images"] for row in parsed] == [row[1].decode() for row in rows]
    png = cli_here(*cut, "--k", "2", "--where", "format = png", "--json")
    expected = len(open_index(mini_index).matching("format = png"))
    assert sum(cluster["images"] for cluster in _json(png.stdout)) == expected
    unnamed = cli_here(*cut, "--vocab", "none", "--k", "2", "--json")
    assert [cluster["name"] for cluster in _json(unnamed.stdout)] == ["cluster 1", "cluster 2"]
    before = (mini_index / "clusters" / "discovered.json").read_bytes()
    unlike = cli_here(*cut, "--k", "3", "--least", "10000")
    assert (unlike.returncode, unlike.stdout) == (1, b"")
    assert b"No images are alike enough to be a cluster, so nothing was kept." in unlike.stderr
    assert (mini_index / "clusters" / "discovered.json").read_bytes() == before
    nothing = cli_here(*cut, "--where", "format = bmp")
    assert nothing.returncode == 1
    assert nothing.stderr.decode().strip().endswith("There is no image to group.")


def test_more_clusters_than_images(cli_here, mini_index, words):
    images = len(open_index(mini_index))
    result = cli_here("discover", "--k", "5000", "--vocab", words, "--index", mini_index, "--json")
    assert result.returncode == 0, result.stderr
    assert len(_json(result.stdout)) == images
    assert b"5,000 clusters were asked for, but there are no more images." in result.stderr


def test_vocabularies_that_do_not_serve(cli_here, mini_index, tmp_path):
    def run(text: str | None, name: str = "words.txt"):
        place = tmp_path / name
        if text is not None:
            place.write_text(text, encoding="utf-8")
        return cli_here("discover", "--k", "2", "--vocab", place, "--index", mini_index, "--json")

    empty = run("# nothing\n\n")
    assert empty.returncode == 2
    assert empty.stderr.decode().count("\n") == 1
    missing = run(None, "there-is-none.txt")
    assert missing.returncode == 2
    assert b"there-is-none.txt" in missing.stderr
    assert b"Traceback" not in missing.stderr
    cyrillic = run("собака\nбашня\nцветок\nмашина\nпляж\n")
    assert cyrillic.returncode == 0
    assert "taught in English and knows 0 of the vocabulary's 5 words" in cyrillic.stderr.decode()
    names = [cluster["name"] for cluster in _json(cyrillic.stdout)]
    assert set(names) <= {"собака", "башня", "цветок", "машина", "пляж"}
    unknown = cli_here("discover", "--vocab", "klingon", "--index", mini_index)
    assert unknown.returncode == 2
    assert b"imagenet, wordnet or a file" in unknown.stderr
    assert not (mini_index / "clusters" / "discovered.json.tmp").exists()


@pytest.mark.parametrize(
    "arguments",
    [("--k", "0"), ("--k", "-3"), ("--k", "many"), ("--least", "0"), ("--save-as", "a/b"),
     ("--method", "hdbscan", "--k", "3"), ("--seed", "-1")],
)  # fmt: skip
def test_wrong_options(cli_here, mini_index, words, arguments):
    result = cli_here("discover", "--vocab", words, "--index", mini_index, *arguments)
    assert result.returncode == 2
    assert b"Traceback" not in result.stderr
    assert not (mini_index / "clusters").exists()


def test_what_a_person_changed_is_not_lost(cli_here, mini_index, words):
    cut = ("discover", "--k", "3", "--vocab", words, "--index", mini_index)
    names = [row.split(b"\t")[0].decode() for row in cli_here(*cut).stdout.splitlines()]
    renamed = cli_here(
        "clusters", "discovered", "--rename", f"{names[0]}=mine", "--index", mini_index
    )
    assert renamed.returncode == 0, renamed.stderr
    refused = cli_here(*cut)
    assert refused.returncode == 2
    assert b"--replace" in refused.stderr
    kept = cli_here("clusters", "discovered", "--index", mini_index)
    assert kept.stdout.startswith(b"mine\t")
    assert cli_here(*cut, "--replace").returncode == 0
    split = cli_here("clusters", "discovered", "--split", names[0], "--index", mini_index, "--json")
    assert len(_json(split.stdout)) == 4
    assert {one["name"] for one in _json(split.stdout)} <= set(_WORDS)


def test_new_images_join_the_nearest_cluster(cli_here, pictures, tmp_path, words):
    place = tmp_path / "few.index"
    files = sorted(pictures.iterdir())
    later = tmp_path / "later"
    later.mkdir()
    for file in files[-3:]:
        file.rename(later / file.name)
    assert cli_here("index", pictures, "--index", place, "--model", "mini").returncode == 0
    cli_here("discover", "--k", "3", "--vocab", words, "--save-as", "few", "--index", place)
    before = _json(cli_here("clusters", "few", "--index", place, "--json").stdout)
    cli_here("clusters", "few", "--rename", f"{before[0]['name']}=mine", "--index", place)
    for file in later.iterdir():
        shutil.move(file, pictures / file.name)
    assert cli_here("index", pictures, "--index", place).returncode == 0
    after = cli_here("clusters", "few", "--index", place, "--json")
    clusters = _json(after.stdout)
    added = len(open_index(place)) - sum(cluster["images"] for cluster in before)
    assert added > 0
    assert sum(cluster["images"] for cluster in clusters) == len(open_index(place))
    assert "mine" in [cluster["name"] for cluster in clusters]
    assert len(clusters) == 3
