"""The questions of ``teach --ask``: listed, written as a page, or asked one by one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsearch.cli.output import (
    counted,
    csv_lines,
    display_path,
    for_display,
    json_line,
    on_terminal,
    path_fields,
    table,
    write_bytes,
)
from clipsearch.errors import OptionError

if TYPE_CHECKING:
    from clipsearch.ask import Question
    from clipsearch.image_index import ImageIndex
    from clipsearch.label_examples import Correction
    from clipsearch.label_set_files import LabelSet

_MOST_LISTED = 60
_COLUMNS = (
    "id", "path", "label", "chosen", "guess", "runner_up", "probability", "in_set", "alike",
)  # fmt: skip


def ask_about(
    opened: ImageIndex,
    label_set: LabelSet,
    count: int,
    *,
    out_path: str | None,
    force: bool,
    all_random: bool,
    interactive: bool,
    output: str | None,
) -> list[Correction] | None:
    """Ask about ``count`` images as the options say; the answers that were given at once, None
    where the questions were only written down."""
    from clipsearch.ask import RANDOM_SHARE
    from clipsearch.ask_page import export_ask_page
    from clipsearch.cli.saving import saving_allowed
    from clipsearch.teaching import questions_about

    page = None if out_path is None else Path(out_path)
    if page is not None:
        if page.suffix.lower() not in (".html", ".htm"):
            raise OptionError(f"expected --out to end in .html, got {out_path!r}")
        # Whether it may be written is told before the images are looked at.
        export_ask_page(
            opened, label_set.name, label_set.labels, (), page, force=force, dry_run=True
        )
    questions = questions_about(
        opened.path, opened.state(), opened.text_vectors(), label_set, count,
        random_share=1.0 if all_random else RANDOM_SHARE,
    )  # fmt: skip
    if not questions:
        click.echo("Every image is an example already: nothing to ask.", err=True)
        return None
    if page is not None:
        with saving_allowed(opened.path):
            export_ask_page(opened, label_set.name, label_set.labels, questions, page, force=force)
        click.echo(f"Wrote {counted(len(questions), 'question')} to {out_path}", err=True)
    if interactive:
        return asked_one_by_one(opened, label_set, questions)
    if page is None or output in ("json", "csv"):
        _print(opened, label_set, questions, output)
    if page is None and on_terminal() and output is None:
        name = for_display(label_set.name)
        click.echo(
            f"Answer with 'clipsearch teach {name} IMAGE=LABEL...', one after the other with -i, "
            f"or on a page with --out ask.html.",
            err=True,
        )
    return None


def _print(
    opened: ImageIndex, label_set: LabelSet, questions: list[Question], output: str | None
) -> None:
    places = opened.paths().first_places([question.id for question in questions])
    paths = [place.path if place is not None else None for place in places]
    names = (*label_set.labels, None)
    if output is None and on_terminal():
        rows = [
            (display_path(path) if path else str(question.id), question.why(label_set.labels))
            for question, path in zip(questions, paths, strict=True)
        ]
        click.echo(table(("image", "why"), [(a, for_display(b)) for a, b in rows]))
        return
    documents: list[dict[str, Any]] = []
    for question, path in zip(questions, paths, strict=True):
        known = question.in_set == question.in_set
        documents.append(
            {
                "id": question.id,
                **(path_fields(path) if path else {"path": None}),
                "label": None,
                "chosen": question.how,
                "guess": names[question.label],
                "runner_up": names[question.runner_up],
                "probability": round(question.probability, 6) if question.label >= 0 else None,
                "in_set": round(question.in_set, 6) if known else None,
                "alike": question.alike,
            }
        )
    if output == "json":
        for document in documents:
            write_bytes(json_line(document))
    elif output == "csv":
        cells = [
            ["" if one[column] is None else one[column] for column in _COLUMNS] for one in documents
        ]
        write_bytes(csv_lines([_COLUMNS, *cells]))
    else:
        import os

        write_bytes(b"".join(os.fsencode(path) + b"\n" for path in paths if path))


def asked_one_by_one(
    opened: ImageIndex, label_set: LabelSet, questions: list[Question]
) -> list[Correction]:
    """Ask about one image after the other; the answers. The end of the input is as ``q``, and so
    is Ctrl-C once something was answered."""
    from clipsearch.label_examples import Correction

    labels = label_set.labels
    legend = "  ".join(
        f"{number} {for_display(label)}" for number, label in enumerate(labels[:_MOST_LISTED], 1)
    )
    more = "" if len(labels) <= _MOST_LISTED else f"  ... {len(labels):,} in all; names will do"
    click.echo(f"Labels: {legend}{more}", err=True)
    places = opened.paths().first_places([question.id for question in questions])
    given: dict[int, Correction] = {}
    at = 0
    while at < len(questions):
        question, place = questions[at], places[at]
        shown = display_path(place.path) if place is not None else f"image {question.id}"
        click.echo(f"[{at + 1}/{len(questions)}] {shown}", err=True)
        guess = labels[question.label] if question.label >= 0 else None
        called = for_display(guess) if guess is not None else "none of these"
        click.echo(
            f"  {for_display(question.why(labels))}\n  Enter = {called}, a number or name, n = "
            "none of these, s = skip, b = back, q = enough: ",
            nl=False,
            err=True,
        )
        sys.stderr.flush()
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            if not given:
                raise
            told = counted(len(given), "answer")
            click.echo(f"\nStopped: what was answered counts, {told}.", nl=False, err=True)
            line = ""
        answer = line.strip()
        if not line or answer in ("q", "Q"):
            if not line:
                click.echo("", err=True)
            break
        if answer in ("b", "B"):
            at = max(0, at - 1)
            continue
        if answer in ("s", "S"):
            given.pop(question.id, None)
            at += 1
            continue
        if not answer:
            label: str | None = guess
        elif answer in ("n", "N"):
            label = None
        else:
            found = label_answered(answer, labels)
            if found is None:
                click.echo(f"  There is no label {for_display(answer)!r}.", err=True)
                continue
            label = found
        given[question.id] = Correction(question.id, label, question.how)
        at += 1
    return list(given.values())


def tell_unsaved(label_set: LabelSet, corrections: list[Correction]) -> None:
    """Write down answers that could not be saved, as ``teach --file`` reads them."""
    from clipsearch.label_corrections import none_word

    none = none_word(label_set.labels)
    rows = [
        (one.image, none if one.label is None else one.label, one.chosen) for one in corrections
    ]
    name = for_display(label_set.name)
    click.echo(
        f"{counted(len(rows), 'answer')} not saved: put these lines into a file for 'clipsearch "
        f"teach {name} --file'.",
        err=True,
    )
    write_bytes(csv_lines([("id", "label", "chosen"), *rows]))


def label_answered(answer: str, labels: tuple[str, ...]) -> str | None:
    """The label that is meant by its name, its number from 1 on, or the only one that begins
    like that; None where that is none or several."""
    from clipsearch.prompts import same_label

    wanted = same_label(answer)
    for label in labels:
        if same_label(label) == wanted:
            return label
    if answer.isascii() and answer.isdigit() and len(answer) < 10:
        number = int(answer)
        return labels[number - 1] if 1 <= number <= len(labels) else None
    begin = [label for label in labels if same_label(label).startswith(wanted)]
    return begin[0] if len(begin) == 1 else None
