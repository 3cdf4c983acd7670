"""The ways to label photos that are compared, all on features of photos that are encoded once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from cnn_networks import Network
from labelled_photos import LabelledPhotos, pixel_batches

from clipsearch.encoder import Float32, ImageGeometry, UInt8
from clipsearch.open_clip_encoder import OpenClipEncoder, load_open_clip_encoder
from clipsearch.prompts import class_vectors
from clipsearch.records import Int32
from clipsearch.taught_labels import TaughtScorer, teach
from clipsearch.threads import single_threaded_blas

_STRENGTHS = tuple(10.0**power for power in np.linspace(-1, 4, 6))
Predict = Callable[[Float32], Float32]
"""(n, d) features of a backbone -> (n, C) float32 probabilities."""


class Backbone(Protocol):
    """A network that turns pixels into features."""

    @property
    def name(self) -> str: ...
    @property
    def geometry(self) -> ImageGeometry: ...
    @property
    def parameters(self) -> int: ...
    @property
    def megabytes(self) -> float: ...
    def features(self, pixels: UInt8) -> Float32: ...


class EncoderBackbone:
    """A model of images and words. Features are its vectors as an index stores them, fp16."""

    def __init__(self, model: str, device: str | None) -> None:
        self.encoder: OpenClipEncoder = load_open_clip_encoder(model, device=device)
        self.name = Path(model).name
        self.geometry = self.encoder.space.geometry
        self.scale = self.encoder.space.logit_scale
        self.megabytes = self.encoder.weights.stat().st_size / 1e6
        self.parameters = _numbers(self.encoder.weights)

    def features(self, pixels: UInt8) -> Float32:
        rows = self.encoder.encode_images(pixels)
        return rows.astype(np.float16).astype(np.float32)

    def encode(self, texts: Sequence[str]) -> Float32:
        """As ``prompts.EncodesTexts`` wants it."""
        return self.encoder.encode_texts(texts)


class NetworkBackbone:
    """A classifier's features: what its last layer sees."""

    def __init__(self, name: str, network: Network, geometry: ImageGeometry) -> None:
        self.name, self.network, self.geometry = name, network, geometry
        self.parameters, self.megabytes = network.parameters, network.megabytes

    def features(self, pixels: UInt8) -> Float32:
        return self.network.features(pixels)


@dataclass(frozen=True)
class Encoded:
    """Features of photos, and how long they took.

    rows : (n, d) float32. seconds : from the files; bare : of the network alone.
    """

    rows: Float32
    seconds: float
    bare: float


def encode(backbone: Backbone, photos: LabelledPhotos) -> Encoded:
    """The features of photos, from their files."""
    began, bare, rows = time.perf_counter(), 0.0, []
    for pixels in pixel_batches(photos.paths, backbone.geometry):
        start = time.perf_counter()
        rows.append(backbone.features(pixels))
        bare += time.perf_counter() - start
    return Encoded(np.concatenate(rows), time.perf_counter() - began, bare)


def by_network(network: Network, columns: Sequence[int], classes: int) -> Predict:
    """The network's own last layer. columns : which of all classes its outputs are."""

    def predict(features: Float32) -> Float32:
        return _spread(softmax(network.scores(features)), columns, classes)

    return predict


def by_names(backbone: EncoderBackbone, labels: Sequence[str]) -> tuple[Predict, Float32]:
    """Labels by their names in the usual templates; also their (C, dim) class vectors."""
    classes = class_vectors(labels, backbone)
    return (lambda features: softmax(backbone.scale * (features @ classes.T))), classes


def by_teaching(
    backbone: EncoderBackbone, classes: Float32, rows: Float32, truth: Int32, typical: Float32
) -> Predict:
    """What ``clipsearch teach`` makes of examples.

    typical : unit vectors of photos of the same sort, which need no labels.
    """
    taught = teach(classes, backbone.scale, rows, truth, typical=typical)
    scorer = TaughtScorer(classes, backbone.scale, taught)

    def predict(features: Float32) -> Float32:
        step = scorer.block_rows
        parts = [
            scorer.probabilities(features[start : start + step])
            for start in range(0, len(features), step)
        ]
        return np.concatenate(parts)

    return predict


def by_probe(rows: Float32, truth: Int32, classes: int, seed: int = 0) -> Predict:
    """Logistic regression on frozen features of unit length: scikit-learn's, its strength by
    cross-validation with up to four folds; with one photo a class there is nothing to validate,
    and it is 100."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    known, counts = np.unique(truth, return_counts=True)
    wide = unit(rows).astype(np.float64)
    strength = 100.0
    with single_threaded_blas(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that were not enough at the weakest pull
        if counts.min() > 1:
            folds = StratifiedKFold(min(4, int(counts.min())), shuffle=True, random_state=seed)
            errors = [
                -cross_val_score(
                    LogisticRegression(C=one, max_iter=200), wide, truth,
                    cv=folds, scoring="neg_log_loss",
                ).mean()
                for one in _STRENGTHS
            ]  # fmt: skip
            strength = _STRENGTHS[int(np.argmin(errors))]
        model = LogisticRegression(C=strength, max_iter=1000).fit(wide, truth)

    def predict(features: Float32) -> Float32:
        odds = model.predict_proba(unit(features).astype(np.float64))
        return _spread(odds.astype(np.float32), known.tolist(), classes)

    return predict


def softmax(scores: Float32) -> Float32:
    """Of every row."""
    odds: Float32 = np.exp(scores - scores.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


def unit(rows: Float32) -> Float32:
    """Rows of length 1; one of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Float32 = rows / np.maximum(lengths, 1e-12)
    return found


def _spread(odds: Float32, columns: Sequence[int], classes: int) -> Float32:
    """Probabilities of some classes among those of all."""
    found = np.zeros((len(odds), classes), np.float32)
    found[:, list(columns)] = odds
    return found


def _numbers(weights: Path) -> int:
    """How many numbers a file of weights holds."""
    from open_clip.factory import load_state_dict

    state = load_state_dict(str(weights), weights_only=True)
    return sum(part.numel() for part in state.values() if part.is_floating_point())
