"""Fixtures: real pictures, a real index made with the built-in model, the real command line.

Nothing here needs a network or the shared test material; tests that do ask for ``flickr``,
``caltech`` or ``photo1k`` and are skipped, with the reason, where it is not there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.image_bucket import image_bucket  # noqa: F401 (a fixture)
from tests.page_browser import browser, browser_page, page_server  # noqa: F401 (fixtures)
from tests.s3_server import _s3_server, bucket  # noqa: F401 (fixtures)

if os.environ.get("PYTEST_XDIST_WORKER"):
    # Several test processes share the processors: each, with those that it starts, takes its
    # part of them. Two times two threads on two processors take twice the processor time of
    # two times one, most of it in waiting. To be set before NumPy and torch are loaded.
    _WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, str(max(1, (os.cpu_count() or 1) // _WORKERS)))

pytest.register_assert_rewrite("tests.fault_runs")  # its asserts are to say what they compared

_PROJECT = Path(__file__).resolve().parents[1]
_SHARED = _PROJECT.parent / "shared"
_CACHE_HOMES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "LOCALAPPDATA", "APPDATA")


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep every test, and every process it starts, away from the user's own folders."""
    home = tmp_path_factory.mktemp("home")
    for name in _CACHE_HOMES:
        os.environ[name] = str(home / name.lower())
    for name in [name for name in os.environ if name.startswith("CLIPSEARCH_")]:
        del os.environ[name]


_HANDLERS = {
    getattr(signal, name): signal.getsignal(getattr(signal, name))
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
}


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """A command that is interrupted ignores further signals on its way out. One that ran in this
    process must not leave it so: every process started later would ignore them, too."""
    for number, handler in _HANDLERS.items():
        signal.signal(number, handler)
    yield
    for number, handler in _HANDLERS.items():
        signal.signal(number, handler)


def _shared(relative: str) -> Path:
    place = (_SHARED / relative).resolve()
    if not place.exists():
        pytest.skip(f"test material {relative} is not beside the project")
    return place


@pytest.fixture(scope="session")
def flickr() -> Path:
    """200 photos of about 500 px with captions.csv."""
    return _shared("photos/flickr")


@pytest.fixture(scope="session")
def caltech() -> Path:
    """Labelled photos: test/, support/ and train/, a folder a class."""
    return _shared("photos/caltech")


@pytest.fixture(scope="session")
def exif_photos() -> Path:
    """Camera files with EXIF."""
    return _shared("photos/exif")


@pytest.fixture(scope="session")
def photo1k() -> str:
    """A stronger model folder than mini."""
    return str(_shared("models/photo1k"))


@pytest.fixture(scope="session")
def _pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from indexer.demo import demo_pictures

    folder = tmp_path_factory.mktemp("pictures")
    for picture in demo_pictures():
        shutil.copyfile(picture, folder / picture.name)
    return folder


@pytest.fixture
def pictures(_pictures: Path, tmp_path: Path) -> Path:
    """A folder of the test's own with about ten real pictures (one of them twice)."""
    return Path(shutil.copytree(_pictures, tmp_path / "pictures"))


@pytest.fixture(scope="session")
def _built(_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from indexer import build_index

    place = tmp_path_factory.mktemp("built") / "pictures.index"
    build_index(_pictures, place, encoder="mini")
    return place


@pytest.fixture
def mini_index(_built: Path, tmp_path: Path) -> Path:
    """The index of those pictures, made with mini; the test may break its copy."""
    return Path(shutil.copytree(_built, tmp_path / "pictures.index"))


@pytest.fixture(scope="session")
def photo_library(_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of a few photos with dates, places and cameras (``tests.page_library``); not to
    be changed."""
    from tests.page_library import make_library

    return make_library(_pictures, tmp_path_factory.mktemp("library"))


Cli = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def cli_here(capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    """``cli`` without a process of its own: quicker, where nothing depends on one.

    It runs in the folder of the tests unless ``cwd`` says where.
    """
    from clipsearch.cli import run

    def run_here(
        *arguments: str | os.PathLike[str],
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        capfdbinary.readouterr()
        texts = [os.fspath(argument) for argument in arguments]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(cwd or Path.cwd())
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            code = run(texts)
        return subprocess.CompletedProcess(texts, code, *capfdbinary.readouterr())

    return run_here


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run the real command line: ``cli("search", "a cat", cwd=..., env={...})``.

    Its folders and cache are the test session's; standard input is empty, output is no
    terminal.
    """

    def run(
        *arguments: str | os.PathLike[str],
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[bytes]:
        program = "from clipsearch.cli import main; main()"
        path = os.pathsep.join([str(_PROJECT), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, "-c", program, *map(os.fspath, arguments)],
            cwd=cwd or tmp_path,
            env={**os.environ, "PYTHONPATH": path, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )

    return run
