"""``clipsearch compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.filter_options import filter_from_options, filter_options
from clipsearch.cli.output import for_display, format_options, on_terminal
from clipsearch.cli.places import (
    device_option,
    existing_index,
    index_option,
    moved_model_option,
    named_index,
)
from clipsearch.cli.text_progress import TextProgress
from clipsearch.errors import OptionError

if TYPE_CHECKING:
    from clipsearch.filter_options import FilterOptions
    from clipsearch.image_index import ImageIndex
    from clipsearch.label_comparison import Comparison, Labelled

IMAGES, CHANGES, SUMMARY = "images", "changes", "summary"
_PAGES = (".html", ".htm")


@click.command()
@click.argument("sets", nargs=-1, required=True, metavar="A [B]")
@click.option(
    "--with", "other_path", metavar="INDEX", type=click.Path(path_type=str),
    help="B is a set of this other index; images are the same where their content is.",
)  # fmt: skip
@click.option(
    "--models", is_flag=True,
    help="Compare what the two models of the index say with the labels of A; see 'model add'.",
)  # fmt: skip
@click.option(
    "--show", type=click.Choice([IMAGES, CHANGES, SUMMARY]), default=IMAGES, show_default=True,
    help="What a pipe, --json and --csv get: the images that are called something else, what "
    "became of what, or how far they agree.",
)  # fmt: skip
@click.option("--a", metavar="LABEL", help='Only images that A calls so; "" for no label.')
@click.option("--b", metavar="LABEL", help="Only images that B calls so.")
@click.option(
    "--out", "out_path", metavar="FILE", type=click.Path(path_type=str),
    help="Write the images to FILE: .html, to look at them, or .parquet, .csv or .json.",
)  # fmt: skip
@click.option("--title", metavar="TEXT", help="The title of the .html.")
@click.option("--force", is_flag=True, help="Replace an .html that is there, for good.")
@filter_options
@index_option
@moved_model_option
@device_option
@format_options(null=False)
def compare(
    sets: tuple[str, ...],
    other_path: str | None,
    models: bool,
    show: str,
    a: str | None,
    b: str | None,
    out_path: str | None,
    title: str | None,
    force: bool,
    index_path: str | None,
    model: str | None,
    device: str | None,
    output: str | None,
    filters: FilterOptions | None,
) -> int:
    """Compare two saved label sets: how far they agree, what became of what, and the images that
    are called something else, those that both are sure of first.

    A and B are names of sets, or of their versions such as animals@3. With one name alone the
    set is compared with its version before, with --with to the set of that name over there, and
    with --models by the two models of the index.

    \b
      clipsearch compare animals
      clipsearch compare animals@2 pets --a dog --b wolf
      clipsearch compare animals --with ../old.index --out review.html
    """
    from clipsearch.cli.comparison_output import print_comparison, print_person, tell_agreement
    from clipsearch.image_index import open_index
    from clipsearch.label_comparison import compare as compared

    place = existing_index(index_path)
    if len(sets) > 2:
        raise OptionError(f"expected one or two sets to compare, got {len(sets)}")
    if models and (len(sets) > 1 or other_path is not None):
        raise OptionError("--models goes with one set: leave out the other, and --with")
    out = _checked(out_path, title, force)
    where = filter_from_options(filters)
    opened = open_index(place, model=model, device=device)
    sides = _sides(opened, sets, other_path, models)
    if where is not None:
        allowed = opened.matching(where)
        sides = sides[0].of(allowed), sides[1].of(allowed)
    found = compared(*sides)
    rows = found.disagreements(a, b)
    tell_agreement(found)
    if out is not None:
        _write_file(opened, found, out, a, b, title, force)
        click.echo(f"Wrote {for_display(str(out))}", err=True)
    if output in ("json", "csv") or (out is None and not on_terminal()):
        print_comparison(opened, found, rows, show, output or "plain")
    elif out is None:
        print_person(opened, found, rows)
    return FOUND if len(rows) else NOTHING_FOUND


def _checked(out_path: str | None, title: str | None, force: bool) -> Path | None:
    """The file to write. Raises OptionError where it, or what goes with it, will not do."""
    is_page = out_path is not None and Path(out_path).suffix.lower() in _PAGES
    if (title is not None or force) and not is_page:
        raise OptionError("--title and --force go with --out FILE.html")
    if out_path is None or is_page:
        return None if out_path is None else Path(out_path)
    from clipsearch.cli.result_files import check_out_path

    if not Path(out_path).suffix:
        raise OptionError(f"expected a file name such as review.html after --out, got {out_path!r}")
    return check_out_path(out_path)


def _sides(
    opened: ImageIndex, sets: tuple[str, ...], other_path: str | None, models: bool
) -> tuple[Labelled, Labelled]:
    from clipsearch.compared_sets import (
        saved_side,
        side_of_other,
        sides_of_models,
        with_version_before,
    )

    if models:
        opened.watch_texts(TextProgress())
        return sides_of_models(opened, sets[0])
    if other_path is not None:
        from clipsearch.image_index import open_index

        here = saved_side(opened, sets[0])
        return here, side_of_other(opened, open_index(named_index(other_path)), sets[-1])
    if len(sets) == 1:
        return with_version_before(opened, sets[0])
    return saved_side(opened, sets[0]), saved_side(opened, sets[1])


def _write_file(
    opened: ImageIndex,
    found: Comparison,
    out: Path,
    a: str | None,
    b: str | None,
    title: str | None,
    force: bool,
) -> None:
    if out.suffix.lower() in _PAGES:
        from clipsearch.label_review import export_label_review

        told = title or f"{found.names[0]} and {found.names[1]}"
        export_label_review(opened, found, out, title=told, a=a, b=b, force=force)
        return
    from clipsearch.cli.comparison_output import disagreement_batches
    from clipsearch.cli.result_columns import COMPARISON_SCHEMA
    from clipsearch.cli.result_files import result_writer

    with result_writer(out, COMPARISON_SCHEMA) as write:
        for batch in disagreement_batches(opened, found, found.disagreements(a, b)):
            write(batch)
