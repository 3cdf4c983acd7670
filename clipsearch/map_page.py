"""The map of a discovery as one HTML file: to move about in, and to look at every image.

It has its data, its script and a bounded number of thumbnails in it, and a policy that lets
nothing else in.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from clipsearch.cluster_colours import (
    DARK,
    DARK_GROUND,
    DARK_NONE,
    LIGHT,
    LIGHT_GROUND,
    LIGHT_NONE,
)
from clipsearch.cluster_pictures import examples_in_turn, small_thumbnails
from clipsearch.clusters import Discovery
from clipsearch.file_kinds import container_of
from clipsearch.generation import Generation
from clipsearch.html_pages import (
    data_block,
    image_address,
    page_pieces,
    policy_hash,
    script_of_modules,
    shown,
    template_text,
)
from clipsearch.map_coordinates import Coordinates
from clipsearch.map_scene import MapScene, facts_of, map_scene
from clipsearch.shards import Int64

MOST_POINTS = 200_000
"""Of more images an even sample is shown."""
MOST_THUMBNAILS, MOST_THUMBNAIL_BYTES = 1_500, 8 << 20
"""What is in the file; the best examples of every cluster come first."""
_SIDE = 128  # pixels of a thumbnail
_GRID = 65_535  # steps of a place


def write_map_page(
    file: IO[bytes], state: Generation, discovery: Discovery, coordinates: Coordinates, title: str
) -> None:
    """Write the map as a page of UTF-8 HTML that needs nothing but a browser."""
    scene = map_scene(discovery, coordinates, MOST_POINTS)
    style = template_text("map_page.css")
    script = script_of_modules("map_page.js")
    for piece in page_pieces(
        "map_page.html",
        title=shown(title),
        facts=_facts(scene),
        style=style,
        style_hash=policy_hash(style),
        script=script,
        script_hash=policy_hash(script),
        data=data_block(_document(state, scene)),
    ):
        file.write(piece)


def _facts(scene: MapScene) -> str:
    text = facts_of(scene)
    if len(scene.ids) < scene.total:
        text += f"; an even sample of {len(scene.ids):,} is shown"
    return text


def _document(state: Generation, scene: MapScene) -> dict[str, Any]:
    """What the script reads. Images go by their row, and clusters by their position."""
    rows = {image: row for row, image in enumerate(scene.ids.tolist())}
    examples = [image for image in examples_in_turn(scene.shown) if image in rows]
    images = small_thumbnails(
        state,
        [*examples, *_others(scene.ids, examples)],
        side=_SIDE,
        most=MOST_THUMBNAILS,
        most_bytes=MOST_THUMBNAIL_BYTES,
    )
    folders, paths = _paths(state, scene.ids)
    return {
        "places": _base64(np.rint(scene.xy * _GRID).astype("<u2")),
        "groups": _base64(scene.clusters.astype("<i4")),
        "clusters": [
            {
                "name": shown(cluster.name),
                "size": cluster.size,
                "slot": int(slot),
                "x": round(float(x), 5) if np.isfinite(x) else None,
                "y": round(float(y), 5) if np.isfinite(y) else None,
                "first": next((rows[image] for image in cluster.typical if image in rows), -1),
            }
            for cluster, slot, (x, y) in zip(scene.shown, scene.slots, scene.centres, strict=True)
        ],
        "thumbnails": [[rows[image], image_address(data)] for image, data in images.items()],
        "folders": folders,
        "paths": paths,
        "light": {"ground": LIGHT_GROUND, "none": LIGHT_NONE, "colours": LIGHT},
        "dark": {"ground": DARK_GROUND, "none": DARK_NONE, "colours": DARK},
    }


def _others(ids: Int64, examples: Sequence[int]) -> list[int]:
    """As many further images as there may be thumbnails, evenly over all."""
    others = np.setdiff1d(ids, np.array(examples, np.int64), assume_unique=True)
    wanted = min(len(others), max(0, MOST_THUMBNAILS - len(examples)))
    chosen: list[int] = others[np.linspace(0, len(others) - 1, wanted).astype(np.int64)].tolist()
    return chosen


def _paths(state: Generation, ids: Int64) -> tuple[list[dict[str, Any]], list[list[Any]]]:
    """The folders, each as it is shown and as an address; and of every image its folder, its
    name, and 0 behind that where the name is shown otherwise than it is."""
    folders: dict[str, int] = {}
    listed: list[dict[str, Any]] = []
    paths: list[list[Any]] = []
    for data in state.paths.path_column(ids).to_pylist():
        if data is None:
            paths.append([-1, ""])
            continue
        folder, name = os.path.split(os.fsdecode(data))
        if folder not in folders:
            folders[folder] = len(listed)
            listed.append(
                {"shown": shown(os.path.join(folder, "")), "address": _address(Path(folder))}
            )
        text = shown(name)
        paths.append([folders[folder], text] if text == name else [folders[folder], text, 0])
    return listed, paths


def _address(folder: Path) -> str | None:
    """The address of a folder; None for one inside a tar, or of another system."""
    if container_of(folder / "image") is not None or not folder.is_absolute():
        return None
    address = folder.as_uri()
    return address if address.endswith("/") else f"{address}/"


def _base64(numbers: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(numbers).tobytes()).decode("ascii")
