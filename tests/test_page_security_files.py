"""Files of the server, and files that are handed in: the known holes of Gradio, and images that
are none, or too much."""

from __future__ import annotations

import io
import os
import shutil
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ui.page_errors import PageError
from ui.page_settings import PageSettings
from ui.uploads import check_upload, limit_pillow, upload_folder, uploaded_file

_PAGE = "http://127.0.0.1:7860"
_SETTINGS = PageSettings(most_upload_bytes=2 << 20)


def _file_page() -> Any:
    """A page with an event for each way to take a file in Gradio."""
    import gradio as gr

    upload_folder()
    with gr.Blocks() as page:
        button = gr.Button()
        shown = gr.File()
        told = gr.Textbox()
        button.click(lambda file: file, gr.File(), shown, api_name="file", queue=False)
        button.click(lambda file: file, gr.File(), shown, api_name="queued")
        for kind in ("filepath", "pil"):
            image = gr.Image(type=kind)
            button.click(str, image, told, api_name=f"image_{kind}", queue=False)
    return page


def _client(guarded: bool, launched: bool) -> Any:
    import gradio as gr
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    from ui.app import mount_blocks
    from ui.security import add_guards

    app = FastAPI(openapi_url=None)
    page = _file_page()
    if launched:
        mount_blocks(app, page, _SETTINGS)
    else:
        gr.mount_gradio_app(app, page, path="/", ssr_mode=False, show_error=False)
    if guarded:
        add_guards(app, _SETTINGS)
    return TestClient(app, base_url=_PAGE, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def open_page() -> Any:
    """Gradio's page as Gradio mounts it: what the probes find there shows that they probe."""
    return _client(guarded=False, launched=False)


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with _client(guarded=True, launched=True) as client:
        yield client


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    place = tmp_path / "secret.txt"
    place.write_text("the secret")
    return place


@pytest.fixture
def secret_picture(tmp_path: Path) -> Path:
    place = tmp_path / "secret.png"
    place.write_bytes(_picture((31, 17)))
    return place


def _picture(size: tuple[int, int], kind: str = "PNG") -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", size, "teal").save(stream, kind)
    return stream.getvalue()


def _bomb(width: int, height: int) -> bytes:
    """A PNG of so many grey pixels in a few hundred bytes for each thousand lines of them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    pack = zlib.compressobj(9)
    lines = b"".join(pack.compress(b"\0" * (width + 1)) for _ in range(height)) + pack.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    )


def _given_back(client: Any, event: str, file: dict[str, Any]) -> bytes | None:
    """What an event gives back of the file that it was named; None where it refuses."""
    answer = client.post(f"/gradio_api/run/{event}", json={"data": [file]})
    if answer.status_code != 200:
        assert "secret" not in answer.text
        return None
    shown = answer.json()["data"][0]
    if isinstance(shown, str):
        return shown.encode()
    return bytes(client.get(f"/gradio_api/file={shown['path']}").content)


def test_hole_1_an_event_serves_no_file_of_the_server(
    open_page: Any, page: Any, secret: Path
) -> None:
    named = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    assert _given_back(open_page, "file", named) == b"the secret"
    launched = _client(guarded=False, launched=True)
    assert _given_back(launched, "file", named) is None
    guarded_alone = _client(guarded=True, launched=False)
    assert _given_back(guarded_alone, "file", named) is None
    assert _given_back(page, "file", named) is None


def test_hole_1_nor_does_the_queue(page: Any, secret: Path) -> None:
    named = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    event = {"data": [named], "fn_index": 1, "session_hash": "abc"}
    answer = page.post("/gradio_api/queue/join", json=event)
    assert answer.status_code == 400
    assert "handed in" in answer.json()["error"]


def test_hole_2_an_image_is_no_file_of_the_server(
    open_page: Any, page: Any, secret_picture: Path
) -> None:
    named = {"path": str(secret_picture)}
    assert _given_back(open_page, "image_filepath", named) == str(secret_picture).encode()
    assert b"size=31x17" in (_given_back(open_page, "image_pil", named) or b"")
    launched = _client(guarded=False, launched=True)
    assert _given_back(launched, "image_pil", named) is not None  # launching does not close it
    for event in ("image_filepath", "image_pil"):
        assert _given_back(page, event, named) is None


@pytest.mark.parametrize("meta", [None, {}, {"_type": "gradio.FileData"}, "x"])
@pytest.mark.parametrize(
    "place",
    [
        *("{secret}", "{kept}/../{name}/secret.png", "{kept}/link.png", "file://{secret}"),
        *("/etc/passwd", "/proc/self/environ", "{kept}", "", ".", "relative.png", "\0"),
        *("http://127.0.0.1:9/x.png", "https://example.org/x.png", "~/.bashrc", "{secret}\0.png"),
    ],
)
def test_hole_2_however_the_file_is_named(
    page: Any, secret_picture: Path, place: str, meta: Any
) -> None:
    kept = upload_folder()
    link = kept / "link.png"
    link.unlink(missing_ok=True)
    link.symlink_to(secret_picture)
    named = place.format(
        secret=secret_picture, kept=kept, name=os.path.relpath(secret_picture.parent, kept.parent)
    )
    file = {"path": named, "orig_name": "a.png"}
    if meta is not None:
        file["meta"] = meta
    assert _given_back(page, "image_pil", file) is None
    assert _given_back(page, "file", file) is None
    assert page.get(f"/gradio_api/file={named}".replace("\0", "%00")).status_code >= 400
    link.unlink()


def test_hole_3_another_host_is_told_nothing(open_page: Any, page: Any) -> None:
    rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
    answer = open_page.get("/config", headers=rebound)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "http://evil.example"
    answer = page.get("/config", headers=rebound)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_no_address_is_fetched(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    tried = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *place, **_: tried.append(place) or [])
    address = "http://93.184.215.14/a.png"
    for file in (
        {"path": address, "meta": {"_type": "gradio.FileData"}},
        {"path": None, "url": address, "meta": {"_type": "gradio.FileData"}},
        {"url": address},
        {"url": "ftp://93.184.215.14/a.png", "meta": {"_type": "gradio.FileData"}},
    ):
        for event in ("file", "image_pil", "image_filepath"):
            answer = page.post(f"/gradio_api/run/{event}", json={"data": [file]})
            assert "93.184" not in answer.text
    for route in ("file", "proxy"):
        assert page.get(f"/gradio_api/{route}={address}").status_code in (400, 404)
    assert tried == []


def _upload(client: Any, name: str, data: bytes, kind: str = "image/png") -> Any:
    return client.post("/gradio_api/upload", files={"files": (name, data, kind)})


def test_what_was_handed_in_is_taken(page: Any) -> None:
    place = _upload(page, "a.png", _picture((31, 17))).json()[0]
    assert Path(place).is_relative_to(upload_folder())
    file = {"path": place, "meta": {"_type": "gradio.FileData"}, "url": f"{_PAGE}/x"}
    assert b"size=31x17" in (_given_back(page, "image_pil", file) or b"")
    assert _given_back(page, "file", file) == _picture((31, 17))


def test_the_folder_of_uploads_is_private() -> None:
    folder = upload_folder()
    assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
    if os.name == "posix":
        assert folder.stat().st_mode & 0o077 == 0


_SCRIPT = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("a.svg", "image/svg+xml", _SCRIPT),
        ("a.html", "text/html", b"<script>alert(1)</script>"),
        ("a.xhtml", "application/xhtml+xml", b"<script>alert(1)</script>"),
        ("a.png", "image/png", b"<html><script>alert(1)</script></html>"),
        ("a.js", "text/javascript", b"alert(1)"),
        ("a.pdf", "application/pdf", b"%PDF-1.7"),
    ],
)
def test_nothing_that_was_handed_in_runs(page: Any, name: str, kind: str, data: bytes) -> None:
    place = _upload(page, name, data, kind).json()[0]
    answer = page.get(f"/gradio_api/file={place}", headers={"Range": "bytes=0-3", "Cookie": "a=b"})
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]
    shown_as = answer.headers["content-type"].split(";")[0]
    assert shown_as in ("application/octet-stream", "image/png")
    if not name.endswith(".png"):
        assert answer.headers["content-disposition"].startswith("attachment")
    assert "a=b" not in str(answer.headers)


@pytest.mark.parametrize("name", ["../../x.png", "..%2fx.png", "/etc/x.png", "a\\..\\x.png", "..."])
def test_a_file_name_does_not_leave_the_folder(page: Any, name: str) -> None:
    answer = _upload(page, name, _picture((3, 3)))
    assert answer.status_code == 200
    assert Path(answer.json()[0]).resolve().is_relative_to(upload_folder())


def test_an_upload_that_is_too_large_is_refused(page: Any) -> None:
    answer = _upload(page, "a.png", b"\x89PNG" + b"x" * (4 << 20))
    assert answer.status_code == 413
    assert answer.json()["error"]


def test_too_many_uploads_are_refused(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ui.gradio_routes

    monkeypatch.setattr(ui.gradio_routes, "MOST_KEPT_BYTES", 1)
    _upload(page, "a.png", _picture((5, 5)))
    answer = _upload(page, "b.png", _picture((6, 6)))
    assert answer.status_code == 503
    assert "later" in answer.json()["error"]


def test_a_bomb_is_refused_before_it_is_unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageFile

    def unfolded(image: Any) -> None:
        raise AssertionError("the pixels were decoded")

    data = _bomb(13_000, 13_000)
    assert len(data) < 600_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", unfolded)
    with pytest.raises(PageError, match="million pixels") as refused:
        check_upload(data, PageSettings())
    assert refused.value.status == 413


def test_gradio_unfolds_no_bomb_either(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    place = _upload(page, "a.png", _bomb(1_500, 1_500)).json()[0]
    file = {"path": place, "meta": {"_type": "gradio.FileData"}}
    assert _given_back(page, "image_pil", file) is not None
    with warnings.catch_warnings():
        limit_pillow(PageSettings(most_pixels=2_000_000))
        assert _given_back(page, "image_pil", file) is None
    # As an address that holds the picture itself, it is not looked at.
    import base64

    held = {"url": "data:image/png;base64," + base64.b64encode(_picture((9, 9))).decode()}
    assert _given_back(page, "image_pil", held) is None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (_SCRIPT, 415),
        (b"<?xml version='1.0'?>" + _SCRIPT, 415),
        (b"<html><script>alert(1)</script>", 415),
        (b"GIF89a", 400),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, 400),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", 415),
        (b"%PDF-1.7", 415),
        (b"PK\x03\x04", 415),
        (b"II*\0\x10\0\0\0CR\x02\0" + b"\0" * 64, 415),
        (_picture((4, 4)) + b"x" * (3 << 20), 413),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(PageError) as refused:
        check_upload(data, _SETTINGS)
    assert refused.value.status == status
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_an_image_is_taken(kind: str) -> None:
    data = _picture((40, 30), kind)
    assert check_upload(data, _SETTINGS) == data


def test_real_photos_are_taken(pictures: Path) -> None:
    for photo in pictures.iterdir():
        check_upload(photo.read_bytes(), PageSettings())


def test_a_file_that_is_gone_was_not_handed_in(tmp_path: Path) -> None:
    folder = upload_folder() / "gone"
    folder.mkdir(exist_ok=True)
    place = folder / "a.txt"
    place.write_text("x")
    assert uploaded_file(str(place), _SETTINGS) == place
    shutil.rmtree(folder)
    for named in (place, str(place), folder, None, 5, b"x", [str(place)], tmp_path):
        with pytest.raises(PageError):
            uploaded_file(named, _SETTINGS)
