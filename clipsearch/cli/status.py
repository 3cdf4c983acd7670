"""``clipsearch status``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from clipsearch.backends import REFERENCE
from clipsearch.cli import FOUND
from clipsearch.cli.output import counted, for_display, human_bytes, json_line, table, write_bytes
from clipsearch.cli.places import existing_index, index_option

if TYPE_CHECKING:
    from clipsearch.records import IndexStatus, SpaceStatus


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@index_option
def status(index_path: str | None, as_json: bool) -> int:
    """Show what an index holds: counts, model, size, folders and how fresh it is."""
    from clipsearch.image_index import open_index

    report = open_index(existing_index(index_path)).status()
    if as_json:
        write_bytes(json_line(dataclasses.asdict(report)))
        return FOUND
    files = f"{counted(report.files_present, 'file')} present"
    if report.files_missing:
        files += f", {report.files_missing:,} missing"
    if report.copies:
        files += f", {report.copies:,} of them copies"
    rows = [
        ("index", for_display(report.path)),
        ("images", f"{report.images:,} ({files})"),
        ("skipped", counted(report.skipped, "image")),
        ("model", f"{for_display(str(report.model))} (vectors of {report.dim} numbers)"),
        ("space", str(report.space)),
        ("size", f"{human_bytes(report.truth_bytes)} + {human_bytes(report.cache_bytes)} cache"),
        ("search", _search(report)),
        ("updated", f"{report.updated_at}, generation {report.generation}"),
    ]
    if set(report.backends) - {REFERENCE}:
        by = (f"{for_display(name)} ({count:,})" for name, count in report.backends.items())
        rows.insert(5, ("encoded", f"by {', '.join(by)}"))
    if report.spaces and report.spaces[0].lacking:
        have = "has" if report.spaces[0].lacking == 1 else "have"
        rows.append(("", f"{counted(report.spaces[0].lacking, 'image')} {have} no vector yet"))
    for space in report.spaces[1:]:
        rows.append(("also", _other_space(space)))
    for root in report.roots:
        when = f", last scanned {root['scanned_at']}" if root["scanned_at"] else ""
        when += "" if root["there"] else "; not there now"
        rows.append(("folder", f"{for_display(root['path'])}{when}"))
    click.echo(table(("", ""), rows).lstrip("\n"))
    return FOUND


def _other_space(space: SpaceStatus) -> str:
    model = f"{for_display(space.model)} (vectors of {space.dim} numbers)"
    if not space.lacking:
        return f"{model}, of every image"
    return f"{model}, of {space.vectors:,} images; {space.lacking:,} have none yet"


def _search(report: IndexStatus) -> str:
    measured = report.search_measured
    if measured is None:
        return (
            report.search_kind
            if report.search_kind == "exact"
            else (f"{report.search_kind} (recall not measured)")
        )
    found = (
        f"recall@{measured.k} {measured.recall:.3f} "
        f"({measured.low:.3f} to {measured.high:.3f} at 95 %, "
        f"on {measured.queries:,} held-out texts)"
    )
    if measured.reached:
        return f"{report.search_kind}, {found}"
    return f"exact; an index reaches only {found}"
