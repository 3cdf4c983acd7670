"""Which of several copies, or of the shots of a burst, is worth keeping, and why in words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SAME_PIXELS = 0.98
"""Pictures of this share of the most pixels are as large as the largest."""

_CLEARLY_SHARPER = 4.0
"""Compression changes the sharpness of a thumbnail by less (2.5 times at the most for 110 photos),
and so do making it brighter by half (3.0) and, most often, a filter that sharpens (2.9 at the
median). A blur of two pixels changes it by 13 to 90 times at the median."""

# What programs and people add to the name of a copy.
_COPY_NAME = re.compile(
    r"""\(\d{1,3}\)                                  # IMG_1 (1).jpg
      | (?<![^\W_])(copy|copie|kopie|kopia|copia|cópia|コピー|副本|拷贝|копия)(?![^\W_\d])
      | (?<![^\W_])(edit|edited|bearbeitet|modifié|resized|small|thumb|thumbnail|preview)(?![^\W_])
      | (?<![^\W_])WA\d{4}(?![^\W_])                 # as a messenger names what it shrank
      | \d{2,4}x\d{2,4}$                             # IMG_1_640x480.jpg
    """,
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Candidate:
    """What is known of one of several images of a group.

    pixels : width times height; 0 unknown. sharpness : nan unknown. size : bytes.
    mtime_ns : when the file last changed. in_container : it lies in a tar or Parquet file.
    """

    path: Path
    pixels: int
    sharpness: float
    has_camera: bool
    lossless: bool
    size: int
    mtime_ns: int
    in_container: bool = False


def named_as_copy(path: Path) -> bool:
    """Whether a file's name says that it is a copy or an edit: "IMG_1 (1).jpg"."""
    return _COPY_NAME.search(path.stem) is not None


def best_copy(candidates: Sequence[Candidate]) -> tuple[int, str]:
    """The position of the best of several copies of one picture, and why.

    By resolution, then sharpness where it clearly differs, then by what tells an original: its
    camera's word, a name that is no copy's, a format that loses nothing, more bytes, the
    earlier date.
    """
    most = max(candidate.pixels for candidate in candidates)
    sharp = [c.sharpness for c in candidates if c.pixels >= SAME_PIXELS * most]
    sharpest = math.nan if any(map(math.isnan, sharp)) else max(sharp)
    return _first_apart(
        candidates,
        [
            ("the larger", lambda c: c.pixels >= SAME_PIXELS * most),
            ("the sharper", lambda c: not c.sharpness * _CLEARLY_SHARPER < sharpest),
            _LOOSE,
            *_ORIGINAL,
        ],
        [
            ("the original: less compressed", lambda c: -c.size),
            ("the original: the earlier", lambda c: c.mtime_ns),
        ],
    )


def best_shot(candidates: Sequence[Candidate]) -> tuple[int, str]:
    """The position of the best shot of a burst, and why: resolution, then sharpness."""
    most = max(candidate.pixels for candidate in candidates)
    return _first_apart(
        candidates,
        [("the larger", lambda c: c.pixels >= SAME_PIXELS * most)],
        [
            ("the sharpest", lambda c: math.inf if math.isnan(c.sharpness) else -c.sharpness),
            ("less compressed", lambda c: -c.size),
        ],
    )


def best_file(candidates: Sequence[Candidate]) -> tuple[int, str]:
    """The position of the best of several files with the same bytes, and why: a file of its own,
    a name that is no copy's, then the earlier date, then the shorter path."""
    return _first_apart(
        candidates,
        [_LOOSE, _ORIGINAL[1]],
        [
            ("the earlier", lambda c: c.mtime_ns),
            ("the shorter path", lambda c: len(str(c.path))),
        ],
    )


_LOOSE: tuple[str, Callable[[Candidate], bool]] = (
    "the file of its own",
    lambda c: not c.in_container,
)
_ORIGINAL: list[tuple[str, Callable[[Candidate], bool]]] = [
    ("the original: camera data", lambda c: c.has_camera),
    ("the original: its name", lambda c: not named_as_copy(c.path)),
    ("the original: lossless", lambda c: c.lossless),
]


def _first_apart(
    candidates: Sequence[Candidate],
    tests: Sequence[tuple[str, Callable[[Candidate], bool]]],
    order: Sequence[tuple[str, Callable[[Candidate], float]]],
) -> tuple[int, str]:
    """The candidate that is left when each test in turn drops those that fail it (unless all
    do), and of several the first in ``order``, lowest first; and what told it apart last."""
    left = list(range(len(candidates)))
    reason = ""
    for words, passes in tests:
        passing = [position for position in left if passes(candidates[position])]
        if passing and len(passing) < len(left):
            left, reason = passing, words
        if len(left) == 1:
            return left[0], reason
    left.sort(key=lambda position: [key(candidates[position]) for _, key in order])
    first, second = candidates[left[0]], candidates[left[1]]
    for words, key in order:
        if key(first) != key(second):
            return left[0], words
    return left[0], "none is better"
