"""Fine-tuning the image tower of a model on a folder of photos, a folder a class.

A linear probe first, then a few epochs of the whole tower at a low rate, and what comes of it
averaged with the original weights. How much of it is taken is chosen on photos that were held out,
and on classes that were not trained on: what a model gains on the former it is apt to lose on the
latter. Text and its vectors stay what they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import LabelError, OptionError, SourceError
from clipsearch.labelled_images import some_of
from clipsearch.model_names import resolve_model_name
from clipsearch.model_source import find_model
from clipsearch.prompts import class_vectors, resolve_templates, same_label
from clipsearch.records import Int32
from clipsearch.store import sync_folder, write_durably
from indexer.fine_tuning_measures import ALPHAS, Measures, best_alpha
from indexer.fine_tuning_records import FineTuned, FineTuning, PhotoRead, Recipe, TrainingStep
from indexer.model_card import model_card
from indexer.model_folder import CARD, write_model_folder
from indexer.sources import absolute_path
from indexer.training_checkpoint import Checkpoint
from indexer.training_folder import MODEL, PHOTOS, TEST, TRAININGS, work_folder
from indexer.training_photos import (
    FoundPhotos,
    LabelledPhotos,
    find_photos,
    held_out,
    read_photos,
)

if TYPE_CHECKING:
    from clipsearch.open_clip_encoder import OpenClipEncoder
    from indexer.image_tower import ImageTower, Weights

_FEWEST_TO_REHEARSE = 5
_REHEARSED = 5
"""One class in so many is left out of the rehearsal."""
Tell = Callable[[PhotoRead | TrainingStep], None]


def fine_tune(
    folder: str | os.PathLike[str],
    model: str,
    out: str | os.PathLike[str],
    asked: FineTuning | None = None,
    *,
    test: str | os.PathLike[str] | None = None,
    device: str | None = None,
    allow_download: bool = False,
    on_event: Tell | None = None,
) -> FineTuned:
    """Fine-tune a model and write it to the new folder ``out``, which is a model like any other.

    folder : photos, a folder a class. test : others, which have no say in anything.
    model, device, allow_download : as for ``load_encoder``.

    ``out`` is there whole or not at all. Beside it lies ``OUT.part`` meanwhile, from which the same
    call goes on after an interruption; it is removed at the end. Runs with the same photos and
    settings on the same machine and number of threads give the same weights.

    Raises OptionError for a place that is taken and for classes that are not there, LabelError and
    SourceError for a folder that will not do, and what ``load_encoder`` raises.
    """
    place = Path(os.path.abspath(os.path.expanduser(out)))
    if place.is_symlink() or place.exists():
        raise OptionError(f"{place} is there already: name a new folder, or remove that one")
    if not place.name:
        raise OptionError(f"expected a new folder for the model, got {place}")
    asked = asked or FineTuning()
    resolve_templates(asked.templates)  # before photos are read
    name = resolve_model_name(model)
    tell = on_event or (lambda event: None)
    work = place.with_name(place.name + ".part")
    for one in (folder,) if test is None else (folder, test):
        if Path(os.path.realpath(place)).is_relative_to(os.path.realpath(absolute_path(one))):
            raise OptionError(
                f"{place} lies among the photos of {absolute_path(one)}, where nothing is "
                "written: name a folder elsewhere"
            )
    photos = find_photos(folder, work)
    _positions(photos.classes, asked.leave_out)
    tested = None if test is None else find_photos(test, work, photos.classes)
    with work_folder(work):
        from clipsearch.open_clip_encoder import load_open_clip_encoder

        encoder = load_open_clip_encoder(name, device=device, allow_download=allow_download)
        # A function of its own, after which no file of the folder is open any more.
        found = _carry_out(encoder, name, asked, photos, tested, work, tell)
        if found.folder is not None:
            if os.path.lexists(place):
                raise OptionError(
                    f"{place} has come to be there meanwhile: move it away, and the same command "
                    "goes on"
                )
            os.rename(found.folder, place)
            sync_folder(place.parent)
            found = dataclasses.replace(found, folder=place)
    return found


def _carry_out(
    encoder: OpenClipEncoder,
    name: str,
    asked: FineTuning,
    found: FoundPhotos,
    found_test: FoundPhotos | None,
    work: Path,
    tell: Tell,
) -> FineTuned:
    def on_photo(number: int, photos: int) -> None:
        tell(PhotoRead(number, photos))

    geometry = encoder.space.geometry
    photos = read_photos(found, geometry, work / PHOTOS, on_photo)
    tested = None
    if found_test is not None:
        tested = read_photos(found_test, geometry, work / TEST, on_photo)
    return _Run(encoder, photos, tested, asked, work, tell).carry_out(name)


class _Run:
    def __init__(
        self,
        encoder: OpenClipEncoder,
        photos: LabelledPhotos,
        tested: LabelledPhotos | None,
        asked: FineTuning,
        work: Path,
        tell: Tell,
    ) -> None:
        from indexer.image_tower import ImageTower

        self.encoder = encoder
        self.photos = photos
        self.asked = asked
        self.work = work
        self.tell = tell
        self.began = time.monotonic()
        self.tower = ImageTower(encoder)
        self.recipe: Recipe = asked.recipe(self.tower.size)
        known = {same_label(label) for label in photos.classes}
        more = () if tested is None else tested.classes
        labels = (*photos.classes, *(label for label in more if same_label(label) not in known))
        self.vectors = class_vectors(labels, _Texts(encoder), asked.templates, asked.context)
        held = held_out(photos.truth, asked.seed)
        scale = encoder.space.logit_scale
        self.measures = Measures(photos, labels, self.vectors, scale, held, tested)

    def carry_out(self, model: str) -> FineTuned:
        """Train, choose how much of it to take, write that and measure it."""
        out = _positions(self.photos.classes, self.asked.leave_out)
        shown = np.unique(self.photos.truth[self.photos.truth >= 0]).tolist()
        kept = [label for label in shown if label not in out]
        if len(kept) < 2:
            cure = "leave fewer out" if len(shown) > 1 else "the others have no photo that counts"
            raise OptionError(f"expected two classes or more to train on, got {len(kept)}: {cure}")
        held = self.measures.held_out(kept)
        if not len(held):
            raise SourceError(
                "expected two photos or more of a class that is trained on, one to be held out"
            )
        aside, notes = self._aside(kept, out)
        first = [label for label in kept if label not in aside]
        trained = self._train(TRAININGS[0 if aside else 1], first)
        alpha = self.asked.alpha
        alphas = ALPHAS if alpha is None else sorted({0.0, alpha, 1.0})
        curve = self.measures.curve(self.tower, trained, first, out or aside, alphas)
        if alpha is None:
            alpha = best_alpha(curve)
        folder, space, results = None, "", []
        if alpha > 0:
            if aside:
                trained = self._train(TRAININGS[1], kept)
            self.tower.mix(trained, alpha)
            folder = self.work / MODEL
            write_model_folder(folder, self.tower, find_model(model, allow_download=False))
            written = self._reload(folder)
            space = written.space.fingerprint
            self.tower.mix(self.tower.original, 0)
            results = self.measures.results(self.tower, written, kept, out)
            if aside:
                results.insert(1, self.measures.rehearsed(curve, alpha, aside))
        names = self.photos.classes
        read = [photos for photos in (self.photos, self.measures.tested) if photos is not None]
        found = FineTuned(
            model=model,
            folder=folder,
            space=space,
            classes=tuple(names[label] for label in kept),
            left_out=tuple(names[label] for label in out),
            rehearsed=tuple(names[label] for label in aside),
            photos=len(self.measures.trained_on(kept)),
            held_out=len(held),
            skipped=sum(photos.skipped for photos in read),
            skipped_examples=tuple(one for photos in read for one in photos.skipped_examples),
            alpha=alpha,
            chosen=self.asked.alpha is None,
            recipe=self.recipe,
            curve=tuple(curve),
            results=tuple(results),
            notes=(
                *self.photos.notes,
                *(f"--test: {note}" for photos in read[1:] for note in photos.notes),
                *notes,
            ),
            seconds=time.monotonic() - self.began,
        )
        if folder is not None:
            write_durably(folder / CARD, model_card(found).encode())
            sync_folder(folder)
        return found

    def _aside(self, kept: list[int], out: list[int]) -> tuple[list[int], list[str]]:
        """The classes that a rehearsal leaves out, none where there is none; what to say of it."""
        if out or not self.asked.rehearse:
            return [], []
        if len(kept) < _FEWEST_TO_REHEARSE:
            return [], [
                f"with fewer than {_FEWEST_TO_REHEARSE} classes there is no rehearsal: what the "
                "training does to other words is not measured"
            ]
        drawn = np.random.default_rng((self.asked.seed, 3)).permutation(kept)
        return sorted(drawn[: round(len(kept) / _REHEARSED)].tolist()), []

    def _train(self, what: str, classes: list[int]) -> Weights:
        rows = self.measures.trained_on(classes)
        targets: Int32 = np.searchsorted(classes, self.photos.truth[rows]).astype(np.int32)
        key = hashlib.sha256(self.vectors[classes].tobytes())
        settings = [self.encoder.space.fingerprint, dataclasses.asdict(self.recipe), classes]
        key.update(json.dumps(settings).encode())
        key.update(self.photos.digest(rows).encode())
        checkpoint = Checkpoint(self.work / f"{what}.safetensors", key.hexdigest())

        def on_step(step: int, steps: int, loss: float) -> None:
            self.tell(TrainingStep(what, step, steps, loss))

        goals = self.vectors[classes]
        return self.tower.train(
            self.photos.pixels, rows, targets, goals, self.recipe, checkpoint, on_step
        )

    def _reload(self, folder: Path) -> ImageTower:
        """The model as it was written: what is measured is what there is."""
        from clipsearch.open_clip_encoder import load_open_clip_encoder
        from indexer.image_tower import ImageTower

        return ImageTower(load_open_clip_encoder(str(folder), device=self.tower.device))


def _positions(classes: Sequence[str], named: Sequence[str]) -> list[int]:
    places = {same_label(label): at for at, label in enumerate(classes)}
    lost = [label for label in named if same_label(label) not in places]
    if lost:
        raise LabelError(f"no class {lost[0]!r} to leave out: expected one of {some_of(classes)}")
    return sorted({places[same_label(label)] for label in named})


class _Texts:
    """What ``class_vectors`` asks for texts."""

    def __init__(self, encoder: OpenClipEncoder) -> None:
        self._encoder = encoder

    def encode(self, texts: Sequence[str]) -> Float32:
        return self._encoder.encode_texts(texts)
