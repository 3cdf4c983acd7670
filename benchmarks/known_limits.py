"""What labels by words get wrong, measured on photos and on pictures made here.

    python benchmarks/known_limits.py TEST --model mini [--model FOLDER ...] [--captions CSV]

TEST holds a folder a class; CSV has the columns image and caption and lies beside its photos. The
figures of docs/limits.md are what this prints for the photos that the project is tested with.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from labelled_photos import LabelledPhotos, PhotosError, read_labelled_photos
from PIL import Image, ImageDraw, ImageFont

from clipsearch import Query, open_index
from clipsearch.encoder import Encoder, Float32, UInt8, load_encoder
from clipsearch.errors import ClipsearchError
from clipsearch.image_labels import texts_of
from clipsearch.images import read_image
from clipsearch.prompt_templates import OPENAI_TEMPLATES, SIMPLE_TEMPLATES
from clipsearch.prompts import class_vectors
from indexer import build_index

NUMBERS = ("one", "two", "three", "four", "five")
# Another word for the same thing, where the classes are those of Caltech-101.
OTHER_WORDS = {
    "airplanes": "aircraft",
    "ewer": "jug",
    "hawksbill": "sea turtle",
    "ketch": "sailing boat",
    "revolver": "gun",
    "laptop": "computer",
    "Motorbikes": "motorcycle",
    "watch": "wristwatch",
}
# A word of two meanings, and each of them made clear.
TWO_MEANINGS = {
    "crane": ("a bird, a crane", "a machine, a crane on a building site"),
    "mouse": ("an animal, a mouse", "a computer mouse"),
    "bat": ("an animal, a bat", "a baseball bat"),
    "seal": ("an animal, a seal", "a stamp, a seal of wax"),
    "jaguar": ("an animal, a jaguar", "a car, a jaguar"),
    "watch": ("a watch on a wrist", "people who watch"),
}
Table = list[list[str]]


def vectors_of(encoder: Encoder, labels: Sequence[str], templates: Sequence[str]) -> Float32:
    """(C, dim) unit rows, as ``classify`` makes them."""
    return class_vectors(labels, texts_of(encoder), templates)


def right(images: Float32, classes: Float32, truth: np.ndarray) -> np.ndarray:
    """(n,) whether the nearest class is the true one."""
    return np.asarray((images @ classes.T).argmax(axis=1) == truth)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def wording(encoder: Encoder, photos: LabelledPhotos, images: Float32) -> Table:
    """The same photos and labels, put into other words."""

    def share(*templates: str) -> float:
        classes = vectors_of(encoder, photos.labels, templates)
        return float(right(images, classes, photos.truth).mean())

    rows = [
        [name, percent(share(*templates))]
        for name, templates in (
            ("the name alone", ("{}",)),
            ("a photo of a {}.", ("a photo of a {}.",)),
            ("7 templates", SIMPLE_TEMPLATES),
            ("80 templates", OPENAI_TEMPLATES),
        )
    ]
    single = [(share(template), template) for template in OPENAI_TEMPLATES]
    for name, (found, template) in (("worst", min(single)), ("best", max(single))):
        rows.append([f"{name} of the 80 by itself: {template}", percent(found)])
    return rows


def other_words(encoder: Encoder, photos: LabelledPhotos, images: Float32) -> Table:
    """Of one class, the share of photos that are found by its name, and by another word for it."""
    rows = []
    before = right(images, vectors_of(encoder, photos.labels, SIMPLE_TEMPLATES), photos.truth)
    for folder, word in OTHER_WORDS.items():
        if folder not in photos.classes:
            continue
        place = photos.classes.index(folder)
        labels = [*photos.labels[:place], word, *photos.labels[place + 1 :]]
        after = right(images, vectors_of(encoder, labels, SIMPLE_TEMPLATES), photos.truth)
        own = photos.truth == place
        rows.append(
            [f"{photos.labels[place]} / {word}", percent(before[own].mean()),
             percent(after[own].mean())]
        )  # fmt: skip
    return rows


def two_meanings(encoder: Encoder) -> Table:
    """How near a bare word lies to each of its meanings (cosine)."""
    rows = []
    for word, meanings in TWO_MEANINGS.items():
        bare, *clear = encoder.encode_texts([word, *meanings])
        near = (f"{text} {bare @ vector:.2f}" for text, vector in zip(meanings, clear, strict=True))
        rows.append([word, *near])
    return rows


def discs(count: int, seed: int) -> Image.Image:
    """So many discs apart from each other, on a plain ground."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (240, 240), (235, 235, 230))
    draw = ImageDraw.Draw(image)
    colour = tuple(rng.integers(20, 200, 3).tolist())
    for cell in rng.permutation(9)[:count].tolist():
        x, y = 80 * (cell % 3) + 40, 80 * (cell // 3) + 40
        radius = int(rng.integers(20, 32))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return image


def pixels(encoder: Encoder, images: Sequence[Image.Image]) -> UInt8:
    """(n, height, width, 3) as the encoder wants them; saved and read as any photo is."""
    with tempfile.TemporaryDirectory() as scratch:
        read = []
        for image in images:
            image.save(Path(scratch) / "picture.png")
            read.append(read_image(Path(scratch) / "picture.png", encoder.space.geometry).pixels)
    return np.stack(read)


def counting(encoder: Encoder) -> Table:
    """How often the number of discs is told, of one to five."""
    made = [(count, discs(count, 10 * seed + count)) for count in range(1, 6) for seed in range(20)]
    images = encoder.encode_images(pixels(encoder, [image for _, image in made]))
    labels = [f"{number} circle{'s' * (number != 'one')}" for number in NUMBERS]
    truth = np.array([count - 1 for count, _ in made])
    hits = right(images, vectors_of(encoder, labels, SIMPLE_TEMPLATES), truth)
    return [["100 pictures of one to five discs", percent(hits.mean()), "by chance 20.0 %"]]


def negation(model: str, captions: Path, word: str) -> Table:
    """Of the best 20 that a search finds, the share whose captions have the word."""
    named: dict[str, bool] = {}
    with open(captions, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            said = f" {word}" in f" {row['caption'].lower()}"
            named[row["image"]] = named.get(row["image"], False) or said
    table = [["all photos", percent(float(np.mean(list(named.values()))))]]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "captions.index"
        build_index(captions.parent, place, encoder=model)
        index = open_index(place)
        for query in (
            Query(f"a {word}"),
            Query(f"no {word}"),
            Query(f"a photo without a {word}"),
            Query("a photo", minus=(f"a {word}",)),
        ):
            found = (
                named[path.name]
                for hit in index.search(query, k=None)
                for path in (hit.path, *hit.copies)
                if path.name in named
            )
            best = list(itertools.islice(found, 20))
            told = query.text if not query.minus else f'{query.text} --not "{query.minus[0]}"'
            table.append([str(told), percent(float(np.mean(best)))])
    return table


def written(encoder: Encoder, photos: LabelledPhotos, plain: UInt8, images: Float32) -> Table:
    """Photos on which the name of another class is written, large and black on white."""
    classes = vectors_of(encoder, photos.labels, SIMPLE_TEMPLATES)
    wrong = (photos.truth + 1) % len(photos.classes)
    changed = plain.copy()
    for row, place in enumerate(wrong.tolist()):
        picture = Image.fromarray(changed[row])
        width, height = picture.size
        draw = ImageDraw.Draw(picture)
        draw.rectangle((0, 2 * height // 3, width, height), fill="white")
        size = height // 4
        while size > 6 and ImageFont.load_default(size).getlength(photos.labels[place]) > width:
            size -= 1
        at = (width // 2, 5 * height // 6)
        font = ImageFont.load_default(size)
        draw.text(at, photos.labels[place], fill="black", font=font, anchor="mm")
        changed[row] = np.asarray(picture)
    empty = plain.copy()
    empty[:, 2 * empty.shape[1] // 3 :] = 255
    rows = []
    for name, vectors in (
        ("as it is", images),
        ("a white stripe below", encoder.encode_images(empty)),
        ("another class written on it", encoder.encode_images(changed)),
    ):
        given = (vectors @ classes.T).argmax(axis=1)
        rows.append(
            [name, percent((given == photos.truth).mean()), percent((given == wrong).mean())]
        )
    return rows


def forced_choice(folder: Path, model: str, photos: LabelledPhotos) -> Table:
    """Every fifth class has no label of its own: what do its photos get?"""
    hidden = set(photos.labels[::5])
    labels = [label for label in photos.labels if label not in hidden]
    with tempfile.TemporaryDirectory() as scratch:
        build_index(folder, Path(scratch) / "x.index", encoder=model)
        index = open_index(Path(scratch) / "x.index")
        strange = {
            image
            for image in index.classify(labels, none="off").ids.tolist()
            if any(
                place.path.relative_to(folder).parts[0].replace("_", " ") in hidden
                for place in index.paths().places(image)
            )
        }
        rows = []
        for none in ("off", "auto"):
            found = index.classify(labels, none=none)
            given = {image: found.label_of(image) is not None for image in found.ids.tolist()}
            inside = [given[image] for image in given if image not in strange]
            outside = [given[image] for image in strange]
            shares = (percent(float(np.mean(some))) for some in (outside, inside))
            rows.append([f"--none {none}", *shares])
    return rows


def show(title: str, header: Sequence[str], rows: Table) -> None:
    print(f"\n### {title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--captions", type=Path)
    parser.add_argument("--word", default="dog", help="for negation: a word of the captions")
    options = parser.parse_args()
    for model in options.model:
        encoder = load_encoder(model)
        photos, plain = read_labelled_photos(options.folder, encoder.space.geometry)
        images = encoder.encode_images(plain)
        print(f"\n## {Path(model).name}: {len(photos)} photos of {len(photos.classes)} classes")
        show("Wording", ("prompt", "right"), wording(encoder, photos, images))
        show("Another word", ("name / other", "by the name", "by the other"),
             other_words(encoder, photos, images))  # fmt: skip
        show("Two meanings", ("word", "one", "other"), two_meanings(encoder))
        show("Counting", ("pictures", "right", ""), counting(encoder))
        if options.captions is not None:
            show("Negation", ("text", f"of the best 20, a {options.word}"),
                 negation(model, options.captions, options.word))  # fmt: skip
        show("Writing", ("photo", "right", "what is written"),
             written(encoder, photos, plain, images))  # fmt: skip
        show("Forced choice", ("", "strangers labelled", "others labelled"),
             forced_choice(options.folder, model, photos))  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except (ClipsearchError, PhotosError) as error:
        raise SystemExit(f"Error: {error}") from None
