"""What the HTML files that clipsearch writes share: templates, escaping, and policies by hash.

Each is one file that asks nothing of a network, with a policy in it that forbids that.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TEMPLATES = Path(__file__).parent / "templates"
_IMPORT = re.compile(r'^import \{[^}]*\} from "(\./[\w./]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=function |class |const )", re.MULTILINE)
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # the text around them


def page_pieces(name: str, **context: Any) -> Iterator[bytes]:
    """The template ``name`` filled in, as pieces of UTF-8."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for piece in environment.get_template(name).generate(**context):
        yield piece.encode("utf-8", "replace")


def template_text(name: str) -> str:
    """A style sheet or script that goes into a page as it is."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def script_of_modules(name: str) -> str:
    """A module and those that it imports as one script, for a page that is a single file.

    They are kept simple enough for that: a module imports by lines of ``import {...} from
    "./....js";`` at its beginning, exports by ``export`` before a declaration, and no two of them
    declare the same name.
    """
    pieces: dict[str, str] = {}

    def add(place: str) -> None:
        if place in pieces:
            return
        text = template_text(place)
        for imported in _IMPORT.findall(text):
            add(posixpath.normpath(posixpath.join(posixpath.dirname(place), imported)))
        pieces[place] = _EXPORT.sub("", _IMPORT.sub("", text))

    add(name)
    return "(() => {\n" + '"use strict";\n' + "".join(pieces.values()) + "})();\n"


def policy_hash(text: str) -> str:
    """What a Content-Security-Policy lets this one style sheet or script in by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def shown(text: str | os.PathLike[str]) -> str:
    """Text for a page: what is no text, or would turn the text around it, replaced."""
    plain = os.fspath(text).encode("utf-8", "replace").decode("utf-8")
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(letter) == "Cc" or letter in _TURNING
        else letter
        for letter in plain
    )


def data_block(document: object) -> str:
    """JSON that stands in a script element and cannot end it."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def image_address(jpeg: bytes) -> str:
    """A JPEG as the address of an image."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
