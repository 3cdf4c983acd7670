"""``clipsearch bench``: its table, its JSON, and what it leaves behind (nothing)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipsearch.backend_memory import fastest_backend
from clipsearch.encoder import load_encoder
from indexer import bench as bench_module
from indexer.bench_photos import BenchPhotos, copies, make_photos, photos_of
from indexer.bench_report import BenchReport, DecodeRate, EncodeRate, IndexRate, Machine
from indexer.bench_text import number, recommendation, sections
from indexer.tuning_memory import TuningMemory, machine_key
from tests.conftest import Cli

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered here, the indexes of other tests must not go by."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(tmp_path_factory.mktemp("cache")))
        yield


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in [folder, *folder.rglob("*")]
    }


def test_little_time_gives_the_whole_table_as_json(
    cli_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    done = cli_here("bench", "--model", "mini", "--seconds", "3", "--json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert not list(scratch.iterdir())
    found = json.loads(done.stdout)
    assert found["complete"] is True
    assert found["model"] == "mini"
    assert found["machine"]["device"] == "cpu"
    assert found["machine"]["cores"] >= 1
    decoded = {(one["photos"], one["decode"]) for one in found["decode"]}
    assert decoded == {
        (photos, decode) for photos in ("500 px", "12 MP") for decode in ("exact", "fast")
    }
    assert {one["workers"] for one in found["decode"]} >= {1}
    assert all(one["images_per_second"] > 0 for one in found["decode"] + found["encode"])
    backends = {one["backend"] for one in found["encode"]} | set(found["notes"])
    assert backends == {"torch", "torch-bf16", "torch-fp16", "onnx", "onnx-int8"}
    assert "torch" in {one["backend"] for one in found["encode"]}
    assert [one["photos"] for one in found["index"]] == ["500 px", "12 MP"]
    assert {one["decode"] for one in found["index"]} == {"fast"}  # as a new index
    assert all(one["images"] > 0 and one["limit"] > 0 for one in found["index"])
    assert found["remembered"] is None  # so little time says nothing for the future
    assert found["search"]["dim"] == 256
    assert set(found["search"]["classify"]) == {"10", "1000"}


def test_a_folder_of_photos_stays_as_it_is(cli_here: Cli, pictures: Path) -> None:
    before = _state(pictures)
    done = cli_here("bench", "--model", "mini", "--seconds", "2", "--photos", pictures)
    assert done.returncode == 0, done.stderr
    assert _state(pictures) == before
    assert not done.stderr
    text = done.stdout.decode()
    assert max(map(len, text.splitlines())) < 80
    for heading in ("Machine", "Decoding", "Encoding with mini", "Indexing, the whole way"):
        assert heading in text
    assert "yours" in text
    assert "your photos: --decode" in text
    assert "500 px" not in text


def test_enough_time_is_remembered_for_index(
    cli_here: Cli, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module, "_THOROUGH_SECONDS", 0.0)
    done = cli_here(
        *("bench", "--model", "mini", "--device", "cpu", "--seconds", "8", "--json"),
        *("--photos", pictures),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["remembered"] in found["strict"]
    assert fastest_backend("mini", "cpu") == found["remembered"]
    encoder = load_encoder("mini", device="cpu")
    plan = TuningMemory().plan(machine_key(encoder))
    rates = [one for one in found["encode"] if one["backend"] == "torch"]
    best = max(rates, key=lambda one: one["images_per_second"])
    assert plan is not None
    assert (plan.backend, plan.batch_size) == ("torch", best["batch_size"])
    assert (plan.streams, plan.threads) == (best["streams"], best["threads"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--photos", "nowhere"), "no folder of photos at nowhere"),
        (("--photos", "."), "no image in"),
        (("--model", "no-such-model/here"), "no-such-model"),
        (("--device", "cuda:99"), "no device 'cuda:99' here"),
        (("--seconds", "0"), "--seconds"),
        (("--seconds", "soon"), "--seconds"),
        (("--seconds", "nan"), "--seconds"),
        (("--seconds", "inf"), "--seconds"),
    ],
)
def test_bad_input_is_one_clear_line(
    cli_here: Cli, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = cli_here("bench", "--model", "mini", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert not done.stdout


def test_without_a_model_it_measures_with_mini_and_says_so(cli_here: Cli, pictures: Path) -> None:
    done = cli_here("bench", "--seconds", "1", "--photos", pictures, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "mini"
    assert b"built-in one, mini" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_ctrl_c_prints_what_was_measured(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    program = (
        "import indexer.bench as b; real = b.Bench._encode\n"
        "def encode(self, seconds):\n"
        "    print('now', flush=True); real(self, 600)\n"
        "b.Bench._encode = encode\n"
        "from clipsearch.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "bench", "--model", "mini", "--seconds", "3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Decoding" in out
    assert "Searching and labelling" in out
    assert "Indexing" not in out
    assert err == "\nInterrupted. The table shows what was measured until then.\n"
    assert not list(scratch.iterdir())


def test_made_photos_are_what_their_names_say(tmp_path: Path) -> None:
    from PIL import Image

    small, large = make_photos(tmp_path)
    assert (small.name, large.name) == ("500 px", "12 MP")
    for photos, size in ((small, (500, 375)), (large, (4000, 3000))):
        for path in photos.files:
            with Image.open(path) as picture:
                assert picture.size == size
                assert picture.format == "JPEG"
    assert 2e6 < large.mean_bytes < 9e6  # as a camera's
    made = copies(small, tmp_path / "copies", 7)
    assert len({path.read_bytes() for path in made}) == 7
    with Image.open(made[5]) as copy, Image.open(small.files[5 % len(small.files)]) as picture:
        assert copy.tobytes() == picture.tobytes()


def test_photos_of_a_folder(pictures: Path) -> None:
    found = photos_of(pictures, most=3)
    assert found.name == "yours"
    assert len(found.files) == 3
    assert copies(found, pictures / "not made", 2) == found.files[:2]
    assert not (pictures / "not made").exists()
    assert BenchPhotos("yours", found.files[:1], False).mean_bytes == found.files[0].stat().st_size


def _report(device: str = "cpu") -> BenchReport:
    report = BenchReport("mini", Machine("a processor", 4, 8_000_000_000, device))
    report.decode = [
        DecodeRate("12 MP", "exact", 4, 30.0),
        DecodeRate("12 MP", "exact", 1, 10.0),
        DecodeRate("12 MP", "fast", 4, 120.0),
        DecodeRate("12 MP", "fast", 1, 40.0),
    ]
    report.encode = [
        EncodeRate("torch", 8, 4, 1, 50.0),
        EncodeRate("torch", 32, 4, 1, 60.0),
        EncodeRate("torch-bf16", 32, 4, 1, 180.0),
    ]
    report.drift = {"torch-bf16": "not compared here yet: index checks it before it is used"}
    return report


def test_the_limit_is_shared_on_a_cpu_and_the_smaller_rate_beside_a_device() -> None:
    assert _report().limit("12 MP", "exact") == pytest.approx(1 / (1 / 30 + 1 / 60))
    assert _report("cuda:0 NVIDIA L4").limit("12 MP", "exact") == 30.0
    assert _report("cuda:0 NVIDIA L4").limit("12 MP", "fast") == 60.0
    assert _report().limit("12 MP", "fast", "torch-bf16") == pytest.approx(72.0)
    assert _report().limit("500 px", "exact") is None


def test_only_what_was_compared_with_the_reference_is_recommended() -> None:
    report = _report()
    text = recommendation(report)
    assert "--backend torch --batch-size 32: 60.0 images/s, 4 calls at a time" in text
    assert "--backend torch-bf16 would encode 180 images/s" in text
    report.strict.append("torch-bf16")
    report.index = [IndexRate("12 MP", "exact", "torch-bf16", 100, 20.0, 25.0)]
    text = recommendation(report)
    assert "--backend torch-bf16 --batch-size 32: 180 images/s" in text
    assert "would encode" not in text
    # 1 / (1 / 120 + 1 / 180) = 72, of which indexing reached 80 %.
    assert "--decode fast, 57.6 images/s\n    10,000 in 2 min 54 s, 1,000,000 in 4 h 49 min" in text
    # A run of half a second tells of its start more than of its rate.
    report.index = [IndexRate("12 MP", "fast", "torch-bf16", 8, 16.0, 72.0)]
    assert "--decode fast, 72.0 images/s" in recommendation(report)
    assert "too short" in "\n".join(sections(report))
    report.notes["onnx"] = "cannot encode here: " + "far too long " * 9
    assert max(map(len, "\n".join(sections(report)).splitlines())) < 80


def test_photos_that_no_one_can_decode_are_no_table(cli_here: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    done = cli_here("bench", "--model", "mini", "--seconds", "1", "--photos", folder)
    assert done.returncode == 2
    assert b"no photo to measure with can be decoded" in done.stderr
    assert b"Traceback" not in done.stderr
    assert not done.stdout


def test_only_what_was_measured_is_shown() -> None:
    report = BenchReport("mini", Machine("a processor", 1, None, "cpu"))
    assert [part.splitlines()[0] for part in sections(report)] == ["Machine"]
    report = _report()
    headings = [part.splitlines()[0] for part in sections(report)]
    assert headings == ["Machine", "Decoding", "Encoding with mini", "Recommendation"]


def test_numbers_have_as_many_digits_as_mean_something() -> None:
    told = [number(value) for value in (0.8765, 9.876, 12.34, 123.4, 1234.5, 98_765.4, 1_234_567)]
    assert told == ["0.88", "9.88", "12.3", "123", "1,230", "98,800", "1,230,000"]
