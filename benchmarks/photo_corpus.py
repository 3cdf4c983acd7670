"""Makes many different JPEGs out of a few real photos, quickly.

    python benchmarks/photo_corpus.py OUT --count N --kind 500px|12mp|thumbnail [--source FOLDER]

- ``500px``: as photos lie on the web: 500 pixels on the long side, some 130 kB.
- ``12mp``: as a camera writes them: 4000 x 3000 pixels of real detail, some 3.5 MB, EXIF with a
  date, a camera and, on some, a place and an orientation.
- ``thumbnail``: 160 to 256 pixels a side, some 10 kB; 200,000 take a few minutes.

Each picture is a piece of its own, mirrored or not, of one of the photos (or of a wall of twelve
of them), so that no two have the same pixels, let alone the same bytes. The same OUT, count, kind,
source and seed make the same files. Without --source the photos are those that come inside
installed packages, which ``clipsearch demo`` shows; a folder of a few hundred is better.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from clipsearch.threads import worker_count

KINDS = ("500px", "12mp", "thumbnail")
IN_A_FOLDER = 1000

_CAMERA = (4000, 3000)
_TILES = (4, 3)  # of a wall; each photo is enlarged to 1000 pixels, as sharp as a phone's pixels
_WALLS = 6
_NOISE = 2.5  # levels: a sensor's, which an enlarged photo lacks
_QUALITY = {"500px": 97, "12mp": 93, "thumbnail": 80}
_THUMBNAIL_SIDES = range(160, 257, 8)


class Maker:
    """Pictures of one kind by their number. photos : paths of the real ones, two or more."""

    def __init__(self, kind: str, photos: list[Path], seed: int = 0) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind is one of {', '.join(KINDS)}, not {kind!r}")
        self.kind, self.photos, self.seed = kind, photos, seed
        walls = 0 if kind == "500px" else _WALLS
        self._walls = [self._wall(number) for number in range(walls)]

    def write(self, number: int, path: Path) -> None:
        """The picture of this number, as a JPEG."""
        random = np.random.default_rng([self.seed, number])
        if self.kind == "500px":
            image = self._web_photo(number, random)
        elif self.kind == "12mp":
            image = self._camera_photo(number, random)
        else:
            image = self._thumbnail(number, random)
        more = {"exif": _camera_exif(number, random)} if self.kind == "12mp" else {}
        # The number makes the bytes differ even where two pieces of sky do not.
        image.save(
            path, "JPEG", quality=_QUALITY[self.kind], comment=b"picture %09d" % number, **more
        )

    def _web_photo(self, number: int, random: np.random.Generator) -> Image.Image:
        with Image.open(self.photos[number % len(self.photos)]) as opened:
            photo = opened.convert("RGB")
        width, height = photo.size
        share = random.uniform(0.8, 1.0)
        wide, high = width * share, height * share
        left, top = random.uniform(0, width - wide), random.uniform(0, height - high)
        scale = 500 / max(wide, high)
        size = (max(1, round(wide * scale)), max(1, round(high * scale)))
        box = (left, top, left + wide, top + high)
        piece = photo.resize(size, Image.Resampling.BICUBIC, box)
        return ImageOps.mirror(piece) if random.random() < 0.5 else piece

    def _camera_photo(self, number: int, random: np.random.Generator) -> Image.Image:
        wall = self._walls[number % len(self._walls)]
        down, right = int(random.integers(wall.shape[0])), int(random.integers(wall.shape[1]))
        pixels = np.roll(wall, (down, right), axis=(0, 1))
        if random.random() < 0.5:
            pixels = pixels[:, ::-1]
        return Image.fromarray(np.ascontiguousarray(pixels))

    def _thumbnail(self, number: int, random: np.random.Generator) -> Image.Image:
        wall = self._walls[number % len(self._walls)]
        wide, high = (int(side) for side in random.choice(_THUMBNAIL_SIDES, 2))
        top = int(random.integers(wall.shape[0] - high))
        left = int(random.integers(wall.shape[1] - wide))
        pixels = wall[top : top + high, left : left + wide]
        if random.random() < 0.5:
            pixels = pixels[:, ::-1]
        return Image.fromarray(np.ascontiguousarray(pixels))

    def _wall(self, number: int) -> np.ndarray:
        """Twelve photos side by side, (3000, 4000, 3) uint8, with a little noise."""
        random = np.random.default_rng([self.seed, 1, number])
        across, down = _TILES
        side = _CAMERA[0] // across
        wall = Image.new("RGB", _CAMERA)
        chosen = random.permutation(len(self.photos))
        for place in range(across * down):
            with Image.open(self.photos[chosen[place % len(chosen)]]) as photo:
                tile = ImageOps.fit(photo.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
            wall.paste(tile, (side * (place % across), side * (place // across)))
        # One square of noise over and over: a compressor that works in blocks cannot tell.
        noise = (random.standard_normal((500, 500)) * _NOISE).round().astype(np.int16)
        pixels = np.asarray(wall).astype(np.int16)
        pixels += np.tile(noise, (_CAMERA[1] // 500, _CAMERA[0] // 500))[..., None]
        return pixels.clip(0, 255, out=pixels).astype(np.uint8)


def _camera_exif(number: int, random: np.random.Generator) -> Image.Exif:
    """What a camera says of its photo; a place on every third, turned every fifth."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Examplar"
    exif[ExifTags.Base.Model] = f"E-{10 + number % 3}"
    exif[ExifTags.Base.Orientation] = 6 if number % 5 == 0 else 1
    taken = (
        f"20{10 + number % 15:02d}:{1 + number % 12:02d}:{1 + number % 28:02d} "
        f"{number % 24:02d}:{number // 24 % 60:02d}:{number // 1440 % 60:02d}"
    )
    photo = exif.get_ifd(ExifTags.IFD.Exif)
    photo[ExifTags.Base.DateTimeOriginal] = taken
    photo[ExifTags.Base.ISOSpeedRatings] = 100 << number % 6
    photo[ExifTags.Base.FNumber] = 2.8
    if number % 3 == 0:
        place = exif.get_ifd(ExifTags.IFD.GPSInfo)
        place[ExifTags.GPS.GPSLatitudeRef] = "N"
        place[ExifTags.GPS.GPSLatitude] = (48.0, float(number % 60), random.uniform(0, 60))
        place[ExifTags.GPS.GPSLongitudeRef] = "E"
        place[ExifTags.GPS.GPSLongitude] = (2.0, float(number % 60), random.uniform(0, 60))
    return exif


def real_photos(source: Path | None) -> list[Path]:
    """The photos to make others of: those of a folder, else those inside installed packages."""
    from clipsearch.file_kinds import IMAGE_EXTENSIONS
    from indexer.demo import demo_pictures

    if source is None:
        return [path for path in demo_pictures() if path.suffix.lower() in (".jpg", ".jpeg")]
    return sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS)


_maker: Maker


def _begin(kind: str, photos: list[Path], seed: int) -> None:
    global _maker
    _maker = Maker(kind, photos, seed)


def _write_some(out: Path, numbers: range) -> int:
    """Writes pictures that are not there yet; the bytes of these files."""
    size = 0
    for number in numbers:
        path = out / f"{number // IN_A_FOLDER:04d}" / f"IMG_{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            unfinished = path.with_suffix(".part")
            _maker.write(number, unfinished)
            unfinished.replace(path)
        size += path.stat().st_size
    return size


def make_photos(
    out: Path, count: int, kind: str, source: Path | None = None, *, seed: int = 0
) -> int:
    """Writes ``count`` pictures to ``out``, in folders of a thousand, on all processors; those
    that are there already stay. The bytes of all files."""
    photos = real_photos(source)
    if len(photos) < 2:
        raise SystemExit(f"expected two photos or more in {source or 'installed packages'}")
    step = 10 if kind == "12mp" else 500
    parts = [range(start, min(start + step, count)) for start in range(0, count, step)]
    workers = max(1, min(worker_count(), len(parts)))
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(kind, photos, seed),
    ) as pool:
        return sum(pool.map(_write_some, [out] * len(parts), parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--source", type=Path, metavar="FOLDER", help="of real photos")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.count < 1:
        parser.error("--count is at least 1")
    begin = time.perf_counter()
    size = make_photos(
        arguments.out, arguments.count, arguments.kind, arguments.source, seed=arguments.seed
    )
    seconds = time.perf_counter() - begin
    each = size / arguments.count / 1000
    print(f"{arguments.count:,} pictures of {each:,.0f} kB in {seconds:.1f} s")


if __name__ == "__main__":
    main()
