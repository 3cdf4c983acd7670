"""Saved discoveries, opened once and kept while nothing about them changes; changing them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from clipsearch.cluster_changes import Change, Drop, Merge, Split
from clipsearch.cluster_files import SavedDiscovery, discovery_names
from clipsearch.cluster_reading import read_saved_discovery
from clipsearch.clusters import Cluster
from clipsearch.discover import namer_of
from clipsearch.errors import ClusterError, IndexFormatError, LabelError, SpaceMismatchError
from clipsearch.image_index import ImageIndex
from clipsearch.label_set_files import same_name
from clipsearch.label_set_saving import followed
from clipsearch.label_sets import label_set_names
from clipsearch.prompts import same_label
from clipsearch.saved_clusters import (
    OpenedDiscovery,
    edit_discovery,
    forget_discovery,
    open_discovery,
    save_clusters_as,
    undo_edit,
)
from clipsearch.wordnet import find_wordnet
from ui.library import Library
from ui.page_errors import PageError

T = TypeVar("T")

_MOST_OPEN = 2
"""Of a million images each takes some 20 MB."""


class OpenDiscoveries:
    """The saved discoveries of a library. Safe for threads."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._opened: OrderedDict[str, OpenedDiscovery] = OrderedDict()

    def saved(self) -> list[tuple[str, SavedDiscovery | None]]:
        """All names, each with what it is; None for one that is damaged."""
        index = self._library.index()
        found: list[tuple[str, SavedDiscovery | None]] = []
        for name in discovery_names(index.path):
            try:
                found.append((name, read_saved_discovery(index.path, name)))
            except IndexFormatError:
                found.append((name, None))
            except ClusterError:  # forgotten this moment
                continue
        return found

    def open(self, name: str) -> OpenedDiscovery:
        """A discovery as it is for the index of now.

        Raises PageError: 404 where there is none, 409 for one that cannot be opened.
        """
        index = self._library.index()
        state = index.state()
        known = self._known(index, name)
        try:
            saved = read_saved_discovery(index.path, known)
            with self._lock:
                held = self._opened.get(known)
                if (
                    held is not None
                    and held.saved == saved
                    and held.saved.tables.generation == state.manifest.generation
                ):
                    self._opened.move_to_end(known)
                    return held
            opened = open_discovery(index.path, state, known)
        except (IndexFormatError, SpaceMismatchError) as error:
            raise _cannot_open(known, error) from None
        self._hold(opened)
        return opened

    def change(self, name: str, expected: str, make: Callable[[OpenedDiscovery], Change]) -> str:
        """Change a discovery as ``make`` says; what was done, in words.

        expected : the ``state`` that the person saw; PageError (409) where it has changed since.
        """
        opened = self._expected(name, expected)
        change = make(opened)
        _refuse_dropping_all(opened, change)
        index = self._library.index()
        state = index.state()
        namer = None
        if isinstance(change, Merge | Split):
            texts = index.text_vectors()
            namer = namer_of(state, texts, opened.saved.facts, find_wordnet())
        done = self._written(
            lambda: edit_discovery(
                index.path, index.state(), opened.saved.name, [change], namer=namer
            )
        )
        self._hold(done)
        return done.saved.edits[-1].what

    def undo(self, name: str, expected: str) -> str:
        """Take the last change back; what it was, in words. expected : see ``change``."""
        opened = self._expected(name, expected)
        index = self._library.index()
        edits = opened.saved.edits
        if not edits or edits[-1].before is None:
            raise PageError("There is no change left to undo.", 409)
        what, done = self._written(lambda: undo_edit(index.path, index.state(), opened.saved.name))
        self._hold(done)
        return what

    def save_as(self, name: str, label_set: str, replace: bool) -> OpenedDiscovery:
        """Save the clusters as a label set, which follows them from then on."""
        index = self._library.index()
        known = self._known(index, name)
        try:
            done = self._written(
                lambda: save_clusters_as(index.path, index.state(), known, label_set, replace)
            )
        except LabelError as error:
            raise _label_set_taken(index, known, label_set, replace, error) from None
        self._hold(done)
        return done

    def forget(self, name: str) -> list[str]:
        """Remove a discovery; the label sets that followed it, which stay."""
        index = self._library.index()
        known = self._known(index, name)
        left = self._written(lambda: forget_discovery(index.path, known))
        with self._lock:
            self._opened.pop(known, None)
        return left

    def _expected(self, name: str, expected: str) -> OpenedDiscovery:
        opened = self.open(name)
        if opened.saved.state != expected:
            raise PageError(
                "These groups have changed since they were shown: look at them again first.", 409
            )
        return opened

    def _written(self, write: Callable[[], T]) -> T:
        try:
            return write()
        except PermissionError:
            raise PageError("The index cannot be written, so nothing was changed.", 403) from None

    def _hold(self, opened: OpenedDiscovery) -> None:
        with self._lock:
            self._opened[opened.saved.name] = opened
            self._opened.move_to_end(opened.saved.name)
            while len(self._opened) > _MOST_OPEN:
                self._opened.popitem(last=False)

    @staticmethod
    def _known(index: ImageIndex, name: str) -> str:
        for known in discovery_names(index.path):
            if same_name(known) == same_name(name):
                return known
        raise PageError("There is no such discovery.", 404)


def position_of(clusters: tuple[Cluster, ...], key: int) -> int:
    """The position of the cluster with a key; PageError (404) where there is none."""
    for position, cluster in enumerate(clusters):
        if cluster.key == key:
            return position
    raise PageError("There is no such group.", 404)


def reference_to(clusters: tuple[Cluster, ...], key: int) -> str:
    """How ``cluster_references.find_cluster`` finds the cluster with a key: by its name, so that
    the list of changes can be read, where no other has it."""
    cluster = clusters[position_of(clusters, key)]
    alike = [one for one in clusters if same_label(one.name) == same_label(cluster.name)]
    return cluster.name if len(alike) == 1 else f"#{key}"


def _refuse_dropping_all(opened: OpenedDiscovery, change: Change) -> None:
    if isinstance(change, Drop) and len(set(change.clusters)) >= len(opened.discovery):
        raise PageError(
            "At least one group has to stay. To be rid of all, forget the discovery.", 409
        )


def _label_set_taken(
    index: ImageIndex, discovery: str, label_set: str, replace: bool, error: LabelError
) -> Exception:
    if label_set not in label_set_names(index.path):
        return error  # it is no name at all
    leader = followed(index.path, label_set)
    if leader is not None and leader != discovery:
        return PageError(
            f"The label set {label_set} follows the discovery {leader}: choose another name.", 409
        )
    if replace:
        return error
    return PageError(
        f"There is a label set {label_set} already: choose another name, or let it be replaced.",
        409,
    )


def _cannot_open(name: str, error: Exception) -> PageError:
    if isinstance(error, SpaceMismatchError):
        return PageError(
            f"The discovery {name} was made with another model than the index answers with now: "
            "discover anew, or forget it.",
            409,
        )
    return PageError(f"The discovery {name} is damaged: discover anew, or forget it.", 409)
