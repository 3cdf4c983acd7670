"""What ``finetune`` gains, what it loses elsewhere, and how its recipe was chosen.

    python benchmarks/finetune.py CALTECH --model mini [--captions FLICKR]

CALTECH has the folders ``support``, on which is trained, and ``test``; mini has seen neither, but
has seen other photos of the same classes. Two sets of labels:

  classes   the 25 classes by their names, of which a fifth is left out of the training
  kinds     six kinds of them (animal, vehicle, ...), names that say less than the photos show

For each seed the share alpha of the trained weights goes from 0 to 1: top-1 in percent of the test
photos of the classes trained on, of those left out (for kinds: of all test photos by the 25 names,
which the training was not about), both among all labels, and recall of the captions of FLICKR, a
folder with captions.csv (image,caption). "by right" and "by error" are the shares that the photos
held out and the classes left out would have chosen, by how many are right (the best harmonic mean)
and by the squared error of their probabilities, which is what ``finetune`` goes by.

Then the recipe, at one seed: without the probe before, and at other rates.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from few_examples import KINDS

from clipsearch.encoder import Float32
from clipsearch.images import read_image
from clipsearch.open_clip_encoder import OpenClipEncoder, load_open_clip_encoder
from clipsearch.prompts import class_vectors
from indexer.fine_tuning_measures import ALPHAS, Measures, accuracy, best_alpha
from indexer.fine_tuning_records import CurvePoint, FineTuning, Recipe
from indexer.image_tower import ImageTower
from indexer.training_checkpoint import Checkpoint
from indexer.training_photos import LabelledPhotos, find_photos, held_out, read_photos

Row = tuple[float, float, float, float]
"""Of one alpha: classes trained on, others, recall@1 and recall@10 of captions; in percent."""


class Texts:
    def __init__(self, encoder: OpenClipEncoder) -> None:
        self.encoder = encoder

    def encode(self, texts: Sequence[str]) -> Float32:
        return self.encoder.encode_texts(texts)


@dataclasses.dataclass
class Captions:
    """Photos, and which of them each of the captions is of."""

    pixels: npt.NDArray[np.uint8]
    texts: Float32
    photo: npt.NDArray[np.int64]

    def recalls(self, tower: ImageTower) -> tuple[float, float]:
        """Recall@1 and @10, text to image, in percent."""
        rows = tower.encode(self.pixels, np.arange(len(self.pixels)))
        scores = self.texts @ rows.T
        own = scores[np.arange(len(scores)), self.photo][:, None]
        ahead = (scores > own).sum(axis=1)
        return 100 * float(np.mean(ahead < 1)), 100 * float(np.mean(ahead < 10))


def read_captions(folder: Path, encoder: OpenClipEncoder) -> Captions:
    with open(folder / "captions.csv", encoding="utf-8", newline="") as file:
        lines = [(line["image"], line["caption"]) for line in csv.DictReader(file)]
    names = sorted({name for name, _ in lines})
    geometry = encoder.space.geometry
    pixels = [read_image(folder / name, geometry, thumbnail_side=None).pixels for name in names]
    places = {name: place for place, name in enumerate(names)}
    photo = np.array([places[name] for name, _ in lines])
    return Captions(np.stack(pixels), encoder.encode_texts([text for _, text in lines]), photo)


@dataclasses.dataclass
class Task:
    """What is trained on and measured with."""

    name: str
    trained: LabelledPhotos
    tested: LabelledPhotos
    vectors: Float32
    by_class: tuple[npt.NDArray[np.int32], Float32]  # the test photos by the 25 names

    def left_out(self, seed: int) -> list[int]:
        count = len(self.trained.classes)
        if self.name == "kinds":
            return []
        return sorted(np.random.default_rng((seed, 3)).permutation(count)[: count // 5].tolist())


def tasks(folder: Path, work: Path, encoder: OpenClipEncoder) -> list[Task]:
    geometry = encoder.space.geometry
    read = [
        read_photos(find_photos(folder / part, work), geometry, work / part, lambda n, of: None)
        for part in ("support", "test")
    ]
    support, test = read
    texts = Texts(encoder)
    classes = class_vectors(support.classes, texts)
    by_class = (test.truth, classes)
    names = tuple(KINDS)
    kind_of = np.array(
        [
            next(
                at
                for at, kind in enumerate(names)
                if label.replace(" ", "_") in KINDS[kind].split()
            )
            for label in support.classes
        ],
        np.int32,
    )
    kinds = [
        dataclasses.replace(photos, classes=names, truth=kind_of[photos.truth]) for photos in read
    ]
    return [
        Task("classes", support, test, classes, by_class),
        Task("kinds", *kinds, class_vectors(names, texts), by_class),
    ]


@dataclasses.dataclass
class Outcome:
    rows: dict[float, Row]
    by_right: float
    by_error: float
    seconds: float


def by_right(curve: Sequence[CurvePoint]) -> float:
    """The share of the best harmonic mean of both accuracies, the lowest of equal ones."""

    def merit(point: CurvePoint) -> float:
        if point.others is None:
            return point.trained
        return 2 * point.trained * point.others / max(point.trained + point.others, 1e-9)

    return max(curve, key=lambda point: (round(merit(point), 9), -point.alpha)).alpha


def train(
    task: Task, tower: ImageTower, recipe: Recipe, captions: Captions | None, work: Path
) -> Outcome:
    out = task.left_out(recipe.seed)
    kept = [label for label in range(len(task.trained.classes)) if label not in out]
    held = held_out(task.trained.truth, recipe.seed)
    scale = tower.space.logit_scale
    measures = Measures(task.trained, task.trained.classes, task.vectors, scale, held, None)
    rows = measures.trained_on(kept)
    targets = np.searchsorted(kept, task.trained.truth[rows]).astype(np.int32)
    begin = time.perf_counter()
    trained = tower.train(
        task.trained.pixels, rows, targets, task.vectors[kept], recipe,
        Checkpoint(work / "training.safetensors", "", 1e9), lambda step, steps, loss: None,
    )  # fmt: skip
    (work / "training.safetensors").unlink()
    seconds = time.perf_counter() - begin
    curve = measures.curve(tower, trained, kept, out)
    everything = np.arange(len(task.tested.truth))
    found: dict[float, Row] = {}
    for alpha in ALPHAS:
        tower.mix(trained, alpha)
        vectors, truth = tower.encode(task.tested.pixels, everything), task.tested.truth
        is_out = np.isin(truth, out)
        own = accuracy(vectors[~is_out], truth[~is_out], task.vectors)
        away = accuracy(vectors[is_out], truth[is_out], task.vectors)
        if not out:
            away = accuracy(vectors, *task.by_class)
        recalls = (float("nan"),) * 2 if captions is None else captions.recalls(tower)
        found[alpha] = (100 * own, 100 * away, *recalls)
    return Outcome(found, by_right(curve), best_alpha(curve), seconds)


def show(name: str, outcomes: Sequence[Outcome]) -> None:
    """Means over the seeds at every alpha, then at the alphas chosen."""

    def line(label: str, rows: Sequence[Row]) -> None:
        cells = "  ".join(f"{value:5.1f}" for value in np.mean(rows, axis=0))
        print(f"  {label:34s}  {cells}", flush=True)

    seconds = np.mean([outcome.seconds for outcome in outcomes])
    print(f"{name}: {len(outcomes)} seeds, a training takes {seconds:.0f} s")
    print(f"  {'alpha':34s}  {'own':>5s}  {'other':>5s}  {'R@1':>5s}  {'R@10':>5s}")
    for alpha in ALPHAS:
        line(f"{alpha:g}", [outcome.rows[alpha] for outcome in outcomes])
    for label in ("by_right", "by_error"):
        chosen = [getattr(outcome, label) for outcome in outcomes]
        told = f"{label.replace('_', ' ')}: " + " ".join(f"{alpha:g}" for alpha in chosen)
        line(told, [o.rows[alpha] for o, alpha in zip(outcomes, chosen, strict=True)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--captions", type=Path)
    parser.add_argument("--seeds", type=int, default=2, help="of the curves; 0 for none")
    parser.add_argument("--no-recipes", action="store_true", help="the curves alone")
    given = parser.parse_args(arguments)
    encoder = load_open_clip_encoder(given.model)
    tower = ImageTower(encoder)
    usual = FineTuning().recipe(tower.size)
    captions = read_captions(given.captions, encoder) if given.captions else None
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        found = tasks(given.folder, work, encoder)
        for task in found if given.seeds else ():
            recipes = [dataclasses.replace(usual, seed=seed) for seed in range(given.seeds)]
            show(
                f"{given.model}, {task.name}",
                [train(task, tower, recipe, captions, work) for recipe in recipes],
            )
        if given.no_recipes:
            return
        others = {
            "without the probe": dataclasses.replace(usual, probe_epochs=0, epochs=10),
            "the probe alone": dataclasses.replace(usual, probe_epochs=9, epochs=1, rate=1e-9),
            "rate 3e-5": dataclasses.replace(usual, rate=3e-5),
            "rate 1e-4": dataclasses.replace(usual, rate=1e-4),
            "rate 1e-3": dataclasses.replace(usual, rate=1e-3),
        }
        for task in found:
            for name, recipe in others.items():
                show(
                    f"{given.model}, {task.name}, {name}", [train(task, tower, recipe, None, work)]
                )


if __name__ == "__main__":
    main()
