"""The text of an XMP sidecar: put keywords under ``clipsearch|`` in, and take them out again.

The keywords go where programs look for hierarchies: ``lr:hierarchicalSubject``
("clipsearch|dog": Lightroom, darktable, digiKam, Immich) and ``digiKam:TagsList``
("clipsearch/dog": digiKam and Immich, which read nothing else where it is there). The flat
``dc:subject`` is left alone: a "dog" of ours in it could not be told from one of the owner's.

A sidecar that is there already belongs to another program. The bytes to add are spliced into
it, so that everything else stays as it is, to the byte: unknown elements, prefixes, comments.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clipsearch.errors import OptionError, SidecarError
from clipsearch.xmp_source import (
    RDF,
    Edit,
    Element,
    Properties,
    add_properties,
    more_items,
    parse,
    property_source,
    spliced,
    to_utf8,
    without,
)

TOP_LEVEL = "clipsearch"
_MAX_KEYWORD = 200

_FLAT = "http://purl.org/dc/elements/1.1/ subject"

Levels = tuple[str, ...]
"""A keyword as its levels, top first: ("clipsearch", "dog")."""


@dataclass(frozen=True)
class _KeywordList:
    """A property that holds a list of keywords, and how one is written in it."""

    prefix: str
    uri: str
    name: str
    container: str  # digiKam itself writes a Seq, Lightroom a Bag
    separator: str

    @property
    def key(self) -> str:
        return f"{self.uri} {self.name}"

    def join(self, levels: Levels) -> str:
        other = "|" if self.separator == "/" else "/"
        return self.separator.join(level.replace(self.separator, other) for level in levels)

    def split(self, text: str) -> Levels:
        return tuple(part for part in text.split(self.separator) if part) or (text,)


_TAGS_LIST = _KeywordList("digiKam", "http://www.digikam.org/ns/1.0/", "TagsList", "Seq", "/")
_HIERARCHICAL = _KeywordList(
    "lr", "http://ns.adobe.com/lightroom/1.0/", "hierarchicalSubject", "Bag", "|"
)
_LISTS = (_TAGS_LIST, _HIERARCHICAL)

EMPTY_SIDECAR = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="clipsearch">\n'
    f' <rdf:RDF xmlns:rdf="{RDF}">\n'
    '  <rdf:Description rdf:about="">\n'
    "  </rdf:Description>\n"
    " </rdf:RDF>\n"
    "</x:xmpmeta>\n"
    '<?xpacket end="w"?>\n'
).encode()
"""A sidecar that says nothing: what a new one starts as."""


def clean_keyword(text: str) -> str:
    """``text`` as one level of a keyword: on one line, without what parts levels.

    ``|`` and ``/`` part levels in one program or another, so they become ``-``; control
    characters, and what XML cannot hold, become spaces. At most 200 characters are kept.
    Raises OptionError when nothing is left.
    """
    plain = text.encode("utf-8", "replace").decode("utf-8")
    plain = "".join(" " if _no_text(letter) else letter for letter in plain)
    plain = " ".join(re.sub(r"[|/\\]", "-", plain).split())
    kept = unicodedata.normalize("NFC", plain)[:_MAX_KEYWORD].strip()
    if not kept:
        raise OptionError(f"expected a keyword with letters in it, got {text!r}")
    return kept


def _no_text(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or (ord(letter) & 0xFFFE) == (
        0xFFFE
    )


def add_keywords(
    data: bytes | None, keywords: Sequence[str], photo_keywords: Iterable[str] = ()
) -> bytes:
    """The sidecar ``data`` with each of ``keywords`` below ``clipsearch``; a new one for None.

    keywords : cleaned, see ``clean_keyword``. photo_keywords : those in the photo itself.

    Programs read one list of keywords and no other, so a list that has to be made gets the
    owner's keywords too: from the best list of the sidecar, and in a new one from the photo.
    Returns ``data`` itself when it holds all of them already. Raises SidecarError for what is
    no sound XMP.
    """
    wanted = [(TOP_LEVEL, word) for word in dict.fromkeys(keywords)]
    text, back = to_utf8(EMPTY_SIDECAR if data is None else data)
    known = parse(text)
    theirs = _owners_keywords(known)
    if data is None:
        theirs = [(word,) for word in dict.fromkeys(photo_keywords) if word]
    edits: list[Edit] = []
    new = b""
    for target in _LISTS:
        held = _held(known, target)
        if held is None:
            words = [target.join(levels) for levels in dict.fromkeys([*theirs, *wanted])]
            new += property_source(target.uri, target.prefix, target.name, target.container, words)
        else:
            here = {item.text.strip() for item in held.items}
            words = [word for levels in wanted if (word := target.join(levels)) not in here]
            if words:
                edits.append(more_items(text, held, words))
    if new:
        edits.append(add_properties(text, known, new))
    result = spliced(text, edits)
    if data is not None and result == text:
        return data
    again = parse(result)
    for target in _LISTS:  # what was spliced is read back before anybody gets to see it
        found = {item.text.strip() for item in again.properties[target.key].items}
        if not found.issuperset(target.join(levels) for levels in wanted):
            raise SidecarError("its keywords could not be added to")
    return back(result)


def remove_keywords(data: bytes, keywords: Iterable[str]) -> bytes:
    """The sidecar ``data`` without these keywords below ``clipsearch``, all else untouched.

    A list that is empty then goes too. Returns ``data`` itself when it holds none of them.
    Raises SidecarError for what is no sound XMP.
    """
    ours = [(TOP_LEVEL, word) for word in keywords]
    text, back = to_utf8(data)
    known = parse(text)
    edits: list[Edit] = []
    for target in _LISTS:
        held = _held(known, target)
        if held is None:
            continue
        words = {target.join(levels) for levels in ours}
        going = [item for item in held.items if item.text.strip() in words]
        if going and len(going) == len(held.items):
            going = [held]
        edits += [without(text, element) for element in going]
    return back(spliced(text, edits)) if edits else data


def read_keywords(data: bytes) -> dict[str, tuple[str, ...]]:
    """The keywords of a sidecar: {"TagsList": ..., "hierarchicalSubject": ...}, as written there.

    Raises SidecarError.
    """
    known = parse(to_utf8(data)[0])
    return {
        target.name: tuple(item.text.strip() for item in known.properties[target.key].items)
        for target in _LISTS
        if target.key in known.properties
    }


def own_keywords(data: bytes) -> frozenset[str]:
    """Which keywords below ``clipsearch`` a sidecar holds in any of its lists."""
    return frozenset(
        levels[1]
        for target in _LISTS
        for text in read_keywords(data).get(target.name, ())
        if len(levels := target.split(text)) == 2 and levels[0] == TOP_LEVEL
    )


def _held(known: Properties, target: _KeywordList) -> Element | None:
    """The element of a list of keywords, None when there is none."""
    held = known.properties.get(target.key)
    no_list = held is not None and held.container is None and held.closing != held.opened
    if no_list or target.key in known.odd:
        raise SidecarError(f"its {target.name} is no list")
    return held


def _owners_keywords(known: Properties) -> list[Levels]:
    """The owner's keywords out of the best list that has any."""
    for target in _LISTS:
        if target.key in known.properties:
            found = [
                target.split(word)
                for item in known.properties[target.key].items
                if (word := item.text.strip())
            ]
            if theirs := [levels for levels in found if levels[0] != TOP_LEVEL]:
                return theirs
    flat = known.properties.get(_FLAT)
    return [(word,) for item in (flat.items if flat else []) if (word := item.text.strip())]
