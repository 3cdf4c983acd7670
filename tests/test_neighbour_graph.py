"""Nearest neighbours, outliers and look-alikes against what can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipsearch import neighbour_graph as module
from clipsearch import open_index
from clipsearch.duplicate_groups import DuplicateFile, DuplicateGroup, Duplicates
from clipsearch.duplicates import find_duplicates
from clipsearch.errors import OptionError
from clipsearch.neighbour_graph import NeighbourGraph, neighbour_graph
from clipsearch.outliers import alike_cosine, look_alikes, outliers
from clipsearch.vectors import Vectors
from indexer import build_index


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def vectors_of(rows: np.ndarray, deleted: tuple[int, ...] = ()) -> Vectors:
    """Ids 10, 13, 16, ...; two segments."""
    ids = 10 + 3 * np.arange(len(rows), dtype=np.int64)
    half = unit(rows).astype("<f2")
    cut = len(half) // 3
    return Vectors(ids, (half[:cut], half[cut:]), rows.shape[1], np.array(deleted, np.int64))


def by_hand(vectors: Vectors, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, neighbours and cosines of those that count, in float64."""
    ids = np.setdiff1d(vectors.ids, vectors.deleted)
    rows = np.concatenate(vectors.segments)[(ids - 10) // 3].astype(np.float64)
    products = rows @ rows.T
    np.fill_diagonal(products, -np.inf)
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return ids, order, np.take_along_axis(products, order, axis=1)


@pytest.mark.parametrize(("count", "k"), [(2, 1), (17, 16), (900, 16), (2600, 7)])
def test_every_pair(count: int, k: int) -> None:
    draws = np.random.default_rng(count)
    deleted = (13, 40, 10 + 3 * 600) if count > 100 else ()
    vectors = vectors_of(draws.standard_normal((count, 24)), deleted)
    done: list[int] = []
    graph = neighbour_graph(vectors, k=k, on_progress=done.append)
    ids, neighbours, cosines = by_hand(vectors, k)
    assert graph.is_exact
    assert graph.ids.tolist() == ids.tolist()
    assert graph.neighbours.dtype == np.int32
    assert graph.cosines.dtype == np.float32
    np.testing.assert_allclose(graph.cosines, cosines, atol=2e-6)
    # Where two differ by less than float32 tells apart, either may come first.
    apart = np.abs(np.diff(by_hand(vectors, k + 1)[2], axis=1)) if count > k + 1 else None
    if apart is not None:
        sure = (apart > 1e-6).all(axis=1)
        assert sure.mean() > 0.95
        assert (graph.neighbours[sure] == neighbours[sure]).all()
    assert done[-1] == len(ids)


def test_equals_go_by_id() -> None:
    """Four halves among zeros: products that are exact in any precision."""
    draws = np.random.default_rng(0)
    rows = np.zeros((2600, 8))
    for row in rows:
        row[draws.choice(8, 4, replace=False)] = draws.choice([-0.5, 0.5], 4)
    vectors = vectors_of(rows)
    graph = neighbour_graph(vectors, k=9)
    _, neighbours, cosines = by_hand(vectors, 9)
    assert (graph.neighbours == neighbours).all()
    assert (graph.cosines == cosines).all()


def test_all_identical() -> None:
    graph = neighbour_graph(vectors_of(np.ones((3000, 16))))
    assert graph.neighbours[0].tolist() == list(range(1, 17))
    assert graph.neighbours[2999].tolist() == list(range(16))
    assert graph.neighbours[5].tolist() == [*range(5), *range(6, 17)]
    assert not outliers(graph).images
    assert len(look_alikes(graph)[0].ids) > 16  # and of the busiest image all neighbours


@pytest.mark.parametrize("count", [0, 1])
def test_nobody_to_be_near_to(count: int) -> None:
    for exact in (True, False):
        graph = neighbour_graph(vectors_of(np.ones((count, 4))), exact=exact)
        assert graph.neighbours.shape == graph.cosines.shape == (count, 0)
        assert not outliers(graph).images
        assert look_alikes(graph) == ()


def test_some_of_the_images() -> None:
    draws = np.random.default_rng(1)
    rows = draws.standard_normal((400, 12))
    vectors = vectors_of(rows)
    allowed = np.sort(draws.choice(vectors.ids, 90, replace=False))
    graph = neighbour_graph(vectors, k=5, allowed=allowed)
    alone = neighbour_graph(vectors_of(rows[(allowed - 10) // 3]), k=5)
    assert graph.ids.tolist() == allowed.tolist()
    assert (graph.neighbours == alone.neighbours).all()


def near_enough(graph: NeighbourGraph, vectors: Vectors) -> float:
    """The share of neighbours that are as near as the last of the k nearest."""
    least = by_hand(vectors, graph.cosines.shape[1])[2][:, -1:]
    return float((graph.cosines >= least - 1e-5).mean())


def test_by_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recall rises with visits, and looking into every group finds all; cosines are right."""
    monkeypatch.setattr(module, "_GROUP_IMAGES", 120)
    draws = np.random.default_rng(2)
    centres = unit(draws.standard_normal((60, 32)))
    rows = centres[draws.integers(0, 60, 2400)] + 0.12 * draws.standard_normal((2400, 32))
    vectors = vectors_of(rows, deleted=(10, 400))
    done: list[int] = []
    found = {
        visits: neighbour_graph(
            vectors, exact=False, visits=visits, on_progress=done.append if visits == 3 else None
        )
        for visits in (1, 3, 20)
    }
    recalls = [near_enough(graph, vectors) for graph in found.values()]
    assert not found[3].is_exact
    assert recalls[0] < recalls[1] < recalls[2] == 1.0
    assert recalls[0] > 0.8
    assert recalls[1] > 0.95
    assert done == sorted(done)
    assert done[-1] == 2398
    graph = found[3]
    some = np.concatenate(vectors.segments)[(graph.ids - 10) // 3].astype(np.float64)
    told = np.einsum("nd,nkd->nk", some, some[graph.neighbours])
    np.testing.assert_allclose(graph.cosines, told, atol=2e-6)
    assert (np.diff(graph.cosines, axis=1) <= 0).all()
    assert (graph.neighbours != np.arange(2398)[:, None]).all()
    assert all(len(set(row)) == 16 for row in graph.neighbours.tolist())


def test_a_crowd_is_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of nearly equal images are one group that cannot be compared as a whole."""
    monkeypatch.setattr(module, "_GROUP_IMAGES", 100)
    monkeypatch.setattr(module, "_CROWD", 300)
    draws = np.random.default_rng(3)
    crowd = 1 + 0.001 * draws.standard_normal((1500, 8))
    rows = np.concatenate([crowd, draws.standard_normal((300, 8))])
    vectors = vectors_of(draws.permutation(rows))
    products: list[int] = []
    real = module._compare

    def counting(source, rows, columns, k):  # type: ignore[no-untyped-def]
        products.append(len(rows) * len(columns))
        return real(source, rows, columns, k)

    monkeypatch.setattr(module, "_compare", counting)
    graph = neighbour_graph(vectors, k=4, exact=False, visits=2)
    assert sum(products) < 1800 * 2 * 300
    assert (graph.neighbours >= 0).all()
    _ids, _neighbours, cosines = by_hand(vectors, 4)
    likes = cosines[:, -1] > 0.999
    assert likes.sum() > 1200
    assert (graph.cosines[likes, -1] > 0.999).all()


def test_the_same_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GROUP_IMAGES", 200)
    vectors = vectors_of(np.random.default_rng(4).standard_normal((2300, 16)))
    graphs = []
    for workers in (1, 3):
        monkeypatch.setattr("clipsearch.threads.worker_count", lambda workers=workers: workers)
        graphs.append(
            [neighbour_graph(vectors, exact=exact, visits=3, seed=5) for exact in (True, False)]
        )
    for one, other in zip(*graphs, strict=True):
        assert (one.neighbours == other.neighbours).all()
        assert (one.cosines == other.cosines).all()


def a_collection(seed: int) -> np.ndarray:
    """Two kinds of images, one twice as varied."""
    draws = np.random.default_rng(seed)
    tight, wide = unit(draws.standard_normal((2, 40)))
    return np.concatenate(
        [
            unit(tight + 0.05 * draws.standard_normal((150, 40))),
            unit(wide + 0.10 * draws.standard_normal((150, 40))),
        ]
    )


def test_strangers_are_listed_and_nobody_else() -> None:
    draws = np.random.default_rng(7)
    strangers = unit(draws.standard_normal((4, 40)))
    vectors = vectors_of(np.concatenate([a_collection(0), strangers]))
    found = outliers(neighbour_graph(vectors))
    assert {image.id for image in found.images} == {10 + 3 * row for row in range(300, 304)}
    assert [image.score for image in found.images] == sorted(
        (image.score for image in found.images), reverse=True
    )
    first = found.images[0]
    rows = np.concatenate(vectors.segments).astype(np.float64)
    cosines = rows @ rows[(first.id - 10) // 3]
    cosines[(first.id - 10) // 3] = -1
    assert first.nearest == 10 + 3 * int(cosines.argmax())
    assert first.cosine == pytest.approx(cosines.max(), abs=1e-5)
    reason = found.reason(first)
    assert f"cosine {first.cosine:.2f}, usual here is {found.usual:.2f}" in reason
    assert outliers(neighbour_graph(vectors), most=2).images == found.images[:2]
    assert outliers(neighbour_graph(vectors), most=0).images == ()
    with pytest.raises(OptionError, match="got -1"):
        outliers(neighbour_graph(vectors), most=-1)


def test_the_more_varied_part_is_no_outlier() -> None:
    """A fifth of the images have nothing in common, the rest are nearly equal: of that fifth
    only those are listed that happen to be nearest to the rest, from which they are far."""
    draws = np.random.default_rng(8)
    same = unit(np.ones(40) + 0.02 * draws.standard_normal((400, 40)))
    varied = unit(draws.standard_normal((100, 40)))
    found = outliers(neighbour_graph(vectors_of(np.concatenate([same, varied]))))
    assert len(found.images) <= 25
    assert all(image.id >= 10 + 3 * 400 for image in found.images)
    everything = unit(draws.standard_normal((400, 40)))
    assert len(outliers(neighbour_graph(vectors_of(everything))).images) <= 8


def test_too_few_to_judge() -> None:
    rows = np.concatenate([np.ones((8, 4)), [[1, -1, 1, -1]]])
    assert outliers(neighbour_graph(vectors_of(rows))).images == ()


def test_look_alikes_gather_around_one() -> None:
    """A row of small steps is not one group: who joins is near to the one that stands for it."""
    angles = np.radians([0, 5, 10, 15, 20, 90, 93, 180])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    graph = neighbour_graph(vectors_of(rows))
    groups = look_alikes(graph, float(np.cos(np.radians(6))))
    told = [[(image - 10) // 3 for image in group.ids] for group in groups]
    assert [(group[0], sorted(group[1:])) for group in told] == [(1, [0, 2]), (3, [4]), (5, [6])]
    assert groups[0].cosines[0] == 1
    assert groups[0].cosines[1:] == pytest.approx([np.cos(np.radians(5))] * 2, abs=1e-3)
    with pytest.raises(OptionError, match="min_cosine"):
        look_alikes(graph, float("nan"))


def test_a_full_list_hides_nobody() -> None:
    """An image that has more copies than neighbours: the copies name it."""
    rows = np.concatenate([np.eye(6)[[0] * 30], np.random.default_rng(0).standard_normal((60, 6))])
    graph = neighbour_graph(vectors_of(rows), k=3)
    groups = look_alikes(graph, 0.999)
    assert len(groups[0].ids) >= 27  # all name the first few


def test_what_is_known_as_a_duplicate() -> None:
    rows = np.concatenate([np.repeat(np.eye(6)[:3], 2, axis=0), np.eye(6)[3:]])
    graph = neighbour_graph(vectors_of(rows + 0.001), k=3)

    def file(image: int) -> DuplicateFile:
        return DuplicateFile(image, Path(f"{image}.jpg"), 1, 1, 1, 1.0, 0)

    copies = DuplicateGroup("copy", file(10), "larger", (file(13), file(99)))
    half = DuplicateGroup("burst", file(16), "sharper", (file(99),))
    groups = look_alikes(graph, 0.9, Duplicates((copies, half)))
    assert [(group.ids, group.known) for group in groups] == [
        ((10, 13), "copy"), ((16, 19), None), ((22, 25), None),
    ]  # fmt: skip


def test_copies_of_photos(flickr: Path, tmp_path: Path) -> None:
    """Recompressed photos are look-alikes, and ``dups`` calls the same pairs copies."""
    from PIL import Image

    photos = sorted(flickr.rglob("*.jpg"))[:14]
    for number, photo in enumerate(photos):
        picture = Image.open(photo)
        picture.save(tmp_path / f"{number:02d}.jpg", quality=92)
        if number < 4:
            picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)).save(
                tmp_path / f"{number:02d}-small.jpg", quality=70
            )
    place = tmp_path / "photos.index"
    build_index(tmp_path, place, encoder="mini")
    state = open_index(place).state()
    graph = neighbour_graph(state.vectors)
    assert 0.9 < alike_cosine(graph) < 0.995
    groups = look_alikes(graph, None, find_duplicates(state, "near"))
    places = state.paths.first_places(state.vectors.ids.tolist())
    names = {
        int(image): found.path.name[:2]
        for image, found in zip(state.vectors.ids, places, strict=True)
        if found is not None
    }
    assert len(groups) == 4
    for group in groups:
        assert len(group.ids) == 2
        assert group.known == "copy"
        assert len({names[image] for image in group.ids}) == 1
