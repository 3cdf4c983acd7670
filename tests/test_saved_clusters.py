"""Saved discoveries: there again next time, followed by label sets, with new images in them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch import open_index
from clipsearch.cluster_changes import Change, Drop, Merge, Rename, Split, Written
from clipsearch.cluster_files import _checksum, discovery_names
from clipsearch.cluster_labels import cluster_labels
from clipsearch.cluster_model import assign
from clipsearch.cluster_reading import (
    known_discovery,
    read_discovery,
    read_saved_discovery,
)
from clipsearch.cluster_saving import MOST_UNDO, refuse_discovery, save_discovery
from clipsearch.clusters import ClusterModel, Discovery
from clipsearch.errors import (
    ClipsearchError,
    ClusterError,
    IndexFormatError,
    LabelError,
    SpaceMismatchError,
)
from clipsearch.generation import Generation
from clipsearch.image_index import ImageIndex
from clipsearch.label_set_saving import delete_label_set
from clipsearch.label_sets import ids_with_label, label_set_names, read_label_rows, read_label_set
from clipsearch.saved_clusters import (
    edit_discovery,
    forget_discovery,
    open_discovery,
    save_clusters_as,
    undo_edit,
    update_discoveries,
)
from clipsearch.saved_labelling import classify_beside
from clipsearch.tag import save_tagging
from indexer import build_index
from indexer.compact import compact
from indexer.doctor_index import check_index
from indexer.prune import prune
from indexer.repair import repair_index
from indexer.verify import verify_index
from tests.discoveries import (
    assert_near_assignment,
    assert_same_assignment,
    assert_same_discovery,
    discovery_of_index,
    made_discovery,
    made_up_vectors,
)

NAMES = ("dog", "cat", "tower", "odd, name=")


@pytest.fixture
def index(mini_index: Path) -> ImageIndex:
    return open_index(mini_index)


@pytest.fixture
def found(index: ImageIndex) -> Discovery:
    return discovery_of_index(index.state(), NAMES)


def files_of(index: ImageIndex) -> set[str]:
    return set(os.listdir(index.path / "clusters"))


def named_ids(discovery: Discovery, name: str) -> list[int]:
    (position,) = [at for at, one in enumerate(discovery.clusters) if one.name == name]
    ids: list[int] = discovery.assignment.members(position).tolist()
    return ids


def assert_follows(index: ImageIndex, label_set: str, discovery: Discovery) -> None:
    """The label set says of every image what the discovery says."""
    saved, rows = read_label_rows(index.path, label_set)
    labels, wanted = cluster_labels(discovery)
    assert saved.kind == "discover"
    assert saved.labels == labels
    np.testing.assert_array_equal(rows.ids, wanted.ids)
    np.testing.assert_array_equal(rows.labels, wanted.labels)
    given = rows.labels >= 0  # of the others the numbers mean nothing
    for name in ("scores", "second"):
        np.testing.assert_array_equal(getattr(rows, name)[given], getattr(wanted, name)[given])


# -- kept, whole ---------------------------------------------------------------------------------


def test_a_discovery_comes_back_as_it_was(index: ImageIndex, found: Discovery) -> None:
    saved = save_discovery(index.path, index.state(), "pets", found)
    again, discovery = read_discovery(index.path, "PETS")
    assert again == saved
    assert_same_discovery(discovery, found)
    assert saved.next_key == 4
    assert discovery_names(index.path) == ["pets"]
    opened = open_discovery(index.path, index.state(), "pets")
    assert (opened.added, opened.gone, opened.is_kept) == (0, 0, True)
    assert_same_discovery(opened.discovery, found)
    assert len(files_of(index)) == 4
    assert label_set_names(index.path) == []


def test_anyone_can_read_the_tables(index: ImageIndex, found: Discovery) -> None:
    save_discovery(index.path, index.state(), "pets", found)
    folder = index.path / "clusters"
    tables = json.loads((folder / "pets.json").read_text())["tables"]
    clusters, assigned, centroids = (
        pq.read_table(folder / tables[part]["name"]).to_pydict()
        for part in ("clusters", "assignments", "centroids")
    )
    assert clusters["name"] == [one.name for one in found.clusters]
    assert clusters["candidates"][0][0]["name"] == found.clusters[0].candidates[0].name
    keys = [found.clusters[at].key for at in found.assignment.clusters.tolist()]
    assert assigned["id"] == found.assignment.ids.tolist()
    assert assigned["cluster"] == keys
    np.testing.assert_array_equal(np.float32(assigned["cosine"]), found.assignment.cosines)
    np.testing.assert_array_equal(np.float32(centroids["vector"]), found.model.centroids)


def test_odd_discoveries_come_back(index: ImageIndex) -> None:
    """Images in no cluster, one cluster alone, none of its nouns, a name in another script."""
    vectors, centres = made_up_vectors(3, 50)
    state = index.state()
    of_index = {"index": state.manifest.uuid, "space": state.space.fingerprint}
    one = made_discovery(vectors, centres[:1], ("猫 \N{SMILING CAT FACE WITH OPEN MOUTH}",),
                         **of_index)  # fmt: skip
    three = made_discovery(vectors, centres, ("a", "b", "c"), **of_index)
    none = dataclasses.replace(
        three,
        assignment=dataclasses.replace(three.assignment, clusters=np.full(150, -1, np.int32)),
        model=dataclasses.replace(three.model, owners=np.full(3, -1, np.int32)),
    )
    for name, discovery in (("one", one), ("none", none)):
        save_discovery(index.path, state, name, discovery)
        assert_same_discovery(read_discovery(index.path, name)[1], discovery)


def test_a_discovery_without_clusters(index: ImageIndex, pictures: Path) -> None:
    """As of images that are all alone, each in a cluster too small to keep."""
    place, state = index.path, index.state()
    none = discovery_of_index(state, ("a",))
    count = len(none.assignment)
    empty = dataclasses.replace(
        none,
        clusters=(),
        model=ClusterModel(none.model.centroids[:0], np.empty(0, np.int32)),
        assignment=dataclasses.replace(none.assignment, clusters=np.full(count, -1, np.int32)),
    )
    with pytest.raises(LabelError, match="no cluster that could be a label"):
        save_discovery(place, state, "none", empty, label_set="none")
    assert discovery_names(place) == []
    save_discovery(place, state, "none", empty)
    assert_same_discovery(read_discovery(place, "none")[1], empty)
    opened = open_discovery(place, add_pictures(index, pictures), "none")
    assert (opened.added, opened.is_kept) == (3, True)
    assert (opened.discovery.assignment.clusters == -1).all()
    with pytest.raises(ClusterError, match="no cluster 'a': the discovery has none"):
        edit_discovery(place, index.state(), "none", [Rename("a", "b")])
    with pytest.raises(LabelError, match="no cluster that could be a label"):
        save_clusters_as(place, index.state(), "none", "none")
    assert label_set_names(place) == []


@pytest.mark.parametrize("name", ["", ".x", "a/b", "con", "a b", "x" * 65, "..", "a\0"])
def test_names_that_cannot_be_files(index: ImageIndex, found: Discovery, name: str) -> None:
    with pytest.raises(ClusterError, match="is no name for a discovery"):
        save_discovery(index.path, index.state(), name, found)


def test_a_name_in_another_case_is_refused(index: ImageIndex, found: Discovery) -> None:
    save_discovery(index.path, index.state(), "pets", found)
    with pytest.raises(ClusterError, match="there is a discovery pets, and Pets differs"):
        save_discovery(index.path, index.state(), "Pets", found)


def test_a_name_of_a_cluster_that_is_no_text(index: ImageIndex, found: Discovery) -> None:
    clusters = (dataclasses.replace(found.clusters[0], name="\udc80"), *found.clusters[1:])
    with pytest.raises(ClusterError, match="is no text"):
        save_discovery(
            index.path, index.state(), "pets", dataclasses.replace(found, clusters=clusters)
        )
    assert files_of(index) == set()


def test_what_is_not_there(index: ImageIndex, found: Discovery) -> None:
    with pytest.raises(ClusterError, match="no discovery 'pets': none is saved yet"):
        known_discovery(index.path, "pets")
    save_discovery(index.path, index.state(), "pets", found)
    with pytest.raises(ClusterError, match="no discovery 'pest': expected one of pets"):
        open_discovery(index.path, index.state(), "pest")


def test_one_made_by_hand_is_not_lost(index: ImageIndex, found: Discovery) -> None:
    place, state = index.path, index.state()
    save_discovery(place, state, "pets", found)
    save_discovery(place, state, "pets", found)  # nobody has done anything to it
    edit_discovery(place, state, "pets", [Rename("dog", "hound")])
    before = read_saved_discovery(place, "pets")
    for save in (lambda: save_discovery(place, state, "pets", found),
                 lambda: refuse_discovery(place, "pets")):  # fmt: skip
        with pytest.raises(ClusterError, match="changed by hand: expected --replace"):
            save()
    assert read_saved_discovery(place, "pets") == before
    save_discovery(place, state, "pets", found, replace=True)
    assert_same_discovery(read_discovery(place, "pets")[1], found)
    assert read_saved_discovery(place, "pets").edits == ()


# -- label sets that follow ----------------------------------------------------------------------


def test_the_label_set_is_there_for_all_that_takes_one(index: ImageIndex, found: Discovery) -> None:
    place, state = index.path, index.state()
    save_discovery(place, state, "pets", found, label_set="pets")
    assert_follows(index, "pets", found)
    dogs = named_ids(found, "dog")
    assert ids_with_label(place, "pets:dog").tolist() == dogs
    assert index.matching("label = pets:dog").tolist() == dogs
    assert index.matching('label = "pets:odd, name="').tolist() == named_ids(found, "odd, name=")
    assert [hit.id for hit in index.search("a picture", k=3)]
    saved = read_label_set(place, "pets")
    assert saved.templates == index_templates()
    result = classify_beside(
        place, state, index.text_vectors(), saved.labels, saved.templates, base="pets"
    ).columns()
    plain = index.classify(saved.labels, none="off")
    np.testing.assert_array_equal(result.labels, plain.labels)


def index_templates() -> tuple[str, ...]:
    from clipsearch.prompts import TEMPLATE_SETS

    return TEMPLATE_SETS["simple"]


def test_equal_names_are_one_label(index: ImageIndex, found: Discovery) -> None:
    clusters = tuple(
        dataclasses.replace(one, name="Dog" if one.name == "cat" else one.name)
        for one in found.clusters
    )
    twins = dataclasses.replace(found, clusters=clusters)
    save_discovery(index.path, index.state(), "pets", twins, label_set="pets")
    labels = read_label_set(index.path, "pets").labels
    assert len(labels) == 3
    both = sorted(named_ids(found, "dog") + named_ids(found, "cat"))
    assert ids_with_label(index.path, "pets:dog").tolist() == both


@pytest.mark.parametrize(
    "change",
    [Rename("dog", "hound"), Merge(("dog", "cat")), Split("dog"), Drop(("dog",))],
)
def test_edits_are_kept_followed_and_undone(
    index: ImageIndex, found: Discovery, change: Change
) -> None:
    place, state = index.path, index.state()
    big = found if not isinstance(change, Split) else discovery_of_index(state, ("dog", "cat"))
    before = save_discovery(place, state, "pets", big, label_set="pets")
    save_clusters_as(place, state, "pets", "second")
    edited = edit_discovery(place, state, "pets", [change])
    again = open_discovery(place, state, "pets")
    assert_same_discovery(again.discovery, edited.discovery)
    assert again.saved.edits[-1].what.startswith(type(change).__name__.lower())
    for name in ("pets", "second"):
        assert_follows(index, name, edited.discovery)
    what, undone = undo_edit(place, state, "pets")
    assert what == again.saved.edits[-1].what
    assert_same_discovery(undone.discovery, big)
    assert undone.saved.tables == before.tables
    assert undone.saved.edits == ()
    for name in ("pets", "second"):
        assert_follows(index, name, big)
    assert files_of(index) == {"pets.json", *(ref.name for ref in before.tables.refs().values())}
    with pytest.raises(ClusterError, match="has no change left to undo"):
        undo_edit(place, state, "pets")


def test_several_changes_are_one_edit_or_none(index: ImageIndex, found: Discovery) -> None:
    place, state = index.path, index.state()
    save_discovery(place, state, "pets", found, label_set="pets")
    with pytest.raises(ClusterError, match="no cluster 'otter'"):
        edit_discovery(place, state, "pets", [Rename("dog", "x"), Rename("otter", "y")])
    assert_same_discovery(read_discovery(place, "pets")[1], found)
    assert_follows(index, "pets", found)
    changes = [Written("merge", "odd, name=,dog=both"), Written("rename", "both=one")]
    edited = edit_discovery(place, state, "pets", changes)
    assert {one.name for one in edited.discovery.clusters} == {"one", "cat", "tower"}
    (edit,) = edited.saved.edits
    assert edit.what == "merge odd, name= and dog as both, rename both to one"
    assert_same_discovery(undo_edit(place, state, "pets")[1].discovery, found)


def test_keys_are_never_used_again(index: ImageIndex) -> None:
    place, state = index.path, index.state()
    save_discovery(place, state, "pets", discovery_of_index(state, ("all", "other")))
    seen: set[int] = {0, 1}
    for _ in range(3):
        one = edit_discovery(place, state, "pets", [Split("all")])
        new = {cluster.key for cluster in one.discovery.clusters} - {0, 1}
        assert len(new) == 2
        assert not new & seen
        seen |= new
        undo_edit(place, state, "pets")


def test_the_last_edits_can_be_undone(index: ImageIndex, found: Discovery) -> None:
    place, state = index.path, index.state()
    save_discovery(place, state, "pets", found)
    edits = MOST_UNDO + 3
    names = ["dog"]
    for number in range(edits):
        names.append(f"dog {number}")
        edit_discovery(place, state, "pets", [Rename(names[-2], names[-1])])
    saved = read_saved_discovery(place, "pets")
    assert len(saved.edits) == edits
    # Centroids and assignments have not changed since; the names have each time.
    assert len(files_of(index)) == 1 + 2 + (MOST_UNDO + 1)
    for number in range(MOST_UNDO):
        opened = undo_edit(place, state, "pets")[1]
        assert names[edits - number - 1] in {one.name for one in opened.discovery.clusters}
    with pytest.raises(ClusterError, match=f"of 3 the last {MOST_UNDO} are kept"):
        undo_edit(place, state, "pets")


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"PAR1")])
def test_an_undo_that_finds_no_whole_table_changes_nothing(
    index: ImageIndex, found: Discovery, damage: Callable[[Path], object]
) -> None:
    place, state = index.path, index.state()
    first = save_discovery(place, state, "pets", found).tables.clusters.name
    edited = edit_discovery(place, state, "pets", [Rename("dog", "hound")])
    later = edit_discovery(place, state, "pets", [Rename("cat", "tiger")])
    assert verify_index(place, sample=0).findings == ()
    damage(place / "clusters" / first)
    (note,) = verify_index(place, sample=0).findings
    assert note.message.startswith("'rename dog to hound' cannot be undone")
    assert open_discovery(place, state, "pets").saved == later.saved
    assert_same_discovery(undo_edit(place, state, "pets")[1].discovery, edited.discovery)
    for _ in range(2):
        with pytest.raises(ClusterError, match="cannot undo 'rename dog to hound'"):
            undo_edit(place, state, "pets")
        assert_same_discovery(open_discovery(place, state, "pets").discovery, edited.discovery)


def test_label_sets_of_others_are_not_lost(index: ImageIndex, found: Discovery) -> None:
    place, state = index.path, index.state()
    tags = index.tag(["sky", "grass"])
    save_tagging(place, state, "tags", tags)
    before = read_label_rows(place, "tags")
    with pytest.raises(LabelError, match="a label set tags that tag has saved: choose another"):
        save_discovery(place, state, "pets", found, label_set="tags")
    assert discovery_names(place) == []
    save_discovery(place, state, "pets", found, label_set="pets")
    with pytest.raises(LabelError, match="a label set tags that tag has saved"):
        save_clusters_as(place, state, "pets", "tags")
    with pytest.raises(LabelError, match="tags, and TAGS differs from it in case alone"):
        save_clusters_as(place, state, "pets", "TAGS")
    assert read_label_rows(place, "tags")[0] == before[0]
    with pytest.raises(LabelError, match="pets follows the clusters of the discovery pets"):
        save_discovery(place, state, "other", found, label_set="pets")


def test_a_set_that_follows_is_not_written_over_by_others(
    index: ImageIndex, found: Discovery
) -> None:
    place, state = index.path, index.state()
    save_discovery(place, state, "pets", found, label_set="pets")
    why = "pets follows the clusters of the discovery pets: save under another name, or let it go"
    with pytest.raises(LabelError, match=why):
        save_tagging(place, state, "pets", index.tag(["sky"]))
    with pytest.raises(LabelError, match=why):
        classify_beside(place, state, index.text_vectors(), ["sky", "sea"], save_as="pets")
    assert_follows(index, "pets", found)
    delete_label_set(place, "pets")
    save_tagging(place, state, "pets", index.tag(["sky"]))
    edit_discovery(place, state, "pets", [Rename("dog", "hound")])  # it leads that set no more
    assert read_label_set(place, "pets").kind == "tag"


def test_a_forgotten_label_set_stays_forgotten(index: ImageIndex, found: Discovery) -> None:
    place, state = index.path, index.state()
    save_discovery(place, state, "pets", found, label_set="pets")
    delete_label_set(place, "pets")
    edit_discovery(place, state, "pets", [Rename("dog", "hound")])
    assert label_set_names(place) == []


def test_a_forgotten_discovery_leaves_its_label_set(index: ImageIndex, found: Discovery) -> None:
    place, state = index.path, index.state()
    save_discovery(place, state, "pets", found, label_set="pets")
    assert forget_discovery(place, "Pets") == ["pets"]
    assert files_of(index) == set()
    assert_follows(index, "pets", found)
    save_tagging(place, state, "pets", index.tag(["sky"]))  # it follows nothing any more
    with pytest.raises(ClusterError, match="none is saved yet"):
        forget_discovery(place, "pets")


def test_a_new_discovery_leaves_other_label_sets_alone(index: ImageIndex, found: Discovery) -> None:
    place, state = index.path, index.state()
    save_discovery(place, state, "discovered", found)
    save_clusters_as(place, state, "discovered", "mine")
    fewer = discovery_of_index(state, ("a", "b"))
    with pytest.raises(ClusterError, match="leads the label set mine: expected --replace"):
        save_discovery(place, state, "discovered", fewer)
    save_discovery(place, state, "discovered", fewer, replace=True)
    open_discovery(place, state, "discovered")
    assert_follows(index, "mine", found)


# -- new images ----------------------------------------------------------------------------------


def add_pictures(index: ImageIndex, pictures: Path, count: int = 3) -> Generation:
    """Three images more, of which the saved discoveries do not know yet."""
    (index.path / "clusters").rename(index.path.parent / "aside")
    write_pictures(pictures, count)
    build_index(pictures, index.path)
    (index.path.parent / "aside").rename(index.path / "clusters")
    index.refresh()
    return index.state()


def write_pictures(pictures: Path, count: int = 3) -> None:
    photos = [path for path in sorted(pictures.iterdir()) if path.suffix in (".png", ".jpg")]
    for number, photo in enumerate(photos[:count]):
        data = photo.read_bytes() + b"\0" * (number + 1)
        (pictures / f"new{number}{photo.suffix}").write_bytes(data)


def test_new_images_come_into_the_nearest_cluster(
    index: ImageIndex, found: Discovery, pictures: Path
) -> None:
    place, state = index.path, index.state()
    save_discovery(place, state, "pets", found, label_set="pets")
    edit_discovery(
        place, state, "pets", [Drop((found.clusters[0].name,)), Rename("tower", "spire")]
    )
    edited = open_discovery(place, state, "pets").discovery
    state = add_pictures(index, pictures)
    opened = open_discovery(place, state, "pets")
    assert (opened.added, opened.gone, opened.is_kept) == (3, 0, True)
    wanted = assign(state.vectors, edited.model)
    by_key = {one.key: at for at, one in enumerate(opened.discovery.clusters)}
    keys = np.array([one.key for one in edited.clusters])
    moved = np.append([by_key[key] for key in keys], -1).astype(np.int32)
    wanted = dataclasses.replace(wanted, clusters=moved[wanted.clusters])
    assert_near_assignment(opened.discovery.assignment, wanted)
    # A new image is the copy of an old one, and is where that is.
    new = opened.discovery.assignment.ids[-3:]
    assert set(new.tolist()).isdisjoint(edited.assignment.ids.tolist())
    sizes = sum(one.size for one in opened.discovery.clusters)
    assert sizes == int((wanted.clusters >= 0).sum())
    assert_follows(index, "pets", opened.discovery)
    again = open_discovery(place, state, "pets")
    assert (again.added, again.gone) == (0, 0), "it was saved"
    assert_same_discovery(again.discovery, opened.discovery)
    # An undo goes back to before the images came, and they come again.
    what, undone = undo_edit(place, state, "pets")
    assert "drop" in what
    assert undone.added == 3
    assert {one.name for one in undone.discovery.clusters} == set(NAMES)
    wanted = assign(state.vectors, undone.discovery.model)
    assert_near_assignment(undone.discovery.assignment, wanted)
    assert_follows(index, "pets", undone.discovery)


def test_images_that_came_before_it_was_saved_are_not_forgotten(
    index: ImageIndex, found: Discovery, pictures: Path
) -> None:
    """Grouped, then more images, then saved: by whoever has the newer generation open."""
    write_pictures(pictures)
    build_index(pictures, index.path)
    assert index.refresh()
    state = index.state()
    assert found.facts.generation < state.manifest.generation
    save_discovery(index.path, state, "pets", found, label_set="pets")
    opened = open_discovery(index.path, state, "pets")
    assert opened.added == 3
    assert opened.discovery.assignment.ids.tolist() == state.vectors.ids.tolist()
    assert_follows(index, "pets", opened.discovery)


def test_a_run_brings_all_that_follows_up_to_date(
    index: ImageIndex, found: Discovery, pictures: Path
) -> None:
    """No one has to open the discovery for its label set to have the new images."""
    place = index.path
    save_discovery(place, index.state(), "pets", found, label_set="pets")
    (place / "clusters" / "broken.json").write_bytes(b"{")
    write_pictures(pictures)
    report = build_index(pictures, place)
    assert report.new == 3
    assert read_saved_discovery(place, "pets").tables.generation == report.generation
    index.refresh()
    opened = open_discovery(place, index.state(), "pets")
    assert (opened.added, len(opened.discovery.assignment)) == (0, len(found.assignment) + 3)
    assert_follows(index, "pets", opened.discovery)


def test_images_that_are_gone_are_left_out(pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "own.index"
    build_index(pictures, place, encoder="mini")
    index = open_index(place)
    found = discovery_of_index(index.state(), NAMES)
    save_discovery(place, index.state(), "pets", found, label_set="pets")
    gone = found.clusters[0].typical[0]
    for path in index.paths().places(gone):
        path.path.unlink()
    build_index(pictures, place)
    index.refresh()
    assert open_discovery(place, index.state(), "pets").gone == 0, "missing is not gone"
    prune(place)
    index.refresh()
    opened = open_discovery(place, index.state(), "pets")
    assert (opened.added, opened.gone) == (0, 1)
    assert gone not in opened.discovery.assignment.ids
    for one in opened.discovery.clusters:
        assert gone not in (*one.typical, *one.doubtful)
    assert sum(one.size for one in opened.discovery.clusters) == len(found.assignment) - 1
    assert_follows(index, "pets", opened.discovery)
    compact(place)
    index.refresh()
    again = open_discovery(place, index.state(), "pets")
    assert (again.added, again.gone) == (0, 0)
    assert_same_discovery(again.discovery, opened.discovery)


def test_a_cluster_whose_images_are_all_gone_stays_empty(
    index: ImageIndex, found: Discovery
) -> None:
    place, state = index.path, index.state()
    save_discovery(place, state, "pets", found, label_set="pets")
    last = found.clusters[-1]
    ids = set(named_ids(found, last.name))
    left = np.array([i for i in state.vectors.ids.tolist() if i not in ids], np.int64)
    vectors = dataclasses.replace(state.vectors, deleted=np.array(sorted(ids), np.int64))
    manifest = dataclasses.replace(state.manifest, generation=state.manifest.generation + 1)
    opened = open_discovery(
        place, dataclasses.replace(state, vectors=vectors, manifest=manifest), "pets"
    )
    assert opened.gone == len(ids)
    (empty,) = [one for one in opened.discovery.clusters if one.key == last.key]
    assert (empty.size, empty.typical, empty.doubtful) == (0, (), ())
    np.testing.assert_array_equal(opened.discovery.assignment.ids, left)
    assert_follows(index, "pets", opened.discovery)


def test_only_images_that_were_asked_for_come_in(index: ImageIndex, pictures: Path) -> None:
    place = index.path
    narrow = discovery_of_index(index.state(), ("a", "b"), where="name ~ new0 or name ~ new1")
    none = dataclasses.replace(
        narrow,
        assignment=dataclasses.replace(
            narrow.assignment,
            **{
                name: getattr(narrow.assignment, name)[:0]
                for name in ("ids", "clusters", "cosines", "margins")
            },
        ),
    )
    save_discovery(place, index.state(), "some", none)
    opened = open_discovery(place, add_pictures(index, pictures), "some")
    assert opened.added == 2


def test_all_discoveries_at_once(index: ImageIndex, found: Discovery, pictures: Path) -> None:
    place = index.path
    for name in ("a", "b", "c"):
        save_discovery(place, index.state(), name, found)
    (place / "clusters" / "b.json").write_bytes(b"{")
    state = add_pictures(index, pictures)
    assert [one.saved.name for one in update_discoveries(place, state)] == ["a", "c"]
    assert update_discoveries(place, state) == []


def test_a_reader_of_an_older_generation_takes_nothing_away(
    index: ImageIndex, found: Discovery, pictures: Path
) -> None:
    place, old = index.path, index.state()
    save_discovery(place, old, "pets", found)
    new = add_pictures(index, pictures)
    newer = open_discovery(place, new, "pets")
    shown = open_discovery(place, old, "pets")
    assert (shown.gone, shown.is_kept) == (3, False)
    assert_same_assignment(shown.discovery.assignment, found.assignment)
    with pytest.raises(ClusterError, match="refresh the index and try again"):
        edit_discovery(place, old, "pets", [Rename("dog", "x")])
    assert_same_discovery(open_discovery(place, new, "pets").discovery, newer.discovery)


def test_another_model_is_told_in_one_line(index: ImageIndex, found: Discovery) -> None:
    place, state = index.path, index.state()
    other = dataclasses.replace(found, facts=dataclasses.replace(found.facts, space="0" * 64))
    save_discovery(place, state, "old", other)
    for ask in (
        lambda: open_discovery(place, state, "old"),
        lambda: edit_discovery(place, state, "old", [Rename("dog", "x")]),
        lambda: undo_edit(place, state, "old"),
    ):
        with pytest.raises(SpaceMismatchError, match="made with another model") as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert update_discoveries(place, state) == []
    (check,) = [one for one in check_index(str(place)) if one.name == "clusters"]
    assert "another model" in check.message
    forget_discovery(place, "old")


# -- several at once -----------------------------------------------------------------------------


def test_edits_of_several_at_once_all_count(index: ImageIndex, found: Discovery) -> None:
    place, state = index.path, index.state()
    save_discovery(place, state, "pets", found, label_set="pets")
    failures: list[BaseException] = []

    def work(old: str, new: str) -> None:
        try:
            edit_discovery(place, state, "pets", [Rename(old, new)])
            read_discovery(place, "pets")
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(name, f"{name} {number}"))
        for number, name in enumerate(NAMES)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    opened = open_discovery(place, state, "pets")
    assert {one.name for one in opened.discovery.clusters} == {
        f"{name} {number}" for number, name in enumerate(NAMES)
    }
    assert len(opened.saved.edits) == 4
    assert_follows(index, "pets", opened.discovery)


# -- damaged, foreign ----------------------------------------------------------------------------


def cut_json(folder: Path) -> None:
    (folder / "pets.json").write_bytes((folder / "pets.json").read_bytes()[:-40])


def other_json(folder: Path) -> None:
    (folder / "pets.json").write_text('{"format": "something else"}')


def changed_number(folder: Path) -> None:
    text = (folder / "pets.json").read_text()
    (folder / "pets.json").write_text(text.replace('"next_key": 4', '"next_key": 5'))


def newer_format(folder: Path) -> None:
    text = (folder / "pets.json").read_text()
    (folder / "pets.json").write_text(text.replace('"format_version": 1', '"format_version": 9'))


def deep_json(folder: Path) -> None:
    (folder / "pets.json").write_text("[" * 100_000)


def renamed(folder: Path) -> None:
    (folder / "pets.json").rename(folder / "others.json")


def signed(**wrong: object) -> Callable[[Path], None]:
    """What another program may have written: the checksum is right."""

    def damage(folder: Path) -> None:
        document = json.loads((folder / "pets.json").read_text())
        del document["checksum"]
        for name, value in wrong.items():
            where = document if name in document else document["facts"]
            where[name] = value
        document["checksum"] = _checksum(document)
        (folder / "pets.json").write_text(json.dumps(document))

    return damage


def flipped(part: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (file,) = folder.glob(f"*.{part}.parquet")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    return damage


def lost(part: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (file,) = folder.glob(f"*.{part}.parquet")
        file.unlink()

    return damage


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (cut_json, "not JSON"),
        (deep_json, "not JSON"),
        (other_json, "is no discovery"),
        (changed_number, "its checksum does not match"),
        (newer_format, "format version 9"),
        (signed(next_key=1 << 40), "1099511627776 can be no key"),
        (signed(vocabulary=["x"]), "its vocabulary is no text"),
        (renamed, "holds the discovery pets: rename it back"),
        (flipped("clusters"), "its table of clusters is not the one that was saved"),
        (flipped("assignments"), "its table of assignments is not the one"),
        (flipped("centroids"), "its table of centroids is not the one"),
        (lost("centroids"), "has lost its table of centroids"),
    ],
)
def test_damage_is_told_verified_and_mended(
    index: ImageIndex, found: Discovery, damage: Callable[[Path], None], why: str
) -> None:
    place, state = index.path, index.state()
    save_discovery(place, state, "pets", found, label_set="pets")
    assert verify_index(place, sample=0).is_sound
    damage(place / "clusters")
    (name,) = discovery_names(place)
    with pytest.raises(IndexFormatError, match=why) as caught:
        open_discovery(place, state, name)
    assert "\n" not in str(caught.value)
    if damage is not newer_format:
        assert f"'clipsearch clusters {name} --forget'" in str(caught.value)
    (finding,) = verify_index(place, sample=0).findings
    assert (finding.kind, finding.file) == ("discovery", f"clusters/{name}.json")
    repair = repair_index(place)
    assert repair.is_mended
    assert repair.after.findings == ()
    assert discovery_names(place) == []
    kept = [path for path in (place / "damaged").rglob("*") if path.is_file()]
    assert f"{name}.json" in {path.name for path in kept}
    assert_follows(index, "pets", found)
    save_discovery(place, state, "pets", found, label_set="pets")
    assert verify_index(place, sample=0).is_sound


def test_centroids_that_nothing_can_be_near(index: ImageIndex, found: Discovery) -> None:
    place, state = index.path, index.state()
    whole = found.model.centroids
    for centroids, why in ((whole * np.nan, "no direction"), (whole[:, :7], "not of 256 numbers")):
        model = dataclasses.replace(found.model, centroids=np.ascontiguousarray(centroids))
        save_discovery(place, state, "pets", dataclasses.replace(found, model=model))
        with pytest.raises(IndexFormatError, match=f"is damaged .*{why}"):
            open_discovery(place, state, "pets")


def test_a_damaged_one_is_forgotten_or_written_over(index: ImageIndex, found: Discovery) -> None:
    place, state = index.path, index.state()
    for cure in (
        lambda: save_discovery(place, state, "pets", found),
        lambda: forget_discovery(place, "pets"),
    ):
        save_discovery(place, state, "pets", found)
        cut_json(place / "clusters")
        cure()
    assert files_of(index) == set()


def test_one_of_another_index_is_refused(
    index: ImageIndex, found: Discovery, tmp_path: Path, pictures: Path
) -> None:
    save_discovery(index.path, index.state(), "pets", found)
    other = tmp_path / "other.index"
    build_index(pictures, other, encoder="mini")
    shutil.copytree(index.path / "clusters", other / "clusters")
    with pytest.raises(IndexFormatError, match="belongs to another index"):
        open_discovery(other, open_index(other).state(), "pets")
    (finding,) = verify_index(other, sample=0).findings
    assert "belongs to another index" in finding.message


def test_whatever_lies_in_the_folder_stays(index: ImageIndex, found: Discovery) -> None:
    folder = index.path / "clusters"
    folder.mkdir()
    mine = {"notes.txt", "pets.parquet", "pets.0123456789ab.other.parquet", "petsx.json.bak",
            "pets2.0123456789ab.clusters.parquet"}  # fmt: skip
    for name in mine:
        (folder / name).write_text("mine")
    for _ in range(2):
        save_discovery(index.path, index.state(), "pets", found)
    (folder / ".tmp-1-abcdefabcdef").write_text("half")
    (folder / "pets.0123456789ab.clusters.parquet").write_text("of a run that was killed")
    edit_discovery(index.path, index.state(), "pets", [Rename("dog", "x")])
    forget_discovery(index.path, "pets")
    assert files_of(index) == mine
    build_index([root.path for root in index.state().manifest.roots], index.path)
    assert files_of(index) == mine


def test_a_label_set_left_behind_is_brought_up(index: ImageIndex, found: Discovery) -> None:
    """As a kill between the discovery and its label set leaves it."""
    place, state = index.path, index.state()
    save_discovery(place, state, "pets", found, label_set="pets")
    behind = {path.name: path.read_bytes() for path in (place / "labels").iterdir()}
    edited = edit_discovery(place, state, "pets", [Rename("dog", "hound")])
    shutil.rmtree(place / "labels")
    (place / "labels").mkdir()
    for name, data in behind.items():
        (place / "labels" / name).write_bytes(data)
    (finding,) = verify_index(place, sample=0).findings
    assert finding.severity == "note"
    assert finding.file == "labels/pets.json"
    open_discovery(place, state, "pets")
    assert_follows(index, "pets", edited.discovery)
    assert verify_index(place, sample=0).findings == ()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_without_the_right_to_write(index: ImageIndex, found: Discovery, pictures: Path) -> None:
    place = index.path
    save_discovery(place, index.state(), "pets", found, label_set="pets")
    state = add_pictures(index, pictures)
    for folder in ("clusters", "labels"):
        (place / folder).chmod(0o500)
    try:
        opened = open_discovery(place, state, "pets")
        assert (opened.added, opened.is_kept) == (3, False)
        with pytest.raises(PermissionError):
            edit_discovery(place, state, "pets", [Rename("dog", "x")])
    finally:
        for folder in ("clusters", "labels"):
            (place / folder).chmod(0o700)


def test_a_failing_disk_is_no_failure_to_look(
    index: ImageIndex, found: Discovery, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    import clipsearch.cluster_saving as saving

    place = index.path
    before = save_discovery(place, index.state(), "pets", found, label_set="pets")
    files = {path: path.read_bytes() for path in (place / "clusters").iterdir()}
    state = add_pictures(index, pictures)

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(saving, "replace_file", full)
        opened = open_discovery(place, state, "pets")
        assert (opened.added, opened.is_kept) == (3, False)
        with pytest.raises(OSError, match="No space left"):
            edit_discovery(place, state, "pets", [Rename("dog", "x")])
    assert read_saved_discovery(place, "pets") == before
    assert {path: path.read_bytes() for path in (place / "clusters").iterdir()} == files
    assert open_discovery(place, state, "pets").is_kept


def test_all_errors_are_of_the_library() -> None:
    assert issubclass(ClusterError, ClipsearchError)
