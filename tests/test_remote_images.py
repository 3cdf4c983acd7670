"""What is done with images in object storage: found, shown, asked with, copied, checked."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path, PurePosixPath

import pytest

from clipsearch import object_store, open_index
from clipsearch.errors import ImageError, OptionError, RemoteError
from clipsearch.remote_images import forget_connections
from clipsearch.remote_paths import RemotePath, place_of, whole_place
from clipsearch.saved_searches import saved_search
from indexer import build_index
from indexer.decode_messages import RemoteImage
from indexer.doctor import OK
from indexer.doctor_index import check_index
from indexer.read_ahead import ReadAhead
from tests.conftest import Cli
from tests.image_bucket import ImageBucket
from tests.page_library import open_page


@pytest.fixture
def remote_index(image_bucket: ImageBucket, pictures: Path, tmp_path: Path) -> Path:
    """The pictures, in the bucket below photos/, indexed."""
    image_bucket.put_folder(pictures, "photos/")
    place = tmp_path / "remote.index"
    build_index(f"{image_bucket.url}/photos", place, encoder="mini")
    image_bucket.reads()
    return place


def test_a_remote_path_is_a_path_whose_text_is_the_url() -> None:
    path = whole_place("s3://pictures/a//b c/d.jpg")
    assert str(path) == f"{path}" == "s3://pictures/a/b c/d.jpg"
    assert isinstance(path, Path)
    assert (path.name, path.suffix, str(path.parent)) == ("d.jpg", ".jpg", "s3://pictures/a/b c")
    assert (
        path == place_of("s3://pictures", "a/b c/d.jpg") == RemotePath("s3://pictures/a/b c/d.jpg")
    )
    assert path.is_absolute()
    assert path.is_relative_to("s3://pictures/a")
    assert not path.is_relative_to("s3://pictures/b")
    assert path.relative_to("s3://pictures/a").as_posix() == "b c/d.jpg"
    assert Path("/photos") / path.relative_to("s3://pictures") == Path("/photos/a/b c/d.jpg")
    assert bytes(path) == b"s3://pictures/a/b c/d.jpg"
    assert not path.exists()
    assert str(place_of("/photos", "a.jpg")) == str(PurePosixPath("/photos/a.jpg"))
    with pytest.raises(OptionError):
        whole_place("gs://pictures/../a.jpg")


def test_nothing_of_it_is_imported_where_it_is_not_used(mini_index: Path, pictures: Path) -> None:
    program = (
        "import sys\n"
        "from indexer import build_index\n"
        "from clipsearch import open_index\n"
        f"build_index({str(pictures)!r}, {str(mini_index)!r})\n"
        f"open_index({str(mini_index)!r}).search('a cat')\n"
        "print({'obstore', 'clipsearch.object_store', 'indexer.read_ahead', "
        "'indexer.remote_sources', 'indexer.remote_hashes'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == "set()"


def test_search_prints_the_url_and_similar_takes_it(
    image_bucket: ImageBucket,
    remote_index: Path,
    pictures: Path,
    cli_here: Cli,
) -> None:
    lion = ("search", "an animal", "--where", 'name = "lion.jpg"', "--min-score", "none")
    done = cli_here(*lion, "--index", remote_index)
    assert done.stdout == f"{image_bucket.url}/photos/lion.jpg\n".encode()
    done = cli_here(*lion, "--json", "--index", remote_index)
    assert json.loads(done.stdout)["path"] == f"{image_bucket.url}/photos/lion.jpg"
    assert image_bucket.reads() == []

    # One that is indexed is known by its URL; another is read.
    like = f"{image_bucket.url}/photos/cheetah.jpg"
    known = cli_here("similar", like, "-k", "3", "--csv", "--index", remote_index)
    assert image_bucket.reads() == []
    other = image_bucket.put("others/x.jpg", (pictures / "cheetah.jpg").read_bytes() + b"\0")
    read = cli_here("similar", other, "-k", "3", "--csv", "--index", remote_index)
    assert set(image_bucket.reads()) == {"others/x.jpg"}
    local = cli_here(
        "similar", pictures / "cheetah.jpg", "-k", "3", "--csv", "--index", remote_index
    )
    assert known.returncode == read.returncode == 0
    assert known.stdout == local.stdout
    assert like.encode() in read.stdout

    gone = cli_here("similar", f"{image_bucket.url}/others/gone.jpg", "--index", remote_index)
    assert (gone.returncode, gone.stdout) == (2, b"")
    assert gone.stderr.decode() == (
        f"Error: cannot take {image_bucket.url}/others/gone.jpg: the object is not there any more\n"
    )


def test_filters_by_folder_and_saved_searches_know_urls(
    image_bucket: ImageBucket,
    pictures: Path,
    tmp_path: Path,
    cli_here: Cli,
) -> None:
    image_bucket.put("photos/2023/a.jpg", pictures / "cheetah.jpg")
    image_bucket.put("photos/2024/b.jpg", pictures / "bus.png")
    place = tmp_path / "remote.index"
    build_index(f"{image_bucket.url}/photos", place, encoder="mini")
    done = cli_here("search", "--in", f"{image_bucket.url}/photos/2024/", "--index", place)
    assert done.stdout.decode().split() == [f"{image_bucket.url}/photos/2024/b.jpg"]
    done = cli_here("search", "--in", f"{image_bucket.url}/photos", "--index", place)
    assert len(done.stdout.split()) == 2
    done = cli_here("search", "--where", 'path ~ "2023/"', "--index", place)
    assert done.stdout.decode().split() == [f"{image_bucket.url}/photos/2023/a.jpg"]

    other = image_bucket.put("others/x.jpg", (pictures / "cheetah.jpg").read_bytes() + b"\0")
    done = cli_here("search", "--like", other, "--save", "like-x", "--index", place)
    assert done.returncode == 0, done.stderr
    assert saved_search(place, "like-x").query.like == ((other, 1.0),)


def test_photos_are_copied_out_and_never_linked(
    image_bucket: ImageBucket,
    remote_index: Path,
    pictures: Path,
    tmp_path: Path,
    cli_here: Cli,
) -> None:
    out = tmp_path / "out"
    copied = cli_here(
        "export", "a cheetah", "-k", "2", "--to", "copy", "--out", out, "--index", remote_index
    )
    assert copied.returncode == 0, copied.stderr
    for path in out.iterdir():
        assert path.read_bytes() == (pictures / path.name).read_bytes()
    assert len(list(out.iterdir())) == 2
    linked = cli_here(
        *("export", "a cheetah", "-k", "2", "--to", "symlinks", "--out", tmp_path / "links"),
        *("--index", remote_index),
    )
    assert linked.returncode == 3, linked.stderr
    assert b"it is in object storage, where a link cannot point" in linked.stderr


def test_a_bucket_lost_while_photos_are_copied_is_one_line_and_can_be_taken_back(
    image_bucket: ImageBucket, remote_index: Path, tmp_path: Path, cli_here: Cli
) -> None:
    read: set[str] = set()

    def fault(method: str, path: str) -> int | None:
        read.add(path)
        return 403 if len(read) > least else None

    image_bucket.asked.fault = fault
    out, record = tmp_path / "out", ("--index", remote_index)
    copy = ("export", "a cheetah", "-k", "2", "--to", "copy", "--out", out, *record)
    for least, written in ((0, b"nothing was written: no access to s3://"), (1, b"1 of 2 files")):
        read.clear()
        lost = cli_here(*copy)
        assert (lost.returncode, lost.stdout, lost.stderr.count(b"\n")) == (2, b"", 1)
        assert written in lost.stderr
        assert out.exists() is bool(least)
    image_bucket.asked.fault = None
    assert cli_here("export", "--undo", *record).returncode == 0
    assert not out.exists()


def test_a_copy_is_taken_back_unless_the_object_is_gone(
    image_bucket: ImageBucket, remote_index: Path, tmp_path: Path, cli_here: Cli
) -> None:
    out, record = tmp_path / "out", ("--index", remote_index)
    copy = ("export", "a cheetah", "-k", "2", "--to", "copy", "--out", out, *record)
    assert cli_here(*copy).returncode == 0
    assert cli_here("export", "--list", *record).stdout.count(b"\n") == 1
    one = min(path.name for path in out.iterdir())
    image_bucket.delete(f"photos/{one}")
    undone = cli_here("export", "--undo", *record)
    assert b"its original is not there now: this may be the last" in undone.stderr
    assert [path.name for path in out.iterdir()] == [one]


def test_photos_of_a_bucket_are_evaluated_by_an_index(cli_here: Cli) -> None:
    result = cli_here("evaluate", "s3://team/classes", "--model", "mini")
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr.endswith(b"name that with --index INDEX\n")


def test_an_export_goes_nowhere_but_here(mini_index: Path, tmp_path: Path, cli_here: Cli) -> None:
    for kind, out in (("copy", "s3://team/cats"), ("csv", "s3://team/cats.csv")):
        words = ("export", "cat", "--to", kind, "--out", out, "--index", mini_index)
        result = cli_here(*words, cwd=tmp_path)
        assert (result.returncode, result.stdout) == (2, b"")
        assert b"expected a place on this machine after --out, got s3://" in result.stderr
        assert result.stderr.count(b"\n") == 1
    assert not (tmp_path / "s3:").exists()


def test_the_page_shows_originals_and_previews(
    image_bucket: ImageBucket,
    remote_index: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image_id = open_index(remote_index).id_of(f"{image_bucket.url}/photos/lion.jpg")
    with open_page(remote_index) as page:
        document = page.get(f"/api/images/{image_id}").json()
        assert document["path"] == f"{image_bucket.url}/photos/lion.jpg"
        assert (document["original"], document["packed"], document["missing"]) == (
            True,
            False,
            False,
        )
        assert image_bucket.reads() == []
        answer = page.get(f"/media/original/{image_id}")
        assert answer.status_code == 200
        assert answer.content == (pictures / "lion.jpg").read_bytes()
        assert page.get(f"/media/preview/{image_id}").status_code == 200
        image_bucket.delete("photos/lion.jpg")
        assert page.get(f"/media/original/{image_id}").status_code == 404
        image_bucket.asked.fault = lambda method, path: 403
        assert page.get(f"/media/original/{image_id}").status_code == 404
        # Where the extra is not installed, it is as if the bucket were away.
        monkeypatch.setitem(sys.modules, "obstore", None)
        object_store._obstore.cache_clear()
        forget_connections()
        assert page.get(f"/media/original/{image_id}").status_code == 404
        # The thumbnail stands in for it.
        assert page.get(f"/media/preview/{image_id}").status_code == 200


def test_verify_reads_a_sample_again(
    image_bucket: ImageBucket,
    remote_index: Path,
    cli_here: Cli,
) -> None:
    done = cli_here("verify", "--sample", "5", "--index", remote_index, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["encoded"] == 5
    assert len(image_bucket.reads()) == 5
    image_bucket.asked.fault = lambda method, path: 403
    done = cli_here("verify", "--sample", "5", "--index", remote_index, "--json")
    assert (done.returncode, json.loads(done.stdout)["encoded"]) == (0, 0)


def test_status_and_doctor_ask_no_network(
    image_bucket: ImageBucket,
    remote_index: Path,
    cli_here: Cli,
) -> None:
    status = cli_here("status", "--index", remote_index).stdout.decode()
    assert f"{image_bucket.url}/photos" in status
    assert "not there now" not in status
    (check,) = [check for check in check_index(str(remote_index)) if check.name == "folder"]
    assert (check.state, check.message) == (OK, f"{image_bucket.url}/photos, in object storage")
    assert image_bucket.asked.seen == []


def test_watch_says_that_it_hears_nothing_of_buckets(
    image_bucket: ImageBucket,
    remote_index: Path,
    cli_here: Cli,
) -> None:
    done = cli_here("index", f"{image_bucket.url}/photos", "--watch", "--index", remote_index)
    assert done.returncode == 2
    assert "object storage tells of none" in done.stderr.decode()


def test_failures_are_named_by_their_urls(
    image_bucket: ImageBucket,
    tmp_path: Path,
    pictures: Path,
    cli_here: Cli,
) -> None:
    image_bucket.put("photos/a.jpg", pictures / "cheetah.jpg")
    image_bucket.put("photos/b.jpg", (pictures / "cheetah.jpg").read_bytes()[:500])
    place = tmp_path / "some.index"
    done = cli_here("index", f"{image_bucket.url}/photos", "--index", place, "--model", "mini")
    assert done.returncode == 3
    assert f"{image_bucket.url}/photos/b.jpg: " in done.stderr.decode()
    done = cli_here("failures", "--index", place)
    assert f"{image_bucket.url}/photos/b.jpg" in done.stdout.decode()
    image_bucket.put("photos/b.jpg", (pictures / "cheetah.jpg").read_bytes() + b"\0")
    assert cli_here("failures", "--retry", "--index", place).returncode == 0


class TestReadAhead:
    """Many at a time, in order, and no more in memory than there may be."""

    def put(self, image_bucket: ImageBucket, sizes: list[int]) -> list[RemoteImage]:
        return [
            RemoteImage(image_bucket.put(f"{number}.jpg", bytes([number]) * size), size)
            for number, size in enumerate(sizes)
        ]

    def test_in_order_and_bounded(self, image_bucket: ImageBucket) -> None:
        images = self.put(image_bucket, [10, 2_000, 10, 10, 600, 600, 10, 0])
        held = 0
        most = 0
        lock = threading.Lock()

        def fault(method: str, path: str) -> int | None:
            nonlocal held, most
            with lock:
                held += images[int(path.rpartition("/")[2].removesuffix(".jpg"))].size
                most = max(most, held)
            return None

        image_bucket.asked.fault = fault
        ahead = ReadAhead(1 << 20, at_once=4, most_bytes=1_000)
        arriving = [ahead.begin(image) for image in images]
        for image, one in zip(images, arriving, strict=True):
            with one as file:
                assert (file.name, len(file.data)) == (image.url, image.size)
            with lock:
                held -= image.size
        ahead.close()
        assert most <= 2_000  # the large one came alone

    def test_errors_come_where_the_image_would(self, image_bucket: ImageBucket) -> None:
        images = self.put(image_bucket, [10, 20])
        gone = RemoteImage(f"{image_bucket.url}/gone.jpg", 5)
        other = RemoteImage(images[0].url, 11)  # it has another size by now
        large = RemoteImage(images[1].url, 20)
        ahead = ReadAhead(15)
        told: list[object] = []
        for one in [ahead.begin(image) for image in (gone, other, large, images[0])]:
            try:
                with one as file:
                    told.append(file.data)
            except ImageError as error:
                told.append(error.reason)
        assert told == ["vanished", "unreadable", "too_large", bytes(10)]
        image_bucket.asked.fault = lambda method, path: 403
        with pytest.raises(RemoteError), ahead.begin(images[0]):
            pass
        ahead.close()

    def test_closing_waits_for_no_network(self, image_bucket: ImageBucket) -> None:
        from concurrent.futures import CancelledError

        images = self.put(image_bucket, [10] * 8)
        let_go = threading.Event()

        def fault(method: str, path: str) -> int | None:
            let_go.wait(30)
            return None

        image_bucket.asked.fault = fault
        ahead = ReadAhead(1 << 20, at_once=2)
        arriving = [ahead.begin(image) for image in images]
        threading.Timer(0.2, ahead.close).start()
        begin = time.monotonic()
        for one in arriving:
            with pytest.raises(CancelledError), one:
                pass
        assert time.monotonic() - begin < 20
        let_go.set()
