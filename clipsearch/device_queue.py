"""How arrays get to a device, and the queue of work there that a thread has of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch

from clipsearch.encoder import UInt8

Tensor: TypeAlias = Any
"""A ``torch.Tensor``; torch has no types here."""

_local = threading.local()


def to_device(arrays: Sequence[UInt8], device: torch.device) -> list[Tensor]:
    """Each (h, w, 3) or (h, w) array as a (c, h, w) uint8 tensor on the device.

    To a CUDA device all of them go in one copy, out of pinned memory that the next call within
    ``own_stream`` takes again; it is not waited for.
    """
    if not arrays:
        return []
    if device.type != "cuda":
        flat = torch.empty(sum(array.size for array in arrays), dtype=torch.uint8)
        _fill(flat, arrays)
        return _parts(flat.to(device), arrays)
    queue: _Queue | None = getattr(_local, "queue", None)
    staging = _Staging() if queue is None else queue.staging
    return _parts(staging.send(arrays, device), arrays)


def _fill(flat: Tensor, arrays: Sequence[UInt8]) -> None:
    buffer = flat.numpy()
    start = 0
    for array in arrays:
        buffer[start : start + array.size] = array.reshape(-1)
        start += array.size


def _parts(flat: Tensor, arrays: Sequence[UInt8]) -> list[Tensor]:
    parts = torch.split(flat, [array.size for array in arrays])
    shapes = [(*array.shape[:2], -1) for array in arrays]
    return [part.view(shape).permute(2, 0, 1) for part, shape in zip(parts, shapes, strict=True)]


class _Staging:
    """Pinned memory, and when the last copy out of it is done."""

    def __init__(self) -> None:
        self._pinned = torch.empty(0, dtype=torch.uint8)
        self._copied: Any = None

    def send(self, arrays: Sequence[UInt8], device: torch.device) -> Tensor:
        size = sum(array.size for array in arrays)
        if self._copied is not None:
            self._copied.synchronize()
        if len(self._pinned) < size:
            # In steps, because pinning takes milliseconds.
            self._pinned = torch.empty(-(-size // (1 << 24)) << 24, dtype=torch.uint8).pin_memory()
        host = self._pinned[:size]
        _fill(host, arrays)
        there = host.to(device, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record(torch.cuda.current_stream(device))
        return there


class _Queue:
    """A stream of a device, with the pinned memory that feeds it."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.staging = _Staging()


_idle: dict[torch.device, list[_Queue]] = {}
_borrowing = threading.Lock()


@contextlib.contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """What this thread asks of a CUDA device within the block goes into a queue that no other
    thread uses meanwhile: copies of one run beside what another computes. Elsewhere it does
    nothing.

    Queues are used again, because each keeps device memory of its own. Results must be taken off
    the device (``.cpu()``) before the block ends.
    """
    if device.type != "cuda":
        yield
        return
    with _borrowing:
        free = _idle.setdefault(device, [])
        queue = free.pop() if free else None
    queue = queue or _Queue(device)
    # What is on its way there already, as a model's weights, comes first.
    queue.stream.wait_stream(torch.cuda.default_stream(device))
    before = getattr(_local, "queue", None)
    _local.queue = queue
    try:
        with torch.cuda.stream(queue.stream):
            yield
    finally:
        _local.queue = before
        with _borrowing:
            _idle[device].append(queue)
