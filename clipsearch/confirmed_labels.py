"""Images that a person has labelled have that label, whatever a scorer says of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.records import Int32
from clipsearch.scoring import ScoredBlock
from clipsearch.shards import Int64


@dataclass(frozen=True)
class ConfirmedLabels:
    """What some images were said to be.

    ids : (n,) int64 rising. labels : (n,) int32 positions, -1 for none of the labels.
    cosines : (n,) float32, of each image and its label; of none of these that of the best.
    """

    ids: Int64
    labels: Int32
    cosines: Float32

    def put_into(self, block: ScoredBlock) -> ScoredBlock:
        """``block`` with the confirmed labels of its images: their probability is 1, the score
        their cosine, there is no margin, ``in_set`` is 1 or, for none of these, 0, and the
        runner-up is what the image would be called otherwise. The other labels of an image, where
        there are several, stay in their order, with probability 0."""
        if not len(block.ids):
            return block
        first, stop = np.searchsorted(self.ids, [block.ids[0], block.ids[-1] + 1]).tolist()
        rows = np.searchsorted(block.ids, self.ids[first:stop])
        here = np.flatnonzero(block.ids[rows] == self.ids[first:stop])
        if not len(here):
            return block
        columns = {
            field.name: value.copy()
            for field in dataclasses.fields(block)
            if field.name != "ids" and (value := getattr(block, field.name)) is not None
        }
        for row, of in zip(rows[here].tolist(), (first + here).tolist(), strict=True):
            label, cosine = int(self.labels[of]), self.cosines[of]
            ranked = columns["labels"][row].tolist()
            others = [rank for rank, other in enumerate(ranked) if other not in (label, -1)]
            named = [ranked[rank] for rank in others] + [int(columns["runners_up"][row])]
            columns["runners_up"][row] = next((one for one in named if one != label), -1)
            columns["margins"][row] = np.nan
            if label < 0:
                columns["labels"][row] = -1
            else:
                kept = others[: len(ranked) - 1]
                columns["labels"][row, 1:] = -1
                columns["labels"][row, 1 : 1 + len(kept)] = [ranked[rank] for rank in kept]
                for name in {"scores", "cosines"} & set(columns):
                    values = columns[name][row].copy()
                    columns[name][row, 0] = cosine
                    columns[name][row, 1 : 1 + len(kept)] = values[kept]
                columns["labels"][row, 0] = label
                columns["probabilities"][row] = 0.0
                columns["probabilities"][row, 0] = 1.0
            if "in_set" in columns:
                columns["in_set"][row] = float(label >= 0)
        return dataclasses.replace(block, **columns)
