"""Several labels an image, from stored vectors: double z-norm with a floor.

z1 puts an image's cosines in units of its own (``tag_statistics``), z2 puts each label's z1 in
units of that label over the collection; z2 ranks. A label is given where z2 passes the label's
threshold and z1 passes the floor. z2 alone would give any label, one that no photo shows too, to
the same few percent of the photos; the floor asks that the label also stands out among some 600
background words, as only one in two hundred of those does. Two streaming passes, in blocks.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.background_words import background_prompts
from clipsearch.encoder import Float32
from clipsearch.errors import LabelError, OptionError, SpaceMismatchError
from clipsearch.generation import Generation
from clipsearch.label_definitions import definitions_dict, labels_of_set, refuse_groups
from clipsearch.label_set_files import TAG, LabelRows, LabelSet
from clipsearch.label_set_saving import new_label_set, save_label_set
from clipsearch.label_sets import is_of_space, read_label_rows
from clipsearch.prompts import check_labels, class_vectors
from clipsearch.shards import Int64
from clipsearch.tag_blocks import in_order_of_id, tag_blocks
from clipsearch.tag_statistics import (
    FLOOR_SHARE,
    RowScale,
    corpus_statistics,
)
from clipsearch.tagging import Tagging, tagging_of
from clipsearch.text_vectors import TextVectors

if TYPE_CHECKING:
    from clipsearch.spread_scoring import Spread

THRESHOLD = 0.0
"""What z2 has to pass where nothing else is said: what is usual for the label. More would take a
label from photos when it is on many of them; ``benchmarks/tagging.py`` shows how many."""


def tag(
    state: Generation,
    texts: TextVectors,
    labels: Sequence[str],
    *,
    background: Sequence[str] | None = None,
    templates: str | Sequence[str] = "simple",
    context: str | None = None,
    threshold: float = THRESHOLD,
    thresholds: Mapping[str, float] | None = None,
    most: int | None = None,
    floor_share: float = FLOOR_SHARE,
    spread: Spread | None = None,
) -> Tagging:
    """Give every image those of ``labels`` that it shows, from stored vectors alone.

    labels, templates, context : as for ``ImageIndex.classify``.
    background : prompts that stand for words in general; None takes ``background_prompts()``.
    threshold : what z2 has to pass, in standard deviations of the label over the collection;
    thresholds : the same for single labels. most : how many labels an image can have.
    floor_share : how many of the background's z1 may reach the floor; 1 is no floor.
    spread : who scores the images, in the place of this process.

    Raises LabelError, for labels in groups too, OptionError, and the errors of ``load_encoder``.
    """
    names = check_labels(labels)
    refuse_groups(labels)
    if not 0 < floor_share <= 1:
        raise OptionError(f"the floor's share must be above 0 and at most 1, got {floor_share}")
    limits = _limits(names, (_finite(threshold),) * len(names), thresholds)
    _check_most(most)
    prompts = tuple(background) if background is not None else background_prompts()
    classes = class_vectors(labels, texts, templates, context)
    scale = RowScale(texts.encode(prompts))
    begin = time.perf_counter()
    if spread is not None:
        from clipsearch.tag_parts import spread_statistics, spread_tags

        statistics = spread_statistics(spread, state, classes, scale, prompts, floor_share)
        rows = spread_tags(spread, state, classes, scale, statistics, limits, most)
    else:
        statistics = corpus_statistics(
            state.vectors.blocks(), len(state.vectors), classes, scale, prompts, floor_share
        )
        rows = tag_blocks(state.vectors.blocks(), classes, scale, statistics, limits, most)
    return tagging_of(
        rows,
        label_names=names,
        definitions=definitions_dict(labels),
        thresholds=limits,
        most=most,
        statistics=statistics,
        templates=templates if isinstance(templates, str) else tuple(templates),
        context=context,
        scored=len(state.vectors),
        seconds=time.perf_counter() - begin,
        texts_encoded=texts.total.encoded,
        texts_cached=texts.total.cached,
    )


def tag_like_saved(
    index: Path,
    state: Generation,
    texts: TextVectors,
    name: str,
    *,
    threshold: float | None = None,
    thresholds: Mapping[str, float] | None = None,
    most: int | None = None,
) -> Tagging:
    """Tag with the labels and by the statistics of a saved set: new images score as they would
    have then, and images that were scored then keep their tags.

    threshold, thresholds, most : in place of what was saved; every image is scored again then.

    Raises LabelError for a set of ``classify``, which has no statistics, SpaceMismatchError
    for one of another model (for both the cure is to tag anew), and as ``tag``.
    """
    saved, kept = read_label_rows(index, name)
    if saved.kind != TAG or saved.statistics is None or saved.thresholds is None:
        raise LabelError(
            f"the label set {saved.name} was saved by classify and has no statistics to tag by: "
            "expected a set that tag has saved"
        )
    if not is_of_space(saved, state.space):
        raise SpaceMismatchError(
            f"the label set {saved.name} was made with another model than the index has now "
            f"({state.space.model}): add --refit to tag anew with its labels"
        )
    begin = time.perf_counter()
    before = saved.thresholds
    base = before if threshold is None else (_finite(threshold),) * len(before)
    limits = _limits(saved.labels, base, thresholds)
    _check_most(most)
    most = saved.most if most is None else most
    live = np.setdiff1d(state.vectors.ids, state.vectors.deleted, assume_unique=True)
    if (limits, most) == (before, saved.most):
        kept = _rows_of(kept, live)
        new = np.setdiff1d(live, kept.ids)
    else:
        kept, new = _rows_of(kept, live[:0]), live
    parts = [kept]
    if len(new):
        classes = class_vectors(labels_of_set(saved), texts, saved.templates, saved.context)
        scale = RowScale(texts.encode(saved.statistics.background))
        blocks = _blocks_of(state, new)
        parts.append(tag_blocks(blocks, classes, scale, saved.statistics, limits, most))
    return tagging_of(
        in_order_of_id(parts),
        label_names=saved.labels,
        definitions=saved.definitions,
        thresholds=limits,
        most=most,
        statistics=saved.statistics,
        templates=saved.templates,
        context=saved.context,
        scored=len(new),
        seconds=time.perf_counter() - begin,
        texts_encoded=texts.total.encoded,
        texts_cached=texts.total.cached,
    )


def save_tagging(index: Path, state: Generation, name: str, result: Tagging) -> LabelSet:
    """Save ``result`` as the label set ``name``; raises as ``save_label_set``."""
    new = dataclasses.replace(
        new_label_set(state, name, TAG, result.label_names, result.templates, result.context),
        thresholds=result.thresholds,
        most=result.most,
        statistics=result.statistics,
        definitions=result.definitions,
    )
    return save_label_set(index, new, result.rows())


def _finite(threshold: float) -> float:
    if not math.isfinite(threshold):
        raise OptionError(f"a threshold must be a number such as 1.5, got {threshold}")
    return float(threshold)


def _check_most(most: int | None) -> None:
    if most is not None and most < 1:
        raise OptionError(f"an image can have 1 label at most or more, got {most}")


def _limits(
    names: Sequence[str], base: Sequence[float], thresholds: Mapping[str, float] | None
) -> tuple[float, ...]:
    """One threshold a label; LabelError for one of a label that is not in the set."""
    limits = list(base)
    keys = {" ".join(name.casefold().split()): position for position, name in enumerate(names)}
    for name, value in (thresholds or {}).items():
        position = keys.get(" ".join(name.casefold().split()))
        if position is None:
            raise LabelError(f"a threshold is given for {name!r}, which is not among the labels")
        limits[position] = _finite(value)
    return tuple(limits)


def _rows_of(rows: LabelRows, ids: Int64) -> LabelRows:
    here = np.isin(rows.ids, ids)
    return LabelRows(rows.ids[here], rows.labels[here], rows.scores[here], rows.second[here])


def _blocks_of(state: Generation, ids: Int64) -> Iterator[tuple[Int64, Float32]]:
    """The vectors of some images, at least one, in order of id."""
    for block_ids, block in state.vectors.blocks(after=int(ids[0]) - 1):
        here = np.isin(block_ids, ids, assume_unique=True)
        if here.any():
            yield block_ids[here], block[here]
