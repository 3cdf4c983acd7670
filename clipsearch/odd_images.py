"""What a discovery points out beside its clusters: images like no others, and images too alike.

Both come of one graph of nearest neighbours (``neighbour_graph``, ``outliers``). What look-alikes
are to ``dups`` is said with each group: only what that calls a copy or a burst is a duplicate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clipsearch.cluster_report import ReportNote
from clipsearch.duplicates import find_near
from clipsearch.generation import Generation
from clipsearch.neighbour_graph import neighbour_graph
from clipsearch.outliers import LookAlikes, Outliers, look_alikes, outliers
from clipsearch.shards import Int64

_DUPLICATE = {"copy": "copies of one picture", "burst": "shots of one scene, seconds apart"}


@dataclass(frozen=True)
class OddImages:
    """outliers : the farthest first. alike : groups of look-alikes, the largest first."""

    outliers: Outliers
    alike: tuple[LookAlikes, ...]

    def outlier_notes(self) -> tuple[ReportNote, ...]:
        """The outliers, each with the reason."""
        return tuple(
            ReportNote((one.id,), self.outliers.reason(one)) for one in self.outliers.images
        )

    def alike_notes(self) -> tuple[ReportNote, ...]:
        """The groups of look-alikes, each with what it is."""
        return tuple(ReportNote(group.ids, alike_reason(group)) for group in self.alike)


def alike_reason(group: LookAlikes) -> str:
    """What a group of look-alikes is, in plain words."""
    what = _DUPLICATE.get(group.known or "", "look alike to the model, and need be no duplicates")
    return f"{what} (cosine {min(group.cosines):.3f} and more)"


def odd_images(
    state: Generation,
    allowed: Int64 | None = None,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> OddImages:
    """The outliers and look-alikes of all images, or of those of the rising ids ``allowed``
    among themselves. on_progress : called with how many images are done."""
    if on_progress is None:
        graph = neighbour_graph(state.vectors, allowed=allowed)
    else:
        graph = neighbour_graph(state.vectors, allowed=allowed, on_progress=on_progress)
    duplicates = find_near(state, allowed=allowed)
    return OddImages(outliers(graph), look_alikes(graph, duplicates=duplicates))
