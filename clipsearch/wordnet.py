"""WordNet's nouns, where its files are on disk: which word is broader than others.

Read from the files themselves (wndb(5WN)): ``index.noun`` is sorted, and ``data.noun`` is
addressed by byte offset, so both are mapped and nothing is loaded. WordNet is an option, never
required; ImageNet's synsets are offsets of its version 3.0.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsearch.errors import LabelError

_PLACES = (
    "/usr/share/wordnet",
    "/usr/local/share/wordnet",
    "/usr/local/WordNet-3.0/dict",
    "/opt/homebrew/opt/wordnet/dict",
    "/usr/local/opt/wordnet/dict",
    "C:/Program Files/WordNet/3.0/dict",
)
_CATEGORIES = {
    **{3: "tops", 4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body"},
    **{9: "cognition", 10: "communication", 11: "event", 12: "feeling", 13: "food", 14: "group"},
    **{15: "location", 16: "motive", 17: "object", 18: "person", 19: "phenomenon", 20: "plant"},
    **{21: "possession", 22: "process", 23: "quantity", 24: "relation", 25: "shape"},
    **{26: "state", 27: "substance", 28: "time"},
}
_ENDINGS = (
    *(("ches", "ch"), ("shes", "sh"), ("ses", "s"), ("xes", "x"), ("zes", "z")),
    *(("ies", "y"), ("men", "man"), ("s", "")),
)
_SENSES = 3  # of a word whose meaning is not known: rarer ones are seldom in photos
_DEEPEST = 64  # more than any path of WordNet; a damaged file could go in circles


@dataclass(frozen=True)
class Synset:
    """Words with one meaning. category : WordNet's lexicographer file, such as "animal".
    is_instance : it is one certain thing, such as the river Rhine."""

    offset: int
    category: str
    lemmas: tuple[str, ...]
    hypernyms: tuple[int, ...]
    gloss: str
    is_instance: bool


class WordNet:
    """The nouns of the WordNet in a folder. Safe for threads.

    damage : what was raised when the files turned out to be damaged, None as long as they do not.

    Raises LabelError where the files are missing, and whenever they turn out to be damaged.
    """

    damage: LabelError | None = None

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._index = self._mapped("index.noun")
        self._data = self._mapped("data.noun")
        self._known: dict[int, Synset] = {}

    def senses(self, word: str) -> tuple[int, ...]:
        """Offsets of the synsets of a noun, the most common meaning first; of its singular
        where the word itself is not there."""
        lemma = "_".join(word.lower().split())
        found = self._senses(lemma)
        for ending, instead in _ENDINGS:
            if found:
                break
            if lemma.endswith(ending) and len(lemma) > len(ending) + 1:
                found = self._senses(lemma.removesuffix(ending) + instead)
        return found

    def synset(self, offset: int) -> Synset:
        """The synset at an offset of ``data.noun``."""
        if offset not in self._known:
            self._known[offset] = self._read(offset)
        return self._known[offset]

    def nouns(self) -> Iterator[Synset]:
        """All synsets, in the order of the file."""
        start = 0
        while start < len(self._data):
            stop = self._data.find(b"\n", start)
            stop = len(self._data) if stop < 0 else stop
            if self._data[start : start + 1] not in (b" ", b""):
                yield self._parse(self._data[start:stop], start)
            start = stop + 1

    def ancestors(self, offset: int) -> dict[int, int]:
        """A synset and all that is broader: offset -> the least number of steps up to it."""
        steps = {offset: 0}
        edge = [offset]
        for step in range(1, _DEEPEST):
            edge = [up for here in edge for up in self.synset(here).hypernyms if up not in steps]
            if not edge:
                break
            steps.update(dict.fromkeys(edge, step))
        return steps

    def depth(self, offset: int) -> int:
        """How many steps a synset lies below the root, the longest way up."""
        longest = 0
        edge = {offset}
        while edge and longest < _DEEPEST:
            edge = {up for here in edge for up in self.synset(here).hypernyms}
            longest += bool(edge)
        return longest

    def meanings(self, word: str, offset: int | None = None) -> tuple[int, ...]:
        """What a word means here: the synset at ``offset`` where that is one of the word's
        (another version of WordNet has others there), or its commonest senses."""
        found = self.senses(word)
        return (offset,) if offset in found else found[:_SENSES]

    def similarity(self, one: Sequence[int], other: Sequence[int]) -> float:
        """Of the nearest meanings of two words, 0 to 1: twice the depth of what they have in
        common over the sum of their own (Wu and Palmer 1994, https://doi.org/10.3115/981732.981751).
        """
        best = 0.0
        for first in one:
            above = self.ancestors(first)
            for second in other:
                also = self.ancestors(second)
                for common in above.keys() & also.keys():
                    depth = self.depth(common) + 1
                    best = max(best, 2 * depth / (2 * depth + above[common] + also[common]))
        return best

    def _senses(self, lemma: str) -> tuple[int, ...]:
        wanted = lemma.encode("utf-8", "replace")  # a label may hold bytes that are no text
        low, high = 0, len(self._index) if lemma else 0
        while low < high:
            middle = (low + high) // 2
            start = self._index.rfind(b"\n", 0, middle) + 1
            stop = self._index.find(b"\n", middle)
            stop = len(self._index) if stop < 0 else stop
            line = self._index[start:stop]
            here = b"" if line.startswith(b" ") else line.split(b" ", 1)[0]
            if here == wanted:
                return self._offsets(line)
            low, high = (stop + 1, high) if here < wanted else (low, start)
        return ()

    def _offsets(self, line: bytes) -> tuple[int, ...]:
        """lemma pos synset_cnt p_cnt [ptr_symbol...] sense_cnt tagsense_cnt offset..."""
        try:
            fields = line.split()
            return tuple(map(int, fields[6 + int(fields[3]) :]))
        except (ValueError, IndexError):
            raise self._damaged() from None

    def _read(self, offset: int) -> Synset:
        if not 0 <= offset < len(self._data):
            raise self._damaged()
        stop = self._data.find(b"\n", offset)
        return self._parse(self._data[offset : len(self._data) if stop < 0 else stop], offset)

    def _parse(self, line: bytes, offset: int) -> Synset:
        """offset lex_filenum ss_type w_cnt [word lex_id...] p_cnt [ptr...] | gloss"""
        try:
            facts, _, gloss = line.decode("utf-8").partition(" | ")
            fields = facts.split()
            words = int(fields[3], 16)
            pointers = fields[4 + 2 * words :]
            if int(fields[0]) != offset or len(pointers) < 1 + 4 * int(pointers[0]):
                raise ValueError("no synset begins here")
            kinds = pointers[1 : 1 + 4 * int(pointers[0]) : 4]
            targets = pointers[2 : 2 + 4 * int(pointers[0]) : 4]
            up = [int(to) for kind, to in zip(kinds, targets, strict=True) if kind[0] == "@"]
            lemmas = tuple(word.replace("_", " ") for word in fields[4 : 4 + 2 * words : 2])
            category = _CATEGORIES[int(fields[1])]
            return Synset(offset, category, lemmas, tuple(up), gloss.strip(), "@i" in kinds)
        except (ValueError, IndexError, KeyError):
            raise self._damaged() from None

    def _mapped(self, name: str) -> mmap.mmap:
        try:
            with (self.folder / name).open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # an empty file cannot be mapped
            raise LabelError(
                f"expected WordNet's {name} in {self.folder}, found none that can be read: name "
                "the folder with index.noun and data.noun"
            ) from None

    def _damaged(self) -> LabelError:
        self.damage = LabelError(
            f"WordNet's files in {self.folder} are damaged: expected version 3.0 or 3.1, whole"
        )
        return self.damage


def find_wordnet(folder: str | Path | None = None) -> WordNet | None:
    """WordNet in ``folder``, or else where it usually is; None where it is in none of the usual
    places: the folders that WNSEARCHDIR and WNHOME name, and those of packages.

    Raises LabelError where a folder is named and WordNet is not there.
    """
    if folder is not None:
        return WordNet(folder)
    named = [os.environ.get("WNSEARCHDIR"), os.environ.get("WNHOME")]
    homes = [place for name in named if name for place in (name, os.path.join(name, "dict"))]
    for place in (*homes, *_PLACES):
        with contextlib.suppress(LabelError):
            return WordNet(place)
    return None


def open_wordnet(folder: str | Path | None = None) -> WordNet:
    """``find_wordnet``, and LabelError where there is none."""
    found = find_wordnet(folder)
    if found is None:
        raise LabelError(
            "expected WordNet on this machine, found none: install it (Debian and Ubuntu: "
            "'apt install wordnet-base'), or set WNSEARCHDIR to the folder of its index.noun"
        )
    return found
