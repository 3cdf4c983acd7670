"""How well are copies told from strangers, and how fast?

    python benchmarks/duplicates.py FOLDER... --model MODEL [--model MODEL]
    python benchmarks/duplicates.py --speed 1000000

Indexes all photos of the folders and changed copies of some of them in a temporary folder, with
every model, and prints how many copies of each kind are recognised, how many pairs of different
photos pass for copies (per million pairs), and how often the original is what is kept. Copies
that the folders hold already count as false: look at the pairs that --show prints.

--speed takes as many random hashes and vectors, a tenth of them copies, and times the grouping.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from clipsearch.copies import copy_candidates, copy_groups
from clipsearch.duplicates import find_near
from clipsearch.file_kinds import IMAGE_EXTENSIONS
from clipsearch.generation import Generation, open_generation
from clipsearch.picture_facts import NO_TIME, PictureFacts, read_facts
from clipsearch.same_picture import DuplicateSettings, SamePicture
from indexer import build_index

Change = Callable[[Image.Image], Image.Image]


def resized(share: float) -> Change:
    return lambda p: p.resize(
        (max(1, round(p.width * share)), max(1, round(p.height * share))),
        Image.Resampling.LANCZOS,
    )


def cropped(share: float, left: float, top: float) -> Change:
    """Take away ``share`` of each side, ``left`` and ``top`` of it at the beginning."""

    def change(p: Image.Image) -> Image.Image:
        x, y = p.width * share, p.height * share
        return p.crop(
            (round(x * left), round(y * top), round(p.width - x * (1 - left)),
             round(p.height - y * (1 - top)))
        )  # fmt: skip

    return change


def same(p: Image.Image) -> Image.Image:
    return p


# name: (change, ending, quality)
CHANGES: dict[str, tuple[Change, str, int]] = {
    "resized to 0.25": (resized(0.25), ".jpg", 90),
    "resized to 0.5": (resized(0.5), ".jpg", 90),
    "resized to 0.75": (resized(0.75), ".jpg", 90),
    "JPEG quality 30": (same, ".jpg", 30),
    "JPEG quality 60": (same, ".jpg", 60),
    "JPEG quality 95": (same, ".jpg", 95),
    "PNG": (same, ".png", 0),
    "WebP quality 80": (same, ".webp", 80),
    "half and quality 60": (resized(0.5), ".jpg", 60),
    "cropped 2 %, all edges": (cropped(0.02, 0.5, 0.5), ".jpg", 90),
    "cropped 5 %, all edges": (cropped(0.05, 0.5, 0.5), ".jpg", 90),
    "cropped 2 %, one corner": (cropped(0.02, 0, 0), ".jpg", 90),
    "cropped 5 %, one corner": (cropped(0.05, 0, 0), ".jpg", 90),
    "darker by 20 %": (lambda p: ImageEnhance.Brightness(p).enhance(0.8), ".jpg", 90),
    "brighter by 20 %": (lambda p: ImageEnhance.Brightness(p).enhance(1.2), ".jpg", 90),
    "grey": (ImageOps.grayscale, ".jpg", 90),
}

SETTINGS = {
    "hash": DuplicateSettings(min_cosine=-1, min_correlation=-1),
    "hash, cosine 0.9": DuplicateSettings(min_cosine=0.9, min_correlation=-1),
    "hash, pixels": DuplicateSettings(min_cosine=-1),
    "all three": DuplicateSettings(),
}


def photos_below(folders: list[Path]) -> list[Path]:
    return [
        path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_EXTENSIONS and path.is_file()
    ]


def write_photos(photos: list[Path], count: int, work: Path) -> None:
    """Link all photos as ``NUMBER`` and changed copies of ``count`` as ``NUMBER-CHANGE``."""
    chosen = set(np.linspace(0, len(photos) - 1, count).astype(int).tolist())
    for number, photo in enumerate(photos):
        (work / f"{number}{photo.suffix.lower()}").symlink_to(photo.resolve())
        if number not in chosen:
            continue
        with Image.open(photo) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        for position, (change, ending, quality) in enumerate(CHANGES.values()):
            place = work / f"{number}-{position}{ending}"
            change(picture).save(place, **({"quality": quality} if quality else {}))


def measure(state: Generation, model: str, show: bool) -> None:
    facts = read_facts(state, state.vectors.ids)
    names = [place.path.stem for place in state.paths.first_places(facts.ids)]
    rows = {name: row for row, name in enumerate(names)}
    originals = np.array([row for row, name in enumerate(names) if "-" not in name])
    print(f"\n{model}: recognised, in %\n{'':25}" + "".join(f"{name:>18}" for name in SETTINGS))
    relations = {name: SamePicture(state, facts, settings) for name, settings in SETTINGS.items()}
    for position, change in enumerate(CHANGES):
        # A change that left the bytes as they were, or gave those of another, is one image.
        pairs = [
            (row, rows[f"{name}-{position}"])
            for name, row in rows.items()
            if "-" not in name and f"{name}-{position}" in rows
        ]
        shares = [
            np.mean([len(relation.of(row, np.array([copy]))) for row, copy in pairs])
            for relation in relations.values()
        ]
        print(f"{change:25}" + "".join(f"{100 * share:18.1f}" for share in shares))
    million = len(originals) * (len(originals) - 1) / 2 / 1e6
    false = dict.fromkeys(SETTINGS, 0)
    for name, relation in relations.items():
        for place, row in enumerate(originals.tolist()):
            for other in relation.of(row, originals[place + 1 :]).tolist():
                false[name] += 1
                if show and name == "all three":
                    print(f"  {names[row]} and {names[other]}")
    counts = "".join(f"{count / million:18.1f}" for count in false.values())
    print(f"{'false per million pairs':25}{counts}   ({million:.2f} million pairs)")
    groups = find_near(state, kinds=["copy"])
    # A PNG has every pixel of the photo it was made of, and is taken for the original.
    kept = [
        "-" not in group.keep.path.stem or group.keep.path.suffix == ".png"
        for group in groups
        if len({file.path.stem.split("-")[0] for file in group.files}) == 1
    ]
    mixed = len(groups) - len(kept)
    print(
        f"{len(groups)} groups; of {len(kept)} of one photo the original or its PNG is "
        f"kept in {100 * np.mean(kept):.1f} %; {mixed} hold several photos"
    )


def measure_speed(count: int) -> None:
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    copies = count // 10
    vectors = rng.standard_normal((count, 64)).astype(np.float16)
    hashes[:copies] = hashes[copies : 2 * copies]
    vectors[:copies] = vectors[copies : 2 * copies]
    for _ in range(4):
        hashes[:copies] ^= np.uint64(1) << rng.integers(0, 64, copies, dtype=np.uint64)
    time_copies("random hashes, a tenth of them copies", hashes, vectors)
    blank = np.full(count, 2**63, np.uint64)
    time_copies("one hash for all, a tenth of them copies", blank, vectors)
    time_copies("one hash and one vector for all", blank, np.repeat(vectors[:1], count, axis=0))


def time_copies(what: str, hashes: np.ndarray, vectors: np.ndarray) -> None:
    """Time the grouping where the pixels agree: vectors alone tell strangers apart."""
    count = len(hashes)
    vectors = (vectors / np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)).astype(
        np.float16
    )
    facts = PictureFacts(
        ids=np.arange(count),
        hashes=hashes,
        hashed=np.ones(count, bool),
        sides=rng_sides(count),
        sizes=np.full(count, 1000),
        taken=np.full(count, NO_TIME),
        exposed=np.zeros(count, bool),
        cameras=np.full(count, -1),
        lossless=np.zeros(count, bool),
    )
    settings = DuplicateSettings(min_cosine=0.95)
    begin = time.perf_counter()
    candidates = copy_candidates(facts, settings.max_bits)
    middle = time.perf_counter()
    no_thumbnails = SimpleNamespace(
        vectors=SimpleNamespace(
            dim=vectors.shape[1], take=lambda ids: (ids, vectors[np.searchsorted(candidates, ids)])
        ),
        cache=Path("nowhere"),
        manifest=SimpleNamespace(images=()),
    )
    relation = SamePicture(no_thumbnails, facts.take(candidates), settings)
    relation._grids = SimpleNamespace(
        has=lambda rows: np.ones(len(rows), bool),
        alike=lambda row, others, larger, least: np.ones(len(others), bool),
    )
    groups = copy_groups(relation)
    end = time.perf_counter()
    print(
        f"{count:,} images, {what}: candidates {middle - begin:.1f} s, groups {end - middle:.1f} s;"
        f" {len(groups):,} groups of {sum(map(len, groups)):,} images"
    )


def rng_sides(count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(100, 5000, (count, 2)).astype(np.int32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--sample", type=int, default=300, help="photos to make copies of")
    parser.add_argument("--show", action="store_true", help="print the false pairs")
    parser.add_argument("--speed", type=int, metavar="N")
    options = parser.parse_args()
    if options.speed:
        measure_speed(options.speed)
        return
    photos = photos_below(options.folders)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "photos")
        work.mkdir()
        write_photos(photos, min(options.sample, len(photos)), work)
        if options.show:
            for number, photo in enumerate(photos):
                print(number, photo)
        for number, model in enumerate(options.model or ["mini"]):
            index = Path(folder, f"{number}.index")
            build_index(work, index, encoder=model)
            measure(open_generation(index), Path(model).name, options.show)


if __name__ == "__main__":
    main()
