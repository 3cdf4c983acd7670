"""What synonyms, descriptions and parents of labels give, from a file of definitions.

    python benchmarks/class_names.py CALTECH --model mini --model MODEL_FOLDER

CALTECH is a folder with test/ and support/, a folder a class; all 25 classes are asked for, in the
words of class_names.toml beside this file, which was written without a look at what it gives.
Two splits: the photos of test, and as a further one those of support with each class called by
its first synonym, as somebody would who does not know the words that the model learnt.

Four tables a model: accuracy in percent with names, synonyms and descriptions, each with the
weights tried beside those that ship; labels and parents at several thresholds; parents of photos
whose class is not among the labels (half of each parent's, five draws); and how far apart the
logits of pairs of labels are, for words of one meaning and for classes.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch import prompts
from clipsearch.ambiguous_names import LEAST_SPREAD
from clipsearch.definition_files import read_definitions
from clipsearch.encoder import Float32
from clipsearch.image_index import ImageIndex, open_index
from clipsearch.label_definitions import LabelDefinitions
from clipsearch.label_tree import TreeScorer
from clipsearch.prompts import class_vectors
from indexer import build_index

DEFINITIONS = Path(__file__).with_name("class_names.toml")
SYNONYMS = (0.0, 0.1, 0.25, 0.5, 1.0, 3.0)
DESCRIPTIONS = (0.05, 0.1, 0.2, 0.5)
THRESHOLDS = (0.0, 0.3, 0.5, 0.7, 0.9)
SEEDS = 5
SAME = (
    "motorbike, motorcycle; airplane, aeroplane; sofa, couch; cup, mug; car, automobile; "
    "butterfly, butterflies; laptop, laptop computer; starfish, sea star; revolver, pistol; "
    "piano, grand piano; child, kid; forest, woods; sea, ocean; bike, bicycle"
)

Truth = npt.NDArray[np.int64]


class Photos:
    """The photos of a labelled folder: vectors, and which of ``labels`` each is."""

    def __init__(self, folder: Path, model: str, place: Path, labels: LabelDefinitions) -> None:
        build_index(folder, place, encoder=model)
        self.index: ImageIndex = open_index(place)
        ids, self.rows = self.index.vectors_of(self.index.state().vectors.ids)
        places = self.index.paths().first_places(ids.tolist())
        folders = [found.path.parent.name for found in places if found is not None]
        names = list(labels.names)
        self.truth: Truth = np.array([names.index(name.replace("_", " ")) for name in folders])

    def classes(self, labels: Sequence[str]) -> Float32:
        """(C, dim) class vectors."""
        return class_vectors(labels, self.index.text_vectors())

    def accuracy(self, labels: LabelDefinitions) -> float:
        """In percent, of the labels that nothing is below."""
        leaves = leaves_of(labels)
        best = (self.rows @ self.classes(labels)[leaves].T).argmax(axis=1)
        return 100 * float((np.array(leaves)[best] == self.truth).mean())


def leaves_of(labels: LabelDefinitions) -> list[int]:
    """The positions of labels that nothing is below."""
    return [place for place in range(len(labels)) if place not in set(labels.parents)]


def names_alone(labels: LabelDefinitions) -> LabelDefinitions:
    """The labels in no other words than their names; those above them stay."""
    items = [
        dataclasses.replace(item, words=None, synonyms=(), descriptions=())
        for item in labels.definitions
    ]
    return LabelDefinitions(labels.names, tuple(items))


def without(labels: LabelDefinitions, *fields: str) -> LabelDefinitions:
    """The labels without their synonyms or descriptions."""
    nothing = dict.fromkeys(fields, ())
    items = [dataclasses.replace(item, **nothing) for item in labels.definitions]  # type: ignore[arg-type]
    return LabelDefinitions(labels.names, tuple(items))


def renamed(labels: LabelDefinitions) -> LabelDefinitions:
    """Each label called by its first synonym, what it was called a synonym."""
    items = []
    for name, item in zip(labels.names, labels.definitions, strict=True):
        if item.synonyms:
            first, *others = item.synonyms
            rest = (*others, item.words or name)
            item = dataclasses.replace(item, words=first, synonyms=rest)
        items.append(item)
    return LabelDefinitions(labels.names, tuple(items))


def weighted(photos: Photos, labels: LabelDefinitions, synonyms: float, texts: float) -> float:
    """Accuracy with other weights than those that ship."""
    kept = prompts.SYNONYMS_WEIGHT, prompts.DESCRIPTIONS_WEIGHT
    prompts.SYNONYMS_WEIGHT, prompts.DESCRIPTIONS_WEIGHT = synonyms, texts
    try:
        return photos.accuracy(labels)
    finally:
        prompts.SYNONYMS_WEIGHT, prompts.DESCRIPTIONS_WEIGHT = kept


def measure_words(test: Photos, support: Photos, labels: LabelDefinitions) -> None:
    """Print accuracy with and without other words."""
    other = renamed(labels)
    splits = ((test, labels), (support, labels), (test, other), (support, other))
    print("  accuracy                             test  support   renamed: test  support")

    def line(what: str, values: Sequence[float]) -> None:
        print(f"  {what:34s}" + "".join(f" {value:7.2f}" for value in values))

    line(
        "folder names", [test.accuracy(names_alone(labels)), support.accuracy(names_alone(labels))]
    )
    for weight in SYNONYMS:
        ships = " (ships)" if weight == prompts.SYNONYMS_WEIGHT else ""
        what = f"words + {weight:g} synonyms{ships}" if weight else "words"
        line(what, [weighted(p, without(x, "descriptions"), weight, 0) for p, x in splits])
    for weight in DESCRIPTIONS:
        ships = " (ships)" if weight == prompts.DESCRIPTIONS_WEIGHT else ""
        what = f"words + {weight:g} descriptions{ships}"
        line(what, [weighted(p, without(x, "synonyms"), 0, weight) for p, x in splits])
    line("both, as they ship", [p.accuracy(x) for p, x in splits])


def measure_tree(photos: Photos, labels: LabelDefinitions) -> None:
    """Print how often labels, and parents, are given and right at several thresholds."""
    ids = np.arange(len(photos.rows), dtype=np.int64)
    scale = photos.index.space.logit_scale
    classes = photos.classes(labels)
    tops = top_of(labels)
    print("  below a parent from   label given   right   parent given   right   all right")
    for least in THRESHOLDS:
        items = [
            dataclasses.replace(item, threshold=None if item.parent is None else least)
            for item in labels.definitions
        ]
        asked = LabelDefinitions(labels.names, tuple(items))
        given = TreeScorer(asked, classes, scale).score(ids, photos.rows).labels[:, 0]
        is_parent = np.isin(given, labels.parents)
        right = np.where(is_parent, given == tops[photos.truth], given == photos.truth)
        print(
            f"  {least:19.1f} {100 * (~is_parent).mean():13.1f} {percent(right[~is_parent]):7} "
            f"{100 * is_parent.mean():14.1f} {percent(right[is_parent]):7} {percent(right):11}"
        )


def percent(right: npt.NDArray[np.bool_]) -> str:
    """The share that is true; a dash of nothing."""
    return f"{100 * right.mean():.2f}" if len(right) else "-"


def top_of(labels: LabelDefinitions) -> Truth:
    """The label at the top above each label."""
    tops = np.arange(len(labels))
    for place, parent in enumerate(labels.parents):
        if parent >= 0:
            tops[place] = parent
    return tops


def measure_parents(photos: Photos, labels: LabelDefinitions) -> None:
    """Print how often the label at the top is right, for photos whose class is among the labels
    and for those whose class was taken out."""
    ids = np.arange(len(photos.rows), dtype=np.int64)
    scale, tops = photos.index.space.logit_scale, top_of(labels)
    parents = sorted(set(labels.parents) - {-1})
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(SEEDS):
        chance = np.random.default_rng(seed)
        out: set[int] = set()
        for parent in parents:
            below = [place for place, above in enumerate(labels.parents) if above == parent]
            out |= set(chance.choice(below, len(below) // 2, replace=False).tolist())
        kept = [place for place in range(len(labels)) if place not in out]
        names = tuple(labels.names[place] for place in kept)
        is_out = np.isin(photos.truth, list(out))
        for way in ("the best label's parent", "sum of the labels below", "its own words, too"):
            items = [labels.definitions[place] for place in kept]
            if way == "its own words, too":
                items = [
                    dataclasses.replace(item, words=labels.names[place])
                    if place in parents
                    else item
                    for place, item in zip(kept, items, strict=True)
                ]
            asked = LabelDefinitions(names, tuple(items))
            classes = photos.classes(asked)
            if way == "the best label's parent":
                leaves = leaves_of(asked)
                given = np.array(leaves)[(photos.rows @ classes[leaves].T).argmax(axis=1)]
            else:
                block = TreeScorer(asked, classes, scale).score(ids, photos.rows)
                given = block.labels[:, 0]
            right = tops[np.array(kept)[given]] == tops[photos.truth]
            shares = (100 * float(right[~is_out].mean()), 100 * float(right[is_out].mean()))
            found.setdefault(way, []).append(shares)
    print("  the parent is right, in percent   class asked for   class left out")
    for way, draws in found.items():
        (here, gone), (_, spread) = np.mean(draws, axis=0), np.std(draws, axis=0)
        print(f"  {way:33s} {here:15.2f} {gone:16.2f} +- {spread:.2f}")


def measure_alike(photos: Photos, labels: LabelDefinitions) -> None:
    """Print by how much the logits of two labels differ from photo to photo."""
    pairs = [tuple(pair.strip().split(", ")) for pair in SAME.split(";")]
    words = sorted({word for pair in pairs for word in pair})
    scale = photos.index.space.logit_scale
    logits = scale * (photos.rows @ photos.classes(words).T)
    same = [
        float((logits[:, words.index(one)] - logits[:, words.index(other)]).std())
        for one, other in pairs
    ]
    leaves = leaves_of(labels)
    logits = scale * (photos.rows @ photos.classes(labels)[leaves].T)
    classes = [
        float((logits[:, one] - logits[:, other]).std())
        for one in range(len(leaves))
        for other in range(one)
    ]
    for what, spreads in (
        (f"{len(same)} pairs of one meaning", same),
        ("pairs of classes", classes),
    ):
        low, middle, high = np.quantile(spreads, [0, 0.5, 1])
        below = np.mean(np.array(spreads) < LEAST_SPREAD)
        print(
            f"  logits differ by (std)  {what:25s} least {low:.2f} median {middle:.2f} "
            f"most {high:.2f}; below {LEAST_SPREAD}: {below:.0%}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("caltech", type=Path)
    parser.add_argument("--model", action="append", required=True)
    given = parser.parse_args(arguments)
    labels = read_definitions(DEFINITIONS)
    with tempfile.TemporaryDirectory() as scratch:
        for number, model in enumerate(given.model):
            test, support = (
                Photos(
                    given.caltech / split, model, Path(scratch) / f"{split}{number}.index", labels
                )
                for split in ("test", "support")
            )
            print(f"{model}: {len(test.truth)} photos of test, {len(support.truth)} of support")
            measure_words(test, support, labels)
            for name, photos in (("test", test), ("support", support)):
                print(f" {name}")
                measure_tree(photos, labels)
                measure_parents(photos, labels)
                measure_alike(photos, labels)


if __name__ == "__main__":
    main()
