"""``clipsearch tag``."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pyarrow as pa

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.label_notes import tell_of_labels
from clipsearch.cli.label_options import AskedLabels, asked_labels, label_options
from clipsearch.cli.output import (
    counted,
    display_path,
    for_display,
    format_options,
    human_seconds,
    on_terminal,
    table,
)
from clipsearch.cli.places import (
    device_option,
    existing_index,
    index_option,
    moved_model_option,
    space_option,
)
from clipsearch.cli.ray_labels import over_ray
from clipsearch.cli.ray_options import ray_choice, ray_options
from clipsearch.cli.result_columns import TAG_SCHEMA, label_column, tag_batch
from clipsearch.cli.text_progress import TextProgress
from clipsearch.errors import OptionError
from clipsearch.image_index import ImageIndex
from clipsearch.label_set_files import TAG, LabelSet, check_name
from clipsearch.tagging import Tagging

if TYPE_CHECKING:
    from clipsearch.spread_scoring import Spread

_ROWS_AT_ONCE = 8192
_FEW_IMAGES = 30


@click.command()
@label_options
@click.option(
    "--threshold", "thresholds", metavar="Z | LABEL=Z", multiple=True,
    help="What a score has to pass, for all labels (0 by default) or for one; may repeat. The "
    "score is in standard deviations from what is usual for the label in the collection.",
)  # fmt: skip
@click.option(
    "--max", "most", type=click.IntRange(min=1), help="How many labels an image can have."
)
@click.option(
    "--floor", metavar="PERCENT", type=click.FloatRange(min=0, max=100, min_open=True),
    help="A label must also stand out in the image itself: its cosine must be one that no more "
    "than PERCENT (0.5 by default) of those of common words reach. 100 turns this off.",
)  # fmt: skip
@click.option(
    "--refit", is_flag=True,
    help="With --labels @NAME: score every image again by what is usual in the collection now, "
    "and save that.",
)  # fmt: skip
@click.option(
    "--out", "out_path", metavar="FILE", type=click.Path(path_type=str),
    help="Write every image's labels to FILE: .parquet, .csv or .json (one object a line).",
)  # fmt: skip
@ray_options
@index_option
@moved_model_option
@space_option
@device_option
@format_options(null=False)
def tag(
    labels: str | None,
    labels_file: str | None,
    templates: str | None,
    context: str | None,
    save_as: str | None,
    thresholds: tuple[str, ...],
    most: int | None,
    floor: float | None,
    refit: bool,
    out_path: str | None,
    index_path: str | None,
    model: str | None,
    space: str | None,
    device: str | None,
    output: str | None,
    runner: str,
    address: str | None,
    ray_actors: int | None,
    ray_cpus: float | None,
    ray_gpus: float | None,
) -> int:
    """Give every image those labels of a set that it shows: none, one or several.

    A saved set keeps what was usual for each label, so that images added later are scored
    alike: with --labels @NAME only those are scored, and added to the set.

    On a terminal a summary comes. In a pipe each tag comes as path, label and score with tabs
    between them; an image without a tag has no line there, and a row without a label in --json,
    --csv and --out.

    \b
      clipsearch tag --labels-file things.txt --save-as things
      clipsearch tag --labels @things
      clipsearch tag --labels "dog,snow,beach" --threshold snow=1.5 --max 3
    """
    from clipsearch.cli.result_files import check_out_path, printed_results, result_writer
    from clipsearch.image_index import open_index
    from clipsearch.label_definitions import LabelDefinitions

    if floor is not None and math.isnan(floor):
        raise OptionError("expected --floor above 0 and at most 100, got nan")
    place = existing_index(index_path)
    overall, of_label = _thresholds(thresholds)
    out = check_out_path(out_path) if out_path is not None else None
    name = check_name(save_as) if save_as is not None else None
    asked = asked_labels(place, labels, labels_file, templates, context)
    # A set of classify lends its labels alone: it has no statistics, and stays as it is.
    tagged_before = asked.saved if asked.saved is not None and asked.saved.kind == TAG else None
    if refit and tagged_before is None:
        raise OptionError("--refit goes with a set that tag has saved: --labels @NAME")
    if floor is not None and tagged_before is not None and not refit:
        raise OptionError("a saved label set has its own floor: add --refit to make a new one")
    context_here = click.get_current_context()
    ray = ray_choice(context_here, runner, address, ray_actors, ray_cpus, ray_gpus)
    if ray is not None and tagged_before is not None and not refit:
        raise OptionError(
            "of a saved set only new images are scored: leave out --runner ray, or add --refit"
        )
    opened = open_index(place, model=model, device=device, space=space)
    opened.watch_texts(TextProgress())
    with contextlib.nullcontext() if ray is None else over_ray(ray) as spread:
        result = _tagged(
            opened, asked, tagged_before, refit, overall, of_label, most, floor, spread
        )
    if name is None and tagged_before is not None:
        is_as_saved = not (thresholds or most)
        name = tagged_before.name if refit or (is_as_saved and result.scored) else None
    # Before anything is printed: what cannot be saved is an error, and then the only output.
    wished = save_as is not None or refit
    told = _save(opened, index_path, name, result, wished=wished) if name else ""
    if out is not None:
        with result_writer(out, TAG_SCHEMA) as write:
            for batch in result_batches(opened, result):
                write(batch)
    if output in ("json", "csv") or (out is None and not on_terminal()):
        with printed_results(output or "plain", TAG_SCHEMA) as write:
            for batch in result_batches(opened, result):
                write(batch)
    else:
        click.echo(tag_summary(opened, result))
    tell_tagging(result, out)
    if isinstance(asked.names, LabelDefinitions) and asked.names.has_thresholds:
        click.echo(
            "Note: the thresholds of the labels are probabilities, which tags do not have; they "
            "were not used: see --threshold.",
            err=True,
        )
    tell_of_labels(opened, asked)
    if told:
        click.echo(told, err=True)
    return FOUND if len(result.labels) else NOTHING_FOUND


def result_batches(opened: ImageIndex, result: Tagging) -> Iterator[pa.RecordBatch]:
    """A row per image and tag, in order of id and best first; an image without a tag has one
    with a null label."""
    rows, places = result.rows(), opened.paths()
    names = label_column(result.label_names)
    for start in range(0, len(rows.ids), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        yield tag_batch(
            rows.ids[part], rows.labels[part], rows.scores[part], rows.second[part], names, places
        )


def _thresholds(given: Sequence[str]) -> tuple[float | None, dict[str, float]]:
    """("1.5", "dog=2") -> 1.5, {"dog": 2.0}; OptionError for what is no number."""
    overall: float | None = None
    of_label: dict[str, float] = {}
    for text in given:
        label, _, number = text.rpartition("=")  # a label may have a = in it, a number has none
        try:
            value = float(number)
        except ValueError:
            raise OptionError(
                f"expected a number or LABEL=NUMBER after --threshold, such as 1.5 or dog=2, "
                f"got {text!r}"
            ) from None
        if "=" in text:
            of_label[label.strip()] = value
        else:
            overall = value
    return overall, of_label


def _tagged(
    opened: ImageIndex,
    asked: AskedLabels,
    saved: LabelSet | None,
    refit: bool,
    overall: float | None,
    of_label: dict[str, float],
    most: int | None,
    floor: float | None,
    spread: Spread | None,
) -> Tagging:
    from clipsearch.tag import THRESHOLD, tag, tag_like_saved
    from clipsearch.tag_statistics import FLOOR_SHARE

    state, texts = opened.state(), opened.text_vectors()
    if saved is not None and not refit:
        return tag_like_saved(
            opened.path, state, texts, saved.name,
            threshold=overall, thresholds=of_label, most=most,
        )  # fmt: skip
    share = floor / 100 if floor is not None else FLOOR_SHARE
    if saved is not None:  # what was saved stays, but for what is said anew
        if saved.thresholds is not None and overall is None:
            of_label = {**dict(zip(saved.labels, saved.thresholds, strict=True)), **of_label}
        if saved.statistics is not None and floor is None:
            share = saved.statistics.floor_share
        most = saved.most if most is None else most
    return tag(
        state, texts, asked.names,
        templates=asked.templates, context=asked.context,
        threshold=THRESHOLD if overall is None else overall, thresholds=of_label,
        most=most, floor_share=share, spread=spread,
    )  # fmt: skip


def tag_summary(opened: ImageIndex, result: Tagging) -> str:
    rows = []
    for line in result.summary():
        example = ""
        if line.example_id is not None:
            place = opened.paths().first_places([line.example_id])[0]
            example = display_path(place.path) if place is not None else ""
        rows.append((for_display(line.label), f"{line.count:,}", f"{line.share:.1%}", example))
    share = result.untagged / max(1, len(result))
    rows.append(("(no label)", f"{result.untagged:,}", f"{share:.1%}", ""))
    return table(("label", "images", "share", "best example"), rows, " rr")


def tell_tagging(result: Tagging, out: Path | None) -> None:
    remembered = len(result) - result.scored
    rate = f" ({result.scored / max(result.seconds, 1e-9):,.0f} images/s)" if result.scored else ""
    click.echo(
        f"Scored {counted(result.scored, 'image')} against "
        f"{counted(len(result.label_names), 'label')} in {human_seconds(result.seconds)}{rate}; "
        "no image was opened."
        + (f" Of {counted(remembered, 'image')} the tags were saved." if remembered else ""),
        err=True,
    )
    images = result.statistics.images
    if images < _FEW_IMAGES:
        click.echo(
            f"Note: what is usual for a label was learned from {counted(images, 'image')}, "
            "which is little to go by.",
            err=True,
        )
    elif len(result) > 2 * images:
        click.echo(
            f"Note: the collection has grown from {images:,} to {len(result):,} images since the "
            "set was made; --refit learns anew what is usual in it.",
            err=True,
        )
    if out is not None:
        click.echo(f"Wrote {out}", err=True)


def _save(opened: ImageIndex, named: str | None, name: str, result: Tagging, wished: bool) -> str:
    """Save the tags; what to tell. OptionError when that was ``wished`` and is not allowed.

    named : the index as it was named, None when it was not.
    """
    from clipsearch.tag import save_tagging

    place = opened.path
    try:
        saved = save_tagging(place, opened.state(), name, result)
    except PermissionError:
        if wished:
            raise OptionError(
                f"no permission to save a label set in the index at {place}"
            ) from None
        return "The index is read-only: the new tags were not added to the set."
    again = ["clipsearch", "tag", "--labels", f"@{saved.name}"]
    again += ["--index", named] if named is not None else []
    command = " ".join(word if word.startswith("@") else shlex.quote(word) for word in again)
    return (
        f"Saved as {saved.name}: {counted(len(result), 'image')}, "
        f"{counted(len(result.labels), 'tag')}. '{for_display(command)}' adds new images."
    )
