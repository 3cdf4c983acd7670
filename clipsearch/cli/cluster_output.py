"""Printing discoveries and their clusters: tables for a person, lines for a pipe, NDJSON, CSV."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.output import (
    counted,
    csv_lines,
    display_path,
    for_display,
    json_line,
    on_terminal,
    path_fields,
    table,
    write_bytes,
)
from clipsearch.cluster_files import SavedDiscovery
from clipsearch.cluster_labels import following
from clipsearch.clusters import Cluster, Discovery
from clipsearch.image_index import ImageIndex
from clipsearch.paths import Place
from clipsearch.saved_clusters import OpenedDiscovery
from clipsearch.wordnet import WordNet

_DISCOVERY_COLUMNS = ("name", "clusters", "images", "method", "edits", "label_sets", "made_at")
_CLUSTER_COLUMNS = (
    "key", "name", "images", "share", "confidence", "by_hand", "broader", "candidates", "typical",
)  # fmt: skip


def print_discoveries(index: Path, found: Sequence[SavedDiscovery], output: str) -> None:
    """The saved discoveries: name, clusters, images, how they were made and what follows them."""
    documents = [_discovery_document(index, one) for one in found]
    if output == "json":
        for document in documents:
            write_bytes(json_line(document))
    elif output == "csv":
        rows = [[*row.values()] for row in documents]
        for row in rows:
            row[5] = "; ".join(row[5])
        write_bytes(csv_lines([_DISCOVERY_COLUMNS, *rows]))
    elif output == "null" or not on_terminal():
        end = "\0" if output == "null" else "\n"
        write_bytes("".join(one.name + end for one in found).encode())
    elif documents:
        cells = [
            (
                for_display(row["name"]), f"{row['clusters']:,}", f"{row['images']:,}",
                for_display(row["method"]), f"{row['edits']:,}", ", ".join(row["label_sets"]),
                for_display(row["made_at"][:10]),
            )
            for row in documents
        ]  # fmt: skip
        header = [column.replace("_", " ") for column in _DISCOVERY_COLUMNS]
        click.echo(table(header, cells, "lrrlr"))


def _discovery_document(index: Path, saved: SavedDiscovery) -> dict[str, Any]:
    return {
        "name": saved.name,
        "clusters": saved.tables.clusters.rows,
        "images": saved.tables.assignments.rows,
        "method": saved.facts.method,
        "edits": len(saved.edits),
        "label_sets": following(index, saved),
        "made_at": saved.facts.made_at,
    }


def print_clusters(index: ImageIndex, discovery: Discovery, output: str) -> int:
    """The clusters of a discovery; the exit code. In a pipe name, images, confidence and the
    path of the most typical image with tabs between them."""
    typical = [cluster.typical[:1] for cluster in discovery.clusters]
    places = _places(index, [one[0] for one in typical if one])
    images = max(1, len(discovery.assignment))
    if output == "json":
        every = [i for one in discovery.clusters for i in (*one.typical, *one.doubtful)]
        places = _places(index, every)
        for cluster in discovery.clusters:
            write_bytes(json_line(_cluster_document(cluster, images, places)))
    elif output == "csv":
        rows = [_csv_row(cluster, images, places) for cluster in discovery.clusters]
        write_bytes(csv_lines([_CLUSTER_COLUMNS, *rows]))
    elif output == "null" or not on_terminal():
        lines = []
        for cluster in discovery.clusters:
            path = os.fsencode(_first_path(cluster, places) or "")
            texts = (cluster.name, str(cluster.size), f"{cluster.confidence:.3f}")
            fields = [text.encode("utf-8", "replace") for text in texts]
            lines.append(b"\t".join([*fields, path]) + (b"\0" if output == "null" else b"\n"))
        write_bytes(b"".join(lines))
    else:
        _print_for_person(discovery, images, places)
    return FOUND if discovery.clusters else NOTHING_FOUND


def _print_for_person(discovery: Discovery, images: int, places: dict[int, Place]) -> None:
    rows = []
    for cluster in discovery.clusters:
        others = [one.name for one in cluster.candidates if one.name != cluster.name]
        path = _first_path(cluster, places)
        rows.append(
            (
                for_display(cluster.name), f"{cluster.size:,}", f"{cluster.size / images:.1%}",
                "by hand" if cluster.by_hand else f"{cluster.confidence:.2f}",
                for_display(", ".join(others)), for_display(cluster.broader or ""),
                display_path(path) if path is not None else "",
            )
        )  # fmt: skip
    header = ("cluster", "images", "share", "confidence", "or", "broader", "typical image")
    kept = [
        column
        for column, head in enumerate(header)
        if head not in ("or", "broader") or any(row[column] for row in rows)
    ]
    sides = "".join("lrrrlll"[column] for column in kept)
    cells = [[row[column] for column in kept] for row in rows]
    click.echo(table([header[column] for column in kept], cells, sides))
    none = int((discovery.assignment.clusters < 0).sum())
    click.echo(
        f"{counted(len(discovery), 'cluster')} of {counted(len(discovery.assignment), 'image')}"
        + (f"; {none:,} are in none." if none else "."),
        err=True,
    )


def tell_opened(index: Path, opened: OpenedDiscovery) -> None:
    """What opening a discovery changed, and what could not be kept."""
    changes = []
    if opened.added:
        changes.append(f"{counted(opened.added, 'new image')} put in the nearest cluster")
    if opened.gone:
        changes.append(f"{counted(opened.gone, 'image')} gone since left out")
    if changes:
        click.echo(f"{' and '.join(changes)}.", err=True)
    if not opened.is_kept:
        click.echo("Note: that could not be saved in the index, and is done again each time.",
                   err=True)  # fmt: skip


def tell_damage(wordnet: WordNet | None) -> None:
    """Say why there are no broader words, where WordNet's files were not whole."""
    if wordnet is not None and wordnet.damage is not None:
        click.echo(
            f"Note: {for_display(str(wordnet.damage))}; broader words are left out.", err=True
        )


def _places(index: ImageIndex, ids: Sequence[int]) -> dict[int, Place]:
    found = index.paths().first_places(ids)
    return {i: place for i, place in zip(ids, found, strict=True) if place is not None}


def _first_path(cluster: Cluster, places: dict[int, Place]) -> Path | None:
    place = places.get(cluster.typical[0]) if cluster.typical else None
    return place.path if place is not None else None


def _cluster_document(cluster: Cluster, images: int, places: dict[int, Place]) -> dict[str, Any]:
    def shown(ids: Sequence[int]) -> list[dict[str, Any]]:
        return [{"id": i, **path_fields(places[i].path)} for i in ids if i in places]

    return {
        "key": cluster.key,
        "name": cluster.name,
        "images": cluster.size,
        "share": round(cluster.size / images, 6),
        "confidence": round(cluster.confidence, 6),
        "by_hand": cluster.by_hand,
        "broader": cluster.broader,
        "candidates": [
            {"name": one.name, "score": round(one.score, 6), "votes": round(one.votes, 6)}
            for one in cluster.candidates
        ],
        "typical": shown(cluster.typical),
        "doubtful": shown(cluster.doubtful),
    }


def _csv_row(cluster: Cluster, images: int, places: dict[int, Place]) -> tuple[object, ...]:
    document = _cluster_document(cluster, images, places)
    typical = document["typical"]
    return (
        *(document[name] for name in _CLUSTER_COLUMNS[:6]),
        cluster.broader or "",
        "; ".join(one.name for one in cluster.candidates),
        typical[0]["path"] if typical else "",
    )
