"""An image tower that torch compiles for batches of one size."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from clipsearch.device_queue import Tensor
from clipsearch.encoder import Float32, UInt8
from clipsearch.model_source import one_line

Features = Callable[[Tensor], Tensor]
"""(n, 3, height, width) normalised pixels -> (n, dim) unit rows, both on the device."""


class CompiledTower:
    """Pixels to unit vectors by compiled code. Safe to call from threads.

    The first call compiles, and the others wait for it. A batch of fewer images is filled up
    with black ones, whose rows are dropped: another size would be compiled anew.

    rows : what gives the vectors of (n, height, width, 3) uint8 pixels by the features it is
        handed. features : the ones to compile. size : images of a batch; larger ones go through
        as they are. backend : torch's name of a compiler, or a function that is one.
    error : why it cannot be compiled, else None. All goes on without then.
    """

    def __init__(
        self,
        rows: Callable[[UInt8, Features], Float32],
        features: Features,
        size: int,
        backend: Any = "inductor",
    ) -> None:
        self.error: str | None = None
        self._rows = rows
        self._features = features
        self._size = size
        self._backend = backend
        self._compiled: Features | None = None
        self._compiling = threading.Lock()

    @property
    def is_compiled(self) -> bool:
        """Whether compiled code gave vectors."""
        return self._compiled is not None

    def rows(self, pixels: UInt8) -> Float32:
        """(n, height, width, 3) uint8 RGB -> (n, dim) float32 unit rows."""
        count = len(pixels)
        if self.error is not None or count > self._size:
            return self._rows(pixels, self._features)
        if count < self._size:
            rest = np.zeros((self._size - count, *pixels.shape[1:]), np.uint8)
            pixels = np.concatenate([pixels, rest])
        if self._compiled is None:
            with self._compiling:
                if self._compiled is None and self.error is None:
                    rows = self._compile(pixels)
                    if rows is not None:
                        return rows[:count]
        compiled = self._compiled
        if compiled is None:
            return self._rows(pixels[:count], self._features)
        return self._rows(pixels, compiled)[:count]

    def _compile(self, pixels: UInt8) -> Float32 | None:
        """The rows of the first batch; None where it cannot be compiled."""
        import torch

        try:
            with _quiet():
                compiled = torch.compile(self._features, backend=self._backend, dynamic=False)
                rows = self._rows(pixels, compiled)
        except Exception as error:  # no compiler here, a layer that it does not know, ...
            self.error = one_line(_innermost(error))
            return None
        self._compiled = compiled
        return rows


def _innermost(error: Exception) -> Exception:
    """What torch's own errors about a compiler are wrapped around."""
    while True:
        inner = getattr(error, "inner_exception", None) or error.__cause__
        if not isinstance(inner, Exception):
            return error
        error = inner


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep a compiler's remarks about this machine off a user's terminal."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
