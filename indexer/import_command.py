"""``clipsearch import``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsearch.cli import FOUND, INTERRUPTED, PARTIAL
from clipsearch.cli.output import counted, for_display, human_seconds, json_line, write_bytes
from clipsearch.cli.places import device_option, index_option, index_to_write
from indexer.account import quoted, say

if TYPE_CHECKING:
    from indexer.import_report import ImportReport

_SHOWN = 5


@click.command("import")
@click.argument("source", type=click.Path())
@index_option
@click.option(
    "--model",
    metavar="MODEL",
    envvar="CLIPSEARCH_MODEL",
    help="The model that made the vectors; it must be on this machine. Needed for a new index, "
    "an index keeps its model.",
)
@click.option(
    "--paths",
    metavar="FILE",
    type=click.Path(),
    help="For a single .npy: the file that names its images in the same order. Text with a path "
    "a line, .npy of strings, or .parquet or .csv with a column image_path, path or id.",
)
@click.option(
    "--root",
    metavar="FOLDER",
    default=".",
    show_default="the current folder",
    type=click.Path(),
    help="Relative paths are taken below this folder, be it there or not.",
)
@click.option("--no-check", is_flag=True, help="Take the vectors without comparing any.")
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the final account as one JSON object.")
@click.pass_context
def import_(
    ctx: click.Context,
    /,
    source: str,
    index_path: str | None,
    model: str | None,
    paths: str | None,
    root: str,
    no_check: bool,
    device: str | None,
    as_json: bool,
) -> int:
    """Add vectors that were computed elsewhere, with the model that made them.

    SOURCE is a folder that clip-retrieval wrote (img_emb/, metadata/), or a .npy of shape
    (images, numbers) with --paths. Images that are there are read for their date, place and
    thumbnail, but not encoded, and 'index' then finds them unchanged; the others go in as
    missing. A few are encoded to see whether the model is the right one. Run again, an import
    goes on where it was cut short.

    \b
      clipsearch import embeddings --model ViT-B-32/openai --index photos.index
      clipsearch import vectors.npy --paths names.txt --root ~/Pictures
    """
    # As for 'index': OpenMP's threads must not keep the cores from those that decode.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    from indexer.import_vectors import import_vectors

    place = index_to_write(index_path)
    flag = ctx.get_parameter_source("model") == click.core.ParameterSource.COMMANDLINE
    if not flag and (place / "manifest.json").is_file():
        model = None  # a default is for new indexes; one that is there keeps its model
    bar = _Bar()
    try:
        report = import_vectors(
            source,
            place,
            paths=paths,
            root=root,
            encoder=model,
            device=device,
            check=not no_check,
            on_progress=bar.show,
        )
    except KeyboardInterrupt:
        bar.close()
        say(
            "\nInterrupted. Every finished part is saved and searchable; run the same command "
            "again to go on."
        )
        return INTERRUPTED
    finally:
        bar.close()
    if as_json:
        document = dataclasses.asdict(report)
        document["skipped_vectors"] = [
            {"row": row, "path": path, "reason": reason}
            for row, path, reason in report.skipped_vectors
        ]
        write_bytes(json_line(document))
    _tell(report, place, was_checked=not no_check)
    return PARTIAL if report.skipped else FOUND


class _Bar:
    """A progress bar that opens when there is something to show."""

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, done: int, total: int) -> None:
        """``done`` of ``total`` vectors are in."""
        from indexer.progress import open_bar

        if self._bar is None:
            self._bar = open_bar(total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _tell(report: ImportReport, place: Path, was_checked: bool) -> None:
    """The account of an import, for a person, on standard error."""
    if report.checked:
        say(
            f"Compared {counted(report.checked, 'vector')} with what {for_display(report.model)} "
            f"makes of the images: mean cosine {report.cosine:.4f}."
        )
    elif was_checked:
        say(
            "None of the images looked for is there to be read: whether "
            f"{for_display(report.model)} made these vectors was not checked."
        )
    if report.imported:
        say(f"Imported {counted(report.imported, 'image')} in {human_seconds(report.seconds)}.")
    else:
        say("Nothing new to import.")
    say(
        f"Found {counted(report.found, 'vector')}: {report.imported:,} imported, "
        f"{counted(report.copies, 'copy', 'copies')}, {report.already_there:,} already there, "
        f"{report.skipped:,} skipped."
    )
    if report.not_there:
        say(
            f"{counted(report.not_there, 'imported image')} not there: searchable all the same. "
            "Relative paths are taken below --root."
        )
    if report.unreadable:
        say(f"{counted(report.unreadable, 'imported image')} not readable: searchable as missing.")
    if report.skipped:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.skip_reasons.items())
        say(f"Skipped: {reasons}.")
        for row, path, reason in report.skipped_vectors[:_SHOWN]:
            say(f"  row {row:,} {for_display(path)}: {reason}")
        if report.skipped > _SHOWN:
            say(f"  and {report.skipped - _SHOWN:,} more")
    if report.imported:
        say(f'Next: clipsearch search "a dog on a beach" --index {quoted(place)}')
