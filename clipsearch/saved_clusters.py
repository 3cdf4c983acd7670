"""Saved discoveries: the clusters of a collection, kept below ``<index>/clusters/``.

They belong to the index, and to no generation of it. Whoever opens one with the index gets the
images that came since in the nearest cluster, and those that are gone left out; that is saved,
and so are the label sets that follow the clusters, wherever the index can be written. What a
person does to the clusters therefore holds for later images too.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.cluster_changes import Change, Written, changed, in_words, read_change
from clipsearch.cluster_edits import Namer
from clipsearch.cluster_files import (
    SavedDiscovery,
    cure,
    damaged,
    discovery_names,
)
from clipsearch.cluster_labels import following, stale_label_sets
from clipsearch.cluster_members import largest_first, merged_rows, some_rows, with_members
from clipsearch.cluster_model import assign
from clipsearch.cluster_reading import known_discovery, read_discovery, read_saved_discovery
from clipsearch.cluster_saving import (
    SavedMeanwhileError,
    next_key_of,
    remove_discovery,
    save_again,
    save_label_set_of,
    save_undone,
)
from clipsearch.clusters import Assignment, Discovery
from clipsearch.errors import (
    ClipsearchError,
    ClusterError,
    IndexFormatError,
    IndexLockedError,
    IndexReadError,
    RemoteError,
    SpaceMismatchError,
)
from clipsearch.generation import Generation, open_generation
from clipsearch.shards import Int64


@dataclass(frozen=True)
class OpenedDiscovery:
    """A saved discovery as it is for one generation of the index.

    added, gone : images that came, and went, since it was last saved. is_kept : whether it is
    saved like this; not where the index cannot be written.
    """

    saved: SavedDiscovery
    discovery: Discovery
    added: int = 0
    gone: int = 0
    is_kept: bool = True


def open_discovery(
    index: Path,
    state: Generation,
    name: str,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> OpenedDiscovery:
    """A saved discovery with the images that ``state`` has; see the module.

    on_progress : called with how many new images are assigned.

    Raises SpaceMismatchError for one of another model, FilterError and LabelError for one of
    some images, if they can no longer be told, and as ``read_saved_discovery``.
    """
    while True:
        opened, was = _opened(index, state, name, on_progress)
        if not (opened.added or opened.gone or stale_label_sets(index, opened.saved)):
            return opened
        if _is_older(state, opened.saved):
            return dataclasses.replace(opened, is_kept=False)
        try:
            saved = save_again(index, state, opened.saved, was, opened.discovery)
        except SavedMeanwhileError:
            continue
        except (
            OSError,
            IndexLockedError,
            RemoteError,
        ):  # read-only, a full disk: what we have will do
            return dataclasses.replace(opened, is_kept=False)
        return dataclasses.replace(opened, saved=saved)


def edit_discovery(
    index: Path,
    state: Generation,
    name: str,
    changes: Sequence[Change | Written],
    *,
    namer: Namer | None = None,
) -> OpenedDiscovery:
    """Change the clusters of a saved discovery, one change after the other, and save that as one
    edit: all of it or nothing. What follows it follows.

    namer : see ``cluster_changes.changed``.

    Raises ClusterError for a change that cannot be made, IndexLockedError, OSError, and as
    ``open_discovery``.
    """
    if not changes:
        raise ClusterError("expected at least one change")
    while True:
        opened, was = _opened(index, state, name, None)
        _refuse_older(state, opened.saved)
        now, next_key = opened.discovery, opened.saved.next_key
        done = []
        for asked in changes:
            change = read_change(asked, now.clusters) if isinstance(asked, Written) else asked
            done.append(change)
            now = changed(now, change, state.vectors, next_key=next_key, namer=namer)
            next_key = max(next_key, next_key_of(now))
        what = ", ".join(map(in_words, done))
        with contextlib.suppress(SavedMeanwhileError):
            saved = save_again(index, state, opened.saved, was, now, edit=what)
            return dataclasses.replace(opened, saved=saved, discovery=now)


def undo_edit(index: Path, state: Generation, name: str) -> tuple[str, OpenedDiscovery]:
    """Take the last edit back; what it was, and the discovery as it is now.

    Raises ClusterError where there is none to take back, IndexLockedError, OSError, and as
    ``open_discovery``.
    """
    while True:
        saved = read_saved_discovery(index, name)
        _refuse_other_space(state, saved)
        with contextlib.suppress(SavedMeanwhileError):
            what = save_undone(index, saved)
            return what, open_discovery(index, state, saved.name)


def save_clusters_as(
    index: Path, state: Generation, name: str, label_set: str, replace: bool = False
) -> OpenedDiscovery:
    """Save the clusters of a discovery as a label set that follows them from then on.

    replace : over a label set of that name that something else has saved.

    Raises LabelError for a name that cannot be had, IndexLockedError, OSError, and as
    ``open_discovery``.
    """
    while True:
        opened = open_discovery(index, state, name)
        _refuse_older(state, opened.saved)
        with contextlib.suppress(SavedMeanwhileError):
            saved = save_label_set_of(
                index, state, opened.saved, opened.discovery, label_set, replace
            )
            return dataclasses.replace(opened, saved=saved)


def forget_discovery(index: Path, name: str) -> list[str]:
    """Remove a saved discovery, damaged or not; the label sets that followed it, which stay.

    Raises ClusterError when there is none of that name, IndexLockedError, OSError.
    """
    known = known_discovery(index, name)
    left: list[str] = []
    with contextlib.suppress(IndexFormatError, IndexReadError, ClusterError):
        left = following(index, read_saved_discovery(index, known))
    remove_discovery(index, known)
    return left


def follow_index(index: Path) -> list[OpenedDiscovery]:
    """After something was written to an index: put what is new into the clusters of its saved
    discoveries, and so into their label sets; those that had to be.

    What cannot be done now, whoever opens the discovery does later: nothing is raised.
    """
    if not discovery_names(index):
        return []
    with contextlib.suppress(ClipsearchError, OSError):
        return update_discoveries(index, open_generation(index))
    return []


def update_discoveries(index: Path, state: Generation) -> list[OpenedDiscovery]:
    """Bring every discovery of the model of ``state`` up to date; those that had to be.

    One that is damaged or of another model stays as it is, and hinders none of the others.
    """
    found = []
    for name in discovery_names(index):
        with contextlib.suppress(ClipsearchError):
            if read_saved_discovery(index, name).facts.space == state.space.fingerprint:
                opened = open_discovery(index, state, name)
                if opened.added or opened.gone:
                    found.append(opened)
    return found


def _opened(
    index: Path, state: Generation, name: str, on_progress: Callable[[int], None] | None
) -> tuple[OpenedDiscovery, Discovery]:
    """A discovery with the images of ``state``, not saved yet, and as it was."""
    saved, was = read_discovery(index, name)
    _refuse_other_space(state, saved)
    if len(was.model.centroids) and was.model.centroids.shape[1] != state.space.dim:
        raise damaged(saved.name, f"its centroids are not of {state.space.dim} numbers")
    if saved.tables.generation == state.manifest.generation:
        return OpenedDiscovery(saved, was), was
    live = np.setdiff1d(state.vectors.ids, state.vectors.deleted, assume_unique=True)
    now, added, gone = _brought_up(index, state, was, live, on_progress)
    return OpenedDiscovery(saved, now, added, gone), was


def _brought_up(
    index: Path,
    state: Generation,
    was: Discovery,
    live: Int64,
    on_progress: Callable[[int], None] | None,
) -> tuple[Discovery, int, int]:
    before = was.assignment
    kept = before
    if not np.isin(before.ids, live, assume_unique=True).all():
        kept = some_rows(before, live)
    new = np.setdiff1d(live, before.ids, assume_unique=True)
    if len(new) and was.facts.where is not None:
        new = np.intersect1d(new, _matching(index, state, was.facts.where), assume_unique=True)
    gone = len(before) - len(kept)
    if not len(new) and not gone:
        return was, 0, 0
    if len(was.model.centroids):
        found = assign(state.vectors, was.model, allowed=new, on_progress=on_progress)
    else:  # nothing that they could be near to
        zeros = np.zeros(len(new), np.float32)
        found = Assignment(new, np.full(len(new), -1, np.int32), zeros, zeros + np.nan)
    assignment = merged_rows(kept, found)
    clusters = with_members(was.clusters, assignment, state.vectors)
    now = dataclasses.replace(was, clusters=clusters, assignment=assignment)
    return largest_first(now), len(new), gone


def _matching(index: Path, state: Generation, where: str) -> Int64:
    from clipsearch.filters import parse_filter
    from clipsearch.metadata import matching_ids

    return matching_ids(index, state, parse_filter(where))


def _refuse_other_space(state: Generation, saved: SavedDiscovery) -> None:
    if saved.facts.space != state.space.fingerprint:
        raise SpaceMismatchError(
            f"the discovery {saved.name} was made with another model than the index answers "
            f"with now ({state.space.model}): {cure(saved.name)}"
        )


def _is_older(state: Generation, saved: SavedDiscovery) -> bool:
    return state.manifest.generation < saved.tables.generation


def _refuse_older(state: Generation, saved: SavedDiscovery) -> None:
    if _is_older(state, saved):
        raise ClusterError(
            f"the discovery {saved.name} knows of a newer generation of the index than is open: "
            "refresh the index and try again"
        )
