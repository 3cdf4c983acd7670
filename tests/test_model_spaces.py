"""Two models in one index: the second one is brought in, asked, moved to, and let go of."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image

import indexer.fill_spaces
from clipsearch import open_index
from clipsearch.carried_labels import _shared_tags
from clipsearch.errors import IndexFormatError, OptionError
from clipsearch.image_index import ImageIndex
from clipsearch.label_examples import read_examples
from clipsearch.label_set_files import LabelRows
from clipsearch.label_sets import labels_folder, read_label_rows
from clipsearch.manifest import Manifest, read_manifest
from clipsearch.open_clip_encoder import OpenClipEncoder
from clipsearch.spaces import shard_number, space_named
from clipsearch.store import LocalStore
from indexer import build_index
from indexer.compact import compact
from indexer.findings import NOTE
from indexer.model_spaces import add_model, drop_model, use_model
from indexer.prune import prune
from indexer.repair import repair_index
from indexer.verify import verify_index

from .conftest import Cli

MINI = Path(__file__).resolve().parents[1] / "clipsearch" / "models" / "mini"
WEIGHTS = "open_clip_model.safetensors"
LABELS = ["a cat", "a rocket", "a coin", "a cup of coffee", "text on paper"]
Array = npt.NDArray[Any]


def model_of_mini(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of mini whose weights are changed: another space."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(MINI, folder)
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS)
    return folder


def turn(weights: dict[str, Any]) -> None:
    """Put the numbers of every vector in reverse: each cosine stays, no vector means anything to
    mini."""
    weights["text_projection"] = weights["text_projection"].flip(1)
    weights["visual.head.proj.weight"] = weights["visual.head.proj.weight"].flip(0)


@pytest.fixture(scope="session")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model that gives the answers of mini."""
    return model_of_mini(tmp_path_factory.mktemp("models") / "turned", turn)


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mini with some noise: a model of its own opinions."""

    def shake(weights: dict[str, Any]) -> None:
        import torch

        torch.manual_seed(0)
        weight = weights["visual.head.proj.weight"]
        weights["visual.head.proj.weight"] = (
            weight + 25 * weight.float().std() * torch.randn(weight.shape)
        ).to(weight.dtype)

    return model_of_mini(tmp_path_factory.mktemp("models") / "noisy", shake)


@pytest.fixture(scope="session")
def _two(_built: Path, turned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("two") / "two.index"
    shutil.copytree(_built, place)
    assert add_model(place, str(turned)).lacking == 0
    return place


@pytest.fixture
def two(_two: Path, tmp_path: Path) -> Path:
    """The index of the pictures with the vectors of both models, mini answering."""
    return Path(shutil.copytree(_two, tmp_path / "two.index"))


@pytest.fixture
def own(pictures: Path, tmp_path: Path) -> Path:
    """An index of a folder that the test may change, made with mini."""
    build_index(pictures, tmp_path / "own.index", encoder="mini")
    return tmp_path / "own.index"


def manifest_of(place: Path) -> Manifest:
    return read_manifest(LocalStore(place), str(place))


def vectors_of(index: ImageIndex) -> tuple[list[int], Array]:
    ids, rows = index.vectors_of(range(index.next_id))
    return ids.tolist(), rows


def answers(index: ImageIndex) -> list[tuple[int, float]]:
    return [(hit.id, round(hit.score, 3)) for hit in index.search("a cat", k=None)]


def notes_of(place: Path) -> set[str]:
    """The kinds of what a sound index has to note."""
    found = verify_index(place, sample=0)
    assert found.is_sound, found.findings
    return {finding.kind for finding in found.findings}


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images were encoded, call by call."""
    calls: list[int] = []
    original = OpenClipEncoder.encode_images

    def count(self: OpenClipEncoder, pixels: Array) -> Array:
        calls.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(OpenClipEncoder, "encode_images", count)
    return calls


def small_parts(monkeypatch: pytest.MonkeyPatch, images: int = 2) -> None:
    """Parts of so many images, each committed by itself."""
    monkeypatch.setattr(indexer.fill_spaces, "_FIRST_PART", images)
    monkeypatch.setattr(indexer.fill_spaces, "_PART_IMAGES", (images, images))


def cut_short(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let Ctrl-C come after so many parts."""
    original = indexer.fill_spaces._Filling.take
    parts = 0

    def take(self: Any, part: Any) -> None:
        nonlocal parts
        original(self, part)
        parts += 1
        if parts == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(indexer.fill_spaces._Filling, "take", take)


# -- bringing one in ------------------------------------------------------------------------


def test_an_image_whose_vector_is_not_finite_gets_none(
    mini_index: Path, turned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = OpenClipEncoder.encode_images
    count = manifest_of(mini_index).images[0].rows

    def overflow(self: OpenClipEncoder, pixels: Array) -> Array:
        rows = original(self, pixels)
        rows[(pixels > 0).any(axis=(1, 2, 3))] = np.nan
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(OpenClipEncoder, "encode_images", overflow)
        done = add_model(mini_index, str(turned))
    assert (done.encoded, done.lacking) == (0, count)
    done = add_model(mini_index, str(turned))
    assert (done.encoded, done.lacking) == (count, 0)


def test_every_image_gets_a_second_vector_under_its_id(
    mini_index: Path, turned: Path, cli_here: Cli
) -> None:
    before = manifest_of(mini_index)
    ids, rows = vectors_of(open_index(mini_index))
    done = cli_here("model", "add", turned, "--index", mini_index, "--json")
    assert done.returncode == 0, done.stderr
    account = json.loads(done.stdout)
    assert (account["encoded"], account["lacking"]) == (len(ids), 0)
    after = manifest_of(mini_index)
    assert after.default_space == before.default_space
    assert after.images == before.images
    assert after.next_id == before.next_id
    space = str(before.default_space)
    assert after.embeddings[space] == before.embeddings[space]
    same_ids, turned_rows = vectors_of(open_index(mini_index, space=str(turned)))
    assert same_ids == ids
    np.testing.assert_allclose(turned_rows[:, ::-1], rows, atol=2e-3)
    assert notes_of(mini_index) == set()


def test_both_models_give_the_same_answers(two: Path, turned: Path, cli_here: Cli) -> None:
    mine, theirs = open_index(two), open_index(two, space=str(turned))
    assert mine.space.id != theirs.space.id
    assert answers(mine) == answers(theirs)
    np.testing.assert_array_equal(mine.classify(LABELS).labels, theirs.classify(LABELS).labels)
    for command in (["search", "a cat"], ["classify", "--labels", ",".join(LABELS)]):
        plain = cli_here(*command, "--index", two)
        other = cli_here(*command, "--index", two, "--space", turned)
        assert plain.returncode == other.returncode == 0
        assert plain.stdout.split() != []
        assert [line.split(b"\t")[:2] for line in plain.stdout.splitlines()] == [
            line.split(b"\t")[:2] for line in other.stdout.splitlines()
        ]


def test_adding_it_again_encodes_nothing(
    two: Path, turned: Path, encoded: list[int], cli_here: Cli
) -> None:
    generation = manifest_of(two).generation
    done = cli_here("model", "add", turned, "--index", two)
    assert done.returncode == 0
    assert b"already" in done.stderr
    assert encoded == []
    assert manifest_of(two).generation == generation


def test_what_is_cut_short_goes_on(
    mini_index: Path,
    turned: Path,
    encoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    cli_here: Cli,
) -> None:
    count = len(open_index(mini_index))
    with monkeypatch.context() as patch:
        small_parts(patch)
        _set_shard_seconds(mini_index, 1e-9)  # so every part is committed by itself
        cut_short(patch, after=2)
        done = cli_here("model", "add", turned, "--index", mini_index)
    assert done.returncode == 130
    assert b"go on with" in done.stderr
    partial = open_index(mini_index, space=str(turned))
    assert len(partial) == 4
    assert len(open_index(mini_index)) == count
    assert [image for image, _ in answers(partial)] == [
        image for image, _ in answers(open_index(mini_index)) if image in vectors_of(partial)[0]
    ]
    assert "lacking" in notes_of(mini_index)
    refused = cli_here("model", "use", turned, "--index", mini_index)
    assert refused.returncode == 2
    assert f"{count - 4} images have no vector".encode() in refused.stderr
    report = build_index((), mini_index)  # which gives every model its own
    (filled,) = report.spaces
    assert (filled.encoded, filled.lacking) == (count - 4, 0)
    # None twice but those of the part that was encoded while the one before it was committed.
    assert count <= sum(encoded) <= count + 2
    assert answers(open_index(mini_index, space=str(turned))) == answers(open_index(mini_index))
    assert notes_of(mini_index) == set()


def _set_shard_seconds(place: Path, seconds: float) -> None:
    from indexer.writing import writing

    with writing(place) as committer:
        committer.commit(config={**committer.manifest.config, "shard_seconds": seconds})


@pytest.mark.slow
def test_a_shard_grows_part_by_part(
    mini_index: Path, turned: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, 3)
    _set_shard_seconds(mini_index, 1e-9)
    add_model(mini_index, str(turned))
    space = space_named(manifest_of(mini_index), str(turned), "")
    (grown,) = manifest_of(mini_index).embeddings[space.id]
    (whole,) = manifest_of(two).embeddings[space.id]
    assert shard_number(grown.name) == shard_number(whole.name) == "00000"
    assert (grown.rows, grown.recipe) == (whole.rows, whole.recipe)
    # Nothing of the parts before stays on the disk.
    assert [path.name for path in (mini_index / "embeddings" / space.id).iterdir()] == [
        Path(grown.name).name
    ]
    mine, theirs = (vectors_of(open_index(place, space=space.id)) for place in (mini_index, two))
    assert mine[0] == theirs[0]
    np.testing.assert_allclose(mine[1], theirs[1], atol=2e-3)


def test_files_that_are_gone_wait(
    own: Path, pictures: Path, turned: Path, tmp_path: Path, cli_here: Cli
) -> None:
    index = open_index(own)
    found = [(image, index.paths().places(image)) for image in vectors_of(index)[0]]
    paths = {places[0].path.name: image for image, places in found if len(places) == 1}
    gone, other = sorted(paths)[:2]
    assert paths[gone] != paths[other]
    shutil.move(pictures / gone, tmp_path / gone)
    Image.new("RGB", (40, 40), "red").save(pictures / other, "JPEG")  # another content by now
    done = cli_here("model", "add", turned, "--index", own)
    assert done.returncode == 3
    assert b"2 images have no vector" in done.stderr
    count = len(open_index(own))
    theirs = open_index(own, space=str(turned))
    assert len(theirs) == count - 2
    assert not {paths[gone], paths[other]} & set(vectors_of(theirs)[0])
    # What comes back, wherever that is, is encoded; what is new is encoded with both models.
    (pictures / "below").mkdir()
    shutil.move(tmp_path / gone, pictures / "below" / "back.png")
    done = cli_here("index", pictures, "--index", own, "--json")
    assert done.returncode in (0, 3)
    (filled,) = json.loads(done.stdout)["spaces"]
    assert filled["encoded"] == 2  # the one that is back, and the red one
    theirs = open_index(own, space=str(turned))
    assert paths[gone] in vectors_of(theirs)[0]
    assert sorted(vectors_of(theirs)[0]) == vectors_of(open_index(own))[0]


def test_a_copy_stands_in_for_a_file_that_is_gone(own: Path, pictures: Path, turned: Path) -> None:
    index = open_index(own)
    copied = [image for image in vectors_of(index)[0] if len(index.paths().places(image)) > 1]
    assert copied
    for place in index.paths().places(copied[0])[:1]:
        place.path.unlink()
    assert add_model(own, str(turned)).lacking == 0


@pytest.mark.slow
def test_images_in_a_tar(pictures: Path, turned: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as file:
        for path in sorted(pictures.iterdir()):
            file.add(path, path.name)
    place = tmp_path / "tar.index"
    build_index(tmp_path / "photos.tar", place, encoder="mini")
    filled = add_model(place, str(turned))
    assert (filled.encoded, filled.lacking) == (len(open_index(place)), 0)
    assert answers(open_index(place, space=str(turned))) == answers(open_index(place))


def test_new_images_get_the_vectors_of_both(
    own: Path, pictures: Path, turned: Path, tmp_path: Path, cli_here: Cli
) -> None:
    model, moved = Path(shutil.copytree(turned, tmp_path / "turned")), tmp_path / "moved"
    add_model(own, str(model))
    Image.linear_gradient("L").save(pictures / "grey.png")
    done = cli_here("index", pictures, "--index", own)
    assert done.returncode == 0
    assert b"Encoded 1 known image with" in done.stderr
    assert vectors_of(open_index(own, space=str(model)))[0] == vectors_of(open_index(own))[0]
    # Where its model is gone, the run does its own work and says what is missing.
    shutil.move(model, moved)
    Image.radial_gradient("L").save(pictures / "round.png")
    done = cli_here("index", pictures, "--index", own)
    assert done.returncode == 0
    assert b"1 image has no vector of" in done.stderr
    assert b"found nothing there" in done.stderr
    status = cli_here("status", "--index", own, "--json")
    spaces = json.loads(status.stdout)["spaces"]
    assert [space["lacking"] for space in spaces] == [0, 1]
    assert [space["is_default"] for space in spaces] == [True, False]
    assert add_model(own, str(moved)).encoded == 1
    manifest = manifest_of(own)  # one space still, which knows where its model is now
    assert [space.model for space in manifest.spaces.values()] == ["mini", str(moved)]


# -- moving to it ---------------------------------------------------------------------------


def test_the_index_answers_with_it(two: Path, turned: Path, tmp_path: Path, cli_here: Cli) -> None:
    reader = open_index(two, text_cache=tmp_path / "texts.sqlite")
    before = answers(reader)
    old = reader.space.id
    done = cli_here("model", "use", turned, "--index", two)
    assert done.returncode == 0, done.stderr
    assert b"answers with" in done.stderr
    assert reader.space.id == old
    assert answers(reader) == before
    assert reader.refresh()
    assert reader.space.id != old
    # Words that were remembered for the other space must not meet these vectors.
    assert answers(reader) == before
    assert answers(open_index(two)) == before
    assert open_index(two, space="mini").space.id == old
    back = cli_here("model", "use", "mini", "--index", two)
    assert back.returncode == 0
    assert open_index(two).space.id == old
    assert notes_of(two) == set()


def test_using_it_by_force(
    mini_index: Path, turned: Path, monkeypatch: pytest.MonkeyPatch, cli_here: Cli
) -> None:
    small_parts(monkeypatch)
    _set_shard_seconds(mini_index, 1e-9)
    with monkeypatch.context() as patch:
        cut_short(patch, after=3)
        with pytest.raises(KeyboardInterrupt):
            add_model(mini_index, str(turned))
    count = len(open_index(mini_index))
    assert use_model(mini_index, str(turned), force=True).lacking == count - 6
    assert len(open_index(mini_index)) == 6
    assert cli_here("search", "a cat", "--index", mini_index, "-k", "all").returncode == 0
    assert cli_here("classify", "--labels", "a,b", "--where", "width > 1",
                    "--index", mini_index).stdout.count(b"\n") == 6  # fmt: skip
    assert "lacking" in notes_of(mini_index)
    for command in (["model", "drop", "mini"], ["model", "use", turned, "--drop"]):
        refused = cli_here(*command, "--index", mini_index)
        assert refused.returncode == 2
        assert b"nothing was dropped" in refused.stderr
    build_index((), mini_index)  # its model is the default one now, and lacks what it lacks
    assert len(open_index(mini_index)) == count
    assert notes_of(mini_index) == set()


def save_sets(place: Path, cli_here: Cli) -> None:
    labels = ",".join(LABELS)
    for command in (
        ["classify", "--labels", labels, "--none", "off", "--save-as", "things"],
        ["classify", "--labels", labels, "--save-as", "sure"],
        ["tag", "--labels", labels, "--threshold=-1", "--max", "2", "--save-as", "tags"],
    ):
        assert cli_here(*command, "--index", place).returncode in (0, 1)


def test_label_sets_go_along(two: Path, turned: Path, cli_here: Cli) -> None:
    save_sets(two, cli_here)
    before = {name: read_label_rows(two, name) for name in ("things", "sure", "tags")}
    done = cli_here("model", "use", turned, "--index", two, "--json")
    assert done.returncode == 0, done.stderr
    carried = {one["name"]: one for one in json.loads(done.stdout)["labels"]}
    assert carried.keys() == before.keys()
    space = open_index(two).space
    for name, (old, rows) in before.items():
        new, new_rows = read_label_rows(two, name)
        assert (old.space, new.space) == (open_index(two, space="mini").space.fingerprint,
                                          space.fingerprint)  # fmt: skip
        assert (new.labels, new.templates, new.most) == (old.labels, old.templates, old.most)
        assert new.thresholds == old.thresholds
        assert (old.none is None) == (new.none is None)
        if old.none is not None and new.none is not None:
            assert new.none.setting == old.none.setting
        assert new.version == old.version + 1
        # Both models are of one opinion, so nobody's label changes.
        assert carried[name]["outcome"] == "carried over"
        assert carried[name]["agreement"] == 1
        np.testing.assert_array_equal(new_rows.ids, rows.ids)
        np.testing.assert_array_equal(new_rows.labels, rows.labels)
    assert b"things: carried over, 100.0% of" in done.stderr
    again = use_model(two, str(turned))
    assert again.labels == ()  # they are there


def test_what_was_taught_and_defined_goes_along(
    two: Path, turned: Path, tmp_path: Path, cli_here: Cli
) -> None:
    document = {"labels": {name: {"synonyms": [f"{name} indoors"]} for name in LABELS}}
    (tmp_path / "things.json").write_text(json.dumps(document))
    saved = cli_here("classify", "--labels-file", tmp_path / "things.json", "--none", "off",
                     "--save-as", "things", "--index", two)  # fmt: skip
    assert saved.returncode == 0, saved.stderr
    index = open_index(two)
    wrong = index.paths().places(vectors_of(index)[0][0])[0].path
    told = cli_here("teach", "things", f"{wrong}=text on paper", "--index", two)
    assert told.returncode == 0, told.stderr
    old, rows = read_label_rows(two, "things")
    examples = read_examples(labels_folder(two), old)
    assert len(examples) == 1
    assert old.definitions is not None
    (carried,) = use_model(two, str(turned)).labels
    assert (carried.outcome, carried.agreement) == ("carried over", 1)
    new, new_rows = read_label_rows(two, "things")
    assert read_examples(labels_folder(two), new) == examples
    assert new.definitions == old.definitions
    assert new.space == open_index(two).space.fingerprint
    np.testing.assert_array_equal(new_rows.labels, rows.labels)
    assert LABELS[rows.labels[rows.ids == examples[0].id][0]] == "text on paper"


def test_what_no_image_says_alone_has_to_be_made_again(
    two: Path, turned: Path, tmp_path: Path, cli_here: Cli
) -> None:
    tree = {"labels": {name: {"parent": "thing"} for name in LABELS} | {"thing": {}}}
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    labels = ",".join(LABELS)
    for command in (
        ["--labels", labels, "--adapt", "--save-as", "adapted"],
        ["--labels-file", tmp_path / "tree.json", "--save-as", "tree"],
        ["--labels", labels, "--save-as", "plain"],
    ):
        assert cli_here("classify", *command, "--index", two).returncode == 0
    why = {one.name: one.why for one in use_model(two, str(turned)).labels}
    assert "--adapt or --by-cluster" in why.pop("adapted")
    assert why == {"tree": "", "plain": ""}


def test_agreement_is_what_it_says(mini_index: Path, noisy: Path, cli_here: Cli) -> None:
    save_sets(mini_index, cli_here)
    add_model(mini_index, str(noisy))
    _, before = read_label_rows(mini_index, "things")
    _, tags = read_label_rows(mini_index, "tags")
    used = use_model(mini_index, str(noisy))
    found = {one.name: one for one in used.labels}
    _, now = read_label_rows(mini_index, "things")
    same = float((before.labels == now.labels).mean())
    assert 0 < same < 1
    assert found["things"].agreement == pytest.approx(same)
    assert found["things"].images == len(before.ids)
    np.testing.assert_array_equal(
        now.labels, open_index(mini_index).classify(LABELS, none="off").labels[:, 0]
    )
    pairs = []
    for rows in (tags, read_label_rows(mini_index, "tags")[1]):
        given = zip(rows.ids.tolist(), rows.labels.tolist(), strict=True)
        pairs.append({pair for pair in given if pair[1] >= 0})
    shared = len(pairs[0] & pairs[1]) / len(pairs[0] | pairs[1])
    assert found["tags"].agreement == pytest.approx(shared)


def test_the_share_of_tags_that_both_give() -> None:
    def rows(*pairs: tuple[int, int]) -> LabelRows:
        ids, labels = np.array(pairs, np.int64).T
        zeros = np.zeros(len(pairs), np.float32)
        return LabelRows(ids, labels.astype(np.int32), zeros, zeros)

    before = rows((1, 0), (1, 2), (2, -1), (3, 1), (9, 0))  # image 9 is gone
    now = rows((1, 0), (2, 2), (3, 1), (4, 0))  # image 4 came
    assert _shared_tags(before, now) == 2 / 4  # (1, 0), (3, 1) of these, (1, 2) and (2, 2)
    assert _shared_tags(rows((1, -1)), rows((1, -1))) is None


@pytest.mark.slow
def test_sets_can_stay_as_they_are(two: Path, turned: Path, cli_here: Cli) -> None:
    save_sets(two, cli_here)
    assert cli_here("model", "use", turned, "--index", two, "--keep-labels").returncode == 0
    mini = open_index(two, space="mini").space.fingerprint
    assert read_label_rows(two, "things")[0].space == mini
    # Asked for with the model that answers now, everything is scored anew.
    done = cli_here("classify", "--labels", "@things", "--index", two, "--json")
    assert done.returncode == 0
    assert b"Scored 8 images" in done.stderr or b"remembered by" not in done.stderr
    assert {one.name for one in use_model(two, str(turned)).labels} == {"things", "sure", "tags"}


def test_a_damaged_set_hinders_no_other(two: Path, turned: Path, cli_here: Cli) -> None:
    save_sets(two, cli_here)
    (two / "labels" / "sure.json").write_bytes(b"{")
    done = cli_here("model", "use", turned, "--index", two)
    assert done.returncode == 3
    assert b"sure: failed" in done.stderr
    assert b"things: carried over" in done.stderr


def test_discoveries_are_told_of(two: Path, turned: Path, cli_here: Cli) -> None:
    assert cli_here("discover", "--k", "2", "--save-as", "groups", "--index", two).returncode == 0
    done = cli_here("model", "use", turned, "--index", two)
    assert done.returncode == 0
    assert done.stderr.count(b"groups: kept;") == 1
    assert cli_here("model", "use", "mini", "--index", two).returncode == 0
    assert cli_here("clusters", "groups", "--index", two).returncode == 0


# -- letting one go -------------------------------------------------------------------------


def test_drop(two: Path, turned: Path, cli_here: Cli) -> None:
    refused = cli_here("model", "drop", "mini", "--index", two)
    assert refused.returncode == 2
    assert b"answers with mini" in refused.stderr
    gone = space_named(manifest_of(two), str(turned), "").id
    assert list(two.rglob(f"*{gone}*"))
    assert cli_here("model", "drop", turned, "--index", two).returncode == 0
    assert not list(two.rglob(f"*{gone}*"))
    assert gone not in (two / "manifest.json").read_text()
    asked = cli_here("search", "a cat", "--index", two, "--space", turned)
    assert asked.returncode == 2
    assert b"it has those of mini" in asked.stderr
    assert b"Traceback" not in asked.stderr
    assert notes_of(two) == set()


def test_use_and_drop_in_one_go(two: Path, turned: Path) -> None:
    before = answers(open_index(two))
    old = open_index(two).space.id
    shutil.copytree(two / "cache" / "vectors" / old, two / "kept")
    used = use_model(two, str(turned), drop=True)
    assert used.dropped == ("mini",)
    assert list(manifest_of(two).spaces) == [used.space]
    assert answers(open_index(two)) == before
    assert notes_of(two) == set()
    # As after a kill before the cache was cleared: the same again clears it.
    shutil.move(two / "kept", two / "cache" / "vectors" / old)
    use_model(two, str(turned), drop=True)
    assert not list(two.rglob(f"*{old}*"))
    assert answers(open_index(two)) == before


@pytest.mark.parametrize("name", ["", "nothing", "\x1b[31m", "mi", "../x", "é" * 300])
def test_a_space_that_is_not_there(two: Path, name: str, cli_here: Cli) -> None:
    for command in (
        ["search", "x", "--space", name],
        ["model", "use", name],
        ["model", "drop", name],
    ):
        done = cli_here(*command, "--index", two)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert b"\x1b" not in done.stderr


# -- what looks after an index --------------------------------------------------------------


def damage(place: Path, name: str) -> None:
    path = place / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def test_a_damaged_shard_of_the_other_model_costs_nothing_else(
    two: Path, turned: Path, encoded: list[int]
) -> None:
    before = manifest_of(two)
    answered = answers(open_index(two))
    other = space_named(before, str(turned), "")
    damage(two, before.embeddings[other.id][0].name)
    assert {finding.kind for finding in verify_index(two, sample=0).findings} >= {"damaged"}
    # The way to it is shut, however it is gone, until it is mended.
    for drop in (False, True):
        with pytest.raises(IndexFormatError, match="damaged"):
            use_model(two, str(turned), drop=drop)
    assert manifest_of(two) == before
    repair = repair_index(two)
    assert repair.is_mended
    assert {finding.severity for finding in repair.after.findings} == {NOTE}
    after = manifest_of(two)
    assert after.images == before.images
    assert (
        after.embeddings[str(before.default_space)] == before.embeddings[str(before.default_space)]
    )
    assert answers(open_index(two)) == answered
    assert repair.next_command.startswith("clipsearch index ")
    count = len(open_index(two))
    build_index((), two)
    assert sum(encoded) == count
    assert answers(open_index(two, space=str(turned))) == answered
    assert notes_of(two) == set()


def test_a_damaged_shard_of_its_own_model_costs_no_image(
    two: Path, turned: Path, encoded: list[int]
) -> None:
    before = manifest_of(two)
    answered = answers(open_index(two))
    damage(two, before.embeddings[str(before.default_space)][0].name)
    with pytest.raises(IndexFormatError, match="damaged"):
        drop_model(two, str(turned))  # the sound vectors are those of the other
    assert manifest_of(two) == before
    assert repair_index(two).is_mended
    assert manifest_of(two).images == before.images  # and with them their ids
    assert answers(open_index(two, space=str(turned))) == answered
    build_index((), two)
    assert sum(encoded) == len(answered)
    assert answers(open_index(two)) == answered
    assert notes_of(two) == set()


def test_status_tells_of_images_without_a_vector(two: Path, cli_here: Cli) -> None:
    before = manifest_of(two)
    assert b"no vector yet" not in cli_here("status", "--index", two).stdout
    damage(two, before.embeddings[str(before.default_space)][0].name)
    repair_index(two)
    assert b"images have no vector yet" in cli_here("status", "--index", two).stdout


def test_deleted_images_and_compacting(own: Path, pictures: Path, turned: Path) -> None:
    index = open_index(own)
    ids = vectors_of(index)[0]
    gone = next(image for image in ids if len(index.paths().places(image)) == 1)
    (place,) = index.paths().places(gone)
    kept = place.path.read_bytes()
    place.path.unlink()
    build_index(pictures, own)
    assert prune(own).images == 1
    filled = add_model(own, str(turned))
    assert (filled.encoded, filled.lacking) == (len(ids) - 1, 0)
    use_model(own, str(turned))
    # One that comes back has its old id, and gets the vector that it never had.
    place.path.write_bytes(kept)
    build_index(pictures, own)
    assert vectors_of(open_index(own))[0] == ids
    assert vectors_of(open_index(own, space="mini"))[0] == ids
    assert notes_of(own) == set()
    place.path.unlink()
    Image.linear_gradient("L").save(pictures / "grey.png")
    build_index(pictures, own)
    prune(own)
    answered = answers(open_index(own))
    assert compact(own).dropped == 1
    manifest = manifest_of(own)
    for refs in manifest.embeddings.values():
        assert [shard_number(ref.name) for ref in refs] == [
            shard_number(ref.name) for ref in manifest.images
        ]
        tables = [pq.read_table(own / ref.name) for ref in refs]
        assert gone not in [image for table in tables for image in table.column("id").to_pylist()]
    assert answers(open_index(own)) == answered
    assert answers(open_index(own, space="mini")) == answered
    assert notes_of(own) == set()


def test_another_model_for_index_says_how(
    two: Path, turned: Path, noisy: Path, cli_here: Cli
) -> None:
    for model, cure in ((noisy, b"clipsearch model add"), (turned, b"clipsearch model use")):
        done = cli_here("index", "--model", model, "--index", two)
        assert done.returncode == 2
        assert cure in done.stderr


def test_an_index_that_holds_nothing(tmp_path: Path, mini_index: Path) -> None:
    with pytest.raises(OptionError, match="has no vectors of"):
        use_model(mini_index, "best")
    with pytest.raises(OptionError, match="answers with mini"):
        drop_model(mini_index, "mini")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind here")
def test_a_read_only_index(two: Path, turned: Path, cli_here: Cli) -> None:
    two.chmod(0o555)
    try:
        done = cli_here("model", "use", turned, "--index", two)
        assert done.returncode == 2
        assert b"no permission" in done.stderr
        assert cli_here("search", "a cat", "--space", turned, "--index", two).returncode == 0
    finally:
        two.chmod(0o755)
