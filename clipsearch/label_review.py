"""Where two labellings disagree, to look at: one HTML file with the thumbnails in it.

No script, nothing from a network, and a policy in the page that forbids both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from clipsearch.cluster_report import MOST_PICTURES, ReportPictures
from clipsearch.export_single_file import export_single_file
from clipsearch.export_writing import ExportReport
from clipsearch.generation import Generation
from clipsearch.html_pages import page_pieces, policy_hash, shown, template_text
from clipsearch.image_index import ImageIndex
from clipsearch.label_comparison import Comparison

NO_LABEL = "none of these"
_MOST_CHANGES = 200
_MOST_OF_CHANGE, _LEAST_OF_CHANGE = 60, 6


def export_label_review(
    index: ImageIndex,
    comparison: Comparison,
    path: Path,
    *,
    title: str,
    a: str | None = None,
    b: str | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> ExportReport:
    """Write the disagreements to ``path``; see ``export_single_file`` for when a file there is
    replaced. a, b : see ``Comparison.disagreements``.

    Raises LabelError for a label that is not there, OptionError, ExportError.
    """
    rows = comparison.disagreements(a, b).tolist()

    def write(file: IO[bytes]) -> None:
        write_label_review(file, index.state(), comparison, rows, title)

    return export_single_file(index, "html", path, write, force=force, about=title, dry_run=dry_run)


def write_label_review(
    file: IO[bytes], state: Generation, comparison: Comparison, rows: Sequence[int], title: str
) -> None:
    """Write the page as UTF-8 HTML: what became of what, the most frequent first, and of each the
    most certain images.

    rows : those of the comparison that are to be on it, as ``disagreements`` has them.
    """
    of_pair: dict[tuple[int, int], list[int]] = {}
    for row in rows:
        of_pair.setdefault((int(comparison.a[row]), int(comparison.b[row])), []).append(row)
    pairs = sorted(of_pair, key=lambda pair: -len(of_pair[pair]))
    each = max(_LEAST_OF_CHANGE, MOST_PICTURES // max(1, len(pairs)))
    taken = {pair: of_pair[pair][: min(_MOST_OF_CHANGE, each)] for pair in pairs[:_MOST_CHANGES]}
    ids = comparison.ids
    pictures = ReportPictures(state, [int(ids[row]) for rows in taken.values() for row in rows])
    style = template_text("cluster_report.css")
    left = sum(len(of_pair[pair]) for pair in pairs[_MOST_CHANGES:])
    for piece in page_pieces(
        "label_review.html",
        title=shown(title),
        facts=facts_of(comparison),
        style=style,
        style_hash=policy_hash(style),
        changes=[
            {
                "a": shown(comparison.label(pair[0]) or NO_LABEL),
                "b": shown(comparison.label(pair[1]) or NO_LABEL),
                "images": len(of_pair[pair]),
                "facts": _counted(len(of_pair[pair])),
                "photos": _photos(comparison, pictures, some),
                "more": _more(len(of_pair[pair]) - len(some)),
            }
            for pair, some in taken.items()
        ],
        more=_more(left),
    ):
        file.write(piece)


def facts_of(comparison: Comparison) -> str:
    """ "animals@3 and animals · 50,000 images · 1,204 differ · agreement 97.6 % · kappa 0.962"."""
    facts = [
        f"{shown(comparison.names[0])} → {shown(comparison.names[1])}",
        _counted(len(comparison)),
        f"{comparison.differing:,} with another label",
    ]
    if comparison.agreement is not None:
        facts.append(f"agreement {comparison.agreement:.1%}")
    if comparison.kappa is not None:
        facts.append(f"Cohen's kappa {comparison.kappa:.3f}")
    return " · ".join(facts)


def _photos(
    comparison: Comparison, pictures: ReportPictures, rows: Sequence[int]
) -> list[dict[str, Any]]:
    photos = []
    for row in rows:
        for photo in pictures.of([int(comparison.ids[row])]):
            sure = (float(comparison.a_certain[row]), float(comparison.b_certain[row]))
            told = " → ".join("–" if math.isnan(one) else f"{one:.0%}" for one in sure)
            photos.append({**photo, "certain": told})
    return photos


def _counted(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def _more(left: int) -> str | None:
    return f"and {_counted(left)} more" if left > 0 else None
