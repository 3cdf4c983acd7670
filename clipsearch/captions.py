"""Tables of captions: which words were written about which images of an index."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.errors import SourceError
from clipsearch.generation import Generation
from clipsearch.remote_paths import place_of, whole_place
from clipsearch.shards import Int64, as_numpy

IMAGE_COLUMNS = ("image", "file", "filename", "path", "filepath", "image_name")
CAPTION_COLUMNS = ("caption", "text", "title", "comment")
_DELIMITERS = (",", "\t", ";", "|")
_MOST_HEADER = 1 << 16


@dataclass(frozen=True)
class Captions:
    """m captions of images of an index.

    ids : (m,) int64, the image that each describes. texts : m. missing : names in the table of
    which the index has no image, each once. notes : what of the table does not count, a line
    each.
    """

    ids: Int64
    texts: tuple[str, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many captions there are."""
        return len(self.texts)


@dataclass(frozen=True)
class CaptionTable:
    """Rows of a table: a name of an image, and a caption. unusable : rows that lacked either."""

    path: Path
    names: tuple[str, ...]
    texts: tuple[str, ...]
    unusable: int = 0


def read_captions(path: str | Path) -> CaptionTable:
    """The rows of a UTF-8 table with a first line that names its columns.

    One column is an image's file, one its caption, in any order and among others; they are named
    as ``IMAGE_COLUMNS`` and ``CAPTION_COLUMNS``, and divided by a comma, tab, semicolon or bar.
    An image has as many rows as captions.

    Raises SourceError for a file that is missing, no text, has no such columns or no rows.
    """
    place = Path(path)
    names: list[str] = []
    texts: list[str] = []
    unusable = 0
    try:
        with open(place, encoding="utf-8-sig", newline="") as file:
            delimiter, image, caption = _columns(file.readline(_MOST_HEADER), place)
            for row in csv.reader(file, delimiter=delimiter):
                cells = [cell.strip() for cell in row]
                name = cells[image] if image < len(cells) else ""
                text = " ".join(cells[caption].split()) if caption < len(cells) else ""
                if name and text:
                    names.append(name)
                    texts.append(text)
                elif any(cells):
                    unusable += 1
    except UnicodeDecodeError:
        raise SourceError(f"{place} is no UTF-8 text: save it as UTF-8") from None
    except csv.Error as error:
        raise SourceError(f"{place} cannot be read as a table: {error}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceError(f"expected a table of captions at {place}: {reason}") from None
    except ValueError as error:  # a name with a NUL in it
        raise SourceError(f"expected a table of captions at {str(place)!r}: {error}") from None
    if not names:
        raise SourceError(f"{place} holds no captions: expected a row for each, below the first")
    return CaptionTable(place, tuple(names), tuple(texts), unusable)


def _columns(header: str, path: Path) -> tuple[str, int, int]:
    """What divides the columns, and the positions of the image and of its caption."""
    for delimiter in _DELIMITERS:
        cells = [
            cell.strip().casefold() for row in csv.reader([header], delimiter=delimiter)
            for cell in row
        ]  # fmt: skip
        image = next((cells.index(name) for name in IMAGE_COLUMNS if name in cells), None)
        caption = next((cells.index(name) for name in CAPTION_COLUMNS if name in cells), None)
        if image is not None and caption is not None:
            return delimiter, image, caption
    first = " ".join(header.split())
    raise SourceError(
        f"{path}: expected a first line with a column {' or '.join(IMAGE_COLUMNS[:3])} and a "
        f"column {' or '.join(CAPTION_COLUMNS[:2])}, got {first[:60]!r}"
    )


def captions_in(state: Generation, table: CaptionTable) -> Captions:
    """The captions of a table whose images the index has, with a vector in its space.

    An image is known by its path from the folder of the table, or from a folder that was indexed;
    else by being the only image whose path ends so.

    Raises SourceError when the index has none of them.
    """
    wanted = list(dict.fromkeys(table.names))
    found = _images_at(state, wanted, table.path)
    lacking = [name for name in wanted if name not in found]
    ending, several = _images_ending(state, lacking)
    found |= ending
    live = set(state.vectors.take_half(np.unique(_array(found.values())))[0].tolist())
    missing = tuple(name for name in wanted if found.get(name) not in live)
    if len(missing) == len(wanted):
        raise SourceError(
            f"none of the {len(wanted):,} images of {table.path} is in the index, such as "
            f"{missing[0]}: expected names of files from the folder of the table, or from a "
            "folder that was indexed"
        )
    gone = set(missing)
    rows = [row for row, name in enumerate(table.names) if name not in gone]
    notes = []
    if missing:
        are = "is" if len(missing) == 1 else "are"
        notes.append(
            f"{len(missing):,} of the {len(wanted):,} images of {table.path.name} {are} not in "
            f"the index and left out, such as {missing[0]}"
        )
    if several:
        notes.append(
            f"of these, {len(several):,} could be one of several images, such as {several[0]}: "
            "more of the path tells which"
        )
    if table.unusable:
        notes.append(
            f"{_rows(table.unusable)} of {table.path.name} without an image or a caption left out"
        )
    return Captions(
        _array(found[table.names[row]] for row in rows),
        tuple(table.texts[row] for row in rows),
        missing,
        tuple(notes),
    )


def _array(ids: Iterable[int]) -> Int64:
    return np.fromiter(ids, np.int64)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _images_at(state: Generation, names: Sequence[str], table: Path) -> dict[str, int]:
    """The images at those places, from the folder of the table or below a root."""
    import pyarrow as pa
    import pyarrow.compute as pc

    places = state.paths
    tops = [Path(os.path.abspath(table.parent)), *(place_of(r.path) for r in state.manifest.roots)]
    found: dict[str, int] = {}
    for top in tops:
        absolute = {
            whole_place(top / spelled): name
            for name in names if name not in found and "\0" not in name
            for spelled in _spellings(name)
        }  # fmt: skip
        for root in state.manifest.roots:
            keys = {key: name for path, name in absolute.items() for key in _below(path, root.path)}
            if not keys:
                continue
            values = pa.array(list(keys), places.relative_paths.type)
            is_named = as_numpy(pc.is_in(places.relative_paths, value_set=values))
            for row in np.flatnonzero(is_named & (places.root_ids == root.id)).tolist():
                name = keys[places.relative_paths[row].as_py()]
                found.setdefault(name, int(places.ids[row]))
    return found


def _spellings(name: str) -> Iterator[str]:
    """A name, and as it is spelled here where the table was written on Windows."""
    yield name
    if "\\" in name and os.sep == "/":
        yield name.replace("\\", "/")


def _below(path: Path, root: str) -> Iterator[bytes]:
    """The path relative to a root as the index has it; nothing where it is not below."""
    try:
        relative = path.relative_to(root)
    except ValueError:
        return
    yield b"" if relative == Path() else os.fsencode(relative.as_posix())


def _images_ending(state: Generation, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """The only images whose paths end in those names, and the names of which there are several."""
    by_last: dict[bytes, list[tuple[str, bytes]]] = {}
    for name in names:
        end = os.fsencode(name.replace("\\", "/").removeprefix("./"))
        if end and not end.startswith(b"/"):
            by_last.setdefault(end.rpartition(b"/")[2], []).append((name, end))
    if not by_last:
        return {}, []
    places, images = state.paths, dict[str, set[int]]()
    roots = {root.id: place_of(root.path).as_posix() for root in state.manifest.roots}
    ids, root_ids = places.ids, places.root_ids
    for row, value in enumerate(places.relative_paths):
        relative = value.as_py()
        named = by_last.get(relative.rpartition(b"/")[2]) if relative else None
        for name, end in named or ():
            path = os.fsencode(roots[int(root_ids[row])]) + b"/" + relative
            if path.endswith(b"/" + end):
                images.setdefault(name, set()).add(int(ids[row]))
    only = {name: next(iter(found)) for name, found in images.items() if len(found) == 1}
    return only, [name for name in names if len(images.get(name, ())) > 1]
