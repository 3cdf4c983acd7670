"""``clipsearch discover``."""

from __future__ import annotations

import errno
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.cli import NOTHING_FOUND
from clipsearch.cli.cluster_output import print_clusters, tell_damage
from clipsearch.cli.discovery_files import DiscoveryFiles, discovery_file_options
from clipsearch.cli.filter_options import filter_from_options, filter_options
from clipsearch.cli.output import counted, for_display, format_options, human_seconds
from clipsearch.cli.places import (
    device_option,
    existing_index,
    index_option,
    moved_model_option,
)
from clipsearch.cli.stage_progress import StageProgress
from clipsearch.cli.text_progress import TextProgress
from clipsearch.errors import OptionError, RemoteAccessError

if TYPE_CHECKING:
    from clipsearch.cluster_files import SavedDiscovery
    from clipsearch.clusters import Discovery
    from clipsearch.filter_options import FilterOptions
    from clipsearch.image_index import ImageIndex
    from clipsearch.nouns import Vocabulary
    from clipsearch.wordnet import WordNet


class _Count(click.ParamType):  # type: ignore[type-arg]
    """A number of clusters, or "auto" for None."""

    name = "N|auto"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        if value == "auto" or value is None:
            return None
        try:
            count = int(str(value))
        except ValueError:
            count = 0
        if count < 1:
            self.fail(f"expected a number of clusters, 1 or more, or auto; got {value!r}")
        return count


@click.command()
@click.option(
    "--k", "n_clusters", type=_Count(), metavar="N|auto", default="auto", show_default=True,
    help="How many clusters. auto: as many as stand out; images that form no group are in none.",
)  # fmt: skip
@click.option(
    "--method", type=click.Choice(["recipe", "kmeans", "agglomerative", "hdbscan"]),
    default="recipe", show_default=True,
    help="recipe looks at the images and at the words nearest to them; hdbscan leaves images that "
    "are like no others in no cluster.",
)  # fmt: skip
@click.option(
    "--least", type=click.IntRange(min=1), metavar="N",
    help="The fewest images of a cluster; those of smaller ones are in none. 2 with --k auto, "
    "else 1.",
)  # fmt: skip
@click.option(
    "--vocab", metavar="NAME|FILE", default="imagenet", show_default=True,
    help="Where names come from: imagenet (10,000 nouns), wordnet where it is on this computer, a "
    "file with a word a line, or none.",
)  # fmt: skip
@click.option("--same-names", is_flag=True, help="Let clusters share a name.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True,
    help="Another number may give somewhat other clusters.",
)  # fmt: skip
@click.option(
    "--save-as", metavar="NAME",
    help="Keep the clusters as NAME, and their names as the label set NAME.",
)  # fmt: skip
@click.option(
    "--replace", is_flag=True,
    help="Replace clusters of that name that were changed by hand, and a label set of that name "
    "that something else has saved.",
)  # fmt: skip
@discovery_file_options
@filter_options
@index_option
@moved_model_option
@device_option
@format_options(null=False)
def discover(
    n_clusters: int | None,
    method: str,
    least: int | None,
    vocab: str,
    same_names: bool,
    seed: int,
    save_as: str | None,
    replace: bool,
    report: str | None,
    plot: str | None,
    force: bool,
    index_path: str | None,
    model: str | None,
    device: str | None,
    output: str | None,
    filters: FilterOptions | None,
) -> int:
    """Find out what is in a collection: groups of images that look alike, with suggested names.

    Works on stored vectors alone; no image is opened. What was found is kept in the index:
    'clipsearch clusters' shows it again, and renames, merges, splits and drops clusters.

    \b
      clipsearch discover
      clipsearch discover --k 40 --in ~/Pictures/2024 --report 2024.html
      clipsearch discover --save-as things && clipsearch classify --labels @things
    """
    from clipsearch.cluster_files import UNNAMED
    from clipsearch.cluster_saving import refuse_discovery
    from clipsearch.image_index import open_index
    from clipsearch.query_language import vocabulary_note

    place = existing_index(index_path)
    files = DiscoveryFiles.asked(report, plot, force)
    where = filter_from_options(filters)
    words, wordnet = _vocabulary(vocab)
    name, _ = refuse_discovery(place, save_as or UNNAMED, save_as, replace)
    opened = open_index(place, model=model, device=device)
    note = vocabulary_note(words.words, opened.space.model) if words is not None else None
    if note is not None:
        click.echo(note, err=True)
    files.check(opened)
    opened.watch_texts(TextProgress())
    begin = time.perf_counter()
    with StageProgress() as progress:
        found = opened.discover(
            n_clusters,
            method=method,
            least_size=least,
            vocabulary=words,
            wordnet=wordnet,
            shared_names=same_names,
            seed=seed,
            where=where,
            on_stage=progress,
        )
    seconds = time.perf_counter() - begin
    if not len(found.assignment):
        click.echo("There is no image to group.", err=True)
        return NOTHING_FOUND
    saved = _save(place, opened, name, found, save_as, replace) if len(found) else None
    code = print_clusters(opened, found, output or "auto")
    tell_damage(wordnet)
    _tell(found, seconds, name if saved is not None else None, save_as, index_path)
    files.write(opened, found, "What is in here" if save_as is None else save_as)
    return code


def _save(
    place: Path,
    opened: ImageIndex,
    name: str,
    found: Discovery,
    label_set: str | None,
    replace: bool,
) -> SavedDiscovery | None:
    """Keep what was found; None, and a note, where the index cannot be written and nobody asked
    for a name."""
    from clipsearch.cluster_saving import save_discovery

    try:
        return save_discovery(
            place, opened.state(), name, found, label_set=label_set, replace=replace
        )
    except RemoteAccessError:
        if label_set is not None:
            raise
        click.echo("Note: the index cannot be written, so the clusters are not kept.", err=True)
        return None
    except OSError as error:
        permitted = error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS)
        if permitted and (label_set is not None or error.errno != errno.ENOSPC):
            raise
        if label_set is not None:
            raise OptionError(f"no permission to save clusters in the index at {place}") from None
        why = "the disk is full" if permitted else "the index cannot be written"
        click.echo(f"Note: {why}, so the clusters are not kept.", err=True)
        return None


def _tell(
    found: Discovery, seconds: float, name: str | None, label_set: str | None, named: str | None
) -> None:
    """What was done, and what can be done with it. name : what it is kept as. named : the index
    as it was named, None when it was not."""
    here = "" if named is None else for_display(f" --index {shlex.quote(named)}")
    facts = found.facts
    chosen = (
        ""
        if facts.asked is not None or facts.criterion is None
        else (f" Their number is where the {facts.criterion} is largest; --k N asks for another.")
    )
    if facts.asked is not None and len(found) < facts.asked:
        why = "there are no more images"
        if len(found.assignment) > len(found):
            why = "the images do not differ more"
        chosen = f" {counted(facts.asked, 'cluster')} were asked for, but {why}."
    click.echo(f"Grouped in {human_seconds(seconds)}; no image was opened.{chosen}", err=True)
    if not len(found):
        click.echo("No images are alike enough to be a cluster, so nothing was kept.", err=True)
    elif label_set is not None:
        shown = for_display(label_set)
        click.echo(
            f"Saved as {shown}: 'clipsearch classify --labels @{shown}{here}' labels by these "
            f"names, 'clipsearch clusters {shown}{here}' changes them.",
            err=True,
        )
    elif name is not None:
        click.echo(
            f"Kept as {for_display(name)}: 'clipsearch clusters {for_display(name)}{here}' shows "
            "it again, and with --rename, --merge, --split or --drop changes it.",
            err=True,
        )


def _vocabulary(vocab: str) -> tuple[Vocabulary | None, WordNet | None]:
    """The words to take names from, and WordNet where it is on this computer."""
    if vocab == "none":
        return None, None
    from clipsearch.nouns import read_vocabulary
    from clipsearch.wordnet import find_wordnet

    return read_vocabulary(vocab), find_wordnet()
