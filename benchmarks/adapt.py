"""What ``classify --adapt`` gives: labels that go by how often each label is there.

    python benchmarks/adapt.py CALTECH_TEST CALTECH_SUPPORT --none FLICKR --model mini --model MODEL

The first two are labelled folders (a folder a class) of the same classes, --none photos that show
none of them. Two sets of labels: the classes of the folder, and all 101 of Caltech-101 (where most
of what is asked for is never there). Each collection is drawn five times:

  all, balanced, long tail, few    as in by_cluster.py
  steep      the n-th class keeps 0.005 ** ((n - 1) / (C - 1)) of its photos, one at least
  three      all photos of 3 of the classes and one photo of each other
  none       all photos, and 3 of 10 show none of the labels
  few, none  few, and 3 of 10 show none of the labels

Accuracy in percent over the photos that show a label and as the mean over classes, and what these
change, mean of the draws and in brackets the worst:

  stata      class means and variances (anchored_means.py), images that show none left out
  means      class means, one covariance (the same)
  prior      how often each label is there, wherever
  temper     ``--by-cluster temper``
  adapt      ``--adapt --none auto``, and in how many draws it adapted anything
  off        ``--adapt --none off``
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from anchored_means import shared_spread, stata
from by_cluster import SEEDS, accuracies, collection

from clipsearch.abstaining import abstention
from clipsearch.adapt import AdaptedScorer
from clipsearch.cluster_votes import classify_by_cluster
from clipsearch.image_index import open_index
from clipsearch.label_shares import ADAPTED, EVEN_SHARE, estimate_shares, fitted_shares
from clipsearch.prompts import class_vectors
from clipsearch.scoring import LabelScorer
from clipsearch.shards import Int64
from indexer import build_index

COLLECTIONS = (
    "all", "balanced", "long tail", "steep", "few", "three", "none", "few, none",
)  # fmt: skip
_STEEPEST, _THREE, _NONE = 0.005, 3, 0.3

CALTECH_101 = """accordion, airplanes, anchor, ant, barrel, bass, beaver, binocular, bonsai, brain,
brontosaurus, buddha, butterfly, camera, cannon, car side, ceiling fan, cellphone, chair,
chandelier, cougar body, cougar face, crab, crayfish, crocodile, crocodile head, cup, dalmatian,
dollar bill, dolphin, dragonfly, electric guitar, elephant, emu, euphonium, ewer, face,
face close up, ferry, flamingo, flamingo head, garfield, gerenuk, gramophone, grand piano,
hawksbill, headphone, hedgehog, helicopter, ibis, inline skate, joshua tree, kangaroo, ketch, lamp,
laptop, Leopards, llama, lobster, lotus, mandolin, mayfly, menorah, metronome, minaret, Motorbikes,
nautilus, octopus, okapi, pagoda, panda, pigeon, pizza, platypus, pyramid, revolver, rhino, rooster,
saxophone, schooner, scissors, scorpion, sea horse, snoopy, soccer ball, stapler, starfish,
stegosaurus, stop sign, strawberry, sunflower, tick, trilobite, umbrella, watch, water lily,
wheelchair, wild cat, windsor chair, wrench, yin yang"""


class Photos:
    """The photos of a labelled folder, and some that show none of its classes, in one space.

    names : of the labels that are asked for, the classes among them. truth : -1 for none.
    """

    def __init__(self, folder: Path, none: Path, model: str, place: Path, is_long: bool) -> None:
        if not place.exists():
            build_index([folder, none], place, encoder=model)
        self.index = open_index(place)
        self.state = self.index.state()
        self.ids: Int64
        self.ids, self.rows = self.state.vectors.take(self.state.vectors.ids)
        places = self.index.paths().first_places(self.ids.tolist())
        folders = [found.path.parent for found in places if found is not None]
        inside = [place.name if place.parent == folder else "" for place in folders]
        classes = sorted(set(inside) - {""})
        self.names = [name.replace("_", " ") for name in classes]
        if is_long:
            others = " ".join(CALTECH_101.split()).split(", ")
            self.names += [name for name in others if name not in self.names]
        self.truth = np.array([classes.index(name) if name else -1 for name in inside])
        self.texts = self.index.text_vectors()
        self.classes = class_vectors(self.names, self.texts, "simple", None)
        self.scale = self.state.space.logit_scale

    def drawn(self, kind: str, seed: int) -> npt.NDArray[np.int64]:
        """The rising rows of a collection."""
        shown = np.flatnonzero(self.truth >= 0)
        truth = self.truth[shown]
        plain = kind.removesuffix("none").removesuffix(", ") or "all"
        if plain in ("steep", "three"):
            rows = shown[_unbalanced(plain, truth, seed)]
        else:
            rows = shown[collection(plain, truth, seed)]
        if kind.endswith("none"):
            others = np.flatnonzero(self.truth < 0)
            wanted = min(len(others), round(len(rows) * _NONE / (1 - _NONE)))
            more = np.random.default_rng(seed).choice(others, wanted, replace=False)
            rows = np.sort(np.concatenate([rows, more]))
        return rows


def _unbalanced(kind: str, truth: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    chance = np.random.default_rng(seed)
    classes = chance.permutation(np.unique(truth))
    chosen = []
    for place, name in enumerate(classes.tolist()):
        members = np.flatnonzero(truth == name)
        if kind == "three":
            kept = len(members) if place < _THREE else 1
        else:
            kept = max(1, round(len(members) * _STEEPEST ** (place / (len(classes) - 1))))
        chosen.append(chance.choice(members, kept, replace=False))
    return np.sort(np.concatenate(chosen))


def labels_of(
    photos: Photos, rows: npt.NDArray[np.int64], seed: int
) -> tuple[dict[str, npt.NDArray[np.int32]], dict[str, bool]]:
    """What each way calls the photos in ``rows``, and whether --adapt adapted anything."""
    images, ids = photos.rows[rows], photos.ids[rows]
    state, classes, scale = photos.state, photos.classes, photos.scale
    cosines = images @ classes.T
    none = abstention(state, photos.texts, photos.names, classes, "auto", ids)
    assert none is not None
    in_set = none.told(LabelScorer(classes, scale).score(ids, images), images).in_set
    assert in_set is not None
    counts = in_set >= np.float32(none.rule.threshold)
    shares = fitted_shares(np.exp(scale * (cosines - 1)).astype(np.float32))
    shares = (1 - EVEN_SHARE) * shares + EVEN_SHARE / len(classes)
    voted = classify_by_cluster(
        photos.index.path, state, photos.texts, photos.names, vote="temper", allowed=ids, seed=seed
    ).columns()
    found = {
        "alone": cosines.argmax(axis=1),
        "stata": stata(images, classes, scale, counts).argmax(axis=1),
        "means": shared_spread(images, classes, scale, counts).argmax(axis=1),
        "prior": (scale * cosines + np.log(shares)).argmax(axis=1),
        "temper": voted.labels[:, 0],
    }
    adapted = {}
    for way, leaves_out in (("adapt", none), ("off", None)):
        estimated = estimate_shares(
            state.vectors, classes, scale, none=leaves_out, allowed=ids, seed=seed
        )
        scorer = AdaptedScorer(classes, scale, 1, estimated)
        found[way] = scorer.score(ids, images)[0].labels[:, 0]
        adapted[way] = estimated.outcome == ADAPTED
    return found, adapted


def measure(photos: Photos) -> None:
    """Print a table."""
    for kind in COLLECTIONS:
        base, how_often = [], {"adapt": 0, "off": 0}
        changes: dict[str, list[npt.NDArray[np.float64]]] = {}
        for seed in range(SEEDS):
            rows = photos.drawn(kind, seed)
            shown = photos.truth[rows] >= 0
            truth = photos.truth[rows][shown]
            found, adapted = labels_of(photos, rows, seed)
            base.append(np.array(accuracies(truth, found.pop("alone")[shown])))
            for way, labels in found.items():
                got = np.array(accuracies(truth, labels[shown]))
                changes.setdefault(way, []).append(got - base[-1])
            for way, did in adapted.items():
                how_often[way] += did
        photo, mean = np.mean(base, axis=0)
        print(f"  {kind:10s} {photo:6.2f} {mean:6.2f}   over photos, over classes")
        for name, change in changes.items():
            average, worst = np.mean(change, axis=0), np.min(change, axis=0)
            often = f"   adapted {how_often[name]} of {SEEDS}" if name in how_often else ""
            print(
                f"    {name:8s} {average[0]:+6.2f} {average[1]:+6.2f}   "
                f"({worst[0]:+.2f} {worst[1]:+.2f}){often}"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--none", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        for number, model in enumerate(given.model):
            for folder in given.folder:
                for is_long in (False, True):
                    place = Path(scratch) / f"{number}-{folder.name}.index"
                    photos = Photos(folder, given.none, model, place, is_long)
                    shown = int(np.count_nonzero(photos.truth >= 0))
                    print(f"{model}, {folder.name}: {shown} photos, {len(photos.names)} labels")
                    measure(photos)


if __name__ == "__main__":
    main()
