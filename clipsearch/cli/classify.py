"""``clipsearch classify``."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.filter_options import filter_from_options, filter_options
from clipsearch.cli.label_options import asked_labels, edit_options, edited, label_options
from clipsearch.cli.output import (
    counted,
    display_path,
    for_display,
    format_options,
    human_seconds,
    on_terminal,
    table,
)
from clipsearch.cli.places import (
    device_option,
    existing_index,
    index_option,
    moved_model_option,
)
from clipsearch.cli.result_columns import (
    classification_batch,
    classification_schema,
    label_column,
)
from clipsearch.cli.text_progress import TextProgress
from clipsearch.errors import OptionError
from clipsearch.image_index import ImageIndex

if TYPE_CHECKING:
    from clipsearch.classify import Labelling
    from clipsearch.cli.label_options import AskedLabels
    from clipsearch.cli.result_files import Write
    from clipsearch.cluster_votes import VotedLabelling
    from clipsearch.filter_options import FilterOptions
    from clipsearch.filters import Filter

_MOST_SHOWN = 60
"""Lines of a summary on a terminal: of a thousand labels nobody reads the last."""


@click.command()
@label_options
@edit_options
@click.option(
    "--top", type=click.IntRange(min=1), default=1, show_default=True,
    help="How many labels to write for each image.",
)  # fmt: skip
@click.option(
    "--out", "out_path", metavar="FILE", type=click.Path(path_type=str),
    help="Write every image's label to FILE: .parquet, .csv or .json (one object a line).",
)  # fmt: skip
@click.option(
    "--fast", is_flag=True,
    help="Multiply in bfloat16 through torch where this processor is quicker at it: the same "
    "labels, probabilities to about 1 %. Worth it from millions of images and hundreds of labels.",
)  # fmt: skip
@click.option(
    "--by-cluster", "vote", type=click.Choice(["decide", "temper"]), is_flag=False,
    flag_value="temper",
    help="Let images that are alike vote. temper (what the option alone means): an image's labels "
    "go also by how often its likes have them. decide: a group gets one label. Off by default: "
    "measured, temper adds 1 to 6 points where the photos show few of the labels, takes 0 to 2 "
    "where they show all, and up to 8 from labels of a handful of photos; decide adds nothing.",
)  # fmt: skip
@click.option(
    "--clusters", metavar="NAME",
    help="With --by-cluster: the clusters of the saved discovery NAME vote, instead of groups of 5 "
    "(decide) or 20 images (temper). Do not let clusters decide that are wider than the labels.",
)  # fmt: skip
@filter_options
@index_option
@moved_model_option
@device_option
@format_options(null=False)
def classify(
    labels: str | None,
    labels_file: str | None,
    templates: str | None,
    context: str | None,
    save_as: str | None,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    reword: tuple[str, ...],
    top: int,
    out_path: str | None,
    fast: bool,
    vote: str | None,
    clusters: str | None,
    index_path: str | None,
    model: str | None,
    device: str | None,
    output: str | None,
    filters: FilterOptions | None,
) -> int:
    """Give every image of the index one label of a set, from stored vectors alone.

    On a terminal a summary comes: label, count, share, best example. In a pipe each image
    comes as path, label and probability with tabs between them.

    A set that was saved remembers what it takes to score only the labels that change and the
    images that are new; the answer is the one that scoring everything gives.

    \b
      clipsearch classify --labels "dog,cat,bird"
      clipsearch classify --labels-file animals.txt --out animals.parquet --save-as animals
      clipsearch classify --labels @animals --since 2024 --in ~/Pictures
      clipsearch classify --labels @animals --add "otter,seal" --remove dog --save-as animals
    """
    from clipsearch.cli.result_files import check_out_path, printed_results, result_writer
    from clipsearch.image_index import open_index
    from clipsearch.label_set_files import check_name
    from clipsearch.saved_labelling import SavedLabelling

    place = existing_index(index_path)
    out = check_out_path(out_path) if out_path is not None else None
    name = check_name(save_as) if save_as is not None else None
    where = filter_from_options(filters)
    if where is not None and name is not None:
        raise OptionError("a saved label set is of every image: leave out --save-as or the filter")
    if fast and name is not None:
        raise OptionError("what a set remembers is exact: leave out --fast or --save-as")
    if fast and vote is not None:
        raise OptionError("votes are counted in float32: leave out --fast or --by-cluster")
    if clusters is not None and vote is None:
        raise OptionError("--clusters says who votes together: it goes with --by-cluster")
    asked = asked_labels(place, labels, labels_file, templates, context)
    asked = edited(asked, add, remove, reword)
    opened = open_index(place, model=model, device=device)
    opened.watch_texts(TextProgress())
    labelling: Labelling
    voted: VotedLabelling | None = None
    if vote is not None:
        labelling = voted = _begin_votes(opened, asked, name, vote, clusters, top=top, where=where)
    else:
        labelling = _begin(opened, asked, name, top=top, where=where, fast=fast)
    printed = output in ("json", "csv") or (out is None and not on_terminal())
    schema = classification_schema(labelling.top, voted is not None)
    with contextlib.ExitStack() as writers:
        if isinstance(labelling, SavedLabelling):
            writers.enter_context(labelling)
        writes: list[Write] = []
        if out is not None:
            writes.append(writers.enter_context(result_writer(out, schema)))
        if printed:
            is_all = out is None and name is None
            writes.append(writers.enter_context(printed_results(output or "plain", schema, is_all)))
        _write(opened, labelling, writes)
        if name is not None:
            if isinstance(labelling, SavedLabelling):
                labelling.save()
            elif voted is not None:
                with _saving_allowed(opened):
                    voted.save()
    if len(asked.names) == 1:
        click.echo("Note: with a single label every image gets it, with probability 1.", err=True)
    if not printed:
        click.echo(_summary(opened, labelling))
    _tell_speed(labelling)
    if voted is not None:
        _tell_votes(voted)
    if out is not None:
        click.echo(f"Wrote {out}", err=True)
    if name is not None:
        click.echo(f"Saved as {name}: {counted(labelling.images, 'image')}.", err=True)
    return FOUND if labelling.images else NOTHING_FOUND


def _begin(
    opened: ImageIndex,
    asked: AskedLabels,
    save_as: str | None,
    *,
    top: int,
    where: Filter | None,
    fast: bool,
) -> Labelling:
    """Begin to label: beside a saved set where one is named, by itself otherwise."""
    from clipsearch.saved_labelling import classify_beside

    if fast or (asked.saved is None and save_as is None):
        return opened.label(
            asked.names, templates=asked.templates, context=asked.context,
            top=top, where=where, fast=fast,
        )  # fmt: skip
    allowed = None if where is None else opened.matching(where)
    with _saving_allowed(opened):
        return classify_beside(
            opened.path, opened.state(), opened.text_vectors(),
            asked.names, asked.templates, asked.context,
            base=asked.saved.name if asked.saved is not None else None,
            save_as=save_as, top=top, allowed=allowed,
        )  # fmt: skip


def _begin_votes(
    opened: ImageIndex,
    asked: AskedLabels,
    save_as: str | None,
    vote: str,
    clusters: str | None,
    *,
    top: int,
    where: Filter | None,
) -> VotedLabelling:
    """Begin to label by cluster; the votes are counted when this returns."""
    from clipsearch.cli.stage_progress import StageProgress
    from clipsearch.cluster_votes import classify_by_cluster

    state = opened.state()
    allowed = None if where is None else opened.matching(where)
    assignment = None
    if clusters is not None:
        from clipsearch.saved_clusters import open_discovery

        name = clusters.strip().removeprefix("@")
        assignment = open_discovery(opened.path, state, name).discovery.assignment
    with StageProgress() as progress:
        return classify_by_cluster(
            opened.path, state, opened.text_vectors(),
            asked.names, asked.templates, asked.context,
            vote=vote, clusters=assignment, top=top, allowed=allowed, save_as=save_as,
            on_progress=progress,
        )  # fmt: skip


@contextlib.contextmanager
def _saving_allowed(opened: ImageIndex) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise OptionError(
            f"no permission to save a label set in the index at {opened.path}"
        ) from None


def _write(opened: ImageIndex, labelling: Labelling, writes: list[Write]) -> None:
    """Hand a row per image, or with ``top`` above 1 per image and rank, in order of id, on."""
    names = label_column(labelling.label_names)
    for block in labelling:
        if writes:
            cosines = getattr(block, "cosines", None)  # of votes
            batch = classification_batch(block, names, opened.paths(), labelling.top, cosines)
            for write in writes:
                write(batch)


def _summary(opened: ImageIndex, labelling: Labelling) -> str:
    rows = []
    for line in labelling.summary():
        example = ""
        if line.example_id is not None:
            place = opened.paths().first_places([line.example_id])[0]
            example = display_path(place.path) if place is not None else ""
        rows.append((for_display(line.label), f"{line.count:,}", f"{line.share:.1%}", example))
    shown = rows[:_MOST_SHOWN] if on_terminal() else rows
    told = table(("label", "images", "share", "best example"), shown, " rr")
    more = len(rows) - len(shown)
    return told + (f"\n... and {counted(more, 'label')} more: see --out FILE" if more else "")


def _tell_speed(labelling: Labelling) -> None:
    rate = labelling.images / max(labelling.seconds, 1e-9)
    texts = labelling.texts
    click.echo(
        f"{_what_was_scored(labelling)} in {human_seconds(labelling.seconds)} "
        f"({rate:,.0f} images/s); no image was opened. "
        f"Of {counted(texts.encoded + texts.cached, 'prompt')} {texts.cached:,} were remembered.",
        err=True,
    )


def _tell_votes(voted: VotedLabelling) -> None:
    share = voted.overruled / max(1, voted.images)
    click.echo(
        f"{counted(voted.groups, 'group')} voted: {voted.overruled:,} of "
        f"{counted(voted.images, 'image')} ({share:.1%}) have another label than alone.",
        err=True,
    )


def _what_was_scored(labelling: Labelling) -> str:
    from clipsearch.saved_labelling import SavedLabelling

    labels = counted(len(labelling.label_names), "label")
    scored = f"Scored {counted(labelling.images, 'image')} against {labels}"
    if not isinstance(labelling, SavedLabelling) or labelling.base is None:
        return scored
    new = labelling.images_scored
    known = labelling.images - new
    if not known:
        return scored
    name = labelling.base.name
    parts = [f"{counted(new, 'image')} against {labels}"] if new else []
    if labelling.columns_scored:
        changed = counted(labelling.columns_scored, "changed label")
        parts.append(f"{counted(known, 'image')} against {changed}")
    if not parts:
        return f"Scored nothing, {counted(known, 'image')} and {labels} are remembered by {name},"
    return f"Scored {' and '.join(parts)}, the rest is remembered by {name},"
