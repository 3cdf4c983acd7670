"""What a search for duplicates finds: groups of files of which one would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

EXACT, COPY, BURST = "exact", "copy", "burst"


@dataclass(frozen=True)
class DuplicateFile:
    """One file of a group.

    id : of its image; files with the same bytes have one. size : bytes of the file.
    width, height : pixels as shown, 0 unknown.
    cosine : to the file to keep. bits : in how many of the 64 bits of the perceptual hash it
    differs from that; None where there is no hash.
    movable : false inside a tar or Parquet file.
    """

    id: int
    path: Path
    size: int
    width: int
    height: int
    cosine: float
    bits: int | None
    movable: bool = True


@dataclass(frozen=True)
class DuplicateGroup:
    """Files of which one would do.

    kind : "exact" (the same bytes), "copy" (the same picture) or "burst" (shots of one scene).
    keep : the best of them. reason : in what it is better. others : the rest, best cosine
    first.
    """

    kind: str
    keep: DuplicateFile
    reason: str
    others: tuple[DuplicateFile, ...]

    @property
    def files(self) -> tuple[DuplicateFile, ...]:
        """All files of the group, the one to keep first."""
        return (self.keep, *self.others)

    @property
    def bytes_to_free(self) -> int:
        """Bytes of the files that could go."""
        return sum(file.size for file in self.others)


@dataclass(frozen=True)
class Duplicates(Sequence[DuplicateGroup]):
    """Groups, those that free the most bytes first.

    changed : files left out because they have gone or changed since they were indexed.
    """

    groups: tuple[DuplicateGroup, ...]
    changed: int = 0

    @overload
    def __getitem__(self, index: int) -> DuplicateGroup: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[DuplicateGroup]: ...
    def __getitem__(self, index: int | slice) -> DuplicateGroup | Sequence[DuplicateGroup]:
        return self.groups[index]

    def __len__(self) -> int:
        return len(self.groups)
