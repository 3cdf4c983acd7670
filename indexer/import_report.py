"""The account of an import."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

_LISTED = 1_000


@dataclass
class ImportReport:
    """What an import did. ``found`` = ``imported`` + ``copies`` + ``already_there`` +
    ``skipped``, counted in vectors.

    imported : images that are new in the index; of these ``not_there`` have no file now and
    ``unreadable`` a file that is no readable image. copies : further places of a content that
    the index holds. already_there : places that the index knew as they are. skipped : vectors
    that could not be taken, by reason in ``skip_reasons``; ``skipped_vectors`` lists the first
    thousand (row, path, reason). checked : over how many images ``cosine`` is the mean cosine
    of the given vectors and the model's; 0 when none was compared.
    """

    index: str
    source: str
    model: str
    found: int
    imported: int = 0
    copies: int = 0
    already_there: int = 0
    skipped: int = 0
    not_there: int = 0
    unreadable: int = 0
    checked: int = 0
    cosine: float | None = None
    generation: int = 0
    seconds: float = 0.0
    skip_reasons: dict[str, int] = field(default_factory=dict)
    skipped_vectors: list[tuple[int, str, str]] = field(default_factory=list)

    def skip(self, row: int, name: bytes, reason: str) -> None:
        """Count a vector that could not be taken."""
        self.skipped += 1
        self.skip_reasons[reason] = self.skip_reasons.get(reason, 0) + 1
        if len(self.skipped_vectors) < _LISTED:
            self.skipped_vectors.append((row, os.fsdecode(name), reason))
