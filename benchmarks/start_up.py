"""What does indexing do before it encodes the first image?

    python benchmarks/start_up.py [--runs 5] [--models mini ViT-B-32] [--work FOLDER]

Whole processes of ``clipsearch index`` on 40 made photos of 500 px, each stopped when the first
images that count are encoded: into a fresh index, and into one that lacks one new photo. What they
do is split by cause: each stage is timed from within, without the stages inside it. A name other
than ``mini`` is an architecture of open_clip, with random weights (``random_models.py``). Checksums
of weights are in the cache, as after the first run with a model. --project measures the code of
another checkout with the same script.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

_PROJECT = Path(__file__).resolve().parents[1]
_PHOTOS = 40
_STAGES = (  # module, what is called in it, the cause; what is not there is passed over
    ("indexer.build", "look", "look at the folder"),
    ("indexer.decode", "start_workers", "start decoder processes"),
    ("indexer.build", "choose_backend", "choose the back-end"),
    ("indexer.build", "estimate", "trial for the estimate"),
    ("indexer.estimate", "Estimator.estimate", "trial for the estimate"),
    ("clipsearch.open_clip_encoder", "find_model", "find the model's files"),
    ("open_clip", "create_model", "build the network"),
    ("open_clip", "load_checkpoint", "read the weights"),
    ("open_clip", "get_tokenizer", "tokenizer"),
    ("clipsearch.open_clip_encoder", "fingerprint", "fingerprint"),
)
_TRIALS = ("choose the back-end", "trial for the estimate")
_IMPORTS = {
    "torch": "import torch",
    "open_clip": "import open_clip",
    "clipsearch.open_clip_encoder": "import the encoder",
}


class Stages:
    """Seconds of ``clock`` by cause. A stage inside another one counts for itself alone. Of one
    thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}
        self._inside: list[float] = []

    def timed(self, cause: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose calls count for ``cause``."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*args, **kwargs)
            self._inside.append(0.0)
            begin = self.clock()
            try:
                return function(*args, **kwargs)
            finally:
                taken = self.clock() - begin
                inner = self._inside.pop()
                self.seconds[cause] = self.seconds.get(cause, 0.0) + taken - inner
                if self._inside:
                    self._inside[-1] += taken

        return call


class TimedImports(MetaPathFinder):
    """Counts the imports of ``_IMPORTS``; ``when_done`` is called after each."""

    def __init__(self, stages: Stages, when_done: Callable[[], None]) -> None:
        self._stages = stages
        self._when_done = when_done

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module's own spec, with a loader that is timed."""
        if name not in _IMPORTS:
            return None
        finders = [finder for finder in sys.meta_path if finder is not self]
        specs = (finder.find_spec(name, path, target) for finder in finders)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = self._stages.timed(_IMPORTS[name], spec.loader.exec_module)

            def exec_module(module: Any) -> None:
                execute(module)
                self._when_done()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def child(started: float, clock: str, out: Path, arguments: list[str]) -> None:
    """``clipsearch index`` in this process, up to its first images."""
    is_cpu = clock == "cpu"
    stages = Stages(time.process_time if is_cpu else time.perf_counter)
    stages.seconds["interpreter"] = time.process_time() if is_cpu else time.time() - started
    begin = stages.clock()

    def load(cause: str, *names: str) -> None:
        stages.timed(cause, lambda: [__import__(name) for name in names])()

    load("import click and the command", "clipsearch.cli", "indexer.command")
    load("import numpy, pyarrow and the engine", "numpy", "pyarrow", "indexer.build")
    is_trial = False

    def wrap() -> None:
        for module, path, cause in _STAGES:
            there: Any = sys.modules.get(module)
            *owners, name = path.split(".")
            for owner in owners:
                there = getattr(there, owner, None)
            function = getattr(there, name, None)
            if function is not None and not hasattr(function, "stage"):
                timed = stages.timed(cause, trial(function) if cause in _TRIALS else function)
                timed.stage = cause  # type: ignore[attr-defined]
                setattr(there, name, timed)
        encoder = getattr(sys.modules.get("clipsearch.open_clip_encoder"), "OpenClipEncoder", None)
        if encoder is not None and not hasattr(encoder.encode_images, "stage"):
            encode = encoder.encode_images

            def encode_images(self: Any, pixels: Any) -> Any:
                rows = encode(self, pixels)
                if not is_trial:
                    finish()
                return rows

            encode_images.stage = True  # type: ignore[attr-defined]
            encoder.encode_images = encode_images

    def trial(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal is_trial
            is_trial = True
            try:
                return function(*args, **kwargs)
            finally:
                is_trial = False

        return call

    def finish() -> None:
        whole = stages.clock() - begin + stages.seconds["interpreter"]
        rest = whole - sum(stages.seconds.values())
        stages.seconds["decode and encode the first batch, and the rest"] = rest
        stages.seconds["all"] = whole
        out.write_text(json.dumps(stages.seconds))
        os._exit(0)

    load("import numpy, pyarrow and the engine", "indexer.decode")
    sys.meta_path.insert(0, TimedImports(stages, wrap))
    wrap()
    from clipsearch.cli import run

    os._exit(run(arguments) or 1)


def measure(
    project: Path, photos: Path, index: Path, model: str, work: Path, clock: str
) -> dict[str, float]:
    """One process. Returns its seconds by cause."""
    out = work / "stages.json"
    out.unlink(missing_ok=True)
    home = str(work / "cache")
    names = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "LOCALAPPDATA")
    env = {**os.environ, "PYTHONPATH": str(project), **dict.fromkeys(names, home)}
    arguments = ["index", str(photos), "--index", str(index), "--model", model]
    command = [sys.executable, str(Path(__file__)), "--child", repr(time.time())]
    command += [clock, str(out)]
    done = subprocess.run([*command, *arguments], env=env, capture_output=True, text=True)
    if not out.is_file():
        raise RuntimeError(f"clipsearch index failed: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(out.read_text())
    return found


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(float(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5:])
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["mini", "ViT-B-32"], metavar="NAME")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keeps the random weights")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: of the first process alone"
    )
    parser.add_argument("--project", type=Path, default=_PROJECT)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work = (arguments.work or temporary).absolute()
        work.mkdir(exist_ok=True)
        photos = _make_photos(temporary)
        results = {}
        for name in arguments.models:
            model = name if name == "mini" else str(_random_model(work / name, name))
            results[name] = _both(arguments.project.absolute(), photos, model, work, arguments)
    for name, cases in results.items():
        print(f"\n{name}: milliseconds ({arguments.clock}), medians of {arguments.runs} processes")
        _table(cases)


def _both(
    project: Path, photos: Path, model: str, work: Path, arguments: argparse.Namespace
) -> dict[str, list[dict[str, float]]]:
    """Fresh indexes and one new photo, in turn, after one of each that does not count."""
    full = work / "full.index"
    shutil.rmtree(full, ignore_errors=True)
    home = str(work / "cache")
    env = {**os.environ, "PYTHONPATH": str(project), "XDG_CACHE_HOME": home}
    command = [sys.executable, "-c", "from clipsearch.cli import main; main()", "index"]
    command += [str(photos), "--index", str(full), "--model", model]
    # In the project, for -c looks for modules in the current folder first.
    subprocess.run(command, env=env, cwd=project, check=True, capture_output=True)
    found: dict[str, list[dict[str, float]]] = {"fresh index": [], "one new photo": []}
    fresh, again = work / "fresh.index", work / "again.index"
    for run in range(arguments.runs + 1):
        for place in (fresh, again):
            shutil.rmtree(place, ignore_errors=True)
        one = measure(project, photos, fresh, model, work, arguments.clock)
        shutil.copytree(full, again)
        extra = photos / "new.jpg"
        content = next(photos.glob("0*.jpg")).read_bytes()
        extra.write_bytes(content + b"new %d" % run)
        other = measure(project, photos, again, model, work, arguments.clock)
        extra.unlink()
        if run:
            found["fresh index"].append(one)
            found["one new photo"].append(other)
    for place in (full, fresh, again):
        shutil.rmtree(place, ignore_errors=True)
    return found


def _make_photos(folder: Path) -> Path:
    sys.path.insert(0, str(_PROJECT))
    from indexer.bench_photos import copies, make_photos

    (folder / "made").mkdir()
    copies(make_photos(folder / "made")[0], folder / "photos", _PHOTOS)
    return folder / "photos"


def _random_model(folder: Path, name: str) -> Path:
    from random_models import write_open_clip_folder

    return write_open_clip_folder(folder, name)


def _table(cases: dict[str, list[dict[str, float]]]) -> None:
    causes = list(dict.fromkeys(cause for runs in cases.values() for run in runs for cause in run))
    causes.sort(key=lambda cause: cause == "all")
    print(f"{'':52}" + "".join(f"{case:>16}" for case in cases))
    for cause in causes:
        values = [
            statistics.median(run.get(cause, 0.0) for run in runs) * 1000 for runs in cases.values()
        ]
        print(f"{cause:52}" + "".join(f"{value:>16,.0f}" for value in values))


if __name__ == "__main__":
    main()
