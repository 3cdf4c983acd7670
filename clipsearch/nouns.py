"""Vocabularies of nouns: what things can be called when nobody has said so.

The default comes with two dependencies: the nouns of ImageNet-21k that are pictured often (timm
lists their synsets; none is a slur, which the full list has many of), and the project's own
everyday words. A word of many captions is a better name than one that only a botanist knows:
how *familiar* a word is follows from its place in CLIP's tokenizer, which learnt its words from
captions, and from whether it is among the everyday words or the names of ImageNet-1k.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsearch.background_words import background_words
from clipsearch.errors import LabelError, MissingExtraError
from clipsearch.prompts import text_lines
from clipsearch.query_language import word_ranks
from clipsearch.wordnet import WordNet, open_wordnet

IMAGENET, WORDNET = "imagenet", "wordnet"
VOCABULARIES = (IMAGENET, WORDNET)
"""The vocabularies that have a name; any other is a file."""

_PICTURED = "imagenet21k_miil_w21_synsets.txt"  # the cleaned winter release, 500 pictures or more
_ONE_THOUSAND = "imagenet_synsets.txt"
_LEMMAS = "imagenet_synset_to_lemma.txt"
_MEANINGS = "imagenet_synset_to_definition.txt"
_MAY_BE_SHOWN = ("animal", "artifact", "body", "food", "object", "phenomenon", "plant", "substance")
_RUDE = re.compile(r"\b(slur|offensive|disparag|derogat|obscene|vulgar|contempt|insult)")
_OF_A_FAMILY = re.compile(
    r"(^(genus|family|order|class|phylum|subfamily|superfamily) )|(aceae|idae)$"
)
_BINOMIAL = re.compile(r"([A-Z][a-z]+) ([a-z]+(?:us|a|um|is|i|ae|ens|ans|e|es|r|x))( [a-z]+)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PART = re.compile(r"[^\W\d_]+")
_MOST_WORDS = 100_000  # their vectors are held at once: 200 MB at 512 numbers each
_COMMON_RANK = 1000  # beyond it a word loses as much for each doubling of its place


@dataclass(frozen=True)
class Vocabulary:
    """name : what ``read_vocabulary`` finds it by. words : no two alike. familiarity : how
    everyday each is, 0 to 1; none where nothing is to be preferred. synsets : the WordNet 3.0
    noun that each means, None where it is not known.
    """

    name: str
    words: tuple[str, ...]
    familiarity: tuple[float, ...] = ()
    synsets: tuple[int | None, ...] = ()

    def __len__(self) -> int:
        return len(self.words)


def read_vocabulary(
    source: str | Path = IMAGENET, *, wordnet: str | Path | None = None
) -> Vocabulary:
    """The vocabulary called ``source``, or the words of a file, one a line.

    source : "imagenet" (some 10,000 nouns), "wordnet" (some 27,000, where WordNet is on disk) or
    the path of a UTF-8 text file; blank lines and lines that begin with # are passed over, and a
    word that is there twice counts once. wordnet : WordNet's folder, None for the usual places.

    Raises LabelError for a file that is missing, empty, too long or no text, and where WordNet
    is asked for and not found; MissingExtraError where timm is not installed.
    """
    if source == IMAGENET:
        return imagenet_vocabulary()
    if source == WORDNET:
        return wordnet_vocabulary(open_wordnet(wordnet))
    path = Path(source)
    if not path.is_file() and path.name == str(source) and "." not in path.name:
        raise LabelError(
            f"expected a vocabulary as {', '.join(VOCABULARIES)} or a file of words, one a line; "
            f"got {str(source)!r}"
        )
    words = tuple(_different(text_lines(path, "words")))
    if not words:
        raise LabelError(f"{path} holds no words: expected one a line")
    if len(words) > _MOST_WORDS:
        raise LabelError(
            f"expected at most {_MOST_WORDS:,} words in a vocabulary, got {len(words):,} in "
            f"{path}: leave out those that no photo shows"
        )
    return Vocabulary(str(path.absolute()), words)


def imagenet_vocabulary() -> Vocabulary:
    """The default. Raises MissingExtraError where timm is not installed or has no such lists."""
    lemmas = dict(line.split("\t", 1) for line in _timm_lines(_LEMMAS) if "\t" in line)
    thousand = _timm_lines(_ONE_THOUSAND)
    meanings: dict[str, int | None] = dict.fromkeys(background_words())
    everyday = set(meanings)
    known = {word.casefold() for word in meanings}
    for wanted, is_everyday in ((thousand, True), (_timm_lines(_PICTURED), False)):
        for synset in wanted:
            word = _first_readable(lemmas.get(synset, "").split(","))
            if word is None:
                continue
            if is_everyday:
                everyday.add(word)
            if word.casefold() not in known:
                known.add(word.casefold())
                meanings[word] = int(synset[1:])
    return _with_familiarity(IMAGENET, meanings, everyday)


def pictured_synsets() -> list[tuple[int, tuple[str, ...], str]]:
    """The nouns of ImageNet-21k that are pictured often: offset in WordNet 3.0, lemmas, what
    they mean.

    Raises MissingExtraError where timm is not installed or has no such lists.
    """
    lemmas = dict(line.split("\t", 1) for line in _timm_lines(_LEMMAS) if "\t" in line)
    meanings = dict(line.split("\t", 1) for line in _timm_lines(_MEANINGS) if "\t" in line)
    return [
        (
            int(synset[1:]),
            tuple(lemma.strip() for lemma in lemmas[synset].split(",")),
            meanings.get(synset, ""),
        )
        for synset in _timm_lines(_PICTURED)
        if synset in lemmas
    ]


def wordnet_vocabulary(wordnet: WordNet) -> Vocabulary:
    """Nouns of WordNet that can be seen in a photo, people aside: those are the everyday words'
    men, women and children."""
    meanings: dict[str, int | None] = dict.fromkeys(background_words())
    everyday = set(meanings)
    known = {word.casefold() for word in meanings}
    for synset in wordnet.nouns():
        if synset.category not in _MAY_BE_SHOWN or synset.is_instance:
            continue
        if _RUDE.search(synset.gloss) or _is_group(wordnet, synset.offset):
            continue
        word = _first_readable(synset.lemmas)
        if word is not None and word.casefold() not in known:
            known.add(word.casefold())
            meanings[word] = synset.offset
    return _with_familiarity(WORDNET, meanings, everyday)


def _is_group(wordnet: WordNet, offset: int) -> bool:
    """Whether a synset is a genus, a family and the like, and no animal or plant."""
    return any(wordnet.synset(up).category == "group" for up in wordnet.ancestors(offset))


def commonness(word: str) -> float:
    """How often captions use a word, 0 to 1; of several words the rarest counts. 0 for one that
    CLIP's tokenizer has to read in pieces."""
    ranks = word_ranks()
    unknown = len(ranks)
    places = [
        min(ranks.get(part, unknown), ranks.get(part.removesuffix("s"), unknown))
        for part in _PART.findall(word.lower())
    ]
    if not places or not unknown:
        return 0.0
    most = math.log2(1 + unknown / _COMMON_RANK)
    return 1 - math.log2(1 + max(places) / _COMMON_RANK) / most


def _with_familiarity(name: str, meanings: dict[str, int | None], everyday: set[str]) -> Vocabulary:
    familiarity = [(commonness(word) + (word in everyday)) / 2 for word in meanings]
    return Vocabulary(name, tuple(meanings), tuple(familiarity), tuple(meanings.values()))


def _different(words: Iterable[str]) -> Iterator[str]:
    """Words without control characters, and without those that differ from an earlier one only
    in case or spaces."""
    seen = {""}
    for word in words:
        plain = " ".join(_CONTROL.sub(" ", word).split())
        if plain.casefold() not in seen:
            seen.add(plain.casefold())
            yield plain


def _first_readable(lemmas: Sequence[str]) -> str | None:
    """The first lemma that is no Latin and no number."""
    plain = (lemma.strip() for lemma in lemmas)
    return next((lemma for lemma in plain if _is_readable(lemma)), None)


def _is_readable(lemma: str) -> bool:
    if len(lemma) < 2 or any(letter.isdigit() for letter in lemma) or _OF_A_FAMILY.search(lemma):
        return False
    latin = _BINOMIAL.fullmatch(lemma)
    return latin is None or any(part.lower() in word_ranks() for part in latin.groups()[:2] if part)


def _timm_lines(name: str) -> list[str]:
    """Lines of a list that comes with timm, which is not imported for it: torch would come too."""
    spec = importlib.util.find_spec("timm")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        try:
            text = Path(folder, "data", "_info", name).read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        return [line.strip() for line in text.splitlines() if line.strip()]
    raise MissingExtraError(
        f"expected timm with its lists of ImageNet for the vocabulary {IMAGENET!r}, found none: "
        "'pip install timm', or name a file with a word a line"
    )
