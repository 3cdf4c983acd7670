"""What "none of these" gives: telling images that belong to no label, and the threshold for it.

    python benchmarks/out_of_set.py CALTECH_TEST CAPTIONED --model mini --model MODEL_FOLDER

CALTECH_TEST is a labelled folder (a folder a class). CAPTIONED holds other photos and
captions.csv (image,caption). For each of five seeds half of the classes are withheld; the labels
are the others. Photos that do not belong are

  near       those of the withheld classes
  photos     far: those of CAPTIONED
  drawings   far: a hundred drawings of plain shapes, made here
  textures   far: a hundred stripes, blots and noises, made here
  captions   the further split: labels are half of the 24 nouns that most captions of CAPTIONED
             have (five to sixty photos each); a photo belongs when one of its captions has one

First table: AUROC and FPR95 (how many that do not belong pass where 95 % of those that do pass),
in percent, mean of the seeds. Second table: the automatic threshold; of the photos that belong
how many keep a label, of their labels that are right how many stay, and of the photos that do
not belong how many get none, mean of the seeds and worst; and how far the threshold (as log-odds)
differs when chance is drawn anew.

    python benchmarks/out_of_set.py --time INDEX --labels-file LABELS

Seconds that the labels take over the stored vectors of an index, in one process, best of five:
without "none of these", with it where no image is known yet, and where the part of the everyday
words is remembered.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from tagging import _NOUNS, caption_words

from clipsearch.background_sums import log_sums
from clipsearch.background_words import background_prompts, background_words
from clipsearch.classify import classify
from clipsearch.encoder import Float32, Float64
from clipsearch.generation import Generation, open_generation
from clipsearch.negative_labels import negative_words
from clipsearch.none_of_these import none_of_these
from clipsearch.prompts import class_vectors, read_labels_file
from clipsearch.query_encoders import QueryEncoders
from clipsearch.text_vectors import TextVectors
from clipsearch.vectors import Vectors
from clipsearch.wordnet import find_wordnet
from indexer import build_index

SEEDS = 5
MADE = 100
NOUNS = 24
_FEWEST, _MOST = 5, 60
_GROUPS = 20
_SIDE = 160
_DRAWS = 3

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """Images and labels. rows : (n, dim). truth : (n, C), which labels are right."""

    name: str
    rows: Float32
    truth: Bools
    labels: tuple[str, ...]

    @property
    def belongs(self) -> Bools:
        """(n,)"""
        return np.asarray(self.truth.any(axis=1))


def draw_shapes(folder: Path) -> None:
    """Lines, circles, boxes and polygons on white paper."""
    folder.mkdir()
    for number in range(MADE):
        chance = np.random.default_rng(number)
        image = Image.new("RGB", (_SIDE, _SIDE), "white")
        pen = ImageDraw.Draw(image)
        for _ in range(int(chance.integers(2, 7))):
            points = [tuple(point) for point in chance.integers(0, _SIDE, (4, 2)).tolist()]
            colour = tuple(chance.integers(0, 200, 3).tolist())
            (x0, y0), (x1, y1) = points[:2]
            box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
            kind = int(chance.integers(4))
            if kind == 0:
                pen.line(points, fill=colour, width=3)
            elif kind == 1:
                pen.ellipse(box, outline=colour, width=3)
            elif kind == 2:
                pen.rectangle(box, outline=colour, width=3)
            else:
                pen.polygon(points, outline=colour, width=3)
        image.save(folder / f"{number:03}.png")


def draw_textures(folder: Path) -> None:
    """Stripes, blots and noise in two colours."""
    folder.mkdir()
    across, down = np.meshgrid(np.arange(_SIDE), np.arange(_SIDE))
    for number in range(MADE):
        chance = np.random.default_rng(1000 + number)
        kind = number % 3
        if kind == 0:
            angle, step = chance.uniform(0, np.pi), chance.uniform(3, 20)
            along = across * np.cos(angle) + down * np.sin(angle)
            share = (np.sin(2 * np.pi * along / step) + 1) / 2
        else:
            share = chance.random((_SIDE, _SIDE))
            if kind == 1:
                blurred = Image.fromarray((255 * share).astype(np.uint8)).filter(
                    ImageFilter.GaussianBlur(float(chance.uniform(2, 6)))
                )
                grey = np.asarray(blurred, np.float64)
                share = (grey - grey.min()) / max(1.0, float(np.ptp(grey)))
        colours = chance.integers(0, 256, (2, 3))
        pixels = colours[0] + share[..., None] * (colours[1] - colours[0])
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03}.png")


class Photos:
    """All images of one model."""

    def __init__(self, folders: dict[str, Path], model: str, scratch: Path) -> None:
        self.rows: dict[str, Float32] = {}
        self.files: dict[str, list[Path]] = {}
        for name, folder in folders.items():
            place = scratch / f"{name}.index"
            build_index(folder, place, encoder=model)
            state = open_generation(place)
            ids, self.rows[name] = state.vectors.take(state.vectors.ids)
            self.files[name] = [state.paths.places(number)[0].path for number in ids.tolist()]
        self.state: Generation = state
        self.texts: TextVectors = QueryEncoders(None, None, None).texts(state.space)
        self.words: Float32 = self.texts.encode(background_prompts())
        folders_of = [path.parent.name for path in self.files["test"]]
        names = sorted(set(folders_of))
        self.classes = [name.replace("_", " ") for name in names]
        self.truth: Ints = np.array([names.index(name) for name in folders_of])

    def collection(self, rows: Float32) -> Generation:
        """An index of these images alone."""
        half = rows.astype(np.float16)
        ids = np.arange(len(half))
        vectors = Vectors(ids, (half,), half.shape[1], np.empty(0, np.int64))
        return dataclasses.replace(self.state, vectors=vectors)

    def evidence(self, rows: Float32, classes: Float32) -> Float32:
        return log_sums(np.float32(self.state.space.logit_scale) * (rows @ classes.T))


def auroc(belongs: Bools, scores: Float64) -> float:
    """How often an image that belongs scores above one that does not; equals count half."""
    ranks = np.searchsorted(np.sort(scores), scores) + np.searchsorted(
        np.sort(scores), scores, side="right"
    )
    inside = int(belongs.sum())
    above = (ranks[belongs].sum() + inside) / 2 - inside * (inside + 1) / 2
    return float(above / (inside * (len(scores) - inside)))


def fpr95(belongs: Bools, scores: Float64) -> float:
    return float((scores[~belongs] >= np.quantile(scores[belongs], 0.05)).mean())


def measures(photos: Photos, task: Task) -> dict[str, Float64]:
    """Every way to tell, by its name: (n,) higher for what belongs."""
    classes = class_vectors(task.labels, photos.texts)
    scale = photos.state.space.logit_scale
    cosines = (task.rows @ classes.T).astype(np.float64)
    best = np.sort(cosines, axis=1)
    odds = np.exp(scale * (cosines - best[:, -1:]))
    words = (task.rows @ photos.words.T).astype(np.float64)
    wordnet = find_wordnet()
    kept = negative_words(task.labels, classes, background_words(), photos.words, wordnet)
    inside = np.exp(scale * cosines).sum(axis=1)
    parts = np.array_split(np.random.default_rng(0).permutation(np.flatnonzero(kept)), _GROUPS)
    negatives = np.exp(scale * words)
    shares = [inside / (inside + negatives[:, part].sum(axis=1)) for part in parts]
    told = none_of_these(photos.collection(task.rows), photos.texts, task.labels, classes, 0.5)
    in_set = told.in_set(np.arange(len(task.rows)), task.rows, photos.evidence(task.rows, classes))
    return {
        "max-probability": 1 / odds.sum(axis=1),
        "margin": best[:, -1] - best[:, -2],
        "best cosine": best[:, -1],
        "best cosine, z": (best[:, -1] - words.mean(axis=1)) / words.std(axis=1),
        f"negatives, {_GROUPS} groups": np.mean(shares, axis=0),
        "in_set (shipped)": in_set.astype(np.float64),
    }


def kept_classes(photos: Photos, seed: int, count: int) -> Ints:
    order = np.random.default_rng(seed).permutation(len(photos.classes))
    return np.sort(order[:count])


def task_of(photos: Photos, name: str, kept: Ints, inside: Bools, outside: Float32) -> Task:
    """Photos of the test folder where ``inside``, and others; labels are the kept classes."""
    rows = np.concatenate([photos.rows["test"][inside], outside])
    truth = np.concatenate(
        [photos.truth[inside][:, None] == kept, np.zeros((len(outside), len(kept)), bool)]
    )
    return Task(name, rows, truth, tuple(photos.classes[code] for code in kept))


def half_withheld(photos: Photos, seed: int) -> Iterator[Task]:
    half = kept_classes(photos, seed, (len(photos.classes) + 1) // 2)
    inside = np.isin(photos.truth, half)
    yield task_of(photos, "near", half, inside, photos.rows["test"][~inside])
    for far in ("photos", "drawings", "textures"):
        yield task_of(photos, far, half, inside, photos.rows[far])


def captions(photos: Photos, shown: dict[str, set[str]], seed: int) -> Task:
    known = set(_NOUNS.split())
    of = [shown[path.name] & known for path in photos.files["photos"]]
    counts = collections.Counter(noun for nouns in of for noun in sorted(nouns))
    frequent = [noun for noun, count in counts.most_common() if _FEWEST <= count <= _MOST][:NOUNS]
    order = np.random.default_rng(seed).permutation(len(frequent))
    labels = tuple(frequent[place] for place in np.sort(order[: NOUNS // 2]))
    truth = np.array([[label in nouns for label in labels] for nouns in of])
    return Task("captions", photos.rows["photos"], truth, labels)


def collections_of(photos: Photos, shown: dict[str, set[str]], seed: int) -> Iterator[Task]:
    """What the automatic threshold is tried on."""
    everything = np.arange(len(photos.classes))
    test, far = photos.rows["test"], photos.rows["photos"]
    nothing = test[:0]
    half, three, one = (kept_classes(photos, seed, n) for n in ((len(everything) + 1) // 2, 3, 1))
    chance = np.random.default_rng(seed)

    def those(kept: Ints) -> Bools:
        return np.isin(photos.truth, kept)

    def some(rows: Float32, share: float, of: int) -> Float32:
        count = round(share / (1 - share) * of)
        return rows[np.sort(chance.permutation(len(rows))[:count])]

    every = those(everything)
    yield task_of(photos, "all belong, 25 labels", everything, every, nothing)
    yield task_of(photos, "all belong, half the labels", half, those(half), nothing)
    yield task_of(photos, "all belong, 3 labels", three, those(three), nothing)
    yield task_of(photos, "all belong, 25 labels, 5 present", everything,
                  those(kept_classes(photos, seed, 5)), nothing)  # fmt: skip
    other = test[~those(half)]
    yield task_of(photos, "near, half", half, those(half), other)
    ten = some(other, 0.1, int(those(half).sum()))
    yield task_of(photos, "near, 10 %", half, those(half), ten)
    yield task_of(photos, "far photos, 30 %", everything, every, some(far, 0.3, len(test)))
    yield task_of(photos, "far photos, 5 %", everything, every, some(far, 0.05, len(test)))
    made = np.concatenate([photos.rows["drawings"], photos.rows["textures"]])
    yield task_of(photos, "far drawings, 30 %", everything, every, made)
    yield task_of(photos, "3 labels of 25", three, those(three), test[~those(three)])
    yield task_of(photos, "1 label of 25", one, those(one), test[~those(one)])
    yield task_of(photos, "none belongs (far photos)", everything, ~every, far)
    few = np.zeros(len(test), bool)
    few[chance.permutation(len(test))[:30]] = True
    yield task_of(photos, "30 photos, all belong", everything, few, nothing)
    yield task_of(
        photos, "30 photos, near, half", half, few & those(half), test[few & ~those(half)]
    )
    yield captions(photos, shown, seed)


def print_measures(photos: Photos, shown: dict[str, set[str]]) -> None:
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for seed in range(SEEDS):
        for task in (*half_withheld(photos, seed), captions(photos, shown, seed)):
            for name, scores in measures(photos, task).items():
                pair = (100 * auroc(task.belongs, scores), 100 * fpr95(task.belongs, scores))
                found.setdefault(name, {}).setdefault(task.name, []).append(pair)
    print("  AUROC / FPR95, %         " + "".join(f"{name:>15s}" for name in found["margin"]))
    for name, columns in found.items():
        means = [np.mean(pairs, axis=0) for pairs in columns.values()]
        print(f"  {name:25s}" + "".join(f"{a:>8.1f} /{b:5.1f}" for a, b in means))


def print_thresholds(photos: Photos, shown: dict[str, set[str]]) -> None:
    found: dict[str, list[list[float]]] = {}
    for seed in range(SEEDS):
        for task in collections_of(photos, shown, seed):
            classes = class_vectors(task.labels, photos.texts)
            state, ids = photos.collection(task.rows), np.arange(len(task.rows))
            draws = [
                none_of_these(state, photos.texts, task.labels, classes, "auto", seed=draw)
                for draw in range(_DRAWS)
            ]
            told = draws[0]
            in_set = told.in_set(ids, None, photos.evidence(task.rows, classes))
            stays = in_set >= np.float32(told.threshold)
            is_right = task.truth[ids, (task.rows @ classes.T).argmax(axis=1)]
            odds = [np.log(draw.threshold / (1 - draw.threshold)) for draw in draws]
            found.setdefault(task.name, []).append(
                [
                    float(part.mean()) if len(part) else np.nan
                    for part in (stays[task.belongs], stays[is_right], ~stays[~task.belongs])
                ]
                + [told.threshold, float(np.std(odds))]
            )
    print(
        "  automatic threshold             kept (worst)  right kept     none (worst)   theta   +-"
    )
    for name, rows in found.items():
        kept, right, none, theta, spread = np.array(rows).T
        cells = [
            f"{100 * np.mean(part):6.1f} ({100 * np.min(part):5.1f})" if part[0] == part[0]
            else " " * 14
            for part in (kept, none)
        ]  # fmt: skip
        middle = f"{100 * np.mean(right):6.1f}" if right[0] == right[0] else " " * 6
        print(
            f"  {name:32s}{cells[0]}      {middle}   {cells[1]}   {np.mean(theta):5.3f} "
            f"{np.mean(spread):5.2f}"
        )


def print_times(place: Path, labels: Sequence[str]) -> None:
    state = open_generation(place)
    texts = QueryEncoders(None, None, None).texts(state.space)
    with tempfile.TemporaryDirectory() as scratch:
        state = dataclasses.replace(state, cache=Path(scratch))

        def seconds(none: str) -> float:
            labelling = classify(state, texts, labels, none=none)
            for _ in labelling:
                pass
            return labelling.seconds

        seconds("off")
        first = seconds("auto")
        pairs = [(seconds("off"), seconds("auto")) for _ in range(5)]
        plain, remembered = np.min(pairs, axis=0)
        begin = time.perf_counter()
        classes = class_vectors(labels, texts)
        none_of_these(state, texts, labels, classes, "auto")
        begun = time.perf_counter() - begin
    print(
        f"{len(state.vectors):,} images, {len(labels)} labels: {plain:.2f} s; with none of these "
        f"{first:.2f} s the first time, then {remembered:.2f} s, and {begun:.2f} s to begin with"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("classes", type=Path, nargs="?")
    parser.add_argument("captioned", type=Path, nargs="?")
    parser.add_argument("--model", action="append")
    parser.add_argument("--time", type=Path)
    parser.add_argument("--labels-file", type=Path)
    given = parser.parse_args(arguments)
    if given.time is not None:
        print_times(given.time, read_labels_file(given.labels_file))
        return
    if given.captioned is None or not given.model:
        parser.error("expected CALTECH_TEST, CAPTIONED and --model, or --time")
    shown = caption_words(given.captioned / "captions.csv", set(_NOUNS.split()))
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"test": given.classes, "photos": given.captioned}
        folders |= {name: Path(scratch) / name for name in ("drawings", "textures")}
        draw_shapes(folders["drawings"])
        draw_textures(folders["textures"])
        for number, model in enumerate(given.model):
            place = Path(scratch) / str(number)
            place.mkdir()
            photos = Photos(folders, model, place)
            wordnet = "with" if find_wordnet() is not None else "without"
            print(f"{model}: {len(photos.truth)} photos, {wordnet} WordNet")
            print_measures(photos, shown)
            print_thresholds(photos, shown)


if __name__ == "__main__":
    main()
