"""Standardised scores: right against plain NumPy, and never in the way."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsearch import ImageIndex, open_index
from clipsearch.background import (
    FEWEST_IMAGES,
    SAMPLE_IMAGES,
    Background,
    _draw,
    open_background,
    prepare_background,
    sample_file,
    text_weights,
)
from clipsearch.background_words import background_prompts, background_words
from clipsearch.encoder import Float32
from clipsearch.errors import QueryError
from clipsearch.generation import Generation, open_generation
from clipsearch.query import Term, combine
from clipsearch.vectors import Vectors
from indexer import build_index
from indexer.prune import prune

ROOT = Path(__file__).resolve().parents[1]


def paint(folder: Path, numbers: range) -> None:
    """Pictures of blocks of colour, no two alike."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64), 0).save(folder / f"{number:03}.png")


@pytest.fixture(scope="module")
def _painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("painted")
    paint(place / "photos", range(30))
    build_index(place / "photos", place / "painted.index", encoder="mini")
    return place


@pytest.fixture
def painted(_painted: Path, tmp_path: Path) -> Path:
    """An index of 30 pictures beside a folder that it was made of; the test may break both."""
    return Path(shutil.copytree(_painted, tmp_path / "painted")) / "painted.index"


def everything(index: Path) -> tuple[ImageIndex, Generation, Background, Float32]:
    opened, state = open_index(index), open_generation(index)
    background = open_background(state, opened.text_vectors())
    return opened, state, background, np.concatenate([rows for _, rows in state.vectors.blocks()])


def test_the_words() -> None:
    words = background_words()
    assert 500 <= len(words) <= 700
    assert len(set(words)) == len(words)
    assert all(word == " ".join(word.split()) != "" for word in words)
    assert all(word.isascii() and word.islower() for word in words)
    assert len(background_prompts()) == len(words)
    assert background_prompts()[words.index("dog")] == "a photo of a dog"


def test_they_are_encoded_once(mini_index: Path, tmp_path: Path) -> None:
    texts = open_index(mini_index, text_cache=tmp_path / "texts.sqlite").text_vectors()
    prepare_background(texts)
    assert (texts.last.encoded, texts.last.cached) == (len(background_words()), 0)
    again = open_index(mini_index, text_cache=tmp_path / "texts.sqlite").text_vectors()
    prepare_background(again)
    assert (again.last.encoded, again.last.cached) == (0, len(background_words()))


def test_statistics_are_those_of_plain_numpy(mini_index: Path) -> None:
    opened, state, background, rows = everything(mini_index)
    cosines = rows.astype(np.float64) @ opened.text_vectors().encode(background_prompts()).T
    cosines = np.sort(cosines, axis=1)[:, : round(0.95 * cosines.shape[1])]
    order = np.random.default_rng(0).permutation(len(rows))
    means, spreads = background.statistics(state.vectors.ids[order])
    np.testing.assert_allclose(means, cosines.mean(axis=1)[order], atol=1e-6)
    np.testing.assert_allclose(spreads, cosines.std(axis=1)[order], atol=1e-6)
    assert means.dtype == spreads.dtype == np.float32


def test_any_ids_in_any_order(mini_index: Path) -> None:
    _, state, background, _ = everything(mini_index)
    first, second = state.vectors.ids[:2].tolist()
    asked = np.array([second, 10**12, first, second, -1])
    means, spreads = background.statistics(asked)
    assert np.isnan(means).tolist() == np.isnan(spreads).tolist() == [0, 1, 0, 0, 1]
    assert means[0] == means[3] != means[2]
    none = np.empty(0, np.int64)
    assert [len(part) for part in background.statistics(none)] == [0, 0]


def test_many_blocks_give_what_one_gives(mini_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, state, background, _ = everything(mini_index)
    whole = background.statistics(state.vectors.ids)
    monkeypatch.setattr("clipsearch.background._BLOCK_ROWS", 3)
    for one, other in zip(whole, background.statistics(state.vectors.ids), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_text_is_held_against_the_words(mini_index: Path) -> None:
    opened, state, background, rows = everything(mini_index)
    query = opened.text_vectors().encode(["a cat"])[0]
    words = rows @ opened.text_vectors().encode(background_prompts()).T
    words = np.sort(words, axis=1)[:, : round(0.95 * words.shape[1])]
    cosines = rows @ query
    z = background.standardise(query, state.vectors.ids, cosines)
    np.testing.assert_allclose(z, (cosines - words.mean(1)) / words.std(1), atol=1e-4)
    assert z.dtype == np.float32


def test_alone_or_among_others_an_image_has_the_same_score(
    mini_index: Path, pictures: Path, tmp_path: Path
) -> None:
    opened, state, background, rows = everything(mini_index)
    query = opened.text_vectors().encode(["a cat"])[0]
    z = background.standardise(query, state.vectors.ids, rows @ query)
    one = opened.paths().places(int(state.vectors.ids[3]))[0].path
    (tmp_path / "one").mkdir()
    shutil.copyfile(one if one.exists() else pictures / one.name, tmp_path / "one" / one.name)
    build_index(tmp_path / "one", tmp_path / "one.index", encoder="mini")
    _, alone, its_background, its_rows = everything(tmp_path / "one.index")
    its = its_background.standardise(query, alone.vectors.ids, its_rows @ query)
    assert len(its) == 1
    assert its[0] == pytest.approx(z[3], abs=0.01)


def test_sums_of_words_are_standardised_like_words(mini_index: Path) -> None:
    """A query of two random words, added or taken away, is a standard score as well."""
    _, state, background, rows = everything(mini_index)
    words = background.words
    rng = np.random.default_rng(0)
    for sign in (1.0, -0.5):
        found = []
        for one, other in rng.integers(0, len(words), (60, 2)):
            terms = [Term(words[one]), Term(words[other], sign)]
            query = combine(terms)
            found.append(
                background.standardise(
                    query, state.vectors.ids, rows @ query, weights=text_weights(terms)
                )
            )
        # Above 0 and 1 by what the words that fit best, which are drawn too, add.
        assert -0.1 < np.mean(found) < 0.4
        assert 0.9 < np.std(found) < 1.4


def test_weights_of_the_unit_vector() -> None:
    east, north = np.eye(2, dtype=np.float32)
    assert text_weights([Term(east)]) == (1.0,)
    assert text_weights([Term(east, 3.0), Term(north, -4.0)]) == pytest.approx((0.6, -0.8))
    for terms in ([], [Term(east), Term(east, -1.0)]):
        with pytest.raises(QueryError, match="cancel"):
            text_weights(terms)


def test_an_image_is_held_against_the_collection(painted: Path) -> None:
    _, state, background, rows = everything(painted)
    query = rows[5]
    cosines = rows @ query
    z = background.standardise(query, state.vectors.ids, cosines, with_image=True)
    np.testing.assert_allclose(z, (cosines - cosines.mean()) / cosines.std(), atol=1e-3)
    assert z.argmax() == 5


def test_of_few_images_nothing_is_said(mini_index: Path) -> None:
    _, state, background, rows = everything(mini_index)
    assert len(rows) < FEWEST_IMAGES
    z = background.standardise(rows[0], state.vectors.ids, rows @ rows[0], with_image=True)
    assert np.isnan(z).all()


def test_the_sample_is_spread_over_what_counts() -> None:
    rng = np.random.default_rng(0)
    ids = np.arange(0, 20_000, 2)
    rows = rng.standard_normal((len(ids), 8)).astype(np.float16)
    vectors = Vectors(ids, (rows[:4000], rows[4000:]), 8, deleted=ids[:5000])
    drawn, its_rows = _draw(vectors)
    assert len(drawn) == SAMPLE_IMAGES
    assert drawn[0] == 10_000
    assert set(np.diff(drawn).tolist()) == {18, 20}  # 5,000 over 512 are 9.8 images
    np.testing.assert_array_equal(its_rows, rows[drawn // 2])
    few, _ = _draw(Vectors(ids[:7], (rows[:7],), 8, deleted=ids[2:3]))
    assert few.tolist() == [0, 2, 6, 8, 10, 12]
    assert len(_draw(Vectors(ids[:0], (), 8, deleted=ids[:0]))[0]) == 0


@pytest.mark.parametrize("damage", ["none", "empty", "text", "cut", "bit", "huge", "foreign"])
def test_the_sample_is_kept_and_made_again(painted: Path, damage: str, tmp_path: Path) -> None:
    _, state, background, _ = everything(painted)
    ids, rows = background.sample
    assert len(ids) == 30
    file = sample_file(state.cache, state.space.id)
    good = file.read_bytes()
    if damage == "foreign":  # the sample of other pictures
        paint(tmp_path / "others", range(100, 130))
        build_index(tmp_path / "others", tmp_path / "others.index", encoder="mini")
        _, other, its_background, _ = everything(tmp_path / "others.index")
        assert len(its_background.sample[0]) == 30
        shutil.copyfile(sample_file(other.cache, other.space.id), file)
    else:
        middle = len(good) // 2
        file.write_bytes(
            {
                "none": good,
                "empty": b"",
                "text": b"no sample",
                "cut": good[:-100],
                "bit": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
                "huge": good + bytes(10_000_000),
            }[damage]
        )
    before = file.stat().st_mtime_ns
    again_ids, again_rows = everything(painted)[2].sample
    np.testing.assert_array_equal(again_ids, ids)
    np.testing.assert_array_equal(again_rows, rows)
    assert (file.stat().st_mtime_ns == before) == (damage == "none")
    assert len(file.read_bytes()) == len(good)


def test_a_kept_sample_is_used(painted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, _ = everything(painted)[2].sample

    def no_draw(vectors: Vectors) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr("clipsearch.background._draw", no_draw)
    np.testing.assert_array_equal(everything(painted)[2].sample[0], ids)


def test_new_images_come_into_the_sample_and_lost_ones_leave(painted: Path) -> None:
    photos = painted.parent / "photos"
    assert len(everything(painted)[2].sample[0]) == 30
    paint(photos, range(30, 40))
    build_index(photos, painted, encoder="mini")
    assert len(everything(painted)[2].sample[0]) == 40
    # The first 30 are also where the copied index was made.
    gone = [photos / f"{number:03}.png" for number in range(30, 35)]
    for photo in gone:
        photo.unlink()
    build_index(photos, painted, encoder="mini")
    prune(painted)
    opened, state, background, rows = everything(painted)
    ids, _ = background.sample
    assert len(ids) == len(rows) == 35
    names = {opened.paths().places(int(image_id))[0].path.name for image_id in ids}
    assert not names & {photo.name for photo in gone}
    np.testing.assert_array_equal(ids, np.setdiff1d(state.vectors.ids, state.vectors.deleted))


def test_without_the_right_to_write_it_works_all_the_same(painted: Path) -> None:
    _, state, _, rows = everything(painted)
    (state.cache / "background").write_bytes(b"in the way")
    background = everything(painted)[2]
    z = background.standardise(rows[0], state.vectors.ids, rows @ rows[0], with_image=True)
    assert np.isfinite(z).all()
    assert (state.cache / "background").read_bytes() == b"in the way"


def test_no_heavy_import(painted: Path) -> None:
    opened, _, background, _ = everything(painted)
    prepare_background(opened.text_vectors())
    opened.text_vectors().encode(["red blocks"])
    assert len(background.sample[0]) == 30
    program = f"""
import sys
import numpy as np
from clipsearch.background import open_background
from clipsearch.generation import open_generation
from clipsearch.query_encoders import QueryEncoders
state = open_generation(__import__("pathlib").Path({str(painted)!r}))
texts = QueryEncoders(None, None, None).texts(state.space)
background = open_background(state, texts)
query = texts.encode(["red blocks"])[0]
ids, rows = state.vectors.take(state.vectors.ids)
print(len(background.standardise(query, ids, rows @ query)))
print(len(background.standardise(rows[0], ids, rows @ rows[0], with_image=True)))
print(sorted({{"torch", "faiss", "pandas", "open_clip", "gradio"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split("\n")[:3] == ["30", "30", "[]"]
