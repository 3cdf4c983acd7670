"""Which back-end was measured fastest for a model on this machine, in the user's cache.

Whoever measures several (``clipsearch bench``) keeps the fastest here; ``--backend auto`` takes
it where it is admitted. What was measured with other software or on another processor is
forgotten.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from clipsearch.admissions import processor, software
from clipsearch.backends import BACKENDS
from clipsearch.store import make_folder, replace_file


def remember_fastest(model: str, device: str, backend: str, cache_dir: Path | None = None) -> None:
    """Keep that ``backend`` is the fastest for the model with this canonical name.

    device : "cpu", "cuda:0", as a recipe names it. Raises ValueError for no back-end's name. A
    cache that cannot be written is no error.
    """
    if backend not in BACKENDS:
        raise ValueError(f"expected one of {', '.join(BACKENDS)}, got {backend!r}")
    place = _file(cache_dir)
    known = _read(place)
    known[_key(model, device)] = {
        "backend": backend,
        "processor": processor(),
        "versions": software(),
    }
    with contextlib.suppress(OSError):
        make_folder(place.parent)
        replace_file(place, json.dumps(known, indent=1).encode())


def fastest_backend(model: str, device: str | None, cache_dir: Path | None = None) -> str | None:
    """The back-end that was measured fastest; None when none was, or not as things are now.

    device : as ``remember_fastest`` takes it, or "cuda" for the first one. None takes what was
    measured on the first GPU, and else on the CPU.
    """
    every = _read(_file(cache_dir))
    places = ("cuda:0", "mps", "cpu") if device is None else (device,)
    if device == "cuda":
        places = ("cuda:0",)
    known = next((found for place in places if (found := every.get(_key(model, place)))), None)
    if not isinstance(known, dict):
        return None
    is_current = known.get("processor") == processor() and known.get("versions") == software()
    backend = known.get("backend")
    return backend if is_current and backend in BACKENDS else None


def _key(model: str, device: str) -> str:
    return f"{device.split(' ')[0]} {model}"


def _file(cache_dir: Path | None) -> Path:
    if cache_dir is None:
        import platformdirs

        cache_dir = Path(platformdirs.user_cache_dir("clipsearch", appauthor=False))
    return cache_dir / "fastest-backends.json"


def _read(place: Path) -> dict[str, Any]:
    try:
        known = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
