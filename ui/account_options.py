"""The accounts that ``clipsearch ui`` is started with: asked for, or read from a file."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from clipsearch.errors import OptionError
from ui.accounts import LEAST_PASSWORD_LETTERS, MOST_PASSWORD_LETTERS, password_hash

PASSWORD_VARIABLE = "CLIPSEARCH_UI_PASSWORD"

_NAME = re.compile(r"[^\s:/\\<>\"'&]{1,100}")
_MOST_FILE_BYTES = 1 << 20


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def asked_accounts(names: Sequence[str], file: Path | None) -> tuple[tuple[str, str], ...]:
    """(name, hash) of everybody who may log in.

    names : to ask a password for, unless the file has them. Raises OptionError when a name or
    password will not do, when there is no terminal to ask on, or the file is no such file.
    """
    accounts = read_accounts(file) if file is not None and (file.exists() or not names) else {}
    missing = [name for name in dict.fromkeys(names) if name not in accounts]
    for name in missing:
        if not _NAME.fullmatch(name):
            raise OptionError(f"--auth: {name!r} will not do as a name: letters and digits will")
    for name in missing:
        accounts[name] = password_hash(_asked_password(name))
    if file is not None and missing:
        _add_accounts(file, {name: accounts[name] for name in missing})
    return tuple(accounts.items())


def read_accounts(file: Path) -> dict[str, str]:
    """The accounts of a file: lines of ``name:hash``, the hashes of Argon2; # begins a remark."""
    from argon2 import extract_parameters
    from argon2.exceptions import InvalidHashError

    try:
        if file.stat().st_size > _MOST_FILE_BYTES:
            raise OptionError(f"--auth-file: {file} is too large for a list of names")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise OptionError(f"--auth-file: cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"--auth-file: {file} is no text") from error
    accounts = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, _, kept = line.partition(":")
        try:
            extract_parameters(kept)
        except InvalidHashError:
            # The line is not quoted: it may well hold a password.
            raise OptionError(
                f"--auth-file: line {number} of {file} is not name:hash with a hash of Argon2; "
                "'--auth NAME --auth-file FILE' writes such lines"
            ) from None
        if not _NAME.fullmatch(name):
            raise OptionError(f"--auth-file: the name in line {number} of {file} will not do")
        accounts[name] = kept
    if not accounts:
        raise OptionError(f"--auth-file: {file} names nobody: add --auth NAME")
    return accounts


def _asked_password(name: str) -> str:
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is None:
        if not sys.stdin.isatty():
            raise OptionError(
                f"--auth {name} needs a password, and there is no terminal to ask for it: set "
                f"{PASSWORD_VARIABLE}"
            )
        password = click.prompt(
            f"Password for {name}", hide_input=True, confirmation_prompt=True, err=True
        )
    if len(password) < LEAST_PASSWORD_LETTERS:
        raise OptionError(f"a password of at least {LEAST_PASSWORD_LETTERS} letters is needed")
    if len(password) > MOST_PASSWORD_LETTERS:
        raise OptionError(f"a password of at most {MOST_PASSWORD_LETTERS:,} letters is needed")
    return str(password)


def _add_accounts(file: Path, accounts: dict[str, str]) -> None:
    lines = "".join(f"{name}:{kept}\n" for name, kept in accounts.items())
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        if before and not before.endswith("\n"):
            lines = "\n" + lines
        place = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(place, "a", encoding="utf-8") as stream:
            stream.write(lines)
        with contextlib.suppress(OSError):
            file.chmod(0o600)
    except OSError as error:
        raise OptionError(f"--auth-file: cannot write {file}: {error.strerror}") from error
