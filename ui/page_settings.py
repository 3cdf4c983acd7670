"""What the operator of a page decided when it was started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PageSettings:
    """One page: where it listens, who may use it, what it may take.

    host, port : where it listens. root_path : the path that a reverse proxy serves it under, such
    as ``/photos``, without a slash at its end. trusted_hosts : names by which it may be asked for,
    beside those of loopback and ``host``; without ports.
    accounts : name -> Argon2 hash of the password; none means no login.
    allowed_folders : folders that may be indexed from the page.
    model, device, space : as in ``open_index``.
    most_upload_bytes, most_pixels : of an image that is handed in. most_text : letters of one
    field. most_labels : labels of one question.
    mcp : whether tools are offered over the Model Context Protocol.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    root_path: str = ""
    trusted_hosts: tuple[str, ...] = ()
    accounts: tuple[tuple[str, str], ...] = ()
    allowed_folders: tuple[Path, ...] = ()
    model: str | None = None
    device: str | None = None
    space: str | None = None
    most_upload_bytes: int = 32 << 20
    most_pixels: int = 100_000_000
    most_text: int = 2_000
    most_labels: int = 2_000
    mcp: bool = False
