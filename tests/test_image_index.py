"""``ImageIndex`` on a real index of real pictures, made with the built-in model."""

from __future__ import annotations

import builtins
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import clipsearch
from clipsearch import Query, generation, open_index, query_encoders, vector_index
from clipsearch.background import prepare_background
from clipsearch.cli.status import status
from clipsearch.encoder import Float32, load_encoder
from clipsearch.errors import (
    ClipsearchError,
    ImageError,
    IndexFormatError,
    IndexNotFoundError,
    LabelError,
    QueryError,
    SpaceMismatchError,
)
from clipsearch.generation import user_cache_folder
from clipsearch.image_index import ImageIndex
from clipsearch.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from clipsearch.prompt_templates import SIMPLE_TEMPLATES
from clipsearch.shards import DELETED_SCHEMA, Int64, read_tables, write_table
from clipsearch.store import LocalStore
from clipsearch.vectors import read_vectors
from indexer import build_index
from indexer.commit import Committer

PROJECT = Path(__file__).resolve().parents[1]
LABELS = ("lion", "leopard", "tower", "logo", "a cup of coffee")


def python(program: str, *arguments: str | Path) -> str:
    """What a fresh interpreter prints; the test fails with its error."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def stored(place: Path) -> tuple[Int64, Float32]:
    """Ids and vectors straight from the shards, deletions left out."""
    store = LocalStore(place)
    manifest = read_manifest(store, str(place))
    assert manifest.default_space is not None
    dim = manifest.spaces[manifest.default_space].dim
    shards = manifest.embeddings[manifest.default_space]
    parts = [read_vectors(store, shard, dim) for shard in shards]
    ids = np.concatenate([ids for ids, _ in parts])
    rows = np.concatenate([rows for _, rows in parts]).astype(np.float32)
    refs = [manifest.deleted] if manifest.deleted else []
    live = ~np.isin(ids, read_tables(store, refs, DELETED_SCHEMA).column("id").to_numpy())
    return ids[live], rows[live]


def change_manifest(place: Path, change: Callable[[Manifest], Manifest]) -> Manifest:
    store = LocalStore(place)
    manifest = change(read_manifest(store, str(place)))
    write_manifest(store, manifest)
    return manifest


def no_encoder(*_: Any, **__: Any) -> Any:
    raise AssertionError("no encoder is needed for this")


@pytest.fixture
def index(mini_index: Path) -> ImageIndex:
    return open_index(mini_index)


# -- searching ----------------------------------------------------------------------------


def check_hits(hits: clipsearch.Hits, place: Path, query: Float32, k: int) -> None:
    ids, rows = stored(place)
    query = query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))
    scores = rows.astype(np.float64) @ query
    order = np.lexsort((ids, -scores))[:k]
    assert [hit.id for hit in hits] == ids[order].tolist()
    np.testing.assert_allclose([hit.score for hit in hits], scores[order], atol=1e-5)
    assert [hit.cosine for hit in hits] == [hit.score for hit in hits]
    assert all(hit.path.is_absolute() for hit in hits)
    assert hits.searched == len(ids)


def test_search_by_text_equals_dot_products(index: ImageIndex) -> None:
    encoder = load_encoder("mini")
    for text in ("a lion", "a tall tower at night"):
        query = encoder.encode_texts([text])[0]
        for k in (1, 3, 10, 100):
            check_hits(index.search(text, k=k), index.path, query, k)
            check_hits(index.search(f"  {text}\n", k=k, exact=True), index.path, query, k)


def test_search_by_vector(index: ImageIndex) -> None:
    ids, rows = stored(index.path)
    for row, image_id in zip(rows, ids, strict=True):
        hits = index.search(Query(vector=row * np.float32(7)), k=4)
        check_hits(hits, index.path, row, 4)
        assert hits[0].id == image_id
        assert hits[0].score == pytest.approx(1, abs=1e-3)
    check_hits(index.search(Query(vector=rows[0].tolist())), index.path, rows[0], 10)


def test_search_by_image_that_is_indexed(
    index: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_encoders, "load_encoder", no_encoder)
    ids, rows = stored(index.path)
    for image_id, row in zip(ids.tolist(), rows, strict=True):
        path = index.paths().places(image_id)[0].path
        assert index.id_of(path) == index.id_of(path.read_bytes()) == image_id
        hits = index.search(Query(like=(path,)), k=3)
        order = ids[np.argsort(-(rows.astype(np.float64) @ row), kind="stable")]
        assert [hit.id for hit in hits] == [other for other in order if other != image_id][:3]
        assert hits.hits == index.search(Query(like=(path.read_bytes(),)), k=3).hits
        assert hits.hits == index.search(Query(like=(image_id,)), k=3).hits


def test_search_by_image_that_is_not_indexed(index: ImageIndex, tmp_path: Path) -> None:
    from PIL import Image

    from clipsearch.images import read_image

    path = index.paths().places(0)[0].path
    with Image.open(path) as picture:
        picture.convert("RGB").rotate(30).save(tmp_path / "other.png")
    pixels = read_image(tmp_path / "other.png", index.space.geometry, thumbnail_side=None).pixels
    query = load_encoder("mini").encode_images(pixels[None])[0]
    check_hits(index.search(Query(like=(tmp_path / "other.png",)), k=5), index.path, query, 5)
    check_hits(index.similar(tmp_path / "other.png", k=5), index.path, query, 5)


def test_search_by_the_sum(index: ImageIndex) -> None:
    ids, rows = stored(index.path)
    path = index.paths().places(int(ids[2]))[0].path
    words = load_encoder("mini").encode_texts(["a tower"])[0]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    hits = index.search(Query("a tower", vector=rows[4] * 9), k=6)
    check_hits(hits, index.path, words + unit[4], 6)
    # An image beside words is brought to half their spread over the collection.
    spread = np.std(rows @ words) / np.std(rows @ unit[2]) / 2
    query = words + spread * unit[2]
    hits = index.search(Query("a tower", like=(path,)), k=len(ids))
    scores = {hit.id: hit.score for hit in hits}
    assert set(scores) == set(ids.tolist()) - {int(ids[2])}
    wanted = rows @ (query / np.linalg.norm(query))
    for image_id, score in zip(ids.tolist(), wanted, strict=True):
        if image_id in scores:
            assert scores[image_id] == pytest.approx(score, abs=1e-3)


def test_what_repels_and_boosts(index: ImageIndex) -> None:
    encoder = load_encoder("mini")
    lion, tower, night = encoder.encode_texts(["a lion", "a tower", "at night"])
    hits = index.search(Query("a lion", plus=(("a tower", 3.0),), minus=("at night",)), k=5)
    check_hits(hits, index.path, lion + 3 * tower - 0.5 * night, 5)
    hits = index.search(Query(minus=(("at night", 2.0),)), k=5)
    check_hits(hits, index.path, -night, 5)
    ids, rows = stored(index.path)
    hits = index.search(Query(like=((int(ids[0]), 2.0),), unlike=(int(ids[1]),)), k=5)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    scores = rows @ (2 * unit[0] - 0.5 * unit[1])
    order = [other for other in ids[np.argsort(-scores, kind="stable")] if other not in ids[:2]]
    assert [hit.id for hit in hits] == order[:5]


def test_pages_are_the_whole_in_pieces(index: ImageIndex) -> None:
    everything = index.search("a lion", k=None)
    assert len(everything) == everything.total == len(index)
    pages = [index.search("a lion", k=4, offset=start) for start in range(0, len(index) + 4, 4)]
    assert [hit for page in pages for hit in page] == list(everything)
    assert len(pages[-1]) == 0
    with pytest.raises(QueryError, match="offset"):
        index.search("a lion", offset=-1)


def test_first_id(index: ImageIndex) -> None:
    ids, _ = stored(index.path)
    assert index.next_id > ids.max()
    hits = index.search("a lion", k=None, first_id=int(ids[5]))
    assert {hit.id for hit in hits} == set(ids[5:].tolist())
    assert len(index.search("a lion", first_id=index.next_id)) == 0


def test_min_score(index: ImageIndex) -> None:
    everything = index.search("a lion", k=100)
    assert len(everything) == len(index)
    cut = everything[3].score
    hits = index.search(Query("a lion", min_score=cut), k=100)
    assert list(hits) == list(everything[:4])
    assert (hits.total, list(hits.below)) == (4, list(everything[4:9]))
    assert list(index.search(Query("a lion", min_score=cut), k=2, offset=2)) == list(hits[2:])
    assert list(index.search(Query("a lion", min_score=np.float32(cut)), k=100)) == list(
        everything[:4]
    )
    hits = index.search(Query("a lion", min_score=2.0))
    assert (len(hits), hits.total, list(hits.below)) == (0, 0, list(everything[:5]))


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"text": ""},
        {"text": "  \n"},
        {"text": "a lion", "k": 0},
        {"text": "a lion", "k": -3},
        {"vector": [1.0, 2.0]},
        {"vector": [float("nan")] * 512},
        {"vector": "a lion"},
        {"plus": "a lion"},
        {"plus": ("",)},
        {"plus": (("a lion", 0.0),)},
        {"minus": (("a lion", -1.0),)},
        {"minus": (("a lion", float("nan")),)},
        {"like": (("a.jpg", float("inf")),)},
        {"like": (10_000,)},
        {"text": "a lion", "sort": "size"},
        {"text": "a lion", "min_score": "some"},
        {"text": "a lion", "min_score": float("nan")},
        {"text": "a lion", "min_score": np.float32("nan")},
        {"text": "a lion", "min_score": [0.2]},
        {"text": 5},
        {"like": b"abc"},
        {"like": 3},
        {"like": ("",)},
        {"like": (1 << 70,)},
    ],
    ids=str,
)
def test_queries_that_mean_nothing(index: ImageIndex, query: dict[str, Any]) -> None:
    parts = {name: part for name, part in query.items() if name != "k"}
    with pytest.raises(QueryError):
        index.search(Query(**parts), k=query.get("k", 10))


def test_text_and_its_opposite(index: ImageIndex) -> None:
    words = index.text_vectors().encode(["a lion"])[0]
    with pytest.raises(QueryError, match="cancel"):
        index.search(Query("a lion", vector=-words))


def test_files_that_are_no_images(index: ImageIndex, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_bytes(b"not an image")
    for path in (tmp_path / "text.jpg", tmp_path / "absent.jpg", tmp_path):
        with pytest.raises(ImageError):
            index.search(Query(like=(path,)))
        with pytest.raises(ImageError):
            index.similar(path)


def test_copies_are_named_with_the_hit(index: ImageIndex) -> None:
    hits = index.search("a lion", k=100)
    contents = [{path.read_bytes() for path in (hit.path, *hit.copies)} for hit in hits]
    assert [len(content) for content in contents] == [1] * len(hits)
    assert len(set.union(*contents)) == len(hits)
    copies = sum(len(hit.copies) for hit in hits)
    assert copies == index.status().copies > 0


# -- similar ------------------------------------------------------------------------------


def test_similar_leaves_itself_out(index: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_encoders, "load_encoder", no_encoder)
    ids, rows = stored(index.path)
    for position, image_id in enumerate(ids.tolist()):
        products = rows.astype(np.float64) @ rows[position].astype(np.float64)
        order = [i for i in np.lexsort((ids, -products)).tolist() if i != position]
        for place in index.paths().places(image_id):
            assert [hit.id for hit in index.similar(place.path, k=4)] == ids[order[:4]].tolist()
        for number in (image_id, np.int64(image_id), np.int32(image_id)):
            hits = index.similar(number, k=100)  # type: ignore[arg-type]
            assert [hit.id for hit in hits] == ids[order].tolist()


def test_similar_of_an_unplugged_file(mini_index: Path, pictures: Path) -> None:
    place = mini_index.parent / "own.index"
    build_index(pictures, place, encoder="mini")
    index = open_index(place)
    path = index.paths().places(0)[0].path
    wanted = [hit.id for hit in index.similar(0)]
    shutil.rmtree(pictures)
    assert [hit.id for hit in open_index(place).similar(path)] == wanted


def test_similar_of_an_unknown_id(index: ImageIndex) -> None:
    for unknown in (-1, 10**9):
        with pytest.raises(QueryError, match="no image"):
            index.similar(unknown)


# -- classifying --------------------------------------------------------------------------


def direct_classes(labels: tuple[str, ...], templates: tuple[str, ...]) -> np.ndarray:
    """(C, dim) class vectors by open_clip alone, from the model's own folder."""
    import open_clip
    import torch

    folder = PROJECT / "clipsearch" / "models" / "mini"
    model = open_clip.create_model(f"local-dir:{folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    fill: list[Callable[[str], str]] = [template.format for template in templates]
    with torch.no_grad():
        classes = open_clip.build_zero_shot_classifier(model, tokenizer, labels, fill)
    return np.asarray(classes.numpy().T)


@pytest.mark.parametrize("labels", [LABELS, ("wild cat", "building")])
def test_classify_equals_open_clip(index: ImageIndex, labels: tuple[str, ...]) -> None:
    classes = direct_classes(labels, SIMPLE_TEMPLATES)
    ids, rows = stored(index.path)
    scores = rows.astype(np.float64) @ classes.astype(np.float64).T
    logits = index.space.logit_scale * scores
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    order = np.argsort(-scores, axis=1, kind="stable")
    got = index.classify(labels, top=2, none="off")
    np.testing.assert_array_equal(got.ids, ids)
    np.testing.assert_array_equal(got.labels, order[:, :2])
    np.testing.assert_array_equal(got.runners_up, order[:, 1])
    np.testing.assert_allclose(got.scores, np.take_along_axis(scores, order, 1)[:, :2], atol=1e-5)
    wanted = np.take_along_axis(odds, order, 1)[:, :2]
    np.testing.assert_allclose(got.probabilities, wanted, atol=1e-3)
    np.testing.assert_allclose(got.margins, got.scores[:, 0] - got.scores[:, 1], atol=1e-6)
    assert got.label_names == labels
    for image_id, label in zip(ids.tolist(), order[:, 0], strict=True):
        assert got.label_of(image_id) == labels[label]
    with pytest.raises(KeyError):
        got.label_of(10**9)


def test_summary(index: ImageIndex) -> None:
    got = index.classify(LABELS, none="off")
    rows = got.summary()
    assert sorted(row.label for row in rows) == sorted(LABELS)
    assert sum(row.count for row in rows) == len(index)
    assert [row.count for row in rows] == sorted((row.count for row in rows), reverse=True)
    assert sum(row.share for row in rows) == pytest.approx(1)
    for row in rows:
        mine = got.labels[:, 0] == LABELS.index(row.label)
        assert row.count == mine.sum()
        if row.count:
            best = got.probabilities[mine, 0].max()
            assert row.example_probability == pytest.approx(float(best))
            first = got.ids[mine][got.probabilities[mine, 0].argmax()]
            assert row.example_id == first
        else:
            assert row.example_id is None


def test_second_label_set_and_remembered_texts(mini_index: Path, tmp_path: Path) -> None:
    index = open_index(mini_index, text_cache=tmp_path / "own.sqlite")
    first = index.classify(LABELS, none="off")
    assert (first.texts_encoded, first.texts_cached) == (7 * len(LABELS), 0)
    second = index.classify(("wild cat", "lion", "drawing"), none="off")
    assert (second.texts_encoded, second.texts_cached) == (14, 7)
    again = open_index(mini_index, text_cache=tmp_path / "own.sqlite").classify(LABELS, none="off")
    assert (again.texts_encoded, again.texts_cached) == (0, 7 * len(LABELS))
    np.testing.assert_array_equal(again.labels, first.labels)
    np.testing.assert_array_equal(again.probabilities, first.probabilities)


def test_one_label(index: ImageIndex) -> None:
    got = index.classify(["lion"], top=5, none="off")
    assert got.labels.tolist() == [[0]] * len(index)
    assert got.probabilities.tolist() == [[1.0]] * len(index)
    assert np.isnan(got.margins).all()
    assert (got.runners_up == -1).all()


def test_top_is_held_to_the_labels(index: ImageIndex) -> None:
    got = index.classify(LABELS, top=99, none="off")
    assert got.labels.shape == (len(index), len(LABELS))
    assert index.classify(LABELS, top=0, none="off").labels.shape == (len(index), 1)


@pytest.mark.parametrize("labels", [[], [""], ["a", "A "], "lion", ["lion", " "]])
def test_bad_labels(index: ImageIndex, labels: Any) -> None:
    with pytest.raises(LabelError):
        index.classify(labels, none="off")


def test_no_image_file_is_opened(
    mini_index: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = mini_index.parent / "own.index"
    build_index(pictures, place, encoder="mini")
    known = open_index(place)
    wanted = known.search("a lion"), known.classify(LABELS, none="off")
    shutil.rmtree(pictures)
    opened: list[str] = []
    real_open = io.open

    def watched(file: Any, *arguments: Any, **named: Any) -> Any:
        opened.append(str(file))
        return real_open(file, *arguments, **named)

    monkeypatch.setattr(builtins, "open", watched)
    monkeypatch.setattr(io, "open", watched)
    index = open_index(place)
    assert list(index.search("a lion")) == list(wanted[0])
    np.testing.assert_array_equal(index.classify(LABELS, none="off").labels, wanted[1].labels)
    assert any(name.endswith("manifest.json") for name in opened)  # the watch is awake
    assert not [name for name in opened if name.startswith(str(pictures))]


# -- what is imported ---------------------------------------------------------------------


def test_remembered_texts_need_no_torch(mini_index: Path) -> None:
    index = open_index(mini_index)
    wanted = [hit.id for hit in index.search("a lion in the grass", k=3)]
    labels = index.classify(LABELS, none="off").labels[:, 0].tolist()
    found = python(
        "import sys\n"
        "from clipsearch import open_index\n"
        "index = open_index(sys.argv[1])\n"
        "ids = [hit.id for hit in index.search('a lion in the grass', k=3)]\n"
        f"labels = index.classify({LABELS!r}, none='off').labels[:, 0].tolist()\n"
        "similar = index.similar(ids[0])\n"
        "heavy = [n for n in ('torch', 'open_clip', 'faiss', 'gradio') if n in sys.modules]\n"
        "print(ids, labels, heavy)",
        mini_index,
    )
    assert found == f"{wanted} {labels} []"


def test_import_is_light() -> None:
    heavy = ("torch", "open_clip", "faiss", "gradio", "pyarrow", "numpy")
    program = f"import sys, clipsearch; print([n for n in {heavy!r} if n in sys.modules])"
    assert python(program) == "[]"


def test_public_names() -> None:
    assert clipsearch.__all__ == sorted(clipsearch.__all__)
    assert len(set(clipsearch.__all__)) == len(clipsearch.__all__)
    for name in clipsearch.__all__:
        assert (getattr(clipsearch, name).__doc__ or "").strip(), name
        # A dataclass without one gets its signature for a docstring.
        assert not getattr(clipsearch, name).__doc__.startswith(f"{name}("), name
    assert set(dir(clipsearch)) >= {"__version__"}
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = clipsearch.no_such_name


def test_every_public_method_has_a_docstring() -> None:
    for cls in (ImageIndex, clipsearch.Classification):
        for name, member in vars(cls).items():
            if not name.startswith("_") and (callable(member) or isinstance(member, property)):
                assert (member.__doc__ or "").strip(), f"{cls.__name__}.{name}"


# -- opening ------------------------------------------------------------------------------


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError, match="clipsearch index"):
        open_index(tmp_path)
    with pytest.raises(IndexNotFoundError):
        open_index(tmp_path / "absent")


def test_damaged_files_are_named(mini_index: Path) -> None:
    manifest = read_manifest(LocalStore(mini_index), "here")
    for ref in manifest.files():
        if ref.name.startswith("images/"):
            continue  # not read for a search
        good = (mini_index / ref.name).read_bytes()
        shutil.rmtree(mini_index / "cache", ignore_errors=True)
        (mini_index / ref.name).write_bytes(good[: len(good) // 2])
        with pytest.raises(IndexFormatError, match=ref.name):
            open_index(mini_index).search(Query(vector=stored(mini_index)[1][0]))
        (mini_index / ref.name).write_bytes(good)
    assert len(open_index(mini_index)) > 5


def test_index_without_images(mini_index: Path) -> None:
    change_manifest(mini_index, lambda old: dataclasses.replace(old, default_space=None))
    with pytest.raises(IndexFormatError, match="holds no images yet"):
        open_index(mini_index)
    change_manifest(mini_index, lambda old: dataclasses.replace(old, default_space="gone"))
    with pytest.raises(IndexFormatError, match="a space that it does not hold"):
        open_index(mini_index)


def test_everything_deleted(mini_index: Path) -> None:
    ids, _ = stored(mini_index)
    delete(mini_index, ids.tolist())
    index = open_index(mini_index)
    assert len(index) == 0
    assert len(index.search("a lion")) == 0
    got = index.classify(LABELS, top=2, none="off")
    assert len(got) == 0
    assert got.labels.shape == (0, 2)
    assert [row.count for row in got.summary()] == [0] * len(LABELS)
    with pytest.raises(QueryError):
        index.similar(int(ids[0]))


def delete(place: Path, ids: list[int]) -> None:
    """Bury some images, as a run of the indexer does."""
    import pyarrow as pa

    store = LocalStore(place)
    manifest = read_manifest(store, str(place))
    generation = manifest.generation + 1
    table = pa.table([pa.array(sorted(ids), pa.int64())], schema=DELETED_SCHEMA)
    name = f"deleted/{generation:07d}.parquet"
    ref = write_table(store, name, table, kind="deleted", index_uuid=manifest.uuid)
    change_manifest(place, lambda old: dataclasses.replace(old, deleted=ref, generation=generation))


def test_deleted_images_never_come_back(index: ImageIndex) -> None:
    ids, rows = stored(index.path)
    gone = ids[[1, 4]].tolist()
    before = index.classify(LABELS, none="off")
    delete(index.path, gone)
    assert len(index) == len(ids)  # the open generation stays as it was
    assert index.refresh()
    assert len(index) == len(ids) - 2
    for row in rows:
        hits = index.search(Query(vector=row), k=100)
        assert not {hit.id for hit in hits} & set(gone)
        check_hits(hits, index.path, row, 100)
    after = index.classify(LABELS, none="off")
    keep = ~np.isin(before.ids, gone)
    np.testing.assert_array_equal(after.ids, before.ids[keep])
    np.testing.assert_array_equal(after.labels, before.labels[keep])
    with pytest.raises(QueryError):
        index.similar(gone[0])


def test_through_an_index_file(mini_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = mini_index
    wanted = open_index(place).search("a lion", k=100)
    assert open_index(place).status().search_measured is None
    monkeypatch.setattr(vector_index, "EXACT_BYTES", 0)
    monkeypatch.setattr(vector_index, "FEWEST_ROWS", 1)
    manifest = read_manifest(LocalStore(place), str(place))
    prepare_background(open_index(place).text_vectors())
    Committer(place, manifest).bring_up_cache()
    index = open_index(place)
    assert index.generation == manifest.generation
    hits = index.search("a lion", k=100)
    assert (wanted.kind, hits.kind, index.status().search_kind) == ("exact", "ivf-pq", "ivf-pq")
    assert list(hits) == list(wanted)
    exact = index.search("a lion", k=100, exact=True)
    assert exact.kind == "exact"
    assert list(exact) == list(wanted)
    measured = index.status().search_measured
    assert measured is not None
    assert (measured.queries, measured.rows, measured.reached) == (314, len(index), True)
    shown = CliRunner().invoke(status, ["--index", str(place)]).output
    assert f"ivf-pq, recall@10 {measured.recall:.3f} (" in shown
    told = json.loads(CliRunner().invoke(status, ["--json", "--index", str(place)]).output)
    told = told["search_measured"]
    assert (told["recall"], told["low"], told["probes"]) == (
        measured.recall,
        measured.low,
        measured.probes,
    )


# -- refreshing ---------------------------------------------------------------------------


def test_refresh_sees_what_was_added(pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "own.index"
    held_back = sorted(pictures.iterdir())[:3]
    away = tmp_path / "away"
    away.mkdir()
    for path in held_back:
        path.rename(away / path.name)
    build_index(pictures, place, encoder="mini")
    index = open_index(place)
    before = list(index.search("a lion", k=100))
    generation = index.generation
    assert not index.refresh()
    for path in held_back:
        (away / path.name).rename(path)
    build_index(pictures, place)
    assert list(index.search("a lion", k=100)) == before
    assert index.refresh()
    assert index.generation > generation
    assert not index.refresh()
    ids, _ = stored(place)
    after = index.search("a lion", k=100)
    assert len(after) == len(ids) == len(index)
    places = {path for hit in after for path in (hit.path, *hit.copies)}
    assert places == set(pictures.iterdir())


def test_open_index_outlives_later_runs(pictures: Path, tmp_path: Path) -> None:
    """Later runs clear tables away that this reader knows of and has not read yet."""
    place = tmp_path / "own.index"
    build_index(pictures, place, encoder="mini")
    index = open_index(place)
    old_tables = {ref.name for ref in read_manifest(LocalStore(place), "").paths}
    for number in range(3):
        first = min(pictures.iterdir())
        first.rename(pictures / f"moved{number}{first.suffix}")
        build_index(pictures, place)
    assert not old_tables & set(LocalStore(place).list("paths"))
    hits = index.search("a lion", k=100)
    assert {path for hit in hits for path in (hit.path, *hit.copies)} == set(pictures.iterdir())
    assert not index.refresh()


def test_tables_cleared_while_opening(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "own.index"
    build_index(pictures, place, encoder="mini")
    stale = read_manifest(LocalStore(place), "")
    shard = stale.embeddings[str(stale.default_space)][0]
    gone = dataclasses.replace(shard, name=f"{shard.name}.gone", sha256="0" * 64)
    stale = dataclasses.replace(
        stale, generation=stale.generation - 1, embeddings={str(stale.default_space): (gone,)}
    )
    answers = [stale]

    def first_the_old_one(*arguments: Any) -> Manifest:
        return answers.pop() if answers else read_manifest(*arguments)

    monkeypatch.setattr(generation, "read_manifest", first_the_old_one)
    assert open_index(place).generation == stale.generation + 1
    assert not answers


def test_refresh_sees_an_index_made_anew(mini_index: Path) -> None:
    index = open_index(mini_index)
    generation = index.generation
    change_manifest(mini_index, lambda old: dataclasses.replace(old, uuid=str(uuid.uuid4())))
    assert index.refresh()
    assert index.generation == generation


# -- caches -------------------------------------------------------------------------------


def test_deleting_the_cache_loses_nothing(mini_index: Path) -> None:
    index = open_index(mini_index)
    wanted = index.search("a lion", k=100), index.classify(LABELS, none="off")
    shutil.rmtree(mini_index / "cache")
    again = open_index(mini_index)
    assert list(again.search("a lion", k=100)) == list(wanted[0])
    np.testing.assert_array_equal(
        again.classify(LABELS, none="off").probabilities, wanted[1].probabilities
    )
    assert (mini_index / "cache" / "vectors").is_dir()  # made anew
    assert again.thumbnail(0) is None
    # What is mapped goes on to answer, too.
    assert list(index.search("a lion", k=100)) == list(wanted[0])


def test_read_only_index(mini_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = list(open_index(mini_index).search("a lion", k=100))
    uuid = read_manifest(LocalStore(mini_index), "").uuid
    thumbnail = open_index(mini_index).thumbnail(0)
    assert thumbnail is not None
    for path in (mini_index / "cache" / "vectors").rglob("*.*"):
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in mini_index.rglob("*")}
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for _ in range(2):
        index = open_index(mini_index)
        assert list(index.search("a lion", k=100)) == wanted
        assert index.thumbnail(0) == thumbnail
    assert {path: path.stat().st_mtime_ns for path in mini_index.rglob("*")} == before
    own = user_cache_folder(uuid)
    assert list(own.rglob("*.f16"))
    assert index.status().cache_bytes > sum(f.stat().st_size for f in own.rglob("*.f16"))
    shutil.rmtree(own)


def test_no_place_for_a_cache(mini_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = list(open_index(mini_index).search("a lion", k=100))
    shutil.rmtree(mini_index / "cache")
    real_open = io.open

    def refuse(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if "x" in mode:
            raise OSError(28, "No space left on device")
        return real_open(file, mode, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refuse)
        assert list(open_index(mini_index).search("a lion", k=100)) == wanted
    assert not list(mini_index.rglob("*.f16"))


def test_copied_index_answers_elsewhere(mini_index: Path, tmp_path: Path) -> None:
    wanted = list(open_index(mini_index).search("a lion", k=100))
    copy = Path(shutil.copytree(mini_index, tmp_path / "elsewhere" / "copy.index"))
    shutil.rmtree(mini_index)
    assert list(open_index(copy).search("a lion", k=100)) == wanted


# -- models -------------------------------------------------------------------------------


def with_fingerprint(manifest: Manifest, fingerprint: str) -> Manifest:
    assert manifest.default_space is not None
    space = manifest.spaces[manifest.default_space]
    other = dataclasses.replace(space, fingerprint=fingerprint)
    return dataclasses.replace(
        manifest, generation=manifest.generation + 1, spaces={manifest.default_space: other}
    )


def test_model_of_another_space(mini_index: Path, tmp_path: Path) -> None:
    change_manifest(mini_index, lambda old: with_fingerprint(old, "e" * 64))
    index = open_index(mini_index, text_cache=tmp_path / "t.sqlite")
    with pytest.raises(SpaceMismatchError, match="mini"):
        index.search("a text that nobody remembers")
    with pytest.raises(SpaceMismatchError):
        index.classify(LABELS, none="off")
    with pytest.raises(SpaceMismatchError):
        index.encoder()


def test_space_that_changes_under_an_open_index(mini_index: Path, tmp_path: Path) -> None:
    """An encoder that is loaded already is no way around the check."""
    from PIL import Image

    stranger = tmp_path / "stranger.png"
    Image.new("RGB", (80, 60), (200, 30, 30)).save(stranger)
    index = open_index(mini_index, text_cache=tmp_path / "t.sqlite")
    assert len(index.search(Query(like=(stranger,)))) > 0
    change_manifest(mini_index, lambda old: with_fingerprint(old, "e" * 64))
    assert index.refresh()
    with pytest.raises(SpaceMismatchError):
        index.search(Query(like=(stranger,)))
    with pytest.raises(SpaceMismatchError):
        index.search("never asked before")


def test_model_named_by_its_folder(mini_index: Path, tmp_path: Path) -> None:
    folder = PROJECT / "clipsearch" / "models" / "mini"
    moved = Path(shutil.copytree(folder, tmp_path / "moved model"))
    wanted = list(open_index(mini_index).search("a zebra by a lake"))
    index = open_index(mini_index, model=str(moved), text_cache=tmp_path / "t.sqlite")
    assert list(index.search("a zebra by a lake")) == wanted
    with pytest.raises(ClipsearchError):
        open_index(mini_index, model=str(tmp_path / "absent")).encoder()


# -- threads ------------------------------------------------------------------------------


def test_many_threads_on_one_index(mini_index: Path, tmp_path: Path) -> None:
    texts = [f"{thing} in {place}" for thing in LABELS for place in ("a city", "the grass")]
    alone = open_index(mini_index, text_cache=tmp_path / "a.sqlite")
    wanted = {text: [hit.id for hit in alone.search(text, k=5)] for text in texts}
    labels = alone.classify(LABELS, none="off").labels
    shared = open_index(mini_index, text_cache=tmp_path / "b.sqlite")

    def ask(number: int) -> None:
        text = texts[number % len(texts)]
        assert [hit.id for hit in shared.search(text, k=5)] == wanted[text]
        if number % 4 == 0:
            np.testing.assert_array_equal(shared.classify(LABELS, none="off").labels, labels)
        if number % 7 == 0:
            shared.refresh()
        assert shared.similar(number % 3, k=2)[0].id != number % 3

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, range(60)))


def test_a_table_is_gone_and_another_thread_was_quicker(
    mini_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_index(mini_index)
    before, refresh = index.generation, index.refresh

    def too_late() -> bool:
        return refresh() and refresh()

    def ask(state: generation.Generation) -> int:
        if state.manifest.generation == before:
            raise IndexFormatError("cleared away")
        return state.manifest.generation

    monkeypatch.setattr(index, "refresh", too_late)
    delete(mini_index, [0])
    assert index.of_newest(ask) == before + 1


def test_threads_while_generations_change(mini_index: Path, tmp_path: Path) -> None:
    index = open_index(mini_index)
    ids, rows = stored(mini_index)
    counts = {len(ids) - gone for gone in range(5)}

    def ask(number: int) -> int:
        index.refresh()
        hits = index.search(Query(vector=rows[number % len(rows)]), k=100)
        assert len(hits) == hits.searched
        return len(hits)

    with ThreadPoolExecutor(6) as pool:
        answers = pool.map(ask, range(120))
        for gone in range(1, 5):
            delete(mini_index, ids[:gone].tolist())
        assert set(answers) <= counts
    index.refresh()
    assert len(index) == len(ids) - 4


# -- status -------------------------------------------------------------------------------


def test_status(mini_index: Path) -> None:
    status = open_index(mini_index).status()
    manifest = json.loads((mini_index / MANIFEST_NAME).read_bytes())
    ids, rows = stored(mini_index)
    assert (status.images, status.dim) == (len(ids), rows.shape[1])
    assert (status.uuid, status.generation) == (manifest["uuid"], manifest["generation"])
    assert status.files_present == len(ids) + status.copies
    assert (status.files_missing, status.skipped) == (0, 0)
    assert status.model == "mini"
    parquet = sum(path.stat().st_size for path in mini_index.rglob("*.parquet"))
    assert status.truth_bytes == parquet
    cached = sum(f.stat().st_size for f in (mini_index / "cache").rglob("*") if f.is_file())
    assert status.cache_bytes == cached


def test_status_beside_a_writer(mini_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the cache may go between being listed and being measured."""
    index = open_index(mini_index)
    index.paths()
    real = Path.rglob

    def with_a_ghost(folder: Path, pattern: str) -> Any:
        yield folder / "ghost"
        yield from real(folder, pattern)

    def no_longer(path: Path, **named: Any) -> os.stat_result:
        if path.name == "ghost":
            raise FileNotFoundError(path)
        return os.stat(path, **named)

    wanted = index.status().cache_bytes
    monkeypatch.setattr(Path, "rglob", with_a_ghost)
    monkeypatch.setattr(Path, "is_file", lambda path: path.name == "ghost" or os.path.isfile(path))
    monkeypatch.setattr(Path, "stat", no_longer)
    assert index.status().cache_bytes == wanted
