"""How an index is built: one frozen record, saved in the manifest and read back."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from clipsearch.backends import BACKEND_CHOICES
from clipsearch.errors import OptionError
from clipsearch.threads import worker_count

_FORMER_BATCH = 32
"""Saved with every index, before batch sizes were tuned: not a wish of its user."""


@dataclass(frozen=True)
class IndexConfig:
    """Settings of an index. ``None`` means "decide on this machine".

    decode : "fast" lets the JPEG decoder scale large photos down first, three times quicker on
        camera photos, with vectors as good as the same (benchmarks/README.md); "exact" follows
        the model's own preprocessing to the pixel.
    max_megapixels : larger images are skipped before they are decoded.
    exclude : glob patterns of names or relative paths that are not looked at.
    thumbnail_side : longest side in pixels of the thumbnails made while indexing.
    batch_size : images per call of the encoder. decode_threads : photos decoded at a time.
    backend : what computes the vectors, "auto" for the best that this machine has.
    decode_seconds : a photo whose decoding takes longer is skipped as damaged.
    shard_seconds : about how much work a shard holds, which is what a kill can cost.
    """

    decode: str = "fast"
    max_megapixels: float = 200.0
    exclude: tuple[str, ...] = ()
    thumbnail_side: int = 320
    batch_size: int | None = None
    decode_threads: int | None = None
    shard_seconds: float = 45.0
    decode_seconds: float = 60.0
    backend: str = "auto"

    def __post_init__(self) -> None:
        if self.decode not in ("exact", "fast"):
            raise OptionError(f"decode is 'exact' or 'fast', got {self.decode!r}")
        for name in (
            *("max_megapixels", "thumbnail_side"),
            *("shard_seconds", "decode_seconds"),
        ):
            if not 0 < getattr(self, name) < math.inf:  # which nan is not, either
                raise OptionError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        for name in ("batch_size", "decode_threads"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise OptionError(f"{name} must be 1 or more, got {count}")
        if self.backend not in BACKEND_CHOICES:
            names = ", ".join(BACKEND_CHOICES)
            raise OptionError(f"backend is one of {names}, got {self.backend!r}")

    @property
    def threads(self) -> int:
        """Threads that read photos: as set, else what keeps an encoder fed on this machine."""
        return self.decode_threads or max(2, min(16, worker_count()))

    def to_dict(self) -> dict[str, Any]:
        """The settings as the manifest keeps them: without those that are None, which former
        versions of clipsearch do not understand."""
        values = {**dataclasses.asdict(self), "exclude": list(self.exclude)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> IndexConfig:
        """The settings a manifest keeps; what it does not name takes its default.

        saved : empty for a new index. One that is there was made exactly unless it says more.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        values = {name: value for name, value in saved.items() if name in known}
        if saved:
            values.setdefault("decode", "exact")
        if "exclude" in values:
            values["exclude"] = tuple(values["exclude"])
        if "backend" not in saved and values.get("batch_size") == _FORMER_BATCH:
            del values["batch_size"]
        return cls(**values)
