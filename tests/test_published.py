"""The published figures beside the presets, and the command that comes by them."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from clipsearch.presets import PRESETS

_BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(_BENCHMARKS))
    import published

    return published


class Made:
    """Six pictures of two classes, as torchvision's data sets are."""

    classes = ("red_thing", "blue_thing")

    def __init__(self, fails_at: int = 99) -> None:
        self.fails_at = fails_at

    def __len__(self) -> int:
        return 6

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        if row == self.fails_at:
            raise OSError("no more room")
        if row >= len(self):
            raise IndexError
        return Image.new("RGB", (32, 32), ("red", "blue")[row % 2]), row % 2


def test_the_figures_are_those_of_the_presets(published: ModuleType) -> None:
    for preset in PRESETS:
        if preset.imagenet_top1 is None:
            assert preset.model not in published.PUBLISHED
        else:
            assert published.PUBLISHED[preset.model][0] == pytest.approx(
                preset.imagenet_top1, abs=0.051
            )
    rows = [line.split("|") for line in published.table().splitlines()[2:]]
    assert [row[1].strip(" `") for row in rows] == ["fast", "balanced", "best", "multilingual"]
    assert all(len(row) == 2 + 2 + len(published.COLUMNS) for row in rows)


def test_images_of_a_data_set_are_in_a_folder_a_class(
    published: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    with pytest.raises(OSError, match="room"):
        published.write_images(Made(fails_at=4), folder)
    assert not folder.exists(), "half a test set is none"
    assert published.write_images(Made(), folder) == 6
    assert {path.name: len(list(path.iterdir())) for path in folder.iterdir()} == {
        "red_thing": 3,
        "blue_thing": 3,
    }
    with Image.open(folder / "blue_thing" / "00003.png") as image:
        assert np.asarray(image).tolist() == np.asarray(Made()[3][0]).tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_without_a_network_it_is_one_line(
    published: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torchvision import datasets

    def away(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(datasets, "CIFAR10", away)
    with pytest.raises(published.PublishedError, match=r"cannot fetch cifar10 .*network") as error:
        published.cifar("cifar10", tmp_path)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "cifar10-test").exists()


def test_templates_come_from_the_package_where_it_is(
    published: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipsearch.prompts import resolve_templates

    data = tmp_path / "site" / "clip_benchmark" / "datasets"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise ImportError('it needs much')")
    file = data / "en_zeroshot_classification_templates.json"
    file.write_text(json.dumps({"cifar10": ["a photo of a {c}.", "a blurry photo of the {c}."]}))
    monkeypatch.setitem(sys.modules, "clip_benchmark", None)
    monkeypatch.delitem(sys.modules, "clip_benchmark")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    written = published.prompts_of("cifar10", tmp_path)
    assert list(resolve_templates(written)) == [
        "a photo of a {}.",
        "a blurry photo of the {}.",
    ]
    assert published.prompts_of("cifar100", tmp_path) == "openai"


def test_the_classes_of_imagenet_are_named_as_open_clip_names_them(
    published: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(published.PublishedError, match="n01440764"):
        published.imagenet_names(tmp_path)
    (tmp_path / "n01440764").mkdir()
    names = published.imagenet_names(tmp_path)
    assert len(names) == 1000
    assert names["n01440764"] == "tench"
    assert names["n02123045"] == "tabby cat"
    assert names["n15075141"] == "toilet paper"
    with open(published.write_names(names, tmp_path / "n.csv"), encoding="utf-8") as file:
        assert [(row["folder"], row["name"]) for row in csv.DictReader(file)] == list(names.items())
