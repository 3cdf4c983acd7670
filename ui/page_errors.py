"""What a browser is told when something cannot be done: one line, and no path in it.

Everything a person can mend by asking differently is a ``PageError`` or one of the errors of
``clipsearch.errors`` that speak of the question; everything else is told in general words here,
and in full on the operator's terminal.
"""

from __future__ import annotations

import re

from clipsearch.errors import (
    ClipsearchError,
    ClusterError,
    ImageError,
    IndexFormatError,
    IndexLockedError,
    IndexNotFoundError,
    IndexReadError,
    LabelError,
    MissingExtraError,
    ModelError,
    OptionError,
    QueryError,
    RemoteError,
    SpaceMismatchError,
    VectorDatabaseError,
)


class PageError(ClipsearchError):
    """A question that the page does not take. status : the HTTP status; the message is shown."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


INDEX_COMMAND = "clipsearch index FOLDER --index photos.index"
PAGE_COMMAND = "clipsearch ui photos.index"


class NoIndexError(PageError):
    """The page was started without an index, or it is gone."""

    def __init__(self) -> None:
        super().__init__(
            f"There is no index yet. Make one with: {INDEX_COMMAND}",
            status=409,
        )


_OF_THE_QUESTION = (QueryError, LabelError, ClusterError, OptionError, MissingExtraError)
_IN_GENERAL: tuple[tuple[type[Exception], str, int], ...] = (
    (IndexLockedError, "Another process is writing to the index: try again in a moment.", 409),
    (IndexNotFoundError, "The index is not there any more.", 409),
    (IndexFormatError, "The index is damaged: 'clipsearch verify' says how to mend it.", 500),
    (IndexReadError, "A file of the index cannot be read; the terminal says which.", 500),
    (SpaceMismatchError, "The model is not the one that the index was made with.", 500),
    (ModelError, "The model of the index cannot be loaded; the terminal says why.", 500),
    (RemoteError, "The object storage does not answer; the terminal says why.", 503),
    (VectorDatabaseError, "The vector database does not answer; the terminal says why.", 503),
    (ImageError, "This image cannot be read.", 400),
)


GENERAL = "Something went wrong here; the terminal of clipsearch ui says what."
"""Of an error that is told to the operator alone."""

_STATUS_WORDS = {
    400: "This question cannot be understood.",
    401: "Log in first.",
    403: "This is not allowed here.",
    404: "There is nothing at this address.",
    405: "This address does not take that kind of question.",
    408: "The question took too long to arrive.",
    413: "That is more than is taken here.",
    414: "The address is too long.",
    415: "This kind of file is not taken here.",
    422: "This question cannot be understood.",
    429: "Too many attempts: wait a little.",
    503: "Too much is being asked at once: try again in a moment.",
}

_QUOTED_PLACE = re.compile(r"""(['"`])(?:~?/|[A-Za-z]:[\\/]|\\\\)[^'"`]*?([^/\\'"`]*)[/\\]?\1""")
_PLACE = re.compile(
    r"""(?<![\w.:/\\])(?:~?/|[A-Za-z]:[\\/]|\\\\)(?:[^\s'"`/\\]+[/\\])+([^\s'"`/\\]*)"""
)


def without_places(message: str) -> str:
    """The message with every absolute path cut to its last part: what is called how may be told,
    not where it lies on the disk."""
    return _PLACE.sub(r"\1", _QUOTED_PLACE.sub(r"\1\2\1", message))


def status_message(status: int) -> str:
    """What an HTTP status means, in words for a person."""
    return _STATUS_WORDS.get(status, GENERAL if status >= 500 else _STATUS_WORDS[400])


def public_message(error: BaseException) -> tuple[str, int]:
    """What may be told of an error, and the HTTP status to tell it with."""
    if isinstance(error, PageError):
        return without_places(str(error)), error.status
    if isinstance(error, _OF_THE_QUESTION):
        return without_places(" ".join(str(error).split())), 400
    for kind, message, status in _IN_GENERAL:
        if isinstance(error, kind):
            return message, status
    return GENERAL, 500
