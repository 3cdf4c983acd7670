"""``clipsearch evaluate``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.cli import FOUND, INTERRUPTED, PARTIAL, no_more_interrupts, silence_stdout
from clipsearch.cli.model_choice import ask_for_model, can_ask
from clipsearch.cli.output import for_display, on_terminal
from clipsearch.cli.places import device_option, named_index
from clipsearch.cli.settings import offline
from clipsearch.cli.text_progress import TextProgress
from clipsearch.errors import ModelNotChosenError, OptionError
from indexer.account import say

if TYPE_CHECKING:
    from indexer.evaluate_source import Evaluated
    from indexer.evaluation_source import EvaluationSettings

_PAGES = (".html", ".htm")


@click.command()
@click.argument("source", required=False, metavar="[FOLDER|TABLE]", type=click.Path(path_type=str))
@click.option(
    "--index", "of_index", metavar="INDEX", type=click.Path(path_type=str),
    help="Evaluate the images of this index, by its vectors: FOLDER, or else the folders that "
    "were indexed, then says which folders the classes are.",
)  # fmt: skip
@click.option(
    "--model", "models", metavar="MODEL", multiple=True,
    help="A model, as for 'clipsearch index'. May repeat: all are compared on the same images.",
)  # fmt: skip
@click.option(
    "--prompts", metavar="NAME", multiple=True,
    help="How classes are put into words: simple (7 templates, the default), name (alone), one "
    '("a photo of a {}."), openai (80), a file of templates, one such as "a sketch of a {}", or '
    "all for the four. May repeat: all are compared.",
)  # fmt: skip
@click.option(
    "--context", metavar="TEXT",
    help='Ask once more with what the classes are behind each, such as "a type of pet".',
)  # fmt: skip
@click.option(
    "--descriptions", metavar="FILE", type=click.Path(path_type=str),
    help="Ask once more with the other words, synonyms and descriptions of a .toml or .json file.",
)  # fmt: skip
@click.option(
    "--names", metavar="FILE", type=click.Path(path_type=str),
    help="What the classes of folders are called: a CSV of folder and name, or a .toml or .json.",
)  # fmt: skip
@click.option(
    "--labels-file", metavar="FILE", type=click.Path(path_type=str),
    help="All labels to choose from, where they are more than the folders; as for 'classify'.",
)  # fmt: skip
@click.option(
    "--fuse", is_flag=True,
    help="Label by all models together, too, and tell whether that beats the better one.",
)  # fmt: skip
@click.option(
    "--captions", metavar="TABLE", type=click.Path(path_type=str),
    help="How well words find the images, and images the words: recall at 1, 5 and 10 by a CSV "
    "with a column image and a column caption. FOLDER need have no classes then.",
)  # fmt: skip
@click.option(
    "--report", "report_path", metavar="FILE.html", type=click.Path(path_type=str),
    help="Write a page with charts, and the most confident mistakes as pictures.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a --report that is there, for good.")
@click.option(
    "--out", "out_path", metavar="FILE", type=click.Path(path_type=str),
    help="Write what every image was given to FILE: .parquet, .csv or .json (an object a line).",
)  # fmt: skip
@click.option(
    "--fresh", is_flag=True,
    help="Encode the images anew, not what has changed since the last time alone.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print every figure as one JSON object.")
@device_option
def evaluate(
    source: str | None,
    of_index: str | None,
    models: tuple[str, ...],
    prompts: tuple[str, ...],
    context: str | None,
    descriptions: str | None,
    names: str | None,
    labels_file: str | None,
    fuse: bool,
    captions: str | None,
    report_path: str | None,
    force: bool,
    out_path: str | None,
    fresh: bool,
    as_json: bool,
    device: str | None,
) -> int:
    """Measure how good the labels of a model are on images of which it is known what they show.

    FOLDER holds a folder for each class, with its images in it; a TABLE (.csv or .tsv) has a
    column path and a column label. The images are encoded once, into an index that your cache
    folder keeps, and nothing is written where they are; another evaluation of them, with other
    words or labels, takes seconds.

    Told are the share of images whose label is right (top-1), that have it among the best five
    (top-5), the mean of that over the classes, and whether the probabilities mean what they say
    (expected calibration error); figures are those of open_clip and CLIP_benchmark.

    \b
      clipsearch evaluate photos/test
      clipsearch evaluate photos/test --model fast --model best --prompts all
      clipsearch evaluate labels.csv --context "a type of bird" --out birds.csv
      clipsearch evaluate --index photos.index --report photos.html
      clipsearch evaluate photos --captions captions.csv
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in 'index'
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    from clipsearch.cli.evaluation_output import (
        EVALUATION_SCHEMA,
        evaluation_batches,
        print_evaluation,
        print_person,
        tell_run,
    )
    from clipsearch.cli.result_files import check_out_path, result_writer
    from indexer.evaluation_source import EvaluationSettings

    out = check_out_path(out_path) if out_path is not None else None
    report = _checked_report(report_path, force)
    if source == "":
        raise OptionError("expected a folder or a table, got an empty name")
    index = None if of_index is None else str(named_index(of_index))
    settings = EvaluationSettings(
        source=source,
        index=index,
        models=models or _usual_models(index),
        prompts=prompts or ("simple",),
        context=context,
        descriptions=descriptions,
        labels_file=labels_file,
        names=names,
        captions=captions,
        fuse=fuse,
        fresh=fresh,
        device=device,
        allow_download=bool(models) and not offline(),
    )
    try:
        done = _evaluated(settings)
    except KeyboardInterrupt:
        no_more_interrupts()
        say("\nInterrupted. Every finished part is kept: the same command goes on from there.")
        return INTERRUPTED
    run = done.run
    if out is not None:
        with result_writer(out, EVALUATION_SCHEMA) as write:
            for batch in evaluation_batches(run.evaluations):
                write(batch)
    try:
        if as_json or not on_terminal():
            print_evaluation(run, "json" if as_json else "plain")
        else:
            print_person(run)
    except BrokenPipeError:
        if report is None:
            raise
        silence_stdout()
    tell_run(run)
    if out is not None:
        say(f"Wrote {for_display(str(out))}")
    if report is not None:  # last: where a file is there, the figures are told all the same
        from clipsearch.evaluation_report import export_evaluation_report

        first = next(iter(done.found.opened.values()))
        export_evaluation_report(first, run, report, force=force)
        say(f"Wrote {for_display(str(report))}")
    return PARTIAL if done.left_out else FOUND


def _checked_report(named: str | None, force: bool) -> Path | None:
    """The page to write. Raises OptionError where it will not do, before anything is encoded."""
    if named is None:
        if force:
            raise OptionError("--force replaces a page: it goes with --report FILE.html")
        return None
    path = Path(named)
    if path.suffix.lower() not in _PAGES:
        raise OptionError(f"expected a file name ending in .html after --report, got {named!r}")
    if not path.absolute().parent.is_dir():
        raise OptionError(f"there is no folder {path.absolute().parent} to write {path.name} into")
    return path


def _usual_models(index: str | None) -> tuple[str, ...]:
    """The model that is set for every command, unless an index has its own."""
    named = os.environ.get("CLIPSEARCH_MODEL") or click.get_current_context().lookup_default(
        "model"
    )
    return (str(named),) if named and index is None else ()


def _evaluated(settings: EvaluationSettings) -> Evaluated:
    """What comes of it; with the model that a person picks where none is here."""
    from indexer.evaluate_source import evaluate_source
    from indexer.evaluation_index import kept_place
    from indexer.progress import TerminalProgress
    from indexer.report import Event, Preparing
    from indexer.sources import absolute_path

    with TerminalProgress(kept_place(absolute_path(settings.source or "."))) as progress:

        def hear(event: Event) -> None:
            if not isinstance(event, Preparing):  # for searches, of which there are none
                progress.hear(event)

        try:
            return evaluate_source(settings, hear, TextProgress())
        except ModelNotChosenError:
            if not can_ask():
                raise
        picked = ask_for_model("figures are those of a model")
        chosen = dataclasses.replace(settings, models=(picked,), allow_download=True)
        return evaluate_source(chosen, hear, TextProgress())
