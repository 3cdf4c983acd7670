"""What `--decode fast` changes: time, embedding and zero-shot label against `exact`.

    python benchmarks/decode_drift.py FOLDER --model MODEL [--classes]

Every image below FOLDER is decoded both ways by the same thread and encoded by the same model.
With --classes, each folder is a class and the zero-shot accuracy of both is printed too.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from clipsearch import load_encoder
from clipsearch.errors import ImageError
from clipsearch.file_kinds import IMAGE_EXTENSIONS
from clipsearch.images import read_image
from clipsearch.prompts import class_vectors
from clipsearch.text_vectors import TextVectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--classes", action="store_true")
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.model, device="cpu")
    photos = sorted(
        path
        for path in arguments.folder.rglob("*")
        if path.suffix.lower() in IMAGE_EXTENSIONS and path.is_file()
    )
    seconds = {"exact": 0.0, "fast": 0.0}
    vectors: dict[str, list[np.ndarray]] = {"exact": [], "fast": []}
    kept: list[Path] = []
    for photo in photos:
        try:
            for mode in seconds:
                begin = time.perf_counter()
                image = read_image(photo, encoder.space.geometry, decode=mode, thumbnail_side=None)
                seconds[mode] += time.perf_counter() - begin
                vectors[mode].append(encoder.encode_images(image.pixels[None])[0])
        except ImageError:
            continue
        kept.append(photo)
    exact, fast = np.stack(vectors["exact"]), np.stack(vectors["fast"])
    cosines = np.einsum("ij,ij->i", exact, fast)
    print(f"{len(kept)} images with {encoder.space.id}")
    print(
        "ms per image: " + ", ".join(f"{m} {1000 * s / len(kept):.1f}" for m, s in seconds.items())
    )
    print(
        f"cosine of fast to exact: mean {cosines.mean():.5f}, "
        f"5th percentile {np.percentile(cosines, 5):.5f}, worst {cosines.min():.5f}"
    )
    if not arguments.classes:
        return
    classes = sorted({photo.parent.name for photo in kept})
    texts = TextVectors(encoder.space, lambda: encoder, None)
    towards = class_vectors([name.replace("_", " ").lower() for name in classes], texts)
    truth = np.array([classes.index(photo.parent.name) for photo in kept])
    guesses = [(rows @ towards.T).argmax(axis=1) for rows in (exact, fast)]
    accuracies = [100 * float((guess == truth).mean()) for guess in guesses]
    print(
        f"zero-shot over {len(classes)} classes: exact {accuracies[0]:.2f} %, "
        f"fast {accuracies[1]:.2f} %, labels that differ {int((guesses[0] != guesses[1]).sum())}"
    )


if __name__ == "__main__":
    main()
