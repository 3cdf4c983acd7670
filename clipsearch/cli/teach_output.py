"""What ``teach`` says: what it was taught, what that changed, and the examples of a set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import numpy as np

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.output import (
    counted,
    csv_lines,
    display_path,
    for_display,
    human_seconds,
    json_line,
    on_terminal,
    path_fields,
    table,
    write_bytes,
)

if TYPE_CHECKING:
    from clipsearch.image_index import ImageIndex
    from clipsearch.label_set_files import LabelSet
    from clipsearch.lessons import Lesson
    from clipsearch.teaching import Teaching

_MOST_SHOWN = 60


def print_examples(opened: ImageIndex, label_set: LabelSet, output: str | None) -> int:
    """List the examples of a set; the exit code."""
    from clipsearch.label_corrections import none_word
    from clipsearch.label_examples import ids_now, read_examples
    from clipsearch.label_sets import labels_folder

    examples = read_examples(labels_folder(opened.path), label_set)
    if not examples:
        name = for_display(label_set.name)
        click.echo(
            f"{name} has no examples: 'clipsearch teach {name} IMAGE=LABEL' gives one.", err=True
        )
        return NOTHING_FOUND
    # A content that was gone and came back has another id.
    now = ids_now(opened.state(), examples)
    ids = [now.get(example.sha256, example.id) for example in examples]
    places = opened.paths().first_places(ids)
    documents: list[dict[str, Any]] = [
        {
            "id": image_id,
            **(path_fields(place.path) if place is not None else {"path": None}),
            "label": example.label,
            "chosen": example.chosen,
            "at": example.at,
        }
        for example, image_id, place in zip(examples, ids, places, strict=True)
    ]
    if output == "json":
        for document in documents:
            write_bytes(json_line(document))
    elif output == "csv":
        # As --file reads it: what shows none of the labels must not look like no answer.
        none = none_word(label_set.labels)
        rows = [
            (one["id"], one["path"] or "", none if one["label"] is None else one["label"],
             one["chosen"], one["at"])
            for one in documents
        ]  # fmt: skip
        write_bytes(csv_lines([("id", "path", "label", "chosen", "at"), *rows]))
    else:
        rows_shown = [
            (
                display_path(place.path) if place is not None else f"image {example.id}, gone",
                "none of these" if example.label is None else for_display(example.label),
                example.chosen,
                example.at,
            )
            for example, place in zip(examples, places, strict=True)
        ]
        if on_terminal():
            click.echo(table(("image", "label", "chosen", "at"), rows_shown))
        else:
            for row in rows_shown:
                click.echo("\t".join(row))
    return FOUND


def tell_teaching(teaching: Teaching, saved: LabelSet | None, output: str | None) -> None:
    """Say what came of it: a line a label on standard output, or JSON, and the rest beside it.

    saved : None where nothing was saved.
    """
    labelling = teaching.labelling
    document = _document(teaching, saved)
    rows = _rows(teaching)
    header = ("label", "examples", "before", "now")
    if output == "json":
        write_bytes(json_line(document))
    elif output == "csv":
        write_bytes(csv_lines([header, *rows]))
    elif on_terminal():
        shown = [(for_display(row[0]), *(f"{cell:,}" for cell in row[1:])) for row in rows]
        click.echo(table(header, shown[:_MOST_SHOWN], " rrr"))
        if len(shown) > _MOST_SHOWN:
            click.echo(f"... and {counted(len(shown) - _MOST_SHOWN, 'label')} more: see --csv")
    else:
        for row in rows:
            click.echo("\t".join(str(cell) for cell in row))
    click.echo(for_display(_told(teaching)), err=True)
    rate = labelling.images / max(labelling.seconds, 1e-9)
    click.echo(
        f"Labelled {counted(labelling.images, 'image')} again in "
        f"{human_seconds(labelling.seconds)} ({rate:,.0f} images/s); no image was opened.",
        err=True,
    )
    name = for_display(teaching.label_set.name)
    if saved is None:
        click.echo("Nothing was saved (--dry-run).", err=True)
    else:
        click.echo(
            f"Saved as version {saved.version} of {name}: 'clipsearch teach {name} --undo' takes "
            "it back.",
            err=True,
        )


def _rows(teaching: Teaching) -> list[tuple[Any, ...]]:
    """Of every label, and of none of these: how many examples, and images before and now."""
    labelling = teaching.labelling
    names = labelling.label_names
    codes = labelling.lesson.examples.labels
    examples = np.bincount(codes + 1, minlength=len(names) + 1)
    before = teaching.before.counts(len(names))
    now = {line.label: line.count for line in labelling.summary()}
    rows: list[tuple[Any, ...]] = [
        (name, int(examples[code + 1]), int(before[code + 1]), now[name])
        for code, name in enumerate(names)
    ]
    rows.sort(key=lambda row: -row[3])
    none = ("(none of these)", int(examples[0]), int(before[0]), labelling.unlabelled)
    return [*rows, none] if any(none[1:]) else rows


def _told(teaching: Teaching) -> str:
    labelling = teaching.labelling
    lesson = labelling.lesson
    parts = []
    if teaching.new:
        right = len(teaching.new) - teaching.corrected
        parts.append(
            f"{counted(len(teaching.new), 'image')} confirmed, {right:,} as labelled and "
            f"{teaching.corrected:,} corrected."
        )
    if teaching.forgotten:
        parts.append(f"{counted(teaching.forgotten, 'example')} taken back.")
    parts.append(
        f"{labelling.changed:,} of {counted(labelling.compared, 'image')} "
        f"{'has' if labelling.changed == 1 else 'have'} another label now."
    )
    shares = _left_out(lesson)
    if lesson.taught is not None and shares is not None:
        count, before, after = shares
        parts.append(
            f"On the {counted(count, 'example')} with a label, each left out in turn: {before:.0%}"
            f" -> {after:.0%} right"
            + (" (as without examples: they change nothing else)."
               if lesson.taught.method == "zero-shot" else ".")
        )  # fmt: skip
    if lesson.examples.resting or lesson.examples.gone:
        parts.append(
            f"Not used now: {lesson.examples.gone:,} of images that are gone, and "
            f"{lesson.examples.resting:,} of labels that the set does not have."
        )
    return " ".join(parts)


def _left_out(lesson: Lesson) -> tuple[int, float, float] | None:
    """How many examples have a label, and the shares of them that are labelled rightly without
    any example and with the others: what shows none of the labels says nothing of those."""
    shown = lesson.examples.labels[lesson.fitted] >= 0
    count = int(np.count_nonzero(shown))
    if lesson.taught is None or not count:
        return None
    return count, lesson.taught.right_before / count, float(lesson.taught.right[shown].mean())


def _document(teaching: Teaching, saved: LabelSet | None) -> dict[str, Any]:
    labelling = teaching.labelling
    lesson = labelling.lesson
    taught, shares = lesson.taught, _left_out(lesson)
    return {
        "name": teaching.label_set.name,
        "version": None if saved is None else saved.version,
        "confirmed": len(teaching.new),
        "corrected": teaching.corrected,
        "forgotten": teaching.forgotten,
        "images": labelling.images,
        "changed": labelling.changed,
        "unlabelled": labelling.unlabelled,
        "examples": len(lesson.examples),
        "resting": lesson.examples.resting,
        "gone": lesson.examples.gone,
        "method": None if taught is None else taught.method,
        "accuracy_before": None if shares is None else round(shares[1], 6),
        "accuracy_after": None if shares is None else round(shares[2], 6),
        "labels": [
            dict(zip(("label", "examples", "before", "now"), row, strict=True))
            for row in _rows(teaching)
        ],
        "seconds": round(labelling.seconds, 3),
    }
