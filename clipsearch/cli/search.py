"""``clipsearch search`` and ``clipsearch similar``."""

from __future__ import annotations

import contextlib
import math
import os
from typing import Any

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.output import (
    csv_lines,
    display_path,
    for_display,
    format_options,
    json_line,
    on_terminal,
    path_fields,
    table,
    write_bytes,
)
from clipsearch.cli.places import (
    device_option,
    existing_index,
    index_option,
    moved_model_option,
)
from clipsearch.errors import ImageError, QueryError
from clipsearch.file_kinds import container_of
from clipsearch.records import Hits


class ScoreOrNone(click.ParamType[Any]):
    """A number, or the word none."""

    name = "score"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        if value is None or str(value).lower() == "none":
            return None
        with contextlib.suppress(ValueError):
            if math.isfinite(float(value)):
                return float(value)
        self.fail(f"expected a number such as 0.25, or none; got {value!r}", param, ctx)


def _hit_options(function: Any) -> Any:
    options = [
        click.option(
            "-k", type=click.IntRange(min=1), default=10, show_default=True, envvar="CLIPSEARCH_K",
            help="How many images to bring.",
        ),
        click.option(
            "--min-score", type=ScoreOrNone(), metavar="SCORE|none", default=None,
            help="Leave out images below this score. Scores of different queries do not compare.",
        ),
        click.option("--exact", is_flag=True, help="Scan every vector; never approximate."),
        index_option,
        moved_model_option,
        device_option,
        format_options(),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@click.argument("words", nargs=-1, required=True)
@_hit_options
def search(
    words: tuple[str, ...],
    k: int,
    min_score: float | None,
    exact: bool,
    index_path: str | None,
    model: str | None,
    device: str | None,
    output: str | None,
) -> int:
    """Find images by words.

    On a terminal the best images come as a table; in a pipe as one path a line.

    \b
      clipsearch search a dog on a beach
      clipsearch search "a red car" -k 50 --json
      clipsearch search sunset -0 | xargs -0 ls -l
    """
    text = " ".join(words)
    if not text.strip():
        raise QueryError('the query is empty: say what to look for, such as "a dog on a beach"')
    from clipsearch.image_index import open_index

    opened = open_index(existing_index(index_path), model=model, device=device)
    hits = opened.search(text, k=k, min_score=min_score, exact=exact)
    return _print_hits(hits, output)


@click.command()
@click.argument("image", type=click.Path(path_type=str))
@_hit_options
def similar(
    image: str,
    k: int,
    min_score: float | None,
    exact: bool,
    index_path: str | None,
    model: str | None,
    device: str | None,
    output: str | None,
) -> int:
    """Find images like the file IMAGE, which may but need not be in the index."""
    from clipsearch.image_index import open_index

    opened = open_index(existing_index(index_path), model=model, device=device)
    try:
        hits = opened.similar(image, k=k, min_score=min_score, exact=exact)
    except ImageError as error:
        raise ImageError(error.reason, f"cannot take {for_display(image)}: {error}") from error
    return _print_hits(hits, output)


def _print_hits(hits: Hits, output: str | None) -> int:
    terminal = on_terminal()
    if not hits:
        # An empty answer is an answer: nothing on stdout, a word for a person, exit 1.
        click.echo("Nothing found.", err=True)
        return NOTHING_FOUND
    if output == "json":
        for hit in hits:
            document = {
                "id": hit.id,
                **path_fields(hit.path),
                "score": round(hit.score, 6),
                "cosine": round(hit.cosine, 6),
                "copies": [path_fields(copy)["path"] for copy in hit.copies],
                "missing": hit.missing,
            }
            write_bytes(json_line(document))
    elif output == "csv":
        rows = [
            (hit.id, path_fields(hit.path)["path"], f"{hit.score:.6f}", f"{hit.cosine:.6f}")
            for hit in hits
        ]
        write_bytes(csv_lines([("id", "path", "score", "cosine"), *rows]))
    elif output == "null" or not terminal:
        end = b"\0" if output == "null" else b"\n"
        write_bytes(b"".join(os.fsencode(hit.path) + end for hit in hits))
    else:
        lines = []
        for hit in hits:
            is_there = os.path.lexists(hit.path) or container_of(hit.path) is not None
            note = "  (not there now)" if hit.missing or not is_there else ""
            note = f"  (+{len(hit.copies)} copies)" + note if hit.copies else note
            lines.append((f"{hit.score:.3f}", display_path(hit.path) + note))
        click.echo(table(("score", "image"), lines, "r"))
    return FOUND
