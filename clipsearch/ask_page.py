"""The questions of ``ask`` as one HTML file: to answer in, and to save the answers as a CSV.

No image but the thumbnails in it, nothing from a network, and a policy in the page that forbids
both; its script writes the CSV that ``teach --file`` reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from clipsearch.ask import Question
from clipsearch.cluster_pictures import thumbnails
from clipsearch.export_single_file import export_single_file
from clipsearch.export_writing import ExportReport
from clipsearch.html_pages import image_address, page_pieces, policy_hash, shown, template_text
from clipsearch.image_index import ImageIndex
from clipsearch.label_corrections import none_word


def export_ask_page(
    index: ImageIndex,
    name: str,
    labels: Sequence[str],
    questions: Sequence[Question],
    path: Path,
    *,
    force: bool = False,
    dry_run: bool = False,
) -> ExportReport:
    """Write the page of some questions about the set ``name`` to ``path``; see
    ``export_single_file`` for when a file there is replaced. Raises OptionError, ExportError."""

    def write(file: IO[bytes]) -> None:
        write_ask_page(file, index, name, labels, questions)

    about = f"questions about {name}"
    return export_single_file(index, "html", path, write, force=force, about=about, dry_run=dry_run)


def write_ask_page(
    file: IO[bytes],
    index: ImageIndex,
    name: str,
    labels: Sequence[str],
    questions: Sequence[Question],
) -> None:
    """Write the page as UTF-8 HTML, the questions in their order."""
    style, script = template_text("ask_page.css"), template_text("ask_page.js")
    none = none_word(labels)
    for piece in page_pieces(
        "ask_page.html",
        title=shown(f"Questions about {name}"),
        count=len(questions),
        command=shown(f"clipsearch teach {name} --file answers.csv"),
        labels=[shown(label) for label in labels],
        none=none,
        questions=_questions(index, labels, questions, none),
        style=style,
        style_hash=policy_hash(style),
        script=script,
        script_hash=policy_hash(script),
    ):
        file.write(piece)


def _questions(
    index: ImageIndex, labels: Sequence[str], questions: Sequence[Question], none: str
) -> Iterator[dict[str, Any]]:
    ids = [question.id for question in questions]
    images = thumbnails(index.state(), ids)
    places = index.paths().first_places(ids)
    for question, place in zip(questions, places, strict=True):
        path = place.path if place is not None else Path(f"image {question.id}")
        codes = [code for code in (question.label, question.runner_up) if code >= 0]
        image = images.get(question.id)
        yield {
            "id": question.id,
            "name": shown(path.name),
            "path": shown(path),
            "csv_path": str(path) if place is not None and _is_plain(path) else "",
            "image": image_address(image) if image else None,
            "why": shown(question.why(labels)),
            "choices": [shown(labels[code]) for code in dict.fromkeys(codes)] + [none],
            "chosen": question.how,
        }


def _is_plain(path: Path) -> bool:
    """Whether a path comes through a page and a CSV as it is; by its id it always does."""
    return shown(path) == str(path)
