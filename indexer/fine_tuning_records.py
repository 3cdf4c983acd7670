"""What a fine-tuning is asked for, what it tells meanwhile, and what it found."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsearch.errors import OptionError

LARGE_TOWER, RATE, RATE_OF_LARGE = 50_000_000, 3e-4, 3e-5
"""From so many weights in the image tower on, the rate is that of WiSE-FT's own experiments, which
were with ViT-B/16 and larger; below, what did best with small towers in benchmarks/finetune.py."""

PROBE_RATE = 1e-3
MOST_EPOCHS = 1000


@dataclass(frozen=True)
class Recipe:
    """How a tower is trained.

    probe_epochs : how often every photo is seen while the last layer alone is trained. epochs :
    how often after that, while the whole tower is. rate : of AdamW at its highest; in both parts
    it rises over the first tenth of the steps and falls to zero along a cosine. probe_rate : the
    same of the first part. batch_size : photos a step. least_crop : a photo is seen through a
    random window of at least this share of its area, half of the time mirrored. seed : of
    everything drawn by chance.
    """

    probe_epochs: int = 4
    epochs: int = 6
    rate: float = RATE
    probe_rate: float = PROBE_RATE
    batch_size: int = 32
    least_crop: float = 0.6
    seed: int = 0

    def steps(self, photos: int) -> tuple[int, int]:
        """How many steps both parts of a training on so many photos have."""
        each = math.ceil(photos / self.batch_size)
        return self.probe_epochs * each, self.epochs * each


@dataclass(frozen=True)
class FineTuning:
    """What is asked for.

    epochs, rate, batch_size, seed : as in ``Recipe``; rate None is one that suits the size of the
    tower. alpha : the share of the trained weights in what is written, from 0 to 1; None for the
    one that does best on photos held out. leave_out : classes that are not trained on. rehearse :
    where none are left out, train twice: first without a fifth of the classes, to see what the
    training does to words that it was not about. templates, context : how the classes are put
    into words, as for ``class_vectors``.

    Raises OptionError for numbers that make no sense.
    """

    epochs: int = 6
    rate: float | None = None
    batch_size: int = 32
    seed: int = 0
    alpha: float | None = None
    leave_out: tuple[str, ...] = ()
    rehearse: bool = True
    templates: str | tuple[str, ...] = "simple"
    context: str | None = None

    def __post_init__(self) -> None:
        for name, least, most in (
            ("epochs", 1, MOST_EPOCHS), ("batch_size", 1, 4096), ("seed", 0, 2**32 - 1)
        ):  # fmt: skip
            if not least <= getattr(self, name) <= most:
                raise OptionError(
                    f"{name} must be from {least} to {most}, got {getattr(self, name)}"
                )
        if self.rate is not None and not 0 < self.rate <= 1:
            raise OptionError(f"rate must be above 0 and at most 1, got {self.rate}")
        if self.alpha is not None and not 0 < self.alpha <= 1:
            raise OptionError(f"alpha must be above 0 and at most 1, got {self.alpha}")

    def recipe(self, tower_weights: int) -> Recipe:
        """The recipe for an image tower of so many weights."""
        rate = self.rate
        if rate is None:
            rate = RATE if tower_weights < LARGE_TOWER else RATE_OF_LARGE
        return Recipe(
            epochs=self.epochs,
            rate=rate,
            probe_rate=min(PROBE_RATE, 10 * rate),
            batch_size=self.batch_size,
            seed=self.seed,
        )


@dataclass(frozen=True)
class PhotoRead:
    """Told after every photo: how many are read, and of how many."""

    number: int
    photos: int


@dataclass(frozen=True)
class TrainingStep:
    """Told after every step. what : "rehearsal" or "training"; loss : of this step's photos."""

    what: str
    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class BeforeAfter:
    """Top-1 accuracy, from 0 to 1, on some photos, among all labels.

    what : which photos. photos, classes : how many. probe : of a linear probe on the vectors of
    the model as it was, for classes that it was fitted to; None for others.
    """

    what: str
    photos: int
    classes: int
    before: float
    probe: float | None
    after: float


@dataclass(frozen=True)
class CurvePoint:
    """What a share of the trained weights gives: top-1 of photos held out, and of classes that
    were not trained on (None where there are none); and the squared error of the probabilities,
    the mean of both."""

    alpha: float
    trained: float
    others: float | None
    error: float


@dataclass(frozen=True)
class FineTuned:
    """What came of it.

    folder : the model, None where no share of the trained weights did better than none and so
    nothing was written. space : the fingerprint of its space, "" for none. chosen : whether alpha
    was chosen by the held-out photos. rehearsed : the classes left out of the rehearsal alone.
    left_out : the classes that the model was not trained on. photos : trained on; held_out :
    beside them. curve : by rising alpha, of the rehearsal if there was one. results : before and
    after. seconds : of training and measuring.
    """

    model: str
    folder: Path | None
    space: str
    classes: tuple[str, ...]
    left_out: tuple[str, ...]
    rehearsed: tuple[str, ...]
    photos: int
    held_out: int
    skipped: int
    skipped_examples: tuple[tuple[str, str], ...]
    alpha: float
    chosen: bool
    recipe: Recipe
    curve: tuple[CurvePoint, ...]
    results: tuple[BeforeAfter, ...]
    notes: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can say it."""
        document = dataclasses.asdict(self)
        return {**document, "folder": None if self.folder is None else str(self.folder)}
