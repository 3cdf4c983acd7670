"""``clipsearch export``: do something with all hits at once, and take it back."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsearch.cli import NOTHING_FOUND
from clipsearch.cli.export_output import (
    print_records,
    print_report,
    print_undo,
    tell_left_out,
    undo_command,
)
from clipsearch.cli.output import counted, for_display
from clipsearch.cli.places import (
    device_option,
    existing_index,
    index_option,
    moved_model_option,
)
from clipsearch.cli.search_options import Asked, search_options
from clipsearch.errors import OptionError, QueryError
from clipsearch.remote_urls import is_remote

if TYPE_CHECKING:
    from clipsearch.export_folder import ReadMember
    from clipsearch.export_rows import ExportRow
    from clipsearch.export_writing import ExportReport
    from clipsearch.image_index import ImageIndex

KINDS = ("csv", "json", "parquet", "symlinks", "copy", "html", "xmp")
_ENDINGS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".html": "html",
    ".htm": "html",
}
_ONLY_FOR = {
    "numbered": ("copy", "symlinks"),
    "title": ("html",),
    "force": ("csv", "json", "parquet", "html"),
}
_STDIN = ("-",)
_TO_STDOUT = ("csv", "json")
_WITH_RECORDS = frozenset({"undo", "lists", "dry_run", "output", "index_path"})
_WITH_NAMES = frozenset(
    {"words", "kind", "out", "numbered", "title", "keywords", "label_set", "force", "dry_run"}
    | {"output", "index_path", "model", "device"}
)


@dataclasses.dataclass(frozen=True)
class _Wish:
    """What to do with the photos, whoever chose them."""

    kind: str
    out: Path | None
    numbered: bool
    title: str | None
    keywords: tuple[str, ...]
    labels: str | None
    force: bool
    dry_run: bool
    output: str | None


def export_command(member_reader: Callable[[], ReadMember] | None = None) -> click.Command:
    """The command. member_reader : makes what reads images in tars and Parquet files, whose
    home is above this package; without one they are left out of a copy."""

    @search_options
    def of_hits(
        asked: Asked,
        index_path: str | None,
        model: str | None,
        device: str | None,
        **others: Any,
    ) -> int:
        from clipsearch.export_rows import rows_of_hits
        from clipsearch.image_index import open_index

        wish = _wish(others)
        opened = open_index(existing_index(index_path), model=model, device=device)
        # CLIPSEARCH_K and config.toml say how many a person wants to see, not to export.
        if not _is_given("k") and asked.page == 1:
            asked = asked.of_all()
        rows = rows_of_hits(opened, asked.hits(opened, strengths=True))
        return _export(opened, rows, [], wish, asked.query.text, member_reader, index_path)

    def of_names(
        index_path: str | None, model: str | None, device: str | None, **others: Any
    ) -> int:
        from clipsearch.export_rows import rows_of_names
        from clipsearch.image_index import open_index

        wish = _wish(others)
        opened = open_index(existing_index(index_path), model=model, device=device)
        rows, unknown = rows_of_names(opened, _names(sys.stdin.buffer.read()))
        return _export(opened, rows, unknown, wish, None, member_reader, index_path)

    @click.command("export")
    @click.option(
        "--to",
        "kind",
        type=click.Choice(KINDS),
        help="What to make of the hits. Without it, the ending of --out says it.",
    )
    @click.option(
        "--out",
        metavar="PATH",
        type=click.Path(path_type=str),
        help="The file, or for copy and symlinks the folder, to write.",
    )
    @click.option("--numbered", is_flag=True, help="Put the rank before each name in a folder.")
    @click.option("--title", metavar="TEXT", help="The title of a contact sheet.")
    @click.option(
        "--keyword",
        "keywords",
        multiple=True,
        metavar="WORD",
        help="Write this keyword into the sidecars; may repeat. Without it: the words searched.",
    )
    @click.option(
        "--labels",
        "label_set",
        metavar="@NAME",
        help="Write each photo's labels of a saved set into its sidecar.",
    )
    @click.option("--force", is_flag=True, help="Replace a file that is there, for good.")
    @click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
    @click.option(
        "--undo",
        metavar="[RECORD]",
        is_flag=False,
        flag_value="last",
        help="Take back an export: the last one, or the one of this name.",
    )
    @click.option("--list", "lists", is_flag=True, help="Show the exports that can be taken back.")
    @click.option("--json", "output", flag_value="json", help="One JSON object a line.")
    @click.option("-0", "--null", "output", flag_value="null", help="Paths ended by NUL.")
    @index_option
    @moved_model_option
    @device_option
    @functools.wraps(of_hits, assigned=())  # takes over its options
    def export(undo: str | None, lists: bool, **options: Any) -> int:
        """Do something with all hits: a table, a folder of copies or links, a contact sheet,
        or keywords in XMP sidecars beside the photos.

        WORDS and the options of a query are those of search; without -k all hits above the
        cut-off are taken. With - as the only word the photos come on standard input, as paths
        or ids, one a line or ended by NUL.

        \b
          clipsearch export sunset --out sunsets.csv
          clipsearch export "two dogs" --to copy --out dogs/
          clipsearch export sunset --to xmp --dry-run
          clipsearch search cat -0 | clipsearch export - --to symlinks --out cats/
          clipsearch export --undo
        """
        if undo is not None or lists:
            _refuse_others(_WITH_RECORDS, "goes without --list and --undo")
            if undo is not None and lists:
                raise OptionError("give either --list or --undo, not both")
            index = existing_index(options["index_path"])
            if lists:
                from clipsearch.export_record import list_records, unreadable_records

                return print_records(
                    list_records(index), options["output"], unreadable_records(index)
                )
            from clipsearch.export_undo import undo_export

            report = undo_export(index, undo or "", dry_run=options["dry_run"])
            return print_undo(report, options["output"])
        if options["words"] == _STDIN:
            _refuse_others(_WITH_NAMES, "is no use with -, which takes all photos that are named")
            return of_names(**options)
        result: int = of_hits(**options)
        return result

    return export


def _refuse_others(fitting: frozenset[str], why: str) -> None:
    """Raise OptionError for an option on the command line that would go unheard."""
    context = click.get_current_context()
    for param in context.command.params:
        if param.name not in fitting and _is_given(param.name or ""):
            named = max(param.opts, key=len)
            raise OptionError(f"{named if isinstance(param, click.Option) else 'a query'} {why}")


def _is_given(name: str) -> bool:
    """Whether an option stands on the command line, and not only among the settings."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def _wish(options: dict[str, Any]) -> _Wish:
    kind, out = options["kind"], options["out"]
    if kind is None:
        kind = _ENDINGS.get(Path(out or "").suffix.lower())
        if kind is None:
            raise OptionError(
                f"say what to make of the hits: --to {', '.join(KINDS[:-1])} or {KINDS[-1]}"
            )
    if kind == "xmp" and out is not None:
        raise OptionError("sidecars go beside the photos: leave out --out with --to xmp")
    if out == "-" and kind in _TO_STDOUT:
        out = None
    elif out == "-":
        raise OptionError(f"--to {kind} cannot go to standard output: name a place after --out")
    if out is None and kind in _TO_STDOUT and options["output"]:
        raise OptionError(
            "--json and -0 list the files that are written, and this goes to standard output: "
            "leave them out, or name a file with --out"
        )
    if out is None and kind not in ("xmp", *_TO_STDOUT):
        raise OptionError(f"say where to: --to {kind} needs --out")
    if out is not None and not out.strip():
        raise OptionError("expected a path after --out, got nothing")
    if out is not None and is_remote(out):
        raise OptionError(f"expected a place on this machine after --out, got {out}")
    for option, kinds in _ONLY_FOR.items():
        if options[option] and kind not in kinds:
            raise OptionError(f"--{option} is for --to {' and '.join(kinds)}, not {kind}")
    if (options["keywords"] or options["label_set"]) and kind != "xmp":
        raise OptionError("--keyword and --labels are for --to xmp")
    if options["keywords"] and options["label_set"]:
        raise OptionError("give the keywords either by --keyword or by --labels")
    if options["label_set"] is not None and not options["label_set"].startswith("@"):
        raise OptionError(f"expected --labels @NAME of a saved set, got {options['label_set']!r}")
    return _Wish(
        kind,
        None if out is None else Path(out),
        options["numbered"],
        options["title"],
        options["keywords"],
        options["label_set"],
        options["force"],
        options["dry_run"],
        options["output"],
    )


def _names(data: bytes) -> list[str]:
    """The lines of a list, or where there is a NUL in it what stands between them."""
    parts = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [os.fsdecode(part) for part in parts if part.strip()]


def _export(
    opened: ImageIndex,
    rows: list[ExportRow],
    unknown: list[tuple[Path, str]],
    wish: _Wish,
    text: str | None,
    member_reader: Callable[[], ReadMember] | None,
    index_path: str | None,
) -> int:
    if not rows and not unknown:
        click.echo("Nothing found.", err=True)
        return NOTHING_FOUND
    from clipsearch.export_record import list_records

    before = {record.name for record in list_records(opened.path)}
    try:
        report = _carry_out(opened, rows, wish, text, member_reader)
    except KeyboardInterrupt:
        for record in list_records(opened.path):
            if record.name not in before:
                click.echo(
                    "What was written is whole: the same command again does the rest, and "
                    f"'{for_display(undo_command(record.name, index_path))}' takes it back.",
                    err=True,
                )
        raise
    if report is None:
        return tell_left_out(unknown)
    print_report(report, wish.out, wish.output, index_path)
    return tell_left_out([*unknown, *report.left_out])


def _carry_out(
    opened: ImageIndex,
    rows: list[ExportRow],
    wish: _Wish,
    text: str | None,
    member_reader: Callable[[], ReadMember] | None,
) -> ExportReport | None:
    """Do what is wished; None for a table that went to standard output."""
    about = text or ""
    if wish.kind in ("csv", "json", "parquet"):
        from clipsearch.export_table import export_table, write_table

        if wish.out is None:
            if wish.dry_run:
                would = f"Would write {counted(len(rows), 'row')} to standard output."
                click.echo(would, err=True)
            else:
                sys.stdout.flush()
                write_table(sys.stdout.buffer, rows, wish.kind)
            return None
        return export_table(
            opened, rows, wish.out, wish.kind,
            force=wish.force, about=about, dry_run=wish.dry_run,
        )  # fmt: skip
    elif wish.kind == "html":
        from clipsearch.contact_sheet import export_contact_sheet

        assert wish.out is not None
        return export_contact_sheet(
            opened, rows, wish.out, title=wish.title or text or "Photos",
            force=wish.force, about=about, dry_run=wish.dry_run,
        )  # fmt: skip
    elif wish.kind == "xmp":
        from clipsearch.export_sidecars import export_sidecars

        keywords = _keywords(opened, rows, wish, text)
        return export_sidecars(opened, rows, keywords, about=about, dry_run=wish.dry_run)
    from clipsearch.export_folder import export_folder

    assert wish.out is not None
    _note_indexed(opened, wish.out)
    return export_folder(
            opened, rows, wish.out, link=wish.kind == "symlinks", numbered=wish.numbered,
            read_member=member_reader() if member_reader is not None else None,
            about=about, dry_run=wish.dry_run,
        )  # fmt: skip


def _keywords(
    opened: ImageIndex, rows: list[ExportRow], wish: _Wish, text: str | None
) -> Mapping[int, Sequence[str]] | Sequence[str]:
    if wish.labels is not None:
        from clipsearch.label_sets import labels_of

        ids = [row.id for row in rows]
        return dict(zip(ids, labels_of(opened.path, wish.labels[1:], ids), strict=True))
    if not wish.keywords and not text:
        raise QueryError("there are no words to make a keyword of: name one with --keyword")
    return wish.keywords or (text or "",)


def _note_indexed(opened: ImageIndex, folder: Path) -> None:
    whole = Path(os.path.realpath(folder))
    for root in opened.status().roots:
        if whole.is_relative_to(os.path.realpath(root["path"])):
            click.echo(
                f"Note: {for_display(str(folder))} lies in a folder that is indexed, where the "
                "next run of index will find these files too.",
                err=True,
            )
            return
