"""Saved label sets carried over to another model of the index.

Labels, their wordings and definitions, the confirmed examples and every setting go along; what
depends on the vectors - scores, thresholds that were fitted, what was usual for a tag - is made
anew. Each set is saved over itself, whole or not at all, and its version before is kept. How far
both models agree is told of every set. Doing it again goes on with the sets that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from clipsearch.abstaining import OFF
from clipsearch.cluster_files import discovery_names
from clipsearch.errors import ClipsearchError
from clipsearch.image_index import ImageIndex
from clipsearch.label_comparison import compare, labelled
from clipsearch.label_definitions import labels_of_set
from clipsearch.label_examples import read_examples
from clipsearch.label_set_files import CLASSIFY, TAG, LabelRows, LabelSet
from clipsearch.label_sets import is_of_space, label_set_names, labels_folder, read_label_rows
from clipsearch.label_tree import has_tree

CARRIED, KEPT, FAILED = "carried over", "kept", "failed"
DISCOVERY = "discovery"


@dataclass(frozen=True)
class CarriedSet:
    """What became of a saved label set, or of a discovery (``kind`` DISCOVERY).

    outcome : CARRIED, KEPT (as it was) or FAILED; ``why`` says why it is not CARRIED, or what
    to know of it. images : that both labellings know. agreement : the share of these that have
    the same label or both none; of tags the share, of those that either gave, that both gave.
    kappa : Cohen's, of a set with one label an image. None where nothing can be said.
    """

    name: str
    kind: str
    outcome: str
    why: str = ""
    images: int = 0
    agreement: float | None = None
    kappa: float | None = None


def carry_over(
    index: ImageIndex, on_set: Callable[[CarriedSet], None] | None = None
) -> list[CarriedSet]:
    """Label every image anew with the saved sets of other models than the one that ``index``
    answers with, and save them; what became of each, and of the discoveries of other models.

    on_set : hears of each when it is done. A set that cannot be carried over stays as it is and
    hinders none of the others.
    """
    done: list[CarriedSet] = []
    for carried in _each(index):
        done.append(carried)
        if on_set is not None:
            on_set(carried)
    return done


def _each(index: ImageIndex) -> Iterator[CarriedSet]:
    discoveries = set(discovery_names(index.path))
    for name in label_set_names(index.path):
        try:
            found, rows = read_label_rows(index.path, name)
            if is_of_space(found, index.space) or found.discovery in discoveries:
                continue
            yield _carried(index, found, rows)
        except ClipsearchError as error:
            yield CarriedSet(name, "", FAILED, str(error).splitlines()[0])
    yield from _discoveries(index)


def _carried(index: ImageIndex, found: LabelSet, rows: LabelRows) -> CarriedSet:
    if found.kind == CLASSIFY:
        why = ""
        if found.teaching is not None:
            _classify_taught(index, found)
        else:
            _classify(index, found)
            # Labels of one image alone remember their scores, but for those of a tree.
            if found.scores is None and not has_tree(labels_of_set(found)):
                why = "each image alone: one made with --adapt or --by-cluster has to be made again"
        now, new_rows = read_label_rows(index.path, found.name)
        compared = compare(labelled(found, rows, "before"), labelled(now, new_rows, "now"))
        return CarriedSet(
            found.name, found.kind, CARRIED, why,
            len(compared), compared.agreement, compared.kappa,
        )  # fmt: skip
    if found.kind == TAG:
        _tag(index, found)
        _, new_rows = read_label_rows(index.path, found.name)
        images = len(np.intersect1d(rows.ids, new_rows.ids))
        return CarriedSet(
            found.name, found.kind, CARRIED, images=images, agreement=_shared_tags(rows, new_rows)
        )
    why = "its labels are those of clusters, which no model can make anew from their names"
    return CarriedSet(found.name, found.kind, KEPT, why)


def _none(found: LabelSet) -> str:
    """What to ask for anew: a threshold is of the model that it was fitted for."""
    return OFF if found.none is None else found.none.setting


def _classify(index: ImageIndex, found: LabelSet) -> None:
    from clipsearch.saved_labelling import classify_beside

    with classify_beside(
        index.path, index.state(), index.text_vectors(),
        labels_of_set(found), found.templates, found.context,
        save_as=found.name, none=_none(found),
    ) as labelling:  # fmt: skip
        for _ in labelling:
            pass
        labelling.save()


def _classify_taught(index: ImageIndex, found: LabelSet) -> None:
    from clipsearch.taught_labelling import classify_taught

    labelling = classify_taught(
        index.path, index.state(), index.text_vectors(),
        labels_of_set(found), found.templates, found.context,
        examples=read_examples(labels_folder(index.path), found),
        save_as=found.name, none=_none(found),
    )  # fmt: skip
    for _ in labelling:
        pass
    labelling.save()


def _tag(index: ImageIndex, found: LabelSet) -> None:
    from clipsearch.tag import save_tagging, tag
    from clipsearch.tag_statistics import FLOOR_SHARE

    limits = found.thresholds or ()
    share = found.statistics.floor_share if found.statistics is not None else FLOOR_SHARE
    result = tag(
        index.state(), index.text_vectors(), found.labels,
        templates=found.templates, context=found.context,
        thresholds=dict(zip(found.labels, limits, strict=False)),
        most=found.most, floor_share=share,
    )  # fmt: skip
    save_tagging(index.path, index.state(), found.name, result)


def _shared_tags(before: LabelRows, now: LabelRows) -> float | None:
    """Of the tags that one of two labellings gives, the share that both give; of the images that
    both know."""
    both = np.intersect1d(before.ids, now.ids)
    tags = []
    for rows in (before, now):
        given = (rows.labels >= 0) & np.isin(rows.ids, both)
        tags.append(np.stack([rows.ids[given], rows.labels[given].astype(np.int64)], axis=1))
    every = len(np.unique(np.concatenate(tags), axis=0))
    return (len(tags[0]) + len(tags[1]) - every) / every if every else None


def _discoveries(index: ImageIndex) -> list[CarriedSet]:
    from clipsearch.cluster_reading import read_saved_discovery

    done = []
    for name in discovery_names(index.path):
        try:
            if read_saved_discovery(index.path, name).facts.space == index.space.fingerprint:
                continue
            why = (
                "its clusters, and the label sets that follow them, take in new images only while "
                "the index answers with the model before: 'clipsearch discover' makes new ones"
            )
            done.append(CarriedSet(name, DISCOVERY, KEPT, why))
        except ClipsearchError as error:
            done.append(CarriedSet(name, DISCOVERY, FAILED, str(error).splitlines()[0]))
    return done
