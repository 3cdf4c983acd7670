"""Printing an evaluation: tables for a person, lines for a pipe, JSON, and files of every image."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import pyarrow as pa

from clipsearch.cli.output import (
    counted,
    display_path,
    for_display,
    human_seconds,
    json_line,
    table,
    write_bytes,
)
from clipsearch.evaluation import Evaluation
from clipsearch.evaluation_run import EvaluationRun
from clipsearch.metadata_columns import string_array
from clipsearch.retrieval_evaluation import Retrieval
from clipsearch.shards import int_array

_WORST, _CONFUSIONS, _MISTAKES = 8, 8, 5
"""Lines on a terminal."""
_ROWS_AT_ONCE = 65_536
_LABEL = pa.dictionary(pa.int32(), pa.string())

EVALUATION_SCHEMA = pa.schema(
    [
        ("path", pa.binary()),
        ("truth", _LABEL),
        ("label", _LABEL),
        ("probability", pa.float32()),
        ("truth_rank", pa.int32()),
        ("model", _LABEL),
        ("prompts", _LABEL),
    ]
)
"""A row for every file and evaluation. truth_rank : at which place the true label is, from 1;
0 where it is not among the best five. path : the system's bytes."""


def print_evaluation(run: EvaluationRun, form: str) -> None:
    """The figures for a program. form : "json", one object; or "plain", a line an evaluation:
    model, prompts, top-1, top-5, mean per class and calibration error with tabs between them; then
    a line of captions: model, "captions", and recalls, text to image and image to text."""
    if form == "json":
        write_bytes(json_line(run.to_dict()))
        return
    for one in run.evaluations:
        figures = (one.accuracy, one.top5, one.mean_per_class, one.reliability.error)
        cells = [" ".join(for_display(text).split()) for text in (one.model, one.name)]
        write_bytes(_line(cells, figures))
    for found in run.retrievals:
        recalls = (*found.text_to_image.values(), *found.image_to_text.values())
        write_bytes(_line([" ".join(for_display(found.model).split()), "captions"], recalls))


def _line(cells: Sequence[str], figures: Sequence[float]) -> bytes:
    return "\t".join([*cells, *(f"{figure:.4f}" for figure in figures)]).encode() + b"\n"


def print_person(run: EvaluationRun) -> None:
    """The figures of every model and way to ask; then what the first of them gets wrong."""
    if run.evaluations:
        _print_labels(run)
    if run.retrievals:
        click.echo(("\n" if run.evaluations else "") + _retrieval_table(run.retrievals))


def _retrieval_table(retrievals: Sequence[Retrieval]) -> str:
    ranks = list(retrievals[0].text_to_image)
    header = [
        "model", "images", "captions",
        *(f"text to image @{k}" if k == ranks[0] else f"@{k}" for k in ranks),
        *(f"image to text @{k}" if k == ranks[0] else f"@{k}" for k in ranks),
    ]  # fmt: skip
    rows = [
        (for_display(one.model), f"{one.images:,}", f"{one.captions:,}",
         *map(_percent, (*one.text_to_image.values(), *one.image_to_text.values())))
        for one in retrievals
    ]  # fmt: skip
    return "recall of captions\n" + table(header, rows, " " + "r" * (2 + 2 * len(ranks)))


def _print_labels(run: EvaluationRun) -> None:
    rows = [
        (for_display(one.model), for_display(one.name), *map(_percent, _figures(one)))
        for one in run.evaluations
    ]
    figures = ("top-1", "top-5", "per class", "calibration error")
    click.echo(table(("model", "prompts", *figures), rows, "  rrrr"))
    first = run.evaluations[0]
    click.echo("\n" + _in_words(first))
    worst = [
        (for_display(first.samples.classes[place]), f"{first.samples.counts[place]:,}",
         _percent(float(first.per_class[place])))
        for place in first.worst_classes(_WORST).tolist()
        if first.per_class[place] < 1
    ]  # fmt: skip
    if worst:
        click.echo("\n" + table(("worst classes", "files", "top-1"), worst, " rr"))
    confused = [
        (for_display(one.truth), for_display(one.given), f"{one.count:,}", _percent(one.share))
        for one in first.confusions(_CONFUSIONS)
    ]
    if confused:
        columns = ("most often mistaken", "for", "files", "of the class")
        click.echo("\n" + table(columns, confused, "  rr"))
    mistakes = [
        (display_path(first.samples.paths[row]),
         *(for_display(first.samples.classes[code])
           for code in (first.samples.truth[row], first.given[row])),
         f"{first.probabilities[row, 0]:.0%}")
        for row in first.mistakes(_MISTAKES).tolist()
    ]  # fmt: skip
    if mistakes:
        columns = ("most confident mistakes", "is", "labelled", "")
        click.echo("\n" + table(columns, mistakes, "   r"))


def _figures(one: Evaluation) -> Sequence[float]:
    return one.accuracy, one.top5, one.mean_per_class, one.reliability.error


def _in_words(one: Evaluation) -> str:
    classes = len(one.samples.classes)
    gap = one.reliability.overconfidence
    way = "sure" if gap > 0 else "unsure"
    name = "" if not one.name else f", {for_display(one.name)}"
    return (
        f"{for_display(one.model)}{name}: {counted(len(one), 'file')} of {classes:,} classes, "
        f"{_percent(one.accuracy)} ± {100 * one.margin:.1f} have the right label (by chance "
        f"{1 / classes:.1%}); its probabilities are too {way} by {100 * abs(gap):.1f} points."
    )


def tell_run(run: EvaluationRun) -> None:
    """How fast it went, and what to know of the figures, on standard error."""
    for model, rate in run.rates.items():
        if rate is not None:
            click.echo(f"{for_display(model)} encoded {_rate(rate)} images/s.", err=True)
    images = sum(len(one) for one in run.evaluations if not math.isnan(one.seconds))
    seconds = sum(one.seconds for one in run.evaluations if not math.isnan(one.seconds))
    if images:
        labelled = counted(images, "label")
        click.echo(
            f"Gave {labelled} in {human_seconds(seconds)} "
            f"({_rate(images / max(seconds, 1e-9))} images/s) by stored vectors.",
            err=True,
        )
    if run.verdict is not None:
        click.echo(for_display(run.verdict), err=True)
    for note in run.notes:
        click.echo(f"Note: {for_display(note).rstrip('.')}.", err=True)


def evaluation_batches(evaluations: Sequence[Evaluation]) -> Iterator[pa.RecordBatch]:
    """Every file of every evaluation, as batches of ``EVALUATION_SCHEMA``."""
    for one in evaluations:
        names, model, prompts = map(string_array, (one.samples.classes, [one.model], [one.name]))
        for start in range(0, len(one), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            alike = np.zeros(len(one.given[rows]), np.int32)
            labels = ((one.samples.truth[rows], names), (one.given[rows], names))
            kinds = ((alike, model), (alike, prompts))
            truth, label, of_model, of_prompts = (
                pa.DictionaryArray.from_arrays(int_array(codes), texts)
                for codes, texts in (*labels, *kinds)
            )
            columns = [
                _paths(one.samples.paths[rows]),
                truth,
                label,
                pa.Array.from_buffers(
                    pa.float32(),
                    len(alike),
                    [None, pa.py_buffer(np.ascontiguousarray(one.probabilities[rows, 0]))],
                ),
                int_array(one.truth_ranks[rows]),
                of_model,
                of_prompts,
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=EVALUATION_SCHEMA)


def _paths(paths: Sequence[Path]) -> pa.BinaryArray:
    encoded = [os.fsencode(path) for path in paths]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.BinaryArray.from_buffers(pa.binary(), len(encoded), buffers)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.1%}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
