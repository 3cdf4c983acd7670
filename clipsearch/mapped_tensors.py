"""Tensors of a safetensors file, mapped: what is not touched is not read.

The library of the format copies every tensor that it is asked for. A query wants a few rows of a
large table, and weights that other processes have in memory already.
"""

from __future__ import annotations

import json
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_LENGTH = struct.Struct("<Q")
_LONGEST_HEADER = 100_000_000  # what the format allows
_DTYPES = {"F32": "<f4", "F16": "<f2", "U16": "<u2"}


@dataclass(frozen=True)
class MappedTensors:
    """An open safetensors file.

    arrays : name -> read-only view of the mapped file, of the tensors that are float32, float16
    or uint16; others are left out. metadata : the text that the file was written with.
    """

    arrays: dict[str, npt.NDArray[Any]]
    metadata: dict[str, str]


def map_tensors(path: str | Path) -> MappedTensors:
    """Map a safetensors file. Raises OSError, and ValueError for one that is cut or damaged."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(_LENGTH.size)
        if len(start) < _LENGTH.size:
            raise ValueError(f"{path} is no safetensors file: it has {size} bytes")
        (length,) = _LENGTH.unpack(start)
        begin = _LENGTH.size + length
        if length > _LONGEST_HEADER or begin > size:
            raise ValueError(f"{path} is no safetensors file: its header would end at {begin}")
        try:
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", None) or {}
            places = {
                name: (_DTYPES[entry["dtype"]], tuple(entry["shape"]), *entry["data_offsets"])
                for name, entry in header.items()
                if entry["dtype"] in _DTYPES
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} has a damaged header: {error}") from error
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {}
    for name, (dtype, shape, first, last) in places.items():
        whole = (isinstance(number, int) and number >= 0 for number in (*shape, first, last))
        if not all(whole) or not first <= last <= size - begin:
            raise ValueError(f"{path} has a damaged header: {name} lies outside of the file")
        count = 1
        for side in shape:
            count *= side
        if count * np.dtype(dtype).itemsize != last - first:
            raise ValueError(f"{path} has a damaged header: {name} is not of its shape")
        arrays[name] = np.frombuffer(data, dtype, count, begin + first).reshape(shape)
    return MappedTensors(arrays, {str(key): str(value) for key, value in metadata.items()})
