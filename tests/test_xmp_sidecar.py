"""The text of XMP sidecars: what goes in, what stays, what comes out again."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from clipsearch.errors import OptionError, SidecarError
from clipsearch.xmp_sidecar import (
    EMPTY_SIDECAR,
    add_keywords,
    clean_keyword,
    own_keywords,
    read_keywords,
    remove_keywords,
)

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

DARKTABLE = f"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="{_RDF}">
  <!-- a remark of its owner's -->
  <rdf:Description rdf:about=""
    xmlns:exif="http://ns.adobe.com/exif/1.0/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:darktable="http://darktable.sf.net/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/"
    xmlns:mine='http://example.org/mine#'
   exif:DateTimeOriginal="2019:05:01 12:00:00"
   xmp:Rating='4'
   mine:note="a &gt; b &#10; c"
   darktable:xmp_version="5"
   darktable:raw_params="0">
   <darktable:history>
    <rdf:Seq>
     <rdf:li
      darktable:num="0"
      darktable:operation="exposure"
      darktable:params="gz12eJxjYGBgkGAAgRNODGiAEV0AJ2iwh+CRxQcA5qIZBA=="/>
    </rdf:Seq>
   </darktable:history>
   <dc:subject>
    <rdf:Bag>
     <rdf:li>dog</rdf:li>
     <rdf:li>holiday</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <lr:hierarchicalSubject>
    <rdf:Bag>
     <rdf:li>animals|dog</rdf:li>
     <rdf:li>holiday</rdf:li>
    </rdf:Bag>
   </lr:hierarchicalSubject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
""".encode()


def exiftool(path: Path) -> dict[str, Any]:
    """What exiftool reads in a file."""
    program = shutil.which("exiftool")
    if program is None:
        pytest.skip("exiftool is not installed")
    done = subprocess.run(
        [program, "-j", "-G1", "-struct", "-XMP:all", str(path)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (tags,) = json.loads(done.stdout)
    assert isinstance(tags, dict)
    return {name: value for name, value in tags.items() if name.startswith("XMP")}


def edit_with_exiftool(path: Path, *changes: str) -> None:
    """Let exiftool, which writes a sidecar anew in its own style, change one."""
    program = shutil.which("exiftool")
    if program is None:
        pytest.skip("exiftool is not installed")
    subprocess.run([program, "-overwrite_original", *changes, str(path)], check=True)


def test_exiftool_reads_a_new_sidecar(tmp_path: Path) -> None:
    words = ["dog", "a <b> & \"c\" 'd'", "Grüße 🐕", "]]>"]
    (tmp_path / "a.xmp").write_bytes(add_keywords(None, words, ["sea", "sea"]))
    tags = exiftool(tmp_path / "a.xmp")
    assert tags["XMP-lr:HierarchicalSubject"] == ["sea", *(f"clipsearch|{word}" for word in words)]
    assert tags["XMP-digiKam:TagsList"] == ["sea", *(f"clipsearch/{word}" for word in words)]
    assert not any(name.startswith("XMP-dc") for name in tags)


def test_all_else_in_a_sidecar_stays_to_the_byte(tmp_path: Path) -> None:
    result = add_keywords(DARKTABLE, ["dog"])
    rest = iter(result.splitlines(keepends=True))
    assert all(line in rest for line in DARKTABLE.splitlines(keepends=True))  # in this order
    before, after = tmp_path / "before.xmp", tmp_path / "after.xmp"
    before.write_bytes(DARKTABLE)
    after.write_bytes(result)
    old, new = exiftool(before), exiftool(after)
    assert new.pop("XMP-lr:HierarchicalSubject") == ["animals|dog", "holiday", "clipsearch|dog"]
    # digiKam looks at this list alone, so it would lose sight of the others.
    assert new.pop("XMP-digiKam:TagsList") == ["animals/dog", "holiday", "clipsearch/dog"]
    del old["XMP-lr:HierarchicalSubject"]
    assert new == old
    assert add_keywords(result, ["dog"]) is result


def test_flat_keywords_of_the_owner_stay_in_sight() -> None:
    start = DARKTABLE.index(b"   <lr:hierarchicalSubject>")
    end = DARKTABLE.index(b"  </rdf:Description>")
    held = read_keywords(add_keywords(DARKTABLE[:start] + DARKTABLE[end:], ["cat"], ["photo's"]))
    assert held["hierarchicalSubject"] == ("dog", "holiday", "clipsearch|cat")
    assert held["TagsList"] == ("dog", "holiday", "clipsearch/cat")


@pytest.mark.parametrize(
    "description",
    [
        "<rdf:Description rdf:about='' xmlns:xmp='http://ns.adobe.com/xap/1.0/' xmp:Rating='3'/>",
        "<rdf:Description rdf:about=''><lr:hierarchicalSubject "
        "xmlns:lr='http://ns.adobe.com/lightroom/1.0/'/></rdf:Description>",
        "<rdf:Description rdf:about=''><lr:hierarchicalSubject "
        "xmlns:lr='http://ns.adobe.com/lightroom/1.0/'><rdf:Bag/></lr:hierarchicalSubject>"
        "</rdf:Description>",
        "<rdf:Description rdf:about='' xmlns:lr='http://example.org/other' lr:a='>/>'/>",
        f"<D:Description xmlns:D='{_RDF}'/><rdf:Description rdf:about='x'/>",
        "",
    ],
)
def test_every_form_of_a_description_takes_keywords(description: str) -> None:
    data = f"<rdf:RDF xmlns:rdf='{_RDF}'>{description}</rdf:RDF>".encode()
    result = add_keywords(data, ["dog", "cat"])
    ElementTree.fromstring(result)
    assert read_keywords(result) == {
        "TagsList": ("clipsearch/dog", "clipsearch/cat"),
        "hierarchicalSubject": ("clipsearch|dog", "clipsearch|cat"),
    }
    without = remove_keywords(result, ["dog", "cat"])
    assert read_keywords(without) == {}
    ElementTree.fromstring(without)


def test_rdf_may_be_the_default_namespace() -> None:
    data = (
        f"<RDF xmlns='{_RDF}'><Description><a:hierarchicalSubject "
        "xmlns:a='http://ns.adobe.com/lightroom/1.0/'><Bag><li>own</li></Bag>"
        "</a:hierarchicalSubject></Description></RDF>"
    ).encode()
    result = add_keywords(data, ["dog"])
    assert b"<li>own</li><li>clipsearch|dog</li></Bag>" in result
    assert read_keywords(result)["TagsList"] == ("own", "clipsearch/dog")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_the_encoding_stays(encoding: str) -> None:
    declared = "utf-16" if "16" in encoding else "utf-8" if "8-" in encoding else encoding
    text = DARKTABLE.decode().replace("UTF-8", declared).replace("remark", "Grüße")
    data = text.encode(encoding)
    result = add_keywords(data, ["Hündin 犬"])
    assert result[:2] == data[:2]
    assert own_keywords(result) == {"Hündin 犬"}
    assert "Grüße" in result.decode(encoding)
    assert own_keywords(remove_keywords(result, ["Hündin 犬"])) == set()


_BOMB = f"<!DOCTYPE a [<!ENTITY b 'xxxx'>]><rdf:RDF xmlns:rdf='{_RDF}'>&b;</rdf:RDF>"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no XML"),
        (b"\xff\xd8\xff\xe0 a photo", "is not the utf-8"),
        (DARKTABLE[:-40], "no XML"),
        (b"<a/>", "no XMP"),
        (_BOMB.encode(), "document type"),
        (_BOMB.encode("utf-16"), "document type"),
        (b"<?xml version='1.0' encoding='nonsense'?>" + DARKTABLE[39:], "nonsense"),
        (DARKTABLE.replace(b"UTF-8", b"UTF-16"), "utf-16|UTF-16"),
        (b" " * (17 << 20), "larger"),
        (
            DARKTABLE.replace(b"<rdf:Bag>", b"").replace(b"</rdf:Bag>", b""),
            "hierarchicalSubject is no list",
        ),
        (b"<a>" * 5000 + b"</a>" * 5000, "not understood"),
    ],
)
def test_what_is_no_sound_xmp_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(SidecarError, match=why):
        add_keywords(data, ["dog"])
    with pytest.raises(SidecarError):
        remove_keywords(data, ["dog"])


def test_only_these_keywords_come_out() -> None:
    full = add_keywords(DARKTABLE, ["dog", "cat", "holiday"])
    rest = remove_keywords(full, ["dog", "holiday"])
    assert read_keywords(rest) == {
        "TagsList": ("animals/dog", "holiday", "clipsearch/cat"),
        "hierarchicalSubject": ("animals|dog", "holiday", "clipsearch|cat"),
    }
    assert remove_keywords(rest, ["dog"]) is rest
    assert remove_keywords(add_keywords(None, ["dog", "cat"]), ["cat", "dog"]) == EMPTY_SIDECAR


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("  two \n dogs\t", "two dogs"),
        ("AC/DC | live\\now", "AC-DC - live-now"),
        ("a\x00b\x1b[31mc\u2028d\x85e", "a b [31mc d e"),
        ("bad \udcff byte", "bad ? byte"),
        ("\ufffe odd \U0001ffff", "odd"),
        ("e\u0301", "é"),
        ("🐕" * 300, "🐕" * 200),
    ],
)
def test_odd_characters_in_keywords(text: str, kept: str) -> None:
    assert clean_keyword(text) == kept
    assert own_keywords(add_keywords(None, [kept])) == {kept}


@pytest.mark.parametrize("text", ["", " \n", "\x00\x01"])
def test_a_keyword_has_letters(text: str) -> None:
    with pytest.raises(OptionError):
        clean_keyword(text)


@pytest.mark.parametrize(
    "body",
    [
        '<rdf:Description xmlns:lr="http://ns.adobe.com/lightroom/1.0/" '
        'lr:hierarchicalSubject="one"/>',
        '<rdf:Description xmlns:lr="http://ns.adobe.com/lightroom/1.0/">'
        '<lr:hierarchicalSubject rdf:parseType="Resource"/></rdf:Description>',
    ],
)
def test_keywords_that_are_no_list_are_not_added_to(body: str) -> None:
    sidecar = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f"{body}</rdf:RDF></x:xmpmeta>"
    ).encode()
    with pytest.raises(SidecarError, match="its hierarchicalSubject is no list"):
        add_keywords(sidecar, ["dog"])
