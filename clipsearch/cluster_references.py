"""Which cluster a person means: by its name, or by its key where several have that name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clipsearch.clusters import Cluster
from clipsearch.errors import ClusterError
from clipsearch.prompts import same_label

_SHOWN = 12
_KEY = re.compile(r"#([0-9]{1,9})")
_LONGEST_NAME = 200


def find_cluster(clusters: Sequence[Cluster], reference: str) -> int:
    """The position of the cluster of this name, upper and lower case and spaces alike, or of
    this key ("#7").

    Raises ClusterError where there is none, or several have the name.
    """
    wanted = same_label(reference)
    found = [at for at, cluster in enumerate(clusters) if same_label(cluster.name) == wanted]
    key = _KEY.fullmatch(reference.strip())
    if not found and key is not None:
        found = [at for at, cluster in enumerate(clusters) if cluster.key == int(key[1])]
    if len(found) == 1:
        return found[0]
    if found:
        keys = " or ".join(f"#{clusters[at].key}" for at in found)
        raise ClusterError(
            f"{len(found)} clusters are called {clusters[found[0]].name!r}: say {keys}"
        )
    raise ClusterError(f"there is no cluster {reference.strip()!r}: {_names(clusters)}")


def is_cluster(clusters: Sequence[Cluster], reference: str) -> bool:
    """Whether ``reference`` means at least one cluster."""
    wanted, key = same_label(reference), _KEY.fullmatch(reference.strip())
    return any(
        same_label(cluster.name) == wanted or (key is not None and cluster.key == int(key[1]))
        for cluster in clusters
    )


def split_references(clusters: Sequence[Cluster], text: str) -> tuple[str, ...]:
    """The clusters in a text with commas between them, each of which may have commas in its
    name; the longest name that is there is meant.

    Raises ClusterError for a part that means no cluster.
    """
    parts = text.split(",")
    found: list[str] = []
    start = 0
    while start < len(parts):
        for stop in range(len(parts), start, -1):
            reference = ",".join(parts[start:stop])
            if is_cluster(clusters, reference):
                found.append(reference.strip())
                start = stop
                break
        else:
            find_cluster(clusters, parts[start])  # which says that there is none
    return tuple(found)


def with_value(clusters: Sequence[Cluster], text: str) -> tuple[tuple[str, ...], str | None]:
    """The clusters in "A,B" or "A,B=VALUE", and the value; a name may have a = in it.

    Raises ClusterError for a part that means no cluster.
    """
    parts = text.split("=")
    first: ClusterError | None = None
    for cut in range(len(parts), 0, -1):  # without a value first
        try:
            names = split_references(clusters, "=".join(parts[:cut]))
        except ClusterError as error:
            first = error  # of the shortest: what a person most likely meant
            continue
        return names, "=".join(parts[cut:]) if cut < len(parts) else None
    assert first is not None
    raise first


def checked_name(name: str) -> str:
    """A name that a person gives to a cluster, on one line.

    Raises ClusterError for one that is empty, too long, or holds control characters.
    """
    clean = " ".join(name.split())
    if not clean:
        raise ClusterError("the name of a cluster is empty: expected words, such as cat")
    if len(clean) > _LONGEST_NAME:
        raise ClusterError(
            f"expected a name of up to {_LONGEST_NAME} letters, got {len(clean):,}: shorten it"
        )
    try:
        clean.encode()
    except UnicodeEncodeError:
        raise ClusterError(f"{clean!r} is no text, so it cannot be a name") from None
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in clean):
        raise ClusterError(f"{clean!r} holds control characters, so it cannot be a name")
    return clean


def _names(clusters: Sequence[Cluster]) -> str:
    if not clusters:
        return "the discovery has none"
    more = len(clusters) - _SHOWN
    names = ", ".join(cluster.name for cluster in clusters[:_SHOWN])
    return f"expected one of {names}" + (f" and {more} more" if more > 0 else "")
