"""``clipsearch classify`` with labels in groups: group by group."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.label_notes import tell_of_labels
from clipsearch.cli.label_options import AskedLabels
from clipsearch.cli.labelling_output import label_summary, tell_speed
from clipsearch.cli.output import counted, for_display, on_terminal
from clipsearch.cli.result_columns import (
    classification_batch,
    group_batch,
    group_schema,
    label_column,
)
from clipsearch.cli.result_files import printed_results, result_writer
from clipsearch.cli.saving import saving_allowed
from clipsearch.cli.tag import result_batches, tag_summary, tell_tagging
from clipsearch.errors import LabelError
from clipsearch.grouped_labels import GroupLabels, group_set_name, label_group
from clipsearch.label_definitions import LabelDefinitions

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from clipsearch.cli.result_files import Write
    from clipsearch.filters import Filter
    from clipsearch.image_index import ImageIndex
    from clipsearch.label_set_files import NoneRule


def classify_groups(
    opened: ImageIndex,
    asked: AskedLabels,
    save_as: str | None,
    *,
    where: Filter | None,
    none: str | float | NoneRule,
    out: Path | None,
    output: str | None,
) -> int:
    """Label every image with each of the groups, one after the other, and print or write it as
    ``classify`` does; the exit code."""
    labels = asked.names
    assert isinstance(labels, LabelDefinitions)
    if where is not None and not all(group.exclusive for group in labels.groups):
        raise LabelError(
            "what is usual for labels that do not exclude each other is told by all images: leave "
            "out the filter, or such groups"
        )
    if save_as is not None:  # before any image is looked at
        for group in labels.groups:
            group_set_name(save_as, group)
    printed = output in ("json", "csv") or (out is None and not on_terminal())
    schema = group_schema(none != "off" and any(group.exclusive for group in labels.groups))
    allowed = None if where is None else opened.matching(where)
    summaries, saved, images = [], [], 0
    with contextlib.ExitStack() as writers:
        writes: list[Write] = []
        if out is not None:
            writes.append(writers.enter_context(result_writer(out, schema)))
        if printed:
            is_all = out is None and save_as is None
            writes.append(writers.enter_context(printed_results(output or "plain", schema, is_all)))
        for group in labels.groups:
            with saving_allowed(opened.path):
                found = label_group(
                    opened.path, opened.state(), opened.text_vectors(), labels, group,
                    asked.templates, asked.context,
                    save_as=save_as, allowed=allowed, none=none,
                )  # fmt: skip
            with found.labelling or contextlib.nullcontext():
                _write(opened, found, writes, schema)
                if found.set_name is not None:
                    with saving_allowed(opened.path):
                        found.save(opened.path, opened.state())
                    saved.append(found.set_name)
            if found.labelling is not None:
                images += found.labelling.images
                summary = label_summary(opened, found.labelling)
            else:
                assert found.tagging is not None
                images += len(found.tagging.labels)
                summary = tag_summary(opened, found.tagging)
            summaries.append(f"{for_display(group.name)}\n{summary}")
            _tell(found)
    if not printed:
        click.echo("\n\n".join(summaries))
    tell_of_labels(opened, asked)
    if out is not None:
        click.echo(f"Wrote {out}", err=True)
    if saved:
        click.echo(f"Saved {counted(len(saved), 'set')}: {', '.join(saved)}.", err=True)
    return FOUND if images else NOTHING_FOUND


def _write(opened: ImageIndex, found: GroupLabels, writes: list[Write], schema: pa.Schema) -> None:
    if found.tagging is not None:
        for batch in result_batches(opened, found.tagging) if writes else ():
            for write in writes:
                write(group_batch(batch, found.group.name, schema))
        return
    assert found.labelling is not None
    names = label_column(found.labelling.label_names)
    for block in found.labelling:
        if writes:
            batch = classification_batch(block, names, opened.paths(), 1)
            for write in writes:
                write(group_batch(batch, found.group.name, schema))


def _tell(found: GroupLabels) -> None:
    click.echo(f"{for_display(found.group.name)}: ", err=True, nl=False)
    if found.labelling is not None:
        tell_speed(found.labelling)
    elif found.tagging is not None:
        tell_tagging(found.tagging, None)
