"""The photos that ``clipsearch bench`` measures with: made, or a user's own, which stay as they
are."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsearch.errors import SourceError
from clipsearch.file_kinds import readable_extensions

_PICTURES = 3  # of each kind; more tell a decoder nothing new
_NOISE = 6.0  # of 255: a picture made larger has less detail than a camera's, and decodes sooner
_START = b"\xff\xd8"  # of every JPEG


@dataclass(frozen=True)
class BenchPhotos:
    """Photos of one kind.

    name : "500 px", "12 MP" or "yours". files : the photos. is_made : whether copies of them may
    be made that an index takes for photos of their own.
    """

    name: str
    files: tuple[Path, ...]
    is_made: bool

    @property
    def mean_bytes(self) -> float:
        """The mean size of a file."""
        return sum(path.stat().st_size for path in self.files) / len(self.files)


def make_photos(folder: Path) -> list[BenchPhotos]:
    """JPEGs of 500 px and of 12 megapixels, from pictures of an installed package, in
    ``folder``. Raises SourceError where it ships none."""
    import numpy as np
    from PIL import Image

    from indexer.demo import demo_pictures

    photos = [path for path in demo_pictures() if path.suffix.lower() in (".jpg", ".jpeg")]
    photos.sort(key=lambda path: -path.stat().st_size)
    if not photos:
        raise SourceError("no package brings photos to measure with: name a folder with --photos")
    made = []
    random = np.random.default_rng(0)
    for name, size, quality in (("500 px", (500, 375), 92), ("12 MP", (4000, 3000), 88)):
        files = []
        for number, path in enumerate(photos[:_PICTURES]):
            with Image.open(path) as picture:
                large = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
            pixels = np.asarray(large).astype(np.int16)
            noise = random.normal(0.0, _NOISE, (512, 512, 3)).astype(np.int16)
            tiled = np.tile(noise, (size[1] // 512 + 1, size[0] // 512 + 1, 1))
            pixels += tiled[: size[1], : size[0]]
            file = folder / f"{name.replace(' ', '')}-{number}.jpg"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=quality)
            files.append(file)
        made.append(BenchPhotos(name, tuple(files), is_made=True))
    return made


def photos_of(folder: Path, most: int = 2_000) -> BenchPhotos:
    """The first ``most`` images in a folder of the user's. Raises SourceError."""
    if not folder.is_dir():
        raise SourceError(f"no folder of photos at {folder}: name one that is there with --photos")
    files: list[Path] = []
    for path in _walk(folder):
        files.append(path)
        if len(files) == most:
            break
    if not files:
        raise SourceError(f"no image in {folder}: name another folder with --photos")
    return BenchPhotos("yours", tuple(files), is_made=False)


def _walk(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(here, name)
            if path.suffix.lower() in readable_extensions() and path.is_file():
                yield path


def copies(photos: BenchPhotos, folder: Path, count: int) -> Sequence[Path]:
    """``count`` files for an index: of made photos copies in ``folder``, each of a content of its
    own, for it holds a remark that no other has; of a user's the first ones, as they are."""
    if not photos.is_made:
        return photos.files[:count]
    folder.mkdir()
    contents = [path.read_bytes() for path in photos.files]
    made = []
    for number in range(count):
        content = contents[number % len(contents)]
        remark = f"bench {number}".encode()
        written = io.BytesIO()
        written.write(_START + b"\xff\xfe" + (len(remark) + 2).to_bytes(2, "big") + remark)
        written.write(memoryview(content)[len(_START) :])
        made.append(folder / f"{number:06d}.jpg")
        made[-1].write_bytes(written.getbuffer())
    return made
