"""Every error clipsearch raises on purpose.

A message is one line (or two): what was expected, what came, what to do. Only the command
line turns them into exit codes; a library user catches ``ClipsearchError``.

    ClipsearchError
    ├── SourceError          a folder of photos that is missing, empty or not a folder
    ├── ImageError           one image that cannot be taken; carries a machine-readable reason
    ├── IndexNotFoundError   no index where one was expected
    ├── IndexFormatError     an index that is damaged, foreign or of a newer format
    ├── IndexReadError       a file of the index that is there and cannot be read
    ├── IndexLockedError     another process is writing to this index
    │   └── IndexConflictError   another writer has committed to it meanwhile
    ├── RemoteError          object storage that cannot be reached, or is not as was asked
    │   └── RemoteAccessError    it does not know who asks, or forbids it
    ├── ModelError
    │   ├── UnknownModelError     no encoder has this name
    │   ├── ModelNotHereError     a known encoder whose weights are not on this machine
    │   ├── ModelNotChosenError   no model was named and none can be picked honestly
    │   └── ModelLoadError        a model folder or file that cannot be loaded
    ├── SpaceMismatchError   vectors of two different embedding spaces would have met
    ├── QueryError           a query that cannot be answered: empty, wrong size, not finite
    │   └── FilterError          a filter or a date that cannot be understood; says where
    ├── LabelError           a label set or template that cannot be used
    ├── ClusterError         a discovery or cluster that is not there, or cannot be changed so
    ├── TextCacheError       text vectors that were to be kept, and cannot be
    ├── OutOfMemoryError     too little memory for what was asked; names the cure
    ├── OptionError          a setting that makes no sense; names what is allowed
    ├── ExportError          an export that stopped, or a record of one that will not do
    ├── SidecarError         an XMP sidecar that cannot be added to without risk
    ├── RayClusterError      a Ray cluster that cannot be reached, or cannot do the work
    ├── VectorDatabaseError  a vector database that does not answer, or lacks this index
    └── MissingExtraError    an optional dependency is needed; prints its install line
"""

from __future__ import annotations


class ClipsearchError(Exception):
    """Base of all errors raised on purpose; ``str(error)`` is fit for a person to read."""


class SourceError(ClipsearchError):
    """A source of photos is missing, empty or not a folder."""


class ImageError(ClipsearchError):
    """One image cannot be taken.

    ``reason`` is one of ``corrupt``, ``truncated``, ``unsupported``, ``too_large``,
    ``unreadable``, ``vanished``, ``empty``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class IndexNotFoundError(ClipsearchError):
    """There is no index at the given place."""


class IndexFormatError(ClipsearchError):
    """The index is damaged, foreign, or written by a newer version."""


class IndexReadError(ClipsearchError):
    """A file of the index is there, and the system does not hand it out: no permission, a
    failing disk. That says nothing of what it holds."""


class IndexLockedError(ClipsearchError):
    """Another process is writing to this index."""


class IndexConflictError(IndexLockedError):
    """Another writer has committed to this index since it was read. Nothing of what it wrote is
    touched; what was to be committed here is not in the index."""


class RemoteError(ClipsearchError):
    """Object storage cannot be reached, or is not as was asked: no such bucket."""


class RemoteAccessError(RemoteError):
    """Object storage does not know who asks, or forbids what was asked."""


class ModelError(ClipsearchError):
    """Base of the errors about encoders."""


class UnknownModelError(ModelError):
    """No encoder has this name."""


class ModelNotHereError(ModelError):
    """The encoder is known but its weights are not on this machine."""


class ModelNotChosenError(ModelError):
    """No model was named and none is on this machine, so somebody has to choose."""


class ModelLoadError(ModelError):
    """A model's folder or file cannot be loaded."""


class SpaceMismatchError(ClipsearchError):
    """Vectors of two different embedding spaces would have met."""


class QueryError(ClipsearchError):
    """A query is empty, of the wrong size, or not finite."""


class FilterError(QueryError):
    """A filter, or a date in one, cannot be understood.

    ``position`` is the character of the filter's text, counted from 1, at which it went wrong;
    None where there is no text, or only a value.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(
            message if position is None else f"filter, character {position}: {message}"
        )
        self.position = position


class LabelError(ClipsearchError):
    """A label set or a template cannot be used."""


class ClusterError(ClipsearchError):
    """There is no such discovery or cluster, or it cannot be changed in this way."""


class TextCacheError(ClipsearchError):
    """Text vectors were to be kept, and their file cannot be written."""


class OutOfMemoryError(ClipsearchError):
    """There is too little memory to encode so many images at a time."""


class OptionError(ClipsearchError):
    """A setting makes no sense."""


class ExportError(ClipsearchError):
    """An export stopped half-way, or there is no such record of one."""


class ExportRecordError(ExportError):
    """The record of an export is damaged, so that it cannot be taken back."""


class SidecarError(ClipsearchError):
    """An XMP sidecar is no sound XMP, or holds its keywords in a form nobody reads."""


class RayClusterError(ClipsearchError):
    """A Ray cluster cannot be reached, has other versions, no room, or loses all its actors."""


class VectorDatabaseError(ClipsearchError):
    """A vector database does not answer, refuses, or does not hold this index."""


class MissingExtraError(ClipsearchError):
    """An optional dependency is needed."""
