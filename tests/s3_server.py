"""A real S3 server on this machine for the tests: moto, over HTTP, on the loopback interface."""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "clipsearch",
    "AWS_SECRET_ACCESS_KEY": "of-the-tests",
    "AWS_REGION": "us-east-1",
}


@dataclass
class Bucket:
    """One bucket of the server, of the test's own. client : boto3's, which asks the server."""

    name: str
    endpoint: str
    client: Any
    server: Requests

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def every_key(self, prefix: str = "") -> list[str]:
        """All keys, in order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        )
        return [one["Key"] for page in pages for one in page.get("Contents", ())]

    def get(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def is_for_reading_only(self, forbidden: bool = True) -> None:
        """Let the server refuse every write from now on, as a policy would."""
        self.server.refused = ("PUT", "POST", "DELETE") if forbidden else ()


@dataclass
class Requests:
    """What the server was asked; and what it does not do, where a test says so.

    seen : (method, path with its query). refused : methods that get 403. broken : a part of a
    path whose writes get 500. fails : how many requests, from now on, get 503 and are not done.
    loses : how many writes are done, and answered with 503 all the same. fault : says with which
    status (method, path) is refused, None for none.
    """

    seen: list[tuple[str, str]] = field(default_factory=list)
    refused: tuple[str, ...] = ()
    broken: str = ""
    fails: int = 0
    loses: int = 0
    fault: Callable[[str, str], int | None] | None = None

    def reset(self) -> None:
        """Forget what was asked, and do all that is asked."""
        self.seen.clear()
        self.refused, self.broken, self.fails, self.loses, self.fault = (), "", 0, 0, None

    def asked(self, method: str, part: str = "") -> list[str]:
        return [path for one, path in self.seen if one == method and part in path]

    def wrap(self, application: Any) -> Any:
        """The WSGI application with this before it."""

        def answer(environ: dict[str, Any], start: Any) -> Any:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            if environ.get("HTTP_USER_AGENT", "").startswith("Boto3"):
                return application(environ, start)
            self.seen.append((method, f"{path}?{environ.get('QUERY_STRING', '')}"))
            status = self.fault(method, path) if self.fault is not None else None
            if status is not None:
                return _refusal(start, f"{status} Fault", "Fault")
            if method in self.refused:
                return _refusal(start, "403 Forbidden", "AccessDenied")
            if self.broken and method in ("PUT", "POST") and self.broken in path:
                return _refusal(start, "500 Internal Server Error", "InternalError")
            if self.fails > 0:
                self.fails -= 1
                return _refusal(start, "503 Service Unavailable", "SlowDown")
            if self.loses > 0 and method == "PUT":
                self.loses -= 1
                for _ in application(environ, lambda status, headers, trouble=None: None):
                    pass
                return _refusal(start, "503 Service Unavailable", "SlowDown")
            return application(environ, start)

        return answer


def _refusal(start: Any, status: str, code: str) -> list[bytes]:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[tuple[str, Requests]]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    requests = Requests()
    application = requests.wrap(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    thread.join()


@pytest.fixture
def bucket(_s3_server: tuple[str, Requests], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket; the environment says where it is and how to get in."""
    import boto3

    endpoint, requests = _s3_server
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**_ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint)
    name = f"photos-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=name)
    requests.reset()
    yield Bucket(name, endpoint, client, requests)
    requests.reset()
