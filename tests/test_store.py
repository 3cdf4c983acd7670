"""The local store: written once, replaced whole, never outside its folder."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from clipsearch import store as store_module
from clipsearch.errors import IndexFormatError
from clipsearch.store import LocalStore, replace_file, seal, sealed_size


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "root")


def everything(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_put_and_get(store: LocalStore) -> None:
    store.put_if_absent("a/b/c.bin", b"\0\1\2")
    store.put_if_absent("d.bin", pa.py_buffer(b"arrow"))
    assert store.get("a/b/c.bin") == b"\0\1\2"
    assert store.get("d.bin") == b"arrow"
    assert everything(store.root) == {"a/b/c.bin": b"\0\1\2", "d.bin": b"arrow"}


def test_put_never_overwrites(store: LocalStore) -> None:
    store.put_if_absent("a.bin", b"first")
    with pytest.raises(FileExistsError):
        store.put_if_absent("a.bin", b"second")
    assert everything(store.root) == {"a.bin": b"first"}


def test_put_without_hard_links(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no hard links on this file system")

    monkeypatch.setattr(os, "link", refuse)
    store.put_if_absent("a.bin", b"first")
    with pytest.raises(FileExistsError):
        store.put_if_absent("a.bin", b"second")
    assert everything(store.root) == {"a.bin": b"first"}


def test_replace(store: LocalStore) -> None:
    store.replace("deep/a.bin", b"first")
    store.replace("deep/a.bin", b"second, and longer")
    store.replace("deep/a.bin", b"")
    assert everything(store.root) == {"deep/a.bin": b""}


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_failed_replace_leaves_the_old_bytes(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store.replace("a.bin", b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(store_module, "write_durably", fail)
        else:
            patch.setattr(os, {"fsync": "fsync", "rename": "replace"}[step], fail)
        with pytest.raises(OSError, match="No space"):
            store.replace("a.bin", b"new")
    assert everything(store.root) == {"a.bin": b"old"}


def test_replace_is_cut_short_by_a_key_press(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a.bin"
    replace_file(place, b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            replace_file(place, b"new")
    assert everything(tmp_path) == {"a.bin": b"old"}


def test_failed_put_leaves_nothing(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            store.put_if_absent("a.bin", b"new")
    assert everything(store.root) == {}


def test_reader_keeps_the_old_bytes(store: LocalStore) -> None:
    store.replace("a.bin", b"old bytes")
    with store.open_mapped("a.bin") as mapped:
        store.replace("a.bin", b"new")
        assert mapped.read() == b"old bytes"
    assert store.get("a.bin") == b"new"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "..",
        "../a",
        "a/../../b",
        "a//b",
        "a/",
        "./a",
        ".",
        "a\\..\\b",
        "C:/a",
        "C:a",
        "a/\0b",
    ],
)
def test_names_that_lead_outside(store: LocalStore, name: str) -> None:
    store.put_if_absent("inside.bin", b"x")
    for act in (store.get, store.delete, store.open_mapped, store.path):
        with pytest.raises(IndexFormatError, match="outside itself"):
            act(name)
    for write in (store.put_if_absent, store.replace):
        with pytest.raises(IndexFormatError, match="outside itself"):
            write(name, b"x")
    if name:
        with pytest.raises(IndexFormatError, match="outside itself"):
            store.list(name)
    assert everything(store.root) == {"inside.bin": b"x"}


def test_list_is_sorted_and_hides_temporary_files(store: LocalStore) -> None:
    assert store.list("") == []
    assert store.list("nothing") == []
    for name in ("b/2.bin", "b/1.bin", "a.bin", "b/c/3.bin"):
        store.put_if_absent(name, b"x")
    (store.root / "b" / ".tmp-1-abc").write_bytes(b"half")
    (store.root / ".tmp-2-def").write_bytes(b"half")
    assert store.list("") == ["a.bin", "b/1.bin", "b/2.bin", "b/c/3.bin"]
    assert store.list("b") == ["b/1.bin", "b/2.bin", "b/c/3.bin"]
    store.remove_temporary_files()
    assert sorted(everything(store.root)) == store.list("")


def test_delete(store: LocalStore) -> None:
    store.put_if_absent("a.bin", b"x")
    store.delete("a.bin")
    store.delete("a.bin")
    with pytest.raises(FileNotFoundError):
        store.get("a.bin")
    with pytest.raises(FileNotFoundError):
        store.open_mapped("a.bin")


def test_mapped(store: LocalStore) -> None:
    store.put_if_absent("empty.bin", b"")
    store.put_if_absent("full.bin", b"0123456789")
    with store.open_mapped("empty.bin") as empty:
        assert empty.read() == b""
    with store.open_mapped("full.bin") as full:
        full.seek(4)
        assert full.read(3) == b"456"
        assert full.size() == 10


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 9000])
def test_seal(size: int) -> None:
    data = bytes(i * 31 % 251 for i in range(size))
    whole = data + seal(memoryview(data))
    assert sealed_size(memoryview(whole)) == size
    for cut in (0, 1, 19, len(whole) // 2, len(whole) - 1):
        assert sealed_size(memoryview(whole[:cut])) is None
    assert sealed_size(memoryview(whole + b"\0")) is None
    ends = [*range(min(size, 4096)), *range(max(0, size - 4096), len(whole))]
    for position in ends[:: max(1, len(ends) // 300)]:
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        assert sealed_size(memoryview(damaged)) is None
