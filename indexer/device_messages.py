"""What is said over the pipes between an index run and its processes, one for each device.

A message is a length (8 bytes, little-endian) and a pickled pair. Both ends are this program,
started by this program: nothing else can write there.
"""

from __future__ import annotations

import pickle
import struct
from typing import IO, Any

_LENGTH = struct.Struct("<Q")

READY = "ready"
"""From the process, with None: it takes tasks now."""
PROGRESS = "progress"
"""From the process: (number of the task, images that are done)."""
SUMS = "sums"
"""From the process, before the result: (number of the task, its ``StageSums``)."""
RESULT = "result"
"""From the process: (number of the task, what the function returned)."""
ERROR = "error"
"""From the process: (number of the task, the exception)."""
FUNCTION = "function"
"""To the process, first: the function, as a module's."""
TASK = "task"
"""To the process: (number, task)."""

Message = tuple[str, Any]


def write_message(stream: IO[bytes], message: Message) -> None:
    """Write one message and flush. Raises OSError when nobody reads any more."""
    data = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def read_message(stream: IO[bytes]) -> Message | None:
    """The next message; None where the stream ends, within a message or between two."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        return None
    message: Message = pickle.loads(data)  # noqa: S301  of our own process
    return message
