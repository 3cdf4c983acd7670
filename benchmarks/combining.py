"""How words that repel, words that add, and images beside words should count.

On captioned photos (a folder with ``captions.csv``: image,caption), a photo shows a thing when
one of its captions names it. For pairs of things, the mean average precision of ways to answer
"A and not B", "A and B", and "like this photo of A, and B":

    python benchmarks/combining.py PHOTOS --model MODEL
"""

from __future__ import annotations

import argparse
import csv
import itertools
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch import open_index
from indexer import build_index

THINGS = [
    "dog",
    "man",
    "woman",
    "boy",
    "girl",
    "child",
    "snow",
    "water",
    "beach",
    "ball",
    "bike",
    "grass",
    "street",
    "mountain",
    "tree",
    "sand",
    "field",
    "pool",
    "car",
    "rock",
    "horse",
    "soccer",
    "red",
    "black",
    "white",
    "people",
    "group",
    "baby",
    "shirt",
    "hat",
]
LEAST = 4


def average_precision(scores: Any, wanted: Any) -> float:
    ranked = wanted[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean())


def report(title: str, results: dict[str, list[float]]) -> None:
    pairs = len(next(iter(results.values())))
    print(f"\n{title}, mean average precision over {pairs} questions")
    for name, values in results.items():
        print(f"  {name:<40} {np.mean(values):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="mini")
    arguments = parser.parse_args()
    captions: dict[str, list[str]] = defaultdict(list)
    with open(arguments.photos / "captions.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            captions[row["image"]].append(row["caption"].lower())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "photos.index")
        build_index(arguments.photos, place, encoder=arguments.model)
        index = open_index(place)
        ids, images = index.vectors_of(np.arange(index.next_id))
        names = [index.paths().places(int(image_id))[0].path.name for image_id in ids]
        vectors = dict(zip(THINGS, index.text_vectors().encode(THINGS), strict=True))
    shows: dict[str, Any] = {}
    for thing in THINGS:
        word = re.compile(rf"\b{thing}(s|es|ren)?\b")
        found = np.array([any(word.search(text) for text in captions[name]) for name in names])
        if found.sum() >= 6:
            shows[thing] = found
    scores = {thing: images @ vectors[thing] for thing in shows}
    spread = {thing: scores[thing].std() for thing in shows}
    print(f"{len(names)} photos, {len(shows)} things, {arguments.model}")

    without: dict[str, list[float]] = defaultdict(list)
    both: dict[str, list[float]] = defaultdict(list)
    like: dict[str, list[float]] = defaultdict(list)
    chosen = np.random.default_rng(0)
    for a, b in itertools.permutations(shows, 2):
        together = shows[a] & shows[b]
        wanted = shows[a] & ~shows[b]
        if wanted.sum() >= LEAST and together.sum() >= LEAST:
            for weight in (0.0, 0.25, 0.5, 1.0):
                answer = scores[a] - weight * scores[b]
                without[f"A - {weight:g} B"].append(average_precision(answer, wanted))
        if a < b and together.sum() >= LEAST:
            both["A alone"].append(average_precision(scores[a], together))
            both["A + B"].append(average_precision(scores[a] + scores[b], together))
            lesser = np.minimum(scores[a] / spread[a], scores[b] / spread[b])
            both["the lesser of A and B"].append(average_precision(lesser, together))
        if together.sum() >= LEAST + 1:
            for row in chosen.permutation(np.flatnonzero(wanted))[:3]:
                others = np.arange(len(names)) != row
                image = (images @ images[row])[others]
                text, goal = scores[b][others], together[others]
                like["the words alone"].append(average_precision(text, goal))
                like["the photo alone"].append(average_precision(image, goal))
                like["photo + words"].append(average_precision(image + text, goal))
                for share in (0.25, 0.5, 1.0):
                    scaled = share * image / image.std() + text / text.std()
                    name = f"photo at {share:g} of the words' spread"
                    like[name].append(average_precision(scaled, goal))
    report("A and not B", without)
    report("A and B", both)
    report("Like this photo of A, and B", like)


if __name__ == "__main__":
    main()
