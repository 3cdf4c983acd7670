"""``clipsearch status``."""

from __future__ import annotations

import dataclasses

import click

from clipsearch.cli import FOUND
from clipsearch.cli.output import counted, for_display, human_bytes, json_line, table, write_bytes
from clipsearch.cli.places import existing_index, index_option


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
        ("search", report.search_kind),
        ("updated", f"{report.updated_at}, generation {report.generation}"),
    ]
    for root in report.roots:
        when = f", last scanned {root['scanned_at']}" if root["scanned_at"] else ""
        when += "" if root["there"] else "; not there now"
        rows.append(("folder", f"{for_display(root['path'])}{when}"))
    click.echo(table(("", ""), rows).lstrip("\n"))
    return FOUND
