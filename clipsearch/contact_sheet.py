"""A contact sheet: one HTML file with the thumbnails in it, to open or send anywhere.

No script, nothing from a network, and a policy in the page that forbids both.
"""

from __future__ import annotations

import base64
import hashlib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from clipsearch.export_rows import ExportRow
from clipsearch.export_single_file import export_single_file
from clipsearch.export_writing import ExportReport
from clipsearch.file_kinds import container_of
from clipsearch.generation import cache_folder
from clipsearch.image_index import ImageIndex
from clipsearch.thumbnails import read_thumbnails

_TEMPLATES = Path(__file__).parent / "templates"


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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (_TEMPLATES / "contact_sheet.css").read_text(encoding="utf-8")
    thumbnails = _thumbnails(index, rows)
    pieces = environment.get_template("contact_sheet.html").generate(
        title=_shown(title),
        count=len(rows),
        style=style,
        # The one style sheet is allowed by its hash, so that no other can come in.
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        photos=_photos(rows, thumbnails),
    )
    for piece in pieces:
        file.write(piece.encode("utf-8", "replace"))


def _photos(rows: Sequence[ExportRow], thumbnails: dict[int, bytes]) -> Iterator[dict[str, Any]]:
    for row in rows:
        image = thumbnails.get(row.id)
        inside = container_of(row.path) is not None
        yield {
            "name": _shown(row.path.name),
            "path": _shown(os.fspath(row.path)),
            "link": None if inside or not row.path.is_file() else row.path.as_uri(),
            "missing": not inside and not row.path.is_file(),
            "image": base64.b64encode(image).decode("ascii") if image else None,
            "date": row.taken_at.strftime("%Y-%m-%d") if row.taken_at else None,
            "score": None if row.score is None else f"{row.score:.3f}",
            "strength": row.strength,
        }


def _shown(text: str) -> str:
    """Text for a page: what is no text, or would turn the text around it, replaced."""
    plain = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(letter) == "Cc"
        or letter in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        else letter
        for letter in plain
    )


def _thumbnails(index: ImageIndex, rows: Sequence[ExportRow]) -> dict[int, bytes]:
    """The JPEG thumbnails by id, as far as the cache has them."""
    state = index.state()
    wanted = {row.id for row in rows}
    found: dict[int, bytes] = {}
    for shard in state.manifest.images:
        missing = {image_id for image_id in wanted if shard.first_id <= image_id <= shard.last_id}
        for cache in dict.fromkeys((cache_folder(index.path), state.cache)):
            if not missing:
                break
            images = read_thumbnails(cache, shard.name, state.manifest.uuid)
            found.update({key: images[key] for key in missing if images.get(key)})
            missing -= found.keys()
    return found
