"""How an index is built: one frozen record, saved in the manifest and read back."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any

from clipsearch.errors import OptionError


@dataclass(frozen=True)
class IndexConfig:
    """Settings of an index. ``None`` means "decide on this machine".

    decode : "exact" follows the model's own preprocessing to the pixel; "fast" lets the JPEG
        decoder scale down first, several times quicker on camera photos.
    max_megapixels : larger images are skipped before they are decoded.
    exclude : glob patterns of names or relative paths that are not looked at.
    thumbnail_side : longest side in pixels of the thumbnails made while indexing.
    batch_size : images per call of the encoder. decode_threads : photos decoded at a time.
    decode_seconds : a photo whose decoding takes longer is skipped as damaged.
    shard_seconds : about how much work a shard holds, which is what a kill can cost.
    """

    decode: str = "exact"
    max_megapixels: float = 200.0
    exclude: tuple[str, ...] = ()
    thumbnail_side: int = 320
    batch_size: int = 32
    decode_threads: int | None = None
    shard_seconds: float = 45.0
    decode_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.decode not in ("exact", "fast"):
            raise OptionError(f"decode is 'exact' or 'fast', got {self.decode!r}")
        for name in (
            *("max_megapixels", "thumbnail_side", "batch_size"),
            *("shard_seconds", "decode_seconds"),
        ):
            if not 0 < getattr(self, name) < math.inf:  # which nan is not, either
                raise OptionError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        if self.decode_threads is not None and self.decode_threads < 1:
            raise OptionError(f"decode_threads must be 1 or more, got {self.decode_threads}")

    @property
    def threads(self) -> int:
        """Threads that read photos: as set, else what keeps an encoder fed on this machine."""
        return self.decode_threads or max(2, min(16, os.cpu_count() or 2))

    def to_dict(self) -> dict[str, Any]:
        """The settings as the manifest keeps them."""
        return {**dataclasses.asdict(self), "exclude": list(self.exclude)}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> IndexConfig:
        """The settings a manifest keeps; what it does not name takes its default."""
        known = {item.name for item in dataclasses.fields(cls)}
        values = {name: value for name, value in saved.items() if name in known}
        if "exclude" in values:
            values["exclude"] = tuple(values["exclude"])
        return cls(**values)
