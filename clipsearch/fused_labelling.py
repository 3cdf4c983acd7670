"""One label an image by several encoders, from stored vectors alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from clipsearch.abstaining import AbstainingScorer, abstention
from clipsearch.classify import Labelling
from clipsearch.encoder import Float32, Space
from clipsearch.fusion import fused_scorer
from clipsearch.label_definitions import LabelDefinitions, refuse_groups
from clipsearch.label_tree import TreeScorer, least_probabilities
from clipsearch.prompts import check_labels, class_vectors
from clipsearch.query_encoders import QueryEncoders
from clipsearch.scoring import LabelScorer, Scorer, score_blocks
from clipsearch.shards import Int64
from clipsearch.text_vectors import TextCounts

if TYPE_CHECKING:
    from clipsearch.fused_index import Fused
    from clipsearch.label_set_files import NoneRule


def label_fused(
    fused: Fused,
    encoders: Callable[[Space], QueryEncoders],
    labels: Sequence[str],
    templates: str | Sequence[str],
    context: str | None,
    *,
    top: int,
    allowed: Int64 | None,
    none: str | float | NoneRule,
    cosines: bool,
) -> Labelling:
    """Give every image of the first space, or those of the rising ids ``allowed``, its best
    ``top`` labels; see ``FusedIndex.label``."""
    names = check_labels(labels)
    refuse_groups(labels)
    top = max(1, min(top, len(names)))
    of_space = [encoders(state.space).texts(state.space) for state in fused.states]
    classes = [class_vectors(labels, texts, templates, context) for texts in of_space]

    def make(joined: Float32, scale: float, kept: int) -> Scorer:
        if isinstance(labels, LabelDefinitions) and labels.has_tree:
            return TreeScorer(labels, joined, scale, kept)
        return LabelScorer(joined, scale, kept)

    state = fused.first
    scorer: Scorer = fused_scorer(
        fused.states, classes, fused.shares, top, cosines=cosines, make=make
    )
    abstains = abstention(state, of_space[0], names, classes[0], none, allowed)
    if abstains is not None:
        # Scores are not the cosines of the first space, which are what tells.
        scorer = AbstainingScorer(scorer, abstains, plain=False)
    images = len(state.vectors) if allowed is None else len(allowed)
    blocks = score_blocks(state.vectors.live_pieces(allowed), scorer, images)
    counts = TextCounts(
        sum(texts.total.cached for texts in of_space),
        sum(texts.total.encoded for texts in of_space),
    )
    return Labelling(names, top, counts, blocks, abstains, least_probabilities(labels))
