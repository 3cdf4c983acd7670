"""A contact sheet: one HTML file with the thumbnails in it, to open or send anywhere.

No script, nothing from a network, and a policy in the page that forbids both.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from clipsearch.cluster_pictures import thumbnails
from clipsearch.export_rows import ExportRow
from clipsearch.export_single_file import export_single_file
from clipsearch.export_writing import ExportReport
from clipsearch.file_kinds import container_of
from clipsearch.html_pages import page_pieces, policy_hash, shown, template_text
from clipsearch.image_index import ImageIndex


def export_contact_sheet(
    index: ImageIndex,
    rows: Sequence[ExportRow],
    path: Path,
    *,
    title: str,
    force: bool = False,
    about: str = "",
    dry_run: bool = False,
) -> ExportReport:
    """Write the contact sheet of ``rows`` to ``path``; see ``export_single_file`` for when a
    file there is replaced. Raises OptionError, ExportError."""

    def write(file: IO[bytes]) -> None:
        write_contact_sheet(file, index, rows, title)

    return export_single_file(index, "html", path, write, force=force, about=about, dry_run=dry_run)


def write_contact_sheet(
    file: IO[bytes], index: ImageIndex, rows: Sequence[ExportRow], title: str
) -> None:
    """Write the contact sheet of ``rows`` as UTF-8 HTML, in their order.

    A photo whose thumbnail the cache has lost gets a frame that says so.
    """
    style = template_text("contact_sheet.css")
    pieces = page_pieces(
        "contact_sheet.html",
        title=shown(title),
        count=len(rows),
        style=style,
        # The one style sheet is allowed by its hash, so that no other can come in.
        style_hash=policy_hash(style),
        photos=_photos(rows, thumbnails(index.state(), [row.id for row in rows])),
    )
    for piece in pieces:
        file.write(piece)


def _photos(rows: Sequence[ExportRow], images: dict[int, bytes]) -> Iterator[dict[str, Any]]:
    for row in rows:
        image = images.get(row.id)
        inside = container_of(row.path) is not None
        yield {
            "name": shown(row.path.name),
            "path": shown(row.path),
            "link": None if inside or not row.path.is_file() else row.path.as_uri(),
            "missing": not inside and not row.path.is_file(),
            "image": base64.b64encode(image).decode("ascii") if image else None,
            "date": row.taken_at.strftime("%Y-%m-%d") if row.taken_at else None,
            "score": None if row.score is None else f"{row.score:.3f}",
            "strength": row.strength,
        }
