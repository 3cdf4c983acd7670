"""What a report of an evaluation says, section by section: charts, and tables of the same numbers.

Every section is what ``templates/evaluation_report.html`` asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipsearch.accuracy_intervals import Difference, paired_difference, wilson_interval
from clipsearch.evaluation import KEPT, Evaluation
from clipsearch.evaluation_charts import Bar, bars, grouped_bars, heat_map, reliability_diagram
from clipsearch.evaluation_run import EvaluationRun
from clipsearch.heat_map import row_shares
from clipsearch.html_pages import shown
from clipsearch.svg_pieces import percent

_MOST_BARS, _BARS_BELOW = 100, 13
_MOST_WHOLE, _MOST_NAMED, _CLOSER = 200, 60, 40
_MOST_CONFUSIONS = 25
_MOST_ROWS = 5_000


def figures_of(run: EvaluationRun, one: Evaluation) -> dict[str, Any]:
    right = int(one.right.sum())
    low, high = wilson_interval(right, len(one))
    rows = [
        ("Top-1 accuracy", percent(one.accuracy),
         f"{right:,} of {len(one):,} files got the true label; {low:.1%} to {high:.1%} with 95% "
         "confidence"),
        ("Top-5 accuracy", percent(one.top5), "the true label is among the best five"),
        ("Mean per class", percent(one.mean_per_class),
         "every class counts alike, however many files it has"),
        ("Calibration error", percent(one.reliability.error),
         "how far probabilities are from what they say"),
    ]  # fmt: skip
    if len(one.samples.classes) <= KEPT:
        del rows[1]  # all labels are among the best five
    rate = run.rates.get(one.model)
    if rate is not None and math.isfinite(rate):
        rows.append(("Encoded", f"{rate:,.1f}/s", "images a second, on this machine"))
    if one.seconds > 0:
        told = f"{_rate(len(one) / one.seconds)}/s"
        rows.append(("Labelled", told, "files a second, from their vectors"))
    return {
        "heading": f"{shown(one.model)}: {shown(one.name)}",
        "rows": [dict(zip(("name", "value", "about"), row, strict=True)) for row in rows],
    }


def compared(run: EvaluationRun) -> dict[str, Any]:
    first = run.evaluations[0]
    names = list(dict.fromkeys(one.name for one in run.evaluations))
    models = list(dict.fromkeys(one.model for one in run.evaluations))
    values = np.full((len(names), len(models)), math.nan)
    ends = np.full((*values.shape, 2), math.nan)
    rows = []
    for one in run.evaluations:
        place = names.index(one.name), models.index(one.model)
        values[place], ends[place] = one.accuracy, wilson_interval(int(one.right.sum()), len(one))
        other = "" if one is first else _told(paired_difference(first.right, one.right))
        figures = (one.accuracy, one.top5, one.mean_per_class, one.reliability.error)
        rows.append([one.name, one.model, *map(percent, figures), other])
    # Wordings are long, and stand over their bars whole.
    chart = grouped_bars("Top-1 accuracy", names, models, values, intervals=ends)
    head = ["Wording", "Model", "Top-1", "Top-5", "Mean per class", "Calibration error",
            "Top-1 against the first, points"]  # fmt: skip
    return {
        "chart": chart,
        "table": _table(head, rows, (0, 1)),
        "verdict": shown(run.verdict) if run.verdict else None,
    }


def classes_of(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    first = evaluations[0]
    beside = [one for one in evaluations if one.name == first.name]
    classes, counts = first.samples.classes, first.samples.counts
    worst = first.worst_classes().tolist()
    confusions: dict[str, tuple[str, int]] = {}
    for confusion in first.confusions():
        confusions.setdefault(confusion.truth, (confusion.given, confusion.count))
    drawn = []
    for place in worst[:_MOST_BARS]:
        right = round(float(first.per_class[place]) * int(counts[place]))
        low, high = wilson_interval(right, int(counts[place]))
        about = f"{classes[place]}, {right:,} of {counts[place]:,}"
        drawn.append(Bar(classes[place], float(first.per_class[place]), low, high, about=about))
    each = max(_BARS_BELOW, -(-len(drawn) // 2))
    rows = []
    for place in [*worst, *np.flatnonzero(counts == 0).tolist()][:_MOST_ROWS]:
        given, times = confusions.get(classes[place], ("", 0))
        accuracies = [percent(float(one.per_class[place])) for one in beside]
        wrong = f"{given} ({times:,})" if times else ""
        rows.append([classes[place], f"{counts[place]:,}", *accuracies, wrong])
    models = [one.model if len(beside) > 1 else "Right" for one in beside]
    return {
        "charts": [
            bars("Accuracy of each class", drawn[start : start + each], mark=first.accuracy)
            for start in range(0, len(drawn), each)
        ],
        "more": more_than_shown(len(worst) - _MOST_BARS, "class", "es"),
        "table": _table(["Class", "Files", *models, "Most frequent wrong label"], rows, (0, -1)),
    }


def confusions_of(one: Evaluation) -> dict[str, Any]:
    classes = list(one.samples.classes)
    whole = closer = None
    about = ""
    if len(classes) <= _MOST_WHOLE:
        counts = one.confusion
        whole = heat_map("Confusion matrix", classes, classes, counts)
    if len(classes) > _MOST_NAMED:
        closer, about = _closer_look(one, classes)
    found = one.confusions(_MOST_CONFUSIONS)
    rows = [[c.truth, c.given, f"{c.count:,}", percent(c.share)] for c in found]
    wrong = len(one) - int(one.right.sum())
    return {
        "whole": whole,
        "closer": closer,
        "about": about,
        "table": _table(["Shows", "Labelled", "Files", "Of the class"], rows, (0, 1)),
        "more": more_than_shown(wrong - sum(c.count for c in found), "wrong label"),
    }


def calibration_of(one: Evaluation) -> dict[str, Any]:
    found = one.reliability
    sure, right = float(one.probabilities[:, 0].mean()), one.accuracy
    by_chance = math.sqrt(len(found.counts) / len(one)) / 3
    excess = 100 * (sure - right)
    kind = "too sure" if excess > 0 else "too modest"
    rows = [
        [f"{left:.0%} to {end:.0%}", f"{count:,}", percent(confidence), percent(accuracy)]
        for left, end, count, confidence, accuracy in zip(
            found.edges[:-1].tolist(), found.edges[1:].tolist(), found.counts.tolist(),
            found.confidences.tolist(), found.accuracies.tolist(), strict=True,
        )
        if count
    ]  # fmt: skip
    return {
        "chart": reliability_diagram("How often labels are right, by how sure they are", found),
        "told": f"Labels are told with {sure:.1%} on average, and {right:.1%} are right: "
        f"{abs(excess):.1f} points {kind}. The expected calibration error is {found.error:.1%}; "
        f"with {counted(len(one), 'label')}, chance alone gives about {by_chance:.1%}.",
        "table": _table(["Confidence", "Labels", "Mean confidence", "Right"], rows, (0,)),
    }


def retrieval_of(run: EvaluationRun) -> dict[str, Any]:
    models = [one.model for one in run.retrievals]
    ranks = list(run.retrievals[0].text_to_image)
    kinds = [("Words find the image", "text_to_image"), ("The image finds words", "image_to_text")]
    within = [f"among the best {k}" if k > 1 else "in first place" for k in ranks]
    groups = [f"{told}: {place}" for told, _ in kinds for place in within]
    values = [[getattr(one, name)[k] for one in run.retrievals] for _, name in kinds for k in ranks]
    sizes = {(one.images, one.captions) for one in run.retrievals}
    ways = ("Text to image", "Image to text")
    head = ["Model", *(f"{way} R@{k}" for way in ways for k in ranks)]
    rows = [
        [one.model, *(percent(getattr(one, name)[k]) for _, name in kinds for k in ranks)]
        for one in run.retrievals
    ]
    return {
        "facts": " · ".join(
            f"{counted(images, 'image')}, {counted(captions, 'caption')}"
            for images, captions in sorted(sizes)
        ),
        "chart": grouped_bars("Recall of captions", groups, models, values),
        "table": _table(head, rows, (0,)),
    }


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _told(difference: Difference) -> str:
    """ "+24.6 (+20.6 to +28.6)", in points."""
    ends = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    return f"{100 * difference.share:+.1f} ({ends})"


def _closer_look(one: Evaluation, classes: Sequence[str]) -> tuple[str, str]:
    """The map of those classes that are confused most, in their order."""
    tally: dict[str, int] = {}
    for confusion in one.confusions():
        for name in (confusion.truth, confusion.given):
            tally[name] = tally.get(name, 0) + confusion.count
    most = set(sorted(tally, key=lambda name: -tally[name])[:_CLOSER])
    kept = [place for place, name in enumerate(classes) if name in most]
    if not kept:
        return "", ""
    rows = np.flatnonzero(np.isin(one.samples.truth, kept))
    counts = np.zeros((len(kept), len(classes)), np.int64)
    np.add.at(counts, (np.searchsorted(kept, one.samples.truth[rows]), one.given[rows]), 1)
    names = [classes[place] for place in kept]
    drawn = heat_map(
        "Confusion matrix of the classes that are confused most",
        names, names, counts[:, kept], shades=row_shares(counts)[:, kept],
    )  # fmt: skip
    return drawn, f"The {len(kept)} classes that are confused most"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int]
) -> dict[str, Any]:
    """words : which columns hold words; the others hold numbers."""
    return {
        "head": [shown(cell) for cell in head],
        "rows": [[shown(cell) for cell in row] for row in rows],
        "words": [column % len(head) for column in words],
    }


def counted(count: int, noun: str, plural: str = "s") -> str:
    return f"{count:,} {noun}{plural if count != 1 else ''}"


def more_than_shown(left: int, noun: str, plural: str = "s") -> str | None:
    return f"and {counted(left, f'more {noun}', plural)}" if left > 0 else None
