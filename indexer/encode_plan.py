"""How images are encoded on this machine: how many at a time, by how many threads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from clipsearch.threads import worker_count
from indexer.config import IndexConfig

_CPU_BATCH = 32
_GPU_BATCH = 256
_MOST_STREAMS = 8
_GPU_STREAMS = 2  # one prepares its batch while the other's is computed
_MOST_CPU_WORKERS = 16
_MOST_GPU_WORKERS = 32


@dataclass(frozen=True)
class EncodePlan:
    """How one run encodes. Plans that are equal give equal vectors on the same machine.

    backend : the name of the back-end that encodes ("torch", never "auto").
    batch_size : images a call of the encoder, at most. streams : calls at a time.
    threads : processor threads of each call; None leaves it to the back-end.
    workers : processes that read and decode.
    resize, jpeg : "device" where pictures are resized, and ordinary JPEGs decoded, by the device
        that encodes (``device_decode``), else "host".
    compile : whether torch compiles the image tower for such batches.
    """

    backend: str
    batch_size: int
    streams: int
    threads: int | None
    workers: int
    resize: str = "host"
    jpeg: str = "host"
    compile: bool = False

    def batch_for(self, images: int) -> int:
        """Images a call where ``images`` make a shard: ``batch_size`` at most, and so many fewer
        that every stream gets as many calls. In whole batches the last ones would leave streams
        idle: all but one of them for a few new photos."""
        rounds = max(1, math.ceil(images / (self.streams * self.batch_size)))
        return max(1, math.ceil(images / (rounds * self.streams)))


def default_plan(config: IndexConfig, device: str, backend: str = "torch") -> EncodePlan:
    """The plan without any trial; what ``config`` sets is taken from there.

    device : as the encoder's recipe names it ("cpu", "cuda:0 NVIDIA L4", "mps").

    On a CPU several calls of one thread each beat one call of several threads: no thread waits
    at the end of every layer for another that the system has put aside for a decoder.
    """
    cores = worker_count()
    if device == "cpu":
        streams = min(cores, _MOST_STREAMS)
        batch_size, threads = _CPU_BATCH, cores // streams
        workers = max(2, min(_MOST_CPU_WORKERS, cores))
    else:
        streams, batch_size, threads = _GPU_STREAMS, _GPU_BATCH, None
        workers = max(2, min(_MOST_GPU_WORKERS, cores))
    # "exact" is Pillow's pixels to the bit, which a device's are not.
    is_on_device = device.startswith("cuda") and config.decode == "fast"
    return EncodePlan(
        backend=backend,
        batch_size=config.batch_size or batch_size,
        streams=streams,
        threads=threads,
        workers=config.decode_threads or workers,
        resize="device" if is_on_device else "host",
        jpeg="device" if is_on_device and _decodes_jpeg(device.split()[0]) else "host",
    )


def plan_of_each(plan: EncodePlan, processes: int) -> EncodePlan:
    """The plan of each of several processes, which share the processors that decode."""
    if processes == 1:
        return plan
    return replace(plan, workers=min(plan.workers, max(1, worker_count() // processes)))


def _decodes_jpeg(device: str) -> bool:
    from clipsearch.device_jpeg import decodes_jpeg  # imports torch

    return decodes_jpeg(device)
