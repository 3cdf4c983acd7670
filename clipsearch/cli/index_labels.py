"""``classify`` without IMAGEs: every image of an index, from stored vectors alone."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.adapt_option import begin_adapted, tell_adapted
from clipsearch.cli.filter_options import filter_from_options
from clipsearch.cli.fuse_option import begin_fused
from clipsearch.cli.label_notes import tell_of_labels
from clipsearch.cli.label_options import asked_labels, edited, none_rule
from clipsearch.cli.labelling_output import label_summary, tell_speed
from clipsearch.cli.output import counted, on_terminal
from clipsearch.cli.places import existing_index
from clipsearch.cli.ray_labels import over_ray
from clipsearch.cli.ray_options import ray_choice
from clipsearch.cli.result_columns import (
    classification_batch,
    classification_schema,
    label_column,
)
from clipsearch.cli.saving import saving_allowed
from clipsearch.cli.taught import begin_taught, is_taught_set, what_covers, what_taught
from clipsearch.cli.text_progress import TextProgress
from clipsearch.cli.votes import begin_votes, tell_votes
from clipsearch.errors import OptionError
from clipsearch.image_index import ImageIndex

if TYPE_CHECKING:
    from clipsearch.adapt import AdaptedLabelling
    from clipsearch.classify import Labelling
    from clipsearch.cli.label_options import AskedLabels
    from clipsearch.cli.result_files import Write
    from clipsearch.cluster_votes import VotedLabelling
    from clipsearch.filter_options import FilterOptions
    from clipsearch.filters import Filter
    from clipsearch.label_set_files import LabelSet, NoneRule
    from clipsearch.spread_scoring import Spread
    from clipsearch.taught_labelling import TaughtLabelling


def classify_index(
    *,
    labels: str | None,
    labels_file: str | None,
    templates: str | None,
    context: str | None,
    save_as: str | None,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    reword: tuple[str, ...],
    none: str | None,
    top: int | None,
    coverage: float | None,
    out_path: str | None,
    fast: bool,
    vote: str | None,
    clusters: str | None,
    adapt: bool,
    fuse: str | None,
    index_path: str | None,
    model: str | None,
    space: str | None,
    device: str | None,
    output: str | None,
    filters: FilterOptions | None,
    runner: str,
    address: str | None,
    ray_actors: int | None,
    ray_cpus: float | None,
    ray_gpus: float | None,
) -> int:
    """What ``classify`` does where no image is named; returns the exit code."""
    from clipsearch.cli.result_files import check_out_path, printed_results, result_writer
    from clipsearch.conformal import check_coverage
    from clipsearch.image_index import open_index
    from clipsearch.label_definitions import LabelDefinitions
    from clipsearch.label_set_files import check_name
    from clipsearch.saved_labelling import SavedLabelling

    top = top or 1
    current = click.get_current_context()
    ray = ray_choice(current, runner, address, ray_actors, ray_cpus, ray_gpus)
    place = existing_index(index_path)
    out = check_out_path(out_path) if out_path is not None else None
    name = check_name(save_as) if save_as is not None else None
    where = filter_from_options(filters)
    if where is not None and name is not None:
        raise OptionError("a saved label set is of every image: leave out --save-as or the filter")
    if fast and name is not None:
        raise OptionError("what a set remembers is exact: leave out --fast or --save-as")
    if fast and vote is not None:
        raise OptionError("votes are counted in float32: leave out --fast or --by-cluster")
    if adapt and (fast or vote is not None):
        raise OptionError("--adapt goes by itself: leave out --fast or --by-cluster")
    if fuse is not None and (fast or adapt or vote is not None or name is not None):
        raise OptionError(
            "--fuse goes by itself: leave out --fast, --adapt, --by-cluster and --save-as"
        )
    if ray is not None and (fast or adapt or fuse is not None or vote is not None):
        raise OptionError(
            "--runner ray labels every image by itself, in float32: leave out --fast, --adapt, "
            "--fuse and --by-cluster"
        )
    if clusters is not None and vote is None:
        raise OptionError("--clusters says who votes together: it goes with --by-cluster")
    asked = asked_labels(place, labels, labels_file, templates, context)
    asked = edited(asked, add, remove, reword)
    rule = none_rule(asked, none)
    is_taught = asked.saved is not None and asked.saved.teaching is not None
    if is_taught and (fast or adapt or fuse is not None or vote is not None):
        raise OptionError(
            "a set that was taught is labelled by its examples: leave out --fast, --adapt, "
            "--fuse and --by-cluster"
        )
    if is_taught and ray is not None:
        raise OptionError(
            "a set that was taught is labelled by this process alone: leave out --runner ray"
        )
    if coverage is not None and check_coverage(coverage) and not is_taught:
        raise OptionError(
            "label sets are calibrated on confirmed images: expected --labels @NAME, a set that "
            "was taught, with --coverage; 'clipsearch teach' teaches one"
        )
    opened = open_index(place, model=model, device=device, space=space)
    opened.watch_texts(TextProgress())
    if asked.saved is not None and rule is asked.saved.none:
        rule = _rule_in(opened, asked.saved)
    if isinstance(asked.names, LabelDefinitions) and asked.names.groups:
        if fast or adapt or fuse is not None or vote is not None or top > 1:
            raise OptionError(
                "labels in groups: leave out --fast, --adapt, --fuse, --by-cluster and --top"
            )
        if ray is not None:
            raise OptionError("labels in groups: leave out --runner ray")
        from clipsearch.cli.group_labels import classify_groups

        # One of each group that excludes each other, unless somebody asks for less.
        groups_rule = "off" if none is None else rule
        return classify_groups(
            opened, asked, name, where=where, none=groups_rule, out=out, output=output
        )
    printed = output in ("json", "csv") or (out is None and not on_terminal())
    has_rows = printed or out is not None
    labelling: Labelling
    voted: VotedLabelling | None = None
    taught: TaughtLabelling | None = None
    adapted: AdaptedLabelling | None = None
    with contextlib.ExitStack() as stack:
        spread: Spread | None = None
        if ray is not None:
            rows = has_rows or name is not None
            spread = stack.enter_context(over_ray(ray, rows=rows, shows_progress=not printed))
        if vote is not None:
            labelling = voted = begin_votes(
                opened, asked, name, vote, clusters, top=top, where=where, none=rule
            )
        elif is_taught:
            labelling = taught = begin_taught(
                opened, asked, name, top=top, where=where, none=rule, coverage=coverage
            )
        elif fuse is not None:
            labelling = begin_fused(
                opened, fuse, asked, top=top, where=where, none=rule, cosines=has_rows
            )
        elif adapt:
            labelling = voted = adapted = begin_adapted(
                opened, asked, name, top=top, where=where, none=rule
            )
        else:
            labelling = _begin(
                opened, asked, name, top=top, where=where, fast=fast, none=rule, spread=spread
            )
        abstains = labelling.abstention is not None
        has_cosines = fuse is not None or voted is not None
        has_cosines |= taught is not None and taught.lesson.taught is not None
        schema = classification_schema(labelling.top, has_cosines, abstains, coverage is not None)
        taught_before = name is not None and not is_taught and is_taught_set(opened, name)
        if isinstance(labelling, SavedLabelling):
            stack.enter_context(labelling)
        writes: list[Write] = []
        if out is not None:
            writes.append(stack.enter_context(result_writer(out, schema)))
        if printed:
            is_all = out is None and name is None
            writes.append(stack.enter_context(printed_results(output or "plain", schema, is_all)))
        _write(opened, labelling, writes)
        if name is not None:
            if isinstance(labelling, SavedLabelling):
                labelling.save()
            elif voted is not None:
                with saving_allowed(opened.path):
                    voted.save()
            elif taught is not None:
                with saving_allowed(opened.path):
                    taught.save()
    if len(asked.names) == 1 and not abstains:
        click.echo("Note: with a single label every image gets it, with probability 1.", err=True)
    if not printed:
        click.echo(label_summary(opened, labelling))
    tell_speed(labelling)
    tell_of_labels(opened, asked)
    if adapted is not None:
        tell_adapted(adapted)
    elif voted is not None:
        tell_votes(voted)
    if taught is not None:
        click.echo(what_taught(taught), err=True)
        if taught.coverage is not None:
            click.echo(what_covers(taught, taught.coverage), err=True)
    if out is not None:
        click.echo(f"Wrote {out}", err=True)
    if name is not None:
        click.echo(f"Saved as {name}: {counted(labelling.images, 'image')}.", err=True)
    if taught_before:
        click.echo(
            f"The examples of {name} were not used, and are those of the version before: "
            f"'clipsearch labels {name} --undo' brings them back.",
            err=True,
        )
    return FOUND if labelling.images else NOTHING_FOUND


def _rule_in(opened: ImageIndex, saved: LabelSet) -> str | NoneRule:
    """The rule of a saved set; what was fitted for another model of the index is fitted anew."""
    from clipsearch.label_sets import is_of_space

    if saved.none is None:
        return "auto"
    return saved.none if is_of_space(saved, opened.space) else saved.none.setting


def _begin(
    opened: ImageIndex,
    asked: AskedLabels,
    save_as: str | None,
    *,
    top: int,
    where: Filter | None,
    fast: bool,
    none: str | float | NoneRule,
    spread: Spread | None,
) -> Labelling:
    """Begin to label: beside a saved set where one is named, by itself otherwise."""
    from clipsearch.saved_labelling import classify_beside

    if fast or (save_as is None and (asked.saved is None or spread is not None)):
        return opened.label(
            asked.names, templates=asked.templates, context=asked.context,
            top=top, where=where, fast=fast, none=none, spread=spread,
        )  # fmt: skip
    allowed = None if where is None else opened.matching(where)
    with saving_allowed(opened.path):
        return classify_beside(
            opened.path, opened.state(), opened.text_vectors(),
            asked.names, asked.templates, asked.context,
            base=asked.saved.name if asked.saved is not None else None,
            save_as=save_as, top=top, allowed=allowed, none=none, spread=spread,
        )  # fmt: skip


def _write(opened: ImageIndex, labelling: Labelling, writes: list[Write]) -> None:
    """Hand a row per image, or with ``top`` above 1 per image and rank, in order of id, on."""
    names = label_column(labelling.label_names)
    for block in labelling:
        if writes:
            cosines = getattr(block, "cosines", None)  # of votes
            batch = classification_batch(
                block, names, opened.paths(), labelling.top, cosines, block.covered
            )
            for write in writes:
                write(batch)
