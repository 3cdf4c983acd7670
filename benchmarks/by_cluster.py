"""What ``classify --by-cluster`` gives: labels by cluster against labels image by image.

    python benchmarks/by_cluster.py CALTECH_TEST --model mini --model MODEL_FOLDER

CALTECH_TEST is a labelled folder (a folder a class); all its classes are asked for. Each of the
collections is drawn five times, groups are found with as many seeds:

  all        every photo
  balanced   ten photos of every class
  long tail  the n-th class of a random order keeps 0.05 ** ((n - 1) / (C - 1)) of its photos
  few        all photos of 5 of the classes; all the labels are asked for

Accuracy in percent, over photos and as the mean over classes, of labels image by image; then
what the votes change, mean and worst of the five draws. Groups are those found on the spot (by
how images look and what the labels say of them), and clusters of about 30 by how they look alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.cluster_model import assign
from clipsearch.cluster_votes import VOTES, classify_by_cluster
from clipsearch.clusters import Assignment, ClusterModel
from clipsearch.image_index import ImageIndex, open_index
from clipsearch.shards import Int64
from clipsearch.spherical_kmeans import train_centroids
from indexer import build_index

SEEDS = 5
COLLECTIONS = ("all", "balanced", "long tail", "few")
_BALANCED, _RAREST, _FEW = 10, 0.05, 5
_CLUSTER_IMAGES = 30


def collection(kind: str, truth: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """The rising rows of the photos that are in it."""
    chance = np.random.default_rng(seed)
    classes = np.unique(truth)
    members = {name: np.flatnonzero(truth == name) for name in classes.tolist()}
    if kind == "balanced":
        chosen = [chance.choice(rows, _BALANCED, replace=False) for rows in members.values()]
    elif kind == "long tail":
        shares = _RAREST ** (np.arange(len(classes)) / (len(classes) - 1))
        chosen = [
            chance.choice(members[name], max(1, round(share * len(members[name]))), replace=False)
            for name, share in zip(chance.permutation(classes).tolist(), shares, strict=True)
        ]
    elif kind == "few":
        chosen = [members[name] for name in chance.choice(classes, _FEW, replace=False).tolist()]
    else:
        chosen = list(members.values())
    return np.sort(np.concatenate(chosen))


def accuracies(truth: npt.NDArray[np.int64], given: npt.NDArray[np.int32]) -> tuple[float, float]:
    """Over photos, and the mean over the classes that are there, in percent."""
    right = truth == given
    classes = [right[truth == name].mean() for name in np.unique(truth)]
    return 100 * float(right.mean()), 100 * float(np.mean(classes))


class Photos:
    """The photos of a labelled folder in one space."""

    def __init__(self, folder: Path, model: str, place: Path) -> None:
        build_index(folder, place, encoder=model)
        self.index: ImageIndex = open_index(place)
        self.ids: Int64 = self.index.state().vectors.ids
        places = self.index.paths().first_places(self.ids.tolist())
        folders = [found.path.parent.name for found in places if found is not None]
        names = sorted(set(folders))
        self.labels = [name.replace("_", " ") for name in names]
        self.truth = np.array([names.index(name) for name in folders])

    def alone(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Labels image by image."""
        everyone = self.index.classify(self.labels)
        labels: npt.NDArray[np.int32] = everyone.labels[np.isin(everyone.ids, self.ids[rows]), 0]
        return labels

    def voted(
        self, rows: npt.NDArray[np.int64], vote: str, clusters: Assignment | None, seed: int
    ) -> npt.NDArray[np.int32]:
        """Labels by cluster, of a collection of these photos alone."""
        index = self.index
        found = classify_by_cluster(
            index.path, index.state(), index.text_vectors(), self.labels,
            vote=vote, clusters=clusters, allowed=self.ids[rows], seed=seed,
        )  # fmt: skip
        return found.columns().labels[:, 0]

    def clusters(self, rows: npt.NDArray[np.int64], seed: int) -> Assignment:
        """Clusters of about 30 images that look alike."""
        vectors = self.index.state().vectors
        count = max(2, round(len(rows) / _CLUSTER_IMAGES))
        centroids = train_centroids(vectors.take(self.ids[rows])[1], count, seed=seed)
        model = ClusterModel(centroids, np.arange(len(centroids), dtype=np.int32))
        return assign(vectors, model, allowed=self.ids[rows])


def measure(photos: Photos) -> None:
    """Print a table."""
    for kind in COLLECTIONS:
        base = []
        changes: dict[str, list[npt.NDArray[np.float64]]] = {}
        for seed in range(SEEDS):
            rows = collection(kind, photos.truth, seed)
            truth = photos.truth[rows]
            base.append(np.array(accuracies(truth, photos.alone(rows))))
            ways = {"groups": None, "clusters": photos.clusters(rows, seed)}
            for way, clusters in ways.items():
                for vote in VOTES:
                    got = accuracies(truth, photos.voted(rows, vote, clusters, seed))
                    changes.setdefault(f"{vote}, {way}", []).append(np.array(got) - base[-1])
        photo, mean = np.mean(base, axis=0)
        print(f"  {kind:22s} {photo:6.2f} {mean:6.2f}   over photos, over classes")
        for name, change in changes.items():
            average, worst = np.mean(change, axis=0), np.min(change, axis=0)
            print(
                f"    {name:22s} {average[0]:+6.2f} {average[1]:+6.2f}   "
                f"worst {worst[0]:+6.2f} {worst[1]:+6.2f}"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", required=True)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        for number, model in enumerate(given.model):
            photos = Photos(given.folder, model, Path(scratch) / f"{number}.index")
            print(f"{model}: {len(photos.truth)} photos, {len(photos.labels)} labels")
            measure(photos)


if __name__ == "__main__":
    main()
