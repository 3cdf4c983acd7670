"""Clusters renamed, merged, split and dropped: who is in which, and what is told of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from clipsearch.cluster_changes import (
    Drop,
    Merge,
    Rename,
    Split,
    Written,
    changed,
    in_words,
    read_change,
)
from clipsearch.cluster_edits import drop, merge, rename, split
from clipsearch.cluster_members import with_members
from clipsearch.cluster_model import assign
from clipsearch.cluster_references import find_cluster, split_references, with_value
from clipsearch.clusters import Cluster, Discovery, NameCandidate, SuggestedName
from clipsearch.errors import ClusterError
from clipsearch.vectors import Vectors
from tests.discoveries import (
    assert_near_assignment,
    assert_same_discovery,
    cluster,
    made_discovery,
    made_up_vectors,
)

NAMES = ("dog", "puppy", "cat", "tower", "beach")


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return made_up_vectors(5, 40)[0]


@pytest.fixture(scope="module")
def five(vectors: Vectors) -> Discovery:
    return made_discovery(vectors, made_up_vectors(5, 40)[1], NAMES)


def at(discovery: Discovery, name: str) -> int:
    return [one.name for one in discovery.clusters].index(name)


def named(discovery: Discovery, name: str) -> Cluster:
    return discovery.clusters[at(discovery, name)]


def members(discovery: Discovery, name: str) -> set[int]:
    return set(discovery.assignment.members(at(discovery, name)).tolist())


def assert_in_order(discovery: Discovery, vectors: Vectors) -> None:
    """The largest cluster first, and each told as its images are."""
    sizes = [one.size for one in discovery.clusters]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes == [
        int((discovery.assignment.clusters == position).sum()) for position in range(len(sizes))
    ]
    assert discovery.clusters == with_members(discovery.clusters, discovery.assignment, vectors)


# -- rename --------------------------------------------------------------------------------------


def test_a_new_name_changes_nothing_else(five: Discovery, vectors: Vectors) -> None:
    position = at(five, "cat")
    found = rename(five, position, "  our   old cat ")
    old, new = five.clusters[position], found.clusters[position]
    assert new == dataclasses.replace(old, name="our old cat", by_hand=True, confidence=1.0)
    others = [one for number, one in enumerate(found.clusters) if number != position]
    assert others == [one for one in five.clusters if one.key != old.key]
    assert found.assignment is five.assignment
    assert found.model is five.model


def test_another_case_of_its_own_name_is_a_new_name(five: Discovery) -> None:
    assert named(rename(five, at(five, "cat"), "Cat"), "Cat").by_hand


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"),
        (" \t\n", "is empty"),
        ("DOG ", "another cluster is called 'dog': merge the two"),
        ("a\x1b[31mb", "control characters"),
        ("a\udc80", "no text"),
        ("x" * 201, "up to 200 letters, got 201"),
    ],
)
def test_a_name_that_will_not_do(five: Discovery, name: str, why: str) -> None:
    with pytest.raises(ClusterError, match=why) as caught:
        rename(five, at(five, "cat"), name)
    assert "\n" not in str(caught.value)


# -- merge ---------------------------------------------------------------------------------------


def test_merged_clusters_are_what_assigning_anew_gives(five: Discovery, vectors: Vectors) -> None:
    found = merge(five, [at(five, "puppy"), at(five, "dog")], vectors)
    assert {one.name for one in found.clusters} == {"puppy", "cat", "tower", "beach"}
    assert members(found, "puppy") == members(five, "dog") | members(five, "puppy")
    assert named(found, "puppy").key == named(five, "puppy").key
    assert len(found.model.centroids) == 5
    assert (found.model.owners == at(found, "puppy")).sum() == 2
    # The cosines and the margins too: the other part is no other cluster any more.
    assert_near_assignment(found.assignment, assign(vectors, found.model))
    assert_in_order(found, vectors)
    changed_margins = abs(found.assignment.margins - five.assignment.margins) > 1e-5
    of_one = found.assignment.clusters == at(found, "puppy")
    assert changed_margins[of_one].any()
    assert not changed_margins[~of_one].any()


def test_merged_candidates_count_by_size(five: Discovery, vectors: Vectors) -> None:
    dog, cat = named(five, "dog"), named(five, "cat")
    whole = dog.size + cat.size
    found = named(merge(five, [at(five, "dog"), at(five, "cat")], vectors), "dog")
    wanted = {"dog": 0.6 * dog.size / whole, "cat": 0.6 * cat.size / whole}
    votes = {one.name: one.votes for one in found.candidates}
    assert len(votes) == 3
    for name, share in wanted.items():
        assert votes[name] == pytest.approx(share)
    assert found.candidates[0].votes == max(votes.values())
    assert found.confidence == pytest.approx(0.6 * dog.size / whole)
    assert not found.by_hand


def test_merging_all_leaves_one_without_margins(five: Discovery, vectors: Vectors) -> None:
    found = merge(five, range(5), vectors, name="everything")
    assert [one.name for one in found.clusters] == ["everything"]
    assert found.clusters[0].size == 200
    assert found.clusters[0].by_hand
    assert np.isnan(found.assignment.margins).all()
    assert_near_assignment(found.assignment, assign(vectors, found.model))


def test_a_merged_cluster_is_named_anew_where_that_can_be(
    five: Discovery, vectors: Vectors
) -> None:
    asked: list[list[str]] = []

    def namer(discovery: Discovery, positions: Sequence[int]) -> list[SuggestedName]:
        asked.append([discovery.clusters[position].name for position in positions])
        assert discovery.clusters[positions[0]].size == len(members(discovery, "dog"))
        return [SuggestedName("hound", (NameCandidate("hound", 2.5, 1.0),), 0.9, "animal")]

    found = named(merge(five, [at(five, "dog"), at(five, "cat")], vectors, namer=namer), "dog")
    assert asked == [["dog"]]
    assert [one.name for one in found.candidates] == ["hound"]
    assert (found.confidence, found.broader) == (0.9, "animal")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (Merge(("dog",)), "at least two clusters"),
        (Merge(("dog", "Dog ")), "named twice"),
        (Merge(("dog", "otter")), "no cluster 'otter': expected one of"),
        (Merge(("dog", "cat"), "tower"), "another cluster is called 'tower'"),
        (Merge(("dog", "cat"), " "), "is empty"),
        (Split("dog", 1), "2 to 1000 parts, got 1"),
        (Split("dog", 10**6), "2 to 1000 parts, got 1000000"),
        (Split("dog", 900), r"has \d+ images: it cannot be split in 900"),
        (Drop(()), "at least one cluster"),
        (Drop(NAMES), "no cluster would be left"),
        (Rename("", "x"), "no cluster ''"),
    ],
)
def test_a_change_that_makes_no_sense(
    five: Discovery, vectors: Vectors, change: Merge | Split | Drop | Rename, why: str
) -> None:
    with pytest.raises(ClusterError, match=why) as caught:
        changed(five, change, vectors, next_key=5)
    assert "\n" not in str(caught.value)


# -- split ---------------------------------------------------------------------------------------


def test_a_split_finds_the_groups_again(five: Discovery, vectors: Vectors) -> None:
    three = [at(five, name) for name in ("dog", "tower", "beach")]
    one = merge(five, three, vectors, name="mixed")
    found = split(one, at(one, "mixed"), vectors, next_key=9, parts=3)
    assert len(found) == 5
    parts = [one for one in found.clusters if one.name.startswith("mixed ")]
    assert sorted(part.name for part in parts) == ["mixed 1", "mixed 2", "mixed 3"]
    assert {part.key for part in parts} == {9, 10, 11}
    assert all(part.broader == "mixed" and not part.by_hand for part in parts)
    groups = {frozenset(members(five, name)) for name in ("dog", "tower", "beach")}
    assert {frozenset(members(found, part.name)) for part in parts} == groups
    assert members(found, "cat") == members(five, "cat")
    assert_in_order(found, vectors)
    fresh = assign(vectors, found.model)
    same = fresh.clusters == found.assignment.clusters
    np.testing.assert_allclose(found.assignment.cosines[same], fresh.cosines[same], atol=2e-6)


def test_the_images_of_a_split_cluster_stay_among_its_parts() -> None:
    """Some are nearer to another cluster than to the centroids that their parts have now."""
    loose, centres = made_up_vectors(3, 60, dim=8, spread=0.9, seed=2)
    before = made_discovery(loose, centres, ("one", "two", "three"))
    name = before.clusters[0].name
    found = split(before, 0, loose, next_key=3, parts=3)
    parts = [one.name for one in found.clusters if one.key >= 3]
    assert set().union(*(members(found, part) for part in parts)) == members(before, name)
    for other in before.clusters[1:]:
        assert members(found, other.name) == members(before, other.name)
    fresh = assign(loose, found.model)
    of_parts = np.isin(found.assignment.clusters, [at(found, name) for name in parts])
    left = of_parts & (fresh.clusters != found.assignment.clusters)
    assert left.any(), "no image was ever nearer to another cluster"
    assert (found.assignment.margins[left] <= 0).all()
    beside = found.assignment.cosines[left] - fresh.cosines[left]
    np.testing.assert_allclose(found.assignment.margins[left], beside, atol=4e-6)
    stay = of_parts & ~left
    np.testing.assert_allclose(found.assignment.margins[stay], fresh.margins[stay], atol=4e-6)


def test_splitting_alike_images_says_so(vectors: Vectors) -> None:
    row = np.zeros((6, 16), "<f2")
    row[:, 0] = 1
    ids = np.arange(6, dtype=np.int64)
    alike = Vectors(ids, (row,), 16, np.empty(0, np.int64))
    one = made_discovery(alike, np.eye(16, dtype=np.float32)[:1], ("same",))
    with pytest.raises(ClusterError, match="'same' are too alike to split"):
        split(one, 0, alike, next_key=1)


def test_parts_get_the_names_that_are_free(five: Discovery, vectors: Vectors) -> None:
    one = merge(five, [at(five, "dog"), at(five, "tower"), at(five, "beach")], vectors, name="x")

    def namer(discovery: Discovery, positions: Sequence[int]) -> list[SuggestedName]:
        candidates = (NameCandidate("cat", 1.0, 0.7), NameCandidate("hill", 0.5, 0.3))
        return [SuggestedName("cat", candidates, 0.4, None) for _ in positions]

    found = split(one, at(one, "x"), vectors, next_key=5, parts=3, namer=namer)
    names = {part.name for part in found.clusters if part.key >= 5}
    assert names == {"hill", "cat 2", "cat 3"}
    assert all(part.confidence == 0.4 for part in found.clusters if part.key >= 5)


def test_a_split_is_the_same_every_time(five: Discovery, vectors: Vectors) -> None:
    first, second = (split(five, 0, vectors, next_key=5, parts=4) for _ in range(2))
    assert_same_discovery(first, second)


# -- drop ----------------------------------------------------------------------------------------


def test_dropped_images_are_in_none_and_later_ones_too(five: Discovery, vectors: Vectors) -> None:
    found = drop(five, [at(five, "dog"), at(five, "cat")], vectors)
    assert {one.name for one in found.clusters} == {"puppy", "tower", "beach"}
    assert set(found.assignment.members(-1).tolist()) == members(five, "dog") | members(five, "cat")
    assert members(found, "tower") == members(five, "tower")
    assert sorted(found.model.owners.tolist())[:2] == [-1, -1]
    assert_near_assignment(found.assignment, assign(vectors, found.model))
    assert_in_order(found, vectors)


def test_nothing_changes_what_was_given(five: Discovery, vectors: Vectors) -> None:
    before = dataclasses.replace(
        five,
        assignment=dataclasses.replace(five.assignment, clusters=five.assignment.clusters.copy()),
        model=dataclasses.replace(five.model, owners=five.model.owners.copy()),
    )
    for change in (Rename("dog", "x"), Merge(("dog", "cat")), Split("dog"), Drop(("dog",))):
        changed(five, change, vectors, next_key=5)
    assert_same_discovery(five, before)


# -- what a person writes ------------------------------------------------------------------------

ODD = [cluster(number, name) for number, name in enumerate(
    ("dog", "cat, small", "a=b", "cat", "Hot  Dog", "two", "TWO", "#9")
)]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "names", "value"),
    [
        ("dog", ("dog",), None),
        ("dog,cat", ("dog", "cat"), None),
        ("dog, cat, small", ("dog", "cat, small"), None),
        ("cat, small=kitten", ("cat, small",), "kitten"),
        ("a=b", ("a=b",), None),
        ("a=b=c", ("a=b",), "c"),
        ("dog=a=b", ("dog",), "a=b"),
        ("hot dog,DOG=x=y, z", ("hot dog", "DOG"), "x=y, z"),
        ("#5,#6=both", ("#5", "#6"), "both"),
        ("dog=", ("dog",), ""),
    ],
)
def test_names_with_commas_and_equal_signs(
    text: str, names: tuple[str, ...], value: str | None
) -> None:
    assert with_value(ODD, text) == (names, value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("otter", "no cluster 'otter': expected one of dog, cat, small, a=b"),
        ("dog,otter", "no cluster 'otter'"),
        ("otter=x", "no cluster 'otter'"),
        ("", "no cluster ''"),
        ("dog,,cat", "no cluster ''"),
        ("#77", "no cluster '#77'"),
    ],
)
def test_what_means_no_cluster(text: str, why: str) -> None:
    with pytest.raises(ClusterError, match=why):
        with_value(ODD, text)


def test_a_cluster_is_meant_by_name_or_key() -> None:
    assert find_cluster(ODD, "HOT dog") == 4
    assert find_cluster(ODD, "#6") == 6
    assert find_cluster(ODD, "#9") == 7, "a name that looks like a key is a name"
    with pytest.raises(ClusterError, match="2 clusters are called 'two': say #5 or #6"):
        find_cluster(ODD, "Two")
    assert split_references(ODD, "cat, small,cat") == ("cat, small", "cat")


@pytest.mark.parametrize(
    ("kind", "text", "wanted", "words"),
    [
        ("rename", "dog=hound", Rename("dog", "hound"), "rename dog to hound"),
        ("merge", "dog,cat", Merge(("dog", "cat"), None), "merge dog and cat"),
        ("merge", "dog,cat=pet", Merge(("dog", "cat"), "pet"), "merge dog and cat as pet"),
        ("split", "dog", Split("dog", 2), "split dog in 2"),
        ("split", "dog= 4", Split("dog", 4), "split dog in 4"),
        ("drop", "dog,cat", Drop(("dog", "cat")), "drop dog and cat"),
    ],
)
def test_a_written_change(
    kind: str, text: str, wanted: Rename | Merge | Split | Drop, words: str
) -> None:
    found = read_change(Written(kind, text), ODD)
    assert found == wanted
    assert in_words(found) == words


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("rename", "dog", "expected OLD=NEW to rename, got 'dog'"),
        ("rename", "dog,cat=pet", "expected OLD=NEW"),
        ("split", "dog,cat", "expected A or A=3 to split"),
        ("split", "dog=many", "a number of parts such as 3, got 'many'"),
        ("split", "dog=-2", "a number of parts"),
        ("split", "dog=²", "a number of parts"),
        ("split", "dog=" + "9" * 400, "a number of parts"),
        ("drop", "dog=x", "expected A,B to drop"),
    ],
)
def test_a_written_change_that_is_not_as_it_should_be(kind: str, text: str, why: str) -> None:
    with pytest.raises(ClusterError, match=why):
        read_change(Written(kind, text), ODD)
