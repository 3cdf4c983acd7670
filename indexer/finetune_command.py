"""``clipsearch finetune``: a model that knows a collection better, and what that costs."""

from __future__ import annotations

import os
import shlex
from typing import Any

import click

from clipsearch.cli import FOUND, INTERRUPTED, NOTHING_FOUND, PARTIAL, no_more_interrupts
from clipsearch.cli.output import (
    counted,
    for_display,
    human_seconds,
    json_line,
    on_terminal,
    table,
    write_bytes,
)
from clipsearch.cli.places import device_option
from clipsearch.cli.settings import offline
from indexer.account import say
from indexer.fine_tuning_records import MOST_EPOCHS, FineTuned, FineTuning, PhotoRead, TrainingStep
from indexer.progress import open_bar


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=str))
@click.option(
    "--model", required=True, metavar="MODEL", help="What to begin with: a name or a folder."
)
@click.option(
    "--out", required=True, metavar="FOLDER", type=click.Path(path_type=str),
    help="Where the new model goes: a folder that is not there yet.",
)  # fmt: skip
@click.option(
    "--test", metavar="DIR", type=click.Path(path_type=str),
    help="Other photos, a folder a class, to measure before and after on.",
)  # fmt: skip
@click.option(
    "--leave-out", metavar="CLASSES",
    help='Classes that are not trained on, "ewer,watch"; what the training does to them is '
    "measured, and has a say in alpha.",
)  # fmt: skip
@click.option(
    "--rehearsal/--no-rehearsal", "rehearse", default=True,
    help="Without --leave-out: train twice, first without a fifth of the classes, to measure what "
    "the training does to words that it is not about. It is the default.",
)  # fmt: skip
@click.option(
    "--alpha", type=float, metavar="X",
    help="The share of the trained weights in the new ones, above 0, at most 1. Without it: the "
    "one that does best on photos and classes that were not trained on.",
)  # fmt: skip
@click.option(
    "--epochs", type=click.IntRange(1, MOST_EPOCHS), default=FineTuning.epochs, show_default=True,
    help="How often the whole tower sees every photo.",
)  # fmt: skip
@click.option(
    "--rate", type=float, metavar="X",
    help="The learning rate. Without it: 3e-4, and 3e-5 for a tower of 50 million weights or more.",
)  # fmt: skip
@click.option(
    "--batch-size", type=click.IntRange(1, 4096), default=FineTuning.batch_size, show_default=True,
    help="Photos a step; fewer take less memory.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option(
    "--templates", default="simple", show_default=True, metavar="TEMPLATES",
    help="How classes are put into words, as in classify: simple, openai, none, a file, or a text "
    "with {}.",
)  # fmt: skip
@click.option("--context", help='What the classes are, such as "a type of pet".')
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the account as one JSON object.")
def finetune(
    folder: str,
    model: str,
    out: str,
    test: str | None,
    leave_out: str | None,
    rehearse: bool,
    alpha: float | None,
    epochs: int,
    rate: float | None,
    batch_size: int,
    seed: int,
    templates: str,
    context: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Fine-tune a model on DIR, a folder of photos for each class, and write it to a new folder.

    A linear probe first, then a few epochs of the image tower at a low rate, and of what comes of
    it as much as does good (WiSE-FT). A fifth of the photos is held out to measure. The folder is
    a model like any other; vectors of another model do not fit it, so it wants an index of its
    own, or 'clipsearch model add'. Interrupted, the same command goes on.

    \b
      clipsearch finetune birds/ --model mini --out birds-model
      clipsearch evaluate birds-test/ --model mini --model ./birds-model
      clipsearch model add ./birds-model --index photos.index
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in 'index'
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    from clipsearch.prompts import parse_labels
    from indexer.fine_tuning import fine_tune

    asked = FineTuning(
        epochs=epochs,
        rate=rate,
        batch_size=batch_size,
        seed=seed,
        alpha=alpha,
        leave_out=() if leave_out is None else parse_labels(leave_out),
        rehearse=rehearse,
        templates=templates,
        context=context,
    )
    try:
        with _Progress() as progress:
            found = fine_tune(
                folder, model, out, asked, test=test, device=device,
                allow_download=not offline(), on_event=progress.hear,
            )  # fmt: skip
    except KeyboardInterrupt:
        no_more_interrupts()
        shown = for_display(out)
        part = os.path.abspath(os.path.expanduser(out)) + ".part"
        goes_on = f"; the same command goes on with what is in {shown}.part"
        say(f"\nInterrupted. Nothing is at {shown}{goes_on if os.path.isdir(part) else ''}.")
        return INTERRUPTED
    if as_json:
        write_bytes(json_line(found.to_dict()))
    else:
        _print(found)
    _tell(found, out)
    if found.folder is None:
        return NOTHING_FOUND
    return PARTIAL if found.skipped else FOUND


def _print(found: FineTuned) -> None:
    rows = [
        (
            f"{result.what} ({counted(result.classes, 'class', 'classes')})",
            f"{result.photos:,}",
            *(_percent(share) for share in (result.before, result.probe, result.after)),
        )
        for result in found.results
    ]
    if rows and on_terminal():
        click.echo(
            table(
                ("top-1 among all labels, %", "photos", "before", "probe", "after"), rows, " rrrr"
            )
        )
    for row in rows if not on_terminal() else []:
        click.echo("\t".join(row))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _tell(found: FineTuned, out: str) -> None:
    for note in found.notes:
        say(f"Note: {for_display(note)}.")
    for path, reason in found.skipped_examples[:1]:
        say(
            f"{counted(found.skipped, 'file')} could not be read, such as {for_display(path)}: "
            f"{for_display(reason)}"
        )
    took = human_seconds(found.seconds)
    if found.folder is None:
        say(
            f"Trained for {took}, and no share of it does better than the model as it is: nothing "
            "is written. A few examples a label may do: 'clipsearch teach'. Or say --alpha 0.5 to "
            "have it anyway."
        )
        return
    named = for_display(shlex.quote(out if os.sep in out else os.path.join(os.curdir, out)))
    share = "as asked" if not found.chosen else "chosen on photos that were not trained on"
    of = counted(len(found.classes), "class", "classes")
    say(
        f"Trained on {counted(found.photos, 'photo')} of {of} in {took}; "
        f"{found.alpha:.0%} of it is in the new weights, {share}."
    )
    if found.rehearsed:
        names = ", ".join(found.rehearsed[:5]) + (", ..." if len(found.rehearsed) > 5 else "")
        say(f"The rehearsal was trained without {for_display(names)}; the model is with them.")
    say("probe: a linear probe on the vectors of the model as it was, what 'teach' comes to.")
    say(f"Use it with --model {named}; its README.md tells of it.")


class _Progress:
    """What is under way, and a bar of steps on a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def hear(self, event: PhotoRead | TrainingStep) -> None:
        """Show one event."""
        if isinstance(event, PhotoRead):
            if event.number == 1:
                self._begin(f"Reading {counted(event.photos, 'photo')}.", event.photos, " images")
            done = event.number
        else:
            if event.what != self._what:
                said = f"{event.what.capitalize()}: {counted(event.steps, 'step')}."
                self._begin(said, event.steps, " steps")
                self._what = event.what
            done = event.step
        if self._bar is not None:
            self._bar.update(done - self._bar.n)  # of a training, an earlier run has made some

    def _begin(self, text: str, total: int, unit: str) -> None:
        self._close()
        say(text)
        self._bar = open_bar(total, unit)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None
