"""A report of a discovery: one HTML file with a contact sheet of every cluster.

No script, nothing from a network, and a policy in the page that forbids both.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from clipsearch.cluster_pictures import examples_in_turn, small_thumbnails
from clipsearch.clusters import Cluster, Discovery
from clipsearch.file_kinds import container_of
from clipsearch.generation import Generation
from clipsearch.html_pages import image_address, page_pieces, policy_hash, shown, template_text

MOST_PICTURES, MOST_PICTURE_BYTES = 4_000, 32 << 20
"""What is in the file; where there are many clusters, each shows fewer."""
MOST_NOTES = 200
"""Outliers, and groups of look-alikes, that are shown."""
_TYPICAL, _DOUBTFUL = 12, 6
_MOST_OF_NOTE = 12
_MOST_OUTSIDE = 48
_SIDE = 200  # pixels of a picture


@dataclass(frozen=True)
class ReportNote:
    """Some images that a report points out: an outlier, or images that are much alike.

    ids : the images. reason : a sentence that says why.
    """

    ids: tuple[int, ...]
    reason: str


def write_cluster_report(
    file: IO[bytes],
    state: Generation,
    discovery: Discovery,
    title: str,
    *,
    outliers: Sequence[ReportNote] | None = None,
    duplicates: Sequence[ReportNote] | None = None,
) -> None:
    """Write the report as UTF-8 HTML: the clusters, the largest first, then images in none, and
    what was found of outliers and look-alikes; None where they were not looked for."""
    share = MOST_PICTURES // max(1, len(discovery)) * _TYPICAL // (_TYPICAL + _DOUBTFUL)
    typical = min(_TYPICAL, max(1, share))
    doubtful = min(_DOUBTFUL, max(1, share // 2))
    notes = [*(outliers or ())[:MOST_NOTES], *(duplicates or ())[:MOST_NOTES]]
    outside = discovery.assignment.members(-1)
    outside_shown = outside[:_MOST_OUTSIDE].tolist()
    pictures = ReportPictures(
        state,
        itertools.chain(
            examples_in_turn(discovery.clusters, typical, doubtful),
            outside_shown,
            (image for note in notes for image in note.ids[:_MOST_OF_NOTE]),
        ),
    )
    style = template_text("cluster_report.css")
    for piece in page_pieces(
        "cluster_report.html",
        title=shown(title),
        facts=_facts(discovery),
        style=style,
        style_hash=policy_hash(style),
        largest=max([1, *(cluster.size for cluster in discovery.clusters)]),
        clusters=[
            {
                "key": cluster.key,
                "name": shown(cluster.name),
                "size": cluster.size,
                "facts": _cluster_facts(cluster),
                "candidates": _candidates(cluster),
                "broader": shown(cluster.broader) if cluster.broader else None,
                "typical": pictures.of(cluster.typical[:typical]),
                "doubtful": pictures.of(_not_in(cluster.doubtful, cluster.typical)[:doubtful]),
            }
            for cluster in discovery.clusters
        ],
        outside=pictures.of(outside_shown),
        outside_facts=_counted(len(outside), "image"),
        outside_more=_more(len(outside) - _MOST_OUTSIDE),
        outliers=_noted(outliers or (), pictures),
        outliers_more=_more(len(outliers or ()) - MOST_NOTES),
        duplicates=_noted(duplicates or (), pictures),
        duplicates_more=_more(len(duplicates or ()) - MOST_NOTES),
        not_found=[
            text
            for text, found in (
                ("No image is far from all others.", outliers),
                ("No images are nearly the same.", duplicates),
            )
            if found is not None and not found
        ],
    ):
        file.write(piece)


def _facts(discovery: Discovery) -> str:
    total, groups = len(discovery.assignment), len(discovery)
    facts = [_counted(total, "image"), _counted(groups, "cluster")]
    alone = int(np.count_nonzero(discovery.assignment.clusters < 0))
    if alone:
        facts.append(f"{alone:,} in none")
    if discovery.facts.where:
        facts.append(f"where {shown(discovery.facts.where)}")
    facts.append(discovery.facts.made_at[:10])
    return " · ".join(facts)


def _cluster_facts(cluster: Cluster) -> str:
    facts = [_counted(cluster.size, "image")]
    if cluster.by_hand:
        facts.append("named by hand")
    elif cluster.candidates:
        facts.append(f"confidence {cluster.confidence:.0%}")
    return " · ".join(facts)


def _candidates(cluster: Cluster) -> list[dict[str, Any]]:
    return [
        {
            "name": shown(candidate.name),
            "votes": f"{candidate.votes:.0%}",
            "taken": candidate.name == cluster.name,
        }
        for candidate in cluster.candidates
    ]


def _not_in(ids: Sequence[int], others: Sequence[int]) -> list[int]:
    """A small cluster's most doubtful image may be among its typical ones too."""
    return [image for image in ids if image not in set(others)]


def _noted(notes: Sequence[ReportNote], pictures: ReportPictures) -> list[dict[str, Any]]:
    return [
        {"reason": shown(note.reason), "photos": pictures.of(note.ids[:_MOST_OF_NOTE])}
        for note in notes[:MOST_NOTES]
    ]


def _more(left: int) -> str | None:
    return f"and {left:,} more" if left > 0 else None


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


class ReportPictures:
    """Images as templates want them; of those named, the thumbnails, as far as they fit in."""

    def __init__(self, state: Generation, ids: Iterable[int]) -> None:
        self._state = state
        listed = list(dict.fromkeys(ids))
        self._images: Mapping[int, bytes] = small_thumbnails(
            state, listed, side=_SIDE, most=MOST_PICTURES, most_bytes=MOST_PICTURE_BYTES
        )

    def of(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """What a template needs to know of each image; those that are deleted are left out."""
        return list(self._of(ids))

    def _of(self, ids: Sequence[int]) -> Iterator[dict[str, Any]]:
        for image, place in zip(ids, self._state.paths.first_places(ids), strict=True):
            if place is not None:  # deleted since
                yield self.at(image, place.path)

    def at(self, image: int, path: Path) -> dict[str, Any]:
        """What a template needs to know of an image as the file ``path``."""
        inside = container_of(path) is not None
        is_there = not inside and path.is_file()
        data = self._images.get(image)
        return {
            "name": shown(path.name),
            "path": shown(os.path.join(path.parent.name, path.name)),
            "link": path.as_uri() if is_there and path.is_absolute() else None,
            "missing": not inside and not is_there,
            "image": image_address(data) if data is not None else None,
        }
