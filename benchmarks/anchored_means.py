"""Ways to label by a whole collection that ``adapt.py`` compares, and that are not in clipsearch.

All take (n, dim) float32 unit vectors of images, (C, dim) class vectors, the logit scale, and
which images count; all return (n, C) logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[Any]


def softmax(logits: Float) -> Float:
    """Over the rows."""
    odds: Float = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


def stata(
    images: Float, classes: Float, scale: float, counts: npt.NDArray[np.bool_], passes: int = 10
) -> Float:
    """StatA (Zanella et al., "Realistic test-time adaptation of vision-language models", CVPR
    2025), from its formulas: a Gaussian a class, with a mean that is drawn to the class vector
    and a variance that is drawn to that of all images about theirs."""
    squares = images**2
    logits = scale * (images @ classes.T)
    weights = softmax(logits) * counts[:, None]
    taken = weights.sum(axis=0)
    means = weights.T @ images / np.maximum(taken, 1e-9)[:, None]
    spread = (counts @ squares - (taken[:, None] * means**2).sum(axis=0)) / counts.sum()
    spread = np.maximum(spread, 1e-6)
    for _ in range(passes):
        taken = weights.sum(axis=0)
        drawn = (taken / (taken + 1))[:, None]
        seen = weights.T @ images / np.maximum(taken, 1e-9)[:, None]
        means = drawn * seen + (1 - drawn) * classes
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        own = weights.T @ squares / np.maximum(taken, 1e-9)[:, None] - 2 * means * seen + means**2
        variances = drawn * own + (1 - drawn) * (spread + (classes - means) ** 2)
        variances = np.maximum(variances, 1e-7)
        likely = (
            squares @ (1 / variances).T
            - 2 * images @ (means / variances).T
            + (means**2 / variances + np.log(variances)).sum(axis=1)
        )
        adapted: Float = logits - likely / 2 / 50
        weights = softmax(adapted) * counts[:, None]
    return adapted


def shared_spread(
    images: Float,
    classes: Float,
    scale: float,
    counts: npt.NDArray[np.bool_],
    *,
    passes: int = 10,
    anchor: float = 10.0,
    gain: float = 8.0,
) -> Float:
    """One Gaussian a class with the same covariance (half of it, half a sphere), whose means are
    drawn, with the weight of ``anchor`` images, to class vectors that were moved to where the
    images are. gain : of the Gaussians beside the cosines."""
    dim = images.shape[1]
    logits = scale * (images @ classes.T)
    weights = softmax(logits) * counts[:, None]
    centre, apart = images[counts].mean(axis=0), classes - classes.mean(axis=0)
    taken = weights.sum(axis=0)[:, None]
    seen = weights.T @ images / np.maximum(taken, 1e-9) - centre
    moved = centre + apart * (taken * seen * apart).sum() / (taken * apart**2).sum()
    products = images[counts].T @ images[counts]
    for _ in range(passes):
        taken = weights.sum(axis=0)[:, None]
        sums = weights.T @ images
        means = (sums + anchor * moved) / (taken + anchor)
        scatter = products - means.T @ sums - sums.T @ means + (means * taken).T @ means
        scatter /= counts.sum()
        round_ = np.eye(dim) * np.trace(scatter) / dim
        towards = np.linalg.solve((scatter + round_) / 2, means.T)
        gaussian = images @ towards - (towards * means.T).sum(axis=0) / 2
        adapted: Float = logits + gain * gaussian / dim
        weights = softmax(adapted) * counts[:, None]
    return adapted
