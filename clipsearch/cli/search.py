"""``clipsearch search`` and ``clipsearch similar``."""

from __future__ import annotations

import shlex
from dataclasses import replace

import click

from clipsearch.cli.database_options import AskedBackend, search_backend_options
from clipsearch.cli.filter_options import filter_options
from clipsearch.cli.fuse_option import FuseCommand, fuse_option, fused_hits
from clipsearch.cli.hit_output import print_hits
from clipsearch.cli.output import for_display, format_options, on_terminal
from clipsearch.cli.places import (
    device_option,
    existing_index,
    index_option,
    moved_model_option,
    space_option,
)
from clipsearch.cli.search_options import Asked, asked_of, cut_options, image_part, search_options
from clipsearch.cli.show import check_preview, show_hits, show_options
from clipsearch.errors import OptionError
from clipsearch.image_index import open_index
from clipsearch.query import Query, weighted_texts


@click.command(cls=FuseCommand)
@search_options
@show_options
@click.option(
    "--save",
    "save_as",
    metavar="NAME",
    help="Keep this search: clipsearch saved NAME lists what is new since.",
)
@fuse_option
@search_backend_options
@index_option
@moved_model_option
@space_option
@device_option
@format_options()
def search(
    asked: Asked,
    save_as: str | None,
    opens: bool,
    preview: bool,
    fuse: str | None,
    backend: AskedBackend,
    index_path: str | None,
    model: str | None,
    space: str | None,
    device: str | None,
    output: str | None,
) -> int:
    """Find images by words, by images, by what is known of them, or by all of these.

    On a terminal the best images come as a table; in a pipe as one path a line, and nothing
    that stayed below the cut-off.

    \b
      clipsearch search a dog on a beach
      clipsearch search a beach --not people --since 2019 --sort date
      clipsearch search --like beach.jpg --plus snow^2 --in ~/Pictures
      clipsearch search "a red car" -k all --json
      clipsearch search sunset -0 | xargs -0 ls -l
    """
    return _answer(
        asked, save_as, opens, preview, fuse, backend, index_path, model, space, device, output
    )


@click.command(cls=FuseCommand)
@click.argument("image", type=click.Path(path_type=str))
@cut_options
@filter_options
@show_options
@fuse_option
@search_backend_options
@index_option
@moved_model_option
@space_option
@device_option
@format_options()
def similar(
    image: str,
    opens: bool,
    preview: bool,
    fuse: str | None,
    backend: AskedBackend,
    index_path: str | None,
    model: str | None,
    space: str | None,
    device: str | None,
    output: str | None,
    **options: object,
) -> int:
    """Find images like the file IMAGE, which may but need not be in the index.

    - is an image on standard input.
    """
    asked = asked_of(options, Query(like=(image_part(image),)))
    return _answer(
        asked, None, opens, preview, fuse, backend, index_path, model, space, device, output
    )


def _answer(
    asked: Asked,
    save_as: str | None,
    opens: bool,
    preview: bool,
    fuse: str | None,
    backend: AskedBackend,
    index_path: str | None,
    model: str | None,
    space: str | None,
    device: str | None,
    output: str | None,
) -> int:
    if opens and not asked.given_k:
        asked = replace(asked, k=1)
    if save_as is not None and space is not None:
        raise OptionError(
            "a saved search asks the model that the index answers with: leave out --save or --space"
        )
    if save_as is not None and fuse is not None:
        raise OptionError("a saved search asks one model: leave out --save or --fuse")
    if fuse is not None and not backend.is_local:
        raise OptionError("--fuse asks several models of the index: leave out --fuse or --backend")
    if preview:
        check_preview()
    database = backend.database()
    opened = open_index(
        existing_index(index_path), model=model, device=device, space=space, database=database
    )
    texts = [text for text, _ in weighted_texts((*asked.query.plus, *asked.query.minus))]
    words = " ".join([asked.query.text or "", *texts])
    if on_terminal() and words.strip():
        from clipsearch.query_language import language_note

        note = language_note(words, opened.space.model)
        if note is not None:
            click.echo(for_display(note), err=True)
    # A path a line has no room for them.
    strengths = output in ("json", "csv") or (output is None and on_terminal())
    if fuse is None:
        hits = asked.hits(opened, strengths=strengths)
    else:
        hits = fused_hits(opened, fuse, asked, strengths=strengths)
    behind = database.behind(opened.state()) if database is not None else None
    if behind is not None:
        click.echo(for_display(behind), err=True)
    if save_as is not None:
        from clipsearch.saved_searches import save_search

        # Of what is new every image would be a hit, were there no cut-off.
        kept = asked.query if asked.given_cut else replace(asked.query, min_score="auto")
        save_search(opened, save_as, kept)
        again = ["clipsearch", "saved", save_as]
        again += ["--index", index_path] if index_path is not None else []
        click.echo(f"Saved: '{for_display(shlex.join(again))}' lists what is new since.", err=True)
    if not hits:
        for folder in asked.folders_without_images(opened):
            click.echo(f"Nothing in the index is in {for_display(folder)}", err=True)
    code = print_hits(hits, output or "auto", offset=asked.offset)
    show_hits(opened, hits, opens=opens, preview=preview)
    return code
