"""Does a bank of queries make search better? Nearest neighbour normalisation (NNN).

    python benchmarks/query_bank.py --captioned FLICKR --classes CALTECH_TEST --model mini --model M

Some images are near to every query. NNN (Chowdhury et al., "Nearest neighbor normalization
improves multimodal retrieval", EMNLP 2024) takes from an image's cosine ``alpha`` times the mean
of its ``k`` highest cosines with the queries of a bank. Banks:

  words      some six hundred everyday words that clipsearch encodes anyway ("a photo of a {}")
  nouns      ten thousand nouns, as discover names clusters by
  captions   of other photos: half of them are the bank, the captions of the rest are asked for
             among all photos, and the other way round; five random halves

--captioned holds photos and captions.csv (image,caption): how often the photo of a caption is
first, among five, among ten. --classes holds a folder a class: of the ten first of each class's
name how many show it, and average precision. What changes, in points; for captions with the
standard error over photos, for classes over names. "search" is what clipsearch does now.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch import open_index
from clipsearch.background_words import BACKGROUND_TEMPLATE, background_prompts
from clipsearch.nouns import read_vocabulary
from clipsearch.text_vectors import TextVectors
from indexer import build_index

SETTINGS = ((8, 0.25), (8, 0.5), (16, 0.25), (16, 0.5), (128, 0.5), (128, 0.75))
"""k and alpha: the paper's for a bank of anything, and for one of the same kind as the queries."""
SPLITS = 5
FIRST = (1, 5, 10)

Float = npt.NDArray[np.floating]


def bias(images: Float, bank: Float, k: int, alpha: float) -> Float:
    """(N,) what is taken from each image's cosines."""
    cosines = images @ bank.T
    k = min(k, cosines.shape[1])
    best = np.partition(cosines, -k, axis=1)[:, -k:]
    taken: Float = alpha * best.mean(axis=1)
    return taken


def ranks_of(cosines: Float, answers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(Q,) the place of the image that answers each query, from 1 on; (Q, N) cosines."""
    own = cosines[np.arange(len(answers)), answers]
    ranks: npt.NDArray[np.int64] = 1 + (cosines > own[:, None]).sum(axis=1)
    return ranks


def recalls(ranks: npt.NDArray[np.int64]) -> Float:
    """(Q, 3) 100 where the image is among the first."""
    return 100.0 * (ranks[:, None] <= np.array(FIRST))


def precisions(cosines: Float, answers: npt.NDArray[np.bool_]) -> Float:
    """(Q, 2) precision of the ten first and average precision in percent; (Q, N) cosines."""
    order = np.argsort(-cosines, axis=1, kind="stable")
    hits = np.take_along_axis(answers, order, axis=1)
    found = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    average = (found * hits).sum(axis=1) / hits.sum(axis=1)
    return 100 * np.stack([hits[:, :10].mean(axis=1), average], axis=1)


def banks_of(texts: TextVectors) -> dict[str, Float]:
    """The banks that any collection can have."""
    nouns = [BACKGROUND_TEMPLATE.format(word) for word in read_vocabulary().words]
    return {"words": texts.encode(background_prompts()), "nouns": texts.encode(nouns)}


def print_change(name: str, before: Float, after: Float, groups: npt.NDArray[np.int64]) -> None:
    """The mean of (Q, m) numbers, how it changes, and the standard error over groups."""
    change = after - before
    counts = np.bincount(groups)
    each = np.stack([np.bincount(groups, column) / counts for column in change.T])
    error = each.std(axis=1, ddof=1) / np.sqrt(len(counts))
    cells = " ".join(
        f"{mean:+6.2f} ({one:.2f})" for mean, one in zip(change.mean(axis=0), error, strict=True)
    )
    print(f"    {name:26s} {cells}", flush=True)


def measure_captions(folder: Path, model: str, place: Path) -> None:
    """Captions asked for among their photos."""
    build_index(folder, place, encoder=model)
    index = open_index(place)
    vectors = index.state().vectors
    ids, images = vectors.take(vectors.ids)
    places = index.paths().first_places(ids.tolist())
    names = [found.path.name for found in places if found is not None]
    with open(folder / "captions.csv", encoding="utf-8", newline="") as file:
        pairs = [(row["image"], row["caption"].strip()) for row in csv.DictReader(file)]
    pairs = [(image, caption) for image, caption in pairs if image in names and caption]
    photos = np.array([names.index(image) for image, _ in pairs])
    texts = index.text_vectors()
    queries = texts.encode([caption for _, caption in pairs])
    cosines = queries @ images.T
    plain = recalls(ranks_of(cosines, photos))
    mean = " ".join(f"{value:6.2f}" for value in plain.mean(axis=0))
    print(f"  {len(pairs)} captions of {len(names)} photos; R@1, R@5, R@10")
    print(f"    {'search':26s} {mean}")
    for name, bank in banks_of(texts).items():
        for k, alpha in SETTINGS:
            after = recalls(ranks_of(cosines - bias(images, bank, k, alpha), photos))
            print_change(f"{name}, k {k}, alpha {alpha}", plain, after, photos)
    for k, alpha in SETTINGS:
        total = np.zeros_like(plain)
        for seed in range(SPLITS):
            half = np.random.default_rng(seed).permutation(len(names)) < len(names) // 2
            for in_bank in (half[photos], ~half[photos]):
                taken = bias(images, queries[in_bank], k, alpha)
                asked = ~in_bank
                after = recalls(ranks_of(cosines[asked] - taken, photos[asked]))
                total[asked] += after / SPLITS
        print_change(f"captions, k {k}, alpha {alpha}", plain, total, photos)


def measure_classes(folder: Path, model: str, place: Path) -> None:
    """The names of classes asked for."""
    build_index(folder, place, encoder=model)
    index = open_index(place)
    vectors = index.state().vectors
    ids, images = vectors.take(vectors.ids)
    places = index.paths().first_places(ids.tolist())
    folders = [found.path.parent.name for found in places if found is not None]
    names = sorted(set(folders))
    texts = index.text_vectors()
    queries = texts.encode([f"a photo of a {name.replace('_', ' ')}" for name in names])
    cosines = queries @ images.T
    answers = np.array([[folder == name for folder in folders] for name in names])
    plain = precisions(cosines, answers)
    mean = " ".join(f"{value:6.2f}" for value in plain.mean(axis=0))
    print(f"  {len(names)} names, {len(ids)} photos; precision of the ten first, average precision")
    print(f"    {'search':26s} {mean}")
    for name, bank in banks_of(texts).items():
        for k, alpha in SETTINGS:
            after = precisions(cosines - bias(images, bank, k, alpha), answers)
            print_change(f"{name}, k {k}, alpha {alpha}", plain, after, np.arange(len(names)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--captioned", type=Path, required=True)
    parser.add_argument("--classes", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        for number, model in enumerate(given.model):
            print(model)
            measure_captions(given.captioned, model, Path(scratch) / f"{number}-captions.index")
            measure_classes(given.classes, model, Path(scratch) / f"{number}-classes.index")


if __name__ == "__main__":
    main()
