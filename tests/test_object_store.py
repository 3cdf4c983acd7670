"""Objects at ``s3://``: read, written on a condition, tried again; against a real server."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from clipsearch import object_store
from clipsearch.errors import OptionError, RemoteError
from clipsearch.object_store import ETag, ObjectStore, ReplacedError
from clipsearch.remote_urls import is_remote, join_url, parse_url, refuse_other_urls

from .s3_server import Bucket


def store_of(bucket: Bucket) -> ObjectStore:
    return ObjectStore(f"{bucket.url}/a/folder/")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://photos", "s3://photos"),
        ("s3://photos/", "s3://photos"),
        ("s3://photos/2024/trip.index", "s3://photos/2024/trip.index"),
        ("gs://photos//a", "gs://photos/a"),
        (Path("az://photos/a b"), "az://photos/a b"),
        (Path("s3:///photos"), "s3://photos"),
    ],
)
def test_urls_are_told_from_folders(text: object, url: str) -> None:
    assert is_remote(text)
    assert str(parse_url(text)) == url
    assert join_url(parse_url(text), "x.jpg") == f"{url}/x.jpg"


@pytest.mark.parametrize("text", ["photos", "/s3/photos", "s3", "./s3:/x", "http://h/x", "s4://x"])
def test_folders_are_no_urls(text: str) -> None:
    assert not is_remote(text)


@pytest.mark.parametrize("text", ["http://h/x", "S3://me:secret@b/x", "gcs://b", "file:///x"])
def test_other_urls_are_refused_as_an_index_and_not_repeated(text: str) -> None:
    with pytest.raises(OptionError, match="expected s3://bucket/folder") as told:
        refuse_other_urls(text)
    assert "secret" not in str(told.value)
    for place in ("s3://b/x", "photos.index", "/a://b", "C:/photos", "./s3://b"):
        refuse_other_urls(place)


@pytest.mark.parametrize("text", ["s3://me:secret@photos/x", "s3://secret@photos", "az://a:80/x"])
def test_a_url_with_a_password_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(OptionError, match="credentials come from the environment") as told:
        parse_url(text)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("text", ["s3://", "s3:///x", "s3://b/../c", "s3:// /x", "photos"])
def test_a_url_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(OptionError, match="expected s3://bucket/folder") as told:
        parse_url(text)
    assert "\n" not in str(told.value)


def test_objects_come_back_as_they_were_written(bucket: Bucket) -> None:
    store = store_of(bucket)
    etag = store.put_if_absent("ü b/x#1%20~.bin", b"0123456789")
    store.put_if_absent("other", b"")
    assert bucket.get("a/folder/ü b/x#1%20~.bin") == b"0123456789"
    assert store.get_with_etag("ü b/x#1%20~.bin") == (b"0123456789", etag)
    assert store.read_range("ü b/x#1%20~.bin", 3, 4) == b"3456"
    assert store.read_range("ü b/x#1%20~.bin", 8, 100) == b"89"
    assert store.read_ranges("ü b/x#1%20~.bin", [(0, 2), (7, 3), (1, 1)]) == [b"01", b"789", b"1"]
    found = {file.name: file.size for file in store.list()}
    assert found == {"ü b/x#1%20~.bin": 10, "other": 0}
    assert [file.name for file in store.list("ü b")] == ["ü b/x#1%20~.bin"]
    assert store.head("other").size == 0
    again: ObjectStore = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert again.get("other") == b""
    store.delete("other", "never-there")
    assert [file.name for file in store.list()] == ["ü b/x#1%20~.bin"]
    with pytest.raises(FileNotFoundError):
        store.get("other")


def test_writes_on_a_condition_tell_who_came_second(bucket: Bucket) -> None:
    store = store_of(bucket)
    first = store.put_if_absent("manifest", b"one")
    with pytest.raises(FileExistsError):
        store.put_if_absent("manifest", b"two")
    second = store.replace("manifest", b"two", first)
    with pytest.raises(ReplacedError):
        store.replace("manifest", b"three", first)
    with pytest.raises(ReplacedError):
        store.replace("gone", b"three", first)
    assert store.get("manifest") == b"two"
    assert store.get_if_changed("manifest", second) is None
    assert store.get_if_changed("manifest", first) == (b"two", second)
    with pytest.raises(ReplacedError):
        store.read_range("manifest", 0, 1, first)
    assert store.replace("manifest", b"four") != second
    assert store.get("manifest") == b"four"


def test_a_write_whose_answer_was_lost_is_known_again(bucket: Bucket) -> None:
    store = store_of(bucket)
    bucket.server.loses = 1
    etag = store.put_if_absent("manifest", b"one")
    bucket.server.loses = 1
    etag = store.replace("manifest", b"two", etag)
    assert store.get_with_etag("manifest") == (b"two", etag)


def test_what_fails_for_a_moment_is_tried_again(bucket: Bucket) -> None:
    store = store_of(bucket)
    store.put_if_absent("x", b"data")
    bucket.server.seen.clear()
    bucket.server.fails = 3
    assert store.get("x") == b"data"
    assert len(bucket.server.asked("GET", "folder/x")) == 4
    bucket.server.fails = 2
    with pytest.raises(RemoteError, match=r"cannot reach .*/x: 503 .*SlowDown") as told:
        ObjectStore(store.url, retries=1).get("x")
    assert "\n" not in str(told.value)


def test_a_large_object_comes_in_parts_and_whole(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "_PART_BYTES", 1000)
    store, data = store_of(bucket), os.urandom(12_345)
    bucket.put("a/folder/large", data)
    bucket.put("a/folder/empty", b"")
    found = store.download("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert (found.size, len(bucket.server.asked("GET", "large"))) == (12_345, 13)
    assert store.download("empty", tmp_path / "nothing").size == 0
    assert (tmp_path / "nothing").read_bytes() == b""


def test_a_download_cut_short_leaves_nothing(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "_PART_BYTES", 1000)
    bucket.put("a/folder/large", os.urandom(12_345))
    store = ObjectStore(f"{bucket.url}/a/folder", retries=0)
    first = store._first_part

    def then_fail(name: str) -> object:
        found = first(name)
        bucket.server.fails = 1
        return found

    monkeypatch.setattr(store, "_first_part", then_fail)
    with pytest.raises(RemoteError, match="503"):
        store.download("large", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []
    bucket.server.fails = 0

    def then_replace(name: str) -> object:
        found = first(name)
        bucket.put("a/folder/large", os.urandom(12_345))
        return found

    monkeypatch.setattr(store, "_first_part", then_replace)
    with pytest.raises(RemoteError, match="changed while it was read"):
        store.download("large", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_large_file_goes_up_in_parts(bucket: Bucket, tmp_path: Path) -> None:
    data = os.urandom((8 << 20) + 5)
    (tmp_path / "file").write_bytes(data)
    store_of(bucket).upload(tmp_path / "file", "large")
    assert bucket.get("a/folder/large") == data
    assert len(bucket.server.asked("PUT", "large?")) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="there a lock is waited for to the end")
def test_ctrl_c_ends_the_wait_for_a_server_that_hangs(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    with socket.create_server(("127.0.0.1", 0)) as silent, contextlib.ExitStack() as after:
        after.callback(signal.signal, signal.SIGINT, before)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        store = store_of(bucket)
        for ask in (lambda: store.get("a"), lambda: list(store.list()), lambda: store.head("a")):
            timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                ask()
            timer.join()


def test_who_may_not_come_in_is_told_in_one_line(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(bucket)
    store.put_if_absent("x", b"data")
    bucket.is_for_reading_only()
    assert store.get("x") == b"data"
    for write in (lambda: store.replace("x", b"y"), lambda: store.put_if_absent("z", b"y")):
        with pytest.raises(RemoteError, match=r"no access to s3://.*AccessDenied.*AWS_ACCESS") as e:
            write()
        assert "\n" not in str(e.value)
    with pytest.raises(RemoteError, match="no access to"):
        store.delete("x")
    assert bucket.get("a/folder/x") == b"data"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(RemoteError, match=r"no credentials for s3://.*AWS_SECRET_ACCESS_KEY"):
        ObjectStore(store.url, retries=0).get("x")


def test_a_bucket_that_is_not_there_and_a_server_that_is_not(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = ObjectStore("s3://no-such-bucket-here/x")
    for ask in (lambda: nowhere.get("y"), lambda: list(nowhere.list())):
        with pytest.raises(RemoteError, match="there is no bucket s3://no-such-bucket-here"):
            ask()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(RemoteError, match=r"cannot reach .*no connection"):
        ObjectStore(bucket.url, retries=1).get("x")
    assert ETag("a") != ETag("b")
