"""CLIP's tokenizer without torch: exactly the tokens that open_clip's ``SimpleTokenizer`` gives.

Text is mended (ftfy), HTML entities are resolved, white space is collapsed, case is dropped; what
is left is split into words, and byte pairs of each word are merged in the order in which they
were learnt (Sennrich et al. 2016, https://aclanthology.org/P16-1162). The table of merges is
open_clip's own: ``text_tower_export`` takes it from the tokenizer that it stands for.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

UInt16 = npt.NDArray[np.uint16]

START, END = "<start_of_text>", "<end_of_text>"
_SHORT_FORMS = "'s|'t|'re|'ve|'m|'ll|'d"
_PLAIN_WORDS = re.compile(rf"{START}|{END}|{_SHORT_FORMS}|[a-z]+|[0-9]|[^\sa-z0-9]+")
# Printable ASCII without an ampersand is what ftfy and html.unescape leave as it is.
_PLAIN = re.compile(r"[ -%'-~\t\n]*")
_WORDS_REMEMBERED = 2**14


@dataclass(frozen=True)
class TokenTable:
    """What a tokenizer of this kind knows.

    merges : (m, 3) uint16, rising in the last column: two tokens, and the one they make; the
        lower that is, the sooner they merge. letters : (2, 256) uint16, the token of a byte within
        a word, and at its end. start, end : what stands around a text.
        context_length : tokens of the longest text, those two among them.
    """

    merges: UInt16
    letters: UInt16
    start: int
    end: int
    context_length: int

    def __post_init__(self) -> None:
        made = self.merges[:, 2].astype(np.int64) if self.merges.ndim == 2 else np.zeros(0)
        if (
            self.merges.dtype != np.uint16
            or self.merges.shape[1:] != (3,)
            or not bool((np.diff(made) > 0).all())
            or self.letters.dtype != np.uint16
            or self.letters.shape != (2, 256)
            or self.context_length < 2
        ):
            raise ValueError("expected rising merges (m, 3) and letters (2, 256), both uint16")


class ClipTokenizer:
    """Texts to tokens. Safe to call from threads."""

    def __init__(self, table: TokenTable) -> None:
        self._table = table
        first, second, made = (table.merges[:, i].astype(np.int64) for i in range(3))
        pairs: list[int] = (first << 16 | second).tolist()
        self._made: dict[int, int] = dict(zip(pairs, made.tolist(), strict=True))
        self._within: list[int] = table.letters[0].tolist()
        self._at_end: list[int] = table.letters[1].tolist()
        self._tokens_of = functools.lru_cache(_WORDS_REMEMBERED)(self._merge)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, from the start token to the end token; what is too long is cut."""
        table = self._table
        found = [table.start]
        for word in _words(text):
            if word in (START, END):
                found.append(table.start if word == START else table.end)
            else:
                found += self._tokens_of(word)
            if len(found) >= table.context_length:
                break
        return [*found[: table.context_length - 1], table.end]

    def _merge(self, word: str) -> tuple[int, ...]:
        data = word.encode("utf-8")
        tokens = [*(self._within[byte] for byte in data[:-1]), self._at_end[data[-1]]]
        made = self._made
        while len(tokens) > 1:
            pairs = [a << 16 | b for a, b in itertools.pairwise(tokens)]
            best = min(pairs, key=lambda pair: made.get(pair, 1 << 32))
            token = made.get(best)
            if token is None:
                break
            merged, place = [], 0
            while place < len(tokens):
                if place < len(pairs) and pairs[place] == best:
                    merged.append(token)
                    place += 2
                else:
                    merged.append(tokens[place])
                    place += 1
            tokens = merged
        return tuple(tokens)


def _words(text: str) -> list[str]:
    if _PLAIN.fullmatch(text):
        return _PLAIN_WORDS.findall(" ".join(text.split()).lower())
    import html

    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    words: list[str] = _any_words().findall(" ".join(text.split()).lower())
    return words


@functools.cache
def _any_words() -> Any:
    import regex  # type: ignore[import-untyped]  # it knows the classes of Unicode

    pattern = rf"{START}|{END}|{_SHORT_FORMS}|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
    return regex.compile(pattern, regex.IGNORECASE)
