"""Which cut-off tells answers from the rest: flat, share of the best, or standardised?

    python benchmarks/cutoff.py --captioned FOLDER --classes FOLDER --model MODEL [--model ...]

``--captioned`` holds photos and captions.csv (image,caption); a photo answers a query when one of
the query's words stands in ``--at-least`` of its captions. ``--classes`` holds a folder a class.
Beside queries with answers there are as many without: things of which there is no photo, each
class once more with its photos left out, and words that name no thing.

The tables hold means over queries with answers of precision, recall and F1 (0 where nothing is
shown) and the share of them that show anything; over queries without, the share that shows
nothing (things that are absent, words that name no thing) and how many false hits there are;
over all queries, F1 or 1 for rightly showing nothing; and the same with either kind weighing half.

Every threshold is chosen on a random half of the queries (by the mean of F1 over queries with
answers and of "nothing shown" over those without) and measured on the other half, 20 times, both
ways round; "elsewhere" chooses it on the other folder. The automatic cut-off is as it ships; the
last table holds its levels, and a flat threshold for all, to queries they were not chosen on.
"""

from __future__ import annotations

import argparse
import csv
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cutoff_queries import (
    CAPTIONED,
    CLASS_WORDS,
    NOT_A_THING,
    NOT_IN_CAPTIONS,
    NOT_IN_CLASSES,
    words_of,
)

from clipsearch import open_index
from clipsearch.background import FITTING_SHARE
from clipsearch.background_words import background_prompts, background_words
from clipsearch.cutoff import cut_off
from indexer import build_index

Float = npt.NDArray[np.floating]
Bool = npt.NDArray[np.bool_]
SPLITS = 20
NULL_PROMPTS = ("a photo", "an image", "a picture", "a photo of something")
"""Prompts that name nothing."""
WITH_ANSWERS, WITHOUT, NO_THING = 0, 1, 2


@dataclass(frozen=True)
class Questions:
    """N photos and Q queries. cosines : (N, Q), nan where a photo is left out for a query.
    answers : (N, Q). kind : (Q,), WITH_ANSWERS, WITHOUT or NO_THING. background : (N, C) and
    nulls : (N, 4) cosines. vectors : (N, dim). scale : the model's logit scale. texts : Q."""

    cosines: Float
    answers: Bool
    kind: npt.NDArray[np.int64]
    background: Float
    nulls: Float
    vectors: Float
    scale: float
    texts: list[str]


def captioned_answers(folder: Path, photos: list[Path], at_least: int) -> dict[str, Bool]:
    """By query, which photos answer it; for absent things, none."""
    captions: dict[str, list[str]] = {photo.name: [] for photo in photos}
    with open(folder / "captions.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["image"] in captions:
                captions[row["image"]].append(
                    " ".join(re.findall("[a-z]+", row["caption"].lower()))
                )
    answers: dict[str, Bool] = {}
    for line in CAPTIONED.strip().splitlines():
        query, _, words = line.partition(":")
        found = re.compile(rf"\b({'|'.join(words.split())})\b")
        counts = [sum(bool(found.search(text)) for text in captions[p.name]) for p in photos]
        relevant = np.array(counts) >= at_least
        if 3 <= relevant.sum() <= 80:
            answers[query] = relevant
    for query in words_of(NOT_IN_CAPTIONS):
        if any(re.search(rf"\b{query}s?\b", text) for texts in captions.values() for text in texts):
            raise SystemExit(f"a caption holds {query!r}: it is no absent thing")
        answers[query] = np.zeros(len(photos), np.bool_)
    return answers


def class_answers(photos: list[Path]) -> dict[str, Bool]:
    """By query, which photos answer it: those in the class's folder."""
    classes = np.array([photo.parent.name for photo in photos])
    answers = {
        CLASS_WORDS.get(name, name.replace("_", " ")): classes == name
        for name in sorted(set(classes))
    }
    return answers | {word: np.zeros(len(photos), np.bool_) for word in words_of(NOT_IN_CLASSES)}


def ask(folder: Path, model: str, scratch: Path, at_least: int | None) -> Questions:
    """Index ``folder`` and score every query; ``at_least`` is None for a folder a class."""
    place = scratch / f"{folder.name}-{Path(model).name}.index"
    build_index(folder, place, encoder=model)
    index = open_index(place)
    ids, vectors = index.vectors_of(np.arange(1 << 20))
    photos = [index.paths().places(int(image_id))[0].path for image_id in ids]
    by_class = at_least is None
    answers = (
        class_answers(photos) if by_class else captioned_answers(folder, photos, at_least or 1)
    )
    texts = list(answers)
    relevant = np.stack([answers[text] for text in texts], axis=1)
    kind = np.where(relevant.any(axis=0), WITH_ANSWERS, WITHOUT)
    encode = index.text_vectors().encode
    cosines = vectors @ encode(texts).T
    if by_class:  # each class once more, its photos left out
        classes = kind == WITH_ANSWERS
        left_out = np.where(relevant[:, classes], np.nan, cosines[:, classes])
        cosines = np.concatenate([cosines, left_out], axis=1)
        relevant = np.concatenate([relevant, np.zeros_like(left_out, np.bool_)], axis=1)
        texts += [text for text, is_class in zip(texts, classes, strict=True) if is_class]
    noise = words_of(NOT_A_THING)
    missing = len(texts) - len(kind)
    return Questions(
        cosines=np.concatenate([cosines, vectors @ encode(noise).T], axis=1),
        answers=np.concatenate([relevant, np.zeros((len(photos), len(noise)), np.bool_)], axis=1),
        kind=np.concatenate([kind, np.full(missing, WITHOUT), np.full(len(noise), NO_THING)]),
        background=vectors @ encode(background_prompts()).T,
        nulls=vectors @ encode(NULL_PROMPTS).T,
        vectors=vectors,
        scale=index.space.logit_scale,
        texts=texts + noise,
    )


def of_image(asked: Questions) -> Float:
    """Standardised against the image's cosines to the background words."""
    mean = asked.background.mean(axis=1, keepdims=True)
    spread: Float = asked.background.std(axis=1, keepdims=True)
    return (asked.cosines - mean) / spread


def trimmed(asked: Questions) -> Float:
    """The same without the words that fit the image best; as ``Background.standardise``."""
    count = asked.background.shape[1]
    words = np.sort(asked.background, axis=1)[:, : count - round(FITTING_SHARE * count)]
    spread: Float = words.std(axis=1, keepdims=True)
    return (asked.cosines - words.mean(axis=1, keepdims=True)) / spread


def of_query(scores: Float) -> Float:
    """Standardised over the collection."""
    standardised: Float = (scores - np.nanmean(scores, 0)) / np.nanstd(scores, 0)
    return standardised


def of_query_robust(scores: Float) -> Float:
    """The same with the median and the median deviation, which a few answers do not move."""
    centred = scores - np.nanmedian(scores, 0)
    standardised: Float = centred / (1.4826 * np.nanmedian(abs(centred), 0))
    return standardised


def beyond_quantile(asked: Questions) -> Float:
    """Logits above the image's 98th percentile of the background words."""
    level = np.percentile(asked.background, 98, axis=1, keepdims=True)
    beyond: Float = (asked.cosines - level) * asked.scale
    return beyond


METHODS: dict[str, Callable[[Questions], Float]] = {
    "flat cosine": lambda asked: asked.cosines,
    "share of the best cosine": lambda asked: (
        asked.cosines / np.maximum(np.nanmax(asked.cosines, 0), 1e-6)
    ),
    "above null prompts": lambda asked: asked.cosines - asked.nulls.mean(1, keepdims=True),
    "z of the query": lambda asked: of_query(asked.cosines),
    "z of the query, robust": lambda asked: of_query_robust(asked.cosines),
    "z of the image": of_image,
    "z of the image, trimmed": trimmed,
    "double z": lambda asked: of_query(of_image(asked)),
    "double z, robust": lambda asked: of_query_robust(of_image(asked)),
    "beyond 98 % of background": beyond_quantile,
}
TWO_LEVELS = (
    "flat cosine",
    "z of the image",
    "z of the image, trimmed",
    "beyond 98 % of background",
)


@dataclass(frozen=True)
class Outcome:
    """By query: precision, recall and F1 (0 where nothing was shown), and how many were shown."""

    precision: Float
    recall: Float
    f1: Float
    shown: Float

    def per_query(self, kind: npt.NDArray[np.int64]) -> Float:
        """F1 where there are answers, else 1 for showing nothing and 0 for anything."""
        return np.where(kind == WITH_ANSWERS, self.f1, self.shown == 0)


def outcome(shown: Bool, answers: Bool) -> Outcome:
    """Compare (N, Q) what was shown with what answers."""
    right, many, there = (shown & answers).sum(0), shown.sum(0), answers.sum(0)
    precision = right / np.maximum(many, 1)
    recall = right / np.maximum(there, 1)
    f1 = 2 * right / np.maximum(many + there, 1)
    return Outcome(precision, recall, f1, many.astype(float))


def balanced(per_query: Float, kind: npt.NDArray[np.int64]) -> Float:
    """The mean of the mean over queries with answers and of that over queries without."""
    present = kind == WITH_ANSWERS
    half: Float = (per_query[..., present].mean(-1) + per_query[..., ~present].mean(-1)) / 2
    return half


def shown_by(scores: Float, high: float, low: float) -> Bool:
    """What two levels show; with a single threshold both are the same."""
    reached = np.where(np.isnan(scores), -np.inf, scores)
    shown: Bool = (reached >= low) & (reached.max(0) >= high)
    return shown


def grid(scores: list[Float], two: bool) -> list[tuple[float, float]]:
    """Pairs of levels to choose from."""
    every = np.concatenate([part[~np.isnan(part)] for part in scores])
    best = np.concatenate([np.nanmax(part, 0) for part in scores])
    if not two:
        shares = np.concatenate([np.linspace(0.3, 0.97, 60), np.linspace(0.971, 1, 60)])
        levels = np.unique(np.concatenate([np.quantile(every, shares), best]))
        return [(float(level), float(level)) for level in levels]
    highs = np.unique(np.quantile(best, np.linspace(0, 1, 30)))
    gaps = np.linspace(0, 2, 7) * every.std()
    return [(float(high), float(high - gap)) for high in highs for gap in gaps]


def halves(kind: npt.NDArray[np.int64], rng: np.random.Generator) -> Bool:
    """A random half of the queries of every kind."""
    half = np.zeros(len(kind), np.bool_)
    for one in np.unique(kind):
        where = rng.permutation(np.flatnonzero(kind == one))
        half[where[: len(where) // 2]] = True
    return half


def figures(result: Outcome, kind: npt.NDArray[np.int64], chosen: Bool) -> list[float]:
    """Precision, recall, F1, answered; nothing shown for absent things and for no things, false
    hits; the mean over all queries and the balanced one."""
    present, absent = chosen & (kind == WITH_ANSWERS), chosen & (kind == WITHOUT)
    nothing = chosen & (kind == NO_THING)
    per_query = result.per_query(kind)
    return [
        *(float(part[present].mean()) for part in (result.precision, result.recall, result.f1)),
        float((result.shown[present] > 0).mean()),
        float((result.shown[absent] == 0).mean()),
        float((result.shown[nothing] == 0).mean()),
        float(result.shown[absent].mean()),
        float(per_query[chosen].mean()),
        float(balanced(per_query[chosen], kind[chosen])),
    ]


HEADING = "".join(
    [f"{'':<39}"]
    + [f"{name:>10}" for name in ("precision", "recall", "F1", "answered", "none", "no thing")]
    + [f"{name:>12}" for name in ("false hits", "all queries", "balanced", "elsewhere")]
)


def line(name: str, row: list[float], elsewhere: float | None = None) -> str:
    """One line of a table; ``row`` is what ``figures`` returns."""
    narrow = "".join(f"{value:10.3f}" for value in row[:6])
    wide = "".join(f"{value:12.3f}" for value in [*row[6:], *([elsewhere] if elsewhere else [])])
    return f"{name:<39}{narrow}{wide}"


def compare(asked: Questions, other: Questions) -> None:
    """Print the table of one folder and model; ``other`` is the other folder, same model."""
    print(HEADING)
    variants = [(name, False) for name in METHODS] + [(name, True) for name in TWO_LEVELS]
    for name, two in variants:
        scores, there = METHODS[name](asked), METHODS[name](other)
        pairs = grid([scores, there], two)
        results = [outcome(shown_by(scores, *pair), asked.answers) for pair in pairs]
        table = np.stack([result.per_query(asked.kind) for result in results])
        rows = []
        rng = np.random.default_rng(0)
        for _ in range(SPLITS):
            half = halves(asked.kind, rng)
            for tune, test in ((half, ~half), (~half, half)):
                best = int(balanced(table[:, tune], asked.kind[tune]).argmax())
                rows.append(figures(results[best], asked.kind, test))
        tables = np.stack(
            [outcome(shown_by(there, *pair), other.answers).per_query(other.kind) for pair in pairs]
        )
        abroad = int(balanced(tables, other.kind).argmax())
        elsewhere = float(balanced(table[abroad], asked.kind))
        label = f"{name}, two levels" if two else name
        print(line(label, np.mean(rows, 0).tolist(), elsewhere))
    scores = trimmed(asked)
    cut = cut_off(len(scores))
    result = outcome(shown_by(scores, cut.strong, cut.fair), asked.answers)
    row = figures(result, asked.kind, np.ones(len(asked.kind), np.bool_))
    print(line("automatic, as shipped", row))


def above_chance(asked: Questions) -> Float:
    """Trimmed z of the image, less what the best of so many photos reaches by chance."""
    return trimmed(asked) - np.sqrt(2 * np.log(len(asked.cosines)))


def together(every: list[Questions]) -> None:
    """Print what levels do that are the same for all folders and models: chosen on half of the
    queries of all, measured on the other half."""
    print(HEADING)
    for name, method, two in (
        ("flat cosine", METHODS["flat cosine"], False),
        ("flat cosine, two levels", METHODS["flat cosine"], True),
        ("z of the image", of_image, False),
        ("z of the image, two levels", of_image, True),
        ("z of the image, trimmed, two levels", trimmed, True),
        ("automatic (rises with the photos)", None, True),
    ):
        scores = [(method or above_chance)(asked) for asked in every]
        if method is None:
            pairs = [(m, f) for m in np.arange(0, 2.01, 0.25) for f in np.arange(2.6, 3.9, 0.2)]
        else:
            pairs = grid(scores, two)
        results = []
        for asked, score in zip(every, scores, strict=True):
            chance = np.sqrt(2 * np.log(len(score)))
            shown = (
                shown_by(score + chance, max(high + chance, low), low)
                if method is None
                else shown_by(score, high, low)
                for high, low in pairs
            )
            results.append([outcome(part, asked.answers) for part in shown])
        rows = []
        rng = np.random.default_rng(0)
        for _ in range(SPLITS):
            first = [halves(asked.kind, rng) for asked in every]
            for tune in (first, [~half for half in first]):
                gain = np.zeros(len(pairs))
                for asked, found, half in zip(every, results, tune, strict=True):
                    table = np.stack([result.per_query(asked.kind)[half] for result in found])
                    gain += balanced(table, asked.kind[half])
                best = int(gain.argmax())
                rows += [
                    figures(found[best], asked.kind, ~half)
                    for asked, found, half in zip(every, results, tune, strict=True)
                ]
        print(line(name, np.mean(rows, 0).tolist()))


def average_precision(scores: Float, answers: Bool) -> float:
    """The mean over queries with answers."""
    found = []
    for query in np.flatnonzero(answers.any(0)):
        ranked = answers[np.argsort(-scores[:, query], kind="stable"), query]
        found.append((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean())
    return float(np.mean(found))


def sizes(asked: Questions) -> None:
    """Print how often nothing is shown for absent things, by size of the collection."""
    scores = trimmed(asked)[:, asked.kind == WITHOUT]
    whole = scores[:, ~np.isnan(scores).any(0)]
    for count in sorted({10, 50, min(200, len(whole)), len(whole)}):
        rng = np.random.default_rng(0)
        cut = cut_off(count)
        best = [whole[rng.permutation(len(whole))[:count]].max(0) for _ in range(20)]
        none = float(np.mean([part < cut.strong for part in best]))
        print(f"  of {count} photos: strong from {cut.strong:.2f}; nothing shown {none:.2f}")


def images_as_queries(asked: Questions) -> None:
    """Print what the cut-off does for photos as queries, with their class and without it."""
    classes = asked.answers[:, asked.kind == WITH_ANSWERS].argmax(1)
    cosines = asked.vectors @ asked.vectors.T
    sample = np.arange(min(512, len(cosines))) * len(cosines) // min(512, len(cosines))
    same = classes[:, None] == classes[None]
    scores = (cosines - cosines[sample].mean(0)) / cosines[sample].std(0)
    with_class = np.where(np.eye(len(scores), dtype=np.bool_), np.nan, scores)
    both = np.concatenate([with_class, np.where(same, np.nan, scores)], axis=1)
    itself = np.eye(len(scores), dtype=np.bool_)
    answers = np.concatenate([same & ~itself, np.zeros_like(same)], axis=1)
    kind = np.repeat([WITH_ANSWERS, WITHOUT], len(scores))
    cut = cut_off(len(scores), with_image=True)
    result = outcome(shown_by(both, cut.strong, cut.fair), answers)
    present, absent = kind == WITH_ANSWERS, kind == WITHOUT
    print(
        f"  photos as queries: precision {result.precision[present].mean():.3f}, "
        f"recall {result.recall[present].mean():.3f}, F1 {result.f1[present].mean():.3f}; "
        f"class left out: nothing shown {(result.shown[absent] == 0).mean():.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--captioned", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True)
    parser.add_argument("--at-least", type=int, default=2)
    parser.add_argument("--model", action="append", required=True)
    arguments = parser.parse_args()
    print(f"{len(background_words())} background words; thresholds from {SPLITS} splits, both ways")
    every: list[Questions] = []
    for model in arguments.model:
        with tempfile.TemporaryDirectory() as scratch:
            captioned = ask(arguments.captioned.resolve(), model, Path(scratch), arguments.at_least)
            classes = ask(arguments.classes.resolve(), model, Path(scratch), None)
        pairs = {"captioned": (captioned, classes), "classes": (classes, captioned)}
        for name, (asked, other) in pairs.items():
            counts = np.bincount(asked.kind, minlength=3)
            print(
                f"\n{Path(model).name}, {name}: {len(asked.cosines)} photos, {counts[0]} queries "
                f"with answers, {counts[1]} without, {counts[2]} that name no thing"
            )
            compare(asked, other)
            ranked = asked.answers[:, asked.kind == WITH_ANSWERS]
            with_answers = asked.cosines[:, asked.kind == WITH_ANSWERS]
            z = trimmed(asked)[:, asked.kind == WITH_ANSWERS]
            by_cosine, by_z = (average_precision(part, ranked) for part in (with_answers, z))
            print(f"  mean average precision: by cosine {by_cosine:.3f}, by z {by_z:.3f}")
            sizes(asked)
        images_as_queries(classes)
        every += [captioned, classes]
    print("\nThe same levels for all of the above, the mean over them")
    together(every)


if __name__ == "__main__":
    main()
