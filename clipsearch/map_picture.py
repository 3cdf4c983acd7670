"""The map of a discovery as a PNG: coloured points, named clusters, a thumbnail of each."""

from __future__ import annotations

import io
import unicodedata
from dataclasses import dataclass, field, replace
from typing import IO, Any

import numpy as np

from clipsearch.cluster_colours import LIGHT, LIGHT_GROUND, LIGHT_NONE
from clipsearch.cluster_pictures import shrunk, thumbnails
from clipsearch.clusters import Discovery
from clipsearch.generation import Generation
from clipsearch.html_pages import shown
from clipsearch.map_coordinates import Coordinates
from clipsearch.map_scene import MapScene, facts_of, map_scene

SIZE = (2400, 1800)
"""Pixels."""
_MARGIN, _HEAD = 110, 120
_FINER = 2  # points are drawn so much larger and shrunk, which smooths them
_NAME_SIZE, _TITLE_SIZE, _SMALL_SIZE = 30, 44, 26
_THUMBNAIL = 132
_PLATE = _NAME_SIZE + 14
_CELL = 8
_REACHES = ((0.0, 1), (24.0, 12), (60.0, 16), (120.0, 20), (200.0, 24))
_INK, _SOFT = "#1c1c1a", "#5f5f5b"
_LONGEST_NAME = 28
_MOST_THUMBNAILS = 400  # that are read; there is no room for as many
_PLAIN = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L",
     "đ": "d", "ð": "d", "þ": "th", "ı": "i", "–": "-", "—": "-", "·": "-", "×": "x"}
)  # fmt: skip
_NOWHERE = "\U0010fffe"  # no font has it


@dataclass
class _Room:
    """Rectangles that are taken."""

    width: int
    height: int
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def is_free(self, box: tuple[float, float, float, float]) -> bool:
        """Whether ``box`` (left, top, right, bottom) is inside and meets none that is taken."""
        left, top, right, bottom = box
        if left < 0 or top < 0 or right > self.width or bottom > self.height:
            return False
        return not any(
            left < other[2] and right > other[0] and top < other[3] and bottom > other[1]
            for other in self.taken
        )


def write_map_picture(
    file: IO[bytes], state: Generation, discovery: Discovery, coordinates: Coordinates, title: str
) -> int:
    """Write the map as a PNG of ``SIZE``; how many names it could not show.

    Names that would overlap larger clusters' are left out. The font, which is Pillow's own, has
    the letters of English: accents go, and for a name in another script stands the cluster's
    number in the list of clusters, counted from 1.
    """
    from PIL import Image, ImageDraw

    scene = map_scene(discovery, coordinates)
    picture = Image.new("RGB", SIZE, LIGHT_GROUND)
    _draw_points(picture, scene)
    draw = ImageDraw.Draw(picture)
    room = _Room(*SIZE)
    unshown = _draw_head(draw, room, scene, title)
    signs, lacking = _signs(room, scene, state)
    _draw_signs(picture, draw, signs)
    picture.save(file, "PNG", optimize=True)
    return unshown + lacking


def _placed(scene: MapScene, xy: Any) -> Any:
    """Pixels of places on the unit square."""
    inner = (SIZE[0] - 2 * _MARGIN, SIZE[1] - 2 * _MARGIN - _HEAD)
    low = scene.xy.min(axis=0) if len(scene.xy) else np.zeros(2)
    extent = (scene.xy.max(axis=0) - low) if len(scene.xy) else np.ones(2)
    scale = min(inner[0] / max(float(extent[0]), 1e-6), inner[1] / max(float(extent[1]), 1e-6))
    scale = min(scale, 2.0 * max(inner))  # few images that are almost in a row
    corner = np.array([_MARGIN, _MARGIN + _HEAD]) + (np.array(inner) - extent * scale) / 2
    return (xy - low) * scale + corner


def _draw_points(picture: Any, scene: MapScene) -> None:
    from PIL import Image

    count = len(scene.ids)
    if not count:
        return
    radius = float(np.clip(320 / np.sqrt(count), 2.0, 11.0)) * _FINER
    pixels = np.rint(_placed(scene, scene.xy) * _FINER).astype(np.int64)
    colours = np.array([_rgb(colour) for colour in LIGHT] + [_rgb(LIGHT_NONE)], np.uint8)
    none = len(LIGHT)
    slots = np.append(scene.slots, none)[scene.clusters]  # of -1 the last
    canvas = np.empty((SIZE[1] * _FINER, SIZE[0] * _FINER, 3), np.uint8)
    canvas[:] = _rgb(LIGHT_GROUND)
    reach = int(np.ceil(radius))
    offsets = np.arange(-reach, reach + 1)
    down, right = np.meshgrid(offsets, offsets, indexing="ij")
    rim = down**2 + right**2
    ground = np.array(_rgb(LIGHT_GROUND))
    for squared, shade in ((radius**2, 0.55), ((radius - _FINER) ** 2, 1.0)):
        inside = rim <= squared
        ink = (colours[slots] * shade + ground * (1 - shade)).astype(np.uint8)
        for y, x in zip(down[inside].tolist(), right[inside].tolist(), strict=True):
            canvas[pixels[:, 1] + y, pixels[:, 0] + x] = ink
    picture.paste(Image.fromarray(canvas).resize(SIZE, Image.Resampling.BOX))


def _draw_head(draw: Any, room: _Room, scene: MapScene, title: str) -> int:
    large, small = _font(_TITLE_SIZE), _font(_SMALL_SIZE)
    text, is_whole = _drawable(large, _shortened(shown(title), 80))
    draw.text((_MARGIN // 2, 40), text, fill=_INK, font=large)
    draw.text((_MARGIN // 2, 98), facts_of(scene), fill=_SOFT, font=small)
    room.taken.append((0, 0, SIZE[0], 140))
    return 0 if is_whole else 1


@dataclass(frozen=True)
class _Sign:
    """A cluster's name, with its thumbnail above it where that is, and the spot they got."""

    text: str
    colour: str
    centre: tuple[float, float]
    name_width: float
    thumbnail: Any
    left: float = 0.0
    top: float = 0.0

    @property
    def width(self) -> float:
        return max(self.name_width, self.thumbnail.width if self.thumbnail is not None else 0)

    @property
    def above(self) -> float:
        """Pixels of the thumbnail, down to the name."""
        return self.thumbnail.height + 6 if self.thumbnail is not None else 0

    @property
    def height(self) -> float:
        return self.above + _PLATE

    @property
    def middle(self) -> float:
        return self.left + self.width / 2


def _signs(room: _Room, scene: MapScene, state: Generation) -> tuple[list[_Sign], int]:
    """The clusters that there is room to name, the larger ones first, and how many names the
    font lacks."""
    font = _font(_NAME_SIZE)
    firsts = [cluster.typical[0] for cluster in scene.shown[:_MOST_THUMBNAILS] if cluster.typical]
    images = thumbnails(state, firsts)
    crowd = _Crowd(scene)
    found: list[_Sign] = []
    unshown = 0
    for position, (x, y) in enumerate(_placed(scene, scene.centres).tolist()):
        if not np.isfinite(x):
            continue
        cluster = scene.shown[position]
        text, is_whole = _drawable(font, _shortened(shown(cluster.name), _LONGEST_NAME))
        if not is_whole:
            unshown += 1
            text = str(position + 1)
        data = images.get(cluster.typical[0]) if cluster.typical else None
        whole = _Sign(
            text,
            LIGHT[int(scene.slots[position])],
            (x, y),
            float(font.getlength(text)) + 24,
            None if data is None else _opened(data),
        )
        for sign in (whole, replace(whole, thumbnail=None)):
            spot = _free_spot(room, crowd, sign)
            if spot is not None:
                found.append(replace(sign, left=spot[0], top=spot[1]))
                break
    return found, unshown


def _draw_signs(picture: Any, draw: Any, signs: list[_Sign]) -> None:
    font = _font(_NAME_SIZE)
    for sign in signs:  # below every name
        x, y = sign.centre
        is_over = sign.left <= x <= sign.left + sign.width
        if not (is_over and sign.top <= y <= sign.top + sign.height):
            end = (sign.middle, sign.top + sign.height / 2)
            draw.line((x, y, *end), fill=sign.colour, width=4)
            draw.ellipse((x - 7, y - 7, x + 7, y + 7), fill=sign.colour, outline="#ffffff", width=2)
    for sign in signs:
        left, top, right = (
            sign.middle - sign.name_width / 2,
            sign.top + sign.above,
            sign.middle + sign.name_width / 2,
        )
        if sign.thumbnail is not None:
            at = (round(sign.middle - sign.thumbnail.width / 2), round(sign.top))
            edge = (at[0] - 3, at[1] - 3)
            end = (at[0] + sign.thumbnail.width + 2, at[1] + sign.thumbnail.height + 2)
            draw.rectangle((*edge, *end), fill=sign.colour)
            picture.paste(sign.thumbnail, at)
        plate = (left, top, right, top + _PLATE)
        draw.rounded_rectangle(plate, 8, fill="#ffffff", outline=sign.colour, width=3)
        middle = (sign.middle, top + _PLATE / 2)
        draw.text(middle, sign.text, fill=_INK, font=font, anchor="mm")


def _opened(jpeg: bytes) -> Any:
    """A thumbnail at the size it is shown in, None where it is damaged."""
    from PIL import Image

    small = shrunk(jpeg, _THUMBNAIL)
    if small is None:
        return None
    with Image.open(io.BytesIO(small)) as opened:
        return opened.convert("RGB")


class _Crowd:
    """How many points lie in a rectangle, about."""

    def __init__(self, scene: MapScene) -> None:
        cells = (_placed(scene, scene.xy) / _CELL).astype(np.int64)
        counts = np.zeros((SIZE[1] // _CELL + 2, SIZE[0] // _CELL + 2))
        np.add.at(counts, (cells[:, 1] + 1, cells[:, 0] + 1), 1)
        self._sums = counts.cumsum(axis=0).cumsum(axis=1)
        self.usual = max(1.0, len(scene.ids) / max(1, len(scene.shown)))

    def count(self, box: tuple[float, float, float, float]) -> float:
        sums = self._sums
        ends = (sums.shape[1] - 1, sums.shape[0] - 1) * 2
        left, top, right, bottom = (
            min(max(0, round(edge / _CELL)), end) for edge, end in zip(box, ends, strict=True)
        )
        inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return float(inside)


def _free_spot(room: _Room, crowd: _Crowd, sign: _Sign) -> tuple[float, float] | None:
    """The left top of the free rectangle near a cluster that hides the fewest points; taken
    then."""
    x, y = sign.centre
    best: tuple[float, tuple[float, float, float, float]] | None = None
    for reach, turns in _REACHES:
        for turn in range(turns):
            angle = 2 * np.pi * turn / turns - np.pi / 2
            across, down = sign.width / 2 + reach, sign.height / 2 + reach
            left = x + (across * float(np.cos(angle)) if reach else 0) - sign.width / 2
            top = y + (down * float(np.sin(angle)) if reach else 0) - sign.height / 2
            box = (left - 6, top - 6, left + sign.width + 6, top + sign.height + 6)
            cost = crowd.count(box) / crowd.usual + reach / 150
            if (best is None or cost < best[0]) and room.is_free(box):
                best = (cost, box)
    if best is None:
        return None
    room.taken.append(best[1])
    return best[1][0] + 6, best[1][1] + 6


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _drawable(font: Any, text: str) -> tuple[str, bool]:
    """``text`` in letters that the font has, and whether it has them all: accents are left out,
    and ? stands for what cannot be shown."""
    plain = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    lacking = {letter for letter in set(plain) if not letter.isspace() and not _has(font, letter)}
    return "".join("?" if letter in lacking else letter for letter in plain), not lacking


def _has(font: Any, letter: str) -> bool:
    """Whether the font has a picture of its own for a letter."""
    try:
        return bytes(font.getmask(letter)) != bytes(font.getmask(_NOWHERE))
    except (UnicodeError, OSError, ValueError):  # Pillow's own bitmap font, where it lacks FreeType
        return False
