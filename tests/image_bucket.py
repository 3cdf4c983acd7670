"""A bucket full of pictures on the S3 server of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clipsearch.remote_images import forget_connections
from tests.s3_server import Bucket


class ImageBucket:
    """url : ``s3://NAME``. asked : what clipsearch asked the server, and what it is to fail at."""

    def __init__(self, bucket: Bucket) -> None:
        self.name, self.url, self.asked = bucket.name, bucket.url, bucket.server
        self._bucket = bucket

    def put(self, key: str, data: bytes | Path) -> str:
        """Write an object; its URL."""
        self._bucket.put(key, data.read_bytes() if isinstance(data, Path) else data)
        return f"{self.url}/{key}"

    def put_folder(self, folder: Path, prefix: str = "") -> None:
        """Write all files below a folder."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(prefix + file.relative_to(folder).as_posix(), file)

    def delete(self, *keys: str) -> None:
        """Remove objects."""
        for key in keys:
            self._bucket.client.delete_object(Bucket=self.name, Key=key)

    def reads(self) -> list[str]:
        """The keys of which bytes were read since this was last asked, each time."""
        lead = f"/{self.name}/"
        paths = [path.partition("?")[0] for path in self.asked.asked("GET", lead)]
        self.asked.seen.clear()
        return [path.removeprefix(lead) for path in paths if path not in (lead, lead[:-1])]


@pytest.fixture
def image_bucket(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageBucket]:
    """An empty bucket for pictures."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    forget_connections()
    yield ImageBucket(bucket)
    forget_connections()
