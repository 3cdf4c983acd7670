"""The map of a library as a browser gets it: where every image is, and which cluster it is in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsearch.cluster_colours import (
    DARK,
    DARK_GROUND,
    DARK_NONE,
    LIGHT,
    LIGHT_GROUND,
    LIGHT_NONE,
)
from clipsearch.cluster_files import discovery_names
from clipsearch.cluster_reading import read_saved_discovery
from clipsearch.errors import ClipsearchError
from clipsearch.generation import Generation
from clipsearch.map_coordinates import Coordinates
from clipsearch.map_files import map_file, read_map
from clipsearch.map_scene import MapScene, scene_of
from clipsearch.saved_clusters import open_discovery
from clipsearch.shards import Int64
from clipsearch.shared_folders import fetched
from ui.library import Library
from ui.map_making import MapMaking
from ui.page_errors import PageError

MOST_POINTS = 1_000_000
"""Of more images an even sample is shown."""
NO_CLUSTERS = "-"
"""Asks for a map without clusters; no discovery can have this name."""
_GRID = 65_535  # steps of a place
_KEPT = 2  # scenes, so that a page that is opened again is quick


@dataclass(frozen=True)
class PackedScene:
    """A scene as it is sent.

    data : JSON, its length before it as a uint32 and blanks behind it up to a multiple of 8;
        then (n,) float64 ids, (n,) int32 clusters, -1 for none, and (n, 2) uint16 places, all
        little-endian. tag : differs wherever the data do.
    """

    data: bytes
    tag: str


@dataclass(frozen=True)
class DiscoveryChoice:
    """A discovery whose clusters a map can show. state : changes with its clusters."""

    name: str
    made_at: str
    state: str


class MapScenes:
    """The scenes of a library's map, made when they are asked for and kept for a while. Safe for
    threads; one is made at a time."""

    def __init__(self, library: Library, making: MapMaking) -> None:
        self._library = library
        self._making = making
        self._lock = threading.Lock()
        self._scenes: OrderedDict[tuple[Any, ...], PackedScene] = OrderedDict()
        self._read: tuple[tuple[Any, ...], Coordinates | None] | None = None

    def coordinates(self) -> Coordinates | None:
        """The map of the index, None where there is none of its model that is sound."""
        with self._lock:
            return self._coordinates()

    def placed(self) -> tuple[int, int]:
        """How many images there are, and how many of them have a place."""
        state, found = self._library.index().state(), self.coordinates()
        ids = _live(state)
        return len(ids), 0 if found is None else len(found.of(ids)[0])

    def choices(self) -> list[DiscoveryChoice]:
        """The discoveries of the index's model, the newest first; damaged ones are left out."""
        index = self._library.index()
        space = index.space.fingerprint
        found = []
        for name in discovery_names(index.path):
            with contextlib.suppress(ClipsearchError, OSError):
                saved = read_saved_discovery(index.path, name)
                if saved.facts.space == space:
                    found.append(DiscoveryChoice(saved.name, saved.facts.made_at, saved.state))
        return sorted(found, key=lambda choice: choice.made_at, reverse=True)

    def scene(self, clusters: str) -> PackedScene:
        """The map with the clusters of a discovery: "" for the newest, NO_CLUSTERS for none.

        Raises PageError (404) for a discovery that is not there, or without a map.
        """
        choice = self._choice(clusters)
        state = self._library.index().state()
        with self._lock:
            found = self._coordinates()
            if found is None:
                raise PageError("There is no map yet.", status=404)
            key = (
                state.manifest.uuid,
                state.manifest.generation,
                _digest(found),
                None if choice is None else (choice.name, choice.state),
            )
            if key not in self._scenes:
                self._scenes[key] = self._packed(state, found, choice, key)
                while len(self._scenes) > _KEPT:
                    self._scenes.popitem(last=False)
            self._scenes.move_to_end(key)
            return self._scenes[key]

    def _choice(self, clusters: str) -> DiscoveryChoice | None:
        choices = self.choices()
        if clusters == NO_CLUSTERS or (not clusters and not choices):
            return None
        for choice in choices:
            if clusters in ("", choice.name):
                return choice
        raise PageError("There are no groups of that name.", status=404)

    def _packed(
        self,
        state: Generation,
        found: Coordinates,
        choice: DiscoveryChoice | None,
        key: tuple[Any, ...],
    ) -> PackedScene:
        discovery = None
        if choice is not None:
            index = self._library.index()
            discovery = open_discovery(index.path, state, choice.name).discovery
        scene = scene_of(*found.of(_live(state)), discovery, MOST_POINTS)
        document = {"clusters_of": None if choice is None else choice.name, **_document(scene)}
        head = json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        head += b" " * (-(4 + len(head)) % 8)
        data = b"".join(
            (
                np.array([len(head)], "<u4").tobytes(),
                head,
                scene.ids.astype("<f8").tobytes(),
                scene.clusters.astype("<i4").tobytes(),
                np.rint(scene.xy * _GRID).astype("<u2").tobytes(),
            )
        )
        return PackedScene(data, hashlib.sha256(repr(key).encode()).hexdigest()[:32])

    def _coordinates(self) -> Coordinates | None:
        index = self._library.index()
        state = index.state()
        key: tuple[Any, ...] = (state.manifest.uuid, None)
        with contextlib.suppress(OSError):
            facts = os.stat(fetched(map_file(index.path)))
            key = (state.manifest.uuid, facts.st_mtime_ns, facts.st_size, facts.st_ino)
        if self._read is None or self._read[0] != key:
            found = None
            with contextlib.suppress(ClipsearchError, OSError):
                found = read_map(index.path, state.manifest.uuid)
            self._read = (key, found)
        unkept = self._making.unkept
        for candidate in (unkept, self._read[1]):
            if candidate is not None and candidate.space == state.space.fingerprint:
                return candidate
        return None


def _live(state: Generation) -> Int64:
    """The rising ids of all images that can be found."""
    ids: Int64 = np.setdiff1d(state.vectors.ids, state.vectors.deleted, assume_unique=True)
    return ids


def _digest(found: Coordinates) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(found.ids).data)
    digest.update(np.ascontiguousarray(found.xy).data)
    return digest.hexdigest()


def _document(scene: MapScene) -> dict[str, Any]:
    """What is told of a scene beside its points. Images go by their row."""

    def row_of(image: int) -> int:
        row = int(np.searchsorted(scene.ids, image))
        return row if row < len(scene.ids) and scene.ids[row] == image else -1

    def first_of(typical: tuple[int, ...]) -> int:
        return next((row for row in map(row_of, typical) if row >= 0), -1)

    return {
        "count": len(scene.ids),
        "total": scene.total,
        "outside": scene.outside,
        "clusters": [
            {
                "key": cluster.key,
                "name": cluster.name,
                "size": cluster.size,
                "slot": int(slot),
                "x": round(float(x), 5) if np.isfinite(x) else None,
                "y": round(float(y), 5) if np.isfinite(y) else None,
                "first": first_of(cluster.typical),
            }
            for cluster, slot, (x, y) in zip(scene.shown, scene.slots, scene.centres, strict=True)
        ],
        "light": {"ground": LIGHT_GROUND, "none": LIGHT_NONE, "colours": LIGHT},
        "dark": {"ground": DARK_GROUND, "none": DARK_NONE, "colours": DARK},
    }
