"""Where a vector database is: an address as a user gives it, checked."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from clipsearch.errors import OptionError

TOKEN_VARIABLE = "CLIPSEARCH_MILVUS_TOKEN"
_FORMS = "./vectors.db or http://HOST:19530"


@dataclass(frozen=True)
class DatabasePlace:
    """A Milvus server, or a file of milvus-lite.

    uri : ``http://HOST:PORT``, ``https://...``, or the path of a ``.db`` file. token : what the
    server asks for; "" for none. It is never printed or kept.
    """

    uri: str
    token: str = field(default="", repr=False)

    @property
    def file(self) -> Path | None:
        """The file of milvus-lite; None for a server."""
        return None if "://" in self.uri else Path(self.uri)

    @property
    def is_here(self) -> bool:
        """Whether no network is needed to reach it."""
        host = urlsplit(self.uri).hostname or ""
        return self.file is not None or host == "localhost" or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def database_place(text: str, token: str = "") -> DatabasePlace:
    """The place that ``text`` names. Raises OptionError for what is none, and for an address with
    a password in it: those end in logs and in the history of a shell."""
    text = text.strip()
    if "://" not in text:
        if not text.endswith(".db") or len(text) < 4 or "\0" in text:
            raise _no_place(text)
        return DatabasePlace(text, "")
    try:
        parts = urlsplit(text)
    except ValueError:  # half an IPv6 address, or letters that stand for others
        raise _no_place(text) from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise OptionError(
            f"the address of Milvus has a password in it, or more than an address: put the token, "
            f"or NAME:PASSWORD, into {TOKEN_VARIABLE} and leave it out of the address"
        )
    if parts.scheme not in ("http", "https") or not re.fullmatch(
        r"[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?", parts.netloc
    ):
        raise _no_place(text)
    return DatabasePlace(text, token)


def _no_place(text: str) -> OptionError:
    got = "something else" if "@" in text else repr(text)  # before it may be a password
    return OptionError(f"expected a Milvus address such as {_FORMS}, got {got}")
