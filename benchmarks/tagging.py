"""What the double z-norm of ``tag`` gives, on photos whose captions say what they show.

    python benchmarks/tagging.py FOLDER --model MODEL [--model MODEL ...] [--classes FOLDER]

FOLDER holds photos and captions.csv (image,caption; several a photo). A photo shows a noun when
one of its captions has it (or its plural). The labels are the nouns of _NOUNS and of the background
words (those that are one word) that the captions of at least four photos have, most frequent
first; the absent ones are background words that no caption has, and the same number of them.
--classes adds a second label set: a folder a class, one label a photo.

First table: mean average precision in percent, over labels (a label ranks the photos) and over
photos (a photo ranks the labels). Second: F1 of all (photo, label) pairs where a decision is made
at each method's own threshold, half of the labels shown nowhere, and the share of the photos that
such an absent label is given to. Third: a label that is on a large share of the photos.
"""

from __future__ import annotations

import argparse
import collections
import csv
import dataclasses
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.background_words import background_prompts, background_words
from clipsearch.generation import Generation, open_generation
from clipsearch.prompts import class_vectors
from clipsearch.query_encoders import QueryEncoders
from clipsearch.tag import THRESHOLD, tag
from clipsearch.tag_statistics import FLOOR_SHARE
from clipsearch.tagging import Tagging
from indexer import build_index

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_NOUNS = """
dog man boy woman girl water people person child snow group hat mountain street ball
shirt rock mouth jacket field grass bike bicycle baby river head hiker camera air stick lake sand
beach coat pool guitar fence face city boat basketball yard road sunglasses hand cliff ground
sidewalk watch tennis hair hill toy statue park leaf headband wall ocean football couch tree sky
scarf raft puppy parachute mask leash kayak helmet gate dirt cap bag trail track path ice glasses
frisbee fish dress clothes climber car building bench adult table stream ski skateboard player
microphone horse glove fountain flower family court concrete clothing canoe cake bubble bed
backpack kid crowd bird cat tent bridge rope net truck umbrella swing slide racket bat drum train
bus chair window door sign flag wave surfboard sled snowboard soccer motorcycle tunnel stair pants
shoe shop store restaurant food cup bottle
"""
_IRREGULAR = {"men": "man", "women": "woman", "children": "child", "leaves": "leaf"}
_LEAST_PHOTOS = 4
_SIZES = (10, 30, 80)


def singular(word: str, known: set[str]) -> str:
    """dogs -> dog, where dog is a known noun."""
    if word in known:
        return word
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for ending, instead in (("ies", "y"), ("es", ""), ("s", "")):
        stem = word.removesuffix(ending) + instead
        if word.endswith(ending) and stem in known:
            return stem
    return word


def caption_words(file: Path, known: set[str]) -> dict[str, set[str]]:
    """Photo -> every word of its captions, plurals as singulars."""
    shown: dict[str, set[str]] = collections.defaultdict(set)
    with open(file, encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            words = re.findall("[a-z]+", row["caption"].lower())
            shown[row["image"]].update(singular(word, known) for word in words)
    return shown


def precision(truth: Bools, scores: Floats) -> float:
    """Average precision of one ranking."""
    found = truth[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(found) / np.arange(1, len(found) + 1))[found].mean())


def mean_precisions(truth: Bools, scores: Floats) -> tuple[float, float]:
    """Over labels (columns) and over photos (rows), in percent."""
    over: list[float] = []
    for t, s in ((truth.T, scores.T), (truth, scores)):
        over.append(
            100 * float(np.mean([precision(a, b) for a, b in zip(t, s, strict=True) if a.any()]))
        )
    return over[0], over[1]


def f1(truth: Bools, given: Bools) -> float:
    """Of all pairs, in percent."""
    return 200 * float((truth & given).sum()) / max(1.0, float(truth.sum() + given.sum()))


def standard(scores: Floats, axis: int) -> Floats:
    """Less the mean, over the spread."""
    centred: Floats = scores - scores.mean(axis=axis, keepdims=True)
    spread: Floats = centred / np.maximum(scores.std(axis=axis, keepdims=True), 1e-6)
    return spread


def dense(result: Tagging, values: Floats, missing: float) -> Floats:
    """(n, C) from the columns of a tagging."""
    whole = np.full((len(result), len(result.label_names)), missing, np.float32)
    whole[np.repeat(np.arange(len(result)), np.diff(result.starts)), result.labels] = values
    return whole


class Collection:
    """Photos of one folder in one space, and what is known of each."""

    def __init__(self, folder: Path, model: str, scratch: Path) -> None:
        place = scratch / f"{folder.name}-{Path(model).name}.index"
        build_index(folder, place, encoder=model)
        self.state = open_generation(place)
        self.texts = QueryEncoders(None, None, None).texts(self.state.space)
        ids, self.vectors = self.state.vectors.take(self.state.vectors.ids)
        self.paths = [self.state.paths.places(image_id)[0].path for image_id in ids.tolist()]
        self.background = self.vectors @ self.texts.encode(background_prompts()).T

    def scores(self, labels: Sequence[str]) -> Floats:
        """(n, C) cosines, plainly."""
        scores: Floats = self.vectors @ class_vectors(labels, self.texts).T
        return scores


def rankings(photos: Collection, labels: Sequence[str]) -> dict[str, Floats]:
    """Every way to score (n, C), by its name."""
    cosines = photos.scores(labels)
    logits = photos.state.space.logit_scale * (cosines - cosines.max(axis=1, keepdims=True))
    odds = np.exp(logits)
    both = np.hstack([cosines, photos.background])
    with_background = (cosines - both.mean(axis=1, keepdims=True)) / both.std(axis=1, keepdims=True)
    every = tag(photos.state, photos.texts, labels, threshold=-1e6, floor_share=1)
    return {
        "cosine": cosines,
        "softmax": odds / odds.sum(axis=1, keepdims=True),
        "z of the photo, labels": standard(cosines, 1),
        "z of the photo, + background": with_background,
        "z of the label": standard(cosines, 0),
        "double z, labels": standard(standard(cosines, 1), 0),
        "double z, labels + background": standard(with_background, 0),
        "tag (double z, background)": dense(every, every.scores, -np.inf),
    }


def decisions(photos: Collection, labels: Sequence[str], truth: Bools) -> dict[str, Bools]:
    """Every way to decide (n, C), by its name."""
    cosines = photos.scores(labels)
    flat = max(
        np.quantile(cosines, np.linspace(0.5, 0.999, 200)), key=lambda t: f1(truth, cosines > t)
    )

    def tagged(threshold: float, share: float) -> Bools:
        result = tag(photos.state, photos.texts, labels, threshold=threshold, floor_share=share)
        return dense(result, result.scores, -np.inf) > -np.inf

    return {
        "best flat cosine (looks at the truth)": cosines > flat,
        "z2 > 1": tagged(1, 1),
        "z2 > 2": tagged(2, 1),
        "floor of 0.5 % alone": tagged(-1e6, 0.005),
        "z2 > 0 and floor of 0.5 % (default)": tagged(THRESHOLD, FLOOR_SHARE),
        "z2 > 0.5 and floor of 0.5 %": tagged(0.5, 0.005),
        "z2 > 1 and floor of 0.5 %": tagged(1, 0.005),
        "z2 > 1.5 and floor of 0.5 %": tagged(1.5, 0.005),
        "z2 > 0 and floor of 2 %": tagged(0, 0.02),
        "z2 > 0 and floor of 1 %": tagged(0, 0.01),
        "z2 > 0 and floor of 0.2 %": tagged(0, 0.002),
    }


def print_rankings(name: str, photos: Collection, sets: dict[int, tuple[list[str], Bools]]) -> None:
    print(f"\n{name}: mAP over labels / over photos, %")
    columns = {size: rankings(photos, labels) for size, (labels, _) in sets.items()}
    print(f"  {'':<32}" + "".join(f"{f'{size} labels':>16}" for size in sets))
    for method in next(iter(columns.values())):
        cells = [mean_precisions(sets[size][1], columns[size][method]) for size in sets]
        print(f"  {method:<32}" + "".join(f"{a:>9.1f} /{b:5.1f}" for a, b in cells))


def print_decisions(
    name: str, photos: Collection, sets: dict[int, tuple[list[str], Bools]], absent: list[str]
) -> list[dict[str, float]]:
    print(f"\n{name}: F1 with as many absent labels, % / share given to an absent one, %")
    print(f"  {'':<40}" + "".join(f"{f'{size} + {size}':>15}" for size in sets))
    found: dict[str, list[tuple[float, float]]] = collections.defaultdict(list)
    for labels, truth in sets.values():
        more = absent[: len(labels)]
        whole = np.hstack([truth, np.zeros((len(truth), len(more)), bool)])
        for method, given in decisions(photos, [*labels, *more], whole).items():
            found[method].append((f1(whole, given), 100 * float(given[:, len(labels) :].mean())))
    for method, cells in found.items():
        print(f"  {method:<40}" + "".join(f"{a:>8.1f} /{b:5.2f}" for a, b in cells))
    return [{method: cells[i][0] for method, cells in found.items()} for i in range(len(sets))]


def print_frequent(name: str, photos: Collection, classes: list[str], truth: Bools) -> None:
    """One class on half, and on four fifths, of the photos."""
    print(f"\n{name}: F1 of a class that is on so many of the photos, %")
    print(f"  {'':<24}{'50 %':>8}{'80 %':>8}   mean over the five largest classes")
    shares: dict[float, list[list[float]]] = {0.0: [], 0.5: [], 1.0: [], 1.5: []}
    largest = np.argsort(-truth.sum(axis=0), kind="stable")[:5]
    for threshold, rows in shares.items():
        for share in (0.5, 0.8):
            rows.append([])
            for label in largest.tolist():
                mine, others = np.flatnonzero(truth[:, label]), np.flatnonzero(~truth[:, label])
                keep = others[:: max(1, round(len(others) / (len(mine) * (1 - share) / share)))]
                rows[-1].append(
                    _f1_of_part(photos, classes, truth, [*mine, *keep], label, threshold)
                )
    for threshold, rows in shares.items():
        print(
            f"  z2 > {threshold:<4} and floor     {np.mean(rows[0]):>6.1f}{np.mean(rows[1]):>8.1f}"
        )


def _f1_of_part(
    photos: Collection,
    classes: list[str],
    truth: Bools,
    rows: Sequence[int],
    label: int,
    threshold: float,
) -> float:
    vectors = photos.state.vectors
    part = np.sort(np.asarray(rows))
    # The others as if they were deleted.
    some = dataclasses.replace(vectors, deleted=np.delete(vectors.ids, part))
    state: Generation = dataclasses.replace(photos.state, vectors=some)
    result = tag(state, photos.texts, classes, threshold=threshold)
    given = dense(result, result.scores, -np.inf)[:, label] > -np.inf
    return f1(truth[part, label], given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--classes", type=Path)
    arguments = parser.parse_args()
    single = [word for word in background_words() if " " not in word]
    known = {*_NOUNS.split(), *single}
    shown = caption_words(arguments.folder / "captions.csv", known)
    counts = collections.Counter(word for words in shown.values() for word in words & known)
    # In order of frequency, and of the alphabet where that is the same.
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    labels = [word for word in ranked if counts[word] >= _LEAST_PHOTOS]
    absent = [word for word in single if word not in counts]
    np.random.default_rng(0).shuffle(absent)
    sizes = [min(size, len(labels)) for size in _SIZES]
    print(f"{len(shown)} photos, {len(labels)} nouns in the captions of {_LEAST_PHOTOS} or more,")
    print(f"{len(absent)} background words in none.")
    every: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for model in arguments.model:
            name = Path(model).name
            photos = Collection(arguments.folder.resolve(), model, Path(scratch))
            truth = np.array([[w in shown[p.name] for w in labels] for p in photos.paths])
            sets = {size: (labels[:size], truth[:, :size]) for size in sizes}
            print_rankings(f"{name}, captions", photos, sets)
            every += print_decisions(f"{name}, captions", photos, sets, absent)
            if arguments.classes is None:
                continue
            photos = Collection(arguments.classes.resolve(), model, Path(scratch))
            of = [path.parent.name.replace("_", " ").lower() for path in photos.paths]
            classes = sorted(set(of))
            truth = np.array([[label == name for name in classes] for label in of])
            sets = {size: (classes[:size], truth[:, :size]) for size in (10, len(classes))}
            far = [w for w in absent if not any(w in name or name in w for name in classes)]
            print_rankings(f"{name}, classes", photos, {len(classes): sets[len(classes)]})
            every += print_decisions(f"{name}, classes", photos, sets, far)
            print_frequent(f"{name}, classes", photos, classes, truth)
    print("\nF1, mean over all of the columns above, %")
    for method in every[0]:
        print(f"  {method:<40}{np.mean([row[method] for row in every]):>8.1f}")


if __name__ == "__main__":
    main()
