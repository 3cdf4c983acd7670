"""The map and the report of a discovery: what is in them, and that nothing in them breaks out."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import io
import itertools
import json
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipsearch import cluster_colours, cluster_exports, cluster_report, map_page, open_index
from clipsearch.cluster_colours import (
    DARK,
    DARK_GROUND,
    LIGHT,
    LIGHT_GROUND,
    LIGHT_NONE,
    colour_slots,
)
from clipsearch.cluster_exports import export_cluster_report, export_map
from clipsearch.cluster_pictures import shrunk
from clipsearch.cluster_report import ReportNote, write_cluster_report
from clipsearch.clusters import (
    Assignment,
    Cluster,
    ClusterModel,
    Discovery,
    DiscoveryFacts,
    NameCandidate,
)
from clipsearch.errors import OptionError
from clipsearch.export_undo import undo_export
from clipsearch.html_pages import data_block, script_of_modules, template_text
from clipsearch.image_index import ImageIndex
from clipsearch.map_coordinates import Coordinates, map_coordinates
from clipsearch.map_files import map_file
from clipsearch.map_page import write_map_page
from clipsearch.map_picture import SIZE, _rgb, _Room, _signs, write_map_picture
from clipsearch.map_scene import map_scene
from tests.conftest import Cli

_HOSTILE = (
    "</script><script>document.title='broken'</script>",
    "\"><img src=x onerror=alert(1)>'&amp;",
    "\u202egnp.exe\u2066\x07\x1b[31m",
)
_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def _discovery(state: Any, names: tuple[str, ...], outside: int = 0) -> Discovery:
    """Clusters of about one size, by position; the last ``outside`` images are in none."""
    ids = np.setdiff1d(state.vectors.ids, state.vectors.deleted)
    clusters = (np.arange(len(ids)) % len(names)).astype(np.int32)
    clusters[len(ids) - outside :] = -1
    ones = np.ones(len(ids), np.float32)
    assignment = Assignment(ids, clusters, ones, ones)
    found = []
    for position, name in enumerate(names):
        members = assignment.members(position).tolist()
        candidates = tuple(
            NameCandidate(candidate, 5.0 - rank, 0.5 - 0.1 * rank)
            for rank, candidate in enumerate((name, "a second <name>", "a third"))
        )
        found.append(
            Cluster(
                key=7 + position,
                name=name,
                candidates=candidates,
                confidence=0.734,
                broader="animal" if position == 0 else None,
                size=len(members),
                typical=tuple(members[:3]),
                doubtful=tuple(members[:1:-1]),
            )
        )
    model = ClusterModel(
        np.eye(len(names), state.vectors.dim, dtype=np.float32),
        np.arange(len(names), dtype=np.int32),
    )
    facts = DiscoveryFacts(
        "recipe", None, None, (), 0, "imagenet", state.manifest.uuid, state.space.fingerprint,
        state.manifest.generation, state.manifest.next_id, "2026-01-02T03:04:05+00:00",
    )  # fmt: skip
    return Discovery(tuple(found), assignment, model, facts)


@pytest.fixture
def opened(mini_index: Path) -> ImageIndex:
    return open_index(mini_index)


def _page(index: ImageIndex, discovery: Discovery, title: str = "Photos") -> str:
    stream = io.BytesIO()
    write_map_page(stream, index.state(), discovery, map_coordinates(index.state()), title)
    return stream.getvalue().decode()


def _data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    document: dict[str, Any] = json.loads(found[1])
    return document


def _check_policy(page: str, scripts: int) -> None:
    """The policy lets in the style sheet and script that are in the page, and nothing else."""
    found = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert found is not None
    policy = dict(part.strip().split(" ", 1) for part in found[1].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "data:"
    for tag, source in (("style", "style-src"), ("script", "script-src")):
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        assert len(texts) == (scripts if tag == "script" else 1)
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in texts]
        wanted = " ".join(f"'sha256-{hashed.decode()}'" for hashed in hashes)
        assert policy.get(source, "") == wanted
    tags = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"<[^>]*\s(?:on[a-z]+|style)\s*=", tags)
    assert "http://" not in page
    assert "https://" not in page


# -- the page ---------------------------------------------------------------------------------


def test_the_page_has_every_image_where_the_map_has_it(opened: ImageIndex) -> None:
    state = opened.state()
    discovery = _discovery(state, ("dogs", "cats"), outside=2)
    page = _page(opened, discovery, "My <photos>")
    _check_policy(page, scripts=1)
    assert "<title>My &lt;photos&gt;</title>" in page
    assert f"{len(discovery.assignment)} images in 2 clusters, 2 of them in none" in page
    data = _data(page)
    places = np.frombuffer(base64.b64decode(data["places"]), "<u2").reshape(-1, 2) / 65535
    groups = np.frombuffer(base64.b64decode(data["groups"]), "<i4")
    xy = map_coordinates(state).xy
    assert len(places) == len(discovery.assignment) == len(data["paths"])
    assert groups.tolist() == discovery.assignment.clusters.tolist()
    flipped = xy * np.float32([1, -1])
    expected = (flipped - flipped.min(axis=0)) / (xy.max(axis=0) - xy.min(axis=0)).max()
    assert np.allclose(places - places.min(axis=0), expected, atol=1e-4)
    assert (places.max(axis=0) - places.min(axis=0)).max() == pytest.approx(1)
    known = [place.path for place in state.paths.first_places(discovery.assignment.ids) if place]
    for (folder, name), path in zip(data["paths"], known, strict=True):
        assert data["folders"][folder]["shown"] + name == str(path)
        assert data["folders"][folder]["address"] + name == path.as_uri()
    assert [cluster["name"] for cluster in data["clusters"]] == ["dogs", "cats"]
    for row, address in data["thumbnails"]:
        jpeg = base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))
        with Image.open(io.BytesIO(jpeg)) as picture:
            assert max(picture.size) <= 128
        assert 0 <= row < len(places)
    assert len(data["thumbnails"]) == len(places)


def test_nothing_breaks_out_of_the_page(opened: ImageIndex, pictures: Path, tmp_path: Path) -> None:
    from indexer import build_index

    folder = tmp_path / "<b>&folder"
    folder.mkdir()
    names = ("</script><i>.png", "a'\"\u202eb.png", "plain.png")
    for number, name in enumerate(names):
        colour = (90 * number, 40, 200)
        try:
            Image.new("RGB", (40, 30), colour).save(folder / name.replace("/", "\u2215"))
        except OSError:  # no such name on this system
            Image.new("RGB", (40, 30), colour).save(folder / f"{number}.png")
    build_index(folder, tmp_path / "hostile.index", encoder="mini")
    index = open_index(tmp_path / "hostile.index")
    page = _page(index, _discovery(index.state(), _HOSTILE), _HOSTILE[0])
    _check_policy(page, scripts=1)
    assert page.count("<script") == page.count("</script>") == 2
    assert page.count("<img") == 1  # the card's own
    names_there = [cluster["name"] for cluster in _data(page)["clusters"]]
    assert names_there[:2] == list(_HOSTILE[:2])
    assert names_there[2] == "\ufffdgnp.exe\ufffd\ufffd\ufffd[31m"
    turned = [path for path in _data(page)["paths"] if "\ufffd" in path[1]]
    assert all(path[2:] == [0] for path in turned)  # and no link, which would go elsewhere


def test_folders_have_addresses_where_a_browser_can_open_them(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    assert map_page._address(folder) == f"{folder.as_uri()}/"
    assert map_page._address(Path(tmp_path.anchor)) == Path(tmp_path.anchor).as_uri()
    assert map_page._address(Path("elsewhere")) is None  # as Windows' C:\\photos is on Linux
    (tmp_path / "photos.tar").touch()
    assert map_page._address(tmp_path / "photos.tar" / "in") is None


def test_data_cannot_end_its_element() -> None:
    document = {"a": "</script>", "b": "<!-- & \u2028", "c": [1.5, None, "\ud800"]}
    text = data_block(document)
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == document


def test_a_page_is_bounded(opened: ImageIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    discovery = _discovery(opened.state(), ("dogs", "cats", "owls"))
    monkeypatch.setattr(map_page, "MOST_THUMBNAILS", 4)
    monkeypatch.setattr(map_page, "MOST_POINTS", 8)
    data = _data(page := _page(opened, discovery))
    ids = discovery.assignment.ids.tolist()
    examples = [{*cluster.typical, *cluster.doubtful} for cluster in discovery.clusters]
    assert len(data["paths"]) == max(8, len(set().union(*examples)))
    assert len(data["thumbnails"]) == 4
    firsts = {cluster["first"] for cluster in data["clusters"]}
    assert firsts <= {row for row, _ in data["thumbnails"]}  # each cluster has one first
    if len(data["paths"]) < len(ids):
        assert f"an even sample of {len(data['paths'])}" in page
    monkeypatch.setattr(map_page, "MOST_THUMBNAIL_BYTES", 1)
    assert _data(_page(opened, discovery))["thumbnails"] == []


def test_a_sample_is_even_and_has_the_examples(opened: ImageIndex) -> None:
    discovery = _discovery(opened.state(), ("one",))
    count = len(discovery.assignment)
    few = dataclasses.replace(
        discovery.clusters[0], typical=discovery.clusters[0].typical[-1:], doubtful=()
    )
    discovery = dataclasses.replace(discovery, clusters=(few,))
    scene = map_scene(discovery, map_coordinates(opened.state()), most=4)
    assert scene.total == count
    assert len(scene.ids) == 4
    assert few.typical[0] in scene.ids
    assert {discovery.assignment.ids[0], discovery.assignment.ids[-1]} <= set(scene.ids.tolist())


def test_the_modules_of_the_map_become_one_script() -> None:
    script = script_of_modules("map_page.js")
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)
    declared = re.findall(r"^(?:const|let|function|class) (\w+)", script, re.MULTILINE)
    assert sorted(declared) == sorted(set(declared))  # two of a name would be no script
    assert {"Camera", "CanvasDots", "Places", "Signs", "listen"} <= set(declared)


@pytest.mark.slow
@pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("names", [("dogs", "cats"), _HOSTILE])
def test_a_browser_draws_the_page(
    opened: ImageIndex, tmp_path: Path, names: tuple[str, ...]
) -> None:
    page = tmp_path / "map.html"
    page.write_text(_page(opened, _discovery(opened.state(), names)))
    assert _CHROMIUM is not None
    done = subprocess.run(
        [
            _CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000",
            "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert 'data-ready="yes"' in done.stdout  # the script ran to its end
    assert "CONSOLE" not in done.stderr  # no error, and nothing that the policy refused
    listed = re.findall(r'<b title="[^"]*" dir="auto">(.*?)</b>', done.stdout)
    assert len(listed) == len(names)
    assert html.unescape(listed[0]) == names[0]


# -- the picture ------------------------------------------------------------------------------


def _picture(index: ImageIndex, discovery: Discovery) -> tuple[Any, int]:
    stream = io.BytesIO()
    places = map_coordinates(index.state())
    unshown = write_map_picture(stream, index.state(), discovery, places, "Photos")
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGB"), unshown


def test_a_picture_has_the_colour_of_every_cluster(opened: ImageIndex) -> None:
    picture, unshown = _picture(opened, _discovery(opened.state(), ("dogs", "cats", "owls"), 1))
    assert picture.size == SIZE
    assert unshown == 0
    colours = {colour: count for count, colour in picture.getcolors(1 << 24)}
    drawn = [LIGHT[slot] for slot in colour_slots(np.zeros((3, 2), np.float32))]
    for colour in (*drawn, cluster_colours.LIGHT_NONE):
        assert colours[tuple(bytes.fromhex(colour[1:]))] > 100
    assert colours[tuple(bytes.fromhex(LIGHT_GROUND[1:]))] > 0.8 * SIZE[0] * SIZE[1]
    for colour in set(LIGHT) - set(drawn):
        assert colours.get(tuple(bytes.fromhex(colour[1:])), 0) < 30


def test_names_in_other_scripts_are_numbers_in_a_picture(opened: ImageIndex) -> None:
    names = ("собаки", "Käse & Brot", "猫", *_HOSTILE[2:])
    state = opened.state()
    discovery = _discovery(state, names)
    scene = map_scene(discovery, map_coordinates(state))
    signs, unshown = _signs(_Room(*SIZE), scene, state)
    assert unshown == 3
    assert {sign.text for sign in signs} == {"1", "Kase & Brot", "3", "4"}
    assert _picture(opened, discovery)[1] == 3


def test_names_and_pictures_do_not_overlap(opened: ImageIndex) -> None:
    state = opened.state()
    ids = state.vectors.ids
    # All images in one place: there is no room for all names there.
    places = map_coordinates(state)
    places = dataclasses.replace(places, xy=places.xy * np.float32(1e-3) + [[1, 1]])
    discovery = _discovery(state, tuple(f"cluster number {n}" for n in range(len(ids))))
    scene = dataclasses.replace(
        map_scene(discovery, places), centres=np.full((len(ids), 2), 0.5, np.float32)
    )
    signs, _ = _signs(_Room(*SIZE), scene, state)
    assert 1 < len(signs) <= len(ids)
    assert signs[0].text == "cluster number 0"  # the larger clusters first
    for one, other in itertools.combinations(signs, 2):
        assert (
            one.left + one.width <= other.left
            or other.left + other.width <= one.left
            or one.top + one.height <= other.top
            or other.top + other.height <= one.top
        )


def test_a_map_of_nothing_is_a_map_still(opened: ImageIndex) -> None:
    state = opened.state()
    nobody = Assignment(
        np.empty(0, np.int64), np.empty(0, np.int32), *[np.empty(0, np.float32)] * 2
    )
    empty = dataclasses.replace(_discovery(state, ("one",)), clusters=(), assignment=nobody)
    assert _picture(opened, empty)[0].size == SIZE
    assert "0 images in no cluster" in _page(opened, empty)
    full = _discovery(state, ("one",), outside=len(state.vectors.ids))
    alone = dataclasses.replace(full, clusters=())
    assert f"{len(state.vectors.ids)} images in no cluster" in _page(opened, alone)
    assert (np.asarray(_picture(opened, alone)[0]) == _rgb(LIGHT_NONE)).all(axis=2).any()
    stream = io.BytesIO()
    write_cluster_report(stream, state, empty, "Nothing")
    assert "0 images · 0 clusters" in stream.getvalue().decode()
    assert "No clusters: no images are enough alike." in stream.getvalue().decode()


def test_a_damaged_thumbnail_costs_a_picture_and_no_more() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(stream, "JPEG")
    sound = stream.getvalue()
    small = shrunk(sound, 8)
    assert small is not None
    with Image.open(io.BytesIO(small)) as picture:
        assert picture.size == (8, 8)
    size = sound.index(b"\xff\xc0") + 5
    endless = sound[:size] + (20_000).to_bytes(2, "big") * 2 + sound[size + 4 :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for damaged in (b"", sound[:20], sound[: size + 40], endless):
            assert shrunk(damaged, 8) is None


def test_a_picture_is_not_written_among_photos(tmp_path: Path) -> None:
    from indexer import build_index

    photo = tmp_path / "photos" / "mine.png"
    photo.parent.mkdir()
    Image.new("RGB", (40, 30), "red").save(photo)
    before = photo.read_bytes()
    build_index(photo.parent, tmp_path / "one.index", encoder="mini")
    opened = open_index(tmp_path / "one.index")
    discovery = _discovery(opened.state(), ("one",))
    (tmp_path / "way").symlink_to(photo.parent, target_is_directory=True)
    for path in (photo, tmp_path / "way" / "map.png"):
        for force in (False, True):
            with pytest.raises(OptionError, match=r"is in the folder of photos .* or a \.html"):
                export_map(opened, discovery, path, title="Map", force=force)
    assert photo.read_bytes() == before
    assert list(photo.parent.iterdir()) == [photo]
    export_map(opened, discovery, tmp_path / "map.png", title="Map")
    assert (tmp_path / "map.png").exists()


# -- colours ----------------------------------------------------------------------------------


def _linear(colour: str) -> Any:
    share = np.frombuffer(bytes.fromhex(colour[1:]), np.uint8) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def _contrast(one: str, other: str) -> float:
    weights = np.array([0.2126, 0.7152, 0.0722])
    bright = sorted((float(_linear(one) @ weights), float(_linear(other) @ weights)))
    return (bright[1] + 0.05) / (bright[0] + 0.05)


_SIGHT = {  # Machado et al., "A Physiologically-based Model ...", 2009, severity 1
    "full": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "protan": (0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216,
               -0.003882, -0.048116, 1.051998),
    "deutan": (0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413,
               -0.011820, 0.042940, 0.968881),
    "tritan": (1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602,
               0.004733, 0.691367, 0.303900),
}  # fmt: skip


def _oklab(linear: Any) -> Any:
    cones = np.reshape(
        [0.4122214708, 0.5363325363, 0.0514459929, 0.2119034982, 0.6806995451, 0.1073969566,
         0.0883024619, 0.2817188376, 0.6299787005], (3, 3)
    )  # fmt: skip
    lab = np.reshape(
        [0.2104542553, 0.7936177850, -0.0040720468, 1.9779984951, -2.4285922050, 0.4505937099,
         0.0259040371, 0.7827717662, -0.8086757660], (3, 3)
    )  # fmt: skip
    return lab @ np.cbrt(cones @ np.clip(linear, 0, 1))


@pytest.mark.parametrize(("colours", "ground"), [(LIGHT, LIGHT_GROUND), (DARK, DARK_GROUND)])
def test_colours_are_told_apart_by_all_eyes(colours: tuple[str, ...], ground: str) -> None:
    assert len(colours) == 8
    assert min(_contrast(colour, ground) for colour in colours) >= 3
    for sight in _SIGHT.values():
        seen = [_oklab(np.reshape(sight, (3, 3)) @ _linear(colour)) for colour in colours]
        apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
        assert min(apart) >= 0.12


def test_the_pages_grounds_are_those_the_colours_are_for() -> None:
    style = template_text("map_page.css")
    assert re.findall(r"--back: (#\w+)", style) == [LIGHT_GROUND, DARK_GROUND]


@pytest.mark.parametrize("name", ["map_page.css", "cluster_report.css"])
def test_text_is_readable_on_its_ground(name: str) -> None:
    for block in re.findall(r":root \{([^}]*)\}", template_text(name)):
        parts = dict(re.findall(r"--(\w+): (#\w+)", block))
        colours = {
            key: value if len(value) == 7 else "#" + "".join(2 * c for c in value[1:])
            for key, value in parts.items()
        }
        for ground in (colours["back"], colours["card"]):
            for text in ("text", "soft", "accent"):
                assert _contrast(colours[text], ground) >= 4.5


def test_neighbouring_clusters_have_different_colours() -> None:
    side = np.arange(6, dtype=np.float32)
    centres = np.stack(np.meshgrid(side, side), axis=2).reshape(-1, 2)
    centres[7] = np.nan
    slots = colour_slots(centres)
    assert set(slots.tolist()) == set(range(8))
    for one, other in itertools.combinations(range(36), 2):
        if np.abs(centres[one] - centres[other]).sum() == 1:
            assert slots[one] != slots[other]


# -- the report -------------------------------------------------------------------------------


def _report(index: ImageIndex, discovery: Discovery, **notes: Any) -> str:
    stream = io.BytesIO()
    write_cluster_report(stream, index.state(), discovery, "Photos", **notes)
    return stream.getvalue().decode()


def _sections(page: str) -> dict[str, str]:
    return dict(re.findall(r'<section id="([^"]+)"(.*?)</section>', page, re.S))


def test_the_report_has_a_section_for_every_cluster(opened: ImageIndex) -> None:
    state = opened.state()
    discovery = _discovery(state, ("dogs", _HOSTILE[0]), outside=1)
    page = _report(opened, discovery)
    _check_policy(page, scripts=0)
    assert f"{len(discovery.assignment)} images · 2 clusters · 1 in none · 2026-01-02" in page
    sections = _sections(page)
    assert list(sections) == ["cluster-7", "cluster-8", "outside"]
    assert re.findall(r'href="#([a-z]+[-0-9]*)"', page)[:3] == list(sections)
    first, second, outside = sections.values()
    assert outside.count("<figure>") == 1
    assert ">dogs</h2>" in first
    assert f"{discovery.clusters[0].size} images · confidence 73%" in first
    votes = re.findall(r"<li[^>]*><span dir=\"auto\">(.*?)</span> <small[^>]*>(.*?)</small>", first)
    assert votes == [("dogs", "50%"), ("a second &lt;name&gt;", "40%"), ("a third", "30%")]
    assert "broader:" in first
    assert "broader:" not in second
    assert html.escape(_HOSTILE[0], quote=False).replace("'", "&#39;") in second
    paths = [
        place.path for place in state.paths.first_places(discovery.clusters[0].typical) if place
    ]
    shown = re.findall(r'<a class="frame" href="([^"]+)"', first)
    assert shown[: len(paths)] == [path.as_uri() for path in paths]
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', first)
    cluster = discovery.clusters[0]
    assert len(pictures) == len({*cluster.typical, *cluster.doubtful})
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as found:
            assert max(found.size) <= 200


def test_the_report_shows_outliers_and_near_duplicates(
    opened: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    discovery = _discovery(opened.state(), ("dogs",))
    ids = discovery.assignment.ids.tolist()
    assert "Outliers" not in _report(opened, discovery)
    assert "No image is far" not in _report(opened, discovery)
    looked = _report(opened, discovery, outliers=(), duplicates=())
    assert "No image is far from all others." in looked
    assert "No images are nearly the same." in looked
    monkeypatch.setattr(cluster_report, "MOST_NOTES", 2)
    page = _report(
        opened,
        discovery,
        outliers=[ReportNote((image,), f"<far> from all, {image}") for image in ids[:5]],
        duplicates=[ReportNote(tuple(ids[:3]), "cosine 0.99")],
    )
    sections = _sections(page)
    assert list(sections) == ["cluster-7", "outliers", "duplicates"]
    assert re.findall(r"<p>(&lt;far&gt; from all, \d+)</p>", sections["outliers"]) == [
        f"&lt;far&gt; from all, {image}" for image in ids[:2]
    ]
    assert "and 3 more" in sections["outliers"]
    assert sections["duplicates"].count("<figure>") == 3
    assert "cosine 0.99" in sections["duplicates"]


def test_a_report_of_many_clusters_shows_fewer_images_of_each(
    opened: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    discovery = _discovery(opened.state(), ("dogs", "cats"))
    monkeypatch.setattr(cluster_report, "MOST_PICTURES", 6)
    sections = _sections(_report(opened, discovery)).values()
    for section, cluster in zip(sections, discovery.clusters, strict=True):
        # Two thirds of three pictures are typical ones, and one is doubtful.
        doubtful = [image for image in cluster.doubtful if image not in cluster.typical]
        assert section.count("<figure>") == 2 + len(doubtful[:1])


def test_a_photo_that_is_gone_has_no_link_and_a_lost_thumbnail_a_frame(
    opened: ImageIndex, mini_index: Path
) -> None:
    discovery = _discovery(opened.state(), ("dogs",))
    shutil.rmtree(mini_index / "cache" / "thumbnails")
    (place,) = opened.state().paths.first_places(discovery.clusters[0].typical[:1])
    assert place is not None
    place.path.rename(place.path.with_suffix(".away"))
    try:
        page = _report(opened, discovery)
    finally:
        place.path.with_suffix(".away").rename(place.path)
    assert page.count("not there now") == 1
    assert place.path.as_uri() not in page
    assert "no thumbnail" in page
    assert "data:image" not in page.replace("img-src data:", "")


# -- as files ---------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_maps_and_reports_are_exports(opened: ImageIndex, out: Path, cli: Cli) -> None:
    discovery = _discovery(opened.state(), ("dogs", "кошки"))
    done: list[int] = []
    found = export_map(opened, discovery, out / "map.html", title="Photos", on_progress=done.append)
    assert found.report.files[0].path == out / "map.html"
    assert done[-1] == len(opened)
    assert map_file(opened.path).exists()
    assert export_map(opened, discovery, out / "map.PNG", title="Photos").unshown == 1
    export_cluster_report(opened, discovery, out / "report.html", title="Photos")
    assert {path.name for path in out.iterdir()} == {"map.html", "map.PNG", "report.html"}
    # What an export wrote is replaced; what a person wrote is not.
    export_map(opened, discovery, out / "map.html", title="Again")
    assert "<title>Again</title>" in (out / "map.html").read_text()
    for name in ("map.html", "map.PNG", "report.html"):
        (out / name).write_text("mine")
        write: Any = export_cluster_report if name == "report.html" else export_map
        with pytest.raises(OptionError, match="--force"):
            write(opened, discovery, out / name, title="Photos")
        assert (out / name).read_text() == "mine"
    export_map(opened, discovery, out / "map.html", title="Mine no more", force=True)
    assert "Mine no more" in (out / "map.html").read_text()
    listed = cli("export", "--list", "--index", opened.path)
    assert listed.returncode == 0
    assert len(listed.stdout.splitlines()) == 4
    undo_export(opened.path)
    assert not (out / "map.html").exists()


def test_a_wrong_place_is_told_before_a_map_is_laid_out(
    opened: ImageIndex, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> Coordinates:
        raise AssertionError("a map was laid out")

    monkeypatch.setattr(cluster_exports, "update_map", never)
    discovery = _discovery(opened.state(), ("dogs",))
    for path, message in (
        (out / "map.gif", r"\.html .* or \.png"),
        (out / "nowhere" / "map.html", "there is no folder"),
        (opened.path / "map.html", "inside an index"),
    ):
        with pytest.raises(OptionError, match=message):
            export_map(opened, discovery, path, title="Photos")
    would = export_map(opened, discovery, out / "map.html", title="Photos", dry_run=True)
    assert would.report.dry_run
    assert not list(out.iterdir())


def test_discover_and_clusters_write_maps_and_reports(
    mini_index: Path, out: Path, cli_here: Cli
) -> None:
    (out / "words.txt").write_text("animal\nbuilding\nflower\nfood\nsky\n")
    files = ("--plot", out / "map.html", "--report", out / "report.html", "--index", mini_index)
    done = cli_here("discover", "--vocab", out / "words.txt", "--k", "3", *files)
    assert done.returncode == 0, done.stderr
    listed = [line.split("\t")[0] for line in done.stdout.decode().splitlines()]
    page = (out / "map.html").read_text()
    assert [cluster["name"] for cluster in _data(page)["clusters"]] == listed
    report = (out / "report.html").read_text()
    assert re.findall(r'<h2 id="name-\d+" dir="auto">(.*?)</h2>', report) == listed
    kept = map_file(mini_index).read_bytes()
    twice = out / ".." / out.name / "map.html"
    refused = cli_here("clusters", "discovered", "--plot", out / "map.html", "--report", twice,
                  "--index", mini_index)  # fmt: skip
    assert refused.returncode == 2
    assert b"need a file each" in refused.stderr
    assert (out / "map.html").read_text() == page
    (out / "report.html").write_text("mine")
    refused = cli_here("clusters", "discovered", *files)
    assert refused.returncode == 2
    assert b"--force" in refused.stderr
    assert (out / "report.html").read_text() == "mine"
    shown = cli_here("clusters", "discovered", "--plot", out / "map.png", "--index", mini_index)
    assert shown.returncode == 0, shown.stderr
    with Image.open(out / "map.png") as picture:
        assert picture.size == SIZE
    assert map_file(mini_index).read_bytes() == kept  # the images stay where they were
