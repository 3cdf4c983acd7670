"""What runs on this machine were like, remembered in the user's cache.

``tuning.json`` holds, for a processor or device, a number of usable cores, a model and the
versions of what computes: the plan that a trial found best, how many images a call may have, and
the seconds an image took by kind of photo. And of a run that was cut short the plan it went by, by
the uuid of its index, so that the run that goes on with it makes the same vectors bit for bit.
Losing the file costs a trial.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsearch import __version__
from clipsearch.admissions import processor
from clipsearch.encoder import Encoder
from clipsearch.store import replace_file
from clipsearch.threads import worker_count
from indexer.encode_plan import EncodePlan

_FORMAT = 1
_MOST_THREADS = 4096  # more, or so many processes, nobody found best
_MOST = 64  # of machines and of runs: the least lately used one goes


def machine_key(encoder: Encoder) -> str:
    """Names what decides how fast ``encoder`` is here; it is the same for every run of it."""
    recipe = encoder.recipe
    versions = {name: str(told) for name, told in sorted(recipe.get("versions", {}).items())}
    parts = {
        "processor": processor(),
        "cores": worker_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "model": encoder.space.fingerprint,
        "versions": {**versions, "clipsearch": __version__},
        **{name: recipe.get(name) for name in ("device", "backend", "precision")},
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class PhotoKind:
    """Photos that take about as long: decoded alike, and of files of about the same size.

    how : the way they are decoded, and whatever else was asked for. octave : of their mean size,
    its power of two.
    """

    how: str
    octave: int

    @classmethod
    def of(cls, how: str, mean_bytes: float) -> PhotoKind:
        """The kind of photos whose files have so many bytes on average."""
        return cls(how, round(math.log2(max(mean_bytes, 1.0))))

    @property
    def near(self) -> tuple[str, ...]:
        """Its own name, and those of the kinds half and twice as large."""
        return tuple(f"{self.how} {self.octave + step}" for step in (0, -1, 1))


class TuningMemory:
    """Reads and writes ``tuning.json`` in ``folder``, by default clipsearch's in the user's
    cache. A file that is damaged, of another version or out of reach counts as empty, and what
    cannot be written is forgotten: nothing here raises."""

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            import platformdirs

            folder = Path(platformdirs.user_cache_dir("clipsearch", appauthor=False))
        self._file = folder / "tuning.json"

    def plan(self, key: str) -> EncodePlan | None:
        """The plan that a trial found best."""
        return _plan_of(self._entry("machines", key).get("plan"))

    def seconds(self, key: str, kind: PhotoKind) -> float | None:
        """What an image of this kind took, or of one near it, all stages together."""
        known = _object(self._entry("machines", key).get("seconds"))
        told = (_positive(known.get(name)) for name in kind.near)
        return next((seconds for seconds in told if seconds is not None), None)

    def most_at_a_time(self, key: str) -> int | None:
        """Images a call may have at most, so that it does not take too long."""
        most = self._entry("machines", key).get("most_at_a_time")
        return int(str(most)) if _is_count(most) else None

    def run(self, index_uuid: str, key: str) -> tuple[EncodePlan, int] | None:
        """The plan of the last run over this index if it was cut short, and how many files
        made a shard."""
        entry = self._entry("runs", index_uuid)
        plan, rows = _plan_of(entry.get("plan")), entry.get("rows")
        if plan is None or entry.get("key") != key or not _is_count(rows):
            return None
        return plan, int(str(rows))

    def backend(self, index_uuid: str) -> str | None:
        """The back-end of the last run over this index if it was cut short."""
        plan = _plan_of(self._entry("runs", index_uuid).get("plan"))
        return None if plan is None else plan.backend

    def keep_plan(self, key: str, plan: EncodePlan) -> None:
        """A trial found ``plan`` best."""
        self._change("machines", key, plan=dataclasses.asdict(plan))

    def keep_seconds(self, key: str, kind: PhotoKind, seconds: float) -> None:
        """An image of this kind took so long."""
        known = _object(self._entry("machines", key).get("seconds"))
        self._change("machines", key, seconds={**known, kind.near[0]: seconds})

    def keep_most_at_a_time(self, key: str, images: int) -> None:
        """A call of so many images takes as long as a call may."""
        self._change("machines", key, most_at_a_time=images)

    def begin_run(self, index_uuid: str, key: str, plan: EncodePlan, rows: int) -> None:
        """A run over this index begins."""
        self._change("runs", index_uuid, key=key, plan=dataclasses.asdict(plan), rows=rows)

    def end_run(self, index_uuid: str) -> None:
        """It came to its end."""
        document = self._read()
        if document["runs"].pop(index_uuid, None) is not None:
            self._write(document)

    def _entry(self, part: str, key: str) -> dict[str, Any]:
        return _object(self._read()[part].get(key))

    def _change(self, part: str, name: str, /, **values: Any) -> None:
        document = self._read()
        entries = document[part]
        entries[name] = {**_object(entries.pop(name, None)), **values, "used": time.time()}
        for old in list(entries)[:-_MOST]:  # in the order in which they were last written
            del entries[old]
        self._write(document)

    def _read(self) -> dict[str, Any]:
        try:
            document = json.loads(self._file.read_bytes())
        except (OSError, ValueError, RecursionError):
            document = None
        document = _object(document)
        if document.get("format") != _FORMAT:
            document = {}
        parts = {part: _object(document.get(part)) for part in ("machines", "runs")}
        return {"format": _FORMAT, **parts}

    def _write(self, document: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._file, (json.dumps(document, indent=1) + "\n").encode())


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _positive(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(str(value)) if is_number and 0 < float(str(value)) < math.inf else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20


def _plan_of(value: object) -> EncodePlan | None:
    """The plan that was saved so, of which only the counts are of use: the rest is a matter of
    the settings of a run. None for what is none."""
    saved = _object(value)
    counts = [saved.get(name) for name in ("batch_size", "streams", "workers")]
    threads = saved.get("threads")
    if not all(map(_is_count, counts)) or not (threads is None or _is_count(threads)):
        return None
    if any(int(str(count)) > _MOST_THREADS for count in (*counts[1:], threads or 1)):
        return None
    if not isinstance(saved.get("backend"), str):
        return None
    return EncodePlan(
        backend=saved["backend"],
        batch_size=saved["batch_size"],
        streams=saved["streams"],
        threads=threads,
        workers=saved["workers"],
    )
