"""``classify IMAGE...``: image files against labels, without an index."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.cli import FOUND, NOTHING_FOUND, PARTIAL
from clipsearch.cli.label_notes import tell_of_names
from clipsearch.cli.label_options import asked_labels, edited
from clipsearch.cli.model_choice import chosen_encoder
from clipsearch.cli.named_images import NamedImages, named_images
from clipsearch.cli.output import (
    counted,
    for_display,
    human_seconds,
    on_terminal,
    padded,
    text_width,
)
from clipsearch.cli.places import existing_index
from clipsearch.cli.stage_progress import StageProgress
from clipsearch.cli.text_progress import TextProgress
from clipsearch.errors import LabelError, OptionError

if TYPE_CHECKING:
    from clipsearch.cli.label_options import AskedLabels
    from clipsearch.encoder import Encoder
    from clipsearch.image_labels import Decode, ImageLabels

_UNDERSTOOD = frozenset(
    {"images", "labels", "labels_file", "templates", "context", "add", "remove", "reword", "none"}
    | {"top", "out_path", "index_path", "model", "device", "output"}
)
"""Options of ``classify`` that mean something for images without an index."""

_FEW, _SHOWN = 10, 5
"""Of so many images at most a terminal shows so many labels each, where nobody says how many."""
_AT_ONCE = 32
_WIDEST = 40  # cells of the label column; what is longer stands out


def classify_images(context: click.Context) -> int:
    """What ``classify`` does where images are named; returns the exit code."""
    given = context.params
    _refuse_options(context)
    from clipsearch.cli.result_files import check_out_path
    from clipsearch.label_definitions import LabelDefinitions
    from clipsearch.prompts import resolve_templates

    labels = given["labels"]
    is_saved = labels is not None and labels.lstrip().startswith("@")
    place = existing_index(given["index_path"]) if is_saved else Path()
    asked = asked_labels(
        place, labels, given["labels_file"], given["templates"], given["context"]
    )  # fmt: skip
    asked = edited(asked, given["add"], given["remove"], given["reword"])
    resolve_templates(asked.templates)
    if isinstance(asked.names, LabelDefinitions) and asked.names.groups:
        raise LabelError(
            "labels in groups are for the images of an index: give those of one group here"
        )
    out = check_out_path(given["out_path"]) if given["out_path"] is not None else None
    wanted = named_images(given["images"])
    if not wanted.images:
        wanted.refuse_if_skipped()
        click.echo("There is no image in what was named.", err=True)
        return NOTHING_FOUND
    # What decodes in other processes is the indexer's, as whole commands are.
    decoding = importlib.import_module("indexer.decoded_pixels")
    decoding.start_decoders(len(wanted.images))
    encoder = chosen_encoder(context)
    run = _Run(encoder, asked, wanted, decoding.decoded_pixels)
    run.label(given["top"], out, given["output"])
    run.tell(out)
    return PARTIAL if wanted.skipped else FOUND


def _refuse_options(context: click.Context) -> None:
    """Raise OptionError for options that are of images in an index."""
    typed = click.core.ParameterSource.COMMANDLINE
    odd = [
        max(option.opts, key=len)
        for option in context.command.params
        if option.name not in _UNDERSTOOD and context.get_parameter_source(option.name) == typed
    ]
    if odd:
        raise OptionError(
            f"{', '.join(odd)}: for the images of an index alone; leave that out, or the images"
        )
    none = context.params["none"]
    is_typed = context.get_parameter_source("none") == typed
    if is_typed and none is not None and none.strip().lower() != "off":
        raise OptionError(
            "which images are none of the labels is told by a collection: leave out --none, or "
            "index the images and leave them out here"
        )


class _Run:
    """One labelling of images, and how it is told."""

    def __init__(
        self, encoder: Encoder, asked: AskedLabels, wanted: NamedImages, decode: Decode
    ) -> None:
        self._encoder = encoder
        self._asked = asked
        self._wanted = wanted
        self._decode = decode
        self._progress = StageProgress()
        self._done = self._labelled = 0
        self._seconds = 0.0

    def label(self, top: int | None, out: Path | None, output: str | None) -> None:
        """Label the images; print the labels, and write them to ``out``."""
        from clipsearch.cli.result_columns import (
            image_label_batch,
            image_label_schema,
            label_column,
        )
        from clipsearch.cli.result_files import Write, printed_results, result_writer
        from clipsearch.image_labels import label_images, texts_of

        names, images = self._asked.names, self._wanted.images
        is_shown = output is None and on_terminal() and out is None
        if top is None:
            top = _SHOWN if is_shown and len(images) <= _FEW else 1
        top = min(top, len(names))
        texts = texts_of(self._encoder)
        texts.on_progress = TextProgress()
        found = label_images(
            self._encoder, images, names,
            templates=self._asked.templates, context=self._asked.context, top=top, texts=texts,
            decode=self._decode,
        )  # fmt: skip
        schema, column = image_label_schema(top), label_column(names)
        with contextlib.ExitStack() as open_now:
            writes: list[Write] = []
            if out is not None:
                writes.append(open_now.enter_context(result_writer(out, schema)))
            if not is_shown and (out is None or output is not None):
                form = output or "plain"
                writes.append(open_now.enter_context(printed_results(form, schema, out is None)))
            open_now.enter_context(self._progress)
            lines = _Lines(names, top, len(images))
            for part in self._parts(found):
                if is_shown:  # which is how far it is
                    lines.show(part)
                    continue
                batch = image_label_batch(part, schema, column, names)
                for write in writes:
                    write(batch)
                self._progress("Labelling images", self._done, len(images))
            if not self._labelled:
                self._wanted.refuse_if_skipped()

    def _parts(self, found: Iterator[ImageLabels]) -> Iterator[list[tuple[str, ImageLabels]]]:
        begin = time.perf_counter()
        named = zip(self._wanted.names, found, strict=True)
        while part := list(islice(named, _AT_ONCE)):
            labelled = []
            for name, labels in part:
                if labels.error is not None:
                    self._progress.clear()
                    self._wanted.skip(name, labels.error)
                else:
                    labelled.append((name, labels))
            self._done += len(part)
            self._labelled += len(labelled)
            self._seconds = time.perf_counter() - begin
            yield labelled

    def tell(self, out: Path | None) -> None:
        """Say what was done, and what is to be known of the labels."""
        if len(self._asked.names) == 1:
            click.echo(
                "Note: with a single label every image gets it, with probability 1.", err=True
            )
        saved = self._asked.saved
        if saved is not None and saved.teaching is not None:
            click.echo(
                f"Note: {for_display(saved.name)} was taught by examples, which count for images "
                "of the index alone: here its labels go by their words.",
                err=True,
            )
        tell_of_names(self._asked)
        skipped = f"; skipped {self._wanted.skipped:,}" if self._wanted.skipped else ""
        click.echo(
            f"Labelled {counted(self._labelled, 'image')} with "
            f"{for_display(self._encoder.space.model)} in {human_seconds(self._seconds)} "
            f"({self._labelled / max(self._seconds, 1e-9):,.0f} images/s){skipped}.",
            err=True,
        )
        if out is not None:
            click.echo(f"Wrote {for_display(str(out))}", err=True)


class _Lines:
    """Labels for a person, image by image: a line each, or with several labels a paragraph."""

    def __init__(self, names: Sequence[str], top: int, images: int) -> None:
        self._top = top
        self._width = min(_WIDEST, max(text_width(for_display(name)) for name in names))
        self._is_first = True
        self._has_one = images == 1

    def show(self, part: Sequence[tuple[str, ImageLabels]]) -> None:
        """Print some images."""
        for name, found in part:
            path = for_display(name)
            rows = [(f"{best.probability:.1%}", for_display(best.label)) for best in found.labels]
            rows = rows or [("", "(none of these)")]
            if self._top == 1:
                if self._is_first:
                    click.echo(f"probability  {padded('label', self._width)}  image")
                click.echo(f"{rows[0][0]:>11}  {padded(rows[0][1], self._width)}  {path}")
            else:
                if not self._is_first:
                    click.echo()
                if not self._has_one:
                    click.echo(path)
                for probability, label in rows:
                    click.echo(f"{probability:>8}  {label}")
            self._is_first = False
