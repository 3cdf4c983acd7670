"""Making a text tower of a loaded model, if it gives what torch gives."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch import __version__
from clipsearch.background_words import background_prompts
from clipsearch.encoder import Encoder, Float32
from clipsearch.half import widen
from clipsearch.mapped_tensors import map_tensors
from clipsearch.model_names import file_stamp
from clipsearch.text_side import TextSide
from clipsearch.text_tower_files import (
    PROBE,
    SAME,
    Weights,
    build_tower,
    open_text_tower,
    room_for,
    tower_file,
    write_tower,
)
from clipsearch.text_vectors import EncodesText

_ODD_TEXTS = (
    "",
    "   ",
    "A PHOTO OF A DOG!",
    "don't you think they'll say we've 'ad 12,345.67 of 'em?",
    "salt &amp; pepper, R&B, &lt;b&gt;",
    "<start_of_text> a cat <end_of_text> and what stands behind it",
    "schÃ¶n gemacht \u201cquoted\u201d ﬁne",
    "ein Hund im Schnee über der Brücke",
    "雪の中の二匹の犬",
    "собака на пляже",
    "\N{DOG FACE}\N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4} on tour",
    "two\tlines\r\nof \x1b[31mtext\x1b[0m",
    "a photo of a very, very long story " * 12,
    "pneumonoultramicroscopicsilicovolcanoconiosis " * 3,
)
_EVERY = 32  # of the background words, one in so many is compared as a vector


def export_text_tower(encoder: Encoder, cache_dir: Path | None = None) -> bool:
    """Keep what answers texts of the encoder's space without torch, unless it is kept already.

    It is kept only when, on some dozens of texts, its tokens are those of the model's tokenizer
    and its vectors are those of the encoder (cosine of at least 0.99999); a tower that failed is
    noted and not tried again with the same software. Takes about as long as forty texts take.

    cache_dir : the program's cache folder; None takes the system's place for it.
    Returns whether there is a tower now. Raises OSError where it cannot be written.
    """
    space = encoder.space
    if open_text_tower(space, cache_dir) is not None:
        return True
    take_apart: Any = getattr(encoder, "text_side", None)
    side: TextSide | None = take_apart() if take_apart is not None else None
    place = tower_file(space.fingerprint, cache_dir)
    refused = place.with_suffix(".refused.json")
    if side is None or _was_refused(refused):
        return False
    where = _in_own_file(Path(getattr(encoder, "weights", "")), side)
    room_for(place, 0 if where is not None else sum(a.nbytes for a in side.weights.values()))
    probe = _measured(encoder, side)
    if probe is None:
        refused.write_text(json.dumps(_software()), encoding="utf-8")
        return False
    write_tower(space, side.shape, side.table, where or side.weights, probe, cache_dir)
    return open_text_tower(space, cache_dir) is not None


def fastest_for_texts(encoder: Encoder, cache_dir: Path | None = None) -> EncodesText:
    """What encodes texts of the encoder's space fastest on this machine: its text tower, of
    which one is kept if that can be, unless torch computes on something better than a CPU."""
    try:
        kept = export_text_tower(encoder, cache_dir)
    except OSError:  # no room, no right: the next process takes as long
        kept = False
    if not kept or encoder.recipe.get("device") != "cpu":
        return encoder
    return open_text_tower(encoder.space, cache_dir) or encoder


def _in_own_file(path: Path, side: TextSide) -> Weights | None:
    """Where the model's own file holds these weights, number for number."""
    with contextlib.suppress(OSError, ValueError):
        real, size, mtime_ns = file_stamp(path)
        arrays = map_tensors(real).arrays
        for prefix in ("", "text."):
            if all(_equal(arrays.get(prefix + name), a) for name, a in side.weights.items()):
                return Weights(real, size, mtime_ns, prefix)
    return None


def _equal(stored: Any, array: Float32) -> bool:
    if stored is None or stored.shape != array.shape:
        return False
    if stored.dtype == np.float16:
        stored = widen(stored) if stored.ndim == 2 else stored.astype(np.float32)
    return stored.dtype == np.float32 and bool(np.array_equal(stored, array))


def _measured(encoder: Encoder, side: TextSide) -> Float32 | None:
    """The encoder's vector of ``PROBE`` when the tower agrees with the encoder, else None."""
    try:
        tower = build_tower(encoder.space, side.shape, side.table, side.weights)
    except (KeyError, ValueError):  # a text side with a position more, for instance
        return None
    many = (*_ODD_TEXTS, *background_prompts())
    tokens = side.tokenize(many)
    for text, expected in zip(many, tokens, strict=True):
        own = tower.tokens(text)
        if [*own, *([0] * (len(expected) - len(own)))] != expected.tolist():
            return None
    texts = (PROBE, *_ODD_TEXTS, *background_prompts()[::_EVERY])
    reference = encoder.encode_texts(texts)
    together = tower.encode_texts(texts)
    alone = np.concatenate([tower.encode_texts([text]) for text in texts[:4]])
    for mine, theirs in ((together, reference), (alone, reference[:4])):
        cosines = np.einsum("ij,ij->i", mine, theirs, dtype=np.float64)
        if not bool((cosines >= SAME).all()):  # not a number is no agreement either
            return None
    probe: Float32 = reference[0]
    return probe


def _software() -> Mapping[str, str]:
    packages = ("numpy", "open_clip_torch", "torch")
    return {"clipsearch": __version__, **{name: version(name) for name in packages}}


def _was_refused(note: Path) -> bool:
    try:
        return bool(json.loads(note.read_text(encoding="utf-8")) == _software())
    except (OSError, ValueError):
        return False
