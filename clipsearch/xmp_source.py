"""The source text of an XMP packet: where its parts stand, and edits that leave the rest alone.

An XML library would read the packet and write its own rendering of it. Here the parser is asked
only where elements begin and end; what is added is spliced into the bytes as they are.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

from clipsearch.errors import SidecarError

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
MAX_BYTES = 16 << 20
_DEEPEST = 200

_RDF_ROOT, _DESCRIPTION, _ITEM = (f"{RDF} {name}" for name in ("RDF", "Description", "li"))
_CONTAINERS = tuple(f"{RDF} {name}" for name in ("Bag", "Seq", "Alt"))


@dataclass
class Element:
    """Offsets of an element in the UTF-8 text: ``start`` < ``opened`` <= ``closing`` <= ``end``.

    ``<a/>`` is one tag, whose ``opened``, ``closing`` and ``end`` are the same. Of a property,
    ``container`` is its Bag, Seq or Alt, and ``items`` what is listed there.
    """

    name: str
    start: int
    opened: int = 0
    closing: int = 0
    end: int = 0
    text: str = ""
    items: list[Element] = field(default_factory=list)
    container: Element | None = None
    last_child_end: int = 0


@dataclass
class Properties:
    """What ``parse`` found: the rdf:RDF, its top descriptions, their properties by "uri name".

    odd : properties that are written as attributes, or whose element has any: no lists.
    """

    rdf: Element
    descriptions: list[Element]
    properties: dict[str, Element]
    odd: set[str]


@dataclass(frozen=True)
class Edit:
    """Put ``replacement`` where ``start`` to ``end`` stands."""

    start: int
    end: int
    replacement: bytes


_TAG = re.compile(rb"<[^\s/>]+(?:\s+[^\s=]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*/?>")


def parse(text: bytes) -> Properties:
    """Find the top descriptions and their properties in UTF-8 ``text``.

    Raises SidecarError for what is no XML, has a document type, or no one rdf:RDF.
    """
    parser = expat.ParserCreate("utf-8", " ")
    stack: list[Element] = []
    roots: list[Element] = []
    descriptions: list[Element] = []
    properties: dict[str, Element] = {}
    odd: set[str] = set()

    def start(name: str, attributes: dict[str, str]) -> None:
        tag = _TAG.match(text, parser.CurrentByteIndex)
        if tag is None or len(stack) > _DEEPEST:
            raise SidecarError("it holds a tag that is not understood")
        element = Element(name, tag.start(), tag.end(), tag.end(), tag.end())
        depth = next((at for at, above in enumerate(stack) if above.name == _RDF_ROOT), None)
        if depth is None:
            if name == _RDF_ROOT:
                roots.append(element)
        elif len(stack) == depth + 1 and name == _DESCRIPTION:
            descriptions.append(element)
            odd.update(attributes)
        elif len(stack) == depth + 2 and stack[-1] in descriptions:
            properties.setdefault(name, element)
            if attributes:  # rdf:parseType, rdf:resource
                odd.add(name)
        elif len(stack) == depth + 3 and name in _CONTAINERS:
            stack[-1].container = element
        elif len(stack) == depth + 4 and name == _ITEM and stack[-1].name in _CONTAINERS:
            stack[-2].items.append(element)
        stack.append(element)

    def end(_: str) -> None:
        element = stack.pop()
        if not text.endswith(b"/>", 0, element.opened):
            element.closing = parser.CurrentByteIndex
            element.end = text.index(b">", element.closing) + 1
        if stack:
            stack[-1].last_child_end = element.end

    def characters(data: str) -> None:
        if stack:
            stack[-1].text += data

    def doctype(*_: object) -> None:
        raise SidecarError("it holds a document type, which no sidecar needs")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise SidecarError(f"it is no XML ({error})") from None
    if len(roots) != 1:
        raise SidecarError("it is no XMP: there is no rdf:RDF in it, or several")
    return Properties(roots[0], descriptions, properties, odd)


def property_source(uri: str, prefix: str, name: str, container: str, words: list[str]) -> bytes:
    """A property that holds ``words`` as a "Bag" or "Seq", to be put into a description."""
    indent = b"\n   "
    items = b"".join(
        indent + b"  <rdf:li>" + escape(word).encode() + b"</rdf:li>" for word in words
    )
    tag, kind = f"{prefix}:{name}".encode(), container.encode()
    # Prefixes are declared on the spot: whatever they mean elsewhere in the file stays.
    return (
        indent + b"<" + tag + f' xmlns:{prefix}="{uri}" xmlns:rdf="{RDF}">'.encode()
        + indent + b" <rdf:" + kind + b">" + items
        + indent + b" </rdf:" + kind + b">" + indent + b"</" + tag + b">"
    )  # fmt: skip


def add_properties(text: bytes, known: Properties, sources: bytes) -> Edit:
    """Put properties into the first description; into one of its own where there is none."""
    if not known.descriptions:
        about = f'\n  <rdf:Description xmlns:rdf="{RDF}" rdf:about="">'.encode()
        return _into(text, known.rdf, about + sources + b"\n  </rdf:Description>")
    return _into(text, known.descriptions[0], sources)


def more_items(text: bytes, held: Element, words: list[str]) -> Edit:
    """Put more words behind those that a list property holds."""
    container = held.container
    if container is None:  # <lr:hierarchicalSubject/>
        items = b"".join(b"<rdf:li>" + escape(word).encode() + b"</rdf:li>" for word in words)
        bag = f'<rdf:Bag xmlns:rdf="{RDF}">'.encode() + items + b"</rdf:Bag>"
        return _into(text, held, bag)
    prefix = _tag_name(text, container)[: -len(container.name.split(" ")[1])]
    tag = prefix + b"li"
    indent = _indent(text, held.items[-1].start) if held.items else b""
    items = b"".join(
        indent + b"<" + tag + b">" + escape(word).encode() + b"</" + tag + b">" for word in words
    )
    return _into(text, container, items)


def _into(text: bytes, element: Element, content: bytes) -> Edit:
    """Put ``content`` behind the last child of ``element``; ``<a/>`` is opened for it."""
    if text.endswith(b"/>", 0, element.opened):
        name = _tag_name(text, element)
        return Edit(
            element.opened - 2, element.opened, b">" + content + b"</" + name + b">"
        )  # fmt: skip
    place = element.last_child_end or element.opened
    return Edit(place, place, content)


def _tag_name(text: bytes, element: Element) -> bytes:
    found = re.match(rb"<([^\s/>]+)", text[element.start : element.opened])
    assert found is not None
    return found[1]


def _indent(text: bytes, position: int) -> bytes:
    """The line break and blanks right before ``position``; nothing when there is other text."""
    found = re.search(rb"\r?\n[ \t]*\Z", text[max(0, position - 500) : position])
    return found[0] if found else b""


def without(text: bytes, element: Element) -> Edit:
    """Take an element out, and the line break before it."""
    return Edit(element.start - len(_indent(text, element.start)), element.end, b"")


def spliced(text: bytes, edits: Iterable[Edit]) -> bytes:
    """``text`` with the edits, none of which may touch another."""
    parts, at = [], 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        parts += [text[at : edit.start], edit.replacement]
        at = edit.end
    return b"".join([*parts, text[at:]])


# -- bytes of other encodings ----------------------------------------------------------------

_DECLARED = re.compile(rb"\A<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._:-]+)[\"']")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def to_utf8(data: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    """``data`` as UTF-8 without a byte order mark, and what makes the original form again.

    Raises SidecarError for bytes that are not what they say they are, or too many.
    """
    if len(data) > MAX_BYTES:
        raise SidecarError(f"it is larger than {MAX_BYTES >> 20} MiB")
    mark, encoding = next(((m, e) for m, e in _MARKS if data.startswith(m)), (b"", ""))
    if not encoding:
        declared = _DECLARED.match(data)
        encoding = declared[1].decode("ascii") if declared else "utf-8"
        if data[:4].count(0) >= 2:
            encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    try:
        text = data[len(mark) :].decode(encoding)
        if mark + text.encode(encoding) != data:
            raise SidecarError(f"its encoding {encoding} does not lead back to the same bytes")
    except (LookupError, UnicodeError):
        raise SidecarError(f"it is not the {encoding} it says it is") from None

    def back(changed: bytes) -> bytes:
        return mark + changed.decode("utf-8").encode(encoding, "xmlcharrefreplace")

    return text.encode("utf-8"), back
