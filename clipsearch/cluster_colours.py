"""Colours that tell clusters apart, by eyes that see fewer of them too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.records import Int32

LIGHT = (
    "#2299dd", "#bb8800", "#7744ff", "#995544", "#004400", "#ff0099", "#660066", "#6611bb",
)  # fmt: skip
"""On a light ground, as sRGB: at least 3 to 1 against it, and 0.12 in OKLab from each other, with
any of the three kinds of colour blindness (Machado et al., 2009) too."""
DARK = (
    "#99ddee", "#eecc77", "#9900ff", "#ff6622", "#66aa99", "#dd77ff", "#336699", "#aa4400",
)  # fmt: skip
"""The same on a dark ground."""
LIGHT_GROUND, DARK_GROUND = "#fafaf8", "#161618"
LIGHT_NONE, DARK_NONE = "#8a8a86", "#77777c"
"""Of images in no cluster."""


def colour_slots(centres: Float32) -> Int32:
    """(k,) int32: which of the eight colours each cluster gets.

    centres : (k, 2) float32, where they are on the map, nan for one that is not on it; the more
        important first. A colour that comes again does so as far away as can be.
    """
    slots: Int32 = np.arange(len(centres), dtype=np.int32) % len(LIGHT)
    is_there = np.flatnonzero(np.isfinite(centres).all(axis=1))
    nearest = np.full((len(centres), len(LIGHT)), np.inf, np.float32)
    uses = np.zeros(len(LIGHT), np.int64)
    for position in is_there.tolist():
        order: npt.NDArray[np.intp] = np.lexsort((uses, -nearest[position]))
        slots[position] = slot = int(order[0])
        uses[slot] += 1
        distances = ((centres[is_there] - centres[position]) ** 2).sum(axis=1)
        nearest[is_there, slot] = np.minimum(nearest[is_there, slot], distances)
    return slots
