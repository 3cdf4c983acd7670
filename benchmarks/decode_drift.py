"""What `--decode fast` changes: time, embedding, labels and perceptual hash against `exact`.

    python benchmarks/decode_drift.py FOLDER --model MODEL ... [--classes] [--megapixels 12 SCRATCH]

Every image below FOLDER is decoded both ways by the same thread, and encoded by each model.
"labels" are the nearest of 1,000 nouns. With --classes, each folder is a class and the zero-shot
accuracy of both is printed too. With --megapixels, enlarged copies of the photos are compared,
written to the folder SCRATCH first: their grain, as a sensor's, is as fine as their pixels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from clipsearch import load_encoder
from clipsearch.encoder import Encoder, ImageGeometry
from clipsearch.errors import ImageError
from clipsearch.file_kinds import IMAGE_EXTENSIONS
from clipsearch.images import DecodedImage, read_image
from clipsearch.nouns import imagenet_vocabulary
from clipsearch.prompts import class_vectors
from clipsearch.text_vectors import TextVectors

MODES = ("exact", "fast")
GRAIN = 5.0  # standard deviation, of 255
JPEG_QUALITY = 90
NOUNS = 1000


@dataclass
class Decoded:
    """All photos decoded both ways for one geometry; seconds by mode, thumbnails not made."""

    kept: list[Path] = field(default_factory=list)
    pixels: dict[str, list[np.ndarray]] = field(default_factory=lambda: {m: [] for m in MODES})
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(MODES, 0.0))
    hash_bits: list[int] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True, action="append")
    parser.add_argument("--classes", action="store_true")
    parser.add_argument("--megapixels", nargs=2, metavar=("NUMBER", "SCRATCH"))
    parser.add_argument("--each", type=int, help="so many photos of each folder")
    arguments = parser.parse_args()
    photos = list(photos_below(arguments.folder, arguments.each))
    if arguments.megapixels:
        number, scratch = float(arguments.megapixels[0]), Path(arguments.megapixels[1])
        photos = [enlarged(p, arguments.folder, scratch, number) for p in photos]
    for model in arguments.model:
        encoder = load_encoder(model, device="cpu")
        decoded = decode_both(photos, encoder.space.geometry)
        report(encoder, decoded, arguments.classes)


def photos_below(folder: Path, each: int | None) -> Iterator[Path]:
    """The image files below a folder, the first ``each`` of every folder."""
    taken: dict[Path, int] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_EXTENSIONS and path.is_file():
            taken[path.parent] = taken.get(path.parent, 0) + 1
            if each is None or taken[path.parent] <= each:
                yield path


def enlarged(photo: Path, folder: Path, scratch: Path, megapixels: float) -> Path:
    """A copy of so many megapixels with fine grain over it; kept from an earlier run."""
    target = scratch / photo.relative_to(folder).with_suffix(".jpg")
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(photo) as image:
        small = image.convert("RGB")
    scale = (megapixels * 1e6 / (small.width * small.height)) ** 0.5
    size = int(small.width * scale), int(small.height * scale)
    large = np.asarray(small.resize(size, Image.Resampling.LANCZOS)).astype(np.float32)
    grain = np.random.default_rng(0).normal(0, GRAIN, large.shape[:2]).astype(np.float32)
    noisy = np.clip(large + grain[..., None], 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(target, "JPEG", quality=JPEG_QUALITY)
    return target


def decode_both(photos: list[Path], geometry: ImageGeometry) -> Decoded:
    """Each photo both ways, in turns; photos that cannot be read are left out."""
    decoded = Decoded()
    for photo in photos:
        images: dict[str, DecodedImage] = {}
        spent: dict[str, float] = {}
        try:
            for mode in MODES:
                begin = time.thread_time()
                images[mode] = read_image(photo, geometry, decode=mode, thumbnail_side=None)
                spent[mode] = time.thread_time() - begin
        except ImageError:
            continue
        for mode in MODES:
            decoded.pixels[mode].append(images[mode].pixels)
            decoded.seconds[mode] += spent[mode]
        hashes = [images[mode].metadata.phash for mode in MODES]
        decoded.hash_bits.append((hashes[0] ^ hashes[1]).bit_count())
        decoded.kept.append(photo)
    return decoded


def report(encoder: Encoder, decoded: Decoded, has_classes: bool) -> None:
    vectors = {
        mode: np.concatenate(
            [encoder.encode_images(np.stack(p[at : at + 32])) for at in range(0, len(p), 32)]
        )
        for mode, p in decoded.pixels.items()
    }
    count = len(decoded.kept)
    cosines = np.einsum("ij,ij->i", vectors["exact"], vectors["fast"])
    p5, p1 = np.percentile(cosines, (5, 1))
    spent = ", ".join(f"{m} {1000 * s / count:.1f}" for m, s in decoded.seconds.items())
    print(f"{count} images with {encoder.space.id}")
    print(f"ms per image: {spent}")
    print(
        f"cosine of fast to exact: mean {cosines.mean():.5f}, 5th percentile {p5:.5f}, "
        f"1st {p1:.5f}, worst {cosines.min():.5f} ({decoded.kept[int(cosines.argmin())].name})"
    )
    bits = np.array(decoded.hash_bits)
    print(f"perceptual hash, bits of 64: mean {bits.mean():.2f}, most {bits.max()}")
    texts = TextVectors(encoder.space, lambda: encoder, None)
    words = imagenet_vocabulary().words[:NOUNS]
    label(f"{len(words)} nouns", vectors, class_vectors(words, texts), None)
    if has_classes:
        classes = sorted({photo.parent.name for photo in decoded.kept})
        truth = np.array([classes.index(photo.parent.name) for photo in decoded.kept])
        names = [name.replace("_", " ").lower() for name in classes]
        label(f"{len(classes)} classes", vectors, class_vectors(names, texts), truth)


def label(
    what: str, vectors: dict[str, np.ndarray], towards: np.ndarray, truth: np.ndarray | None
) -> None:
    """Print how many images get another label, and how many a right one."""
    guesses = [(vectors[mode] @ towards.T).argmax(axis=1) for mode in MODES]
    changed = int((guesses[0] != guesses[1]).sum())
    print(f"{what}: labels that differ {changed} of {len(guesses[0])}", end="")
    if truth is not None:
        right = [
            f"{mode} {100 * (guess == truth).mean():.2f} %"
            for mode, guess in zip(MODES, guesses, strict=True)
        ]
        print("; accuracy " + ", ".join(right), end="")
    print()


if __name__ == "__main__":
    main()
