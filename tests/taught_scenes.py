"""Images and labels to teach with, made up: no encoder, no files."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.records import Int32

SCALE = 20.0


class Scene(NamedTuple):
    """Unit vectors of labels and of images, and the true labels of these."""

    classes: Float32
    rows: Float32
    truth: Int32

    def places(self, each: int, among: tuple[int, ...] | None = None) -> Int32:
        """The first ``each`` images of every label, or of those ``among`` them."""
        labels = range(len(self.classes)) if among is None else among
        found = [np.flatnonzero(self.truth == label)[:each] for label in labels]
        return np.concatenate(found).astype(np.int32)

    def zero_shot(self) -> Int32:
        """The label of the highest cosine of every image."""
        best: Int32 = (self.rows @ self.classes.T).argmax(axis=1).astype(np.int32)
        return best


def scene(
    labels: int = 6, each: int = 60, dim: int = 48, names: float = 0.4, noise: float = 0.25
) -> Scene:
    """Images scattered around one direction a label; the class vectors miss these directions, the
    more the larger ``names`` is. Above 1 they say next to nothing."""
    chance = np.random.default_rng(7)
    means = unit(chance.standard_normal((labels, dim)))
    classes = unit(means + names * chance.standard_normal((labels, dim)))
    truth = np.arange(labels * each, dtype=np.int32) % labels
    rows = unit(means[truth] + noise * chance.standard_normal((len(truth), dim)))
    return Scene(classes, rows, truth)


def unit(rows: np.ndarray) -> Float32:
    """Rows of unit length."""
    scaled: Float32 = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled
