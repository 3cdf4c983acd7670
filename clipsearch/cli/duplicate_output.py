"""Groups of duplicates as JSON documents and CSV rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipsearch.cli.output import path_fields
from clipsearch.duplicate_groups import DuplicateGroup


def duplicate_document(group: DuplicateGroup) -> dict[str, Any]:
    """A group for JSON."""
    return {
        "kind": group.kind,
        "bytes_to_free": group.bytes_to_free,
        "reason": group.reason,
        "files": [
            {
                "keep": file is group.keep,
                "id": file.id,
                **path_fields(file.path),
                "bytes": file.size,
                "width": file.width or None,
                "height": file.height or None,
                "cosine": round(file.cosine, 6),
                "bits": file.bits,
                "movable": file.movable,
            }
            for file in group.files
        ],
    }


DUPLICATE_COLUMNS = (
    "group", "kind", "keep", "reason", "id", "path", "bytes", "width", "height", "cosine", "bits",
)  # fmt: skip


def duplicate_rows(groups: Sequence[DuplicateGroup]) -> list[tuple[object, ...]]:
    """A row a file, under ``DUPLICATE_COLUMNS``."""
    return [
        (
            number,
            group.kind,
            int(file is group.keep),
            group.reason if file is group.keep else "",
            file.id,
            path_fields(file.path)["path"],
            file.size,
            file.width or "",
            file.height or "",
            f"{file.cosine:.6f}",
            "" if file.bits is None else file.bits,
        )
        for number, group in enumerate(groups, start=1)
        for file in group.files
    ]
