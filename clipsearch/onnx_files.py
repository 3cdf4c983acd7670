"""Image towers as ONNX files in the user's cache: made once, of the very weights in use.

Each is a folder named by the space's fingerprint and the precision, with the network, its
weights, and ``tower.json``: what it was made of and with, and the vector of one probe picture.
Nothing here is trusted. A tower counts only while the model's files are those it was made from
and the software is the same, and while the probe still gets its vector; it is made anew
otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.encoder import Float32, ImageGeometry, Space, UInt8
from clipsearch.model_names import CONFIG_FILE, file_stamp, folder_of, weights_here
from clipsearch.store import TEMPORARY_PREFIX, make_folder

NETWORK = "tower.onnx"
_RECORD = "tower.json"
_FORMAT = 1
_MADE_WITH = ("torch", "open_clip_torch", "timm", "onnx", "onnxscript", "onnxruntime")
_SPARE_ROOM = 500_000_000  # bytes of disk that are left alone
_ABANDONED_SECONDS = 3600.0


@dataclass(frozen=True)
class OnnxTower:
    """A tower in the cache. network : its file. files : the model's files as they were, each
    (path, bytes, time of change). probe : (dim,) float32, the vector of ``probe_pixels``."""

    network: Path
    space: Space
    files: tuple[tuple[str, int, int], ...]
    probe: Float32


@dataclass(frozen=True)
class SavedOnnxTower:
    """What the list of towers shows. model : None when its record is damaged."""

    path: Path
    model: str | None
    precision: str
    bytes: int


def towers_folder(cache_dir: Path | None = None) -> Path:
    """Where towers live. cache_dir : the program's cache folder; None takes the system's."""
    if cache_dir is None:
        import platformdirs

        cache_dir = Path(platformdirs.user_cache_dir("clipsearch", appauthor=False))
    return cache_dir / "onnx_towers"


def probe_pixels(geometry: ImageGeometry) -> UInt8:
    """(1, height, width, 3) uint8: a smooth picture with something in each part of it."""
    down, across = np.mgrid[0 : geometry.height, 0 : geometry.width].astype(np.float64)
    planes = [127 + 120 * np.sin(across / (7 + 5 * i) + down / (11 + 3 * i) + i) for i in range(3)]
    return np.stack(planes, axis=-1).astype(np.uint8)[None]


def model_files(space: Space, weights: Path) -> tuple[tuple[str, int, int], ...]:
    """The stamps of the files that decide what a model's image tower computes."""
    folder = folder_of(space.model)
    config = [] if folder is None else [folder / CONFIG_FILE]
    return tuple(file_stamp(path) for path in (weights, *config))


def find_tower(model: str, precision: str, cache_dir: Path | None = None) -> OnnxTower | None:
    """The tower of the model with this canonical name, if it is current. Imports no torch."""
    for record in sorted(towers_folder(cache_dir).glob(f"*-{precision}/{_RECORD}")):
        found = _read(record)
        if found is not None and found.space.model == model and is_current(found):
            return found
    return None


def write_tower(
    space: Space,
    precision: str,
    files: tuple[tuple[str, int, int], ...],
    needed: int,
    make: Callable[[Path], Float32],
    cache_dir: Path | None = None,
) -> OnnxTower:
    """Make a tower, whole or not at all.

    needed : bytes of disk it may take. make : writes the network into the folder it is given,
    as ``NETWORK``, and returns the vector of the probe. Raises OSError where there is no room or
    no right to write, and what ``make`` raises.
    """
    above = towers_folder(cache_dir)
    _room_for(above, needed)
    place = above / f"{space.fingerprint[:16]}-{precision}"
    temporary = above / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
    temporary.mkdir()
    try:
        probe = make(temporary)
        record = {
            "format": _FORMAT,
            "precision": precision,
            "space": asdict(space),
            "files": files,
            "made_with": _made_with(),
            "sizes": {path.name: path.stat().st_size for path in temporary.iterdir()},
            "probe": [float(number) for number in probe],
        }
        (temporary / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        for path in temporary.iterdir():
            with open(path, "r+b") as file:
                os.fsync(file.fileno())
        shutil.rmtree(place, ignore_errors=True)
        try:
            os.replace(temporary, place)
        except OSError:  # another process was quicker, or holds the old one open
            if _read(place / _RECORD) is None:
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = _read(place / _RECORD)
    if found is None:
        raise OSError(f"cannot read back what was written to {place}")
    return found


def saved_onnx_towers(cache_dir: Path | None = None) -> list[SavedOnnxTower]:
    """The towers in the cache, by the names of their models."""
    found = []
    for place in towers_folder(cache_dir).glob("*-*"):
        if place.name.startswith(TEMPORARY_PREFIX) or not place.is_dir():
            continue
        known = _read(place / _RECORD)
        size = sum(path.stat().st_size for path in place.iterdir())
        model = None if known is None else known.space.model
        found.append(SavedOnnxTower(place, model, place.name.rpartition("-")[2], size))
    return sorted(found, key=lambda tower: (tower.model or "", tower.path.name))


def forget_onnx_towers(model: str | None, cache_dir: Path | None = None) -> list[SavedOnnxTower]:
    """Remove the towers of a model, by its name or by that of the tower's folder; None removes
    all. Returns those removed. Raises OSError for one that cannot be."""
    gone = []
    for tower in saved_onnx_towers(cache_dir):
        if model in (None, tower.model, tower.path.name):
            shutil.rmtree(tower.path)
            gone.append(tower)
    return gone


def _read(record: Path) -> OnnxTower | None:
    """What a record tells, if its files are whole and the software is that it was made with."""
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["format"] != _FORMAT or known["made_with"] != _made_with():
            return None
        for name, size in known["sizes"].items():
            if (record.parent / name).stat().st_size != size:
                return None
        space = Space(**{**known["space"], "geometry": ImageGeometry(**known["space"]["geometry"])})
        files = tuple((str(path), int(size), int(mtime)) for path, size, mtime in known["files"])
        probe = np.array(known["probe"], np.float32)
        if not files or probe.shape != (space.dim,):
            return None
        return OnnxTower(record.parent / NETWORK, space, files, probe)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_current(tower: OnnxTower) -> bool:
    """Whether the model's files are as they were, and where its name leads to now."""
    try:
        if any(file_stamp(Path(path)) != (path, size, at) for path, size, at in tower.files):
            return False
        # Of a name that only open_clip's table resolves the files' stamps have to do: to read
        # that table costs the import of torch.
        needs_table = folder_of(tower.space.model) is None and ":" not in tower.space.model
        here = None if needs_table else weights_here(tower.space.model)
        return needs_table or (here is not None and str(here.resolve()) == tower.files[0][0])
    except OSError:
        return False


def _made_with() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for package in _MADE_WITH:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _room_for(folder: Path, count: int) -> None:
    make_folder(folder)
    for left in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"cannot write to {folder}")
    if shutil.disk_usage(folder).free < count + _SPARE_ROOM:
        raise OSError(f"no room for {count / 1e6:,.0f} MB in {folder}")
