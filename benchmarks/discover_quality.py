"""How near the clusters and names of ``discover`` come to the folders that people made.

    python benchmarks/discover_quality.py FOLDER --model MODEL [--model MODEL ...]
        [--seeds 5] [--vocab imagenet] [--wordnet FOLDER] [--rows TEXT]

FOLDER holds a folder per class, whose names are withheld. Per model and way to group, at the true
number of classes and at "auto", the mean over the seeds and in brackets the spread (standard
deviation), in percent:

    k       how many clusters came out
    acc     images in the right cluster, each class matched to one cluster at most (Hungarian)
    nmi     normalised mutual information, arithmetic mean; ari: adjusted Rand index
    named   images whose cluster is called by a name of their class, and
    three   ... has one among its three candidates
    soft    how near the cluster's name is to the class in WordNet (Wu and Palmer; 100 is the same
            meaning), where WordNet is on disk
    sure    how often a cluster whose confidence is 0.5 or more is called by a name of the class
            that most of its images are of, and how many of the clusters are that sure

k-means of FAISS begins once and takes 25 steps; that of clipsearch begins up to ten times where
that costs little. The recipe without words shows what the words are worth. A synonym counts as a
name where timm lists it with the class's synset; classes whose folders are called by something
else are in ``_CALLED``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from clipsearch import open_index
from clipsearch.cluster_matching import clustering_accuracy
from clipsearch.cluster_names import CANDIDATES
from clipsearch.clusters import Cluster, Discovery
from clipsearch.image_index import ImageIndex
from clipsearch.nouns import Vocabulary, read_vocabulary
from clipsearch.shards import Int64
from clipsearch.wordnet import WordNet, find_wordnet
from indexer import build_index

_CALLED = {
    "Leopards": ("leopard",),
    "Motorbikes": ("motorcycle", "motorbike", "bike"),
    "airplanes": ("airplane", "aeroplane", "plane"),
    "car_side": ("car", "auto", "automobile"),
    "ewer": ("ewer", "pitcher"),
    "hawksbill": ("hawksbill turtle", "hawksbill"),
    "helicopter": ("helicopter", "chopper"),
    "laptop": ("laptop", "laptop computer"),
    "starfish": ("starfish", "sea star"),
}
_SURE = 0.5
_HEADS = ("k", "acc", "nmi", "ari", "named", "three", "soft", "sure", "of")

Numbers = dict[str, float]


@dataclass(frozen=True)
class Photos:
    """An index whose photos lie in a folder per class. truth : (n,) positions among the classes,
    in order of id. rows : (n, dim) float32 unit rows."""

    index: ImageIndex
    classes: tuple[str, ...]
    truth: Int64
    rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]


def indexed(folder: Path, model: str, scratch: Path) -> Photos:
    """The photos of a folder, indexed with a model."""
    place = scratch / f"{Path(model).name}.index"
    build_index(folder, place, encoder=model)
    index = open_index(place)
    ids, rows = index.vectors_of(index.state().vectors.ids)
    paths = index.paths()
    names = [Path(paths.places(image)[0].path).parent.name for image in ids.tolist()]
    classes, truth = np.unique(names, return_inverse=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return Photos(index, tuple(classes.tolist()), truth.astype(np.int64), rows / lengths)


def names_of(folder: str) -> tuple[str, ...]:
    """What the class of a folder is called."""
    return _CALLED.get(folder, (folder.replace("_", " ").lower(),))


def grouping_numbers(found: Int64, truth: Int64) -> Numbers:
    """k, acc, nmi and ari; images in no cluster (-1) count as one each of their own."""
    alone = found < 0
    parts = found.copy()
    parts[alone] = found.max() + 1 + np.arange(alone.sum())
    return {
        "k": float(len(np.unique(found[~alone]))),
        "acc": 100 * clustering_accuracy(found, truth),
        "nmi": 100 * float(normalized_mutual_info_score(truth, parts)),
        "ari": 100 * float(adjusted_rand_score(truth, parts)),
    }


class Naming:
    """Compares names of clusters with the classes of their images."""

    def __init__(self, photos: Photos, vocabulary: Vocabulary, wordnet: WordNet | None) -> None:
        self._photos = photos
        self._wordnet = wordnet
        self._synsets = dict(
            zip(vocabulary.words, vocabulary.synsets or (None,) * len(vocabulary), strict=True)
        )

    def numbers(self, discovery: Discovery) -> Numbers:
        """named, three, soft, sure and of."""
        truth, owners = self._photos.truth, discovery.assignment.clusters
        named = three = soft = 0.0
        sure: list[bool] = []
        for position, cluster in enumerate(discovery.clusters):
            counts = np.bincount(truth[owners == position], minlength=len(self._photos.classes))
            for place in np.flatnonzero(counts):
                names = names_of(self._photos.classes[place])
                named += counts[place] * self._is_one(cluster.name, names)
                shown = [one.name for one in cluster.candidates[:CANDIDATES]]
                three += counts[place] * any(self._is_one(name, names) for name in shown)
                soft += counts[place] * self._nearness(cluster, names)
            if cluster.confidence >= _SURE:
                names = names_of(self._photos.classes[counts.argmax()])
                sure.append(self._is_one(cluster.name, names))
        images = len(truth)
        numbers = {"named": 100 * named / images, "three": 100 * three / images}
        if self._wordnet is not None:
            numbers["soft"] = 100 * soft / images
        if sure:
            numbers["sure"] = 100 * float(np.mean(sure))
        numbers["of"] = 100 * len(sure) / max(1, len(discovery.clusters))
        return numbers

    def _is_one(self, name: str, names: tuple[str, ...]) -> bool:
        return name.casefold() in names

    def _nearness(self, cluster: Cluster, names: tuple[str, ...]) -> float:
        if self._wordnet is None or not cluster.candidates:
            return 0.0
        called = cluster.candidates[0].name  # the name without a number
        meant = self._wordnet.meanings(called, self._synsets.get(called))
        known = self._synsets.get(names[0])
        classes = (known,) if known is not None else self._wordnet.senses(names[0])[:1]
        return self._wordnet.similarity(meant, classes)


def faiss_kmeans(photos: Photos, k: int, seed: int) -> Int64:
    """Plain k-means of FAISS: the cluster of each image."""
    import faiss

    rows = np.ascontiguousarray(photos.rows)
    kmeans = faiss.Kmeans(
        rows.shape[1], k, niter=25, seed=seed, spherical=True, min_points_per_centroid=1
    )
    kmeans.train(rows)
    found: Int64 = (rows @ kmeans.centroids.T).argmax(axis=1).astype(np.int64)
    return found


def ways(
    photos: Photos, vocabulary: Vocabulary, wordnet: WordNet | None
) -> dict[str, Callable[[int], Numbers]]:
    """What is measured: seed -> numbers."""
    naming = Naming(photos, vocabulary, wordnet)
    true_k = len(photos.classes)

    def found(k: int | None, method: str, words: Vocabulary | None) -> Callable[[int], Numbers]:
        def measure(seed: int) -> Numbers:
            discovery = photos.index.discover(k, method=method, vocabulary=words, seed=seed)
            numbers = grouping_numbers(discovery.assignment.clusters.astype(np.int64), photos.truth)
            return numbers if words is None else {**numbers, **naming.numbers(discovery)}

        return measure

    rows: dict[str, Callable[[int], Numbers]] = {
        "FAISS k-means": lambda seed: grouping_numbers(
            faiss_kmeans(photos, true_k, seed), photos.truth
        )
    }
    for title, k in (("true k", true_k), ("auto", None)):
        rows[f"k-means, {title}"] = found(k, "kmeans", vocabulary)
        rows[f"agglomerative, {title}"] = found(k, "agglomerative", vocabulary)
        rows[f"recipe without words, {title}"] = found(k, "recipe", None)
        rows[f"recipe, {title}"] = found(k, "recipe", vocabulary)
    rows["hdbscan"] = found(None, "hdbscan", vocabulary)
    return rows


def line(title: str, runs: list[Numbers]) -> str:
    """One row of the table."""
    cells = []
    for head in _HEADS:
        values = [run[head] for run in runs if head in run]
        text = f"{np.mean(values):.1f} ({np.std(values):.1f})" if values else "-"
        cells.append(f"{text:>12}")
    return f"{title:32}" + "".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--vocab", default="imagenet")
    parser.add_argument("--wordnet", type=Path)
    parser.add_argument("--rows", default="", help="only the rows with this in their title")
    options = parser.parse_args()
    wordnet = find_wordnet(options.wordnet)
    vocabulary = read_vocabulary(options.vocab, wordnet=options.wordnet)
    with tempfile.TemporaryDirectory() as scratch:
        for model in options.model:
            photos = indexed(options.folder, model, Path(scratch))
            sizes = np.bincount(photos.truth)
            print(
                f"\n{options.folder.name}: {len(photos.truth)} images, {len(sizes)} classes of "
                f"{sizes.min()} to {sizes.max()}; {Path(model).name}; {len(vocabulary):,} words"
            )
            print(f"{'':32}" + "".join(f"{head:>12}" for head in _HEADS))
            for title, measure in ways(photos, vocabulary, wordnet).items():
                if options.rows in title:
                    runs = [measure(seed) for seed in range(options.seeds)]
                    print(line(title, runs), flush=True)


if __name__ == "__main__":
    main()
