"""Admissions that were measured on this machine, one small file each in the user's cache.

One counts while the model, the versions of what computes and the processor are those it was
measured with.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import secrets
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clipsearch.backends import REFERENCE, Admission, backend_of
from clipsearch.store import TEMPORARY_PREFIX, make_folder

_PACKAGES = ("open_clip_torch", "torch", "timm", "onnx", "onnxruntime")
_lock = threading.Lock()
_known: dict[tuple[Path, str], Admission] = {}  # for a process whose cache cannot be written


def admission_file(
    fingerprint: str, backend: str, device: str, cache_dir: Path | None = None
) -> Path:
    """Where the admission of a back-end for the space with this fingerprint is kept.

    cache_dir : the program's cache folder; None takes the system's.
    """
    if cache_dir is None:
        import platformdirs

        cache_dir = Path(platformdirs.user_cache_dir("clipsearch", appauthor=False))
    kind = "" if device == "cpu" else "-" + device.split(":")[0]
    return cache_dir / "admissions" / f"{fingerprint[:16]}-{backend}{kind}.json"


def read_admission(
    fingerprint: str, backend: str, device: str, cache_dir: Path | None = None
) -> Admission | None:
    """The admission that was measured with this very software and processor, else None."""
    place = admission_file(fingerprint, backend, device, cache_dir)
    with _lock:
        found = _known.get((place, fingerprint))
    if found is None:
        try:
            document = json.loads(place.read_text(encoding="utf-8"))
            if (document["fingerprint"], document["backend"]) != (fingerprint, backend):
                return None
            found = Admission.from_dict(document["admission"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
    is_current = dict(found.versions) == software() and found.processor == processor(device)
    if not is_current:
        return None
    with _lock:
        _known[place, fingerprint] = found
    return found


def keep_admission(
    fingerprint: str,
    backend: str,
    device: str,
    admission: Admission,
    cache_dir: Path | None = None,
) -> None:
    """Keep what was measured, for this process at least."""
    place = admission_file(fingerprint, backend, device, cache_dir)
    with _lock:
        _known[place, fingerprint] = admission
    document = {
        "fingerprint": fingerprint,
        "backend": backend,
        "admission": admission.to_dict(),
    }
    temporary = place.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
    with contextlib.suppress(OSError):  # else the next process measures again
        make_folder(place.parent)
        try:
            temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
            os.replace(temporary, place)
        finally:
            temporary.unlink(missing_ok=True)


def with_admission(recipe: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """A recipe with the admission of its back-end, where one was measured."""
    backend = backend_of(recipe)
    if backend in (None, REFERENCE):
        return recipe
    found = read_admission(fingerprint, backend or "", str(recipe["device"]))
    return recipe if found is None else {**recipe, "admission": found.to_dict()}


@functools.cache
def _software() -> tuple[tuple[str, str], ...]:
    found = []
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.append((package, version(package)))
    return tuple(found)


def software() -> dict[str, str]:
    """The versions of everything that may compute vectors here."""
    return dict(_software())


@functools.cache
def processor(device: str = "cpu") -> str:
    """The name of what computes: the processor's, or the device's as recipes tell it."""
    if device != "cpu":
        return device
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model", "CPU part")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
