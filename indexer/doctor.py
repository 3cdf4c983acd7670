"""Check what clipsearch needs on this machine, however broken it is: every check is guarded."""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from clipsearch import __version__
from clipsearch.file_kinds import RAW_CURE

OK = "ok"
WARNING = "warning"
PROBLEM = "problem"

REQUIREMENTS = (
    "argon2-cffi>=23.1",
    "click>=8.5",
    "faiss-cpu>=1.12",
    "filelock>=3.16",
    "ftfy>=6.1",
    "gradio>=6,<7",
    "jinja2>=3.1",
    "numpy>=2.0",
    "open_clip_torch>=3.2",
    "pillow>=12,<13",
    "pillow-heif>=1.0",
    "platformdirs>=4.2",
    "pyarrow>=18",
    "regex>=2023.0",
    "safetensors>=0.4",
    "scikit-learn>=1.5",
    "threadpoolctl>=3.5",
    "torch>=2.15",
    "tqdm>=4.66",
    "watchfiles>=1.0",
)
"""What pyproject.toml asks for: a checkout that was never installed has no other record."""

_EXTRAS = {
    "transformers>=4.50": "only the multilingual model needs it",
    "sentencepiece>=0.2": "only the multilingual model needs it",
    "onnx>=1.18": "only --backend onnx needs it (pip install 'clipsearch[onnx]')",
    "onnxruntime>=1.22": "only --backend onnx needs it (pip install 'clipsearch[onnx]')",
    "onnxscript>=0.5": "only --backend onnx needs it (pip install 'clipsearch[onnx]')",
    "textual-image>=0.8": "only --preview needs it (pip install 'clipsearch[preview]')",
    "openTSNE>=1.0.2": "only --plot needs it (pip install 'clipsearch[map]')",
    "rawpy>=0.25": f"only RAW photos of cameras need it ({RAW_CURE})",
}
_PYTHON = (3, 11)
_LITTLE_ROOM, _NO_ROOM = 1e9, 50e6
_IMPORT_SECONDS = 120
_DEVICES = "from clipsearch.open_clip_encoder import devices; print(json.dumps(devices()))"
_FAISS = (
    "import numpy as np; from clipsearch.faiss_index import FaissIndex; "
    "rows = np.repeat(np.eye(8, dtype=np.float32), 4, axis=0); index = FaissIndex.train(rows, 32); "
    "index.add(np.arange(32), rows); found = index.nominate(rows[9], 4, 1)[1]; "
    "print(json.dumps(sorted(found.tolist()) == [8, 9, 10, 11]))"
)
_IMAGES = (
    "import pyarrow.parquet; from clipsearch.images import read_image; from PIL import features; "
    "print(json.dumps([name for name in ('jpg', 'zlib', 'webp') if not features.check(name)]))"
)


@dataclass(frozen=True)
class Check:
    """What one look found. state : OK, WARNING or PROBLEM. cure : "" when all is well."""

    state: str
    name: str
    message: str
    cure: str = ""


def guarded(name: str, look: Callable[[], Iterator[Check]]) -> list[Check]:
    """What ``look`` finds; whatever it raises is itself a finding."""
    found: list[Check] = []
    try:
        found.extend(look())
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an import may even end in SystemExit
        found.append(Check(PROBLEM, name, _one_line(error), "see what this message names"))
    return found


def check_machine(cache: Path | None = None) -> list[Check]:
    """Python, packages, device, models, settings, and room for the cache.

    cache : the user's cache folder; None takes the system's place for it.
    """
    found = guarded("python", _python)
    for requirement in REQUIREMENTS:
        found += guarded(requirement, functools.partial(_package, requirement))
    for requirement, use in _EXTRAS.items():
        found += guarded(requirement, functools.partial(_extra, requirement, use))
    found += guarded("device", _device)
    found += guarded("faiss", _faiss)
    found += guarded("images", _images)
    found += guarded("models", _models)
    found += guarded("settings", _settings)
    found += guarded("cache", functools.partial(_cache, cache))
    return found


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _python() -> Iterator[Check]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] < _PYTHON:
        yield Check(PROBLEM, "python", found, "install Python 3.11 or newer")
    else:
        yield Check(OK, "python", found)
    yield Check(OK, "clipsearch", __version__)


def numbers_of(text: str) -> tuple[int, ...]:
    """ "2.15.0+cu128" -> (2, 15, 0), enough to compare versions by."""
    start = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, start[0].split("."))) if start else ()


def _package(requirement: str) -> Iterator[Check]:
    name = re.split(r"[<>=]", requirement, maxsplit=1)[0]
    cure = f'pip install "{requirement}"'
    try:
        here = version(name)
    except PackageNotFoundError:
        yield Check(PROBLEM, name, "is not installed", cure)
        return
    for sign, bound in re.findall(r"(>=|<)([\d.]+)", requirement):
        if (numbers_of(here) < numbers_of(bound)) == (sign == ">="):
            wanted = requirement.removeprefix(name)
            yield Check(PROBLEM, name, f"expected {wanted}, found {here}", cure)
            return
    yield Check(OK, name, here)


def _extra(requirement: str, use: str) -> Iterator[Check]:
    name = requirement.split(">")[0]
    try:
        version(name)
    except PackageNotFoundError:
        yield Check(OK, name, f"not installed; {use}")
        return
    yield from _package(requirement)


def _in_a_process(program: str) -> object:
    """What ``program`` prints as JSON, run by itself: a broken library may end its process."""
    folders = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import json; {program}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_IMPORT_SECONDS,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"the process ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def _device() -> Iterator[Check]:
    there = _in_a_process(_DEVICES)
    assert isinstance(there, list)
    if there == ["cpu"] and shutil.which("nvidia-smi"):
        yield Check(
            WARNING,
            "device",
            "cpu, although there is an NVIDIA driver",
            "install a torch with CUDA, see https://pytorch.org/get-started",
        )
    else:
        yield Check(OK, "device", ", ".join(map(str, there)))


def _faiss() -> Iterator[Check]:
    if _in_a_process(_FAISS) is True:
        yield Check(OK, "faiss", "finds what it should")
    else:
        yield Check(PROBLEM, "faiss", "finds the wrong vector", "pip install -U faiss-cpu")


def _images() -> Iterator[Check]:
    lacking = _in_a_process(_IMAGES)
    assert isinstance(lacking, list)
    if lacking:
        message = f"Pillow cannot read {', '.join(map(str, lacking))}"
        yield Check(WARNING, "images", message, "pip install --force-reinstall pillow")
    else:
        yield Check(OK, "images", "JPEG, PNG and WebP can be read")


def _models() -> Iterator[Check]:
    from clipsearch.model_names import weights_here
    from clipsearch.presets import BUILT_IN, PRESETS, RECOMMENDED

    here = [preset.name for preset in PRESETS if weights_here(preset.model) is not None]
    if BUILT_IN not in here:
        yield Check(
            PROBLEM,
            "models",
            f"the built-in model {BUILT_IN} is not whole",
            "install clipsearch anew",
        )
    if set(here) <= {BUILT_IN}:
        yield Check(
            WARNING,
            "models",
            f"only the weak built-in one ({BUILT_IN}) is here",
            f"clipsearch model get {RECOMMENDED}",
        )
    else:
        yield Check(OK, "models", f"here: {', '.join(here)}")


def _settings() -> Iterator[Check]:
    from clipsearch.cli.settings import config_path, default_map
    from clipsearch.errors import OptionError

    path = config_path()
    try:
        default_map()
    except OptionError as error:
        yield Check(PROBLEM, "settings", _one_line(error), f"mend or remove {path}")
        return
    yield Check(OK, "settings", str(path) if path.is_file() else f"none at {path}")
    named = sorted(name for name in os.environ if name.startswith("CLIPSEARCH_"))
    if named:
        yield Check(OK, "environment", ", ".join(named))


def _cache(folder: Path | None) -> Iterator[Check]:
    if folder is None:
        import platformdirs

        folder = Path(platformdirs.user_cache_dir("clipsearch", appauthor=False))
    yield from writable("cache", folder, WARNING, "without it every search encodes its words anew")
    yield from room("cache disk", folder)


def nearest_folder(path: Path) -> Path:
    """``path`` or the nearest folder above it that is there."""
    return next((place for place in (path, *path.parents) if place.is_dir()), Path(path.anchor))


def writable(name: str, folder: Path, state: str, otherwise: str) -> Iterator[Check]:
    """Whether a folder can be written to, or made; ``state`` and ``otherwise`` when not."""
    place = nearest_folder(folder)
    reason = ""
    if next((part for part in (folder, *folder.parents) if os.path.lexists(part)), place) != place:
        reason = "a file is in its way"
    elif not os.access(place, os.W_OK | os.X_OK):
        reason = "no permission to write there"
    if reason:
        yield Check(state, name, f"{folder}: {reason}; {otherwise}", f"see to {place}")
    else:
        yield Check(OK, name, str(folder))


def room(name: str, folder: Path) -> Iterator[Check]:
    """How much room is left where a folder is."""
    place = nearest_folder(folder)
    free = shutil.disk_usage(place).free
    message = f"{free / 1e9:,.1f} GB free at {place}"
    state = PROBLEM if free < _NO_ROOM else WARNING if free < _LITTLE_ROOM else OK
    yield Check(state, name, message, "make room" if state != OK else "")
