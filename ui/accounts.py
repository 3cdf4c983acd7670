"""Accounts of the page: passwords as Argon2 hashes, sessions on the server, attempts counted."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

LEAST_PASSWORD_LETTERS = 8
MOST_PASSWORD_LETTERS = 1_024

IDLE_SECONDS = 12 * 3600.0
SESSION_SECONDS = 7 * 24 * 3600.0
_MOST_SESSIONS = 1_000

_ATTEMPTS, _ATTEMPT_SECONDS = 5, 300.0
"""So many wrong passwords from one address in so many seconds."""
_ALL_ATTEMPTS = 60
"""The same, from all addresses together."""
_MOST_ADDRESSES = 10_000

_KNOWN_SECONDS = 300.0
_MOST_KNOWN = 256


class TooManyAttemptsError(Exception):
    """seconds : how long to wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = max(1, int(seconds + 0.999))


@dataclass
class _Session:
    name: str
    began: float
    used: float


class Accounts:
    """Who may log in, and who has. Safe for threads; sessions end with the process.

    accounts : (name, Argon2 hash) pairs.
    """

    def __init__(self, accounts: Iterable[tuple[str, str]]) -> None:
        from argon2 import PasswordHasher

        self._hasher = PasswordHasher()
        self._hashes = dict(accounts)
        # A name that is not known costs as much time as one that is.
        self._nobody = self._hasher.hash(secrets.token_urlsafe(16))
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._all_failures: deque[float] = deque(maxlen=_ALL_ATTEMPTS)
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._hashing = threading.Lock()  # one hash takes 64 MB

    def check_password(self, name: str, password: str, address: str) -> bool:
        """Whether the password is the account's; takes about 0.1 s.

        address : of whoever asks. Raises TooManyAttemptsError after too many wrong ones, before
        looking at the password.
        """
        from argon2.exceptions import InvalidHashError, VerificationError

        with self._hashing:  # the attempts of one after another, so that none slips past the count
            source = _source(address)
            self._check_attempts(source)
            stored = self._hashes.get(name)
            right = False
            if len(password) <= MOST_PASSWORD_LETTERS:
                try:
                    right = self._hasher.verify(stored or self._nobody, password)
                except (VerificationError, InvalidHashError):
                    right = False
            right = right and stored is not None
            self._count(source, right)
        return right

    def check_program(self, name: str, password: str, address: str) -> bool:
        """``check_password`` for a program that sends the password with each question: what was
        right is remembered for a few minutes, as a keyed digest."""
        digest = hmac.digest(self._key, f"{name}\0{password}".encode("utf-8", "replace"), "sha256")
        with self._lock:
            if self._known.get(digest, 0.0) > time.monotonic():
                return True
        right = self.check_password(name, password, address)
        if right:
            with self._lock:
                self._known[digest] = time.monotonic() + _KNOWN_SECONDS
                while len(self._known) > _MOST_KNOWN:
                    self._known.popitem(last=False)
        return right

    def begin_session(self, name: str) -> str:
        """The token of a new session: for the cookie, kept nowhere here but as a digest."""
        token = secrets.token_urlsafe(32)
        now = time.monotonic()
        with self._lock:
            self._sessions[_digest(token)] = _Session(name, now, now)
            while len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
        return token

    def session_name(self, token: str) -> str | None:
        """Whose session it is; None when there is none, or it is over."""
        now = time.monotonic()
        with self._lock:
            session = self._sessions.get(_digest(token))
            if session is None:
                return None
            if now - session.used > IDLE_SECONDS or now - session.began > SESSION_SECONDS:
                del self._sessions[_digest(token)]
                return None
            session.used = now
            return session.name

    def end_session(self, token: str) -> None:
        """Forget the session, if there is one."""
        with self._lock:
            self._sessions.pop(_digest(token), None)

    def _check_attempts(self, source: str) -> None:
        now = time.monotonic()
        with self._lock:
            ours = self._failures.get(source, deque())
            for failures, most in ((ours, _ATTEMPTS), (self._all_failures, _ALL_ATTEMPTS)):
                if len(failures) >= most:
                    wait = failures[-most] + _ATTEMPT_SECONDS - now
                    if wait > 0:
                        raise TooManyAttemptsError(wait)

    def _count(self, source: str, right: bool) -> None:
        with self._lock:
            if right:
                self._failures.pop(source, None)
                return
            now = time.monotonic()
            self._failures.setdefault(source, deque(maxlen=_ATTEMPTS)).append(now)
            self._failures.move_to_end(source)
            self._all_failures.append(now)
            while len(self._failures) > _MOST_ADDRESSES:
                self._failures.popitem(last=False)


def password_hash(password: str) -> str:
    """The Argon2id hash to keep instead of the password."""
    from argon2 import PasswordHasher

    return PasswordHasher().hash(password)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _source(address: str) -> str:
    # Whoever has one IPv6 address has as many as they like of the same network.
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped is None:
        return str(ipaddress.ip_network((number, 64), strict=False))
    return str(number)
