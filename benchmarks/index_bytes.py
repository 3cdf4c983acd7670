"""How many bytes does an image take in an index, and where?

    python benchmarks/index_bytes.py INDEX... [--json FILE]

Counts what the manifest of each index names (shards, paths, skipped files), the manifest itself,
and what lies in its cache. Bytes an image are of the images of that index; a paths table has a row
for every file, so copies make it longer. An index of real photos tells of metadata and thumbnails;
one that ``corpus.py`` made, of vectors, paths and the cache at a size that matters:

    python benchmarks/photo_corpus.py p500 --count 2000 --kind 500px
    clipsearch index p500 --index p500.index --model mini
    python benchmarks/corpus.py million.index --vector-index
    python benchmarks/index_bytes.py p500.index million.index
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from clipsearch.generation import cache_folder
from clipsearch.manifest import COPY_NAME, MANIFEST_NAME, FileRef, Manifest, read_manifest
from clipsearch.store import LocalStore


@dataclass
class IndexBytes:
    """What an index takes. images, shards, places : how many. parts : bytes by what they are for,
    the truth first, then the cache. dims : numbers of a vector, by space."""

    name: str
    images: int
    shards: int
    places: int
    dims: dict[str, int]
    parts: dict[str, int] = field(default_factory=dict)

    def of_an_image(self, part: str) -> float:
        """Bytes of ``part`` an image."""
        return self.parts.get(part, 0) / max(self.images, 1)


def measure(index: Path) -> IndexBytes:
    """What the index at ``index`` takes. Raises IndexNotFoundError, IndexFormatError."""
    manifest = read_manifest(LocalStore(index), str(index))
    found = IndexBytes(
        index.name,
        images=_rows(manifest.images),
        shards=len(manifest.images),
        places=_rows(manifest.paths),
        dims={space.id: space.dim for space in manifest.spaces.values()},
    )
    parts = found.parts
    parts["images"] = _size(manifest.images)
    for space_id, refs in manifest.embeddings.items():
        parts[f"embeddings ({manifest.spaces[space_id].dim} numbers)"] = _size(refs)
    parts["paths"] = _size(manifest.paths)
    parts["manifest and its copy"] = sum(
        (index / name).stat().st_size for name in (MANIFEST_NAME, COPY_NAME)
    )
    parts["skipped, deleted"] = _size(_few(manifest))
    cache = cache_folder(index)
    for folder in sorted(cache.iterdir()) if cache.is_dir() else ():
        if folder.is_dir():
            parts[f"cache/{folder.name}"] = sum(
                file.stat().st_size for file in folder.rglob("*") if file.is_file()
            )
    return found


def _few(manifest: Manifest) -> list[FileRef]:
    return [ref for ref in (manifest.skipped, manifest.deleted) if ref is not None]


def _rows(refs: Iterable[FileRef]) -> int:
    return sum(ref.rows for ref in refs)


def _size(refs: Iterable[FileRef]) -> int:
    return sum(ref.bytes for ref in refs)


def table(found: list[IndexBytes]) -> str:
    """A column an index, a line a part."""
    names = list(dict.fromkeys(part for one in found for part in one.parts))
    lines = ["".join([f"{'bytes an image':32}", *(f"{one.name:>22}" for one in found)])]
    for name, values in (
        ("images", [f"{one.images:,}" for one in found]),
        ("shards", [f"{one.shards:,}" for one in found]),
        ("files", [f"{one.places:,}" for one in found]),
        *((part, [f"{one.of_an_image(part):,.1f}" for one in found]) for part in names),
        ("manifest, bytes a shard", [f"{_of_a_shard(one):,.0f}" for one in found]),
        ("all of it", [f"{sum(one.parts.values()) / one.images:,.1f}" for one in found]),
    ):
        lines.append(f"{name:32}" + "".join(f"{value:>22}" for value in values))
    return "\n".join(lines)


def _of_a_shard(one: IndexBytes) -> float:
    """Of the manifest alone, which is half of what it and its copy take."""
    return one.parts["manifest and its copy"] / 2 / max(one.shards, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", type=Path, nargs="+", metavar="INDEX")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    arguments = parser.parse_args()
    found = [measure(index.absolute()) for index in arguments.index]
    print(table(found))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
