"""What the C library does with memory that is freed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST = 32 * 1024 * 1024  # the highest bound that glibc takes
_KEPT = 256 * 1024 * 1024


@functools.cache
def keep_freed_memory() -> bool:
    """Have this process keep up to 256 MiB of what it frees; True where that could be set.

    glibc gives a large array back to the system as soon as it is freed, and the next one comes
    page by page, each filled with zeros. A network that runs over batch after batch spends a
    fifth of its time on that, a decoder of photos a twentieth. For a process of our own that
    does such work; other C libraries have other ways, and are left alone.
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _KEPT))


def give_back_memory() -> None:
    """Give what is kept back to the system all the same, after something unusually large."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


@functools.cache
def _function(name: str) -> Callable[..., int] | None:
    """A function of glibc; None where there is another C library."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):  # musl has none
        return None
    return found
