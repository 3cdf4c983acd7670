"""``clipsearch sync``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.database_options import asked_place, uri_option
from clipsearch.cli.output import counted, for_display, json_line, write_bytes
from clipsearch.cli.places import existing_index, index_option, space_option
from clipsearch.cli.stage_progress import StageProgress

if TYPE_CHECKING:
    from clipsearch.database_check import CheckReport
    from clipsearch.database_place import DatabasePlace
    from clipsearch.database_sync import SyncReport
    from clipsearch.generation import Generation
    from clipsearch.shards import Int64

_SHOWN_IDS = 10


@click.command()
@uri_option
@click.option(
    "--check",
    "checks",
    is_flag=True,
    help="Change nothing: compare every id, and the vectors of a sample, and say what differs. "
    "The exit code is 1 then.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@index_option
@space_option
def sync(
    milvus_uri: str | None, checks: bool, as_json: bool, index_path: str | None, space: str | None
) -> int:
    """Bring Milvus up to the index: new and changed images go there, deleted ones go from there.

    Run it after each 'clipsearch index'. What is there already is not sent again; one that was cut
    short goes on where it was.

    \b
      clipsearch sync --uri http://milvus:19530
      clipsearch sync --uri ./vectors.db --check
      clipsearch search a dog on a beach --backend milvus --uri ./vectors.db
    """
    place = asked_place(milvus_uri)
    from clipsearch.image_index import open_index
    from clipsearch.milvus_index import MilvusIndex, connect

    opened = open_index(existing_index(index_path), space=space)
    if checks and place.file is not None and not place.file.exists():
        click.echo(f"there is no {for_display(place.uri)}: nothing was synced to it", err=True)
        return NOTHING_FOUND
    client = connect(place, make=not checks)

    def copy_of(state: Generation) -> MilvusIndex:
        return MilvusIndex(place, client, state.manifest.uuid, state.space)

    # A writer may clear away what is still to be read: then the newest generation is taken.
    if checks:
        from clipsearch.database_check import check

        with StageProgress() as progress:

            def compared(done: int, total: int) -> None:
                progress("comparing", done, total)

            found = opened.of_newest(
                lambda state: check(state, copy_of(state), on_progress=compared)
            )
        return _print_check(found, place, as_json)
    from clipsearch.database_sync import sync as bring

    try:
        with StageProgress() as progress:

            def synced(done: int, total: int) -> None:
                progress("syncing", done, total)

            report = opened.of_newest(
                lambda state: bring(state, copy_of(state), on_progress=synced)
            )
    except KeyboardInterrupt:
        click.echo("What was synced is kept: run the same command again to go on.", err=True)
        raise
    _print_sync(report, place, as_json)
    return FOUND


def _print_sync(report: SyncReport, place: DatabasePlace, as_json: bool) -> None:
    if as_json:
        write_bytes(json_line(dataclasses.asdict(report)))
        return
    where = for_display(place.uri)
    line = f"{where} holds {counted(report.images, 'image')}, generation {report.generation}: "
    if report.sent or report.removed:
        line += f"{report.sent:,} sent, {report.removed:,} removed"
    else:
        line += "nothing was new"
    click.echo(line)


def _print_check(report: CheckReport, place: DatabasePlace, as_json: bool) -> int:
    kinds = {
        "missing": report.missing,
        "extra": report.extra,
        "other_vectors": report.other_vectors,
        "other_fields": report.other_fields,
    }
    code = FOUND if report.is_same else NOTHING_FOUND
    if as_json:
        counts = {name: len(ids) for name, ids in kinds.items()}
        first = {f"{name}_ids": ids[:_SHOWN_IDS].tolist() for name, ids in kinds.items()}
        document = {
            "same": report.is_same,
            "images": report.images,
            "synced": report.synced,
            "behind": report.behind,
            "compared": report.compared,
        }
        write_bytes(json_line({**document, **counts, **first}))
        return code
    where = for_display(place.uri)
    if report.is_same:
        click.echo(
            f"{where} holds the same {counted(report.images, 'image')}; the vectors and fields of "
            f"{report.compared:,} were compared"
        )
        return code
    if report.synced is None:
        click.echo(f"{where}: no sync of this index has come to its end there")
    elif report.behind:
        click.echo(f"{where} is at generation {report.synced}, and the index has changed since")
    words = {
        "missing": "not there",
        "extra": "there and not in the index",
        "other_vectors": "with another vector",
        "other_fields": "with other metadata",
    }
    for name, ids in kinds.items():
        if len(ids):
            click.echo(f"{counted(len(ids), 'image')} {words[name]}: {_some(ids)}")
    click.echo("'clipsearch sync' mends what it knows to have changed.", err=True)
    return code


def _some(ids: Int64) -> str:
    more = f" and {len(ids) - _SHOWN_IDS:,} more" if len(ids) > _SHOWN_IDS else ""
    return "id " + ", ".join(str(image_id) for image_id in ids[:_SHOWN_IDS].tolist()) + more
