"""What encodes the questions asked of an index: its encoder, loaded once, and remembered texts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from clipsearch.encoder import Encoder, Space, load_encoder
from clipsearch.errors import ModelLoadError, ModelNotHereError, SpaceMismatchError
from clipsearch.text_vectors import (
    EncodesText,
    TextVectorCache,
    TextVectors,
    default_cache_path,
)


class QueryEncoders:
    """Encoders of the spaces of one index. Safe to call from threads; never uses a network.

    model : where the index's model is now, if not where it was. device : see ``load_encoder``.
    text_cache : the SQLite file of text vectors; None is the user's own of each space.
    on_progress : see ``TextVectors``; given to those that are made from then on.
    """

    def __init__(self, model: str | None, device: str | None, text_cache: Path | None) -> None:
        self._model = model
        self._device = device
        self._text_cache = text_cache
        self.on_progress: Callable[[int, int], None] | None = None
        self._lock = threading.Lock()
        self._encoder: Encoder | None = None
        self._texts: TextVectorCache | None = None
        self._text_lock = threading.Lock()
        self._for_texts: EncodesText | None = None

    def encoder(self, space: Space) -> Encoder:
        """The encoder of ``space``.

        Raises SpaceMismatchError when the model found gives another space, and the errors of
        ``load_encoder``.
        """
        with self._lock:
            if self._encoder is None or self._encoder.space.fingerprint != space.fingerprint:
                self._encoder = self._load(space)
            return self._encoder

    def texts(self, space: Space) -> TextVectors:
        """What turns texts into vectors of ``space``, remembered ones first."""
        place, owner = default_cache_path(space.fingerprint), None
        if self._text_cache is not None:  # which may be asked for another space of the index next
            place, owner = self._text_cache, space.fingerprint
        with self._lock:
            known = self._texts
            if known is None or (known.path, known.fingerprint) != (place, owner):
                known = self._texts = TextVectorCache(place, owner)
            texts = TextVectors(space, lambda: self._text_encoder(space), known)
            texts.on_progress = self.on_progress
            return texts

    def _text_encoder(self, space: Space) -> EncodesText:
        with self._text_lock:
            known = self._for_texts
            if known is None or known.space.fingerprint != space.fingerprint:
                known = self._for_texts = self._load_for_texts(space)
            return known

    def _load_for_texts(self, space: Space) -> EncodesText:
        """A text tower in NumPy where there is one, else the encoder, of which one is made."""
        if self._device in (None, "cpu"):  # else somebody wants it done there
            from clipsearch.text_tower_files import open_text_tower

            tower = open_text_tower(space)
            if tower is not None:
                return tower
        encoder = self.encoder(space)
        from clipsearch.text_tower_export import fastest_for_texts

        return fastest_for_texts(encoder)

    def _load(self, space: Space) -> Encoder:
        try:
            loaded = load_encoder(self._model or space.model, device=self._device)
        except ModelNotHereError:
            if self._model is not None:
                raise
            raise ModelNotHereError(
                f"the index was made with {space.model}, which is not on this machine:\n"
                f"fetch it with `clipsearch model get {space.model}`"
            ) from None
        except ModelLoadError as error:
            is_folder = self._model is None and os.path.isabs(space.model)
            if not is_folder or Path(space.model).exists():
                raise error
            raise ModelLoadError(
                f"the index was made with the model folder {space.model}, which is not there "
                "now: name its new place with --model FOLDER, or for good with "
                "'clipsearch model add FOLDER'"
            ) from None
        if loaded.space.fingerprint != space.fingerprint:
            raise SpaceMismatchError(
                f"the index was made with {space.model} (space {space.id}), and "
                f"{self._model or space.model} gives space {loaded.space.id}: use the model of "
                "the index, or make another index"
            )
        return loaded
