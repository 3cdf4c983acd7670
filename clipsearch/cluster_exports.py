"""A discovery as files for people: its map, as a page or a picture, and its report."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from clipsearch.cluster_report import ReportNote, write_cluster_report
from clipsearch.clusters import Discovery
from clipsearch.errors import MissingExtraError, OptionError
from clipsearch.export_single_file import export_single_file
from clipsearch.export_writing import ExportReport
from clipsearch.image_index import ImageIndex
from clipsearch.map_coordinates import Progress
from clipsearch.map_files import map_file, update_map
from clipsearch.map_page import write_map_page
from clipsearch.map_picture import write_map_picture
from clipsearch.shared_folders import fetched

_PAGE, _PICTURE = (".html", ".htm"), (".png",)


@dataclass(frozen=True)
class MapExport:
    """What ``export_map`` did. unshown : how many names a picture has no letters for."""

    report: ExportReport
    unshown: int = 0


def check_report(index: ImageIndex, path: Path, *, force: bool) -> None:
    """Raise OptionError, before the work is done, where a report could not be written to
    ``path``."""
    if path.suffix.lower() not in _PAGE:
        raise OptionError(f"expected a report to end in .html, got {os.fspath(path)!r}")
    _check_place(index, path, force=force)


def check_map(index: ImageIndex, path: Path, *, force: bool) -> None:
    """Raise OptionError, before the work is done, where a map could not be written to ``path``;
    MissingExtraError where there is no openTSNE to lay one out, and none is kept."""
    _check_map_place(index, path)
    _check_place(index, path, force=force)
    if importlib.util.find_spec("openTSNE") is None and not fetched(map_file(index.path)).exists():
        raise MissingExtraError("a map needs an extra: pip install 'clipsearch[map]'")


def _check_place(index: ImageIndex, path: Path, *, force: bool) -> None:
    def nothing(file: IO[bytes]) -> None:
        pass

    kind = "html" if path.suffix.lower() in _PAGE else "png"
    export_single_file(index, kind, path, nothing, force=force, about="", dry_run=True)


def _check_map_place(index: ImageIndex, path: Path) -> None:
    ending = Path(path).suffix.lower()
    if ending not in (*_PAGE, *_PICTURE):
        raise OptionError(
            f"expected a map to end in .html (to move about in) or .png (a picture), got "
            f"{os.fspath(path)!r}"
        )
    if ending not in _PICTURE:
        return
    # With --force it could be written over a photo, and without be found as one.
    places = {os.path.normcase(place) for place in Path(os.path.realpath(path)).parents}
    for root in index.state().manifest.roots:
        # One that was never scanned only holds files that were named.
        if root.scanned_at is not None and os.path.normcase(os.path.realpath(root.path)) in places:
            raise OptionError(
                f"{os.fspath(path)!r} is in the folder of photos {root.path}, where it would be "
                "indexed as one: choose a place outside of it, or a .html"
            )


def export_map(
    index: ImageIndex,
    discovery: Discovery,
    path: Path,
    *,
    title: str,
    anew: bool = False,
    force: bool = False,
    dry_run: bool = False,
    on_progress: Progress | None = None,
) -> MapExport:
    """Write the map of a discovery to ``path``, a page or a picture by its ending.

    The places of the images are those of the map kept in the index, on which new images are
    placed; ``anew`` lays out another. See ``export_single_file`` for when a file that is there is
    replaced.

    Raises OptionError, ExportError, and MissingExtraError where openTSNE is not installed and
    has something to do.
    """
    _check_map_place(index, path)

    def nothing(file: IO[bytes]) -> None:
        pass

    is_page = path.suffix.lower() in _PAGE
    kind = "html" if is_page else "png"
    # Whether the file may be written is told before a map is laid out, which can take minutes.
    would = export_single_file(index, kind, path, nothing, force=force, about=title, dry_run=True)
    if dry_run:
        return MapExport(would)
    state = index.state()
    only = discovery.assignment.ids if discovery.facts.where is not None else None
    places = update_map(index.path, state, only=only, anew=anew, on_progress=on_progress)
    unshown = 0

    def write(file: IO[bytes]) -> None:
        nonlocal unshown
        if is_page:
            write_map_page(file, state, discovery, places, title)
        else:
            unshown = write_map_picture(file, state, discovery, places, title)

    report = export_single_file(index, kind, path, write, force=force, about=title, dry_run=False)
    return MapExport(report, unshown)


def export_cluster_report(
    index: ImageIndex,
    discovery: Discovery,
    path: Path,
    *,
    title: str,
    outliers: Sequence[ReportNote] | None = None,
    duplicates: Sequence[ReportNote] | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> ExportReport:
    """Write the report of a discovery to ``path``; see ``export_single_file`` for when a file
    that is there is replaced. Raises OptionError, ExportError."""

    def write(file: IO[bytes]) -> None:
        write_cluster_report(
            file, index.state(), discovery, title, outliers=outliers, duplicates=duplicates
        )

    return export_single_file(index, "html", path, write, force=force, about=title, dry_run=dry_run)
