"""A report of an evaluation: one HTML file with charts, and mistakes to look at.

No script, nothing from a network, and a policy in the page that forbids both.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from clipsearch.cluster_report import ReportPictures
from clipsearch.evaluation import Evaluation
from clipsearch.evaluation_charts import chart_style
from clipsearch.evaluation_run import EvaluationRun
from clipsearch.evaluation_sections import (
    calibration_of,
    classes_of,
    compared,
    confusions_of,
    counted,
    figures_of,
    more_than_shown,
    retrieval_of,
)
from clipsearch.export_single_file import export_single_file
from clipsearch.export_writing import ExportReport
from clipsearch.html_pages import page_pieces, policy_hash, shown, template_text
from clipsearch.image_index import ImageIndex

_MOST_MISTAKES = 60


def export_evaluation_report(
    index: ImageIndex,
    run: EvaluationRun,
    path: Path,
    *,
    force: bool = False,
    dry_run: bool = False,
) -> ExportReport:
    """Write the report to ``path``; see ``export_single_file`` for when a file there is replaced.

    Raises OptionError, ExportError.
    """

    def write(file: IO[bytes]) -> None:
        write_evaluation_report(file, index, run)

    about = f"evaluation of {run.source}"
    return export_single_file(index, "html", path, write, force=force, about=about, dry_run=dry_run)


def write_evaluation_report(file: IO[bytes], index: ImageIndex, run: EvaluationRun) -> None:
    """Write the report as UTF-8 HTML: the figures of the first evaluation of ``run``, with its
    classes, confusions, calibration and mistakes; how the others compare; and what captions found.

    index : has the thumbnails.
    """
    first = run.evaluations[0] if run.evaluations else None
    style = template_text("cluster_report.css") + chart_style()
    style += template_text("evaluation_report.css")
    for piece in page_pieces(
        "evaluation_report.html",
        title=shown(run.title),
        facts=_facts(run),
        notes=_notes(run),
        style=style,
        style_hash=policy_hash(style),
        figures=figures_of(run, first) if first is not None else None,
        compared=compared(run) if len(run.evaluations) > 1 else None,
        classes=classes_of(run.evaluations) if first is not None else None,
        confusions=confusions_of(first) if first is not None else None,
        calibration=calibration_of(first) if first is not None else None,
        mistakes=_mistakes(index, first) if first is not None else None,
        retrieval=retrieval_of(run) if run.retrievals else None,
        about=_about(run),
    ):
        file.write(piece)


def _facts(run: EvaluationRun) -> str:
    facts = []
    if run.evaluations:
        samples = run.evaluations[0].samples
        facts = [counted(len(samples), "file"), counted(len(samples.classes), "class", "es")]
    elif run.retrievals:
        one = run.retrievals[0]
        facts = [counted(one.images, "image"), counted(one.captions, "caption")]
    models = dict.fromkeys(one.model for one in run.evaluations)
    models |= dict.fromkeys(one.model for one in run.retrievals)
    return " · ".join([*facts, shown(", ".join(models)), shown(run.source)])


def _notes(run: EvaluationRun) -> list[str]:
    told = [*run.notes]
    for evaluation in run.evaluations:
        told += evaluation.samples.notes
    for retrieval in run.retrievals:
        told += retrieval.notes
    return [shown(note) for note in dict.fromkeys(told)]


def _mistakes(index: ImageIndex, one: Evaluation) -> dict[str, Any]:
    wrong = len(one) - int(one.right.sum())
    rows = one.mistakes(_MOST_MISTAKES).tolist()
    samples = one.samples
    pictures = ReportPictures(index.state(), [int(samples.ids[row]) for row in rows])
    photos = []
    for row in rows:
        rank = int(one.truth_ranks[row])
        photo = pictures.at(int(samples.ids[row]), samples.paths[row])
        photos.append(
            {
                **photo,
                "truth": shown(samples.classes[int(samples.truth[row])]),
                "given": shown(samples.classes[int(one.given[row])]),
                "sure": f"{float(one.probabilities[row, 0]):.0%}",
                "rank": f"true label in place {rank}" if rank else "true label not in the best 5",
            }
        )
    return {
        "photos": photos,
        "facts": f"{wrong:,} of {counted(len(one), 'file')}",
        "more": more_than_shown(wrong - len(rows), "mistake"),
    }


def _about(run: EvaluationRun) -> list[str]:
    """How the figures came about, a line each."""
    told = []
    if run.evaluations:
        told += [
            "Class vectors are means over the templates, probabilities a softmax over all labels "
            "at the model's own scale (Radford et al. 2021): as open_clip and CLIP_benchmark have "
            "it. Accuracy counts files, so a copy counts again.",
            "Intervals hold the true figure with 95% confidence as far as chance goes: Wilson's of "
            "an accuracy, Agresti and Min's of a difference on the same files. That other photos "
            "are of another kind is not in them.",
            "The calibration error is the mean gap between confidence and accuracy over 15 bins of "
            "one width (Naeini et al. 2015).",
        ]
    if run.retrievals:
        told.append(
            "Recall at k: of a caption, whether its image is among the k nearest; of an image, "
            "whether one of its captions is, as CLIP_benchmark has it. Captions have no template."
        )
    return told
