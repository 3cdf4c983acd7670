"""Errors on their way from one process to another."""

from __future__ import annotations

import pickle

from clipsearch.errors import ClipsearchError


def sendable(error: BaseException) -> BaseException:
    """The error itself if it comes back from pickling as it was, else what it says."""
    try:
        again = pickle.loads(pickle.dumps(error))  # noqa: S301  its own bytes
    except Exception:  # an __init__ that takes other arguments
        again = None
    if isinstance(again, Exception) and str(again) == str(error):
        return error
    return ClipsearchError(f"{type(error).__name__}: {error}")
