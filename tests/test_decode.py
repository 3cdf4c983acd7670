"""Decoding in other processes: the same images, and what a crash or a hang costs."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipsearch.encoder import ImageGeometry
from clipsearch.errors import ClipsearchError, ImageError, OptionError
from clipsearch.images import DecodedImage, decode_image, read_image
from clipsearch.photo_metadata import PhotoMetadata
from indexer import decode_pool
from indexer.config import IndexConfig
from indexer.decode import (
    FilePart,
    Source,
    close_workers,
    decode_in_order,
    start_workers,
)
from indexer.decode_messages import (
    DecodeOptions,
    image_message,
    read_answer,
    read_message,
    request_message,
    write_message,
)
from indexer.worker_process import WorkerProcess

_PROJECT = Path(__file__).resolve().parents[1]
SQUARE = ImageGeometry(32, 32)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
on_linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
on_posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

# Loaded by every Python that starts with its folder on PYTHONPATH, and so by the workers: a
# JPEG that holds one of these words does to its decoder what damaged files do to real ones.
_BAD_DECODER = """
import ctypes, os, signal, sys, time
from PIL import JpegImagePlugin

print("a sitecustomize that prints", flush=True)
opened = JpegImagePlugin.jpeg_factory
if "SHORT_ALARM" in os.environ:
    alarm = signal.alarm
    signal.alarm = lambda seconds: alarm(min(seconds, 3))

def jpeg_factory(stream, *rest):
    data = stream.getvalue()
    if b"CRASH" in data:
        ctypes.string_at(0)
    if b"ABORT" in data:
        os.abort()
    if b"EXIT3" in data:
        os._exit(3)
    if b"PRINT" in data:
        os.write(1, b"noise of a C library")
        ctypes.CDLL(None).puts(b"more of it")
        ctypes.CDLL(None).fflush(None)
    if b"TERMINATE" in data:
        os.kill(os.getpid(), signal.SIGTERM)
    if b"KILLONCE" in data:
        name = data[data.rindex(b"KILLONCE") + 8 : -2].decode()
        if not os.path.exists(name):
            open(name, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
    if b"SLOW" in data:
        open(os.environ["HANGING"], "w").close()
        for _ in range(100):
            time.sleep(0.02)
    if b"HANG" in data:
        with open(os.environ["HANGING"], "a") as file:
            print(os.getpid(), file=file)
        while True:
            time.sleep(1000)
    return opened(stream, *rest)

JpegImagePlugin.jpeg_factory = jpeg_factory
"""


def decoded(sources: Iterable[Source], **options: Any) -> Iterator[DecodedImage | ImageError]:
    return decode_in_order(
        sources,
        options.pop("geometry", SQUARE),
        **{
            "decode": "exact",
            "max_megapixels": 200.0,
            "thumbnail_side": 64,
            "threads": 2,
            "look_ahead": 4,
            **options,
        },
    )


def photo(path: Path, seed: int, mark: str = "") -> Path:
    """A JPEG unlike the others, with ``mark`` at its very end, where a real decoder passes it."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((120, 90)).save(path, "JPEG")
    if mark:
        path.write_bytes(path.read_bytes()[:-2] + mark.encode() + b"\xff\xd9")
    return path


def assert_same(one: DecodedImage | ImageError, other: DecodedImage) -> None:
    assert isinstance(one, DecodedImage), one
    assert one.pixels.dtype == np.uint8
    assert one.pixels.shape == other.pixels.shape
    assert (one.pixels == other.pixels).all()
    assert (one.sha256, one.size, one.thumbnail) == (other.sha256, other.size, other.thumbnail)
    # The text tells 1 from 1.0 and -0.0 from 0.0, and lists the EXIF tags in order.
    assert repr(one.metadata) == repr(other.metadata)


def worker_ids() -> list[int]:
    return [worker._process.pid for worker in decode_pool._POOL._idle]


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # ended, and whoever inherited it has not looked yet


def waits_for(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def bad_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Workers with the decoder above; the path of the list of those that hang."""
    folder = tmp_path / "bad decoder"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_BAD_DECODER)
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(_PROJECT), inherited]))
    monkeypatch.setenv("HANGING", str(tmp_path / "hanging"))
    close_workers()
    yield tmp_path / "hanging"
    close_workers()


# -- the same images -------------------------------------------------------------------------


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_images_are_those_of_this_process(pictures: Path, exif_photos: Path, decode: str) -> None:
    paths = [str(path) for path in sorted(pictures.iterdir())]
    paths += [str(path) for path in sorted(exif_photos.rglob("*")) if path.is_file()]
    options: dict[str, Any] = {"decode": decode, "max_megapixels": 200.0, "thumbnail_side": 320}
    good = 0
    for path, image in zip(paths, decoded(paths, **options), strict=True):
        if isinstance(image, ImageError):
            with pytest.raises(ImageError) as expected:
                read_image(path, SQUARE, **options)
            assert (image.reason, str(image)) == (expected.value.reason, str(expected.value))
            continue
        assert_same(image, read_image(path, SQUARE, **options))
        image.pixels[0, 0, 0] = 7  # as an array of one's own
        good += 1
    assert good > 10


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_by_path_part_and_bytes(tmp_path: Path, kind: str, mode: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / "x", kind)
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "archive").write_bytes(b"before" + data + b"after")
    part = FilePart(str(tmp_path / "archive"), 6, len(data))
    for geometry in (SQUARE, ImageGeometry(20, 48, "longest", "bilinear", 9)):
        expected = decode_image(data, "x", geometry, thumbnail_side=None)
        sources = [str(tmp_path / "x"), part, data]
        images = list(decoded(sources, geometry=geometry, thumbnail_side=None))
        assert len(images) == 3
        for image in images:
            assert_same(image, expected)


def test_metadata_comes_back_to_the_bit() -> None:
    metadata = PhotoMetadata(
        format="JPEG",
        width=3,
        height=2,
        taken_at=datetime(2001, 2, 3, 4, 5, 6, 7),
        utc_offset_minutes=-90,
        lat=0.1 + 0.2,
        lon=-0.0,
        altitude=5e-324,
        keywords=("é", "\ud800", "\ud83d\ude00", "😀", "\x00\n"),
        description="\udcff",
        rating=-1,
        phash=2**64 - 1,
        exif={"z": "1", "a": "\udfff\ud800"},
    )
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    image = DecodedImage(pixels, bytes(range(32)), 2**40, b"", metadata)
    stream = io.BytesIO()
    write_message(stream, image_message(image))
    stream.seek(0)
    message = read_message(stream)
    assert message is not None
    again = read_answer(message)
    assert_same(again, image)
    for item in dataclasses.fields(metadata):
        value, expected = getattr(again.metadata, item.name), getattr(metadata, item.name)
        assert type(value) is type(expected)
        assert value == expected
    assert read_message(stream) is None
    for cut in (2, 30, len(stream.getvalue()) - 1):
        with pytest.raises(EOFError):
            read_message(io.BytesIO(stream.getvalue()[:cut]))


def test_errors_are_those_of_this_process(tmp_path: Path) -> None:
    good = photo(tmp_path / "good.jpg", 1).read_bytes()
    contents = {"empty": b"", "cut": good[:-500], "text": b"%PDF-1.4", "odd": b"\xff\xd8\xff" * 9}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in (*contents, "nowhere", ".")]
    reasons = set()
    for path, image in zip(paths, decoded(paths), strict=True):
        with pytest.raises(ImageError) as expected:
            read_image(path, SQUARE)
        assert isinstance(image, ImageError)
        assert (image.reason, str(image)) == (expected.value.reason, str(expected.value))
        reasons.add(image.reason)
    assert reasons >= {"empty", "truncated", "unsupported", "vanished", "unreadable"}
    (too_large,) = decoded([str(tmp_path / "good.jpg")], max_megapixels=0.001)
    assert isinstance(too_large, ImageError)
    assert too_large.reason == "too_large"
    with pytest.raises(OptionError, match="'quick'"):
        list(decoded([str(tmp_path / "good.jpg")], decode="quick"))


def test_parts_that_are_not_there(tmp_path: Path) -> None:
    data = photo(tmp_path / "archive", 1).read_bytes()
    archive = str(tmp_path / "archive")
    parts = [
        FilePart(archive, 0, len(data) + 1),
        FilePart(archive, len(data) + 10, 5),
        FilePart(archive, 0, 2**50),
        FilePart(archive, -1, 5),
        FilePart(archive, 0, -1),
        FilePart(str(tmp_path / "nowhere"), 0, 5),
        FilePart(str(tmp_path), 0, 5),
        FilePart(archive, 0, 0),
    ]
    errors = list(decoded(parts))
    reasons = [error.reason for error in errors if isinstance(error, ImageError)]
    assert reasons == [
        *("truncated", "truncated", "too_large", "unreadable", "unreadable"),
        *("vanished", "unreadable", "empty"),
    ]


def test_a_relative_path_means_the_folder_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        photo(tmp_path / name / "x.jpg", number)
        monkeypatch.chdir(tmp_path / name)  # the workers were started elsewhere
        (image,) = decoded(["x.jpg"])
        assert_same(image, read_image("x.jpg", SQUARE, thumbnail_side=64))


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.jpg")
    Path(os.fsdecode(path)).write_bytes(photo(tmp_path / "x.jpg", 1).read_bytes())
    (image,) = decoded([os.fsdecode(path)])
    assert_same(image, read_image(path, SQUARE, thumbnail_side=64))


# -- order and look-ahead --------------------------------------------------------------------


def test_sources_are_taken_only_as_far_ahead_as_allowed(tmp_path: Path) -> None:
    data = [photo(tmp_path / f"{i}.jpg", i).read_bytes() for i in range(12)]
    taken: list[int] = []

    def sources() -> Iterator[bytes]:
        for number, content in enumerate(data):
            taken.append(number)
            yield content

    images = decoded(sources(), look_ahead=3)
    assert taken == []
    for number in range(12):
        image = next(images)
        time.sleep(0.02)
        assert len(taken) == min(number + 3, 12)
        assert isinstance(image, DecodedImage)
        assert image.sha256 == decode_image(data[number], "", SQUARE).sha256
    assert next(images, None) is None


def test_sources_that_fail_and_callers_that_stop(tmp_path: Path) -> None:
    def sources() -> Iterator[str]:
        yield str(photo(tmp_path / "x.jpg", 1))
        raise LookupError("no more")

    with pytest.raises(LookupError):
        list(decoded(sources()))
    images = decoded([str(tmp_path / "x.jpg")] * 50)
    next(images)
    images.close()  # type: ignore[attr-defined]
    assert len(list(decoded([str(tmp_path / "x.jpg")] * 5))) == 5


def test_workers_are_kept_for_the_next_shard(tmp_path: Path) -> None:
    paths = [str(photo(tmp_path / f"{i}.jpg", i)) for i in range(6)]
    close_workers()
    start_workers(2)
    before = worker_ids()
    assert len(before) == 2
    for _ in range(2):
        assert len(list(decoded(paths))) == 6
    assert sorted(worker_ids()) == sorted(before)
    close_workers()
    assert worker_ids() == []


# -- crashes and hangs -----------------------------------------------------------------------


def _with_one_bad(tmp_path: Path, mark: str) -> list[str]:
    return [str(photo(tmp_path / f"{i:02}.jpg", i, mark if i == 10 else "")) for i in range(21)]


def _check_the_good(paths: list[str], images: list[DecodedImage | ImageError]) -> None:
    assert len(images) == len(paths) == 21
    for number, (path, image) in enumerate(zip(paths, images, strict=True)):
        if number != 10:
            assert_same(image, read_image(path, SQUARE, thumbnail_side=64))


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process as Linux tells it")
def test_a_worker_does_not_keep_the_memory_of_a_huge_picture(tmp_path: Path) -> None:
    sizes = [(9000, 7000), (1500, 1000)]
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (200, 90, number)).save(tmp_path / f"{number}.jpg")
    worker = WorkerProcess()
    try:
        options = DecodeOptions(ImageGeometry(32, 32), "exact", 200.0, 320, 60.0)
        for number in (0, 0, 0, 1):
            source = str(tmp_path / f"{number}.jpg")
            assert "image" in worker.ask(request_message(source, options), 60.0).header
        status = Path(f"/proc/{worker._process.pid}/status").read_text()
        (anonymous,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
        assert int(anonymous.split()[1]) < 150_000  # kB; the picture alone is 252,000
    finally:
        worker.close()


@on_posix
@pytest.mark.parametrize(
    ("mark", "how"),
    [("CRASH", "signal SIGSEGV"), ("ABORT", "signal SIGABRT"), ("EXIT3", "exit code 3")],
)
def test_a_crash_costs_one_file(bad_decoder: Path, tmp_path: Path, mark: str, how: str) -> None:
    paths = _with_one_bad(tmp_path, mark)
    images = list(decoded(paths))
    _check_the_good(paths, images)
    bad = images[10]
    assert isinstance(bad, ImageError)
    assert bad.reason == "corrupt"
    assert str(bad) == f"the decoder crashed on this file ({how})"


@on_posix
def test_a_hang_costs_one_file_and_its_time(bad_decoder: Path, tmp_path: Path) -> None:
    paths = _with_one_bad(tmp_path, "HANG")
    begin = time.monotonic()
    images = list(decoded(paths, seconds=1.5))
    assert 1.5 <= time.monotonic() - begin < 15
    _check_the_good(paths, images)
    bad = images[10]
    assert isinstance(bad, ImageError)
    assert bad.reason == "corrupt"
    assert str(bad) == "decoding took longer than 1.5 s"
    (pid,) = bad_decoder.read_text().split()  # once: a hang is not tried again
    assert is_gone(int(pid))


@pytest.mark.slow
@on_linux
def test_the_time_that_everything_stood_still_does_not_count(
    bad_decoder: Path, tmp_path: Path
) -> None:
    path = str(photo(tmp_path / "x.jpg", 1, "SLOW"))
    parent = subprocess.Popen(
        [sys.executable, "-c", _RUN.replace("look_ahead=4", "look_ahead=1, seconds=4"), path],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with parent:
        assert waits_for(bad_decoder.exists)
        os.killpg(parent.pid, signal.SIGSTOP)  # as Ctrl-Z does
        time.sleep(5)
        os.killpg(parent.pid, signal.SIGCONT)
        out, _ = parent.communicate(timeout=30)
    assert out.split()[-1:] == [b"DecodedImage"]


@on_posix
def test_a_worker_that_was_killed_once_is_not_the_file_s_fault(
    bad_decoder: Path, tmp_path: Path
) -> None:
    paths = _with_one_bad(tmp_path, f"KILLONCE{tmp_path / 'killed'}")
    images = list(decoded(paths))
    assert (tmp_path / "killed").exists()
    _check_the_good(paths, images)
    assert_same(images[10], read_image(paths[10], SQUARE, thumbnail_side=64))


@on_posix
def test_a_worker_that_is_ended_from_outside_blames_no_file(
    bad_decoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ClipsearchError, match="ended from outside") as caught:
        list(decoded([str(photo(tmp_path / "x.jpg", 1, "TERMINATE"))]))
    assert not isinstance(caught.value, ImageError)


@on_posix
def test_what_a_library_prints_comes_to_nobody(
    bad_decoder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(photo(tmp_path / "x.jpg", 1, "PRINT"))
    (image,) = decoded([path])
    assert_same(image, read_image(path, SQUARE, thumbnail_side=64))
    assert capfd.readouterr() == ("", "")


@on_posix
def test_stopping_does_not_wait_for_a_hang(bad_decoder: Path, tmp_path: Path) -> None:
    good, bad = photo(tmp_path / "a.jpg", 1), photo(tmp_path / "b.jpg", 2, "HANG")
    images = decoded([str(good), str(bad), str(good)], look_ahead=2)
    next(images)
    assert waits_for(bad_decoder.exists)
    begin = time.monotonic()
    images.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begin < 10


@on_linux
def test_no_pipe_and_no_process_is_left(bad_decoder: Path, tmp_path: Path) -> None:
    paths = _with_one_bad(tmp_path, "CRASH")

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    list(decoded(paths[:2]))
    close_workers()
    before = open_files()
    for _ in range(3):
        list(decoded(paths[9:12]))
    during = worker_ids()
    assert open_files() <= before + 2 * len(during)  # two pipes each
    close_workers()
    assert open_files() == before
    assert during
    assert all(is_gone(pid) for pid in during)


# -- the processes ---------------------------------------------------------------------------


def test_a_worker_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(photo(tmp_path / "x.jpg", 1))
    broken = tmp_path / "broken"
    (broken / "PIL").mkdir(parents=True)
    (broken / "PIL" / "__init__.py").write_text("raise ImportError('no jpeg here')")
    close_workers()
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(broken))
        with pytest.raises(ClipsearchError, match=r"cannot be started: .*no jpeg here") as caught:
            list(decoded([path]))
        assert not isinstance(caught.value, ImageError)
        assert "\n" not in str(caught.value)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "no python"))
        with pytest.raises(ClipsearchError, match="cannot be started"):
            list(decoded([path]))
    (image,) = decoded([path])
    assert isinstance(image, DecodedImage)


@on_linux
def test_workers_load_little(tmp_path: Path) -> None:
    list(decoded([str(photo(tmp_path / "x.jpg", 1))]))
    for pid in worker_ids():
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "_imaging" in maps  # Pillow is there
        assert not any(name in maps for name in ("libtorch", "arrow", "faiss"))


_RUN = """
import sys, time
from clipsearch.encoder import ImageGeometry
from indexer.decode import decode_in_order
paths = sys.argv[1:]
options = dict(decode="exact", max_megapixels=200.0, thumbnail_side=None)
images = decode_in_order(paths, ImageGeometry(8, 8), threads=2, look_ahead=4, **options)
first = next(images)
if len(paths) == 1:
    print(type(first).__name__, flush=True)
    sys.exit()
from indexer import decode_pool
pool = decode_pool._POOL
print(*[worker._process.pid for worker in [*pool._idle, *pool._busy]], flush=True)
"""


@on_linux
@pytest.mark.parametrize("mark", ["", "HANG"])
def test_workers_end_with_a_killed_parent(bad_decoder: Path, tmp_path: Path, mark: str) -> None:
    paths = [str(photo(tmp_path / "a.jpg", 1)), str(photo(tmp_path / "b.jpg", 2, mark))]
    parent = subprocess.Popen(
        # A worker that hangs cannot see that its parent is gone: the system's alarm ends it.
        [sys.executable, "-c", _RUN + "time.sleep(100)", *paths],
        stdout=subprocess.PIPE,
        env={**os.environ, "SHORT_ALARM": "1"},
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(word) for word in _last_line(parent.stdout).split()]
        assert pids
        if mark:
            assert waits_for(bad_decoder.exists)
            pids.append(int(bad_decoder.read_text().split()[0]))
        parent.kill()
    assert waits_for(lambda: all(is_gone(pid) for pid in pids))


def _last_line(stream: Any) -> str:
    line = stream.readline().decode()
    while not line.split() or not all(word.isdecimal() for word in line.split()):
        assert line
        line = stream.readline().decode()
    return str(line)


@on_linux
def test_ctrl_c_is_heard_by_the_parent_alone(tmp_path: Path) -> None:
    paths = [str(photo(tmp_path / f"{i}.jpg", i)) for i in range(5)]
    program = _RUN + (
        "try:\n    time.sleep(100)\nexcept KeyboardInterrupt:\n"
        "    print(sum(1 for image in images), flush=True)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, *paths],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(_PROJECT), "CLIPSEARCH_DEBUG": "1"},
        start_new_session=True,
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(word) for word in _last_line(parent.stdout).split()]
        time.sleep(0.2)
        os.killpg(parent.pid, signal.SIGINT)
        out, err = parent.communicate(timeout=30)
    assert (out.split(), err) == ([b"4"], b"")
    assert all(is_gone(pid) for pid in pids)


@pytest.mark.slow
def test_a_script_without_a_main_guard_among_strange_modules(
    pictures: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in ("json", "numpy", "PIL", "struct", "queue", "signal", "indexer", "clipsearch"):
        (here / f"{name}.py").write_text("raise SystemExit('a stranger was imported')")
    script = tmp_path / "script" / "build.py"
    script.parent.mkdir()
    script.write_text(
        "from indexer import build_index\n"
        f"report = build_index({str(pictures)!r}, 'x.index', encoder='mini')\n"
        "print(report.indexed, report.skipped)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(_PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    indexed, skipped = map(int, done.stdout.split())
    assert indexed > 5
    assert skipped == 0
    assert done.stderr == ""


def test_a_program_that_was_given_by_c(tmp_path: Path) -> None:
    """python -c and the prompt look in the current folder first; the workers do so last."""
    path = photo(tmp_path / "x.jpg", 1)
    (tmp_path / "statistics.py").write_text("")
    program = (
        "from indexer.worker_process import _search_path; import json; "
        "print(json.dumps(_search_path()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_PROJECT)},
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found[0] == str(_PROJECT)
    assert found[-1] == str(path.parent)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_workers_of_its_own(tmp_path: Path) -> None:
    paths = [str(photo(tmp_path / f"{i}.jpg", i)) for i in range(5)]
    program = _RUN + _FORK
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *paths],
        env={**os.environ, "PYTHONPATH": str(_PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    before, of_child, of_parent = (line.split() for line in done.stdout.splitlines())
    assert of_child[0] == "5"
    assert of_parent[0] == "9"
    assert of_parent[1:]
    assert of_child[1:]
    assert not {*of_child[1:]} & {*before, *of_parent[1:]}


_FORK = """
import os
child = os.fork()
if child:
    failed = os.waitpid(child, 0)[1]
    assert not failed
again = decode_in_order(paths, ImageGeometry(8, 8), threads=2, look_ahead=4, **options)
count = sum(1 for image in again)
if child:
    count += sum(1 for image in images)
print(count, *[worker._process.pid for worker in decode_pool._POOL._idle], flush=True)
"""


def test_seconds_are_checked_and_saved() -> None:
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(OptionError, match="decode_seconds"):
            IndexConfig(decode_seconds=wrong)
    assert IndexConfig.from_dict(IndexConfig(decode_seconds=7.0).to_dict()).decode_seconds == 7.0
    assert IndexConfig.from_dict({}).decode_seconds == 60.0
    assert IndexConfig().threads >= 2
