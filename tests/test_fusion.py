"""Several encoders of one index asked together: search, labels, and whether it is worth it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from clipsearch import Query, open_index
from clipsearch.captions import Captions
from clipsearch.errors import OptionError, QueryError
from clipsearch.exact_search import RowScan
from clipsearch.fused_evaluation import evaluate_fused, fit_weights, sign_test
from clipsearch.fused_index import FusedIndex
from clipsearch.fused_retrieval import evaluate_fused_retrieval
from clipsearch.fused_search import FusedRanking
from clipsearch.fusion import FusedBlock, fused_scorer
from clipsearch.generation import Generation
from clipsearch.image_index import ImageIndex
from clipsearch.labelled_images import LabelledImages
from clipsearch.scoring import LabelScorer, score_blocks
from clipsearch.vectors import Vectors
from indexer import build_index
from indexer.model_spaces import add_model
from tests.conftest import Cli

MINI = Path(__file__).resolve().parents[1] / "clipsearch" / "models" / "mini"
WEIGHTS = "open_clip_model.safetensors"
LABELS = ["a cat", "a rocket", "a coin", "a cup of coffee", "text on paper"]
Array = npt.NDArray[Any]


@pytest.fixture(scope="session")
def shaken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mini with noise in the weights of its image side: a model of its own opinions."""
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(MINI, tmp_path_factory.mktemp("models") / "shaken"))
    weights = load_file(folder / WEIGHTS)
    weight = weights["visual.head.proj.weight"]
    noise = np.random.default_rng(0).normal(size=weight.shape)
    weights["visual.head.proj.weight"] = (
        weight + 20 * weight.astype(np.float32).std() * noise
    ).astype(weight.dtype)
    save_file(weights, folder / WEIGHTS)
    return folder


@pytest.fixture(scope="session")
def _pair(_built: Path, shaken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pair") / "pair.index"
    shutil.copytree(_built, place)
    assert add_model(place, str(shaken)).lacking == 0
    return place


@pytest.fixture
def pair(_pair: Path) -> ImageIndex:
    """An index of a few pictures with vectors of mini and of the shaken model."""
    return open_index(_pair)


def both(index: ImageIndex) -> list[ImageIndex]:
    """The index in either space, mini first."""
    spaces = index.state().manifest.spaces
    found = [open_index(index.path, space=space) for space in spaces]
    return sorted(found, key=lambda one: one.space.model != "mini")


def z(values: Array) -> Array:
    return np.asarray(
        (values - values.mean(axis=-1, keepdims=True)) / values.std(axis=-1, keepdims=True)
    )


def softmax(logits: Array) -> Array:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def cosines_of(index: ImageIndex, text: str) -> Array:
    _, rows = index.vectors_of(range(index.next_id))
    return np.asarray(rows.astype(np.float64) @ index.text_vectors().encode([text])[0])


# -- search ---------------------------------------------------------------------------------


def test_hits_are_ranked_by_the_mean_of_standard_scores(pair: ImageIndex) -> None:
    mini, other = both(pair)
    cosines = [cosines_of(one, "a cat") for one in (mini, other)]
    wanted = z(0.25 * z(cosines[0]) + 0.75 * z(cosines[1]))
    assert np.corrcoef(cosines[0], cosines[1])[0, 1] < 0.95  # else this would say nothing
    fused = FusedIndex(pair, {"mini": 1, other.space.id: 3})
    hits = fused.search("a cat", k=None)
    assert [hit.id for hit in hits] == np.argsort(-wanted, kind="stable").tolist()
    assert np.allclose([hit.score for hit in hits], np.sort(wanted)[::-1], atol=1e-5)
    assert np.allclose(
        [hit.cosine for hit in hits], cosines[0][[hit.id for hit in hits]], atol=1e-6
    )
    assert (hits.kind, hits.searched, hits.total) == ("exact", len(pair), len(pair))
    assert [hit.id for hit in fused.search("a cat", k=3, offset=2)] == [h.id for h in hits[2:5]]


def test_equal_weights_where_none_are_given(pair: ImageIndex) -> None:
    mini, other = both(pair)
    wanted = z(z(cosines_of(mini, "a coin")) + z(cosines_of(other, "a coin")))
    fused = FusedIndex(pair)
    assert [share for _, share in fused.spaces()] == [0.5, 0.5]
    hits = fused.search("a coin", k=4)
    assert np.allclose([hit.score for hit in hits], np.sort(wanted)[::-1][:4], atol=1e-5)


def test_one_weight_alone_gives_what_that_space_gives(pair: ImageIndex) -> None:
    for alone in both(pair):
        fused = FusedIndex(pair, {alone.space.id: 2.0})
        for query in (Query("a cat"), Query("a rocket", minus=("a cat",), like=(3,))):
            plain = alone.search(query, k=None)
            hits = fused.search(query, k=None)
            assert [hit.id for hit in hits] == [hit.id for hit in plain]
            assert np.isclose(
                np.mean([hit.score for hit in fused.search("a cat", k=None)]), 0, atol=1e-6
            )
        ours = fused.classify(LABELS, top=2, none="off")
        theirs = alone.classify(LABELS, top=2, none="off")
        for name in ("ids", "labels", "scores", "probabilities", "margins", "runners_up"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


def test_a_filter_a_cut_and_a_query_image(pair: ImageIndex) -> None:
    fused = FusedIndex(pair)
    hits = fused.search("a cat", k=None)
    level = (hits[2].score + hits[3].score) / 2
    above = fused.search(Query("a cat", min_score=level), k=None)
    assert [hit.id for hit in above] == [hit.id for hit in hits[:3]]
    assert above.below[0].id == hits[3].id
    lion = fused.search(Query("a cat", where="name = 'lion.jpg'"), k=None)
    everywhere = {hit.id: hit.score for hit in hits}
    assert [(hit.path.name, hit.score) for hit in lion] == [("lion.jpg", everywhere[lion[0].id])]
    alike = fused.search(Query(like=(lion[0].id,)), k=None)
    assert {hit.id for hit in alike} == everywhere.keys() - {lion[0].id}
    strengths = [hit.strength for hit in fused.search("a cat", k=None, strengths=True)]
    assert set(strengths) <= {"strong", "fair", "weak"}
    with pytest.raises(QueryError, match="vector"):
        fused.search(Query(vector=[1.0] * 256))


def made(
    rng: np.random.Generator,
    n: int,
    dim: int,
    *,
    kept: Array | None = None,
    deleted: Array | None = None,
) -> Vectors:
    """Random unit vectors of ids 10 .. 10 + n in two segments, of those that are ``kept``."""
    rows = rng.normal(size=(n, dim)) + rng.normal(size=dim)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = np.arange(10, 10 + n)
    if kept is not None:
        rows, ids = rows[kept], ids[kept]
    half = rows.astype(np.float16)
    gone = np.empty(0, np.int64) if deleted is None else deleted
    return Vectors(ids, (half[: n // 3], half[n // 3 :]), dim, gone)


def unit(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float32]:
    rows = rng.normal(size=shape)
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def test_images_that_lack_a_vector_are_ranked_by_the_others() -> None:
    rng = np.random.default_rng(1)
    n = 3000
    deleted = np.array([11, 500, 2900])
    has = rng.random(n) > 0.2
    first = made(rng, n, 24, deleted=deleted)
    second = made(rng, n, 16, kept=has, deleted=deleted)
    queries = [unit(rng, 24), unit(rng, 16)]
    ranking = FusedRanking([RowScan(first), RowScan(second)], queries, [0.4, 0.6])
    live = ~np.isin(first.ids, deleted)
    planes = np.full((2, n), np.nan)
    planes[0] = np.concatenate(first.segments).astype(np.float64) @ queries[0]
    planes[1, has] = np.concatenate(second.segments).astype(np.float64) @ queries[1]
    planes[:, ~live] = np.nan
    standard = [(own - np.nanmean(own)) / np.nanstd(own) for own in planes]
    whole = ~np.isnan(planes).any(axis=0)
    fused = 0.4 * standard[0] + 0.6 * standard[1]
    fused = (fused - fused[whole].mean()) / fused[whole].std()
    alone = (standard[0] - standard[0][whole].mean()) / standard[0][whole].std()
    wanted = np.where(np.isnan(fused), alone, fused)
    order = np.argsort(np.where(live, -wanted, np.inf), kind="stable")
    scores, cosines, ids = ranking.best(40, None)
    assert ids.tolist() == (order[:40] + 10).tolist()
    assert np.allclose(scores, wanted[order[:40]], atol=1e-5)
    assert np.allclose(cosines, planes[0, order[:40]], atol=1e-6)
    assert not has[order[:40]].all()  # some of them lack the second
    scores, _, ids = ranking.best(n, None)
    assert ids.tolist() == (order[: live.sum()] + 10).tolist()
    allowed = np.sort(rng.choice(first.ids, 50, replace=False))
    _, _, some = ranking.best(50, allowed)
    assert some.tolist() == [one for one in ids.tolist() if one in set(allowed.tolist())]


@pytest.mark.parametrize(("copies", "seen"), [(1, 1), (5, 5), (0, 0), (0, 1), (0, 2)], ids=str)
def test_where_next_to_nothing_can_be_measured_scores_stay_small(copies: int, seen: int) -> None:
    rng = np.random.default_rng(4)
    n = copies or 30
    first, second = made(rng, n, 24), made(rng, n, 16, kept=np.arange(n) < seen)
    if copies:  # of one image
        first, second = (
            Vectors(own.ids, (np.repeat(np.concatenate(own.segments)[:1], n, axis=0),), own.dim,
                    own.deleted)
            for own in (first, second)
        )  # fmt: skip
    queries = [unit(rng, 24), unit(rng, 16)]
    scans = [RowScan(first), RowScan(second)]
    scores, _, ids = FusedRanking(scans, queries, [0.5, 0.5]).best(n, None)
    if copies:
        assert ids.tolist() == first.ids.tolist()
        assert np.abs(scores).max() < 1e-4
    else:  # those that lack the second stand as they do alone
        alone, _, order = FusedRanking(scans[:1], queries[:1], [1.0]).best(n, None)
        lacking = ids >= 10 + seen
        assert ids[lacking].tolist() == [one for one in order.tolist() if one >= 10 + seen]
        assert np.allclose(scores[lacking], alone[order >= 10 + seen], atol=1e-4)
        assert np.abs(scores).max() < 5


# -- labels ---------------------------------------------------------------------------------


def state_of(vectors: Vectors, logit_scale: float) -> Generation:
    return cast(
        Generation, SimpleNamespace(vectors=vectors, space=SimpleNamespace(logit_scale=logit_scale))
    )


def test_labels_are_those_of_the_mean_log_probability() -> None:
    rng = np.random.default_rng(2)
    n, count = 900, 12
    has = np.ones(n, bool)
    has[100:140] = False
    vectors = [made(rng, n, 24), made(rng, n, 40, kept=has)]
    classes = [unit(rng, count, 24), unit(rng, count, 40)]
    scales, weights = (20.0, 60.0), (1.0, 3.0)
    states = [state_of(own, scale) for own, scale in zip(vectors, scales, strict=True)]
    logits = np.zeros((2, n, count))
    for place, here in ((0, np.ones(n, bool)), (1, has)):
        rows = np.concatenate(vectors[place].segments).astype(np.float64)
        logits[place, here] = scales[place] * rows @ classes[place].T
    spreads = [logits[place][has if place else slice(None)].std(axis=1).mean() for place in (0, 1)]
    common = 0.25 * spreads[0] + 0.75 * spreads[1]
    fused = common * (0.25 * logits[0] / spreads[0] + 0.75 * logits[1] / spreads[1])
    fused[~has] = logits[0][~has]
    wanted = softmax(fused)
    scorer = fused_scorer(states, classes, weights, 3, cosines=True)
    blocks = list(score_blocks(vectors[0].live_pieces(), scorer, n))
    labels = np.concatenate([block.labels for block in blocks])
    odds = np.concatenate([block.probabilities for block in blocks])
    order = np.argsort(-wanted, axis=1)[:, :3]
    assert np.array_equal(labels, order)
    assert np.allclose(odds, np.take_along_axis(wanted, order, axis=1), atol=1e-4)
    own = np.concatenate([cast(FusedBlock, block).cosines for block in blocks])
    assert np.allclose(own, np.take_along_axis(logits[0] / 20.0, order, axis=1), atol=1e-5)
    # However the images are cut into blocks, and in whatever order they come.
    ids = rng.permutation(vectors[0].ids)[:200]
    rows = np.concatenate(vectors[0].segments)[ids - 10]
    again = scorer.score(ids, rows)
    assert np.array_equal(again.labels, labels[ids - 10])


def test_many_spaces_and_weights_that_make_no_sense() -> None:
    rng = np.random.default_rng(3)
    vectors = [made(rng, 50, 8), made(rng, 50, 8), made(rng, 50, 8)]
    states = [state_of(own, 50.0) for own in vectors]
    classes = [unit(rng, 4, 8) for _ in states]
    scorer = fused_scorer(states, classes, (0, 1, 1), 4)
    pair = fused_scorer(states[1:], classes[1:], (5, 5), 4)
    ids, first = vectors[0].ids, np.concatenate(vectors[0].segments)
    ours = scorer.score(ids, first)
    theirs = pair.score(ids, np.concatenate(vectors[1].segments))
    assert np.array_equal(ours.labels, theirs.labels)
    assert np.array_equal(ours.probabilities, theirs.probabilities)
    one = fused_scorer(states[:1], classes[:1], (0.2,), 4).score(ids, first)
    assert np.array_equal(one.scores, LabelScorer(classes[0], 50.0, 4).score(ids, first).scores)
    for weights in ((0, 0, 0), (1, -1, 1), (1, float("nan"), 1), (1, float("inf"), 1), (1, 1)):
        with pytest.raises(OptionError, match="weight"):
            fused_scorer(states, classes, weights, 4)


def test_none_of_these_is_as_the_answering_space_says(pair: ImageIndex) -> None:
    mini, _ = both(pair)
    labels = ["a rocket", "a coin"]
    fused = FusedIndex(pair).classify(labels)
    alone = mini.classify(labels)
    assert fused.in_set is not None
    assert alone.in_set is not None
    assert np.allclose(fused.in_set, alone.in_set, atol=1e-5)
    assert np.array_equal(fused.labels[:, 0] < 0, alone.labels[:, 0] < 0)
    assert fused.texts_encoded + fused.texts_cached > alone.texts_encoded + alone.texts_cached


# -- is it worth it -------------------------------------------------------------------------


def labelled(
    n: int, count: int, noises: tuple[float, ...], seed: int
) -> tuple[list[Generation], list[npt.NDArray[np.float32]], LabelledImages]:
    """Images near their class in every space, the further the more noise; every third is twice."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(count, size=n).astype(np.int32)
    ids = np.arange(n)
    states, classes = [], []
    for noise in noises:
        own = unit(rng, count, 32)
        rows = own[truth] + noise * unit(rng, n, 32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        vectors = Vectors(ids, (rows.astype(np.float16),), 32, np.empty(0, np.int64))
        states.append(state_of(vectors, 30.0))
        classes.append(own)
    files = np.sort(np.concatenate([ids, ids[::3]]))
    samples = LabelledImages(
        tuple(f"class {place}" for place in range(count)),
        tuple(Path(f"{number}.jpg") for number in range(len(files))),
        files,
        truth[files],
    )
    return states, classes, samples


def test_two_that_err_differently_are_better_together() -> None:
    states, classes, samples = labelled(600, 20, (2.4, 2.2), 4)
    found = evaluate_fused(states, samples, classes, "made", ["first", "second"])
    best = max(one.accuracy for one in found.singles)
    assert found.best.accuracy == best == found.singles[1].accuracy
    assert found.equal.accuracy > best + 0.1
    assert found.fitted.accuracy > best + 0.1
    against = found.against(found.equal)
    gained = (found.equal.right & ~found.best.right).sum()
    assert (against.gained, against.is_better) == (gained, True)
    assert against.gained - against.lost == round((found.equal.accuracy - best) * len(samples))
    assert found.verdict.startswith(
        f"Together the models beat second, the better one alone ({best:.1%})"
    )
    assert 0.4 < found.weights[0] < 0.6
    document = json.loads(json.dumps(found.to_dict()))
    assert document["fitted"]["accuracy"] == found.fitted.accuracy
    # The very same again.
    again = evaluate_fused(states, samples, classes, "made", ["first", "second"])
    assert np.array_equal(again.fitted.ranked, found.fitted.ranked)
    assert again.weights == found.weights


def test_a_model_that_knows_nothing_gets_no_weight_and_the_verdict_says_so() -> None:
    states, classes, samples = labelled(400, 10, (1.6, 60.0), 5)
    found = evaluate_fused(states, samples, classes, "made", ["good", "blind"])
    assert found.singles[1].accuracy < 0.25
    assert found.weights[1] < 0.1
    assert found.equal.accuracy < found.best.accuracy
    assert found.fitted.accuracy > found.equal.accuracy
    assert abs(found.fitted.accuracy - found.best.accuracy) < 0.02
    assert "do not clearly beat good" in found.verdict
    assert "good 0.9" in found.verdict or "good 1.0" in found.verdict
    with pytest.raises(OptionError, match="two models"):
        evaluate_fused(states[:1], samples, classes[:1], "made", ["good"])


def test_files_that_a_model_has_not_seen_are_left_out_of_all() -> None:
    states, classes, samples = labelled(90, 5, (1.0, 1.0), 6)
    whole = states[1].vectors
    part = Vectors(whole.ids[30:], (whole.segments[0][30:],), 32, whole.deleted)
    states[1] = state_of(part, 30.0)
    found = evaluate_fused(states, samples, classes, "made", ["a", "b"])
    left = int((samples.ids < 30).sum())
    for one in (*found.singles, found.equal, found.fitted):
        assert len(one) == len(samples) - left
        assert f"{left} files lack a vector" in one.samples.notes[-1]


def test_weights_are_the_most_likely_ones() -> None:
    rng = np.random.default_rng(7)
    truth = rng.integers(6, size=500)
    planes = [rng.normal(size=(500, 6)) * 3 for _ in range(3)]
    for plane, clue in zip(planes, (3.0, 1.0, 0.0), strict=True):
        plane[np.arange(500), truth] += clue
    weights = fit_weights(planes, truth)
    assert sum(weights) == pytest.approx(1)
    assert weights[0] > weights[1] > weights[2] >= 0
    assert weights[2] < 0.05

    def loss(factors: Array) -> float:
        odds = softmax(np.tensordot(factors, np.stack(planes), 1))
        return float(-np.log(odds[np.arange(500), truth]).sum())

    # No other proportions suit better than these do at their best temperature.
    steps = np.linspace(0.05, 1.5, 60)
    ours = min(loss(step * np.array(weights)) for step in steps)
    for _ in range(20):
        other = rng.dirichlet(np.ones(3))
        assert min(loss(step * other) for step in steps) > ours - 2.0
    assert fit_weights([plane[:0] for plane in planes], truth[:0]) == pytest.approx((1 / 3,) * 3)


def test_the_sign_test() -> None:
    assert sign_test(0, 0) == 1.0
    assert sign_test(3, 3) == 1.0
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(1, 8) == pytest.approx(2 * (1 + 9) / 512)


# -- the command line -----------------------------------------------------------------------


def test_fuse_on_the_command_line(cli_here: Cli, pair: ImageIndex, shaken: Path) -> None:
    at = ("--index", pair.path)
    done = cli_here("search", "--fuse", "a", "cat", *at, "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    hits = FusedIndex(pair).search("a cat", strengths=True)
    assert [(line["id"], line["score"], line["cosine"], line["strength"]) for line in lines] == [
        (hit.id, round(hit.score, 6), round(hit.cosine, 6), hit.strength) for hit in hits
    ]
    weighted = cli_here("a cat", "--fuse", f"mini=0.3,{shaken}=0.7", *at, "--json", "-k", "2")
    hits = FusedIndex(pair, {"mini": 3, str(shaken): 7}).search("a cat", k=2)
    scores = [json.loads(line)["score"] for line in weighted.stdout.splitlines()]
    assert scores == [round(hit.score, 6) for hit in hits]
    paths = cli_here("similar", hits[0].path, "--fuse", *at)
    assert len(paths.stdout.splitlines()) == min(10, len(pair) - 1)

    done = cli_here(
        "classify", "--fuse", "--labels", ",".join(LABELS), "--json", "--none", "off", *at
    )
    assert done.returncode == 0, done.stderr
    result = FusedIndex(pair).classify(LABELS, none="off")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["label"] for line in lines] == [LABELS[place] for place in result.labels[:, 0]]
    assert [line["probability"] for line in lines] == pytest.approx(
        result.probabilities[:, 0].tolist(), abs=1e-5
    )
    mini, _ = both(pair)
    _, rows = mini.vectors_of(result.ids)
    classes, _ = mini.class_vectors(LABELS)
    own = (rows @ classes.T)[np.arange(len(rows)), result.labels[:, 0]]
    assert [line["cosine"] for line in lines] == pytest.approx(own.tolist(), abs=1e-5)


def test_labels_below_labels(cli_here: Cli, pair: ImageIndex, tmp_path: Path) -> None:
    file = tmp_path / "things.toml"
    file.write_text(
        '[labels."a cat"]\nparent = "an animal"\n[labels."an animal"]\n[labels."a coin"]\n'
    )
    options = ("classify", "--labels-file", file, "--index", pair.path, "--none", "off", "--json")
    alone, weighted = cli_here(*options), cli_here(*options, "--fuse", "mini=1")
    assert alone.returncode == weighted.returncode == 0, alone.stderr + weighted.stderr
    rows = [json.loads(line) for line in weighted.stdout.splitlines()]
    for row in rows:
        row.pop("cosine")
    assert rows == [json.loads(line) for line in alone.stdout.splitlines()]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--fuse", "mini=x"), "mini=0.3"),
        (("--fuse", "mini=-1"), "mini=0.3"),
        (("--fuse", "mini=nan"), "mini=0.3"),
        (("--fuse", "mini=0"), "weight above 0"),
        (("--fuse", "=1"), "mini=0.3"),
        (("--fuse", "mini=1,mini=2"), "two weights"),
        (("--fuse", "mini=1,mini-f=1"), "twice"),
        (("--fuse", "no such\x1b[31m=1"), "model add"),
        (("--fuse", "--save", "cats"), "--fuse"),
        (("--fuse", "mini=1", "--fuse=shaken=2"), "--fuse is there twice"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line(
    cli_here: Cli, pair: ImageIndex, options: tuple[str, ...], says: str
) -> None:
    done = cli_here("search", "a cat", *options, "--index", pair.path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert says in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1
    assert b"\x1b" not in done.stderr


def test_one_model_alone_cannot_be_fused(cli_here: Cli, mini_index: Path) -> None:
    for words in (("search", "a cat"), ("classify", "--labels", "a cat,a dog")):
        done = cli_here(*words, "--fuse", "--index", mini_index)
        assert (done.returncode, done.stdout) == (2, b"")
        assert f"'clipsearch model add MODEL --index {mini_index}'" in done.stderr.decode()
        assert len(done.stderr.splitlines()) == 1
    done = cli_here(
        "classify", "--fuse", "--adapt", "--labels", "a cat,a dog", "--index", mini_index
    )
    assert (done.returncode, b"--fuse goes by itself" in done.stderr) == (2, True)


def test_a_model_that_lacks_images_is_fused_only_where_it_is_named(
    cli_here: Cli, pictures: Path, shaken: Path, tmp_path: Path
) -> None:
    place = tmp_path / "own.index"
    build_index(pictures, place, encoder="mini")
    gone = open_index(place).id_of(pictures / "lion.jpg")
    assert gone is not None
    (pictures / "lion.jpg").unlink()
    assert add_model(place, str(shaken)).lacking == 1
    alone = cli_here("search", "a cat", "--fuse", "--index", place)
    assert (alone.returncode, alone.stdout) == (2, b"")
    assert f"--fuse with weights (mini=1,{shaken}=1)" in alone.stderr.decode()
    weights = f"mini=1,{shaken}=1"
    done = cli_here("search", "a cat", "--fuse", weights, "--index", place, "-k", "all",
                    "--min-score", "none", "--json")  # fmt: skip
    found = {json.loads(line)["id"] for line in done.stdout.splitlines()}
    assert found == set(open_index(place).state().vectors.ids.tolist())
    fused = FusedIndex(open_index(place), {"mini": 1, str(shaken): 1})
    ours, theirs = (one.classify(LABELS, none="off") for one in (fused, open_index(place)))
    row = ours.ids.tolist().index(gone)
    assert ours.label_of(gone) == theirs.label_of(gone)
    assert ours.probabilities[row] == pytest.approx(theirs.probabilities[row])
    with pytest.raises(QueryError, match="no vector of"):
        fused.search(Query(like=(gone,)))
    done = cli_here("similar", pictures / "lion.jpg", "--index", place)
    assert done.returncode == 0, done.stderr
    for options in (("--fuse", weights), ("--space", str(shaken))):
        done = cli_here("similar", pictures / "lion.jpg", "--index", place, *options)
        assert (done.returncode, done.stdout) == (2, b"")
        assert f"the index has no vector of {shaken} for it" in done.stderr.decode()


# -- captions -------------------------------------------------------------------------------


def captioned(
    n: int, noises: tuple[float, ...], seed: int
) -> tuple[list[Generation], list[Any], Captions]:
    """Images, and two captions of each that lie near it, the further the more noise."""
    rng = np.random.default_rng(seed)
    ids = np.arange(5, 5 + n)
    owners = np.repeat(np.arange(n), 2)
    states, texts = [], []
    for noise in noises:
        rows = unit(rng, n, 24)
        words = rows[owners] + noise * unit(rng, len(owners), 24)
        words = np.asarray(words / np.linalg.norm(words, axis=1, keepdims=True), np.float32)
        own = Vectors(ids, (rows.astype(np.float16),), 24, np.empty(0, np.int64))
        states.append(state_of(own, 40.0))
        texts.append(
            SimpleNamespace(encode=lambda asked, words=words: words[[int(t) for t in asked]])
        )
    captions = Captions(ids[owners], tuple(str(number) for number in range(len(owners))))
    return states, texts, captions


def test_captions_find_what_the_scores_of_search_put_first() -> None:
    states, texts, captions = captioned(150, (1.6, 1.5), 8)
    found = evaluate_fused_retrieval(states, texts, captions, ["first", "second"])
    owners = captions.ids - 5
    scores = []
    for state, source in zip(states, texts, strict=True):
        rows = state.vectors.take(state.vectors.ids)[1].astype(np.float64)
        scores.append(source.encode(captions.texts).astype(np.float64) @ rows.T)
    m = np.arange(len(owners))

    def recall(fused: Array, k: int) -> float:
        return float(((fused > fused[m, owners][:, None]).sum(axis=1) < k).mean())

    fused = z(scores[0]) + z(scores[1])
    for k in (1, 5, 10):
        assert found.equal.text_to_image[k] == recall(fused, k)
        assert [one.text_to_image[k] for one in found.singles] == [recall(s, k) for s in scores]
    whole = sum(own / own.std(axis=1).mean() for own in scores)
    own = np.array([whole[owners == place, place].max() for place in range(150)])
    ranks = (whole > own).sum(axis=0)
    assert found.equal.image_to_text[5] == float((ranks < 5).mean())
    assert found.equal.text_to_image[1] > found.singles[1].text_to_image[1] + 0.1
    assert abs(found.fitted.text_to_image[1] - found.equal.text_to_image[1]) < 0.05
    assert "beat second, the better one alone" in found.verdict
    assert np.mean(found.hits[2]) == found.equal.text_to_image[1]
    assert found.equal.model == "first + second, equal weights"


def test_captions_of_a_model_that_knows_nothing() -> None:
    states, texts, captions = captioned(120, (1.0, 50.0), 9)
    blind = states[1].vectors
    states[1] = state_of(
        Vectors(blind.ids[20:], (blind.segments[0][20:],), 24, blind.deleted), 40.0
    )
    found = evaluate_fused_retrieval(states, texts, captions, ["good", "blind"])
    assert {one.images for one in (*found.singles, found.equal, found.fitted)} == {100}
    assert "20 images lack a vector" in found.fitted.notes[-1]
    assert found.weights[1] < 0.15
    assert found.equal.text_to_image[1] < found.singles[0].text_to_image[1]
    assert found.fitted.text_to_image[1] > found.equal.text_to_image[1]
    assert "do not clearly beat good" in found.verdict or "are worse than good" in found.verdict
    with pytest.raises(OptionError, match="two models"):
        evaluate_fused_retrieval(states[:1], texts[:1], captions, ["good"])


def test_evaluate_finds_captions_by_all_models(
    cli_here: Cli, pair: ImageIndex, tmp_path: Path
) -> None:
    table = tmp_path / "captions.csv"
    paths = [place.path for image in range(pair.next_id) for place in pair.paths().places(image)]
    rows = [f"{path},{path.stem} number {number}" for number, path in enumerate(paths)]
    table.write_text("\n".join(["image,caption", *rows]))
    done = cli_here("evaluate", "--index", pair.path, "--captions", table, "--fuse", "--json")
    assert done.returncode == 0, done.stderr.decode()
    document = json.loads(done.stdout)
    first, second, equal, fitted = document["retrievals"]
    assert equal["model"] == f"{first['model']} + {second['model']}, equal weights"
    assert fitted["captions"] == first["captions"] == len(paths)
    assert sum("finding a caption's image first" in note for note in document["notes"]) == 1
