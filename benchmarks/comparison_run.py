"""The measurements of a comparison, in order: train, encode, label, damage, withhold, take away."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cnn_networks import make_network
from cnn_training import Epoch, Recipe, Trained, train
from comparison_methods import (
    Backbone,
    Encoded,
    EncoderBackbone,
    NetworkBackbone,
    Predict,
    by_names,
    by_network,
    by_probe,
    by_teaching,
    encode,
)
from comparison_results import CNN, NAMES, PROBE, TAUGHT, Comparison, Cost, Method, Result, Withheld
from damaged_pictures import DAMAGE, SIDE, STYLES, changed_picture
from labelled_photos import BATCH, PhotosError, few_of_each, in_threads, read_labelled_photos
from PIL import Image

from clipsearch.encoder import Float32, ImageGeometry, UInt8
from clipsearch.images import fit_to_geometry

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is to be compared.

    models : encoders of images and words. seen : by a model's name, what it was trained on.
    shots : photos a class of the learning curve. draws : of them, for all but the network, which
    is trained on the first. withhold : class folders; None draws some. most : photos of a class,
    None for all. keep : a folder for checkpoints.
    """

    train: Path
    test: Path
    models: tuple[str, ...]
    recipe: Recipe
    seen: Mapping[str, str]
    shots: tuple[int, ...] = (1, 4, 16)
    draws: int = 3
    severities: tuple[int, ...] = (1, 3, 5)
    withhold: tuple[str, ...] | None = None
    most: int | None = None
    keep: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Contestant:
    """A method that is ready: how it labels features of a backbone."""

    method: Method
    predict: Predict
    seconds: float


class ComparisonRun:
    """One comparison, its photos and networks in memory."""

    def __init__(self, plan: Plan, say: Say, tell: Callable[[str, Epoch], None]) -> None:
        self.plan, self.say, self.tell = plan, say, tell
        self.began = time.perf_counter()
        side = plan.recipe.kept_side
        self.geometry = ImageGeometry(side, side, "shortest", "bilinear")
        start = time.perf_counter()
        self.train, self.pixels = read_labelled_photos(plan.train, self.geometry, most=plan.most)
        self.reading = time.perf_counter() - start
        self.test, _ = read_labelled_photos(
            plan.test, self.geometry, self.train.classes, most=plan.most
        )
        self.labels = self.train.labels
        # What may be wrong with the wishes is found before the first minute of training.
        self.withheld_classes = self._classes_withheld()
        device = plan.recipe.device
        self.encoders = [EncoderBackbone(model, device) for model in plan.models]
        names = [encoder.name for encoder in self.encoders]
        if len({*names, plan.recipe.network}) <= len(names):
            raise PhotosError(f"expected models of different names, got {', '.join(names)}")
        self.contestants: list[Contestant] = []
        self.backbones: dict[str, Backbone] = {}
        self.encoded: dict[str, tuple[Encoded, Encoded]] = {}  # of training and of test photos
        self.vectors: dict[str, Float32] = {}  # of the classes
        self.pictures: UInt8 = np.empty((0, SIDE, SIDE, 3), np.uint8)

    def compare(self) -> Comparison:
        self._train_network()
        self._encode_models()
        clean = tuple(
            self._result(one, self.encoded[one.method.backbone][1].rows) for one in self.contestants
        )
        for result in clean:
            self.say(f"  {result.method.name}: {result.accuracy:.1%}")
        changed = self._changed()
        withheld = self._withheld()
        curve = self._curve(clean)
        return Comparison(
            labels=self.labels,
            training_photos=len(self.train),
            clean=clean,
            costs={name: self._cost(name) for name in self.backbones},
            withheld=withheld,
            changed=changed,
            curve=curve,
            settings=self._settings(),
            notes=self._notes(),
            seconds=time.perf_counter() - self.began,
            pictures=self.pictures,
        )

    # What labels, and from what it learned.

    def _train_network(self) -> None:
        recipe = self.plan.recipe
        count = len(self.labels)
        trained = self._trained("all", np.arange(len(self.train)), range(count))
        network, name = trained.network, recipe.network
        self.trained = trained
        self.backbones[name] = NetworkBackbone(name, network, self.geometry)
        self._encode(name)
        self.cnn_name = f"{name}, {'fine-tuned' if network.loaded else 'trained'}"
        seconds = trained.seconds + self.reading
        predict = by_network(network, range(count), count)
        self._add(self.cnn_name, CNN, name, len(self.train), predict, seconds)
        self._add_probe(name)
        if network.loaded:
            # The features that it began with, before it learned anything here.
            frozen = make_network(
                name, count, recipe.side, weights=recipe.weights, device=recipe.device
            )
            self.backbones[f"{name} (ImageNet)"] = NetworkBackbone(name, frozen, self.geometry)
            self._encode(f"{name} (ImageNet)")
            self._add_probe(f"{name} (ImageNet)")

    def _encode_models(self) -> None:
        for backbone in self.encoders:
            name = backbone.name
            self.backbones[name] = backbone
            start = time.perf_counter()
            predict, vectors = by_names(backbone, self.labels)
            naming = time.perf_counter() - start
            self.vectors[name] = vectors
            self._add(f"{name}, names", NAMES, name, 0, predict, naming)
            self._encode(name)
            rows = self.encoded[name][0].rows
            start = time.perf_counter()
            predict = by_teaching(backbone, vectors, rows, self.train.truth, rows)
            seconds = time.perf_counter() - start + naming + self.encoded[name][0].seconds
            self._add(f"{name}, taught", TAUGHT, name, len(self.train), predict, seconds)
            self._add_probe(name)

    def _encode(self, name: str) -> None:
        self.say(f"encoding {len(self.train) + len(self.test)} photos with {name}")
        backbone = self.backbones[name]
        backbone.features(np.zeros((1, *self._shape(backbone), 3), np.uint8))  # warm
        self.encoded[name] = (encode(backbone, self.train), encode(backbone, self.test))

    def _shape(self, backbone: Backbone) -> tuple[int, int]:
        return backbone.geometry.height, backbone.geometry.width

    def _add_probe(self, name: str) -> None:
        rows = self.encoded[name][0]
        start = time.perf_counter()
        predict = by_probe(rows.rows, self.train.truth, len(self.labels))
        seconds = time.perf_counter() - start + rows.seconds
        if name == self.plan.recipe.network:
            seconds += self.trained.seconds
        self._add(f"{name}, probe", PROBE, name, len(self.train), predict, seconds)

    def _add(
        self, name: str, kind: str, backbone: str, photos: int, predict: Predict, seconds: float
    ) -> None:
        self.contestants.append(Contestant(Method(name, kind, backbone, photos), predict, seconds))

    def _result(self, one: Contestant, rows: Float32) -> Result:
        return Result(one.method, one.predict(rows), self.test.truth, one.seconds)

    def _trained(self, what: str, places: npt.NDArray[np.intp], classes: Sequence[int]) -> Trained:
        """A network trained on some of the photos, of some of the classes."""
        number = np.full(len(self.labels), -1, np.int32)
        number[list(classes)] = np.arange(len(classes))
        truth = number[self.train.truth[places]]
        checkpoint = None
        if self.plan.keep is not None:
            checkpoint = self.plan.keep / f"{self.plan.recipe.network}-{what}.checkpoint"
        self.say(f"training {self.plan.recipe.network} on {len(places)} photos ({what})")
        return train(
            self.plan.recipe, self.pixels[places], truth, len(classes),
            checkpoint=checkpoint, tell=lambda epoch: self.tell(what, epoch),
        )  # fmt: skip

    # What is asked of them.

    def _changed(self) -> dict[tuple[str, int], tuple[Result, ...]]:
        """Damaged and redrawn copies of all test photos; everybody sees the same."""
        square = ImageGeometry(SIDE, SIDE, "shortest", "bicubic")
        _, self.pictures = read_labelled_photos(
            self.plan.test, square, self.train.classes, most=self.plan.most
        )
        kinds = [(kind, severity) for kind in DAMAGE for severity in self.plan.severities]
        kinds += [(kind, 0) for kind in STYLES]
        found = {}
        for kind, severity in kinds:
            self.say(f"{len(self.pictures)} photos with {kind} {severity or ''}".rstrip())
            rows = self._features_changed(kind, severity)
            found[kind, severity] = tuple(
                self._result(one, rows[one.method.backbone]) for one in self.contestants
            )
        return found

    def _features_changed(self, kind: str, severity: int) -> dict[str, Float32]:
        parts: dict[str, list[Float32]] = {name: [] for name in self.backbones}
        for start in range(0, len(self.pictures), BATCH):
            numbers = range(start, min(start + BATCH, len(self.pictures)))
            pictures = in_threads(
                lambda number: changed_picture(kind, severity, self.pictures[number], number),
                numbers,
            )
            for name, backbone in self.backbones.items():
                pixels = in_threads(partial(_fitted, geometry=backbone.geometry), pictures)
                parts[name].append(backbone.features(np.stack(pixels)))
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def _withheld(self) -> Withheld | None:
        """As if there were no photos of some of the classes."""
        out = self.withheld_classes
        if not out:
            return None
        count = len(self.labels)
        known = [place for place in range(count) if place not in out]
        places = np.flatnonzero(np.isin(self.train.truth, known))
        truth = self.train.truth[places]
        trained = self._trained(f"without-{len(out)}-classes", places, known)
        network = NetworkBackbone(self.plan.recipe.network, trained.network, self.geometry)
        rows = encode(network, self.test).rows
        predict = by_network(trained.network, known, count)
        photos = len(places)
        method = Method(self.cnn_name, CNN, network.name, photos)
        results = [Result(method, predict(rows), self.test.truth, trained.seconds)]
        for name, vectors in self.vectors.items():
            training, test = (part.rows for part in self.encoded[name])
            by_name = next(
                one for one in self.contestants
                if one.method.kind == NAMES and one.method.backbone == name
            )  # fmt: skip
            results.append(self._result(by_name, test))
            backbone = self.backbones[name]
            assert isinstance(backbone, EncoderBackbone)
            learned = training[places]
            taught = by_teaching(backbone, vectors, learned, truth, learned)
            method = Method(f"{name}, taught", TAUGHT, name, photos)
            results.append(Result(method, taught(test), self.test.truth))
            probe = by_probe(learned, truth, count)
            method = Method(f"{name}, probe", PROBE, name, photos)
            results.append(Result(method, probe(test), self.test.truth))
        return Withheld(tuple(out), tuple(results))

    def _classes_withheld(self) -> list[int]:
        there = [
            place for place, count in enumerate(self.test.counts.tolist())
            if count and self.train.counts[place]
        ]  # fmt: skip
        if self.plan.withhold is not None:
            known = {self.train.classes[place]: place for place in there}
            for name in self.plan.withhold:
                if name not in known:
                    raise PhotosError(
                        f"cannot withhold {name!r}: expected one of {', '.join(known)}"
                    )
            if len(known) - len(set(self.plan.withhold)) < 2:
                raise PhotosError("cannot withhold so many classes: two have to stay")
            return sorted({known[name] for name in self.plan.withhold})
        if len(there) < 4:
            return []
        chance = np.random.default_rng(self.plan.seed)
        count = min(5, max(1, len(there) // 4))
        return sorted(chance.choice(there, count, replace=False).tolist())

    def _curve(self, clean: Sequence[Result]) -> dict[str, dict[int, list[float]]]:
        """Accuracy by how many photos of each class there are to learn from; 0 is all."""
        curve: dict[str, dict[int, list[float]]] = {
            result.method.name: {0: [result.accuracy]} for result in clean
        }
        count = len(self.labels)
        most = int(self.train.counts.max())
        for shots in [shots for shots in self.plan.shots if shots < most]:
            for draw in range(self.plan.draws):
                places = few_of_each(self.train.truth, shots, self.plan.seed + draw)
                truth = self.train.truth[places]
                if draw == 0:
                    for name, right in self._network_of(shots, places).items():
                        curve[name].setdefault(shots, []).append(right)
                for name in (name for name in self.encoded if name != self.plan.recipe.network):
                    training, test = (part.rows for part in self.encoded[name])
                    learned = training[places]
                    ways = {f"{name}, probe": by_probe(learned, truth, count)}
                    backbone = self.backbones[name]
                    if isinstance(backbone, EncoderBackbone):
                        ways[f"{name}, taught"] = by_teaching(
                            backbone, self.vectors[name], learned, truth, training
                        )
                    for way, predict in ways.items():
                        right = self._share(predict(test))
                        curve[way].setdefault(shots, []).append(right)
            self.say(f"{shots} photos a class: done")
        for result in clean:
            if result.method.kind == NAMES:  # which no photos change
                curve[result.method.name] |= {
                    shots: [result.accuracy] for shots in self.plan.shots if shots < most
                }
        return {name: dict(sorted(found.items())) for name, found in curve.items()}

    def _network_of(self, shots: int, places: npt.NDArray[np.intp]) -> dict[str, float]:
        """The network trained on a few photos, and a probe of its features."""
        count = len(self.labels)
        known = np.unique(self.train.truth[places]).tolist()
        trained = self._trained(f"{shots}-a-class", places, known)
        backbone = NetworkBackbone(self.plan.recipe.network, trained.network, self.geometry)
        test = encode(backbone, self.test).rows
        learned = backbone.features(self.pixels[places])
        probe = by_probe(learned, self.train.truth[places], count)
        return {
            self.cnn_name: self._share(by_network(trained.network, known, count)(test)),
            f"{backbone.name}, probe": self._share(probe(test)),
        }

    def _share(self, odds: Float32) -> float:
        return float((odds.argmax(axis=1) == self.test.truth).mean())

    # What is told beside the figures.

    def _cost(self, name: str) -> Cost:
        backbone, encoded = self.backbones[name], self.encoded[name][1]
        count = len(self.test)
        trained_here = name == self.plan.recipe.network
        is_network = isinstance(backbone, NetworkBackbone)
        size = self.plan.recipe.side if is_network else backbone.geometry.height
        return Cost(
            backbone=name,
            parameters=backbone.parameters,
            megabytes=backbone.megabytes,
            pixels=size,
            rate=count / encoded.seconds,
            bare=count / encoded.bare,
            seen=self._seen(name, trained_here),
        )

    def _seen(self, name: str, trained_here: bool) -> str:
        if trained_here:
            begun = "ImageNet, then " if self.trained.network.loaded else ""
            return f"{begun}the {len(self.train):,} training photos of this comparison"
        if name.endswith("(ImageNet)"):
            return "ImageNet"
        return self.plan.seen.get(name, "not known: nothing was said of it (--seen)")

    def _settings(self) -> dict[str, str]:
        from comparison_machine import machine

        trained, recipe = self.trained, self.plan.recipe
        kept = f", epoch {trained.best} kept" if trained.held_out else ""
        return {
            "Training": (
                f"{recipe.network}, {recipe.side} pixels, {recipe.optimiser}, one cycle, batches "
                f"of {recipe.batch}; {trained.photos} photos learned from, {trained.held_out} held "
                f"out to choose by; {trained.epochs} epochs in {trained.seconds:.0f} s "
                f"({trained.images / max(trained.seconds, 1e-9):.0f} photos a second){kept}"
            ),
            "Names": "clipsearch's usual 7 templates a label; folder names with spaces",
            "Probes": (
                "logistic regression on frozen features of unit length, strength validated; the "
                f"features of {recipe.network} are what its last layer sees, after its training "
                "on the same photos"
            ),
            "Teaching": "what `clipsearch teach` makes of the same photos; names and examples",
            "Few photos": (
                f"mean of {self.plan.draws} draws; the network is trained on the first draw"
            ),
            "Machine": machine(),
            "Seed": str(self.plan.seed),
        }

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.plan.most is not None:
            notes.append(f"a trial: of each class only the first {self.plan.most} photos were used")
        notes += [f"left out: {line}" for line in (*self.train.skipped, *self.test.skipped)]
        empty = [
            label for label, count in zip(self.labels, self.test.counts, strict=True) if not count
        ]
        if empty:
            notes.append(
                f"no test photos of {', '.join(empty)}: still among the labels, in no mean"
            )
        return tuple(notes)


def _fitted(picture: UInt8, geometry: ImageGeometry) -> UInt8:
    return fit_to_geometry(Image.fromarray(picture), geometry)
