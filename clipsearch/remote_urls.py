"""URLs of object storage: ``s3://bucket/prefix``, ``gs://`` and ``az://``, told from folders.

Nothing here opens a connection or needs ``obstore``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from clipsearch.errors import OptionError

SCHEMES = ("s3", "gs", "az")
# A Path makes one slash of two, and what it was made from is meant all the same.
_URL = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,2}}(.*)", re.DOTALL)
_ANY_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9$._-]{0,254}")
_CURE = "expected s3://bucket/folder, gs://bucket/folder or az://container/folder"


@dataclass(frozen=True)
class RemoteUrl:
    """A place in object storage. prefix : without slashes at its ends; "" is the whole bucket."""

    scheme: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @property
    def name(self) -> str:
        """The last part, as of a folder."""
        return self.prefix.rpartition("/")[2] or self.bucket


def is_remote(text: object) -> bool:
    """Whether a text, or a Path that was made of one, is a URL of object storage."""
    return _URL.match(str(text)) is not None


def refuse_other_urls(text: str) -> None:
    """OptionError for ``http://...``, ``S3://...`` and the like, which would be folders of a
    strange name."""
    match = _ANY_URL.match(text)
    if match is not None and not is_remote(text):  # the rest may hold a secret
        raise OptionError(f"{match[1]}:// is no object storage that is known here: {_CURE}")


def parse_url(text: object) -> RemoteUrl:
    """The parts of a URL of object storage.

    Raises OptionError for one without a bucket, with parts that no key can have, and for one
    with a user or a password in it: those come from the environment alone.
    """
    match = _URL.fullmatch(str(text))
    if match is None:
        raise OptionError(f"{text} is no URL of object storage: {_CURE}")
    bucket, _, rest = match[2].partition("/")
    if "@" in bucket or ":" in bucket:  # nothing of it is repeated: it may be a secret
        raise OptionError(
            f"a {match[1]}:// URL takes no user, password or port: credentials come from the "
            f"environment (AWS_*, GOOGLE_*, AZURE_*); {_CURE}"
        )
    if _BUCKET.fullmatch(bucket) is None:
        raise OptionError(f"{text} names no bucket: {_CURE}")
    parts = [part for part in rest.split("/") if part]
    if any(part in (".", "..") or "\0" in part for part in parts):
        raise OptionError(f"{text} has parts that no folder of a bucket can have: {_CURE}")
    return RemoteUrl(match[1], bucket, "/".join(parts))


def join_url(url: object, name: str) -> str:
    """The URL of the file ``name`` below ``url``."""
    return f"{str(url).rstrip('/')}/{name}" if name else str(url)
