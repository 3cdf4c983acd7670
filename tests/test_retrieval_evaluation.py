"""Recall of captions: against a direct computation, and tables of captions as they come."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clipsearch import open_index, retrieval_evaluation
from clipsearch.captions import Captions, captions_in, read_captions
from clipsearch.encoder import Float32
from clipsearch.errors import OptionError, SourceError
from clipsearch.generation import Generation
from clipsearch.retrieval_evaluation import evaluate_retrieval
from clipsearch.vectors import Vectors

DIM = 24
DOG = "A dog, running ."


class Given:
    """Texts whose vectors are given."""

    def __init__(self, vectors: dict[str, Float32]) -> None:
        self.vectors = vectors

    def encode(self, texts: Sequence[str]) -> Float32:
        return np.array([self.vectors[text] for text in texts], np.float32)


def unit(rows: Any) -> Float32:
    array = np.asarray(rows, np.float64)
    return np.asarray(array / np.linalg.norm(array, axis=-1, keepdims=True), np.float32)


def state_of(ids: Any, rows: Float32, deleted: Sequence[int] = ()) -> Generation:
    """A generation of which only the vectors are asked for, in several segments."""
    half = rows.astype(np.float16)
    parts = tuple(np.array_split(half, 3))
    gone = np.array(deleted, np.int64)
    vectors = Vectors(np.asarray(ids, np.int64), parts, rows.shape[1], gone)
    return SimpleNamespace(vectors=vectors)  # type: ignore[return-value]


def collection(images: int = 300, captions: int = 900) -> tuple[Generation, Captions, Given]:
    """Images of which some have no caption and some many, and captions somewhat like them."""
    draws = np.random.default_rng(7)
    ids = np.sort(draws.choice(10 * images, images, replace=False))
    rows = unit(draws.standard_normal((images, DIM)))
    owners = draws.integers(0, images - 20, captions)
    texts = unit(rows[owners] + 0.35 * draws.standard_normal((captions, DIM)))
    names = [f"caption {number}" for number in range(captions)]
    given = Given(dict(zip(names, texts, strict=True)))
    return state_of(ids, rows), Captions(ids[owners], tuple(names)), given


def dense(state: Generation, captions: Captions, texts: Given) -> list[tuple[float, float]]:
    """Recall at 1, 5, 10 as CLIP_benchmark has it, from the whole matrix: whether any positive is
    among the k of the highest score."""
    ids, owners = np.unique(captions.ids, return_inverse=True)
    _, rows = state.vectors.take(ids)
    scores = texts.encode(captions.texts).astype(np.float64) @ rows.astype(np.float64).T
    positive = owners[:, None] == np.arange(len(ids))
    found = []
    for k in (1, 5, 10):
        both = []
        for matrix, pairs in ((scores, positive), (scores.T, positive.T)):
            best = np.argsort(-matrix, axis=1)[:, :k]
            both.append(float(np.take_along_axis(pairs, best, axis=1).any(axis=1).mean()))
        found.append((both[0], both[1]))
    return found


def test_as_a_direct_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    state, captions, texts = collection()
    expected = dense(state, captions, texts)
    assert 0.1 < expected[0][0] < expected[2][0] < 0.95
    found = evaluate_retrieval(state, texts, captions, model="made")
    assert (found.model, found.captions) == ("made", 900)
    assert found.images == len(np.unique(captions.ids)) < 280
    told = list(zip(found.text_to_image.values(), found.image_to_text.values(), strict=True))
    assert told == expected
    assert list(found.text_to_image) == [1, 5, 10]
    monkeypatch.setattr(retrieval_evaluation, "_IMAGES_AT_ONCE", 7)
    monkeypatch.setattr(retrieval_evaluation, "_TEXTS_AT_ONCE", 13)
    monkeypatch.setattr(retrieval_evaluation, "_PAIRS_AT_ONCE", 5)
    assert evaluate_retrieval(state, texts, captions, model="made") == found


def test_the_order_of_captions_makes_no_difference() -> None:
    state, captions, texts = collection()
    found = evaluate_retrieval(state, texts, captions, model="made")
    order = np.random.default_rng(1).permutation(len(captions))
    mixed = Captions(captions.ids[order], tuple(captions.texts[row] for row in order.tolist()))
    assert evaluate_retrieval(state, texts, mixed, model="made") == found


def test_of_equal_scores_the_right_one_is_first() -> None:
    """Two images of one vector, and captions that are the same: the right one is among the best,
    however many others have the same score, and only those with a higher one go before."""
    draws = np.random.default_rng(3)
    same, other, above = unit(draws.standard_normal((3, DIM)))
    rows = np.stack([same, same, same, other, above])
    state = state_of([1, 2, 3, 4, 5], rows)
    texts = Given({"a dog": same, "a cat": unit(other + 0.9 * above), "up": above})
    captions = Captions(np.array([3, 2, 4, 4, 5]), ("a dog", "a dog", "a cat", "a cat", "up"))
    found = evaluate_retrieval(state, texts, captions, model="m", ranks=(1, 2))
    assert found.text_to_image == {1: 1.0, 2: 1.0}
    # The third image has "a dog" before all others; the fourth is nearest to "a cat".
    assert found.image_to_text == {1: 1.0, 2: 1.0}
    wrong = Captions(np.array([5, 4, 4]), ("a dog", "up", "a cat"))
    found = evaluate_retrieval(state, texts, wrong, model="m", ranks=(1, 2))
    assert found.text_to_image[1] == pytest.approx(1 / 3 if same @ above < same @ other else 2 / 3)
    assert found.text_to_image[2] == 1


def test_what_float32_cannot_tell_apart_is_told_apart() -> None:
    """Scores that differ by less than float32 sums are exact to are ranked as they are."""
    draws = np.random.default_rng(11)
    text = unit(draws.standard_normal(DIM))
    rows = np.tile(unit(text + 0.2 * draws.standard_normal(DIM)), (40, 1)).astype(np.float16)
    for row in range(1, 40):  # the last place of one number each
        place = int(np.argmin(np.abs(text))) if row == 39 else row % DIM
        rows[row, place] = np.nextafter(rows[row, place], np.float16(2 * (row % 2) - 1))
    state = state_of(range(40), rows.astype(np.float32))
    exact = rows.astype(np.float64) @ text.astype(np.float64)
    captions = Captions(np.arange(40), tuple(["words"] * 40))
    found = evaluate_retrieval(state, Given({"words": text}), captions, model="m", ranks=(1, 20))
    before = (exact[None] > exact[:, None]).sum(axis=1)
    assert len(np.unique(before)) > 5
    assert found.text_to_image == {k: float((before < k).mean()) for k in (1, 20)}


def test_images_without_a_vector_and_few_images() -> None:
    draws = np.random.default_rng(5)
    rows = unit(draws.standard_normal((4, DIM)))
    texts = Given({"x": rows[0], "y": rows[1]})
    captions = Captions(np.array([1, 2]), ("x", "y"), notes=("one note",))
    with pytest.raises(OptionError, match="1 of 2 images have no vector of m: 'clipsearch index'"):
        evaluate_retrieval(state_of(range(4), rows, deleted=[2]), texts, captions, model="m")
    found = evaluate_retrieval(state_of([1, 2, 3, 4], rows), texts, captions, model="m")
    assert found.notes[0] == "one note"
    assert found.notes[1].startswith("there are 2 images: the best 10 are all of them")
    assert found.text_to_image == {1: 1.0, 5: 1.0, 10: 1.0}


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.csv", f'image,caption\na.jpg,"{DOG}"\nb.jpg,A cat\nb.jpg,Two  cats\n'),
        ("other.csv", f"id;Caption;File\r\n1;{DOG};a.jpg\r\n2;A cat;b.jpg\r\n3;Two cats;b.jpg"),
        ("open_clip.tsv", f"filepath\ttitle\na.jpg\t{DOG}\nb.jpg\tA cat\nb.jpg\tTwo cats\n"),
        (
            "flickr30k.csv",
            f"image_name| comment_number| comment\na.jpg| 0| {DOG}\n"
            "b.jpg| 0| A cat\nb.jpg| 1| Two cats\n",
        ),
        (
            "marked.csv",
            f'\ufeffpath,text\na.jpg,"{DOG}"\nb.jpg,A cat\n\nb.jpg,Two\u00a0cats\n',
        ),
    ],
)
def test_tables_of_captions(name: str, text: str, tmp_path: Path) -> None:
    table = read_captions(write(tmp_path / name, text))
    assert table.names == ("a.jpg", "b.jpg", "b.jpg")
    assert table.texts == (DOG, "A cat", "Two cats")
    assert table.unusable == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "expected a first line with a column image or file or filename and a column caption"),
        (b"a.jpg,A dog\n", "got 'a.jpg,A dog'"),
        (b"image,label\na.jpg,dog\n", "a column caption or text, got 'image,label'"),
        (b"image,caption\n", "holds no captions"),
        (b"image,caption\na.jpg,\n,A dog\n \n", "holds no captions"),
        (b"image,caption\na.jpg,caf\xe9\n", "no UTF-8 text"),
        (b"\xff\xfe\x00image", "no UTF-8 text"),
        (b'image,caption\na.jpg,"' + b"x" * 200_000 + b'"\n', "cannot be read as a table"),
    ],
)
def test_what_is_no_table_of_captions(text: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(text)
    with pytest.raises(SourceError) as caught:
        read_captions(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_of_captions(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path, tmp_path / "a\0b.csv"):
        with pytest.raises(SourceError, match="expected a table of captions at"):
            read_captions(path)


def test_captions_find_their_images(mini_index: Path, tmp_path: Path) -> None:
    index = open_index(mini_index)
    state = index.state()
    ids = state.vectors.ids.tolist()
    first, second, third, fourth = (
        place.path for place in state.paths.first_places(ids[:4]) if place is not None
    )
    up = os.path.relpath(third, tmp_path)
    rows = [
        (first.name, "by its name"),
        (f"{second.parent.name}/{second.name}", "by the end of its path"),
        (up, "by its way from the table"),
        (str(fourth), "by where it is"),
        (first.name, "again"),
        ("gone.jpg", "of no image"),
        ("elsewhere/" + first.name, "of another folder's"),
        (first.name, ""),
        ("a\0b", "odd"),
    ]
    text = "file,caption\n" + "".join(f"{name},{caption}\n" for name, caption in rows)
    found = captions_in(state, read_captions(write(tmp_path / "c.csv", text)))
    assert found.ids.tolist() == [ids[0], ids[1], ids[2], ids[3], ids[0]]
    assert found.texts[-1] == "again"
    assert found.missing == ("gone.jpg", "elsewhere/" + first.name, "a\0b")
    assert found.notes == (
        "3 of the 7 images of c.csv are not in the index and left out, such as gone.jpg",
        "1 row of c.csv without an image or a caption left out",
    )
    told = evaluate_retrieval(state, index.text_vectors(), found, model="mini")
    assert (told.images, told.captions) == (4, 5)
    assert told.notes[:2] == found.notes


def test_captions_of_no_image(mini_index: Path, tmp_path: Path) -> None:
    table = read_captions(write(tmp_path / "c.csv", "file,caption\nx.jpg,a\ny.jpg,b\n"))
    with pytest.raises(
        SourceError, match=r"none of the 2 images of .*c\.csv is in the index, such"
    ):
        captions_in(open_index(mini_index).state(), table)


def test_one_name_of_several_images(tmp_path: Path, pictures: Path) -> None:
    from indexer import build_index

    files = sorted(pictures.iterdir())[:3]
    for folder, file in zip(("cats", "dogs", "dogs/old"), files, strict=True):
        (tmp_path / "sorted" / folder).mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / "sorted" / folder / "1.jpg")
    build_index(tmp_path / "sorted", tmp_path / "s.index", encoder="mini")
    state = open_index(tmp_path / "s.index").state()
    (tmp_path / "tables").mkdir()
    names = ["1.jpg", "cats\\1.jpg", "./dogs/1.jpg", "old/1.jpg"]
    text = "image,caption\n" + "".join(f"{name},words\n" for name in names)
    found = captions_in(state, read_captions(write(tmp_path / "tables" / "c.csv", text)))
    assert found.missing == ("1.jpg",)
    assert "could be one of several images, such as 1.jpg: more of the path" in found.notes[1]
    at = {place.path.parent.name: image for image in state.vectors.ids.tolist()
          for place in state.paths.places(image)}  # fmt: skip
    assert found.ids.tolist() == [at["cats"], at["dogs"], at["old"]]


@pytest.mark.slow
def test_flickr(flickr: Path, photo1k: str, tmp_path: Path) -> None:
    """The stronger model finds more, in both directions; as the direct computation has it."""
    from indexer import build_index

    recall = {}
    for model in ("mini", photo1k):
        place = tmp_path / f"{Path(model).name}.index"
        build_index(flickr, place, encoder=model)
        index = open_index(place)
        state = index.state()
        captions = captions_in(state, read_captions(flickr / "captions.csv"))
        texts = index.text_vectors()
        found = evaluate_retrieval(state, texts, captions, model=model)
        assert (found.images, found.captions, found.notes) == (200, 1000, ())
        given = Given(dict(zip(captions.texts, texts.encode(captions.texts), strict=True)))
        told = list(zip(found.text_to_image.values(), found.image_to_text.values(), strict=True))
        assert told == dense(state, captions, given)
        recall[model] = found
    assert recall["mini"].text_to_image[10] == pytest.approx(0.296, abs=0.01)
    assert recall[photo1k].text_to_image[10] == pytest.approx(0.618, abs=0.01)
    assert recall[photo1k].image_to_text[1] > 3 * recall["mini"].image_to_text[1]
