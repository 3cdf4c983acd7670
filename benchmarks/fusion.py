"""Do several encoders together beat the better one of them? Search and labels.

    python benchmarks/fusion.py --model MODEL --model MODEL --captioned FOLDER \
        --classes FOLDER --support FOLDER [--speed INDEX]

``--captioned`` holds photos and captions.csv (image,caption). ``--classes`` and ``--support`` hold
a folder a class, the same ones. All are indexed with each of the models, once.

Search: recall of a caption's photo among the first 1, 5 and 10 of all, by the cosines of each
model, by their standard scores averaged with equal weights, by weights that were fitted on the
captions of other photos (half of them, both ways round), and over the whole range of weights.
The automatic cut-off on words with and without answers is as in ``cutoff.py``.

Labels: top-1 accuracy by seven templates of each model, of both with equal weights, with logits
brought to one spread or left as they are, with weights fitted on ``--support``, and with weights
fitted on the test photos themselves, on other ones than are labelled. p is that of McNemar's exact
test against the better model alone.

``--speed``: processor time, of search and of labels, in an index of one space against two (the
same one twice).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cutoff import captioned_answers, class_answers, outcome, shown_by
from cutoff_queries import NOT_A_THING, words_of

from clipsearch import open_index
from clipsearch.background import open_background
from clipsearch.cutoff import cut_off
from clipsearch.evaluation import evaluate
from clipsearch.exact_search import RowScan
from clipsearch.fused_evaluation import evaluate_fused, fit_weights, fitted_weights
from clipsearch.fused_search import FusedRanking
from clipsearch.fusion import FusedScorer, fused_scorer
from clipsearch.image_index import ImageIndex
from clipsearch.labelled_images import labelled_by_folder
from clipsearch.prompts import class_vectors
from clipsearch.scoring import LabelScorer, Scorer, score_blocks
from indexer import build_index
from indexer.model_spaces import add_model

Float = npt.NDArray[np.floating]
CUTS = (1, 5, 10)


def in_all(folder: Path, models: Sequence[str], scratch: Path) -> list[ImageIndex]:
    """The folder's photos, indexed with every model; the index in the space of each."""
    place = scratch / f"{folder.name}.index"
    build_index(folder, place, encoder=models[0])
    for model in models[1:]:
        add_model(place, model)
    spaces = open_index(place).state().manifest.spaces
    return [open_index(place, space=space) for space in spaces]


def recalls(scores: Float, truth: npt.NDArray[np.int64]) -> list[float]:
    """The share of (n, N) rows whose true column is among the first 1, 5 and 10, in percent."""
    ranks = (scores > scores[np.arange(len(truth)), truth][:, None]).sum(axis=1)
    return [100 * float((ranks < cut).mean()) for cut in CUTS]


def standard(scores: Float) -> Float:
    """Each row as standard deviations above its mean."""
    found: Float = (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)
    return found


def search(indexes: Sequence[ImageIndex], folder: Path, names: Sequence[str]) -> None:
    """Print recall of photos by their captions."""
    first = indexes[0]
    ids, _ = first.vectors_of(range(first.next_id))
    of_name = {
        first.paths().places(image)[0].path.name: place for place, image in enumerate(ids.tolist())
    }
    with open(folder / "captions.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if Path(row["image"]).name in of_name]
    truth = np.array([of_name[Path(row["image"]).name] for row in rows])
    texts = [row["caption"] for row in rows]
    planes = []
    for index in indexes:
        _, vectors = index.vectors_of(ids)
        planes.append(standard(index.text_vectors().encode(texts) @ vectors.T))
    agree = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*planes[:2], strict=True)])
    print(f"\nSearch: {len(texts):,} captions of {len(ids):,} photos; correlation {agree:.2f}")
    print(f"{'':<34}{'R@1':>8}{'R@5':>8}{'R@10':>8}")

    def line(name: str, scores: Float) -> None:
        print(f"{name:<34}" + "".join(f"{value:8.1f}" for value in recalls(scores, truth)))

    for name, plane in zip(names, planes, strict=True):
        line(name, plane)
    line("equal weights", np.mean(planes, axis=0))
    fused = np.empty_like(planes[0])
    half = np.random.default_rng(0).permutation(len(ids)) < len(ids) // 2
    weights = []
    for side in (half, ~half):
        chosen = side[truth]
        weights.append(fit_weights([plane[chosen] for plane in planes], truth[chosen]))
        mixed = np.tensordot(weights[-1], np.stack(planes), 1)
        fused[~chosen] = mixed[~chosen]
    line("fitted on other photos", fused)
    told = " and ".join(", ".join(f"{one:.2f}" for one in pair) for pair in weights)
    print(f"  (weights {told})")
    if len(planes) == 2:
        for weight in np.linspace(0, 1, 11)[1:-1]:
            line(f"  {names[0]} {weight:.1f}", weight * planes[0] + (1 - weight) * planes[1])


def cut(indexes: Sequence[ImageIndex], folder: Path, names: Sequence[str], by_class: bool) -> None:
    """Print what the automatic cut-off shows of words with answers and without."""
    first = indexes[0]
    ids, _ = first.vectors_of(range(first.next_id))
    photos = [first.paths().places(image)[0].path for image in ids.tolist()]
    answers = class_answers(photos) if by_class else captioned_answers(folder, photos, 2)
    noise = words_of(NOT_A_THING)
    texts = [*answers, *noise]
    nothing = np.zeros(len(photos), np.bool_)
    relevant = np.stack([*answers.values(), *[nothing] * len(noise)], axis=1)
    has_answers = relevant.any(axis=0)
    planes = []
    for index in indexes:
        _, vectors = index.vectors_of(ids)
        background = open_background(index.state(), index.text_vectors())
        vector = index.text_vectors().encode(texts)
        columns = [background.standardise(own, ids, vectors @ own) for own in vector]
        planes.append(np.stack(columns, axis=1))
    level = cut_off(len(ids))
    print(f"\nAutomatic cut-off, {folder.name}: {has_answers.sum()} words with answers, "
          f"{(~has_answers).sum()} without")  # fmt: skip
    print(f"{'':<34}{'prec.':>8}{'recall':>8}{'F1':>8}{'nothing shown':>15}")
    mixtures = [(name, plane) for name, plane in zip(names, planes, strict=True)]
    mixtures.append(("equal weights", np.mean(planes, axis=0)))
    if len(planes) == 2:
        mixtures.append((f"{names[0]} 0.3", 0.3 * planes[0] + 0.7 * planes[1]))
    for name, scores in mixtures:
        found = outcome(shown_by(scores, level.strong, level.fair), relevant)
        parts = (found.precision, found.recall, found.f1)
        row = "".join(f"{part[has_answers].mean():8.3f}" for part in parts)
        print(f"{name:<34}{row}{(found.shown[~has_answers] == 0).mean():15.3f}")


def labels(
    indexes: Sequence[ImageIndex], support: Sequence[ImageIndex], names: Sequence[str]
) -> None:
    """Print accuracies on a folder a class."""
    samples, others = (labelled_by_folder(side[0].state()) for side in (indexes, support))
    states = [index.state() for index in indexes]
    classes = [class_vectors(samples.classes, index.text_vectors()) for index in indexes]
    found = evaluate_fused(states, samples, classes, "simple", names)
    on_support = fitted_weights([index.state() for index in support], others, classes)

    def by(scorer: Scorer, name: str) -> None:
        one = evaluate(states[0], samples, scorer, "simple", name)
        against = found.against(one)
        line(
            name, one.accuracy, one.reliability.error, against.gained, against.lost, against.chance
        )

    def line(name: str, accuracy: float, error: float, *rest: float) -> None:
        told = f"{rest[0]:8.0f}{rest[1]:8.0f}{rest[2]:8.2f}" if rest else ""
        print(f"{name:<34}{accuracy:8.1%}{error:8.3f}{told}")

    print(f"\nLabels: {len(samples)} photos of {len(samples.classes)} classes")
    print(f"{'':<34}{'top-1':>8}{'ECE':>8}{'gained':>8}{'lost':>8}{'p':>8}")
    for one in found.singles:
        line(one.model, one.accuracy, one.reliability.error)
    equal = [1.0 / len(states)] * len(states)
    unlike = [1.0 / state.space.logit_scale for state in states]
    by(fused_scorer(states, classes, equal, 5), "equal weights")
    by(
        FusedScorer(states, classes, equal, unlike, 5, False, LabelScorer),
        "equal, spreads as they are",
    )
    by(fused_scorer(states, classes, on_support, 5), "fitted on the support photos")
    by_others = found.fitted
    against = found.against(by_others)
    line(
        "fitted on the other test photos", by_others.accuracy, by_others.reliability.error,
        against.gained, against.lost, against.chance,
    )  # fmt: skip
    told = ", ".join(f"{name} {w:.2f}" for name, w in zip(names, on_support, strict=True))
    print(f"  (weights fitted on the support photos: {told})\n  {found.verdict}")
    if len(states) == 2:
        for weight in np.linspace(0, 1, 11)[1:-1]:
            by(fused_scorer(states, classes, (weight, 1 - weight), 5), f"  {names[0]} {weight:.1f}")


def speed(place: Path) -> None:
    """Print processor time of one space and of two."""
    state = open_index(place).state()
    rng = np.random.default_rng(0)
    dim = state.vectors.dim
    queries = rng.normal(size=(2, dim)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    scans = [RowScan(state.vectors) for _ in queries]

    def least(run: Callable[[], object]) -> float:
        found = []
        for _ in range(5):
            begin = time.process_time()
            run()
            found.append(time.process_time() - begin)
        return 1000 * min(found)

    print(f"\nProcessor time, {len(state.vectors):,} images of {dim} numbers, ms")
    one = least(lambda: scans[0].best(queries[0], 10))
    two = least(lambda: FusedRanking(scans, list(queries), [0.5, 0.5]).best(10, None))
    print(f"{'search':<34}{one:8.0f}{two:8.0f}{two / one:8.1f} times")
    for count in (10, 100, 1000):
        classes = rng.normal(size=(count, dim)).astype(np.float32)
        classes /= np.linalg.norm(classes, axis=1, keepdims=True)
        scorers: list[Scorer] = [
            LabelScorer(classes, 100.0),
            fused_scorer([state, state], [classes, classes], [1, 1]),
        ]

        def run(scorer: Scorer) -> None:
            some = itertools.islice(state.vectors.live_pieces(), 12)
            for _ in score_blocks(some, scorer, len(state.vectors)):
                pass

        one, two = (least(lambda scorer=scorer: run(scorer)) for scorer in scorers)  # type: ignore[misc]
        print(f"{f'{count} labels, 196,608 images':<34}{one:8.0f}{two:8.0f}{two / one:8.1f} times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--captioned", type=Path)
    parser.add_argument("--classes", type=Path)
    parser.add_argument("--support", type=Path)
    parser.add_argument("--speed", type=Path)
    arguments = parser.parse_args()
    names = [Path(model).name for model in arguments.model]
    with tempfile.TemporaryDirectory() as scratch:
        folders = [arguments.captioned, arguments.classes, arguments.support]
        if any(folders) and len(names) < 2:
            parser.error("expected two models or more")
        indexes = {
            folder: in_all(folder.resolve(), arguments.model, Path(scratch))
            for folder in folders
            if folder is not None
        }
        if arguments.captioned:
            search(indexes[arguments.captioned], arguments.captioned, names)
            cut(indexes[arguments.captioned], arguments.captioned, names, by_class=False)
        if arguments.classes and arguments.support:
            cut(indexes[arguments.classes], arguments.classes, names, by_class=True)
            labels(indexes[arguments.classes], indexes[arguments.support], names)
    if arguments.speed:
        speed(arguments.speed)


if __name__ == "__main__":
    main()
