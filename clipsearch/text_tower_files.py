"""Text towers in the user's cache: what answers a text of one space without torch.

A tower is one safetensors file named by the space's fingerprint. It holds the tokenizer's tables
and says in which file the weights are: as a rule the model's own, which is mapped as it lies, so
that a tower is a third of a megabyte. Only weights that are not in a safetensors file of float32
or float16 are copied beside it.

Nothing here is trusted. A tower counts only while the weights' file is the one it was made from,
byte count and time of change, and while one text still gets the vector that torch gave it; it is
done without otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.clip_tokenizer import ClipTokenizer, TokenTable
from clipsearch.encoder import Float32, Space
from clipsearch.half import widen
from clipsearch.mapped_tensors import MappedTensors, map_tensors
from clipsearch.model_names import file_stamp
from clipsearch.store import TEMPORARY_PREFIX, make_folder, sync_folder
from clipsearch.text_tower import TextTower, TowerShape

SAME = 0.99999
"""Vectors of at least this cosine are the same vector."""
PROBE = "two dogs on a beach"
"""The text whose vector a tower brings along, as torch computed it."""
_FORMAT = 1
_TABLES = ("merges", "letters", "probe")
_SPARE_ROOM = 500_000_000  # bytes of disk that are left alone
_ABANDONED_SECONDS = 3600.0


@dataclass(frozen=True)
class Weights:
    """Where the weights of a tower are: in the tensors of the safetensors file ``path`` whose
    names begin with ``prefix``, as long as it has this size and time of change."""

    path: str
    size: int
    mtime_ns: int
    prefix: str


@dataclass(frozen=True)
class SavedTower:
    """A tower in the cache. model : the name its model was loaded by; None when it is damaged.
    has_copy : whether it holds a copy of the weights."""

    path: Path
    model: str | None
    bytes: int
    has_copy: bool


def towers_folder(cache_dir: Path | None = None) -> Path:
    """Where towers live. cache_dir : the program's cache folder; None takes the system's."""
    if cache_dir is None:
        import platformdirs

        cache_dir = Path(platformdirs.user_cache_dir("clipsearch", appauthor=False))
    return cache_dir / "text_towers"


def tower_file(fingerprint: str, cache_dir: Path | None = None) -> Path:
    """The file of the tower of the space with this fingerprint."""
    return towers_folder(cache_dir) / f"{fingerprint[:16]}.safetensors"


def open_text_tower(space: Space, cache_dir: Path | None = None) -> TextTower | None:
    """What encodes texts of ``space`` without torch; None where there is nothing sound."""
    try:
        tensors = map_tensors(tower_file(space.fingerprint, cache_dir))
        text = tensors.metadata["tower"]
        tables = [np.array(tensors.arrays[name]) for name in _TABLES]
        if int(tensors.metadata["seal"]) != _seal(text, tables):
            return None
        known = json.loads(text)
        if (known["format"], known["fingerprint"]) != (_FORMAT, space.fingerprint):
            return None
        tower = build_tower(
            space,
            TowerShape(**known["shape"]),
            TokenTable(tables[0], tables[1], **known["tokens"]),
            _weights(tensors, known["weights"]),
        )
        with np.errstate(all="ignore"):  # damaged numbers may be any
            again = tower.encode_texts([PROBE])[0]
    except Exception:  # whatever a damaged or foreign file brings about, torch does without it
        return None
    # Reads what any text reads but for the rows of its words: damage shows here.
    return tower if again.astype(np.float64) @ tables[2].astype(np.float64) >= SAME else None


def build_tower(
    space: Space, shape: TowerShape, table: TokenTable, weights: Mapping[str, Any]
) -> TextTower:
    """A tower of arrays by open_clip's names, float32 or float16; a table of words in float16
    is left as it is. Raises KeyError or ValueError for weights that do not fit."""
    wide = {
        name: array if name == "token_embedding.weight" else _as_float32(array)
        for name, array in weights.items()
    }
    return TextTower(space, shape, wide, ClipTokenizer(table), table.context_length)


def write_tower(
    space: Space,
    shape: TowerShape,
    table: TokenTable,
    weights: Weights | Mapping[str, Float32],
    probe: Float32,
    cache_dir: Path | None = None,
) -> None:
    """Write a tower, whole or not at all. weights : where they are, or what to copy.

    Raises OSError where there is no room or no right to write.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    place = tower_file(space.fingerprint, cache_dir)
    copied = {} if isinstance(weights, Weights) else {f"copy.{k}": v for k, v in weights.items()}
    room_for(place, sum(array.nbytes for array in copied.values()))
    tokens = {name: getattr(table, name) for name in ("start", "end", "context_length")}
    known = {
        "format": _FORMAT,
        "fingerprint": space.fingerprint,
        "model": space.model,
        "shape": asdict(shape),
        "tokens": tokens,
        "weights": asdict(weights) if isinstance(weights, Weights) else None,
    }
    text = json.dumps(known)
    tables = [table.merges, table.letters, np.ascontiguousarray(probe, np.float32)]
    tensors = {**dict(zip(_TABLES, tables, strict=True)), **copied}
    temporary = place.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
    try:
        save_file(tensors, temporary, {"tower": text, "seal": str(_seal(text, tables))})
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, place)
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(f"cannot write {temporary}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_folder(place.parent)


def room_for(place: Path, count: int) -> None:
    """Make the folder of ``place``, take away what killed processes left in it, and see whether
    ``count`` bytes may be written there. Raises OSError."""
    make_folder(place.parent)
    for left in place.parent.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                left.unlink()
    if not os.access(place.parent, os.W_OK):
        raise PermissionError(f"cannot write to {place.parent}")
    if count and shutil.disk_usage(place.parent).free < count + _SPARE_ROOM:
        raise OSError(f"no room for {count} bytes in {place.parent}")


def saved_towers(cache_dir: Path | None = None) -> list[SavedTower]:
    """The towers in the cache, by the names of their models."""
    found = []
    for path in towers_folder(cache_dir).glob("*.safetensors"):
        model, has_copy = None, False
        try:
            size = path.stat().st_size
        except OSError:
            continue
        with contextlib.suppress(Exception):
            known = json.loads(map_tensors(path).metadata["tower"])
            model, has_copy = str(known["model"]), known["weights"] is None
        found.append(SavedTower(path, model, size, has_copy))
    return sorted(found, key=lambda tower: (tower.model or "", tower.path.name))


def forget_towers(model: str | None, cache_dir: Path | None = None) -> list[SavedTower]:
    """Remove the towers of a model, by its name or by the name of the tower's file; None removes
    all. Returns those removed. Raises OSError for one that cannot be."""
    gone = []
    for tower in saved_towers(cache_dir):
        if model in (None, tower.model, tower.path.name):
            tower.path.unlink(missing_ok=True)
            gone.append(tower)
    return gone


def _weights(tensors: MappedTensors, where: dict[str, Any] | None) -> dict[str, Any]:
    if where is None:
        return _named(tensors.arrays, "copy.")
    place = Weights(**where)
    if file_stamp(Path(place.path)) != (place.path, place.size, place.mtime_ns):
        raise ValueError(f"{place.path} is another file now")
    return _named(map_tensors(place.path).arrays, place.prefix)


def _named(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _as_float32(array: Any) -> Any:
    if array.dtype != np.float16:
        return array
    return widen(array) if array.ndim == 2 else array.astype(np.float32)


def _seal(text: str, tables: list[Any]) -> int:
    seal = zlib.crc32(text.encode())
    for table in tables:
        seal = zlib.crc32(np.ascontiguousarray(table).tobytes(), seal)
    return seal
