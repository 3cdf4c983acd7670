"""``clipsearch saved``."""

from __future__ import annotations

import click

from clipsearch.cli import ERROR, FOUND, NOTHING_FOUND
from clipsearch.cli.hit_output import print_hits
from clipsearch.cli.output import (
    counted,
    csv_lines,
    for_display,
    format_options,
    json_line,
    on_terminal,
    table,
    write_bytes,
)
from clipsearch.cli.places import device_option, existing_index, index_option, moved_model_option
from clipsearch.cli.query_text import query_text
from clipsearch.errors import ClipsearchError
from clipsearch.image_index import ImageIndex, open_index
from clipsearch.saved_searches import (
    SavedSearch,
    forget_search,
    mark_seen,
    new_hits,
    saved_search,
    saved_search_names,
)


@click.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="List old hits too.")
@click.option("--peek", is_flag=True, help="Look, and let what is new stay new.")
@click.option("--forget", is_flag=True, help="Remove the saved search NAME.")
@index_option
@moved_model_option
@device_option
@format_options()
def saved(
    name: str | None,
    everything: bool,
    peek: bool,
    forget: bool,
    index_path: str | None,
    model: str | None,
    device: str | None,
    output: str | None,
) -> int:
    """List what is new for a saved search since you last looked.

    Without NAME: all saved searches, and how much is new for each.

    \b
      clipsearch search two dogs --not snow --save dogs
      clipsearch saved dogs
    """
    place = existing_index(index_path)
    if name is None:
        if everything or peek or forget:
            raise click.UsageError("name a saved search to use --all, --peek or --forget with")
        return _list(open_index(place, model=model, device=device), output or "auto")
    if forget:
        forget_search(place, name)
        click.echo(f"Forgotten: {for_display(name)}", err=True)
        return FOUND
    chosen = saved_search(place, name)
    opened = open_index(place, model=model, device=device)
    hits = opened.search(chosen.query, k=None) if everything else new_hits(opened, chosen)
    if not hits:
        what = "Nothing found" if everything else f"Nothing new since {chosen.looked_at[:10]}"
        click.echo(f"{what} for {query_text(chosen.query)}.", err=True)
        code = NOTHING_FOUND
    else:
        code = print_hits(hits, output or "auto")
    if not peek:
        mark_seen(opened, chosen)
    return code


def _list(opened: ImageIndex, output: str) -> int:
    found: list[tuple[SavedSearch, int]] = []
    names = saved_search_names(opened.path)
    for name in names:
        try:
            one = saved_search(opened.path, name)
            found.append((one, len(new_hits(opened, one))))
        except ClipsearchError as error:  # its label or its image is gone: the others are not
            click.echo(for_display(f"{name} cannot be asked: {error}"), err=True)
    code = FOUND if len(found) == len(names) else ERROR
    if not names:
        click.echo("No saved searches: search WORDS --save NAME makes one.", err=True)
        return NOTHING_FOUND
    if not found:
        return code
    if output == "json":
        for one, count in found:
            write_bytes(json_line(_document(one, count)))
    elif output == "csv":
        rows = [tuple(_document(one, count).values()) for one, count in found]
        write_bytes(csv_lines([("name", "query", "new", "looked_at"), *rows]))
    elif output == "null" or not on_terminal():
        end = "\0" if output == "null" else "\n"
        write_bytes("".join(one.name + end for one, _ in found).encode())
    else:
        cells = [
            (for_display(one.name), query_text(one.query), f"{count:,}", one.looked_at[:10])
            for one, count in found
        ]
        click.echo(table(("name", "query", "new", "looked at"), cells, "llr"))
        total = sum(count for _, count in found)
        click.echo(f"{counted(total, 'new hit')} in all.", err=True)
    return code


def _document(one: SavedSearch, count: int) -> dict[str, object]:
    return {
        "name": one.name,
        "query": query_text(one.query),
        "new": count,
        "looked_at": one.looked_at,
    }
