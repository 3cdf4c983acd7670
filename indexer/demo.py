"""``clipsearch demo``: the whole way, on pictures that come inside an installed package."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import click

from clipsearch.cli import FOUND
from clipsearch.cli.output import counted, table
from clipsearch.errors import OptionError, SourceError
from clipsearch.image_index import ImageIndex, open_index

_QUERIES = ("a wild animal", "a tower")
_LABEL_SETS = (("lion", "leopard", "tower", "logo"), ("wild cat", "building", "drawing"))


def demo_pictures() -> list[Path]:
    """The pictures that gradio ships; SourceError when it ships none (any more)."""
    found = importlib.util.find_spec("gradio")  # does not import it
    folders = (
        [Path(place) for place in found.submodule_search_locations]
        if found is not None and found.submodule_search_locations
        else []
    )
    pictures = sorted(
        path
        for folder in folders
        for inside in ("media_assets/images", "test_data")
        for path in (folder / inside).glob("*")
        if path.suffix.lower() in (".jpg", ".jpeg", ".png")
    )
    if not pictures:
        raise SourceError(
            "the installed gradio ships no pictures to show: try your own with "
            "'clipsearch index FOLDER --model mini'"
        )
    return pictures


@click.command()
def demo() -> int:
    """Index a few pictures with the built-in model, search them, and classify them twice.

    Works offline in under a minute. Everything goes into clipsearch's own cache folder.
    """
    import platformdirs

    from indexer.build import build_index
    from indexer.progress import TerminalProgress

    folder = Path(platformdirs.user_cache_dir("clipsearch", appauthor=False), "demo")
    shutil.rmtree(folder, ignore_errors=True)
    photos, place = folder / "pictures", folder / "demo.index"
    try:
        photos.mkdir(parents=True)
        for picture in demo_pictures():
            shutil.copyfile(picture, photos / picture.name)
    except OSError as error:
        raise OptionError(f"cannot write to the cache folder {folder}: {error.strerror}") from error

    _step(f"clipsearch index {photos} --index {place} --model mini")
    with TerminalProgress(place) as progress:
        report = build_index(photos, place, encoder="mini", on_event=progress.hear)
    click.echo(
        f"{counted(report.indexed, 'picture')} indexed, "
        f"{counted(report.copies, 'copy', 'copies')} found, in {report.encode_seconds:.1f} s."
    )
    # The photos are not needed from here on, and this shows it.
    away = photos.rename(folder / "pictures-moved-away")
    try:
        opened = open_index(place)
        _search(opened)
        _classify(opened)
    finally:
        away.rename(photos)
    click.echo(
        "\nNow yours:\n"
        "  clipsearch model list                          # mini is weak; pick a real one\n"
        "  clipsearch model get balanced\n"
        "  clipsearch index ~/Pictures --index photos.index\n"
        '  clipsearch search "a dog on a beach" --index photos.index\n'
        '  clipsearch classify --labels "family,landscape,document" --index photos.index\n'
        "  clipsearch discover --index photos.index          # what is in here?\n"
        "  clipsearch ui photos.index                        # all of it in the browser"
    )
    return FOUND


def _step(command: str) -> None:
    click.secho(f"\n$ {command}", bold=True)


def _search(opened: ImageIndex) -> None:
    for query in _QUERIES:
        _step(f'clipsearch search "{query}" -k 3')
        rows = [
            (f"{hit.score:.3f}", hit.strength or "", hit.path.name)
            for hit in opened.search(query, k=3, strengths=True)
        ]
        click.echo(table(("score", "match", "image"), rows, "r"))


def _classify(opened: ImageIndex) -> None:
    for labels in _LABEL_SETS:
        _step(f'clipsearch classify --labels "{",".join(labels)}"')
        result = opened.classify(labels)
        rows = []
        for line in result.summary():
            places = opened.paths().places(line.example_id) if line.example_id is not None else []
            example = places[0].path.name if places else ""
            rows.append((line.label, str(line.count), f"{line.share:.0%}", example))
        if result.unlabelled:
            share = result.unlabelled / len(result)
            rows.append(("(none of these)", str(result.unlabelled), f"{share:.0%}", ""))
        click.echo(table(("label", "images", "share", "best example"), rows, " rr"))
        rate = len(result) / max(result.seconds, 1e-9)
        click.echo(
            f"Scored {counted(len(result), 'image')} in {result.seconds * 1000:.1f} ms "
            f"({rate:,.0f} images/s); no picture was opened or encoded."
        )
