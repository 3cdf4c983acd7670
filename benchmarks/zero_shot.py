"""Zero-shot accuracy on a labelled folder, beside a direct open_clip computation.

    python benchmarks/zero_shot.py FOLDER --model MODEL [--model MODEL ...]

FOLDER holds a folder per class. The photos are indexed once and classified from the stored
vectors; then open_clip's own preprocessing, encoders and zero-shot classifier label the same
photos directly. Prints both accuracies and how many photos got another label.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from clipsearch import open_index
from clipsearch.file_kinds import IMAGE_EXTENSIONS
from clipsearch.model_names import folder_of, resolve_model_name
from clipsearch.prompt_templates import SIMPLE_TEMPLATES
from indexer import build_index


def class_folders(folder: Path) -> list[Path]:
    """The folders of the classes, in order of name."""
    return sorted(path for path in folder.iterdir() if path.is_dir())


def label_of(folder: Path) -> str:
    """car_side -> car side."""
    return folder.name.replace("_", " ").lower()


def with_clipsearch(folder: Path, model: str, labels: list[str]) -> dict[Path, str]:
    """Index and classify; the label of every photo."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "zero-shot.index"
        build_index(folder, place, encoder=model)
        index = open_index(place)
        result = index.classify(labels, none="off")
        return {
            place.path: label
            for image_id in result.ids.tolist()
            for label in [result.label_of(image_id)]
            for place in index.paths().places(image_id)
        }


def with_open_clip(photos: list[Path], model: str, labels: list[str]) -> dict[Path, str]:
    """The same through open_clip alone."""
    import open_clip
    import torch
    from PIL import Image

    place = folder_of(resolve_model_name(model))
    if place is not None:
        name, tag = f"local-dir:{place}", None
    else:
        name, _, tag = resolve_model_name(model).partition("/")
    net, _, preprocess = open_clip.create_model_and_transforms(name, tag)
    net.eval()
    tokenizer = open_clip.get_tokenizer(name)
    classes = open_clip.build_zero_shot_classifier(net, tokenizer, labels, SIMPLE_TEMPLATES)
    found: dict[Path, str] = {}
    with torch.inference_mode():
        for start in range(0, len(photos), 32):
            batch = photos[start : start + 32]
            pixels = torch.stack([preprocess(Image.open(photo)) for photo in batch])
            scores = net.encode_image(pixels, normalize=True) @ classes
            for photo, best in zip(batch, scores.argmax(dim=1).tolist(), strict=True):
                found[photo] = labels[best]
    return found


def accuracy(found: dict[Path, str], truth: dict[Path, str]) -> tuple[float, float]:
    """Top-1 over all photos, and its mean over the classes, in percent."""
    right: dict[str, list[bool]] = {}
    for photo, label in truth.items():
        right.setdefault(label, []).append(found[photo] == label)
    every = [answer for answers in right.values() for answer in answers]
    per_class = [np.mean(answers) for answers in right.values()]
    return 100 * float(np.mean(every)), 100 * float(np.mean(per_class))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", required=True)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folders = class_folders(folder)
    labels = [label_of(path) for path in folders]
    truth = {
        photo: label_of(path)
        for path in folders
        for photo in sorted(path.iterdir())
        if photo.suffix.lower() in IMAGE_EXTENSIONS
    }
    print(f"{len(truth)} photos, {len(labels)} classes, {len(SIMPLE_TEMPLATES)} templates")
    print(f"{'model':<24}{'clipsearch':>12}{'per class':>11}{'open_clip':>11}{'differ':>8}")
    for model in arguments.model:
        begin = time.perf_counter()
        ours = with_clipsearch(folder, model, labels)
        direct = with_open_clip(sorted(truth), model, labels)
        differ = sum(ours[photo] != direct[photo] for photo in truth)
        top1, per_class = accuracy(ours, truth)
        name = Path(model).name
        print(
            f"{name:<24}{top1:>10.2f} %{per_class:>9.2f} %"
            f"{accuracy(direct, truth)[0]:>9.2f} %{differ:>8}   "
            f"({time.perf_counter() - begin:.0f} s)"
        )


if __name__ == "__main__":
    main()
