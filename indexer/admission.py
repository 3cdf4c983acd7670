"""Admit a back-end: hold its vectors of real images against those of the reference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.admissions import keep_admission, processor, read_admission, software
from clipsearch.backends import Admission, why_not
from clipsearch.background_words import background_prompts
from clipsearch.encoder import Encoder, Float32, ImageGeometry, UInt8
from clipsearch.errors import ClipsearchError, ImageError, OptionError
from clipsearch.text_tower_export import fastest_for_texts
from clipsearch.text_vectors import TextVectorCache, TextVectors, default_cache_path
from indexer.containers import sources_of
from indexer.file_table import FoundFile

SAMPLE_IMAGES = 64
"""So many images are compared, where there are as many."""
FEWEST_IMAGES = 16
"""With fewer of its own, a run takes pictures that come with installed packages too."""
_BATCH = 16

Sample = Callable[[ImageGeometry], UInt8]
"""The pixels of some images of a run, (n, height, width, 3) uint8, at the geometry given."""


def known_admission(
    encoder: Encoder, backend: str, cache_dir: Path | None = None
) -> Admission | None:
    """What was measured before with the same model, software and processor."""
    device = str(encoder.recipe["device"])
    return read_admission(encoder.space.fingerprint, backend, device, cache_dir)


def admit(
    encoder: Encoder,
    backend: str,
    reference: Callable[[], Encoder],
    sample: Sample,
    cache_dir: Path | None = None,
) -> Admission:
    """How near ``encoder`` is to its reference, from the cache or measured now, and kept.

    reference : loads the float32 encoder of the same space; called only to measure. Whether the
    numbers suffice is for the caller to see (``Admission.level``).
    """
    known = known_admission(encoder, backend, cache_dir)
    if known is not None:
        return known
    device = str(encoder.recipe["device"])
    admission = compare(encoder, reference(), enough_pixels(sample, encoder.space.geometry), device)
    keep_admission(encoder.space.fingerprint, backend, device, admission, cache_dir)
    return admission


def compare(encoder: Encoder, reference: Encoder, pixels: UInt8, device: str) -> Admission:
    """Encode ``pixels`` (n, height, width, 3) with both, and measure how the vectors differ."""
    ours, theirs = _rows(encoder, pixels), _rows(reference, pixels)
    cosines = np.einsum("ij,ij->i", ours.astype(np.float64), theirs.astype(np.float64))
    words = _words(reference)
    same = (ours @ words.T).argmax(axis=1) == (theirs @ words.T).argmax(axis=1)
    return Admission(
        mean_cosine=float(cosines.mean()),
        min_cosine=float(cosines.min()),
        top1=float(same.mean()),
        images=len(pixels),
        versions=software(),
        processor=processor(device),
    )


def refuse_foreign(recipe: Mapping[str, Any], where: str) -> None:
    """Raises OptionError for a shard whose vectors may not join those of an index."""
    reason = why_not(recipe)
    if reason is not None:
        raise OptionError(
            f"the vectors of {where} are refused: {reason}; encode its images again with "
            "--backend torch"
        )


def sample_of(
    files: Sequence[FoundFile], roots: Mapping[int, str], *, decode: str, max_megapixels: float
) -> Sample:
    """A sample of a run's photos: up to ``SAMPLE_IMAGES`` of ``files``, evenly spread."""

    def take(geometry: ImageGeometry) -> UInt8:
        from indexer.decode import decode_in_order

        step = max(1, len(files) // SAMPLE_IMAGES)
        chosen = list(files[::step][:SAMPLE_IMAGES])
        decoded = decode_in_order(
            list(sources_of(chosen, dict(roots))),
            geometry,
            decode=decode,
            max_megapixels=max_megapixels,
            thumbnail_side=None,
            threads=2,
            look_ahead=4,
            seconds=60.0,
        )
        return _stacked([i.pixels for i in decoded if not isinstance(i, ImageError)], geometry)

    return take


def enough_pixels(sample: Sample, geometry: ImageGeometry) -> UInt8:
    """The sample, with pictures that are on every machine, as they are and mirrored, where it is
    too small. Raises OptionError where that is too little still."""
    own = sample(geometry)
    if len(own) < FEWEST_IMAGES:
        own = np.concatenate([own, _installed_pictures(geometry)])
    if not len(own):
        raise OptionError("no picture is here to compare back-ends with: use --backend torch")
    return own


def _installed_pictures(geometry: ImageGeometry) -> UInt8:
    from clipsearch.images import read_image
    from indexer.demo import demo_pictures

    pixels: list[UInt8] = []
    with contextlib.suppress(ClipsearchError):
        for path in demo_pictures():
            with contextlib.suppress(ImageError):
                image = read_image(path, geometry, thumbnail_side=None)
                pixels += [image.pixels, image.pixels[:, ::-1]]
    return _stacked(pixels, geometry)


def _stacked(pixels: Sequence[UInt8], geometry: ImageGeometry) -> UInt8:
    if not pixels:
        return np.empty((0, geometry.height, geometry.width, 3), np.uint8)
    return np.stack(pixels)


def _rows(encoder: Encoder, pixels: UInt8) -> Float32:
    parts = range(0, len(pixels), _BATCH)
    return np.concatenate([encoder.encode_images(pixels[i : i + _BATCH]) for i in parts])


def _words(reference: Encoder) -> Float32:
    """The background words as vectors, which a run keeps for searches anyway."""
    cache = TextVectorCache(default_cache_path(reference.space.fingerprint))
    texts = TextVectors(reference.space, lambda: fastest_for_texts(reference), cache)
    return texts.encode(background_prompts())
