"""``clipsearch teach``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.cli import FOUND
from clipsearch.cli.output import format_options
from clipsearch.cli.places import (
    device_option,
    existing_index,
    index_option,
    moved_model_option,
    space_option,
)
from clipsearch.cli.saving import saving_allowed
from clipsearch.errors import LabelError, OptionError

if TYPE_CHECKING:
    from clipsearch.label_examples import Correction
    from clipsearch.label_set_files import LabelSet
    from clipsearch.query import Image


@click.command()
@click.argument("name")
@click.argument("answers", nargs=-1, metavar="[IMAGE=LABEL]...")
@click.option(
    "--label", metavar="LABEL",
    help="Every IMAGE named, without =LABEL, shows this: --label lion a.jpg b.jpg.",
)  # fmt: skip
@click.option("--none", "none", is_flag=True, help="Every IMAGE named shows none of the labels.")
@click.option(
    "--file", "file", metavar="CSV", type=click.Path(path_type=str),
    help="A CSV with the columns path (or id) and label: a row for every image. An empty label is "
    "no answer, none is none of these. What 'classify --csv' and --ask write will do.",
)  # fmt: skip
@click.option("--forget", is_flag=True, help="Every IMAGE named is no example any more.")
@click.option(
    "--ask", "ask", metavar="N", type=click.IntRange(min=1),
    help="List the N images whose labels it helps most to confirm, some of them drawn at random.",
)  # fmt: skip
@click.option(
    "--out", "out_path", metavar="FILE.html", type=click.Path(path_type=str),
    help="With --ask: a page with the images, to answer in and to save the answers as a CSV.",
)  # fmt: skip
@click.option(
    "--random", "all_random", is_flag=True,
    help="With --ask: draw all of the images at random, a fair sample of the collection; "
    "'classify --coverage' takes 200 of them.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE.html, whatever it is.")
@click.option(
    "-i", "--interactive", is_flag=True,
    help="With --ask: ask them one by one. The number of a label, Enter for the one shown, n for "
    "none of these, s to skip, b to go back, q when you have had enough.",
)  # fmt: skip
@click.option("--examples", is_flag=True, help="List the confirmed examples of the set.")
@click.option(
    "--undo", is_flag=True, help="Let the set be what it was before; see 'clipsearch labels'."
)
@click.option("--dry-run", is_flag=True, help="Say what would change, and save nothing.")
@index_option
@space_option
@moved_model_option
@device_option
@format_options(null=False)
def teach(
    name: str,
    answers: tuple[str, ...],
    label: str | None,
    none: bool,
    file: str | None,
    forget: bool,
    ask: int | None,
    out_path: str | None,
    all_random: bool,
    force: bool,
    interactive: bool,
    examples: bool,
    undo: bool,
    dry_run: bool,
    index_path: str | None,
    space: str | None,
    model: str | None,
    device: str | None,
    output: str | None,
) -> int:
    """Teach the saved label set NAME by examples: confirm labels, or correct them.

    An IMAGE is a file, wherever a copy of it lies now, or the id of an image (digits alone; ./7
    is a file). Every image of the index is labelled again from stored vectors, the examples have
    the labels that you gave them, and what was there before can be had back with --undo. Later
    'classify --labels @NAME' goes by the examples, too.

    \b
      clipsearch teach animals photos/a.jpg=lion photos/b.jpg=tiger
      clipsearch teach animals --label lion photos/safari/*.jpg
      clipsearch teach animals --none photos/car.jpg
      clipsearch teach animals --ask 10 -i
      clipsearch teach animals --ask 30 --out ask.html
      clipsearch teach animals --file answers.csv
    """
    place = existing_index(index_path)
    name = name.strip().removeprefix("@")  # as --labels of classify has it
    images_alone = forget or none or label is not None
    if sum((label is not None, none, forget)) > 1:
        raise OptionError("--label, --none and --forget go one at a time")
    if images_alone and not answers:
        raise OptionError("name the images that are meant, behind the option")
    wishes = [bool(answers), file is not None, ask is not None, examples, undo]
    if sum(wishes) > 1 and not (sum(wishes) == 2 and answers and file is not None and not forget):
        raise OptionError("answers, --ask, --examples and --undo go one at a time")
    if not any(wishes):
        raise OptionError(
            "say what is to be taught: IMAGE=LABEL, --file CSV or --ask N -i; --examples lists "
            "what the set has been taught"
        )
    if ask is None and (out_path is not None or interactive or force or all_random):
        raise OptionError("--out, --force, --random and -i go with --ask N")
    if undo:
        from clipsearch.cli.labels import go_back

        if dry_run:
            raise OptionError("--undo is undone by 'clipsearch labels NAME --restore VERSION'")
        return go_back(place, name, None)
    from clipsearch.cli.teach_output import print_examples, tell_teaching
    from clipsearch.cli.text_progress import TextProgress
    from clipsearch.image_index import open_index
    from clipsearch.teaching import begin_teaching, set_to_teach

    label_set = set_to_teach(place, name)
    opened = open_index(place, model=model, device=device, space=space)
    opened.watch_texts(TextProgress())
    if examples:
        return print_examples(opened, label_set, output)
    corrections: list[Correction] = []
    forgotten: list[Image] = []
    if ask is not None:
        from clipsearch.cli.ask import ask_about

        answered = ask_about(
            opened, label_set, ask,
            out_path=out_path, force=force, all_random=all_random, interactive=interactive,
            output=output,
        )  # fmt: skip
        if answered is None:
            return FOUND
        corrections = answered
    elif forget:
        forgotten = _images(answers)
    else:
        corrections = _corrections(label_set, answers, label, none, file)
    if not corrections and not forgotten:
        click.echo("No answers: nothing was changed.", err=True)
        return FOUND
    try:
        with saving_allowed(place):
            teaching = begin_teaching(
                place, opened.state(), opened.text_vectors(), name, corrections, forgotten
            )
            for _ in teaching.labelling:
                pass
            saved = None if dry_run else teaching.labelling.save()
    except BaseException:
        if interactive and not dry_run:
            from clipsearch.cli.ask import tell_unsaved

            tell_unsaved(label_set, corrections)
        raise
    tell_teaching(teaching, saved, output)
    return FOUND


def _images(answers: tuple[str, ...]) -> list[Image]:
    from clipsearch.label_corrections import image_meant

    return [image_meant(text) for text in answers]


def _corrections(
    label_set: LabelSet, answers: tuple[str, ...], label: str | None, none: bool, file: str | None
) -> list[Correction]:
    """What the options and arguments say of images.

    Raises LabelError as ``parse_correction`` and ``read_corrections``.
    """
    from clipsearch.label_corrections import parse_correction, read_corrections
    from clipsearch.label_examples import Correction

    labels = label_set.labels
    if none:
        found = [Correction(image, None) for image in _images(answers)]
    elif label is not None:
        if not label.strip():
            raise LabelError("--label is empty: expected a label of the set; --none is for none")
        found = [Correction(image, label) for image in _images(answers)]
    else:
        found = [parse_correction(text, labels) for text in answers]
    if file is not None:
        read = read_corrections(Path(file), labels)
        if read.unanswered:
            click.echo(f"{read.unanswered:,} rows of {file} have no label: left out.", err=True)
        found += read.corrections
    return found
