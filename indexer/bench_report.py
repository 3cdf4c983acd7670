"""What ``clipsearch bench`` measures, as numbers."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field

from clipsearch.admissions import processor
from clipsearch.backends import REFERENCE
from clipsearch.threads import worker_count


@dataclass(frozen=True)
class Machine:
    """What is measured. memory : bytes, None where the system does not tell."""

    processor: str
    cores: int
    memory: int | None
    device: str

    @property
    def device_name(self) -> str:
        """As ``load_encoder`` takes it: "cpu", "cuda:0"."""
        return self.device.split(" ")[0]


@dataclass(frozen=True)
class DecodeRate:
    """Images a second that ``workers`` processes decode. photos : their kind."""

    photos: str
    decode: str
    workers: int
    images_per_second: float


@dataclass(frozen=True)
class EncodeRate:
    """Images a second that ``streams`` calls at a time encode, each with ``threads`` threads
    (None: the back-end's own choice)."""

    backend: str
    batch_size: int
    streams: int
    threads: int | None
    images_per_second: float


@dataclass(frozen=True)
class IndexRate:
    """A run of indexing. limit : what decoding and encoding as measured alone allow."""

    photos: str
    decode: str
    backend: str
    images: int
    images_per_second: float
    limit: float


@dataclass(frozen=True)
class SearchRates:
    """On a made collection. classify : images a second by the number of labels."""

    vectors: int
    dim: int
    queries_per_second: float
    classify: dict[int, float]


@dataclass
class BenchReport:
    """What was measured so far.

    start_seconds : until the model was there. notes : why a back-end has no rate. drift : how near
    the others are to the reference, in words. strict : back-ends whose vectors are as good as the
    reference's. remembered : the back-end that "auto" takes from now on.
    """

    model: str
    machine: Machine
    start_seconds: float = 0.0
    decode: list[DecodeRate] = field(default_factory=list)
    encode: list[EncodeRate] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    drift: dict[str, str] = field(default_factory=dict)
    strict: list[str] = field(default_factory=lambda: [REFERENCE])
    remembered: str | None = None
    index: list[IndexRate] = field(default_factory=list)
    search: SearchRates | None = None
    seconds: float = 0.0

    def decoding(self, photos: str, decode: str) -> DecodeRate | None:
        """The highest rate of a kind of photos, whatever the number of processes."""
        found = [one for one in self.decode if (one.photos, one.decode) == (photos, decode)]
        return max(found, key=lambda one: one.images_per_second, default=None)

    def encoding(self, backend: str | None = None) -> EncodeRate | None:
        """The highest rate of a back-end; without one, of all whose vectors are as good as the
        reference's."""
        return self.fastest(self.strict if backend is None else [backend])

    def fastest(self, backends: Collection[str]) -> EncodeRate | None:
        """The highest rate of these back-ends."""
        found = [one for one in self.encode if one.backend in backends]
        return max(found, key=lambda one: one.images_per_second, default=None)

    def limit(self, photos: str, decode: str, backend: str | None = None) -> float | None:
        """Images a second that indexing cannot exceed: on a CPU decoding and encoding share the
        cores, beside a device the slower one counts."""
        decoding, encoding = self.decoding(photos, decode), self.encoding(backend)
        if decoding is None or encoding is None:
            return None
        d, e = decoding.images_per_second, encoding.images_per_second
        return 1 / (1 / d + 1 / e) if self.machine.device == "cpu" else min(d, e)


def machine_of(device: str) -> Machine:
    """This machine, with the device that a recipe names."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = None
    return Machine(processor("cpu"), worker_count(), memory, device)
