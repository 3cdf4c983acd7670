"""Files of tensors that a power cut or a full disk leaves whole or not there at all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipsearch.store import sync_folder

_SYSTEM_ERROR = re.compile(r"os error (\d+)")


def save_tensors(tensors: Mapping[str, Any], path: Path, about: Mapping[str, str]) -> None:
    """Write tensors as safetensors to ``path``, in place of what is there. about : text that goes
    with them. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    unfinished = path.with_suffix(".part")
    try:
        try:
            save_file(dict(tensors), unfinished, dict(about))
        except SafetensorError as error:  # what it makes of a full disk
            number = _SYSTEM_ERROR.search(str(error))
            if number is None:
                raise OSError(f"cannot write {path}: {error}") from error
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(path)) from error
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_folder(path.parent)
