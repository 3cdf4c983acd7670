"""finetune: what it learns, what it leaves alone, what it writes, and what cuts it short."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from clipsearch.encoder import load_encoder
from clipsearch.errors import LabelError, OptionError, SourceError
from clipsearch.open_clip_encoder import load_open_clip_encoder
from clipsearch.prompts import class_vectors
from indexer.fine_tuning import fine_tune
from indexer.fine_tuning_measures import best_alpha, squared_error
from indexer.fine_tuning_records import (
    CurvePoint,
    FineTuned,
    FineTuning,
    PhotoRead,
    Recipe,
    TrainingStep,
)
from indexer.image_tower import ImageTower
from indexer.training_checkpoint import Checkpoint
from indexer.training_folder import work_folder
from indexer.training_photos import find_photos, held_out, read_photos
from tests.conftest import Cli

KINDS = ("dog", "tree", "car", "fish", "chair")
"""Words that have nothing to do with what they are to be taught to mean."""

MINI = Path(__file__).resolve().parents[1] / "clipsearch" / "models" / "mini"


def _picture(kind: int, chance: np.random.Generator, side: int = 48) -> Image.Image:
    """A kind has a hue; everything else about a picture is chance."""
    noise = chance.integers(0, 90, (side, side, 3))
    hues = ((150, 0, 0), (0, 150, 0), (0, 0, 150), (130, 130, 0), (120, 0, 130))
    return Image.fromarray((noise + np.array(hues[kind])).astype(np.uint8))


def _folder(place: Path, each: int, kinds: int = 5, seed: int = 0) -> Path:
    chance = np.random.default_rng(seed)
    for kind in range(kinds):
        home = place / KINDS[kind]
        home.mkdir(parents=True)
        for number in range(each):
            _picture(kind, chance).save(home / f"{number}.png")
    return place


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _folder(tmp_path_factory.mktemp("photos") / "train", 6)


@pytest.fixture(scope="module")
def test_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _folder(tmp_path_factory.mktemp("photos") / "test", 4, seed=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """open_clip's own transformer, very small, with random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    sizes = {"layers": 2, "width": 32}
    config: dict[str, Any] = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "head_width": 16, **sizes},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "heads": 2, **sizes},
    }
    preprocessing = {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}
    document = {
        "model_cfg": config,
        "preprocess_cfg": {**preprocessing, "interpolation": "bilinear"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    torch.manual_seed(0)
    vision, text = (config[f"{tower}_cfg"] for tower in ("vision", "text"))
    net = open_clip.CLIP(16, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text))
    save_file(net.state_dict(), folder / "open_clip_model.safetensors")
    return str(folder)


@pytest.fixture(scope="module")
def tuned(photos: Path, test_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> FineTuned:
    """mini trained on the kinds, all of what came of it taken."""
    out = tmp_path_factory.mktemp("out") / "kinds-model"
    asked = FineTuning(epochs=2, rate=2e-3, alpha=1.0, batch_size=10, rehearse=False)
    return fine_tune(photos, "mini", out, asked, test=test_photos)


_ASKED = FineTuning(epochs=2, alpha=0.5, batch_size=8, templates="none")


@pytest.fixture(scope="module")
def whole(tiny: str, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> FineTuned:
    """The tiny one, half of what came of it taken; one kind was left out of a rehearsal."""
    return fine_tune(photos, tiny, tmp_path_factory.mktemp("whole") / "tiny-model", _ASKED)


def _result(found: FineTuned, what: str) -> Any:
    (result,) = [result for result in found.results if result.what == what]
    return result


def test_what_is_measured_is_what_open_clip_gives(tuned: FineTuned, test_photos: Path) -> None:
    result = _result(tuned, "photos of --test")
    assert (result.photos, result.classes) == (20, 5)
    assert result.after >= max(0.7, result.before + 0.3)
    shown = sorted(test_photos.glob("*/*.png"))
    labels = sorted(KINDS)
    truth = np.array([labels.index(path.parent.name) for path in shown])
    for model, expected in ((tuned.folder, result.after), (MINI, result.before)):
        net, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{model}")
        net.eval()
        classifier = open_clip.build_zero_shot_classifier(
            net, tokenizer, labels, open_clip.SIMPLE_IMAGENET_TEMPLATES
        )
        with torch.inference_mode():
            images = torch.stack([transform(Image.open(path)) for path in shown])
            rows = net.encode_image(images, normalize=True)
            given = (rows @ classifier).argmax(dim=1).numpy()
        assert np.mean(given == truth) == pytest.approx(expected)


def test_only_the_image_tower_has_moved(tuned: FineTuned) -> None:
    assert tuned.folder is not None
    old = load_file(MINI / "open_clip_model.safetensors")
    new = load_file(tuned.folder / "open_clip_model.safetensors")
    assert set(new) == set(old)
    moved = {name for name in old if not torch.equal(old[name].float(), new[name].float())}
    assert moved
    assert all(name.startswith("visual.") for name in moved)
    assert not any("running_" in name or "num_batches" in name for name in moved)
    before, after = load_encoder("mini"), load_encoder(str(tuned.folder))
    assert np.array_equal(before.encode_texts(["a dog"]), after.encode_texts(["a dog"]))
    assert after.space.geometry == before.space.geometry
    assert after.space.logit_scale == before.space.logit_scale
    assert after.space.fingerprint == tuned.space != before.space.fingerprint


def test_the_folder_says_where_it_comes_from(tuned: FineTuned) -> None:
    assert tuned.folder is not None
    card = (tuned.folder / "README.md").read_text(encoding="utf-8")
    assert "from `mini`" in card
    assert "25 photos of 5 classes" in card
    for result in tuned.results:
        assert f"{100 * result.before:.1f} |" in card
        assert f"{100 * result.after:.1f} |" in card
    assert {path.name for path in tuned.folder.iterdir()} == {
        "README.md", "open_clip_config.json", "open_clip_model.safetensors"
    }  # fmt: skip
    assert [path.name for path in tuned.folder.parent.iterdir()] == [tuned.folder.name]


def test_weights_are_averaged(tiny: str) -> None:
    tower = ImageTower(load_open_clip_encoder(tiny))
    chance = torch.Generator().manual_seed(1)
    other = {
        name: torch.randn(tensor.shape, generator=chance) for name, tensor in tower.original.items()
    }
    tower.mix(other, 0.3)
    for name, tensor in tower.weights().items():
        expected = 0.7 * tower.original[name] + 0.3 * other[name]
        torch.testing.assert_close(tensor, expected)
    tower.mix(other, 0)
    assert all(torch.equal(t, tower.original[name]) for name, t in tower.weights().items())


def _train(
    model: str, checkpoint: Checkpoint, recipe: Recipe, stop_at: int = -1
) -> tuple[ImageTower, dict[int, dict[str, Any]]]:
    tower = ImageTower(load_open_clip_encoder(model))
    chance = np.random.default_rng(3)
    pixels = np.stack([np.array(_picture(number % 2, chance, 32)) for number in range(20)])
    targets = (np.arange(20) % 2).astype(np.int32)
    classes = np.eye(2, 16, dtype=np.float32)
    seen: dict[int, dict[str, Any]] = {}

    def on_step(step: int, steps: int, loss: float) -> None:
        assert steps == 15
        seen[step] = dict(tower.weights())
        if step == stop_at:
            raise KeyboardInterrupt

    tower.train(pixels, np.arange(20), targets, classes, recipe, checkpoint, on_step)
    return tower, seen


_RECIPE = Recipe(probe_epochs=2, epochs=3, batch_size=7, rate=1e-3)


def test_the_last_layer_alone_is_trained_first(tiny: str, tmp_path: Path) -> None:
    tower, seen = _train(tiny, Checkpoint(tmp_path / "a.safetensors", "k"), _RECIPE)

    def moved(step: int) -> set[str]:
        return {n for n, t in seen[step].items() if not torch.equal(t, tower.original[n])}

    assert moved(6) == {"proj"}
    assert len(moved(15)) > 10


@pytest.mark.parametrize("stop_at", [4, 11])
def test_a_training_goes_on_where_it_was_interrupted(
    tiny: str, tmp_path: Path, stop_at: int
) -> None:
    whole, _ = _train(tiny, Checkpoint(tmp_path / "whole.safetensors", "k"), _RECIPE)
    place = tmp_path / "cut.safetensors"
    with pytest.raises(KeyboardInterrupt):
        _train(tiny, Checkpoint(place, "k", seconds=0, share=1), _RECIPE, stop_at)
    cut, seen = _train(tiny, Checkpoint(place, "k"), _RECIPE)
    assert sorted(seen) == list(range(stop_at + 1, 16))
    expected = whole.weights()
    assert all(torch.equal(t, expected[name]) for name, t in cut.weights().items())


def test_a_checkpoint_of_something_else_or_damaged_is_not_used(tiny: str, tmp_path: Path) -> None:
    place = tmp_path / "a.safetensors"
    _train(tiny, Checkpoint(place, "k"), _RECIPE)
    _, seen = _train(tiny, Checkpoint(place, "another"), _RECIPE)
    assert len(seen) == 15
    place.write_bytes(place.read_bytes()[:-500])
    _, seen = _train(tiny, Checkpoint(place, "another"), _RECIPE)
    assert len(seen) == 15
    _, seen = _train(tiny, Checkpoint(place, "another"), _RECIPE)  # trained to its end
    assert not seen


def test_a_rehearsal_leaves_a_class_out_and_half_is_taken(tiny: str, whole: FineTuned) -> None:
    assert (len(whole.rehearsed), len(whole.classes)) == (1, 5)
    assert (whole.photos, whole.held_out) == (25, 5)
    result = _result(whole, "classes left out of a rehearsal")
    assert (result.photos, result.classes, result.probe) == (6, 1, None)
    assert [point.alpha for point in whole.curve] == [0.0, 0.5, 1.0]
    assert (result.before, result.after) == (whole.curve[0].others, whole.curve[1].others)
    before, after = load_encoder(tiny), load_encoder(str(whole.folder))
    assert after.space.geometry == before.space.geometry
    assert after.space.geometry.resize_mode == "squash"
    assert np.array_equal(before.encode_texts(["a dog"]), after.encode_texts(["a dog"]))


def test_an_interrupted_run_writes_nothing_and_goes_on(
    tiny: str, photos: Path, whole: FineTuned, tmp_path: Path
) -> None:
    steps: list[tuple[str, int]] = []

    def stop(event: object) -> None:
        if isinstance(event, TrainingStep):
            steps.append((event.what, event.step))
            if steps[-1] == ("training", 3):
                raise KeyboardInterrupt

    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        fine_tune(photos, tiny, out, _ASKED, on_event=stop)
    assert not out.exists()
    assert (tmp_path / "cut.part").is_dir()
    again: list[str] = []
    found = fine_tune(
        photos, tiny, out, _ASKED,
        on_event=lambda event: again.append(getattr(event, "what", "")),
    )  # fmt: skip
    assert "training" in again
    assert "rehearsal" not in again  # that was done
    assert not (tmp_path / "cut.part").exists()
    assert found.space == whole.space
    assert dataclasses.replace(found, folder=None, seconds=0, results=()) == dataclasses.replace(
        whole, folder=None, seconds=0, results=()
    )
    assert found.results == whole.results


def test_alpha_is_what_errs_least_and_the_least_of_equals() -> None:
    curve = [CurvePoint(a, 0.5, 0.5, error) for a, error in ((0, 0.6), (0.5, 0.4), (1, 0.4))]
    assert best_alpha(curve) == 0.5
    assert best_alpha([CurvePoint(a, 0.5, None, 0.5) for a in (0.0, 0.5)]) == 0
    rows, classes = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)
    right = 1 / (1 + np.exp(-2.0))
    truth = np.array([0, 0], np.int32)  # one right, one wrong
    expected = np.mean([2 * (1 - right) ** 2, 2 * right**2])
    assert squared_error(rows, truth, classes, 2.0) == pytest.approx(expected)


def test_a_fifth_of_every_class_is_held_out() -> None:
    truth = np.repeat(np.arange(4), (10, 2, 1, 23)).astype(np.int32)
    held = held_out(truth, 0)
    assert np.bincount(truth[held], minlength=4).tolist() == [2, 1, 0, 5]
    assert np.array_equal(held, held_out(truth, 0))
    assert not np.array_equal(held, held_out(truth, 1))


def test_copies_count_once_and_what_cannot_be_read_is_told(
    cli_here: Cli, tiny: str, photos: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "mixed"))
    shutil.copyfile(folder / "dog" / "0.png", folder / "dog" / "copy.png")
    shutil.copyfile(folder / "dog" / "1.png", folder / "fish" / "astray.png")
    (folder / "tree" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    done = cli_here(
        "finetune", folder, "--model", tiny, "--out", tmp_path / "new", "--epochs", "1",
        "--alpha", "0.5", "--leave-out", "car", "--json",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert found["left_out"] == ["car"]
    assert found["rehearsed"] == []
    assert found["classes"] == ["chair", "dog", "fish", "tree"]
    assert found["photos"] + found["held_out"] == 23  # dog/1.png is in two classes
    told = {result["what"]: result for result in found["results"]}
    assert told["classes left out"]["photos"] == 6
    assert b"1 file could not be read, such as" in done.stderr
    assert b"in more than one class" in done.stderr
    assert found["folder"] == str(tmp_path / "new")
    with safe_open(tmp_path / "new" / "open_clip_model.safetensors", "pt") as file:
        assert "visual.proj" in file.keys()  # noqa: SIM118


def test_an_index_takes_the_new_model(cli_here: Cli, whole: FineTuned, tmp_path: Path) -> None:
    assert whole.folder is not None
    photos = _folder(tmp_path / "few", 1)
    index = tmp_path / "few.index"
    assert cli_here("index", photos, "--model", whole.folder, "--index", index).returncode == 0
    done = cli_here("classify", "--labels", ",".join(KINDS), "--index",
                    index, "--none", "off", "--json")  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    encoder = load_encoder(str(whole.folder))
    assert lines
    vectors = class_vectors(KINDS, _Texts(encoder))
    geometry = encoder.space.geometry
    from clipsearch.images import read_image

    for line in lines:
        pixels = read_image(line["path"], geometry).pixels[None]
        expected = KINDS[int(np.argmax(encoder.encode_images(pixels) @ vectors.T))]
        assert line["label"] == expected


class _Texts:
    def __init__(self, encoder: Any) -> None:
        self.encode = encoder.encode_texts


def test_nothing_gained_is_nothing_written(
    cli_here: Cli, tiny: str, photos: Path, tmp_path: Path
) -> None:
    done = cli_here("finetune", photos, "--model", tiny, "--out", tmp_path / "new", "--epochs", "1",
                    "--rate", "1e-30", "--no-rehearsal")  # fmt: skip
    assert done.returncode == 1
    assert b"nothing is written" in done.stderr.replace(b"\n", b" ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kinds", "options", "error", "says"),
    [
        (1, {}, LabelError, "expected two classes or more, got one"),
        (3, {"leave_out": ("ewer",)}, LabelError, "no class 'ewer' to leave out"),
        (3, {"leave_out": ("dog", "car")}, OptionError, "two classes or more to train on"),
    ],
)
def test_folders_that_will_not_do(
    tiny: str, tmp_path: Path, kinds: int, options: dict[str, Any], error: type, says: str
) -> None:
    folder = _folder(tmp_path / "photos", 2, kinds)
    with pytest.raises(error, match=says):
        fine_tune(folder, tiny, tmp_path / "new", FineTuning(**options))
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_one_photo_a_class_is_too_few(tiny: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "photos", 1, 3)
    with pytest.raises(SourceError, match="two photos or more of a class"):
        fine_tune(folder, tiny, tmp_path / "new")


def test_large_towers_are_trained_at_a_lower_rate() -> None:
    small, large = FineTuning().recipe(3_000_000), FineTuning().recipe(86_000_000)
    assert (small.rate, small.probe_rate) == (3e-4, 1e-3)
    assert (large.rate, large.probe_rate) == (3e-5, pytest.approx(3e-4))
    assert FineTuning(rate=0.5).recipe(86_000_000).rate == 0.5


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1.5, float("nan")])
def test_alpha_is_a_share(alpha: float) -> None:
    with pytest.raises(OptionError, match="alpha must be above 0 and at most 1"):
        FineTuning(alpha=alpha)


def test_a_place_that_is_taken_is_left_alone(
    cli_here: Cli, photos: Path, tiny: str, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("mine")
    done = cli_here("finetune", photos, "--model", tiny, "--out", taken)
    assert done.returncode == 2
    assert b"is there already: name a new folder" in done.stderr
    assert (taken / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_folder_of_somebody_else_is_not_worked_in(
    photos: Path, tiny: str, tmp_path: Path
) -> None:
    part = tmp_path / "new.part"
    (part / "model").mkdir(parents=True)
    (part / "model" / "file").write_text("mine")
    with pytest.raises(OptionError, match="holds other things: move it away"):
        fine_tune(photos, tiny, tmp_path / "new")
    assert (part / "model" / "file").read_text() == "mine"


@pytest.mark.parametrize("named", ["train", "linked", "other"])
def test_nothing_is_written_among_the_photos(
    photos: Path, test_photos: Path, tiny: str, tmp_path: Path, named: str
) -> None:
    top = {"train": photos, "linked": tmp_path / "linked", "other": test_photos}[named]
    if named == "linked":
        top.symlink_to(photos)
    before = sorted(top.iterdir())
    with pytest.raises(OptionError, match="lies among the photos"):
        fine_tune(photos, tiny, top / "new", test=test_photos)
    assert sorted(top.iterdir()) == before


def test_a_full_disk_is_told_as_one_and_leaves_nothing(
    photos: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half of it")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(OSError, match="No space left") as caught:
        fine_tune(photos, tiny, tmp_path / "new", _ASKED)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_while_photos_are_read_leaves_nothing(
    photos: Path, tiny: str, tmp_path: Path
) -> None:
    def stop(event: object) -> None:
        assert isinstance(event, PhotoRead)
        if event.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(photos, tiny, tmp_path / "new", _ASKED, on_event=stop)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_cleared_but_for_what_was_trained(tmp_path: Path) -> None:
    work = tmp_path / "new.part"
    work.mkdir()
    names = ("writer.lock", "writer.json", ".tmpAbC123", "photos.pixels", "training.part")
    for name in (*names, "training.safetensors"):
        (work / name).write_bytes(b"{}")
    with work_folder(work):
        assert {path.name for path in work.iterdir()} == {
            "writer.lock", "writer.json", "training.safetensors"
        }  # fmt: skip
    assert not work.exists()
    work.mkdir()
    (work / ".tmp-mine").write_text("mine")
    with pytest.raises(OptionError, match="holds other things"), work_folder(work):
        pass
    assert (work / ".tmp-mine").read_text() == "mine"


def test_other_photos_may_show_one_class_and_what_is_wrong_with_them_is_told(
    photos: Path, tiny: str, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(photos / "dog", other / "dog")
    (other / "dog" / "empty.png").touch()
    asked = FineTuning(epochs=1, alpha=1.0, rehearse=False, templates="none")
    found = fine_tune(photos, tiny, tmp_path / "new", asked, test=other)
    result = _result(found, "photos of --test")
    assert (result.photos, result.classes) == (6, 1)
    assert found.skipped == 1
    assert found.skipped_examples[0][0] == str(other / "dog" / "empty.png")
    assert "--test: no photo counts for car, chair, fish, tree" in found.notes


def test_two_folders_of_one_class_are_named(photos: Path, tiny: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "dog").rename(folder / "big_dog")
    (folder / "tree").rename(folder / "Big dog")
    with pytest.raises(LabelError, match=r"'Big dog' and 'big_dog' of .* are the same class"):
        fine_tune(folder, tiny, tmp_path / "new")


def test_pixels_are_those_of_the_photos_whatever_copies_lie_between(
    photos: Path, tmp_path: Path
) -> None:
    from clipsearch.images import read_image

    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    shutil.copyfile(folder / "car" / "0.png", folder / "car" / "00.png")
    geometry = load_encoder("mini").space.geometry
    there = find_photos(folder, tmp_path)
    there = dataclasses.replace(there, unreadable=(("locked", "Permission denied"),))
    read = read_photos(there, geometry, tmp_path / "pixels", lambda number, of: None)
    expected = [read_image(path, geometry).pixels for path in sorted(photos.glob("*/*.png"))]
    assert len(read.pixels) == 30
    assert (read.skipped, read.skipped_examples) == (1, (("locked", "Permission denied"),))
    assert {rows.tobytes() for rows in read.pixels} == {rows.tobytes() for rows in expected}
    names = sorted(KINDS)
    assert [names[one] for one in read.truth] == [name for name in names for _ in range(6)]
    assert read.notes == ("31 files are 30 different photos",)


def test_a_class_without_a_photo_that_can_be_read_is_not_trained_on(
    photos: Path, tiny: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    for path in (folder / "car").iterdir():
        path.write_bytes(b"")
    asked = dataclasses.replace(_ASKED, rehearse=False, epochs=1)
    found = fine_tune(folder, tiny, tmp_path / "new", asked)
    assert found.classes == ("chair", "dog", "fish", "tree")
    assert found.skipped == 6
    assert "no photo counts for car" in found.notes
    for kind in ("dog", "fish", "tree"):
        for path in (folder / kind).iterdir():
            path.write_bytes(b"")
    with pytest.raises(OptionError, match="the others have no photo that counts"):
        fine_tune(folder, tiny, tmp_path / "newer", asked)
