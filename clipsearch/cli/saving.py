"""What a command says where it may not save in an index."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from clipsearch.errors import OptionError


@contextlib.contextmanager
def saving_allowed(index: Path) -> Iterator[None]:
    """Raise OptionError where the system forbids to write to the index's label sets."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise OptionError(f"no permission to save a label set in the index at {index}") from None
