"""HTTP as an attacker speaks it: bytes on a socket, with nothing put right on the way."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class RawAnswer:
    """status : 0 when the connection ended without an answer. headers : names in small letters,
    several of one name joined by a newline."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


def ask_raw(
    address: str,
    target: str = "/",
    *,
    method: str = "GET",
    host: str | None = None,
    headers: tuple[str, ...] = (),
    body: bytes = b"",
    seconds: float = 20.0,
) -> RawAnswer:
    """Ask ``target``, sent as it is, of the server at ``address``. host : of the Host header, by
    default the right one; "" sends none."""
    parts = urlsplit(address)
    lines = [f"{method} {target} HTTP/1.1"]
    if host != "":
        lines.append(f"Host: {host or parts.netloc}")
    lines += headers
    if body and not any(
        line.lower().startswith(("content-length", "transfer")) for line in headers
    ):
        lines.append(f"Content-Length: {len(body)}")
    lines.append("Connection: close")
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=seconds) as connection:
        # It may have heard enough before the end: then the answer is there already.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head + body)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> RawAnswer:
    """Everything until the other side closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    if not received:
        return RawAnswer(0, {}, b"")
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name = name.lower()
        headers[name] = f"{headers[name]}\n{value.strip()}" if name in headers else value.strip()
    return RawAnswer(int(first.split()[1]), headers, body)
