"""Are probabilities honest, do label sets hold what they say, and what do good questions give?

    python benchmarks/calibration.py CALTECH --model mini --model MODEL_FOLDER [--indexes FOLDER]

CALTECH has the folders support, test and train, each with a folder a class; no model has seen
support and test. --indexes keeps the indexes there for the next time.

1. Temperature: expected calibration error (15 bins, percent) and negative log-likelihood of zero-
   shot labels on test with the model's own scale, with one temperature for the model (fitted on
   support with the names of the 25 classes), and with one for the label set (fitted on support
   with that set). The sets: the 25 names; five random halves of them, of photos of those classes;
   other templates; and two further ones that the models know worse: 13 broader labels, and the 25
   names in German, which neither model was taught.
2. Taught: the same two numbers of what ``teach`` makes of 1 to 16 photos of each of the 25 classes,
   drawn from support, with and without its last step, sharpening. Five seeds.
3. Coverage: 200 random splits of support and test together, 250 photos to calibrate on and the
   rest to count. "split": zero-shot; "left out", of 50 splits: the same photos teach, and each is
   left out in turn. With the 25 names and the 13 broader labels. Coverage of the sets as the
   formula gives them, of those that have at least the best label, and how many labels these have.
4. Questions: five rounds of ten, answered truly, then ``teach``; accuracy on test. Questions are
   drawn at random, the most uncertain ones (smallest lead), or those of ``ask``, with and without
   its share of random ones. Collections: support (balanced) and train with a long tail; five seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from by_cluster import Photos, collection

from clipsearch.ask import images_to_ask
from clipsearch.calibration import reliability
from clipsearch.conformal import coverage_of, mean_coverage
from clipsearch.encoder import Float32
from clipsearch.prompts import class_vectors, parse_labels
from clipsearch.scoring import LabelScorer, Scorer, score_blocks
from clipsearch.shards import Int64
from clipsearch.taught_labels import TaughtScorer, teach
from clipsearch.temperature import fit_temperature, log_probabilities

Floats = npt.NDArray[np.float64]
SEEDS, CALIBRATED, ROUNDS, ASKED = 5, 250, 5, 10
SPLITS = {"split": 200, "left out": 50}

BROADER = {
    "a mammal": "Leopards kangaroo llama",
    "a vehicle": "Motorbikes airplanes car_side helicopter ketch",
    "a plant": "bonsai sunflower",
    "an invertebrate": "butterfly scorpion starfish trilobite",
    "a reptile": "hawksbill",
    "a bird": "ibis",
    "a lamp": "chandelier menorah",
    "a device": "laptop watch",
    "a musical instrument": "grand_piano",
    "a weapon": "revolver",
    "an organ of the body": "brain",
    "a sculpture": "buddha",
    "a vessel": "ewer",
}
GERMAN = """
Leopard,Motorrad,Flugzeug,Bonsai,Gehirn,Buddha,Schmetterling,Auto von der Seite,Kronleuchter,
Wasserkrug,Flügel,Meeresschildkröte,Hubschrauber,Ibis,Känguru,Segelboot,Laptop,Lama,Leuchter,
Revolver,Skorpion,Seestern,Sonnenblume,Trilobit,Armbanduhr
"""


class Model:
    """The photos in one space, and what every label set makes of them."""

    def __init__(self, folder: Path, model: str, place: Path) -> None:
        self.parts = {
            name: Photos(folder / name, model, place / f"{name}-{Path(model).name}.index")
            for name in ("support", "test", "train")
        }
        first = self.parts["test"]
        self.names = first.labels
        self.texts = first.index.text_vectors()
        self.scale = first.index.state().space.logit_scale
        self.rows = {name: self._rows(part) for name, part in self.parts.items()}
        self.truth = {name: part.truth for name, part in self.parts.items()}
        groups = [value.split() for value in BROADER.values()]
        folders = [name.replace(" ", "_") for name in self.names]
        self.coarse: Int64 = np.array(
            [next(n for n, group in enumerate(groups) if name in group) for name in folders]
        )

    @staticmethod
    def _rows(photos: Photos) -> Float32:
        return photos.index.state().vectors.take(photos.ids)[1]

    def logits(self, part: str, classes: Float32) -> Floats:
        """(n, C) of the photos of a part."""
        return (self.scale * (self.rows[part] @ classes.T)).astype(np.float64)


# -- 1 ----------------------------------------------------------------------------------------


def errors(logits: Floats, truth: Int64, temperature: float) -> Floats:
    """Calibration error in percent, negative log-likelihood."""
    logs = log_probabilities(logits, temperature)
    odds = np.exp(logs)
    told = reliability(odds.max(axis=1), odds.argmax(axis=1) == truth)
    return np.array([100 * told.error, -logs[np.arange(len(truth)), truth].mean()])


def temperatures(model: Model) -> None:
    """Print the first table."""
    plain = class_vectors(model.names, model.texts)
    of_model = fit_temperature(model.logits("support", plain), model.truth["support"])
    print(f"  one temperature for the model: {of_model:.2f}")
    print("  label set            accuracy   own scale     the model's T   the set's own T")
    sets: list[tuple[str, list[Float32], list[Int64]]] = [
        ("25 names", [plain], [np.arange(25)]),
        ("25 names, openai", [class_vectors(model.names, model.texts, "openai")], [np.arange(25)]),
        ("five halves", [], []),
        ("13 broader labels", [class_vectors(list(BROADER), model.texts)], [model.coarse]),
        ("25 German names", [class_vectors(parse_labels(GERMAN), model.texts)], [np.arange(25)]),
    ]
    for seed in range(SEEDS):
        half = np.sort(np.random.default_rng(seed).permutation(25)[:12])
        code = np.full(25, -1)
        code[half] = np.arange(12)
        sets[2][1].append(plain[half])
        sets[2][2].append(code)
    for name, vectors, codes in sets:
        rows = []
        for classes, code in zip(vectors, codes, strict=True):
            part = {}
            for where in ("support", "test"):
                truth = code[model.truth[where]]
                part[where] = model.logits(where, classes)[truth >= 0], truth[truth >= 0]
            own = fit_temperature(*part["support"])
            logits, truth = part["test"]
            found = [errors(logits, truth, value) for value in (1.0, of_model, own)]
            right = 100 * (logits.argmax(axis=1) == truth).mean()
            rows.append([right, *np.concatenate(found), own])
        right, *numbers, own = np.mean(rows, axis=0)
        cells = "   ".join(f"{numbers[n]:5.2f} {numbers[n + 1]:6.3f}" for n in (0, 2, 4))
        print(f"  {name:20s} {right:8.1f}   {cells}  (T {own:.2f})")


# -- 2 ----------------------------------------------------------------------------------------


def sharpening(model: Model) -> None:
    """Print the second table."""
    print("  labels            photos a label   accuracy   not sharpened   sharpened   (sharpness)")
    support, wanted = model.truth["support"], model.truth["test"]
    for name, words in (("25 names", model.names), ("25 German names", parse_labels(GERMAN))):
        classes = class_vectors(words, model.texts)
        for count in (1, 2, 4, 8, 16):
            found = []
            for seed in range(SEEDS):
                chance = np.random.default_rng(seed)
                own = [chance.permutation(np.flatnonzero(support == code)) for code in range(25)]
                places = np.sort(np.concatenate([rows[:count] for rows in own]))
                rows, labels = model.rows["support"], support[places].astype(np.int32)
                taught = teach(classes, model.scale, rows[places], labels, typical=rows)
                line = [taught.sharpness]
                for way in (dataclasses.replace(taught, sharpness=1.0), taught):
                    odds = probabilities(classes, model.scale, way, model.rows["test"])
                    right = odds.argmax(axis=1) == wanted
                    told = reliability(np.minimum(odds.max(axis=1), 1), right)
                    likely = np.maximum(odds[np.arange(len(wanted)), wanted], 1e-12)
                    line += [100 * told.error, float(-np.log(likely).mean())]
                found.append([100 * float(right.mean()), *line])
            accuracy, sharpness, *numbers = np.mean(found, axis=0)
            cells = "   ".join(f"{numbers[n]:5.2f} {numbers[n + 1]:6.3f}" for n in (0, 2))
            print(f"  {name:18s} {count:12d} {accuracy:12.1f}   {cells}   ({sharpness:.2f})")


# -- 3 ----------------------------------------------------------------------------------------


def coverages(model: Model) -> None:
    """Print the third table."""
    for name, words, code in (
        ("25 names", model.names, np.arange(25)),
        ("13 broader labels", list(BROADER), model.coarse),
    ):
        print(f"  {name}")
        covered(model, class_vectors(words, model.texts), code)


def covered(model: Model, classes: Float32, code: Int64) -> None:
    """Print a part of it. code : the label of every class."""
    rows = np.concatenate([model.rows["support"], model.rows["test"]])
    truth = code[np.concatenate([model.truth["support"], model.truth["test"]])]
    logits = np.concatenate([model.logits(part, classes) for part in ("support", "test")])
    plain = np.exp(log_probabilities(logits)).astype(np.float32)
    print("  way        nominal   coverage (spread)   with the best label   labels a set")
    for way, splits in SPLITS.items():
        counted: dict[float, list[list[float]]] = {0.8: [], 0.9: [], 0.95: []}
        for seed in range(splits):
            order = np.random.default_rng(seed).permutation(len(truth))
            known, others = order[:CALIBRATED], order[CALIBRATED:]
            if way == "split":
                calibrating, told = plain[known], plain[others]
            else:
                labels = truth[known].astype(np.int32)
                taught = teach(classes, model.scale, rows[known], labels, typical=rows)
                calibrating = taught.left_out
                told = probabilities(classes, model.scale, taught, rows[others])
            ranking = np.argsort(-told, axis=1, kind="stable")
            ranked = np.take_along_axis(told, ranking, axis=1)
            ranks = (ranking == truth[others][:, None]).argmax(axis=1)
            for nominal, found in counted.items():
                made = coverage_of(calibrating, truth[known], nominal)
                exact = (ranked >= np.float32(made.least)).sum(axis=1)
                sizes = made.sizes(ranked)
                found.append([
                    mean_coverage(exact, ranks), mean_coverage(sizes, ranks), float(sizes.mean())
                ])  # fmt: skip
        for nominal, found in counted.items():
            exact_mean, best_mean, size = np.mean(found, axis=0)
            spread = np.std(found, axis=0)[0]
            print(
                f"  {way:10s} {nominal:7.0%} {exact_mean:10.1%} ({spread:.1%})"
                f" {best_mean:20.1%} {size:14.2f}"
            )


def probabilities(
    classes: Float32, scale: float, taught: object, rows: Float32
) -> npt.NDArray[np.float32]:
    """(n, C), of what was taught."""
    scorer = TaughtScorer(classes, scale, taught, len(classes))  # type: ignore[arg-type]
    result = np.zeros((len(rows), len(classes)), np.float32)
    ids = np.arange(len(rows))
    for block in score_blocks([(ids, rows)], scorer, len(rows)):
        result[block.ids[:, None], block.labels] = block.probabilities
    return result


# -- 4 ----------------------------------------------------------------------------------------

Choice = Callable[[Photos, Scorer, Int64, Int64, int], Int64]


def at_random(_: Photos, __: Scorer, known: Int64, allowed: Int64, seed: int) -> Int64:
    chance = np.random.default_rng([seed, len(known)])
    return chance.choice(np.setdiff1d(allowed, known), ASKED, replace=False)


def least_lead(photos: Photos, scorer: Scorer, known: Int64, allowed: Int64, _: int) -> Int64:
    vectors = photos.index.state().vectors
    leads = np.concatenate([
        block.probabilities[:, 0] - block.probabilities[:, 1]
        for block in score_blocks(vectors.live_pieces(allowed), scorer)
    ])  # fmt: skip
    leads[np.isin(allowed, known)] = np.inf
    return allowed[np.argsort(leads, kind="stable")[:ASKED]]


def asked(share: float) -> Choice:
    def choose(photos: Photos, scorer: Scorer, known: Int64, allowed: Int64, seed: int) -> Int64:
        state = photos.index.state()
        found = images_to_ask(
            state, scorer, known, ASKED, random_share=share, allowed=allowed, seed=seed
        )
        return np.array([question.id for question in found])

    return choose


WAYS: dict[str, Choice] = {
    "random": at_random,
    "least lead": least_lead,
    "ask, none random": asked(0.0),
    "ask": asked(0.2),
}


def questions(model: Model) -> None:
    """Print the fourth table."""
    print("  accuracy on test after 0, 10, 20, 30, 40, 50 answers; mean of the five, spread of it")
    for names, words in (("25 names", model.names), ("25 German names", parse_labels(GERMAN))):
        classes = class_vectors(words, model.texts)
        for part, kind in (("support", "all"), ("train", "long tail")):
            print(f"  {names}, {part} ({kind})")
            for way, choose in WAYS.items():
                runs = np.array([
                    answered(model, classes, part, kind, choose, seed) for seed in range(SEEDS)
                ])  # fmt: skip
                means = runs[:, 1:].mean(axis=1)
                told = " ".join(f"{value:5.1f}" for value in runs.mean(axis=0))
                print(f"    {way:18s} {told}   {means.mean():5.2f} ({means.std():.2f})")


def answered(
    model: Model, classes: Float32, part: str, kind: str, choose: Choice, seed: int
) -> list[float]:
    """Accuracy on test before the first round and after each."""
    photos = model.parts[part]
    allowed = photos.ids[collection(kind, photos.truth, seed)]
    known = np.empty(0, np.int64)
    result = []
    for _ in range(ROUNDS + 1):
        scorer: Scorer
        if len(known):
            places = np.searchsorted(photos.ids, known)
            labels = photos.truth[places].astype(np.int32)
            rows = model.rows[part][places]
            taught = teach(classes, model.scale, rows, labels)
            scorer = TaughtScorer(classes, model.scale, taught, 2)
        else:
            scorer = LabelScorer(classes, model.scale, 2)
        given = np.concatenate([
            block.labels[:, 0]
            for block in score_blocks([(np.arange(len(model.truth["test"])),
                                        model.rows["test"])], scorer)
        ])  # fmt: skip
        result.append(100 * float((given == model.truth["test"]).mean()))
        known = np.union1d(known, choose(photos, scorer, known, allowed, seed))
    return result


PARTS = {
    "temperature": temperatures,
    "taught": sharpening,
    "coverage": coverages,
    "questions": questions,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--indexes", type=Path)
    parser.add_argument("--part", action="append", choices=PARTS)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(given.model):
            model = Model(given.folder, name, given.indexes or Path(scratch) / str(number))
            for part in given.part or PARTS:
                print(f"{name}: {part}", flush=True)
                PARTS[part](model)


if __name__ == "__main__":
    main()
