"""None of these: images that do not belong to any of the labels get none.

How far an image belongs to a set of labels is told by ``none_of_these``; here that is put beside
what any scorer says of it, in the threads that score.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import OptionError
from clipsearch.generation import Generation
from clipsearch.half import widen
from clipsearch.label_set_files import NoneRule
from clipsearch.scoring import Rows, ScoredBlock, Scorer
from clipsearch.shards import Float16, Int64
from clipsearch.text_vectors import TextVectors

if TYPE_CHECKING:
    from clipsearch.background_sums import BackgroundSums
    from clipsearch.none_of_these import KnownSums, NoneOfThese

Block = TypeVar("Block", bound=ScoredBlock)

AUTO, OFF = "auto", "off"


def none_setting(asked: str | float) -> str | float:
    """ "auto", "off" or a threshold from 0 to 1, from what somebody has asked for.

    Raises OptionError for anything else.
    """
    if asked in (AUTO, OFF):
        return asked
    try:
        threshold = math.nan if isinstance(asked, bool) else float(asked)
    except (TypeError, ValueError):
        threshold = math.nan
    if not 0 <= threshold <= 1:
        raise OptionError(
            f"expected none as auto, off or a number from 0 to 1, got {str(asked)!r}: images that "
            "belong to the labels less than that get no label"
        )
    return threshold


class Abstention:
    """Tells which images have none of the labels. Safe for threads.

    rule : what is to be saved with the set.
    """

    def __init__(self, setting: str, none: NoneOfThese, classes: Float32, logit_scale: float):
        self.rule = NoneRule(setting, none.threshold)
        self._none = none
        self._columns = np.ascontiguousarray(classes.T)
        self._scale = np.float32(logit_scale)

    @property
    def known(self) -> BackgroundSums | None:
        """What is remembered of the collection's images; None away from it."""
        return self._none.known

    def knowing(self, known: KnownSums) -> Abstention:
        """The same away from the collection, see ``NoneOfThese.knowing``."""
        away = copy.copy(self)
        away._none = self._none.knowing(known)
        return away

    def told(self, block: Block, rows: Rows | None, plain: bool = True) -> Block:
        """A block with ``in_set``; its labels are as they were.

        rows : (n, dim) of the block's images, None to look them up. plain : scores are cosines
        of images and classes, and sums those over all classes.
        """
        if plain:
            evidence = self._scale * block.scores[:, 0] + block.log_sums
        else:
            assert rows is not None
            evidence = self._evidence(rows)
        return dataclasses.replace(block, in_set=self._none.in_set(block.ids, rows, evidence))

    def _evidence(self, rows: Rows) -> Float32:
        wide = widen(cast(Float16, rows)) if rows.dtype == np.float16 else cast(Float32, rows)
        logits = wide @ self._columns
        logits *= self._scale
        best = logits.max(axis=1, keepdims=True)
        logits -= best
        sums: Float32 = best[:, 0] + np.log(np.exp(logits).sum(axis=1))
        return sums

    def unlabelled(self, block: Block) -> Block:
        """A block that was told, with no label where its image belongs to none; such an image's
        runner-up is the label that it is nearest to."""
        return without_labels(block, block.in_set, self.rule.threshold)


def rule_of(abstention: Abstention | None) -> NoneRule:
    """What a label set is to keep of it."""
    return NoneRule(OFF, 0.0) if abstention is None else abstention.rule


def without_labels(block: Block, in_set: Float32 | None, threshold: float) -> Block:
    """``block`` with no label where ``in_set`` is below ``threshold``."""
    if in_set is None:
        return block
    # Where a scorer has said so already, its runner-up is that label.
    has_none = (in_set < np.float32(threshold)) & (block.labels[:, 0] >= 0)
    if not has_none.any():
        return block
    labels, nearest = block.labels.copy(), block.runners_up.copy()
    nearest[has_none] = labels[has_none, 0]
    labels[has_none] = -1
    return dataclasses.replace(block, labels=labels, runners_up=nearest)


class AbstainingScorer:
    """A scorer whose blocks say, too, how far every image belongs to the labels."""

    def __init__(self, scorer: Scorer, abstention: Abstention, plain: bool = True) -> None:
        self._scorer, self.abstention, self._plain = scorer, abstention, plain
        self.block_rows = scorer.block_rows
        self.products = scorer.products

    def score(self, ids: Int64, rows: Rows) -> ScoredBlock:
        """What the scorer says, and ``in_set``."""
        return self.abstention.told(self._scorer.score(ids, rows), rows, self._plain)

    def knowing(self, known: KnownSums) -> AbstainingScorer:
        """The same away from the collection, see ``NoneOfThese.knowing``."""
        return AbstainingScorer(self._scorer, self.abstention.knowing(known), self._plain)


def abstention(
    state: Generation,
    texts: TextVectors,
    names: Sequence[str],
    classes: Float32,
    none: str | float | NoneRule,
    allowed: Int64 | None = None,
) -> Abstention | None:
    """What tells which images have none of the labels; None where every image is to have one.

    names, classes : the C labels and their (C, dim) class vectors. none : "auto", "off", a
    threshold, or the rule that a saved set has gone by, whose threshold then stays.

    Raises OptionError as ``none_setting``, and the errors of ``load_encoder``.
    """
    setting = none_setting(none.setting if isinstance(none, NoneRule) else none)
    if setting == OFF:
        return None
    from clipsearch.none_of_these import none_of_these

    wanted = none.threshold if isinstance(none, NoneRule) else setting
    found = none_of_these(state, texts, names, classes, cast(float, wanted), allowed)
    return Abstention(str(setting), found, classes, state.space.logit_scale)
