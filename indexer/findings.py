"""What ``verify`` says: findings, and the account of what was looked at."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ERROR = "error"
CACHE = "cache"
NOTE = "note"

Progress = Callable[[str, int, int], None]
"""Hears (what is looked at: "bytes" or "images", how much is done, of how much)."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    severity : ERROR (the truth is not whole), CACHE (what can be made again is not whole) or
        NOTE (harmless). kind : machine-readable, such as "missing", "damaged", "foreign".
    file : its name in the index, or the absolute path of what lies elsewhere.
    """

    severity: str
    kind: str
    file: str
    message: str
    cure: str = ""


@dataclass(frozen=True)
class Verification:
    """What ``verify_index`` found.

    files, bytes, rows : of the truth, as read. compared : vectors of caches compared with their
    shards. encoded : images encoded again; not_there and changed : drawn, but gone or another
    since. lowest_cosine : between a stored vector and the one computed now, None without any.
    seed : repeats the same sample.
    """

    index: str
    uuid: str
    generation: int
    findings: tuple[Finding, ...]
    files: int
    bytes: int
    rows: int
    compared: int
    encoded: int
    not_there: int
    changed: int
    lowest_cosine: float | None
    seed: int

    def of(self, severity: str) -> tuple[Finding, ...]:
        """The findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    @property
    def is_sound(self) -> bool:
        """Whether there is nothing but notes."""
        return len(self.of(NOTE)) == len(self.findings)


@dataclass
class Tally:
    """What the checks fill in as they go; see ``Verification``."""

    index: Path
    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    rows: int = 0
    compared: int = 0
    encoded: int = 0
    not_there: int = 0
    changed: int = 0
    lowest_cosine: float | None = None

    @property
    def repair(self) -> str:
        """The command that mends the index."""
        return shlex.join(["clipsearch", "verify", "--repair", "--index", str(self.index)])

    def error(self, kind: str, file: str, message: str, cure: str | None = None) -> None:
        """Something is wrong with the truth; ``--repair`` is the cure where none is named."""
        self.findings.append(Finding(ERROR, kind, file, message, cure or self.repair))

    def cache(self, kind: str, file: str, message: str) -> None:
        """Something that can be made again is not whole."""
        self.findings.append(Finding(CACHE, kind, file, message, self.repair))

    def note(self, kind: str, file: str, message: str, cure: str = "") -> None:
        """Something to know, and harmless."""
        self.findings.append(Finding(NOTE, kind, file, message, cure))

    def unreadable(self, file: str, error: OSError, severity: str = ERROR) -> None:
        """The system does not hand a file out, which says nothing of what it holds."""
        message = f"cannot be read: {error.strerror or error}"
        cure = "see to its permissions and its disk, then verify again"
        self.findings.append(Finding(severity, "unreadable", file, message, cure))
