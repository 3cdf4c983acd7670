"""The changes that a person makes to a discovery, as records and as they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipsearch.cluster_edits import Namer, drop, merge, rename, split
from clipsearch.cluster_references import find_cluster, with_value
from clipsearch.clusters import Cluster, Discovery
from clipsearch.errors import ClusterError
from clipsearch.vectors import Vectors


@dataclass(frozen=True)
class Rename:
    """Call the cluster ``old`` ``new``. Clusters are named as ``find_cluster`` takes them."""

    old: str
    new: str


@dataclass(frozen=True)
class Merge:
    """Make one cluster of several, called ``name`` or, without one, as the first of them."""

    clusters: tuple[str, ...]
    name: str | None = None


@dataclass(frozen=True)
class Split:
    """Make ``parts`` clusters of one."""

    cluster: str
    parts: int = 2


@dataclass(frozen=True)
class Drop:
    """Let the images of some clusters, and later ones like them, be in none."""

    clusters: tuple[str, ...]


Change = Rename | Merge | Split | Drop


@dataclass(frozen=True)
class Written:
    """A change as a person writes it, to be read against the clusters there are by then.

    kind, text : "rename" and "OLD=NEW", "merge" and "A,B" or "A,B=NAME", "split" and "A" or
    "A=3", "drop" and "A,B".
    """

    kind: str
    text: str


def read_change(written: Written, clusters: Sequence[Cluster]) -> Change:
    """The change that somebody wrote; names may have commas and = in them where that is clear.

    Raises ClusterError for a cluster that is not there, and a text that is not as it should be.
    """
    names, value = with_value(clusters, written.text)
    match written.kind:
        case "merge":
            return Merge(names, value)
        case "drop" if value is None:
            return Drop(names)
        case "split" if len(names) == 1:
            return Split(names[0], 2 if value is None else _number(value))
        case "rename" if len(names) == 1 and value is not None:
            return Rename(names[0], value)
    forms = {"rename": "OLD=NEW", "split": "A or A=3", "drop": "A,B"}
    raise ClusterError(f"expected {forms[written.kind]} to {written.kind}, got {written.text!r}")


def _number(text: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 7):
        raise ClusterError(f"expected a number of parts such as 3, got {text!r}")
    return int(digits)


def changed(
    discovery: Discovery,
    change: Change,
    vectors: Vectors,
    *,
    next_key: int,
    namer: Namer | None = None,
) -> Discovery:
    """``discovery`` after one change.

    vectors : of the index. next_key : above every key that was ever given in this discovery.
    namer : names what comes from a split, and finds candidates for what was merged; None makes
    do with the names that are there.

    Raises ClusterError for a cluster that is not there, and a change that makes no sense.
    """
    match change:
        case Rename():
            return rename(discovery, find_cluster(discovery.clusters, change.old), change.new)
        case Merge():
            positions = _positions(discovery, change.clusters)
            return merge(discovery, positions, vectors, name=change.name, namer=namer)
        case Split():
            position = find_cluster(discovery.clusters, change.cluster)
            return split(
                discovery, position, vectors, parts=change.parts, next_key=next_key, namer=namer
            )
        case Drop():
            return drop(discovery, _positions(discovery, change.clusters), vectors)


def in_words(change: Change) -> str:
    """What a change does, for a list of changes."""
    match change:
        case Rename():
            return f"rename {change.old} to {change.new}"
        case Merge():
            called = "" if change.name is None else f" as {change.name}"
            return f"merge {' and '.join(change.clusters)}{called}"
        case Split():
            return f"split {change.cluster} in {change.parts}"
        case Drop():
            return f"drop {' and '.join(change.clusters)}"


def _positions(discovery: Discovery, references: Sequence[str]) -> list[int]:
    positions = [find_cluster(discovery.clusters, reference) for reference in references]
    for place, position in enumerate(positions):
        if position in positions[:place]:
            raise ClusterError(
                f"the cluster {discovery.clusters[position].name!r} is named twice: say it once"
            )
    return positions
