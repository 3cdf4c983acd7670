"""A collection labelled in parts: the answer is that of one process, number for number."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch import open_index
from clipsearch.background_sums import sums_file
from clipsearch.classify import classify
from clipsearch.errors import IndexFormatError, IndexNotFoundError
from clipsearch.generation import cache_folder
from clipsearch.image_index import ImageIndex
from clipsearch.label_definitions import LabelDefinition, LabelDefinitions
from clipsearch.label_parts import (
    MOST_ROWS,
    Part,
    PartLabels,
    PartScorer,
    Verdict,
    part_rows,
    parts_of,
)
from clipsearch.label_sets import read_label_set
from clipsearch.label_tally import LabelTally
from clipsearch.manifest import read_manifest, write_manifest
from clipsearch.records import Classification
from clipsearch.saved_labelling import classify_beside
from clipsearch.scoring import LabelScorer
from clipsearch.shards import Int64
from clipsearch.spread_scoring import Result, Spread
from clipsearch.store import LocalStore
from clipsearch.tag import tag
from clipsearch.vector_ranges import ranges_of
from clipsearch.vectors import BLOCK_ROWS, Vectors
from tests.grown_index import forget, grow, make_matrix
from tests.s3_server import Bucket

LABELS = ("a dog", "a cat", "a bicycle", "a mountain", "food", "a city", "people")
ROWS = 20_000, 9_000, 3_000


@pytest.fixture(scope="module")
def _grown(_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = Path(shutil.copytree(_built, tmp_path_factory.mktemp("grown") / "grown.index"))
    grow(place, *ROWS[:2])
    make_matrix(place)
    grow(place, ROWS[2], seed=1)
    chance = np.random.default_rng(5)
    forget(place, np.sort(chance.choice(open_index(place).state().vectors.ids, 500, False)))
    open_index(place).text_vectors().encode(["a dog"])
    return place


@pytest.fixture
def index(_grown: Path, tmp_path: Path) -> Path:
    """Two shards in the mapped matrix and one that is not, some images of all forgotten."""
    return Path(shutil.copytree(_grown, tmp_path / "grown.index"))


def sent(what: Any) -> Any:
    """As it arrives in another process: arrays of it cannot be written to."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(what, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])  # noqa: S301


def elsewhere(work: Callable[[Part], Result], parts: Iterable[Part], /) -> Iterator[Result]:
    """``map``, as if all of it had come from another process and went back there."""
    there = sent(work)
    for part in parts:
        yield sent(there(sent(part)))


def same(one: Classification, other: Classification) -> None:
    for name in ("ids", "labels", "scores", "probabilities", "margins", "runners_up", "in_set"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine is None:
            assert theirs is None
        else:
            np.testing.assert_array_equal(mine, theirs, err_msg=name)
    assert (one.label_names, one.threshold) == (other.label_names, other.threshold)


def label(
    opened: ImageIndex,
    labels: Sequence[str] = LABELS,
    *,
    spread: Spread | None = None,
    top: int = 1,
    none: str | float = "auto",
    allowed: Int64 | None = None,
) -> Classification:
    state, texts = opened.state(), opened.text_vectors()
    labelling = classify(state, texts, labels, top=top, none=none, allowed=allowed, spread=spread)
    return labelling.columns()


TREE = LabelDefinitions(
    ("animal", "a dog", "a cat", "a mountain", "food"),
    (
        LabelDefinition(),
        LabelDefinition(parent="animal", threshold=0.6),
        LabelDefinition(parent="animal"),
        LabelDefinition(),
        LabelDefinition(threshold=0.3),
    ),
)
LEAST = LabelDefinitions(LABELS[:3], (LabelDefinition(threshold=0.5),) * 3)


class TestTheAnswerIsThatOfOneProcess:
    @pytest.mark.parametrize(
        ("labels", "top", "none"),
        [
            (LABELS, 1, "off"),
            (LABELS, 3, "auto"),
            (LABELS, 2, 0.4),
            (LABELS[:1], 1, "off"),
            ([f"thing {number}" for number in range(300)], 9, "off"),
            (TREE, 2, "auto"),
            (LEAST, 1, "off"),
        ],
    )
    def test_row_for_row(
        self, index: Path, labels: Sequence[str], top: int, none: str | float
    ) -> None:
        opened = open_index(index)
        spread = Spread(elsewhere, workers=1, rows_a_part=BLOCK_ROWS)
        found = label(opened, labels, top=top, none=none, spread=spread)
        assert len(found) == len(opened) == 9 + sum(ROWS) - 500
        same(found, label(opened, labels, top=top, none=none))

    def test_of_some_images(self, index: Path) -> None:
        """Also of ids that are not there any more, or never were."""
        opened = open_index(index)
        for allowed in (
            np.arange(0, opened.next_id, 3, dtype=np.int64),
            opened.state().vectors.ids[-40:],
            np.empty(0, np.int64),
        ):
            spread = Spread(elsewhere, rows_a_part=BLOCK_ROWS)
            found = label(opened, allowed=allowed, spread=spread)
            same(found, label(opened, allowed=allowed))

    def test_wherever_the_parts_are_cut(self, index: Path) -> None:
        """Labels and their order stay; rounding alone may differ where products are cut anew."""
        opened = open_index(index)
        whole = label(opened, top=3)
        for rows in (1_000, 7_777, 1 << 20):
            found = label(opened, top=3, spread=Spread(elsewhere, rows_a_part=rows))
            np.testing.assert_array_equal(found.ids, whole.ids)
            np.testing.assert_array_equal(found.labels, whole.labels)
            np.testing.assert_array_equal(found.runners_up, whole.runners_up)
            np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=2e-6)

    def test_without_the_matrix(self, index: Path, tmp_path: Path) -> None:
        """A machine that has only the shards reads those of its part."""
        bare = shutil.copytree(index, tmp_path / "bare.index")
        shutil.rmtree(bare / "cache")
        opened = open_index(index)
        spread = Spread(elsewhere, place=str(bare), rows_a_part=BLOCK_ROWS)
        same(label(opened, spread=spread), label(opened))
        assert not (bare / "cache").exists()

    def test_of_an_index_in_object_storage(
        self, index: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another machine fetches the vectors of its parts, and nothing else."""
        for file in index.rglob("*"):
            name = file.relative_to(index).as_posix()
            if file.is_file() and not name.startswith("cache/"):
                bucket.put(f"photos.index/{name}", file.read_bytes())
        other = tmp_path / "another machine"

        def carry(work: Callable[[Part], Result], parts: Iterable[Part], /) -> Iterator[Result]:
            there = sent(work)
            for part in parts:
                with monkeypatch.context() as patch:
                    patch.setenv("XDG_CACHE_HOME", str(other))
                    result = there(part)
                yield result

        opened = open_index(f"{bucket.url}/photos.index")
        same(label(opened, spread=Spread(carry, rows_a_part=BLOCK_ROWS)), label(opened))
        fetched = {path.parent.parent.name for path in other.rglob("*.parquet")}
        assert fetched == {"embeddings"}

    def test_an_empty_index(self, mini_index: Path) -> None:
        forget(mini_index, np.arange(9))
        opened = open_index(mini_index)
        assert len(label(opened, none="off", spread=Spread(elsewhere))) == 0


class TestWhatIsCounted:
    @pytest.mark.parametrize("none", ["off", "auto"])
    def test_merged_counts_are_those_of_one_process(self, index: Path, none: str) -> None:
        opened = open_index(index)
        state, texts = opened.state(), opened.text_vectors()
        heard: list[tuple[int, int]] = []
        spread = Spread(
            elsewhere, rows=False, rows_a_part=BLOCK_ROWS,
            on_progress=lambda done, images: heard.append((done, images)),
        )  # fmt: skip
        for labels in (LABELS, TREE, LEAST):
            whole = classify(state, texts, labels, none=none)
            images = sum(len(block.ids) for block in whole)
            counted = classify(state, texts, labels, none=none, spread=spread)
            assert list(counted) == []  # no image's labels came back
            assert counted.summary() == whole.summary()
            assert (counted.images, counted.unlabelled) == (images, whole.unlabelled)
            assert heard[-1] == (images, images)

    def test_merge_in_order_is_one_tally(self) -> None:
        """Also of equals: the lowest id is the example."""
        chance = np.random.default_rng(3)
        ids = np.arange(5_000, dtype=np.int64)
        labels = chance.integers(-1, 4, 5_000).astype(np.int32)
        odds = (chance.integers(0, 30, 5_000) / 29).astype(np.float32)
        whole, merged = LabelTally("abcd"), LabelTally("abcd")
        whole.add(ids, labels, odds)
        for start in range(0, 5_000, 700):
            part = slice(start, start + 700)
            tally = LabelTally("abcd")
            tally.add(ids[part], labels[part], odds[part])
            tally.settle()
            merged.merge(sent(tally))
        assert merged.summary() == whole.summary()
        assert merged.unlabelled == whole.unlabelled == int((labels < 0).sum())


class TestTags:
    @pytest.mark.parametrize("most", [None, 2])
    def test_row_for_row(self, index: Path, most: int | None) -> None:
        """Statistics are sums of floating-point numbers, and the very same."""
        opened = open_index(index)
        state, texts = opened.state(), opened.text_vectors()
        heard: list[tuple[int, int]] = []
        spread = Spread(
            elsewhere, rows_a_part=BLOCK_ROWS, on_progress=lambda *told: heard.append(told)
        )
        here = tag(state, texts, LABELS, most=most)
        there = tag(state, texts, LABELS, most=most, spread=spread)
        assert there.statistics == here.statistics
        assert there.statistics.images == len(opened)
        assert there.statistics.floor is not None
        for name in ("ids", "starts", "labels", "scores", "cosines"):
            np.testing.assert_array_equal(getattr(there, name), getattr(here, name), err_msg=name)
        assert len(here.labels) > 1_000
        assert heard[-1] == (len(opened), len(opened))

    def test_without_images(self, mini_index: Path) -> None:
        forget(mini_index, np.arange(9))
        opened = open_index(mini_index)
        found = tag(opened.state(), opened.text_vectors(), LABELS, spread=Spread(elsewhere))
        assert (len(found), found.statistics.images) == (0, 0)


class TestWhatIsSaved:
    def test_a_set_remembers_what_it_would_have(self, index: Path, tmp_path: Path) -> None:
        other = Path(shutil.copytree(index, tmp_path / "other.index"))
        spread = Spread(elsewhere, rows_a_part=BLOCK_ROWS)
        for place, who in ((index, None), (other, spread)):
            opened = open_index(place)
            state, texts = opened.state(), opened.text_vectors()
            with classify_beside(
                place, state, texts, LABELS, save_as="things", none="auto", spread=who
            ) as labelling:
                assert sum(len(block.ids) for block in labelling) == len(opened)
                saved = labelling.save()
                assert saved.table is not None
                assert saved.table.rows == len(opened)
        mine, theirs = (read_label_set(place, "things") for place in (index, other))
        assert (mine.none, mine.labels) == (theirs.none, theirs.labels)
        assert mine.table is not None
        assert theirs.table is not None
        assert mine.table.sha256 == theirs.table.sha256
        assert mine.scores is not None
        assert theirs.scores is not None
        remembered = [(index / "labels" / mine.scores.name).read_bytes()]
        remembered.append((other / "labels" / theirs.scores.name).read_bytes())
        assert remembered[0] == remembered[1]

    def test_counts_alone_cannot_be_saved(self, mini_index: Path) -> None:
        opened = open_index(mini_index)
        state, texts = opened.state(), opened.text_vectors()
        with (
            classify_beside(
                mini_index, state, texts, LABELS, save_as="things",
                spread=Spread(elsewhere, rows=False),
            ) as labelling,
            pytest.raises(ValueError, match="every image's labels"),
        ):  # fmt: skip
            list(labelling)

    def test_sums_of_words_are_remembered(self, index: Path, tmp_path: Path) -> None:
        """What "none of these" computes on the way is kept as one process keeps it, and then
        sent to where it is asked for."""
        other = Path(shutil.copytree(index, tmp_path / "other.index"))
        files = []
        came: list[int] = []

        def carry(work: Callable[[Part], Result], parts: Iterable[Part], /) -> Iterator[Result]:
            for result in elsewhere(work, parts):
                assert isinstance(result, PartLabels)
                came.append(sum(len(ids) for ids, _ in result.found))
                yield result

        for place, spread in ((index, None), (other, Spread(carry, rows_a_part=BLOCK_ROWS))):
            opened = open_index(place)
            label(opened, spread=spread)
            with np.load(sums_file(cache_folder(place), opened.space.id)) as data:
                files.append({name: data[name].tobytes() for name in data.files})
        assert files[0] == files[1]
        assert sum(came) == len(open_index(other))
        came.clear()
        again = label(open_index(other), LABELS[:4], spread=Spread(carry))
        assert sum(came) == 0
        same(again, label(open_index(index), LABELS[:4]))


class TestAnIndexThatChangesMeanwhile:
    def rewritten(self, index: Path) -> None:
        """As a compaction does: the shards of before are gone, the vectors are in a new one."""
        store = LocalStore(index)
        before = read_manifest(store, str(index))
        space = before.default_space
        assert space is not None
        write_manifest(
            store,
            dataclasses.replace(
                before,
                generation=before.generation + 1,
                embeddings={space: before.embeddings[space][:1]},
            ),
        )
        for shard in before.embeddings[space][1:]:
            store.delete(shard.name)

    def test_a_writer_adds_images(self, index: Path) -> None:
        """All parts are of the generation that was open when it began."""
        opened = open_index(index)
        whole = label(opened)

        def carry(work: Callable[[Part], Result], parts: Iterable[Part], /) -> Iterator[Result]:
            for number, result in enumerate(elsewhere(work, parts)):
                if number == 0:
                    grow(index, 1_000, seed=9)
                    make_matrix(index)
                yield result

        same(label(opened, spread=Spread(carry, rows_a_part=BLOCK_ROWS)), whole)
        assert len(open_index(index)) == len(opened) + 1_000

    def test_shards_are_cleared_away(self, index: Path) -> None:
        """What is mapped stays; who opens the index only then says what to do."""
        opened = open_index(index)
        work = PartScorer(
            ranges_of(opened.state()), LabelScorer(np.eye(1, 256, dtype=np.float32), 100.0),
            Verdict(("a dog",)), rows=True,
        )  # fmt: skip
        parts = list(parts_of(opened.state().vectors, None, BLOCK_ROWS))
        before = [work(part) for part in parts[:2]]
        self.rewritten(index)
        shutil.rmtree(cache_folder(index) / "vectors")
        for one, part in zip(before, parts[:2], strict=True):
            again = work(part).block
            assert one.block is not None
            assert again is not None
            np.testing.assert_array_equal(one.block.ids, again.ids)
        late = sent(work)
        with pytest.raises(IndexFormatError, match="has changed while it was read: run the same"):
            late(parts[-1])

    def test_an_index_that_is_not_seen(self, index: Path, tmp_path: Path) -> None:
        opened = open_index(index)
        spread = Spread(elsewhere, place=str(tmp_path / "nowhere"))
        with pytest.raises(IndexNotFoundError, match=r"sees no index at .*nowhere: every machine"):
            label(opened, spread=spread)

    def test_a_shard_that_is_damaged(self, index: Path) -> None:
        opened = open_index(index)
        shard = opened.state().manifest.embeddings[opened.space.id][-1]
        (index / shard.name).write_bytes(b"nothing")
        with pytest.raises(IndexFormatError, match="is damaged"):
            label(opened, spread=Spread(elsewhere))


class TestParts:
    def test_they_hold_every_image_once(self, index: Path) -> None:
        vectors: Vectors = open_index(index).state().vectors
        parts = list(parts_of(vectors, None, BLOCK_ROWS))
        assert [part.first for part in parts[1:]] == [part.last for part in parts[:-1]]
        assert (parts[0].first, parts[-1].last) == (0, len(vectors.ids))
        assert sum(len(part.deleted) for part in parts) == 500

    @pytest.mark.parametrize(
        ("images", "workers", "rows"),
        [
            (9, 2, BLOCK_ROWS),
            (1_000_000, 2, 4 * BLOCK_ROWS),
            (1_000_000, 64, BLOCK_ROWS),
            (10**9, 100, MOST_ROWS),
        ],
    )
    def test_their_size_suits_the_workers(self, images: int, workers: int, rows: int) -> None:
        assert part_rows(images, workers) == rows

    def test_what_is_sent_is_small(self, index: Path) -> None:
        """Neither vectors nor paths travel, nor what one image or another is known to be."""
        opened = open_index(index)
        sizes: list[int] = []

        def carry(work: Callable[[Part], Result], parts: Iterable[Part], /) -> Iterator[Result]:
            sizes.append(len(pickle.dumps(work)))
            return elsewhere(work, parts)

        label(opened, none="off", spread=Spread(carry))
        assert sizes[0] < 20_000
