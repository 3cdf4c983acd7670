"""What a few examples of each label give: teaching against zero-shot and its peers.

    python benchmarks/few_examples.py CALTECH --model mini --model MODEL_FOLDER

CALTECH has the folders ``support`` (16 photos a class, examples are drawn from them) and
``test``, each with a folder a class. Labels are asked for in three ways:

  classes    the 25 classes by their names
  kinds      six kinds of them (animal, vehicle, ...): names that say less than the photos show,
             each of them of many looks. Zero-shot does badly here and nearest means do too
  no names   the 25 classes as "group 0" .. "group 24": zero-shot knows nothing at all

Accuracy on the test photos in percent, mean and spread of five draws, with 0, 1, 2, 4, 8, 16
examples a label. The others, all from the same stored vectors:

  logistic regression   scikit-learn's; C from seven values by cross-validation with up to four
                        folds. With one example a label there is nothing to validate: C = 10
  Tip-Adapter           training-free, alpha = 1, beta = 5.5 (the paper's)
  ... searched          alpha and beta by leaving examples out in turn; the published code searches
                        on a validation set, which somebody with ten examples has not
  Tip-Adapter-F         its keys fine-tuned: AdamW, 0.001, 20 epochs, no augmentation
  (in hindsight)        the best C, and the best alpha and beta, for the test photos themselves:
                        no method, but what the method could be at the most

Then what may go wrong: few labels have examples, only mistakes are shown, examples are wrong,
some are of none of the labels. And how long it takes to label many images.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.image_index import open_index
from clipsearch.prompts import class_vectors
from clipsearch.records import Int32
from clipsearch.scoring import LabelScorer, Scorer, score_blocks
from clipsearch.taught_labels import Taught, TaughtScorer, teach
from indexer import build_index

SEEDS = 5
SHOTS = (1, 2, 4, 8, 16)
KINDS = {
    "animal": "Leopards butterfly hawksbill ibis kangaroo llama scorpion starfish trilobite",
    "vehicle": "Motorbikes airplanes car_side helicopter ketch",
    "plant": "bonsai sunflower",
    "furniture": "chandelier ewer menorah grand_piano",
    "device": "laptop revolver watch",
    "body or statue": "brain buddha",
}
_CS = tuple(10.0**power for power in np.linspace(-1, 3, 7))
_ALPHAS = (0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0)
_BETAS = (1.0, 2.0, 3.5, 5.5, 8.0, 12.0, 20.0)

Floats = npt.NDArray[np.floating]


class Photos(NamedTuple):
    """A labelled folder: unit vectors (n, dim) and the (n,) folders by number."""

    rows: Float32
    folders: Int32


class Task(NamedTuple):
    """What labels are asked for, and the true ones of the photos."""

    name: str
    classes: Float32
    scale: float
    support: Float32
    support_labels: Int32
    test: Float32
    test_labels: Int32


class Lesson(NamedTuple):
    """Examples of a task."""

    task: Task
    rows: Float32
    labels: Int32


Method = Callable[[Lesson], Floats]
"""Scores (n, labels) of the test photos; a last column more is that of none of the labels."""


def zero_shot(lesson: Lesson) -> Floats:
    cosines: Floats = lesson.task.test @ lesson.task.classes.T
    return cosines


def regression(lesson: Lesson, strength: float | None = None) -> Floats:
    """scikit-learn's, over the labels that have examples."""
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

    known, counts = np.unique(lesson.labels, return_counts=True)
    count = len(lesson.task.classes)
    scores = np.full((len(lesson.task.test), count + int(known[0] < 0)), -np.inf)
    if len(known) == 1:
        scores[:, known[0]] = 0
        return scores
    model = LogisticRegression(C=strength or 10.0, max_iter=300)
    if strength is None and counts.min() > 1:
        folds = min(4, int(counts.min()))
        model = LogisticRegressionCV(Cs=_CS, cv=folds, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = model.fit(lesson.rows, lesson.labels)
        scores[:, known] = fitted.predict_proba(lesson.task.test)
    return scores


def tip_adapter(lesson: Lesson, alpha: float = 1.0, beta: float = 5.5) -> Floats:
    task = lesson.task
    affinity = np.exp(-beta * (1 - task.test @ lesson.rows.T))
    scores: Floats = task.scale * zero_shot(lesson) + alpha * affinity @ _one_hot(lesson)
    return scores


def tip_adapter_searched(lesson: Lesson) -> Floats:
    task, labels = lesson.task, lesson.labels
    likeness, logits = lesson.rows @ lesson.rows.T, task.scale * lesson.rows @ task.classes.T
    best = (-1.0, 0.0, 1.0)
    for beta in _BETAS:
        affinity = np.exp(-beta * (1 - likeness))
        np.fill_diagonal(affinity, 0)
        pull = affinity @ _one_hot(lesson)
        for alpha in (0.0, *_ALPHAS):
            right = float(np.mean((logits + alpha * pull).argmax(axis=1) == labels))
            best = max(best, (right, alpha, beta), key=lambda found: found[0])
    return tip_adapter(lesson, *best[1:])


def tip_adapter_f(lesson: Lesson) -> Floats:
    import torch

    torch.manual_seed(0)
    task = lesson.task
    keys = torch.nn.Parameter(torch.from_numpy(lesson.rows.copy()))
    rows, truth = torch.from_numpy(lesson.rows), torch.from_numpy(lesson.labels.astype(np.int64))
    values = torch.from_numpy(_one_hot(lesson))
    logits = torch.from_numpy(task.scale * lesson.rows @ task.classes.T)
    steps = 20 * -(-len(rows) // 256)
    adam = torch.optim.AdamW([keys], lr=0.001, eps=1e-4)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(20):
        for part in torch.randperm(len(rows)).split(256):
            pull = torch.exp(-5.5 * (1 - rows[part] @ keys.T)) @ values
            loss = torch.nn.functional.cross_entropy(logits[part] + pull, truth[part])
            adam.zero_grad()
            loss.backward()
            adam.step()
            slower.step()
    tuned = keys.detach().numpy()
    affinity = np.exp(-5.5 * (1 - task.test @ tuned.T))
    scores: Floats = task.scale * zero_shot(lesson) + affinity @ _one_hot(lesson)
    return scores


def taught(lesson: Lesson, method: str = "auto") -> Floats:
    task = lesson.task
    return _scores(lesson, _teach(lesson, method), task.test)


def _teach(lesson: Lesson, method: str = "auto") -> Taught:
    task = lesson.task
    return teach(
        task.classes, task.scale, lesson.rows, lesson.labels, method=method, typical=task.test
    )


def _scores(lesson: Lesson, learned: Taught, rows: Float32) -> Floats:
    """1 for the label that each photo gets, as the command line gives it."""
    task = lesson.task
    scorer = TaughtScorer(task.classes, task.scale, learned)
    labels = scorer.score(np.arange(len(rows)), rows.astype(np.float16)).labels[:, 0]
    return np.eye(len(task.classes) + 1)[labels]


def regression_in_hindsight(lesson: Lesson) -> Floats:
    return max((regression(lesson, strength) for strength in _CS), key=_right(lesson))


def tip_adapter_in_hindsight(lesson: Lesson) -> Floats:
    found = [tip_adapter(lesson, alpha, beta) for beta in _BETAS for alpha in _ALPHAS]
    return max(found, key=_right(lesson))


METHODS: dict[str, Method] = {
    "zero-shot": zero_shot,
    "logistic regression": regression,
    "Tip-Adapter": tip_adapter,
    "Tip-Adapter, searched": tip_adapter_searched,
    "Tip-Adapter-F": tip_adapter_f,
    "taught": taught,
    "(taught, kernel)": lambda lesson: taught(lesson, "kernel"),
    "(taught, probe)": lambda lesson: taught(lesson, "probe"),
    "(regression in hindsight)": regression_in_hindsight,
    "(Tip-Adapter in hindsight)": tip_adapter_in_hindsight,
}
PEERS = ("zero-shot", "logistic regression", "Tip-Adapter, searched", "taught")


def _one_hot(lesson: Lesson) -> Float32:
    # With one row more the label -1, none of them, is a row of zeros.
    count = len(lesson.task.classes)
    return np.eye(count + 1, count, dtype=np.float32)[lesson.labels]


def _right(lesson: Lesson) -> Callable[[Floats], float]:
    task = lesson.task

    def share(scores: Floats) -> float:
        given = scores.argmax(axis=1)
        given[given == len(task.classes)] = -1
        return 100 * float(np.mean(given == task.test_labels))

    return share


def draw(labels: Int32, count: int, seed: int, among: Sequence[int] | None = None) -> Int32:
    """Places of ``count`` examples of each label, or of each ``among`` them."""
    chance = np.random.default_rng(seed)
    chosen = [
        chance.choice(np.flatnonzero(labels == label), count, replace=False)
        for label in (np.unique(labels) if among is None else among)
    ]
    return np.concatenate(chosen).astype(np.int32)


def lesson_of(task: Task, places: Int32) -> Lesson:
    return Lesson(task, task.support[places], task.support_labels[places])


def measure(task: Task) -> None:
    """Print the table of one task."""
    print(f"  {task.name:28s}" + "".join(f"{count:>13d}" for count in (0, *SHOTS)))
    plain = _right(lesson_of(task, np.zeros(1, np.int32)))(task.test @ task.classes.T)
    for name, method in METHODS.items():
        cells = [f"{plain:13.1f}" if "zero-shot" in name or name == "taught" else " " * 13]
        for count in SHOTS:
            found = []
            for seed in range(SEEDS):
                lesson = lesson_of(task, draw(task.support_labels, count, seed))
                found.append(_right(lesson)(method(lesson)))
            cells.append(f"{np.mean(found):8.1f} ±{np.std(found):3.1f}")
        print(f"    {name:26s}" + "".join(cells), flush=True)


def measure_troubles(task: Task) -> None:
    """Print what becomes of the test photos, mean and worst draw, where examples mislead."""
    chance = [np.random.default_rng(seed) for seed in range(SEEDS)]
    count = len(task.classes)
    few = 3 if count > 10 else 2
    troubles: dict[str, list[Lesson]] = {}
    for shots in (1, 8):
        troubles[f"{few} labels have {shots}"] = [
            lesson_of(
                task,
                draw(
                    task.support_labels,
                    shots,
                    seed,
                    chance[seed].choice(count, few, False).tolist(),
                ),
            )
            for seed in range(SEEDS)
        ]
    wrong = (task.support @ task.classes.T).argmax(axis=1) != task.support_labels
    for shown in (5, 20, 50):
        if wrong.sum() >= shown:
            troubles[f"{shown} mistakes shown"] = [
                lesson_of(
                    task,
                    chance[seed].choice(np.flatnonzero(wrong), shown, False).astype(np.int32),
                )
                for seed in range(SEEDS)
            ]
    for shots in (4, 16):
        flipped = []
        for seed in range(SEEDS):
            lesson = lesson_of(task, draw(task.support_labels, shots, seed))
            labels = lesson.labels.copy()
            bad = chance[seed].choice(len(labels), round(0.1 * len(labels)), replace=False)
            labels[bad] = (labels[bad] + chance[seed].integers(1, count, len(bad))) % count
            flipped.append(lesson._replace(labels=labels))
        troubles[f"{shots} each, 10 % wrong"] = flipped
    for shots in (2, 8):
        troubles[f"{shots} each, 5 labels gone"] = [
            _without_labels(
                task, chance[seed].choice(count, count // 5, replace=False), shots, seed
            )
            for seed in range(SEEDS)
        ]
    for name, lessons in troubles.items():
        print(f"    {name:26s}", end="")
        for peer in PEERS:
            found = [_right(lesson)(METHODS[peer](lesson)) for lesson in lessons]
            print(f"  {np.mean(found):6.1f} ({min(found):5.1f})", end="")
        learned = [_teach(lesson) for lesson in lessons]
        own = [
            np.mean(_scores(lesson, taught, lesson.rows).argmax(axis=1) % (count + 1)
                    == lesson.labels % (len(lesson.task.classes) + 1))
            - taught.accuracy_before
            for lesson, taught in zip(lessons, learned, strict=True)
        ]  # fmt: skip
        print(f"  {100 * min(own):+6.1f}", flush=True)


def _without_labels(task: Task, gone: npt.NDArray[np.int64], shots: int, seed: int) -> Lesson:
    """Some of the labels are none of those asked for, and there are examples of that."""
    kept = np.setdiff1d(np.arange(len(task.classes)), gone)
    number = np.full(len(task.classes), -1, np.int32)
    number[kept] = np.arange(len(kept))
    places = draw(task.support_labels, shots, seed)
    less = task._replace(
        classes=task.classes[kept],
        support_labels=number[task.support_labels],
        test_labels=number[task.test_labels],
    )
    return lesson_of(less, places)


def measure_speed() -> None:
    """Print how long images take, told from a hundred thousand."""
    chance = np.random.default_rng(0)
    rows = _unit(chance.standard_normal((100_000, 512), np.float32)).astype(np.float16)
    classes = _unit(chance.standard_normal((25, 512), np.float32))
    looks = _unit(chance.standard_normal((25, 512), np.float32)).repeat(16, axis=0)
    examples = _unit(looks + 0.03 * chance.standard_normal((400, 512), np.float32))
    labels = np.arange(25, dtype=np.int32).repeat(16)
    begin = time.perf_counter()
    learned = teach(classes, 30.0, examples, labels, method="kernel", typical=_wide(rows[:4096]))
    print(f"  teaching with 400 examples: {time.perf_counter() - begin:.2f} s ({learned.method})")
    plain = LabelScorer(classes, 30.0)
    scorers: dict[str, Scorer] = {
        "plain": plain,
        "taught": TaughtScorer(classes, 30.0, learned),
    }
    ids = np.arange(len(rows))
    for name, scorer in scorers.items():
        taken = []
        for _ in range(3):
            begin = time.perf_counter()
            for _block in score_blocks([(ids, rows)], scorer):
                pass
            taken.append(time.perf_counter() - begin)
        print(f"  {name}: {10 * min(taken):.2f} s a million images of 512 numbers, 25 labels")


def _unit(rows: Float32) -> Float32:
    unit: Float32 = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _wide(rows: npt.NDArray[np.float16]) -> Float32:
    return rows.astype(np.float32)


def tasks(folder: Path, model: str, place: Path) -> list[Task]:
    """Index the folders and encode the names."""
    photos = {}
    for part in ("support", "test"):
        build_index(folder / part, place / part, encoder=model)
        index = open_index(place / part)
        ids, rows = index.state().vectors.ids, index.state().vectors
        places = index.paths().first_places(ids.tolist())
        found = [place.path.parent.name for place in places if place is not None]
        names = sorted(set(found))
        numbers = np.array([names.index(name) for name in found], np.int32)
        photos[part] = Photos(np.asarray(rows.take(ids)[1], np.float32), numbers)
    texts, scale = index.text_vectors(), index.state().space.logit_scale
    plain = [name.replace("_", " ") for name in names]
    kind = np.array(
        [list(KINDS).index(next(k for k, of in KINDS.items() if name in of.split()))
         for name in names], np.int32,
    )  # fmt: skip
    support, test = photos["support"], photos["test"]

    def task(title: str, asked: Sequence[str], of: Int32) -> Task:
        return Task(
            title, class_vectors(asked, texts), scale,
            support.rows, of[support.folders], test.rows, of[test.folders],
        )  # fmt: skip

    same = np.arange(len(names), dtype=np.int32)
    codes = [f"group {number}" for number in range(len(names))]
    return [task("classes", plain, same), task("kinds", list(KINDS), kind),
            task("no names", codes, same)]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", required=True)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        for number, model in enumerate(given.model):
            (place := Path(scratch) / str(number)).mkdir()
            found = tasks(given.folder, model, place)
            print(f"{model}: {len(found[0].support)} examples, {len(found[0].test)} test photos")
            for task in found:
                measure(task)
            heads = "".join(f"{peer[:15]:>16s}" for peer in PEERS)
            print(f"    {'mean (worst draw)':26s}{heads}  on the examples themselves, gain")
            for task in found[:2]:
                print(f"  {task.name}")
                measure_troubles(task)
    print("speed")
    measure_speed()


if __name__ == "__main__":
    main()
