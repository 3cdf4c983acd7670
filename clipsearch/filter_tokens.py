"""A filter's text, cut into quoted texts, words and signs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from clipsearch.errors import FilterError
from clipsearch.filter_fields import shown

MAX_LENGTH = 200_000
"""Characters of a filter."""

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<quoted>"(?:[^"]|"")*"|'(?:[^']|'')*'|“[^”]*”)
    | (?P<sign>!=|<=|>=|!~|=|<|>|~|\.\.|\(|\)|,)
    | (?P<word>(?:(?!\.\.)[^\s"'“”()<>=!~,])+)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Token:
    """A quoted text, a word, a sign, or the end; where it begins, counted from 1."""

    kind: str
    text: str
    position: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else shown(self.text)

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.lower() in words

    def is_sign(self, *signs: str) -> bool:
        return self.kind == "sign" and self.text in signs


def read_tokens(text: str) -> list[Token]:
    """The tokens of a text, the end last; FilterError for a quote that is never closed, a
    character that has no meaning, and more than MAX_LENGTH of them."""
    if len(text) > MAX_LENGTH:
        raise FilterError(f"expected a filter of at most {MAX_LENGTH:,} characters")
    tokens: list[Token] = []
    place, end = 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            place += len(text[place:]) - len(text[place:].lstrip())
            if text[place] in "\"'“":
                raise FilterError(f"the quote {text[place]} is never closed", place + 1)
            raise FilterError(f"a {text[place]} cannot stand here", place + 1)
        kind = str(match.lastgroup)
        content = match[kind]
        if kind == "quoted":
            quote = content[0]
            content = content[1:-1].replace(quote * 2, quote) if quote != "“" else content[1:-1]
        tokens.append(Token(kind, content, match.start(kind) + 1))
        place = match.end()
    return [*tokens, Token("end", "", len(text) + 1)]


@contextlib.contextmanager
def located(token: Token) -> Iterator[None]:
    """What goes wrong inside goes wrong at this token."""
    try:
        yield
    except FilterError as error:
        if error.position is not None:
            raise
        raise FilterError(str(error), token.position) from None
