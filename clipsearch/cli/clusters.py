"""``clipsearch clusters``."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from clipsearch.cli import ERROR, FOUND, NOTHING_FOUND
from clipsearch.cli.cluster_output import (
    print_clusters,
    print_discoveries,
    tell_damage,
    tell_opened,
)
from clipsearch.cli.discovery_files import DiscoveryFiles, discovery_file_options
from clipsearch.cli.output import counted, for_display, format_options
from clipsearch.cli.places import device_option, existing_index, index_option, moved_model_option
from clipsearch.errors import ClipsearchError, OptionError

if TYPE_CHECKING:
    from clipsearch.cluster_changes import Written
    from clipsearch.cluster_edits import Namer
    from clipsearch.clusters import Discovery
    from clipsearch.image_index import ImageIndex
    from clipsearch.wordnet import WordNet

T = TypeVar("T")


@click.command()
@click.argument("name", required=False)
@click.option(
    "--of", "cluster", metavar="CLUSTER",
    help="List the images of a cluster, the most typical first.",
)  # fmt: skip
@click.option(
    "--rename", metavar="OLD=NEW", multiple=True,
    help="Call a cluster something else. May repeat, as the next three, which come in this order.",
)  # fmt: skip
@click.option(
    "--merge", metavar="A,B[=NAME]", multiple=True,
    help="Make one cluster of several; without NAME it is called as the first.",
)  # fmt: skip
@click.option(
    "--split", metavar="A[=PARTS]", multiple=True, help="Make two clusters of one, or PARTS."
)
@click.option(
    "--drop", metavar="A,B", multiple=True,
    help="Let the images of clusters, and later ones like them, be in none.",
)  # fmt: skip
@click.option("--undo", is_flag=True, help="Take the last change back; may be done again.")
@click.option(
    "--save-as", metavar="LABELSET",
    help="Save the clusters as a label set, which follows them from then on.",
)  # fmt: skip
@click.option(
    "--outliers", is_flag=True,
    help="List the images that are like no others, and why; then those that look alike.",
)  # fmt: skip
@discovery_file_options
@click.option("--forget", is_flag=True, help="Remove the discovery NAME.")
@index_option
@moved_model_option
@device_option
@format_options()
def clusters(
    name: str | None,
    cluster: str | None,
    rename: tuple[str, ...],
    merge: tuple[str, ...],
    split: tuple[str, ...],
    drop: tuple[str, ...],
    undo: bool,
    save_as: str | None,
    outliers: bool,
    report: str | None,
    plot: str | None,
    force: bool,
    forget: bool,
    index_path: str | None,
    model: str | None,
    device: str | None,
    output: str | None,
) -> int:
    """List the discoveries that were saved, or show the clusters of the discovery NAME.

    Images that came since are put in the nearest cluster, as it was renamed, merged, split or
    dropped by you. A cluster is named as it is shown, in upper or lower case; where two have one
    name, by #KEY as --json shows it.

    \b
      clipsearch clusters
      clipsearch clusters pets --rename "tabby=our cat" --merge "hound,puppy=dog"
      clipsearch clusters pets --of dog | head
      clipsearch clusters pets --save-as pets
    """
    place = existing_index(index_path)
    changes = _changes(rename=rename, merge=merge, split=split, drop=drop)
    files = DiscoveryFiles.asked(report, plot, force)
    wishes = [undo, forget, cluster is not None, bool(changes), outliers]
    if name is None:
        if any(wishes) or save_as is not None or files != DiscoveryFiles.asked(None, None, False):
            raise click.UsageError("name a discovery: 'clipsearch clusters' lists them")
        return _list(place, output or "auto")
    if sum(wishes) > 1 or (save_as is not None and (forget or outliers or cluster)):
        raise click.UsageError("--undo, --forget, --of, --outliers and changes go one at a time")
    if forget:
        return _forget(place, name)
    from clipsearch.image_index import open_index
    from clipsearch.saved_clusters import (
        edit_discovery,
        open_discovery,
        save_clusters_as,
        undo_edit,
    )  # fmt: skip

    index = open_index(place, model=model, device=device)
    files.check(index)
    if changes:
        wordnet = _wordnet(changes)
        opened = _permitted(
            place,
            lambda: edit_discovery(
                place, index.state(), name, changes, namer=_namer(index, name, changes, wordnet)
            ),
        )
        tell_damage(wordnet)
        click.echo(f"Done: {for_display(opened.saved.edits[-1].what)}.", err=True)
    elif undo:
        what, opened = _permitted(place, lambda: undo_edit(place, index.state(), name))
        click.echo(f"Undone: {for_display(what)}.", err=True)
    elif save_as is None:
        opened = open_discovery(index.path, index.state(), name)
    if save_as is not None:
        opened = _permitted(place, lambda: save_clusters_as(place, index.state(), name, save_as))
    tell_opened(place, opened)
    if save_as is not None:
        images = counted(len(opened.discovery.assignment), "image")
        click.echo(
            f"Saved as {for_display(save_as)}: {images}. It is a label set now: "
            f"'clipsearch classify --labels @{for_display(save_as)}'.",
            err=True,
        )
    code = _printed(index, opened.discovery, cluster, outliers, output or "auto")
    files.write(index, opened.discovery, opened.saved.name)
    return code


def _printed(
    index: ImageIndex, discovery: Discovery, cluster: str | None, outliers: bool, output: str
) -> int:
    """Print what was asked for of a discovery; the exit code."""
    if outliers:
        from clipsearch.cli.odd_output import print_odd_images

        return print_odd_images(index, discovery, output)
    if cluster is not None:
        from clipsearch.cli.hit_output import print_hits
        from clipsearch.cluster_hits import cluster_hits

        return print_hits(cluster_hits(index.state(), discovery, cluster), output)
    return print_clusters(index, discovery, output)


def _changes(**given: tuple[str, ...]) -> list[Written]:
    from clipsearch.cluster_changes import Written

    return [Written(kind, text) for kind, texts in given.items() for text in texts]


def _list(place: Path, output: str) -> int:
    from clipsearch.cluster_files import SavedDiscovery, discovery_names
    from clipsearch.cluster_reading import read_saved_discovery

    names = discovery_names(place)
    found: list[SavedDiscovery] = []
    for name in names:
        try:
            found.append(read_saved_discovery(place, name))
        except ClipsearchError as error:  # one that is damaged hides none of the others
            click.echo(f"{for_display(name)}: {for_display(str(error))}", err=True)
    if not names:
        click.echo("No saved discoveries: 'clipsearch discover' makes one.", err=True)
        return NOTHING_FOUND
    print_discoveries(place, found, output)
    return FOUND if len(found) == len(names) else ERROR


def _forget(place: Path, name: str) -> int:
    from clipsearch.saved_clusters import forget_discovery

    left = _permitted(place, lambda: forget_discovery(place, name))
    click.echo(f"Forgotten: {for_display(name)}", err=True)
    for label_set in left:
        click.echo(
            f"The label set {label_set} stays as it is; 'clipsearch labels {label_set} --forget' "
            "removes it.",
            err=True,
        )
    return FOUND


def _needs_names(changes: list[Written]) -> bool:
    return any(change.kind in ("split", "merge") for change in changes)


def _wordnet(changes: list[Written]) -> WordNet | None:
    """WordNet, where a change asks for it and it is on this computer."""
    from clipsearch.wordnet import find_wordnet

    return find_wordnet() if _needs_names(changes) else None


def _namer(
    index: ImageIndex, name: str, changes: list[Written], wordnet: WordNet | None
) -> Namer | None:
    """What names what is split and merged, where a vocabulary named the clusters."""
    from clipsearch.cli.text_progress import TextProgress
    from clipsearch.cluster_reading import read_saved_discovery
    from clipsearch.discover import namer_of

    if not _needs_names(changes):
        return None
    index.watch_texts(TextProgress())
    facts = read_saved_discovery(index.path, name).facts
    return namer_of(index.state(), index.text_vectors(), facts, wordnet)


def _permitted(place: Path, do: Callable[[], T]) -> T:
    try:
        return do()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise OptionError(f"no permission to save clusters in the index at {place}") from None
